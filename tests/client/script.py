"""A world for the SDK that a test writes: what happens to each request, and a clock that never waits."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.entropy import SeededEntropy
from swoosh.client import Client, Key, Policy
from swoosh.client.transport import Reply

CLUSTER_ID = "swoosh-" + "0" * 32
KEY = Key.from_seed(bytes(range(32)))
HEAD = "sha256-" + "a" * 64
LATER = "sha256-" + "b" * 64
HLC_LAST = "2026-01-01T00:00:00.000+00:00#7"
START_US = 1_760_000_000_000_000


class LeapClock:
    """Sleeping takes no time and moves the clock all the same."""

    def __init__(self) -> None:
        self.now = 0.0
        self.naps: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def wall_us(self) -> int:
        return START_US + round(self.now * 1_000_000)

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it left the client."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body or b"{}")
        return found


Answer = Reply | Exception | Callable[[Asked], Reply]


@dataclass
class Script:
    """A transport that answers posts with what is written, in order; the last answer goes on for ever."""

    answers: Sequence[Answer] = ()
    head: str = HEAD
    asked: list[Asked] = field(default_factory=list)
    streams: list[list[str] | Exception] = field(default_factory=list)

    @property
    def posts(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.method == "POST"]

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Reply:
        asked = Asked(method, url, headers, body)
        self.asked.append(asked)
        if method == "GET":
            return self._state(asked)
        answer = self.answers[min(len(self.posts), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Reply) else answer(asked)

    async def lines(self, url: str, *, headers: Mapping[str, str], idle: float) -> AsyncIterator[bytes]:
        self.asked.append(Asked("GET", url, headers, None))
        stream = self.streams.pop(0)
        if isinstance(stream, Exception):
            raise stream
        for line in stream:
            yield line.encode()

    async def close(self) -> None:
        pass

    def _state(self, asked: Asked) -> Reply:
        if "/health" in asked.url:
            return reply(200, cluster_id=CLUSTER_ID)
        return reply(
            200,
            state_hash=self.head,
            hlc_last=HLC_LAST,
            index=1,
            node="n1",
            leader="n1",
            consistency="linearizable",
            projection={},
        )


def reply(status: int, /, **members: Any) -> Reply:
    """A node's JSON answer."""
    return Reply(status, {"content-type": "application/json", "retry-after": "3"}, json.dumps(members).encode())


def accepted(asked: Asked | None = None, *, duplicate: bool = False, **members: Any) -> Reply:
    """The proposal was applied."""
    key = asked.document.get("idem_key", "") if asked is not None else ""
    body = {
        "success": True,
        "project": "default",
        "transition": "T",
        "idem_key": key,
        "index": 9,
        "hlc": HLC_LAST,
        "state_pre_hash": HEAD,
        "state_post_hash": LATER,
        "decision": "sha256-" + "d" * 64,
        "duplicate": duplicate,
    }
    return reply(200, **{**body, **members})


def refused(code: str, status: int = 400, **members: Any) -> Reply:
    """The proposal was refused."""
    body = {"success": False, "code": code, "reasons": [f"because {code}"], "state_hash": LATER, "hlc_last": HLC_LAST}
    return reply(status, **{**body, **members})


def unavailable(code: str, *, admitted: bool) -> Reply:
    """Nobody could decide."""
    return refused(code, 503, admitted=admitted, error=code)


def client(script: Any, *, endpoints: int = 2, budget: float = 30.0, clock: LeapClock | None = None) -> Client:
    """A client in that world."""
    return Client(
        [f"http://n{number}" for number in range(1, endpoints + 1)],
        key=KEY,
        policy=Policy(budget=budget),
        clock=clock or LeapClock(),
        entropy=SeededEntropy(7),
        transport=script,
    )
