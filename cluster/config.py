"""The configuration of one node: a TOML file, overridden by SWOOSH_* variables; THE reader of both.

Strict, because a setting that is silently ignored is a setting that is wrong in production: every unknown key is named
with its path, and so is every value of the wrong form. Relative paths are relative to the file.

Only what may differ between nodes is here: addresses, paths, timing. Numbers that verdicts depend on are replicated
settings (swoosh/settings.py), and who the members are says the genesis; the file only says where to find them.
"""

from __future__ import annotations

import os
import signal
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cluster import faults, sections
from cluster.clock import Clock, ShiftedClock, SystemClock
from cluster.nodekey import NodeKey
from cluster.providers import kaching_wire
from cluster.providers.backbeat import Settings as Backbeat
from cluster.providers.environment import Hook
from cluster.providers.mcp_probe import ToolServer
from cluster.raft.install import BYTES_PER_SECOND
from cluster.raft.replica import Timing
from cluster.raft.retention import KEEP, Keep
from cluster.sections import NOWHERE, Section, Sink
from cluster.shhh import policy as policies
from cluster.shhh.policy import BUILT_IN, Policy
from cluster.storage.incoming import current_store
from cluster.tls import Credentials
from cluster.vault import Secret, SecretError, Vault
from cluster.whoosh import CLOSED, Whoosh
from swoosh import genesis as genesis_document
from swoosh.chart import Chart, load_chart
from swoosh.errors import Malformed
from swoosh.genesis import Genesis

PREFIX = "SWOOSH_"
_FAILPOINT = PREFIX + "FAILPOINT"
_CLOCK_OFFSET_FILE = PREFIX + "CLOCK_OFFSET_FILE"
# Variables of the Go implementation; its database settings mean nothing here, but callers still set them.
_ALIASES = {"SWOOSH_LISTEN_ADDR": "http.listen", "SWOOSH_WAL_DIR": "data", "SWOOSH_SNAPSHOT_DIR": "snapshots"}
_INSECURE = PREFIX + "INSECURE_SIGNERS"
_IGNORED_PREFIX = "SWOOSH_DATABASE_DB_"
_NOT_OURS = frozenset({_FAILPOINT, "SWOOSH_ENDPOINTS"})
_CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""Where systemd puts what `LoadCredential` names."""

TLS_KEY = "node.key.age"
"""The sealed key to a node's certificate, beside it."""

Address = tuple[str, int]
"""Host and port."""
Network = IPv4Network | IPv6Network


class Misconfigured(Exception):
    """The configuration cannot be what the operator means. The text lists every fault found, one per line."""


class _Http(Section, frozen=True):
    listen: str
    forward_wait_ms: int = 2_000
    rate_per_signer: int = 5_000
    rate_per_ip: int = 10_000
    read_tokens: str = ""
    trusted_proxies: tuple[str, ...] = ()


class _Peer(Section, frozen=True):
    listen: str
    certificates: str = "."


class _Raft(Section, frozen=True):
    heartbeat_ms: int = 50
    election_min_ms: int = 500
    election_max_ms: int = 1_000
    skew_max_ms: int = 500
    ahead_max_ms: int = 2_000


class _Log(Section, frozen=True):
    keep_entries: int = 10_000
    keep_mib: int = 256


class _Install(Section, frozen=True):
    mib_per_second: int = 32


class _Disk(Section, frozen=True):
    free_min_mib: int = 256


class _PolicyFile(Section, frozen=True):
    file: str = ""


class _Outbound(Section, frozen=True):
    proxy: str = ""
    authorities: str = ""
    allow: tuple[str, ...] = ()


class _File(Section, frozen=True, kw_only=True):
    """The TOML file. Every member can be set by a variable: ``http.listen`` is SWOOSH_HTTP_LISTEN."""

    node: str
    cluster_id: str
    genesis: str
    license: str
    key: str = "node.pem.age"
    identity: str = "age.key"
    data: str = "."
    snapshots: str = ""
    scrub_seconds: int = 86_400
    projects_per_signer: int = 1_000
    http: _Http
    peer: _Peer
    members: dict[str, str]
    raft: _Raft = _Raft()
    log: _Log = _Log()
    install: _Install = _Install()
    disk: _Disk = _Disk()
    policy: _PolicyFile = _PolicyFile()
    outbound: _Outbound = _Outbound()
    environment: sections.Environment = sections.Environment()
    kaching: sections.Kaching = sections.Kaching()
    backbeat: sections.Backbeat = sections.Backbeat()
    mcp: sections.Mcp = sections.Mcp()
    bubble: sections.Bubble = sections.Bubble()
    slurp: sections.Slurp = sections.Slurp()
    whoosh: sections.Whoosh = sections.Whoosh()


class Outbound(NamedTuple):
    """The way to outside systems.

    ``proxy`` is the URL of an HTTP proxy, empty for none; ``authorities`` a file of certificates to trust in place of
    the machine's; ``allow`` more addresses (host:port) that may be reached beside those of the sections below.
    """

    proxy: str = ""
    authorities: Path | None = None
    allow: tuple[str, ...] = ()


NO_PROXY = Outbound()


@dataclass(frozen=True, slots=True)
class Config:
    """What one node is told. Paths are absolute, times are seconds.

    Attributes:
        http: where callers are served.
        peer: where members are served, over mutual TLS.
        members: the peer address of every member, this one included.
        license_path: the license fact the built-in provider reads; it need not exist.
        vault: what opens everything that is secret.
        key_path: the node's Ed25519 key (PKCS #8 PEM, sealed).
        certificates: the directory of the authority's and this node's certificate, and of the sealed key to it.
        data_dir: holds the store, its witness and, unless said otherwise, the snapshots.
        scrub_period: in which the node checks everything it stores against its hashes, once.
        projects_per_signer: how many projects one signer may create in the life of the cluster, where this node leads;
            0 is any number.
        forward_wait: how long a request is held while no leader is known.
        rate_per_signer: proposals a second that one signer may send to this node, as many at once; 0 is any number.
        rate_per_ip: the same for one address. Callers behind one proxy share its address, unless it is trusted.
        trusted_proxies: who is believed when it says in `X-Forwarded-For` for whom it asks.
        keep: what stays of the log behind the newest snapshot, for peers that are a little behind.
        install_rate: bytes a second, at most, at which a snapshot is fetched from a peer.
        read_tokens: bearer tokens, one of which reads need; empty means that reads are open.
        disk_free_min: bytes of free space below which the node refuses proposals.
        outbound: how outside systems are reached.
        environment: who provisions and takes back; None where nobody does.
        kaching: the license authority; without one, the license is the file's.
        tool_servers: the MCP servers that are probed.
        bubble: where Decision Records go.
        slurp: where submission records go.
        backbeat: where beats come from; None where nowhere.
        whoosh: who may call as if this were WHOOSH, and which agents are asked into councils.
        notices: what the operator should hear at the start.
    """

    node_id: str
    cluster_id: str
    http: Address
    peer: Address
    members: Mapping[str, Address]
    genesis_path: Path
    license_path: Path
    key_path: Path
    data_dir: Path
    snapshots_path: Path
    certificates: Path
    vault: Vault
    timing: Timing
    projects_per_signer: int = 1_000
    forward_wait: float = 2.0
    scrub_period: float = 86_400.0
    rate_per_signer: int = 5_000
    rate_per_ip: int = 10_000
    trusted_proxies: tuple[Network, ...] = ()
    keep: Keep = KEEP
    install_rate: int = BYTES_PER_SECOND
    read_tokens: tuple[Secret, ...] = ()
    disk_free_min: int = 256 << 20
    policy: Policy = BUILT_IN
    outbound: Outbound = NO_PROXY
    environment: Hook | None = None
    kaching: kaching_wire.Terms | None = None
    tool_servers: tuple[ToolServer, ...] = ()
    bubble: Sink = NOWHERE
    slurp: Sink = NOWHERE
    backbeat: Backbeat | None = None
    whoosh: Whoosh = CLOSED
    notices: tuple[str, ...] = ()

    @property
    def store_path(self) -> Path:
        """The RocksDB directory in use: an installed snapshot has one of its own."""
        return current_store(self.data_dir)

    @property
    def witness_path(self) -> Path:
        """The file that remembers how far the store had synced."""
        return self.data_dir / "witness"

    def credentials(self) -> Credentials:
        """What this node shows to the other members.

        Raises:
            Misconfigured: the key to the certificate cannot be opened.
        """
        try:
            return Credentials.in_directory(self.certificates, self.vault.open(self.certificates / TLS_KEY))
        except SecretError as error:
            raise Misconfigured(f"peer.certificates: {error}") from None

    def node_key(self) -> NodeKey:
        """The key this node signs with.

        Raises:
            Misconfigured: it cannot be opened, or is no Ed25519 key.
        """
        try:
            private = load_pem_private_key(self.vault.open(self.key_path), password=None)
        except SecretError as error:
            raise Misconfigured(f"key: {error}") from None
        except (ValueError, TypeError) as error:
            raise Misconfigured(f"key: {self.key_path} holds no private key: {type(error).__name__}") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise Misconfigured(f"key: {self.key_path} holds another kind of key than Ed25519")
        return NodeKey.of(private)

    def genesis(self) -> Genesis:
        """The genesis document.

        Raises:
            Misconfigured: unreadable, or of another cluster than ``cluster_id`` or other nodes than ``members``.
        """
        try:
            found = genesis_document.decode(self.genesis_path.read_bytes())
        except (OSError, Malformed) as error:
            raise Misconfigured(f"genesis: {error}") from None
        if genesis_document.cluster_id(found) != self.cluster_id:
            raise Misconfigured(
                f"{self.genesis_path} begins {genesis_document.cluster_id(found)}, cluster_id is {self.cluster_id}"
            )
        if set(found.nodes) != set(self.members):
            raise Misconfigured(f"members: {sorted(self.members)}, but the genesis names {sorted(found.nodes)}")
        return found


class Alone(NamedTuple):
    """What the variables of the Go implementation ask for where no file is given: one node by itself.

    ``insecure``: made, at the first start, so that unknown signers may propose without signing.
    """

    listen: Address
    data: Path
    snapshots: Path
    insecure: bool


def alone(environment: Mapping[str, str] | None = None) -> Alone:
    """The group of one that SWOOSH_LISTEN_ADDR, SWOOSH_WAL_DIR and SWOOSH_SNAPSHOT_DIR describe, in absolute paths.

    Raises:
        Misconfigured: one of them is missing or of another form.
    """
    variables = _variables(environment)
    missing = [name for name in _ALIASES if not variables.get(name)]
    if missing:
        every = ", ".join(_ALIASES)
        raise Misconfigured(
            f"{', '.join(missing)} not set: give --config FILE, or all of {every} for a group of one (development)"
        )
    listen, data, snapshots = (variables[name] for name in _ALIASES)
    if not is_place(listen):
        raise Misconfigured(f"SWOOSH_LISTEN_ADDR: expected host:port or :port, got {listen[:80]!r}")
    insecure = variables.get(_INSECURE, "") or "0"
    if insecure not in ("0", "1"):
        raise Misconfigured(f"{_INSECURE}: expected 1 or 0, got {insecure[:80]!r}")
    return Alone(address(listen), Path(data).absolute(), Path(snapshots).absolute(), insecure == "1")


def load_alone(path: Path, asked: Alone, environment: Mapping[str, str] | None = None) -> Config:
    """The configuration of a group of one, whose data lie beside its file and not where SWOOSH_WAL_DIR leads.

    Raises:
        Misconfigured: as ``load``.
    """
    places = {"SWOOSH_WAL_DIR": str(path.parent), "SWOOSH_SNAPSHOT_DIR": str(asked.snapshots)}
    others = {name: value for name, value in _variables(environment).items() if name != _INSECURE}
    return load(path, others | places)


def load(path: Path, environment: Mapping[str, str] | None = None) -> Config:
    """The configuration in ``path``, overridden by ``environment`` (the process's own when None).

    Raises:
        Misconfigured: unreadable, not TOML, unknown keys, wrong values, contradictions.
    """
    everything = _variables(environment)
    variables = {name: value for name, value in everything.items() if name.startswith(PREFIX)}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Misconfigured(f"{path}: {error}") from None
    unknown = [f"{path}: unknown key {key}" for key in _unknown_keys(document, _File)]
    if unknown:
        raise Misconfigured("\n".join(unknown))
    notices = tuple(_override(document, variables))
    try:
        file = msgspec.convert(document, _File)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"{path}: {error}") from None
    return _resolve(file, path.absolute().parent, notices, everything.get(_CREDENTIALS, ""))


def policy(path: Path) -> Policy:
    """The policy in a file (docs/reference/policy.md).

    Raises:
        Misconfigured: unreadable, not TOML, or not a policy.
    """
    try:
        return policies.decode(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, Malformed) as error:
        raise Misconfigured(f"{path}: {error}") from None


def arm_failpoints(environment: Mapping[str, str] | None = None) -> None:
    """Arm what SWOOSH_FAILPOINT asks for: ``name:nth`` kills the process at the nth visit of that place.

    Raises:
        Misconfigured: another form.
    """
    text = _variables(environment).get(_FAILPOINT, "")
    if not text:
        return
    name, _, nth = text.rpartition(":")
    if not name or not nth.isdecimal() or int(nth) < 1:
        raise Misconfigured(f"{_FAILPOINT}: expected name:nth with nth from 1, got {text[:80]!r}")
    faults.arm(name, int(nth), lambda: os.kill(os.getpid(), signal.SIGKILL))


def system_clock(environment: Mapping[str, str] | None = None) -> Clock:
    """The machine's clock; off by the milliseconds in the file SWOOSH_CLOCK_OFFSET_FILE names, where that is set.

    The file is read at every look, so a run can move the clock of a node that is serving. A file that cannot be read
    is no offset.
    """
    name = _variables(environment).get(_CLOCK_OFFSET_FILE, "")
    return ShiftedClock(lambda: _offset_us(Path(name))) if name else SystemClock()


def _offset_us(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii")) * 1_000
    except (OSError, ValueError):
        return 0


def packaged_chart() -> Chart:
    """The chart this build was made with.

    Raises:
        ChartError: it does not load.
        OSError: it is not where it belongs, so the installation is broken.
    """
    inside = files("swoosh") / "statechart.yaml"
    if inside.is_file():
        return load_chart(inside.read_text("utf-8"))
    return load_chart((Path(__file__).parent.parent / "statechart.yaml").read_text("utf-8"))


_OPEN_TO_WHOOSH = (
    "# Made with --insecure-signers: whoever shows no token may do this as WHOOSH's callers do. Never for production.",
    "[whoosh]",
    'anonymous = ["agent", "developer", "service"]',
)
_CLOSED_TO_WHOOSH = (
    "# Who may call as if this were WHOOSH: with tokens, JWTs, or none at all; without this section, nobody.",
    "# [whoosh]",
    '# tokens = "whoosh-tokens.age"  # lines NAME ROLE[,ROLE] TOKEN; roles are admin, developer, service, agent',
    '# anonymous = ["agent", "developer", "service"]  # what whoever shows no token may do',
)


def render(
    *,
    node: str,
    cluster_id: str,
    http: Address,
    peer: Address,
    members: Mapping[str, Address],
    insecure: bool = False,
) -> str:
    """The file of a node that lives in ``DIR/<node>/``, beside ``genesis.json`` and ``license.json`` in ``DIR``.

    In an insecure cluster, callers that know WHOOSH need no token.
    """
    lines = [
        "# One node of a SWOOSH cluster. Every key can be set by a variable too: http.listen is SWOOSH_HTTP_LISTEN.",
        f'node = "{node}"',
        f'cluster_id = "{cluster_id}"',
        'genesis = "../genesis.json"',
        'license = "../license.json"',
        'identity = "age.key"  # opens everything secret; may be a descriptor: /dev/fd/3',
        'key = "node.pem.age"',
        'data = "."',
        "",
        "[http]",
        f'listen = "{spell(http)}"',
        "",
        "[peer]",
        f'listen = "{spell(peer)}"',
        'certificates = "."',
        "",
        "# Where to find the members. Who they are says the genesis; this cannot add or remove one.",
        "[members]",
        *(f'{name} = "{spell(address)}"' for name, address in members.items()),
        "",
        "# Where Decision Records go, and where records of submissions; without a path or a url, nowhere.",
        "# [bubble]",
        '# path = "decisions.jsonl"',
        "# [slurp]",
        '# url = "https://slurp.example/submissions"',
        "",
        *(_OPEN_TO_WHOOSH if insecure else _CLOSED_TO_WHOOSH),
    ]
    return "\n".join(lines) + "\n"


# --- keys and variables -----------------------------------------------------------------------------------------------


def _unknown_keys(document: Mapping[str, Any], shape: type[msgspec.Struct], path: str = "") -> Iterator[str]:
    known = {field.name: field.type for field in msgspec.structs.fields(shape)}
    for name, value in document.items():
        if name not in known:
            yield f"{path}{name}; known here: {', '.join(known)}"
        elif isinstance(value, dict) and _is_section(known[name]):
            yield from _unknown_keys(value, known[name], f"{path}{name}.")


def _variables(environment: Mapping[str, str] | None) -> Mapping[str, str]:
    return os.environ if environment is None else environment


def _override(document: dict[str, Any], variables: Mapping[str, str]) -> Iterator[str]:
    """Put variables in their place; what is left over is worth a notice, not a refusal: orchestrators add their own."""
    kinds = dict(_leaves(_File))
    places = {PREFIX + key.replace(".", "_").upper(): key for key in kinds} | _ALIASES
    for name, text in sorted(variables.items()):
        if name in places:
            *sections, leaf = places[name].split(".")
            table = document
            for section in sections:
                table = table.setdefault(section, {})
            table[leaf] = int(text) if kinds[places[name]] is int and text.isdecimal() else text
        elif name == _CLOCK_OFFSET_FILE:
            yield f"{name}: the wall clock of this node is off by what {text[:80]} says; never in production"
        elif name.startswith(_IGNORED_PREFIX):
            yield f"{name} is accepted and ignored: the store is the node's own"
        elif name not in _NOT_OURS:
            yield f"{name} is not a setting of SWOOSH and is ignored"


def _leaves(shape: type[msgspec.Struct], path: str = "") -> Iterator[tuple[str, type]]:
    for field in msgspec.structs.fields(shape):
        if _is_section(field.type):
            yield from _leaves(field.type, f"{path}{field.name}.")
        elif field.type in (str, int):
            yield path + field.name, field.type


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


# --- values -----------------------------------------------------------------------------------------------------------


def _resolve(file: _File, folder: Path, notices: tuple[str, ...], credentials: str) -> Config:
    wrong = list(_contradictions(file))
    if wrong:
        raise Misconfigured("\n".join(wrong))
    data, identity = folder / file.data, folder / file.identity
    vault = Vault(identity, handed_over=bool(credentials) and identity.parent == Path(credentials))
    secret = partial(_secret, vault, folder)
    return Config(
        node_id=file.node,
        cluster_id=file.cluster_id,
        http=address(file.http.listen),
        peer=address(file.peer.listen),
        members={name: address(text) for name, text in file.members.items()},
        genesis_path=folder / file.genesis,
        license_path=folder / file.license,
        key_path=folder / file.key,
        data_dir=data,
        snapshots_path=folder / file.snapshots if file.snapshots else data / "snapshots",
        certificates=folder / file.peer.certificates,
        vault=vault,
        timing=Timing(
            heartbeat=file.raft.heartbeat_ms / 1000,
            election_min=file.raft.election_min_ms / 1000,
            election_max=file.raft.election_max_ms / 1000,
            skew_max_us=file.raft.skew_max_ms * 1000,
            ahead_max_us=file.raft.ahead_max_ms * 1000,
        ),
        scrub_period=float(file.scrub_seconds),
        projects_per_signer=file.projects_per_signer,
        forward_wait=file.http.forward_wait_ms / 1000,
        rate_per_signer=file.http.rate_per_signer,
        rate_per_ip=file.http.rate_per_ip,
        trusted_proxies=tuple(map(ip_network, file.http.trusted_proxies)),
        keep=Keep(entries=file.log.keep_entries, size=file.log.keep_mib << 20),
        install_rate=file.install.mib_per_second << 20,
        read_tokens=tuple(map(Secret, secret("http.read_tokens", file.http.read_tokens).split())),
        disk_free_min=file.disk.free_min_mib << 20,
        policy=policy(folder / file.policy.file) if file.policy.file else BUILT_IN,
        outbound=Outbound(
            proxy=file.outbound.proxy,
            authorities=folder / file.outbound.authorities if file.outbound.authorities else None,
            allow=file.outbound.allow,
        ),
        environment=file.environment.resolve(secret),
        kaching=file.kaching.resolve(secret),
        backbeat=file.backbeat.resolve(secret, folder, file.cluster_id, file.outbound.authorities),
        tool_servers=file.mcp.resolve(secret),
        bubble=file.bubble.resolve(secret, folder),
        slurp=file.slurp.resolve(secret, folder),
        whoosh=_whoosh(file.whoosh, secret, folder),
        notices=(*notices, *file.kaching.notices()),
    )


def _contradictions(file: _File) -> Iterator[str]:
    if file.node not in file.members:
        yield f"members: {file.node}, this node, is missing"
    for name, text in {"http.listen": file.http.listen, "peer.listen": file.peer.listen}.items():
        if not is_place(text):
            yield f"{name}: expected host:port, or :port for every interface, got {text[:80]!r}"
    for name, text in file.members.items():
        if not is_address(text):
            yield f"{name}: expected host:port, got {text[:80]!r}"
    times = file.raft
    if not 0 < 2 * times.heartbeat_ms <= times.election_min_ms < times.election_max_ms:
        yield "raft: needs 0 < 2 x heartbeat_ms <= election_min_ms < election_max_ms"
    if min(times.skew_max_ms, times.ahead_max_ms, file.http.forward_wait_ms) < 0:
        yield "raft, http: times are not negative"
    if file.scrub_seconds < 1:
        yield "scrub_seconds: at least 1"
    if min(file.log.keep_entries, file.log.keep_mib, file.install.mib_per_second) < 1:
        yield "log, install: keep_entries, keep_mib and mib_per_second are at least 1"
    if min(file.http.rate_per_signer, file.http.rate_per_ip) < 0:
        yield "http: rates are not negative; 0 refuses nobody"
    if file.disk.free_min_mib < 0:
        yield "disk: free_min_mib is not negative; 0 fills the disk to the last byte"
    if file.projects_per_signer < 0:
        yield "projects_per_signer is not negative; 0 refuses nobody"
    for text in file.http.trusted_proxies:
        if _is_no_network(text):
            yield f"http.trusted_proxies: expected an address or a network such as 10.0.0.0/8, got {text[:80]!r}"
    for text in file.outbound.allow:
        if not is_address(text):
            yield f"outbound.allow: expected host:port, got {text[:80]!r}"
    for section in (file.environment, file.kaching, file.backbeat, file.mcp, file.bubble, file.slurp, file.whoosh):
        yield from section.faults()


def _secret(vault: Vault, folder: Path, key: str, name: str) -> Secret:
    """What the sealed file that ``key`` names holds, or nothing where none is named: a secret never stands in the
    configuration itself."""
    try:
        return vault.text(folder / name) if name else Secret()
    except SecretError as error:
        raise Misconfigured(f"{key}: {error}") from None


def _read(folder: Path, key: str, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise Misconfigured(f"{key}: {folder / name}: {error.strerror}") from None


def _whoosh(section: sections.Whoosh, secret: sections.Opener, folder: Path) -> Whoosh:
    try:
        return section.resolve(secret, partial(_read, folder))
    except Malformed as error:
        raise Misconfigured(error.reason) from None


def _is_no_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return True
    return False


def address(text: str) -> Address:
    """What ``host:port`` spells, once ``is_address`` said that it does; no host is every interface."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def is_address(text: str) -> bool:
    """Whether this is ``host:port``."""
    host, _, port = text.rpartition(":")
    return bool(host) and port.isascii() and port.isdecimal() and int(port) < 65_536


def is_place(text: str) -> bool:
    """Whether this is somewhere to listen: an address, or a port alone for every interface, as Go has it."""
    return is_address(f"*{text}" if text.startswith(":") else text)


def spell(address: Address) -> str:
    """``host:port``, an IPv6 host in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def inherited(*names: str) -> dict[str, str]:
    """What a child process may have of this one's environment: these variables, where they are set."""
    return {name: os.environ[name] for name in names if name in os.environ}
