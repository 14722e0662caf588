"""What differs between two states of a project, field by field, under the names that are served and hashed.

For people who ask what a transition would do; nothing is ever decided by it. The order is that of the regions and
their fields, so the same two states always read the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec

from swoosh.merkle import MerkleMap
from swoosh.outcome import Change
from swoosh.state import Regions

ENTRIES_SHOWN = 64
"""Of one collection. Where more of it differs, its sizes are all that is said: ten thousand tasks are no answer."""


def changes(before: Regions, after: Regions) -> Iterator[Change]:
    """Each field that differs: ``Council.Phase``, ``Council.Claims[lead].Agent``, ``Epoch[Council]``."""
    for info in msgspec.structs.fields(after):
        yield from _between(info.encode_name, getattr(before, info.name), getattr(after, info.name))


def _between(path: str, before: Any, after: Any) -> Iterator[Change]:
    if before is after:
        return
    if isinstance(before, MerkleMap) and isinstance(after, MerkleMap):
        yield from _between_collections(path, before, after)
    elif isinstance(before, msgspec.Struct) and type(before) is type(after):
        for info in msgspec.structs.fields(after):
            yield from _between(f"{path}.{info.encode_name}", getattr(before, info.name), getattr(after, info.name))
    elif isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            yield from _between(f"{path}[{key}]", before.get(key), after.get(key))
    elif before != after:
        yield Change(path, msgspec.to_builtins(before), msgspec.to_builtins(after))


def _between_collections(path: str, before: MerkleMap[Any], after: MerkleMap[Any]) -> Iterator[Change]:
    moved = sorted(key for key, _ in islice(after.changes_since(before), ENTRIES_SHOWN + 1))
    if len(moved) > ENTRIES_SHOWN:
        yield Change(path, f"{len(before)} entries", f"{len(after)} entries")
        return
    for key in moved:
        yield from _between(f"{path}[{key}]", before.get(key), after.get(key))
