"""One look at one MCP server: does it answer, as whom, in which version, and which tools does it list?

It speaks Streamable HTTP in both eras of the protocol. First the 2026-07-28 revision: every request stands alone and
begins with `server/discover`. Only where the answer to that says that the server does not know it, the older handshake
follows: `initialize`, a session where the server gives one, and its end. Silence, an overload or a missing token are
no word about the era.

Nothing is kept from one look to the next, so a server that was replaced is seen as what it is now. What a server says
is bounded, and never trusted to be well formed: from here comes a `Seen`, or a reason in our own words (a server's
words might repeat the token that it was sent).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from cluster.clock import Clock
from cluster.egress import Blocked, Call, Outside, Reply, Unreachable
from swoosh import canonical, limits
from swoosh.errors import Malformed
from swoosh.hashing import digest

MODERN = "2026-07-28"
LEGACY = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""The revisions with a handshake, newest first."""
BYTES_MAX = 2 << 20
"""All that a server may say during one look: parsing it must not hold up the loop."""
PAGES_MAX = 100
CLOSE_SECONDS = 1.0

_CLIENT = {"name": "swoosh", "version": "1"}
_META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": _CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {},
}
_SERVER_INFO = "io.modelcontextprotocol/serverInfo"
_MODERN_ERRORS = (-32020, -32021, -32022)
"""Header mismatch, missing capability, unsupported version: who answers so speaks a modern revision."""
_NOT_ABOUT_THE_ERA = (401, 403, 408, 429)
_HASHED = ("name", "description", "inputSchema", "outputSchema")


class ToolServer(NamedTuple):
    """Where a server is and how it is asked: `token` is a bearer token or empty, `interval` the seconds from one look
    to the next, `timeout` those that one look may take."""

    name: str
    url: str
    token: str = ""
    interval: float = 5.0
    timeout: float = 5.0


class Seen(NamedTuple):
    """What a server said it is."""

    name: str
    version: str
    protocol_version: str
    tools_hash: str


class Unusable(Exception):
    """It answered, but not as a tool server does; the text says how."""


async def probe(server: ToolServer, outside: Outside, clock: Clock) -> Seen:
    """Look once.

    Raises:
        Blocked: nothing may leave for this server now.
        Unreachable: it did not answer.
        Unusable: it did, but not as it should.
    """
    deadline = clock.monotonic() + server.timeout
    modern = _Modern(server, outside, clock, deadline)
    identity = await modern.discover()
    if identity is not None:
        return identity._replace(tools_hash=await modern.tools_hash())
    legacy = _Legacy(server, outside, clock, deadline)
    try:
        identity = await legacy.initialize()
        seen = identity._replace(tools_hash=await legacy.tools_hash())
    except (Blocked, Unreachable, Unusable):
        await legacy.close()
        raise
    await legacy.close()
    return seen


def tools_hash(tools: list[dict[str, Any]]) -> str:
    """The hash of a list of tools: name, description and schemas of each, in the order of their names.

    Numbers in schemas are integers, or the text they were sent as: see `_parsed`.
    """
    listed = [{member: tool.get(member) for member in _HASHED} for tool in tools]
    return digest("tools", sorted(listed, key=lambda tool: (tool["name"], canonical.encode(tool))))


# --- the two eras -----------------------------------------------------------------------------------------------------


class _Answer(NamedTuple):
    """A reply to a request: one of result and error, or neither where it was no JSON-RPC."""

    status: int
    headers: Mapping[str, str]
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def fault(self) -> str:
        """What came in place of a result."""
        if self.status in (401, 403):
            return f"HTTP {self.status}: its token is missing or not accepted"
        if self.error is not None:
            return f"HTTP {self.status} with error {self.error['code']}"
        return f"HTTP {self.status} without a JSON-RPC answer"


class _Talk:
    """Requests to one server under one deadline; each era adds its own headers and params."""

    def __init__(self, server: ToolServer, outside: Outside, clock: Clock, deadline: float) -> None:
        self._server, self._outside, self._clock, self._deadline = server, outside, clock, deadline
        self._asked = self._heard = 0
        self.headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if server.token:
            self.headers["Authorization"] = f"Bearer {server.token}"

    def dress(self, method: str, params: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
        """Headers and params as the era wants them."""
        return self.headers, params

    async def ask(self, method: str, params: dict[str, Any]) -> _Answer:
        self._asked += 1
        headers, dressed = self.dress(method, params)
        message = {"jsonrpc": "2.0", "id": self._asked, "method": method, "params": dressed}
        reply = await self.post(message, headers)
        for text in _messages(reply):
            said = _parsed(text)
            if not isinstance(said, dict) or said.get("jsonrpc") != "2.0":
                continue
            result, error = said.get("result"), said.get("error")
            if said.get("id") == self._asked and isinstance(result, dict):
                return _Answer(reply.status, reply.headers, result=result)
            if isinstance(error, dict) and type(error.get("code")) is int:  # its id may be null, or anything
                return _Answer(reply.status, reply.headers, error=error)
        return _Answer(reply.status, reply.headers)

    async def post(self, message: dict[str, Any], headers: Mapping[str, str]) -> Reply:
        left = self._deadline - self._clock.monotonic()
        if left <= 0:
            raise Unusable(f"its answers took more than {self._server.timeout:g} s")
        body = json.dumps(message).encode()
        reply = await self._outside.request(
            Call("mcp", "POST", self._server.url, body=body, headers=dict(headers), timeout=left)
        )
        self._heard += len(reply.body)
        if self._heard > BYTES_MAX:
            raise Unusable(f"it says more than {BYTES_MAX} bytes")
        return reply

    async def tools_hash(self) -> str:
        """Of everything it lists, page after page."""
        tools: list[dict[str, Any]] = []
        cursor: dict[str, Any] = {}
        for _ in range(PAGES_MAX):
            answer = await self.ask("tools/list", cursor)
            if answer.result is None:
                raise Unusable(f"tools/list: {answer.fault}")
            page, following = answer.result.get("tools"), answer.result.get("nextCursor")
            if not isinstance(page, list) or not all(map(_is_tool, page)):
                raise Unusable("tools/list: its answer is no list of tools with names")
            tools += page
            if not following:
                return _hashed(tools)
            cursor = {"cursor": following}
        raise Unusable(f"tools/list: it has more than {PAGES_MAX} pages")


class _Modern(_Talk):
    """2026-07-28: each request says what it is, in headers and in its own metadata."""

    def dress(self, method: str, params: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
        return {**self.headers, "MCP-Protocol-Version": MODERN, "Mcp-Method": method}, {**params, "_meta": _META}

    async def discover(self) -> Seen | None:
        """Who answers; None where the answer says that this server is of the older era."""
        answer = await self.ask("server/discover", {})
        if answer.result is None:
            if _is_of_older_era(answer):
                return None
            raise Unusable(f"server/discover: {answer.fault}")
        versions, meta = answer.result.get("supportedVersions"), answer.result.get("_meta")
        if not isinstance(versions, list) or MODERN not in versions:
            return None
        return _seen(meta.get(_SERVER_INFO) if isinstance(meta, dict) else None, MODERN)


class _Legacy(_Talk):
    """2025-11-25 and earlier: a handshake, and a session where the server gives one."""

    async def initialize(self) -> Seen:
        """Shake hands."""
        hello = {"protocolVersion": LEGACY[0], "capabilities": {}, "clientInfo": _CLIENT}
        answer = await self.ask("initialize", hello)
        if answer.result is None:
            raise Unusable(f"initialize: {answer.fault}")
        if session := answer.headers.get("mcp-session-id"):
            self.headers["Mcp-Session-Id"] = session
        version = answer.result.get("protocolVersion")
        if version not in LEGACY:
            raise Unusable("initialize: it answers with a revision of the protocol that has no handshake")
        self.headers["MCP-Protocol-Version"] = version
        seen = _seen(answer.result.get("serverInfo"), version)
        reply = await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, self.headers)
        if reply.status >= 300:
            raise Unusable(f"notifications/initialized: HTTP {reply.status}")
        return seen

    async def close(self) -> None:
        """End the session, where there is one; a server need not agree to that."""
        if "Mcp-Session-Id" not in self.headers:
            return
        call = Call("mcp", "DELETE", self._server.url, headers=self.headers, timeout=CLOSE_SECONDS)
        with suppress(Blocked, Unreachable):  # it will end the session itself
            await self._outside.request(call)


def _is_of_older_era(answer: _Answer) -> bool:
    """Whether this answer to a modern request is that of a server that knows no such requests.

    The specification (2026-07-28, Streamable HTTP, Backward Compatibility): a 4xx whose body is no error of the modern
    era. So is any other JSON-RPC error, and a modern one that offers a revision with a handshake.
    """
    if answer.status in _NOT_ABOUT_THE_ERA or answer.status >= 500:
        return False
    if answer.error is None:
        return answer.status >= 400
    if answer.error["code"] not in _MODERN_ERRORS:
        return True
    data = answer.error.get("data")
    supported = data.get("supported") if isinstance(data, dict) else None
    return isinstance(supported, list) and any(version in LEGACY for version in supported)


# --- what was said ----------------------------------------------------------------------------------------------------


def _messages(reply: Reply) -> Iterator[bytes]:
    """What may be JSON in a reply: its body, or the data of each event of a stream (WHATWG HTML §9.2)."""
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        yield reply.body
    elif kind == "text/event-stream":
        data: list[bytes] = []
        for line in [*reply.body.splitlines(), b""]:
            field, _, value = line.partition(b":")
            if field == b"data":
                data.append(value)
            elif not line and data:
                yield b"\n".join(data)
                data = []


def _parsed(text: bytes) -> Any:
    """JSON in which a number that is no integer of the canonical domain is the text it was sent as; else None."""
    try:
        return json.loads(text, parse_float=str, parse_int=_integer, parse_constant=str)
    except (ValueError, RecursionError):
        return None


def _integer(text: str) -> int | str:
    fits = len(text) <= limits.INTEGER_DIGITS_MAX and abs(int(text)) <= limits.INTEGER_MAX
    return int(text) if fits else text


def _is_tool(tool: Any) -> bool:
    return isinstance(tool, dict) and isinstance(tool.get("name"), str)


def _hashed(tools: list[dict[str, Any]]) -> str:
    try:
        return tools_hash(tools)
    except (ValueError, RecursionError):
        raise Unusable("tools/list: its answer holds text that is no Unicode, or is nested too deep") from None


def _seen(info: Any, protocol_version: str) -> Seen:
    """Who it says it is; a server need not say."""
    named = info if isinstance(info, dict) else {}
    name, version = named.get("name", ""), named.get("version", "")
    for text in (name, version):
        if not isinstance(text, str) or len(text) > limits.NAME_CHARS_MAX:
            raise Unusable(f"its name or version is no text of at most {limits.NAME_CHARS_MAX} characters")
        try:
            canonical.check(text)
        except Malformed:
            raise Unusable("its name or version is no text in Unicode normal form C") from None
    return Seen(name, version, protocol_version, "")
