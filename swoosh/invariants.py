"""Laws that hold after every accepted transition (Brief §12), whatever the guards said.

They are the second line: a guard that lets something wrong through is a bug, and a law found broken stops that
transition. A broken law is answered INTERNAL and never repaired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from swoosh import limits
from swoosh.chart import Transition
from swoosh.errors import InvariantBroken
from swoosh.hashing import digest
from swoosh.hlc import HLC
from swoosh.state import SERVED, ProjectRegions, Regions

_PLANNED = ("WORK", "REVIEW", "REVERB")


def check_frame(transition: Transition, changed: Mapping[str, Any]) -> None:
    """An effect touches its own region and those the chart lists under ``also``, and no other.

    Raises:
        InvariantBroken: naming the regions outside the frame.
    """
    outside = set(changed) - {transition.region, *transition.also}
    if outside:
        raise InvariantBroken(f"{transition.name}: effect {transition.effect} changed {sorted(outside)}")


def check(transition: Transition, before: Regions, after: Regions) -> None:
    """Every law that relates the state before and after an accepted transition.

    Raises:
        InvariantBroken: naming the first law that does not hold, and the values.
    """
    for fault in _laws(transition, before, after):
        raise InvariantBroken(f"{transition.name}: {fault}")


def _laws(transition: Transition, before: Regions, after: Regions) -> Iterator[str]:
    yield from _order_moves_on(before, after)
    yield from _epochs_advance_once(transition, before, after)
    if isinstance(before, ProjectRegions) and isinstance(after, ProjectRegions):
        yield from _execution_stands_on_ready_regions(before, after)
        yield from _council_rests_on_its_certificate(after)
        yield from _flags_follow_phases(after)
        yield from _collections_are_bounded(after)


def _order_moves_on(before: Regions, after: Regions) -> Iterator[str]:
    earlier, later = (
        (HLC.parse(r.hlc_last.hlc), r.hlc_last.signer, r.hlc_last.idem_key) for r in (before, after)
    )  # fmt: skip
    if later <= earlier:
        yield f"time went from {earlier} to {later}"


def _epochs_advance_once(transition: Transition, before: Regions, after: Regions) -> Iterator[str]:
    names = SERVED[type(after)]
    moved = {names[region] for region in (transition.region, *transition.also)}
    for region in names.values():
        step = after.epoch.get(region, 0) - before.epoch.get(region, 0)
        if step != (1 if region in moved else 0):
            yield f"epoch of {region} moved by {step}"


def _execution_stands_on_ready_regions(before: ProjectRegions, after: ProjectRegions) -> Iterator[str]:
    begun = before.lifecycle.phase != "EXECUTION" and after.lifecycle.phase == "EXECUTION"
    locked = before.execution.phase == "PLAN" and after.execution.phase == "WORK"
    if begun or locked:
        phases = (after.ingestion.phase, after.council.phase, after.environment.phase)
        if phases != ("READY", "READY", "READY"):
            yield f"execution entered while ingestion, council, environment are {phases}"
        hashes = {after.ingestion.content_hash, after.council.basis, after.environment.basis}
        if len(hashes) != 1 or "" in hashes:
            yield f"execution entered on different content: {sorted(hashes)}"
    if after.execution.phase in _PLANNED and after.execution.plan is None:
        yield f"execution in {after.execution.phase} without a plan"
    if after.execution.phase != "IDLE" and after.lifecycle.phase not in ("EXECUTION", "TERMINATED"):
        yield f"execution in {after.execution.phase} while the lifecycle is in {after.lifecycle.phase}"


def _council_rests_on_its_certificate(after: ProjectRegions) -> Iterator[str]:
    council = after.council
    if council.phase not in ("TOOLING_SYNC", "READY"):
        return
    if council.certificate is None or council.certificate.member_set_hash != council.member_set_hash:
        yield "the certificate does not match the elected set"
    if council.member_set_hash != digest("members", [_member(m) for m in council.members]):
        yield "member_set_hash is not the hash of the members"


def _member(member: Any) -> dict[str, str]:
    return {"role": member.role, "agent": member.agent, "principal": member.principal}


def _flags_follow_phases(after: ProjectRegions) -> Iterator[str]:
    if after.policy.quarantined != (after.policy.phase == "QUARANTINED"):
        yield f"Policy.Quarantined is {after.policy.quarantined} in phase {after.policy.phase}"
    if after.boot.licensed != (after.boot.phase == "LICENSED"):
        yield f"Boot.Licensed is {after.boot.licensed} in phase {after.boot.phase}"


def _collections_are_bounded(after: ProjectRegions) -> Iterator[str]:
    sizes = (
        ("tasks", len(after.execution.tasks), limits.TASKS_MAX),
        ("assets", len(after.environment.assets), limits.ASSETS_MAX),
        ("sources", len(after.ingestion.source_set), limits.SOURCES_MAX),
        ("versions", len(after.ingestion.previous), limits.VERSIONS_KEPT),
        ("roles", len(after.council.planned_roles), limits.ROLES_MAX),
        ("claims", len(after.council.claims), limits.ROLES_MAX),
        ("electors", len(after.council.electorate), limits.ELECTORS_MAX),
        ("tool pins", len(after.council.tool_pins), limits.TOOLS_MAX),
        ("findings", len(after.policy.findings), limits.FINDINGS_MAX),
        ("submissions", len(after.execution.submissions), limits.SUBMISSIONS_KEPT),
        ("history", len(after.execution.history), limits.HISTORY_KEPT),
    )
    for what, size, most in sizes:
        if size > most:
            yield f"{size} {what}, at most {most} are kept"
