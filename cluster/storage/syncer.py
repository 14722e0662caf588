"""The synced write, waited for with a little patience: THE place with a thread that writes.

A sync takes a fraction of a millisecond, until one day it takes seconds. If the event loop simply waited, a slow disk
would silence a node that is otherwise well: no heartbeat, no `/health`, no word about why. So the write runs in one
writer thread. The loop waits for it, and goes on without the result when that takes longer than `PATIENCE_SECONDS`.
What must then not happen before the write is done is the business of who asked for it (`cluster.raft.stall`).

One write at a time, in the order asked for: a second writer could bring back what the first had replaced. A write is
never tried again. One that does not end within `HANG_SECONDS` ends the process, whatever the loop is waiting for.

`BlockingSyncer` waits to the end, for tools and tests that have no event loop. `MemorySyncer` is the twin on virtual
time: a disk whose syncs take as long as it is told, some of them for ever.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from cluster import faults
from cluster.clock import Clock
from cluster.faults import ExitCode

PATIENCE_SECONDS = 0.02
"""A good disk needs a hundredth of it; a heartbeat is due only every 50 ms."""
HANG_SECONDS = 10
"""A disk that has not answered for so long is taken for dead."""

Write = Callable[[], None]


class Syncer(Protocol):
    """Runs one write at a time."""

    def begin(self, write: Write, finished: Callable[[], None]) -> bool:
        """Run `write`, which returns when it is on stable storage; True if it has, soon enough to wait for it.

        Otherwise it goes on, and `finished` is called on the event loop at least once after it is done: a hint to ask
        `is_done`. Nothing else may be begun before that says so. What `write` raises comes out here, or of `is_done`.
        """
        ...

    def is_done(self) -> bool:
        """Whether nothing is under way any more."""
        ...

    def wait(self) -> None:
        """Block until nothing is under way: the last resort, for who cannot go on without."""
        ...


class BlockingSyncer:
    """Writes at once, on the caller's thread."""

    def begin(self, write: Write, finished: Callable[[], None]) -> bool:
        write()
        return True

    def is_done(self) -> bool:
        return True

    def wait(self) -> None:
        pass


class ThreadSyncer:
    """The real one. `close` it before the store."""

    def __init__(self) -> None:
        # Plain locks as signals: each is released by one side and taken by the other, and guards nothing.
        self._work, self._done, self._closing = threading.Lock(), threading.Lock(), threading.Lock()
        for signal in (self._work, self._done, self._closing):
            signal.acquire()
        self._write: Write | None = None
        self._error: BaseException | None = None
        self._wake: Callable[[], object] | None = None
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._run, self._watch)]
        for thread in self._threads:
            thread.start()

    def begin(self, write: Write, finished: Callable[[], None]) -> bool:
        self._write, self._wake = write, None
        self._work.release()
        if self._done.acquire(timeout=PATIENCE_SECONDS):
            self._settle()
            return True
        loop = asyncio.get_running_loop()
        self._wake = lambda: _tell(loop, finished)
        return self.is_done()  # once more: it may have ended before there was somebody to wake

    def is_done(self) -> bool:
        if self._write is not None and self._done.acquire(blocking=False):
            self._settle()
        return self._write is None

    def wait(self) -> None:
        if self._write is not None:
            self._done.acquire()
            self._settle()

    def close(self) -> None:
        """Wait for what is under way, and end the threads."""
        self.wait()
        self._closing.release()
        self._work.release()
        for thread in self._threads:
            thread.join()

    def _settle(self) -> None:
        self._write = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        while True:
            self._work.acquire()
            write = self._write
            if write is None:
                return
            try:
                write()
            except BaseException as error:  # to be raised where it was asked for
                self._error = error
            self._done.release()
            wake = self._wake
            if wake is not None:
                wake()

    def _watch(self) -> None:
        """Count seconds for which one write lasts. Counted, not read off a clock: a process that was stopped for a
        minute has not seen its disk hang for a minute."""
        watched: Write | None = None
        seconds = 0
        while not self._closing.acquire(timeout=1.0):
            write = self._write
            seconds = seconds + 1 if write is not None and write is watched else 0
            watched = write
            if seconds >= HANG_SECONDS:
                _hung()


class MemorySyncer:
    """The twin on virtual time. A disk that fails is the store's to simulate: its `write` stops the node.

    Args:
        seconds: how long the next sync takes; infinity hangs.
    """

    def __init__(self, clock: Clock, seconds: Callable[[], float]) -> None:
        self._clock, self._seconds = clock, seconds
        self._write: Write | None = None
        self._finished: Callable[[], None] = lambda: None
        self._hangs = False

    def begin(self, write: Write, finished: Callable[[], None]) -> bool:
        seconds = self._seconds()
        if seconds <= PATIENCE_SECONDS:
            write()
            return True
        self._write, self._finished, self._hangs = write, finished, seconds > HANG_SECONDS

        def end() -> None:
            if self._write is write:
                self.wait()

        self._clock.call_later(min(seconds, HANG_SECONDS), end)
        return False

    def is_done(self) -> bool:
        return self._write is None

    def wait(self) -> None:
        if self._write is None:
            return
        if self._hangs:
            _hung()
        write, self._write = self._write, None
        write()
        self._clock.call_later(0, self._finished)  # the real one tells of a write also when it was waited for

    def crash(self, luck: float) -> None:
        """Power cut: what was under way reached the disk or, for luck from 0.5, did not; nobody was told."""
        write, self._write = self._write, None
        if write is not None and not self._hangs and luck < 0.5:
            write()


def _tell(loop: asyncio.AbstractEventLoop, finished: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(finished)


def _hung() -> None:
    faults.fatal(ExitCode.DISK, "a sync did not end", seconds=HANG_SECONDS, next="docs/runbooks/disk.md")
