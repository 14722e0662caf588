"""All outbound traffic leaves through here.

One place, so that what may leave, where to, and under whose certificate, can be read in one file. Members are reached
over mutual TLS alone; the name a member's certificate must carry is derived from its id, never from its address.
Outside systems are reached only at the addresses the configuration names, only while the license allows it, and not
while they keep failing. What speaks another protocol than HTTP asks `Outbound.permit` before it connects, and again
before it sends.

This module must never follow a redirect, keep a cookie, or ask the environment for a proxy.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import AsyncIterable, Callable, Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import aiohttp

from cluster.breaker import Breaker
from cluster.clock import Clock
from cluster.telemetry.metrics import SYSTEMS
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


# --- outside systems --------------------------------------------------------------------------------------------------

_UNLICENSED = frozenset({"kaching"})
"""The gate could never open again if the license authority were behind it."""
_PORTS = {"http": 80, "https": 443, "nats": 4222, "tls": 4222}


class Blocked(Exception):
    """Nothing left this node, for the reason given."""


class Call(NamedTuple):
    """One request. ``project``: on whose behalf; None for the node's own. ``timeout`` in seconds, for the whole."""

    system: str
    method: str
    url: str
    body: bytes | None = None
    headers: Mapping[str, str] = MappingProxyType({})
    project: str | None = None
    timeout: float = 5.0


class Reply(NamedTuple):
    """The answer to a call, whatever its status. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Outside(Protocol):
    """The way out, as providers are handed it; the simulation has its own."""

    async def request(self, call: Call) -> Reply:
        """Send and wait for the whole answer.

        Raises:
            Blocked: it may not leave.
            Unreachable: there was no whole reply; whether the request arrived is unknown.
        """
        ...

    def permit(self, system: str, url: str, project: str | None = None) -> None:
        """Return if something may be sent to this address.

        Raises:
            Blocked: it may not.
        """
        ...


class Gatekeeper:
    """What decides whether something may leave: the list of addresses, the license, the breakers."""

    def __init__(self, clock: Clock, allowed: Collection[str]) -> None:
        """``allowed`` are ``host:port``, as ``address_of`` spells them."""
        self._clock, self._allowed = clock, frozenset(allowed)
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self.closed: Callable[[str | None], str | None] = lambda project: "the state is not known yet"
        """Why nothing may leave for a project, or for the node (`LicenseGate.closed`)."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """Calls by (system, result)."""

    def permit(self, system: str, url: str, project: str | None = None) -> None:
        """As `Outside.permit`. Counts what it blocks."""
        assert system in SYSTEMS, system
        reason = self._refusal(system, url, project)
        if reason is not None:
            self.counts[system, "blocked"] += 1
            raise Blocked(f"{system}: {reason}")

    def breaker(self, system: str, url: str) -> Breaker:
        """The breaker of one system at one address."""
        key = (system, address_of(url))
        if key not in self._breakers:
            self._breakers[key] = Breaker(self._clock)
        return self._breakers[key]

    def _refusal(self, system: str, url: str, project: str | None) -> str | None:
        if address_of(url) not in self._allowed:
            return f"{address_of(url)} is not an address this node is configured to reach; see outbound.allow"
        closed = None if system in _UNLICENSED else self.closed(project)
        return closed or self.breaker(system, url).refusal()


class Outbound:
    """HTTP to outside systems."""

    def __init__(self, keeper: Gatekeeper, *, proxy: str = "", context: ssl.SSLContext | None = None) -> None:
        """Needs a running loop. ``context`` says whom to trust; without one, the machine's authorities."""
        self._keeper, self._proxy = keeper, proxy or None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context or True, limit_per_host=CONNECTIONS_PER_PEER),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    def permit(self, system: str, url: str, project: str | None = None) -> None:
        """As `Outside.permit`."""
        self._keeper.permit(system, url, project)

    async def request(self, call: Call) -> Reply:
        """As `Outside.request`. A reply is a reply whatever its status; only silence opens the breaker."""
        self.permit(call.system, call.url, call.project)
        breaker = self._keeper.breaker(call.system, call.url)
        try:
            reply = await self._send(call)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            breaker.failed()
            self._keeper.counts[call.system, "unreachable"] += 1
            seen = f"{call.system} at {address_of(call.url)}: {type(error).__name__} {error}"
            raise Unreachable(seen[:300]) from None
        breaker.succeeded()
        self._keeper.counts[call.system, "answered"] += 1
        return reply

    async def _send(self, call: Call) -> Reply:
        async with self._session.request(
            call.method,
            call.url,
            data=call.body,
            headers=call.headers,
            proxy=self._proxy,
            timeout=aiohttp.ClientTimeout(total=call.timeout),
            allow_redirects=False,
        ) as reply:
            headers = {name.lower(): value for name, value in reply.headers.items()}
            return Reply(reply.status, headers, await _bounded(reply.content))

    async def close(self) -> None:
        """End every connection."""
        await self._session.close()


def address_of(url: str) -> str:
    """``host:port`` of a URL, in lower case."""
    parts = urlsplit(url)
    return f"{parts.hostname or ''}:{parts.port or _PORTS.get(parts.scheme, 0)}"


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    reply = bytearray()
    async for chunk in content.iter_any():
        reply += chunk
        if len(reply) > REPLY_BYTES_MAX:
            raise aiohttp.ClientPayloadError(f"the reply has more than {REPLY_BYTES_MAX} bytes")
    return bytes(reply)
