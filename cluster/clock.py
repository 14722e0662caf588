"""Time: the only module of the node that reads a clock or sets a timer.

Everything else is handed a `Clock`. It must never be bypassed (no `time.time()`, no `asyncio.sleep()` elsewhere):
the simulator drives the very same node with a clock of its own, and a leader's stamps must come from one place.

Monotonic time (float seconds, arbitrary origin) measures durations and deadlines; wall time (integer microseconds
since the epoch, UTC) is only ever *proposed* to the log as a leader stamp and compared between peers.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Any, Protocol


class Handle(Protocol):
    """A pending timer."""

    def cancel(self) -> None:
        """Forget the timer; harmless when it has already run."""
        ...


class Clock(Protocol):
    """What a node knows of time."""

    def monotonic(self) -> float:
        """Seconds; never goes back; compare only with other readings of the same clock."""
        ...

    def wall_us(self) -> int:
        """Microseconds since the epoch, UTC; may jump either way."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; zero lets every other ready task run once."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Handle:
        """Run `callback` on the event loop after `seconds`; zero means as soon as the running callback is done."""
        ...


class SystemClock:
    """The machine's clocks, and the timers of the running event loop."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_us(self) -> int:
        return time.time_ns() // 1_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Handle:
        loop = asyncio.get_running_loop()
        return loop.call_soon(callback) if seconds <= 0 else loop.call_later(seconds, callback)


class ShiftedClock(SystemClock):
    """The machine's clocks, the wall clock off by ``offset_us()``: how a run makes one node's clock wrong."""

    def __init__(self, offset_us: Callable[[], int]) -> None:
        self._offset_us = offset_us

    def wall_us(self) -> int:
        return super().wall_us() + self._offset_us()


class ManualClock:
    """A clock that stands still until a test moves it.

    `advance` runs the timers that fall due, in the order of their deadlines, each seeing the time it was set for.
    """

    def __init__(self, wall_us: int = 1_760_000_000_000_000) -> None:
        self._now = 0.0
        self._wall_at_zero = wall_us
        self._timers: list[tuple[float, int, ManualHandle]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self._now

    def wall_us(self) -> int:
        return self._wall_at_zero + round(self._now * 1_000_000)

    def set_wall(self, us: int) -> None:
        """Step the wall clock to `us`; monotonic time does not move."""
        self._wall_at_zero = us - round(self._now * 1_000_000)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, lambda: woken.set_result(None))
        try:
            await woken
        finally:
            timer.cancel()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Handle:
        handle = ManualHandle(callback)
        heapq.heappush(self._timers, (self._now + max(seconds, 0.0), next(self._order), handle))
        return handle

    def advance(self, seconds: float) -> None:
        """Move both clocks forward by `seconds`, running every timer that falls due on the way."""
        until = self._now + seconds
        while self._timers and self._timers[0][0] <= until:
            self._now, _, handle = heapq.heappop(self._timers)
            handle.run()
        self._now = until


class ManualHandle:
    """A timer of `ManualClock`."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def run(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


async def done_by(clock: Clock, deadline: float, future: asyncio.Future[Any]) -> bool:
    """Wait until `future` is done or `clock.monotonic()` reaches `deadline`; say whether it is done.

    The future is neither cancelled nor consumed: who owns it decides what a late result means.
    """
    if future.done():
        return True
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(_: object = None) -> None:
        if not woken.done():
            woken.set_result(None)

    timer = clock.call_later(max(deadline - clock.monotonic(), 0.0), wake)
    future.add_done_callback(wake)
    try:
        await woken
    finally:
        timer.cancel()
        future.remove_done_callback(wake)
    return future.done()
