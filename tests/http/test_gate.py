"""What a 401 and a 403 are worth: said by a node that knows all that was committed, and noted where they are proved."""

from typing import Any

import pytest

from cluster.answers import Unavailable, not_admitted
from swoosh.outcome import Code
from tests.http.conftest import Caller
from tests.http.desk import KEYS, Desk
from tests.http.test_transition import signed_batch


@pytest.fixture
def reads(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The reads this node made. With the first it catches up: the stranger was registered through another node."""
    made: list[str] = []

    async def read(consistency: str, deadline: float, *, min_index: int = 0) -> Unavailable | None:
        made.append(consistency)
        if len(made) == 1:
            identity = {"name": "new", "principal": KEYS["stranger"].principal, "roles": ["proposer:*", "provider:*"]}
            draft = desk.draft("IDENTITY_ADDED", "new", by="admin", project="@cluster", inputs=identity)
            [answer] = await desk.submit([desk.admission.proposal(desk.signed(draft))], deadline)  # type: ignore[list-item]
            assert getattr(answer, "index", 0), answer
        return None

    monkeypatch.setattr(desk, "read", read)
    return made


async def test_who_was_registered_elsewhere_a_moment_ago_is_no_stranger(
    desk: Desk, ask: Caller, reads: list[str]
) -> None:
    reply = await ask.post("/transition", desk.created("apollo", by="stranger"))
    assert reply.status == 200, reply.text
    assert reads == ["linearizable"]


async def test_a_batch_catches_up_once_and_keeps_its_order(desk: Desk, ask: Caller, reads: list[str]) -> None:
    stranger = [desk.created(name, by="stranger") for name in ("a1", "c3")]
    entitled = desk.created("b2")
    lacking = desk.created("d4", by="admin")
    reply = await ask.post("/transitions", [stranger[0], entitled, stranger[1], lacking])
    assert [each["status"] for each in reply.body["outcomes"]] == [200, 200, 200, 403]
    assert [each.get("project") for each in reply.body["outcomes"][:3]] == ["a1", "b2", "c3"]
    assert reads == ["linearizable"]


async def test_batches_facts_and_orders_catch_up_too(desk: Desk, ask: Caller, reads: list[str]) -> None:
    refused = await ask.post("/admin/snapshot", desk.order("snapshot", by="stranger"))
    assert (refused.status, refused.body["code"]) == (403, "NOT_AUTHORISED"), "known by now, and no admin"
    reply = await ask.post("/admin/facts", desk.fact("capacity", "default", {"units_free": 7}, by="stranger"))
    assert reply.status == 200
    batch = signed_batch(desk, [desk.draft("PROJECT_CREATED", "k", by="stranger", project="a1")], by="stranger")
    assert (await ask.post("/transitions", batch)).status == 200
    assert len(reads) == 1


async def test_who_stays_a_stranger_is_told_after_one_look(desk: Desk, ask: Caller, reads: list[str]) -> None:
    reads.append("as if caught up before")
    reply = await ask.post("/transition", desk.created("apollo", by="stranger"))
    assert (reply.status, reply.body["code"]) == (401, "UNKNOWN_SIGNER")
    assert len(reads) == 2


async def test_a_node_that_cannot_catch_up_does_not_say_a_final_no(desk: Desk, ask: Caller) -> None:
    desk.unreadable = not_admitted(Code.NO_QUORUM, "no majority")
    reply = await ask.post("/transition", desk.created("apollo", by="stranger"))
    assert (reply.status, reply.body["code"], reply.body["admitted"]) == (503, "NO_QUORUM", False)
    assert (await ask.post("/transition", desk.created("apollo", current_state_hash="0" * 64))).status == 400
    forged = {**desk.created("apollo"), "signature": "A" * 86}
    assert (await ask.post("/transition", forged)).status == 401, "no state makes this signature right"


# --- what is noted ----------------------------------------------------------------------------------------------------


async def noted(ask: Caller, query: str = "") -> list[tuple[Any, Any]]:
    return [(each["code"], each["signer"]) for each in (await ask.get(f"/rejections{query}")).body["rejections"]]


async def test_what_somebody_we_know_was_refused_is_noted(desk: Desk, ask: Caller) -> None:
    admin, proposer, agent = (KEYS[name].principal for name in ("admin", "proposer", "agent"))
    assert (await ask.post("/transition", desk.created("a1", by="admin"))).status == 403
    assert (await ask.post("/transition", desk.created("a1", idem_key="steward:x"))).status == 400
    assert (await ask.post("/admin/facts", desk.fact("tool", "git", {}, by="agent"))).status in (400, 403)
    assert (await ask.post("/admin/snapshot", desk.order("snapshot", by="proposer"))).status == 403
    batch = signed_batch(desk, [desk.draft("PROJECT_CREATED", "k", by="admin", project="a1")], by="admin")
    assert (await ask.post("/transitions", batch)).status == 403
    expected = [("NOT_AUTHORISED", admin), ("NOT_AUTHORISED", proposer), ("IDEM_KEY_RESERVED", proposer)]
    found = await noted(ask)
    assert [note for note in found if note[1] != agent] == [*expected, ("NOT_AUTHORISED", admin)]
    assert await noted(ask, f"?signer={proposer}") == expected[1:]


async def test_what_nobody_proved_to_have_sent_is_not_noted(desk: Desk, ask: Caller) -> None:
    """Else anybody could push out what an operator looks for, in the name of whom he likes."""
    unsigned = desk.created("apollo")
    del unsigned["signature"]
    for body in (
        unsigned,
        {**desk.created("apollo"), "signature": "A" * 86},
        desk.created("apollo", by="stranger"),
        {"nonsense": 1},
    ):
        assert (await ask.post("/transition", body)).status in (400, 401)
    assert await noted(ask) == []


async def test_a_dry_run_leaves_no_note(desk: Desk, ask: Caller) -> None:
    assert (await ask.post("/transition?dry_run=true", desk.created("a1", by="admin"))).status == 403
    assert await noted(ask) == []
