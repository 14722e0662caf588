"""The node's own signing key, under which it proposes what follows from facts and states what it observed itself."""

from __future__ import annotations

from typing import Any, NamedTuple

from swoosh.principal import name_of
from swoosh.signing import Signer


class NodeKey(NamedTuple):
    """The private key and the principal it signs as."""

    private: Signer
    principal: str

    @classmethod
    def of(cls, private: Any) -> NodeKey:
        """From ``cryptography``'s Ed25519PrivateKey."""
        return cls(private, name_of(private.public_key().public_bytes_raw()))
