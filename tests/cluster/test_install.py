"""Logs that are cut, and nodes that come back when entries can no longer help them: whole nodes on virtual time."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from chaos.simulation.virtual import NodeClock
from cluster import faults
from cluster.raft import retention
from cluster.raft.retention import Keep
from cluster.storage import layout
from cluster.storage.kv import Batch, Family
from cluster.storage.snapshots import Snapshots
from cluster.storage.store import Divergence
from tests.cluster.group import Group, NodeHost, accepted
from tests.raft.cluster import Killed

KEPT = 4
SNAPSHOTS = partial(Snapshots, every=10, min_interval=0.5)
SHARED = (
    Family.PROJECT,
    Family.HEAD,
    Family.LEDGER,
    Family.WAL,
    Family.DECISION,
    Family.SUBMISSION,
    Family.OUTBOX,
    Family.REGISTRY,
)


def cutting(seed: int, **how: Any) -> Group:
    return Group(seed, keep=Keep(entries=KEPT), snapshots=SNAPSHOTS, **how)


def write(group: Group, count: int) -> None:
    leader = leading(group)
    for _ in range(count):
        accepted(group.propose(leader.name, group.load(leader.name)))


def left_behind(group: Group) -> NodeHost:
    """A follower that was down while the others wrote, took snapshots, and cut what it lacks."""
    leader = group.leading()
    follower = next(host for host in group.live() if host is not leader)
    follower.kill()
    had = follower.journal.last_index
    write(group, 30)
    group.run_until(lambda: all(host.raft.first_index > had + 1 for host in group.live()), 60.0)
    return follower


def leading(group: Group) -> NodeHost:
    """Wait for a leader that may judge, whoever else may not be ready."""

    def found() -> NodeHost | None:
        leader = group.leader()
        return leader if isinstance(leader, NodeHost) and leader.node.ready is None else None

    group.run_until(lambda: found() is not None)
    leader = found()
    assert leader is not None
    return leader


def rows(host: NodeHost) -> dict[Family, list[tuple[bytes, bytes]]]:
    return {family: list(host.store.iterate(family)) for family in SHARED}


def back(group: Group, follower: NodeHost, seconds: float = 60.0) -> None:
    """It has what the leader has, to the byte."""
    group.run_until(lambda: follower.alive and follower.node.ready is None, seconds)
    group.converge()
    leader = group.leading()
    assert rows(follower) == rows(leader)


def kill_at(group: Group, host: NodeHost, place: str) -> None:
    """The host dies the next time it passes this place."""

    def die() -> None:
        host.kill()
        raise Killed

    faults.arm(place, 1, die)


# --- the cut ----------------------------------------------------------------------------------------------------------


def test_every_log_is_cut_behind_a_snapshot_and_keeps_what_slower_peers_may_ask_for() -> None:
    with cutting(1) as group:
        write(group, 40)
        group.run_until(lambda: all(host.raft.first_index > 1 for host in group.live()), 60.0)
        for host in group.live():
            newest = host.node.snapshots.newest
            assert newest is not None
            assert host.raft.first_index < newest.last_applied_index
            assert host.raft.first_index <= host.raft.applied_index - 1
            assert host.raft.last_index - host.raft.first_index + 1 >= KEPT
            assert len(list(host.store.iterate(Family.LOG))) == len(host.journal)


def test_a_log_that_was_never_in_a_snapshot_is_whole() -> None:
    with cutting(2) as group:
        write(group, 12)
        group.run(5.0)  # the first snapshot comes later
        assert [host.raft.first_index for host in group.live()] == [1, 1, 1]


@pytest.mark.parametrize("steps", range(1, 25, 3))
def test_a_kill_around_the_cut_leaves_the_log_whole(steps: int) -> None:
    """At any write or send while snapshots are taken and the log is cut."""
    with cutting(3) as group:
        write(group, 20)
        group.run(14.5)
        victim = group.live()[steps % 3]
        group.run_until(lambda: victim.node.snapshots.newest is not None, 5.0)
        victim.kill_in = steps
        group.run_until(lambda: not victim.alive, 30.0)
        victim.start()
        assert victim.stopped is None
        back(group, victim)
        write(group, 5)
        back(group, victim)


def test_stamps_go_on_rising_after_every_stamped_entry_was_cut() -> None:
    with cutting(4) as group:
        write(group, 20)
        group.run_until(lambda: all(host.raft.first_index > 1 for host in group.live()), 60.0)
        for _ in range(2 * KEPT):  # new terms begin with entries that carry no stamp
            leader = group.leading()
            leader.kill()
            group.leading()
            leader.start()
            group.converge()
        for host in group.live():
            host.set_wall_offset(-3_600_000_000)
        group.run(1.0)
        stamps = [host.raft._last_stamp() for host in group.live()]
        assert stamps == [host.node.machine.position.stamp_us for host in group.live()]
        assert min(stamps) > 0


# --- the install ------------------------------------------------------------------------------------------------------


def test_a_follower_behind_the_cut_comes_back_by_a_snapshot() -> None:
    with cutting(10) as group:
        follower = left_behind(group)
        promised = follower.journal.getCurrentTerm()
        lives = follower.life
        follower.start()
        back(group, follower)
        assert follower.life == lives + 2, "one life to fetch, one to go on"
        assert follower.raft.first_index > 1
        assert follower.journal.incarnation == follower.name.encode().rjust(16)
        assert follower.raft.term >= promised
        assert follower.place.offered() is None
        write(group, 5)
        back(group, follower)


def test_a_snapshot_comes_from_a_follower_where_one_has_it() -> None:
    with cutting(11) as group:
        follower = left_behind(group)
        leader = group.leading()
        (donor,) = (host for host in group.live() if host is not leader)
        follower.start()
        group.run_until(lambda: donor.node.donor.loan is not None)
        assert leader.node.donor.loan is None
        back(group, follower)


def test_the_leader_keeps_its_seat_while_its_only_live_peer_installs() -> None:
    with cutting(12, bytes_per_second=20_000) as group:
        follower = left_behind(group)
        leader = group.leading()
        (other,) = (host for host in group.live() if host is not leader)
        term = leader.raft.term
        follower.start()
        group.run_until(lambda: follower.raft.leader == leader.name)
        other.kill()
        group.run_until(lambda: follower.node.installer.progress is not None)
        began = group.now
        life = follower.life
        while follower.life == life:
            group.run(0.1)
            assert (leader.is_leader(), leader.raft.term) == (True, term)
            assert group.now < began + 120.0
        assert group.now > began + 2.0, "that was no test: the snapshot came at once"
        other.start()
        back(group, follower)


@pytest.mark.parametrize(
    "place", ["install.piece", "install.synced", "install.ready", "install.moved", "install.switched"]
)
def test_a_crash_at_any_point_of_an_install_is_made_good_by_the_next_start(place: str) -> None:
    with cutting(13) as group:
        follower = left_behind(group)
        kill_at(group, follower, place)
        follower.start()
        group.run_until(lambda: not follower.alive and place not in faults._armed, 30.0)
        follower.start()
        back(group, follower)


@pytest.mark.parametrize("steps", range(1, 12, 2))
def test_a_crash_at_any_write_of_an_install_is_made_good_by_the_next_start(steps: int) -> None:
    with cutting(14) as group:
        follower = left_behind(group)
        follower.start()
        group.run_until(lambda: follower.place.ready() is not None, 30.0)
        group.run_until(lambda: not follower.alive)
        follower.life += 1

        def dying() -> None:
            follower.kill_in = steps
            NodeHost._build(follower)

        follower.alive = True
        follower.run(dying)
        follower.kill()
        follower.start()
        back(group, follower)


def test_a_donor_that_dies_is_replaced_by_another() -> None:
    with cutting(15, bytes_per_second=20_000) as group:
        follower = left_behind(group)
        leader = group.leading()
        (donor,) = (host for host in group.live() if host is not leader)
        follower.start()
        group.run_until(lambda: follower.node.installer.progress is not None)
        donor.kill()
        group.run_until(lambda: leader.node.donor.loan is not None, 60.0)
        donor.start()
        back(group, follower, 120.0)


def test_a_transfer_goes_on_where_it_was_when_the_link_comes_back() -> None:
    with cutting(16, bytes_per_second=10_000) as group:
        follower = left_behind(group)
        follower.start()
        group.run_until(lambda: follower.node.installer.progress is not None)
        group.run(1.0)
        progress = follower.node.installer.progress
        assert progress is not None
        received = progress.received
        assert "installing a snapshot" in follower.node.missing
        group.isolate(follower)
        group.run_until(lambda: follower.node.installer.progress is None)
        group.heal()
        group.run_until(lambda: follower.node.installer.progress is not None)
        resumed = follower.node.installer.progress
        assert resumed is not None
        assert resumed.received >= received
        back(group, follower, 120.0)


def test_leadership_may_move_while_a_snapshot_is_fetched() -> None:
    with cutting(17, bytes_per_second=20_000) as group:
        follower = left_behind(group)
        leader = group.leading()
        follower.start()
        group.run_until(lambda: follower.node.installer.progress is not None)
        leader.kill()
        group.run(1.0)
        leader.start()
        back(group, follower, 120.0)


def test_the_log_waits_for_a_peer_that_installs_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "LEASE_SECONDS", 20.0)
    with cutting(18, bytes_per_second=1_000) as group:
        follower = left_behind(group)
        follower.start()
        leader = leading(group)
        group.run_until(lambda: follower.name in leader.raft.retention.leases(), 30.0)
        leased = leader.raft.retention.leases()[follower.name]
        for _ in range(3):
            write(group, 12)
            group.run(2.0)
        assert leader.raft.first_index <= leased
        assert leader.node.snapshots.verified > leased + KEPT
        group.run(20.0)
        write(group, 2)
        group.run(2.0)
        assert leader.raft.first_index > leased


def test_an_install_that_is_not_needed_any_more_is_dropped() -> None:
    """Prepared while the node caught up otherwise: what it acknowledged meanwhile stays."""
    with cutting(19) as group:
        follower = left_behind(group)
        follower.start()
        group.run_until(lambda: follower.place.ready() is not None, 30.0)
        sealed = follower.place._manifest, dict(follower.place._files)
        back(group, follower)
        write(group, 10)
        back(group, follower)
        applied, log = follower.raft.applied_index, follower.log()
        follower.place._manifest, follower.place._files = sealed  # the old one lies there again
        follower.kill()
        follower.start()
        assert follower.log() == log
        group.run_until(lambda: follower.raft.applied_index >= applied, 1.0)
        assert follower.place.ready() is None
        back(group, follower)


def test_a_snapshot_that_is_not_what_was_offered_is_not_installed() -> None:
    with cutting(20) as group:
        follower = left_behind(group)
        (donor,) = (host for host in group.live() if host is not group.leading())
        index = donor.shelf.manifests()[-1].last_applied_index
        taken = donor.shelf.taken(index)
        key, value = next(iter(taken.iterate(Family.HEAD)))
        honest = dict(taken._live.values[Family.HEAD])
        taken._live.values[Family.HEAD][key] = value[:-2] + bytes([value[-2] ^ 1]) + value[-1:]
        follower.start()
        group.run(5.0)
        assert follower.place.ready() is None
        assert follower.raft.applied_index < index
        taken._live.values[Family.HEAD].update(honest)
        back(group, follower)


def test_a_node_whose_state_is_wrong_keeps_log_and_promises_and_gets_another_state() -> None:
    with cutting(21) as group:
        write(group, 25)
        group.run_until(lambda: all(host.raft.first_index > 1 for host in group.live()), 60.0)
        wrong = next(host for host in group.live() if host is not group.leading())
        write(group, 3)
        back(group, wrong)
        log, promised = wrong.log(), (wrong.raft.term, wrong.journal.incarnation)
        wrong.node.store.mark_diverged(Divergence(3, "sha256-ours", "sha256-theirs"))
        batch = Batch()
        row = next(iter(wrong.store.iterate(Family.HEAD)))
        batch.put(Family.HEAD, row[0], b"wrong")
        wrong.store.write(batch, sync=True)
        wrong.kill()
        recovering = wrong.node.installer.recover(log[0][1])
        wrong.clock = wrong.node.installer._clock = NodeClock(group.loop, wrong.run)
        wrong.links.update(group.names)
        group.spawn(recovering, wrong)
        group.run_until(lambda: wrong.place.ready() is not None)
        wrong.links.clear()
        wrong.start()
        assert wrong.log() == log[-len(wrong.log()) :]
        assert wrong.log()[-1] == log[-1]
        assert (wrong.journal.getCurrentTerm(), wrong.journal.incarnation) == promised
        assert wrong.store.get(Family.META, layout.DIVERGED) is None
        back(group, wrong)
