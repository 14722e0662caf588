"""One machine alone, the BACKBEAT provider of its node, and a broker in memory, on a clock that tests move."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from chaos import steer
from chaos.solo import TERM, Solo, the_chart
from cluster.answers import Answer
from cluster.clock import ManualClock
from cluster.egress import Blocked, Call, Reply
from cluster.entropy import SeededEntropy
from cluster.nodekey import NodeKey
from cluster.providers.backbeat import PACE_SECONDS, Backbeat, Settings
from cluster.providers.broker import MemoryBroker
from cluster.providers.leading import Leading
from swoosh import facts
from swoosh.entry import FactItem, Item
from swoosh.machine import Applied
from swoosh.windows import BEAT_SUBJECT

URL = "nats://127.0.0.1:4222"
BEATS, REPORTS, CLAIMS = "backbeat.lab.beat", "backbeat.lab.report", "backbeat.status.swoosh"
SETTINGS = Settings((URL,), "lab", "swoosh", BEATS, REPORTS, CLAIMS, "X-Key", "X-Signature")
PACE_MS = round(PACE_SECONDS * 1000)
TURNS = 12
"""Of the event loop, after which everyone waits for the clock again."""


class Gate:
    """The way out, open or closed, and how often it was asked for."""

    def __init__(self) -> None:
        self.closed: str | None = None
        self.asked = 0

    def permit(self, system: str, url: str, project: str | None = None) -> None:
        assert (system, url) == ("backbeat", URL)
        self.asked += 1
        if self.closed is not None:
            raise Blocked(self.closed)

    async def request(self, call: Call) -> Reply:
        raise AssertionError("BACKBEAT is no HTTP service")


class Band:
    """The cast. ``solo`` is licensed for so long that no test notices."""

    def __init__(self, **settings: Any) -> None:
        self.solo = Solo(the_chart(), settings={"window_source": "backbeat", **settings})
        self.license(lasts_ms=10**9)
        self.clock = ManualClock(self.solo.now_ms * 1000)
        self.broker, self.gate = MemoryBroker(), Gate()
        self.facts: list[facts.Fact] = []
        self.applied: list[Applied] = []
        self.stuck: asyncio.Event | None = None
        """Entries wait for it, where there is one."""
        self.providers: list[Backbeat] = []
        """One for each term, the newest last."""
        self._running: asyncio.Task[None] | None = None

    def license(self, *, lasts_ms: int, status: str = "active") -> None:
        """The authority's word."""
        self.solo.fact(*steer.license_fact(self.solo, status, lasts_ms))

    @property
    def provider(self) -> Backbeat:
        return self.providers[-1]

    async def start(self) -> None:
        """A node begins to lead: its provider knows nothing but what is on record."""
        self.providers.append(Backbeat(SETTINGS, self.broker, self.gate, SeededEntropy(0)))
        key = NodeKey.of(self.solo.keys["probe"])
        leading = Leading(TERM, self.solo.machine, self.clock, key, self._submit)
        self._running = asyncio.ensure_future(self.provider.run(leading))
        await self.turn()
        await self.pass_ms(PACE_MS)

    async def stop(self) -> None:
        """It no longer leads."""
        assert self._running is not None
        self._running.cancel()
        await self.turn()
        assert self._running.done()

    async def _submit(self, items: Sequence[Item], deadline: float) -> list[Answer]:
        if self.stuck is not None:
            await self.stuck.wait()
        self.facts += [facts.decode(item.sent) for item in items if isinstance(item, FactItem)]
        applied = self.solo.apply(*items)
        self.applied.append(applied)
        return list(applied.outcomes)

    async def turn(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def pass_ms(self, ms: int) -> None:
        """Time passes, a little at a time."""
        until = self.now_ms + ms
        while self.now_ms < until:
            self.clock.advance(min(50, until - self.now_ms) / 1000)
            self.solo.now_ms = self.now_ms
            await self.turn()

    @property
    def now_ms(self) -> int:
        return self.clock.wall_us() // 1000

    async def hear(self, message: Any, subject: str = BEATS) -> None:
        """The broker delivers, and the provider is ready for more."""
        self.say(message, subject)
        await self.turn()
        await self.pass_ms(PACE_MS)

    def say(self, message: Any, subject: str = BEATS) -> None:
        """The broker delivers."""
        self.broker.say(subject, message if isinstance(message, bytes) else json.dumps(message).encode())

    def held(self, kind: str = "beat") -> dict[str, Any] | None:
        known = self.solo.machine.registry.fact(kind, BEAT_SUBJECT)
        return None if known is None else known.body

    def recorded(self, kind: str = "beat") -> list[Any]:
        """Beat and phase of each frame on record, or the last beat of each report."""
        if kind == "beat":
            return [(fact.body["beat_index"], fact.body["phase"]) for fact in self.facts if fact.kind == kind]
        return [fact.body["to_beat"] for fact in self.facts if fact.kind == kind]
