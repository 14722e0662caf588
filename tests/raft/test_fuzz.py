"""Seeded chaos: bursts, slow and broken links, hand-overs, and power cuts at any write or send, of one node or all.

Whatever happens, at the end every acknowledged proposal is in every node's state, at the same index on all of them, and
nothing that was refused is in any. A seed replays its run to the message.
"""

from __future__ import annotations

import pytest

from cluster.raft.driver import Fate
from tests.raft.cluster import Cluster, Host, OurHost


def revive(host: Host) -> None:
    if not host.alive:
        host.start()


def burst(group: Cluster, leader: Host, first: int) -> int:
    """Propose up to sixty at uneven intervals; the number of the next one."""
    number = first
    for _ in range(group.random.randrange(1, 60)):
        if leader.alive:
            leader.propose(b"p%06d" % number + b"x" * 400)
            number += 1
            if group.random.random() < 0.3:
                group.run(group.random.random() * 0.004)
    return number


def misfortune(group: Cluster, leader: Host | None) -> None:
    """One thing that goes wrong, or none."""
    random, hosts = group.random, list(group.hosts.values())
    a, b = random.sample(group.names, 2)
    kind = random.random()
    if kind < 0.25:
        group.delay(a, b, random.random() * 1.5)
    elif kind < 0.40 and all(host.alive for host in hosts):
        victim = leader if leader and random.random() < 0.7 else random.choice(hosts)
        if random.random() < 0.5:
            victim.kill()
        else:
            victim.kill_in = random.randrange(1, 80)
        group.later(random.uniform(1.5, 5.0), lambda: revive(victim))
    elif kind < 0.50:
        group.cut(a, b)
        group.later(random.uniform(0.5, 3.0), group.heal)
    elif kind < 0.56:
        for host in hosts:
            host.kill()
            group.later(random.uniform(0.1, 4.0), lambda host=host: revive(host))  # type: ignore[misc]
    elif kind < 0.62 and isinstance(leader, OurHost):
        group.spawn(hand_over(leader), leader)


async def hand_over(leader: OurHost) -> None:
    await leader.raft.transfer_leadership(None)


def live(group: Cluster) -> int:
    """Thirty steps of a hard life, then eight seconds of peace. How many proposals were made."""
    group.run(3.0)
    proposed = 0
    for _ in range(30):
        leader = group.leader()
        if leader is not None:
            proposed = burst(group, leader, proposed)
        misfortune(group, leader)
        group.run(group.random.random() * 0.6)
        for host in group.hosts.values():
            if not host.alive and group.random.random() < 0.1:
                host.start()
    group.heal()
    for host in group.hosts.values():
        host.kill_in = None
        revive(host)
    group.run(8.0)
    return proposed


@pytest.mark.parametrize("seed", range(16))
def test_three_nodes_keep_every_promise(seed: int) -> None:
    check(seed, nodes=3)


@pytest.mark.parametrize("seed", range(100, 104))
def test_five_nodes_keep_every_promise(seed: int) -> None:
    check(seed, nodes=5)


def check(seed: int, nodes: int) -> None:
    with Cluster(seed, nodes=nodes) as group:
        proposed = live(group)
        states = [host.state() for host in group.hosts.values()]
        assert [host.stopped for host in group.hosts.values()] == [None] * nodes
        assert group.divergences == []
        assert all(state == states[0] for state in states)
        assert group.acknowledged() <= set(states[0])
        refused = {body for body, fate in group.fates.items() if fate is Fate.REFUSED}
        assert not refused & set(states[0])
        assert len(group.acknowledged()) > proposed // 4, "the group must also get something done"


def test_a_seed_replays_its_run() -> None:
    runs = []
    for _ in range(2):
        with Cluster(3) as group:
            live(group)
            runs.append((group.messages, group.now, group.fates, [host.state() for host in group.hosts.values()]))
    assert runs[0] == runs[1]
