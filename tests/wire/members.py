"""Members and impostors on loopback: real TLS, real ports, and receivers that only take notes.

A test waits for a note, never for time to pass.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from cluster import pki, tls
from cluster.clock import Clock, SystemClock
from cluster.entropy import SeededEntropy
from cluster.peerport import PeerPort, ProtocolFactory
from cluster.raft import wire
from cluster.raft.transport import PeerTransport
from cluster.raft.wire import Hello, Message
from cluster.tls import Credentials, PeerName

CLUSTER = "swoosh-" + "5c" * 16
NODES = ("n1", "n2", "n3")
VALIDITY = {"not_before": datetime(2020, 1, 1, tzinfo=UTC), "not_after": datetime(2120, 1, 1, tzinfo=UTC)}
DEADLINE_SECONDS = 20.0


class Papers:
    """One authority and the certificates it issued, on disk."""

    def __init__(self, directory: Path, cluster_id: str = CLUSTER) -> None:
        self.cluster_id = cluster_id
        self.authority = pki.make_authority(cluster_id, **VALIDITY)
        self.nodes = {node: self.issue(directory / node, PeerName(node, cluster_id)) for node in NODES}

    def issue(self, directory: Path, name: PeerName) -> Credentials:
        directory.mkdir(parents=True)
        pair = pki.make_node(self.authority, name, **VALIDITY)
        return pki.write_node(directory, self.authority.certificate, pair)


def hello(node: str, **changes: object) -> Hello:
    facts: dict[str, object] = {
        "cluster_id": CLUSTER,
        "genesis_hash": "5c" * 32,
        "config_epoch": 1,
        "member_set_hash": "ab" * 32,
        "node": node,
        "incarnation": "0f" * 8,
        "boots": 1,
        "barrier_seq": 7,
        "rejoining": False,
        "seen": {node: ("0f" * 8, 7)},
        "term": 3,
        "last_index": 40,
        "last_term": 3,
        "chart_hash": "cd" * 32,
        "reducer_version": "1",
    }
    return Hello(**(facts | changes))  # type: ignore[arg-type]


class Notes:
    """A Receiver and an outbound guard that write down what they were told, as tuples."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.seen: list[tuple[object, ...]] = []
        self.refuse: str | None = None
        self.swallow = False
        self.on_each: Callable[[Message], None] = lambda message: None
        self._changed = asyncio.Event()

    def _note(self, *what: object) -> None:
        self.seen.append(what)
        self._changed.set()

    def local_hello(self) -> Hello:
        return hello(self.node)

    def on_hello(self, peer_id: str, hello: Hello) -> str | None:
        if self.refuse is not None:
            self._note("refused", peer_id)
        return self.refuse

    def on_connected(self, peer_id: str, hello: Hello) -> None:
        self._note("connected", peer_id)

    def on_disconnected(self, peer_id: str) -> None:
        self._note("disconnected", peer_id)

    def on_message(self, peer_id: str, message: Message) -> None:
        self.on_each(message)
        self._note("message", peer_id, message)

    def after_messages(self) -> None:
        self._note("read")

    def out(self, peer_id: str, message: Message) -> Message | None:
        return None if self.swallow else message | {"t": 9} if message["type"] == "stale_term" else message

    @property
    def messages(self) -> list[Message]:
        return [note[2] for note in self.seen if note[0] == "message"]  # type: ignore[misc]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a note that makes `condition` true."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_seen(self, *note: object, times: int = 1) -> None:
        await self.until(lambda: self.seen.count(note) >= times)


@dataclass
class Member:
    """A node's peer port and links, with notes in place of the driver."""

    transport: PeerTransport
    port: PeerPort
    notes: Notes

    @classmethod
    async def listening(
        cls,
        papers: Papers,
        node: str,
        clock: Clock | None = None,
        protocols: Mapping[str, ProtocolFactory] | None = None,
        bind: int = 0,
    ) -> Self:
        """Port open, links not started; the addresses of peers are filled in by `knows`."""
        addresses = {peer: ("127.0.0.1", 0) for peer in NODES if peer != node}
        notes = Notes(node)
        transport = PeerTransport(
            me=PeerName(node, papers.cluster_id),
            peers=addresses,
            context=tls.client_context(papers.nodes[node], tls.RAFT_PROTOCOL),
            clock=clock or SystemClock(),
            entropy=SeededEntropy(node),
        )
        transport.receiver = transport.guard = notes
        port = PeerPort(
            context=tls.server_context(papers.nodes[node]),
            cluster_id=papers.cluster_id,
            members=NODES,
            protocols={tls.RAFT_PROTOCOL: transport.accept, **(protocols or {})},
        )
        await port.start("127.0.0.1", bind)
        return cls(transport, port, notes)

    def knows(self, *others: "Member") -> None:
        for other in others:
            self.transport._peers[other.notes.node] = ("127.0.0.1", other.port.port)

    async def stop(self) -> None:
        self.port.stop()
        await self.transport.stop()


class Impostor:
    """A hand-held connection: says exactly the bytes it is told to, and reads until it is shown the door."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def dial(cls, port: int, context: ssl.SSLContext | None, server: str = f"n1.{CLUSTER}") -> Self:
        """Plain TCP if there is no context."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            name = server if context is not None else None
            return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name))

    @classmethod
    async def greeting(cls, port: int, credentials: Credentials, claims: Hello) -> Self:
        """Arrive with a member's certificate and say hello and welcome."""
        impostor = await cls.dial(port, tls.client_context(credentials, tls.RAFT_PROTOCOL))
        impostor.say(wire.encode_hello(claims), wire.encode({"type": "welcome"}))
        return impostor

    def say(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    async def shown_out(self) -> None:
        """Return when the other side has ended the connection, in whatever way."""
        with suppress(ssl.SSLError, ConnectionError):
            async with asyncio.timeout(DEADLINE_SECONDS):
                while await self.reader.read(1 << 16):
                    pass
        await self.leave()

    async def leave(self) -> None:
        self.writer.transport.abort()
        with suppress(ssl.SSLError, ConnectionError):
            await self.writer.wait_closed()
