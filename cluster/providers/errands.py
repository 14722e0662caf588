"""Errands: what a provider has to do outside, so many at a time, each at a pace of its own.

An errand that fails is in trouble, in words, and waits twice as long before each new try; one that is well says itself
when it is due again. Whoever is in the middle of an errand is not sent on it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple

from cluster.clock import Clock
from cluster.egress import Blocked, Unreachable
from cluster.entropy import Entropy

AT_ONCE = 16
PAUSE_MIN_SECONDS, PAUSE_MAX_SECONDS = 2.0, 30.0
DOUBLINGS_MAX = 8
"""An outage of a day must not count on until the number is none that a clock knows."""


class Trouble(Exception):
    """What somebody outside did is not what was agreed, in words."""


class _Last(NamedTuple):
    """How an errand went the last time: when it may be done again, how often it failed in a row, and why."""

    again_at: float
    failures: int
    trouble: str | None


class Errands:
    """The errands of one provider in one term."""

    def __init__(self, clock: Clock, entropy: Entropy) -> None:
        self._clock, self._entropy = clock, entropy
        self._running: dict[str, asyncio.Task[None]] = {}
        self._last: dict[str, _Last] = {}

    @property
    def trouble(self) -> str | None:
        """The first trouble by name, and how many more there are."""
        troubled = sorted((name, last.trouble) for name, last in self._last.items() if last.trouble is not None)
        if not troubled:
            return None
        (name, trouble), more = troubled[0], len(troubled) - 1
        return f"{name}: {trouble}" + (f"; and {more} more are in trouble" if more else "")

    def begin(self, name: str, errand: Callable[[], Awaitable[float]]) -> None:
        """Go on an errand, unless it is on its way, not due yet, or too many are. It returns the seconds until it may
        be due again; it raises Trouble, Blocked or Unreachable where it could not be done."""
        last = self._last.get(name)
        is_due = last is None or last.again_at <= self._clock.monotonic()
        if is_due and name not in self._running and len(self._running) < AT_ONCE:
            self._running[name] = asyncio.ensure_future(self._do(name, errand))

    def forget(self, name: str) -> None:
        """There is no such errand any more."""
        self._last.pop(name, None)

    def retain(self, names: Collection[str]) -> None:
        """There are no others than these any more; one that comes again is due at once."""
        self._last = {name: last for name, last in self._last.items() if name in names}

    def collect(self) -> None:
        """Take note of those that are done; raises what none of them should have raised."""
        for name in [name for name, task in self._running.items() if task.done()]:
            self._running.pop(name).result()

    def cancel(self) -> None:
        """Break off whatever is on its way; what becomes of it is unknown."""
        for task in self._running.values():
            task.cancel()

    async def _do(self, name: str, errand: Callable[[], Awaitable[float]]) -> None:
        last = self._last.get(name)
        failures = 0 if last is None else last.failures
        try:
            pause, failures, trouble = await errand(), 0, None
        except Blocked as error:  # nothing was tried, and looking again costs nothing
            pause, trouble = PAUSE_MIN_SECONDS, str(error)
        except (Trouble, Unreachable) as error:
            pause, trouble = min(PAUSE_MAX_SECONDS, PAUSE_MIN_SECONDS * 2**failures), str(error)
            failures = min(failures + 1, DOUBLINGS_MAX)
        spread = 0.5 + 0.5 * self._entropy.random() if trouble else 1.0
        self._last[name] = _Last(self._clock.monotonic() + pause * spread, failures, trouble)
