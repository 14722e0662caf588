"""The probe against servers of the official SDK, on loopback: both eras, streams and sessions, and much trouble."""

from __future__ import annotations

import asyncio
from typing import Any

import mcp_types as types
import pytest
from mcp.server import _streamable_http_modern as modern_entry
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.clock import SystemClock
from cluster.egress import Gatekeeper, Http, Outbound, Unreachable, address_of
from cluster.providers.mcp_probe import Seen, ToolServer, Unusable, probe
from tests.toolserver import Exchange, noted, of_era, search_server, serving

CLOCK = SystemClock()


async def look(url: str, *, token: str = "", timeout: float = 10.0) -> Seen:
    """One look, the way a node takes it."""
    keeper = Gatekeeper(CLOCK, [address_of(url)])
    keeper.closed = lambda project: None
    sockets = Http()
    try:
        return await probe(ToolServer("search", url, token, timeout=timeout), Outbound(keeper, sockets.send), CLOCK)
    finally:
        await sockets.close()


async def seen(app: ASGIApp, **how: Any) -> Seen:
    async with serving(app) as url:
        return await look(url, **how)


@pytest.fixture
async def known() -> Seen:
    """What the search server is, by its modern answers."""
    return await seen(search_server().streamable_http_app())


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "sse"])
@pytest.mark.parametrize("stateless", [True, False], ids=["stateless", "stateful"])
@pytest.mark.parametrize(("era", "speaks"), [("both", "2026-07-28"), ("modern", "2026-07-28"),
                                             ("legacy", "2025-11-25"), ("strict", "2025-11-25")])  # fmt: skip
async def test_a_server_of_either_era_says_who_it_is(
    known: Seen, era: str, speaks: str, stateless: bool, as_json: bool
) -> None:
    app = search_server().streamable_http_app(json_response=as_json, stateless_http=stateless)
    exchanges: list[Exchange] = []
    found = await seen(noted(of_era(app, era), exchanges))
    assert found == known._replace(protocol_version=speaks), "and the tools hash to the same in both eras"
    assert (found.name, found.version) == ("search", "1.4.2")
    has_session = speaks != "2026-07-28" and not stateless
    assert [each.status for each in exchanges if each.method == "DELETE"] == [200] * has_session
    if speaks != "2026-07-28":
        assert ("text/event-stream" in {each.kind for each in exchanges}) is not as_json


async def test_a_modern_server_that_takes_its_time_answers_in_a_stream(
    known: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modern_entry, "_SSE_PING_INTERVAL", 0.001)
    exchanges: list[Exchange] = []
    app = search_server()
    listed = app.list_tools

    async def slowly(*args: Any, **how: Any) -> Any:
        await CLOCK.sleep(0.05)
        return await listed(*args, **how)

    monkeypatch.setattr(app, "list_tools", slowly)
    assert await seen(noted(app.streamable_http_app(), exchanges)) == known
    assert exchanges[-1].kind == "text/event-stream"


@pytest.mark.parametrize("era", ["both", "legacy"])
async def test_a_server_that_wants_a_token_is_seen_with_it_alone(known: Seen, era: str) -> None:
    def locked() -> ASGIApp:
        return of_era(search_server(token="open sesame").streamable_http_app(), era)

    assert (await seen(locked(), token="open sesame"))._replace(protocol_version="") == known._replace(
        protocol_version=""
    )
    for wrong in ("", "guess"):
        with pytest.raises(Unusable, match="401: its token is missing or not accepted"):
            await seen(locked(), token=wrong)


def shout(text: str) -> str:
    """Louder."""
    return text.upper()


@pytest.mark.parametrize("era", ["both", "legacy"])
async def test_another_version_and_other_tools_are_noticed(era: str) -> None:
    server = search_server()
    async with serving(of_era(server.streamable_http_app(), era)) as url:
        before = await look(url)
        server.tool(name="shout")(shout)
        more = await look(url)
        server.remove_tool("shout")
        again = await look(url)
    assert before == again != more and before.version == more.version
    newer = await seen(of_era(search_server("2.0.0").streamable_http_app(), era))
    assert newer == before._replace(version="2.0.0")


TOOLS = [
    types.Tool(name=f"tool-{n}", description="d", input_schema={"type": "object", "maximum": n / 4}) for n in range(7)
]


def paged(tools: list[types.Tool], size: int, version: str = "") -> Server[Any]:
    async def list_tools(
        ctx: ServerRequestContext[Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        start = int((params and params.cursor) or 0)
        following = str(start + size) if start + size < len(tools) else None
        return types.ListToolsResult(tools=tools[start : start + size], next_cursor=following)

    return Server("paged", version=version, on_list_tools=list_tools)


@pytest.mark.parametrize("era", ["both", "legacy"])
async def test_pages_and_their_order_do_not_matter(era: str) -> None:
    whole = await seen(of_era(paged(TOOLS, 100).streamable_http_app(), era))
    in_pages = await seen(of_era(paged(TOOLS[::-1], 2).streamable_http_app(), era))
    fewer = await seen(of_era(paged(TOOLS[1:], 100).streamable_http_app(), era))
    assert whole == in_pages and whole.tools_hash != fewer.tools_hash
    assert (whole.name, whole.version) == ("paged", ""), "a server need not have a version"


async def test_a_server_that_says_too_much_is_not_listened_to() -> None:
    long = [types.Tool(name="long", description="x" * (3 << 20), input_schema={"type": "object"})]
    with pytest.raises(Unusable, match="says more than"):
        await seen(paged(long, 1).streamable_http_app())
    endless = paged([TOOLS[0]] * 150, 1)
    with pytest.raises(Unusable, match="more than 100 pages"):
        await seen(endless.streamable_http_app())


async def test_a_server_that_hangs_is_unreachable_in_time() -> None:
    async def hangs(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "it knows nothing else"
        while (await receive())["type"] != "http.disconnect":
            pass

    with pytest.raises(Unreachable, match="TimeoutError"):
        await seen(hangs, timeout=0.2)


async def test_a_server_that_restarts_is_seen_again() -> None:
    async with serving(search_server().streamable_http_app()) as url:
        before = await look(url)
    with pytest.raises(Unreachable):
        await look(url)
    port = int(address_of(url).rpartition(":")[2])
    async with serving(search_server().streamable_http_app(), port) as again:
        assert again == url and await look(url) == before


async def test_a_look_that_is_given_up_says_nothing_more() -> None:
    """Leadership is lost: what was under way ends there and then, the session is left to the server."""
    listing, exchanges = asyncio.Event(), list[Exchange]()

    async def list_tools(*_: Any) -> types.ListToolsResult:
        listing.set()
        await asyncio.Event().wait()
        raise AssertionError

    app = Server("slow", on_list_tools=list_tools).streamable_http_app(json_response=True)
    async with serving(noted(of_era(app, "legacy"), exchanges)) as url:
        looking = asyncio.ensure_future(look(url))
        await listing.wait()
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
        assert "DELETE" not in {each.method for each in exchanges}
