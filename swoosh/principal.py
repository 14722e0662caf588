"""Who signs: the canonical name of an Ed25519 key.

Written ``hmmm:pubkey:ed25519:<64 hex>``. Read after ``hmmm:pubkey:`` are also bare hex, unpadded base64url and a
libp2p peer id (``12D3KooW…``, whose multihash wraps the raw key). Any other text names nobody; it is carried only in
clusters made with ``--insecure-signers``.
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache

from swoosh.hashing import is_hex

PREFIX = "hmmm:pubkey:"
CANONICAL = "hmmm:pubkey:ed25519:"
_BASE58 = {c: i for i, c in enumerate("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")}
_LIBP2P_ED25519 = bytes.fromhex("002408011220")  # identity multihash, protobuf key type Ed25519, 32 bytes


def name_of(public_key: bytes) -> str:
    """The principal of a raw 32-byte public key."""
    return CANONICAL + public_key.hex()


def normalise(signer: str) -> str:
    """The canonical principal where ``signer`` spells a key, else ``signer`` unchanged."""
    key = key_of(signer)
    return signer if key is None else name_of(key)


@lru_cache(maxsize=4_096)
def key_of(signer: str) -> bytes | None:
    """The raw public key a signer text spells, or None when it spells none."""
    if not signer.startswith(PREFIX):
        return None
    text = signer.removeprefix(PREFIX).removeprefix("ed25519:")
    if is_hex(text.lower(), 64):
        return bytes.fromhex(text)
    if signer.startswith(CANONICAL):
        return None
    return _from_base64url(text) or _from_peer_id(text)


def _from_base64url(text: str) -> bytes | None:
    if len(text) != 43 or not text.isascii():
        return None
    try:
        raw = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=", validate=True)
    except binascii.Error:
        return None
    return raw if len(raw) == 32 else None


def _from_peer_id(text: str) -> bytes | None:
    if not text.startswith("12D3KooW") or len(text) > 64 or any(c not in _BASE58 for c in text):
        return None
    number = 0
    for character in text:
        number = number * 58 + _BASE58[character]
    raw = number.to_bytes(47, "big").lstrip(b"\0")
    wrapped = b"\0" + raw
    return wrapped[6:] if wrapped.startswith(_LIBP2P_ED25519) and len(wrapped) == 38 else None
