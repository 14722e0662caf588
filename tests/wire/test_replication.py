"""Three drivers over real links: what the members say to each other is in the vocabulary, and it elects and commits."""

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator

import pytest

from cluster.clock import SystemClock
from cluster.entropy import SeededEntropy
from cluster.raft.driver import Done, Fate, Identity, Raft, Role
from cluster.raft.journal import Journal
from cluster.raft.replica import Timing
from cluster.storage.kv import MemoryKeyValue
from cluster.storage.witness import MemoryWitness
from tests.wire.conftest import Arrive
from tests.wire.members import CLUSTER, DEADLINE_SECONDS, NODES

STAMP = struct.Struct(">Q")
IDENTITY = Identity(CLUSTER, "5c" * 32, 1, "ab" * 32, "cd" * 32, "1")
PATIENT = Timing(election_min=1.0, election_max=2.0)
"""Slow machines run tests too: an election that nobody asked for is not what this story is about."""


class Ledger:
    """A state machine that keeps what it is given, and tells whoever waits."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[bytes, Done]] = deque()
        self.kept: list[bytes] = []
        self.stamp = 0
        self.leader: str | None = None
        self._changed = asyncio.Event()

    def next_entry(self, term: int, stamp: int) -> tuple[bytes, Done] | None:
        if not self.waiting:
            return None
        body, done = self.waiting.popleft()
        return STAMP.pack(stamp) + body, done

    def apply(self, index: int, term: int, payload: bytes | None) -> object:
        if payload is not None:
            self.kept.append(payload[STAMP.size :])
            self.stamp = self.stamp_of(payload)
            self._changed.set()
        return index

    def stamp_of(self, payload: bytes) -> int:
        stamp: int = STAMP.unpack_from(payload)[0]
        return stamp

    def applied_stamp(self) -> int:
        return self.stamp

    def on_role(self, role: Role, term: int, leader: str | None) -> None:
        self.leader = leader
        self._changed.set()

    async def until_led(self) -> str:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while self.leader is None:
                self._changed.clear()
                await self._changed.wait()
        return self.leader

    async def until_kept(self, count: int) -> list[bytes]:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.kept) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.kept


@pytest.fixture
async def group(arrive: Arrive) -> AsyncIterator[dict[str, tuple[Raft, Ledger]]]:
    members = [await arrive(node) for node in NODES]
    group = {}
    for member in members:
        member.knows(*(other for other in members if other is not member))
        node, kv, witness, ledger = member.notes.node, MemoryKeyValue(), MemoryWitness(), Ledger()
        Journal.create(kv, witness, cluster_id=CLUSTER, node=node, incarnation=bytes(16))
        raft = Raft(
            me=node,
            members=NODES,
            journal=Journal.open(kv, witness, cluster_id=CLUSTER, node=node),
            transport=member.transport,
            machine=ledger,
            clock=SystemClock(),
            entropy=SeededEntropy(node),
            timing=PATIENT,
            identity=IDENTITY,
            applied=0,
        )
        group[node] = (raft, ledger)
    for raft, _ in group.values():
        await raft.start()
    yield group
    for raft, _ in group.values():
        await raft.stop()


async def propose(raft: Raft, ledger: Ledger, body: bytes) -> Fate:
    fate: asyncio.Future[Fate] = asyncio.get_running_loop().create_future()
    ledger.waiting.append((body, lambda outcome, _: fate.set_result(outcome)))
    raft.kick()
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await fate


async def test_three_members_elect_commit_read_and_hand_over(group: dict[str, tuple[Raft, Ledger]]) -> None:
    first = await group["n1"][1].until_led()
    raft, ledger = group[first]
    bodies = [b"%d" % number + bytes(100_000) for number in range(20)]
    assert [await propose(raft, ledger, body) for body in bodies] == [Fate.COMMITTED] * len(bodies)
    for _, each in group.values():
        assert await each.until_kept(len(bodies)) == bodies

    for member, _ in group.values():  # two of them ask the third
        await member.caught_up(SystemClock().monotonic() + DEADLINE_SECONDS)
        assert member.applied_index >= len(bodies)

    heir = next(node for node in NODES if node != first)
    assert await raft.transfer_leadership(heir)
    assert await propose(*group[heir], b"after") is Fate.COMMITTED
    for _, each in group.values():
        assert await each.until_kept(len(bodies) + 1) == [*bodies, b"after"]
    assert not any(member.refused for member, _ in group.values())
