"""The public port: connections within bounds of number and time.

aiohttp waits for ever for the end of a request's head. A doorman stands before each of its connections and shows out
whoever does not finish in time; once a head is complete, `request` bounds the body. The doorman reads nothing and
changes nothing: he counts and he looks at the clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from aiohttp import web

from cluster.clock import Clock, Handle
from cluster.http import problems
from cluster.http.request import Limits

HEAD_LINE_BYTES = 8_190
HEAD_LINES = 64
LINGER_SECONDS = 1.0
DRAIN_SECONDS = 0.02
FAREWELL_SECONDS = 1.0
"""For what is still being sent when the port closes. The node has stopped by then: nobody waits for it any more."""


class Listener:
    """Serves one application on one port."""

    def __init__(self, app: web.Application, clock: Clock, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=limits.idle,
            lingering_time=LINGER_SECONDS,
            max_line_size=HEAD_LINE_BYTES,
            max_field_size=HEAD_LINE_BYTES,
            max_headers=HEAD_LINES,
            auto_decompress=False,
            shutdown_timeout=FAREWELL_SECONDS,
        )
        self._server: asyncio.Server | None = None
        self._doormen: set[Doorman] = set()

    async def start(self, host: str, port: int) -> None:
        """Bind and listen; port 0 picks a free one. Raises OSError if the address cannot be bound."""
        await self._runner.setup()
        self._server = await asyncio.get_running_loop().create_server(self._admit, host, port)

    @property
    def port(self) -> int:
        """The port listened on. Only between `start` and `stop`."""
        if self._server is None:
            raise RuntimeError("the listener is not open: await start() first")
        return cast(int, self._server.sockets[0].getsockname()[1])

    async def end_streams(self) -> None:
        """End what would last for as long as its reader likes; other requests go on being served."""
        await self._runner.app.shutdown()

    async def drain(self, seconds: float) -> None:
        """Accept no further connection, and return when every request there is was answered, or after `seconds`."""
        if self._server is not None:
            self._server.close()
        deadline = self._clock.monotonic() + seconds
        while any(doorman.busy for doorman in self._doormen) and self._clock.monotonic() < deadline:
            await self._clock.sleep(DRAIN_SECONDS)

    async def stop(self) -> None:
        """Accept no further connection, finish the requests there are, close."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _admit(self) -> asyncio.BaseProtocol:
        handler = cast(Callable[[], asyncio.Protocol], self._runner.server)()
        return Doorman(handler, self._clock, self._limits, self._doormen)


class Doorman(asyncio.Protocol):
    """Stands between one connection and aiohttp's handler of it."""

    def __init__(self, handler: asyncio.Protocol, clock: Clock, limits: Limits, doormen: set[Doorman]) -> None:
        self._handler = handler
        self._clock = clock
        self._limits = limits
        self._doormen = doormen
        self._transport: asyncio.Transport | None = None
        self._timer: Handle | None = None
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if len(self._doormen) >= self._limits.connections:
            self._transport.abort()
            return
        self._doormen.add(self)
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self not in self._doormen:
            return
        if not self._busy and self._timer is None:
            self._timer = self._clock.call_later(self._limits.head, self._show_out)
        self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return self._handler.eof_received()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._disarm()
        if self in self._doormen:
            self._doormen.discard(self)
            self._handler.connection_lost(error)

    @property
    def busy(self) -> bool:
        """A request of this connection is in the application's hands."""
        return self._busy

    def head_complete(self) -> None:
        """A request reached the application."""
        self._busy = True
        self._disarm()

    def answered(self) -> None:
        """It was answered; the next head may come."""
        self._busy = False

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _show_out(self) -> None:
        self._timer = None
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(problems.timeout_head(self._limits.head))
            self._transport.close()


def doorman_of(request: web.BaseRequest) -> Doorman | None:
    """Who stands at this request's connection; None where the listener is another's."""
    protocol = request.transport.get_protocol() if request.transport is not None else None
    return protocol if isinstance(protocol, Doorman) else None
