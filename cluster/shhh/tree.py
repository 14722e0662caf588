"""A scan of files: what an ingestion worker holds against policy before content is validated.

The one module in here that reads. Locations are ``path:line`` below the root, so that two checkouts of one content
give the same findings. What git keeps for itself is left out; a file that is no text has no lines and is read as
Latin-1, in which a secret in ASCII is itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cluster.shhh.scanner import Finding, Scanner

FILE_BYTES_MAX = 32 << 20
_LEFT_OUT = ".git"


class Unread(Exception):
    """A file was not scanned, so nothing may be said about the content."""


def scan(scanner: Scanner, root: Path) -> Iterator[Finding]:
    """What policy finds in a file, or in all files of a directory, in the order of their names.

    A symbolic link is not followed: what it leads to is not part of the content, or is there under its own name.

    Raises:
        Unread: a file that cannot be read, or is too large.
    """
    for path in [root] if root.is_file() else sorted(root.rglob("*")):
        name = path.name if path == root else path.relative_to(root).as_posix()
        if path.is_symlink() or not path.is_file() or _LEFT_OUT in Path(name).parts[:-1]:
            continue
        yield from scanner.scan_lines(_text(path, name), name)


def text_of(data: bytes) -> str:
    """A file's content, to be scanned."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _text(path: Path, name: str) -> str:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise Unread(f"{name}: more than {FILE_BYTES_MAX} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise Unread(f"{name}: {error.strerror or error}") from None
    return text_of(data)
