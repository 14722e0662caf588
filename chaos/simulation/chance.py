"""Draws that depend on what they are for, not on how many were made before.

A stream of random numbers would shift all later draws when one step is taken out of a plan, and a smaller plan would
be another story. Here every draw is named (the n-th message on a link, the n-th request of a client), so what is left
of a plan goes on as it went before.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")


class Chance:
    """The draws of one run."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def at(self, *what: object) -> float:
        """A float in [0, 1) for this purpose; the same one whenever it is asked for."""
        drawn = blake2b(f"{self._seed}/{'/'.join(map(str, what))}".encode(), digest_size=6).digest()
        return int.from_bytes(drawn) / (1 << 48)

    def between(self, low: float, high: float, *what: object) -> float:
        """A float from `low` to `high`."""
        return low + (high - low) * self.at(*what)

    def pick(self, among: Sequence[T], *what: object) -> T:
        """One of several."""
        return among[int(self.at(*what) * len(among))]
