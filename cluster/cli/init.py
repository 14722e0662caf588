"""``swoosh init``: a ready cluster in a directory, or one node's first store on a machine of its own.

A node that made its own store on start would be a node that has forgotten its votes, so ``serve`` never does. Nothing
is overwritten: a cluster's directory must be new or empty, and a node that has a store gets no other one here.

    DIR/cluster.json genesis.json license.json     who and where; the beginning; a development license
    DIR/ca.crt ca.key                              the cluster's own authority; keep the key off the nodes
    DIR/<node>/swoosh.toml age.key recipients.txt  one node: configuration, the identity that opens its secrets,
    DIR/<node>/*.age *.crt                         its signing key and the key of its certificate, sealed; certificates
    DIR/<node>/store/ witness                      its store, holding the genesis state and nothing else
    DIR/keys/*.pem                                 keys of people and programs
    DIR/offline.key                                opens every secret too: take it off the machine, and keep it safe

With ``--genesis FILE --node ID``, DIR is one node's directory as above but for ``store/`` and ``witness``, which are
made. That is for the beginning of a cluster alone: once a member has something in its log, a node that comes without
a store may have promised something already, and returns by ``serve --rejoin``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from cluster import config, pki, stores, vault
from cluster.cli.keys import write_private
from cluster.cli.shared import fail, print_json, print_table, run, say
from cluster.clock import Clock, SystemClock
from cluster.config import Address, Config
from cluster.egress import PeerHttp, Unreachable
from cluster.entropy import Entropy, SystemEntropy
from cluster.http.forward import LOG_PATH
from cluster.http.request import within
from cluster.storage.kv import sync_directory, sync_file
from cluster.tls import PeerName
from swoosh import canonical
from swoosh import genesis as genesis_document
from swoosh.client import Key
from swoosh.genesis import Genesis, Registered
from swoosh.settings import tidal_schedule

PEER_PORT_OFFSET = 100
WINDOWS = "tidal:60"
PORT_MAX = 65_535
_SAID_BY_AT = ("nodes", "host", "base_port")
ASK_SECONDS = 3.0
CERTIFICATE_LIFE = timedelta(days=3650)
CLOCK_SLACK = timedelta(days=1)
LICENSE_LIFE_MS = 365 * 24 * 3600 * 1000

NODE_ROLES = ("node", "provider:*", "elector")
KEY_ROLES: dict[str, tuple[str, ...]] = {
    "admin": ("admin",),
    "operator": ("operator",),
    "policy": ("policy",),
    "proposer": ("proposer:*",),
    **{f"agent-{number}": ("agent",) for number in (1, 2, 3)},
    **{f"elector-{number}": ("elector",) for number in (1, 2, 3)},
    "provider": ("provider:*",),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What cluster to make. Node i (from 1) serves callers on ``base_port`` + i, members on 100 above that.

    Where ``at`` says where to find each node, it is found there, and listens on every interface of its own.
    """

    nodes: int
    host: str = "127.0.0.1"
    base_port: int = 8100
    at: tuple[Address, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    insecure: bool = False

    def addresses(self) -> dict[str, tuple[Address, Address]]:
        """{node id: (http, peer)}, where others find it."""
        numbers = range(1, self.nodes + 1)
        places = self.at or tuple((self.host, self.base_port + number) for number in numbers)
        return {
            f"node-{number}": ((host, port), (host, port + PEER_PORT_OFFSET))
            for number, (host, port) in zip(numbers, places, strict=True)
        }

    def listens(self, address: Address) -> Address:
        """Where a node binds that is found at ``address``."""
        return ("", address[1]) if self.at else address


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--nodes", type=click.Choice([str(size) for size in genesis_document.SIZES]), default="3", show_default=True
)
@click.option(
    "--base-port", type=click.IntRange(1, 65_000), default=8100, show_default=True, help="Node 1 gets the next."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the nodes listen and find each other.")
@click.option(
    "--at",
    multiple=True,
    metavar="HOST:PORT",
    help="Once per node, in place of --nodes, --host and --base-port: where it is found; members, 100 ports above.",
)
@click.option(
    "--windows",
    default=WINDOWS,
    show_default=True,
    help="Who opens windows: tidal:SECONDS, always_open, or backbeat.",
)
@click.option("--insecure-signers", is_flag=True, help="Development only: unknown signers may propose without signing.")
@click.option(
    "--genesis",
    "beginning",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --node: make only this node's store, in a directory that has its swoosh.toml, key and certificate.",
)
@click.option("--node", help="With --genesis: which node.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_context
def init(
    context: click.Context,
    directory: Path,
    nodes: str,
    base_port: int,
    host: str,
    at: tuple[str, ...],
    windows: str,
    insecure_signers: bool,
    beginning: Path | None,
    node: str | None,
    output: str,
) -> None:
    """Make a cluster in DIRECTORY, ready for `swoosh serve`."""
    if (beginning is None) != (node is None):
        raise click.UsageError("--genesis and --node belong together")
    if beginning is not None and node is not None:
        _make_first_store(directory, beginning, node)
        return
    if at and any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in _SAID_BY_AT):
        raise click.UsageError(
            "--at says how many nodes there are and where: leave out --nodes, --host and --base-port"
        )
    places = _places(at)
    plan = Plan(len(places) or int(nodes), host, base_port, places, window_settings(windows), insecure_signers)
    try:
        cluster = create(directory, plan, SystemClock(), SystemEntropy())
    except OSError as error:
        fail(str(error))
    if output == "json":
        print_json(cluster)
    else:
        print_table(("NODE", "HTTP", "PEER"), [(each["id"], each["http"], each["peer"]) for each in cluster["nodes"]])
    say(f"Made {cluster['cluster_id']} in {directory}. Start each node:")
    for each in cluster["nodes"]:
        say(f"  swoosh serve --config {directory / each['config']}")
    if insecure_signers:
        say("INSECURE: this cluster accepts unsigned proposals. Never for production.")


def create(directory: Path, plan: Plan, clock: Clock, entropy: Entropy) -> dict[str, Any]:
    """Write everything; what ``cluster.json`` holds.

    Raises:
        FileExistsError: the directory is not empty.
        OSError: something cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty; a cluster is made in a new directory")
    chart, addresses = config.packaged_chart(), plan.addresses()
    node_keys = {node: Key.generate() for node in addresses}
    keys = {name: Key.generate() for name in KEY_ROLES}
    genesis = Genesis(
        nonce=entropy.token(genesis_document.NONCE_BYTES).hex(),
        nodes=tuple(addresses),
        identities=_identities(node_keys, keys),
        settings=dict(plan.settings),
        chart_hash=chart.hash,
        insecure=plan.insecure,
        created_ms=clock.wall_us() // 1000,
    )
    cluster_id = genesis_document.cluster_id(genesis)
    _write(directory / "genesis.json", genesis_document.encode(genesis))
    _write(directory / "license.json", canonical.encode(_license(keys["provider"], cluster_id, genesis.created_ms)))
    _write_keys(directory / "keys", keys)
    _write_nodes(directory, cluster_id, plan, node_keys, clock)
    for node in addresses:
        stores.create(config.load(directory / node / "swoosh.toml", {}), genesis, chart, entropy)
    cluster = _summary(cluster_id, addresses)
    _write(directory / "cluster.json", canonical.encode(cluster))
    sync_directory(directory)
    return cluster


# --- one node elsewhere -----------------------------------------------------------------------------------------------


def _make_first_store(home: Path, beginning: Path, node: str) -> None:
    try:
        settings = config.load(home / "swoosh.toml")
        if settings.node_id != node:
            fail(f"{home} is the directory of {settings.node_id}, not of {node}")
        if not settings.genesis_path.exists():
            _write(settings.genesis_path, beginning.read_bytes())
        genesis, chart = settings.genesis(), config.packaged_chart()
        if genesis_document.encode(genesis) != beginning.read_bytes():
            fail(f"{beginning} is not the genesis that {home / 'swoosh.toml'} names")
        run(_check_nothing_began(settings, SystemClock()))
        stores.create(settings, genesis, chart, SystemEntropy())
    except (config.Misconfigured, OSError) as error:
        fail(str(error))
    say(f"Made the store of {node}.{settings.cluster_id}. Start it: swoosh serve --config {home / 'swoosh.toml'}")


async def _check_nothing_began(settings: Config, clock: Clock) -> None:
    """Ask every other member how far its log reaches; the core puts one entry there by itself."""
    peers = PeerHttp(settings.credentials(), settings.cluster_id, settings.members)
    try:
        for peer in sorted(settings.members.keys() - {settings.node_id}):
            try:
                status, reply = await within(clock, ASK_SECONDS, peers.get(peer, LOG_PATH))
            except (Unreachable, TimeoutError):
                say(f"{peer} does not answer; taken for one that has not begun either")
                continue
            if status != HTTPStatus.OK:
                fail(f"{peer} answered {status}; whether the cluster has begun is not known")
            if (last := msgspec.msgpack.decode(reply, type=int)) > 1:
                fail(
                    f"the cluster has begun: the log of {peer} reaches to {last}. {settings.node_id} may have promised "
                    "something there. Use swoosh serve --rejoin, then swoosh member replace"
                )
    finally:
        await peers.close()


# --- what a cluster is made of ----------------------------------------------------------------------------------------


def _identities(node_keys: Mapping[str, Key], keys: Mapping[str, Key]) -> tuple[Registered, ...]:
    nodes = [Registered(name, key.principal, NODE_ROLES) for name, key in node_keys.items()]
    people = [Registered(name, key.principal, KEY_ROLES[name]) for name, key in keys.items()]
    return (*nodes, *people)


def _license(provider: Key, cluster_id: str, now_ms: int) -> dict[str, Any]:
    """A development license: a fact signed by the provider, which the built-in license provider of a node repeats."""
    until = now_ms + LICENSE_LIFE_MS
    fact = {
        "kind": "license",
        "subject": cluster_id,
        "observed_at": now_ms,
        "seq": 0,
        "expires_at": until,
        "body": {"license_id": "development", "status": "active", "valid_until": until},
        "provider": provider.principal,
    }
    return provider.sign_fact(fact, cluster_id)


def _write_keys(directory: Path, keys: Mapping[str, Key]) -> None:
    directory.mkdir(mode=0o700)
    for name, key in keys.items():
        write_private(directory / f"{name}.pem", key.pem())


def _write_nodes(
    directory: Path,
    cluster_id: str,
    plan: Plan,
    node_keys: Mapping[str, Key],
    clock: Clock,
) -> None:
    addresses = plan.addresses()
    now = datetime.fromtimestamp(clock.wall_us() // 1_000_000, UTC)
    life = {"not_before": now - CLOCK_SLACK, "not_after": now + CERTIFICATE_LIFE}
    authority = pki.make_authority(cluster_id, **life)
    pki.write_authority(directory, authority)
    members = {node: peer for node, (_, peer) in addresses.items()}
    identity, offline = vault.new_identity()
    write_private(directory / "offline.key", identity)
    for node, (http, peer) in addresses.items():
        home = directory / node
        home.mkdir(mode=0o700)
        credentials = pki.write_node(
            home, authority.certificate, pki.make_node(authority, PeerName(node, cluster_id), **life)
        )
        _write_secrets(home, offline, {config.TLS_KEY: credentials.key, "node.pem.age": node_keys[node].pem()})
        text = config.render(
            node=node,
            cluster_id=cluster_id,
            http=plan.listens(http),
            peer=plan.listens(peer),
            members=members,
            insecure=plan.insecure,
        )
        _write(home / "swoosh.toml", text.encode())


def _write_secrets(home: Path, offline: str, plain: Mapping[str, bytes]) -> None:
    """An identity for the node, and everything secret sealed for it and for the one kept offline."""
    identity, recipient = vault.new_identity()
    write_private(home / "age.key", identity)
    _write(home / "recipients.txt", f"# this node\n{recipient}\n# offline\n{offline}\n".encode())
    for name, content in plain.items():
        write_private(home / name, vault.seal(content, [recipient, offline]))


def _summary(cluster_id: str, addresses: Mapping[str, tuple[Address, Address]]) -> dict[str, Any]:
    nodes = [
        {
            "id": node,
            "http": f"http://{config.spell(http)}",
            "peer": config.spell(peer),
            "config": f"{node}/swoosh.toml",
        }
        for node, (http, peer) in addresses.items()
    ]
    return {"cluster_id": cluster_id, "nodes": nodes}


def _places(at: tuple[str, ...]) -> tuple[Address, ...]:
    """What ``--at`` spells, once per node.

    Raises:
        click.BadParameter: another form, another number of nodes than a cluster may have, or a port taken twice.
    """
    places = tuple(config.address(text) for text in at if config.is_address(text))
    if len(places) < len(at) or any(not 0 < port <= PORT_MAX - PEER_PORT_OFFSET for _, port in places):
        raise click.BadParameter(f"--at: expected HOST:PORT with a port up to {PORT_MAX - PEER_PORT_OFFSET}; got {at}")
    if at and len(at) not in genesis_document.SIZES:
        raise click.BadParameter(f"--at: {len(at)} nodes; a cluster has {', '.join(map(str, genesis_document.SIZES))}")
    if len({(host, port + offset) for host, port in places for offset in (0, PEER_PORT_OFFSET)}) < 2 * len(at):
        raise click.BadParameter(f"--at: two nodes need one port; each takes PORT and PORT + {PEER_PORT_OFFSET}")
    return places


def window_settings(text: str) -> dict[str, Any]:
    """The settings that ``--windows`` stands for; only what differs from the defaults.

    Raises:
        click.BadParameter: another form.
    """
    kind, _, seconds = text.partition(":")
    if text in ("always_open", "backbeat"):
        return {"window_source": text}
    if kind == "tidal" and seconds.isascii() and seconds.isdecimal() and 1 <= int(seconds) <= 86_400:
        return {"window_source": "tidal", "tidal_schedule": tidal_schedule(int(seconds) * 1000)}
    raise click.BadParameter("--windows: expected tidal:SECONDS (1 to 86400), always_open or backbeat")


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
    sync_file(path)
