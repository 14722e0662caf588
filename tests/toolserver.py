"""A tool server made with the official SDK, as a process of its own or inside a test.

The SDK serves both eras at once. `era` takes one away, as servers that know only one do: ``legacy`` does not see the
header by which modern requests are told, ``strict`` is a legacy server that refuses a version it does not know (what
the SDK's first major version does in either case), ``modern`` has no handshake.

    python -m tests.toolserver --port 8800 --version 1.4.2 --era legacy
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import uvicorn
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from pydantic import AnyHttpUrl
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.clock import SystemClock

MODERN = b"2026-07-28"
VERSION_HEADER = b"mcp-protocol-version"


class Exchange(NamedTuple):
    """One request and how it was answered."""

    method: str
    status: int
    kind: str


class OneToken:
    """Accepts one bearer token."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def verify_token(self, token: str) -> AccessToken | None:
        return AccessToken(token=token, client_id="swoosh", scopes=[]) if token == self._token else None


def search_server(version: str = "1.4.2", *, token: str = "") -> MCPServer[Any]:
    """A server called `search` with two tools."""
    auth = AuthSettings(issuer_url=AnyHttpUrl("http://127.0.0.1/"), resource_server_url=None)
    locked = {"token_verifier": OneToken(token), "auth": auth} if token else {}
    server: MCPServer[Any] = MCPServer("search", version=version, log_level="ERROR", **cast("dict[str, Any]", locked))

    @server.tool()
    def find(query: str, weight: float = 0.5) -> str:
        """Find something."""
        return f"{query} {weight}"

    @server.tool()
    def count(what: str) -> int:
        """Count it."""
        return len(what)

    return server


def of_era(app: ASGIApp, era: str) -> ASGIApp:
    """The app, as a server that knows only this era; ``both`` leaves it as it is."""

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or era == "both":
            return await app(scope, receive, send)
        named = dict(scope["headers"]).get(VERSION_HEADER)
        if era == "legacy":
            kept = [(name, value) for name, value in scope["headers"] if (name, value) != (VERSION_HEADER, MODERN)]
            return await app({**scope, "headers": kept}, receive, send)
        if era == "strict" and named == MODERN:
            return await _refuse(send, {"id": "server-error", "error": {"code": -32600, "message": "Bad Request"}})
        if era == "modern" and named != MODERN:
            return await _refuse(send, {"id": None, "error": {"code": -32602, "message": "2026-07-28 only"}})
        await app(scope, receive, send)

    return served


async def _refuse(send: Send, body: dict[str, Any]) -> None:
    await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps({"jsonrpc": "2.0", **body}).encode()})


def noted(app: ASGIApp, exchanges: list[Exchange]) -> ASGIApp:
    """The app, with every exchange written down."""

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                kind = dict(message["headers"]).get(b"content-type", b"").decode()
                exchanges.append(Exchange(scope["method"], int(message["status"]), kind))
            await send(message)

        await app(scope, receive, noting if scope["type"] == "http" else send)

    return served


@asynccontextmanager
async def serving(app: ASGIApp, port: int = 0) -> AsyncIterator[str]:
    """The app on loopback, in this process; its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, ws="none", timeout_graceful_shutdown=1))
    clock = SystemClock()
    running = asyncio.ensure_future(server.serve())
    while not server.started:
        assert not running.done(), "the server did not start"
        await clock.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        await running


def bound_when_free(port: int) -> socket.socket:
    """The port, as soon as whoever has it now is gone."""
    while True:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()
            return listener
        except OSError:
            listener.close()
            time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--version", default="1.4.2")
    parser.add_argument("--era", default="both", choices=("both", "legacy", "strict", "modern"))
    parser.add_argument("--token", default="")
    asked = parser.parse_args()
    app = search_server(asked.version, token=asked.token).streamable_http_app()
    server = uvicorn.Server(uvicorn.Config(of_era(app, asked.era), log_level="error", ws="none"))
    server.run(sockets=[bound_when_free(asked.port)])


if __name__ == "__main__":
    main()
