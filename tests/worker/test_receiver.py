"""The effect receiver: one effect for each request, however often; nothing from behind; nothing lost by a crash."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chaos.receiver import MemoryGround, MemoryLedger
from cluster import faults
from cluster.worker.receiver import Receiver
from swoosh.inputs import check_hashes

UP: dict[str, Any] = {
    "cluster_id": "swoosh-1",
    "project": "atlas",
    "asset": "vm-1",
    "kind": "vm",
    "units": 4,
    "effect": "e1",
    "action": "provision",
    "term": 5,
    "index": 100,
}
DOWN = UP | {"effect": "e2", "action": "revert", "index": 120}


class Site:
    def __init__(self) -> None:
        self.ledger, self.ground = MemoryLedger(), MemoryGround()
        self.start()

    def start(self) -> None:
        self.receiver = Receiver(self.ledger, self.ground, units=10)

    def ask(self, request: dict[str, Any], **change: Any) -> int:
        return self.receiver.effect(json.dumps({**request, **change}).encode()).status

    def receipt(self, request: dict[str, Any]) -> str:
        receipt: str = self.receiver.effect(json.dumps(request).encode()).document["receipt"]
        return receipt


@pytest.fixture
def site() -> Site:
    return Site()


def test_a_request_is_done_once_and_gets_its_receipt_every_time(site: Site) -> None:
    receipts = {site.receipt(UP) for _ in range(3)} | {site.receipt(UP | {"term": 6})}
    assert len(receipts) == 1
    check_hashes("receipt", *receipts)
    assert site.ground.standing == {("atlas", "vm-1")} and len(site.ledger.lines) == 1


def test_every_effect_has_a_receipt_of_its_own(site: Site) -> None:
    receipts = [site.receipt(UP), site.receipt(UP | {"asset": "vm-2"}), site.receipt(DOWN)]
    assert len(set(receipts)) == 3


def test_a_deposed_leader_is_fenced(site: Site) -> None:
    assert site.ask(UP, term=6) == 200
    assert site.ask(UP) == 409
    assert site.ask(UP, term=6) == 200


def test_a_call_that_was_long_on_its_way_cannot_undo_what_came_after(site: Site) -> None:
    """The same leader, or a later one with less of the log: neither term nor index goes back."""
    assert site.ask(UP | {"effect": "e0", "index": 90}) == 200
    assert site.ask(DOWN) == 200
    assert site.ask(UP) == 409
    assert site.ask(UP, term=6) == 409
    assert site.ground.standing == set()


def test_one_place_in_the_log_is_one_effect(site: Site) -> None:
    assert site.ask(UP) == 200
    assert site.ask(UP, effect="e9", term=7) == 409


def test_fencing_is_for_each_asset(site: Site) -> None:
    assert site.ask(UP, term=6, index=200) == 200
    assert site.ask(UP, asset="vm-2") == 200


def test_what_never_came_is_reverted_all_the_same_and_stays_away(site: Site) -> None:
    assert site.ask(DOWN) == 200
    assert site.ask(UP) == 409
    assert site.ground.standing == set()


def test_it_goes_on_where_the_ledger_stands(site: Site) -> None:
    first = site.receipt(UP)
    site.start()
    assert site.receipt(UP) == first
    assert site.ask(UP, term=4) == 409
    assert site.receiver.capacity().document == {"units_free": 6}
    assert len(site.ledger.lines) == 1


def test_it_does_not_begin_on_a_ledger_that_it_cannot_read(site: Site) -> None:
    site.ask(UP)
    site.ledger.append(b'{"project": "atlas"}')
    with pytest.raises(ValueError, match="line 2 of the ledger"):
        site.start()


class Crash(BaseException):
    pass


@pytest.mark.parametrize("place", ["receiver.written", "receiver.done"])
@pytest.mark.parametrize("request_", [UP, DOWN], ids=["up", "down"])
def test_a_crash_at_any_point_leaves_one_effect(site: Site, place: str, request_: dict[str, Any]) -> None:
    if request_ is DOWN:
        site.ask(UP)

    def die() -> None:
        raise Crash

    faults.arm(place, 1, die)
    with pytest.raises(Crash):
        site.ask(request_)
    site.start()
    assert (("atlas", "vm-1") in site.ground.standing) is (request_ is UP), (
        "it is carried out before anybody asks again"
    )
    assert site.ask(request_) == 200
    assert [json.loads(line)["effect"] for line in site.ledger.lines].count(request_["effect"]) == 1


def test_what_could_not_be_carried_out_is_tried_again(site: Site) -> None:
    build, site.ground.build = site.ground.build, _fails  # type: ignore[method-assign]
    with pytest.raises(OSError):
        site.ask(UP)
    site.ground.build = build  # type: ignore[method-assign]
    assert site.ask(UP) == 200
    assert site.ground.standing == {("atlas", "vm-1")} and len(site.ledger.lines) == 1


def _fails(project: str, asset: str) -> None:
    raise OSError("no space")


def test_no_more_is_given_than_there_is(site: Site) -> None:
    assert site.ask(UP, units=7) == 200
    assert site.receiver.capacity().document == {"units_free": 3}
    assert site.ask(UP, asset="vm-2") == 503
    assert site.ask(UP, asset="vm-1", units=7) == 200, "what stands is not counted against itself"
    assert site.ask(DOWN) == 200
    assert site.ask(UP, asset="vm-2") == 200
    assert len(site.ledger.lines) == 3


def test_another_cluster_is_turned_away(site: Site) -> None:
    assert site.ask(UP, cluster_id="swoosh-2") == 200
    assert site.ask(UP) == 403
    site.start()
    assert site.ask(UP) == 403


@pytest.mark.parametrize(
    "change",
    [
        {"action": "destroy"},
        {"project": "../etc"},
        {"project": ""},
        {"asset": "a b"},
        {"asset": ""},
        {"units": -1},
        {"index": -1},
        {"term": "5"},
        {"effect": ""},
    ],
)
def test_what_is_out_of_form_is_refused(site: Site, change: dict[str, Any]) -> None:
    assert site.ask(UP, **change) == 400
    assert site.ledger.lines == []


def test_what_is_no_request_is_refused(site: Site) -> None:
    assert site.receiver.effect(b"").status == site.receiver.effect(b"[1]").status == 400


def test_a_project_is_as_well_as_its_worst_asset(site: Site) -> None:
    def health() -> object:
        return site.receiver.health("atlas").document["status"]

    assert health() == "red", "nothing stands"
    site.ask(UP)
    site.ask(UP, asset="vm-2")
    assert health() == "green"
    site.ground.faults["atlas", "vm-2"] = ("amber", "hot")
    assert health() == "amber"
    site.ground.faults["atlas", "vm-1"] = ("red", "gone")
    assert site.receiver.health("atlas").document == {"status": "red", "detail": "gone; hot"}
    assert site.receiver.health("lyra").document["status"] == "red"
