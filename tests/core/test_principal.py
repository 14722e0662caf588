"""One key, one principal, however it is spelled; and a text that spells no key names nobody."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from swoosh import principal
from tests.core.spellings import ALPHABET, peer_id, spellings

KEYS = st.binary(min_size=32, max_size=32)
FORMS = ("canonical", "hex", "base64url", "peer_id")


# --- laws -------------------------------------------------------------------------------------------------------------


@given(KEYS)
def test_every_spelling_of_a_key_names_one_principal(key: bytes) -> None:
    wanted = "hmmm:pubkey:ed25519:" + key.hex()
    assert tuple(spellings(key)) == FORMS
    for text in (*spellings(key).values(), "hmmm:pubkey:" + key.hex().upper()):
        assert principal.normalise(text) == wanted
        assert principal.key_of(text) == key
    assert principal.name_of(key) == wanted


@given(st.one_of(KEYS.map(lambda key: spellings(key)["peer_id"]), st.text(max_size=70).map("hmmm:pubkey:".__add__)))
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = principal.normalise(text)
    assert principal.normalise(once) == once
    assert principal.key_of(once) == principal.key_of(text)


@given(KEYS, KEYS, st.sampled_from(FORMS), st.sampled_from(FORMS))
def test_two_keys_never_share_a_principal(one: bytes, other: bytes, form: str, another: str) -> None:
    names = [principal.normalise(spellings(one)[form]), principal.normalise(spellings(other)[another])]
    assert (names[0] == names[1]) is (one == other)


@given(st.text(max_size=70))
def test_any_text_names_a_key_or_nobody(text: str) -> None:
    key = principal.key_of("hmmm:pubkey:" + text)
    assert key is None or len(key) == 32


@given(KEYS, st.integers(min_value=8, max_value=51), st.sampled_from(ALPHABET))
def test_another_character_in_a_peer_id_is_another_key_or_nobody(key: bytes, at: int, character: str) -> None:
    """A peer id has no check digits; what must not happen is that two of them name one key."""
    text = peer_id(key)
    changed = text[:at] + character + text[at + 1 :]
    assert (principal.key_of("hmmm:pubkey:" + changed) == key) is (changed == text)


@given(st.sampled_from(FORMS), KEYS, st.sampled_from([" ", "=", "A", "1", "\n"]))
def test_a_key_with_something_behind_it_is_no_key(form: str, key: bytes, more: str) -> None:
    assert principal.key_of(spellings(key)[form] + more) is None
    assert principal.key_of(more + spellings(key)[form]) is None


# --- what others say --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("private", "public", "base64url", "peer"),
    [
        (  # the Ed25519 vector of libp2p's peer-id specification
            "7e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d",
            "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e",
            "HtHo-uLEoUS4vo_UtHvz07NLhxw8rPYBDw5C1HT84n4",
            "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq",
        ),
        (  # RFC 8032 §7.1, test 1; the JWK form of RFC 8037 appendix A.2
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            None,
        ),
    ],
)
def test_published_vectors(private: str, public: str, base64url: str, peer: str | None) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(private)).public_key().public_bytes_raw()
    assert key.hex() == public
    found = spellings(key)
    assert found["base64url"] == "hmmm:pubkey:" + base64url
    assert peer is None or found["peer_id"] == "hmmm:pubkey:" + peer
    assert {principal.normalise(text) for text in found.values()} == {"hmmm:pubkey:ed25519:" + public}


@pytest.mark.parametrize(
    "peer",
    [
        "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA",
        "12D3KooWRBy97UB99e3J6hiPesre1MZeuNQvfan4gBziswrRJsNK",
    ],
)
def test_peer_ids_of_other_people_round_trip(peer: str) -> None:
    """From libp2p's documents. What is read out of one spells it again."""
    key = principal.key_of("hmmm:pubkey:" + peer)
    assert key is not None and peer_id(key) == peer


@given(KEYS)
def test_peer_ids_of_such_keys_begin_alike(key: bytes) -> None:
    """Which is how they are told from those of other kinds of keys."""
    assert peer_id(key).startswith("12D3KooW") and len(peer_id(key)) == 52


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alice",
        "hmmm:pubkey:",
        "hmmm:pubkey:ed25519:",
        "hmmm:pubkey:" + "0" * 63,
        "hmmm:pubkey:" + "\u0660" * 64,
        "hmmm:pubkey:ed25519:" + "A" * 43,
        "hmmm:pubkey:ed25519:" + peer_id(bytes(32)),
        "hmmm:pubkey:rsa:" + "0" * 64,
        "hmmm:pubkey:12D3KooW" + "0" * 44,
        "hmmm:pubkey:12D3KooW" + "z" * 44,
        "hmmm:pubkey:QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "hmmm:pubkey:16Uiu2HAm9SGRpvhAV1LqbRrpVi4mEdHqoQJeBQZ8PEqRPbtw3Zbp",
        "hmmm:PUBKEY:" + "0" * 64,
        "hmmm:pubkey:hmmm:pubkey:" + "0" * 64,
    ],
)
def test_what_spells_no_key_names_nobody_and_stays_as_it_is(text: str) -> None:
    assert principal.key_of(text) is None
    assert principal.normalise(text) == text
