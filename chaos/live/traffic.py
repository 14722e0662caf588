"""Callers as they should be: the SDK, through different nodes, each line of the history written before it is sent.

A caller works on a project of its own and now and then on one that all share. It repeats what is in doubt under the
same key, sends some of what was acknowledged again, and reads: linearizable, and from one node what that node has, as
of no earlier than the last thing it was shown itself.

The SDK is under test too: what goes into the history is what it told its caller, not what it heard.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack
from typing import NamedTuple

from chaos.history import Attempt, Read, Verdict
from chaos.live.cluster import LiveCluster
from chaos.recording import Journal
from swoosh.client import Accepted, Client, ClientError, Outcome, Policy, Refused, Unknown
from swoosh.outcome import Code
from swoosh.proposal import inputs_hash
from swoosh.state import GENESIS_HASH

PATIENCE = Policy(budget=4.0, attempt=1.5)
MAX_STALENESS_SECONDS = 5.0
SHARED = "shared"
SHARED_SHARE = 0.1
REPEAT_SHARE = 0.05
READ_SHARE = 0.12
LOCAL_SHARE = 0.5
DOUBT_SHARE = 0.2
PAUSE_SECONDS = 0.05
NOT_ADMITTED = frozenset({Code.NO_LEADER, Code.NO_QUORUM, Code.COLD, Code.OVERLOADED, Code.RATE_LIMITED, Code.CLOCK})


class Operation(NamedTuple):
    """What a caller wants, however often it has to ask."""

    project: str
    key: str
    transition: str
    inputs: dict[str, str]


class Traffic:
    """So many callers, until told to stop."""

    def __init__(self, cluster: LiveCluster, journal: Journal, callers: int, seed: int) -> None:
        self._cluster = cluster
        nodes = list(cluster.nodes)
        self._callers = [
            Caller(f"c{number}", nodes[number % len(nodes)], journal, random.Random(f"{seed}/{number}"))
            for number in range(callers)
        ]

    async def run(self, until: asyncio.Event) -> None:
        """Every caller in a circle of its own."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as crowd:
            for caller in self._callers:
                await caller.connect(self._cluster, stack)
                crowd.create_task(caller.run(until))


class Caller:
    """One caller, at home at one node: that one is asked first."""

    def __init__(self, name: str, home: str, journal: Journal, chance: random.Random) -> None:
        self._name, self._home, self._journal, self._chance = name, home, journal, chance
        self._heads: dict[str, str | None] = {name: None, SHARED: None}
        self._paused = dict.fromkeys(self._heads, False)
        self._index = 0
        self._serial = 0
        self._done: list[Operation] = []

    async def connect(self, cluster: LiveCluster, stack: AsyncExitStack) -> None:
        """Get ready to ask: as the operator through all nodes, and as a reader at home alone."""
        others = [url for node, url in cluster.nodes.items() if node != self._home]
        mine, key = cluster.nodes[self._home], cluster.key("operator")
        about = {"cluster_id": cluster.cluster_id, "policy": PATIENCE}
        self._client = await stack.enter_async_context(Client([mine, *others], key=key, **about))  # type: ignore[arg-type]
        self._creator = await stack.enter_async_context(
            Client([mine, *others], key=cluster.key("proposer"), **about)  # type: ignore[arg-type]
        )
        self._reader = await stack.enter_async_context(Client([mine], **about))  # type: ignore[arg-type]

    async def run(self, until: asyncio.Event) -> None:
        """One thing after another."""
        await self._create(self._name)
        await self._create(SHARED)
        while not until.is_set():
            project = SHARED if self._chance.random() < SHARED_SHARE else self._name
            if self._heads[project] is None or self._chance.random() < READ_SHARE:
                await self._read(project)
            elif self._done and self._chance.random() < REPEAT_SHARE:
                await self._ask(self._chance.choice(self._done[-50:]))
            else:
                await self._settle(self._next(project), until)

    async def _create(self, project: str) -> None:
        operation = Operation(project, f"create:{project}", "PROJECT_CREATED", {"brief": "chaos"})
        await self._ask(operation, self._creator)

    def _next(self, project: str) -> Operation:
        self._serial += 1
        transition = "CONTROL_RESUMED" if self._paused[project] else "CONTROL_PAUSED"
        return Operation(project, f"{self._name}:{self._serial}", transition, {"reason": "chaos"})

    async def _settle(self, operation: Operation, until: asyncio.Event) -> None:
        """Ask, and ask again under the same key while it is in doubt; now and then leave it so."""
        while True:
            outcome = await self._ask(operation)
            if isinstance(outcome, Accepted):
                self._done.append(operation)
                return
            if isinstance(outcome, Refused):
                self._heads[operation.project] = None
                await asyncio.sleep(PAUSE_SECONDS if outcome.code in NOT_ADMITTED else 0)
                return
            if until.is_set() or self._chance.random() < DOUBT_SHARE:
                self._heads[operation.project] = None
                return

    async def _ask(self, operation: Operation, client: Client | None = None) -> Outcome:
        attempt = Attempt(
            operation.project,
            operation.key,
            operation.transition,
            inputs_hash(operation.inputs),
            self._home,
            time.monotonic(),
            0.0,
            Verdict.UNKNOWN,
            session=self._name,
        )
        number = self._journal.begin(attempt)
        outcome: Outcome
        try:
            outcome = await (client or self._client).propose(
                operation.transition,
                inputs=operation.inputs,
                project=operation.project,
                idem_key=operation.key,
                decided_on=self._heads[operation.project] or GENESIS_HASH,
            )
        except ClientError as error:
            outcome = Unknown(operation.key, str(error))
        self._journal.complete(number, told(attempt, outcome, time.monotonic()))
        if isinstance(outcome, Accepted):
            self._index = max(self._index, outcome.index)
            if not outcome.duplicate or self._heads[operation.project] == outcome.state_pre_hash:
                self._heads[operation.project] = outcome.state_post_hash
                self._paused[operation.project] = operation.transition == "CONTROL_PAUSED"
        return outcome

    async def _read(self, project: str) -> None:
        local = self._heads[project] is not None and self._chance.random() < LOCAL_SHARE
        start = time.monotonic()
        try:
            if local:
                state = await self._reader.state(project, consistency="local", min_index=self._index)
            else:
                state = await self._client.state(project)
        except ClientError:
            await asyncio.sleep(PAUSE_SECONDS)
            return
        if state is None:
            self._journal.add(Read(project, self._home, start, time.monotonic(), GENESIS_HASH))
            await self._create(project)
            return
        staleness = MAX_STALENESS_SECONDS if local else 0.0
        end = time.monotonic()
        self._journal.add(Read(project, state.node, start, end, state.state_hash, staleness, self._name))
        self._index = max(self._index, state.index)
        if not local:
            self._heads[project] = state.state_hash
            self._paused[project] = state.projection["Pause"]["Phase"] == "PAUSED"


def told(attempt: Attempt, outcome: Outcome, end: float) -> Attempt:
    """The line of the history once the caller was answered."""
    about = (
        attempt.project, attempt.key, attempt.transition, attempt.inputs_hash, attempt.node, attempt.start, end
    )  # fmt: skip
    match outcome:
        case Accepted():
            return Attempt(
                *about,
                Verdict.ACCEPTED,
                state_pre_hash=outcome.state_pre_hash,
                state_post_hash=outcome.state_post_hash,
                seq=outcome.seq,
                session=attempt.session,
            )
        case Refused() if outcome.code in NOT_ADMITTED:
            return Attempt(*about, Verdict.NOT_ADMITTED, outcome.code)
        case Refused():
            return Attempt(*about, Verdict.REFUSED, outcome.code, head=outcome.state_hash)
        case Unknown():
            return Attempt(*about, Verdict.UNKNOWN)
