"""A bounded number of those who wait for one thing on this node.

Whoever waits costs a connection, a timer and a place in a list, and anybody may ask for what never comes. So there are
only so many seats for each such thing; who finds none is told at once, and can go elsewhere or come again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Crowded(Exception):
    """Every seat is taken. Nothing was begun."""


class Seats:
    """So many may wait at a time. ``what`` names them in the refusal: "512 reads wait on this node already"."""

    def __init__(self, most: int, what: str) -> None:
        self._most, self._what, self._taken = most, what, 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait on a seat.

        Raises:
            Crowded: there is none.
        """
        if self._taken >= self._most:
            raise Crowded(f"{self._most} {self._what} wait on this node already")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
