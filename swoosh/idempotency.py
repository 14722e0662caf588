"""Exactly once: what makes two proposals the same operation, and what the ledger remembers.

Per project, keyed by ``idem_key`` alone, for the life of the chain. The *intent* is the canonical transition, the
inputs' hash and the principal; head, HLC, window and signature are not part of it, because a caller must renew those
when it resubmits and may not know that its first attempt was applied. Only accepted transitions are remembered. What
lies below a project's pruning horizon is forgotten; the horizon is state of ``@cluster``, so all replicas forget alike.
"""

from __future__ import annotations

import msgspec

from swoosh import canonical
from swoosh.hashing import digest
from swoosh.outcome import Accepted, GuardOutcome


class LedgerEntry(msgspec.Struct, frozen=True):
    """What an applied key points to."""

    intent: str
    transition: str
    seq: int
    index: int
    hlc: str
    state_pre_hash: str
    state_post_hash: str
    record_hash: str
    decision: str


def intent(project: str, transition: str, inputs_hash: str, principal: str) -> str:
    """``sha256-…`` over what a proposal wants, whoever carries it and whenever."""
    return digest("intent", [project, transition, inputs_hash, principal])


def digest_after(ledger_digest: str, idem_key: str, entry: LedgerEntry) -> str:
    """The ledger's rolling digest once ``entry`` is remembered."""
    return digest("ledger", [ledger_digest, idem_key, entry.intent, entry.record_hash])


def recorded(
    entry: LedgerEntry, project: str, idem_key: str, *, quarantined: bool, guard_outcomes: tuple[GuardOutcome, ...] = ()
) -> Accepted:
    """The answer to a key that was applied before: the original record's hashes, not HEAD's."""
    return Accepted(
        project=project,
        transition=entry.transition,
        idem_key=idem_key,
        hlc=entry.hlc,
        index=entry.index,
        seq=entry.seq,
        state_pre_hash=entry.state_pre_hash,
        state_post_hash=entry.state_post_hash,
        record_hash=entry.record_hash,
        decision=entry.decision,
        guard_outcomes=guard_outcomes,
        quarantined=quarantined,
        duplicate=True,
    )


def encode(entry: LedgerEntry) -> bytes:
    """The row of an entry."""
    return canonical.encode(entry)


def decode(row: bytes) -> LedgerEntry:
    """The entry of a row."""
    return msgspec.json.decode(row, type=LedgerEntry)
