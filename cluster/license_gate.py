"""Whether anything may leave this node for the outside (Brief §9, §11): the license, as committed state has it.

Outbound traffic is closed twice. For the node: until some project was licensed, and while the license fact is neither
active nor in grace. For a project: also while its own license region says NONE or EXPIRED. The license authority itself
is never asked for here, or the gate could not open again; nor are the members of the cluster.

Time is the stamp that an entry made now would get, so the gate closes on a quiet cluster too. This module must never
look at anything but what is committed.
"""

from __future__ import annotations

from cluster.clock import Clock
from swoosh.facts import Known
from swoosh.machine import Applied, Machine
from swoosh.regions.license import lapsed, open_until
from swoosh.state import ProjectRegions

_CLOSED_PHASES = ("NONE", "EXPIRED")
_GRANTED = "BOOT_LICENSE_GRANTED"


class LicenseGate:
    """The gate of one node."""

    def __init__(self, machine: Machine, clock: Clock) -> None:
        self._machine, self._clock = machine, clock
        self._was_licensed: bool | None = None
        """Whether some project was ever licensed: LICENSED is left by nobody. None until somebody asks."""

    def on_applied(self, applied: Applied) -> None:
        """Notice the first license, so that nobody has to look through all projects for it again."""
        if not self._was_licensed and any(record.transition_name == _GRANTED for record, _ in applied.records):
            self._was_licensed = True

    def closed(self, project: str | None = None) -> str | None:
        """Why nothing may leave for `project`, or, without one, on the node's own behalf; None where it may."""
        if not self._some_project_licensed():
            return "no project of this cluster has been licensed yet"
        if (reason := lapsed(self._fact, self._now_ms, self._grace_ms)) is not None:
            return reason
        return None if project is None else self._closed_for(project)

    def seconds_left(self) -> float:
        """Until grace is over, if no other word of the license authority comes; never negative."""
        return max(0.0, (open_until(self._fact, self._grace_ms) - self._now_ms) / 1000)

    @property
    def _fact(self) -> Known | None:
        registry = self._machine.registry
        return registry.fact("license", registry.cluster_id)

    @property
    def _grace_ms(self) -> int:
        grace: int = self._machine.registry.setting("license_grace_ms")
        return grace

    @property
    def _now_ms(self) -> int:
        return max(self._machine.position.stamp_us, self._clock.wall_us()) // 1000

    def _closed_for(self, project_id: str) -> str | None:
        project = self._machine.project(project_id)
        if project is None or not isinstance(project.regions, ProjectRegions):
            return f"{project_id} is no project of this cluster"
        phase = project.regions.license.phase
        return f"the license of {project_id} is in phase {phase}" if phase in _CLOSED_PHASES else None

    def _some_project_licensed(self) -> bool:
        if self._was_licensed is None:
            projects = map(self._machine.project, self._machine.project_ids())
            self._was_licensed = any(
                isinstance(project.regions, ProjectRegions) and project.regions.boot.licensed
                for project in projects
                if project is not None
            )
        return self._was_licensed
