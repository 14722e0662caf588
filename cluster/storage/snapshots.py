"""Snapshots: checkpoints of the whole store, each with a manifest that says what it is the state of.

A snapshot is taken every so many applied entries and when a project enters REVERB (Brief §8), but not more often than
the least interval; the newest two are kept. It costs hard links, not copies: RocksDB never changes a table file once
it is written, so the files of a checkpoint stay what they are while the store goes on.

The manifest must describe exactly the state in the checkpoint, so nothing may be applied between describing and
linking: both happen on the loop, without an await between them, in a few milliseconds. What takes long is done in a
thread before and after. Before: flushing memory to table files, which changes nothing that can be read. After:
syncing the manifest and removing old snapshots, which touch only files that no longer change. The thread reads and
writes no state; ``settle`` waits for it, so that nobody closes the store under it.

A snapshot is complete once ``manifest.json`` has its name. Whatever lacks it was interrupted, and is removed. One that
a peer is reading (donor.py) stays until it has been read.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import structlog

from cluster import faults
from cluster.clock import Clock
from cluster.faults import ExitCode
from cluster.storage import kv
from cluster.storage.incoming import File, digest_of
from cluster.storage.kv import KeyValue, MemoryKeyValue, RocksKeyValue
from cluster.storage.store import Store
from swoosh import snapshot
from swoosh.chart import Chart
from swoosh.errors import Corrupt
from swoosh.hashing import digest_file
from swoosh.machine import Applied, Machine
from swoosh.snapshot import Manifest

KEPT = 2
EVERY_ENTRIES = 10_000
MIN_INTERVAL_SECONDS = 60.0
FIRST_AFTER_SECONDS = 15.0
STALLED_SECONDS = 0.1
MANIFEST_NAME = "manifest.json"
_OURS = re.compile(r"\d+(\.reading-\d+)?")
"""A snapshot, or the copy of one that somebody looked into."""

_log = structlog.get_logger(__name__)

Check = Callable[[Path | None, Path], Awaitable[None]]
"""Called with the snapshot before (None: there is none) and the newest: does the log lead from one to the other?"""


class Shelf(Protocol):
    """Where snapshots lie. ``checkpoint`` is the instant; ``prepare`` and ``finish`` are what takes long around it."""

    def path(self, index: int) -> Path: ...

    def manifests(self) -> list[Manifest]:
        """Those of the complete snapshots, oldest first."""
        ...

    async def prepare(self, store: KeyValue) -> None: ...

    def checkpoint(self, store: KeyValue, index: int) -> None: ...

    async def files(self, index: int) -> tuple[File, ...]:
        """The files of the complete snapshot at ``index``, but for its manifest."""
        ...

    async def read(self, index: int, name: str, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes of one of them."""
        ...

    async def finish(self, manifest: Manifest, drop: list[int]) -> None:
        """Make the snapshot complete and durable, and remove those at ``drop``."""
        ...

    async def settle(self) -> None:
        """Return when nothing works on the store any more."""
        ...


class Snapshots:
    """Takes them in the background, one at a time.

    Args:
        every: applied entries after which one is taken.
        min_interval: least seconds from one to the next.
        first_after: seconds from the start to the first.
        check: what is done with each snapshot and the one before it.
        is_lent: whether a peer is reading the snapshot at an index.
    """

    def __init__(
        self,
        store: Store,
        shelf: Shelf,
        chart: Chart,
        clock: Clock,
        *,
        every: int = EVERY_ENTRIES,
        min_interval: float = MIN_INTERVAL_SECONDS,
        first_after: float = FIRST_AFTER_SECONDS,
        check: Check | None = None,
        is_lent: Callable[[int], bool] = lambda index: False,
    ) -> None:
        self._store, self._shelf, self._clock = store, shelf, clock
        self._every, self._min_interval, self._check, self._is_lent = every, min_interval, check, is_lent
        self._into_reverb = frozenset(_into_reverb(chart))
        self._kept = shelf.manifests()
        self._first_after, self._entries = first_after, 0
        self._asked = asyncio.Event()
        self.verified = 0
        """Index of the newest snapshot that was taken and checked in this life: nothing before it is needed from the
        log, not even by the next check."""
        self.may_write: Callable[[], bool] = lambda: True
        """False while a write would wait behind a sync that does not end."""

    @property
    def newest(self) -> Manifest | None:
        """The manifest of the newest snapshot, or None."""
        return self._kept[-1] if self._kept else None

    def kept(self) -> list[Manifest]:
        """The manifests of all snapshots there are, oldest first."""
        return list(self._kept)

    def on_applied(self, applied: Applied) -> None:
        """Note an applied entry, and ask for a snapshot if it makes one due."""
        self._entries += 1
        turned = any(record.transition_name in self._into_reverb for record, _ in applied.records)
        if turned or self._entries >= self._every:
            self.request()

    def request(self) -> None:
        """Ask for a snapshot: taken now, or when the least interval has passed."""
        self._asked.set()

    async def run(self, machine: Machine) -> None:
        """Take one soon after the start, then whenever one was asked for, until cancelled."""
        await self._clock.sleep(self._first_after)  # a node that starts has callers waiting
        self.request()
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self.take(machine)
            if self._check is not None:
                base = self._path(self._kept[-2]) if len(self._kept) > 1 else None
                await self._check(base, self._path(self._kept[-1]))
            self.verified = self._kept[-1].last_applied_index
            await self._clock.sleep(self._min_interval)

    async def take(self, machine: Machine) -> Manifest:
        """Take one now, unless nothing was applied since the newest; that one is returned then.

        ``machine`` is the one that commits to the store.
        """
        self._entries = 0
        await self._shelf.prepare(self._store.kv)
        while not self.may_write():
            await self._clock.sleep(STALLED_SECONDS)
        manifest = snapshot.describe(machine, self._store.last_hlc)
        index = manifest.last_applied_index
        if self._kept and index <= self._kept[-1].last_applied_index:
            return self._kept[-1]
        kept = [*(old for old in self._kept[: 1 - KEPT] if self._is_lent(old.last_applied_index))]
        kept += [*self._kept[1 - KEPT :], manifest]
        self._store.keep_snapshot(index, snapshot.encode(manifest), oldest=kept[0].last_applied_index)
        self._shelf.checkpoint(self._store.kv, index)
        faults.failpoint("snapshot.checkpoint")
        dropped = [old.last_applied_index for old in self._kept if old not in kept]
        await self._shelf.finish(manifest, dropped)
        self._kept = kept
        _log.info("snapshot", index=index, cluster_hash=manifest.cluster_hash, hlc=manifest.last_applied_hlc)
        return manifest

    async def settle(self) -> None:
        """Return when nothing works on the store any more; after cancelling ``run``, before closing the store."""
        await self._shelf.settle()

    def _path(self, manifest: Manifest) -> Path:
        return self._shelf.path(manifest.last_applied_index)


class DirectoryShelf:
    """The real shelf: one directory per snapshot, named by its index, on the file system of the store.

    Whatever else lies there is somebody else's: an operator may have named a directory that holds more.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._working: asyncio.Future[None] | None = None
        self._listed: tuple[int, tuple[File, ...]] | None = None
        root.mkdir(parents=True, exist_ok=True)
        for path in root.iterdir():
            if path.is_dir() and _OURS.fullmatch(path.name) and not (path / MANIFEST_NAME).exists():
                shutil.rmtree(path)

    def path(self, index: int) -> Path:
        return self._root / str(index)

    def manifests(self) -> list[Manifest]:
        found = []
        for path in self._root.iterdir():
            if path.name.isdecimal():
                try:
                    found.append(read_manifest(path))
                except (Corrupt, OSError) as error:
                    _log.warning("a snapshot is unusable", path=str(path), error=str(error))
        return sorted(found, key=lambda manifest: manifest.last_applied_index)

    async def prepare(self, store: KeyValue) -> None:
        await self._in_thread(store.flush)

    def checkpoint(self, store: KeyValue, index: int) -> None:
        store.checkpoint(self.path(index))

    async def finish(self, manifest: Manifest, drop: list[int]) -> None:
        await self._in_thread(lambda: self._finish(manifest, drop))

    async def files(self, index: int) -> tuple[File, ...]:
        if self._listed is None or self._listed[0] != index:
            listed = await asyncio.get_running_loop().run_in_executor(None, lambda: _list(self.path(index)))
            self._listed = (index, listed)
        return self._listed[1]

    async def read(self, index: int, name: str, offset: int, size: int) -> bytes:
        def read() -> bytes:
            with (self.path(index) / name).open("rb") as file:
                file.seek(offset)
                return file.read(size)

        return await asyncio.get_running_loop().run_in_executor(None, read)

    async def settle(self) -> None:
        if self._working is not None:
            await self._working

    async def _in_thread(self, work: Callable[[], None]) -> None:
        self._working = asyncio.get_running_loop().run_in_executor(None, work)
        await asyncio.shield(self._working)  # a thread cannot be cancelled: `settle` still waits for it

    def _finish(self, manifest: Manifest, drop: list[int]) -> None:
        path = self.path(manifest.last_applied_index)
        try:
            kv.replace_file(path / MANIFEST_NAME, snapshot.encode(manifest))
            kv.sync_directory(self._root)
            for index in drop:
                # The manifest goes first: an interrupted removal must not look complete.
                (self.path(index) / MANIFEST_NAME).unlink(missing_ok=True)
                shutil.rmtree(self.path(index), ignore_errors=True)
        except OSError as error:
            faults.fatal(ExitCode.DISK, "a snapshot cannot be written", path=str(path), error=str(error))


class MemoryShelf:
    """The twin: copies of a ``MemoryKeyValue``, which keeps them. No thread, so that a simulated run repeats itself."""

    def __init__(self) -> None:
        self._taken: dict[int, MemoryKeyValue] = {}
        self._manifests: dict[int, Manifest] = {}
        self._dumped = b""
        """The copy that was listed last, as the file it travels as: one is lent at a time."""

    def path(self, index: int) -> Path:
        return Path(str(index))

    def manifests(self) -> list[Manifest]:
        return [self._manifests[index] for index in sorted(self._manifests)]

    async def prepare(self, store: KeyValue) -> None:
        store.flush()

    def checkpoint(self, store: KeyValue, index: int) -> None:
        assert isinstance(store, MemoryKeyValue)
        store.checkpoint(self.path(index))
        self._taken[index] = store.checkpoints.pop(self.path(index))

    def taken(self, index: int) -> MemoryKeyValue:
        """The copy at an index."""
        return self._taken[index]

    async def finish(self, manifest: Manifest, drop: list[int]) -> None:
        self._manifests[manifest.last_applied_index] = manifest
        for index in drop:
            del self._manifests[index], self._taken[index]

    async def files(self, index: int) -> tuple[File, ...]:
        self._dumped = self._taken[index].dump()
        return (File("tables", len(self._dumped), digest_file([self._dumped])),)

    async def read(self, index: int, name: str, offset: int, size: int) -> bytes:
        return self._dumped[offset : offset + size]

    async def settle(self) -> None:
        pass


def _list(path: Path) -> tuple[File, ...]:
    files = sorted(file for file in path.iterdir() if file.name != MANIFEST_NAME)
    return tuple(File(file.name, file.stat().st_size, digest_of(file)) for file in files)


def read_manifest(path: Path) -> Manifest:
    """The manifest of the snapshot at ``path``.

    Raises:
        OSError: there is none. Corrupt: it does not decode.
    """
    return snapshot.decode((path / MANIFEST_NAME).read_bytes())


@contextmanager
def opened(path: Path) -> Iterator[RocksKeyValue]:
    """The store in the snapshot at ``path``, on a copy beside it that goes away: opening a store writes to it, and a
    snapshot is to stay as it was taken. Table files, which never change, are linked."""
    copy = path.with_name(f"{path.name}.reading-{os.getpid()}")
    copy.mkdir()
    try:
        for file in path.iterdir():
            if file.name != MANIFEST_NAME:  # a copy left behind is to look incomplete
                (os.link if file.suffix == ".sst" else shutil.copyfile)(file, copy / file.name)
        store = RocksKeyValue.open(copy)
        try:
            yield store
        finally:
            store.close()
    finally:
        shutil.rmtree(copy)


def _into_reverb(chart: Chart) -> Iterator[str]:
    """Transitions that move a project's execution into REVERB."""
    for transition in chart.project.transitions.values():
        entered = {target for source, target in transition.targets.items() if source != target}
        if transition.region == "execution" and "REVERB" in entered:
            yield transition.name
