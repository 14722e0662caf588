"""A request with a secret: refused with what was found, its project held, and the secret nowhere."""

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from cluster.answers import not_admitted
from cluster.shhh.policy import decode
from swoosh import signing
from swoosh.entry import ProposalItem
from swoosh.hashing import digest
from swoosh.outcome import Code, Refused
from tests.http.conftest import Caller, Serve
from tests.http.desk import KEYS, Desk
from tests.shhh.secrets import A20, CANARY, OPENAI


def traces(desk: Desk) -> str:
    """Everything the desk keeps: records, decisions, refusals, state."""
    kept = [data.decode() for chain in desk.memory.records.values() for data in chain]
    kept += [data.decode() for data in desk.memory.decisions.values()]
    kept += [repr(refused) for refused in desk.store.refused] + desk.store.signers
    projects = map(desk.machine.project, desk.machine.project_ids())
    return "\n".join([*kept, *map(repr, projects), repr(desk.machine.registry)])


def is_clean(desk: Desk, ask: Caller) -> bool:
    heard = "\n".join(f"{reply.text} {dict(reply.headers)}" for reply in ask.seen)
    return not any(secret in trace for secret in (CANARY, CANARY[:24], A20) for trace in (traces(desk), heard))


def held(desk: Desk, project: str = "apollo") -> bool:
    found = desk.machine.project(project)
    return found is not None and found.quarantined


def sources(desk: Desk, address: str, key: str = "k", **members: Any) -> dict[str, Any]:
    members = {"project": "apollo", "inputs": {"sources": [address]}, **members}
    return desk.signed(desk.draft("INGESTION_SOURCES_RESOLVED", key, **members))


@pytest.fixture
async def apollo(desk: Desk, ask: Caller) -> None:
    assert (await ask.post("/transition", desk.created("apollo"))).status == 200


@pytest.mark.usefixtures("apollo")
async def test_a_request_with_a_secret_quarantines_its_project_and_goes_no_further(desk: Desk, ask: Caller) -> None:
    with capture_logs() as logged:
        reply = await ask.post("/transition", sources(desk, f"https://x.example/?key={CANARY}"))
    assert (reply.status, reply.body["code"], reply.body["quarantined"]) == (400, "QUARANTINED", True)
    assert reply.body["error"].startswith(
        "transition blocked by quarantine: openai-secret (critical) at inputs.sources[0]"
    )
    assert reply.body["findings"] == [
        {
            "rule": "openai-secret",
            "severity": "critical",
            "location": "inputs.sources[0]",
            "value_hash": digest("secret", CANARY),
        }
    ]
    assert reply.body["state_hash"] == desk.head("apollo") and reply.body["retryable"] is False
    [record] = [each for each in records(desk) if each["transition_name"] == "POLICY_BREACHED"]
    assert record["signer"] == KEYS["node"].principal and record["idem_key"].startswith("breach:")
    policy: Any = desk.machine.project("apollo").regions.policy  # type: ignore[union-attr]
    [finding] = policy.findings
    assert (finding.rule, finding.severity, finding.location) == ("openai-secret", "quarantine", "inputs.sources[0]")
    assert finding.principal == KEYS["proposer"].principal and policy.policy_version == "built-in"
    assert [(each.code, each.transition) for each in desk.store.refused] == [
        (Code.QUARANTINED, "INGESTION_SOURCES_RESOLVED")
    ]
    [noted] = (await ask.get("/rejections")).body["rejections"]
    assert noted["findings"] == reply.body["findings"] and noted["signer"] == KEYS["proposer"].principal
    metrics = await ask.get("/metrics")
    assert 'swoosh_policy_findings_total{verdict="quarantine"} 1.0' in metrics.text
    assert "swoosh_quarantine_total 1.0" in metrics.text
    assert CANARY not in repr(logged) and logged and is_clean(desk, ask)


def records(desk: Desk, project: str = "apollo") -> list[dict[str, Any]]:
    return [json.loads(data) for data in desk.memory.records.get(project, [])]


@pytest.mark.usefixtures("apollo")
async def test_the_same_request_without_the_secret_is_a_matter_of_the_reducer(desk: Desk, ask: Caller) -> None:
    """The guard the other way round: nothing is found, nothing is held."""
    reply = await ask.post("/transition", sources(desk, "https://x.example/?key=sk-proj-ect"))
    assert reply.body["code"] == "NOT_LICENSED" and not held(desk) and "findings" not in reply.body


@pytest.mark.usefixtures("apollo")
async def test_a_repeated_request_proposes_the_same_breach_once(desk: Desk, ask: Caller) -> None:
    for hlc_ahead in (0, 5):
        reply = await ask.post("/transition", sources(desk, f"x{' ' + CANARY}", hlc=desk.now_hlc(hlc_ahead)))
        assert reply.body["code"] == "QUARANTINED" and reply.body["findings"]
    policy: Any = desk.machine.project("apollo").regions.policy  # type: ignore[union-attr]
    named = [{"rule": each.rule, "location": each.location} for each in policy.findings]
    release = desk.draft(
        "POLICY_QUARANTINE_RELEASED", "r", by="policy", project="apollo", inputs={"reason": "a test", "findings": named}
    )
    assert (await ask.post("/transition", desk.signed(release))).status == 200 and not held(desk)
    again = await ask.post("/transition", sources(desk, f"x{' ' + CANARY}"))
    assert again.body["code"] == "QUARANTINED" and again.body["quarantined"] is False and not held(desk)
    assert sum(each["transition_name"] == "POLICY_BREACHED" for each in records(desk)) == 1
    other = await ask.post("/transition", sources(desk, f"y{' ' + CANARY}"))
    assert other.body["quarantined"] is True and held(desk) and is_clean(desk, ask)


@pytest.mark.parametrize("place", ["inputs", "evidence", "idem_key", "window_id", "name", "transition"])
@pytest.mark.usefixtures("apollo")
async def test_wherever_it_stands_it_is_found_and_told_to_nobody(desk: Desk, ask: Caller, place: str) -> None:
    changes: dict[str, Any] = {
        "inputs": {"inputs": {"sources": [CANARY]}},
        "evidence": {"evidence": [f"ucxl://x/{CANARY}"]},
        "idem_key": {"key": CANARY},
        "window_id": {"window_id": CANARY},
        "name": {"inputs": {"sources": [], CANARY: 1}},
    }
    draft = sources(desk, "x", **changes.get(place, {}))
    if place == "transition":
        draft = desk.signed({**draft, "transition": CANARY})
    reply = await ask.post("/transition", draft)
    assert reply.body["code"] == "QUARANTINED" and held(desk), reply.text
    assert is_clean(desk, ask)


async def test_a_project_that_does_not_exist_is_not_created_with_a_secret(desk: Desk, ask: Caller) -> None:
    draft = desk.draft("PROJECT_CREATED", "c", project="apollo", inputs={"brief": f"deploy with {CANARY}"})
    reply = await ask.post("/transition", desk.signed(draft))
    assert (reply.body["code"], reply.body["quarantined"]) == ("QUARANTINED", False)
    assert desk.machine.project("apollo") is None and not held(desk, "default") and is_clean(desk, ask)


@pytest.mark.usefixtures("apollo")
async def test_a_dry_run_says_what_was_found_and_holds_nothing(desk: Desk, ask: Caller) -> None:
    reply = await ask.post("/transition?dry_run=true", sources(desk, CANARY))
    assert reply.body["code"] == "QUARANTINED" and reply.body["findings"]
    assert not held(desk) and not desk.store.refused and is_clean(desk, ask)


# --- who may not hold a project ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("by, code", [("stranger", "UNKNOWN_SIGNER"), ("agent", "NOT_AUTHORISED")])
@pytest.mark.usefixtures("apollo")
async def test_who_may_not_sign_holds_nothing_and_is_told_nothing_back(
    desk: Desk, ask: Caller, by: str, code: str
) -> None:
    reply = await ask.post("/transition", sources(desk, CANARY, key=CANARY, by=by))
    assert reply.body["code"] == code
    assert not held(desk) and is_clean(desk, ask)


@pytest.mark.parametrize(
    "body",
    [
        f'{{"a": "{CANARY}", }}',
        f'{{"{CANARY}": 1, "{CANARY}": 2}}',
        f'{{"transition": "{CANARY}"}}',
        f'{{"current_state_hash": "genesis", "{CANARY}": 1}}',
        f'"{CANARY}"',
        f'[{{"idem_key": "{CANARY} {CANARY}"}}]',
        f'{{"proposals": "{CANARY}"}}',
        f'{{"proposals": [], "signer": "{CANARY}", "signature": "x", "{CANARY}": 1}}',
        "{'a': '" + CANARY,
    ],
)
@pytest.mark.parametrize("path", ["/transition", "/transitions", "/admin/facts", "/admin/settings", "/admin/snapshot"])
async def test_what_cannot_be_read_is_not_quoted(desk: Desk, ask: Caller, path: str, body: str) -> None:
    """Among these are texts that are cut after 80 characters, in the middle of the secret or behind it."""
    reply = await ask.post(path, body.encode())
    assert 400 <= reply.status < 500 or reply.body["outcomes"]
    assert is_clean(desk, ask)


async def test_a_text_that_is_cut_within_the_secret_is_not_quoted_either(desk: Desk, ask: Caller) -> None:
    for member in ("idem_key", "project", "hlc", "current_state_hash"):
        for secret in (CANARY, f"api_key={A20}"):
            value = "x" * 50 + " " + secret
            reply = await ask.post("/transition", {**desk.created("apollo"), member: value})
            assert reply.body["code"] == "MALFORMED" and secret[:16] not in reply.text
            assert "looks like" in reply.body["reasons"][0] or "got 'xxxx" in reply.body["reasons"][0]
    plain = await ask.post("/transition", {**desk.created("apollo"), "idem_key": "the api key of task-1"})
    assert "'the api key of task-1'" in plain.body["reasons"][0], "what holds none is quoted as ever"


@pytest.mark.parametrize(
    "path",
    ["/{}", "/state?project={}", "/transitions/{}%20{}", "/state?projection={}", "/wal?from={}", "/decisions/{}"],
)
async def test_an_address_is_not_quoted_with_a_secret(desk: Desk, ask: Caller, path: str) -> None:
    reply = await ask.get(path.format(CANARY, CANARY), checked=False)
    assert reply.status >= 400 and is_clean(desk, ask), reply.text


# --- many at once -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("apollo")
async def test_of_many_proposals_each_is_looked_at_alone(desk: Desk, ask: Caller) -> None:
    many = [desk.created("gemini"), sources(desk, CANARY), desk.created("mercury")]
    reply = await ask.post("/transitions", many)
    assert [(each["status"], each.get("code")) for each in reply.body["outcomes"]] == [
        (200, None),
        (400, "QUARANTINED"),
        (200, None),
    ]
    assert held(desk) and not held(desk, "gemini") and is_clean(desk, ask)


@pytest.mark.usefixtures("apollo")
async def test_a_batch_under_one_signature_is_refused_whole_and_each_offender_held(desk: Desk, ask: Caller) -> None:
    await ask.post("/transition", desk.created("gemini"))
    await ask.post("/transition", desk.created("mercury"))

    def member(project: str, brief: str) -> dict[str, Any]:
        return desk.draft("INGESTION_SOURCES_RESOLVED", "k", project=project, inputs={"sources": [brief]})

    proposals = [member("apollo", CANARY), member("gemini", "fine"), member("mercury", f"api_key={A20}")]
    signature = KEYS["proposer"].sign(signing.batch_preimage(proposals, desk.cluster_id))
    batch = {"proposals": proposals, "signer": KEYS["proposer"].principal, "signature": signature}
    reply = await ask.post("/transitions", batch)
    assert (reply.status, reply.body["code"]) == (400, "QUARANTINED")
    assert [each["location"] for each in reply.body["findings"]] == [
        "proposals[0].inputs.sources[0]",
        "proposals[2].inputs.sources[0]",
    ]
    assert [held(desk, project) for project in ("apollo", "gemini", "mercury")] == [True, False, True]
    assert is_clean(desk, ask)


async def test_facts_are_looked_at_and_a_health_fact_holds_its_project(desk: Desk, ask: Caller, apollo: None) -> None:
    facts = [
        desk.fact("health", "apollo", {"status": "red", "detail": f"login with {CANARY} failed"}),
        desk.fact("tool", "git", {"reachable": True, "version": CANARY}),
        desk.fact("tool", "hg", {"reachable": True, "version": "1"}),
    ]
    reply = await ask.post("/admin/facts", facts)
    assert [each.get("code") for each in reply.body["outcomes"]] == ["QUARANTINED", "QUARANTINED", None]
    assert held(desk) and not held(desk, "default") and desk.machine.registry.fact("tool", "git") is None
    assert is_clean(desk, ask)


async def test_a_command_with_a_secret_is_refused_and_holds_nobody(desk: Desk, ask: Caller) -> None:
    inputs = {"principal": KEYS["stranger"].principal, "reason": CANARY}
    draft = desk.draft("IDENTITY_REVOKED", "c", by="admin", project="@cluster", inputs=inputs)
    reply = await ask.post("/admin/identities", desk.signed(draft))
    assert reply.body["code"] == "QUARANTINED" and not held(desk, "default") and is_clean(desk, ask)


# --- other verdicts, other circumstances ------------------------------------------------------------------------------


async def test_what_is_only_to_be_redacted_goes_on(serve: Serve) -> None:
    document = {"version": "2", "verdicts": [{"rule": "openai-secret", "verdict": "redact"}]}
    desk = Desk(policy=decode(document))
    ask = await serve(desk)
    draft = desk.draft("PROJECT_CREATED", "c", project="apollo", inputs={"brief": f"deploy with {OPENAI}"})
    assert (await ask.post("/transition", desk.signed(draft))).status == 200
    assert 'swoosh_policy_findings_total{verdict="redact"} 1.0' in (await ask.get("/metrics")).text


@pytest.mark.usefixtures("apollo")
async def test_a_breach_that_cannot_be_recorded_is_said_so_and_the_request_is_not_admitted(
    desk: Desk, ask: Caller
) -> None:
    desk.instead = lambda items: [not_admitted(Code.NO_LEADER, "no leader is known")] * len(items)
    reply = await ask.post("/transition", sources(desk, CANARY))
    assert (reply.status, reply.body["code"], reply.body["admitted"]) == (503, "NO_LEADER", False)
    desk.instead = None
    assert (await ask.post("/transition", sources(desk, CANARY))).body["code"] == "QUARANTINED" and held(desk)


@pytest.mark.usefixtures("apollo")
async def test_a_project_that_moves_on_meanwhile_is_held_all_the_same(desk: Desk, ask: Caller) -> None:
    """The first attempts rest on a HEAD that somebody else's transition has replaced."""
    stale = 3

    def judge(items: Any) -> Any:
        nonlocal stale
        [item] = items
        stale -= 1
        if stale:
            return [Refused(Code.STALE_STATE, ("moved on",), "apollo")]
        desk.instead = None
        return list(desk._judge(item, False))

    desk.instead = judge
    reply = await ask.post("/transition", sources(desk, CANARY))
    assert reply.body["code"] == "QUARANTINED" and held(desk) and stale == 0


async def test_health_tells_the_policy_and_whether_it_is_the_leader_s(desk: Desk, ask: Caller) -> None:
    policy = (await ask.get("/health")).body["policy"]
    assert policy == {"version": "built-in", "hash": desk.policy.hash, "leader": None, "agrees": True}
    for version, agrees in (("other", False), ("built-in", True)):
        body = {"version": version, "policy_hash": desk.policy.hash}
        await ask.post("/admin/facts", desk.fact("policy", "policy", body, seq=int(agrees)))
        policy = (await ask.get("/health")).body["policy"]
        assert policy["agrees"] is agrees and policy["leader"]["version"] == version


async def test_what_outside_systems_let_slip_is_not_told(desk: Desk, ask: Caller) -> None:
    class Provider:
        name, trouble = "environment", f"401 for Bearer {A20}"

    desk.providers = (Provider(),)
    assert (await ask.get("/health")).body["providers"] == {"environment": "401 for Bearer [REDACTED]"}


async def test_signed_or_not_the_log_holds_what_was_sent_or_nothing(serve: Serve) -> None:
    """Without signatures, too, a request with a secret is not submitted."""
    desk = Desk(insecure=True)
    ask, seen = await serve(desk), list[Any]()
    submit = desk.submit

    async def spy(items: Any, deadline: float, *, dry_run: bool = False) -> Any:
        seen.extend(items)
        return await submit(items, deadline, dry_run=dry_run)

    desk.submit = desk.screen._submit = spy  # type: ignore[method-assign]
    proposal = {**desk.draft("PROJECT_CREATED", "k", project="apollo"), "signer": f"somebody {CANARY}"}
    reply = await ask.post("/transition", proposal)
    assert reply.body["code"] == "QUARANTINED" and is_clean(desk, ask)
    assert not [item for item in seen if isinstance(item, ProposalItem) and CANARY.encode() in item.sent]
