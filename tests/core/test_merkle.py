"""The map with a root hash: what it holds, what it hashes to, and what changed between two of them."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swoosh.merkle import LEAF_MAX, MerkleMap

Edits = list[tuple[str, int | None]]

KEYS = st.text("abcdefgh", min_size=1, max_size=3)
CONTENTS = st.dictionaries(KEYS, st.integers(0, 5), max_size=80)
EDITS = st.lists(st.tuples(KEYS, st.none() | st.integers(0, 5)), max_size=60)


def typed(kind: str, value: Any) -> str:
    return sha256(f"swoosh/{kind}/v1\n".encode() + json.dumps(value, separators=(",", ":")).encode()).hexdigest()


def naive_root(contents: dict[str, int], depth: int = 0) -> str:
    """The root as the module's first lines say, without sharing or caching anything."""
    if len(contents) <= LEAF_MAX:
        return typed("leaf", sorted(typed("entry", [key, value]) for key, value in contents.items()))
    path = {key: sha256(key.encode()).hexdigest()[depth] for key in contents}
    buckets = ({key: value for key, value in contents.items() if path[key] == digit} for digit in "0123456789abcdef")
    return typed("branch", [naive_root(bucket, depth + 1) for bucket in buckets])


def edited(start: MerkleMap[int], edits: Edits) -> tuple[MerkleMap[int], dict[str, int]]:
    """The map after these edits, None meaning that the key goes; and what a dict holds after the same."""
    held, plain = start, dict(start)
    for key, value in edits:
        if value is not None:
            held, plain[key] = held.set(key, value), value
        elif key in plain:
            held = held.without(key)
            del plain[key]
    return held, plain


@given(CONTENTS, EDITS)
def test_after_any_edits_it_is_a_dict_with_the_naive_root(contents: dict[str, int], edits: Edits) -> None:
    held, plain = edited(MerkleMap(contents), edits)
    assert dict(held) == plain
    assert len(held) == len(plain)
    assert list(held) == sorted(plain)
    assert held.root == naive_root(plain)


@given(CONTENTS, st.randoms(use_true_random=False))
def test_the_root_does_not_depend_on_the_order_of_insertion(contents: dict[str, int], rng: Any) -> None:
    shuffled = list(contents.items())
    rng.shuffle(shuffled)
    assert MerkleMap[int]().update(shuffled).root == MerkleMap(contents).root


@given(CONTENTS, EDITS)
def test_changes_since_are_exactly_the_differences(contents: dict[str, int], edits: Edits) -> None:
    older = MerkleMap(contents)
    newer, plain = edited(older, edits)
    wanted = {key: plain.get(key) for key in contents.keys() | plain.keys() if contents.get(key) != plain.get(key)}
    assert dict(newer.changes_since(older)) == wanted


@given(CONTENTS, EDITS)
def test_two_maps_are_equal_exactly_when_their_contents_are(contents: dict[str, int], edits: Edits) -> None:
    older = MerkleMap(contents)
    newer, plain = edited(older, edits)
    assert (newer == older) is (plain == contents)
    assert (newer.root == older.root) is (plain == contents)


def test_an_older_map_is_untouched_by_a_newer_one() -> None:
    older = MerkleMap({f"k{number}": number for number in range(100)})
    before = dict(older)
    older.set("k1", -1).without("k2")
    assert dict(older) == before


def test_a_key_that_is_not_there() -> None:
    held = MerkleMap({"a": 1})
    assert held.get("b") is None
    with pytest.raises(KeyError):
        held["b"]
    with pytest.raises(KeyError):
        held.without("b")
