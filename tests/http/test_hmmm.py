"""What a bridge hands in: votes, proposals, and everything else that agents tell each other."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.answers import unknown
from cluster.providers.hmmm import PROPOSAL
from swoosh import limits
from swoosh.quorum import Vote
from tests.cluster.electors import asked, cast, message
from tests.http.conftest import Caller
from tests.http.desk import KEYS, Desk


def vote(desk: Desk, name: str, **changed: Any) -> Vote:
    return cast(asked(desk.machine), desk.machine, KEYS[name].principal, KEYS[name].sign, **changed)


async def test_votes_are_counted_once_and_can_be_read(desk: Desk, ask: Caller) -> None:
    desk.elect()
    votes = [vote(desk, name) for name in ("ed", "eva")]
    replies = [await ask.post("/hmmm/messages", message(each)) for each in (*votes, votes[0])]
    assert [reply.status for reply in replies] == [200, 200, 200]
    assert [(each.body["became"], each.body["votes"], each.body["threshold"]) for each in replies] == [
        *(("counted", 1, 2), ("counted", 2, 2), ("known", 2, 2)),
    ]
    tally = await ask.get("/council/votes?project=default")
    assert tally.status == 200
    assert {each["voter"] for each in tally.body["votes"]} == {KEYS["ed"].principal, KEYS["eva"].principal}
    assert tally.body["electorate"] == sorted(KEYS[name].principal for name in ("ed", "eli", "eva"))
    assert (tally.body["election"], tally.body["threshold"]) == (1, 2)


async def test_the_application_s_signature_decides_and_not_the_sender(desk: Desk, ask: Caller) -> None:
    desk.elect()
    as_another = message(vote(desk, "ed"), **{"from": "12D3KooWsomebody-else", "hop_count": 9})
    assert (await ask.post("/hmmm/messages", as_another)).body["became"] == "counted"
    forged = cast(asked(desk.machine), desk.machine, KEYS["eva"].principal, KEYS["stranger"].sign)
    reply = await ask.post("/hmmm/messages", message(forged))
    assert (reply.status, reply.body["code"]) == (401, "BAD_SIGNATURE")


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"election": 5}, 400, "STALE_STATE"),
        ({"vote": "eject:lead"}, 400, "STALE_STATE"),
        ({"project": "nobodys"}, 400, "UNKNOWN_PROJECT"),
        ({"cluster_id": "swoosh-another"}, 401, "BAD_SIGNATURE"),
    ],
)
async def test_a_vote_that_cannot_count_is_refused(
    desk: Desk, ask: Caller, changed: dict[str, Any], status: int, code: str
) -> None:
    desk.elect()
    reply = await ask.post("/hmmm/messages", message(vote(desk, "ed", **changed)))
    assert (reply.status, reply.body["code"]) == (status, code), reply.body
    assert (await ask.get("/council/votes")).body["votes"] == []


async def test_who_is_no_elector_is_told_so(desk: Desk, ask: Caller) -> None:
    desk.elect()
    reply = await ask.post("/hmmm/messages", message(vote(desk, "proposer")))
    assert (reply.status, reply.body["code"]) == (403, "NOT_AUTHORISED")


async def test_a_proposal_is_answered_as_on_its_own_route(desk: Desk, ask: Caller) -> None:
    created = desk.created("apollo")
    first = await ask.post("/hmmm/messages", message(created, type=PROPOSAL))
    assert first.status == 200 and first.body["transition"] == "PROJECT_CREATED" and not first.body["duplicate"]
    changed = {**created, "hlc": desk.now_hlc(1)}
    unsigned = {name: value for name, value in created.items() if name != "signature"}
    stale = desk.signed(desk.draft("CONTROL_PAUSED", "p:1", "operator", project="apollo") | {"transition": "NO_SUCH"})
    for sent, status in ((created, 200), (changed, 401), (unsigned, 401), (stale, 400)):
        direct, carried = [
            await ask.post("/transition", sent),
            await ask.post("/hmmm/messages", message(sent, type=PROPOSAL)),
        ]
        assert direct.status == carried.status == status and direct.body == carried.body


@pytest.mark.parametrize(
    "document",
    [
        {
            "type": "hmmm.message",
            "session_id": "s-1",
            "from": {"agent_id": "a-7", "role": "critic"},
            "message": "is the schema wrong?",
            "intent": "question",
            "citations": [{"ucxl.address": "ucxl://a:b@c:d/*^/x", "reason": "seen there"}],
            "timestamp": "2026-01-01T00:00:00Z",
        },
        {"type": "task_claim", "from": "12D3KooWsomebody", "timestamp": 1, "data": {}},
    ],
)
async def test_what_agents_tell_each_other_is_ignored_and_that_is_said(
    ask: Caller, desk: Desk, document: dict[str, Any]
) -> None:
    before = desk.machine.position
    reply = await ask.post("/hmmm/messages", document)
    assert (reply.status, reply.body["became"], reply.body["type"]) == (200, "ignored", document["type"])
    assert "swoosh.vote.v1" in reply.body["reason"]
    assert desk.machine.position == before


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"[]", 400, "MALFORMED"),
        (b"not json", 400, "MALFORMED"),
        (b'{"type": "hmmm.message", "type": "swoosh.vote.v1"}', 400, "MALFORMED"),
        (b'{"type": "hmmm.message", "confidence": 0.5}', 400, "MALFORMED"),
        (b'{"type": "swoosh.vote.v9", "from": "", "timestamp": "", "data": {}}', 400, "MALFORMED"),
        (b'{"type": "swoosh.vote.v1", "from": "", "timestamp": "", "data": {"voter": 1}}', 400, "MALFORMED"),
        (b'{"type": "swoosh.proposal.v1", "from": "", "timestamp": "", "data": {}}', 400, "MALFORMED"),
        (b"[" * 100_000, 400, "MALFORMED"),
        (b" " * (limits.BODY_BYTES_MAX + 1), 413, "TOO_LARGE"),
    ],
)
async def test_a_message_is_bounded_and_strictly_read(ask: Caller, body: bytes, status: int, code: str) -> None:
    reply = await ask.post("/hmmm/messages", body)
    assert (reply.status, reply.body["code"]) == (status, code)


async def test_without_a_leader_nothing_is_final(desk: Desk, ask: Caller) -> None:
    desk.elect()
    carried = message(vote(desk, "ed"))
    desk.unreadable = unknown("n2, the leader, did not answer in time")
    replies = [await ask.post("/hmmm/messages", carried), await ask.get("/council/votes")]
    assert [reply.status for reply in replies] == [503, 503]
    assert replies[0].headers["Retry-After"]
    desk.unreadable = None
    assert (await ask.post("/hmmm/messages", carried)).body["became"] == "counted"


async def test_a_project_that_nobody_created_has_no_votes(ask: Caller) -> None:
    reply = await ask.get("/council/votes?project=nobodys")
    assert (reply.status, reply.body["code"]) == (400, "UNKNOWN_PROJECT")
