"""The content a worker keeps: documents, trees and indexes in one directory, each under its hash.

    DIR/documents/ab/abcd…     the bytes of a document, by their plain SHA-256
    DIR/trees/1234…            the text of a tree (content.py), by its content hash
    DIR/index/1234….json       the documents of that tree, with hashes and sizes

A file is named by what is in it and put in place whole, so that a version stays readable while the next is built, two
workers that keep the same thing do no harm, and what a crash or a disk damaged is noticed when it is read. Nothing
here is the truth: whatever is missing can be fetched again.
"""

from __future__ import annotations

import os
from pathlib import Path

from cluster.worker.content import SUBMODULE, Entry, Malformed, content_hash, entries_of, text_of
from swoosh import canonical
from swoosh.hashing import PREFIX, digest_file


class Missing(Exception):
    """It is not here, or is not what its name says."""


class Corpus:
    """Content in ``directory``, which is made when something is kept."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def keep(self, data: bytes) -> str:
        """Keep one document; the 64 hex digits it is found under."""
        digits = digest_file([data]).removeprefix(PREFIX)
        _put(self._document(digits), data)
        return digits

    def document(self, digits: str) -> bytes:
        """A document's bytes.

        Raises:
            Missing: as the class says.
        """
        data = _get(self._document(digits))
        if digest_file([data]) != PREFIX + digits:
            raise Missing(f"document {digits} is damaged")
        return data

    def keep_tree(self, entries: list[Entry]) -> str:
        """Keep a tree whose documents are kept; its content hash."""
        text = text_of(entries)
        found = content_hash(text)
        _put(self._tree(found), text)
        return found

    def tree(self, wanted: str) -> list[Entry]:
        """The entries of the tree with this content hash, every document of it verified.

        Raises:
            Missing: as the class says, of the tree or of a document.
        """
        return [entry._replace(size=len(self.document(entry.hash))) for entry in self._entries(wanted)]

    def keep_index(self, wanted: str) -> Path:
        """Write the index of a tree; where it is. The same tree gives the same bytes.

        Raises:
            Missing: as for ``tree``.
        """
        documents = [
            {
                "path": entry.path.decode("utf-8", "backslashreplace"),
                "kind": entry.kind,
                "hash": PREFIX + entry.hash,
                "size": entry.size,
            }
            for entry in self.tree(wanted)
            if entry.kind != SUBMODULE
        ]
        path = self._index(wanted)
        _put(path, canonical.encode({"content_hash": wanted, "documents": documents}))
        return path

    def has_index(self, wanted: str) -> bool:
        """Whether the index of a tree was written here."""
        return self._index(wanted).exists()

    def find(self, wanted: str, name: str) -> bytes:
        """The document called ``name`` in the tree with this content hash.

        Raises:
            Missing: as the class says, of the tree or of that document; or the tree has none of this name.
        """
        for entry in self._entries(wanted):
            if entry.path == name.encode() and entry.kind != SUBMODULE:
                return self.document(entry.hash)
        raise Missing(f"{wanted} has no document {name}")

    def _entries(self, wanted: str) -> list[Entry]:
        text = _get(self._tree(wanted))
        if content_hash(text) != wanted:
            raise Missing(f"tree {wanted} is damaged")
        try:
            return list(entries_of(text))
        except Malformed as error:
            raise Missing(str(error)) from None

    def _document(self, digits: str) -> Path:
        return self.directory / "documents" / digits[:2] / digits

    def _index(self, wanted: str) -> Path:
        return self.directory / "index" / f"{wanted.removeprefix(PREFIX)}.json"

    def _tree(self, wanted: str) -> Path:
        return self.directory / "trees" / wanted.removeprefix(PREFIX)


def _put(path: Path, data: bytes) -> None:
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)


def _get(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Missing(f"{path.name}: {error.strerror}") from None
