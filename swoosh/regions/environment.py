"""Environment: what is allocated is provisioned step by step and can always be taken back (Brief §4, §11).

Provisioning is a saga: a step is committed *before* anything happens outside, and its receipt after. One step is in
flight at a time, so after any crash it is known exactly what may have happened. An asset goes one way, and back only
through its own revert:

    ALLOCATED → REQUESTED → CONFIRMED
                    └───────────┴→ REVERTING → REVERTED

Time-outs are no news: a requested effect that never answers is reverted, never assumed to have failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from swoosh import facts, limits
from swoosh.catalog import Context, Verdict, effect, guard, inputs, passed, refused
from swoosh.guards import asset_in_flight, said, signed_by_operator
from swoosh.inputs import Count, Inputs, Word, check_distinct, check_hashes, check_names
from swoosh.merkle import MerkleMap
from swoosh.state import Asset

POOL = "default"


class Step(NamedTuple):
    """One step of the saga: the states it may leave, and the one it enters."""

    sources: tuple[str, ...]
    target: str
    requests: bool


_STEPS = {
    "ENVIRONMENT_EFFECT_REQUESTED": Step(("ALLOCATED",), "REQUESTED", requests=True),
    "ENVIRONMENT_EFFECT_CONFIRMED": Step(("REQUESTED",), "CONFIRMED", requests=False),
    "ENVIRONMENT_EFFECT_REVERT_REQUESTED": Step(("REQUESTED", "CONFIRMED"), "REVERTING", requests=True),
    "ENVIRONMENT_EFFECT_REVERTED": Step(("REVERTING",), "REVERTED", requests=False),
}


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One asset to allocate."""

    name: str
    kind: Word
    units: Count

    def __post_init__(self) -> None:
        check_names("name", self.name)


@inputs
class Allocation(Inputs, frozen=True):
    """Everything the environment will consist of."""

    assets: Annotated[tuple[Wanted, ...], Meta(min_length=1, max_length=limits.ASSETS_MAX)]

    def __post_init__(self) -> None:
        check_distinct("assets", tuple(asset.name for asset in self.assets))


@inputs
class AssetStep(Inputs, frozen=True):
    """An effect that is about to be asked for. ``effect`` names the request; a receiver answers each name once."""

    asset: str
    effect: Word

    def __post_init__(self) -> None:
        check_names("asset", self.asset)


@inputs
class AssetReceipt(Inputs, frozen=True):
    """The receiver's answer to the request ``effect``, by the hash of its receipt."""

    asset: str
    effect: Word
    receipt: str

    def __post_init__(self) -> None:
        check_names("asset", self.asset)
        check_hashes("receipt", self.receipt)


@inputs
class EnvironmentBuilt(Inputs, frozen=True):
    """The hash of what was built."""

    environment_hash: str

    def __post_init__(self) -> None:
        check_hashes("environment_hash", self.environment_hash)


@guard
def capacity_available(c: Context) -> Verdict:
    """Reads the capacity fact and the project's quota; refuses more than is free or granted."""
    wanted, quota = sum(asset.units for asset in c.inputs.assets), c.registry.setting("project_quota_units")
    fact = c.fresh("capacity", POOL)
    if fact is None:
        return refused(f"no fresh capacity fact about pool {POOL}; its provider must report")
    free = said(fact, facts.Capacity).units_free
    faults = []
    if wanted > quota:
        faults.append(f"{wanted} units are wanted; the project's quota is {quota}")
    if wanted > free:
        faults.append(f"{wanted} units are wanted; {free} are free")
    if faults:
        return refused(*faults, facts=(fact.digest,))
    return passed(f"{wanted} units of {free} free and {quota} granted", facts=(fact.digest,))


@guard
def saga_step_next(c: Context) -> Verdict:
    """Reads the asset named and those in flight; refuses a step out of turn, or one beside another in flight."""
    step, name, assets = _STEPS[c.transition.name], c.inputs.asset, c.regions.environment.assets
    asset = assets.get(name)
    if asset is None:
        return refused(f"no asset {name} is allocated")
    if asset.state not in step.sources:
        return refused(f"asset {name} is {asset.state}; this step needs {' or '.join(step.sources)}")
    if not step.requests:
        return _answers(c, asset)
    other = asset_in_flight(c.regions.environment)
    if other not in (None, name):
        return refused(f"asset {other} is {assets[other].state}; one effect is in flight at a time")
    if c.inputs.effect == asset.effect:
        return refused(f"effect {asset.effect} was asked for already; a new request needs a new name")
    return passed(f"{name} is {asset.state} and no other effect is in flight")


@guard
def all_assets_present(c: Context) -> Verdict:
    """Reads the assets; refuses unless there is one and every one is CONFIRMED."""
    return _all_in(c, ("CONFIRMED",), none_is_enough=False)


@guard
def all_assets_reverted(c: Context) -> Verdict:
    """Reads the assets; refuses while one was asked for and is not REVERTED."""
    return _all_in(c, ("REVERTED", "ALLOCATED"), none_is_enough=True)


@guard
def health_facts_green(c: Context) -> Verdict:
    """Reads the project's health fact; refuses unless it is fresh and green."""
    fact = c.fresh("health", c.project)
    if fact is None:
        return refused(f"no fresh health fact about {c.project}; its probe must report")
    health = said(fact, facts.Health)
    if health.status != "green":
        return refused(f"health is {health.status[:40]}: {health.detail[:200]}; green is needed", facts=(fact.digest,))
    return passed("health is green", facts=(fact.digest,))


@guard
def health_facts_amber_or_operator(c: Context) -> Verdict:
    """Reads the project's health fact and the signer; refuses while green or unknown, unless an operator signs."""
    if signed_by_operator(c):
        return passed("an operator takes the environment out of service")
    fact = c.fresh("health", c.project)
    if fact is None:
        return refused(f"no fresh health fact about {c.project}; one that is not green, or an operator, is needed")
    health = said(fact, facts.Health)
    if health.status == "green":
        return refused("health is green; only an operator degrades a healthy environment", facts=(fact.digest,))
    return passed(f"health is {health.status[:40]}: {health.detail[:200]}", facts=(fact.digest,))


@effect
def allocate(c: Context) -> Mapping[str, Any]:
    """Everything is planned, nothing asked for yet."""
    held = c.regions.environment
    assets = MerkleMap({asset.name: Asset("ALLOCATED", asset.kind, asset.units) for asset in c.inputs.assets})
    return _moved(c, assets=assets, allocation=held.allocation + 1, environment_hash="", health="", basis="")


@effect
def saga_step(c: Context) -> Mapping[str, Any]:
    """The asset enters the step's state, under the request's name and place in the log or with the answer's receipt."""
    step, assets, sent = _STEPS[c.transition.name], c.regions.environment.assets, c.inputs
    news = {"effect": sent.effect, "index": c.log_index} if step.requests else {"receipt": sent.receipt}
    return _moved(c, assets=assets.set(sent.asset, replace(assets[sent.asset], state=step.target, **news)))


@effect
def record_environment(c: Context) -> Mapping[str, Any]:
    """What was built, by hash."""
    return _moved(c, environment_hash=c.inputs.environment_hash)


@effect
def record_health(c: Context) -> Mapping[str, Any]:
    """Green, for the content named."""
    return _moved(c, health="green", basis=c.inputs.content_hash)


@effect
def record_degradation(c: Context) -> Mapping[str, Any]:
    """Why it is out of service; it is healthy for no content."""
    return _moved(c, health=c.inputs.reason, basis="")


@effect
def clear_environment(c: Context) -> Mapping[str, Any]:
    """Nothing is left; why stays on record until the next allocation."""
    return _moved(c, assets=MerkleMap(), environment_hash="", health=c.inputs.reason, basis="")


def _answers(c: Context, asset: Asset) -> Verdict:
    if c.inputs.effect != asset.effect:
        return refused(f"the receipt is for effect {c.inputs.effect}; asked for was {asset.effect}")
    return passed(f"the receiver answered effect {asset.effect}")


def _all_in(c: Context, states: tuple[str, ...], *, none_is_enough: bool) -> Verdict:
    assets = c.regions.environment.assets
    others = sorted(name for name, asset in assets.items() if asset.state not in states)
    if others:
        seen = f"asset {others[0]} is {assets[others[0]].state}"
        more = f", and {len(others) - 1} more wait" if len(others) > 1 else ""
        return refused(f"{seen}{more}; {' or '.join(states)} is needed")
    if not assets and not none_is_enough:
        return refused("no asset is allocated")
    return passed(f"{len(assets)} assets are {' or '.join(states)}")


def _moved(c: Context, **changes: Any) -> Mapping[str, Any]:
    return {"environment": replace(c.regions.environment, **changes)}
