"""All outbound HTTP leaves through here.

One place, so that what may leave, and under whose certificate, can be read in one file. Members are reached over
mutual TLS alone; the name a member's certificate must carry is derived from its id, never from its address.

This module must never follow a redirect, keep a cookie, or ask the environment for a proxy.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping

import aiohttp

from cluster.tls import HTTP_PROTOCOL, Credentials, PeerName, client_context

CONNECTIONS_PER_PEER = 8
IDLE_SECONDS = 30.0
"""Shorter than the peers' own patience with idle connections, so that none is reused while it is being closed."""
REPLY_BYTES_MAX = 32 << 20


class Unreachable(Exception):
    """No reply, for the reason given. Whether the request arrived is unknown to this module."""


class PeerHttp:
    """Pooled connections to the other members' peer ports."""

    def __init__(self, credentials: Credentials, cluster_id: str, addresses: Mapping[str, tuple[str, int]]) -> None:
        """Needs a running loop. `addresses` are the peer ports by member id."""
        self._cluster_id = cluster_id
        self._addresses = dict(addresses)
        connector = aiohttp.TCPConnector(
            ssl=client_context(credentials, HTTP_PROTOCOL),
            limit_per_host=CONNECTIONS_PER_PEER,
            keepalive_timeout=IDLE_SECONDS,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # the caller's deadline is the only one
            auto_decompress=False,
        )

    async def post(self, peer: str, path: str, body: AsyncIterable[bytes]) -> tuple[int, bytes]:
        """Status and body of a member's reply to a msgpack message.

        `body` is first asked for bytes once a connection stands.

        Raises:
            Unreachable: there was no whole reply.
        """
        return await self._ask("POST", peer, path, body)

    async def get(self, peer: str, path: str) -> tuple[int, bytes]:
        """Status and body of a member's reply.

        Raises:
            Unreachable: there was no whole reply.
        """
        return await self._ask("GET", peer, path, None)

    async def _ask(self, method: str, peer: str, path: str, body: AsyncIterable[bytes] | None) -> tuple[int, bytes]:
        if self._session.closed:
            raise Unreachable("this node is shutting down")
        if peer not in self._addresses:
            raise Unreachable(f"{peer} is no member with an address here")
        host, port = self._addresses[peer]
        try:
            async with self._session.request(
                method,
                f"https://{host}:{port}{path}",
                data=body,
                headers={"Content-Type": "application/msgpack"},
                server_hostname=str(PeerName(peer, self._cluster_id)),
                allow_redirects=False,
            ) as reply:
                return reply.status, await _bounded(reply.content)
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{peer} at {host}:{port}: {type(error).__name__} {error}"[:300]) from None

    async def close(self) -> None:
        """End every connection; requests in flight raise Unreachable."""
        await self._session.close()


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    reply = bytearray()
    async for chunk in content.iter_any():
        reply += chunk
        if len(reply) > REPLY_BYTES_MAX:
            raise aiohttp.ClientPayloadError(f"the reply has more than {REPLY_BYTES_MAX} bytes")
    return bytes(reply)
