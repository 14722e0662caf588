"""The worker that provisions: whatever it finds committed, it knows what is next, up and down."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from chaos import steer
from chaos.solo import Solo, the_chart
from cluster.worker.common import Done, GaveUp, Step, Wait
from cluster.worker.provision import Ascent, down, seen_in
from swoosh import state
from swoosh.client import State
from swoosh.outcome import Accepted
from swoosh.regions.environment import Allocation
from tests.client.script import LeapClock

WANTED = msgspec.convert({"assets": [{"name": name, "kind": "vm", "units": 1} for name in ("a", "b", "c")]}, Allocation)


class Stage:
    """A project, a leader that answers what is in flight when it is told to, and workers that may be replaced."""

    def __init__(self, patience: float = 60.0) -> None:
        self.solo, self.clock, self.patience = Solo(the_chart()), LeapClock(), patience
        steer.drive(self.solo, lambda regions: regions.ingestion.phase == "READY")
        self.solo.fact("capacity", "default", {"units_free": 9})
        self.said: list[str] = []
        self.steps: list[str] = []
        self.ascent = self.replaced()

    def replaced(self) -> Ascent:
        """Another worker, that knows nothing of the one before."""
        self.ascent = Ascent(WANTED, self.patience, self.clock, self.said.append)
        return self.ascent

    def look(self) -> State:
        regions = self.solo.regions()
        projection = {name: json.loads(b"".join(state.served(regions, name))) for name in ("Environment", "Execution")}
        return State(self.solo.head(), regions.hlc_last.hlc, 1, "n1", "n1", "linearizable", projection)

    async def ascend(self) -> Step | Wait | Done:
        return await self.ascent.decide(self.look())

    async def descend(self) -> Step | Wait | Done:
        return down(*seen_in(self.look()), "enough")

    def take(self, due: Step) -> None:
        signer = "op" if due.transition == "ENVIRONMENT_DEGRADED" else "pam"
        outcome = self.solo.propose(due.transition, due.inputs, signer=signer)
        assert isinstance(outcome, Accepted), outcome
        self.steps.append(due.transition.removeprefix("ENVIRONMENT_"))

    def answer(self) -> None:
        """What the leader and the facts do."""
        environment = self.solo.regions().environment
        if environment.phase == "HEALTHCHECK":
            self.solo.tick(1)
            self.solo.fact("health", "default", {"status": "green"})
            outcome = self.solo.propose(
                "ENVIRONMENT_HEALTHY", {"content_hash": self.solo.regions().ingestion.content_hash}
            )
            assert isinstance(outcome, Accepted), outcome
        for name, asset in environment.assets.items():
            if asset.state in ("REQUESTED", "REVERTING"):
                done = "CONFIRMED" if asset.state == "REQUESTED" else "REVERTED"
                inputs = {"asset": name, "effect": asset.effect, "receipt": self.solo.named(asset.effect)}
                assert isinstance(self.solo.propose(f"ENVIRONMENT_EFFECT_{done}", inputs), Accepted)

    async def go(
        self, decide: Callable[[], Awaitable[Step | Wait | Done]], *, each: Callable[[], object] = lambda: None
    ) -> Done:
        for _ in range(60):
            each()
            due = await decide()
            match due:
                case Done():
                    return due
                case Step():
                    self.take(due)
                case Wait():
                    self.answer()
        raise AssertionError(self.steps)

    @property
    def phase(self) -> str:
        return self.solo.regions().environment.phase


async def test_it_asks_for_one_asset_after_the_other_and_waits_until_all_is_well() -> None:
    stage = Stage()
    done = await stage.go(stage.ascend)
    assert stage.phase == "READY" and "3 assets" in done.what
    assert stage.steps == ["CAPACITY_ALLOCATED", *["EFFECT_REQUESTED"] * 3, "PROVISIONED"]


async def test_a_worker_that_is_replaced_before_every_step_does_the_same() -> None:
    one, many = Stage(), Stage()
    await one.go(one.ascend)
    await many.go(many.ascend, each=many.replaced)
    assert many.steps == one.steps
    assert many.solo.regions().environment == one.solo.regions().environment


async def test_taking_down_leaves_nothing() -> None:
    stage = Stage()
    await stage.go(stage.ascend)
    stage.steps.clear()
    await stage.go(stage.descend)
    assert stage.phase == "ALLOCATE" and len(stage.solo.regions().environment.assets) == 0
    assert stage.steps == ["DEGRADED", *["EFFECT_REVERT_REQUESTED"] * 3, "DEPROVISIONED"]


@pytest.mark.parametrize("steps", range(1, 6))
async def test_from_wherever_it_stands_it_can_be_taken_down_and_brought_up_again(steps: int) -> None:
    stage = Stage()
    while len(stage.steps) < steps:
        due = await stage.ascend()
        if isinstance(due, Step):
            stage.take(due)
        else:
            stage.answer()
    await stage.go(stage.descend)
    assert stage.phase == "ALLOCATE"
    stage.replaced()
    await stage.go(stage.ascend)
    assert stage.phase == "READY"


async def test_what_was_partly_taken_back_is_taken_back_whole_before_it_begins_again() -> None:
    stage = Stage()
    while len(stage.steps) < 3:
        due = await stage.ascend()
        if isinstance(due, Step):
            stage.take(due)
        else:
            stage.answer()
    stage.answer()
    due = await stage.descend()
    assert isinstance(due, Step)
    stage.take(due)
    stage.steps.clear()
    await stage.go(stage.ascend)
    assert stage.phase == "READY"
    assert stage.steps[:3] == ["EFFECT_REVERT_REQUESTED", "DEPROVISIONED", "CAPACITY_ALLOCATED"]


async def test_a_receiver_that_is_silent_for_too_long_is_asked_to_take_everything_back() -> None:
    stage = Stage(patience=30.0)
    for _ in range(2):
        due = await stage.ascend()
        assert isinstance(due, Step)
        stage.take(due)
    assert isinstance(await stage.ascend(), Wait)
    stage.clock.now += 29.0
    assert isinstance(await stage.ascend(), Wait)
    stage.clock.now += 2.0
    stage.steps.clear()
    with pytest.raises(GaveUp, match="waited 30 s for the receipt for a; everything was taken back"):
        await stage.go(stage.ascend)
    assert stage.steps == ["EFFECT_REVERT_REQUESTED", "DEPROVISIONED"]
    assert stage.phase == "ALLOCATE"


async def test_patience_is_for_one_thing_and_not_for_all_of_them() -> None:
    stage = Stage(patience=30.0)

    def slowly() -> None:
        stage.clock.now += 20.0

    await stage.go(stage.ascend, each=slowly)
    assert stage.phase == "READY"


async def test_what_somebody_else_allocated_is_not_touched() -> None:
    stage = Stage()
    other = {"assets": [{"name": "z", "kind": "vm", "units": 1}]}
    assert isinstance(stage.solo.propose("ENVIRONMENT_CAPACITY_ALLOCATED", other), Accepted)
    with pytest.raises(GaveUp, match="other assets are allocated: z"):
        await stage.ascend()


async def test_what_is_worked_on_is_not_taken_away() -> None:
    stage = Stage()
    steer.drive(stage.solo, lambda regions: regions.execution.phase == "WORK")
    due = await stage.descend()
    assert isinstance(due, Wait) and "WORK" in due.what
