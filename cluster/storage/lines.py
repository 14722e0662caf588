"""A file of lines, each of them durable before `append` returns: the ledger of a small program that has no store.

One program has it open at a time. A crash may leave half a line at the end; nobody was told of it, so `open` cuts it
off. Nothing before it is ever touched.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cluster import faults
from cluster.faults import ExitCode
from cluster.storage import kv


class Lines:
    """One file. `open` makes it where there is none."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    @classmethod
    def open(cls, path: Path) -> Lines:
        """Raises OSError: the file can be neither opened nor made, or another program has it open."""
        found = cls(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
        fcntl.flock(found._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kv.sync_directory(path.parent)
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(found._descriptor, whole)
            kv.sync_descriptor(found._descriptor)
        return found

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            for line in file:
                yield line.rstrip(b"\n")

    def append(self, line: bytes) -> None:
        """Add a line, and return once it is on the disk."""
        try:
            rest = line + b"\n"
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            faults.fatal(ExitCode.DISK, "write failed", path=str(self._path), error=str(error))
        kv.sync_descriptor(self._descriptor)

    def close(self) -> None:
        """Let the file go."""
        os.close(self._descriptor)
