"""A council formed by a whole cluster: agents are asked, claim, and the nodes vote, whoever leads meanwhile.

Agents are played: they take a question at once and claim later, at any node that lives, as an adapter would for them.
Nobody else does anything: no elector, no proposer, no operator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from cluster.egress import Call, Outbound, Reply
from cluster.entropy import SeededEntropy
from cluster.providers.agents import Agents
from cluster.providers.leading import Provider
from cluster.providers.outbox import nothing_redacted
from cluster.whoosh import Whoosh
from swoosh.entry import Item, ProposalItem
from swoosh.outcome import Accepted, Code, FactAccepted, Refused
from swoosh.proposal import to_sent
from swoosh.state import ProjectRegions, as_project
from tests.cluster.group import Group, NodeHost, accepted
from tests.cluster.test_election import DAY_MS

ROLES = ("lead", "build", "test")
PATTERNS = ("*.agents.test:9000",)
REBROADCAST_S, THINKING_S = 3.0, 0.05


class Crowd:
    """Agents that answer at once, think, and claim a role that was open when they were asked."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.group: Group | None = None
        self.asked: list[tuple[str, str]] = []
        """Who was asked by which node, in order."""
        self._turn = count()
        self._claiming: list[asyncio.Task[None]] = []

    def providers(self, host: NodeHost, keeper: Any, _: Any) -> list[Provider]:
        async def send(call: Call, patience: float) -> Reply:
            self._hear(host, call)
            return Reply(202, {}, b"{}")

        whoosh = Whoosh(agents=PATTERNS, rebroadcast=REBROADCAST_S)
        return [Agents(whoosh, Outbound(keeper, send), SeededEntropy(1), nothing_redacted)]

    def _hear(self, host: NodeHost, call: Call) -> None:
        name = (urlsplit(call.url).hostname or "").removesuffix(".agents.test")
        self.asked.append((name, host.name))
        told = msgspec.json.decode(call.body or b"")
        assert self.group is not None
        self._claiming.append(self.group.loop.create_task(self._claim(name, told["council_id"], told["metadata"])))

    async def _claim(self, name: str, project: str, told: dict[str, Any]) -> None:
        """Try every role that was said to be open, beginning at a place of one's own."""
        roles, group = told["open_roles"], self.group
        assert group is not None
        await asyncio.sleep(THINKING_S)
        first = self.names.index(name) % len(roles)
        for role in (*roles[first:], *roles[:first]):
            able = [host for host in group.live() if host.node.machine.project(project) is not None]
            if not able:
                return  # it is asked again
            item = claim(able[next(self._turn) % len(able)], project, role, name, told["election"])
            (answer,) = await able[next(self._turn) % len(able)].node.submit([item], group.now + 5)
            if isinstance(answer, Accepted) or (isinstance(answer, Refused) and answer.code is Code.WRONG_PHASE):
                return


def claim(host: NodeHost, project: str, role: str, agent: str, election: int) -> ProposalItem:
    """A claim that a node signs for an agent."""
    node, inputs = host.node, {"role": role, "agent": agent}
    held = node.machine.project(project)
    assert held is not None
    key, behalf = f"legacy:{agent}:{role}:{election}", f"whoosh:{agent}"
    document = node.voice.document(held, "COUNCIL_ROLE_CLAIMED", inputs, key=key, behalf=behalf)
    return ProposalItem(to_sent(document))


def put(group: Group, host: NodeHost, *items: Item) -> None:
    for answer in group.answers(group.ask(host.name, *items)):
        assert isinstance(answer, FactAccepted), answer


@contextmanager
def town(seed: int, names: list[str] | None = None) -> Iterator[tuple[Group, Crowd]]:
    """A licensed cluster whose nodes vote, and agents that are registered with it."""
    crowd = Crowd([f"a{number}" for number in range(5)] if names is None else names)
    with Group(seed, voting=True, providers=crowd.providers, agents=PATTERNS) as group:
        crowd.group = group
        leader = group.leading()
        group.people.now_ms = leader.clock.wall_us() // 1000
        body = {"license_id": "l", "status": "active", "valid_until": group.people.now_ms + DAY_MS}
        put(group, leader, group.people.fact_item("license", group.people.machine.cluster_id, body))
        for name in crowd.names:
            told = {"name": name, "endpoint": f"http://{name}.agents.test:9000"}
            put(group, leader, leader.node.voice.fact("agent", f"whoosh:{name}", told, lives_ms=DAY_MS))
        yield group, crowd


def create(group: Group, *, optional: tuple[str, ...] = ()) -> None:
    formation = {"optional_roles": list(optional)}
    inputs = {"brief": "a story", "planned_roles": list(ROLES), "formation": formation}
    document = group._now(group.people.document("PROJECT_CREATED", inputs, project="atlas"))
    accepted(group.propose(group.leading().name, group.people.item(document)))


def regions(host: NodeHost) -> ProjectRegions | None:
    held = host.node.machine.project("atlas")
    return None if held is None else as_project(held.regions)


def is_electing(host: NodeHost, claims: int = 0) -> bool:
    held = regions(host)
    return held is not None and held.council.phase == "ELECT" and len(held.council.claims) >= claims


def is_seated(host: NodeHost) -> bool:
    held = regions(host)
    return held is not None and bool(held.council.members)


def seated(group: Group) -> None:
    """Every live node has seated the council, by one certificate that a majority of nodes signed."""

    group.run_until(lambda: all(map(is_seated, group.live())), 60.0)
    group.converge()
    host = group.live()[0]
    held = regions(host)
    assert held is not None
    council = held.council
    assert set(ROLES) <= {member.role for member in council.members}
    assert all(member.principal == f"whoosh:{member.agent}" for member in council.members)
    assert council.certificate is not None and len(council.certificate.votes) >= 2
    identities = host.node.machine.registry.cluster.identities.entries
    assert {identities[vote.elector].name for vote in council.certificate.votes} <= set(group.names)
    kept = [record for record in group.records(host.name, "atlas") if b'"COUNCIL_QUORUM_CERT"' in record]
    assert len(kept) == 1


def test_a_council_forms_itself_from_a_project_and_agents_that_are_registered() -> None:
    with town(41) as (group, crowd):
        create(group, optional=("ux",))
        seated(group)
        assert {name for name, _ in crowd.asked} == set(crowd.names)
        assert {asker for _, asker in crowd.asked} == {group.leading().name}, "only the leader asks"


def test_agents_that_come_later_fill_what_is_open() -> None:
    with town(42, names=[]) as (group, crowd):
        create(group)
        group.run_until(lambda: is_electing(group.leading()))
        group.run(2 * REBROADCAST_S)
        assert crowd.asked == []
        for name in ("late-1", "late-2", "late-3"):
            crowd.names.append(name)
            told = {"name": name, "endpoint": f"http://{name}.agents.test:9000"}
            leader = group.leading()
            put(group, leader, leader.node.voice.fact("agent", f"whoosh:{name}", told, lives_ms=DAY_MS))
        seated(group)


@pytest.mark.parametrize("claims", range(len(ROLES) + 1))
def test_the_leader_is_killed_while_agents_claim_and_nodes_vote(claims: int) -> None:
    with town(50 + claims) as (group, _):
        create(group)
        group.run_until(lambda: any(is_electing(host, claims) for host in group.live()))
        leader = group.leader()
        assert isinstance(leader, NodeHost)
        leader.run(leader.kill)
        group.run_until(lambda: group.leader() is not None)
        seated(group)
        leader.start()
        seated(group)


@pytest.mark.parametrize("steps", range(1, 13))
def test_the_leader_is_killed_at_any_write_or_message_after_the_last_claim(steps: int) -> None:
    """So votes are on their way, gathered, certified and not written, written and not committed, committed."""
    with town(60 + steps) as (group, _):
        create(group)
        group.run_until(lambda: any(is_electing(host, len(ROLES)) for host in group.live()))
        leader = group.leader()
        assert isinstance(leader, NodeHost)
        leader.kill_in = steps
        group.run_until(lambda: not leader.alive)
        group.run_until(lambda: group.leader() is not None)
        seated(group)


def test_a_node_that_sees_nothing_votes_for_nothing_and_two_are_enough() -> None:
    with town(80) as (group, _):
        away = next(host for host in group.live() if not host.is_leader())
        others = [host for host in group.live() if host is not away]
        group.isolate(away)
        create(group)
        group.run_until(lambda: all(is_seated(host) for host in others), 60.0)
        assert regions(away) is None
        group.heal()
        seated(group)
