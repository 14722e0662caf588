"""A group of nodes in one process: virtual time, a seeded network, kills that lose what was not synced.

`Cluster(seed)` runs OURS, the real `Raft` over a memory transport and the in-memory store. `Cluster(seed, stock=True)`
runs PySyncObj 0.3.17 as it is shipped, over the same network, with a journal that keeps everything at a kill (its file
journal under kill -9; a power cut would be worse). Both are driven by the same calls, so that one schedule can be
shown to both.

A link is first in, first out, and delays by a few milliseconds. It can be cut, or held in one direction. A broken link
loses what it still carried. Messages of our nodes are framed and checked by `wire`, as in production.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import logging
import random
import struct
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import pysyncobj.journal
import pysyncobj.serializer as serializer
import pysyncobj.syncobj as library
from pysyncobj.syncobj import SyncObj, SyncObjConf
from pysyncobj.transport import Transport

from chaos.simulation.virtual import NodeClock, VirtualLoop
from cluster import faults
from cluster.entropy import SeededEntropy
from cluster.faults import ExitCode
from cluster.raft import seams, wire
from cluster.raft.driver import Fate, Identity, Raft, Role, Timing
from cluster.raft.journal import Journal, decode_meta
from cluster.raft.replica import Member
from cluster.storage.kv import Batch, Family, MemoryKeyValue
from cluster.storage.syncer import MemorySyncer
from cluster.storage.witness import MemoryWitness

logging.getLogger("pysyncobj").setLevel(logging.CRITICAL + 1)

Message = dict[str, Any]
T = TypeVar("T")

APPLIED = b"applied"
REJOINED = b"rejoined "
"""Begins a body that names a node and the incarnation accepted for it from here on."""
STAMP = struct.Struct(">Q")
IDENTITY = Identity("c", "g", 1, "m", "chart", "1")
RESTART_SECONDS = 0.3
REDIAL = 0.5
CALM = Timing(election_min=500.0, election_max=600.0)
"""No election happens unless a test asks for one."""


class Killed(BaseException):
    """kill -9, at this very instruction."""


class Stopped(BaseException):
    """The node ended itself: `faults.fatal`."""

    def __init__(self, code: ExitCode, reason: str, facts: dict[str, object]) -> None:
        super().__init__(code, reason, facts)
        self.code, self.reason, self.facts = code, reason, facts


class Restarted(BaseException):
    """The node asked to begin anew: `faults.restart`."""


def raise_restarted(reason: str, facts: dict[str, object]) -> None:
    raise Restarted(reason, facts)


def raise_stopped(code: ExitCode, reason: str, facts: dict[str, object]) -> None:
    raise Stopped(code, reason, facts)


@dataclass(frozen=True)
class Link:
    connected: bool
    last_heard: float
    hello: None = None


class MemoryTransport(Transport):
    """What `PeerTransport` is in production, over the simulated network. For stock nodes just its PySyncObj half."""

    receiver: Any = None
    guard: Any = None

    def __init__(self, host: Host) -> None:
        super().__init__(None, None, [])
        self.host = host
        self.heard: dict[str, float] = {}

    async def start(self) -> None:
        self.host.serving = True
        self.host.cluster.connect_soon(self.host)

    async def stop(self) -> None:
        self.host.serving = False
        self.host.cluster.disconnect_all(self.host)

    def send(self, node: Any, message: Message) -> bool:
        self.host.step()
        if node.id not in self.host.links:
            return False
        guarded = self.guard.out(node.id, message) if self.guard else message
        return guarded is None or self.raw(node.id, guarded)

    def raw(self, peer_id: str, message: Message) -> bool:
        self.host.step()
        if peer_id not in self.host.links:
            return False
        self.host.check_durable(message)
        self.host.cluster.transmit(self.host.name, peer_id, message)
        return True

    def reset(self, peer_id: str) -> None:
        self.host.cluster.break_link_soon(self.host.name, peer_id)

    def peers(self) -> dict[str, Link]:
        names = [name for name in self.host.cluster.names if name != self.host.name]
        return {name: Link(name in self.host.links, self.heard.get(name, float("-inf"))) for name in names}


class Host:
    """One machine: what survives a kill, and the node that runs on it at the moment."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.links: set[str] = set()
        self.alive = self.serving = False
        self.life = 0
        self.kill_in: int | None = None
        self.stopped: Stopped | None = None
        self.apply_attempts = 0
        self.wall_offset_us = 0
        self.frozen: list[Callable[[], Any]] | None = None
        self.sync_seconds: Callable[[], float] = lambda: 0.0
        self.disk_fails = ""
        self.transport = MemoryTransport(self)
        self.poison: Callable[[str, bytes], None] = lambda name, payload: None

    def step(self) -> None:
        """A point at which a kill may strike: each write and each send."""
        if self.kill_in is not None:
            self.kill_in -= 1
            if self.kill_in <= 0:
                self.kill_in = None
                raise Killed

    def run(self, callback: Callable[[], Any]) -> None:
        """Call into the node; if that ends it, so be it. A frozen one is called when it wakes."""
        if self.frozen is not None:
            self.frozen.append(callback)
            return
        outer, self.cluster.acting = self.cluster.acting, self
        try:
            callback()
        except Killed:
            self.kill()
        except Stopped as stop:
            self.stopped = stop
            self.kill()
        except Restarted:
            self.kill()
            self.cluster.later(RESTART_SECONDS, self.restart)
        finally:
            self.cluster.acting = outer

    def restart(self) -> None:
        """Begin anew, unless somebody was quicker."""
        if not self.alive:
            self.start()

    def freeze(self) -> None:
        """SIGSTOP. Its timers fall due and its sockets fill, and it notices nothing."""
        self.frozen = []

    def thaw(self) -> None:
        """SIGCONT: everything that has come up meanwhile, at once."""
        missed, self.frozen = self.frozen or [], None
        for callback in missed:
            self.run(callback)

    def kill(self) -> None:
        if self.alive:
            self.frozen = None
            self.alive = self.serving = False
            self.cluster.disconnect_all(self)
            self.lose_unsynced()

    def check_durable(self, message: Message) -> None:
        """Called with every message that leaves: is what it promises on this machine's disk?"""

    # what the two kinds of node differ in

    def start(self) -> None:
        raise NotImplementedError

    def lose_unsynced(self) -> None: ...
    def deliver(self, peer: str, message: Message) -> None:
        raise NotImplementedError

    def greets(self, peer: Host) -> bool:
        """Hear a peer's hello; False refuses the link."""
        return True

    def connected(self, peer: str) -> None:
        raise NotImplementedError

    def disconnected(self, peer: str) -> None:
        raise NotImplementedError

    def core(self) -> SyncObj:
        raise NotImplementedError

    def propose(self, body: bytes, *, at_once: bool = False) -> None:
        raise NotImplementedError

    def campaign(self) -> None:
        raise NotImplementedError

    def state(self) -> list[bytes]:
        raise NotImplementedError

    def log(self) -> list[tuple[bytes, int, int]]:
        raise NotImplementedError

    def is_leader(self) -> bool:
        return self.alive and self.core()._isLeader()

    def term(self) -> int:
        return self.core().raftCurrentTerm


# --- our node ---------------------------------------------------------------------------------------------------------


class Store(MemoryKeyValue):
    """A store during whose writes a node may die, before or after the write took effect."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host = host

    def write(self, batch: Batch, *, sync: bool) -> None:
        self.host.step()
        if sync and self.host.disk_fails:
            faults.fatal(ExitCode.DISK, "store write failed", error=self.host.disk_fails)
        super().write(batch, sync=sync)
        self.host.step()

    def __deepcopy__(self, memo: dict[int, Any]) -> Store:
        twin = Store(self.host)
        twin._live, twin._disk = copy.deepcopy(self._live, memo), copy.deepcopy(self._disk, memo)
        twin._unsynced = list(self._unsynced)
        return twin


class Recorder:
    """The state machine: a list of bodies, kept in the store together with the applied index, unsynced."""

    def __init__(self, host: OurHost) -> None:
        self.host = host
        self.queue: deque[tuple[bytes, Callable[[Fate, object], None]]] = deque()
        self.roles: list[tuple[Role, int, str | None]] = []
        raw = host.store.get(Family.META, APPLIED)
        self.applied = int.from_bytes(raw) if raw else 0

    def next_entry(self, term: int, stamp: int) -> tuple[bytes, Callable[[Fate, object], None]] | None:
        if not self.queue:
            return None
        body, done = self.queue.popleft()
        return STAMP.pack(stamp) + body, done

    def apply(self, index: int, term: int, payload: bytes | None) -> object:
        assert index == self.applied + 1, f"{self.host.name} applies {index} after {self.applied}"
        batch = Batch()
        body = b"" if payload is None else payload[STAMP.size :]
        if payload is not None:
            self.host.apply_attempts += 1
            self.host.poison(self.host.name, body)
            batch.put(Family.HEAD, index.to_bytes(8), payload)
        batch.put(Family.META, APPLIED, index.to_bytes(8))
        self.host.store.write(batch, sync=False)
        self.applied = index
        self.host.cluster.note_applied(self.host.name, index, payload)
        if body.startswith(REJOINED):
            node, incarnation = body.decode().split()[1:]
            self.host.raft.accept({node: incarnation})
        return index

    def stamp_of(self, payload: bytes) -> int:
        stamp: int = STAMP.unpack_from(payload)[0]
        return stamp

    def applied_stamp(self) -> int:
        newest = next(self.host.store.iterate(Family.HEAD, reverse=True), None)
        return self.stamp_of(newest[1]) if newest else 0

    def on_role(self, role: Role, term: int, leader: str | None) -> None:
        self.roles.append((role, term, leader))


class OurHost(Host):
    raft: Raft
    machine: Recorder

    def __init__(self, cluster: Cluster, name: str) -> None:
        super().__init__(cluster, name)
        self.hellos: dict[str, tuple[wire.Hello, str | None]] = {}
        self.wipes = 0
        self.store, self.witness = Store(self), MemoryWitness()
        Journal.create(self.store, self.witness, cluster_id="c", node=name, incarnation=name.encode().rjust(16))
        self.clock = NodeClock(cluster.loop, self.run)
        self.syncer = MemorySyncer(self.clock, self._next_sync)

    def _next_sync(self) -> float:
        return self.sync_seconds()

    def start(self) -> None:
        self.life += 1
        self.kill_in, self.stopped, self.alive = None, None, True
        self.clock = NodeClock(self.cluster.loop, self.run)
        self.clock.wall_offset_us = self.wall_offset_us
        self.syncer = MemorySyncer(self.clock, self._next_sync)
        self.run(self._build)
        if self.alive:
            self.cluster.spawn(self._begin(), self)

    def _begin(self) -> Coroutine[Any, Any, None]:
        return self.raft.start()

    def _build(self) -> None:
        self.transport = MemoryTransport(self)
        journal = Journal.open(
            self.store, self.witness, cluster_id="c", node=self.name, memory_entries=64, syncer=self.syncer
        )
        self.machine = Recorder(self)
        self.raft = Raft(
            me=self.name,
            members=tuple(self.cluster.names),
            journal=journal,
            transport=self.transport,
            machine=self.machine,
            clock=self.clock,
            entropy=SeededEntropy(f"{self.cluster.seed}/{self.name}/{self.life}"),
            timing=self.cluster.timing,
            identity=IDENTITY,
            applied=self.machine.applied,
        )

    def lose_unsynced(self) -> None:
        self.clock.kill()
        self.syncer.crash(self.cluster.entropy)
        self.store.crash(self.cluster.entropy)

    def check_durable(self, message: Message) -> None:
        disk = self.store._disk
        if message["type"] == "next_node_idx" and message["success"]:
            on_disk = int.from_bytes(disk.keys[Family.LOG][-1]) if disk.keys[Family.LOG] else 1
            assert message["next_node_idx"] - 1 <= on_disk, "an acknowledgement left before its entry was durable"
        if message["type"] in ("request_vote", "response_vote"):
            meta = disk.values[Family.META][b"raft"]
            assert decode_meta(meta).term == message["term"], "a vote left before it was durable"

    def set_wall_offset(self, us: int) -> None:
        self.wall_offset_us = self.clock.wall_offset_us = us

    def deliver(self, peer: str, message: Message) -> None:
        self.transport.heard[peer] = self.clock.monotonic()
        self.raft.on_message(peer, message)
        self.raft.after_messages()

    def wipe(self, *, rejoining: bool = True) -> None:
        """The disk is lost, and a new store made in its place; `rejoining=False` is what nobody should do."""
        assert not self.alive
        self.wipes += 1
        self.store, self.witness = Store(self), MemoryWitness()
        incarnation = f"{self.name}/{self.wipes}".encode().rjust(16)
        Journal.create(
            self.store, self.witness, cluster_id="c", node=self.name, incarnation=incarnation, rejoining=rejoining
        )

    def rejoined(self) -> bytes:
        """The body that accepts the store this node has now."""
        return REJOINED + f"{self.name} {self.journal.incarnation.hex()}".encode()

    def greets(self, peer: Host) -> bool:
        assert isinstance(peer, OurHost)
        hello = peer.raft.local_hello()
        self.run(lambda: self.hellos.__setitem__(peer.name, (hello, self.raft.on_hello(peer.name, hello))))
        return self.alive and self.hellos[peer.name][1] is None

    def connected(self, peer: str) -> None:
        self.raft.on_connected(peer, self.hellos[peer][0])

    def disconnected(self, peer: str) -> None:
        self.raft.on_disconnected(peer)

    def core(self) -> SyncObj:
        return self.raft._core

    @property
    def journal(self) -> Journal:
        return self.raft._journal

    def propose(self, body: bytes, *, at_once: bool = False) -> None:
        """Queue a proposal; `at_once` appends it past the driver's own reasons to wait."""

        def done(fate: Fate, result: object) -> None:
            self.cluster.note_fate(body, fate)

        if at_once:
            stamped = STAMP.pack(self.clock.wall_us()) + body
            self.run(lambda: self.raft._core.append(stamped, self.raft._report_to(done)))
        else:
            self.machine.queue.append((body, done))
        self.raft.kick()

    def campaign(self) -> None:
        self.raft._guard._elected_to_campaign = True
        self.raft._core.set_election_deadline(0.0)

    def state(self) -> list[bytes]:
        return [payload[STAMP.size :] for _, payload in self.store.iterate(Family.HEAD)]

    def log(self) -> list[tuple[bytes, int, int]]:
        return [self.journal.entry(index) for index in range(self.journal.first_index, self.journal.last_index + 1)]


# --- the stock library ------------------------------------------------------------------------------------------------


class StockJournal(pysyncobj.journal.Journal):
    """PySyncObj's file journal at a kill -9: whatever was written is in the page cache and survives."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.entries: list[tuple[bytes, int, int]] = []
        self.commit, self.term = 1, 0
        self.vote: str | None = None

    def add(self, command: bytes, idx: int, term: int) -> None:
        self.host.step()
        self.entries.append((command, idx, term))

    def clear(self) -> None:
        self.host.step()
        self.entries.clear()

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        self.host.step()
        del self.entries[entryFrom:]

    def deleteEntriesTo(self, entryTo: int) -> None:
        self.host.step()
        del self.entries[:entryTo]

    def __getitem__(self, item: Any) -> Any:
        return self.entries[item]

    def __len__(self) -> int:
        return len(self.entries)

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        self.commit = raftCommitIndex

    def getRaftCommitIndex(self) -> int:
        return self.commit

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        self.host.step()
        self.term, self.vote = term, votedForNodeId

    def getCurrentTerm(self) -> int:
        return self.term

    def getVotedForNodeId(self) -> str | None:
        return self.vote


class StockCore(SyncObj):
    def __init__(self, host: StockHost, *args: Any, **kwargs: Any) -> None:
        self.host = host
        super().__init__(*args, **kwargs)
        self.bodies: list[bytes] = []

    def _SyncObj__doApplyCommand(self, command: bytes) -> Any:
        if command[:1] == b"\0":
            self.host.apply_attempts += 1
            self.host.poison(self.host.name, command[1:])
            self.bodies.append(command[1:])
            self.host.cluster.note_applied(self.host.name, self.raftLastApplied + 1, command[1:])
        return None


class StockHost(Host):
    stock: StockCore

    def __init__(self, cluster: Cluster, name: str) -> None:
        super().__init__(cluster, name)
        self.journal = StockJournal(self)

    def start(self) -> None:
        self.life += 1
        self.kill_in, self.alive = None, True
        self.transport = MemoryTransport(self)
        cluster = self.cluster
        options: dict[str, Any] = {
            "raftMinTimeout": cluster.timing.election_min,
            "raftMaxTimeout": cluster.timing.election_max,
            "leaderFallbackTimeout": 2.0 if cluster.timing is not CALM else 300.0,
            "connectionTimeout": max(4.0, 2 * cluster.timing.election_max),
            **cluster.stock_options,
        }
        self.stock = StockCore(
            self,
            Member(self.name),
            [Member(name) for name in cluster.names if name != self.name],
            conf=SyncObjConf(
                autoTick=False,
                appendEntriesUseBatch=False,
                journalFile=self.journal,  # type: ignore[arg-type]
                dynamicMembershipChange=False,
                **options,
            ),
            transport=self.transport,
        )
        self.serving = True
        cluster.connect_soon(self)
        self._tick(self.life)

    def _tick(self, life: int) -> None:
        if self.alive and life == self.life:
            self.run(self.tick)
            self.cluster.loop.call_later(0.01, self._tick, life)

    def tick(self) -> None:
        try:
            self.stock.doTick(0.0)
        except ValueError:
            pass  # the library's own thread logs what a tick raises, and ticks again
        except RuntimeError:
            pass

    def deliver(self, peer: str, message: Message) -> None:
        self.transport._onMessageReceived(Member(peer), message)
        self.tick()

    def connected(self, peer: str) -> None:
        self.transport._onNodeConnected(Member(peer))

    def disconnected(self, peer: str) -> None:
        self.transport._onNodeDisconnected(Member(peer))

    def core(self) -> SyncObj:
        return self.stock

    def propose(self, body: bytes, *, at_once: bool = False) -> None:
        def done(_result: object, reason: int) -> None:
            if reason == library.FAIL_REASON.SUCCESS:
                self.cluster.note_fate(body, Fate.COMMITTED)

        self.run(lambda: self.stock._applyCommand(body, done, 0))

    def campaign(self) -> None:
        self.stock._SyncObj__raftElectionDeadline = 0.0

    def state(self) -> list[bytes]:
        return list(self.stock.bodies)

    def log(self) -> list[tuple[bytes, int, int]]:
        return list(self.journal.entries)


def install_stock(cluster: Cluster) -> None:
    """Give the library back what `seams.install` took, with the simulation's clock and randomness."""
    original = importlib.import_module("pysyncobj.pickle")
    replacements: dict[str, object] = {
        "createJournal": lambda journal: journal,
        "createPoller": seams._NoPoller,
        "PIPE_NOTIFIER_ENABLED": False,
        "monotonicTime": cluster.loop.look,
        "random": random.Random(cluster.seed),
        "pickle": original,
    }
    for name, value in replacements.items():
        setattr(library, name, value)
    vars(serializer)["pickle"] = original


# --- the group --------------------------------------------------------------------------------------------------------


class Cluster:
    """The group and its network. Use as a context manager; `run(seconds)` lets virtual time pass."""

    def __init__(
        self,
        seed: int,
        *,
        nodes: int = 3,
        stock: bool = False,
        timing: Timing | None = None,
        latency: tuple[float, float] = (0.0005, 0.02),
        wall_offsets_us: tuple[int, ...] = (),
        stock_options: Mapping[str, Any] | None = None,
        ours: type[OurHost] | None = None,
    ) -> None:
        """`stock_options` are further settings of the library; our nodes have none. `ours` is what runs on them."""
        print(f"seed {seed}")
        self.seed, self.is_stock, self.latency, self.stock_options = seed, stock, latency, stock_options or {}
        self.timing = timing or Timing()
        self.random = random.Random(seed)
        self.entropy = SeededEntropy(seed)
        self.loop = VirtualLoop()
        self.loop.set_exception_handler(self._on_exception)
        self.names = [f"n{number}" for number in range(nodes)]
        self.fates: dict[bytes, Fate] = {}
        self.applied: dict[int, tuple[bytes | None, str]] = {}
        self.divergences: list[str] = []
        self.messages = 0
        self.acting: Host | None = None
        """Whose code runs at the moment, where it was called by a timer or a message."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._epochs: dict[frozenset[str], int] = {}
        self._cut: set[frozenset[str]] = set()
        self._held: dict[tuple[str, str], float] = {}
        self._in_order: dict[tuple[str, str], float] = {}
        self._late: dict[tuple[str, str], list[Callable[[], None]]] = {}
        self._errors: list[BaseException] = []
        faults.set_stop(raise_stopped)
        faults.set_restart(raise_restarted)
        if stock:
            install_stock(self)
        kind = StockHost if stock else ours or OurHost
        self.hosts: dict[str, Host] = {name: kind(self, name) for name in self.names}
        for name, offset in zip(self.names, wall_offsets_us, strict=False):
            self.hosts[name].wall_offset_us = offset
        for host in self.hosts.values():
            host.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        faults.set_stop(None)
        faults.set_restart(None)
        for task in self._tasks:
            task.cancel()
        for host in self.hosts.values():
            host.kill()
        self.wait(asyncio.sleep(0.0))
        self.loop.close()

    # --- time ---------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.loop.time()

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.wait(asyncio.sleep(seconds))
        if self._errors:
            raise self._errors[0]

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, and time with it."""
        return self.loop.run_until_complete(coroutine)

    def run_until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        """Let time pass until something holds; fail if it does not within `seconds`."""
        deadline = self.now + seconds
        while not condition():
            assert self.now < deadline, f"not within {seconds} virtual seconds"
            self.run(0.005)

    def later(self, seconds: float, callback: Callable[[], Any]) -> None:
        self.loop.call_later(seconds, callback)

    def spawn(self, coroutine: Coroutine[Any, Any, None], host: Host) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                host.run(lambda: _raise(error))

        task.add_done_callback(ended)

    def _on_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(error, Killed | Stopped | Restarted):
            self._errors.append(error)

    # --- nodes --------------------------------------------------------------------------------------------------------

    def ours(self, name: str) -> OurHost:
        host = self.hosts[name]
        assert isinstance(host, OurHost)
        return host

    def leader(self) -> Host | None:
        """The live leader of the highest term."""
        return max((host for host in self.hosts.values() if host.is_leader()), key=Host.term, default=None)

    def elected(self) -> Host:
        """Wait for a leader that has committed its term's first entry."""
        self.run_until(lambda: self.leader() is not None)
        leader = self.leader()
        assert leader is not None
        self.run_until(lambda: leader.core().raftCommitIndex == leader.log()[-1][1])
        return leader

    def others(self, *besides: Host) -> list[Host]:
        return [host for host in self.hosts.values() if host not in besides]

    def highest_term(self) -> int:
        return max(host.term() for host in self.hosts.values())

    def elect(self, host: Host) -> None:
        """Make this node campaign, and wait until it leads."""
        host.campaign()
        self.run_until(host.is_leader, 2.0)
        self.run(0.2)

    # --- network ------------------------------------------------------------------------------------------------------

    def connect_soon(self, host: Host) -> None:
        for name in self.names:
            if name != host.name:
                self.later(0.05 + 0.05 * self.random.random(), lambda name=name: self.connect(host.name, name))  # type: ignore[misc]

    def connect(self, a: str, b: str) -> None:
        first, second = self.hosts[a], self.hosts[b]
        pair = frozenset((a, b))
        if pair in self._cut or not (first.serving and second.serving) or b in first.links:
            return
        if not (first.greets(second) & second.greets(first)):
            self.later(REDIAL, lambda: self.connect(a, b))
            return
        first.links.add(b)
        second.links.add(a)
        self._epochs[pair] = self._epochs.get(pair, 0) + 1
        first.run(lambda: first.connected(b))
        if second.serving and b in first.links:
            second.run(lambda: second.connected(a))

    def disconnect(self, a: str, b: str) -> None:
        pair = frozenset((a, b))
        self._epochs[pair] = self._epochs.get(pair, 0) + 1
        for name, peer in ((a, b), (b, a)):
            host = self.hosts[name]
            if peer in host.links:
                host.links.discard(peer)
                if host.alive:
                    host.run(lambda host=host, peer=peer: host.disconnected(peer))  # type: ignore[misc]

    def disconnect_all(self, host: Host) -> None:
        for peer in sorted(host.links):
            self.disconnect(host.name, peer)

    def break_link_soon(self, a: str, b: str) -> None:
        self.later(0.0, lambda: self.disconnect(a, b))
        self.later(0.1, lambda: self.connect(a, b))

    def cut(self, a: str, b: str) -> None:
        """No link between these two until `mend` or `heal`."""
        self._cut.add(frozenset((a, b)))
        self.disconnect(a, b)

    def isolate(self, host: Host) -> None:
        for name in self.names:
            if name != host.name:
                self.cut(host.name, name)

    def mend(self, a: str, b: str) -> None:
        self._cut.discard(frozenset((a, b)))
        self.connect(a, b)

    def heal(self) -> None:
        """Every link as it should be, held messages released."""
        self._cut.clear()
        for source, target in list(self._late):
            self.release(source, target)
        self._held.clear()
        for a in self.names:
            for b in self.names:
                if a < b:
                    self.later(0.05, lambda a=a, b=b: self.connect(a, b))  # type: ignore[misc]

    def hold(self, source: str, target: str) -> None:
        """Messages from `source` to `target` stay in the wire until `release`; the link does not break."""
        self._late.setdefault((source, target), [])

    def release(self, source: str, target: str) -> None:
        for deliver in self._late.pop((source, target), []):
            deliver()

    def delay(self, source: str, target: str, seconds: float) -> None:
        """Nothing from `source` arrives at `target` for so long; then all of it, in order."""
        self._held[source, target] = self.now + seconds

    def transmit(self, source: str, target: str, message: Message) -> None:
        copied = copy.deepcopy(message) if self.is_stock else wire.decode(wire.encode(message)[4:])
        epoch = self._epochs[frozenset((source, target))]

        def deliver() -> None:
            host = self.hosts[target]
            if host.serving and epoch == self._epochs[frozenset((source, target))]:
                self.messages += 1
                host.run(lambda: host.deliver(source, copied))

        if (source, target) in self._late:
            self._late[source, target].append(deliver)
            return
        lane = (source, target)
        arrival = self.now + self.random.uniform(*self.latency)
        arrival = max(arrival, self._held.get(lane, 0.0) + 1e-6, self._in_order.get(lane, 0.0) + 1e-6)
        self._in_order[lane] = arrival
        self.loop.call_at(arrival, deliver)

    # --- what happened ------------------------------------------------------------------------------------------------

    def note_fate(self, body: bytes, fate: Fate) -> None:
        self.fates[body] = fate

    def note_applied(self, name: str, index: int, payload: bytes | None) -> None:
        known, by = self.applied.setdefault(index, (payload, name))
        if known != payload:
            self.divergences.append(f"index {index}: {by} applied {known!r}, {name} applied {payload!r}")

    def acknowledged(self) -> set[bytes]:
        return {body for body, fate in self.fates.items() if fate is Fate.COMMITTED}

    def lost(self) -> set[bytes]:
        """Acknowledged proposals that the leader does not hold."""
        leader = self.leader()
        assert leader is not None, "no leader at the end"
        prefix = 1 if self.is_stock else 1 + STAMP.size
        held = {command[prefix:] for command, _, _ in leader.log() if command[:1] == b"\0"} | set(leader.state())
        return self.acknowledged() - held


def _raise(error: BaseException) -> None:
    raise error
