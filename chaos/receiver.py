"""An effect receiver in memory, and the way to it: what the environment's provider meets where no socket is.

The receiver itself is the real one (cluster/worker/receiver.py); only its disk and the network are played. A call that
has left arrives even if its caller dies meanwhile, and the answer then finds nobody.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from cluster.clock import Clock, done_by
from cluster.egress import Call, Gatekeeper, Reply, Unreachable
from cluster.worker.receiver import Answer, Receiver

URL = "http://receiver:9300"
ADDRESS = "receiver:9300"


class MemoryLedger:
    """Lines that survive the receiver."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        return iter(list(self.lines))

    def append(self, line: bytes) -> None:
        self.lines.append(line)


class MemoryGround:
    """What stands, and what is wrong with it."""

    def __init__(self) -> None:
        self.standing: set[tuple[str, str]] = set()
        self.faults: dict[tuple[str, str], tuple[Literal["amber", "red"], str]] = {}

    def build(self, project: str, asset: str) -> None:
        self.standing.add((project, asset))

    def clear(self, project: str, asset: str) -> None:
        self.standing.discard((project, asset))

    def fault(self, project: str, asset: str) -> tuple[Literal["amber", "red"], str] | None:
        return self.faults.get((project, asset))


class Dead(BaseException):
    """The receiver dies at this very instruction."""


class Site:
    """The machine on which a receiver runs, or does not."""

    def __init__(self, units: int = 100) -> None:
        self.ledger, self.ground, self.units = MemoryLedger(), MemoryGround(), units
        self.receiver: Receiver | None = None
        self.calls: list[tuple[dict[str, Any], int]] = []
        """Every request for an effect that arrived, and the status it was answered with."""
        self.start()

    def start(self) -> None:
        """Go on where the ledger stands."""
        self.receiver = Receiver(self.ledger, self.ground, self.units)

    def kill(self) -> None:
        """The process is gone; its disk is not."""
        self.receiver = None

    def effects(self) -> list[tuple[str, str, str]]:
        """What was done: project, asset and action of each line of the ledger."""
        lines = map(json.loads, self.ledger.lines)
        return [(line["project"], line["asset"], line["action"]) for line in lines]

    def answer(self, call: Call) -> Answer | None:
        """What the receiver answers; None where there is nobody, or nobody any more."""
        if self.receiver is None:
            return None
        try:
            return self._answer(self.receiver, call)
        except Dead:
            self.kill()
            return None

    def _answer(self, receiver: Receiver, call: Call) -> Answer:
        path = urlsplit(call.url).path
        if path == "/capacity":
            return receiver.capacity()
        if path.startswith("/health/"):
            return receiver.health(unquote(path.removeprefix("/health/")))
        answer = receiver.effect(call.body or b"")
        self.calls.append((json.loads(call.body or b"{}"), answer.status))
        return answer


class Way:
    """From one node to the receiver: as `Outside`."""

    def __init__(
        self, site: Site, keeper: Gatekeeper, clock: Clock, later: Callable[[float, Callable[[], None]], Any]
    ) -> None:
        """``later(seconds, callback)`` is a timer of the world's, which no node takes with it when it dies."""
        self._site, self._keeper, self._clock, self._later = site, keeper, clock, later
        self.delay: Callable[[Call], float] = lambda call: 0.005
        """Seconds a call is on its way, and its answer."""
        self.open = True

    def permit(self, system: str, url: str, project: str | None = None) -> None:
        self._keeper.permit(system, url, project)

    async def request(self, call: Call) -> Reply:
        self.permit(call.system, call.url, call.project)
        breaker = self._keeper.breaker(call.system, call.url)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        delay = self.delay(call)
        if self.open:
            self._later(delay, lambda: self._arrive(call, delay, reply))
        if not await done_by(self._clock, self._clock.monotonic() + call.timeout, reply):
            breaker.failed()
            raise Unreachable(f"{call.system} at {ADDRESS}: no answer within {call.timeout:g} s")
        breaker.succeeded()
        return reply.result()

    def _arrive(self, call: Call, delay: float, reply: asyncio.Future[Reply]) -> None:
        answer = self._site.answer(call)
        if answer is not None:
            found = Reply(answer.status, {}, json.dumps(answer.document).encode())
            self._later(delay, lambda: None if reply.done() else reply.set_result(found))
