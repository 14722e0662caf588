"""What a caller may believe: the three outcomes, and everything the SDK does before it names one."""

from __future__ import annotations

import asyncio
import base64
import json
from itertools import pairwise

import pytest

from swoosh import principal, signing
from swoosh.client import Accepted, ClientError, Draft, FactAccepted, Refused, Rejected, Unavailable, Unknown
from swoosh.client.transport import Lost, NotSent, Reply
from swoosh.errors import Malformed
from swoosh.hlc import HLC
from swoosh.proposal import inputs_hash
from tests.client.script import (
    CLUSTER_ID,
    HEAD,
    HLC_LAST,
    KEY,
    LATER,
    LeapClock,
    Script,
    accepted,
    client,
    refused,
    reply,
    unavailable,
)


async def test_a_proposal_is_complete_and_signed_over_what_was_sent() -> None:
    script = Script([accepted])
    outcome = await client(script).propose(
        "T", inputs={"a": 1}, project="p", window_id="tidal:5", evidence=["ucxl://x"]
    )
    assert isinstance(outcome, Accepted)
    sent = script.posts[0].document
    assert sent["current_state_hash"] == HEAD
    assert sent["inputs_hash"] == inputs_hash({"a": 1})
    assert sent["signer"] == KEY.principal
    assert sent["idem_key"].startswith("p:tidal-5:T:")
    assert HLC.parse(sent["hlc"]) > HLC.parse(HLC_LAST), "the clock of the cluster was ahead of ours"
    public = principal.key_of(KEY.principal)
    assert public is not None
    assert signing.verify(public, signing.proposal_preimage(sent, CLUSTER_ID), sent["signature"])


async def test_each_proposal_is_stamped_after_the_one_before() -> None:
    script = Script([accepted])
    caller = client(script)
    for _ in range(3):
        await caller.propose("T")
    stamps = [HLC.parse(asked.document["hlc"]) for asked in script.posts]
    assert stamps == sorted(set(stamps))


async def test_a_dead_endpoint_is_passed_over_at_once() -> None:
    clock, script = LeapClock(), Script([NotSent("refused"), accepted])
    outcome = await client(script, clock=clock).propose("T")
    assert isinstance(outcome, Accepted)
    assert [asked.url.split("/")[2] for asked in script.posts] == ["n1", "n2"]
    assert sum(clock.naps) == 0
    assert script.posts[0].body == script.posts[1].body


async def test_behind_a_load_balancer_one_endpoint_is_asked_again() -> None:
    script = Script([Lost("gone"), reply(502), accepted])
    outcome = await client(script, endpoints=1).propose("T")
    assert isinstance(outcome, Accepted)
    assert len({asked.document["idem_key"] for asked in script.posts}) == 1


async def test_a_lost_answer_is_found_again_under_its_key() -> None:
    script = Script([Lost("cut"), lambda asked: accepted(asked, duplicate=True)])
    outcome = await client(script).propose("T")
    assert isinstance(outcome, Accepted)
    assert outcome.duplicate


async def test_silence_is_unknown_and_keeps_to_the_budget() -> None:
    clock = LeapClock()
    outcome = await client(Script([Lost("timeout")]), budget=5.0, clock=clock).propose("T", idem_key="k")
    assert outcome == Unknown("k", "no answer within the budget: timeout")
    assert clock.now <= 5.0


@pytest.mark.parametrize("nobody", [NotSent("refused"), unavailable("NO_LEADER", admitted=False)])
async def test_what_no_node_admitted_is_refused_and_not_unknown(nobody: Reply | NotSent) -> None:
    outcome = await client(Script([nobody]), budget=5.0).propose("T")
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.retryable) == ("NO_LEADER", True)


@pytest.mark.parametrize(
    "doubtful", [Lost("cut"), unavailable("OUTCOME_UNKNOWN", admitted=True), reply(502), reply(504), reply(500)]
)
async def test_a_refusal_by_facts_does_not_settle_a_doubt(doubtful: Reply | Lost) -> None:
    """The first attempt may still reach a leader that sees other facts."""
    script = Script([doubtful, refused("GUARD_REJECTED")])
    assert isinstance(await client(script, budget=5.0).propose("T"), Unknown)


@pytest.mark.parametrize("code", ["STALE_STATE", "IDEM_KEY_REUSED"])
async def test_a_refusal_that_rules_out_the_straggler_settles_it(code: str) -> None:
    outcome = await client(Script([Lost("cut"), refused(code)])).propose("T")
    assert isinstance(outcome, Refused)
    assert outcome.code == code


async def test_without_doubt_a_refusal_is_final_and_carries_its_reasons() -> None:
    script = Script([refused("GUARD_REJECTED", failing_guard="window_open", help="wait")])
    outcome = await client(script).propose("T", idem_key="k")
    assert isinstance(outcome, Refused)
    assert (outcome.failing_guard, outcome.help, outcome.idem_key) == ("window_open", "wait", "k")
    assert len(script.posts) == 1


async def test_stale_is_the_callers_to_decide() -> None:
    outcome = await client(Script([refused("STALE_STATE")])).propose("T")
    assert isinstance(outcome, Refused)
    assert outcome.state_hash == LATER


async def test_stale_is_resubmitted_on_the_new_head_where_the_caller_allows_it() -> None:
    script = Script([refused("STALE_STATE"), accepted])
    outcome = await client(script).propose("T", on_stale="resubmit")
    assert isinstance(outcome, Accepted)
    first, second = (asked.document for asked in script.posts)
    assert (first["current_state_hash"], second["current_state_hash"]) == (HEAD, LATER)
    assert first["idem_key"] == second["idem_key"]
    assert first["signature"] != second["signature"]


async def test_a_clock_that_is_behind_learns_from_the_refusal() -> None:
    ahead = "2030-01-01T00:00:00.000+00:00#3"
    script = Script([refused("HLC_REGRESSION", hlc_last=ahead), accepted])
    assert isinstance(await client(script).propose("T"), Accepted)
    assert script.posts[1].document["hlc"] == "2030-01-01T00:00:00.000+00:00#4"


async def test_an_overloaded_cluster_gets_the_pause_it_asks_for() -> None:
    clock, script = LeapClock(), Script([unavailable("OVERLOADED", admitted=False), accepted])
    assert isinstance(await client(script, clock=clock).propose("T"), Accepted)
    assert clock.naps == [3.0]


async def test_a_project_nobody_created_is_decided_on_genesis() -> None:
    class Empty(Script):
        def _state(self, asked):  # type: ignore[no-untyped-def]
            return super()._state(asked) if "/health" in asked.url else refused("UNKNOWN_PROJECT", 404)

    script = Empty([accepted])
    assert await client(script).state("p") is None
    await client(script).propose("PROJECT_CREATED", project="p")
    assert script.posts[0].document["current_state_hash"] == "genesis"


async def test_a_dry_run_asks_and_does_not_propose() -> None:
    script = Script([accepted])
    await client(script).propose("T", dry_run=True)
    assert script.posts[0].url.endswith("/transition?dry_run=true")


async def test_inputs_that_have_no_canonical_form_never_leave() -> None:
    script = Script([accepted])
    with pytest.raises(Malformed, match=r"inputs\.share"):
        await client(script).propose("T", inputs={"share": 0.5})
    assert not script.posts


async def test_a_reader_needs_no_key_and_a_proposer_does() -> None:
    reader = client(Script([accepted]))
    reader._key = None
    assert (await reader.state()) is not None
    with pytest.raises(ValueError, match="without a key"):
        await reader.propose("T")


# --- batches ----------------------------------------------------------------------------------------------------------


async def test_a_batch_is_one_signature_and_a_chain() -> None:
    script = Script([lambda asked: reply(200, outcomes=[_item(each) for each in asked.document["proposals"]])])
    outcomes = await client(script).batch([Draft("A"), Draft("B"), Draft("C", project="other")])
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    sent = script.posts[0].document
    assert [each["current_state_hash"] for each in sent["proposals"]] == [HEAD, "@prev", HEAD]
    assert all("signature" not in each for each in sent["proposals"])
    public = principal.key_of(sent["signer"])
    assert public is not None
    assert signing.verify(public, signing.batch_preimage(sent["proposals"], CLUSTER_ID), sent["signature"])


async def test_a_batch_that_nobody_could_decide_is_sent_again_as_it_was() -> None:
    undecided = {"status": 503, "success": False, "code": "OUTCOME_UNKNOWN", "error": "unknown", "admitted": True}
    script = Script(
        [
            reply(200, outcomes=[undecided, undecided]),
            lambda asked: reply(200, outcomes=[_item(each, duplicate=True) for each in asked.document["proposals"]]),
        ]
    )
    outcomes = await client(script).batch([Draft("A", idem_key="a"), Draft("B", idem_key="b")])
    assert [isinstance(outcome, Accepted) and outcome.duplicate for outcome in outcomes] == [True, True]
    assert script.posts[0].body == script.posts[1].body


async def test_a_batch_is_answered_item_by_item() -> None:
    def answer(asked):  # type: ignore[no-untyped-def]
        first, second = asked.document["proposals"]
        no = json.loads(refused("STALE_STATE").body) | {"status": 400}
        return reply(200, outcomes=[_item(first), no | {"transition": second["transition"]}])

    done, stale = await client(Script([answer])).batch([Draft("A"), Draft("B")])
    assert isinstance(done, Accepted)
    assert isinstance(stale, Refused)


def _item(proposal: dict[str, str], *, duplicate: bool = False) -> dict[str, object]:
    document: dict[str, object] = json.loads(accepted(duplicate=duplicate, idem_key=proposal["idem_key"]).body)
    return {"status": 200, **document}


# --- facts ------------------------------------------------------------------------------------------------------------


async def test_a_fact_is_stamped_and_signed() -> None:
    script = Script([reply(200, success=True, kind="tool", subject="t", digest="sha256-x", index=4)])
    outcome = await client(script).fact("tool", "t", {"reachable": True, "version": "1"}, valid_ms=5_000)
    assert outcome == FactAccepted("tool", "t", "sha256-x", 4)
    sent = script.posts[0].document
    assert sent["expires_at"] - sent["observed_at"] == 5_000
    public = principal.key_of(sent["provider"])
    assert public is not None
    assert signing.verify(public, signing.fact_preimage(sent, CLUSTER_ID), sent["signature"])


async def test_a_fact_in_doubt_is_observed_anew() -> None:
    taken = reply(200, success=True, kind="tool", subject="t", digest="sha256-x", index=4)
    script = Script([Lost("cut"), refused("FACT_REFUSED"), taken])
    assert isinstance(await client(script).fact("tool", "t", {"reachable": True, "version": "1"}), FactAccepted)
    first, repeat, anew = (asked.document for asked in script.posts)
    assert first == repeat
    assert (anew["observed_at"], anew["seq"]) > (first["observed_at"], first["seq"])


async def test_an_agent_announces_itself_again_before_its_fact_goes_stale() -> None:
    """One answer may go missing between two that arrive in time."""
    clock, script = LeapClock(), Script([Lost("gone"), reply(200, kind="agent", subject="s", digest="d", index=1)])
    cluster = client(script, clock=clock)

    async def end(seconds: float) -> None:
        if len(script.posts) == 5:
            raise asyncio.CancelledError
        await slept(seconds)

    slept, clock.sleep = clock.sleep, end  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await cluster.announce("lead-1", capabilities=["build"], valid_ms=60_000)
    said = [asked.document for asked in script.posts]
    assert {(fact["kind"], fact["subject"]) for fact in said} == {("agent", KEY.principal)}
    assert all(fact["body"] == {"name": "lead-1", "capabilities": ["build"], "endpoint": ""} for fact in said)
    told = said[1:]
    assert all(later["observed_at"] < fact["expires_at"] - 20_000 for fact, later in pairwise(told))


async def test_an_agent_that_may_not_announce_itself_is_told_so() -> None:
    with pytest.raises(Rejected, match="NOT_AUTHORISED"):
        await client(Script([refused("NOT_AUTHORISED", 403)])).announce("lead-1")


# --- reads ------------------------------------------------------------------------------------------------------------


async def test_a_read_refused_says_why() -> None:
    class Guarded(Script):
        def _state(self, asked):  # type: ignore[no-untyped-def]
            return refused("UNSIGNED", 401)

    with pytest.raises(Rejected, match="UNSIGNED: because UNSIGNED"):
        await client(Guarded()).state()


async def test_a_read_that_nobody_answers_is_unavailable() -> None:
    class Cold(Script):
        def _state(self, asked):  # type: ignore[no-untyped-def]
            return reply(503, status="cold", code="COLD", error="service unavailable: catching up")

    with pytest.raises(Unavailable, match="catching up"):
        await client(Cold(), budget=2.0).health()


async def test_what_is_not_a_node_is_called_that() -> None:
    with pytest.raises(ClientError, match="not an answer of a SWOOSH node"):
        await client(Script([Reply(200, {}, b"<html>")])).propose("T")
    outcome = await client(Script([Reply(403, {}, b"Forbidden")])).propose("T")
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.reasons) == ("HTTP_403", ("Forbidden",))


async def test_watching_resumes_behind_the_last_event() -> None:
    script = Script()
    script.streams = [
        ["id: 5.1", 'data: {"transition": "A"}', "", ": comment", "id: 6.2", 'data: {"transition": "B"}', ""],
        Lost("cut"),
        ["id: 7.3", 'data: {"transition": "C"}', ""],
    ]
    seen = []
    async for event in client(script).watch("p"):
        seen.append((event.id, event.data["transition"]))
        if len(seen) == 3:
            break
    assert seen == [("5.1", "A"), ("6.2", "B"), ("7.3", "C")]
    assert [asked.headers.get("Last-Event-ID") for asked in script.asked] == [None, "6.2", "6.2"]


async def test_the_same_seed_sends_the_same_bytes() -> None:
    async def run() -> list[bytes | None]:
        script = Script([Lost("cut"), unavailable("NO_LEADER", admitted=False), refused("STALE_STATE"), accepted])
        await client(script).propose("T", on_stale="resubmit")
        return [asked.body for asked in script.posts]

    assert await run() == await run()


def test_signatures_are_base64url_without_padding() -> None:
    signature = KEY.sign_vote(CLUSTER_ID, "p", 1, HEAD)
    assert "=" not in signature
    assert len(base64.urlsafe_b64decode(signature + "==")) == 64


async def test_windows_are_read_as_the_node_sees_them() -> None:
    shut = {"open": False, "window_id": "w-1", "reason": "it is the plan phase", "opens_in_ms": 300}
    script = Script()
    script._state = lambda asked: reply(  # type: ignore[method-assign]
        200, project="atlas", source="tidal", window_id="w-2", active_window_id="w-1", classes={"review": shut}
    )
    found = await client(script).windows("atlas")
    assert (found.window_id, found.active_window_id, found.classes["review"].opens_in_ms) == ("w-2", "w-1", 300)
    assert script.asked[-1].url.endswith("/windows?project=atlas")
