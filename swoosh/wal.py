"""WalRecord: what every node derives from an accepted proposal (Brief §7), chained per project.

Same entry, same chart, same state: the same bytes on every node. A replay must reproduce each record to the byte, or
the node is not a replica any more.
"""

from __future__ import annotations

import msgspec

from swoosh import canonical
from swoosh.errors import Corrupt
from swoosh.hashing import PREFIX, digest_hex
from swoosh.outcome import GuardOutcome


class WalRecord(msgspec.Struct, frozen=True):
    """One accepted transition. ``timestamp`` is the leader stamp in microseconds; ``seq`` counts per project from 1."""

    index: int
    seq: int
    term: int
    project: str
    region: str
    state_pre_hash: str
    transition_name: str
    inputs_hash: str
    signer: str
    on_behalf_of: str
    idem_key: str
    hlc: str
    window_id: str
    guard_outcomes: tuple[GuardOutcome, ...]
    evidence: tuple[str, ...]
    timestamp: int
    epochs: dict[str, int]
    state_post_hash: str
    prev_record_hash: str


def encode(record: WalRecord) -> bytes:
    """Canonical bytes: what is stored, exported and hashed."""
    return canonical.encode(record)


def decode(data: bytes) -> WalRecord:
    """The record of stored bytes.

    Raises:
        Corrupt: not a record.
    """
    try:
        return msgspec.json.decode(data, type=WalRecord)
    except msgspec.DecodeError as error:
        raise Corrupt(f"WAL record does not decode: {error}") from None


def record_hash(data: bytes) -> str:
    """The address of a record's bytes: ``sha256-…``."""
    return PREFIX + digest_hex("wal", data)


def check_chain(records: list[bytes], *, prev_record_hash: str = "", state_pre_hash: str | None = None) -> None:
    """Refuse a run of records of one project that is not one chain.

    Raises:
        Corrupt: naming the sequence number and the two hashes that differ.
    """
    previous, head = prev_record_hash, state_pre_hash
    for data in records:
        record = decode(data)
        if record.prev_record_hash != previous:
            raise Corrupt(
                f"{record.project} seq {record.seq}: prev_record_hash {record.prev_record_hash}, "
                f"but the record before it hashes to {previous}"
            )
        if head is not None and record.state_pre_hash != head:
            raise Corrupt(
                f"{record.project} seq {record.seq}: state_pre_hash {record.state_pre_hash}, the chain stood at {head}"
            )
        previous, head = record_hash(data), record.state_post_hash
