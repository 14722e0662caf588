"""Errands: each at its own pace, and one that fails for a day is still tried."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from cluster.clock import ManualClock
from cluster.egress import Blocked
from cluster.entropy import SeededEntropy
from cluster.providers.errands import PAUSE_MAX_SECONDS, Errands, Trouble


class Desk:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.errands = Errands(self.clock, SeededEntropy(1))
        self.tries: list[float] = []
        self.error: Exception | None = None

    async def errand(self) -> float:
        self.tries.append(self.clock.monotonic())
        if self.error is not None:
            raise self.error
        return 10.0

    async def go(self, seconds: float, step: float = 0.5) -> None:
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            self.errands.collect()
            self.errands.begin("it", self.errand)
            for _ in range(3):
                await asyncio.sleep(0)
            self.clock.advance(step)


async def test_one_that_is_well_says_when_it_is_due_again() -> None:
    desk = Desk()
    await desk.go(35.0)
    assert desk.tries == [0.0, 10.0, 20.0, 30.0]
    assert desk.errands.trouble is None


async def test_one_that_fails_for_a_day_is_tried_to_the_end_of_it() -> None:
    desk = Desk()
    desk.error = Trouble("no")
    await desk.go(86_400.0, step=5.0)
    pauses = [later - sooner for sooner, later in pairwise(desk.tries)]
    assert len(desk.tries) > 2_000 and max(pauses) <= PAUSE_MAX_SECONDS + 5.0
    desk.error = None
    await desk.go(PAUSE_MAX_SECONDS + 5.0)
    assert desk.errands.trouble is None


async def test_one_that_may_not_leave_is_looked_at_again_soon() -> None:
    """Nothing was tried: the way may be open again at any moment."""
    desk = Desk()
    desk.error = Blocked("not now")
    await desk.go(60.0)
    assert len(desk.tries) >= 20
    assert desk.errands.trouble == "it: not now"


async def test_what_nobody_expects_is_not_kept_quiet() -> None:
    desk = Desk()
    desk.error = KeyError("a bug")
    with pytest.raises(KeyError):
        await desk.go(5.0)
