"""One machine of the simulated cluster: the disk that survives, and the life of the process that runs on it.

A life ends by a kill, by its own word (`faults.fatal`), or by an orderly stop. From that instant everything it holds is
inert: its timers are silent, its messages go nowhere, its writes end whatever code still unwinds. So a crash may strike
inside any handler, between any two writes, and nothing that was not synced is safe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pysyncobj.transport import Transport

from chaos.simulation import web
from chaos.simulation.network import Station
from chaos.simulation.town import ADDRESSES, Way
from chaos.simulation.virtual import NodeClock
from cluster import faults, outside, verify
from cluster.egress import Gatekeeper, Outbound
from cluster.entropy import SeededEntropy
from cluster.faults import ExitCode
from cluster.http.app import public_app
from cluster.http.forward import Forwarder, peer_app
from cluster.http.request import Limits
from cluster.http.snapshots import PeerDonors
from cluster.node import Node, identity_of
from cluster.raft import install
from cluster.raft.driver import Raft
from cluster.raft.journal import Journal
from cluster.raft.wire import Hello
from cluster.storage.donor import Donor
from cluster.storage.incoming import MemoryPlace
from cluster.storage.kv import Batch, Family, KeyValue, MemoryKeyValue
from cluster.storage.snapshots import MemoryShelf, Snapshots
from cluster.storage.store import ORIGIN, Store
from cluster.storage.syncer import MemorySyncer
from cluster.storage.witness import Mark, MemoryWitness
from cluster.telemetry.metrics import Metrics
from cluster.tls import PeerName
from swoosh import genesis as genesis_document
from swoosh.errors import Corrupt
from swoosh.snapshot import Manifest

if TYPE_CHECKING:
    from chaos.simulation.world import World

Message = dict[str, Any]
SNAPSHOT_SECONDS = 1.0
DRAIN_SECONDS = 4.0
INSTALL_BYTES_PER_SECOND = 500_000
"""Slow enough that an install can be met by a fault."""

LIVING: ContextVar[Life | None] = ContextVar("living", default=None)
"""The life whose code is running."""


class Ended(BaseException):
    """Unwinds the code of a life that has ended, from wherever it was."""


class Link:
    """A peer as `Raft.peers` wants it."""

    hello = None

    def __init__(self, connected: bool, last_heard: float) -> None:
        self.connected, self.last_heard = connected, last_heard


class Host:
    """What there is of a node while nothing runs."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.stores = 0
        self.lives = 0
        self.life: Life | None = None
        self.stopped: tuple[ExitCode, str, dict[str, object]] | None = None
        """Why the last life ended itself, if it did."""
        self.wall_offset_us = 0
        self.full = self.sync_fails = False
        self.sync_seconds = 0.0
        self.damaged = False
        """What it once promised may be gone: it is not to be relied on until a new store is accepted in its place."""
        self.gone = False
        """There is no store to start on."""
        self.backup: tuple[MemoryKeyValue, Mark | None, MemoryShelf] | None = None
        self.new_store(rejoining=False)

    @property
    def kv(self) -> MemoryKeyValue:
        """The store in use; an install puts another in its place."""
        return self.place.store

    def new_store(self, *, rejoining: bool) -> None:
        """As `swoosh init` makes the first, and `swoosh serve --rejoin` another in its place."""
        self.stores += 1
        self.gone = False
        world = self.world
        self.place = MemoryPlace(lambda: Disk(self), self._examine)
        self.witness, self.shelf = MemoryWitness(), MemoryShelf()
        documents = {"genesis": genesis_document.encode(world.genesis)}
        Store.create(self.kv, genesis_document.initial_rows(world.genesis, world.chart), ORIGIN, documents)
        Journal.create(
            self.kv,
            self.witness,
            cluster_id=world.cluster_id,
            node=self.name,
            incarnation=f"{self.name}/{self.stores}".encode().rjust(16),
            rejoining=rejoining,
        )

    def back_up(self) -> None:
        """Copy the disk, as a snapshot of the machine under the node would."""
        kv = Disk(self)
        kv.load(self.kv.dump())
        self.backup = (kv, self.witness.read(), deepcopy(self.shelf))

    def put_back(self) -> None:
        """The machine is reset to its copy, witness and all."""
        if self.backup is not None:
            kv, mark, shelf = self.backup
            self.place = MemoryPlace(lambda: Disk(self), self._examine)
            self.place.store = kv
            self.witness, self.shelf, self.backup = MemoryWitness(), shelf, None
            if mark is not None:
                self.witness.write(mark)

    def flip_a_bit(self, family: Family, draw: float) -> bool:
        """Damage one row of what is on the disk; False where there is none."""
        rows = list(self.kv.iterate(family))
        if not rows:
            return False
        key, value = rows[int(draw * len(rows))]
        bit = int(draw * 1e9) % (8 * len(value))
        damaged = bytearray(value)
        damaged[bit // 8] ^= 1 << bit % 8
        batch = Batch()
        batch.put(family, key, bytes(damaged))
        self.kv.write(batch, sync=True)
        return True

    def _examine(self, store: KeyValue, manifest: Manifest) -> str | None:
        report = verify.examine_state(store, self.world.chart, manifest)
        return str(report.findings) if report.findings else None

    def start(self) -> None:
        """Start the process, unless it runs."""
        if self.life is None and not self.gone:
            self.lives += 1
            self.stopped = None
            self.life = Life(self)
            self.life.begin()

    def kill(self) -> None:
        """Pull the plug, now."""
        if self.life is not None:
            self.life.end()

    def kill_within(self, steps: int) -> None:
        """Pull the plug in the middle of a write or a send, so many of them from now."""
        if self.life is not None:
            self.life.kill_in = steps

    def set_wall_offset(self, us: int) -> None:
        self.wall_offset_us = us
        if self.life is not None:
            self.life.clock.wall_offset_us = us


class Disk(MemoryKeyValue):
    """The store of a host. Whoever writes may die before and after it, and the dead write nothing."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host

    def write(self, batch: Batch, *, sync: bool) -> None:
        if LIVING.get() is None:  # fate writes, not the node
            super().write(batch, sync=sync)
            return
        self._step()
        if self._host.full:
            faults.fatal(ExitCode.DISK, "store write failed", error="No space left on device")
        if sync and self._host.sync_fails:
            faults.fatal(ExitCode.DISK, "store write failed", error="Input/output error")
        super().write(batch, sync=sync)
        self._step()

    def flush(self) -> None:
        self._step()
        super().flush()

    def checkpoint(self, path: Path) -> None:
        self._step()
        super().checkpoint(path)

    def _step(self) -> None:
        life = LIVING.get()
        if life is not None:
            life.step()


class Life(Station):
    """One process of a node, from its start to its end."""

    node: Node
    raft: Raft

    def __init__(self, host: Host) -> None:
        self.host, self.name, self.world = host, host.name, host.world
        self.clock = NodeClock(self.world.loop, self.run)
        self.clock.wall_offset_us = host.wall_offset_us
        self.transport = PeerLinks(self)
        self.syncer = MemorySyncer(self.clock, lambda: host.sync_seconds)
        self.kill_in: int | None = None
        self.alive, self.listening, self.frozen = True, False, False
        self.heard: dict[str, float] = {}
        # In order, which sets of objects are not: a run has to repeat itself.
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self._wires: dict[web.Wire, None] = {}
        self._held: list[Callable[[], object]] = []
        self._hellos: dict[str, Hello] = {}

    # --- beginning and end --------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self.run(lambda: self.world.loop.create_task(self._begin()))

    async def _begin(self) -> None:
        try:
            await self._serve()
        except Corrupt as error:
            faults.fatal(ExitCode.DAMAGED, str(error))

    async def _serve(self) -> None:
        """As `swoosh serve` puts a node together, on what there is here."""
        host, world = self.host, self.world
        install.finish(host.place, host.witness, cluster_id=world.cluster_id, node=self.name)
        journal = Journal.open(
            host.kv,
            host.witness,
            cluster_id=world.cluster_id,
            node=self.name,
            memory_entries=64,
            syncer=self.syncer,
        )
        store = Store(host.kv)
        plan = world.plan
        donor = Donor(self.name, host.shelf, self.clock)
        snapshots = Snapshots(
            store,
            host.shelf,
            world.chart,
            self.clock,
            every=plan.snapshot_every,
            min_interval=SNAPSHOT_SECONDS,
            first_after=SNAPSHOT_SECONDS,
            is_lent=donor.is_lent,
        )
        peers = web.Peers(world, self.name, self.clock)
        keeper, entropy = Gatekeeper(self.clock, ADDRESSES), SeededEntropy(f"{plan.seed}/{self.name}/{host.lives}")
        others = [name for name in world.names if name != self.name]
        self.node = Node(
            config=world.config(self.name),
            genesis=world.genesis,
            identity=identity_of(world.genesis, world.chart, store),
            chart=world.chart,
            store=store,
            snapshots=snapshots,
            donor=donor,
            installer=install.Installer(
                others, host.place, PeerDonors(peers), self.clock, bytes_per_second=INSTALL_BYTES_PER_SECOND
            ),
            journal=journal,
            transport=self.transport,
            forwarder=Forwarder(peers, self.clock),
            key=world.node_keys[self.name],
            clock=self.clock,
            entropy=entropy,
            free_bytes=lambda: 1 << 40,
            keeper=keeper,
            providers=tuple(
                outside.providers(world.config(self.name), Outbound(keeper, Way(self).send), entropy, store)
            ),
            checkpoint_every=plan.checkpoint_every,
        )
        self.raft = self.node.raft
        _, self._public = await web.serve(public_app(self.node, Metrics(world.chart), Limits()))
        _, self._peer = await web.serve(peer_app(self.node))
        world.checks.watch(self)
        self.listening = True
        await self.node.start()

    async def stop(self) -> None:
        """SIGTERM: as `swoosh serve` takes a node down."""
        await self.node.hand_over()
        until = self.clock.monotonic() + DRAIN_SECONDS
        while self._wires and self.clock.monotonic() < until:
            await self.clock.sleep(0.05)
        self.listening = False
        await self.node.stop()
        if self.alive:
            self.host.kv.close()
            self.end(crash=False)

    def end(self, *, crash: bool = True) -> None:
        """The process is gone; with it, after a crash, what it had not synced."""
        if not self.alive:
            return
        self.alive = self.listening = False
        self.host.life = None
        self.clock.kill()
        self.world.network.leave(self)
        if crash:
            luck = self.world.chance.at("crash", self.name, self.host.lives)
            self.syncer.crash(luck)
            self.host.kv.crash(luck)
            self.host.place.crash()
        for wire in self._wires:
            if not wire.answer.done():
                wire.answer.set_result(b"")
        for task in list(self.tasks):
            task.cancel()

    def run(self, callback: Callable[[], Any]) -> None:
        """Call into the process; if that ends it, so be it."""
        if not self.alive:
            return
        before = LIVING.set(self)
        try:
            callback()
        except Ended:
            pass
        finally:
            LIVING.reset(before)

    def step(self) -> None:
        """A point at which a crash may strike: each write and each send."""
        if not self.alive:
            raise Ended
        if self.kill_in is not None:
            self.kill_in -= 1
            if self.kill_in <= 0:
                self.end()
                raise Ended

    # --- SIGSTOP ------------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Nothing runs any more; sockets fill up."""
        self.frozen = True
        self.clock.freeze()

    def thaw(self) -> None:
        """Everything that came meanwhile is there at once, in its order."""
        if self.frozen:
            self.frozen = False
            self.clock.thaw()
            held, self._held = self._held, []
            for arrive in held:
                arrive()

    def _when_awake(self, callback: Callable[[], Any]) -> None:
        if self.frozen:
            self._held.append(lambda: self.run(callback))
        else:
            self.run(callback)

    # --- members ------------------------------------------------------------------------------------------------------

    def greet(self, peer: Station) -> str | None:
        assert isinstance(peer, Life)
        if not (self.transport.started and peer.transport.started) or self.frozen:
            return "not ready"
        answer: list[str | None] = ["ended"]
        hello = self._hellos[peer.name] = peer.raft.local_hello()
        self.run(lambda: answer.__setitem__(0, self.raft.on_hello(peer.name, hello)))
        return answer[0]

    def connected(self, peer: str) -> None:
        hello = self._hellos[peer]
        self._when_awake(lambda: self.raft.on_connected(peer, hello))

    def disconnected(self, peer: str) -> None:
        self._when_awake(lambda: self.raft.on_disconnected(peer))

    def deliver(self, peer: str, message: Message) -> None:
        def receive() -> None:
            if self.world.network.is_up(self.name, peer):
                self.heard[peer] = self.clock.monotonic()
                self.raft.on_message(peer, message)
                self.raft.after_messages()

        self._when_awake(receive)

    # --- callers ------------------------------------------------------------------------------------------------------

    def ask(self, raw: bytes, *, member: str | None = None) -> asyncio.Future[bytes]:
        """Send a request to the public port, or as a member to the peer port. Done with the bytes of the answer, which
        are none where the process ends first."""
        answer: asyncio.Future[bytes] = self.world.loop.create_future()
        certificate = None
        if member is not None:
            certificate = web.Certificate(PeerName(member, self.world.cluster_id), self.world.peer_context)

        def connect() -> None:
            wire = web.connect(self._public() if member is None else self._peer(), raw, answer, certificate)
            self._wires[wire] = None
            answer.add_done_callback(lambda _: self._wires.pop(wire, None))

        if not self.listening:
            answer.set_result(b"")
        else:
            self._when_awake(connect)
        if member is None:
            answer.add_done_callback(self._answered)
        return answer

    def ask_again(self, raw: bytes) -> None:
        """The same bytes once more; nobody waits for the answer."""
        if self.listening:
            _ = self.ask(raw)

    def _answered(self, answer: asyncio.Future[bytes]) -> None:
        if not answer.cancelled() and answer.result():
            self.world.checks.on_answer(self, answer.result())


class PeerLinks(Transport):
    """What `PeerTransport` is in production."""

    receiver: Any = None
    guard: Any = None

    def __init__(self, life: Life) -> None:
        super().__init__(None, None, [])
        self._life, self._network = life, life.world.network
        self.started = False

    async def start(self) -> None:
        self.started = True
        self._network.join(self._life)

    async def stop(self) -> None:
        self.started = False
        self._network.leave(self._life)

    def send(self, node: Any, message: Message) -> bool:
        self._life.step()
        if not self._network.is_up(self._life.name, node.id):
            return False
        guarded = self.guard.out(node.id, message)
        return guarded is None or self.raw(node.id, guarded)

    def raw(self, peer_id: str, message: Message) -> bool:
        self._life.step()
        if not self._network.is_up(self._life.name, peer_id):
            return False
        self._life.world.checks.on_send(self._life, message)
        return self._network.transmit(self._life.name, peer_id, message)

    def reset(self, peer_id: str) -> None:
        self._life.world.loop.call_soon(self._network.reset, self._life.name, peer_id)

    def peers(self) -> dict[str, Link]:
        life = self._life
        names = [name for name in life.world.names if name != life.name]
        return {name: Link(self._network.is_up(life.name, name), life.heard.get(name, float("-inf"))) for name in names}
