"""How many projects a signer has created, counted by whole nodes: through restarts, and by whoever comes to lead."""

from __future__ import annotations

import copy

import pytest

from chaos.solo import the_chart
from cluster.answers import Answer
from cluster.creators import Creators
from cluster.storage.store import Store as StateStore
from swoosh.errors import Corrupt
from swoosh.outcome import Code, Refused
from tests.cluster.group import Group, accepted

MOST = 2


def refused(answer: Answer) -> Code:
    assert isinstance(answer, Refused), answer
    return answer.code


def full(group: Group) -> str:
    """pam creates all she may; who leads."""
    leader = group.leading()
    for number in range(MOST):
        accepted(group.propose(leader.name, group.create(f"p{number}")))
    return leader.name


def test_through_any_node_the_share_is_the_same() -> None:
    with Group(21, projects_per_signer=MOST) as group:
        full(group)
        for name in group.names:
            assert refused(group.propose(name, group.create("beyond"))) is Code.TOO_MANY_PROJECTS
        accepted(group.propose(group.names[0], group.create("of-another", signer="ivy")))
        assert all(group.node(name).machine.project("beyond") is None for name in group.names)
        group.converge()


def test_a_restart_forgets_nobodys_projects() -> None:
    """Neither those below the applied index, which only the store knows, nor those the log applies again."""
    with Group(22, nodes=1, projects_per_signer=MOST) as group:
        name = full(group)
        for _ in range(2):
            host = group.host(name)
            host.run(host.kill)
            group.run(1.0)
            host.start()
            assert group.leading().name == name
            assert refused(group.propose(name, group.create("beyond"))) is Code.TOO_MANY_PROJECTS


def test_a_follower_that_comes_to_lead_has_counted_too() -> None:
    with Group(23, projects_per_signer=MOST) as group:
        old = group.host(full(group))
        group.converge()
        old.run(old.kill)
        leader = group.leading()
        assert leader is not old
        assert refused(group.propose(leader.name, group.create("beyond"))) is Code.TOO_MANY_PROJECTS


def test_a_follower_counts_and_never_refuses() -> None:
    """Where one node was told another bound, the leader's holds, and replicas do not part over it."""
    with Group(24, projects_per_signer=MOST) as group:
        full(group)
        leader = group.leading()
        leader.node._proposals._creators._most = 0
        accepted(group.propose(leader.name, group.create("beyond")))
        group.converge()
        assert all(group.node(name).machine.project("beyond") is not None for name in group.names)


def test_what_is_stored_and_no_record_is_damage() -> None:
    with pytest.raises(Corrupt):
        Creators(the_chart(), [b"{}"], MOST)


def test_a_store_taken_from_another_node_says_the_same() -> None:
    """As after a snapshot was installed: the count is nowhere but in the records themselves."""
    with Group(25, projects_per_signer=MOST) as group:
        leader = group.host(full(group))
        group.converge()
        taken = StateStore(copy.deepcopy(leader.store))
        counted = Creators(the_chart(), taken.first_records(), MOST)
        assert counted._held == leader.node._proposals._creators._held == {group.people.principals["pam"]: MOST}
