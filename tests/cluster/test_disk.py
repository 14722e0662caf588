"""A node whose disk is slow, nearly full, or gone: what callers and operators are told, and who goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from cluster.answers import Answer, Unavailable
from cluster.faults import ExitCode
from cluster.storage.kv import Batch
from swoosh.hashing import digest
from swoosh.outcome import Code, Refused
from tests.cluster.group import Group, NodeHost, accepted


def always(seconds: float) -> Callable[[], float]:
    return lambda: seconds


def code_of(answer: Answer) -> Code:
    assert isinstance(answer, Unavailable), answer
    assert not answer.admitted
    return answer.code


def writes_of(host: NodeHost) -> list[bool]:
    """Of every write of this node's store from now on: was it synced?"""
    seen: list[bool] = []
    write = host.store.write

    def noted(batch: Batch, *, sync: bool) -> None:
        seen.append(sync)
        write(batch, sync=sync)

    host.store.write = noted  # type: ignore[method-assign]
    return seen


# --- slow -------------------------------------------------------------------------------------------------------------


def test_a_stalled_leader_answers_local_reads_says_why_and_refuses_what_waits() -> None:
    with Group(1) as group:
        old = group.leading()
        accepted(group.propose(old.name, group.create("atlas")))
        group.run(0.5)
        old.sync_seconds = always(math.inf)
        in_flight = group.ask(old.name, group.create("in-flight"), within=3.0)
        group.run_until(lambda: old.raft.stalled_s is not None)
        group.run(0.1)
        assert old.node.reason is not None and old.node.reason.startswith("stalled: disk")
        assert old.node.ready is None, "a short stall sends nobody away"
        waiting = group.ask(old.name, group.create("waiting"))
        asked_at = group.now
        (answer,) = group.answers(waiting)
        assert code_of(answer) is Code.DISK_SLOW
        assert group.now - asked_at < 1.0, "long before its deadline"
        assert old.node.ready is not None and "stalled: disk" in old.node.ready
        assert code_of(group.propose(old.name, group.create("late"))) is Code.DISK_SLOW
        deadline = old.clock.monotonic() + 1.0
        assert group.wait(old.node.read("local", deadline)) is None
        refused = group.wait(old.node.read("linearizable", deadline))
        assert refused is not None and code_of(refused) is Code.DISK_SLOW
        (lost,) = group.answers(in_flight)
        assert isinstance(lost, Unavailable) and lost.code is Code.OUTCOME_UNKNOWN
        group.run_until(lambda: any(host.is_leader() for host in group.others(old)))
        new = next(host for host in group.others(old) if host.is_leader())
        accepted(group.propose(new.name, group.create("beacon")))
        group.run_until(lambda: old.stopped is not None, 12.0)
        assert old.stopped is not None and old.stopped.code is ExitCode.DISK


def test_nothing_is_written_to_a_store_whose_sync_is_under_way() -> None:
    """It would wait for the sync, and the event loop with it: no applied entry, no note of a refusal, no snapshot."""
    with Group(2) as group:
        leader = group.leading()
        accepted(group.propose(leader.name, group.create("atlas")))
        group.run(0.5)
        slow = next(host for host in group.live() if host is not leader)
        seen = writes_of(slow)
        stale = group.load(slow.name, "atlas", head=digest("solo", "long ago"))
        slow.sync_seconds = always(3.0)
        accepted(group.propose(leader.name, group.create("beacon")))
        group.run_until(lambda: slow.raft.stalled_s is not None)
        seen.clear()
        slow.node.snapshots.request()
        taking = group.loop.create_task(slow.node.snapshots.take(slow.node.machine))
        (refused,) = group.answers(group.ask(slow.name, stale))
        assert isinstance(refused, Refused) and refused.code is Code.STALE_STATE
        group.run(1.0)
        assert slow.raft.stalled_s is not None
        assert (seen, taking.done()) == ([], False)
        slow.sync_seconds = always(0.0)
        group.run_until(taking.done)
        group.run(0.5)
        notes = [note for found in slow.node.store.rejections("atlas", None) for note in found]
        assert len(notes) == 1 and b"STALE_STATE" in notes[0]


# --- full -------------------------------------------------------------------------------------------------------------


def test_a_node_with_little_space_left_refuses_before_the_disk_does() -> None:
    with Group(3) as group:
        leader = group.leading()
        full = next(host for host in group.live() if host is not leader)
        full.free_bytes = 200 << 20
        group.run(0.5)
        item = group.create("atlas")
        assert code_of(group.propose(full.name, item)) is Code.DISK_LOW
        assert full.node.reason == "low disk space: 200 MiB free, 256 MiB are needed"
        assert accepted(group.propose(leader.name, item)).project == "atlas", "the others have space"
        full.free_bytes = 300 << 20
        group.run(0.5)
        assert full.node.reason is None
        assert accepted(group.propose(full.name, item)).duplicate


def test_a_leader_with_little_space_left_takes_nothing_from_its_members_either() -> None:
    with Group(4) as group:
        leader = group.leading()
        leader.free_bytes = 0
        group.run(0.5)
        asked = next(host for host in group.live() if host is not leader)
        item = group.create("atlas")
        assert code_of(group.propose(asked.name, item)) is Code.DISK_LOW
        assert group.wait(leader.raft.transfer_leadership(asked.name)) is True
        group.leading()
        assert accepted(group.propose(asked.name, item)).project == "atlas"


# --- gone -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["No space left on device", "Input/output error"])
def test_an_error_of_the_disk_ends_the_node_and_costs_no_acknowledged_write(error: str) -> None:
    with Group(5) as group:
        leader = group.leading()
        kept = accepted(group.propose(leader.name, group.create("atlas")))
        leader.disk_fails = error
        item = group.create("beacon")
        asked = group.ask(leader.name, item, within=1.0)
        group.run(1.5)
        assert leader.stopped is not None
        assert (leader.stopped.code, leader.stopped.facts["error"]) == (ExitCode.DISK, error)
        assert not asked.done() or isinstance(asked.result()[0], Unavailable)
        successor = group.leading()
        assert accepted(group.propose(successor.name, item)).project == "beacon"
        leader.disk_fails = ""
        leader.start()
        group.converge()
        for host in group.live():
            held = host.node.store.ledger(kept.project, kept.idem_key)
            assert held is not None and held.record_hash == kept.record_hash


def damage(host: NodeHost) -> None:
    """A project's row no longer matches its checksum."""
    for family, rows in host.store._live.values.items():
        if family.value == "project":
            for key, row in rows.items():
                rows[key] = row[:-1] + bytes([row[-1] ^ 1])
    host.node.machine._projects.clear()


def contradict(host: NodeHost) -> None:
    """A second leader speaks up in the term of the first."""
    leader = host.raft.leader
    other = next(peer for peer in host.raft.peer_ids if peer != leader)
    last = {"prevLogIdx": host.raft.last_index, "prevLogTerm": host.raft.last_term}
    append: dict[str, Any] = {
        "type": "append_entries",
        "term": host.raft.term,
        "entries": [],
        "commit_index": 0,
        **last,
    }
    host.run(lambda: host.deliver(other, append))


def skip(host: NodeHost) -> None:
    """The core hands over an entry that does not follow the one before: impossible."""
    host.raft._core._applied -= 1


@pytest.mark.parametrize(
    ("misfortune", "code"), [(damage, ExitCode.DAMAGED), (contradict, ExitCode.DIVERGED), (skip, ExitCode.BUG)]
)
def test_a_node_that_cannot_be_right_stops_and_the_others_go_on(
    misfortune: Callable[[NodeHost], None], code: ExitCode
) -> None:
    with Group(6) as group:
        leader = group.leading()
        accepted(group.propose(leader.name, group.create("atlas")))
        group.converge()
        victim = next(host for host in group.live() if host is not leader)
        misfortune(victim)
        accepted(group.propose(leader.name, group.load(leader.name, "atlas")))
        group.run(1.0)
        assert victim.stopped is not None, "it goes on with what cannot be"
        assert victim.stopped.code is code
        assert not victim.alive
        accepted(group.propose(leader.name, group.create("beacon")))


# --- told honestly ----------------------------------------------------------------------------------------------------


def test_a_read_of_an_index_that_does_not_come_is_too_old_and_no_lack_of_a_quorum() -> None:
    with Group(7) as group:
        leader = group.leading()
        refused = group.wait(leader.node.read("local", leader.clock.monotonic() + 0.5, min_index=10_000))
        assert refused is not None and code_of(refused) is Code.STALE_READ
        assert "index 10000" in refused.reason
        assert f"stands at index {leader.raft.applied_index}" in refused.reason
