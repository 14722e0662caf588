"""What this node knows of the members' stores: which store of each member counts, and how far it was seen to sync.

A vote or an acknowledgement is a promise kept on a disk. If the disk is wiped or put back to an older state, the
promise is gone and nothing in the message that comes from there says so. Two things tell it:

* **Incarnation**: random, drawn when a store is created. The first one seen of a member is the one that counts, until
  the replicated state names another. A member with any other store is sent entries, and counts for nothing.
* **Sequence**: a store numbers its synced batches. Members pass on the highest number they know of each other, so a
  store that comes back with a smaller one has lost something others have seen, and everybody can tell, itself too.

This module must never act: it is told what was said, and answers what that amounts to. Keeping it across restarts,
closing links and stopping the node are for journal.py, driver.py and guard.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from cluster.storage import layout

DOCUMENT = layout.MEMBERS
"""Where the journal keeps this, beside term and vote."""


class Known(NamedTuple):
    """A store: its incarnation (hex) and the highest number of a synced batch seen of it."""

    incarnation: str
    sequence: int


Seen = Mapping[str, tuple[str, int]]
"""What one node knows of every member's store, itself included; travels in hellos and appends."""


@dataclass(slots=True)
class Linked:
    """What is at the other end of a link. ``sequence`` is the highest number it has named over this link."""

    incarnation: str
    rejoining: bool
    sequence: int


class Members:
    """The stores of one node's peers."""

    def __init__(self, peers: Sequence[str], known: Mapping[str, Known] | None = None) -> None:
        self._peers = frozenset(peers)
        self._known = dict(known or {})
        self._linked: dict[str, Linked] = {}

    @classmethod
    def decode(cls, peers: Sequence[str], document: bytes | None) -> Members:
        """As `encode` wrote it; nothing known where there is none."""
        return cls(peers, msgspec.msgpack.decode(document, type=dict[str, Known]) if document else None)

    def encode(self) -> bytes:
        """What must outlive this process."""
        return msgspec.msgpack.encode(self._known)

    # --- what is heard ------------------------------------------------------------------------------------------------

    def seen(self, me: str, own: Known) -> dict[str, tuple[str, int]]:
        """What to tell the others."""
        return {me: own, **self._known}

    def hear(self, sender: str, seen: Seen) -> bool:
        """What another knows. True if a store counts from now on, which must be synced before it does.

        Nobody vouches for himself here: whether the sender's own store may count is for `link` to say.
        """
        pinned = False
        for peer, (incarnation, sequence) in seen.items():
            pinned |= peer != sender and self._pin(peer, incarnation)
            self.note(peer, incarnation, sequence)
        return pinned

    def note(self, peer: str, incarnation: str, sequence: int) -> None:
        """A store was seen to have synced this much."""
        known = self._known.get(peer)
        if known is not None and known.incarnation == incarnation and known.sequence < sequence:
            self._known[peer] = Known(incarnation, sequence)

    def lost(self, peer: str, incarnation: str, sequence: int) -> int:
        """How many synced batches the store that counts has lost, if this is it and claims `sequence`."""
        known = self._known.get(peer)
        return max(0, known.sequence - sequence) if known is not None and known.incarnation == incarnation else 0

    # --- links --------------------------------------------------------------------------------------------------------

    def link(self, peer: str, incarnation: str, sequence: int, *, rejoining: bool) -> bool:
        """A link is up. A rejoining store never counts for being the first one seen. True as in `hear`."""
        self._linked[peer] = Linked(incarnation, rejoining, sequence)
        pinned = not rejoining and self._pin(peer, incarnation)
        self.note(peer, incarnation, sequence)
        return pinned

    def unlink(self, peer: str) -> None:
        """The link is down."""
        self._linked.pop(peer, None)

    def linked(self, peer: str) -> Linked | None:
        """What is at the other end, while there is a link."""
        return self._linked.get(peer)

    # --- what counts --------------------------------------------------------------------------------------------------

    def counts(self, peer: str) -> bool:
        """Whether what this peer says over its link is the member's word."""
        known, linked = self._known.get(peer), self._linked.get(peer)
        return known is not None and linked is not None and known.incarnation == linked.incarnation

    def accept(self, peer: str, incarnation: str) -> bool:
        """The replicated state names the store that counts; numbers seen of another one mean nothing for it.

        True as in `hear`: a node that forgot this in a power cut would not count a member that others do.
        """
        known = self._known.get(peer)
        if peer not in self._peers or (known is not None and known.incarnation == incarnation):
            return False
        self._known[peer] = Known(incarnation, 0)
        return True

    def waiting(self) -> dict[str, str]:
        """{peer: incarnation} of the stores that came to be accepted in another's place."""
        found = self._linked.items()
        return {peer: linked.incarnation for peer, linked in found if linked.rejoining and not self.counts(peer)}

    def _pin(self, peer: str, incarnation: str) -> bool:
        if peer not in self._peers or peer in self._known:
            return False
        self._known[peer] = Known(incarnation, 0)
        return True
