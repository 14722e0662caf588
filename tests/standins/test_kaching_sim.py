"""The license authority's stand-in, asked over a real connection by the real adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from chaos.solo import key_of
from cluster.clock import SystemClock
from cluster.egress import Gatekeeper, Http, Outbound, Unreachable, address_of
from cluster.nodekey import NodeKey
from cluster.providers import kaching_wire
from cluster.providers.kaching_wire import NoWord, Terms
from cluster.standins.kaching import Authority, application
from swoosh import facts

SECRET = "s3cret"


class Desk:
    """The stand-in, served, and how it is asked."""

    def __init__(self, url: str, authority: Authority, session: aiohttp.ClientSession) -> None:
        self.url, self.authority, self._session = url, authority, session
        keeper = Gatekeeper(SystemClock(), [address_of(url)])
        self.sockets = Http()
        self.outbound = Outbound(keeper, self.sockets.send)

    async def ask(self, license_id: str = "lic", secret: str = SECRET, timeout: float = 5.0) -> facts.License:
        key = bytes.fromhex(self.authority.public_key)
        terms = Terms(f"{self.url}/v1/licenses/{license_id}/token", license_id, secret, key)
        call = kaching_wire.question(terms, cluster_id="c", node_id="n", nonce="7")
        reply = await self.outbound.request(call._replace(timeout=timeout))
        now_ms = SystemClock().wall_us() // 1000
        return kaching_wire.answer(terms, reply, cluster_id="c", nonce="7", now_ms=now_ms)

    async def control(self, **members: Any) -> dict[str, Any]:
        async with self._session.patch(f"{self.url}/control", json=members) as reply:
            return {"status": reply.status, **await reply.json()}


@asynccontextmanager
async def served() -> AsyncIterator[Desk]:
    clock = SystemClock()
    authority = Authority(NodeKey.of(key_of("authority")), "lic", SECRET, clock)
    runner = web.AppRunner(application(authority, clock), shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        desk = Desk(f"http://127.0.0.1:{runner.addresses[0][1]}", authority, session)
        try:
            yield desk
        finally:
            await desk.sockets.close()
            await runner.cleanup()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with served() as made:
        yield made


async def test_it_grants_what_it_is_told_to_grant(desk: Desk) -> None:
    before = SystemClock().wall_us() // 1000
    await desk.control(life_ms=60_000, grace_ms=1_000)
    said = await desk.ask()
    assert said.status == "active" and said.grace_until == said.valid_until + 1_000
    assert 60_000 <= said.valid_until - before <= 120_000
    for status in ("grace", "suspended", "expired", "denied"):
        await desk.control(status=status)
        assert (await desk.ask()).status == status
    assert (await desk.ask("another")).status == "denied"
    assert (await desk.control())["asked"] == 6


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"forged": True}, "not signed by the authority's key"),
        ({"clock_ms": -3_600_000}, "is a clock wrong"),
        ({"outage": "error"}, "status 500 without a token"),
    ],
)
async def test_it_misbehaves_as_ordered(desk: Desk, how: dict[str, Any], reason: str) -> None:
    await desk.control(**how)
    with pytest.raises(NoWord, match=reason):
        await desk.ask()


async def test_it_throttles_with_a_time(desk: Desk) -> None:
    await desk.control(retry_after_s=9)
    with pytest.raises(NoWord, match="throttling") as found:
        await desk.ask()
    assert found.value.retry_after == 9.0


@pytest.mark.parametrize("how", [{"outage": "reset"}, {"outage": "silence"}, {"latency_ms": 60_000}])
async def test_it_says_nothing(desk: Desk, how: dict[str, Any]) -> None:
    await desk.control(**how)
    with pytest.raises(Unreachable):
        await desk.ask(timeout=0.2)


async def test_it_lets_one_wait(desk: Desk) -> None:
    await desk.control(latency_ms=50)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await desk.ask()).status == "active"
    assert loop.time() - began >= 0.05


async def test_it_knows_its_client(desk: Desk) -> None:
    with pytest.raises(NoWord, match="status 401 without a token"):
        await desk.ask(secret="guessed")


async def test_an_order_that_makes_no_sense_changes_nothing(desk: Desk) -> None:
    for order in ({"status": "fine"}, {"mood": "bad"}, {"latency_ms": "long"}):
        answered = await desk.control(**order)
        assert answered["status"] == 400 and answered["error"]
    assert (await desk.ask()).status == "active"
