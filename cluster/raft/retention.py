"""How much of the log stays, and what becomes of a peer that needs more than that.

The log is cut behind the newest snapshot that was checked, never closer to the end than the entries that slower peers
may still ask for. Who is further behind than the cut cannot be helped by entries: the leader tells it where its log
begins (`behind`), the peer installs a snapshot (install.py) and says which one (`installing`). That is a lease: from
that entry on the log stays, or the peer would be behind again by the time it is done. Leases are bounded in time and
bytes, since a peer that never finishes must not fill the disk of the others.

The cut itself is the journal's. Nothing here reads or writes a snapshot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from cluster.clock import Clock
from cluster.raft.journal import Journal
from cluster.raft.replica import Replica

Message = dict[str, Any]

BEHIND_SECONDS = 1.0
"""Between two reminders to one peer; each of its answers finds the leader it has now."""
LEASE_SECONDS = 600.0
LEASE_BYTES = 1 << 30
SHARE = 10
"""A cut drops at least one entry of so many there are: each cut is a range that reads have to pass from then on."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Keep:
    """What stays of the log behind the newest snapshot: so many entries, unless they are more than so many bytes."""

    entries: int = 10_000
    size: int = 256 << 20


KEEP = Keep()


@dataclass(frozen=True, slots=True)
class Lease:
    """The log stays from `index` on, until then."""

    index: int
    until: float


class Retention:
    """One node's share; it tells peers and grants leases while it leads."""

    def __init__(
        self, core: Replica, journal: Journal, *, raw: Callable[[str, Message], bool], clock: Clock, keep: Keep
    ) -> None:
        self._core, self._journal, self._raw, self._clock, self._keep = core, journal, raw, clock, keep
        self._told: dict[str, float] = {}
        self._leases: dict[str, Lease] = {}
        self.install: Callable[[str, int], int | None] = lambda leader, least: None
        """Called on a follower: install a snapshot at `least` or later. Gives the index of the one on its way."""

    # --- the cut ------------------------------------------------------------------------------------------------------

    def cut(self, behind: int, applied: int) -> bool:
        """Drop from the log what is neither kept nor leased. Between two ticks; the next barrier makes it durable.

        Two entries stay at least, the last applied one and the one before it: a restart needs them.
        """
        journal = self._journal
        kept = max(journal.last_index - self._keep.entries + 1, 0)
        if journal.size > self._keep.size:
            kept = max(kept, journal.first_within(self._keep.size))
        first = min(kept, behind - 1, applied - 1, *self.leases().values())
        if SHARE * (first - journal.first_index) < len(journal):
            return False
        _log.info("log cut", before=first, was=journal.first_index, last=journal.last_index)
        journal.cut_before(first)
        return True

    def is_full(self) -> bool:
        """The log is longer than what should be kept of it, in bytes: a snapshot is due."""
        return self._journal.size > self._keep.size

    def leases(self) -> dict[str, int]:
        """The peers that install a snapshot, and from which entry on the log waits for them."""
        now, too_long = self._clock.monotonic(), self._journal.size > LEASE_BYTES
        for peer, lease in list(self._leases.items()):
            if too_long or now >= lease.until or self._core.match_index(peer) >= lease.index:
                del self._leases[peer]
        return {peer: lease.index for peer, lease in self._leases.items()}

    # --- between the leader and a peer that is behind -----------------------------------------------------------------

    def tell(self, peer: str) -> None:
        """On the leader: the log does not reach back to this peer."""
        now, first = self._clock.monotonic(), self._journal.first_index
        if now - self._told.get(peer, -BEHIND_SECONDS) >= BEHIND_SECONDS:
            self._told[peer] = now
            term, first_term = self._core.raftCurrentTerm, self._journal.term_at(first)
            self._raw(peer, {"type": "behind", "t": term, "first": first, "first_term": first_term})

    def on_behind(self, peer: str, message: Message) -> None:
        """On a follower: the leader's log begins at `first`. Who has applied or stored that entry is not behind."""
        first = message["first"]
        if (peer, message["t"]) != (self._core.leader_id(), self._core.raftCurrentTerm):
            return
        if first <= self._core.raftLastApplied or self._journal.term_at(first) == message["first_term"]:
            return
        index = self.install(peer, first)
        if index is not None:
            self._raw(peer, {"type": "installing", "t": message["t"], "index": index})

    def on_installing(self, peer: str, message: Message) -> None:
        """On the leader: a peer installs the snapshot at `index`."""
        if message["t"] != self._core.raftCurrentTerm or not self._core.is_leader():
            return
        known = self._leases.get(peer)
        if known is None or known.index != message["index"]:
            _log.info("a peer installs a snapshot", peer=peer, index=message["index"])
            self._leases[peer] = Lease(message["index"], self._clock.monotonic() + LEASE_SECONDS)
