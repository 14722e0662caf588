"""`Raft` as the node uses it: what becomes of a proposal, what is durable when, time, and restarts."""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from cluster.faults import ExitCode
from cluster.raft import driver
from cluster.raft.driver import Done, Fate, PeerStatus, Role
from cluster.storage.kv import Batch, Family
from tests.raft.cluster import APPLIED, IDENTITY, STAMP, Cluster, OurHost

QUICK = (0.001, 0.002)
SECOND_US = 1_000_000


def our_leader(group: Cluster) -> OurHost:
    leader = group.elected()
    assert isinstance(leader, OurHost)
    group.run(0.2)
    return leader


def stamps_of(host: OurHost) -> list[int]:
    return [STAMP.unpack_from(payload)[0] for _, payload in host.store.iterate(Family.HEAD)]


def note_positions(host: OurHost, positions: list[tuple[int, int | None]]) -> None:
    """Note, whenever this node is asked for an entry: the term it leads in, and the term of the last one it applied."""
    next_entry = host.machine.next_entry

    def asked(term: int, stamp: int) -> tuple[bytes, Done] | None:
        positions.append((term, host.journal.term_at(host.machine.applied)))
        return next_entry(term, stamp)

    host.machine.next_entry = asked  # type: ignore[method-assign]


# --- fates ------------------------------------------------------------------------------------------------------------


def test_a_committed_proposal_is_on_a_majority_of_disks_when_it_is_acknowledged() -> None:
    """Checked at the very moment of the answer: power fails everywhere, and it is still there."""
    for seed in range(5):
        with Cluster(seed) as group:
            leader = our_leader(group)
            leader.propose(b"w")
            group.run_until(lambda: b"w" in group.acknowledged())
            for host in group.hosts.values():
                host.kill()
            for host in group.hosts.values():
                host.start()
            group.elected()
            group.run(1.0)
            assert all(b"w" in host.state() for host in group.hosts.values())


def test_a_new_leader_judges_nothing_before_it_has_applied_what_was_committed_before_it() -> None:
    """It would judge on a state behind one that was acknowledged, and refuse on grounds that are gone."""
    for seed in range(5):
        with Cluster(seed, latency=QUICK) as group:
            first = our_leader(group)
            first.propose(b"w")
            group.run_until(lambda: b"w" in group.acknowledged())
            first.kill()
            judged_on: list[tuple[int, int | None]] = []
            for other in group.others(first):
                note_positions(group.ours(other.name), judged_on)
                other.propose(b"next")
            group.run_until(lambda: b"next" in group.acknowledged())
            assert judged_on
            assert all(leads_in == applied for leads_in, applied in judged_on), judged_on


def test_a_group_of_one_acknowledges_only_what_is_on_its_disk() -> None:
    for seed in range(5):
        with Cluster(seed, nodes=1) as group:
            alone = our_leader(group)
            for number in range(50):
                alone.propose(b"w%d" % number)
            group.run_until(lambda: len(group.acknowledged()) >= 20)
            acknowledged = group.acknowledged()
            alone.kill()
            alone.start()
            group.elected()
            assert acknowledged <= set(alone.state())


def test_what_a_successor_overwrote_is_refused_for_good() -> None:
    with Cluster(1) as group:
        deposed = our_leader(group)
        group.isolate(deposed)
        deposed.propose(b"ghost", at_once=True)
        group.run_until(lambda: any(host.is_leader() for host in group.others(deposed)))
        assert b"ghost" not in group.fates, "not known yet, so not said yet"
        successor = next(host for host in group.others(deposed) if host.is_leader())
        successor.propose(b"w")
        group.run(0.5)
        group.heal()
        group.run(2.0)
        assert group.fates == {b"ghost": Fate.REFUSED, b"w": Fate.COMMITTED}


def test_what_a_successor_kept_is_committed() -> None:
    with Cluster(2, latency=QUICK) as group:
        leader = our_leader(group)
        for peer in group.others(leader):
            group.hold(peer.name, leader.name)
        leader.propose(b"w", at_once=True)
        group.run_until(lambda: any(host.is_leader() for host in group.others(leader)))
        group.heal()
        group.run(2.0)
        assert group.fates == {b"w": Fate.COMMITTED}


def test_a_proposal_open_when_the_node_stops_is_unknown() -> None:
    with Cluster(3) as group:
        leader = our_leader(group)
        group.isolate(leader)
        leader.propose(b"w", at_once=True)
        group.wait(leader.raft.stop())
        assert group.fates == {b"w": Fate.UNKNOWN}


def test_at_most_eight_entries_or_two_mebibytes_wait_for_a_commit() -> None:
    with Cluster(4) as group:
        leader = our_leader(group)
        committed = leader.raft.commit_index
        for number in range(100):
            leader.propose(b"w%d" % number)
        group.run(0.001)
        assert leader.raft.last_index - committed == driver.UNCOMMITTED_ENTRIES_MAX
        group.run(5.0)
        assert len(group.acknowledged()) == 100
        committed = leader.raft.commit_index
        for number in range(8):
            leader.propose(b"large%d" % number + bytes(500_000))
        group.run(0.001)
        assert leader.raft.last_index - committed == 5


def test_an_entry_the_library_would_cut_into_pieces_is_a_bug() -> None:
    with Cluster(5) as group:
        leader = our_leader(group)
        leader.propose(bytes(512 << 10))
        group.run(0.1)
        assert leader.stopped and leader.stopped.code is ExitCode.BUG


def test_a_follower_proposes_nothing() -> None:
    with Cluster(6) as group:
        follower = group.others(our_leader(group))[0]
        assert isinstance(follower, OurHost)
        follower.propose(b"w")
        group.run(1.0)
        assert len(follower.machine.queue) == 1


# --- restarts ---------------------------------------------------------------------------------------------------------


def test_a_restart_applies_what_its_store_lacks_and_nothing_twice() -> None:
    """The recorder asserts that indices come in order, each once, over all lives of its store."""
    with Cluster(7) as group:
        leader = our_leader(group)
        for number in range(300):
            leader.propose(b"w%d" % number)
        group.run(3.0)
        follower = group.others(leader)[0]
        assert isinstance(follower, OurHost)
        for _ in range(5):
            follower.kill()
            applied = int.from_bytes(follower.store.get(Family.META, APPLIED) or b"")
            assert applied > 0
            follower.start()
            group.run(0.001)
            assert follower.raft.commit_index >= follower.raft.applied_index >= applied
            group.run(2.0)
            assert follower.state() == leader.state()


def test_a_node_that_was_away_for_long_catches_up_without_a_long_tick() -> None:
    """Its log is served from disk (here 64 entries fit in memory), in bounded batches."""
    with Cluster(8, latency=QUICK) as group:
        leader = our_leader(group)
        away = group.others(leader)[0]
        away.kill()
        for number in range(3000):
            leader.propose(b"w%d" % number + b"x" * 500)
        group.run(20.0)
        assert len(group.acknowledged()) == 3000
        away.start()
        group.run(3.0)
        assert away.state() == leader.state()


def test_a_log_that_does_not_reach_the_state_is_refused() -> None:
    with Cluster(9) as group:
        leader = our_leader(group)
        group.run(0.5)
        leader.kill()
        batch = Batch()
        batch.put(Family.META, APPLIED, (1000).to_bytes(8))
        leader.store.write(batch, sync=True)
        leader.start()
        assert leader.stopped and leader.stopped.code is ExitCode.DAMAGED


# --- time -------------------------------------------------------------------------------------------------------------


def test_stamps_rise_strictly_whoever_writes_them_and_however_clocks_are_set() -> None:
    with Cluster(10, wall_offsets_us=(0, 200_000, -200_000), latency=QUICK) as group:
        leader = our_leader(group)
        for name in ("n1", "n2", "n0", "n1", "n2"):
            if leader.name != name:
                assert group.wait(leader.raft.transfer_leadership(name))
                leader = group.ours(name)
                group.run_until(leader.is_leader, 0.1)
            for number in range(10):
                leader.propose(b"%s/%d" % (name.encode(), number))
            group.run(0.05)
        group.run(0.5)
        stamps = stamps_of(leader)
        assert len(stamps) == 50
        assert all(earlier < later for earlier, later in itertools.pairwise(stamps))


def test_a_leader_whose_clock_is_off_hands_over_and_stamps_nothing() -> None:
    with Cluster(11, latency=QUICK) as group:
        leader = our_leader(group)
        leader.propose(b"before")
        group.run(0.5)
        leader.set_wall_offset(3600 * SECOND_US)
        group.run(0.6)
        leader.propose(b"an hour ahead")
        group.run(1.0)
        assert not leader.is_leader()
        assert not leader.raft.clock_ok
        successor = our_leader(group)
        successor.propose(b"after")
        group.run(0.5)
        assert successor.state() == [b"before", b"after"]
        first, second = stamps_of(successor)
        assert second - first < 10 * SECOND_US
        assert successor.raft.clock_ok


def test_a_node_whose_clock_is_off_lets_the_others_campaign_first() -> None:
    for seed in range(5):
        with Cluster(seed, wall_offsets_us=(3600 * SECOND_US, 0, 0)) as group:
            group.run(1.5)
            for _ in range(3):
                leader = our_leader(group)
                assert leader.name != "n0"
                leader.kill()
                leader.start()
                group.run(2.0)
            assert all(role is not Role.LEADER for role, _, _ in group.ours("n0").machine.roles)


def test_a_node_whose_clock_is_off_campaigns_when_nobody_else_can() -> None:
    """Five nodes; only it holds what was committed, of those that are left. It leads, replicates, and hands over."""
    with Cluster(20, nodes=5, latency=QUICK) as group:
        holder = our_leader(group)
        first, second, third, fourth = group.others(holder)
        for absent in (first, second):
            absent.kill()
        holder.propose(b"w")
        group.run(0.5)
        holder.kill()
        for absent in (third, fourth):
            absent.kill()
        holder.wall_offset_us = 3600 * SECOND_US
        for host in (holder, first, second):
            host.start()
        group.run(10.0)
        leader = our_leader(group)
        assert leader in (first, second)
        assert leader.state() == [b"w"]


def test_followers_refuse_a_new_entry_stamped_far_ahead_of_their_clocks() -> None:
    """A leader that stamps ten years ahead (its own check is bypassed here) cannot commit, and loses its seat."""
    with Cluster(12, latency=QUICK) as group:
        leader = our_leader(group)
        leader.raft._skew._limit_us = 2**62
        leader.set_wall_offset(10 * 365 * 86400 * SECOND_US)
        leader.propose(b"from the future", at_once=True)
        group.run(0.3)
        assert all(
            host.raft.last_index < leader.raft.last_index for host in map(group.ours, group.names) if host is not leader
        )
        group.run(4.0)
        successor = our_leader(group)
        assert successor is not leader
        successor.propose(b"now")
        group.run(0.5)
        assert successor.state() == [b"now"]
        assert group.fates[b"from the future"] is Fate.REFUSED


def test_one_slow_clock_costs_its_own_node_only_and_only_the_newest_entries() -> None:
    """A follower five seconds behind refuses what is new, and takes it once the others have committed it."""
    with Cluster(13, wall_offsets_us=(0, 0, -5 * SECOND_US), latency=QUICK) as group:
        leader = our_leader(group)
        assert leader.name != "n2"
        for number in range(50):
            leader.propose(b"%d" % number)
        group.run(3.0)
        assert len(group.acknowledged()) == 50
        assert group.leader() is leader
        slow = group.ours("n2")
        assert slow.state() == leader.state()


def test_a_leader_that_hears_too_few_clocks_stamps_nothing() -> None:
    with Cluster(14) as group:
        leader = our_leader(group)
        for peer in group.others(leader):
            leader.raft._skew.forget(peer.name)
        assert not leader.raft.clock_ok
        leader.propose(b"w")
        group.run(0.001)
        assert len(leader.machine.queue) == 1
        group.run(1.0)
        assert b"w" in group.acknowledged()


def test_a_clock_behind_the_newest_stamp_is_not_to_be_trusted() -> None:
    with Cluster(15, nodes=1) as group:
        alone = our_leader(group)
        alone.propose(b"w")
        group.run(0.2)
        assert alone.raft.clock_ok
        alone.set_wall_offset(-10 * SECOND_US)
        assert not alone.raft.clock_ok


# --- what there is to see ---------------------------------------------------------------------------------------------


def test_every_member_is_told_who_leads() -> None:
    with Cluster(16) as group:
        leader = our_leader(group)
        for host in map(group.ours, group.names):
            assert host.raft.leader == leader.name
            role = Role.LEADER if host is leader else Role.FOLLOWER
            assert host.machine.roles[-1] == (role, leader.term(), leader.name)
        leader.kill()
        group.run(3.0)
        assert our_leader(group).machine.roles[-1][0] is Role.LEADER


def test_peers_and_quorum_as_the_leader_sees_them() -> None:
    with Cluster(17, latency=QUICK) as group:
        leader = our_leader(group)
        gone, present = group.others(leader)
        leader.propose(b"w")
        group.run(0.5)
        gone.kill()
        leader.propose(b"w2")
        group.run(2.0)
        seen = {peer.id: peer for peer in leader.raft.peers()}
        last = leader.raft.last_index
        assert seen[present.name] == PeerStatus(
            present.name,
            reachable=True,
            match_index=last,
            lag=0,
            last_contact_ms=seen[present.name].last_contact_ms,
            counts=True,
            rejoining=False,
            incarnation=group.ours(present.name).journal.incarnation.hex(),
        )
        assert not seen[gone.name].reachable
        assert (seen[gone.name].last_contact_ms or 0) > 1000
        assert leader.raft.quorum_heard()
        present.kill()
        group.run(2.0)
        assert not leader.raft.quorum_heard()


def test_a_hello_of_another_cluster_or_configuration_is_refused() -> None:
    with Cluster(18) as group:
        node = group.ours("n0").raft
        hello = group.ours("n1").raft.local_hello()
        assert node.on_hello("n1", hello) is None
        for name, other in (("cluster_id", "x"), ("genesis_hash", "x"), ("config_epoch", 2), ("member_set_hash", "x")):
            refusal = node.on_hello("n1", replace(hello, **{name: other}))
            assert refusal is not None and name in refusal
        assert node.on_hello("n2", hello) is not None, "a certificate of n2, a hello of n1"
        assert node.on_hello("n7", replace(hello, node="n7")) is not None
        assert hello.cluster_id == IDENTITY.cluster_id


def test_nothing_runs_after_stop() -> None:
    with Cluster(19) as group:
        leader = our_leader(group)
        group.wait(leader.raft.stop())
        sent = group.messages
        leader.raft.kick()
        group.run(0.01)
        assert leader.journal.durable_index == leader.journal.last_index
        assert group.messages >= sent
        with pytest.raises(Exception, match="stops"):
            group.wait(leader.raft.caught_up(leader.clock.monotonic() + 0.1))
