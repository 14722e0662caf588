"""Hashes and principals: many spellings are read, one is written, and kinds never mix."""

from __future__ import annotations

from hashlib import sha256

import pytest

from swoosh import hashing
from swoosh.errors import Malformed

DIGEST = "0123456789abcdef" * 4
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def test_a_typed_hash_is_the_sha_256_of_its_preimage() -> None:
    assert (
        hashing.digest("state", {"b": 1, "a": 2}) == "sha256-" + sha256(b'swoosh/state/v1\n{"a":2,"b":1}').hexdigest()
    )


def test_the_same_value_has_another_hash_as_another_kind() -> None:
    assert hashing.digest("inputs", {}) != hashing.digest("region", {})


@pytest.mark.parametrize(
    "text", [DIGEST, DIGEST.upper(), "sha256-" + DIGEST, "sha256:" + DIGEST, "SHA256-" + DIGEST.upper()]
)
def test_every_spelling_of_a_hash_is_written_one_way(text: str) -> None:
    assert hashing.normalise(text) == "sha256-" + DIGEST


@pytest.mark.parametrize(
    "text",
    [
        "",
        DIGEST[:-1],
        DIGEST + "0",
        "sha512-" + DIGEST,
        " " + DIGEST,
        "g" + DIGEST[1:],
        "\u0660" + DIGEST[1:],
        "sha256-sha256-" + DIGEST,
    ],
)
def test_what_is_no_hash_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="64 hex digits"):
        hashing.normalise(text)
