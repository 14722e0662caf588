"""A member's machine or disk is gone for good, and another store takes its place: whole nodes."""

from __future__ import annotations

import msgspec
import pytest

from cluster.answers import Unavailable
from swoosh import state
from swoosh.outcome import Refused
from tests.cluster.group import Group, NodeHost, accepted


def wiped(group: Group, victim: NodeHost) -> NodeHost:
    """Its store is gone; it starts on a new one, and has come to the others."""
    victim.kill()
    victim.wipe()
    victim.start()
    leader = group.leader()
    assert isinstance(leader, NodeHost)
    group.run_until(lambda: victim.name in leader.raft.waiting())
    return victim


def followers(group: Group, leader: NodeHost) -> list[NodeHost]:
    return [host for host in group.live() if host is not leader]


@pytest.mark.parametrize("nodes", [3, 5])
def test_an_admin_accepts_the_new_store_and_the_node_is_a_member_again(nodes: int) -> None:
    with Group(20 + nodes, nodes=nodes) as group:
        leader = group.leading()
        made = [accepted(group.propose(leader.name, group.create(f"p{number}"))) for number in range(5)]
        victim = wiped(group, followers(group, leader)[0])
        group.run_until(lambda: victim.node.machine.cluster_hash == leader.node.machine.cluster_hash)
        group.run(3.0)
        assert not victim.node.caught_up, "it holds everything, and serves nothing"
        assert any("member replace" in reason for reason in victim.node.missing)
        incarnation = leader.raft.waiting()[victim.name]
        inputs = {"node": victim.name, "incarnation": incarnation}
        accepted(group.propose(leader.name, group.command(leader.name, "MEMBER_REJOINED", inputs)))
        group.run_until(lambda: victim.node.ready is None)
        group.converge()
        for answer in made:
            assert victim.node.store.ledger(answer.project, answer.idem_key) is not None
        for host in [host for host in followers(group, leader) if host is not victim][: nodes // 2]:
            host.kill()
        accepted(group.propose(victim.name, group.create("with-its-vote")))
        again = group.command(leader.name, "MEMBER_REJOINED", inputs)
        assert isinstance(group.propose(leader.name, again), Refused), "it is accepted already"


def test_where_the_cluster_says_so_the_leader_accepts_it() -> None:
    with Group(30) as group:
        leader = group.leading()
        setting = {"name": "auto_rejoin", "value": True}
        accepted(group.propose(leader.name, group.command(leader.name, "SETTING_SET", setting)))
        victim = followers(group, leader)[0]
        victim.kill()
        victim.wipe()
        victim.start()
        group.run_until(lambda: victim.node.ready is None)
        group.converge()
        held = leader.node.machine.registry.cluster.members.nodes[victim.name]
        assert (held.incarnation, held.rejoined) == (victim.journal.incarnation.hex(), 1)


def test_where_it_does_not_nobody_accepts_it_unasked() -> None:
    with Group(31) as group:
        leader = group.leading()
        victim = wiped(group, followers(group, leader)[0])
        group.run(10.0)
        assert victim.raft.rejoining
        assert leader.node.machine.registry.cluster.members.nodes[victim.name] == state.ClusterMember()


def test_every_node_in_turn_loses_its_disk_and_nothing_is_lost() -> None:
    """The leader too. In the end no disk is left that was there when the first proposals were acknowledged."""
    with Group(32) as group:
        leader = group.leading()
        setting = {"name": "auto_rejoin", "value": True}
        accepted(group.propose(leader.name, group.command(leader.name, "SETTING_SET", setting)))
        made = [accepted(group.propose(leader.name, group.create(f"p{number}"))) for number in range(5)]
        for name in group.names:
            victim = group.host(name)
            victim.kill()
            group.leading()
            victim.wipe()
            victim.start()
            group.run_until(lambda victim=victim: victim.node.ready is None)  # type: ignore[misc]
        group.converge()
        for answer in made:
            for host in group.live():
                record = host.node.store.ledger(answer.project, answer.idem_key)
                assert record is not None and record.record_hash == answer.record_hash


def test_while_another_node_is_down_nothing_is_accepted_and_afterwards_everything_is() -> None:
    with Group(33) as group:
        leader = group.leading()
        setting = {"name": "auto_rejoin", "value": True}
        accepted(group.propose(leader.name, group.command(leader.name, "SETTING_SET", setting)))
        victim, down = followers(group, leader)
        down.kill()
        victim.kill()
        victim.wipe()
        victim.start()
        asked = group.ask(leader.name, group.create("alone"), within=3.0)
        group.run(8.0)
        (answer,) = group.answers(asked)
        assert isinstance(answer, Unavailable)
        assert victim.raft.rejoining
        down.start()
        group.run_until(lambda: all(host.node.ready is None for host in group.live()))
        group.converge()


def test_the_members_are_those_of_the_store_whatever_the_files_say() -> None:
    """Three nodes made a cluster; then every file was changed to name five, and two more were started from it. If a
    node believed its file, n2 would make a majority of five with the new ones while n0 and n1 go on as one of three."""
    with Group(34, nodes=5) as group:
        for host in group.live():
            host.kill()
        three = msgspec.structs.replace(group.people.genesis, nodes=("n0", "n1", "n2"))
        for name in three.nodes:
            group.host(name).beginning = three
            group.host(name).wipe(rejoining=False)
        for a in ("n0", "n1"):
            for b in ("n2", "n3", "n4"):
                group.cut(a, b)
        for name in group.names:
            group.host(name).start()
        group.run(10.0)
        assert [host.name for host in group.live() if host.is_leader()] in (["n0"], ["n1"])
