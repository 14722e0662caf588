"""The schedules on which PySyncObj as shipped breaks its word, each shown to the library and to ours.

Every test has the same shape: one story, told twice. The library must fail (or the story proves nothing), ours must
hold.
"""

from __future__ import annotations

import pytest

from cluster.faults import ExitCode
from cluster.raft.driver import Timing
from tests.raft.cluster import CALM, Cluster, Host, OurHost, StockHost

QUICK = (0.001, 0.002)
SMALL_BATCHES = {"appendEntriesBatchSizeBytes": 2048}
COMPACTION_ON_REQUEST = {
    "logCompactionMinEntries": 10**9,
    "logCompactionMinTime": 10**9,
    "logCompactionBatchSize": 512,
}

both = pytest.mark.parametrize("stock", [True, False], ids=["stock", "ours"])


def kill_the_leader_of_a_lagging_group(seed: int, stock: bool) -> tuple[int, int]:
    """Three nodes, one lagging; a burst of proposals; the leader dies in the middle. (lost, divergences)."""
    with Cluster(seed, stock=stock, latency=QUICK, stock_options=SMALL_BATCHES) as group:
        leader = group.elected()
        group.run(1.0)
        laggard = group.others(leader)[1]
        group.isolate(laggard)
        group.run(0.2)
        proposed = 0

        def burst(count: int, pause: float) -> None:
            nonlocal proposed
            for _ in range(count):
                leader.propose(b"c%05d" % proposed + b"x" * 400)
                proposed += 1
            group.run(group.random.random() * pause)

        for _ in range(40):
            burst(12, 0.006)
        leader.kill_in = group.random.randrange(5, 60)
        for _ in range(40):
            if leader.alive:
                burst(1, 0.003)
        leader.kill()
        group.heal()
        group.run_until(lambda: group.leader() is not None)
        successor = group.elected()
        for number in range(3):
            successor.propose(b"z%d" % number)
            group.run(0.5)
        leader.start()
        group.run(6.0)
        assert len(group.acknowledged()) > 100, "the story needs acknowledged entries to lose"
        return len(group.lost()), len(group.divergences)


def test_a_follower_never_forgets_what_it_acknowledged() -> None:
    """Acknowledge regress. The library's leader goes back on each acknowledgement and sends a prefix again; its
    follower then cuts off entries it has already acknowledged. One kill of the leader loses them for good."""
    seeds = range(18, 26)
    assert any(kill_the_leader_of_a_lagging_group(seed, stock=True)[0] for seed in seeds), "stock must lose some"
    for seed in seeds:
        assert kill_the_leader_of_a_lagging_group(seed, stock=False) == (0, 0)


@both
def test_an_acknowledgement_from_an_earlier_term_counts_for_nothing(stock: bool) -> None:
    """Stale reply. A follower's acknowledgements stall in a connection that never breaks, across two elections. They
    name indices that by now hold other entries."""
    with Cluster(1, nodes=5, stock=stock, timing=CALM, latency=QUICK) as group:
        group.run(0.5)
        leader, stalled, successor, listener, bystander = (group.hosts[name] for name in group.names)
        majority = [successor, listener, bystander]
        group.elect(leader)
        leader.propose(b"first")
        group.run(0.3)
        group.hold(stalled.name, leader.name)
        for host in majority:
            group.cut(leader.name, host.name)
        for number in range(5):
            leader.propose(b"ghost%d" % number, at_once=True)
        group.run(0.3)
        group.elect(successor)
        group.run(0.5)
        for host in majority:
            group.mend(leader.name, host.name)
        group.run(0.7)
        group.elect(leader)
        for host in (successor, bystander):
            group.cut(leader.name, host.name)
        group.hold(leader.name, stalled.name)
        for number in range(4):
            leader.propose(b"claimed%d" % number, at_once=True)
        group.run(0.3)
        assert not claimed(group), "two copies of five are no majority"
        group.release(stalled.name, leader.name)
        group.run(0.3)
        assert bool(claimed(group)) is stock


def claimed(group: Cluster) -> set[bytes]:
    return {body for body in group.acknowledged() if body.startswith(b"claimed")}


@both
def test_a_log_that_was_never_compared_is_not_committed(stock: bool) -> None:
    """Snapshot commit. A deposed leader with entries of its own comes back to a group whose log has been compacted
    past it. The library commits its tail unseen, and reports success to its clients."""
    with Cluster(
        3,
        stock=stock,
        latency=QUICK,
        stock_options=COMPACTION_ON_REQUEST,
    ) as group:
        deposed = group.elected()
        group.run(1.0)
        for number in range(5):
            deposed.propose(b"a%d" % number)
        group.run(0.5)
        group.isolate(deposed)
        for number in range(20):
            deposed.propose(b"ghost%02d" % number, at_once=True)
        group.run_until(lambda: any(host.is_leader() for host in group.others(deposed)))
        leader = next(host for host in group.others(deposed) if host.is_leader())
        group.run(0.5)
        for number in range(60):
            leader.propose(b"real%02d" % number)
        group.run(1.0)
        compact(leader)
        group.run(0.1)
        group.heal()
        group.run(4.0)
        ghosts = {body for body in group.acknowledged() if body.startswith(b"ghost")}
        assert bool(ghosts) is stock
        assert bool(group.divergences) is stock
        if not stock:
            assert leader.is_leader(), "the one that cannot be served keeps quiet and costs nobody the leader"


def compact(leader: Host) -> None:
    """Drop all of the log that is applied, but for two entries."""
    if isinstance(leader, StockHost):
        leader.stock._SyncObj__forceLogCompaction = True
    elif isinstance(leader, OurHost):
        leader.journal.deleteEntriesTo(leader.raft.applied_index - 1 - leader.journal.first_index)
        leader.journal.barrier()


@both
def test_a_node_that_cannot_hear_the_leader_does_not_depose_it(stock: bool) -> None:
    """Deaf node. One node hears nothing from whoever leads, and is heard by all."""
    with Cluster(7, stock=stock, timing=Timing(election_min=0.4, election_max=1.4)) as group:
        leader = group.elected()
        deaf = group.others(leader)[0]
        group.run(2.0)
        term = group.highest_term()
        for number in range(400):
            for host in group.others(deaf):
                if host.is_leader():
                    group.delay(host.name, deaf.name, 60.0)
            if (now_leading := group.leader()) is not None:
                now_leading.propose(b"k%04d" % number)
            group.run(0.05)
        burnt = group.highest_term() - term
        if stock:
            assert burnt > 5
        else:
            assert burnt == 0
            assert group.leader() is leader
            assert len(group.acknowledged()) >= 395


@both
def test_a_deaf_node_with_a_complete_log_does_not_depose_the_leader_either(stock: bool) -> None:
    """The same in a group where nothing is proposed: its log is as good as anybody's, only its claim is not."""
    with Cluster(8, stock=stock, timing=Timing(election_min=0.4, election_max=1.4)) as group:
        leader = group.elected()
        deaf = group.others(leader)[0]
        group.run(2.0)
        term = group.highest_term()
        for _ in range(200):
            for host in group.others(deaf):
                if host.is_leader():
                    group.delay(host.name, deaf.name, 60.0)
            group.run(0.05)
        if stock:
            assert group.highest_term() > term
        else:
            assert group.highest_term() == term
            assert group.leader() is leader


@both
def test_an_entry_that_cannot_be_applied_is_tried_once(stock: bool) -> None:
    """Poison. The state machine raises on one entry, on every node. The library tries it again at every tick, without
    a heartbeat, until the next leader meets it too, for ever. Ours stops, by name, and does not spin."""
    with Cluster(5, stock=stock) as group:
        leader = group.elected()
        group.run(1.0)

        def poison(name: str, body: bytes) -> None:
            if body == b"poison":
                raise ValueError("a bug in the state machine")

        for host in group.hosts.values():
            host.poison, host.apply_attempts = poison, 0
        leader.propose(b"poison")
        group.run(0.5)
        term = group.highest_term()
        if stock and (survivor := group.leader()) is not None:
            survivor.propose(b"after")
        group.run(20.0)
        attempts = sum(host.apply_attempts for host in group.hosts.values())
        if stock:
            assert attempts > 1000
            assert group.highest_term() - term > 5
            assert b"after" not in group.acknowledged()
        else:
            stops = [host.stopped.code for host in group.hosts.values() if host.stopped]
            assert stops and set(stops) == {ExitCode.BUG}
            assert attempts == len(stops)


@both
def test_a_callback_that_raises_does_not_apply_its_entry_twice(stock: bool) -> None:
    """Whoever waits for a proposal raises on the answer. The library has by then applied the entry and not counted
    it."""
    with Cluster(6, stock=stock) as group:
        leader = group.elected()
        group.run(1.0)

        def raise_once(*_: object) -> None:
            raise RuntimeError("a bug in the caller")

        if isinstance(leader, StockHost):
            leader.stock._applyCommand(b"once", raise_once, 0)
            group.run(1.0)
            assert leader.state().count(b"once") > 1
        elif isinstance(leader, OurHost):
            leader.machine.queue.append((b"once", raise_once))
            leader.raft.kick()
            group.run(1.0)
            assert leader.stopped and leader.stopped.code is ExitCode.BUG
            leader.start()
            group.run(3.0)
            assert [host.state().count(b"once") for host in group.hosts.values()] == [1, 1, 1]
