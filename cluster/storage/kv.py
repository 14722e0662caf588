"""The ordered key-value store under everything a node keeps; THE place that imports rocksdict and calls fsync.

One RocksDB per node, one write-ahead log, one writer. Families (column families) share that log, so a batch is
atomic over all of them, and after any crash the store is a prefix of one history: state is never ahead of the Raft
log it came from, and everything written before a synced batch is as durable as that batch.

* Unsynced batches may be lost, newest first; a synced batch may not.
* A failed write or sync is never retried: after a failed fsync the kernel may have dropped the pages, so the only
  honest answer is to stop (`ExitCode.DISK`).
* `open` never creates. A store that comes into being by itself is a node that has forgotten its votes.

`MemoryKeyValue` is the twin for tests and the simulator: same interface, and `crash` loses what a power cut may.
"""

from __future__ import annotations

import bisect
import copy
import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol

import msgspec
from rocksdict import Checkpoint, DBRecoveryMode, Options, Rdict, ReadOptions, WriteBatch

from cluster import faults
from cluster.faults import ExitCode

_MIB = 1 << 20


class Family(StrEnum):
    """What is kept; one RocksDB column family each."""

    META = "meta"
    LOG = "log"
    PROJECT = "project"
    HEAD = "head"
    LEDGER = "ledger"
    WAL = "wal"
    DECISION = "decision"
    SUBMISSION = "submission"
    OUTBOX = "outbox"
    REJECTION = "rejection"
    REGISTRY = "registry"
    SNAPSHOT = "snapshot"


class Put(NamedTuple):
    """Set `key` to `value`."""

    family: Family
    key: bytes
    value: bytes


class Delete(NamedTuple):
    """Remove `key`, if it is there."""

    family: Family
    key: bytes


class DeleteRange(NamedTuple):
    """Remove every key in [start, end)."""

    family: Family
    start: bytes
    end: bytes


class Batch:
    """Operations that take effect together, in the order they were added."""

    __slots__ = ("operations",)

    def __init__(self) -> None:
        self.operations: list[Put | Delete | DeleteRange] = []

    def __len__(self) -> int:
        return len(self.operations)

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        self.operations.append(Put(family, key, value))

    def delete(self, family: Family, key: bytes) -> None:
        self.operations.append(Delete(family, key))

    def delete_range(self, family: Family, start: bytes, end: bytes) -> None:
        self.operations.append(DeleteRange(family, start, end))


class StoreMissing(Exception):
    """There is no store at this path, and `open` does not make one."""


class KeyValue(Protocol):
    """A store of byte strings, ordered by key within each family."""

    def get(self, family: Family, key: bytes) -> bytes | None: ...

    def iterate(
        self, family: Family, start: bytes = b"", end: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Keys in [start, end), ascending unless `reverse`, as they were when the iteration began."""
        ...

    def write(self, batch: Batch, *, sync: bool) -> None:
        """Apply `batch` atomically; with `sync`, return only when it and all before it are on stable storage."""
        ...

    def flush(self) -> None:
        """Write everything held in memory to table files and make it durable."""
        ...

    def checkpoint(self, path: Path) -> None:
        """Make an openable copy of the store at `path`, which must not exist."""
        ...

    def close(self) -> None: ...


class RocksKeyValue:
    """The real store. Use `create` once in a node's life and `open` ever after."""

    def __init__(self, path: Path, *, create: bool) -> None:
        self._path = path
        families: dict[str, Options] = {family.value: _options(create) for family in Family}
        try:
            self._db = Rdict(str(path), _options(create), column_families=families)
        except Exception as error:
            _refuse_open(path, error)
        self._tables = {family: self._db.get_column_family(family.value) for family in Family}
        self._handles = {family: self._db.get_column_family_handle(family.value) for family in Family}
        # rocksdict notes its own settings in a plain file that RocksDB does not sync.
        sync_file(path / "rocksdict-config.json")
        sync_directory(path)

    @classmethod
    def create(cls, path: Path) -> RocksKeyValue:
        """Make a new, empty store. Raises FileExistsError when anything is at `path` already."""
        path.mkdir(parents=True)
        sync_directory(path.parent)
        return cls(path, create=True)

    @classmethod
    def open(cls, path: Path) -> RocksKeyValue:
        """Open an existing store, recovering its write-ahead log. Raises StoreMissing."""
        if not (path / "CURRENT").exists():
            raise StoreMissing(
                f"no store at {path}: `swoosh init` creates one with a new cluster; where there was one, "
                "`swoosh serve --rejoin` makes another, which the members must accept"
            )
        return cls(path, create=False)

    def get(self, family: Family, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._tables[family].get(key)
        except Exception as error:
            self._fail("read", error)
        return value

    def iterate(
        self, family: Family, start: bytes = b"", end: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        bounds = ReadOptions()
        if end is not None:
            bounds.set_iterate_upper_bound(end)
        last: bytes | None = None
        try:
            first = None if reverse else start or None
            items: Iterator[tuple[bytes, bytes]] = iter(
                self._tables[family].items(backwards=reverse, from_key=first, read_opt=bounds)  # type: ignore[arg-type]
            )
            for key, value in items:
                if key < start:  # only when reversed: rocksdict ignores a lower bound in raw mode
                    return
                yield key, value
                last = key
            self._check_end(family, start, last, bounds, reverse)
        except Exception as error:
            self._fail("read", error)

    def _check_end(self, family: Family, start: bytes, last: bytes | None, bounds: ReadOptions, reverse: bool) -> None:
        """Raise if an iteration ended after ``last`` because what follows cannot be read.

        rocksdict ends an iteration at a damaged block as if there were nothing more. A cursor says which it was.
        """
        cursor = self._tables[family].iter(bounds)
        if last is None:
            (cursor.seek_to_last() if reverse else cursor.seek(start))
        else:
            (cursor.seek_for_prev(last) if reverse else cursor.seek(last))
            if cursor.valid():
                (cursor.prev() if reverse else cursor.next())
        cursor.status()

    def write(self, batch: Batch, *, sync: bool) -> None:
        rocks = WriteBatch(raw_mode=True)
        for operation in batch.operations:
            match operation:
                case Put(family, key, value):
                    rocks.put(key, value, self._handles[family])
                case Delete(family, key):
                    rocks.delete(key, self._handles[family])
                case DeleteRange(family, start, end):
                    rocks.delete_range(start, end, self._handles[family])
        try:
            self._db.write(rocks)
            if sync:
                # Not by a synced write: that one would keep the interpreter's lock, and with it every other thread, for
                # as long as the disk takes. This syncs the log with all that was written to it, and lets them run.
                self._db.flush_wal(True)
        except Exception as error:
            self._fail("write", error)

    def flush(self) -> None:
        try:
            for table in self._tables.values():
                table.flush()
        except Exception as error:
            self._fail("flush", error)

    def checkpoint(self, path: Path) -> None:
        try:
            Checkpoint(self._db).create_checkpoint(str(path))
        except Exception as error:
            self._fail("checkpoint", error)

    def close(self) -> None:
        """Release the store. Handles of a family keep RocksDB open, so they go first."""
        self._handles.clear()
        for table in self._tables.values():
            table.close()
        self._tables.clear()
        self._db.close()

    def _fail(self, what: str, error: Exception) -> NoReturn:
        code = ExitCode.DAMAGED if "Corruption" in str(error) else ExitCode.DISK
        faults.fatal(code, f"store {what} failed", path=str(self._path), error=str(error))


def _options(create: bool) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(create)
    options.create_missing_column_families(True)  # a store of an earlier build gets the families it had not
    # Recovery stops at the first bad record instead of refusing every torn tail (each power cut leaves one); that
    # nothing synced was cut off is what the witness proves. Recovered records are flushed before `open` returns
    # (the default, kept on purpose), so nothing that was only in the page cache is ever acknowledged.
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    options.set_paranoid_checks(True)
    options.set_db_write_buffer_size(128 * _MIB)
    options.set_max_total_wal_size(256 * _MIB)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(3)
    return options


def _refuse_open(path: Path, error: Exception) -> NoReturn:
    if "lock" in str(error).lower():
        reason, code = "another process has the store open", ExitCode.MISCONFIGURED
    elif "No space" in str(error):
        reason, code = "no space to recover the store", ExitCode.DISK
    else:
        reason, code = "the store cannot be opened", ExitCode.DAMAGED
    faults.fatal(code, reason, path=str(path), error=str(error))


class MemoryKeyValue:
    """The twin of `RocksKeyValue`. Batches are atomic; `crash` loses a suffix of those not yet synced."""

    def __init__(self) -> None:
        self._live = Tables()
        self._disk = Tables()
        self._unsynced: list[Batch] = []
        self.checkpoints: dict[Path, MemoryKeyValue] = {}

    def get(self, family: Family, key: bytes) -> bytes | None:
        return self._live.values[family].get(key)

    def iterate(
        self, family: Family, start: bytes = b"", end: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        keys = self._live.between(family, start, end)
        values = self._live.values[family]
        return iter([(key, values[key]) for key in (reversed(keys) if reverse else keys)])

    def write(self, batch: Batch, *, sync: bool) -> None:
        kept = Batch()
        kept.operations = list(batch.operations)
        self._live.apply(kept)
        self._unsynced.append(kept)
        if sync:
            self.flush()

    def flush(self) -> None:
        for batch in self._unsynced:
            self._disk.apply(batch)
        self._unsynced.clear()

    def checkpoint(self, path: Path) -> None:
        if path in self.checkpoints:
            raise FileExistsError(path)
        twin = self.checkpoints[path] = MemoryKeyValue()
        twin._live, twin._disk = copy.deepcopy(self._live), copy.deepcopy(self._live)

    def close(self) -> None:
        self.flush()

    def dump(self) -> bytes:
        """All of it as one file."""
        return msgspec.msgpack.encode([[family, *row] for family in Family for row in self.iterate(family)])

    def load(self, data: bytes) -> None:
        """Fill an empty twin from a dump, durably. Raises msgspec.DecodeError."""
        batch = Batch()
        for family, key, value in msgspec.msgpack.decode(data, type=list[tuple[Family, bytes, bytes]]):
            batch.put(family, key, value)
        self.write(batch, sync=True)

    def crash(self, luck: float) -> None:
        """Power cut: keep a prefix of the unsynced batches, none for luck 0 and all towards 1; then be as if just
        opened."""
        survivors = int(luck * (len(self._unsynced) + 1))
        for batch in self._unsynced[:survivors]:
            self._disk.apply(batch)
        self._unsynced.clear()
        self._live = copy.deepcopy(self._disk)

    @property
    def durable(self) -> Tables:
        """What a power cut would leave for certain."""
        return self._disk


class Tables:
    """One sorted map per family."""

    def __init__(self) -> None:
        self.keys: dict[Family, list[bytes]] = {family: [] for family in Family}
        self.values: dict[Family, dict[bytes, bytes]] = {family: {} for family in Family}

    def get(self, family: Family, key: bytes) -> bytes | None:
        return self.values[family].get(key)

    def last(self, family: Family) -> bytes | None:
        """The greatest key."""
        keys = self.keys[family]
        return keys[-1] if keys else None

    def between(self, family: Family, start: bytes, end: bytes | None) -> list[bytes]:
        keys = self.keys[family]
        first = bisect.bisect_left(keys, start)
        last = len(keys) if end is None else bisect.bisect_left(keys, end)
        return keys[first:last]

    def apply(self, batch: Batch) -> None:
        for operation in batch.operations:
            match operation:
                case Put(family, key, value):
                    if key not in self.values[family]:
                        bisect.insort(self.keys[family], key)
                    self.values[family][key] = value
                case Delete(family, key):
                    self._delete(family, [key] if key in self.values[family] else [])
                case DeleteRange(family, start, end):
                    self._delete(family, self.between(family, start, end))

    def _delete(self, family: Family, keys: list[bytes]) -> None:
        if not keys:
            return
        first = bisect.bisect_left(self.keys[family], keys[0])
        del self.keys[family][first : first + len(keys)]
        for key in keys:
            del self.values[family][key]


def replace_file(path: Path, data: bytes) -> None:
    """Put a plain file in its place, durably: after a crash there is the old one or the new one, never half of it.
    Raises OSError."""
    draft = path.with_name(path.name + ".draft")
    draft.write_bytes(data)
    sync_file(draft)
    draft.rename(path)
    sync_directory(path.parent)


def free_bytes(path: Path) -> int:
    """Bytes that may still be written to the file system of `path`."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def sync_file(path: Path) -> None:
    """Make the content of a plain file durable."""
    _sync(path, os.O_RDONLY)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: a new file exists for good only after this."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_descriptor(descriptor: int) -> None:
    """Make what was written through an open file durable."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        faults.fatal(ExitCode.DISK, "sync failed", error=str(error))


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)
