"""``swoosh serve``: run one node until SIGTERM.

The real world is put together here and nowhere else: clock, disk, sockets, certificates, and the node between them.
Nothing is created unasked: a store that is missing is a node that forgot its votes, and stays down until somebody says
``--rejoin``. What the configuration gets wrong, and what the store cannot prove, ends the process with an exit code of
its own (cluster/faults.py). Without a configuration, the variables of v1.0.0 describe a group of one (alone.py).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path

import click
import structlog
from aiohttp import web

from cluster import config, faults, outside, stores, tls
from cluster.cli import alone
from cluster.cli.shared import say
from cluster.clock import Clock
from cluster.config import Config, Misconfigured
from cluster.egress import Outbound, PeerHttp
from cluster.entropy import Entropy, SystemEntropy
from cluster.faults import ExitCode
from cluster.hardening import no_core_dumps
from cluster.http.app import public_app
from cluster.http.forward import Forwarder, peer_app
from cluster.http.listener import Listener
from cluster.http.request import Limits
from cluster.http.snapshots import PeerDonors
from cluster.node import Node, identity_of, members_of
from cluster.peerport import PeerPort
from cluster.raft.install import Installer, finish
from cluster.raft.journal import RUNBOOK, Journal
from cluster.raft.transport import PeerTransport
from cluster.shhh.scanner import Scanner
from cluster.signals import told_to_stop
from cluster.storage import layout
from cluster.storage.donor import Donor
from cluster.storage.incoming import DirectoryPlace
from cluster.storage.kv import Family, RocksKeyValue, StoreMissing, free_bytes
from cluster.storage.snapshots import DirectoryShelf, Snapshots
from cluster.storage.store import Store
from cluster.storage.syncer import ThreadSyncer
from cluster.storage.witness import FileWitness
from cluster.telemetry import logs
from cluster.telemetry.metrics import Metrics
from cluster.tls import Credentials, PeerName
from cluster.verify import examine_in_background, replay_in_background
from swoosh.chart import Chart
from swoosh.errors import ChartError, Corrupt
from swoosh.genesis import Genesis

_log = structlog.get_logger(__name__)


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The node's swoosh.toml.",
)
@click.option(
    "--rejoin",
    is_flag=True,
    help="Where the store is missing, damaged or rolled back: set it aside, and come back with a new one that promises "
    "nothing until `swoosh member replace` accepts it.",
)
@click.option("--yes", is_flag=True, help="With --rejoin: replace a healthy store, too, without asking.")
def serve(path: Path | None, rejoin: bool, yes: bool) -> None:
    """Run one node until SIGTERM.

    Without --config, SWOOSH_LISTEN_ADDR, SWOOSH_WAL_DIR and SWOOSH_SNAPSHOT_DIR describe a group of one. It is made in
    SWOOSH_WAL_DIR at its first start, with SWOOSH_INSECURE_SIGNERS=1 for development without signatures.
    """
    if rejoin and path is None:
        raise click.UsageError("--rejoin needs --config: a group of one has nobody to rejoin")
    clock = config.system_clock()
    try:
        settings = alone.settings(clock, SystemEntropy()) if path is None else config.load(path)
        genesis, chart = settings.genesis(), config.packaged_chart()
        config.arm_failpoints()
    except (Misconfigured, ChartError, alone.NotMade) as error:
        faults.fatal(ExitCode.MISCONFIGURED, str(error))
    redact = Scanner(settings.policy).redact
    logs.configure(sys.stderr, clock, redact, node=settings.node_id)
    faults.set_redaction(redact)
    for notice in notices(settings, genesis):
        _log.warning("configuration", notice=notice)
    if genesis.insecure:
        _log.warning("INSECURE: this cluster accepts unsigned proposals; never for production")
    no_core_dumps()
    if rejoin:
        replace_store(settings, genesis, chart, confirmed=yes)
    with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
        try:
            runner.run(run(settings, genesis, chart, clock, SystemEntropy()))
        except Corrupt as error:
            faults.fatal(ExitCode.DAMAGED, str(error))
        except Misconfigured as error:
            faults.fatal(ExitCode.MISCONFIGURED, str(error))


def notices(settings: Config, genesis: Genesis) -> Iterator[str]:
    """What the operator should hear at the start."""
    yield from settings.notices
    anonymous = sorted(settings.whoosh.access.anonymous)
    if anonymous and not genesis.insecure:
        yield f"whoosh.anonymous: the node signs for whoever reaches it, without a token, as {', '.join(anonymous)}"


def replace_store(settings: Config, genesis: Genesis, chart: Chart, *, confirmed: bool) -> None:
    """A new store in place of one that cannot be used; a store that is on its way back already is left alone."""
    if len(genesis.nodes) == 1:
        faults.fatal(ExitCode.MISCONFIGURED, "in a group of one there is nobody to rejoin", next=RUNBOOK)
    found = stores.examine(settings)
    if found.rejoining:
        return
    if found.fault is not None and not found.replaceable:
        faults.fatal(found.fault, found.reason, next=RUNBOOK)
    if found.fault is None and not confirmed:
        say(f"The store of {settings.node_id} is healthy. A new one votes only once an admin has accepted it.")
        click.confirm("Replace it?", abort=True, err=True)
    aside = stores.set_aside(settings)
    stores.create(settings, genesis, chart, SystemEntropy(), rejoining=True)
    _log.warning("store replaced", was=found.reason, aside=[str(path) for path in aside])


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where the extra ``fast`` is installed, else the standard library's."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def run(settings: Config, genesis: Genesis, chart: Chart, clock: Clock, entropy: Entropy) -> None:
    """Build the node, serve until told to stop, and take it down in the reverse order."""
    credentials, key = settings.credentials(), settings.node_key()
    async with AsyncExitStack() as stack:
        place = DirectoryPlace(settings.data_dir, examine_in_background)
        kv, witness = _open_store(settings, place)
        stack.callback(kv.close)
        stack.callback(witness.close)
        syncer = ThreadSyncer()
        stack.callback(syncer.close)
        journal = Journal.open(kv, witness, cluster_id=settings.cluster_id, node=settings.node_id, syncer=syncer)
        peers = PeerHttp(credentials, settings.cluster_id, settings.members)
        stack.push_async_callback(peers.close)
        forwarder = Forwarder(peers, clock)
        stack.callback(forwarder.stop)
        installer = _installer(settings, genesis, place, peers, clock)
        if kv.get(Family.META, layout.DIVERGED) is not None:
            _log.warning("this node's state contradicts the majority's; a peer's snapshot takes its place")
            await installer.recover(journal.first_index)
        transport = _transport(settings, credentials, clock, entropy)
        store = Store(kv)
        _check_members(settings, store)
        shelf = DirectoryShelf(settings.snapshots_path)
        donor = Donor(settings.node_id, shelf, clock)
        snapshots = Snapshots(store, shelf, chart, clock, check=replay_in_background, is_lent=donor.is_lent)
        keeper = outside.gatekeeper(settings, clock)
        sockets = outside.sockets(settings)
        stack.push_async_callback(sockets.close)
        node = Node(
            config=settings,
            genesis=genesis,
            identity=identity_of(genesis, chart, store),
            chart=chart,
            store=store,
            snapshots=snapshots,
            donor=donor,
            installer=installer,
            journal=journal,
            transport=transport,
            forwarder=forwarder,
            key=key,
            clock=clock,
            entropy=entropy,
            free_bytes=partial(free_bytes, settings.data_dir),
            keeper=keeper,
            providers=tuple(outside.providers(settings, Outbound(keeper, sockets.send), entropy, store)),
        )
        listener = await stack.enter_async_context(_public_port(settings, node, clock))
        await node.start()
        stack.push_async_callback(node.stop)
        await stack.enter_async_context(_peer_port(settings, credentials, genesis, node, transport))
        _log.info("policy", version=settings.policy.version, hash=settings.policy.hash)
        _log.info("serving", http=config.spell(settings.http), peer=config.spell(settings.peer))
        await told_to_stop()
        _log.info("stopping")
        await node.hand_over()
        await listener.end_streams()
        await listener.drain(2 * settings.forward_wait)


# --- the parts, in the order they are built ---------------------------------------------------------------------------


def _open_store(settings: Config, place: DirectoryPlace) -> tuple[RocksKeyValue, FileWitness]:
    """The store and its witness; a snapshot that is ready becomes the store first."""
    try:
        if place.ready() is not None:
            with closing(FileWitness.open(settings.witness_path)) as witness:
                finish(place, witness, cluster_id=settings.cluster_id, node=settings.node_id)
        return RocksKeyValue.open(settings.store_path), FileWitness.open(settings.witness_path)
    except StoreMissing as error:
        lost = settings.witness_path.exists()
        faults.fatal(ExitCode.DAMAGED if lost else ExitCode.MISCONFIGURED, str(error), witness=lost)
    except FileNotFoundError:
        faults.fatal(ExitCode.DAMAGED, "the witness beside the store is gone", path=str(settings.witness_path))


def _transport(settings: Config, credentials: Credentials, clock: Clock, entropy: Entropy) -> PeerTransport:
    return PeerTransport(
        me=PeerName(settings.node_id, settings.cluster_id),
        peers={peer: address for peer, address in settings.members.items() if peer != settings.node_id},
        context=tls.client_context(credentials, tls.RAFT_PROTOCOL),
        clock=clock,
        entropy=entropy,
    )


def _installer(settings: Config, genesis: Genesis, place: DirectoryPlace, peers: PeerHttp, clock: Clock) -> Installer:
    others = [node for node in genesis.nodes if node != settings.node_id]
    return Installer(others, place, PeerDonors(peers), clock, bytes_per_second=settings.install_rate)


def _check_members(settings: Config, store: Store) -> None:
    """A group that is resized by changing files can end up with two leaders: they must say what the store does."""
    held = sorted(members_of(store).nodes)
    if held != sorted(settings.members):
        reason = "the configuration names other members than the store; a cluster cannot be resized"
        faults.fatal(ExitCode.MISCONFIGURED, reason, store=held, configured=sorted(settings.members), next=RUNBOOK)


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
async def _peer_port(
    settings: Config, credentials: Credentials, genesis: Genesis, node: Node, transport: PeerTransport
) -> AsyncIterator[None]:
    """What members reach: the consensus stream and forwarded requests, on one port."""
    runner = web.AppRunner(peer_app(node), access_log=None, handle_signals=False)
    await runner.setup()
    assert runner.server is not None
    port = PeerPort(
        context=tls.server_context(credentials),
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
