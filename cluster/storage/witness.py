"""The witness: a plain file beside the store that remembers how far the store had synced.

RocksDB's recovery keeps every record up to the first bad one and says nothing about the rest. A flipped bit in the
middle of the write-ahead log therefore opens as a shorter log with an older vote, which is a node breaking its word.
So every synced batch carries a sequence number, and after the sync returns the same number is written here. A store
that starts with a smaller number than its witness has lost something it had promised to keep.

The file has two slots, written in turn, each in a disk sector of its own: a torn write spoils one of them, and the
other is at most one batch behind. It is written without a sync (an old witness only proves less) and synced now and
then. It must never be ahead of the store: write it only after the store's sync has returned.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cluster import faults
from cluster.faults import ExitCode
from cluster.storage import kv

_SLOT = struct.Struct(">16sQI")  # incarnation, sequence, crc32 of both
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class Mark:
    """What the store had synced: the number of its last synced batch, in which life of the node."""

    incarnation: bytes
    """16 random bytes, drawn when the store was created."""
    sequence: int


class Witness(Protocol):
    """Where the last `Mark` is kept."""

    def read(self) -> Mark | None:
        """The newest readable mark; None when no slot was ever written or none is readable."""
        ...

    def write(self, mark: Mark) -> None: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


class FileWitness:
    """The real witness. `create` once with the store, `open` ever after."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def create(cls, path: Path) -> FileWitness:
        """Make an empty witness. Raises FileExistsError: a witness without its store means the store is gone."""
        witness = cls(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        os.ftruncate(witness._descriptor, 2 * _SECTOR)
        witness.sync()
        kv.sync_directory(path.parent)
        return witness

    @classmethod
    def open(cls, path: Path) -> FileWitness:
        """Open the witness of an existing store. Raises FileNotFoundError."""
        return cls(os.open(path, os.O_RDWR))

    def read(self) -> Mark | None:
        slots = (os.pread(self._descriptor, _SLOT.size, slot * _SECTOR) for slot in (0, 1))
        marks = [mark for mark in map(_decode, slots) if mark is not None]
        return max(marks, key=lambda mark: mark.sequence, default=None)

    def write(self, mark: Mark) -> None:
        try:
            os.pwrite(self._descriptor, _encode(mark), (mark.sequence % 2) * _SECTOR)
        except OSError as error:
            faults.fatal(ExitCode.DISK, "witness write failed", error=str(error))

    def sync(self) -> None:
        kv.sync_descriptor(self._descriptor)

    def close(self) -> None:
        self.sync()
        os.close(self._descriptor)


class MemoryWitness:
    """The twin for tests and the simulator; a crash does not touch it, which is the strictest case."""

    def __init__(self) -> None:
        self._mark: Mark | None = None

    def read(self) -> Mark | None:
        return self._mark

    def write(self, mark: Mark) -> None:
        self._mark = mark

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def _encode(mark: Mark) -> bytes:
    body = _SLOT.pack(mark.incarnation, mark.sequence, 0)[:-4]
    return body + zlib.crc32(body).to_bytes(4)


def _decode(raw: bytes) -> Mark | None:
    if len(raw) != _SLOT.size:
        return None
    incarnation, sequence, crc = _SLOT.unpack(raw)
    return Mark(incarnation, sequence) if crc == zlib.crc32(raw[:-4]) and sequence > 0 else None
