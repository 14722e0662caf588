"""HTTP without sockets: the nodes' own applications, reached by bytes on a virtual wire.

A request is parsed, routed and answered by the server that serves it in production; only the connection under it is
not there. What a network does to a request is drawn by number: it may never arrive, arrive twice, or its answer may be
lost. A caller is told exactly what a socket would have told it: that nothing left, or that nothing came back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from aiohttp import web

from cluster.clock import Clock, done_by
from cluster.egress import Unreachable
from cluster.tls import PeerContext, PeerName
from swoosh.client.transport import Lost, NotSent, Reply

if TYPE_CHECKING:
    from chaos.simulation.world import World

LATENCY = (0.0002, 0.003)
RETRANSMIT_SECONDS = 0.2


class Wire(asyncio.Transport):
    """The connection under one request. `answer` is done with every byte of the reply, or never."""

    def __init__(self, answer: asyncio.Future[bytes], certificate: Certificate | None = None) -> None:
        super().__init__()
        self.answer = answer
        self._certificate = certificate
        self._written = bytearray()
        self._closing = False
        self._protocol: Any = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast(asyncio.BaseProtocol, self._protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        known = {"peername": ("192.0.2.1", 1), "ssl_object": self._certificate}
        return known.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._written += data

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.write(data)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)
            if not self.answer.done():
                self.answer.set_result(bytes(self._written))

    def abort(self) -> None:
        self._closing = True

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def can_write_eof(self) -> bool:
        return False


class Certificate:
    """What the server sees of a member that calls it."""

    def __init__(self, name: PeerName, context: PeerContext) -> None:
        self._name, self.context = name, context

    def getpeercert(self) -> dict[str, Any]:
        return {"subjectAltName": (("DNS", str(self._name)),)}


def request_bytes(method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """One request that ends its connection."""
    lines = [f"{method} {target} HTTP/1.1", "Host: node", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def reply_of(data: bytes) -> Reply:
    """The answer in the bytes of a connection that was closed after it."""
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    assert "chunked" not in headers.get("transfer-encoding", ""), "streams are not simulated"
    return Reply(int(status.split(" ")[1]), headers, body)


class Caller:
    """The SDK's transport for one client outside the cluster."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name
        self._count = 0

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Reply:
        world, parts = self._world, urlsplit(url)
        self._count += 1
        draw = (self._name, self._count)
        clock = world.clock
        deadline = clock.monotonic() + timeout
        await clock.sleep(world.chance.between(*LATENCY, "to", *draw))
        life = world.hosts[str(parts.hostname)].life
        if life is None or not life.listening:
            raise NotSent(f"{url}: nobody listens")
        fate, rates = world.chance.at("fate", *draw), world.plan.http
        if fate < rates.lost_requests:
            await clock.sleep(max(0.0, deadline - clock.monotonic()))
            raise Lost(f"{url}: no answer within {timeout} s")
        raw = request_bytes(method, url.partition(parts.netloc)[2] or "/", headers, body or b"")
        answer = life.ask(raw)
        if fate > 1 - rates.doubled:
            clock.call_later(world.chance.between(0.0, 1.0, "again", *draw), lambda: life.ask_again(raw))
        if (
            not await done_by(clock, deadline, answer)
            or rates.lost_requests <= fate < rates.lost_requests + rates.lost_replies
        ):
            raise Lost(f"{url}: no answer within {timeout} s")
        data = answer.result()
        await clock.sleep(world.chance.between(*LATENCY, "back", *draw))
        if not data:
            raise Lost(f"{url}: the connection was closed")
        return reply_of(data)

    def lines(self, url: str, *, headers: Mapping[str, str], idle: float) -> AsyncIterator[bytes]:
        raise NotSent("streams are not simulated")

    async def close(self) -> None: ...


class Peers:
    """`cluster.egress.PeerHttp` among simulated nodes: the same errors, and the same silence of a lost packet."""

    def __init__(self, world: World, me: str, clock: Clock) -> None:
        self._world, self._me, self._clock = world, me, clock
        self._count = 0

    async def post(self, peer: str, path: str, body: AsyncIterable[bytes]) -> tuple[int, bytes]:
        """As the real one. Raises Unreachable."""
        world, sent_as = self._world, {"Content-Type": "application/msgpack"}
        await self._connect(peer)
        sent, count = b"".join([part async for part in body]), self._count
        life = world.hosts[peer].life
        if life is None:
            raise Unreachable(f"{peer}: the connection was closed")
        data = await life.ask(request_bytes("POST", path, sent_as, sent), member=self._me)
        await self._clock.sleep(self._latency(peer, "back", count))
        await self._passage(peer)
        if not data:
            raise Unreachable(f"{peer}: the connection was closed")
        reply = reply_of(data)
        return reply.status, reply.body

    async def _connect(self, peer: str) -> None:
        self._count += 1
        await self._clock.sleep(self._latency(peer, "to"))
        world = self._world
        await self._passage(peer)
        life = world.hosts[peer].life
        if life is None or not life.listening:
            raise Unreachable(f"{peer}: nobody listens")

    def _latency(self, peer: str, *what: object) -> float:
        return self._world.chance.between(*LATENCY, "hop", self._me, peer, self._count, *what)

    async def _passage(self, peer: str) -> None:
        """What is dropped is sent again until it passes: both sides wait, or the caller gives up."""
        network = self._world.network
        while not (network.passes(self._me, peer) and network.passes(peer, self._me)):
            await self._clock.sleep(RETRANSMIT_SECONDS)

    async def close(self) -> None: ...


def connect(
    protocol: asyncio.Protocol, raw: bytes, answer: asyncio.Future[bytes], certificate: Certificate | None
) -> Wire:
    """Hand a request to a server's protocol, as a connection would."""
    wire = Wire(answer, certificate)
    wire.set_protocol(protocol)
    protocol.connection_made(wire)
    protocol.data_received(raw)
    return wire


async def serve(app: web.Application) -> tuple[web.AppRunner, Callable[[], asyncio.Protocol]]:
    """An application ready to be connected to."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, auto_decompress=False)
    await runner.setup()
    return runner, cast(Callable[[], asyncio.Protocol], runner.server)
