"""The manifest of a snapshot: which moment of the log a stored state is, and how to tell that it is intact.

A snapshot is a whole store; the manifest says what must be true of it (Brief §8: full state, ``lastAppliedIndex``,
``lastAppliedHLC``). It must never be believed without ``check``: a state that does not hash to what its manifest says
is not a snapshot of anything.
"""

from __future__ import annotations

import msgspec
from msgspec import field

from swoosh import canonical
from swoosh.errors import Corrupt
from swoosh.hashing import digest
from swoosh.hlc import HLC, ZERO
from swoosh.machine import Machine

FORMAT = 1


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``stamp`` is the newest leader stamp in microseconds; the HLC is the greatest that any project has applied.

    It says nothing about the node that took it: all nodes describe one log position in the same bytes.
    """

    last_applied_index: int = field(name="lastAppliedIndex")
    term: int
    last_applied_hlc: str = field(name="lastAppliedHLC")
    stamp: int
    cluster_hash: str
    chart_hash: str
    format: int = FORMAT


def describe(machine: Machine, last_hlc: HLC) -> Manifest:
    """The manifest of a machine as it stands. ``last_hlc`` is the greatest HLC applied, which its store keeps."""
    return Manifest(
        last_applied_index=machine.position.index,
        term=machine.position.term,
        last_applied_hlc=str(last_hlc),
        stamp=machine.position.stamp_us,
        cluster_hash=machine.cluster_hash,
        chart_hash=machine.registry.cluster.chart.chart_hash,
    )


def encode(manifest: Manifest) -> bytes:
    """Canonical bytes: what is stored and hashed."""
    return canonical.encode(manifest)


def decode(data: bytes) -> Manifest:
    """The manifest of stored bytes.

    Raises:
        Corrupt: not a manifest, or one of a format this build does not read.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Corrupt(f"snapshot manifest does not decode: {error}") from None
    if manifest.format != FORMAT:
        raise Corrupt(f"snapshot of format {manifest.format}; this build reads format {FORMAT}")
    return manifest


def manifest_hash(manifest: Manifest) -> str:
    """The address of a snapshot: ``sha256-…``."""
    return digest("snapshot", manifest)


def check(manifest: Manifest, machine: Machine) -> None:
    """Refuse a state that is not what its manifest says. Loads every project, so that each is verified.

    Raises:
        Corrupt: a project does not hash to its head, or a member of the manifest differs; the text names them all.
    """
    found = describe(machine, _last_hlc(machine))
    claimed, actual = msgspec.to_builtins(manifest), msgspec.to_builtins(found)
    differing = [f"{name} is {actual[name]}, the manifest says {claimed[name]}" for name in claimed
                 if claimed[name] != actual[name]]  # fmt: skip
    if differing:
        raise Corrupt("snapshot: " + "; ".join(differing))


def _last_hlc(machine: Machine) -> HLC:
    held = (machine.project(project_id) for project_id in machine.project_ids())
    return max((HLC.parse(project.regions.hlc_last.hlc) for project in held if project is not None), default=ZERO)
