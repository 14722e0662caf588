"""Hashes and principals: many spellings are read, one is written, and kinds never mix."""

from __future__ import annotations

import base64
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swoosh import hashing, principal
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


# --- principals -------------------------------------------------------------------------------------------------------


def peer_id(key: bytes) -> str:
    """The libp2p peer id of an Ed25519 key: base58 of an identity multihash around the protobuf of the key."""
    number, text = int.from_bytes(bytes.fromhex("002408011220") + key, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = ALPHABET[digit] + text
    return "1" + text


@given(st.binary(min_size=32, max_size=32))
def test_every_spelling_of_a_key_names_one_principal(key: bytes) -> None:
    wanted = "hmmm:pubkey:ed25519:" + key.hex()
    url_safe = base64.urlsafe_b64encode(key).rstrip(b"=").decode()
    for text in (key.hex(), key.hex().upper(), "ed25519:" + key.hex(), url_safe, peer_id(key)):
        assert principal.normalise("hmmm:pubkey:" + text) == wanted
        assert principal.key_of("hmmm:pubkey:" + text) == key


def test_peer_ids_of_such_keys_begin_alike() -> None:
    """All Ed25519 keys have peer ids that begin alike, which is how they are told from other keys."""
    assert peer_id(bytes(32)).startswith("12D3KooW")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alice",
        "hmmm:pubkey:",
        "hmmm:pubkey:ed25519:",
        "hmmm:pubkey:" + "0" * 63,
        "hmmm:pubkey:ed25519:" + "A" * 43,
        "hmmm:pubkey:rsa:" + "0" * 64,
        "hmmm:pubkey:12D3KooW" + "0" * 44,
        "hmmm:pubkey:12D3KooW" + "z" * 44,
        "hmmm:pubkey:QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
    ],
)
def test_what_spells_no_key_names_nobody_and_stays_as_it_is(text: str) -> None:
    assert principal.key_of(text) is None
    assert principal.normalise(text) == text


@given(st.text(max_size=70))
def test_any_text_names_a_key_or_nobody(text: str) -> None:
    key = principal.key_of("hmmm:pubkey:" + text)
    assert key is None or len(key) == 32
