"""Ed25519 over domain-separated canonical bytes: what is signed, and the one verifier.

A signature covers the object *as sent* together with the ``cluster_id``, so it can be replayed neither to another
cluster nor to another kind of message. Verification is done by libsodium (PyNaCl), which refuses small-order and
non-canonical keys; other libraries accept some of those, so no second verifier may ever be consulted. The reducer
never verifies: verdicts are taken once, before the log, and travel with the entry.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Protocol

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from swoosh import canonical
from swoosh.hashing import preimage

SIGNATURE_BYTES = 64


class Signer(Protocol):
    """A private key: ``cryptography``'s Ed25519PrivateKey is one."""

    def sign(self, data: bytes, /) -> bytes: ...


def proposal_preimage(sent: Mapping[str, Any], cluster_id: str) -> bytes:
    """Bytes a proposal's signature covers: the object as sent, without ``signature``, plus ``cluster_id``."""
    return _signed_object("proposal", sent, cluster_id)


def fact_preimage(sent: Mapping[str, Any], cluster_id: str) -> bytes:
    """Bytes a fact's signature covers."""
    return _signed_object("fact", sent, cluster_id)


def order_preimage(sent: Mapping[str, Any], cluster_id: str) -> bytes:
    """Bytes an admin's order to one node covers."""
    return _signed_object("order", sent, cluster_id)


def batch_preimage(proposals: list[Any], cluster_id: str) -> bytes:
    """Bytes the one signature of a batch covers."""
    return preimage("batch", canonical.encode({"cluster_id": cluster_id, "proposals": proposals}))


def vote_preimage(cluster_id: str, project: str, election: int, member_set_hash: str, vote: str) -> bytes:
    """Bytes an elector's vote covers. ``vote`` is ``approve``, ``eject:<role>`` or ``reelect``."""
    ballot = {
        "cluster_id": cluster_id,
        "project": project,
        "election": election,
        "member_set_hash": member_set_hash,
        "vote": vote,
    }
    return preimage("vote", canonical.encode(ballot))


def sign(key: Signer, data: bytes) -> str:
    """base64url, unpadded, of the Ed25519 signature of ``data``."""
    return base64.urlsafe_b64encode(key.sign(data)).rstrip(b"=").decode()


def verify(public_key: bytes, data: bytes, signature: str) -> bool:
    """Whether ``signature`` (base64url or base64, padded or not) is this key's over ``data``."""
    raw = _decode(signature)
    if raw is None:
        return False
    try:
        crypto_sign_open(raw + data, public_key)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True


def _signed_object(kind: str, sent: Mapping[str, Any], cluster_id: str) -> bytes:
    body = {name: value for name, value in sent.items() if name != "signature"}
    body["cluster_id"] = cluster_id
    return preimage(kind, canonical.encode(body))


def _decode(signature: str) -> bytes | None:
    text = signature.rstrip("=").replace("-", "+").replace("_", "/")
    if not text.isascii():
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return None
    return raw if len(raw) == SIGNATURE_BYTES else None
