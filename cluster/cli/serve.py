"""``swoosh serve``: run one node until SIGTERM.

The real world is put together here and nowhere else: clock, disk, sockets, certificates, and the node between them.
Nothing is created: a store that is missing is a node that forgot its votes, and stays down. What the configuration
gets wrong, and what the store cannot prove, ends the process with an exit code of its own (cluster/faults.py).
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import click
import structlog
from aiohttp import web
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cluster import config, faults, tls
from cluster.clock import Clock
from cluster.config import Config, Misconfigured
from cluster.egress import PeerHttp
from cluster.entropy import Entropy, SystemEntropy
from cluster.faults import ExitCode
from cluster.http.app import public_app
from cluster.http.forward import Forwarder, peer_app
from cluster.http.listener import Listener
from cluster.http.request import Limits
from cluster.node import REDUCER_VERSION, Node
from cluster.nodekey import NodeKey
from cluster.peerport import PeerPort
from cluster.raft.driver import Identity
from cluster.raft.journal import Journal
from cluster.raft.transport import PeerTransport
from cluster.storage.kv import RocksKeyValue, StoreMissing
from cluster.storage.snapshots import DirectoryShelf, Snapshots
from cluster.storage.store import Store
from cluster.storage.witness import FileWitness
from cluster.telemetry import logs
from cluster.telemetry.metrics import Metrics
from cluster.tls import PeerName
from cluster.verify import replay_in_background
from swoosh import genesis as genesis_document
from swoosh.chart import Chart
from swoosh.errors import ChartError, Corrupt
from swoosh.genesis import Genesis
from swoosh.hashing import digest
from swoosh.proposal import CLUSTER
from swoosh.state import as_cluster

_log = structlog.get_logger(__name__)


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="The node's swoosh.toml.",
)
def serve(path: Path) -> None:
    """Run one node until SIGTERM."""
    clock = config.system_clock()
    try:
        settings = config.load(path)
        genesis, chart = settings.genesis(), config.packaged_chart()
        config.arm_failpoints()
    except (Misconfigured, ChartError) as error:
        faults.fatal(ExitCode.MISCONFIGURED, str(error))
    logs.configure(sys.stderr, clock, node=settings.node_id)
    for notice in settings.notices:
        _log.warning("configuration", notice=notice)
    if genesis.insecure:
        _log.warning("INSECURE: this cluster accepts unsigned proposals; never for production")
    with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
        try:
            runner.run(run(settings, genesis, chart, clock, SystemEntropy()))
        except Corrupt as error:
            faults.fatal(ExitCode.DAMAGED, str(error))


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where the extra ``fast`` is installed, else the standard library's."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def run(settings: Config, genesis: Genesis, chart: Chart, clock: Clock, entropy: Entropy) -> None:
    """Build the node, serve until told to stop, and take it down in the reverse order."""
    async with AsyncExitStack() as stack:
        kv, witness = _open_store(settings)
        stack.callback(kv.close)
        journal = Journal.open(kv, witness, cluster_id=settings.cluster_id, node=settings.node_id)
        stack.callback(witness.close)
        peers = PeerHttp(settings.credentials, settings.cluster_id, settings.members)
        stack.push_async_callback(peers.close)
        forwarder = Forwarder(peers, clock)
        stack.callback(forwarder.stop)
        transport = _transport(settings, clock, entropy)
        store = _store(kv)
        shelf = DirectoryShelf(settings.snapshots_path)
        snapshots = Snapshots(store, shelf, chart, clock, check=replay_in_background)
        node = Node(
            config=settings,
            genesis=genesis,
            identity=_identity(genesis, chart, store),
            chart=chart,
            store=store,
            snapshots=snapshots,
            journal=journal,
            transport=transport,
            forwarder=forwarder,
            key=_node_key(settings),
            clock=clock,
            entropy=entropy,
        )
        listener = await stack.enter_async_context(_public_port(settings, node, clock))
        await node.start()
        stack.push_async_callback(node.stop)
        await stack.enter_async_context(_peer_port(settings, genesis, node, transport))
        stack.push_async_callback(listener.end_streams)
        _log.info("serving", http=config.spell(settings.http), peer=config.spell(settings.peer))
        await _told_to_stop()
        _log.info("stopping")


# --- the parts, in the order they are built ---------------------------------------------------------------------------


def _open_store(settings: Config) -> tuple[RocksKeyValue, FileWitness]:
    try:
        return RocksKeyValue.open(settings.store_path), FileWitness.open(settings.witness_path)
    except StoreMissing as error:
        lost = settings.witness_path.exists()
        faults.fatal(ExitCode.DAMAGED if lost else ExitCode.MISCONFIGURED, str(error), witness=lost)
    except FileNotFoundError:
        faults.fatal(ExitCode.DAMAGED, "the witness beside the store is gone", path=str(settings.witness_path))


def _store(kv: RocksKeyValue) -> Store:
    try:
        return Store(kv)
    except Corrupt as error:
        faults.fatal(ExitCode.DAMAGED, str(error))


def _transport(settings: Config, clock: Clock, entropy: Entropy) -> PeerTransport:
    return PeerTransport(
        me=PeerName(settings.node_id, settings.cluster_id),
        peers={peer: address for peer, address in settings.members.items() if peer != settings.node_id},
        context=tls.client_context(settings.credentials, tls.RAFT_PROTOCOL),
        clock=clock,
        entropy=entropy,
    )


def _identity(genesis: Genesis, chart: Chart, store: Store) -> Identity:
    """What every member must have in common. The members are those of the store, not of the configuration."""
    cluster = store.project(CLUSTER)
    if cluster is None:
        faults.fatal(ExitCode.DAMAGED, "the store holds no @cluster")
    members = as_cluster(cluster.regions).members
    return Identity(
        cluster_id=genesis_document.cluster_id(genesis),
        genesis_hash=genesis_document.genesis_hash(genesis),
        config_epoch=members.config_epoch,
        member_set_hash=digest("members", sorted(members.nodes)),
        chart_hash=chart.hash,
        reducer_version=REDUCER_VERSION,
    )


def _node_key(settings: Config) -> NodeKey:
    try:
        return NodeKey.of(load_pem_private_key(settings.key_path.read_bytes(), password=None))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        faults.fatal(ExitCode.MISCONFIGURED, f"key: {error}", path=str(settings.key_path))


@asynccontextmanager
async def _public_port(settings: Config, node: Node, clock: Clock) -> AsyncIterator[Listener]:
    """What callers reach; open before the node is ready, so that it can say that it is cold."""
    limits = Limits()
    listener = Listener(public_app(node, Metrics(node.chart), limits), clock, limits)
    await _bind(listener.start(*settings.http), settings.http)
    try:
        yield listener
    finally:
        await listener.stop()


@asynccontextmanager
async def _peer_port(settings: Config, genesis: Genesis, node: Node, transport: PeerTransport) -> AsyncIterator[None]:
    """What members reach: the consensus stream and forwarded requests, on one port."""
    runner = web.AppRunner(peer_app(node), access_log=None, handle_signals=False)
    await runner.setup()
    assert runner.server is not None
    port = PeerPort(
        context=tls.server_context(settings.credentials),
        cluster_id=settings.cluster_id,
        members=genesis.nodes,
        protocols={tls.RAFT_PROTOCOL: transport.accept, tls.HTTP_PROTOCOL: runner.server},
    )
    await _bind(port.start(*settings.peer), settings.peer)
    try:
        yield
    finally:
        port.stop()
        await runner.cleanup()


async def _bind(listening: Awaitable[None], address: config.Address) -> None:
    try:
        await listening
    except OSError as error:
        faults.fatal(ExitCode.MISCONFIGURED, f"cannot listen on {config.spell(address)}: {error.strerror or error}")


async def _told_to_stop() -> None:
    """Return at the first SIGTERM or SIGINT."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()
