"""What is replicated: the regions of a project, the regions of ``@cluster``, and their two-level hash.

Every region is a frozen value with its own hash; a project's ``state_hash`` is the hash of the region hashes, so a
transition hashes what it changed and nothing else. The member names served over HTTP are the names hashed (the
v1.0.0 spellings where those exist): a reader can recompute a hash from what it was sent.

Collections that may grow large (tasks, assets, identities) are MerkleMaps: they enter their region's hash by root,
and reach the store entry by entry.

This module must never decide anything. Rules live in regions/, the order of judging in reducer.py.
"""

from __future__ import annotations

import typing
from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, cast

import msgspec
from msgspec import field

from swoosh import canonical
from swoosh.hashing import PREFIX, digest_hex
from swoosh.hlc import ZERO
from swoosh.merkle import MerkleMap
from swoosh.proposal import CLUSTER

PIECE_ENTRIES = 64


class Region(msgspec.Struct, frozen=True, rename="pascal"):
    """Base of all regions with phases."""

    phase: str


class Item(msgspec.Struct, frozen=True, rename="pascal"):
    """Base of the values inside regions."""


# --- a project -------------------------------------------------------------------------------------------------------


class Formation(Item, frozen=True):
    """That the cluster forms the council: it asks the agents it knows to claim what is open, and its nodes vote.

    ``optional_roles`` may be claimed and may stay open; ``until_ms`` (since 1970, 0 for no end) ends the asking.
    """

    optional_roles: tuple[str, ...]
    until_ms: int


class Meta(Region, frozen=True):
    """Which machine the project runs and what it is for. ``formation``: None where others see to the council."""

    phase: str = "ABSENT"
    version: str = ""
    schema_hash: str = ""
    chart_hash: str = ""
    project_id: str = field(default="", name="ProjectID")
    created_hlc: str = field(default="", name="CreatedHLC")
    brief: str = ""
    repository: str = ""
    planned_roles: tuple[str, ...] = ()
    formation: Formation | None = None


class Lifecycle(Region, frozen=True):
    """The top level of the chart."""

    phase: str = "BOOT"
    reason: str = ""
    closed_by: str = ""


class Boot(Region, frozen=True):
    """Brief §4 BOOT. ``node_id`` is the cluster id, the same on every node; ``license_expiry`` is RFC 3339 or empty."""

    phase: str = "UNINITIALIZED"
    licensed: bool = False
    license_expiry: str = ""
    node_id: str = field(default="", name="NodeID")
    fact_digest: str = ""


class Version(Item, frozen=True):
    """One indexed version of the content."""

    version: int
    content_hash: str


class Ingestion(Region, frozen=True):
    """Brief §7 ingestion. ``content_hash`` is the pinned version and stays readable while ``candidate`` is built."""

    phase: str = "DISCOVER"
    source_set: tuple[str, ...] = ()
    content_hash: str = ""
    content_version: int = 0
    latest_version: int = 0
    candidate: str = ""
    previous: tuple[Version, ...] = ()
    validation: dict[str, str] = {}
    last_error: str = ""


class Claim(Item, frozen=True):
    """A claim to a role. ``principal`` signed it (or an adapter names it); ``agent`` is what it calls itself."""

    agent: str
    principal: str


class Member(Item, frozen=True):
    """A seat of the certified council."""

    role: str
    agent: str
    principal: str


class Vote(Item, frozen=True):
    """One elector's vote in a certificate."""

    elector: str
    signature: str


class Certificate(Item, frozen=True):
    """The quorum certificate the council rests on (Brief §6)."""

    election: int
    member_set_hash: str
    threshold: int
    votes: tuple[Vote, ...]


class Council(Region, frozen=True):
    """Brief §7 council. ``basis`` is the content hash it was made ready for; ``election`` counts elections."""

    phase: str = "PLAN_ROLES"
    planned_roles: tuple[str, ...] = ()
    electorate: tuple[str, ...] = ()
    threshold: int = 0
    election: int = 0
    claims: dict[str, Claim] = {}
    releases: dict[str, int] = {}
    members: tuple[Member, ...] = ()
    member_set_hash: str = ""
    certificate: Certificate | None = None
    tool_pins: dict[str, str] = {}
    basis: str = ""
    formation: Formation | None = None


class Asset(Item, frozen=True):
    """One provisioned thing and where its effect stands.

    ``state``: ALLOCATED, REQUESTED, CONFIRMED, REVERTING or REVERTED. ``effect`` names the request a receiver answers,
    ``index`` is where in the log it was made: a receiver never goes back behind one (docs/reference/effect-hooks.md).
    """

    state: str
    kind: str
    units: int
    effect: str = ""
    receipt: str = ""
    index: int = 0


class Environment(Region, frozen=True):
    """Brief §7 environment. ``basis`` is the content hash it was found healthy for."""

    phase: str = "ALLOCATE"
    assets: MerkleMap[Asset] = field(default_factory=MerkleMap)
    environment_hash: str = ""
    health: str = ""
    basis: str = ""
    allocation: int = 0


class Verdict(Item, frozen=True):
    """A member's last word on a task: ``approve`` or ``reject``."""

    verdict: str
    reason: str = ""


class Task(Item, frozen=True):
    """One task of the plan. ``state``: OPEN, CLAIMED or DONE. A claim expires by beat, by stamp (ms), or never (0)."""

    title: str
    state: str = "OPEN"
    owner: str = ""
    expires_beat: int = 0
    expires_ms: int = 0
    evidence: str = ""
    verdicts: dict[str, Verdict] = {}
    rejections: tuple[str, ...] = ()
    releases: int = 0


class Plan(Item, frozen=True):
    """The plan lock: what was agreed, and the hashes it was agreed on. Deadlines by beat index or stamp; 0 = none."""

    plan_hash: str
    content_hash: str
    member_set_hash: str
    environment_hash: str
    window_id: str = field(name="WindowID")
    deadline_beat: int = 0
    deadline_ms: int = 0
    claim_beats: int = 0
    claim_ms: int = 0


class Submission(Item, frozen=True):
    """What was handed to SLURP in a window."""

    plan_hash: str
    window_id: str = field(name="WindowID")
    artifacts: tuple[str, ...]
    submitter: str


class Execution(Region, frozen=True):
    """Brief §7 execution. ``active_window_id`` is the window of the project's last accepted execution transition."""

    phase: str = "IDLE"
    plan: Plan | None = None
    tasks: MerkleMap[Task] = field(default_factory=MerkleMap)
    active_window_id: str = field(default="", name="ActiveWindowID")
    beat_index: int = 0
    submissions: tuple[Submission, ...] = ()
    history: tuple[str, ...] = ()


class License(Region, frozen=True):
    """Whether outbound traffic may flow. ``grace_until`` in milliseconds since 1970."""

    phase: str = "NONE"
    fact_digest: str = ""
    grace_until: int = 0


class Pause(Region, frozen=True):
    """An operator's hold."""

    phase: str = "RUNNING"
    reason: str = ""
    by: str = ""
    since_hlc: str = field(default="", name="SinceHLC")


class Recovery(Region, frozen=True):
    """The hold that a lost council quorum puts on execution."""

    phase: str = "STEADY"
    reason: str = ""
    since_hlc: str = field(default="", name="SinceHLC")


class PolicyFinding(Item, frozen=True):
    """Why a project is quarantined; the value itself never enters the state."""

    rule: str
    severity: str
    location: str = ""
    value_hash: str = ""
    principal: str = ""


class Policy(Region, frozen=True):
    """Brief §4 policy: sticky until a policy signer releases it, confirms the block, or updates the policy."""

    phase: str = "CLEAR"
    quarantined: bool = False
    rationale: str = ""
    findings: tuple[PolicyFinding, ...] = ()
    policy_version: str = ""


class HlcLast(Item, frozen=True):
    """The last applied proposal's place in the order."""

    hlc: str = field(default=str(ZERO), name="HLC")
    signer: str = ""
    idem_key: str = ""


class ProjectRegions(msgspec.Struct, frozen=True, rename="pascal"):
    """Everything hashed of one project."""

    meta: Meta = Meta()
    lifecycle: Lifecycle = Lifecycle()
    boot: Boot = Boot()
    ingestion: Ingestion = Ingestion()
    council: Council = Council()
    environment: Environment = Environment()
    execution: Execution = Execution()
    license: License = License()
    pause: Pause = Pause()
    recovery: Recovery = Recovery()
    policy: Policy = Policy()
    epoch: dict[str, int] = {}
    hlc_last: HlcLast = field(default=HlcLast(), name="HLCLast")


# --- @cluster --------------------------------------------------------------------------------------------------------


class Identity(Item, frozen=True):
    """A registered key. ``projects`` empty means all of them."""

    name: str
    roles: tuple[str, ...]
    projects: tuple[str, ...] = ()
    revoked: bool = False


class Identities(Region, frozen=True):
    """Who may sign what, by principal."""

    phase: str = "OPEN"
    entries: MerkleMap[Identity] = field(default_factory=MerkleMap)


class Flag(Item, frozen=True):
    """A feature flag; ``expires_ms`` 0 means never."""

    value: str
    expires_ms: int = 0


class Flags(Region, frozen=True):
    """Routing and bypass flags (Brief §13)."""

    phase: str = "OPEN"
    values: dict[str, Flag] = {}


class Settings(Region, frozen=True):
    """The settings that differ from their defaults."""

    phase: str = "OPEN"
    values: dict[str, Any] = {}


class ClusterMember(Item, frozen=True):
    """A voting node and the incarnation of its store that its peers accept (empty until one was replaced)."""

    incarnation: str = ""
    rejoined: int = 0


class Members(Region, frozen=True):
    """The fixed member set and the configuration epoch."""

    phase: str = "OPEN"
    config_epoch: int = 1
    nodes: dict[str, ClusterMember] = {}


class ChartInForce(Region, frozen=True):
    """Which chart and reducer semantics judge the next entry."""

    phase: str = "OPEN"
    chart_hash: str = ""
    version: str = ""


class Ledgers(Region, frozen=True):
    """Pruning horizons: keys applied before the log index ``horizons[project]`` are forgotten."""

    phase: str = "OPEN"
    horizons: dict[str, int] = {}


class Rollout(Region, frozen=True):
    """The last stop sign (Brief §13)."""

    phase: str = "OPEN"
    sign: str = ""
    value: str = ""
    source: str = ""


class ClusterRegions(msgspec.Struct, frozen=True, rename="pascal"):
    """Everything hashed of ``@cluster``."""

    identities: Identities = Identities()
    flags: Flags = Flags()
    settings: Settings = Settings()
    members: Members = Members()
    chart: ChartInForce = ChartInForce()
    ledgers: Ledgers = Ledgers()
    rollout: Rollout = Rollout()
    epoch: dict[str, int] = {}
    hlc_last: HlcLast = field(default=HlcLast(), name="HLCLast")


Regions = ProjectRegions | ClusterRegions


class Project(msgspec.Struct, frozen=True):
    """A project's regions, their hashes, and where its chains stand."""

    id: str
    regions: Regions
    region_hashes: dict[str, str]
    state_hash: str
    seq: int = 0
    wal_head: str = ""
    dr_head: str = ""
    ledger_digest: str = ""

    @property
    def quarantined(self) -> bool:
        """Whether the policy region holds the project."""
        return isinstance(self.regions, ProjectRegions) and self.regions.policy.phase == "QUARANTINED"


# --- names, hashes ---------------------------------------------------------------------------------------------------


def _served_names(regions: type[msgspec.Struct]) -> dict[str, str]:
    return {info.name: info.encode_name for info in msgspec.structs.fields(regions)}


def _collections(regions: type[msgspec.Struct]) -> dict[str, dict[str, type[Any]]]:
    """{region attribute: {collection attribute: value type}}."""
    found: dict[str, dict[str, type[Any]]] = {}
    for region, kind in typing.get_type_hints(regions).items():
        if isinstance(kind, type) and issubclass(kind, Region):
            hints = typing.get_type_hints(kind)
            maps = {n: typing.get_args(h)[0] for n, h in hints.items() if typing.get_origin(h) is MerkleMap}
            if maps:
                found[region] = maps
    return found


SERVED: dict[type[Any], dict[str, str]] = {kind: _served_names(kind) for kind in (ProjectRegions, ClusterRegions)}
COLLECTIONS: dict[type[Any], dict[str, dict[str, type[Any]]]] = {
    kind: _collections(kind) for kind in (ProjectRegions, ClusterRegions)
}


def _by_root(value: Any) -> Any:
    if isinstance(value, MerkleMap):
        return value.root
    raise TypeError(f"{type(value).__name__} has no place in a hashed document")


_encode_by_root = canonical.encoder(_by_root)


def region_hash(region: Any) -> str:
    """64 hex digits of one region; its collections enter by root."""
    return digest_hex("region", _encode_by_root(region))


def root_hash(region_hashes: Mapping[str, str]) -> str:
    """The ``state_hash`` of named region hashes: ``sha256-<hex>``."""
    return PREFIX + digest_hex("state", canonical.encode(region_hashes))


def compute_state_hash(regions: Regions) -> str:
    """The state hash from nothing but the regions."""
    return root_hash({served: region_hash(getattr(regions, name)) for name, served in SERVED[type(regions)].items()})


def new_project(project_id: str, regions: Regions) -> Project:
    """A project at the start of its chains."""
    hashes = {served: region_hash(getattr(regions, name)) for name, served in SERVED[type(regions)].items()}
    return Project(project_id, regions, hashes, root_hash(hashes))


def absent(project_id: str) -> Project:
    """The project nobody created yet; of it, ``genesis`` spells this hash."""
    return msgspec.structs.replace(_NOBODYS, id=project_id)


_NOBODYS = new_project("", ProjectRegions())
GENESIS_HASH = _NOBODYS.state_hash


def rehash(project: Project, changed: Mapping[str, Any]) -> tuple[Regions, dict[str, str], str]:
    """Regions, region hashes and state hash after ``changed`` ({region attribute: new value}) replaced its regions."""
    names = SERVED[type(project.regions)]
    hashes = {**project.region_hashes, **{names[name]: region_hash(value) for name, value in changed.items()}}
    return msgspec.structs.replace(project.regions, **changed), hashes, root_hash(hashes)


def served(regions: Regions, name: str) -> Iterator[bytes]:
    """The JSON of the region served as ``name``, in pieces of at most ``PIECE_ENTRIES`` entries of a collection.

    Pieces, because ten thousand tasks take tens of milliseconds to write, and whoever serves them has others waiting.
    """
    kind = type(regions)
    attribute = next(attribute for attribute, known in SERVED[kind].items() if known == name)
    region, collections = getattr(regions, attribute), COLLECTIONS[kind].get(attribute, {})
    if not collections:
        yield canonical.encode(region)
        return
    opening = b"{"
    for info in msgspec.structs.fields(region):
        yield opening + canonical.encode(info.encode_name) + b":"
        value = getattr(region, info.name)
        yield from _entries(value) if info.name in collections else (canonical.encode(value),)
        opening = b","
    yield b"}"


def _entries(collection: MerkleMap[Any]) -> Iterator[bytes]:
    opening, entries = b"{", collection.entries()
    while piece := dict(islice(entries, PIECE_ENTRIES)):
        yield opening + canonical.encode(piece)[1:-1]
        opening = b","
    yield b"}" if len(collection) else b"{}"


def collection_paths(regions: Regions) -> list[str]:
    """``Region.Field`` of every member that is hashed by entry."""
    names, hints = SERVED[type(regions)], typing.get_type_hints(type(regions))
    return [
        f"{names[region]}.{served}"
        for region, fields in COLLECTIONS[type(regions)].items()
        for attribute, served in _served_names(hints[region]).items()
        if attribute in fields
    ]


def control(regions: ProjectRegions) -> dict[str, bool]:
    """The brief's CONTROL, derived from three regions and not hashed."""
    return {
        "Paused": regions.pause.phase == "PAUSED" or regions.license.phase == "EXPIRED",
        "Degraded": regions.license.phase == "GRACE",
        "Recovering": regions.recovery.phase == "RECOVERY",
    }


# --- rows: how a project lies in a store -----------------------------------------------------------------------------
#
# One row per region, one per collection entry, one for the head. Keys are tuples of text without NUL:
# (project,), (project, region) and (project, region, collection, entry).

Row = tuple[tuple[str, ...], bytes | None]
STEP_ENTRIES = 32
_REGION_PATH = 2


class Head(msgspec.Struct, frozen=True):
    """Where a project's state and chains stand."""

    state_hash: str
    seq: int
    wal_head: str
    dr_head: str
    ledger_digest: str


def rows_changed(before: Project | None, after: Project) -> Iterator[Row]:
    """The rows that differ between two versions of a project; None as value means the row is gone."""
    head = Head(after.state_hash, after.seq, after.wal_head, after.dr_head, after.ledger_digest)
    yield (after.id,), canonical.encode(head)
    names = SERVED[type(after.regions)]
    olds = msgspec.structs.astuple(before.regions) if before else (None,) * len(names)
    for name, old, new in zip(names, olds, msgspec.structs.astuple(after.regions), strict=True):
        if new is old:
            continue
        maps = COLLECTIONS[type(after.regions)].get(name, {})
        plain = msgspec.structs.replace(new, **{attribute: MerkleMap() for attribute in maps}) if maps else new
        yield (after.id, name), _encode_rows(plain)
        for attribute in maps:
            empty: MerkleMap[Any] = MerkleMap()
            earlier = getattr(old, attribute) if old is not None else empty
            for key, value in getattr(new, attribute).changes_since(earlier):
                yield (after.id, name, attribute, key), None if value is None else canonical.encode(value)


def project_from_rows(project_id: str, rows: Iterable[tuple[tuple[str, ...], bytes]]) -> Project:
    """The project its rows describe.

    The caller verifies: the hash is recomputed here from the regions, while the head row says what it was.
    """
    rest = []
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for path, data in rows:
        if len(path) > _REGION_PATH:
            entries.setdefault((path[1], path[2]), {})[path[3]] = _entry_of(project_id, path, data)
        else:
            rest.append((path, data))
    return _put_together(project_id, rest, {place: MerkleMap(values) for place, values in entries.items()})


def project_in_steps(project_id: str, rows: Iterable[tuple[tuple[str, ...], bytes]]) -> Generator[None, None, Project]:
    """As ``project_from_rows``, a little between one ``yield`` and the next, however large the project is."""
    rest = []
    entries: dict[tuple[str, str], MerkleMap[Any]] = {}
    for number, (path, data) in enumerate(rows):
        if len(path) > _REGION_PATH:
            place = (path[1], path[2])
            held = entries.get(place, MerkleMap())
            entries[place] = held.set(path[3], _entry_of(project_id, path, data))
            if number % STEP_ENTRIES == 0:
                _ = entries[place].root  # or all of its hashes are due in one go at the end
        else:
            rest.append((path, data))
        yield
    return _put_together(project_id, rest, entries)


def _entry_of(project_id: str, path: tuple[str, ...], data: bytes) -> Any:
    return msgspec.json.decode(data, type=COLLECTIONS[regions_type(project_id)][path[1]][path[2]])


def _put_together(
    project_id: str, rows: Iterable[tuple[tuple[str, ...], bytes]], maps: Mapping[tuple[str, str], MerkleMap[Any]]
) -> Project:
    kind = regions_type(project_id)
    hints = typing.get_type_hints(kind)
    head, regions = Head("", 0, "", "", ""), dict[str, Any]()
    for path, data in rows:
        if len(path) == 1:
            head = msgspec.json.decode(data, type=Head)
        else:
            regions[path[1]] = msgspec.json.decode(data, type=hints[path[1]], dec_hook=_empty_map)
    for (region, attribute), entries in maps.items():
        regions[region] = msgspec.structs.replace(regions[region], **{attribute: entries})
    fresh = new_project(project_id, kind(**regions))
    return msgspec.structs.replace(
        fresh, seq=head.seq, wal_head=head.wal_head, dr_head=head.dr_head, ledger_digest=head.ledger_digest
    )


def stored_head(head_row: bytes) -> Head:
    """What a head row claims."""
    return msgspec.json.decode(head_row, type=Head)


def regions_type(project_id: str) -> type[Any]:
    """ClusterRegions for ``@cluster``, else ProjectRegions."""
    return ClusterRegions if project_id == CLUSTER else ProjectRegions


def as_project(regions: Regions) -> ProjectRegions:
    """Narrow for rules that only ever see a project; the chart never routes ``@cluster`` to them."""
    return cast(ProjectRegions, regions)


def as_cluster(regions: Regions) -> ClusterRegions:
    """Narrow for rules of ``@cluster``."""
    return cast(ClusterRegions, regions)


def _no_entries(value: Any) -> Any:
    if isinstance(value, MerkleMap):
        return {}
    raise TypeError(f"{type(value).__name__} cannot be stored")


def _empty_map(kind: type[Any], value: Any) -> Any:
    if typing.get_origin(kind) is MerkleMap or kind is MerkleMap:
        return MerkleMap(value)
    raise TypeError(f"{kind} cannot be read back")


_encode_rows = canonical.encoder(_no_entries)
