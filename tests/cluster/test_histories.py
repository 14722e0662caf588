"""Contention under faults: whatever callers of whole nodes are told respects one order and real time.

Callers at random nodes work on one project, some from what a lagging node shows, some twice at once; nodes are killed,
cut off and slowed meanwhile. Every answer is held against the chain (chaos/history.py). Faults are few enough that
most calls are answered: a run that decides nothing proves nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial

import pytest

from chaos.history import Attempt, Event, Read, Verdict, check, tally
from cluster.answers import Answer, Unavailable
from swoosh import proposal
from swoosh.entry import ProposalItem
from swoosh.outcome import Accepted, Refused
from tests.cluster.group import Group

PROJECT = "default"
STEPS = 100


class Callers:
    """Everybody who calls, and what they were told."""

    def __init__(self, group: Group, chance: random.Random) -> None:
        self._group, self._chance = group, chance
        self.history: list[Event] = []
        self._open: dict[asyncio.Task[list[Answer]], Callable[[asyncio.Task[list[Answer]]], None]] = {}

    def propose(self, number: int) -> None:
        """Decide on what one node shows, and send it through another, perhaps more than once at a time."""
        group, chance = self._group, self._chance
        item = group.load(chance.choice(group.live()).name, PROJECT, key=f"k{number}")
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            node = chance.choice(group.live()).name
            asked = group.ask(node, item, within=chance.choice([0.3, 2.0]))
            self._open[asked] = partial(self._told, item, node, group.now)
            asked.add_done_callback(self._open[asked])

    def read(self) -> None:
        node = self._chance.choice(self._group.live())
        self._group.spawn(self._read(node.name), node)

    async def _read(self, name: str) -> None:
        node, start = self._group.node(name), self._group.now
        if await node.read("linearizable", node.clock.monotonic() + 1.0) is None:
            held = node.machine.project(PROJECT)
            assert held is not None
            self.history.append(Read(PROJECT, name, start, self._group.now, held.state_hash))

    def hang_up(self) -> None:
        """Whoever asked a node that died hears nothing more."""
        for asked, told in list(self._open.items()):
            told(asked)

    def _told(self, item: ProposalItem, node: str, start: float, asked: asyncio.Task[list[Answer]]) -> None:
        del self._open[asked]
        answer = asked.result()[0] if asked.done() and not asked.cancelled() else None
        self.history.append(_attempt(item, node, start, self._group.now, answer))


def _attempt(item: ProposalItem, node: str, start: float, end: float, answer: Answer | None) -> Attempt:
    sent = proposal.decode(item.sent)
    asked = (PROJECT, sent.idem_key, sent.transition, sent.inputs_hash, node, start, end)
    match answer:
        case Accepted():
            return Attempt(
                *asked,
                verdict=Verdict.ACCEPTED,
                state_pre_hash=answer.state_pre_hash,
                state_post_hash=answer.state_post_hash,
                seq=answer.seq,
            )
        case Refused():
            return Attempt(*asked, verdict=Verdict.REFUSED, code=answer.code, head=answer.head)
        case Unavailable(admitted=False):
            return Attempt(*asked, verdict=Verdict.NOT_ADMITTED)
        case _:
            return Attempt(*asked, verdict=Verdict.UNKNOWN)


def disturb(group: Group, chance: random.Random) -> None:
    """Perhaps one fault, which passes."""
    victim, other = (group.host(name) for name in chance.sample(group.names, 2))
    if chance.random() < 0.5:
        victim, other = next(((host, victim) for host in group.live() if host.is_leader()), (victim, other))
    kind = chance.random()
    if kind < 0.02 and len(group.live()) == len(group.names):
        victim.kill()
        group.later(chance.uniform(0.1, 1.0), victim.start)
    elif kind < 0.04:
        group.isolate(victim)
        group.later(chance.uniform(0.5, 1.5), group.heal)
    elif kind < 0.06:
        group.hold(victim.name, other.name)
        group.later(chance.uniform(0.1, 1.5), partial(group.release, victim.name, other.name))
    elif kind < 0.08:
        group.delay(victim.name, other.name, chance.uniform(0.1, 1.0))


@pytest.mark.parametrize("seed, nodes", [(1, 3), (2, 3), (8, 3), (3, 5), (6, 5)])
def test_what_callers_are_told_is_one_order_in_real_time(seed: int, nodes: int) -> None:
    chance = random.Random(seed)
    with Group(seed, nodes=nodes) as group:
        group.leading()
        callers = Callers(group, chance)
        for number in range(STEPS):
            callers.propose(number)
            if number % 3 == 0:
                callers.read()
            group.run(chance.uniform(0.0, 0.05))
            disturb(group, chance)
        group.run(4.0)
        callers.hang_up()
        group.heal()
        group.converge()
        dumps = {name: {PROJECT: b"\n".join(group.records(name, PROJECT))} for name in group.names}
        told = tally(callers.history)
        print(told)
        assert check(callers.history, dumps, converged=True).violations == []
        assert min(told[Verdict.ACCEPTED], told[Verdict.REFUSED], told["reads"]) >= 10, told
