"""Who created how many projects: a bound the leader keeps to, so that no one signer fills every node's disk.

A project is never deleted, so what counts is the life of the cluster. This is no law of the machine: a follower that
replays an entry counts and never refuses, and the bound may differ from node to node or change with a restart, while
every hash stays what it is. It is judged where entries are gathered, on committed state and all that is in flight.

The count is derived and never stored: the signer of a project's first WAL record created it. It is taken from the store
at the start, hence also after a snapshot was installed, and kept up as entries are applied. ``default`` was created by
nobody. Nodes are not bound: they create on behalf of others, and their number is fixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from swoosh.chart import Chart
from swoosh.errors import Corrupt
from swoosh.machine import Applied, Layer
from swoosh.wal import WalRecord


class _First(msgspec.Struct):
    """As much of a WAL record as says who created a project."""

    seq: int
    transition_name: str
    signer: str


class Creators:
    """The projects created, by canonical principal.

    Args:
        first_records: the first WAL record of every project, as stored.
        most: how many one signer may create; 0 is any number.

    Raises:
        Corrupt: what was stored is no record.
    """

    def __init__(self, chart: Chart, first_records: Iterable[bytes], most: int) -> None:
        self._creating = frozenset(row.name for row in chart.project.transitions.values() if row.creates)
        self._most = most
        self._held = Counter(self.of(map(_decode, first_records)))

    def on_applied(self, applied: Applied) -> None:
        """Count what an entry created."""
        self._held.update(self.of(record for record, _ in applied.records))

    def of(self, records: Iterable[WalRecord | _First]) -> list[str]:
        """Who signed those of the records that create a project; one name for each."""
        return [record.signer for record in records if record.seq == 1 and record.transition_name in self._creating]

    def excess(self, trial: Layer, in_flight: Counter[str]) -> str | None:
        """Why what ``trial`` would create is too much on top of what is committed and in flight, or None."""
        created = self.of(step.record for step in trial.steps)
        for signer, more in Counter(created).items() if created else ():
            held = self._held[signer] + in_flight[signer]
            identity = trial.registry.identity(signer)
            if 0 < self._most < held + more and not (identity is not None and "node" in identity.roles):
                return (
                    f"{signer[:120]} has created {held} projects and would create {more} more; "
                    f"one signer may create {self._most}"
                )
        return None


def _decode(data: bytes) -> _First:
    try:
        return msgspec.json.decode(data, type=_First)
    except msgspec.DecodeError as error:
        raise Corrupt(f"WAL record does not decode: {error}") from None
