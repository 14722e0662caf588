"""Where everything lies: the keys of every family, in one table.

| family     | key                                      | value                                                        |
|------------|------------------------------------------|--------------------------------------------------------------|
| META       | `applied`                                | index, term, stamp (µs), ms and counter of the newest HLC    |
| META       | `genesis`                                | the genesis document, canonical                              |
| META       | `checkpoint`                             | the last state a majority agreed on                          |
| META       | `halt`                                   | since when no majority agrees; gone once one does            |
| META       | `diverged`                               | where this node's state contradicted the majority's          |
| META       | `raft`                                   | term, vote, incarnation (cluster/raft/journal.py)            |
| META       | `members`                                | the members' stores as last seen (cluster/raft/members.py)   |
| LOG        | index                                    | an entry (cluster/raft/journal.py)                           |
| HEAD       | project                                  | the head row of a project: hashes of state and chains        |
| PROJECT    | project `NUL` region                     | a region, its collections left out                           |
| PROJECT    | project `NUL` region `NUL` field `NUL` e | the entry named e of a collection                            |
| LEDGER     | project `NUL` idem_key                   | what an applied key points to                                |
| WAL        | project `NUL` seq                        | a WAL record                                                 |
| DECISION   | project `NUL` seq                        | the Decision Record derived from it                          |
| DECISION   | `#` dr_id (32 bytes)                     | the key of that record; no project id begins with `#`        |
| SUBMISSION | project `NUL` seq                        | the submission record, where the record accepted one         |
| OUTBOX     | outbox `NUL` project                     | up to which seq the outbox's sink has the project's records  |
| OUTBOX     | `!` outbox `NUL` project `NUL` seq       | why the sink never got this one                              |
| REGISTRY   | kind `NUL` subject                       | the newest fact                                              |
| REJECTION  | number, counted on this node             | a refusal, canonical JSON                                    |
| SNAPSHOT   | index                                    | the manifest of a snapshot kept                              |

Integers in keys are 8 bytes, big-endian, so that keys sort as numbers do. `NUL` is in no project id, region, kind or
idempotency key, and sorts below all that is, so a project's rows lie together and projects lie in the order of their
ids. Everything here but META's `raft` and `members`, and LOG, is written by `Store` alone.

This module must never read or write: it turns names into keys and back.
"""

from __future__ import annotations

import struct

from cluster.storage.kv import Family
from swoosh.hashing import PREFIX

APPLIED = b"applied"
GENESIS = b"genesis"
CHECKPOINT = b"checkpoint"
HALT = b"halt"
DIVERGED = b"diverged"
RAFT = b"raft"
MEMBERS = b"members"
JOURNALED = frozenset((RAFT, MEMBERS))
"""What of META the journal writes, in its own form."""
SHARED_META = frozenset((APPLIED, GENESIS, CHECKPOINT, HALT))
"""What of META is the same on every node at the same entry; everything else there is one node's own."""
NODE_LOCAL = (Family.REJECTION, Family.SNAPSHOT)
"""Families that, like LOG, tell about one node and are no part of the state."""

REPLICATED = tuple(family for family in Family if family not in (Family.META, Family.LOG, *NODE_LOCAL))
"""Families that follow from the log alone."""

_NUL = b"\0"
_AFTER_NUL = b"\1"
_BY_ID = b"#"
_LEFT_OUT = "!"
_PATH_PARTS = 4
_NUMBER = struct.Struct(">Q")


def number(value: int) -> bytes:
    """A key that sorts as its number does."""
    return _NUMBER.pack(value)


def number_of(key: bytes) -> int:
    """The number of a key."""
    value: int = _NUMBER.unpack(key)[0]
    return value


def row(path: tuple[str, ...]) -> tuple[Family, bytes]:
    """Where a row of a project lies; ``path`` as in swoosh/state.py."""
    return (Family.HEAD if len(path) == 1 else Family.PROJECT), named(*path)


def path_of(key: bytes) -> tuple[str, ...]:
    """The path of a row of a project."""
    return tuple(part.decode() for part in key.split(_NUL, _PATH_PARTS - 1))


def named(*parts: str) -> bytes:
    """A key made of names."""
    return _NUL.join(part.encode() for part in parts)


def names_of(key: bytes) -> tuple[str, ...]:
    """The names a key is made of."""
    return tuple(part.decode() for part in key.split(_NUL))


def under(name: str) -> tuple[bytes, bytes]:
    """The range [start, end) of every key below a name."""
    return name.encode() + _NUL, name.encode() + _AFTER_NUL


def record(project: str, seq: int) -> bytes:
    """The key of a project's n-th WAL record, and of its Decision Record."""
    return project.encode() + _NUL + number(seq)


def record_of(key: bytes) -> tuple[str, int]:
    """Project and sequence number of a record's key."""
    project, _, seq = key.partition(_NUL)
    return project.decode(), number_of(seq)


def decision(dr_id: str) -> bytes:
    """The key under which a Decision Record is found by its id, ``sha256-<64 hex>``."""
    return _BY_ID + bytes.fromhex(dr_id.removeprefix(PREFIX))


def delivered(outbox: str, project: str) -> bytes:
    """The key of how far an outbox has come with a project."""
    return named(outbox, project)


def passed_over(outbox: str, project: str, seq: int) -> bytes:
    """The key of a record that an outbox left out."""
    return _LEFT_OUT.encode() + named(outbox, project) + _NUL + number(seq)


def passed_over_by(outbox: str) -> tuple[bytes, bytes]:
    """The range [start, end) of every record an outbox left out."""
    return under(_LEFT_OUT + outbox)
