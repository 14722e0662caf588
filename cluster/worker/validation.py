"""Whether a fetched tree may become a version: can every entry be named, written down, and stay within the tree?

A tree is data from strangers. Nothing here trusts git to have refused what it should, because content may come from
a repository that was built by hand. The checks are pure; what they find ends in the reason of INGESTION_FAILED.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from cluster.worker.content import SYMLINK, Entry

PATH_BYTES_MAX = 1_024
NAME_BYTES_MAX = 255
_SHOWN = 3


def faults(entries: Sequence[Entry], target_of: Callable[[Entry], bytes]) -> dict[str, list[str]]:
    """What is wrong, by the name of the check; an empty list is a check that was passed.

    Args:
        target_of: where a symbolic link of the tree leads, as written in it.
    """
    links = [entry for entry in entries if entry.kind == SYMLINK]
    return {
        "documents": [] if entries else ["the tree is empty"],
        "names": [f"{_shown(e.path)} {fault}" for e in entries if (fault := name_fault(e.path))] + _twice(entries),
        "links": [f"{_shown(e.path)} {fault}" for e in links if (fault := link_fault(e.path, target_of(e)))],
    }


def reason(found: dict[str, list[str]]) -> str | None:
    """All faults in a sentence; None where there is none."""
    listed = [fault for check in found.values() for fault in check]
    more = f"; and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return "; ".join(listed[:_SHOWN]) + more if listed else None


def name_fault(path: bytes) -> str | None:
    """Why a path cannot be kept, or None."""
    try:
        text = path.decode("utf-8")
    except UnicodeDecodeError:
        return "is not UTF-8"
    parts = text.split("/")
    if len(path) > PATH_BYTES_MAX or any(len(part.encode()) > NAME_BYTES_MAX for part in parts):
        return f"is too long: at most {PATH_BYTES_MAX} bytes, {NAME_BYTES_MAX} in each part"
    if any(part in ("", ".", "..") for part in parts):
        return "has an empty part, . or .."
    if any(unicodedata.category(character) == "Cc" for character in text) or "\\" in text:
        return "has a control character or a backslash"
    if any(_is_git(part) for part in parts):
        return "would be git's own directory somewhere"
    return None


def link_fault(path: bytes, target: bytes) -> str | None:
    """Why a symbolic link is refused, or None.

    ``..`` may only stand in front: there it climbs from a real directory, so counting is enough. Behind a name it would
    climb from wherever that name, itself perhaps a link, leads.
    """
    parts = target.split(b"/")
    climbs = next((place for place, part in enumerate(parts) if part != b".."), len(parts))
    if not target or target.startswith(b"/") or b".." in parts[climbs:] or climbs > path.count(b"/"):
        return f"is a link that may leave the tree, to {_shown(target)}"
    return None


def _twice(entries: Sequence[Entry]) -> list[str]:
    """Names that stand for two things, or that are a file here and a directory there."""
    counts = Counter(entry.path for entry in entries)
    parents = {path[:at] for path in counts for at in range(len(path)) if path[at : at + 1] == b"/"}
    clashes = {path for path, count in counts.items() if count > 1} | (counts.keys() & parents)
    return [f"{_shown(path)} is there twice" for path in sorted(clashes)]


def _is_git(part: str) -> bool:
    """Spellings of ``.git`` that some file system folds into it: other case, ignorable characters, trailing dots."""
    visible = "".join(c for c in part if unicodedata.category(c) != "Cf").casefold().split(":")[0].rstrip(". ")
    return visible in (".git", "git~1")


def _shown(path: bytes) -> str:
    """Any bytes as text that can stand in a log: escaped, and cut."""
    text = path[:80].decode("utf-8", "backslashreplace")
    return repr(unicodedata.normalize("NFC", text)) if text.isprintable() else ascii(text)
