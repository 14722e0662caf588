"""Administration: commands by path, facts, and orders to one node."""

from typing import Any

import pytest

from cluster.raft.driver import Role
from swoosh import proposal
from tests.http.conftest import Caller
from tests.http.desk import KEYS, Desk

FLAG = {"name": "route.council", "value": "swoosh"}


def command(desk: Desk, transition: str, inputs: dict[str, Any], by: str = "admin") -> dict[str, Any]:
    return desk.signed(desk.draft(transition, f"cmd:{transition}", by=by, project="@cluster", inputs=inputs))


async def test_a_setting_is_changed_by_a_signed_command(desk: Desk, ask: Caller) -> None:
    reply = await ask.post("/admin/settings", command(desk, "SETTING_SET", {"name": "max_skew_ms", "value": 750}))
    assert reply.status == 200 and reply.body["decision"]
    assert desk.machine.registry.setting("max_skew_ms") == 750


async def test_a_path_takes_its_own_commands_only(desk: Desk, ask: Caller) -> None:
    reply = await ask.post("/admin/flags", command(desk, "SETTING_SET", {"name": "max_skew_ms", "value": 750}))
    assert (reply.status, reply.body["code"]) == (400, "MALFORMED") and "FLAG_SET" in reply.body["reasons"][0]
    other = await ask.post("/admin/settings", desk.created("apollo"))
    assert (other.status, other.body["code"]) == (400, "MALFORMED")


async def test_a_command_needs_the_admin_role(desk: Desk, ask: Caller) -> None:
    refused = command(desk, "SETTING_SET", {"name": "max_skew_ms", "value": 750}, by="operator")
    reply = await ask.post("/admin/settings", refused)
    assert (reply.status, reply.body["code"]) == (403, "NOT_AUTHORISED")


# --- facts ------------------------------------------------------------------------------------------------------------


async def test_a_signed_fact_is_on_the_board(desk: Desk, ask: Caller) -> None:
    reply = await ask.post("/admin/facts", desk.fact("capacity", "default", {"units_free": 7}))
    assert reply.status == 200 and reply.body["kind"] == "capacity"
    known = desk.machine.registry.fact("capacity", "default")
    assert known is not None and known.digest == reply.body["digest"]


async def test_facts_come_in_many(desk: Desk, ask: Caller) -> None:
    facts = [
        desk.fact("capacity", "default", {"units_free": 7}),
        desk.fact("capacity", "default", {"units_free": "many"}),
        desk.fact("tool", "git", {"reachable": True, "version": "2"}),
        desk.fact("tool", "git", {"reachable": True, "version": "2"}, by="agent"),
    ]
    reply = await ask.post("/admin/facts", facts)
    assert reply.status == 200
    assert [each["status"] for each in reply.body["outcomes"]] == [200, 400, 200, 403]


async def test_an_old_fact_changes_nothing(desk: Desk, ask: Caller) -> None:
    fact = desk.fact("capacity", "default", {"units_free": 7})
    await ask.post("/admin/facts", fact)
    again = await ask.post("/admin/facts", fact)
    assert (again.status, again.body["code"]) == (400, "FACT_REFUSED")


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"kind": "rumour"}, 400, "MALFORMED"),
        ({"signature": None}, 401, "UNSIGNED"),
        ({"subject": "other"}, 401, "BAD_SIGNATURE"),
        ({"provider": KEYS["stranger"].principal}, 401, "UNKNOWN_SIGNER"),
        ({"body": {"units_free": 1, "more": 2}}, 400, "MALFORMED"),
    ],
)
async def test_bad_facts(desk: Desk, ask: Caller, change: dict[str, Any], status: int, code: str) -> None:
    reply = await ask.post("/admin/facts", desk.fact("capacity", "default", {"units_free": 7}) | change)
    assert (reply.status, reply.body["code"]) == (status, code)


async def test_an_empty_list_of_facts_is_refused(ask: Caller) -> None:
    assert (await ask.post("/admin/facts", b"[]")).status == 413


# --- orders -----------------------------------------------------------------------------------------------------------


async def test_an_admin_may_ask_for_a_snapshot(desk: Desk, ask: Caller) -> None:
    reply = await ask.post("/admin/snapshot", desk.order("snapshot"))
    assert reply.status == 200 and desk.snapshots.asked == 1


async def test_leadership_is_handed_over(desk: Desk, ask: Caller) -> None:
    reply = await ask.post("/admin/transfer-leadership", desk.order("transfer-leadership", to="n3"))
    assert reply.status == 200 and reply.body["leader"] == "n3"
    again = await ask.post("/admin/transfer-leadership", desk.order("transfer-leadership"))
    assert (again.status, again.body["code"]) == (503, "NO_LEADER") and desk.raft.role is Role.FOLLOWER


@pytest.mark.parametrize(
    ("order", "status", "code"),
    [
        (lambda desk: desk.order("snapshot", by="operator"), 403, "NOT_AUTHORISED"),
        (lambda desk: desk.order("snapshot", by="stranger"), 401, "UNKNOWN_SIGNER"),
        (lambda desk: desk.order("snapshot") | {"to": "n2"}, 401, "BAD_SIGNATURE"),
        (lambda desk: desk.order("transfer-leadership"), 400, "MALFORMED"),
        (lambda desk: desk.order("snapshot", node="n2"), 400, "MALFORMED"),
        (lambda desk: desk.order("snapshot", hlc=desk.now_hlc(-60_000)), 400, "HLC_SKEW"),
        (lambda desk: desk.order("snapshot", more=1), 400, "MALFORMED"),
        (lambda desk: b"[]", 400, "MALFORMED"),
    ],
)
async def test_orders_are_fresh_and_meant(desk: Desk, ask: Caller, order: Any, status: int, code: str) -> None:
    reply = await ask.post("/admin/snapshot", order(desk))
    assert (reply.status, reply.body["code"]) == (status, code)
    assert desk.snapshots.asked == 0


async def test_an_order_is_no_proposal(desk: Desk, ask: Caller) -> None:
    reply = await ask.post("/transition", desk.order("snapshot"))
    assert (reply.status, reply.body["code"]) == (400, "MALFORMED")
    assert proposal.CLUSTER == "@cluster"
