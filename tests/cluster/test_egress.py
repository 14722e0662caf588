"""The way out: where to, whether, how long and how much; over real connections to small servers on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from cluster import egress
from cluster.breaker import FAILURES, PAUSE_SECONDS
from cluster.clock import ManualClock
from cluster.egress import Blocked, Call, Gatekeeper, Http, Outbound, Unreachable, address_of

Answering = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Elsewhere:
    """A server, and what it was asked."""

    def __init__(self, answering: Answering | None) -> None:
        self.asked: list[web.BaseRequest] = []
        self.connections = 0
        self._answering = answering

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request)
        return await self._answering(request) if self._answering else web.Response(text="here")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        runner = web.ServerRunner(web.Server(self.answer, access_log=None), shutdown_timeout=0.01)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


@asynccontextmanager
async def way_out(*allowed: str, proxy: str = "") -> AsyncIterator[tuple[Gatekeeper, Outbound, ManualClock]]:
    """An open gate before these addresses."""
    clock = ManualClock()
    keeper = Gatekeeper(clock, allowed)
    keeper.closed = lambda project: None
    sockets = Http(proxy=proxy)
    try:
        yield keeper, Outbound(keeper, sockets.send), clock
    finally:
        await sockets.close()


async def refused(outbound: Outbound, call: Call) -> str:
    with pytest.raises(Blocked) as found:
        await outbound.request(call)
    return str(found.value)


async def failed(outbound: Outbound, call: Call) -> str:
    with pytest.raises(Unreachable) as found:
        await outbound.request(call)
    return str(found.value)


def nobody() -> str:
    """A URL where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


# --- where to ---------------------------------------------------------------------------------------------------------


async def test_only_what_the_configuration_names_is_reached_however_it_is_spelled() -> None:
    server = Elsewhere(None)
    async with server.open() as url, way_out(address_of(url)) as (keeper, outbound, _):
        assert (await outbound.request(Call("mcp", "GET", url))).body == b"here"
        for other in ("http://127.0.0.1:1/", url.replace("127.0.0.1", "localhost"), "http://[::1", "file:///etc"):
            assert "is not an address this node is configured to reach" in await refused(
                outbound, Call("mcp", "GET", other)
            )
    assert len(server.asked) == 1
    assert keeper.counts == {("mcp", "answered"): 1, ("mcp", "blocked"): 4}


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://KACHING.example/v1", "kaching.example:443"),
        ("http://u:p@h:8080/x?y", "h:8080"),
        ("nats://beats", "beats:4222"),
        ("http://[::1]:80/", "[::1]:80"),
        ("http://h:99999/", "no address"),
    ],
)
def test_an_address_has_one_spelling(url: str, address: str) -> None:
    assert address_of(url) == address
    if address != "no address":
        keeper = Gatekeeper(ManualClock(), [address.upper()])
        keeper.closed = lambda project: None
        keeper.permit("mcp", url)


@pytest.mark.parametrize(
    ("address", "listed"),
    [
        ("ada.agents.test:9000", True),
        ("ADA.Agents.Test:9000", True),
        ("ada.agents.test:9001", False),
        ("agents.test:9000", False),
        ("ada.agents.test:9000.evil.test:80", False),
        ("10.0.0.7:8000", True),
        ("10.0.0.70:8000", False),
        ("kaching.test:443", False),
        ("[fd00::7]:9000", True),
        ("[fd01::7]:9000", False),
        ("f:9000", False),
    ],
)
def test_agents_are_reached_where_a_pattern_lets_them_be_and_nobody_else_is(address: str, listed: bool) -> None:
    """They say themselves where they are: what the list names for others is not theirs."""
    keeper = Gatekeeper(ManualClock(), ["kaching.test:443"], ["*.AGENTS.test:9000", "10.0.0.?:8000", "[FD00::*]:9000"])
    keeper.closed = lambda project: None
    if listed:
        keeper.permit("agents", f"http://{address}/health")
    else:
        with pytest.raises(Blocked, match=r"agents: .+ is not where this node may reach an agent; see whoosh\.agents"):
            keeper.permit("agents", f"http://{address}/health")
    with pytest.raises(Blocked, match=r"mcp: .+ see outbound\.allow"):
        keeper.permit("mcp", "http://ada.agents.test:9000/")


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    trap = Elsewhere(None)

    async def away(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": there})

    async with (
        trap.open() as there,
        Elsewhere(away).open() as url,
        way_out(address_of(url), address_of(there)) as (_, outbound, _),
    ):
        reply = await outbound.request(Call("mcp", "GET", url))
    assert (reply.status, reply.headers["location"]) == (302, there)
    assert not trap.asked


async def test_a_proxy_is_the_configured_one_and_never_the_environment_s(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, environment = Elsewhere(None), Elsewhere(None)
    async with proxy.open() as by, environment.open() as wrong:
        monkeypatch.setenv("HTTP_PROXY", wrong)
        monkeypatch.setenv("http_proxy", wrong)
        async with way_out("far.example:80", proxy=by) as (_, outbound, _):
            await outbound.request(Call("slurp", "GET", "http://far.example/path"))
        async with way_out(address_of(by)) as (_, outbound, _):
            await outbound.request(Call("slurp", "GET", by))
    assert proxy.asked[0].path == "/path"
    assert proxy.asked[0].host == "far.example"
    assert len(proxy.asked) == 2 and not environment.asked


# --- whether ----------------------------------------------------------------------------------------------------------


async def test_behind_a_closed_gate_only_the_license_authority_is_reached() -> None:
    server = Elsewhere(None)
    async with server.open() as url, way_out(address_of(url)) as (keeper, outbound, _):
        keeper.closed = lambda project: f"closed for {project}"
        assert await refused(outbound, Call("bubble", "POST", url, project="atlas")) == "bubble: closed for atlas"
        assert await refused(outbound, Call("mcp", "GET", url)) == "mcp: closed for None"
        assert not server.asked
        assert (await outbound.request(Call("kaching", "POST", url))).status == 200
        assert "is not an address" in await refused(outbound, Call("kaching", "POST", "http://elsewhere.example/"))


def test_before_the_state_is_known_nothing_leaves() -> None:
    keeper = Gatekeeper(ManualClock(), ["h:80"])
    with pytest.raises(Blocked, match="the state is not known yet"):
        keeper.permit("mcp", "http://h/")
    keeper.permit("kaching", "http://h/")


def test_what_has_no_place_in_the_metrics_has_none_here() -> None:
    with pytest.raises(AssertionError):
        Gatekeeper(ManualClock(), ["h:80"]).permit("somebody", "http://h/")


async def test_a_silent_address_is_left_alone_for_a_while_and_the_others_are_not() -> None:
    silent, server = nobody(), Elsewhere(None)
    async with server.open() as url, way_out(address_of(url), address_of(silent)) as (keeper, outbound, clock):
        for _ in range(FAILURES):
            assert "mcp at 127.0.0.1:" in await failed(outbound, Call("mcp", "GET", silent))
        assert "failed 5 times in a row" in await refused(outbound, Call("mcp", "GET", silent))
        assert list(keeper.resting()) == [f"mcp at {address_of(silent)}"]
        assert (await outbound.request(Call("mcp", "GET", url))).status == 200, "another address"
        assert "Cannot connect" in await failed(outbound, Call("slurp", "GET", silent)), "another system"
        clock.advance(PAUSE_SECONDS)
        assert "Cannot connect" in await failed(outbound, Call("mcp", "GET", silent)), "the one trial"
        assert "failed 6 times" in await refused(outbound, Call("mcp", "GET", silent))


async def test_a_status_that_displeases_is_an_answer_and_opens_no_breaker() -> None:
    async def broken(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=500, headers={"X-Reason": "whatever"})

    async with Elsewhere(broken).open() as url, way_out(address_of(url)) as (keeper, outbound, _):
        for _ in range(FAILURES + 1):
            reply = await outbound.request(Call("mcp", "GET", url))
            assert (reply.status, reply.headers["x-reason"]) == (500, "whatever")
    assert keeper.resting() == {}


# --- how long, how much -----------------------------------------------------------------------------------------------


async def test_what_does_not_answer_in_time_is_given_up() -> None:
    async def slow(_: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with Elsewhere(slow).open() as url, way_out(address_of(url)) as (keeper, outbound, _):
        assert "TimeoutError" in await failed(outbound, Call("mcp", "GET", url, timeout=0.05))
    assert keeper.counts["mcp", "unreachable"] == 1


async def test_the_end_of_grace_ends_what_is_on_its_way_and_begins_nothing() -> None:
    async def slow(_: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with Elsewhere(slow).open() as url, way_out(address_of(url)) as (keeper, outbound, _):
        keeper.seconds_left = lambda: egress.CLOSING_SECONDS + 0.05
        assert "TimeoutError" in await failed(outbound, Call("mcp", "GET", url, timeout=3_600))
        keeper.seconds_left = lambda: egress.CLOSING_SECONDS
        assert await refused(outbound, Call("mcp", "GET", url)) == "mcp: the grace of the license ends now"
        assert keeper.patience(Call("kaching", "POST", url, timeout=7)) == 7


async def test_no_connection_is_left_that_would_talk_later() -> None:
    seen: list[str | None] = []

    async def note(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        seen.append(str(request.transport.get_extra_info("peername")))
        return web.Response()

    async with Elsewhere(note).open() as url, way_out(address_of(url)) as (_, outbound, _):
        for _ in range(2):
            await outbound.request(Call("mcp", "GET", url))
    assert len(set(seen)) == 2, "a connection was kept and used again"


async def test_what_is_given_up_is_not_sent_again_by_the_kernel() -> None:
    """A reset, and not a farewell that waits for its acknowledgement."""
    ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(1024):
                pass
            ended.set_result(None)
        except OSError as error:
            ended.set_result(error)
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, way_out(address_of(url)) as (_, outbound, _):
        await failed(outbound, Call("mcp", "GET", url, timeout=0.05))
        assert isinstance(await ended, ConnectionResetError)


async def test_an_answer_has_a_bound_and_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def long(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"x" * int(request.path[1:]), headers={"Content-Encoding": "gzip"})

    monkeypatch.setattr(egress, "OUTSIDE_REPLY_BYTES_MAX", 1_000)
    server = Elsewhere(long)
    async with server.open() as url, way_out(address_of(url)) as (_, outbound, _):
        reply = await outbound.request(Call("mcp", "GET", f"{url}/1000"))
        assert reply.body == b"x" * 1_000, "as it came, whatever it claims to be"
        assert "more than 1000 bytes" in await failed(outbound, Call("mcp", "GET", f"{url}/1001"))
    assert server.asked[0].headers["Accept-Encoding"] == "identity"


async def test_what_is_sent_is_what_was_asked_for_without_cookies() -> None:
    async def cookie(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.Response(body=await request.read())
        answer.set_cookie("track", "1")
        return answer

    server = Elsewhere(cookie)
    async with server.open() as url, way_out(address_of(url)) as (_, outbound, _):
        for _ in range(2):
            reply = await outbound.request(Call("slurp", "POST", f"{url}/a", b"body", {"X-Token": "t"}))
            assert reply.body == b"body"
    assert server.asked[1].headers["X-Token"] == "t" and "Cookie" not in server.asked[1].headers
