"""The one port on which members reach each other.

Mutual TLS first; then the protocol that ALPN (RFC 7301) settled decides who gets the connection: the consensus stream
or the HTTP server. Both are handed in as protocol factories, so this module knows neither.

It must never read a byte of application data itself, and must never hand over a connection whose holder is not a
member of this cluster: plain TCP, an older TLS, a foreign authority, a missing certificate, another cluster's name and
an unknown protocol all end here, without effect.
"""

import asyncio
import ssl
from collections.abc import Callable, Collection, Mapping
from typing import cast

import structlog
from aiohttp import web

from cluster.tls import PeerContext, PeerNameError, peer_name

HANDSHAKE_SECONDS = 3.0
"""How long a stranger may hold a connection without proving who he is."""

ProtocolFactory = Callable[[], asyncio.BaseProtocol]

_log = structlog.get_logger(__name__)


class PeerPort:
    """Listens, authenticates and hands over. The connections belong to the protocols: stopping the port ends none."""

    def __init__(
        self,
        *,
        context: PeerContext,
        cluster_id: str,
        members: Collection[str],
        protocols: Mapping[str, ProtocolFactory],
    ) -> None:
        """`protocols` maps an ALPN name to what serves it, for example an aiohttp `web.AppRunner.server`."""
        self._context = context
        self._cluster_id = cluster_id
        self._members = frozenset(members)
        self._protocols = dict(protocols)
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> None:
        """Bind and listen; port 0 picks a free one. Raises OSError if the address cannot be bound."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Doorway(self), host, port, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_SECONDS
        )

    @property
    def port(self) -> int:
        """The port listened on. Only between `start` and `stop`."""
        if self._server is None:
            raise RuntimeError("the peer port is not open: await start() first")
        return cast(int, self._server.sockets[0].getsockname()[1])

    def stop(self) -> None:
        """Accept no further connection."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def serve(self, transport: asyncio.Transport) -> asyncio.BaseProtocol | str:
        """The protocol that takes this authenticated connection, or the reason to close it."""
        connection: ssl.SSLObject = transport.get_extra_info("ssl_object")
        try:
            name = peer_name(connection.getpeercert())
        except PeerNameError as error:
            return str(error)
        if name.cluster_id != self._cluster_id or name.node not in self._members:
            return f"{name} is no member of {self._cluster_id}"
        protocol = connection.selected_alpn_protocol()
        factory = self._protocols.get(protocol or "")
        if factory is None:
            return f"{name} asks for protocol {protocol!r}, served are {sorted(self._protocols)}"
        return factory()


class _Doorway(asyncio.Protocol):
    """Stands for a connection from the end of its handshake until its protocol is known, within one callback."""

    def __init__(self, port: PeerPort) -> None:
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        protocol = self._port.serve(stream)
        if isinstance(protocol, str):
            _log.warning("peer connection refused", reason=protocol, address=stream.get_extra_info("peername"))
            stream.abort()
            return
        stream.set_protocol(protocol)
        protocol.connection_made(stream)


def peer_id(request: web.BaseRequest) -> str | None:
    """The member that sent this request, by its certificate; None if it did not come through a peer port.

    A public listener's clients may hold certificates too, issued by who knows whom: only the peer port's own context
    counts.
    """
    connection = request.transport.get_extra_info("ssl_object") if request.transport is not None else None
    if connection is None or not isinstance(connection.context, PeerContext):
        return None
    return peer_name(connection.getpeercert()).node
