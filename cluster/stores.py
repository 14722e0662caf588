"""A node's store as a thing on disk: where it comes into being, what condition it is in, how it is set aside.

A store that made itself would be a node that has forgotten its votes. So a store is made in three cases only, each of
which somebody asked for: with a new cluster, for a node of a new cluster on a machine of its own (both `swoosh init`),
and in place of one that is gone (`swoosh serve --rejoin`). The last one is marked, synced, before it is used, and
promises nothing until the members have accepted it.

Nothing here is ever deleted or repaired: what a new store replaces is moved aside, for the report.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cluster import faults
from cluster.config import Config
from cluster.entropy import Entropy
from cluster.faults import ExitCode
from cluster.raft.journal import Journal
from cluster.storage.incoming import CURRENT_NAME, INCOMING_NAME, READY_NAME
from cluster.storage.kv import RocksKeyValue, StoreMissing, sync_directory
from cluster.storage.store import ORIGIN, Store
from cluster.storage.witness import FileWitness
from swoosh import genesis as genesis_document
from swoosh.chart import Chart
from swoosh.errors import Corrupt
from swoosh.genesis import Genesis

INCARNATION_BYTES = 16

REPLACEABLE = frozenset({ExitCode.DAMAGED, ExitCode.ROLLED_BACK})


@dataclass(frozen=True, slots=True)
class Condition:
    """What was found in the place of a store.

    Attributes:
        fault: why `serve` would refuse it; None for a healthy one.
        reason: in words.
        rejoining: it was made in place of another, and is not accepted yet.
    """

    fault: ExitCode | None
    reason: str
    rejoining: bool = False

    @property
    def replaceable(self) -> bool:
        """Whether it is certain that nothing can be done with this store."""
        return self.fault in REPLACEABLE


def create(settings: Config, genesis: Genesis, chart: Chart, entropy: Entropy, *, rejoining: bool = False) -> None:
    """An empty log, the genesis state before the first entry, and the witness of both, synced.

    Raises:
        FileExistsError: a store or a witness is there.
    """
    kv, witness = RocksKeyValue.create(settings.store_path), FileWitness.create(settings.witness_path)
    rows, documents = genesis_document.initial_rows(genesis, chart), {"genesis": genesis_document.encode(genesis)}
    Store.create(kv, rows, ORIGIN, documents)
    Journal.create(
        kv,
        witness,
        cluster_id=settings.cluster_id,
        node=settings.node_id,
        incarnation=entropy.token(INCARNATION_BYTES),
        rejoining=rejoining,
    )
    witness.close()
    kv.close()
    sync_directory(settings.data_dir)


def examine(settings: Config) -> Condition:
    """What `serve` would say of the store, found out without changing it."""
    with ExitStack() as stack:
        stack.enter_context(faults.raised())
        try:
            kv = RocksKeyValue.open(settings.store_path)
            stack.callback(kv.close)
            witness = FileWitness.open(settings.witness_path)
            stack.callback(witness.close)
            journal = Journal.examine(kv, witness, cluster_id=settings.cluster_id, node=settings.node_id)
            applied = Store(kv).position().index
        except faults.Stopped as stop:
            return Condition(stop.code, stop.reason)
        except (StoreMissing, FileNotFoundError, Corrupt) as error:
            return Condition(ExitCode.DAMAGED, str(error))
        if not journal.reaches(applied):
            return Condition(ExitCode.DAMAGED, "the log does not reach the state")
        return Condition(None, "the store is healthy", journal.rejoining)


def set_aside(settings: Config) -> list[Path]:
    """Move what there is of store, witness, snapshots and a half-done install to `<name>.damaged-<n>`; where it lies
    now.

    The store goes first: a witness without its store is a lost store, whatever happens next.
    """
    installing = [settings.data_dir / name for name in (CURRENT_NAME, INCOMING_NAME, READY_NAME)]
    places = [settings.store_path, settings.witness_path, settings.snapshots_path, *installing]
    number = 1
    while any(_beside(path, number).exists() for path in places):
        number += 1
    moved = []
    for path in places:
        if path.exists():
            moved.append(path.rename(_beside(path, number)))
            sync_directory(path.parent)
    return moved


def _beside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.damaged-{number}")
