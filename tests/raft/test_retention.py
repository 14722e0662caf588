"""How much of the log stays: the cut by itself, and who counts as behind."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import faults
from cluster.clock import ManualClock
from cluster.raft import retention
from cluster.raft.journal import Journal
from cluster.raft.retention import BEHIND_SECONDS, Keep, Retention
from cluster.storage.kv import MemoryKeyValue
from cluster.storage.witness import MemoryWitness
from tests.raft.cluster import raise_stopped

LAST, SIZE = 100, 11


@pytest.fixture(autouse=True)
def stops_are_raised() -> Iterator[None]:
    faults.set_stop(raise_stopped)
    yield
    faults.set_stop(None)


class Desk:
    """A log of 100 entries of 11 bytes, all committed, and what its node sends."""

    def __init__(self, *, entries: int = 10, size: int = 1 << 20) -> None:
        kv, witness = MemoryKeyValue(), MemoryWitness()
        Journal.create(kv, witness, cluster_id="c", node="n0", incarnation=b"0123456789abcdef")
        self.journal = Journal.open(kv, witness, cluster_id="c", node="n0")
        for index in range(1, LAST + 1):
            self.journal.add(b"\0" + bytes(SIZE - 1), index, 1 + index // 50)
        self.journal.setRaftCommitIndex(LAST)
        self.clock = ManualClock()
        self.sent: list[tuple[str, Any]] = []
        self.matched = {"n1": 0, "n2": 0}
        self.leads = True
        core = SimpleNamespace(
            raftCurrentTerm=5,
            raftLastApplied=LAST,
            match_index=lambda peer: self.matched[peer],
            is_leader=lambda: self.leads,
            leader_id=lambda: "n1",
        )
        self.core = core

        def raw(peer: str, message: Any) -> bool:
            self.sent.append((peer, message))
            return True

        self.retention = Retention(core, self.journal, raw=raw, clock=self.clock, keep=Keep(entries, size))  # type: ignore[arg-type]

    def cut(self, behind: int = LAST, applied: int = LAST) -> int:
        self.retention.cut(behind, applied)
        return self.journal.first_index


def test_the_newest_entries_stay() -> None:
    assert Desk(entries=10).cut() == LAST - 9


def test_two_entries_stay_whatever_is_asked_for() -> None:
    assert Desk(entries=1).cut() == LAST - 1


def test_nothing_is_cut_that_no_snapshot_has() -> None:
    assert Desk().cut(behind=0) == 1
    assert Desk().cut(behind=50) == 49


def test_nothing_is_cut_that_is_not_applied() -> None:
    assert Desk().cut(applied=50) == 49


def test_the_log_is_bounded_in_bytes_too() -> None:
    desk = Desk(entries=90, size=20 * SIZE)
    assert desk.retention.is_full()
    assert desk.cut() == LAST - 19
    assert not desk.retention.is_full()


def test_a_cut_that_drops_little_is_not_made() -> None:
    assert Desk(entries=95).cut() == 1


def test_a_lease_holds_the_log_until_its_peer_is_served() -> None:
    desk = Desk()
    desk.retention.on_installing("n2", {"t": 5, "index": 60})
    assert desk.cut() == 60
    desk.matched["n2"] = 59
    assert desk.retention.leases() == {"n2": 60}
    desk.matched["n2"] = 60
    assert desk.retention.leases() == {}
    assert desk.cut() == LAST - 9


def test_a_lease_is_granted_by_the_leader_of_the_term_alone() -> None:
    desk = Desk()
    desk.retention.on_installing("n2", {"t": 4, "index": 60})
    desk.leads = False
    desk.retention.on_installing("n2", {"t": 5, "index": 60})
    assert desk.retention.leases() == {}


def test_a_lease_ends_with_time_though_it_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "LEASE_SECONDS", 10.0)
    desk = Desk()
    desk.retention.on_installing("n2", {"t": 5, "index": 60})
    desk.clock.advance(9.0)
    desk.retention.on_installing("n2", {"t": 5, "index": 60})
    desk.clock.advance(1.0)
    assert desk.retention.leases() == {}


def test_a_lease_ends_when_it_costs_too_much_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    desk.retention.on_installing("n2", {"t": 5, "index": 60})
    monkeypatch.setattr(retention, "LEASE_BYTES", 20 * SIZE)
    assert desk.retention.leases() == {}


def test_a_peer_is_told_once_a_second_that_it_is_behind() -> None:
    desk = Desk()
    desk.cut()
    for _ in range(5):
        desk.retention.tell("n2")
    assert desk.sent == [("n2", {"type": "behind", "t": 5, "first": LAST - 9, "first_term": 2})]
    desk.clock.advance(BEHIND_SECONDS)
    desk.retention.tell("n2")
    assert len(desk.sent) == 2


@pytest.mark.parametrize(
    ("peer", "message", "applied", "asked"),
    [
        ("n1", {"t": 5, "first": 200, "first_term": 4}, LAST, True),
        ("n2", {"t": 5, "first": 200, "first_term": 4}, LAST, False),  # not the leader
        ("n1", {"t": 4, "first": 200, "first_term": 4}, LAST, False),  # not of this term
        ("n1", {"t": 5, "first": 90, "first_term": 4}, LAST, False),  # applied already
        ("n1", {"t": 5, "first": 90, "first_term": 2}, 50, False),  # stored already
        ("n1", {"t": 5, "first": 90, "first_term": 3}, 50, True),  # another entry is stored there
    ],
)
def test_who_lacks_the_beginning_of_the_leaders_log_is_behind(
    peer: str, message: dict[str, int], applied: int, asked: bool
) -> None:
    desk = Desk()
    desk.core.raftLastApplied = applied
    wanted: list[tuple[str, int]] = []

    def install(leader: str, least: int) -> int | None:
        wanted.append((leader, least))
        return None if len(wanted) == 1 else 300

    desk.retention.install = install
    desk.retention.on_behind(peer, message)
    assert wanted == ([("n1", message["first"])] if asked else [])
    assert desk.sent == []
    if asked:
        desk.retention.on_behind(peer, message)
        assert desk.sent == [("n1", {"type": "installing", "t": 5, "index": 300})]
