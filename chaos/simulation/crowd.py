"""Who calls: clients with the real SDK, each on a project of its choice, and what they were told.

A caller decides on what it last read, may be late, may ask again, and never concludes more than the SDK tells it. A
call is one entry of the history, however many attempts the SDK made of it: the promise is to the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from chaos.history import Attempt, Event, Read, Verdict
from chaos.simulation.plan import Step
from chaos.simulation.web import Caller
from cluster.entropy import SeededEntropy
from cluster.raft.transport import IDLE_SECONDS
from swoosh.client import Client, Key
from swoosh.client.answers import Accepted, Outcome, Refused, Rejected, Unavailable
from swoosh.client.client import Draft
from swoosh.client.retry import Policy
from swoosh.hashing import digest
from swoosh.proposal import CLUSTER, inputs_hash
from swoosh.state import GENESIS_HASH

if TYPE_CHECKING:
    from chaos.simulation.world import World

STALENESS_SECONDS = 5.0 + IDLE_SECONDS + 1.0
"""What a local read promises (the default of `max_staleness`), how long what it rests on may have been on its way, and
the time its answer takes to come."""
PATIENCE = Policy(budget=8.0, attempt=3.0)
POOLS = ("east", "west")
ASSETS = ("disk", "vm")
STEPS_AT_A_TIME = 3
GIVES_UP = 0.15


_ROLES = {"fact": "provider", "setting": "admin"}


class Crowd:
    """Every client of a run."""

    def __init__(self, world: World, keys: Mapping[str, Key]) -> None:
        """`keys` by who they belong to: an operator, an admin, a provider of facts."""
        self._world, self._keys = world, keys
        self.history: list[Event] = []
        self._clients: dict[str, Client] = {}
        self._sent: list[tuple[str, str, dict[str, Any], str]] = []
        self._heads: dict[str, list[str]] = {}
        self._serial = 0
        self.open: dict[asyncio.Task[None], None] = {}

    def act(self, step: Step) -> None:
        """Begin what a step of the plan says a client does."""
        actions: dict[str, Callable[[Client, str, str], Awaitable[None]]] = {
            "move": self._move, "stale": self._stale, "again": self._again, "batch": self._batch,
            "dry_run": self._dry_run, "read": self._read, "local_read": self._local_read, "fact": self._fact,
            "setting": self._setting, "provision": self._provision,
        }  # fmt: skip
        act = actions.get(step.do)
        if act is None:
            return
        task = self._world.loop.create_task(self._call(act, step))
        self.open[task] = None
        task.add_done_callback(lambda done: self.open.pop(done, None))

    async def _call(self, act: Callable[[Client, str, str], Awaitable[None]], step: Step) -> None:
        with suppress(Unavailable, Rejected):  # nothing was proposed, nothing was learnt
            await act(self._client(step.to, _ROLES.get(step.do, "operator")), step.to, step.with_["project"])

    def _client(self, name: str, role: str) -> Client:
        who = f"{name}-{role}"
        if who not in self._clients:
            world = self._world
            first = int(name.removeprefix("c")) % len(world.names)
            nodes = [*world.names[first:], *world.names[:first]]
            self._clients[who] = Client(
                [f"http://{node}" for node in nodes],
                key=self._keys[role],
                cluster_id=world.cluster_id,
                policy=PATIENCE,
                clock=world.clock,
                entropy=SeededEntropy(f"{world.plan.seed}/{who}"),
                transport=Caller(world, who),
            )
        return self._clients[who]

    # --- what they do -------------------------------------------------------------------------------------------------

    async def _move(self, client: Client, name: str, project: str) -> None:
        """What comes next, decided on HEAD."""
        head, phase = await self._look(client, name, project)
        await self._propose(client, name, project, _next(phase), head)

    async def _stale(self, client: Client, name: str, project: str) -> None:
        """Decided on what was HEAD a while ago."""
        heads = self._heads.get(project, [GENESIS_HASH])
        head = self._world.chance.pick(heads[-5:], "stale", self._serial)
        await self._propose(
            client, name, project, "CONTROL_PAUSED" if head != GENESIS_HASH else "PROJECT_CREATED", head
        )

    async def _again(self, client: Client, name: str, project: str) -> None:
        """An operation of before, under its key: asked for by whoever never learnt what became of it."""
        if not self._sent:
            return await self._move(client, name, project)
        where, transition, inputs, key = self._world.chance.pick(self._sent[-20:], "again", len(self._sent))
        await self._told(client, name, where, transition, inputs, key, None)
        return None

    async def _batch(self, client: Client, name: str, project: str) -> None:
        """Two transitions under one signature, the second on what the first produces."""
        head, phase = await self._look(client, name, project)
        first = _next(phase)
        second = "CONTROL_RESUMED" if first == "CONTROL_PAUSED" else "CONTROL_PAUSED"
        pairs = [(transition, self._inputs(transition), self._key_for(name)) for transition in (first, second)]
        drafts = [
            Draft(t, i, project, idem_key=k, decided_on=head if n == 0 else None) for n, (t, i, k) in enumerate(pairs)
        ]
        start = self._world.loop.time()
        outcomes = await self._unless_hung(client.batch(drafts), start, name, project, pairs)
        for (transition, inputs, key), outcome in zip(pairs, outcomes, strict=True):
            self._note(name, project, transition, inputs, key, start, outcome)

    async def _dry_run(self, client: Client, name: str, project: str) -> None:
        """A verdict that must not change anything."""
        head, phase = await self._look(client, name, project)
        await client.propose(
            _next(phase), inputs=self._inputs(_next(phase)), project=project, decided_on=head, dry_run=True,
            idem_key=f"dry-{self._key_for(name)}",
        )  # fmt: skip

    async def _read(self, client: Client, name: str, project: str) -> None:
        await self._look(client, name, project)

    async def _local_read(self, client: Client, name: str, project: str) -> None:
        start = self._world.loop.time()
        state = await client.state(project, consistency="local")
        if state is not None:
            end = self._world.loop.time()
            self.history.append(Read(project, state.node, start, end, state.state_hash, staleness=STALENESS_SECONDS))
            self._heads.setdefault(project, []).append(state.state_hash)

    async def _fact(self, client: Client, name: str, project: str) -> None:
        """Something was observed outside."""
        self._serial += 1
        await client.fact("capacity", POOLS[self._serial % 2], {"units_free": self._serial})

    async def _setting(self, client: Client, name: str, project: str) -> None:
        """An admin changes a setting of the cluster."""
        days = 1 + self._serial % 30
        inputs, key = {"name": "project_quota_units", "value": days}, self._key_for(name)
        await self._told(client, name, CLUSTER, "SETTING_SET", inputs, key, None)

    async def _provision(self, client: Client, name: str, project: str) -> None:
        """The next few steps of an environment: asset by asset until it stands, then back again."""
        for _ in range(STEPS_AT_A_TIME):
            state = await client.state(project, projection=("Environment",))
            gives_up = self._world.chance.at("gives up", self._serial) < GIVES_UP
            step = None if state is None else _environment_step(state.projection["Environment"], gives_up)
            if state is None or step is None:
                return
            transition, inputs = step
            await self._told(client, name, project, transition, inputs, self._key_for(name), state.state_hash)

    # --- what they were told ------------------------------------------------------------------------------------------

    async def _look(self, client: Client, name: str, project: str) -> tuple[str, str]:
        """HEAD and whether it is paused; a project nobody created is at genesis."""
        start = self._world.loop.time()
        state = await client.state(project, projection=("Pause",))
        head = GENESIS_HASH if state is None else state.state_hash
        node = name if state is None else state.node
        self.history.append(Read(project, node, start, self._world.loop.time(), head))
        self._heads.setdefault(project, []).append(head)
        return head, "" if state is None else state.projection["Pause"]["Phase"]

    async def _propose(self, client: Client, name: str, project: str, transition: str, head: str) -> None:
        inputs, key = self._inputs(transition), self._key_for(name)
        self._sent.append((project, transition, inputs, key))
        await self._told(client, name, project, transition, inputs, key, head)

    async def _told(
        self,
        client: Client,
        name: str,
        project: str,
        transition: str,
        inputs: dict[str, Any],
        key: str,
        head: str | None,
    ) -> None:
        start = self._world.loop.time()
        call = client.propose(transition, inputs=inputs, project=project, idem_key=key, decided_on=head)
        [outcome] = await self._unless_hung(_one(call), start, name, project, [(transition, inputs, key)])
        self._note(name, project, transition, inputs, key, start, outcome)

    async def _unless_hung(
        self,
        call: Awaitable[list[Outcome]],
        start: float,
        name: str,
        project: str,
        sent: list[tuple[str, dict[str, Any], str]],
    ) -> list[Outcome]:
        """The outcomes; a call that the end of the run cuts short may have been applied."""
        try:
            return await call
        except asyncio.CancelledError:
            for transition, inputs, key in sent:
                self._note(name, project, transition, inputs, key, start, None)
            raise

    def _note(
        self,
        name: str,
        project: str,
        transition: str,
        inputs: dict[str, Any],
        key: str,
        start: float,
        outcome: Outcome | None,
    ) -> None:
        asked = (project, key, transition, inputs_hash(inputs), name, start, self._world.loop.time())
        match outcome:
            case Accepted():
                event = Attempt(
                    *asked,
                    verdict=Verdict.ACCEPTED,
                    state_pre_hash=outcome.state_pre_hash,
                    state_post_hash=outcome.state_post_hash,
                    seq=outcome.seq,
                )
            case Refused():
                event = Attempt(*asked, verdict=Verdict.REFUSED, code=outcome.code, head=outcome.state_hash)
            case _:
                event = Attempt(*asked, verdict=Verdict.UNKNOWN)
        self.history.append(event)

    def _key_for(self, name: str) -> str:
        self._serial += 1
        return f"{name}-{self._serial}"

    def _inputs(self, transition: str) -> dict[str, Any]:
        return {"brief": "a story"} if transition == "PROJECT_CREATED" else {"reason": "a story"}


def _next(phase: str) -> str:
    """The transition a project may make next, by the phase of its pause; empty where there is no project."""
    if not phase:
        return "PROJECT_CREATED"
    return "CONTROL_RESUMED" if phase == "PAUSED" else "CONTROL_PAUSED"


def _environment_step(environment: Mapping[str, Any], gives_up: bool) -> tuple[str, dict[str, Any]] | None:
    """What an operator would propose for an environment in this state, which is now and then to take back what is being
    provisioned; None while others are to move."""
    phase, states = environment["Phase"], {name: held["State"] for name, held in environment["Assets"].items()}
    if phase == "ALLOCATE":
        wanted = [{"name": asset, "kind": "vm", "units": 1} for asset in ASSETS]
        return "ENVIRONMENT_CAPACITY_ALLOCATED", {"assets": wanted}
    if phase == "READY":
        return "ENVIRONMENT_DEGRADED", {"reason": "a story"}
    if phase not in ("PROVISION", "DEGRADED"):
        return None
    back = phase == "DEGRADED" or gives_up or "REVERTED" in states.values()
    transition = "ENVIRONMENT_EFFECT_REVERT_REQUESTED" if back else "ENVIRONMENT_EFFECT_REQUESTED"
    for asset, state in sorted(states.items()):
        if state == "REVERTING" or (state == "REQUESTED" and not gives_up):
            return None
        if state in (("CONFIRMED", "REQUESTED") if back else ("ALLOCATED",)):
            return transition, {"asset": asset, "effect": f"{transition[12:]}-{asset}"}
    if back:
        return "ENVIRONMENT_DEPROVISIONED", {"reason": "a story"}
    return "ENVIRONMENT_PROVISIONED", {"environment_hash": digest("environment", sorted(states))}


async def _one(call: Awaitable[Outcome]) -> list[Outcome]:
    return [await call]
