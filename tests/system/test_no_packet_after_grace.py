"""No packet leaves for the outside once grace is over: counted on the wire, by the kernel's own clock.

A real node in a network namespace of its own talks to two servers outside all the time. One answers at once; with the
other something is always on its way when grace ends. Every packet the node sends passes a bridge, where this test
listens. The license authority is outside as well, and is the exception: it is asked on, or nothing could begin again.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from chaos.live import LiveCluster
from chaos.live.network import Namespaces, Unfit
from swoosh.client import Accepted
from tests.system.authority import LicenseAuthority
from tests.system.conftest import Found

LIFE_MS = 4_000
GRACE_MS = 8_000
SLACK_SECONDS = 1.0
"""A process that does not get a processor cannot end what it began. Nothing is begun in this time."""
BYTES, BYTE_SECONDS = 20, 0.2
BLOCKED_MIN = 1_000
"""More than is held back while a call that was on its way could still have lasted."""
ETH_P_IP = 0x0800
SO_TIMESTAMPNS = 35


class Packet(NamedTuple):
    """One IPv4 packet. ``at`` in seconds of the wall clock, as the kernel saw it."""

    at: float
    source: str
    target: str


class Tap:
    """What passes a network device."""

    def __init__(self, device: str) -> None:
        self.packets: list[Packet] = []
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.bind((device, ETH_P_IP))
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def _read(self) -> None:
        head, extra, _, _ = self._socket.recvmsg(20, 128)
        seconds, nanoseconds = struct.unpack("qq", extra[0][2])
        source, target = socket.inet_ntoa(head[12:16]), socket.inet_ntoa(head[16:20])
        self.packets.append(Packet(seconds + nanoseconds / 1e9, source, target))

    def sent(self, source: str, target: str) -> list[float]:
        """When packets left for there."""
        return [packet.at for packet in self.packets if (packet.source, packet.target) == (source, target)]

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()


@pytest.fixture
async def network() -> AsyncIterator[Namespaces]:
    try:
        made = Namespaces()
    except (Unfit, FileNotFoundError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    yield made
    await made.close()


@pytest.fixture
def authority(network: Namespaces, tmp_path: Path) -> Iterator[LicenseAuthority]:
    made = LicenseAuthority(tmp_path, network.outside(253))
    made.order(life_ms=LIFE_MS)
    yield made
    made.close()


class Answering(asyncio.Protocol):
    """Says the same whatever comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


class Dribbling(Answering):
    """Says it one byte at a time, each of which is acknowledged by a packet."""

    def data_received(self, data: bytes) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BYTES)
        self._dribble(BYTES)

    def _dribble(self, left: int) -> None:
        if left and not self._transport.is_closing():
            self._transport.write(b".")
            asyncio.get_running_loop().call_later(BYTE_SECONDS, self._dribble, left - 1)


@asynccontextmanager
async def servers(host: str) -> AsyncIterator[list[str]]:
    """``host:port`` of one that answers at once and of one that takes its time."""
    serve = asyncio.get_running_loop().create_server
    async with await serve(Answering, host, 0) as one, await serve(Dribbling, host, 0) as other:
        yield [f"{host}:{server.sockets[0].getsockname()[1]}" for server in (one, other)]


def place(cluster: LiveCluster, allowed: list[str]) -> None:
    """Let the nodes reach these addresses, and have them do so all the time."""
    for node in cluster.nodes:
        with (cluster.home(node) / "swoosh.toml").open("a") as file:
            file.write(f"\n[outbound]\nallow = {allowed!r}\n")
        cluster.commands[node] += [sys.executable, str(Path(__file__).with_name("beacon.py"))]


@pytest.mark.timeout(180)
async def test_no_packet_leaves_after_grace_and_the_license_opens_the_way_again(
    found: Found, network: Namespaces, authority: LicenseAuthority
) -> None:
    outside = network.outside(252)
    async with servers(outside) as addresses:
        cluster = network.attach(found("--windows", "always_open", nodes=1))
        authority.license(cluster)
        place(cluster, addresses)
        (source,) = network.hosts.values()
        tap = Tap(network.bridge)
        try:
            cluster.start()
            await cluster.ready()
            await let_grace_be(cluster, GRACE_MS)
            await sends(cluster, tap, source, outside)
            authority.order(outage="error")
            over = await grace_over(cluster)
            await asks_in_vain(cluster)
            await sends(cluster, tap, source, authority.host, after=over + SLACK_SECONDS)
            sent = tap.sent(source, outside)
            print(f"{len(sent)} packets; the last one {over - max(sent):.3f} s before grace was over")
            assert max(sent) <= over + SLACK_SECONDS, "something left after grace"
            assert max(sent) > over - GRACE_MS / 1000, "it was silent in grace already: this proves nothing"
            authority.order(outage="none")
            await sends(cluster, tap, source, outside, after=over + SLACK_SECONDS)
        finally:
            cluster.close()
            tap.close()


async def let_grace_be(cluster: LiveCluster, ms: int) -> None:
    async with cluster.client("admin") as client:
        inputs = {"name": "license_grace_ms", "value": ms}
        done = await client.propose("SETTING_SET", inputs=inputs, project="@cluster")
    assert isinstance(done, Accepted), done


async def sends(cluster: LiveCluster, tap: Tap, source: str, target: str, *, after: float = 0.0) -> None:
    """Wait until packets go there, later than that."""

    async def seen() -> bool | None:
        return True if any(at > after for at in tap.sent(source, target)) else None

    await cluster.wait_for(f"packets to {target}", seen)


async def grace_over(cluster: LiveCluster) -> float:
    """Wait until grace is over; when it was, as the state said while it lasted, in seconds since 1970."""
    said: list[float] = []

    async def over() -> float | None:
        async with cluster.client() as client:
            state = await client.state(projection=["License"])
        assert state is not None
        region = state.projection["License"]
        if region["Phase"] == "GRACE":
            said.append(region["GraceUntil"] / 1000)
        return said[-1] if said and region["Phase"] == "EXPIRED" else None

    return await cluster.wait_for("grace to begin and to be over", over)


async def asks_in_vain(cluster: LiveCluster) -> None:
    """Wait until a lot was held back that would have left."""
    sample = 'swoosh_outbound_calls_total{result="blocked",system="legacy"}'

    async def held_back() -> bool | None:
        async with aiohttp.ClientSession() as session, session.get(f"{cluster.endpoints[0]}/metrics") as reply:
            found = [line for line in (await reply.text()).splitlines() if line.startswith(sample)]
        return True if found and float(found[0].rpartition(" ")[2]) >= BLOCKED_MIN else None

    await cluster.wait_for("calls to be held back", held_back)
