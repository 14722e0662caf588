"""Three nodes as in production, in one process: RocksDB, mutual TLS on loopback, the machine's clock."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster import peerport, tls
from cluster.clock import SystemClock
from cluster.entropy import SeededEntropy
from cluster.raft.driver import Fate, Identity, Raft, Role, Timing
from cluster.raft.journal import Journal
from cluster.raft.transport import PeerTransport
from cluster.storage.kv import Batch, Family, RocksKeyValue
from cluster.storage.witness import FileWitness
from cluster.tls import PeerName
from tests.wire.members import CLUSTER, NODES, Papers

APPLIED = b"applied"
DEADLINE = 30.0


class Machine:
    """A list of bodies in RocksDB. Answers a proposal through a future."""

    def __init__(self, kv: RocksKeyValue) -> None:
        self.kv = kv
        self.queue: deque[tuple[bytes, asyncio.Future[tuple[Fate, object]]]] = deque()
        raw = kv.get(Family.META, APPLIED)
        self.applied = int.from_bytes(raw) if raw else 0
        self.stamp = 0

    def next_entry(self, term: int, stamp: int) -> tuple[bytes, Callable[[Fate, object], None]] | None:
        if not self.queue:
            return None
        body, answered = self.queue.popleft()

        def done(fate: Fate, result: object) -> None:
            if not answered.done():
                answered.set_result((fate, result))

        return stamp.to_bytes(8) + body, done

    def apply(self, index: int, term: int, payload: bytes | None) -> object:
        assert index == self.applied + 1
        batch = Batch()
        if payload is not None:
            batch.put(Family.HEAD, index.to_bytes(8), payload[8:])
            self.stamp = self.stamp_of(payload)
        batch.put(Family.META, APPLIED, index.to_bytes(8))
        self.kv.write(batch, sync=False)
        self.applied = index
        return index

    def stamp_of(self, payload: bytes) -> int:
        return int.from_bytes(payload[:8])

    def applied_stamp(self) -> int:
        return self.stamp

    def on_role(self, role: Role, term: int, leader: str | None) -> None:
        pass


class Node:
    """One life of one node; its home outlives it."""

    def __init__(self, home: Path, name: str, papers: Papers) -> None:
        self.home, self.name, self.papers = home / name, name, papers

    def init(self) -> None:
        self.home.mkdir()
        kv, witness = RocksKeyValue.create(self.home / "store"), FileWitness.create(self.home / "witness")
        Journal.create(kv, witness, cluster_id=CLUSTER, node=self.name, incarnation=self.name.encode().rjust(16))
        witness.close()
        kv.close()

    async def listen(self, port: int = 0) -> int:
        self.transport = PeerTransport(
            me=PeerName(self.name, CLUSTER),
            peers={peer: ("127.0.0.1", 0) for peer in NODES if peer != self.name},
            context=tls.client_context(self.papers.nodes[self.name], tls.RAFT_PROTOCOL),
            clock=SystemClock(),
            entropy=SeededEntropy(self.name),
        )
        self.port = peerport.PeerPort(
            context=tls.server_context(self.papers.nodes[self.name]),
            cluster_id=CLUSTER,
            members=NODES,
            protocols={tls.RAFT_PROTOCOL: self.transport.accept},
        )
        await self.port.start("127.0.0.1", port)
        return self.port.port

    async def start(self, ports: dict[str, int]) -> None:
        self.transport._peers = {peer: ("127.0.0.1", ports[peer]) for peer in NODES if peer != self.name}
        self.kv, self.witness = RocksKeyValue.open(self.home / "store"), FileWitness.open(self.home / "witness")
        self.machine = Machine(self.kv)
        self.raft = Raft(
            me=self.name,
            members=NODES,
            journal=Journal.open(self.kv, self.witness, cluster_id=CLUSTER, node=self.name),
            transport=self.transport,
            machine=self.machine,
            clock=SystemClock(),
            entropy=SeededEntropy(self.name),
            timing=Timing(),
            identity=Identity(CLUSTER, "5c" * 32, 1, "ab" * 32, "cd" * 32, "1"),
            applied=self.machine.applied,
        )
        await self.raft.start()

    async def stop(self) -> None:
        await self.raft.stop()
        self.port.stop()
        self.witness.close()
        self.kv.close()

    async def propose(self, body: bytes) -> tuple[Fate, object]:
        answered: asyncio.Future[tuple[Fate, object]] = asyncio.get_running_loop().create_future()
        self.machine.queue.append((body, answered))
        self.raft.kick()
        return await answered

    def state(self) -> list[bytes]:
        return [body for _, body in self.kv.iterate(Family.HEAD)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)


def leaders(nodes: list[Node]) -> list[Node]:
    return [node for node in nodes if node.raft.role is Role.LEADER and node.raft.quorum_heard()]


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


async def test_a_group_elects_acknowledges_fails_over_and_restarts(tmp_path: Path, papers: Papers) -> None:
    nodes = [Node(tmp_path, name, papers) for name in NODES]
    for node in nodes:
        node.init()
    ports = {node.name: await node.listen() for node in nodes}
    for node in nodes:
        await node.start(ports)
    await until(lambda: bool(leaders(nodes)))
    leader = leaders(nodes)[0]

    answers = await asyncio.gather(*(leader.propose(b"w%d" % number) for number in range(100)))
    assert {fate for fate, _ in answers} == {Fate.COMMITTED}

    deadline = SystemClock().monotonic() + DEADLINE
    for node in nodes:
        await node.raft.caught_up(deadline)
        assert node.state() == [b"w%d" % number for number in range(100)]

    await leader.stop()
    survivors = [node for node in nodes if node is not leader]
    await until(lambda: bool(leaders(survivors)))
    successor = leaders(survivors)[0]
    assert (await successor.propose(b"after"))[0] is Fate.COMMITTED

    await leader.listen(ports[leader.name])
    await leader.start(ports)
    await leader.raft.caught_up(SystemClock().monotonic() + DEADLINE)
    assert leader.state()[-1] == b"after"
    assert await successor.raft.transfer_leadership(leader.name)
    await until(lambda: leader.raft.role is Role.LEADER)
    for node in nodes:
        await node.stop()
