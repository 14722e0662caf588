"""BOOT: the configuration is agreed, then the license opens the hard gate (Brief §4, §6).

The gate itself is judged by license.py; here is what the project keeps of it. A project is granted once in its life:
what happens to the license later moves the license region alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from swoosh import facts, limits, state
from swoosh.catalog import Context, Verdict, effect, guard, inputs, passed, refused
from swoosh.guards import said
from swoosh.hlc import time_text
from swoosh.inputs import Inputs, check_hashes


@inputs
class Configuration(Inputs, frozen=True):
    """What the caller believes it configures."""

    chart_hash: str

    def __post_init__(self) -> None:
        check_hashes("chart_hash", self.chart_hash)


@guard
def chart_matches(c: Context) -> Verdict:
    """Reads the inputs' chart hash; refuses one that is not the chart in force."""
    if c.inputs.chart_hash != c.chart_hash:
        return refused(f"the inputs name chart {c.inputs.chart_hash}; in force is {c.chart_hash}")
    return passed(f"chart {c.chart_hash} is in force")


@effect
def configure(c: Context) -> Mapping[str, Any]:
    """The project belongs to this cluster."""
    return {"boot": replace(c.regions.boot, node_id=c.registry.cluster_id)}


@effect
def grant_license(c: Context) -> Mapping[str, Any]:
    """The license fact it was granted on, in boot for good and in the license region until it is renewed."""
    fact = c.registry.fact("license", c.registry.cluster_id)
    assert fact is not None, "license_active saw it"
    until = min(said(fact, facts.License).valid_until, limits.HLC_MS_MAX)
    boot = replace(c.regions.boot, licensed=True, license_expiry=time_text(until), fact_digest=fact.digest)
    return {"boot": boot, "license": state.License(fact_digest=fact.digest)}
