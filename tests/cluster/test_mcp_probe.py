"""What a probe makes of the answers of servers that nobody should write, and what it says to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from cluster.clock import ManualClock
from cluster.egress import Blocked, Call, Reply, Unreachable
from cluster.providers.mcp_probe import LEGACY, MODERN, Seen, ToolServer, Unusable, probe, tools_hash

SERVER = ToolServer("search", "http://tools.example/mcp", token="secret-token", timeout=5.0)
TOOL = {"name": "find", "description": "d", "inputSchema": {"type": "object"}}
INFO = {"name": "search", "version": "1.4.2"}
DISCOVERED = {"supportedVersions": [MODERN], "_meta": {"io.modelcontextprotocol/serverInfo": INFO}}
GREETED = {"protocolVersion": LEGACY[0], "serverInfo": INFO}
KNOWN = Seen("search", "1.4.2", MODERN, tools_hash([TOOL]))

Say = Callable[[Call], Reply]


def raw(status: int, body: bytes = b"", kind: str = "application/json", **headers: str) -> Say:
    return lambda call: Reply(status, {"content-type": kind, **headers}, body)


def rpc(status: int = 200, **members: Any) -> Say:
    """A JSON-RPC answer to the request."""

    def answer(call: Call) -> Reply:
        asked = json.loads(call.body or b"{}")
        body = json.dumps({"jsonrpc": "2.0", "id": asked.get("id"), **members}).encode()
        return Reply(status, {"content-type": "application/json; charset=utf-8"}, body)

    return answer


def result(**members: Any) -> Say:
    return rpc(result=members)


def error(code: int, status: int = 400, **data: Any) -> Say:
    return rpc(status, error={"code": code, "message": "no", "data": data})


def stream(*events: str) -> Say:
    """Events, the last of which answers the request."""
    return lambda call: Reply(
        200,
        {"content-type": "text/event-stream"},
        "".join(events).replace("$id", str(json.loads(call.body or b"{}")["id"])).encode(),
    )


def greeting(call: Call) -> Reply:
    """The answer to `initialize`, with a session."""
    reply = result(**GREETED)(call)
    return reply._replace(headers={**reply.headers, "mcp-session-id": "s-1"})


class Scripted:
    """A server that gives a set answer to each method; what it is asked is kept."""

    def __init__(self, clock: ManualClock, **says: Say | Exception) -> None:
        self.says: dict[str, Say | Exception] = {
            "server/discover": result(**DISCOVERED),
            "initialize": result(**GREETED),
            "notifications/initialized": raw(202),
            "tools/list": result(tools=[TOOL]),
            "DELETE": raw(200),
        }
        self.says |= {name.replace("__", "/"): say for name, say in says.items()}
        self.clock, self.calls = clock, list[Call]()

    @property
    def asked(self) -> list[str]:
        return [self._method(call) for call in self.calls]

    def permit(self, system: str, url: str, project: str | None = None) -> None:
        raise AssertionError("HTTP asks by requesting")

    async def request(self, call: Call) -> Reply:
        assert (call.system, call.url) == ("mcp", SERVER.url)
        self.calls.append(call)
        say = self.says[self._method(call)]
        if isinstance(say, Exception):
            raise say
        return say(call)

    def _method(self, call: Call) -> str:
        return str(json.loads(call.body)["method"]) if call.body else call.method


async def look(**says: Say | Exception) -> tuple[Seen, Scripted]:
    server = Scripted(ManualClock(), **says)
    return await probe(SERVER, server, server.clock), server


async def refused(**says: Say | Exception) -> tuple[str, Scripted]:
    server = Scripted(ManualClock(), **says)
    with pytest.raises(Unusable) as complaint:
        await probe(SERVER, server, server.clock)
    assert "secret-token" not in str(complaint.value)
    return str(complaint.value), server


# --- what it says -----------------------------------------------------------------------------------------------------


async def test_modern_requests_stand_alone() -> None:
    found, server = await look()
    assert found == KNOWN and server.asked == ["server/discover", "tools/list"]
    for call in server.calls:
        sent = json.loads(call.body or b"")
        meta = sent["params"]["_meta"]
        assert call.headers["MCP-Protocol-Version"] == meta["io.modelcontextprotocol/protocolVersion"] == MODERN
        assert call.headers["Mcp-Method"] == sent["method"]
        assert meta["io.modelcontextprotocol/clientCapabilities"] == {}
        assert call.headers["Authorization"] == "Bearer secret-token"
        assert {"application/json", "text/event-stream"} == set(call.headers["Accept"].split(", "))
    assert len({json.loads(call.body or b"")["id"] for call in server.calls}) == 2


async def test_an_older_server_is_greeted_and_its_session_ended() -> None:
    found, server = await look(server__discover=raw(404), initialize=greeting)
    assert found == KNOWN._replace(protocol_version=LEGACY[0])
    assert server.asked == ["server/discover", "initialize", "notifications/initialized", "tools/list", "DELETE"]
    _, hello, *later = server.calls
    assert json.loads(hello.body or b"")["params"]["protocolVersion"] == LEGACY[0]
    assert not {"MCP-Protocol-Version", "Mcp-Method", "Mcp-Session-Id"} & set(hello.headers)
    for call in later:
        assert (call.headers["Mcp-Session-Id"], call.headers["MCP-Protocol-Version"]) == ("s-1", LEGACY[0])
    assert "_meta" not in json.loads(later[1].body or b"")["params"]


@pytest.mark.parametrize("trouble", [{"tools__list": raw(500)}, {"notifications__initialized": raw(400)}])
async def test_a_session_is_ended_also_where_the_look_failed(trouble: dict[str, Say]) -> None:
    for goodbye in (raw(405), Unreachable("gone"), Blocked("no more")):
        _, server = await refused(server__discover=raw(400), initialize=greeting, DELETE=goodbye, **trouble)
        assert server.asked[-1] == "DELETE"


async def test_one_look_has_one_deadline() -> None:
    clock = ManualClock()

    def slow(call: Call) -> Reply:
        clock.advance(2.0)
        return rpc(error={"code": -32601})(call)

    def too_slow(call: Call) -> Reply:
        clock.advance(9.0)
        return result(tools=[], nextCursor="2")(call)

    server = Scripted(clock, server__discover=slow, initialize=slow)
    with pytest.raises(Unusable):
        await probe(SERVER, server, clock)
    assert [call.timeout for call in server.calls] == [5.0, 3.0]
    late = Scripted(clock, tools__list=too_slow)
    with pytest.raises(Unusable, match="more than 5 s"):
        await probe(SERVER, late, clock)


# --- which era --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "says",
    [
        raw(400),
        raw(404),
        raw(405),
        raw(422, b"Unexpected message, expect initialize request", "text/plain"),
        raw(400, b"{not json"),
        raw(404, b"<html>", "text/html"),
        error(-32601, 404),
        error(-32601, 200),
        error(-32600),
        error(-32602, 200),
        error(-32000),
        error(-32022, supported=["2025-06-18"]),
        result(supportedVersions=["2025-11-25"]),
        result(),
    ],
)
async def test_an_answer_that_does_not_know_the_question_is_of_the_older_era(says: Say) -> None:
    found, server = await look(server__discover=says)
    assert found.protocol_version == LEGACY[0] and "initialize" in server.asked


@pytest.mark.parametrize(
    "says",
    [
        raw(401),
        raw(403, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"origin"}}'),
        raw(408),
        raw(429),
        raw(500),
        error(-32603, 503),
        raw(502, b"<html>", "text/html"),
        error(-32020),
        error(-32021),
        error(-32022, supported=["2027-01-01"]),
        error(-32022),
        raw(200, b"garbage"),
        raw(200, b"<html>", "text/html"),
        raw(202),
        raw(204),
        raw(307, location="http://elsewhere.example/"),
        rpc(id=77, result=DISCOVERED),
        rpc(jsonrpc="1.0", result=DISCOVERED),
    ],
)
async def test_any_other_answer_is_no_verdict_on_the_era(says: Say) -> None:
    _, server = await refused(server__discover=says)
    assert server.asked == ["server/discover"]


@pytest.mark.parametrize("silence", [Unreachable("no route"), Blocked("no license")])
async def test_silence_is_no_verdict_on_the_era(silence: Exception) -> None:
    server = Scripted(ManualClock(), server__discover=silence)
    with pytest.raises(type(silence)):
        await probe(SERVER, server, server.clock)
    assert server.asked == ["server/discover"]


@pytest.mark.parametrize("version", ["2099-01-01", MODERN, None, 3])
async def test_an_echo_is_no_handshake(version: Any) -> None:
    complaint, _ = await refused(server__discover=raw(400), initialize=result(protocolVersion=version))
    assert "no handshake" in complaint


# --- what comes back --------------------------------------------------------------------------------------------------


async def test_a_stream_is_read_past_all_that_is_no_answer() -> None:
    answer = json.dumps({"jsonrpc": "2.0", "id": "$id", "result": DISCOVERED}).replace('"$id"', "$id")
    first, rest = answer.split(", ", 1)
    found, _ = await look(
        server__discover=stream(
            ": comment\r\n\r\n",
            "id: 1\r\nretry: 5\r\ndata: \r\n\r\n",
            "event: ping\ndata: 2026-11-21\n\n",
            'data: {"jsonrpc":"2.0","method":"notifications/message","params":{}}\n\n',
            'data: {"jsonrpc":"2.0","id":9,"method":"sampling/createMessage"}\n\n',
            f"event: message\r\ndata: {first},\r\ndata:{rest}\r\n\r\n",
        )
    )
    assert found == KNOWN


async def test_a_stream_that_ends_without_an_answer_is_none() -> None:
    complaint, _ = await refused(tools__list=stream(": nothing\n\n"))
    assert complaint == "tools/list: HTTP 200 without a JSON-RPC answer"


@pytest.mark.parametrize(
    "says",
    [
        result(),
        result(tools={}),
        result(tools=["find"]),
        result(tools=[{"description": "nameless"}]),
        result(tools=[{**TOOL, "description": "\ud800"}]),
        raw(200, b'{"jsonrpc":"2.0","id":2,"result":{"tools":' + b"[" * 100_000),
        rpc(result=[TOOL]),
        result(tools=[TOOL], nextCursor="again"),
        error(-32603, 200),
    ],
)
async def test_a_list_that_is_none_is_refused(says: Say) -> None:
    complaint, _ = await refused(tools__list=says)
    assert complaint.startswith("tools/list")


@pytest.mark.parametrize("named", [{"version": 7}, {"version": "1" * 129}, {"name": "e\u0301"}, {"version": "\ud800"}])
async def test_a_name_that_cannot_be_recorded_is_refused(named: dict[str, Any]) -> None:
    info = {"io.modelcontextprotocol/serverInfo": {**INFO, **named}}
    complaint, _ = await refused(server__discover=result(**{**DISCOVERED, "_meta": info}))
    assert "name or version" in complaint


@pytest.mark.parametrize("meta", [{}, None, [], {"io.modelcontextprotocol/serverInfo": "me"}])
async def test_a_server_need_not_say_who_it_is(meta: Any) -> None:
    found, _ = await look(server__discover=result(supportedVersions=[MODERN], _meta=meta))
    assert found == KNOWN._replace(name="", version="")


# --- the hash of the tools --------------------------------------------------------------------------------------------


async def hashed(*tools: dict[str, Any]) -> str:
    return (await look(tools__list=result(tools=list(tools))))[0].tools_hash


async def test_the_hash_covers_names_descriptions_and_schemas_and_nothing_else() -> None:
    plain = await hashed(TOOL)
    assert plain == await hashed({**TOOL, "title": "Find", "annotations": {}, "_meta": {}, "outputSchema": None})
    assert plain == tools_hash([TOOL])
    changes: list[dict[str, Any]] = [
        {"name": "seek"},
        {"description": "e"},
        {"inputSchema": {}},
        {"inputSchema": {"type": "object", "maximum": 0.5}},
        {"inputSchema": {"type": "object", "maximum": 1.5}},
        {"inputSchema": {"type": "object", "maximum": 2**60}},
        {"inputSchema": {"type": "object", "größe": "ß"}},
        {"outputSchema": {"type": "object"}},
    ]
    others = [await hashed({**TOOL, **changed}) for changed in changes]
    assert len({plain, *others, await hashed(), await hashed(TOOL, TOOL)}) == len(others) + 3


async def test_the_order_of_tools_and_members_does_not_matter() -> None:
    one, two = {**TOOL, "name": "a"}, {**TOOL, "name": "b"}
    assert await hashed(one, two) == await hashed(dict(reversed(two.items())), one)
    twins = {**TOOL, "description": "x"}, {**TOOL, "description": "y"}
    assert await hashed(*twins) == await hashed(*reversed(twins))


async def test_a_look_that_is_cancelled_ends_at_once() -> None:
    class Silent(Scripted):
        async def request(self, call: Call) -> Reply:
            if self._method(call) == "tools/list":
                self.calls.append(call)
                await asyncio.Event().wait()
            return await super().request(call)

    server = Silent(ManualClock(), server__discover=raw(400))
    looking = asyncio.ensure_future(probe(SERVER, server, server.clock))
    while "tools/list" not in server.asked:
        await asyncio.sleep(0)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert server.asked[-1] == "tools/list"
