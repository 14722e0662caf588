"""The public port under slow, silent and too many callers. Time is a test's to move."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Self

import pytest

from cluster.clock import ManualClock
from cluster.http import listener
from cluster.http.app import public_app
from cluster.http.listener import Listener
from cluster.http.request import Limits
from cluster.telemetry.metrics import Metrics
from tests.http.desk import CHART, Desk

DEADLINE = 20.0
HEAD = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /transition HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"


@dataclass
class Raw:
    """A bare connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def dial(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> bytes:
        """One response head and body."""
        async with asyncio.timeout(DEADLINE):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            return head + await self.reader.readexactly(length)

    async def end(self) -> bytes:
        """Everything until the other side closes."""
        async with asyncio.timeout(DEADLINE):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def leave(self) -> None:
        self.writer.transport.abort()


@dataclass
class House:
    """A listener on a clock that stands still."""

    listener: Listener
    clock: ManualClock

    async def arrived(self) -> None:
        """Let bytes on the loopback reach the listener: a whole exchange on another connection comes after them."""
        probe = await Raw.dial(self.listener.port)
        await probe.say(HEAD)
        await probe.answer()
        await probe.leave()


Open = Callable[..., Awaitable[House]]


@pytest.fixture
async def open_house() -> AsyncIterator[Open]:
    houses: list[House] = []

    async def start(limits: Limits | None = None) -> House:
        clock = ManualClock()
        desk = Desk(clock=clock)
        app = public_app(desk, Metrics(CHART), limits)  # type: ignore[arg-type]
        port = Listener(app, clock, limits or Limits())
        await port.start("127.0.0.1", 0)
        houses.append(House(port, clock))
        return houses[-1]

    yield start
    for house in houses:
        await house.listener.stop()


async def test_a_head_that_never_ends_is_shown_out(open_house: Open) -> None:
    house = await open_house()
    slow = await Raw.dial(house.listener.port)
    await slow.say(HEAD[:20])
    await house.arrived()
    house.clock.advance(4.9)
    await slow.say(HEAD[20:30])
    await house.arrived()
    house.clock.advance(0.2)
    answer = await slow.end()
    assert answer.startswith(b"HTTP/1.1 408 ") and b'"TOO_SLOW"' in answer
    await slow.leave()


async def test_a_head_in_time_is_served_and_the_next_has_its_own_time(open_house: Open) -> None:
    house = await open_house()
    caller = await Raw.dial(house.listener.port)
    for _ in range(3):
        await caller.say(HEAD[:20])
        await house.arrived()
        house.clock.advance(4.0)
        await caller.say(HEAD[20:])
        assert (await caller.answer()).startswith(b"HTTP/1.1 200 ")
        house.clock.advance(30.0)
    await caller.leave()


async def test_a_body_that_never_ends_is_408(open_house: Open) -> None:
    house = await open_house()
    slow = await Raw.dial(house.listener.port)
    await slow.say(POST + b'{"a"')
    await house.arrived()
    house.clock.advance(10.1)
    answer = await slow.answer()
    assert answer.startswith(b"HTTP/1.1 408 ") and b'"TOO_SLOW"' in answer and b"onnection: close" in answer
    await slow.leave()


async def test_connections_beyond_the_cap_are_not_served(open_house: Open) -> None:
    house = await open_house(Limits(connections=2))
    held = [await Raw.dial(house.listener.port) for _ in range(2)]
    for caller in held:
        await caller.say(HEAD)
        assert (await caller.answer()).startswith(b"HTTP/1.1 200 ")
    one_more = await Raw.dial(house.listener.port)
    assert await one_more.end() == b""
    await one_more.leave()
    await held[0].leave()
    async with asyncio.timeout(DEADLINE):
        while True:  # the place is free once the listener has seen the first one go
            again = await Raw.dial(house.listener.port)
            try:
                await again.say(HEAD)
                assert (await again.answer()).startswith(b"HTTP/1.1 200 ")
                break
            except (ConnectionError, asyncio.IncompleteReadError):
                await again.leave()
    await again.leave()
    await held[1].leave()


async def test_a_head_too_large_ends_in_400(open_house: Open) -> None:
    house = await open_house()
    caller = await Raw.dial(house.listener.port)
    await caller.say(b"GET / HTTP/1.1\r\nHost: x\r\nX-Large: " + b"a" * 20_000 + b"\r\n\r\n")
    assert (await caller.answer()).startswith(b"HTTP/1.0 400 ")
    await caller.leave()


async def test_a_port_that_closes_waits_for_no_slow_caller(open_house: Open) -> None:
    house = await open_house()
    slow = await Raw.dial(house.listener.port)
    await slow.say(POST + b'{"a"')
    await house.arrived()
    async with asyncio.timeout(listener.FAREWELL_SECONDS + 4):
        await house.listener.stop()
    assert await slow.end() == b""
    await slow.leave()


async def test_two_requests_in_one_packet_are_both_answered(open_house: Open) -> None:
    house = await open_house()
    caller = await Raw.dial(house.listener.port)
    await caller.say(HEAD + HEAD)
    assert (await caller.answer()).startswith(b"HTTP/1.1 200 ")
    assert (await caller.answer()).startswith(b"HTTP/1.1 200 ")
    await caller.leave()
