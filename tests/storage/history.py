"""One recorded history for the tests of the store: a whole life of a project, and what each entry changed.

It is made once, by a machine alone, and then written into stores entry by entry, as a node would. Every kind of row is
in it: collections that grow and shrink, facts, votes, a batch under one signature, a command to ``@cluster``, a
refusal that entered the log, and no-ops of Raft.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from chaos.solo import Solo, the_chart
from chaos.steer import drive
from cluster.raft.journal import Journal
from cluster.raft.members import Known, Members
from cluster.storage import layout
from cluster.storage.kv import Batch, Delete, DeleteRange, Family, KeyValue, Put
from cluster.storage.store import ORIGIN, Store
from cluster.storage.witness import MemoryWitness
from swoosh import genesis
from swoosh.chart import Chart
from swoosh.genesis import Genesis
from swoosh.machine import Applied, Machine, MemorySource
from swoosh.proposal import PREVIOUS

NODE = "n1"
NO_OP, REGULAR = b"\x01", b"\x00"


class History(NamedTuple):
    """A log and what applying it gives. ``entries[i]`` has index i + 1 and changed ``applied[i]``."""

    chart: Chart
    genesis: Genesis
    entries: list[tuple[int, int, bytes | None]]
    applied: list[Applied]
    hashes: list[str]
    """The cluster hash after each entry."""

    @property
    def cluster_id(self) -> str:
        return genesis.cluster_id(self.genesis)

    def machine(self, store: Store) -> Machine:
        return Machine(self.chart, self.cluster_id, store)


@cache
def history() -> History:
    """The history; the same in every test."""
    solo = Solo(the_chart())
    solo.project = "apollo"
    drive(solo, lambda regions: len(regions.execution.submissions) == 1)
    solo.propose("SETTING_SET", {"name": "approval_threshold", "value": 2})
    chained = [solo.document("PROJECT_CREATED", {"brief": "b"}, project="gemini", signer="pam")]
    chained.append(solo.document("PROJECT_CREATED", {"brief": "c"}, project="gemini", signer="pam", head=PREVIOUS))
    solo.apply(solo.batch(chained, "pam"))
    assert "gemini" in solo.machine.project_ids(), "the batch was refused"
    solo.project = "gemini"
    drive(solo, lambda regions: regions.execution.phase == "WORK")
    entries: list[tuple[int, int, bytes | None]] = [(1, 0, None), *solo.log]
    entries.append((len(entries) + 1, 1, None))
    return _applied(solo, entries)


def _applied(solo: Solo, entries: list[tuple[int, int, bytes | None]]) -> History:
    source = MemorySource(genesis.initial_projects(solo.genesis, solo.chart), ORIGIN)
    machine = Machine(solo.chart, solo.machine.cluster_id, source)
    found = History(solo.chart, solo.genesis, entries, [], [])
    for index, term, data in entries:
        applied = machine.apply(index, term, data)
        source.commit(applied)
        found.applied.append(applied)
        found.hashes.append(machine.cluster_hash)
    return found


def create(kv: KeyValue) -> Store:
    """A new store for the history's cluster, at its genesis."""
    told = history()
    rows = genesis.initial_rows(told.genesis, told.chart)
    return Store.create(kv, rows, ORIGIN, {"genesis": genesis.encode(told.genesis)})


def recorded(kv: KeyValue, upto: int | None = None) -> Store:
    """A store as a node leaves it: the log up to an entry, synced, and the state after it."""
    told = history()
    entries = told.entries[:upto]
    write_log(kv, entries)
    store = create(kv)
    for applied in told.applied[:upto]:
        store.commit(applied)
    return store


def write_log(kv: KeyValue, entries: list[tuple[int, int, bytes | None]]) -> None:
    """The Raft log of a new store."""
    witness, cluster_id = MemoryWitness(), history().cluster_id
    Journal.create(kv, witness, cluster_id=cluster_id, node=NODE, incarnation=bytes(16))
    journal = Journal.open(kv, witness, cluster_id=cluster_id, node=NODE)
    journal.keep(layout.MEMBERS, Members(("n2", "n3"), {"n2": Known("02" * 16, 7)}).encode)
    for index, term, data in entries:
        journal.add(NO_OP if data is None else REGULAR + data, index, term)
    journal.barrier()


def dump(kv: KeyValue) -> dict[tuple[Family, bytes], bytes]:
    """Every row of the state; the log has its own tests."""
    families = [family for family in Family if family is not Family.LOG]
    rows = {(family, key): value for family in families for key, value in kv.iterate(family)}
    return {(family, key): value for (family, key), value in rows.items() if key not in layout.JOURNALED}


def overwrite(kv: KeyValue, *operations: Put | Delete | DeleteRange) -> None:
    """Change rows behind the store's back."""
    batch = Batch()
    batch.operations = list(operations)
    kv.write(batch, sync=True)
