"""Agents that are asked to fill a council, and looked after: by a leader on a manual clock, over a way out that is real
up to the socket. What agents do with a question is played; whether it may leave is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import pytest
from structlog.testing import capture_logs

from chaos.solo import ELECTORS, TERM, Solo, the_chart
from chaos.steer import drive
from cluster.answers import Answer
from cluster.clock import ManualClock
from cluster.egress import Call, Gatekeeper, Outbound, Reply
from cluster.entropy import SeededEntropy
from cluster.license_gate import LicenseGate
from cluster.nodekey import NodeKey
from cluster.profiles import Profile
from cluster.providers.agents import HEALTH_LOOKS, LOOK_SECONDS, Agents, base_of
from cluster.providers.errands import AT_ONCE
from cluster.providers.leading import Leading
from cluster.shhh.policy import BUILT_IN
from cluster.shhh.scanner import Scanner
from cluster.whoosh import Whoosh
from swoosh.entry import Item
from swoosh.machine import Applied
from swoosh.outcome import Accepted, FactAccepted
from tests.running import running, turns
from tests.shhh.secrets import CANARY

AGAIN_S, LIFE_S = 30.0, 300.0
LOOKS_S = 4 * LOOK_SECONDS
OK = Reply(202, {}, b'{"status":"accepted"}')
LEAD = Profile("lead", "Tech lead", "Owns the plan", capabilities=("architecture",))

Behaviour = Callable[[Call], Awaitable[Reply]]


class Asked(NamedTuple):
    """A request that arrived: when, at whom, and what for."""

    at_s: float
    host: str
    call: Call

    @property
    def document(self) -> Any:
        return msgspec.json.decode(self.call.body or b"null")


async def takes_it(call: Call) -> Reply:
    return OK


async def is_broken(call: Call) -> Reply:
    return Reply(500, {}, b"out of tokens")


async def is_gone(call: Call) -> Reply:
    raise ConnectionRefusedError("nobody there")


class Street:
    """A licensed project, a leader, and the doors of agents."""

    def __init__(self, patterns: Sequence[str] = ("*.agents.test:9000",)) -> None:
        self.solo = Solo(the_chart())
        self.solo.project = "atlas"
        drive(self.solo, lambda regions: regions.boot.licensed)
        self.clock = ManualClock(self.solo.now_ms * 1000)
        keeper = self.keeper = Gatekeeper(self.clock, ["kaching.test:443"], patterns)
        keeper.closed = LicenseGate(self.solo.machine, self.clock).closed
        self.outbound = Outbound(keeper, self._send)
        self.whoosh = Whoosh(agents=tuple(patterns), profiles={"lead": LEAD}, rebroadcast=AGAIN_S, agent_life=LIFE_S)
        self.asked: list[Asked] = []
        self.doors: dict[str, Behaviour] = {}
        self.open_doors = self.most_open = 0
        self.provider = Agents(self.whoosh, self.outbound, SeededEntropy(1), Scanner(BUILT_IN).redact)
        self.leads()
        kept = self.solo.source.commit

        def commit(applied: Applied) -> None:
            kept(applied)
            for listener in list(self.leading.on_applied):
                listener(applied)

        self.solo.source.commit = commit  # type: ignore[method-assign]

    def leads(self, term: int = TERM) -> None:
        """A new term begins for this node."""
        key = NodeKey.of(self.solo.keys["n1"])
        self.leading = Leading(term, self.solo.machine, self.clock, key, self._submit)

    async def _submit(self, items: Sequence[Item], deadline: float) -> list[Answer]:
        return list(self.solo.apply(*items).outcomes)

    async def _send(self, call: Call, patience: float) -> Reply:
        host = urlsplit(call.url).hostname or ""
        self.asked.append(Asked(self.clock.monotonic(), host.removesuffix(".agents.test"), call))
        self.open_doors += 1
        self.most_open = max(self.most_open, self.open_doors)
        try:
            return await self.doors.get(self.asked[-1].host, takes_it)(call)
        finally:
            self.open_doors -= 1

    # --- what others do -----------------------------------------------------------------------------------------------

    def register(self, *names: str, lasts_s: float = LIFE_S, **body: Any) -> None:
        for name in names:
            told = {"name": name, "endpoint": f"http://{name}.agents.test:9000", **body}
            expires_at = self.solo.now_ms + int(lasts_s * 1000)
            said = self.solo.fact("agent", f"whoosh:{name}", told, expires_at=expires_at)
            assert isinstance(said, FactAccepted), said

    def form(
        self, *roles: str, optional: Sequence[str] = (), within_s: float = 0, formed: bool = True, **how: Any
    ) -> None:
        """An election under these rules; without an end, or in so many seconds."""
        until_ms = self.solo.now_ms + int(within_s * 1000) if within_s else 0
        rules: dict[str, Any] = {
            "roles": roles or ("lead", "build"),
            "electorate": [self.solo.principals[name] for name in ELECTORS],
            "threshold": 2,
        }
        if formed:
            rules["formation"] = {"optional_roles": list(optional), "until_ms": until_ms}
        self.propose("COUNCIL_PROFILES_LOADED", rules, **how)

    def claim(self, role: str, agent: str) -> None:
        self.propose("COUNCIL_ROLE_CLAIMED", {"role": role, "agent": agent}, signer="n1", behalf=f"whoosh:{agent}")

    def release(self, role: str) -> None:
        self.propose("COUNCIL_ROLE_RELEASED", {"role": role}, signer="op")

    def propose(self, transition: str, inputs: dict[str, Any], **how: Any) -> None:
        outcome = self.solo.propose(transition, inputs, **how)
        assert isinstance(outcome, Accepted), outcome

    # --- what comes of it ---------------------------------------------------------------------------------------------

    def running(self) -> AbstractAsyncContextManager[None]:
        return running(self.provider.run(self.leading))

    async def pass_time(self, seconds: float = LOOKS_S) -> None:
        await turns(40)
        for _ in range(round(seconds / LOOK_SECONDS)):
            self.clock.advance(LOOK_SECONDS)
            self.solo.now_ms = self.clock.wall_us() // 1000
            await turns(40)

    def hosts(self) -> list[str]:
        """Who was asked into a council since this was last looked at, in order."""
        found = [each.host for each in self.asked if each.call.method == "POST"]
        self.asked = [each for each in self.asked if each.call.method != "POST"]
        return found

    def looks(self) -> int:
        """How often an agent's health was looked at."""
        return sum(each.call.url.endswith("/health") for each in self.asked)

    def is_present(self, name: str) -> bool:
        fact = self.solo.machine.registry.fact("agent", f"whoosh:{name}")
        return fact is not None and self.solo.now_ms < fact.expires_at


@pytest.fixture
def street() -> Street:
    return Street()


# --- what is asked ----------------------------------------------------------------------------------------------------


async def test_the_opportunity_has_the_form_that_agents_of_whoosh_know(street: Street) -> None:
    street.propose(
        "PROJECT_CREATED", {"brief": "Index the archive.", "repository": "https://git.example/a"}, project="b"
    )
    street.solo.project = "b"
    drive(street.solo, lambda regions: regions.boot.licensed)
    street.register("ada")
    street.form("lead", "build", optional=["ux"], within_s=1_800)
    street.claim("build", "bob")
    async with street.running():
        await street.pass_time()
    (asked,) = street.asked
    assert asked.call._replace(body=None, headers={}) == Call(
        "agents", "POST", "http://ada.agents.test:9000/api/v1/opportunities/council", headers={}, project="b"
    )
    assert asked.call.headers["Content-Type"] == "application/json"
    assert asked.document == {
        "council_id": "b",
        "project_name": "b",
        "repository": "https://git.example/a",
        "project_brief": "Index the archive.",
        "core_roles": [
            {
                "role_name": "lead",
                "agent_name": "Tech lead",
                "required": True,
                "required_skills": ["architecture"],
                "description": "Owns the plan",
            },
            {"role_name": "build", "agent_name": "build", "required": True, "required_skills": [], "description": ""},
        ],
        "optional_roles": [
            {"role_name": "ux", "agent_name": "ux", "required": False, "required_skills": [], "description": ""},
        ],
        "ucxl_address": "ucxl://any:any@b:council/*^/",
        "formation_deadline": "2026-01-01T00:30:00.000+00:00",
        "created_at": "2026-01-01T00:00:00.000+00:00",
        "metadata": {"election": 1, "open_roles": ["lead", "ux"]},
    }


async def test_a_formation_without_an_end_has_the_last_moment_there_is_as_its_deadline(street: Street) -> None:
    street.register("ada")
    street.form()
    async with street.running():
        await street.pass_time()
    assert street.asked[0].document["formation_deadline"] == "9999-12-31T23:59:59.999+00:00"


async def test_what_the_policy_redacts_is_not_handed_to_agents(street: Street) -> None:
    street.propose("PROJECT_CREATED", {"brief": f"Use {CANARY} to deploy."}, project="b")
    street.solo.project = "b"
    drive(street.solo, lambda regions: regions.boot.licensed)
    street.register("ada")
    street.form()
    async with street.running():
        await street.pass_time()
    assert street.asked[0].document["project_brief"] == "Use [REDACTED] to deploy."


# --- who is asked, and when -------------------------------------------------------------------------------------------


async def test_every_agent_is_asked_at_once_and_again_at_its_turn(street: Street) -> None:
    street.register("ada", "bob", "cy")
    street.form()
    async with street.running():
        await street.pass_time()
        assert street.hosts() == ["ada", "bob", "cy"]
        await street.pass_time(AGAIN_S - 2 * LOOKS_S)
        assert street.hosts() == []
        await street.pass_time(3 * LOOKS_S)
        assert street.hosts() == ["ada", "bob", "cy"]
    assert street.provider.counts == {"answered": 6} and street.provider.trouble is None


async def test_one_that_registers_later_is_asked_at_once(street: Street) -> None:
    street.register("ada")
    street.form()
    async with street.running():
        await street.pass_time(10)
        street.register("bob")
        await street.pass_time()
        assert street.hosts() == ["ada", "bob"]
        await street.pass_time(AGAIN_S)
        assert Counter(street.hosts()) == {"ada": 1, "bob": 1}


async def test_one_that_moved_is_asked_at_once_where_it_is_now(street: Street) -> None:
    street.register("ada")
    street.form()
    async with street.running():
        await street.pass_time()
        street.register("ada", endpoint="http://new.agents.test:9000/agents/ada/")
        await street.pass_time()
    assert street.hosts() == ["ada", "new"]
    street.leads()
    async with street.running():
        await street.pass_time()
    assert street.asked[0].call.url == "http://new.agents.test:9000/agents/ada/api/v1/opportunities/council"


async def test_an_agent_that_was_not_heard_for_too_long_is_not_asked_until_it_is_back(street: Street) -> None:
    street.doors["ada"] = is_gone
    street.register("ada", lasts_s=5)
    street.register("nowhere", endpoint="")
    async with street.running():
        await street.pass_time(10)
        street.form()
        await street.pass_time(AGAIN_S)
        assert street.hosts() == []
        street.register("ada")
        await street.pass_time()
        assert street.hosts() == ["ada"]


async def test_an_election_that_begins_anew_is_asked_for_at_once(street: Street) -> None:
    street.register("ada")
    street.form()
    async with street.running():
        await street.pass_time()
        street.propose("COUNCIL_REELECTION_CALLED", {"reason": "again"}, signer="op")
        await street.pass_time()
        assert [each.document["metadata"]["election"] for each in street.asked] == [1, 2]
        street.hosts()
        await street.pass_time(AGAIN_S)
        assert street.hosts() == ["ada"], "the old question is not repeated"


async def test_nobody_is_asked_once_every_role_is_held_and_everybody_when_one_is_given_back(street: Street) -> None:
    street.register("ada", "bob")
    street.form("lead", optional=["ux"])
    async with street.running():
        await street.pass_time()
        street.claim("lead", "ada")
        street.hosts()
        await street.pass_time(AGAIN_S)
        assert street.hosts() == ["ada", "bob"], "an optional role is worth asking for"
        street.claim("ux", "bob")
        await street.pass_time()
        street.release("lead")
        await street.pass_time()
        assert street.hosts() == ["ada", "bob"]
        street.claim("lead", "ada")
        await street.pass_time(2 * AGAIN_S)
        assert street.hosts() == []


async def test_a_certificate_ends_the_asking_with_an_optional_role_open(street: Street) -> None:
    street.register("ada")
    street.form("lead", optional=["ux"])
    street.claim("lead", "ada")
    async with street.running():
        await street.pass_time()
        street.propose("COUNCIL_QUORUM_CERT", street.solo.ballots(ELECTORS[:2]) | {"threshold": 2})
        street.hosts()
        await street.pass_time(2 * AGAIN_S)
    assert street.hosts() == []


async def test_when_its_time_is_over_nobody_is_asked_and_the_log_says_so_once(street: Street) -> None:
    street.register("ada")
    street.form("lead", "build", within_s=45)
    street.claim("lead", "bob")
    with capture_logs() as logged:
        async with street.running():
            await street.pass_time(40)
            assert street.hosts() == ["ada", "ada"]
            await street.pass_time(3 * AGAIN_S)
            assert street.hosts() == []
            over = [each for each in logged if "time to form" in each["event"]]
            assert [(each["project"], each["open_roles"]) for each in over] == [("atlas", ("build",))]
            street.form("lead", within_s=45)
            await street.pass_time()
            assert street.hosts() == ["ada"], "later rules are a new question"


async def test_a_council_that_others_form_is_nobodys_business(street: Street) -> None:
    street.register("ada")
    street.form(formed=False)
    async with street.running():
        await street.pass_time(AGAIN_S)
        assert street.asked == []


async def test_nobody_is_asked_while_a_claim_would_be_held(street: Street) -> None:
    street.register("ada")
    street.form()
    street.propose("CONTROL_PAUSED", {"reason": "lunch"})
    async with street.running():
        await street.pass_time(AGAIN_S)
        assert street.hosts() == []
        street.propose("CONTROL_RESUMED", {"reason": "after lunch"})
        await street.pass_time()
        assert street.hosts() == ["ada"]
        street.propose("PROJECT_CLOSED", {"reason": "enough"}, signer="op")
        await street.pass_time(2 * AGAIN_S)
        assert street.hosts() == []


async def test_the_claim_of_a_revoked_key_leaves_its_role_open_and_its_owner_unasked(street: Street) -> None:
    alice = street.solo.principals["alice"]
    street.register("bob")
    told = {"name": "alice", "endpoint": "http://alice.agents.test:9000"}
    street.solo.fact("agent", alice, told, expires_at=street.solo.now_ms + 3_600_000)
    street.form("lead")
    async with street.running():
        await street.pass_time()
        assert street.hosts() == ["alice", "bob"], "an agent with a key of its own is asked like any other"
        street.propose("COUNCIL_ROLE_CLAIMED", {"role": "lead", "agent": "alice"}, signer="alice")
        await street.pass_time(2 * AGAIN_S)
        assert street.hosts() == []
        street.propose("IDENTITY_REVOKED", {"principal": alice})
        await street.pass_time()
        assert street.hosts() == ["bob"]


# --- when agents fail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [is_broken, is_gone])
async def test_an_agent_that_fails_has_to_wait_for_its_next_turn_and_holds_up_no_other(
    street: Street, way: Behaviour
) -> None:
    street.register("ada", "bob", "cy")
    street.doors["bob"] = way
    street.form()
    with capture_logs() as logged:
        async with street.running():
            await street.pass_time(AGAIN_S - LOOKS_S)
            assert street.hosts() == ["ada", "bob", "cy"]
            assert (street.provider.trouble or "").startswith("whoosh:bob: ")
            assert street.provider.counts == {"answered": 2, "failed": 1}
            await street.pass_time(AGAIN_S)
            assert street.hosts() == ["ada", "bob", "cy"]
            del street.doors["bob"]
            await street.pass_time(AGAIN_S)
            assert street.provider.trouble is None
    told = [each["event"] for each in logged if each.get("agent") == "whoosh:bob"]
    assert told == ["agent is not reached", "agent answers again"]


async def test_silent_agents_are_waited_for_side_by_side_and_so_many_at_a_time(street: Street) -> None:
    async def is_silent(call: Call) -> Reply:
        await street.clock.sleep(call.timeout)
        raise TimeoutError

    names = [f"a{number:02}" for number in range(2 * AT_ONCE)]
    street.register(*names, "zoe")
    street.doors = dict.fromkeys(names, is_silent)
    street.form()
    async with street.running():
        await street.pass_time()
        assert street.hosts() == names[:AT_ONCE]
        await street.pass_time(2 * 5 + LOOKS_S)
        assert street.hosts() == [*names[AT_ONCE:], "zoe"]
    assert street.most_open == AT_ONCE
    assert street.provider.trouble == (
        "whoosh:a00: agents at a00.agents.test:9000: TimeoutError ; and 31 more are not reached"
    )


async def test_only_where_the_operator_lets_agents_be_is_anybody_asked(street: Street) -> None:
    street.register("ada")
    street.register("eve", endpoint="https://kaching.test")
    street.register("mal", endpoint="http://mal.elsewhere.test:9000")
    street.form()
    with capture_logs() as logged:
        async with street.running():
            await street.pass_time(3 * AGAIN_S)
    assert set(street.hosts()) == {"ada"}
    assert street.provider.trouble == (
        "whoosh:eve: agents: kaching.test:443 is not where this node may reach an agent; see whoosh.agents; "
        "and 1 more are not reached"
    )
    assert street.provider.counts["blocked"] == 2 * street.provider.counts["answered"]
    assert len([each for each in logged if "not reached" in each["event"]]) == 2, "each is told once"


@pytest.mark.parametrize(
    ("endpoint", "base"),
    [
        ("http://ada.agents.test:9000", "http://ada.agents.test:9000"),
        ("HTTPS://Ada.Agents.test/", "https://ada.agents.test:443"),
        ("http://10.0.0.7/agents/7/", "http://10.0.0.7:80/agents/7"),
        ("http://[::1]:9000", "http://[::1]:9000"),
        ("ada.agents.test:9000", None),
        ("", None),
        ("ftp://ada.agents.test:9000", None),
        ("http://", None),
        ("http://:9000", None),
        ("http://ada.agents.test:0", None),
        ("http://ada.agents.test:99999", None),
        ("http://u:p@ada.agents.test:9000", None),
        ("http://@ada.agents.test:9000", None),
        ("http://ada.agents.test:9000?x=1", None),
        ("http://ada.agents.test:9000#x", None),
        ("http://evil.test\\.agents.test:9000", None),
        ("http://evil.test:80\\@ada.agents.test:9000", None),
        ("http://ada.agents.test:9000/a b", None),
        ("http://ada.agents.test\n.evil.test:9000", None),
        ("http://ädä.agents.test:9000", None),
        ("http://evil.test%00.agents.test:9000", None),
    ],
)
def test_an_endpoint_is_read_as_a_plain_address_or_not_at_all(endpoint: str, base: str | None) -> None:
    assert base_of(endpoint) == base


async def test_an_endpoint_that_is_no_address_is_told_and_nothing_leaves(street: Street) -> None:
    street.register("ada", endpoint="ada:9000")
    street.form()
    async with street.running():
        await street.pass_time(2 * AGAIN_S)
    assert street.asked == []
    assert street.provider.trouble == "whoosh:ada: its endpoint 'ada:9000' is no http(s)://host:port"


async def test_without_a_license_nobody_is_asked(street: Street) -> None:
    body = {"license_id": "lic-1", "status": "suspended", "valid_until": street.solo.now_ms}
    street.register("ada")
    street.form()
    street.solo.tick(1)
    assert isinstance(street.solo.fact("license", street.solo.machine.cluster_id, body), FactAccepted)
    async with street.running():
        await street.pass_time(AGAIN_S)
        assert street.asked == []
        assert "agents: " in (street.provider.trouble or "")


# --- leaders come and go ----------------------------------------------------------------------------------------------


async def test_a_new_leader_asks_again_and_keeps_nothing(street: Street) -> None:
    street.register("ada", "bob")
    street.form()
    async with street.running():
        await street.pass_time()
        assert street.hosts() == ["ada", "bob"]
    await street.pass_time(AGAIN_S)
    assert street.hosts() == [], "who does not lead asks nobody"
    street.leads()
    async with street.running():
        await street.pass_time()
        assert street.hosts() == ["ada", "bob"]


async def test_a_leader_that_has_not_applied_what_others_committed_asks_nobody(street: Street) -> None:
    street.register("ada")
    street.doors["ada"] = is_gone
    street.form()
    async with street.running():
        await street.pass_time()
    assert street.hosts() == ["ada"] and street.provider.trouble
    street.leads(TERM + 1)
    async with street.running():
        await street.pass_time(AGAIN_S)
        assert street.hosts() == [] and street.provider.trouble is None


async def test_a_term_that_ends_breaks_off_what_is_on_its_way(street: Street) -> None:
    ended: list[str] = []

    async def is_slow(call: Call) -> Reply:
        try:
            await street.clock.sleep(60)
        finally:
            ended.append("ada")
        raise AssertionError

    street.register("ada")
    street.doors["ada"] = is_slow
    street.form()
    async with street.running():
        await street.pass_time()
        assert street.open_doors == 1
    await turns(5)
    assert ended == ["ada"] and not street.leading.on_applied


# --- who is there -----------------------------------------------------------------------------------------------------


async def test_an_agent_that_answers_stays_registered(street: Street) -> None:
    street.register("ada", status="idle")
    async with street.running():
        await street.pass_time(LIFE_S * 2 / 3 - LOOKS_S)
        assert street.looks() == 0
        await street.pass_time(2 * LOOKS_S)
        assert street.looks() == 1
        await street.pass_time(3 * LIFE_S)
        assert street.is_present("ada")
        assert 4 <= street.looks() <= 6, "once in two thirds of each life"
    assert street.provider.counts["renewed"] == street.looks()
    (call,) = {each.call.url for each in street.asked}
    assert call == "http://ada.agents.test:9000/health"
    held = street.solo.machine.registry.fact("agent", "whoosh:ada")
    assert held is not None and held.body["status"] == "idle"


@pytest.mark.parametrize("way", [is_broken, is_gone])
async def test_one_that_does_not_is_looked_at_again_and_then_runs_out(street: Street, way: Behaviour) -> None:
    street.register("ada")
    street.doors["ada"] = way
    async with street.running():
        await street.pass_time(LIFE_S - LOOKS_S)
        assert street.is_present("ada")
        assert 4 <= street.looks() <= HEALTH_LOOKS // 3 + 1
        await street.pass_time(2 * LOOKS_S)
        assert not street.is_present("ada")
        assert street.provider.trouble is None, "who is gone is nobody's trouble"
        looks = street.looks()
        await street.pass_time(LIFE_S)
        assert street.looks() == looks


async def test_one_answer_may_go_missing(street: Street) -> None:
    street.register("ada")
    street.doors["ada"] = is_gone
    async with street.running():
        await street.pass_time(LIFE_S * 2 / 3 + LIFE_S / 9)
        del street.doors["ada"]
        await street.pass_time(LIFE_S)
        assert street.is_present("ada")


async def test_what_an_agent_says_while_it_is_looked_at_is_not_unsaid(street: Street) -> None:
    async def speaks_first(call: Call) -> Reply:
        street.register("ada", status="busy")
        return OK

    street.register("ada", status="idle")
    street.doors["ada"] = speaks_first
    async with street.running():
        await street.pass_time(LIFE_S * 2 / 3 + LOOKS_S)
    held = street.solo.machine.registry.fact("agent", "whoosh:ada")
    assert held is not None and held.body["status"] == "busy" and street.provider.counts["renewed"] == 0


async def test_an_agent_with_a_key_says_itself_that_it_is_there(street: Street) -> None:
    told = {"name": "alice", "endpoint": "http://alice.agents.test:9000"}
    street.solo.fact("agent", street.solo.principals["alice"], told)
    async with street.running():
        await street.pass_time(LIFE_S)
    assert street.looks() == 0
