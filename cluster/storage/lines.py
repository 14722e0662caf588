"""Files that only grow, line by line: the sink of an outbox that is a file.

A line counts once `append` has returned: it and all before it are on disk. What a crash left half written at the end is
cut off by the next `append`; whoever wrote it was not told that it is there, and writes it again. The file is opened
anew each time, so it may be moved away while the node runs. A write that fails says nothing about the node's own
store and raises; it never ends the process.

Disk work is done in a thread, which touches this file and nothing else; `MemoryLines` is the twin without one.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from cluster.storage import kv

_CHUNK = 64 << 10


class Lines(Protocol):
    """Somewhere to write lines."""

    async def append(self, lines: bytes) -> None:
        """Add whole lines, durably.

        Raises:
            OSError: they may or may not be there.
        """
        ...


class FileLines:
    """A file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._working: asyncio.Future[None] | None = None

    async def append(self, lines: bytes) -> None:
        """As `Lines.append`. One that was cancelled still runs to its end, and the next waits for that."""
        if self._working is not None:
            await asyncio.wait([self._working])
        self._working = asyncio.get_running_loop().run_in_executor(None, lambda: _append(self._path, lines))
        self._working.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, if by nobody else
        await asyncio.shield(self._working)


class MemoryLines:
    """The twin. `cut_off` loses power while a line is written."""

    def __init__(self) -> None:
        self.content = b""

    async def append(self, lines: bytes) -> None:
        """As `Lines.append`."""
        self.content = self.content[: self.content.rfind(b"\n") + 1] + lines

    def cut_off(self, size: int) -> None:
        """Only so many bytes reached the disk."""
        self.content = self.content[:size]


def _append(path: Path, lines: bytes) -> None:
    is_new = not path.exists()
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o640), "r+b", buffering=0) as file:
        end = _end_of_lines(file)
        file.truncate(end)
        file.seek(end)
        try:
            _write(file, lines)
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(end)  # after a failed sync nobody knows which of these bytes are there
            raise
    if is_new:
        kv.sync_directory(path.parent)


def _write(file: BinaryIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _end_of_lines(file: BinaryIO) -> int:
    """Where the last whole line ends."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _CHUNK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
