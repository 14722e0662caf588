"""The ways to spell a signer, written down a second time: from the formats' own documents, not from the product."""

from __future__ import annotations

import base64

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def peer_id(key: bytes) -> str:
    """The libp2p peer id of an Ed25519 key: base58btc of an identity multihash around the protobuf of the key."""
    number, text = int.from_bytes(bytes.fromhex("002408011220") + key, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = ALPHABET[digit] + text
    return "1" + text


def spellings(key: bytes) -> dict[str, str]:
    """{form: signer} of one raw public key, in the four forms that are read."""
    return {
        "canonical": "hmmm:pubkey:ed25519:" + key.hex(),
        "hex": "hmmm:pubkey:" + key.hex(),
        "base64url": "hmmm:pubkey:" + base64.urlsafe_b64encode(key).rstrip(b"=").decode(),
        "peer_id": "hmmm:pubkey:" + peer_id(key),
    }
