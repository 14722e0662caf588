"""A leader that does not hear a majority does not lead: cut off in one direction or both, or asleep."""

from __future__ import annotations

import pytest

from cluster.raft.driver import Fate, NoQuorum, NotLeader, Role, Unavailable
from tests.raft.cluster import Cluster, Host, OurHost

QUICK = (0.001, 0.002)


def our_leader(group: Cluster) -> OurHost:
    leader = group.elected()
    assert isinstance(leader, OurHost)
    group.run(0.2)
    return leader


def deafen(group: Cluster, host: Host, peers: list[Host]) -> None:
    """What these peers say no longer arrives; links stand, and they hear everything."""
    for peer in peers:
        group.hold(peer.name, host.name)


def silence(group: Cluster, host: Host) -> None:
    """What this node says no longer arrives; links stand, and it hears everything."""
    for peer in group.others(host):
        group.hold(host.name, peer.name)


@pytest.mark.parametrize("nodes", [3, 5])
def test_a_leader_that_hears_too_few_steps_down_within_an_election_timeout(nodes: int) -> None:
    with Cluster(1, nodes=nodes, latency=QUICK) as group:
        leader = our_leader(group)
        heard = group.others(leader)[: nodes // 2 - 1]
        deafen(group, leader, group.others(leader, *heard))
        group.run(group.timing.election_max - 0.1)
        assert leader.is_leader(), "a heartbeat or two may be lost"
        group.run(0.2)
        assert leader.raft.role is not Role.LEADER


def test_a_leader_that_hears_just_enough_stays() -> None:
    with Cluster(2, nodes=5, latency=QUICK) as group:
        leader = our_leader(group)
        term = leader.term()
        deafen(group, leader, group.others(leader)[:2])
        group.run(10.0)
        assert (group.leader(), leader.term()) == (leader, term)


def test_a_deaf_leader_whom_all_hear_is_replaced_and_acknowledges_nothing() -> None:
    """Its heartbeats keep the others quiet until it steps down by itself; then they elect, and do not wait for it."""
    with Cluster(3, latency=QUICK) as group:
        old = our_leader(group)
        deafen(group, old, group.others(old))
        old.propose(b"in doubt")
        reading = group.loop.create_task(old.raft.read_index(old.clock.monotonic() + 5.0))
        group.run_until(lambda: any(host.is_leader() for host in group.others(old)), 5.0)
        assert not old.is_leader()
        assert reading.done()
        assert isinstance(reading.exception(), NotLeader)
        assert group.fates.get(b"in doubt") is not Fate.COMMITTED
        new = our_leader(group)
        new.propose(b"after")
        group.run_until(lambda: b"after" in group.acknowledged())
        group.heal()
        group.run(2.0)
        assert len({tuple(host.state()) for host in group.hosts.values()}) == 1
        assert group.acknowledged() <= set(new.state())


def test_a_leader_nobody_hears_is_deposed_and_is_told_so() -> None:
    with Cluster(4, latency=QUICK) as group:
        old = our_leader(group)
        silence(group, old)
        group.run_until(lambda: any(host.is_leader() for host in group.others(old)), 5.0)
        group.run(0.1)
        assert old.raft.role is Role.FOLLOWER
        assert old.term() == group.highest_term()
        term = group.highest_term()
        group.run(5.0)
        assert group.highest_term() == term, "it cannot be heard, so it does not campaign either"


@pytest.mark.parametrize("deaf", [True, False])
def test_an_isolated_leader_says_that_it_has_no_quorum_while_it_still_thinks_it_leads(deaf: bool) -> None:
    with Cluster(5, latency=QUICK) as group:
        leader = our_leader(group)
        deafen(group, leader, group.others(leader)) if deaf else silence(group, leader)
        with pytest.raises(NoQuorum):
            group.wait(leader.raft.read_index(leader.clock.monotonic() + 0.3))


@pytest.mark.parametrize("seed", range(8))
def test_a_leader_that_slept_for_three_seconds_wakes_to_nothing_it_could_be_wrong_about(seed: int) -> None:
    """Timers, messages and questions have piled up; acknowledgements and confirmations from before are among them."""
    with Cluster(seed, latency=QUICK) as group:
        old = our_leader(group)
        old.propose(b"before")
        group.run_until(lambda: b"before" in group.acknowledged())
        old.propose(b"in flight")
        early = group.loop.create_task(old.raft.read_index(old.clock.monotonic() + 60.0))
        group.run(0.0005 * seed)
        old.freeze()
        asked: list[object] = []

        async def ask() -> None:
            try:
                index = await old.raft.read_index(old.clock.monotonic() + 5.0)
                asked.append(old.state()[: old.machine.applied] if index <= old.machine.applied else None)
            except Unavailable as refusal:
                asked.append(refusal)

        group.run_until(lambda: any(host.is_leader() for host in group.others(old)), 5.0)
        new = next(host for host in group.others(old) if host.is_leader())
        new.propose(b"meanwhile")
        group.run_until(lambda: b"meanwhile" in group.acknowledged())
        for _ in range(5):
            old.run(lambda: group.spawn(ask(), old))  # in its socket
        group.run(1.0)
        old.thaw()
        for _ in range(5):
            old.run(lambda: group.spawn(ask(), old))
        group.run_until(lambda: len(asked) == 10, 10.0)
        assert all(isinstance(answer, Unavailable) or b"meanwhile" in answer for answer in asked), asked  # type: ignore[operator]
        group.run(2.0)
        assert early.done() and (early.exception() is None or isinstance(early.exception(), Unavailable))
        assert len({tuple(host.state()) for host in group.hosts.values()}) == 1
        assert group.acknowledged() <= set(new.state())
