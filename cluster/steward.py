"""The steward: the one place that proposes without a caller. It runs on the leader only.

A guard sees facts, but nothing fires by itself: someone must propose what follows from them. The steward compares
each project with the facts, tries on committed state whether a duty of the node role would be accepted, and proposes
it with the node's key. Its idempotency key is ``steward:<transition>:<epoch of the region>``: two stewards that see
the same state propose the same operation, and it is applied once. It paces itself, one batch in flight, and proposes
only what changes something.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple

from cluster.answers import Answer
from cluster.clock import Clock
from cluster.nodekey import NodeKey
from swoosh import hlc, signing
from swoosh.entry import Item, ProposalItem
from swoosh.hlc import HLC
from swoosh.machine import Applied, Layer, Machine
from swoosh.outcome import Accepted
from swoosh.proposal import CLUSTER, inputs_hash, to_sent
from swoosh.reducer import Place
from swoosh.state import SERVED, Project, ProjectRegions, Task, as_project

SWEEP_SECONDS = 0.5
SWEEP_PROJECTS = 200
BATCH_MAX = 64
SUBMIT_SECONDS = 5.0


class Duty(NamedTuple):
    """What the node role owes a project: when it is due by phase alone, and the inputs it takes."""

    transition: str
    due: Callable[[ProjectRegions], bool]
    inputs: Callable[[ProjectRegions, str], dict[str, Any]]


def _no_inputs(_: ProjectRegions, __: str) -> dict[str, Any]:
    return {}


def _health_is_news(regions: ProjectRegions) -> bool:
    pinned = regions.ingestion.content_hash
    stale = regions.environment.phase in ("HEALTHCHECK", "DEGRADED") or regions.environment.basis != pinned
    return bool(pinned) and regions.environment.phase in ("HEALTHCHECK", "DEGRADED", "READY") and stale


# Denial first: a license that was denied must not be granted grace.
DUTIES = (
    Duty("BOOT_CONFIGURED", lambda r: r.boot.phase == "UNINITIALIZED", lambda _, chart: {"chart_hash": chart}),
    Duty("BOOT_LICENSE_GRANTED", lambda r: r.boot.phase == "LICENSE_CHECK", _no_inputs),
    Duty("LICENSE_RENEWED", lambda r: r.license.phase in ("GRACE", "EXPIRED"), _no_inputs),
    Duty("LICENSE_EXPIRED", lambda r: r.license.phase in ("ACTIVE", "GRACE"), _no_inputs),
    Duty("LICENSE_GRACE", lambda r: r.license.phase == "ACTIVE", _no_inputs),
    Duty("EXECUTION_QUORUM_LOST", lambda r: r.recovery.phase == "STEADY", _no_inputs),
    Duty("CONTROL_RECOVERED", lambda r: r.recovery.phase == "RECOVERY", _no_inputs),
    Duty("ENVIRONMENT_HEALTHY", _health_is_news, lambda r, _: {"content_hash": r.ingestion.content_hash}),
    Duty(
        "ENVIRONMENT_DEGRADED",
        lambda r: r.environment.phase in ("HEALTHCHECK", "READY"),
        lambda _, __: {"reason": "health facts are not green"},
    ),
)


class Steward:
    """Watches projects in turn and proposes what is due.

    Args:
        submit: ``(items, deadline)`` to the queue of this leader.
    """

    def __init__(
        self,
        machine: Machine,
        clock: Clock,
        key: NodeKey,
        submit: Callable[[Sequence[Item], float], Awaitable[list[Answer]]],
        *,
        boots_default: bool,
    ) -> None:
        self._machine = machine
        self._clock = clock
        self._key = key
        self._submit = submit
        self._boots_default = boots_default
        self._moved: dict[str, None] = {}
        self._sweep_from = ""

    def on_applied(self, applied: Applied) -> None:
        """Look at what moved before anything else."""
        self._moved.update(dict.fromkeys(record.project for record, _ in applied.records))

    async def run(self) -> None:
        """Until cancelled: propose what is due, then rest until something may have changed."""
        while True:
            items = self._due_items()
            if items:
                await self._submit(items, self._clock.monotonic() + SUBMIT_SECONDS)
            else:
                await self._clock.sleep(SWEEP_SECONDS)

    def _due_items(self) -> list[Item]:
        layer = Layer(self._machine, self._machine.chart)
        items: list[Item] = []
        for project_id in self._next_projects():
            if len(items) >= BATCH_MAX:
                self._moved[project_id] = None
                continue
            items.extend(self._duties_of(project_id, layer))
        return items

    def _next_projects(self) -> list[str]:
        """Those that moved, and a slice of all the others, so that time and facts reach everyone."""
        moved, self._moved = list(self._moved), {}
        ids = self._machine.project_ids()
        start = next((i for i, pid in enumerate(ids) if pid > self._sweep_from), 0)
        swept = ids[start : start + SWEEP_PROJECTS]
        self._sweep_from = swept[-1] if swept and start + SWEEP_PROJECTS < len(ids) else ""
        return [pid for pid in dict.fromkeys([*moved, *swept]) if pid != CLUSTER]

    def _duties_of(self, project_id: str, layer: Layer) -> Iterator[Item]:
        project = self._machine.project(project_id)
        if project is None or as_project(project.regions).lifecycle.phase == "TERMINATED":
            return
        regions = as_project(project.regions)
        for duty in DUTIES:
            if duty.due(regions) and (self._boots_default or not self._is_default_boot(project_id, duty)):
                yield from self._if_accepted(
                    layer, project, duty.transition, duty.inputs(regions, self._machine.chart.hash)
                )
        for name in self._expired_tasks(regions):
            yield from self._if_accepted(layer, project, "EXECUTION_TASK_RELEASED", {"task": name})

    def _is_default_boot(self, project_id: str, duty: Duty) -> bool:
        """In a development cluster ``default`` is booted by its first caller, as the v1.0.0 guide shows."""
        return project_id == "default" and duty.transition.startswith("BOOT_")

    def _if_accepted(self, layer: Layer, project: Project, transition: str, inputs: dict[str, Any]) -> Iterator[Item]:
        """The item, if committed state would accept it now. One project gives at most one per round."""
        current = layer.project(project.id)
        if current is None or current.state_hash != project.state_hash:
            return
        item = self._item(project, transition, inputs)
        position = self._machine.position
        stamp_us = max(position.stamp_us + 1, self._clock.wall_us())
        (outcome,) = layer.judge(Place(position.index + 1, position.term, stamp_us), item)
        if isinstance(outcome, Accepted) and not outcome.duplicate:
            yield item

    def _item(self, project: Project, transition: str, inputs: dict[str, Any]) -> ProposalItem:
        shape = self._machine.chart.of(project.id).transitions[transition]
        epoch = project.regions.epoch.get(SERVED[type(project.regions)][shape.region], 0)
        document: dict[str, Any] = {
            "current_state_hash": project.state_hash,
            "transition": transition,
            "inputs": inputs,
            "inputs_hash": inputs_hash(inputs),
            "signer": self._key.principal,
            "idem_key": f"steward:{transition}:{epoch}",
            "hlc": str(hlc.merge(self._clock.wall_us() // 1000, HLC.parse(project.regions.hlc_last.hlc))),
            "window_id": "",
            "evidence": [],
            "project": project.id,
        }
        preimage = signing.proposal_preimage(document, self._machine.cluster_id)
        document["signature"] = signing.sign(self._key.private, preimage)
        return ProposalItem(to_sent(document))

    def _expired_tasks(self, regions: ProjectRegions) -> Iterator[str]:
        plan = regions.execution.plan
        if regions.execution.phase != "WORK" or plan is None or not (plan.claim_ms or plan.claim_beats):
            return
        now_ms = self._clock.wall_us() // 1000
        yield from (name for name, task in regions.execution.tasks.items() if _may_be_expired(task, now_ms))


def _may_be_expired(task: Task, now_ms: int) -> bool:
    """A cheap sieve; the guard decides by stamp and beat."""
    return task.state == "CLAIMED" and bool(task.expires_beat or (task.expires_ms and task.expires_ms <= now_ms))
