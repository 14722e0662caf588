"""The outboxes of the leader: what a caller sees of them, and what an admin can order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from cluster.providers.bubble import Decisions
from cluster.providers.outbox import Outbox, Outgoing, Taken, nothing_redacted
from cluster.raft.driver import Role
from cluster.storage.kv import MemoryKeyValue
from cluster.storage.store import ORIGIN, Store
from swoosh import genesis
from swoosh.entry import PassedOverItem
from swoosh.machine import Applied, Position
from tests.http.conftest import Caller
from tests.http.desk import CHART, Desk


class NoSink:
    where = "http://sink.test/records"

    async def take(self, records: Sequence[Outgoing]) -> Taken:
        return Taken()


@pytest.fixture
def outbox(desk: Desk) -> Outbox:
    store = Store.create(MemoryKeyValue(), genesis.initial_rows(desk.genesis, CHART), ORIGIN, {})
    note = PassedOverItem("bubble", "apollo", 7, "root", "422 too long")
    store.commit(Applied(Position(1, 1, 1), notes=(note,)))
    made = Outbox(Decisions(store, nothing_redacted), NoSink(), store)
    desk.providers = (made,)
    return made


async def test_the_leader_shows_what_waits_and_what_was_passed_over(outbox: Outbox, ask: Caller) -> None:
    body = (await ask.get("/outboxes")).body
    assert (body["node"], body["leader"]) == ("n1", "n1")
    shown = body["outboxes"]["bubble"]
    assert (shown["sink"], shown["backlog"], shown["held"], shown["trouble"]) == (NoSink.where, 0, [], None)
    assert shown["passed_over"] == [
        {"outbox": "bubble", "project": "apollo", "seq": 7, "by": "root", "reason": "422 too long"}
    ]


async def test_nobody_else_knows(desk: Desk, outbox: Outbox, ask: Caller) -> None:
    desk.raft.role, desk.raft.leader = Role.FOLLOWER, "n2"
    assert (await ask.get("/outboxes")).body == {"node": "n1", "leader": "n2", "outboxes": None}
    assert (await ask.get("/health")).body["outboxes"] is None
    assert "swoosh_outbox_backlog{" not in (await ask.get("/metrics")).text


async def test_health_and_metrics_have_the_numbers(outbox: Outbox, ask: Caller) -> None:
    numbers = (await ask.get("/health")).body["outboxes"]["bubble"]
    assert set(numbers) == {"backlog", "oldest_s", "delivered", "failed", "refused", "blocked"}
    text = (await ask.get("/metrics")).text
    for sample in (
        'swoosh_outbox_backlog{sink="bubble"}',
        'swoosh_outbox_oldest_seconds{sink="bubble"}',
        'swoosh_outbox_delivered_total{sink="bubble"}',
        'swoosh_outbox_failed_total{sink="bubble"}',
        'swoosh_outbox_held{sink="bubble",why="refused"}',
        'swoosh_outbox_held{sink="bubble",why="blocked"}',
    ):
        assert f"{sample} 0.0" in text, sample


@pytest.mark.parametrize(
    ("name", "members", "status", "reason"),
    [
        ("outbox-retry", {"to": "bubble"}, 200, ""),
        ("outbox-retry", {"to": "slurp"}, 400, "n1 has no outbox 'slurp'; it has bubble"),
        ("outbox-retry", {}, 400, "has no outbox"),
        ("outbox-retry", {"to": "bubble", "by": "operator"}, 403, "needs the role admin"),
        ("outbox-pass-over", {"to": "bubble/apollo/1", "by": "operator"}, 403, "needs the role admin"),
        ("outbox-pass-over", {"to": "bubble/apollo/1"}, 404, "refuses no record of apollo"),
        ("outbox-pass-over", {"to": "bubble/apollo"}, 400, "OUTBOX/PROJECT/SEQ"),
        ("outbox-pass-over", {"to": "bubble/apollo/-1"}, 400, "OUTBOX/PROJECT/SEQ"),
    ],
)
async def test_orders(
    desk: Desk, outbox: Outbox, ask: Caller, name: str, members: dict[str, Any], status: int, reason: str
) -> None:
    reply = await ask.post(f"/admin/{name}", desk.order(name, **members))
    assert reply.status == status, reply.body
    assert reason in " ".join(reply.body.get("reasons", ()))
