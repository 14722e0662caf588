"""THE hash: SHA-256 over typed preimages.

Every preimage begins with ``swoosh/<kind>/v1`` and a line feed, so that bytes of one kind can never be taken for
another. Hashes are written ``sha256-<64 hex>``; inside the two-level state hash the bare hex digits are used, since
those are the very bytes a reader concatenates (see docs/how-to/recompute-a-state-hash.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache
from hashlib import sha256
from typing import Any

from swoosh import canonical
from swoosh.errors import Malformed

PREFIX = "sha256-"
GENESIS = "genesis"
_HEX = frozenset("0123456789abcdef")


def preimage(kind: str, body: bytes) -> bytes:
    """``swoosh/<kind>/v1\\n`` followed by the body."""
    return _first_line(kind) + body


@cache
def _first_line(kind: str) -> bytes:
    return b"swoosh/" + kind.encode() + b"/v1\n"


def digest_hex(kind: str, body: bytes) -> str:
    """64 lower-case hex digits of the typed hash of ``body``."""
    return sha256(_first_line(kind) + body).hexdigest()


def digest(kind: str, value: Any) -> str:
    """``sha256-<hex>`` of the typed hash of the canonical bytes of ``value``."""
    return PREFIX + digest_hex(kind, canonical.encode(value))


def digest_bytes(data: bytes) -> bytes:
    """Plain SHA-256: to recognise bytes seen before, never to name them."""
    return sha256(data).digest()


def digest_file(chunks: Iterable[bytes]) -> str:
    """``sha256-<hex>`` of a file's bytes as they are: to tell that a copy arrived whole."""
    found = sha256()
    for chunk in chunks:
        found.update(chunk)
    return PREFIX + found.hexdigest()


@lru_cache(maxsize=4_096)  # a transition looks its signer and its task up several times
def key_path(key: str) -> str:
    """Where a key lives in a hash tree: the hex digits of its plain SHA-256."""
    return sha256(key.encode()).hexdigest()


def is_hex(text: str, digits: int) -> bool:
    """Whether ``text`` is exactly so many lower-case hex digits."""
    return len(text) == digits and _HEX.issuperset(text)


def normalise(text: str, what: str = "hash") -> str:
    """``sha256-<hex>`` from any accepted spelling: bare hex, ``sha256-`` or ``sha256:``; upper-case hex is folded.

    Raises:
        Malformed: anything else.
    """
    if text.startswith(PREFIX) and is_hex(text[len(PREFIX) :], 64):
        return text
    bare = text.lower().removeprefix("sha256-").removeprefix("sha256:")
    if not is_hex(bare, 64):
        raise Malformed(f"{what}: expected 64 hex digits, optionally after sha256- or sha256:, got {text[:80]!r}")
    return PREFIX + bare
