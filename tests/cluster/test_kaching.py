"""The license authority's provider: a signed word is believed, silence is no word, and nobody's help is needed."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from chaos.solo import TERM, Solo, the_chart
from cluster.answers import Answer, not_admitted
from cluster.clock import ManualClock
from cluster.egress import Blocked, Call, Reply, Unreachable
from cluster.entropy import SeededEntropy
from cluster.nodekey import NodeKey
from cluster.providers import kaching, kaching_wire
from cluster.providers.kaching import AFTER_A_NO_SECONDS, RETRY_SECONDS, RETRY_SECONDS_MAX, Kaching
from cluster.providers.kaching_wire import Claims, NoWord, Terms
from cluster.providers.leading import Leading
from cluster.standins.kaching import Authority
from cluster.steward import Steward
from swoosh import canonical, facts, signing
from swoosh.entry import FactItem, Item
from swoosh.facts import Known
from swoosh.outcome import Code
from tests.running import running, turns

LIFE_MS = 60_000
GRACE_MS = 30_000
STEP_SECONDS = 0.25
SECRET = "s3cret-for-the-authority"


class Line:
    """The way to an authority in this process, as `cluster.egress` would be."""

    def __init__(self, authority: Authority, clock: ManualClock) -> None:
        self.authority, self._clock = authority, clock
        self.calls: list[tuple[float, Call]] = []
        self.blocked = False
        self.tampered: dict[str, Any] = {}
        """What somebody in between puts into the answer in place of what is there."""

    async def request(self, call: Call) -> Reply:
        if self.blocked:
            raise Blocked("kaching: it failed 5 times in a row")
        self.calls.append((self._clock.monotonic(), call))
        if self.authority.behaviour.outage in ("reset", "silence"):
            raise Unreachable("kaching at h:80: TimeoutError")
        license_id = call.url.split("/")[-2]
        reply = self.authority.answer(license_id, call.headers.get("Authorization", ""), call.body or b"")
        return reply._replace(**self.tampered)

    def permit(self, system: str, url: str, project: str | None = None) -> None:
        raise AssertionError("it speaks HTTP")


class Office:
    """A cluster, its authority, and the provider between them on the node of `probe`; a steward acts on the facts."""

    def __init__(self) -> None:
        self.solo = Solo(the_chart(), settings={"license_grace_ms": GRACE_MS})
        self.clock = ManualClock(self.solo.now_ms * 1000)
        self.authority = Authority(NodeKey.of(self.solo.keys["root"]), "lic-1", SECRET, self.clock)
        self.authority.change({"life_ms": LIFE_MS})
        self.line = Line(self.authority, self.clock)
        self.taken = True
        self.facts: list[facts.Fact] = []
        key = NodeKey.of(self.solo.keys["probe"])
        self.leading = Leading(TERM, self.solo.machine, self.clock, key, self.submit)
        nodes = Leading(TERM, self.solo.machine, self.clock, NodeKey.of(self.solo.keys["n1"]), self.submit)
        self.steward = Steward(nodes, boots_default=True)
        self.provider = self.another()

    def terms(self, **how: Any) -> Terms:
        key = bytes.fromhex(self.authority.public_key)
        return Terms("http://h/v1/licenses/lic-1/token", "lic-1", SECRET, key)._replace(**how)

    def another(self, seed: int = 1, **how: Any) -> Kaching:
        return Kaching(self.terms(**how), "n1", self.line, SeededEntropy(seed))

    async def submit(self, items: Sequence[Item], deadline: float) -> list[Answer]:
        if not self.taken:
            return [not_admitted(Code.HALTED, "no majority agrees")] * len(items)
        self.facts += [facts.decode(item.sent) for item in items if isinstance(item, FactItem)]
        return list(self.solo.apply(*items).outcomes)

    async def run(self, seconds: float) -> None:
        """The provider and the steward, for so long."""
        async with self.running():
            for _ in range(round(seconds / STEP_SECONDS)):
                await self.step()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with running(self.provider.run(self.leading), self.steward.run()):
            await turns(20)
            yield

    async def step(self) -> None:
        self.clock.advance(STEP_SECONDS)
        self.solo.now_ms = self.clock.wall_us() // 1000
        await turns(20)

    @property
    def held(self) -> Known:
        found = self.solo.machine.registry.fact("license", self.solo.machine.cluster_id)
        assert found is not None
        return found

    @property
    def license(self) -> str:
        return self.solo.regions().license.phase

    def asked_at(self) -> list[float]:
        return [round(at, 2) for at, _ in self.line.calls]


@pytest.fixture
def office() -> Office:
    return Office()


# --- a word -----------------------------------------------------------------------------------------------------------


async def test_a_token_becomes_a_fact_and_never_goes_on_record_itself(office: Office) -> None:
    await office.run(5)
    assert office.license == "ACTIVE" and office.provider.trouble is None
    (fact,) = office.facts
    assert fact.body["status"] == "active" and fact.body["license_id"] == "lic-1"
    assert fact.body["valid_until"] == fact.expires_at == fact.observed_at + LIFE_MS
    assert len(fact.body["token_fingerprint"]) == 64
    assert fact.gathered_term == TERM
    written = b"".join(data for _, _, data in office.solo.log)
    assert SECRET.encode() not in written and b"eyJ" not in written, "a secret or a token is in the log"


async def test_it_is_asked_again_before_two_thirds_of_its_life_are_over_and_not_much_before(office: Office) -> None:
    await office.run(600)
    asked = office.asked_at()
    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert len(pauses) >= 14
    assert all(LIFE_MS / 1000 * 2 / 3 * 0.8 <= pause <= LIFE_MS / 1000 * 2 / 3 + STEP_SECONDS for pause in pauses)
    assert len(set(pauses)) > 5, "all the same: no jitter"
    assert office.license == "ACTIVE"
    assert len(office.facts) == len(asked)


async def test_a_new_leader_goes_on_from_the_board(office: Office) -> None:
    await office.run(5)
    office.provider = office.another(seed=2)
    await office.run(20)
    assert office.asked_at() == [0.0], "the board has a license that is fresh"
    await office.run(20)
    assert len(office.line.calls) == 2


async def test_a_node_that_leads_again_does_not_repeat_its_old_complaints(office: Office) -> None:
    office.authority.change({"outage": "silence"})
    await office.run(1)
    assert office.provider.trouble is not None
    office.authority.change({"outage": "none"})
    first, office.provider = office.provider, office.another()
    await office.run(5)
    office.provider = first
    await office.run(1)
    assert first.trouble is None, "the board has a license that another leader fetched"


async def test_a_license_of_another_source_is_replaced_at_once(office: Office) -> None:
    body = {"license_id": "development", "status": "active", "valid_until": office.solo.now_ms + 10 * LIFE_MS}
    office.solo.fact("license", office.solo.machine.cluster_id, body)
    await office.run(1)
    assert office.held.body["license_id"] == "lic-1"


async def test_grace_features_and_nodes_come_from_the_authority(office: Office) -> None:
    office.authority.change({"grace_ms": 5_000})
    await office.run(1)
    body = office.held.body
    assert (body["grace_until"], body["features"], body["max_nodes"]) == (body["valid_until"] + 5_000, [], None)


# --- no word ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outage",
    [
        {"outage": "silence"},
        {"outage": "error"},
        {"retry_after_s": 1},
        {"forged": True},
        {"clock_ms": 3_600_000},
        {"clock_ms": -3_600_000},
        {"clock_ms": -LIFE_MS - 1},
    ],
    ids=str,
)
async def test_no_word_costs_grace_then_outbound_and_ends_by_itself(office: Office, outage: dict[str, Any]) -> None:
    await office.run(5)
    office.authority.change(outage)
    phases = []
    async with office.running():
        for _ in range(round((LIFE_MS + GRACE_MS + 5_000) / 1000 / STEP_SECONDS)):
            await office.step()
            phases.append(office.license)
    assert list(dict.fromkeys(phases)) == ["ACTIVE", "GRACE", "EXPIRED"]
    assert len(office.facts) == 1, "no word is no fact"
    assert office.provider.trouble is not None and "no word that counts" in office.provider.trouble
    assert "the license held is active until 2026-01-01T00:01:00.000+00:00" in office.provider.trouble
    office.authority.change({"outage": "none", "retry_after_s": 0, "forged": False, "clock_ms": 0})
    await office.run(RETRY_SECONDS_MAX + 5)
    assert office.license == "ACTIVE" and office.provider.trouble is None


async def test_it_is_tried_again_soon_then_seldom(office: Office) -> None:
    office.authority.change({"outage": "silence"})
    await office.run(300)
    asked = office.asked_at()
    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert pauses[0] <= RETRY_SECONDS + STEP_SECONDS
    assert pauses[-1] >= RETRY_SECONDS_MAX * (1 - kaching.JITTER)
    assert max(pauses) <= RETRY_SECONDS_MAX + STEP_SECONDS


async def test_throttling_asks_for_patience_and_gets_it(office: Office) -> None:
    office.authority.change({"retry_after_s": 40})
    await office.run(39)
    assert office.asked_at() == [0.0]
    await office.run(5)
    assert "it is throttling: status 429" in (office.provider.trouble or "")
    assert "no license is held" in (office.provider.trouble or "")


async def test_an_open_breaker_is_no_word_either(office: Office) -> None:
    await office.run(5)
    office.line.blocked = True
    await office.run(LIFE_MS / 1000 + 5)
    assert office.license == "GRACE"
    office.line.blocked = False
    await office.run(RETRY_SECONDS_MAX + 5)
    assert office.license == "ACTIVE"


async def test_an_unsigned_refusal_is_not_a_no(office: Office) -> None:
    await office.run(5)
    office.provider = office.another(secret="wrong")
    await office.run(LIFE_MS / 1000)
    assert "status 401 without a token, which is not a signed no" in (office.provider.trouble or "")
    assert office.license == "GRACE" and office.held.body["status"] == "active"


async def test_an_answer_that_cannot_be_put_on_record_is_asked_for_again(office: Office) -> None:
    office.taken = False
    await office.run(3)
    assert "could not be put on record" in (office.provider.trouble or "")
    assert "no majority agrees" in (office.provider.trouble or "")
    office.taken = True
    await office.run(10)
    assert office.license == "ACTIVE" and office.provider.trouble is None


# --- a no -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["denied", "suspended"])
async def test_a_no_acts_at_once_and_a_yes_ends_it(office: Office, status: str) -> None:
    await office.run(5)
    office.authority.change({"status": status})
    phases = []
    async with office.running():
        while office.license != "EXPIRED":
            await office.step()
            phases.append(office.license)
    assert "GRACE" not in phases
    assert office.clock.monotonic() <= LIFE_MS / 1000 * 2 / 3 + 3, "as soon as it was asked"
    assert office.provider.trouble == f"license lic-1 is {status}, the authority says"
    noes = len(office.facts)
    await office.run(60)
    assert len(office.facts) == noes, "a no that is repeated is no news"
    assert len(office.line.calls) > 10, "and yet it is asked again"
    office.authority.change({"status": "active"})
    await office.run(AFTER_A_NO_SECONDS + 2)
    assert office.license == "ACTIVE" and office.provider.trouble is None


async def test_silence_after_a_no_is_not_a_yes(office: Office) -> None:
    await office.run(5)
    office.authority.change({"status": "denied"})
    await office.run(60)
    office.authority.change({"outage": "silence"})
    await office.run(600)
    assert office.license == "EXPIRED" and office.held.body["status"] == "denied"


async def test_a_license_that_ended_costs_grace_from_then_on_however_often_it_is_said(office: Office) -> None:
    await office.run(5)
    office.authority.change({"status": "expired"})
    phases = []
    async with office.running():
        for _ in range(round((LIFE_MS + GRACE_MS) / 1000 / STEP_SECONDS)):
            await office.step()
            phases.append(office.license)
    assert list(dict.fromkeys(phases)) == ["ACTIVE", "GRACE", "EXPIRED"]
    assert office.held.body["valid_until"] <= LIFE_MS * 2 / 3 + office.solo.genesis.created_ms + 1_000
    ended = office.held.body["valid_until"]
    office.authority.change({"status": "grace"})
    await office.run(30)
    assert (office.held.body["status"], office.held.body["valid_until"]) == ("grace", ended), "another name for it"


async def test_a_license_that_is_not_on_its_books_is_denied(office: Office) -> None:
    office.provider = office.another(license_id="lic-9", url="http://h/v1/licenses/lic-9/token")
    await office.run(5)
    assert office.held.body["status"] == "denied"


# --- what counts ------------------------------------------------------------------------------------------------------


NOW = 1_800_000_000_000


def token(office: Office, *, by: str = "root", header: dict[str, Any] | None = None, **claims: Any) -> str:
    said = {"license_id": "lic-1", "sub": "c", "nonce": "n", "iat": NOW // 1000, "exp": NOW // 1000 + 60}
    parts = [header or {"alg": "EdDSA"}, {**said, "status": "active", **claims}]
    encoded = [base64.urlsafe_b64encode(msgspec.json.encode(part)).rstrip(b"=").decode() for part in parts]
    signed = ".".join(encoded)
    return f"{signed}.{signing.sign(office.solo.keys[by], signed.encode())}"


def read(office: Office, text: str, **how: Any) -> facts.License:
    reply = Reply(200, {}, msgspec.json.encode({"token": text}))
    return kaching_wire.answer(office.terms(**how), reply, cluster_id="c", nonce="n", now_ms=NOW)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"by": "alice"}, "not signed by the authority's key"),
        ({"sub": "another-cluster"}, "about another cluster_id"),
        ({"license_id": "lic-2"}, "about another license_id"),
        ({"nonce": "an older question"}, "about another nonce"),
        ({"nonce": None}, "about another nonce"),
        ({"iat": NOW // 1000 - 301}, "is a clock wrong"),
        ({"iat": None}, "issued_at of its token is no time"),
        ({"exp": "soon"}, "valid_until of its token is no time"),
        ({"exp": "2027-01-15T08:01:00"}, "valid_until of its token is no time"),
        ({"exp": True}, "valid_until of its token is no time"),
        ({"grace_until": [1]}, "grace_until of its token is no time"),
        ({"status": "fine"}, "a status that means nothing here"),
        ({"status": ["active"]}, "a status that means nothing here"),
        ({"features": "all"}, "does not read"),
        ({"features": ["e\u0301"]}, "does not read"),
        ({"max_nodes": 2.5}, "does not read"),
        ({"header": {"alg": "none"}}, "another algorithm"),
    ],
    ids=str,
)
def test_a_token_counts_only_as_the_authority_s_answer_to_this_question(
    office: Office, change: dict[str, Any], reason: str
) -> None:
    assert read(office, token(office)).status == "active"
    with pytest.raises(NoWord, match=reason):
        read(office, token(office, **change))


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "é.b.c", "x" * 100_000])
def test_what_is_no_token_is_no_word(office: Office, text: str) -> None:
    with pytest.raises(NoWord):
        read(office, text)


def test_a_token_that_would_fill_an_entry_is_not_read(office: Office) -> None:
    with pytest.raises(NoWord, match="characters; up to 16384 are read"):
        read(office, token(office, features=["f" * 20_000]))


def test_a_changed_token_is_nobody_s(office: Office) -> None:
    head, body, signature = token(office).split(".")
    forged = base64.urlsafe_b64encode(b'{"status":"active","exp":1900000000}').rstrip(b"=").decode()
    with pytest.raises(NoWord, match="not signed"):
        read(office, f"{head}.{forged}.{signature}")
    with pytest.raises(NoWord, match="not signed"):
        read(office, f"{head}.{body}.")


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'{"token": 1}', b"\xff", b"<html>"])
def test_an_answer_without_a_token_is_no_word_whatever_its_status(office: Office, body: bytes) -> None:
    for status in (200, 301, 403, 500):
        with pytest.raises(NoWord, match=f"status {status} without a token"):
            kaching_wire.answer(office.terms(), Reply(status, {}, body), cluster_id="c", nonce="n", now_ms=NOW)


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7.0), ("999999999", 3_600.0), ("", 0.0), ("-1", 0.0), ("soon", 0.0), ("²", 0.0)]
)
def test_patience_that_is_asked_for_is_bounded(office: Office, text: str, seconds: float) -> None:
    for status in (429, 503):
        with pytest.raises(NoWord) as found:
            reply = Reply(status, {"retry-after": text}, msgspec.json.encode({"token": token(office)}))
            kaching_wire.answer(office.terms(), reply, cluster_id="c", nonce="n", now_ms=NOW)
        assert found.value.retry_after == seconds


def test_a_signed_no_counts_under_any_other_status(office: Office) -> None:
    reply = Reply(403, {}, msgspec.json.encode({"token": token(office, status="denied")}))
    said = kaching_wire.answer(office.terms(), reply, cluster_id="c", nonce="n", now_ms=NOW)
    assert said.status == "denied"


def test_times_may_be_text_and_its_words_may_be_translated(office: Office) -> None:
    said = read(
        office, token(office, status="REVOKED", exp="2027-01-15T10:01:00+02:00"), statuses={"REVOKED": "denied"}
    )
    assert (said.status, said.valid_until) == ("denied", NOW + 60_000)


def test_every_name_is_the_configuration_s_and_an_empty_one_is_not_there(office: Office) -> None:
    names = Claims(license_id="", cluster_id="", nonce="", issued_at="", valid_until="until", status="state",
                   grace_until="", features="", max_nodes="nodes")  # fmt: skip
    said = kaching_wire.answer(
        office.terms(claims=names, reply_token=""),
        Reply(200, {}, token(office, nonce="x", sub="x", iat=0, until=1_900_000_000, state="active", nodes=5).encode()),
        cluster_id="c",
        nonce="n",
        now_ms=NOW,
    )
    assert (said.valid_until, said.max_nodes, said.grace_until) == (1_900_000_000_000, 5, 0)
    asked = kaching_wire.Asked(cluster_id="cluster", node_id="", nonce="n")
    terms = office.terms(asked=asked, secret_header="X-Key", secret_prefix="")
    call = kaching_wire.question(terms, cluster_id="c", node_id="n1", nonce="1")
    assert canonical.parse(call.body or b"") == {"cluster": "c", "n": "1"}
    assert call.headers["X-Key"] == SECRET and "Authorization" not in call.headers
    assert (call.system, call.method, call.timeout) == ("kaching", "POST", 5.0)
    bare = kaching_wire.question(terms._replace(secret_header=""), cluster_id="c", node_id="n1", nonce="1")
    assert SECRET not in "".join(bare.headers.values())
