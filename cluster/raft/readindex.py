"""Linearizable reads without a log entry (Raft dissertation §6.4, "ReadIndex").

A leader may answer from its state only if it is still the leader, which it cannot know by itself. So it notes its
commit index, asks the members whether they know a newer term (`ri {id, t}`, answered by `ri_ok {id, t}` only while the
terms are equal), and once a majority has answered, the noted index is one at which a read is linearizable.

* A read joins only a round whose questions leave after the read arrived; one round is open at a time, and everybody who
  comes meanwhile shares the next. A busy leader so confirms itself once per round trip, whatever the read rate.
* A new leader knows its commit index only when an entry of its own term is committed; reads wait for that no-op.
* No clock is trusted: there is no lease.

This module confirms; waiting until the index is applied, and asking on a follower's behalf, is the driver's part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.clock import Clock, Handle
from cluster.raft.journal import Journal
from cluster.raft.replica import Replica, Timing

Message = dict[str, Any]


class Unavailable(Exception):
    """A read cannot be answered as asked. Nothing has happened; asking again, also elsewhere, is safe."""


class NotLeader(Unavailable):
    """This node does not lead, or ceased to while the question was open."""


class NoQuorum(Unavailable):
    """The deadline passed before a majority confirmed the leader, or before this node had applied what they confirm."""


Answer = Callable[[int | Unavailable], None]
"""Called once, with the index or the refusal."""


@dataclass(eq=False, slots=True)
class Read:
    """One waiting question."""

    answer: Answer
    timer: Handle


@dataclass(slots=True)
class Round:
    """One question to the members, on behalf of all `reads`."""

    id: int
    term: int
    index: int
    sent_at: float
    reads: list[Read]
    confirmed: set[str] = field(default_factory=set)


class ReadIndex:
    """The rounds of one node. `tick` moves them; `on_question` and `on_answer` take the peers' messages."""

    def __init__(
        self,
        core: Replica,
        journal: Journal,
        *,
        peers: Sequence[str],
        raw: Callable[[str, Message], bool],
        clock: Clock,
        timing: Timing,
    ) -> None:
        self._core, self._journal, self._peers, self._raw = core, journal, tuple(peers), raw
        self._clock, self._timing = clock, timing
        self._waiting: list[Read] = []
        self._round: Round | None = None
        self._last_id = 0

    def ask(self, answer: Answer, deadline: float) -> None:
        """Queue a question. `answer` gets the index, NotLeader, or at `deadline` (monotonic seconds) NoQuorum."""
        read = Read(answer, self._clock.call_later(deadline - self._clock.monotonic(), lambda: self._expire(read)))
        self._waiting.append(read)

    def tick(self) -> None:
        """Open the next round, or repeat the open one's questions where no answer came; on a follower, refuse all."""
        if not self._core.is_leader() or (self._round and self._round.term != self._core.raftCurrentTerm):
            self.refuse_all(NotLeader("leadership changed hands while the read waited"))
        elif self._round is not None:
            if self._clock.monotonic() - self._round.sent_at >= 2 * self._timing.heartbeat:
                self._send_questions(self._round)
        elif self._waiting and self._journal.term_at(self._core.raftCommitIndex) == self._core.raftCurrentTerm:
            self._open_round()

    def refuse_all(self, refusal: Unavailable) -> None:
        reads = (self._round.reads if self._round else []) + self._waiting
        self._round, self._waiting = None, []
        _answer(reads, refusal)

    def on_question(self, peer: str, message: Message) -> None:
        if message["t"] == self._core.raftCurrentTerm:
            self._raw(peer, {"type": "ri_ok", "id": message["id"], "t": message["t"]})

    def on_answer(self, peer: str, message: Message) -> None:
        current = self._round
        if current and (message["id"], message["t"]) == (current.id, current.term) and self._leads(current.term):
            current.confirmed.add(peer)
            self._close_if_confirmed(current)

    def _leads(self, term: int) -> bool:
        return self._core.is_leader() and self._core.raftCurrentTerm == term

    def _open_round(self) -> None:
        self._last_id += 1
        reads, self._waiting = self._waiting, []
        self._round = Round(self._last_id, self._core.raftCurrentTerm, self._core.raftCommitIndex, 0.0, reads)
        self._send_questions(self._round)
        self._close_if_confirmed(self._round)

    def _send_questions(self, current: Round) -> None:
        current.sent_at = self._clock.monotonic()
        for peer in self._peers:
            if peer not in current.confirmed:
                self._raw(peer, {"type": "ri", "id": current.id, "t": current.term})

    def _close_if_confirmed(self, current: Round) -> None:
        if 2 * (len(current.confirmed) + 1) > len(self._peers) + 1:
            self._round = None
            _answer(current.reads, current.index)

    def _expire(self, read: Read) -> None:
        for reads in (self._waiting, self._round.reads if self._round else []):
            if read in reads:
                reads.remove(read)
        if self._round and not self._round.reads:
            self._round = None
        read.answer(NoQuorum("no majority confirmed this leader in time"))


def _answer(reads: list[Read], outcome: int | Unavailable) -> None:
    for read in reads:
        read.timer.cancel()
        read.answer(outcome)
