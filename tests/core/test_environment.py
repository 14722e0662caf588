"""Provisioning is a saga: written down before, confirmed after, taken back by its own steps."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swoosh.catalog import Context
from swoosh.merkle import MerkleMap
from swoosh.state import Asset, Environment, ProjectRegions
from tests.core.contexts import PROJECT, after, context, fact, first_refusal, h, holds, registry

REQUESTED, CONFIRMED, REVERT_REQUESTED, REVERTED = (
    f"ENVIRONMENT_EFFECT_{step}" for step in ("REQUESTED", "CONFIRMED", "REVERT_REQUESTED", "REVERTED")
)


def of(**states: str) -> ProjectRegions:
    """An environment in PROVISION; every asset's effect is named after it."""
    assets = {
        name: Asset(state, "vm", 1, "" if state == "ALLOCATED" else f"do-{name}") for name, state in states.items()
    }
    return ProjectRegions(environment=Environment(phase="PROVISION", assets=MerkleMap(assets)))


def step(name: str, asset: str, effect: str, regions: ProjectRegions) -> Context:
    inputs = {"asset": asset, "effect": effect}
    if name in (CONFIRMED, REVERTED):
        inputs["receipt"] = h("receipt")
    return context(name, inputs, regions=regions)


# --- capacity ---------------------------------------------------------------------------------------------------------


def allocation(*units: int, free: int | None = 10, age_ms: int = 0, quota: int = 8) -> Context:
    inputs = {"assets": [{"name": f"a{n}", "kind": "vm", "units": each} for n, each in enumerate(units)]}
    facts = () if free is None else (fact("capacity", "default", units_free=free, age_ms=age_ms),)
    on = registry(*facts, settings={"project_quota_units": quota})
    return context("ENVIRONMENT_CAPACITY_ALLOCATED", inputs, on=on)


@pytest.mark.parametrize(
    ("c", "granted"),
    [
        (allocation(4, 4), True),
        (allocation(4, 5), False),
        (allocation(4, free=3), False),
        (allocation(4, free=None), False),
        (allocation(4, age_ms=60_000), False),
    ],
)
def test_what_is_wanted_is_free_and_within_the_quota(c: Context, granted: bool) -> None:
    assert holds("capacity_available", c) is granted


def test_allocating_plans_and_asks_for_nothing_yet() -> None:
    environment = after(allocation(4, 4)).environment
    assert {name: asset.state for name, asset in environment.assets.items()} == {"a0": "ALLOCATED", "a1": "ALLOCATED"}
    assert environment.allocation == 1


@pytest.mark.parametrize(
    "asset", [{"name": "a b", "kind": "vm", "units": 1}, {"name": "a", "kind": "vm", "units": -1}, {"name": "a"}]
)
def test_assets_out_of_form_are_refused(asset: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        context("ENVIRONMENT_CAPACITY_ALLOCATED", {"assets": [asset]})


# --- the saga ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        (REQUESTED, {"ALLOCATED"}),
        (CONFIRMED, {"REQUESTED"}),
        (REVERT_REQUESTED, {"REQUESTED", "CONFIRMED"}),
        (REVERTED, {"REVERTING"}),
    ],
)
def test_each_step_leaves_the_states_it_may(name: str, legal: set[str]) -> None:
    effect = "do-vm" if name in (CONFIRMED, REVERTED) else "new"
    for state in ("ALLOCATED", "REQUESTED", "CONFIRMED", "REVERTING", "REVERTED"):
        assert holds("saga_step_next", step(name, "vm", effect, of(vm=state))) is (state in legal), state


@pytest.mark.parametrize("moving", ["REQUESTED", "REVERTING"])
def test_one_effect_is_in_flight_at_a_time(moving: str) -> None:
    for name, state in ((REQUESTED, "ALLOCATED"), (REVERT_REQUESTED, "CONFIRMED")):
        assert not holds("saga_step_next", step(name, "vm", "new", of(vm=state, other=moving)))
        assert holds("saga_step_next", step(name, "vm", "new", of(vm=state, other="CONFIRMED")))


def test_a_receipt_answers_the_request_it_was_made_for() -> None:
    assert holds("saga_step_next", step(CONFIRMED, "vm", "do-vm", of(vm="REQUESTED")))
    assert not holds("saga_step_next", step(CONFIRMED, "vm", "do-other", of(vm="REQUESTED")))
    assert not holds("saga_step_next", step(CONFIRMED, "ghost", "do-ghost", of(vm="REQUESTED")))


def test_an_unconfirmed_effect_is_reverted_under_a_name_of_its_own() -> None:
    asked = of(vm="REQUESTED")
    assert not holds("saga_step_next", step(REVERT_REQUESTED, "vm", "do-vm", asked))
    reverting = after(step(REVERT_REQUESTED, "vm", "undo-vm", asked))
    assert reverting.environment.assets["vm"].state == "REVERTING"
    assert not holds("saga_step_next", step(CONFIRMED, "vm", "do-vm", reverting)), "a late confirmation changes nothing"
    gone = after(step(REVERTED, "vm", "undo-vm", reverting)).environment.assets["vm"]
    assert (gone.state, gone.effect, gone.receipt) == ("REVERTED", "undo-vm", h("receipt"))


def test_where_in_the_log_an_effect_was_asked_for_is_state() -> None:
    """A name may be used again in a later allocation; its place in the log may not."""
    asked = after(step(REQUESTED, "vm", "do-vm", of(vm="ALLOCATED"))._replace(log_index=7))
    assert asked.environment.assets["vm"].index == 7
    answered = after(step(CONFIRMED, "vm", "do-vm", asked)._replace(log_index=9))
    assert answered.environment.assets["vm"].index == 7
    taken_back = after(step(REVERT_REQUESTED, "vm", "undo-vm", answered)._replace(log_index=12))
    assert taken_back.environment.assets["vm"].index == 12


@given(st.lists(st.tuples(st.sampled_from((REQUESTED, CONFIRMED, REVERT_REQUESTED, REVERTED)), st.sampled_from("abc"))))
def test_whatever_is_tried_at_most_one_effect_is_in_flight(tries: list[tuple[str, str]]) -> None:
    regions = of(a="ALLOCATED", b="ALLOCATED", c="ALLOCATED")
    for number, (name, asset) in enumerate(tries):
        held = regions.environment.assets[asset].effect or "none"
        c = step(name, asset, held if name in (CONFIRMED, REVERTED) else f"e{number}", regions)
        regions = after(c) if first_refusal(c) is None else regions
        moving = [a for a in regions.environment.assets.values() if a.state in ("REQUESTED", "REVERTING")]
        assert len(moving) <= 1


@pytest.mark.parametrize(
    ("states", "present", "reverted"),
    [
        ({}, False, True),
        ({"a": "CONFIRMED", "b": "CONFIRMED"}, True, False),
        ({"a": "CONFIRMED", "b": "REQUESTED"}, False, False),
        ({"a": "REVERTED", "b": "ALLOCATED"}, False, True),
        ({"a": "REVERTED", "b": "REVERTING"}, False, False),
    ],
)
def test_all_present_and_all_taken_back(states: dict[str, str], present: bool, reverted: bool) -> None:
    built = context("ENVIRONMENT_PROVISIONED", {"environment_hash": h("env")}, regions=of(**states))
    assert holds("all_assets_present", built) is present
    undone = context("ENVIRONMENT_DEPROVISIONED", {"reason": "done"}, regions=of(**states))
    assert holds("all_assets_reverted", undone) is reverted
    at_rest = not {"REQUESTED", "REVERTING"} & set(states.values())
    assert holds("sagas_at_rest", context("PROJECT_CLOSED", {"reason": "done"}, regions=of(**states))) is at_rest


# --- health -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "green", "degrades"),
    [("green", True, False), ("amber", False, True), ("red", False, True), (None, False, False)],
)
def test_health_is_what_a_fresh_fact_says(status: str | None, green: bool, degrades: bool) -> None:
    on = registry(*(() if status is None else (fact("health", PROJECT, status=status),)))
    healthy = context("ENVIRONMENT_HEALTHY", {"content_hash": h("content")}, on=on)
    assert holds("health_facts_green", healthy) is green
    for signer, allowed in (("pam", degrades), ("op", True)):
        c = context("ENVIRONMENT_DEGRADED", {"reason": "unwell"}, signer=signer, on=on)
        assert holds("health_facts_amber_or_operator", c) is allowed


def test_health_holds_for_the_content_named_until_it_degrades() -> None:
    on = registry(fact("health", PROJECT, status="green"))
    healthy = after(context("ENVIRONMENT_HEALTHY", {"content_hash": h("c2")}, on=on, regions=of(vm="CONFIRMED")))
    assert (healthy.environment.health, healthy.environment.basis) == ("green", h("c2"))
    unwell = after(context("ENVIRONMENT_DEGRADED", {"reason": "disk full"}, signer="op", regions=healthy)).environment
    assert (unwell.health, unwell.basis) == ("disk full", "")


def test_deprovisioning_leaves_nothing_but_the_reason() -> None:
    c = context("ENVIRONMENT_DEPROVISIONED", {"reason": "over quota"}, regions=of(vm="REVERTED"))
    environment = after(c).environment
    assert (len(environment.assets), environment.environment_hash, environment.health) == (0, "", "over quota")
