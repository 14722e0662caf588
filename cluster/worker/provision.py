"""``swoosh worker provision``: the saga of a project's environment as its proposer sees it, in either direction.

Up: allocate what is wanted, request each effect and wait for its receipt, name what was built by its hash, wait until
it is healthy. Down: take every asset back, one after the other, until nothing is left. Once anything was taken back,
everything is. What waits longer than somebody's patience is taken back too: a receiver that is silent has not refused.

What is due follows from the committed environment alone, so a worker that was killed goes on where that stands. Whether
receipts come is the leader's business (cluster/providers/environment.py).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cluster.worker.common import Done, GaveUp, Step, Wait, work
from swoosh.client import Client, State
from swoosh.client.transport import Clock
from swoosh.hashing import digest
from swoosh.regions.environment import Allocation
from swoosh.state import Asset

REGIONS = ("Environment", "Execution")


class Seen(msgspec.Struct, frozen=True, rename="pascal"):
    """A project's environment as it is committed."""

    phase: str
    assets: dict[str, Asset]
    allocation: int

    def first(self, *states: str) -> str | None:
        """The first asset in one of these states."""
        return min((name for name, asset in self.assets.items() if asset.state in states), default=None)


async def provision(
    client: Client, project: str, wanted: Allocation, *, patience: float, clock: Clock, say: Callable[[str], None]
) -> Done:
    """Bring the environment up, or, if one thing is waited for longer than ``patience`` seconds, back to nothing.

    Raises:
        GaveUp: everything was taken back, or the cluster refused for good.
    """
    return await work(
        client, project, Ascent(wanted, patience, clock, say).decide, regions=REGIONS, clock=clock, say=say
    )


async def tear_down(client: Client, project: str, *, clock: Clock, say: Callable[[str], None]) -> Done:
    """Take everything back.

    Raises:
        GaveUp: the cluster refused for good.
    """

    async def decide(state: State | None) -> Step | Wait | Done:
        return Done("there is no such project") if state is None else down(*seen_in(state), "it is torn down")

    return await work(client, project, decide, regions=REGIONS, clock=clock, say=say)


class Ascent:
    """The way up, and back down where patience ends. All that it remembers is how long it has been waiting."""

    def __init__(self, wanted: Allocation, patience: float, clock: Clock, say: Callable[[str], None]) -> None:
        self._wanted, self._patience, self._clock, self._say = wanted, patience, clock, say
        self._waits_for, self._since = "", 0.0
        self._failure: str | None = None

    async def decide(self, state: State | None) -> Step | Wait | Done:
        if state is None:
            return Wait("somebody to create the project")
        seen, execution = seen_in(state)
        if self._failure is None:
            due = up(seen, execution, self._wanted)
            if not isinstance(due, Wait) or self._is_patient(due.what):
                return due
            self._failure = f"waited {self._patience:g} s for {due.what}"
            self._say(f"{self._failure}; everything is taken back")
        due = down(seen, execution, self._failure)
        if isinstance(due, Done):
            raise GaveUp(f"{self._failure}; everything was taken back")
        return due

    def _is_patient(self, what: str) -> bool:
        if what != self._waits_for:
            self._waits_for, self._since = what, self._clock.monotonic()
        return self._clock.monotonic() - self._since < self._patience


def seen_in(state: State) -> tuple[Seen, str]:
    """The environment, and the phase of execution."""
    phase: str = state.projection["Execution"]["Phase"]
    return msgspec.convert(state.projection["Environment"], Seen), phase


def up(seen: Seen, execution: str, wanted: Allocation) -> Step | Wait | Done:
    """What is due on the way up.

    Raises:
        GaveUp: something else is allocated.
    """
    if seen.phase == "ALLOCATE":
        return Step("ENVIRONMENT_CAPACITY_ALLOCATED", msgspec.to_builtins(wanted))
    if seen.first("REVERTING", "REVERTED") is not None:
        return down(seen, execution, "it begins again")
    held = {name: (asset.kind, asset.units) for name, asset in seen.assets.items()}
    if held != {asset.name: (asset.kind, asset.units) for asset in wanted.assets}:
        raise GaveUp(f"other assets are allocated: {', '.join(sorted(held))}; tear them down first")
    if seen.phase == "PROVISION":
        return _next_asset(seen)
    if seen.phase == "READY":
        return Done(f"{len(held)} assets are provisioned and healthy")
    return Wait("health that is green, and content that ingestion has pinned")


def down(seen: Seen, execution: str, reason: str) -> Step | Wait | Done:
    """What is due on the way down."""
    if seen.phase == "ALLOCATE":
        return Done("nothing is provisioned")
    if execution not in ("IDLE", "PLAN"):
        return Wait(f"execution to leave {execution}: what is worked on is not taken away")
    if seen.phase in ("HEALTHCHECK", "READY"):
        return Step("ENVIRONMENT_DEGRADED", {"reason": reason})
    going = seen.first("REVERTING")
    if going is not None:
        return Wait(f"the receipt that {going} is gone")
    name = seen.first("REQUESTED") or seen.first("CONFIRMED")
    if name is not None:
        inputs = {"asset": name, "effect": f"down-{seen.allocation}"}
        return Step("ENVIRONMENT_EFFECT_REVERT_REQUESTED", inputs)
    return Step("ENVIRONMENT_DEPROVISIONED", {"reason": reason})


def _next_asset(seen: Seen) -> Step | Wait:
    asked = seen.first("REQUESTED")
    if asked is not None:
        return Wait(f"the receipt for {asked}")
    name = seen.first("ALLOCATED")
    if name is not None:
        return Step("ENVIRONMENT_EFFECT_REQUESTED", {"asset": name, "effect": f"up-{seen.allocation}"})
    return Step("ENVIRONMENT_PROVISIONED", {"environment_hash": environment_hash(seen.assets)})


def environment_hash(assets: dict[str, Asset]) -> str:
    """What was built: every asset with its receipt."""
    return digest("environment", {name: [each.kind, each.units, each.receipt] for name, each in assets.items()})
