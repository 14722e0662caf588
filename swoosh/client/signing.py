"""A caller's private key, and the signatures it puts on proposals, batches, facts and votes.

Keys are Ed25519, kept as PKCS #8 PEM without passphrase. The bytes that are signed are defined in swoosh/signing.py;
this module must never build a preimage of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from swoosh import principal, signing


class Key:
    """An identity that signs. ``principal`` is what the cluster calls it: ``hmmm:pubkey:ed25519:<64 hex>``."""

    __slots__ = ("_private", "principal")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.principal = principal.name_of(private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> Key:
        """A new key, drawn by the cryptography library."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Key:
        """The key of 32 secret bytes (RFC 8032 §5.1.5), for tests and simulations that repeat themselves."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_pem(cls, pem: bytes) -> Key:
        """The key of a PKCS #8 PEM text.

        Raises:
            ValueError: not an unencrypted Ed25519 private key.
        """
        try:
            private = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ValueError(f"not an unencrypted PKCS #8 private key: {error}") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError(f"an Ed25519 key is needed, this is {type(private).__name__}")
        return cls(private)

    @classmethod
    def load(cls, path: Path | str) -> Key:
        """The key in a PEM file.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no unencrypted Ed25519 private key.
        """
        try:
            return cls.from_pem(Path(path).read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def pem(self) -> bytes:
        """PKCS #8 PEM, unencrypted: write it to a file of mode 0600."""
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign_proposal(self, proposal: Mapping[str, Any], cluster_id: str) -> dict[str, Any]:
        """The object with its signature."""
        return {**proposal, "signature": self._sign(signing.proposal_preimage(proposal, cluster_id))}

    def sign_fact(self, fact: Mapping[str, Any], cluster_id: str) -> dict[str, Any]:
        """The fact with its signature."""
        return {**fact, "signature": self._sign(signing.fact_preimage(fact, cluster_id))}

    def sign_order(self, order: Mapping[str, Any], cluster_id: str) -> dict[str, Any]:
        """An admin's order to one node with its signature."""
        return {**order, "signature": self._sign(signing.order_preimage(order, cluster_id))}

    def sign_batch(self, proposals: list[dict[str, Any]], cluster_id: str) -> dict[str, Any]:
        """The body of ``POST /transitions`` in which one signature covers all proposals and their order."""
        signature = self._sign(signing.batch_preimage(proposals, cluster_id))
        return {"proposals": proposals, "signer": self.principal, "signature": signature}

    def sign_vote(
        self, cluster_id: str, project: str, election: int, member_set_hash: str, vote: str = "approve"
    ) -> str:
        """An elector's vote on exactly this member set of this election."""
        return self._sign(signing.vote_preimage(cluster_id, project, election, member_set_hash, vote))

    def _sign(self, data: bytes) -> str:
        return signing.sign(self._private, data)
