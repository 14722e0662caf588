"""All outbound traffic leaves through here.

One place, so that what may leave, where to, and under whose certificate, can be read in one file. Members are reached
over mutual TLS alone; the name a member's certificate must carry is derived from its id, never from its address.
Outside systems are reached only at the addresses the configuration names, only while the license allows it, and not
while they keep failing. Agents tell themselves where they are, so for them alone the configuration has patterns, and
nothing else it names is an agent. What speaks another protocol than HTTP asks `Outbound.permit` before it connects,
and again before it sends. When grace ends, what is on its way is given up, and no connection is left that would still
talk.

This module must never follow a redirect, keep a cookie, or ask the environment for a proxy.
"""

from __future__ import annotations

import math
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Mapping
from fnmatch import fnmatchcase
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
OUTSIDE_REPLY_BYTES_MAX = 4 << 20
"""Outside systems are not trusted with this node's memory as its peers are."""
CLOSING_SECONDS = 0.25
"""So long before the end of grace nothing more is begun, and what is on its way is given up."""


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
                return reply.status, await _bounded(reply.content, REPLY_BYTES_MAX)
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{peer} at {host}:{port}: {type(error).__name__} {error}"[:300]) from None

    async def close(self) -> None:
        """End every connection; requests in flight raise Unreachable."""
        await self._session.close()


# --- outside systems --------------------------------------------------------------------------------------------------

_UNLICENSED = frozenset({"kaching"})
"""The gate could never open again if the license authority were behind it."""
_AGENTS = "agents"
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

    def __init__(self, clock: Clock, allowed: Collection[str], agents: Collection[str] = ()) -> None:
        """``allowed`` are ``host:port``; ``agents`` are patterns of it with ``*`` and ``?``, for agents alone."""
        self._clock, self._allowed = clock, frozenset(address.lower() for address in allowed)
        # Brackets are those of an IPv6 address here.
        self._agents = tuple(pattern.lower().replace("[", "[[]") for pattern in agents)
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self.closed: Callable[[str | None], str | None] = lambda project: "the state is not known yet"
        """Why nothing may leave for a project, or for the node (`LicenseGate.closed`)."""
        self.seconds_left: Callable[[], float] = lambda: math.inf
        """Until grace is over, as far as is known (`LicenseGate.seconds_left`)."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """Calls by (system, result)."""

    def permit(self, system: str, url: str, project: str | None = None) -> None:
        """As `Outside.permit`. Counts what it blocks."""
        assert system in SYSTEMS, system
        reason = self._refusal(system, url, project)
        if reason is not None:
            self.counts[system, "blocked"] += 1
            raise Blocked(f"{system}: {reason}")

    def patience(self, call: Call) -> float:
        """Seconds a permitted call may take: its own time-out, and no longer than the license allows."""
        if call.system in _UNLICENSED:
            return call.timeout
        return min(call.timeout, max(0.001, self.seconds_left() - CLOSING_SECONDS))

    def breaker(self, system: str, url: str) -> Breaker:
        """The breaker of one system at one address."""
        key = (system, address_of(url))
        if key not in self._breakers:
            self._breakers[key] = Breaker(self._clock)
        return self._breakers[key]

    def resting(self) -> dict[str, str]:
        """Why nothing is sent where a breaker is open: {"<system> at <host:port>": reason}."""
        found = ((f"{system} at {address}", held.refusal()) for (system, address), held in self._breakers.items())
        return {name: reason for name, reason in found if reason is not None}

    def _refusal(self, system: str, url: str, project: str | None) -> str | None:
        if (unlisted := self._unlisted(system, address_of(url))) is not None:
            return unlisted
        closed = None if system in _UNLICENSED else self._closed(project)
        return closed or self.breaker(system, url).refusal()

    def _unlisted(self, system: str, address: str) -> str | None:
        if system == _AGENTS:
            if any(fnmatchcase(address, pattern) for pattern in self._agents):
                return None
            return f"{address} is not where this node may reach an agent; see whoosh.agents"
        if address in self._allowed:
            return None
        return f"{address} is not an address this node is configured to reach; see outbound.allow"

    def _closed(self, project: str | None) -> str | None:
        ending = self.seconds_left() <= CLOSING_SECONDS
        return self.closed(project) or ("the grace of the license ends now" if ending else None)


Send = Callable[[Call, float], Awaitable[Reply]]
"""Send a call that may leave and wait so many seconds for the whole answer. Raises OSError, aiohttp.ClientError or
ValueError where there was none."""


class Outbound:
    """The way out to outside systems: what the keeper permits is sent."""

    def __init__(self, keeper: Gatekeeper, send: Send) -> None:
        self._keeper, self._send = keeper, send

    def permit(self, system: str, url: str, project: str | None = None) -> None:
        """As `Outside.permit`."""
        self._keeper.permit(system, url, project)

    async def request(self, call: Call) -> Reply:
        """As `Outside.request`. A reply is a reply whatever its status; only silence opens the breaker."""
        self.permit(call.system, call.url, call.project)
        breaker = self._keeper.breaker(call.system, call.url)
        breaker.begin()
        try:
            reply = await self._send(call, self._keeper.patience(call))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            breaker.failed()
            self._keeper.counts[call.system, "unreachable"] += 1
            seen = f"{call.system} at {address_of(call.url)}: {type(error).__name__} {error}"
            raise Unreachable(seen[:300]) from None
        breaker.succeeded()
        self._keeper.counts[call.system, "answered"] += 1
        return reply


class Http:
    """The sockets. A connection serves one request: an idle one would still talk behind a closed gate."""

    def __init__(self, *, proxy: str = "", context: ssl.SSLContext | None = None) -> None:
        """Needs a running loop. ``context`` says whom to trust; without one, the machine's authorities."""
        self._proxy = proxy or None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=context or True,
                limit_per_host=CONNECTIONS_PER_PEER,
                force_close=True,
                socket_factory=_abrupt_socket,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},  # a few bytes on the way must not be many in memory
            auto_decompress=False,
            trust_env=False,
        )

    async def send(self, call: Call, patience: float) -> Reply:
        """As `Send`."""
        async with self._session.request(
            call.method,
            call.url,
            data=call.body,
            headers=call.headers,
            proxy=self._proxy,
            timeout=aiohttp.ClientTimeout(total=patience, ceil_threshold=math.inf),
            allow_redirects=False,
        ) as reply:
            headers = {name.lower(): value for name, value in reply.headers.items()}
            return Reply(reply.status, headers, await _bounded(reply.content, OUTSIDE_REPLY_BYTES_MAX))

    async def close(self) -> None:
        """End every connection."""
        await self._session.close()


def address_of(url: str) -> str:
    """``host:port`` of a URL, in lower case, an IPv6 host in brackets; of what is no URL, something no list holds."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return "no address"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _abrupt_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """Closing it ends everything at once: the kernel does not go on sending for a request that was given up."""
    made = socket.socket(info[0], info[1], info[2])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return made


async def _bounded(content: aiohttp.StreamReader, most: int) -> bytes:
    reply = bytearray()
    async for chunk in content.iter_any():
        reply += chunk
        if len(reply) > most:
            raise aiohttp.ClientPayloadError(f"the reply has more than {most} bytes")
    return bytes(reply)
