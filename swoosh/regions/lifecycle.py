"""Meta and lifecycle: how a project begins, and how it ends (Brief §4).

An end is final: TERMINATED closes every gate. Three transitions lead there, signed by different people for different
reasons, and all leave the same trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta
from msgspec.structs import replace

from swoosh import limits, state
from swoosh.catalog import Context, Verdict, effect, guard, inputs, passed, refused
from swoosh.guards import asset_in_flight
from swoosh.inputs import Formation, Inputs, check_distinct, check_names
from swoosh.schema import SCHEMA_HASH


@inputs
class ProjectBrief(Inputs, frozen=True):
    """What the project is for, where its code lives, the roles it will need, and whether the cluster fills them."""

    brief: Annotated[str, Meta(min_length=1, max_length=limits.BRIEF_CHARS_MAX)]
    repository: Annotated[str, Meta(max_length=limits.ADDRESS_CHARS_MAX)] = ""
    planned_roles: Annotated[tuple[str, ...], Meta(max_length=limits.ROLES_MAX)] = ()
    formation: Formation | None = None

    def __post_init__(self) -> None:
        check_names("planned_roles", *self.planned_roles)
        check_distinct("planned_roles", self.planned_roles)
        if self.formation is not None:
            if not self.planned_roles:
                raise ValueError("planned_roles: a council that the cluster forms has at least one role to fill")
            self.formation.check_beside("planned_roles", self.planned_roles)


@guard
def sagas_at_rest(c: Context) -> Verdict:
    """Reads the assets; refuses while the answer to an effect is awaited."""
    moving = asset_in_flight(c.regions.environment)
    if moving:
        seen = c.regions.environment.assets[moving].state
        return refused(f"asset {moving} is {seen}; its effect must be confirmed or reverted first")
    return passed("no effect is in flight outside")


@effect
def create_project(c: Context) -> Mapping[str, Any]:
    """The brief, and the machine the project was created under."""
    meta = state.Meta(
        version=c.registry.cluster.chart.version,
        schema_hash=SCHEMA_HASH,
        chart_hash=c.chart_hash,
        project_id=c.project,
        created_hlc=c.hlc,
        brief=c.inputs.brief,
        repository=c.inputs.repository,
        planned_roles=c.inputs.planned_roles,
        formation=None if c.inputs.formation is None else c.inputs.formation.kept,
    )
    return {"meta": meta}


@effect
def close_project(c: Context) -> Mapping[str, Any]:
    """Why it ended, and who said so."""
    return {"lifecycle": replace(c.regions.lifecycle, reason=c.inputs.reason, closed_by=c.signer)}
