"""The beginning of a cluster as a document: who is in it, whose keys it knows, which chart it runs.

Every node starts from the same genesis, and the cluster's identity is its hash, so two clusters can never be taken for
one another. The document holds a random nonce and no cluster id: the id follows from it. It is written once, by
``swoosh init``, and never changes; what does change later (identities, settings) lives in ``@cluster``.

This module must never invent anything: no clock and no randomness, the nonce and the time are handed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from swoosh import canonical, principal, state
from swoosh.chart import Chart
from swoosh.errors import Malformed
from swoosh.hashing import PREFIX, digest, is_hex
from swoosh.hlc import ZERO
from swoosh.merkle import MerkleMap
from swoosh.proposal import CLUSTER, DEFAULT_PROJECT
from swoosh.schema import SCHEMA_HASH
from swoosh.settings import fault
from swoosh.state import ClusterRegions, Project, ProjectRegions, Row

NONCE_BYTES = 32
SIZES = (1, 3, 5)
"""How many members a group has: one more would not let one more fail."""
_CLUSTER_ID_DIGITS = 32
_LABEL_MAX = 63
_LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


class Registered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A public key the cluster knows from its first entry on. ``projects`` empty means all of them."""

    name: str
    principal: str
    roles: tuple[str, ...]
    projects: tuple[str, ...] = ()


class Genesis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``genesis.json``. ``nonce`` is 64 hex digits, ``created_ms`` milliseconds since 1970 UTC.

    ``settings`` holds what differs from the defaults. ``insecure`` makes a development cluster: an unknown signer may
    propose anything a proposer may.
    """

    nonce: str
    nodes: tuple[str, ...]
    identities: tuple[Registered, ...]
    settings: dict[str, Any]
    chart_hash: str
    insecure: bool
    created_ms: int


def encode(genesis: Genesis) -> bytes:
    """The canonical bytes: what ``genesis.json`` holds and what is hashed."""
    return canonical.encode(genesis)


def decode(data: bytes) -> Genesis:
    """The genesis of ``data``.

    Raises:
        Malformed: not canonical JSON of this shape, or it contradicts itself; the reason names the member.
    """
    try:
        genesis = msgspec.convert(canonical.parse(data, "genesis"), Genesis)
    except msgspec.ValidationError as error:
        raise Malformed(f"genesis: {error}") from None
    for reason in _faults(genesis):
        raise Malformed(f"genesis: {reason}")
    return genesis


def genesis_hash(genesis: Genesis) -> str:
    """``sha256-…`` of the document."""
    return digest("genesis", genesis)


def cluster_id(genesis: Genesis) -> str:
    """``swoosh-`` and the first 32 hex digits of the genesis hash: bound into every signature and certificate."""
    return "swoosh-" + genesis_hash(genesis).removeprefix(PREFIX)[:_CLUSTER_ID_DIGITS]


def initial_projects(genesis: Genesis, chart: Chart) -> tuple[Project, Project]:
    """``@cluster`` and ``default`` as they are before the first entry.

    Raises:
        Malformed: ``chart`` is not the one the genesis names.
    """
    if chart.hash != genesis.chart_hash:
        raise Malformed(
            f"genesis names chart {genesis.chart_hash}, this build has {chart.hash}: install the one it was made by"
        )
    return (
        state.new_project(CLUSTER, _cluster_regions(genesis, chart)),
        state.new_project(DEFAULT_PROJECT, _default_regions(genesis, chart)),
    )


def initial_rows(genesis: Genesis, chart: Chart) -> list[Row]:
    """The rows a new store begins with: those of ``initial_projects``."""
    return [row for project in initial_projects(genesis, chart) for row in state.rows_changed(None, project)]


def _cluster_regions(genesis: Genesis, chart: Chart) -> ClusterRegions:
    identities = {
        each.principal: state.Identity(each.name, each.roles, each.projects)
        for each in sorted(genesis.identities, key=lambda each: each.principal)
    }
    return ClusterRegions(
        identities=state.Identities(entries=MerkleMap(identities)),
        settings=state.Settings(values=genesis.settings),
        members=state.Members(nodes={node: state.ClusterMember() for node in genesis.nodes}),
        chart=state.ChartInForce(chart_hash=chart.hash, version=chart.version),
    )


def _default_regions(genesis: Genesis, chart: Chart) -> ProjectRegions:
    """``default`` exists from the start. A development cluster has its boot configured too, since there nobody else
    may be around to do it."""
    meta = state.Meta(
        phase="CREATED",
        version=chart.version,
        schema_hash=SCHEMA_HASH,
        chart_hash=chart.hash,
        project_id=DEFAULT_PROJECT,
        created_hlc=str(ZERO),
    )
    boot = state.Boot(phase="LICENSE_CHECK", node_id=cluster_id(genesis)) if genesis.insecure else state.Boot()
    return ProjectRegions(meta=meta, boot=boot)


def _faults(genesis: Genesis) -> Iterator[str]:
    if not is_hex(genesis.nonce, 2 * NONCE_BYTES):
        yield f"nonce: expected {2 * NONCE_BYTES} hex digits"
    if len(genesis.nodes) not in SIZES:
        yield f"nodes: expected 1, 3 or 5, found {len(genesis.nodes)}"
    for node in genesis.nodes:
        if not _is_label(node) or genesis.nodes.count(node) > 1:
            yield f"nodes: {node[:80]!r} is not 1 to {_LABEL_MAX} of a-z, 0-9 and inner hyphens, or is listed twice"
    principals = [each.principal for each in genesis.identities]
    for name in principals:
        if principal.key_of(name) is None or principal.normalise(name) != name or principals.count(name) > 1:
            yield f"identities: {name[:120]!r} is not {principal.CANONICAL}<64 hex>, or is listed twice"
    for name, value in genesis.settings.items():
        reason = fault(name, value)
        if reason is not None:
            yield f"settings: {reason}"


def _is_label(text: str) -> bool:
    """A DNS label, since a node's certificate names it ``<node>.<cluster_id>``."""
    return (
        0 < len(text) <= _LABEL_MAX and _LABEL.issuperset(text) and not text.startswith("-") and not text.endswith("-")
    )
