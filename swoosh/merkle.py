"""Persistent maps with a root hash: the collections of a project and the table of all projects.

A map is a tree over the SHA-256 of its keys. Up to ``LEAF_MAX`` entries form a leaf, more split into sixteen by the
next hex digit, so the shape depends on the entries alone and never on the order they came in. Setting one entry
copies one path: a transition costs what it changes, whether its project holds ten tasks or ten thousand.

    entry  = H("swoosh/entry/v1\\n"  + canonical([key, value]))
    leaf   = H("swoosh/leaf/v1\\n"   + canonical(sorted entry hashes))
    branch = H("swoosh/branch/v1\\n" + canonical([16 child hashes]))

Values are immutable by agreement; a map hands out the value it was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from swoosh import canonical
from swoosh.hashing import digest_hex, key_path

LEAF_MAX = 16
_DIGITS = "0123456789abcdef"
V = TypeVar("V")


class _Entry(NamedTuple):
    path: str
    value: Any
    hash: str


class _Leaf:
    __slots__ = ("_hash", "entries")

    def __init__(self, entries: dict[str, _Entry]) -> None:
        self.entries = entries
        self._hash: str | None = None

    @property
    def hash(self) -> str:
        if self._hash is None:
            self._hash = digest_hex("leaf", canonical.encode(sorted(entry.hash for entry in self.entries.values())))
        return self._hash

    @property
    def size(self) -> int:
        return len(self.entries)


class _Branch:
    __slots__ = ("_hash", "children", "size")

    def __init__(self, children: tuple[_Node, ...], size: int) -> None:
        self.children = children
        self.size = size
        self._hash: str | None = None

    @property
    def hash(self) -> str:
        if self._hash is None:
            self._hash = digest_hex("branch", canonical.encode([child._hash or child.hash for child in self.children]))
        return self._hash


_Node = _Leaf | _Branch
_EMPTY = _Leaf({})


class MerkleMap(Mapping[str, V], Generic[V]):
    """An immutable mapping from text to values with a root hash. ``set`` and ``without`` give new maps."""

    __slots__ = ("_node",)

    def __init__(self, items: Mapping[str, V] | None = None) -> None:
        entries = {key: _entry(key, value) for key, value in (items or {}).items()}
        self._node: _Node = _build(entries, 0)

    @classmethod
    def _of(cls, node: _Node) -> MerkleMap[V]:
        made = cls.__new__(cls)
        made._node = node
        return made

    @property
    def root(self) -> str:
        """64 hex digits over all entries; equal exactly when the entries are equal."""
        return self._node.hash

    def set(self, key: str, value: V) -> MerkleMap[V]:
        """The map with ``key`` holding ``value``."""
        return self._of(_put(self._node, key, _entry(key, value), 0))

    def update(self, items: Iterable[tuple[str, V]]) -> MerkleMap[V]:
        """The map with every (key, value) of ``items`` set."""
        node = self._node
        for key, value in items:
            node = _put(node, key, _entry(key, value), 0)
        return self._of(node)

    def without(self, key: str) -> MerkleMap[V]:
        """The map without ``key``, which must be there."""
        if key not in self:
            raise KeyError(key)
        return self._of(_remove(self._node, key, key_path(key), 0))

    def changes_since(self, older: MerkleMap[V]) -> Iterator[tuple[str, V | None]]:
        """(key, value) of what differs from ``older``, None for a key that is gone; cost follows the difference."""
        yield from _diff(older._node, self._node)

    def entries(self) -> Iterator[tuple[str, V]]:
        """Every key and value in the order of the tree: neither sorted nor looked up, for whoever reads all of many."""
        for leaf in _leaves(self._node):
            yield from ((key, leaf.entries[key].value) for key in sorted(leaf.entries))

    def __getitem__(self, key: str) -> V:
        node = self._node
        if isinstance(node, _Branch):
            path, depth = key_path(key), 0
            while isinstance(node, _Branch):
                node, depth = node.children[int(path[depth], 16)], depth + 1
        value: V = node.entries[key].value
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(key for leaf in _leaves(self._node) for key in leaf.entries))

    def __len__(self) -> int:
        return self._node.size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MerkleMap) and (self._node is other._node or self.root == other.root)

    def __hash__(self) -> int:
        return hash(self.root)

    def __repr__(self) -> str:
        return f"MerkleMap({len(self)} entries, {self.root[:12]})"


def _entry(key: str, value: Any) -> _Entry:
    return _Entry(key_path(key), value, digest_hex("entry", canonical.encode([key, value])))


def _build(entries: dict[str, _Entry], depth: int) -> _Node:
    if len(entries) <= LEAF_MAX:
        return _Leaf(entries) if entries else _EMPTY
    buckets: list[dict[str, _Entry]] = [{} for _ in _DIGITS]
    for key, entry in entries.items():
        buckets[int(entry.path[depth], 16)][key] = entry
    return _Branch(tuple(_build(bucket, depth + 1) for bucket in buckets), len(entries))


def _put(node: _Node, key: str, entry: _Entry, depth: int) -> _Node:
    if isinstance(node, _Leaf):
        return _build({**node.entries, key: entry}, depth)
    slot = int(entry.path[depth], 16)
    return _with_child(node, slot, _put(node.children[slot], key, entry, depth + 1))


def _remove(node: _Node, key: str, path: str, depth: int) -> _Node:
    if isinstance(node, _Leaf):
        return _build({other: entry for other, entry in node.entries.items() if other != key}, depth)
    slot = int(path[depth], 16)
    smaller = _with_child(node, slot, _remove(node.children[slot], key, path, depth + 1))
    if smaller.size > LEAF_MAX:
        return smaller
    return _Leaf({key: entry for leaf in _leaves(smaller) for key, entry in leaf.entries.items()})


def _with_child(node: _Branch, slot: int, child: _Node) -> _Branch:
    size = node.size - node.children[slot].size + child.size
    return _Branch((*node.children[:slot], child, *node.children[slot + 1 :]), size)


def _leaves(node: _Node) -> Iterator[_Leaf]:
    if isinstance(node, _Leaf):
        yield node
    else:
        for child in node.children:
            yield from _leaves(child)


def _diff(older: _Node, newer: _Node) -> Iterator[tuple[str, Any]]:
    if older is newer:
        return
    if isinstance(older, _Branch) and isinstance(newer, _Branch):
        for before, after in zip(older.children, newer.children, strict=True):
            if before is not after:
                yield from _diff(before, after)
        return
    before_entries = {key: entry for leaf in _leaves(older) for key, entry in leaf.entries.items()}
    after_entries = {key: entry for leaf in _leaves(newer) for key, entry in leaf.entries.items()}
    for key, entry in after_entries.items():
        if key not in before_entries or before_entries[key].hash != entry.hash:
            yield key, entry.value
    for key in before_entries:
        if key not in after_entries:
            yield key, None
