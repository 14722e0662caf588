"""SLURP: the record of every accepted submission. References only: what artifacts hold never passes through here."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec

from cluster.providers.outbox import Outgoing, Redact, whole
from cluster.storage.store import Store
from swoosh import decision, wal
from swoosh.errors import Corrupt
from swoosh.machine import Applied
from swoosh.submission import SubmissionRecord

MEMBERS = SubmissionRecord.__struct_fields__
TEXTS = ("evidence", "window_id")


class Submissions:
    """Every submission record, numbered as the WAL record that accepted it."""

    name = "slurp"

    def __init__(self, store: Store, redact: Redact) -> None:
        self._store, self._redact = store, redact

    def waiting(self, project: str, after: int) -> int:
        """As `Records.waiting`."""
        return sum(1 for _ in self._store.submissions(project, after))

    def read(self, project: str, after: int, limit: int) -> list[Outgoing]:
        """As `Records.read`."""
        found = islice(self._store.submissions(project, after), limit)
        return [self._outgoing(project, seq, data) for seq, data in found]

    def new(self, applied: Applied) -> Iterator[str]:
        """As `Records.new`."""
        return (submitted.project for _, submitted in applied.submissions)

    def _outgoing(self, project: str, seq: int, data: bytes) -> Outgoing:
        stored = self._store.record(project, seq)
        if stored is None:
            raise Corrupt(f"{project} seq {seq}: there is a submission and no WAL record")
        submitted: dict[str, Any] = msgspec.json.decode(data)
        stamp_us = wal.decode(stored).timestamp
        document, redacted = whole(submitted, TEXTS, self._redact)
        justified_by = [decision.address(submitted["decision"]), decision.ucxl_address(project, seq)]
        delivery = {
            "seq": seq,
            "timestamp": stamp_us,
            "links": {"self": [submitted["ucxl_address"]], "decision": justified_by},
            "redacted": redacted,
        }
        return Outgoing(project, seq, submitted["submission_id"], stamp_us, document, delivery)
