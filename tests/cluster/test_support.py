"""A build judges only what it has the chart for, and no chart comes into force that a member lacks."""

from __future__ import annotations

from cluster.answers import Unavailable
from cluster.raft.driver import Role
from swoosh.outcome import Code, Refused
from tests.cluster.group import Group, NodeHost, accepted, activation, claim, next_chart


def with_other_build(group: Group, name: str) -> NodeHost:
    """Restart a node with a build that lacks the chart in force."""
    host = group.host(name)
    host.run(host.kill)
    host.chart = next_chart()
    host.start()
    group.run(1.0)
    return host


def others(group: Group, *besides: NodeHost) -> list[NodeHost]:
    return [host for host in group.live() if host not in besides]


def test_a_chart_that_a_member_lacks_is_not_activated_whatever_the_command_claims() -> None:
    with Group(131) as group:
        chart = next_chart()
        claim(group, "n1", chart)
        leader = group.leading()
        end = leader.raft.last_index
        refused = group.propose(leader.name, activation(group, leader, chart))
        assert isinstance(refused, Refused)
        assert (refused.code, refused.failing_guard) == (Code.GUARD_REJECTED, "chart_supported")
        assert "n0, n2 did not report" in refused.reasons[0]
        assert leader.raft.last_index == end
        batch = group.people.batch([group.people.document("SETTING_SET", {"name": "x", "value": 1})], "root")
        _ = group.answers(group.ask(leader.name, batch))  # other commands are no business of this rule
        assert len(group.live()) == 3


def test_nor_while_a_member_is_out_of_reach() -> None:
    with Group(132) as group:
        chart = next_chart()
        for name in group.names:
            claim(group, name, chart)
        leader = group.leading()
        away = others(group, leader)[0]
        away.run(away.kill)
        refused = group.propose(leader.name, activation(group, leader, chart))
        assert isinstance(refused, Refused) and f"{away.name} did not report" in refused.reasons[0]
        away.start()
        group.run_until(lambda: away.node.ready is None)
        assert accepted(group.propose(leader.name, activation(group, leader, chart)))


def test_a_build_without_the_chart_stores_and_votes_and_does_nothing_else() -> None:
    with Group(133) as group:
        leader = group.leading()
        odd = with_other_build(group, others(group, leader)[0].name)
        applied, away = odd.node.machine.position, others(group, leader, odd)[0]
        away.run(away.kill)
        made = [accepted(group.propose(leader.name, group.create(f"p{number}"))) for number in range(3)]
        group.run_until(lambda: odd.raft.last_index == leader.raft.last_index)
        assert odd.node.machine.position == applied, "its copy counts, what it would compute does not"
        assert odd.node.ready is not None and "this build has" in odd.node.ready and not odd.node.caught_up
        answer = group.propose(odd.name, group.create("atlas"))
        assert accepted(answer), "it forwards still"
        away.start()
        group.run_until(lambda: away.node.ready is None)
        leader.run(leader.kill)
        group.run_until(away.is_leader)
        group.run_until(lambda: away.raft.applied_index == away.raft.last_index)
        assert away.node.machine.project(made[0].project) is not None, "elected with its vote"


def test_it_applies_nothing_at_its_start_either() -> None:
    """Its log and its commit index reach further than its state."""
    with Group(138) as group:
        leader = group.leading()
        odd = others(group, leader)[0]
        odd.raft.suspend("the test wants entries that are committed and not applied")
        applied = odd.node.machine.position
        for number in range(3):
            accepted(group.propose(leader.name, group.create(f"p{number}")))
        group.run_until(lambda: odd.raft.last_index == leader.raft.last_index)
        odd.store.flush()
        with_other_build(group, odd.name)
        assert odd.raft.commit_index > applied.index and odd.node.machine.position == applied


def test_it_never_campaigns_nor_takes_over() -> None:
    with Group(134) as group:
        leader = group.leading()
        odd = with_other_build(group, others(group, leader)[0].name)
        patient = others(group, leader, odd)[0]
        assert not group.wait(leader.raft.transfer_leadership(odd.name))
        assert leader.is_leader()
        leader.run(leader.kill)
        patient.core()._SyncObj__raftElectionDeadline = group.now + 1_000.0
        group.run(10.0)
        assert odd.raft.role is Role.FOLLOWER and patient.raft.role is Role.FOLLOWER, "nobody else would"
        patient.campaign()
        group.run_until(patient.is_leader)


def test_a_hand_over_goes_to_a_member_that_can_judge() -> None:
    with Group(135) as group:
        leader = group.leading()
        odd = with_other_build(group, max(host.name for host in others(group, leader)))
        able = others(group, leader, odd)[0]
        group.run_until(lambda: leader.raft._core.match_index(odd.name) == leader.raft.last_index)
        assert group.wait(leader.raft.transfer_leadership(None))
        group.run_until(able.is_leader, 1.0)


def test_with_its_own_build_back_it_goes_on_where_it_stood() -> None:
    with Group(136) as group:
        leader = group.leading()
        odd = with_other_build(group, others(group, leader)[0].name)
        accepted(group.propose(leader.name, group.create("atlas")))
        odd.run(odd.kill)
        odd.chart = None
        odd.start()
        group.run_until(lambda: odd.node.ready is None)
        assert odd.node.machine.project("atlas") is not None
        group.converge()


def test_where_every_node_lacks_it_nobody_answers() -> None:
    with Group(137) as group:
        group.leading()
        for name in group.names:
            with_other_build(group, name)
        group.run(5.0)
        answer = group.propose("n0", group.create("atlas"))
        assert isinstance(answer, Unavailable) and not answer.admitted
        assert all(host.node.ready is not None for host in group.live())
