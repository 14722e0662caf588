"""The consensus core of one node: PySyncObj's SyncObj with its replication and its apply step replaced.

Kept from the library: roles, terms, the vote rule, the commit rule, the reply handler of a leader.
Replaced, because as shipped they lose acknowledged entries or can be made to:

* **Replication.** The library pipelines and then jumps back on each acknowledgement. Here a peer has at most one
  append with entries in flight (etcd calls it a Progress in probe state), bounded in size; in between it gets empty
  appends. There is no chunked path and no snapshot path, hence no pickle.
* **Apply.** A committed entry goes to the state machine exactly once, by index, and no-ops go too, so that the
  machine's own applied index never has holes. What the machine raises ends the process: the library would retry a
  raising entry for ever, on every node in turn.
* **Compaction** by the library is off.

Nothing here touches the disk or the network itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, cast

import pysyncobj.syncobj as library
from pysyncobj.node import Node
from pysyncobj.syncobj import SyncObj, SyncObjConf
from pysyncobj.transport import Transport

from cluster import faults
from cluster.clock import Clock
from cluster.entropy import Entropy
from cluster.faults import ExitCode
from cluster.raft import seams
from cluster.raft.journal import Journal

Message = dict[str, Any]

COMMAND_BYTES_MAX = 512 << 10
"""Longest command of one entry, its type byte included."""


class Role(Enum):
    """Raft §5.1."""

    FOLLOWER = auto()
    CANDIDATE = auto()
    LEADER = auto()


_ROLES = {
    library._RAFT_STATE.FOLLOWER: Role.FOLLOWER,
    library._RAFT_STATE.CANDIDATE: Role.CANDIDATE,
    library._RAFT_STATE.LEADER: Role.LEADER,
}


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, unless a name says otherwise."""

    heartbeat: float = 0.05
    election_min: float = 0.5
    election_max: float = 1.0
    skew_max_us: int = 500_000
    """A leader whose wall clock is further than this from the members' median hands over."""
    ahead_max_us: int = 2_000_000
    """A follower refuses new entries stamped further than this ahead of its own wall clock."""


class Member(Node):
    """A node id that hashes the same in every process, so that a seed replays the same schedule."""

    def __hash__(self) -> int:
        return zlib.crc32(self.id.encode())


@dataclass(frozen=True, slots=True)
class Flight:
    """An append with entries that its peer has not answered."""

    term: int
    last_index: int
    sent_at: float


class Suspended(Exception):
    """Nothing more is applied here; ends the library's walk through committed entries."""


class Replica(SyncObj):
    """SyncObj as this node runs it. Names without underscore are ours; they are methods, never properties, because
    the library calls `getattr` on every attribute while it is still half built."""

    def __init__(
        self,
        *,
        me: str,
        peers: Sequence[str],
        journal: Journal,
        transport: Transport,
        clock: Clock,
        entropy: Entropy,
        timing: Timing,
        apply: Callable[[int, int, bytes | None], object],
        on_elected: Callable[[], None],
        on_behind: Callable[[str], None],
    ) -> None:
        """`apply(index, term, payload)` gets every committed entry, None for a no-op; `on_elected` is told of a
        new leadership before anything is applied under it; `on_behind` of a peer that lacks what the log lacks too."""
        self._journal, self._clock, self._entropy, self._timing = journal, clock, entropy, timing
        self._apply, self._on_behind = apply, on_behind
        self._flights: dict[str, Flight] = {}
        self._applied = 1
        self._suspended = False
        self.may_campaign = False
        seams.install(clock)
        super().__init__(
            Member(me),
            [Member(peer) for peer in peers],
            conf=_configuration(timing, journal, on_elected),
            transport=transport,
        )
        self._SyncObj__serializer = None  # snapshots never go through the library

    # --- replaced steps of the library --------------------------------------------------------------------------------

    def _SyncObj__doApplyCommand(self, command: bytes) -> object:
        if self._suspended:
            raise Suspended
        index = self.raftLastApplied + 1
        if index <= self._applied:
            return None
        if index != self._applied + 1:
            faults.fatal(ExitCode.BUG, "an entry would be applied out of order", index=index, applied=self._applied)
        result = self._apply(index, cast(int, self._journal.term_at(index)), payload_of(command))
        self._applied = index
        return result

    def _SyncObj__applyLogEntries(self) -> bool:
        """Not while a barrier is under way: a state write would wait behind it, and rest on what is not durable."""
        try:
            return not self._journal.is_writing and bool(super()._SyncObj__applyLogEntries())
        except Suspended:
            return False

    def _SyncObj__sendAppendEntries(self) -> None:
        """Heartbeat: one append to every connected peer, with entries if it has none in flight and lacks some."""
        self._SyncObj__newAppendEntriesTime = self._clock.monotonic() + self._timing.heartbeat
        for peer in self.connected_peers():
            self._send_append(peer, entries=self._lacks_entries(peer))

    def _SyncObj__tryLogCompaction(self) -> None:
        """The library's compaction would dump the whole state as a pickle; ours is the store's business."""

    def _SyncObj__generateRaftTimeout(self) -> float:
        spread = self._timing.election_max - self._timing.election_min
        return self._timing.election_min + spread * self._entropy.random()

    # --- replication --------------------------------------------------------------------------------------------------

    def replicate(self) -> None:
        """Send what they lack to the peers that have nothing in flight. For a leader; at once, without a heartbeat."""
        if self.is_leader():
            for peer in self.connected_peers():
                if self._lacks_entries(peer):
                    self._send_append(peer, entries=True)

    def keep_alive(self) -> None:
        """A leader that is stalled is still there: empty appends at the pace of heartbeats. The commit index in them
        is that of the last tick, so whatever it covers is durable."""
        if self.is_leader() and self._clock.monotonic() > self._SyncObj__newAppendEntriesTime:
            self._SyncObj__newAppendEntriesTime = self._clock.monotonic() + self._timing.heartbeat
            for peer in self.connected_peers():
                self._send_append(peer, entries=False)

    def answered(self, peer: str, next_index: int, reset: bool) -> None:
        """A peer replied in this term: its append is no longer in flight if the reply covers it or rejects it."""
        flight = self._flights.get(peer)
        if flight and (reset or next_index > flight.last_index):
            del self._flights[peer]

    def move_on(self, peer: str, next_index: int) -> None:
        """What to send next to a peer whose acknowledgements count for nothing, nor as a sign that it is there."""
        self._SyncObj__raftNextIndex[Member(peer)] = next_index

    def forget(self, peer: str) -> None:
        """A link ended or began. What the peer acknowledged before may be gone (its disk may have been put back to an
        earlier state), so it counts for nothing until it is acknowledged again."""
        self._flights.pop(peer, None)
        self._SyncObj__raftMatchIndex[Member(peer)] = 0

    def _lacks_entries(self, peer: str) -> bool:
        following = self._next_index(peer)
        reachable = self._journal.first_index < following <= self._journal.last_index
        return reachable and self._flight(peer) is None

    def _flight(self, peer: str) -> Flight | None:
        """The append this peer still owes an answer to. One never answered is sent again after an election timeout:
        the peer may have refused it for its stamp, which it does in silence."""
        flight = self._flights.get(peer)
        overdue = self._clock.monotonic() - self._timing.election_max
        return flight if flight and flight.term == self.raftCurrentTerm and flight.sent_at > overdue else None

    def _next_index(self, peer: str) -> int:
        return min(self._SyncObj__raftNextIndex[Member(peer)], self._journal.last_index + 1)

    def _send_append(self, peer: str, *, entries: bool) -> None:
        journal, following = self._journal, self._next_index(peer)
        if following <= journal.first_index:
            # Our log no longer reaches back to this peer. An append after our last entry is refused there, which keeps
            # the peer patient and our seat ours, and moves nothing.
            following = journal.last_index + 1
            self._on_behind(peer)
        flight = self._flight(peer)
        previous = following - 1
        if flight and not entries and flight.last_index >= journal.first_index:  # the log may have been cut since
            previous = flight.last_index
        batch = journal[following - journal.first_index :] if entries else []
        if batch:
            self._flights[peer] = Flight(self.raftCurrentTerm, batch[-1][1], self._clock.monotonic())
        message = {
            "type": "append_entries",
            "term": self.raftCurrentTerm,
            "commit_index": self.raftCommitIndex,
            "prevLogIdx": previous,
            "prevLogTerm": journal.term_at(previous),
            "entries": batch,
        }
        self._SyncObj__transport.send(Member(peer), message)

    # --- what the guard and the driver ask and tell -------------------------------------------------------------------

    def role(self) -> Role:
        return _ROLES[self._SyncObj__raftState]

    def is_leader(self) -> bool:
        return self._isLeader()

    def leader_id(self) -> str | None:
        leader = self._getLeader()
        return leader.id if leader else None

    def member(self, peer: str) -> Node:
        """The library's name for a peer."""
        return Member(peer)

    def connected_peers(self) -> list[str]:
        return sorted(node.id for node in self._SyncObj__connectedNodes)

    def match_index(self, peer: str) -> int:
        """The last entry this peer is known to store; only meaningful on a leader."""
        return self._SyncObj__raftMatchIndex.get(Member(peer), 0)

    def is_alone(self) -> bool:
        """A group of one."""
        return not self._SyncObj__otherNodes

    def resume(self, applied: int) -> None:
        """Take up where the state store stands; every entry up to `applied` is in it."""
        self._applied = self._SyncObj__raftLastApplied = max(1, applied)
        self._SyncObj__raftCommitIndex = max(self.raftCommitIndex, self._applied)
        self._journal.setRaftCommitIndex(self.raftCommitIndex)

    def append(self, payload: bytes, callback: Callable[[object, int], None]) -> None:
        """Append one regular entry to the leader's own log, now. `callback(result, FAIL_REASON)` tells what became of
        it; it is called at most once, and never when the process stops first."""
        if len(payload) >= COMMAND_BYTES_MAX:
            faults.fatal(ExitCode.BUG, "a log entry is too long", bytes=len(payload), limit=COMMAND_BYTES_MAX - 1)
        self._applyCommand(payload, callback, library._COMMAND_TYPE.REGULAR)
        self._checkCommandsToApply()

    def refuse_forward(self, message: Message) -> None:
        """The library wants to forward a command to the leader. We never do: tell its caller, at once."""
        callback = self._SyncObj__commandsWaitingReply.pop(message.get("request_id", 0), None)
        if callback is not None:
            callback(None, library.FAIL_REASON.NOT_LEADER)

    def hand_over(self, peer: str) -> None:
        """Ask a peer that stores our whole log to campaign at once (Raft dissertation §3.10)."""
        self.transferLeadership(Member(peer))

    def receive(self, peer: str, message: Message) -> None:
        """Give the library a message that the guard has passed."""
        self._SyncObj__onMessageReceived(Member(peer), message)

    def election_deadline(self) -> float:
        return self._SyncObj__raftElectionDeadline

    def set_election_deadline(self, deadline: float) -> None:
        self._SyncObj__raftElectionDeadline = deadline

    def _SyncObj__connectedToAnyone(self) -> bool:
        """The library asks this in one place, right before it campaigns. Its clock is read again there, so a deadline
        that had not come when the guard looked may have come by now: who was not told to campaign does not."""
        return self.may_campaign and (self.is_alone() or bool(self._SyncObj__connectedNodes))

    def reset_election(self) -> None:
        """Wait a whole election timeout for a leader; a group of one need not wait for anybody."""
        patience = 0.0 if self.is_alone() else self._SyncObj__generateRaftTimeout()
        self.set_election_deadline(self._clock.monotonic() + patience)

    def suspend(self) -> None:
        """Apply nothing more, for the rest of this process. The log and the vote go on."""
        self._suspended = True

    def is_suspended(self) -> bool:
        return self._suspended

    def end_transfer(self) -> None:
        """Listen to the leader again although it once asked us to take over."""
        self._SyncObj__transferInProgress = False


def payload_of(command: bytes) -> bytes | None:
    """The state machine's part of a command: None for a no-op."""
    return command[1:] if command[0] == library._COMMAND_TYPE.REGULAR else None


def _configuration(timing: Timing, journal: Journal, on_elected: Callable[[], None]) -> SyncObjConf:
    def on_state(_old: int, new: int) -> None:
        if _ROLES[new] is Role.LEADER:
            on_elected()

    return SyncObjConf(
        autoTick=False,
        journalFile=journal,  # type: ignore[arg-type]  # see seams._given_journal
        appendEntriesUseBatch=True,
        appendEntriesPeriod=timing.heartbeat,
        raftMinTimeout=timing.election_min,
        raftMaxTimeout=timing.election_max,
        leaderFallbackTimeout=timing.election_max,
        connectionTimeout=2 * timing.election_max,
        commandsWaitLeader=False,
        dynamicMembershipChange=False,
        onStateChanged=on_state,
    )
