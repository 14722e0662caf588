"""Laws that hold after every accepted transition (Brief §12), whatever the guards said.

They are the second line: a guard that lets something wrong through is a bug, and a law found broken stops that
transition. A broken law is answered INTERNAL and never repaired. What a law says of one region alone is looked at when
that region moved: until then it holds as it did before.
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
_BOUNDS = {
    "ingestion": (
        ("source_set", "sources", limits.SOURCES_MAX),
        ("previous", "versions", limits.VERSIONS_KEPT),
    ),
    "council": (
        ("planned_roles", "roles", limits.ROLES_MAX),
        ("claims", "claims", limits.ROLES_MAX),
        ("electorate", "electors", limits.ELECTORS_MAX),
        ("tool_pins", "tool pins", limits.TOOLS_MAX),
    ),
    "environment": (("assets", "assets", limits.ASSETS_MAX),),
    "execution": (
        ("tasks", "tasks", limits.TASKS_MAX),
        ("submissions", "submissions", limits.SUBMISSIONS_KEPT),
        ("history", "history", limits.HISTORY_KEPT),
    ),
    "policy": (("findings", "findings", limits.FINDINGS_MAX),),
}
"""{region: (collection, what it holds, how many at most)}."""


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
        if after.council is not before.council:
            yield from _council_rests_on_its_certificate(after)
        yield from _flags_follow_phases(after)
        yield from _collections_are_bounded(before, after)


def _order_moves_on(before: Regions, after: Regions) -> Iterator[str]:
    old, new = before.hlc_last, after.hlc_last
    earlier, later = HLC.parse(old.hlc), HLC.parse(new.hlc)
    if (later, new.signer, new.idem_key) <= (earlier, old.signer, old.idem_key):
        yield f"time went from {earlier} to {later}"


def _epochs_advance_once(transition: Transition, before: Regions, after: Regions) -> Iterator[str]:
    names, expected = SERVED[type(after)], dict(before.epoch)
    for region in (transition.region, *transition.also):
        expected[names[region]] = expected.get(names[region], 0) + 1
    if after.epoch != expected:
        yield f"epochs are {after.epoch}, expected was {expected}"


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


def _collections_are_bounded(before: ProjectRegions, after: ProjectRegions) -> Iterator[str]:
    for region, bounds in _BOUNDS.items():
        held = getattr(after, region)
        if held is not getattr(before, region):
            for attribute, what, most in bounds:
                size = len(getattr(held, attribute))
                if size > most:
                    yield f"{size} {what}, at most {most} are kept"
