"""BUBBLE: every Decision Record of every project (Brief §9), with the addresses of what it belongs to.

The record itself is what every node derived and hashed; ``dr_id`` covers all of it. What this module adds stands apart
from it, so that whoever has the record can still recompute its id.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from cluster.providers.outbox import Outgoing, Redact, stamp_of, whole
from cluster.storage.store import Store
from swoosh import addresses, decision, submission
from swoosh.decision import DecisionRecord
from swoosh.machine import Applied

MEMBERS = DecisionRecord.__struct_fields__
TEXTS = ("evidence", "guards", "idem_key", "justification", "on_behalf_of", "window_id")
"""Members that hold words of people and programs, and can therefore hold what should not leave."""


class Decisions:
    """Every Decision Record."""

    name = "bubble"

    def __init__(self, store: Store, redact: Redact) -> None:
        self._store, self._redact = store, redact

    def waiting(self, project: str, after: int) -> int:
        """As `Records.waiting`."""
        head = self._store.head(project)
        return 0 if head is None else max(0, head.seq - after)

    def read(self, project: str, after: int, limit: int) -> list[Outgoing]:
        """As `Records.read`."""
        found = enumerate(self._store.decisions(project, after + 1, limit), after + 1)
        return [self._outgoing(project, seq, data) for seq, data in found]

    def new(self, applied: Applied) -> Iterator[str]:
        """As `Records.new`."""
        return (record.project for record, _ in applied.records)

    def _outgoing(self, project: str, seq: int, data: bytes) -> Outgoing:
        document, redacted = whole(msgspec.json.decode(data), TEXTS, self._redact)
        stamp_us = stamp_of(self._store, project, seq)
        delivery = {"seq": seq, "timestamp": stamp_us, "links": links(document, seq), "redacted": redacted}
        return Outgoing(project, seq, document["dr_id"], stamp_us, document, delivery)


def links(decided: dict[str, Any], seq: int) -> dict[str, list[str]]:
    """The back-links of a Decision Record: itself, the project's record before it, what was offered as evidence, and
    the submission it accepted. An address is there only where there is something to find."""
    found = {"self": [decision.address(decided["dr_id"]), decided["ucxl_address"]]}
    if decided["prev_dr"]:
        before = decision.ucxl_address(decided["project"], seq - 1)
        found["previous"] = [decision.address(decided["prev_dr"]), before]
    evidence = [text for text in decided["evidence"] if text.startswith((addresses.UCXL, addresses.BUBBLE))]
    if evidence:
        found["evidence"] = evidence
    if decided["transition"] == submission.SUBMITTED:
        found["submission"] = [submission.ucxl_address(decided["project"], seq)]
    return found
