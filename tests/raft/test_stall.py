"""Disks that are slow, that hang, that fail: what a node does meanwhile, and what it must not.

That no acknowledgement and no vote leaves before it is on disk is asserted by the group itself, at every message.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest

from cluster.faults import ExitCode
from cluster.raft import stall
from cluster.raft.driver import Fate, Role
from cluster.storage.kv import Family
from tests.raft.cluster import APPLIED, Cluster, OurHost
from tests.raft.test_fuzz import live

QUICK = (0.001, 0.002)


def always(seconds: float) -> Callable[[], float]:
    return lambda: seconds


def once(seconds: float) -> Callable[[], float]:
    """One slow sync, and quick ones ever after."""
    left = itertools.chain([seconds], itertools.repeat(0.0))
    return lambda: next(left)


def our_leader(group: Cluster) -> OurHost:
    leader = group.elected()
    assert isinstance(leader, OurHost)
    group.run(0.2)
    return leader


def follower_of(group: Cluster, leader: OurHost) -> OurHost:
    follower = group.others(leader)[0]
    assert isinstance(follower, OurHost)
    return follower


def sent_by(host: OurHost, kind: str) -> list[dict[str, Any]]:
    """What of a kind this node puts on the wire from now on."""
    sent: list[dict[str, Any]] = []
    check = host.check_durable

    def note(message: dict[str, Any]) -> None:
        if message["type"] == kind:
            sent.append(message)
        check(message)

    host.check_durable = note  # type: ignore[method-assign]
    return sent


# --- slow -------------------------------------------------------------------------------------------------------------


def test_a_stalled_follower_answers_nobody_until_it_may_and_then_everybody_in_order() -> None:
    with Cluster(1, latency=QUICK) as group:
        leader = our_leader(group)
        slow = follower_of(group, leader)
        answers = sent_by(slow, "next_node_idx")
        slow.sync_seconds = once(0.3)
        leader.propose(b"a")
        group.run_until(lambda: b"a" in group.acknowledged())
        assert slow.raft.stalled_s is not None
        applied, answers[:] = slow.machine.applied, []
        leader.propose(b"b")
        group.run_until(lambda: b"b" in group.acknowledged())
        group.run(0.1)
        assert (slow.machine.applied, answers) == (applied, []), "its core is frozen"
        group.run(0.4)
        assert slow.raft.stalled_s is None
        assert slow.state() == leader.state() == [b"a", b"b"]
        acknowledged = [answer["next_node_idx"] for answer in answers if answer["success"]]
        assert acknowledged == sorted(acknowledged)


@pytest.mark.parametrize("seconds", [0.03, 0.2, 0.4])
def test_a_slow_disk_does_not_cost_a_leader_its_seat(seconds: float) -> None:
    """Every single sync is slow; heartbeats go on, and so does the work."""
    with Cluster(2, latency=QUICK) as group:
        leader = our_leader(group)
        term = leader.term()
        leader.sync_seconds = always(seconds)
        for number in range(10):
            leader.propose(b"w%d" % number)
            group.run_until(lambda number=number: b"w%d" % number in group.acknowledged())  # type: ignore[misc]
            group.run(0.3)
        assert (group.leader(), group.highest_term()) == (leader, term)


def test_the_heartbeats_of_a_stalled_leader_vouch_for_nothing_new() -> None:
    with Cluster(3, latency=QUICK) as group:
        leader = our_leader(group)
        leader.sync_seconds = always(0.4)
        sent = sent_by(leader, "append_entries")
        leader.propose(b"w")
        group.run_until(lambda: leader.raft.stalled_s is not None)
        durable, sent[:] = leader.journal.durable_index, []
        group.run(0.3)
        assert len(sent) >= 2 * 4, "to both followers, every 50 ms"
        assert not any(append["entries"] for append in sent)
        assert max(append["commit_index"] for append in sent) <= durable
        assert b"w" not in group.acknowledged(), "on two disks, but not on that of the one who counts itself"
        group.run(0.5)
        assert b"w" in group.acknowledged()


def test_a_leader_that_cannot_write_falls_silent_and_is_replaced() -> None:
    with Cluster(4, latency=QUICK) as group:
        old = our_leader(group)
        old.sync_seconds = once(4.0)
        sent = sent_by(old, "append_entries")
        old.propose(b"in doubt")
        group.run(0.6)
        sent.clear()
        group.run_until(lambda: any(host.is_leader() for host in group.others(old)), 3.0)
        assert sent == []
        new = our_leader(group)
        assert new is not old
        new.propose(b"by the new one")
        group.run_until(lambda: b"by the new one" in group.acknowledged())
        assert (old.raft.role, old.raft.stalled_s is None) == (Role.LEADER, False), "it knows nothing of it yet"
        group.run(5.0)
        assert (old.raft.role, old.raft.stalled_s) == (Role.FOLLOWER, None)
        assert {tuple(host.state()) for host in group.hosts.values()} == {(b"in doubt", b"by the new one")}
        assert group.fates[b"in doubt"] in (Fate.COMMITTED, Fate.UNKNOWN)


def test_nothing_is_applied_behind_a_write_under_way_even_if_the_core_is_ticked() -> None:
    with Cluster(14, latency=QUICK) as group:
        leader = our_leader(group)
        slow = follower_of(group, leader)
        leader.propose(b"a")
        group.run_until(lambda: b"a" in group.acknowledged())
        slow.sync_seconds = once(0.4)
        leader.propose(b"b")
        group.run_until(lambda: slow.raft.stalled_s is not None)
        assert slow.core().raftCommitIndex > slow.machine.applied, "what came with it commits what came before it"
        applied = slow.machine.applied
        slow.run(lambda: slow.core().doTick(0.0))
        assert slow.machine.applied == applied
        group.run(0.6)
        assert slow.state() == [b"a", b"b"]


def test_a_vote_waits_for_the_disk_and_arrives() -> None:
    """Every disk is slow, so every term begins with slow votes; there is a leader all the same."""
    with Cluster(5, latency=QUICK) as group:
        leader = our_leader(group)
        for host in group.others(leader):
            assert isinstance(host, OurHost)
            host.sync_seconds = always(0.1)
        leader.kill()
        group.run_until(lambda: group.leader() not in (None, leader), 10.0)
        successor = our_leader(group)
        successor.propose(b"w")
        group.run_until(lambda: b"w" in group.acknowledged())


def test_a_group_of_one_acknowledges_nothing_that_is_not_on_its_slow_disk() -> None:
    for seed in range(10):
        with Cluster(seed, nodes=1) as group:
            alone = our_leader(group)
            alone.sync_seconds = always(0.3)
            alone.propose(b"w")
            group.run_until(lambda: b"w" in group.acknowledged())
            alone.kill()
            alone.start()
            our_leader(group)
            assert alone.state() == [b"w"]


def test_a_stalled_leader_answers_no_linearizable_read_and_begins_no_hand_over() -> None:
    with Cluster(6, latency=QUICK) as group:
        leader = our_leader(group)
        leader.sync_seconds = once(0.4)
        leader.propose(b"w")
        group.run_until(lambda: leader.raft.stalled_s is not None)
        reading = group.loop.create_task(leader.raft.read_index(leader.clock.monotonic() + 5.0))
        assert group.wait(leader.raft.transfer_leadership(None)) is False
        group.run(0.2)
        assert not reading.done()
        group.run_until(reading.done)
        assert reading.result() == leader.machine.applied


# --- what waits -------------------------------------------------------------------------------------------------------


def test_what_waited_on_an_ended_link_is_never_answered_on_the_next() -> None:
    with Cluster(7, latency=QUICK) as group:
        leader = our_leader(group)
        slow = follower_of(group, leader)
        answers = sent_by(slow, "next_node_idx")
        slow.sync_seconds = once(0.4)
        leader.propose(b"a")
        group.run_until(lambda: slow.raft.stalled_s is not None)
        group.run(0.1)
        answers.clear()
        group.disconnect(leader.name, slow.name)
        group.connect(leader.name, slow.name)
        group.hold(leader.name, slow.name)
        group.run(0.5)
        assert (slow.raft.stalled_s, answers) == (None, []), "the next link has carried nothing yet"
        group.release(leader.name, slow.name)
        group.run(0.5)
        assert slow.state() == leader.state() == [b"a"]


def test_a_peer_may_keep_only_so_much_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "HELD_BYTES_MAX", 1_000)
    with Cluster(8, latency=QUICK) as group:
        leader = our_leader(group)
        slow = follower_of(group, leader)
        resets: list[str] = []
        reset = slow.transport.reset
        slow.transport.reset = slow.raft._stall._reset = lambda peer: (resets.append(peer), reset(peer))  # type: ignore
        slow.sync_seconds = once(0.4)
        for number in range(8):
            leader.propose(b"%d" % number)
        group.run(0.3)
        assert resets
        assert set(resets) == {leader.name}
        group.run(1.0)
        assert slow.state() == leader.state()


def test_a_hello_counts_only_batches_that_are_on_disk() -> None:
    """One that a power cut takes back would make this node look like one whose disk was put back."""
    with Cluster(9, latency=QUICK) as group:
        leader = our_leader(group)
        slow = follower_of(group, leader)
        before = slow.raft.local_hello().barrier_seq
        slow.sync_seconds = once(0.4)
        leader.propose(b"a")
        group.run_until(lambda: slow.raft.stalled_s is not None)
        assert slow.raft.local_hello().barrier_seq == before
        group.run(0.5)
        assert slow.raft.local_hello().barrier_seq > before


# --- the end ----------------------------------------------------------------------------------------------------------


def test_a_disk_that_hangs_ends_the_node_after_ten_seconds_and_nobody_waits_for_it() -> None:
    with Cluster(10, latency=QUICK) as group:
        leader = our_leader(group)
        leader.sync_seconds = always(math.inf)
        leader.propose(b"w")
        group.run(9.0)
        assert leader.stopped is None
        new = our_leader(group)
        assert new is not leader
        group.run(1.5)
        assert leader.stopped is not None
        assert (leader.stopped.code, leader.stopped.reason) == (ExitCode.DISK, "a sync did not end")
        new.propose(b"after")
        group.run_until(lambda: b"after" in group.acknowledged())


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_a_failed_sync_is_never_tried_again(seconds: float) -> None:
    """After a failed fsync the kernel may have dropped the pages: a second one that succeeds proves nothing."""
    with Cluster(11, latency=QUICK) as group:
        leader = our_leader(group)
        syncs = 0

        def sync_seconds() -> float:
            nonlocal syncs
            syncs += 1
            return seconds

        leader.sync_seconds, leader.disk_fails = sync_seconds, "Input/output error"
        durable = leader.journal.durable_index
        leader.propose(b"w")
        group.run(1.0)
        assert leader.stopped is not None and leader.stopped.code is ExitCode.DISK
        assert syncs == 1
        assert b"w" not in group.acknowledged()
        assert int.from_bytes(leader.store._disk.keys[Family.LOG][-1]) == durable
        successor = our_leader(group)
        successor.propose(b"x")
        group.run_until(lambda: b"x" in group.acknowledged())


def test_a_start_on_a_slow_disk_is_a_start_like_any_other() -> None:
    """The boot is counted with a synced write. That it is done is told when the node has not begun to take part."""
    with Cluster(13, latency=QUICK) as group:
        leader = our_leader(group)
        slow = follower_of(group, leader)
        for number in range(200):
            leader.propose(b"%03d" % number)
            group.run(0.01)
        group.run(1.0)
        slow.kill()
        slow.store._live.values[Family.META].pop(APPLIED)  # everything is to be applied again
        slow.store._disk.values[Family.META].pop(APPLIED, None)
        slow.sync_seconds = once(0.5)
        slow.start()
        group.run(1.0)
        assert slow.stopped is None
        assert slow.state() == leader.state()


def test_a_blocked_core_waits_for_the_disk_as_the_last_resort() -> None:
    """A group of one commits its first entry in the tick that elects it."""
    with Cluster(12, nodes=1) as group:
        alone = our_leader(group)
        alone.kill()
        alone.sync_seconds = always(0.5)
        alone.start()
        group.run_until(alone.is_leader)
        assert alone.raft.commit_index <= alone.journal.durable_index


# --- any of it, at random ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(200, 212))
def test_slow_disks_break_no_promise(seed: int) -> None:
    with Cluster(seed) as group:
        for number, host in enumerate(group.hosts.values()):
            assert isinstance(host, OurHost)
            host.sync_seconds = _moody(group, number)
        proposed = live(group)
        states = [host.state() for host in group.hosts.values()]
        assert [host.stopped for host in group.hosts.values()] == [None] * 3
        assert group.divergences == []
        assert all(state == states[0] for state in states)
        assert group.acknowledged() <= set(states[0])
        assert not {body for body, fate in group.fates.items() if fate is Fate.REFUSED} & set(states[0])
        assert len(group.acknowledged()) > proposed // 20


def _moody(group: Cluster, number: int) -> Callable[[], float]:
    """Quick for some seconds, then slow for some, until peace comes after a minute."""

    def seconds() -> float:
        slow = group.now < 60.0 and (int(group.now / 3) + number) % 3 == 0
        return group.random.choice((0.0, 0.03, 0.1, 0.6, 2.0)) if slow else 0.0

    return seconds
