"""Randomness: the only module of the node that draws a random number, a token or an id.

Everything else is handed an `Entropy`, so that a seed replays a simulated run exactly. Nothing drawn here may decide
what the replicated machine does: it only spreads timers, names requests and makes nonces that are then written down.
"""

from __future__ import annotations

import random
import secrets
import uuid
from typing import Protocol


class Entropy(Protocol):
    """A source of randomness."""

    def random(self) -> float:
        """A float in [0, 1)."""
        ...

    def token(self, n: int) -> bytes:
        """`n` unpredictable bytes."""
        ...

    def uuid(self) -> str:
        """A random UUID (RFC 9562, version 4) in its 36-character form."""
        ...


class SystemEntropy:
    """The operating system's generator."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def random(self) -> float:
        return self._random.random()

    def token(self, n: int) -> bytes:
        return secrets.token_bytes(n)

    def uuid(self) -> str:
        return str(uuid.uuid4())


class SeededEntropy:
    """A generator that repeats itself: the same seed gives the same draws. For tests and the simulator only."""

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(seed)

    def random(self) -> float:
        return self._random.random()

    def token(self, n: int) -> bytes:
        return self._random.randbytes(n)

    def uuid(self) -> str:
        return str(uuid.UUID(bytes=self.token(16), version=4))
