"""What a node holds back while its disk is slow.

From the moment a barrier was not done in time until it is, the node is *stalled*: its consensus core is frozen. Nothing
enters it (messages of peers wait here, in order), it is not ticked, it appends and applies nothing, and what rests on
the write under way (acknowledgements, votes, requests for votes) waits here too. So a slow sync looks to the core like
a fast one in a slow moment, and every argument made for the waiting barrier still holds.

The event loop lives. Links stay up, clocks are compared, local reads and `/health` answer, and a leader goes on with
empty heartbeats, which vouch for nothing that is not durable already. Only for `election_min`, though: a leader that
cannot write is no leader, so it then falls silent, and the others elect one that can.

What waits belongs to one link and dies with it: a message of an ended link must never be answered on the next.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from cluster.clock import Clock
from cluster.raft.journal import Journal

Message = dict[str, Any]

HELD_BYTES_MAX = 8 << 20
"""What one peer may have waiting; one that sends more loses its link, and starts over on the next."""
MESSAGE_BYTES = 256
"""What a message without entries counts for."""


class Stall:
    """Both queues of one node, and since when there are any."""

    def __init__(
        self,
        journal: Journal,
        *,
        clock: Clock,
        raw: Callable[[str, Message], bool],
        reset: Callable[[str], None],
    ) -> None:
        """`raw(peer, message)` sends past the guard; `reset(peer)` ends the link to a peer."""
        self._journal, self._clock, self._raw, self._reset = journal, clock, raw, reset
        self._inbound: deque[tuple[str, Message]] = deque()
        self._outbound: deque[tuple[str, Message]] = deque()
        self._bytes: Counter[str] = Counter()
        self._since: float | None = None

    @property
    def is_on(self) -> bool:
        """The core is frozen: a barrier is under way, or what waited for one has not had its turn yet."""
        return self._journal.is_writing or bool(self._inbound) or bool(self._outbound)

    @property
    def seconds(self) -> float | None:
        """For how long the node has been stalled; None = it is not."""
        if not self.is_on:
            return None
        if self._since is None:
            self._since = self._clock.monotonic()
        return self._clock.monotonic() - self._since

    def once_durable(self, peer: str, message: Message) -> Message | None:
        """The message, if all it may promise is durable; else None, and it leaves when that is so. With it goes `b`,
        the number of the batch that made it durable, or of a later one."""
        if not self._outbound and self._journal.begin_barrier():
            return self._vouched(message)
        self._outbound.append((peer, message))
        return None

    def hold(self, peer: str, message: Message) -> bool:
        """Keep what a peer said for later; False = the node is not stalled, take it now."""
        if not self.is_on:
            return False
        self._bytes[peer] += MESSAGE_BYTES + sum(len(command) for command, _, _ in message.get("entries", ()))
        if self._bytes[peer] > HELD_BYTES_MAX:
            self._reset(peer)
        else:
            self._inbound.append((peer, message))
        return True

    def forget(self, peer: str) -> None:
        """The link ended, and what it carried with it."""
        self._inbound = deque(held for held in self._inbound if held[0] != peer)
        self._outbound = deque(held for held in self._outbound if held[0] != peer)
        del self._bytes[peer]

    def end(self) -> tuple[float, deque[tuple[str, Message]]] | None:
        """If everything is durable now: send what waited to leave; seconds it took, and what waits to come in."""
        seconds = self.seconds or 0.0
        if not self._journal.begin_barrier():
            return None
        inbound, self._inbound = self._inbound, deque()
        self._since = None
        self._bytes.clear()
        while self._outbound:
            peer, message = self._outbound.popleft()
            self._raw(peer, self._vouched(message))
        return seconds, inbound

    def _vouched(self, message: Message) -> Message:
        return message | {"b": self._journal.sequence}
