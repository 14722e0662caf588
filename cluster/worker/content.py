"""What an ingested tree is, and its hash: the same for the same files, wherever and however they were kept.

The hash covers, for every entry in the order of the paths' bytes, its kind, the SHA-256 of its bytes, and its path. It
does not know commits, dates or git's own hashes, so a repository converted from SHA-1 to SHA-256, a tarball and a
checkout of the same files are one content (docs/reference/content-hash.md has a script that recomputes it).

Pure: this module must never open a file. Paths are bytes here, because a tree may name what no text can; whether such
a name is acceptable is for the validation to say, and it can only say so about content that has a hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from swoosh.hashing import PREFIX, digest_hex, is_hex

FILE, EXECUTABLE, SYMLINK, SUBMODULE = "file", "executable", "symlink", "submodule"
KINDS = (FILE, EXECUTABLE, SYMLINK, SUBMODULE)
_DIGITS = 64


class Entry(NamedTuple):
    """One leaf of a tree.

    Attributes:
        hash: 64 hex digits of the plain SHA-256 of its bytes: a file's content, a link's target, the commit a submodule
            is at as text.
        size: how many bytes these are; not part of the content hash, which covers the bytes themselves.
    """

    path: bytes
    kind: str
    hash: str
    size: int = 0


class Malformed(Exception):
    """The bytes are not the text of a tree."""


def text_of(entries: Iterable[Entry]) -> bytes:
    """The bytes that are hashed: ``<kind> <hash> <path>`` and a NUL for each entry, sorted by path."""
    return b"".join(
        b"%b %b %b\0" % (entry.kind.encode(), entry.hash.encode(), entry.path)
        for entry in sorted(entries, key=lambda entry: entry.path)
    )


def content_hash(text: bytes) -> str:
    """``sha256-…`` of a tree by its text."""
    return PREFIX + digest_hex("content", text)


def entries_of(text: bytes) -> Iterator[Entry]:
    """The entries of a tree's text, without sizes.

    Raises:
        Malformed: it is no such text.
    """
    for line in text.split(b"\0")[:-1]:
        kind, _, rest = line.partition(b" ")
        digits, _, path = rest.partition(b" ")
        found = Entry(path, kind.decode("ascii", "replace"), digits.decode("ascii", "replace"))
        if found.kind not in KINDS or not is_hex(found.hash, _DIGITS) or not path:
            raise Malformed(f"not an entry of a tree: {line[:80]!r}")
        yield found
