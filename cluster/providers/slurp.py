"""SLURP: the record of every accepted submission. References only: what artifacts hold never passes through here."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import msgspec

from cluster.providers.outbox import Outgoing, Redact, stamp_of, whole
from cluster.storage.store import Store
from swoosh import decision
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
        document, redacted = whole(msgspec.json.decode(data), TEXTS, self._redact)
        stamp_us = stamp_of(self._store, project, seq)
        justified_by = [decision.address(document["decision"]), decision.ucxl_address(project, seq)]
        links = {"self": [document["ucxl_address"]], "decision": justified_by}
        delivery = {"seq": seq, "timestamp": stamp_us, "links": links, "redacted": redacted}
        return Outgoing(project, seq, document["submission_id"], stamp_us, document, delivery)
