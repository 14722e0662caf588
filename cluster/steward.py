"""The steward: the one place that proposes without a caller. It runs on the leader only.

A guard sees facts, but nothing fires by itself: someone must propose what follows from them. The steward compares
each project with the facts, tries on committed state whether a duty of the node role would be accepted, and proposes
it with the node's key. Its idempotency key is ``steward:<transition>:<epoch of the region>``: two stewards that see
the same state propose the same operation, and it is applied once. It paces itself, one batch in flight, and proposes
only what changes something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from cluster.elector import profiles
from cluster.providers.leading import Leading
from swoosh.entry import Item
from swoosh.machine import Applied, Layer, Machine
from swoosh.outcome import Accepted
from swoosh.proposal import DEFAULT_PROJECT
from swoosh.reducer import Place
from swoosh.regions.license import is_active
from swoosh.state import SERVED, Project, ProjectRegions, Task

PACE_SECONDS = 0.05
SWEEP_SECONDS = 0.5
SWEEP_PROJECTS = 200
PROJECTS_BETWEEN_PAUSES = 16
BATCH_MAX = 64


class Seen(NamedTuple):
    """What decides at a glance whether a duty can be due. ``health`` is what the newest fact says, if there is one."""

    regions: ProjectRegions
    licensed: bool
    health: str | None


class Duty(NamedTuple):
    """What the node role owes a project. ``may_be_due`` is a sieve; whether it is due, the guards decide."""

    transition: str
    may_be_due: Callable[[Seen], bool]
    inputs: Callable[[ProjectRegions, Machine], dict[str, Any]]


def _no_inputs(_: ProjectRegions, __: Machine) -> dict[str, Any]:
    return {}


def _health_is_news(seen: Seen) -> bool:
    """Green, and it changes the phase or the content the environment was found healthy for."""
    held, pinned = seen.regions.environment, seen.regions.ingestion.content_hash
    in_phase = held.phase in ("HEALTHCHECK", "DEGRADED") or (held.phase == "READY" and held.basis != pinned)
    return bool(pinned) and seen.health == "green" and in_phase


def _council_sits(seen: Seen) -> bool:
    return seen.regions.lifecycle.phase == "EXECUTION" and bool(seen.regions.council.members)


def _council_is_asked_for(seen: Seen) -> bool:
    wanted, phases = seen.regions.meta.formation, (seen.regions.lifecycle.phase, seen.regions.council.phase)
    return wanted is not None and phases == ("PROJECT_LIFECYCLE", "PLAN_ROLES")


def _profiles(regions: ProjectRegions, machine: Machine) -> dict[str, Any]:
    assert regions.meta.formation is not None
    return profiles(machine.registry, regions.meta.planned_roles, regions.meta.formation)


DUTIES = (
    Duty(
        "BOOT_CONFIGURED",
        lambda s: s.regions.boot.phase == "UNINITIALIZED",
        lambda _, machine: {"chart_hash": machine.chart.hash},
    ),
    Duty("BOOT_LICENSE_GRANTED", lambda s: s.licensed and s.regions.boot.phase == "LICENSE_CHECK", _no_inputs),
    Duty("LICENSE_RENEWED", lambda s: s.licensed and s.regions.license.phase in ("GRACE", "EXPIRED"), _no_inputs),
    # Before grace: a license that was denied is granted none.
    Duty("LICENSE_EXPIRED", lambda s: not s.licensed and s.regions.license.phase in ("ACTIVE", "GRACE"), _no_inputs),
    Duty("LICENSE_GRACE", lambda s: not s.licensed and s.regions.license.phase == "ACTIVE", _no_inputs),
    Duty("COUNCIL_PROFILES_LOADED", _council_is_asked_for, _profiles),
    Duty("EXECUTION_QUORUM_LOST", lambda s: s.regions.recovery.phase == "STEADY" and _council_sits(s), _no_inputs),
    Duty("CONTROL_RECOVERED", lambda s: s.regions.recovery.phase == "RECOVERY", _no_inputs),
    Duty("ENVIRONMENT_HEALTHY", _health_is_news, lambda r, _: {"content_hash": r.ingestion.content_hash}),
    Duty(
        "ENVIRONMENT_DEGRADED",
        lambda s: s.health not in (None, "green") and s.regions.environment.phase in ("HEALTHCHECK", "READY"),
        lambda _, __: {"reason": "health facts are not green"},
    ),
)


class Steward:
    """Watches projects in turn and proposes what is due.

    Args:
        leading: the node's say in the term it leads.
        boots_default: whether the boot of ``default`` is a duty too.
        waiting: {member: incarnation} of the new stores that ask to be accepted in place of lost ones.
    """

    def __init__(
        self,
        leading: Leading,
        *,
        boots_default: bool,
        waiting: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._leading = leading
        self._machine = leading.machine
        self._clock = leading.clock
        self._boots_default = boots_default
        self._waiting = waiting
        self._moved: dict[str, None] = {}
        self._sweep_from = ""

    def on_applied(self, applied: Applied) -> None:
        """Look at what moved before anything else."""
        self._moved.update(dict.fromkeys(record.project for record, _ in applied.records))

    async def run(self) -> None:
        """Until cancelled: look at what moved, and in turn at everything else, and propose what is due."""
        sweep_at = self._clock.monotonic()
        while True:
            projects, self._moved = self._moved, {}
            if self._clock.monotonic() >= sweep_at:
                sweep_at = self._clock.monotonic() + SWEEP_SECONDS
                projects.update(dict.fromkeys(self._next_slice()))
            items = await self._due_items(projects)
            if items:
                await self._leading.submit(items)
            await self._clock.sleep(PACE_SECONDS)

    async def _due_items(self, projects: Iterable[str]) -> list[Item]:
        items: list[Item] = []
        for number, project_id in enumerate(projects, 1):
            if len(items) >= BATCH_MAX:
                self._moved[project_id] = None
            elif item := next(self._due(project_id), None):
                items.append(item)
            if number % PROJECTS_BETWEEN_PAUSES == 0:
                await self._clock.sleep(0)  # callers come first
        return items

    def _next_slice(self) -> list[str]:
        """A slice of all projects, so that time and facts reach everyone in turn."""
        ids = self._machine.project_ids()
        start = next((i for i, pid in enumerate(ids) if pid > self._sweep_from), 0)
        swept = ids[start : start + SWEEP_PROJECTS]
        self._sweep_from = swept[-1] if start + SWEEP_PROJECTS < len(ids) else ""
        return swept

    def _due(self, project_id: str) -> Iterator[Item]:
        """What committed state would accept now. One item per project and round: the next rests on a new state."""
        project = self._machine.project(project_id)
        if project is None:
            return
        if not isinstance(project.regions, ProjectRegions):
            for node, incarnation in sorted(self._waiting().items()):
                yield from self._if_accepted(project, "MEMBER_REJOINED", {"node": node, "incarnation": incarnation})
            return
        seen = self._seen(project_id, project.regions)
        for duty in DUTIES:
            if duty.may_be_due(seen) and (self._boots_default or not self._is_default_boot(project_id, duty)):
                inputs = duty.inputs(seen.regions, self._machine)
                yield from self._if_accepted(project, duty.transition, inputs)
        for name in self._expired_tasks(seen.regions):
            yield from self._if_accepted(project, "EXECUTION_TASK_RELEASED", {"task": name})

    def _seen(self, project_id: str, regions: ProjectRegions) -> Seen:
        registry = self._machine.registry
        license_fact, health = registry.fact("license", registry.cluster_id), registry.fact("health", project_id)
        licensed = is_active(license_fact, self._clock.wall_us() // 1000)
        return Seen(regions, licensed, None if health is None else health.body["status"])

    def _is_default_boot(self, project_id: str, duty: Duty) -> bool:
        """In a development cluster ``default`` is booted by its first caller, as the v1.0.0 guide shows."""
        return project_id == DEFAULT_PROJECT and duty.transition.startswith("BOOT_")

    def _if_accepted(self, project: Project, transition: str, inputs: dict[str, Any]) -> Iterator[Item]:
        shape = self._machine.chart.of(project.id).transitions[transition]
        epoch = project.regions.epoch.get(SERVED[type(project.regions)][shape.region], 0)
        item = self._leading.proposal(project, transition, inputs, key=f"steward:{transition}:{epoch}")
        position = self._machine.position
        place = Place(position.index + 1, position.term, max(position.stamp_us + 1, self._clock.wall_us()))
        (outcome,) = Layer(self._machine, self._machine.chart).judge(place, item)
        if isinstance(outcome, Accepted) and not outcome.duplicate:
            yield item

    def _expired_tasks(self, regions: ProjectRegions) -> Iterator[str]:
        plan = regions.execution.plan
        if regions.execution.phase != "WORK" or plan is None or not (plan.claim_ms or plan.claim_beats):
            return
        now_ms = self._clock.wall_us() // 1000
        yield from (name for name, task in regions.execution.tasks.items() if _may_be_expired(task, now_ms))


def _may_be_expired(task: Task, now_ms: int) -> bool:
    """A cheap sieve; the guard decides by stamp and beat."""
    return task.state == "CLAIMED" and bool(task.expires_beat or (task.expires_ms and task.expires_ms <= now_ms))
