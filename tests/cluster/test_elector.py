"""Nodes as electors: each votes for what its own state shows, and for nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from structlog.testing import capture_logs

from chaos.solo import ELECTORS, TERM, Solo, the_chart
from chaos.steer import drive
from cluster.answers import Answer, not_admitted
from cluster.clock import ManualClock
from cluster.elector import LOOK_SECONDS, REPEAT_SECONDS, Elector, profiles
from cluster.nodekey import NodeKey
from cluster.providers.hmmm import Polled, Votes
from cluster.providers.leading import Leading, Voice
from swoosh.entry import Item
from swoosh.machine import Applied
from swoosh.outcome import Code, Refused
from swoosh.quorum import Vote
from swoosh.state import Formation
from tests.cluster.members import NODES, accepted, claim, let_nodes_vote, register
from tests.running import running, turns


class Hall:
    """One applied state, the electors of the nodes that hold it, and the leader that gathers votes."""

    def __init__(self, nodes: Sequence[str] = NODES) -> None:
        self.solo = Solo(the_chart())
        let_nodes_vote(self.solo)
        drive(self.solo, lambda regions: regions.boot.licensed)
        self.clock = ManualClock(self.solo.now_ms * 1000)
        self.votes = Votes(self.solo.machine)
        self.cast: list[tuple[float, str, Vote]] = []
        self.instead: Polled | None = None
        self.electors = [self.elector(name) for name in nodes]
        key = NodeKey.of(self.solo.keys["n1"])
        self.leading = Leading(TERM, self.solo.machine, self.clock, key, self._submit)
        kept = self.solo.source.commit

        def commit(applied: Applied) -> None:
            kept(applied)
            for elector in self.electors:
                elector.on_applied(applied)

        self.solo.source.commit = commit  # type: ignore[method-assign]

    def elector(self, name: str) -> Elector:
        """A node that starts now."""
        voice = Voice(self.solo.machine, self.clock, NodeKey.of(self.solo.keys[name]))

        async def hand(project: str, vote: Vote | None, deadline: float) -> Polled:
            assert vote is not None and project == vote.project and deadline > self.clock.monotonic()
            self.cast.append((self.clock.monotonic(), name, vote))
            if self.instead is not None:
                return self.instead
            return self.votes.tally(project, vote)

        return Elector(voice, hand)

    async def _submit(self, items: Sequence[Item], deadline: float) -> list[Answer]:
        return list(self.solo.apply(*items).outcomes)

    def form(self, *roles: str, optional: Sequence[str] = (), electorate: Sequence[str] = NODES) -> None:
        """An election that the cluster forms, under these rules."""
        rules: dict[str, Any] = {
            "roles": roles,
            "electorate": [self.solo.principals[name] for name in electorate],
            "threshold": 2,
            "formation": {"optional_roles": list(optional)},
        }
        accepted(self.solo.propose("COUNCIL_PROFILES_LOADED", rules))

    def voting(self) -> AbstractAsyncContextManager[None]:
        """Nodes vote, and nobody gathers."""
        return running(*(elector.run() for elector in self.electors))

    def gathering(self) -> AbstractAsyncContextManager[None]:
        """Nodes vote, and the leader proposes what a quorum signed."""
        return running(*(elector.run() for elector in self.electors), self.votes.run(self.leading))

    async def pass_time(self, seconds: float = 2 * LOOK_SECONDS) -> None:
        await turns(30)
        for _ in range(round(seconds / LOOK_SECONDS)):
            self.clock.advance(LOOK_SECONDS)
            self.solo.now_ms = self.clock.wall_us() // 1000
            await turns(30)

    def voters(self) -> list[str]:
        """Who voted since this was last looked at, in order."""
        found, self.cast = [name for _, name, _ in self.cast], []
        return found


@pytest.fixture
async def hall() -> AsyncIterator[Hall]:
    yield Hall()


# --- the rules of such a council --------------------------------------------------------------------------------------


def test_the_electorate_is_the_nodes_and_a_majority_of_them_decides() -> None:
    solo = Solo(the_chart())
    formation = Formation(("ux",), 7)
    assert profiles(solo.machine.registry, ("lead",), formation)["electorate"] == [], "no node may vote yet"
    let_nodes_vote(solo)
    drive(solo, lambda regions: regions.boot.licensed)
    rules = profiles(solo.machine.registry, ("lead",), formation)
    assert [solo.names[each] for each in rules["electorate"]] == sorted(NODES, key=lambda name: solo.principals[name])
    assert (rules["roles"], rules["threshold"]) == (["lead"], 2)
    assert rules["formation"] == {"optional_roles": ["ux"], "until_ms": 7}
    accepted(solo.propose("COUNCIL_PROFILES_LOADED", rules, signer="n1"))
    assert solo.regions().council.formation == formation
    accepted(solo.propose("IDENTITY_REVOKED", {"principal": solo.principals["n2"]}))
    assert len(profiles(solo.machine.registry, ("lead",), formation)["electorate"]) == 2


# --- when a node votes ------------------------------------------------------------------------------------------------


async def test_a_council_is_there_once_agents_claimed_every_planned_role_and_nobody_else_did_anything(
    hall: Hall,
) -> None:
    register(hall.solo, "ada", "bob")
    async with hall.gathering():
        hall.form("lead", "build", optional=["ux"])
        claim(hall.solo, "lead", "ada")
        await hall.pass_time(5)
        assert hall.voters() == [], "a role that must be filled is open"
        claim(hall.solo, "build", "bob")
        await hall.pass_time(1)
    council = hall.solo.regions().council
    assert council.phase == "TOOLING_SYNC"
    assert {member.role: member.principal for member in council.members} == {
        "lead": "whoosh:ada",
        "build": "whoosh:bob",
    }
    assert council.certificate is not None and council.certificate.threshold == 2
    assert {hall.solo.names[vote.elector] for vote in council.certificate.votes} <= set(NODES)
    hall.voters()
    async with hall.gathering():
        await hall.pass_time(3 * REPEAT_SECONDS)
        assert hall.voters() == [], "it is seated"


@pytest.mark.parametrize("role", ["lead", "ux"])
async def test_nobody_votes_for_an_agent_that_is_not_there(hall: Hall, role: str) -> None:
    """Not for one that never registered, and not for one that was not heard for too long."""
    register(hall.solo, "ada", lasts_ms=10_000)
    register(hall.solo, "bob")
    hall.form("lead", optional=["ux"])
    claim(hall.solo, role, "zoe")
    claim(hall.solo, "ux" if role == "lead" else "lead", "ada")
    async with hall.voting():
        await hall.pass_time(5)
        assert hall.voters() == []
        register(hall.solo, "zoe")
        await hall.pass_time(1)
        assert sorted(hall.voters()) == list(NODES)
        await hall.pass_time(6)
        hall.voters()
        await hall.pass_time(3 * REPEAT_SECONDS)
        assert hall.voters() == [], "the fact about ada has run out"
        register(hall.solo, "ada")
        await hall.pass_time(REPEAT_SECONDS + 1)
        assert set(hall.voters()) == set(NODES)


async def test_an_agent_with_a_key_of_its_own_is_registered_by_that(hall: Hall) -> None:
    hall.form("lead")
    accepted(hall.solo.propose("COUNCIL_ROLE_CLAIMED", {"role": "lead", "agent": "alice"}, signer="alice"))
    async with hall.voting():
        await hall.pass_time()
        assert sorted(hall.voters()) == list(NODES)
        accepted(hall.solo.propose("IDENTITY_REVOKED", {"principal": hall.solo.principals["alice"]}))
        await hall.pass_time(3 * REPEAT_SECONDS)
        assert hall.voters() == [], "a revoked claim leaves its role open"


async def test_in_a_council_that_others_form_a_node_has_no_say(hall: Hall) -> None:
    register(hall.solo, "ada")
    electorate = [hall.solo.principals[name] for name in NODES]
    rules = {"roles": ["lead"], "electorate": electorate, "threshold": 2}
    accepted(hall.solo.propose("COUNCIL_PROFILES_LOADED", rules))
    claim(hall.solo, "lead", "ada")
    async with hall.voting():
        await hall.pass_time(2 * REPEAT_SECONDS)
    assert hall.voters() == []


async def test_only_electors_of_this_very_election_vote(hall: Hall) -> None:
    register(hall.solo, "ada")
    hall.form("lead", electorate=["n1", *ELECTORS[:2]])
    claim(hall.solo, "lead", "ada")
    async with hall.voting():
        await hall.pass_time()
        assert hall.voters() == ["n1"]
        accepted(hall.solo.propose("IDENTITY_REVOKED", {"principal": hall.solo.principals["n1"]}))
        await hall.pass_time(2 * REPEAT_SECONDS)
        assert hall.voters() == []


async def test_a_node_votes_for_a_project_it_finds_when_it_starts(hall: Hall) -> None:
    register(hall.solo, "ada")
    hall.form("lead")
    claim(hall.solo, "lead", "ada")
    hall.electors = [hall.elector("n3")]
    async with hall.voting():
        await hall.pass_time()
    assert hall.voters() == ["n3"]


# --- what becomes of a vote -------------------------------------------------------------------------------------------


async def test_a_vote_is_repeated_for_leaders_forget_and_said_anew_at_once_when_claims_move(hall: Hall) -> None:
    hall.electors = hall.electors[:1]
    register(hall.solo, "ada", "bob", "cy")
    hall.form("lead", optional=["ux"])
    claim(hall.solo, "lead", "ada")
    async with hall.voting():
        await hall.pass_time(3 * REPEAT_SECONDS + LOOK_SECONDS)
        times = [at for at, _, _ in hall.cast]
        assert times == [0, REPEAT_SECONDS, 2 * REPEAT_SECONDS, 3 * REPEAT_SECONDS]
        assert len({vote for _, _, vote in hall.cast}) == 1
        claim(hall.solo, "ux", "bob")
        await hall.pass_time(LOOK_SECONDS)
        newest = hall.cast[-1]
        assert newest[0] < times[-1] + 1 and newest[2] != hall.cast[0][2]


async def test_an_old_leaders_votes_are_gone_and_the_next_one_has_them_within_a_repeat(hall: Hall) -> None:
    register(hall.solo, "ada")
    hall.form("lead")
    claim(hall.solo, "lead", "ada")
    async with hall.voting():
        await hall.pass_time()
        hall.votes = Votes(hall.solo.machine)
    async with hall.gathering():
        await hall.pass_time(REPEAT_SECONDS + 1)
    assert hall.solo.regions().council.phase == "TOOLING_SYNC"


async def test_a_vote_that_does_not_count_is_told_and_one_that_finds_no_leader_is_not(hall: Hall) -> None:
    hall.electors = hall.electors[:1]
    register(hall.solo, "ada")
    hall.form("lead")
    claim(hall.solo, "lead", "ada")
    with capture_logs() as logged:
        async with hall.voting():
            hall.instead = not_admitted(Code.NO_LEADER, "nobody leads")
            await hall.pass_time(REPEAT_SECONDS)
            assert logged == []
            hall.instead = Refused(Code.STALE_STATE, ("this is election 2",))
            await hall.pass_time(REPEAT_SECONDS)
            assert [(each["event"], each["reasons"]) for each in logged] == [
                ("vote not counted", ("this is election 2",))
            ]
            await hall.pass_time(REPEAT_SECONDS)
    assert hall.voters() == ["n1"] * 4, "it goes on"
