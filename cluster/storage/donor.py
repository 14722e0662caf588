"""Lends this node's snapshots to peers that fell behind, one peer at a time.

A snapshot that is lent stays until its borrower has been silent for a while: `Snapshots` asks `is_lent` before it
removes one. Nothing is copied or held in memory, and nothing here decides who should install what.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from cluster.clock import Clock
from cluster.storage.incoming import File, Offer
from swoosh.snapshot import Manifest

LOAN_SECONDS = 60.0
"""A borrower that has asked for nothing for so long has found another donor, or died."""
READ_BYTES_MAX = 1 << 20


class Lendable(Protocol):
    """What a shelf of snapshots must be able to do for it (cluster/storage/snapshots.py)."""

    def manifests(self) -> list[Manifest]: ...

    async def files(self, index: int) -> tuple[File, ...]:
        """The files of the complete snapshot at `index`."""
        ...

    async def read(self, index: int, name: str, offset: int, size: int) -> bytes:
        """Up to `size` bytes of one of them."""
        ...


@dataclass(slots=True)
class Loan:
    """Who borrows which snapshot, and its files in the order in which they are read."""

    peer: str
    index: int
    until: float
    files: tuple[File, ...] = ()

    def is_read(self, name: str, end: int) -> bool:
        """Whether nothing is left after these bytes of this file."""
        last = self.files[-1]
        return name == last.name and end >= last.size


class Donor:
    """One node's lending desk."""

    def __init__(self, node: str, shelf: Lendable, clock: Clock) -> None:
        self._node, self._shelf, self._clock = node, shelf, clock
        self._loan: Loan | None = None

    @property
    def loan(self) -> Loan | None:
        """The loan that is still alive, or None."""
        if self._loan is not None and self._clock.monotonic() >= self._loan.until:
            self._loan = None
        return self._loan

    def is_lent(self, index: int) -> bool:
        """Whether somebody is reading this snapshot."""
        return self.loan is not None and self.loan.index == index

    def newest(self) -> Manifest | None:
        """The newest snapshot there is, or None."""
        return max(self._shelf.manifests(), key=lambda manifest: manifest.last_applied_index, default=None)

    async def offer(self, peer: str, index: int) -> Offer | None:
        """The snapshot at `index`, lent to `peer` from now on; None if it is gone, or another peer borrows one."""
        if self.loan is not None and self.loan.peer != peer:
            return None
        manifest = next((each for each in self._shelf.manifests() if each.last_applied_index == index), None)
        if manifest is None:
            return None
        loan = self._loan = Loan(peer, index, math.inf)
        try:
            files = await self._shelf.files(index)
        finally:
            loan.until = self._due()
        loan.files = files
        return Offer(self._node, manifest, files)

    async def read(self, peer: str, index: int, name: str, offset: int, size: int) -> bytes | None:
        """A piece of a file of the snapshot lent to `peer`, empty behind its end; None if it is not lent to it."""
        loan = self.loan
        if loan is None or (loan.peer, loan.index) != (peer, index) or name not in (file.name for file in loan.files):
            return None
        loan.until = self._due()
        piece = await self._shelf.read(index, name, offset, min(size, READ_BYTES_MAX))
        if loan.is_read(name, offset + len(piece)) and self._loan is loan:
            self._loan = None  # others may be waiting for it
        return piece

    def _due(self) -> float:
        return self._clock.monotonic() + LOAN_SECONDS
