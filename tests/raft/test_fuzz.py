"""Seeded chaos: bursts, slow and broken links, hand-overs, power cuts at any write or send, of one node or all, and
disks lost one after the other.

Whatever happens, at the end every acknowledged proposal is in every node's state, at the same index on all of them, and
nothing that was refused is in any. A seed replays its run to the message.
"""

from __future__ import annotations

import pytest

from cluster.raft.driver import Fate
from cluster.raft.journal import decode_meta
from cluster.storage.kv import Family
from tests.raft.cluster import REJOINED, Cluster, Host, OurHost


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


def rejoining(host: OurHost) -> bool:
    meta = host.store.get(Family.META, b"raft")
    assert meta is not None
    return decode_meta(meta).rejoining


def accept(leader: Host | None) -> None:
    """What an admin does about new stores that wait."""
    if isinstance(leader, OurHost):
        for name, incarnation in leader.raft.waiting().items():
            leader.propose(REJOINED + f"{name} {incarnation}".encode())


def lose_a_disk(group: Cluster) -> None:
    """Now and then wipe a node, unless another is on its way back."""
    hosts = [group.ours(name) for name in group.names]
    if group.random.random() < 0.3 and not any(rejoining(host) for host in hosts):
        victim = group.random.choice(hosts)
        victim.kill()
        victim.wipe()
        group.later(group.random.uniform(0.1, 1.0), lambda: revive(victim))


def live(group: Cluster, *, wipes: bool = False) -> int:
    """Thirty steps of a hard life, then eight seconds of peace. How many proposals were made."""
    group.run(3.0)
    proposed = 0
    for _ in range(30):
        leader = group.leader()
        if leader is not None:
            proposed = burst(group, leader, proposed)
        misfortune(group, leader)
        if wipes:
            accept(group.leader())
            lose_a_disk(group)
        group.run(group.random.random() * 0.6)
        for host in group.hosts.values():
            if not host.alive and group.random.random() < 0.1:
                host.start()
    group.heal()
    for host in group.hosts.values():
        host.kill_in = None
        revive(host)
    group.run(8.0)
    if wipes:
        accept(group.elected())
        group.run_until(lambda: not any(group.ours(name).raft.rejoining for name in group.names))
        group.run(1.0)
    return proposed


@pytest.mark.parametrize("seed", range(16))
def test_three_nodes_keep_every_promise(seed: int) -> None:
    check(seed, nodes=3)


@pytest.mark.parametrize("seed", range(100, 104))
def test_five_nodes_keep_every_promise(seed: int) -> None:
    check(seed, nodes=5)


@pytest.mark.parametrize("seed", range(200, 206))
def test_three_nodes_keep_every_promise_while_they_lose_their_disks(seed: int) -> None:
    check(seed, nodes=3, wipes=True)


@pytest.mark.parametrize("seed", range(300, 301))
def test_five_nodes_keep_every_promise_while_they_lose_their_disks(seed: int) -> None:
    check(seed, nodes=5, wipes=True)


def check(seed: int, nodes: int, *, wipes: bool = False) -> None:
    with Cluster(seed, nodes=nodes) as group:
        proposed = live(group, wipes=wipes)
        states = [host.state() for host in group.hosts.values()]
        assert [host.stopped for host in group.hosts.values()] == [None] * nodes
        assert group.divergences == []
        assert all(state == states[0] for state in states)
        assert group.acknowledged() <= set(states[0])
        refused = {body for body, fate in group.fates.items() if fate is Fate.REFUSED and body[:1] == b"p"}
        assert not refused & set(states[0])
        if wipes:  # whoever is on his way back is missed, so less gets done
            assert sum(group.ours(name).wipes for name in group.names) > 0
        else:
            assert len(group.acknowledged()) > proposed // 4, "the group must also get something done"


def test_a_seed_replays_its_run() -> None:
    runs = []
    for _ in range(2):
        with Cluster(3) as group:
            live(group)
            runs.append((group.messages, group.now, group.fates, [host.state() for host in group.hosts.values()]))
    assert runs[0] == runs[1]
