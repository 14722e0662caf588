"""Virtual time: an asyncio event loop that never waits, and the clock of one process of a simulated node.

The loop jumps to its next timer instead of sleeping, so a simulated minute costs what its callbacks cost, and the same
seed gives the same schedule. Every reading of a node's clock costs two microseconds, because the consensus library
spins on its clock in places and would never leave them if time stood still.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple

Ts = TypeVarTuple("Ts")

LOOK = 2e-6
TICK = 1e-12
EPOCH_US = 1_760_000_000_000_000


class _NothingToRead(selectors.SelectSelector):
    """Passes the time that a real selector would spend waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the simulation waits for something that nobody will ever do")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual seconds. Timers due at one moment run in the order in which they were set: asyncio's
    heap leaves that to chance."""

    def __init__(self) -> None:
        self._pace = _NothingToRead()
        self._timers_set = 0
        super().__init__(self._pace)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self._timers_set += 1
        return super().call_at(when + self._timers_set * TICK, callback, *args, context=context)

    def time(self) -> float:
        return self._pace.now

    def look(self) -> float:
        """Read the time, at the price of a little of it."""
        self._pace.now += LOOK
        return self._pace.now


class NodeTimer:
    """A timer of `NodeClock`."""

    def __init__(self, clock: NodeClock, callback: Callable[[], None]) -> None:
        self.clock, self.callback = clock, callback
        self.handle: asyncio.Handle | None = None
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self.clock.timers.discard(self)
        if self.handle is not None:
            self.handle.cancel()

    def fire(self) -> None:
        if self.clock.held is not None:
            self.clock.held.append(self)
        elif self in self.clock.timers:
            self.clock.timers.discard(self)
            self.clock.run(self.callback)


class NodeClock:
    """The `Clock` of one life of one node. Killing the node silences every timer it has set; freezing it holds those
    that fall due until it goes on."""

    def __init__(self, loop: VirtualLoop, run: Callable[[Callable[[], None]], None]) -> None:
        """`run(callback)` calls back into the node and handles its death."""
        self.loop, self.run = loop, run
        self.wall_offset_us = 0
        self.dead = False
        self.timers: set[NodeTimer] = set()
        self.held: list[NodeTimer] | None = None

    def monotonic(self) -> float:
        return self.loop.look()

    def wall_us(self) -> int:
        return EPOCH_US + round(self.loop.look() * 1_000_000) + self.wall_offset_us

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = self.loop.create_future()

        def wake() -> None:
            if not woken.done():  # a frozen node may have been told to give up before it wakes
                woken.set_result(None)

        timer = self.call_later(seconds, wake)
        try:
            await woken
        finally:
            timer.cancel()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> NodeTimer:
        timer = NodeTimer(self, callback)
        if not self.dead:
            self.timers.add(timer)
            timer.handle = self.loop.call_later(max(0.0, seconds), timer.fire)
        return timer

    def freeze(self) -> None:
        self.held = []

    def thaw(self) -> None:
        held, self.held = self.held or [], None
        for timer in held:
            timer.fire()

    def kill(self) -> None:
        self.dead = True
        for timer in list(self.timers):
            timer.cancel()
