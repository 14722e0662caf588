"""The scrubber: everything this node stores is read and hashed again, all the time, so that no damage waits for years.

A store is read where it is needed, and most of it is not needed for a long time; what decays there is noticed on the
day it is needed, or never. So one pass after another goes over all of it:

* every row of every family against its checksum, the log's too;
* every project from its rows, against the state hash in its head row;
* every record of every project with its Decision Record and its ledger entry, from the first to the head;
* every fact against the one in memory.

A damaged row raises `Corrupt`, which ends the node. That all nodes hash to the *same* is not known here: that is what
checkpoints compare. It shares the loop with everything else, so it works in slices of a few rows and rests in between;
a pass begins every half period, so that each row is looked at once in every period. It must never write.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import structlog

from cluster.clock import Clock
from cluster.raft import journal
from cluster.storage import layout
from cluster.storage.kv import Family
from cluster.storage.store import Store
from cluster.verify import Links, Subject, check_head, follow, origins
from swoosh import canonical
from swoosh.chart import Chart
from swoosh.errors import Corrupt
from swoosh.genesis import Genesis
from swoosh.machine import Machine
from swoosh.state import GENESIS_HASH

SLICE_STEPS = 32
SLICE_SECONDS = 0.002
PAUSE_SECONDS = 0.05
FIRST_AFTER_SECONDS = 15.0
PAGE_ROWS = 64

_log = structlog.get_logger(__name__)


class Scrubber:
    """Reads one node's store in the background.

    Args:
        period: seconds in which everything was read at least once.
    """

    def __init__(self, machine: Machine, store: Store, chart: Chart, genesis: Genesis, clock: Clock, period: float):
        self._machine, self._store, self._clock, self._period = machine, store, clock, period
        self._begun = origins(Subject(store, chart, genesis))
        self._steps_last_pass = 0
        self._finished_at: float | None = None
        self.passes = 0
        """How often everything was read since the node started."""
        self.steps = 0
        """Rows and records read in the pass that is under way."""
        self.reading = ""
        """What is being read: a family, or a project."""

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            Corrupt: something stored is not what was written; the text names it and both hashes.
        """
        await self._clock.sleep(min(FIRST_AFTER_SECONDS, self._period / 10))
        while True:
            started = self._clock.monotonic()
            await self._pass()
            took = self._clock.monotonic() - started
            if took > self._period / 2:
                _log.warning("the scrubber does not keep up", took_s=round(took), period_s=self._period)
            await self._clock.sleep(max(PAUSE_SECONDS, self._period / 2 - took))

    async def _pass(self) -> None:
        self.steps, in_slice, slice_began = 0, 0, self._clock.monotonic()
        for _ in self.everything():
            self.steps, in_slice = self.steps + 1, in_slice + 1
            if in_slice >= SLICE_STEPS or self._clock.monotonic() - slice_began >= SLICE_SECONDS:
                await self._clock.sleep(self._pause())
                in_slice, slice_began = 0, self._clock.monotonic()
        self.passes, self._steps_last_pass, self._finished_at = self.passes + 1, self.steps, self._clock.monotonic()

    def _pause(self) -> float:
        """Short enough for as many steps as the last pass had to fit into a quarter of the period."""
        slices = max(1, self._steps_last_pass // SLICE_STEPS)
        return min(PAUSE_SECONDS, self._period / 4 / slices)

    def document(self) -> dict[str, Any]:
        """For people and monitors; ages and periods in seconds."""
        age_s = None if self._finished_at is None else self._clock.monotonic() - self._finished_at
        return {
            "passes": self.passes,
            "steps": self.steps,
            "steps_last_pass": self._steps_last_pass,
            "reading": self.reading,
            "age_s": age_s,
            "period_s": self._period,
        }

    # --- what is read, a row or a record between one yield and the next -----------------------------------------------

    def everything(self) -> Iterator[None]:
        """One pass. What is applied in the meantime may or may not be read.

        Raises:
            Corrupt: as ``run``.
        """
        for family in Family:
            self.reading = family.value
            yield from self._rows(family)
        for project_id in self._machine.project_ids():
            self.reading = project_id
            yield from self._store.verify_project(project_id)
            yield from self._chain(project_id)

    def _rows(self, family: Family) -> Iterator[None]:
        start = b""
        while page := list(islice(self._store.kv.iterate(family, start), PAGE_ROWS)):
            for key, row in page:
                self._check(family, key, row)
                yield
            start = page[-1][0] + b"\0"

    def _check(self, family: Family, key: bytes, row: bytes) -> None:
        if family is Family.LOG or (family is Family.META and key in layout.JOURNALED):
            journal.check_row(family, key, row)
            return
        data = self._store.check_row(family, key, row)
        if family is Family.REGISTRY:
            self._check_fact(key, data)

    def _check_fact(self, key: bytes, data: bytes) -> None:
        """A page is read a moment before its last row is looked at, and a newer fact may have come: read it again."""
        known = self._machine.registry.facts.get(*layout.names_of(key))
        held = None if known is None else canonical.encode(known)
        stored = data if data == held else self._store.fact(key)
        if stored != held:
            raise Corrupt(f"fact {key!r} is stored as {stored!r}, in memory it is {held!r}")

    def _chain(self, project_id: str) -> Iterator[None]:
        links = Links(0, "", self._begun.get(project_id, GENESIS_HASH), "", "")
        while (data := self._store.record(project_id, links.seq + 1)) is not None:
            try:
                links = follow(self._store, project_id, links, data)
            except Corrupt as error:
                raise Corrupt(f"{project_id} after seq {links.seq}: {error}") from None
            yield
        head = self._store.head(project_id)
        if head is None:
            raise Corrupt(f"project {project_id} has lost its head row")
        check_head(head, links)
