"""`Raft`: what the node sees of consensus. It ticks the core, feeds it proposals, and says what became of them.

One event loop, no thread but the journal's writer. A tick is short and always in this order:

1. the core commits, applies, and answers the proposals that were applied;
2. the leader appends what waits (one entry gathers everything that queued up during the last round trip);
3. the new entries go on the wire, so that the followers sync while
4. this node's own barrier syncs them; only then may they count towards a commit;
5. reads that were confirmed and applied are released.

A tick runs after every read that delivered messages, when `kick`ed, and on a timer; none while the node is stalled,
which is to say while its barrier takes long (stall.py). An exception inside one ends the
process: the core may be half-way through a handler, and only a restart from disk is known to be whole.

The driver never retries a proposal and never guesses its fate: what it cannot know is `Fate.UNKNOWN`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NoReturn, Protocol, cast

import structlog
from pysyncobj.config import FAIL_REASON
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from cluster import faults
from cluster.clock import Clock, Handle
from cluster.entropy import Entropy
from cluster.faults import ExitCode
from cluster.raft.guard import Guard, Refused
from cluster.raft.journal import Journal
from cluster.raft.members import DOCUMENT, Members
from cluster.raft.readindex import Answer, NoQuorum, NotLeader, ReadIndex, Unavailable
from cluster.raft.replica import Replica, Role, Timing, payload_of
from cluster.raft.retention import KEEP, Keep, Retention
from cluster.raft.skew import PROBE_SECONDS, Skew
from cluster.raft.stall import Stall
from cluster.raft.wire import Hello

__all__ = [
    "Fate",
    "Identity",
    "Keep",
    "Links",
    "Machine",
    "NoQuorum",
    "NotLeader",
    "PeerStatus",
    "Raft",
    "Role",
    "Timing",
    "Unavailable",
]

Message = dict[str, Any]
Done = Callable[["Fate", object], None]
"""Told once what became of a proposal; with COMMITTED comes what `Machine.apply` returned for its entry."""

UNCOMMITTED_ENTRIES_MAX = 8
UNCOMMITTED_BYTES_MAX = 2 << 20
REPLAY_ENTRIES = 64
"""Entries applied at start between two chances for everything else on the loop."""
WITNESS_SYNC_SECONDS = 60.0
WITHOUT_CORE = frozenset({"clock", "clock_ok"})
"""Messages that a stalled node takes at once."""

_log = structlog.get_logger(__name__)


class Fate(Enum):
    """What became of a proposal."""

    COMMITTED = auto()
    REFUSED = auto()
    """Never appended, or discarded for good: it will never be applied. Proposing it again is safe."""
    UNKNOWN = auto()
    """It may or may not be applied, now or later. Only an idempotency key can tell."""


_FATES = {
    FAIL_REASON.SUCCESS: Fate.COMMITTED,
    FAIL_REASON.QUEUE_FULL: Fate.REFUSED,
    FAIL_REASON.MISSING_LEADER: Fate.REFUSED,
    FAIL_REASON.NOT_LEADER: Fate.REFUSED,
    FAIL_REASON.REQUEST_DENIED: Fate.REFUSED,
    FAIL_REASON.DISCARDED: Fate.REFUSED,  # another term's entry was committed at its index
    FAIL_REASON.LEADER_CHANGED: Fate.UNKNOWN,
    FAIL_REASON.UNKNOWN_OUTCOME: Fate.UNKNOWN,
}


class Machine(Protocol):
    """The replicated state machine, as the log drives it. None of these may raise."""

    def next_entry(self, term: int, stamp: int) -> tuple[bytes, Done] | None:
        """The next entry to append, stamped with `stamp` (microseconds) by its writer; None when nothing waits."""
        ...

    def apply(self, index: int, term: int, payload: bytes | None) -> object:
        """Apply a committed entry, each index once and in order, and store the index with the outcome, also for None
        (a no-op of Raft's own)."""
        ...

    def stamp_of(self, payload: bytes) -> int:
        """The stamp in an entry's envelope, microseconds. Raises Corrupt, the only one here, for what is no entry."""
        ...

    def applied_stamp(self) -> int:
        """The newest stamp in the state, microseconds; 0 before the first."""
        ...

    def on_role(self, role: Role, term: int, leader: str | None) -> None:
        """Role, term or known leader changed. Called before `next_entry` of a new term."""
        ...


class Link(Protocol):
    """What the transport knows of one peer."""

    @property
    def connected(self) -> bool: ...
    @property
    def last_heard(self) -> float: ...


class Links(Protocol):
    """The transport, as far as the driver uses it; also a `pysyncobj.transport.Transport`. See transport.py."""

    receiver: Any
    guard: Any

    def raw(self, peer_id: str, message: Message, /) -> bool: ...
    def reset(self, peer_id: str, /) -> None: ...
    def peers(self) -> Any: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def _onNodeConnected(self, node: Node, /) -> None: ...
    def _onNodeDisconnected(self, node: Node, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """The constant fields of this node's hello."""

    cluster_id: str
    genesis_hash: str
    config_epoch: int
    member_set_hash: str
    chart_hash: str
    reducer_version: str


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One peer as this node sees it. `match_index` and `lag` (entries) mean something on the leader only.

    `counts` says that its votes and copies do: it is linked, with the store that is accepted for this member.
    `incarnation` is that of the store at the other end, `rejoining` that it waits to be accepted.
    """

    id: str
    reachable: bool
    match_index: int
    lag: int
    last_contact_ms: int | None
    counts: bool
    rejoining: bool
    incarnation: str | None


@dataclass(slots=True)
class Transfer:
    """A leader on its way out: nothing is appended until it is over."""

    to: str | None
    until: float
    over: Callable[[], object]
    asked: bool = False


class Raft:
    """One node's share in the group. Build it, `start` it; everything happens on the running event loop."""

    def __init__(
        self,
        *,
        me: str,
        members: tuple[str, ...],
        journal: Journal,
        transport: Links,
        machine: Machine,
        clock: Clock,
        entropy: Entropy,
        timing: Timing,
        identity: Identity,
        applied: int,
        keep: Keep = KEEP,
    ) -> None:
        """`applied` is the index up to which the state store holds every entry; 0 for a new one. `keep` is what stays
        of the log when it is cut.

        Stops the node (DAMAGED) when the log does not reach from `applied` on.
        """
        self.me, self.peer_ids = me, tuple(sorted(set(members) - {me}))
        self._journal, self._transport, self._machine = journal, transport, machine
        self._clock, self._timing, self._identity = clock, timing, identity
        self._applied_at_start = applied
        self._seen: tuple[Role, int, str | None] = (Role.FOLLOWER, journal.getCurrentTerm(), None)
        if not journal.reaches(applied):
            log = (journal.first_index, journal.last_index)
            faults.fatal(ExitCode.DAMAGED, "the log does not reach the state", log=log, applied=applied)
        self._core = Replica(
            me=me, peers=self.peer_ids, journal=journal, transport=cast(Transport, transport), clock=clock,
            entropy=entropy, timing=timing, apply=self._apply, on_elected=self._observe,
            on_behind=self._on_lagging,
        )  # fmt: skip
        self._skew = Skew(peers=self.peer_ids, raw=transport.raw, clock=clock, limit_us=timing.skew_max_us)
        self._stall = Stall(journal, clock=clock, raw=transport.raw, reset=transport.reset)
        journal.on_written = self._on_written
        self._members = Members.decode(self.peer_ids, journal.kept(DOCUMENT))
        journal.keep(DOCUMENT, self._members.encode)
        self._guard = Guard(
            self._core, journal, me=me, peers=self.peer_ids, members=self._members, raw=transport.raw,
            stamp_of=machine.stamp_of,
            skew=self._skew, stall=self._stall, clock=clock, entropy=entropy, timing=timing,
        )  # fmt: skip
        self._reads = ReadIndex(self._core, journal, peers=self.peer_ids, raw=transport.raw, clock=clock, timing=timing)
        self.retention = Retention(self._core, journal, raw=transport.raw, clock=clock, keep=keep)
        self._handlers: dict[str, Callable[[str, Message], None]] = {
            "clock": self._skew.on_probe,
            "clock_ok": self._skew.on_answer,
            "behind": self.retention.on_behind,
            "installing": self.retention.on_installing,
            "ri": self._on_read_question,
            "ri_ok": self._on_read_answer,
            "index_query": self._on_index_query,
            "index_answer": self._on_index_answer,
        }
        transport.receiver, transport.guard = self, self._guard
        self.may_lead: Callable[[Hello], bool] = lambda hello: True
        """Whom leadership may be handed to, by what it said of itself when its link came up."""
        self.suspended: str | None = None
        """Why nothing is applied here any more; None while it is."""
        self._hellos: dict[str, Hello] = {}
        self.refused: Counter[str] = Counter()
        """Messages that cost a peer its link, by type."""
        self._proposals: dict[int, Done] = {}
        self._queries: dict[int, tuple[str, Answer]] = {}
        self._applied_waits: list[tuple[int, int, asyncio.Future[None]]] = []
        self._ids = itertools.count(1)
        self._transfer: Transfer | None = None
        self._timer: Handle | None = None
        self._kicked = self._stopped = False
        self._probed_at = self._witnessed_at = clock.monotonic()

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Apply what is known to be committed and not yet applied, then take part in the group."""
        await self._replay()
        self._core.reset_election()
        self._machine.on_role(*self._seen)
        await self._transport.start()
        self._on_timer()

    async def stop(self) -> None:
        """Leave the group. Proposals still open are UNKNOWN, the log is durable; who opened the store closes it."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        await self._transport.stop()
        self._journal.close()
        self._end_transfer()
        self._reads.refuse_all(NotLeader("this node stops"))
        for _, _, applied in self._applied_waits:
            _fail(applied, NotLeader("this node stops"))
        for _, answer in list(self._queries.values()):
            answer(NotLeader("this node stops"))
        for done in list(self._proposals.values()):
            done(Fate.UNKNOWN, None)
        self._proposals.clear()

    async def _replay(self) -> None:
        """In slices, with nobody waiting: the core would apply everything in one tick and miss its heartbeats."""
        journal, commit = self._journal, max(self._journal.getRaftCommitIndex(), self._applied_at_start)
        applied = self._applied_at_start
        for index in range(applied + 1, commit + 1):
            if self.suspended is not None:
                break
            command, _, term = journal.entry(index)
            self._apply(index, term, payload_of(command))
            applied = index
            if index % REPLAY_ENTRIES == 0:
                await self._clock.sleep(0)
        self._core.resume(applied)

    def _apply(self, index: int, term: int, payload: bytes | None) -> object:
        try:
            return self._machine.apply(index, term, payload)
        except Exception as error:
            _bug("the state machine raised", error, index=index)

    # --- ticks --------------------------------------------------------------------------------------------------------

    def kick(self) -> None:
        """Something waits to be proposed or read: tick as soon as the running callback is done."""
        if not self._kicked:
            self._kicked = True
            self._clock.call_later(0, self._tick)

    def _on_timer(self) -> None:
        now = self._clock.monotonic()
        if now - self._probed_at >= PROBE_SECONDS:
            self._probed_at = now
            for peer in self.peer_ids:
                self._skew.probe(peer)
        if now - self._witnessed_at >= WITNESS_SYNC_SECONDS:
            self._witnessed_at = now
            self._journal.sync_witness()
        self._tick()
        stalled = self._stall.seconds
        if stalled is not None and stalled < self._timing.election_min:
            self._core.keep_alive()
        self._timer = self._clock.call_later(self._timing.heartbeat / 2, self._on_timer)

    def _tick(self) -> None:
        self._kicked = False
        if self._stopped or self._stall.is_on:
            return
        try:
            self._advance()
        except Exception as error:
            _bug("a tick of consensus raised", error)

    def _on_written(self) -> None:
        """A barrier that was not waited for is over: go on as if it had just been waited for. One that was waited for
        to its end in the meantime is none of this; the first of these is that of the start."""
        if self._stopped or not self._stall.is_on or (ended := self._stall.end()) is None:
            return
        seconds, waiting = ended
        if seconds >= self._timing.heartbeat:
            _log.warning("disk slow", stalled_s=round(seconds, 3), messages=len(waiting))
        try:
            for peer, message in waiting:
                self.on_message(peer, message)
        except Exception as error:
            _bug("a message that waited for the disk raised", error)
        self._tick()

    def _advance(self) -> None:
        self._observe()
        self._guard.before_tick()
        self._core.doTick(0.0)
        self._observe()
        self._drive_transfer()
        self._append_proposal()
        self._core.replicate()
        if not self._journal.begin_barrier():
            return
        self._reads.tick()
        self._release_applied()
        behind = self.applied_index < self._core.raftCommitIndex and self.suspended is None
        if behind or (self._core.is_alone() and self.commit_index < self.last_index and self.role is Role.LEADER):
            self.kick()

    def _observe(self) -> None:
        role, term = self._core.role(), self._core.raftCurrentTerm
        leader = self._core.leader_id()
        if leader == self.me and role is not Role.LEADER:
            leader = None  # the core forgets a moment later
        if (role, term, leader) == self._seen:
            return
        was, self._seen = self._seen, (role, term, leader)
        _log.info("role", role=role.name, term=term, leader=leader)
        if role is not Role.LEADER:
            self._end_transfer()
        if was[2] != leader:
            self._refuse_queries(was[2], "the leader changed while the question was open")
        self._machine.on_role(role, term, leader)

    # --- proposals ----------------------------------------------------------------------------------------------------

    def _append_proposal(self) -> None:
        """One entry a tick: between two of them everything else on the loop has its turn."""
        if not self._may_append():
            return
        stamp = max(self._last_stamp() + 1, self._clock.wall_us())
        if not self._is_taken(stamp):
            return
        entry = self._machine.next_entry(self.term, stamp)
        if entry is not None:
            payload, done = entry
            self._core.append(payload, self._report_to(done))
            self.kick()

    def _may_append(self) -> bool:
        """Bounded in flight, on trusted time, and not on the way out. Not before something of this leader's own term is
        applied either: until then its state may lack what its predecessor had committed, and acknowledged."""
        if self.role is not Role.LEADER or self._transfer is not None or self.suspended is not None:
            return False
        if self._journal.term_at(self.applied_index) != self.term:
            return False
        if not self._skew.is_known() or self._skew.is_off():
            return False
        open_entries = range(self.commit_index + 1, self.last_index + 1)
        if len(open_entries) >= UNCOMMITTED_ENTRIES_MAX:
            return False
        return sum(len(self._journal.entry(index)[0]) for index in open_entries) < UNCOMMITTED_BYTES_MAX

    def _is_taken(self, stamp: int) -> bool:
        return self._skew.is_taken(stamp, self._timing.ahead_max_us, self._members.counts)

    def _report_to(self, done: Done) -> Callable[[object, int], None]:
        """The core's callback for one proposal; what `done` raises is a bug like any other in a tick."""
        number = next(self._ids)
        self._proposals[number] = done

        def report(result: object, reason: int) -> None:
            if self._proposals.pop(number, None) is not None:
                done(_FATES[reason], result)

        return report

    def _last_stamp(self) -> int:
        """The stamp of the newest entry, applied or not; no-ops carry none. What is applied may be cut off the log, so
        that stamp is the state's to know."""
        for index in range(self.last_index, self.applied_index, -1):
            payload = payload_of(self._journal.entry(index)[0])
            if payload is not None:
                return self._machine.stamp_of(payload)
        return self._machine.applied_stamp()

    # --- the beginning of the log -------------------------------------------------------------------------------------

    def _on_lagging(self, peer: str) -> None:
        self.retention.tell(peer)

    def compact(self, behind: int) -> None:
        """Drop from the log what a checked snapshot at `behind` makes dispensable, all but what is kept of it."""
        if not self._stopped and self.retention.cut(behind, self.applied_index):
            self.kick()

    # --- what the transport tells -------------------------------------------------------------------------------------

    def local_hello(self) -> Hello:
        """Who this node is and how far its log reaches, now."""
        constant, journal = self._identity, self._journal
        return Hello(
            cluster_id=constant.cluster_id,
            genesis_hash=constant.genesis_hash,
            config_epoch=constant.config_epoch,
            member_set_hash=constant.member_set_hash,
            node=self.me,
            incarnation=journal.incarnation.hex(),
            boots=journal.boots,
            barrier_seq=journal.sequence,
            rejoining=journal.rejoining,
            seen=dict(self._guard.seen()),
            term=self.term,
            last_index=journal.last_index,
            last_term=journal.last_term,
            chart_hash=constant.chart_hash,
            reducer_version=constant.reducer_version,
        )

    def on_hello(self, peer_id: str, hello: Hello) -> str | None:
        """None welcomes a member of the same cluster in the same configuration; a text says what differs.

        A hello may be older than what was heard since it was sent, so a store that seems to have gone back is only
        shown out; whether it has is decided where it lies, by what our own hello says of it.
        """
        if peer_id not in self.peer_ids or hello.node != peer_id:
            return f"{hello.node} (by certificate {peer_id}) is not a peer of {self.me}"
        for name in ("cluster_id", "genesis_hash", "config_epoch", "member_set_hash"):
            theirs, ours = getattr(hello, name), getattr(self._identity, name)
            if theirs != ours:
                return f"{name} differs: {peer_id} has {theirs}, we have {ours}"
        self._guard.hear(peer_id, hello.seen)
        if lost := self._members.lost(peer_id, hello.incarnation, hello.barrier_seq):
            return f"the store of {peer_id} has lost {lost} synced batches; it can only come back with --rejoin"
        self._hellos[peer_id] = hello
        return None

    def on_connected(self, peer_id: str, hello: Hello) -> None:
        self._core.forget(peer_id)
        if self._members.link(peer_id, hello.incarnation, hello.barrier_seq, rejoining=hello.rejoining):
            self._journal.sync()
        if not self._members.counts(peer_id):
            _log.warning("peer does not count", peer=peer_id, incarnation=hello.incarnation, rejoining=hello.rejoining)
        self._transport._onNodeConnected(self._core.member(peer_id))
        self._skew.probe(peer_id)
        self.kick()

    def on_disconnected(self, peer_id: str) -> None:
        self._stall.forget(peer_id)
        self._transport._onNodeDisconnected(self._core.member(peer_id))
        self._core.forget(peer_id)
        self._members.unlink(peer_id)
        self._skew.forget(peer_id)
        self._refuse_queries(peer_id, f"the link to {peer_id} ended while the question was open")

    def on_message(self, peer_id: str, message: Message) -> None:
        """One message that `wire.check` has passed."""
        if message["type"] not in WITHOUT_CORE and self._stall.hold(peer_id, message):
            return
        handler = self._handlers.get(message["type"])
        if handler is not None:
            handler(peer_id, message)
            return
        try:
            accepted = self._guard.inp(peer_id, message)
        except Refused as reason:
            self.refused[message["type"]] += 1
            _log.warning("peer refused", peer=peer_id, message=message["type"], reason=str(reason))
            self._transport.reset(peer_id)
            return
        if accepted is not None:
            self._core.receive(peer_id, accepted)

    def after_messages(self) -> None:
        self._tick()

    # --- beside the log -----------------------------------------------------------------------------------------------

    def listen(self, kind: str, handler: Callable[[str, Message], None]) -> None:
        """Have ``handler(peer, message)`` told of every message of a type that is no business of consensus."""
        self._handlers[kind] = handler

    def tell(self, peer_id: str, message: Message) -> bool:
        """Send such a message. It may be lost; False where it was not even sent."""
        return self._transport.raw(peer_id, message)

    def suspend(self, reason: str) -> None:
        """Apply, append and serve nothing more in this process, and lead no longer than it takes to hand over. The
        node goes on storing entries and voting: its copy counts, what it computes does not."""
        if self.suspended is None:
            _log.error("suspended", reason=reason, applied=self.applied_index)
            self.suspended = reason
            self._core.suspend()

    def hellos(self) -> dict[str, Hello]:
        """What every peer with a link said of itself when the link came up."""
        links: dict[str, Link] = self._transport.peers()
        return {
            peer: hello
            for peer, hello in self._hellos.items()
            if (link := links.get(peer)) is not None and link.connected
        }

    # --- reads --------------------------------------------------------------------------------------------------------

    def _on_read_question(self, peer: str, message: Message) -> None:
        if not self._journal.rejoining:  # its store may have forgotten a newer term
            self._reads.on_question(peer, message)

    def _on_read_answer(self, peer: str, message: Message) -> None:
        if self._members.counts(peer):
            self._reads.on_answer(peer, message)

    async def read_index(self, deadline: float) -> int:
        """The index of a linearizable read, applied here when this returns. On the leader only.

        `deadline` is in monotonic seconds. Raises NotLeader, NoQuorum.
        """
        if self._stopped or self.role is not Role.LEADER:
            raise NotLeader(f"{self.me} is not the leader, or stops; the leader it knows is {self.leader}")
        index = await self._ask(lambda answer: self._reads.ask(answer, deadline))
        await self.wait_applied(index, deadline)
        return index

    async def caught_up(self, deadline: float) -> int:
        """As `read_index`, on any node: a follower asks the leader, and again if leadership moves.

        When it returns, everything committed before the call is applied here. Raises NotLeader when no leader could be
        asked before `deadline`, NoQuorum when none could confirm itself or this node is too far behind.
        """
        while True:
            try:
                if self.role is Role.LEADER:
                    return await self.read_index(deadline)
                index = await self._ask(lambda answer: self._query_leader(answer, deadline))
                await self.wait_applied(index, deadline)
                return index
            except NotLeader:
                if self._stopped or self._clock.monotonic() + self._timing.heartbeat >= deadline:
                    raise
                await self._clock.sleep(self._timing.heartbeat)

    async def wait_applied(self, index: int, deadline: float) -> None:
        """Return once `index` is applied here. Raises NoQuorum at `deadline` (monotonic seconds)."""
        if self.applied_index >= index:
            return
        applied: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        wait = (index, next(self._ids), applied)
        heapq.heappush(self._applied_waits, wait)
        late = NoQuorum(f"index {index} was not applied here in time")
        timer = self._clock.call_later(deadline - self._clock.monotonic(), lambda: _fail(applied, late))
        try:
            await applied
        finally:
            timer.cancel()
            if wait in self._applied_waits:
                self._applied_waits.remove(wait)
                heapq.heapify(self._applied_waits)

    def _release_applied(self) -> None:
        while self._applied_waits and self._applied_waits[0][0] <= self.applied_index:
            _, _, applied = heapq.heappop(self._applied_waits)
            _release(applied)

    async def _ask(self, put: Callable[[Answer], None]) -> int:
        """Turn a question that is answered by callback into one that is awaited."""
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def answer(outcome: int | Unavailable) -> None:
            if isinstance(outcome, Unavailable):
                _fail(answered, outcome)
            elif not answered.done():
                answered.set_result(outcome)

        put(answer)
        self.kick()
        return await answered

    def _query_leader(self, answer: Answer, deadline: float) -> None:
        leader, number = self.leader, next(self._ids)
        if leader is None or not self._transport.raw(leader, {"type": "index_query", "id": number}):
            answer(NotLeader(f"{self.me} knows no leader it can reach"))
            return

        def settle(outcome: int | Unavailable) -> None:
            timer.cancel()
            if self._queries.pop(number, None) is not None:
                answer(outcome)

        late = NoQuorum(f"the leader, {leader}, did not confirm a read index in time")
        timer = self._clock.call_later(deadline - self._clock.monotonic(), lambda: settle(late))
        self._queries[number] = (leader, settle)

    def _on_index_query(self, peer: str, message: Message) -> None:
        def answer(outcome: int | Unavailable) -> None:
            index = None if isinstance(outcome, Unavailable) else outcome
            self._transport.raw(peer, {"type": "index_answer", "id": message["id"], "index": index})

        if self.role is Role.LEADER:
            self._reads.ask(answer, self._clock.monotonic() + self._timing.election_max)
        else:
            answer(NotLeader(f"{self.me} is not the leader"))

    def _on_index_answer(self, peer: str, message: Message) -> None:
        asked, answer = self._queries.get(message["id"], (None, None))
        if answer is not None and asked == peer:
            index = message["index"]
            answer(NotLeader(f"{peer} could not confirm that it leads") if index is None else index)

    def _refuse_queries(self, peer: str | None, reason: str) -> None:
        for asked, answer in list(self._queries.values()):
            if asked == peer:
                answer(NotLeader(reason))

    # --- stores in place of others ------------------------------------------------------------------------------------

    def accept(self, incarnations: Mapping[str, str]) -> None:
        """The store that counts for each member, as the applied state names it; "" where none was ever replaced.

        To be told before `start`, and with every entry applied that changes it. Ends this node's own rejoining, or
        stops the node (MISCONFIGURED) when another store has taken its place.
        """
        for node, incarnation in incarnations.items():
            if incarnation and node == self.me:
                self._accepted_here(incarnation)
            elif incarnation and self._members.accept(node, incarnation):
                self._journal.sync()

    def _accepted_here(self, incarnation: str) -> None:
        if incarnation != self._journal.incarnation.hex():
            if not self._journal.rejoining:
                faults.fatal(
                    ExitCode.MISCONFIGURED, "another store was accepted in place of this one", other=incarnation
                )
        elif self._journal.rejoining:
            self._journal.end_rejoining()
            _log.info("accepted as a member", incarnation=incarnation, index=self.applied_index)

    @property
    def rejoining(self) -> bool:
        """This node's store was made in place of one that was lost, and is not accepted yet."""
        return self._journal.rejoining

    def waiting(self) -> dict[str, str]:
        """{member: incarnation} of the linked stores that wait to be accepted."""
        return self._members.waiting()

    # --- handing over -------------------------------------------------------------------------------------------------

    async def transfer_leadership(self, to: str | None) -> bool:
        """Hand leadership to `to`, or to the peer that is furthest along. True once this node no longer leads.

        Nothing is appended meanwhile, and what is in flight commits first. False if this node does not lead, nobody
        else could, or its disk stalls it, or after an election timeout without success; it then goes on leading.
        """
        candidates = self.peer_ids if to is None else {to} & set(self.peer_ids)
        if self.role is not Role.LEADER or not candidates or self._stall.is_on:
            return False
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._end_transfer()
        self._begin_transfer(to, lambda: _release(over))
        self.kick()
        await over
        return self.role is not Role.LEADER

    def _begin_transfer(self, to: str | None, over: Callable[[], object]) -> None:
        self._transfer = Transfer(to, self._clock.monotonic() + self._timing.election_max, over)

    def _end_transfer(self) -> None:
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            transfer.over()

    def _drive_transfer(self) -> None:
        """Wait until our whole log is committed and the successor stores it, then ask it to campaign, once."""
        if self._transfer is None and self.role is Role.LEADER and self._skew.is_off():
            _log.warning("clock off, handing over", from_median_us=self._skew.from_median_us())
            self._begin_transfer(None, lambda: None)
        elif self._transfer is None and self.role is Role.LEADER and self.suspended is not None:
            _log.warning("suspended, handing over", reason=self.suspended)
            self._begin_transfer(None, lambda: None)
        transfer = self._transfer
        if transfer is None:
            return
        if self._clock.monotonic() >= transfer.until:
            self._end_transfer()
            return
        successor = transfer.to or self._best_successor()
        drained = self._core.raftCommitIndex == self.last_index
        if not transfer.asked and drained and successor and self._core.match_index(successor) == self.last_index:
            transfer.asked = True
            self._core.hand_over(successor)

    def _best_successor(self) -> str | None:
        hellos = self.hellos()
        able = (peer for peer in self._core.connected_peers() if peer not in hellos or self.may_lead(hellos[peer]))
        candidates = [peer for peer in able if not self._skew.is_peer_off(peer)]
        return max(candidates, key=lambda peer: (self._core.match_index(peer), peer), default=None)

    # --- what there is to see -----------------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        return self._core.role()

    @property
    def term(self) -> int:
        return self._core.raftCurrentTerm

    @property
    def leader(self) -> str | None:
        """The member this node takes for the leader; it may be wrong."""
        return self._seen[2]

    @property
    def stalled_s(self) -> float | None:
        """Seconds for which this node has been waiting for its disk; None = it is not."""
        return self._stall.seconds

    @property
    def commit_index(self) -> int:
        return self._journal.commit

    @property
    def applied_index(self) -> int:
        return self._core.raftLastApplied

    @property
    def first_index(self) -> int:
        return self._journal.first_index

    @property
    def last_index(self) -> int:
        return self._journal.last_index

    @property
    def last_term(self) -> int:
        return self._journal.last_term

    @property
    def clock_ok(self) -> bool:
        """May time be judged here? Not while the clock is off the members' median or unknown to a leader, nor while
        the newest stamp is so far ahead of it that time stands still."""
        if self.role is Role.LEADER and not (self._skew.is_known() and self._is_taken(self._clock.wall_us())):
            return False
        return not self._skew.is_off() and self._last_stamp() - self._clock.wall_us() <= self._timing.skew_max_us

    def appended(self) -> tuple[int, int]:
        """(index, term) of the newest entry in this node's log."""
        return self.last_index, self.last_term

    def peers(self) -> list[PeerStatus]:
        """Every peer, connected or not, in the order of their ids."""
        links: dict[str, Link] = self._transport.peers()
        now = self._clock.monotonic()
        return [self._peer_status(peer, links.get(peer), now) for peer in self.peer_ids]

    def _peer_status(self, peer: str, link: Link | None, now: float) -> PeerStatus:
        match = self._core.match_index(peer) if self.role is Role.LEADER else 0
        never = link is None or link.last_heard == float("-inf")
        linked = self._members.linked(peer)
        return PeerStatus(
            id=peer,
            reachable=link is not None and link.connected,
            match_index=match,
            lag=self.last_index - match if self.role is Role.LEADER else 0,
            last_contact_ms=None if never or link is None else round((now - link.last_heard) * 1000),
            counts=self._members.counts(peer),
            rejoining=peer in self._members.waiting(),
            incarnation=linked.incarnation if linked else None,
        )

    def is_current(self) -> bool:
        """What is applied here was all there was, as far as a leader that a majority stands behind has told."""
        if self.stalled_s is not None or not self.quorum_heard():
            return False
        if self.role is Role.LEADER:
            return self.applied_index >= self.commit_index
        return self._guard.hears_leader() and self.applied_index >= self._guard.leader_commit

    def quorum_heard(self) -> bool:
        """A majority of the group, this node included, was heard within an election timeout."""
        oldest = self._clock.monotonic() - self._timing.election_max
        links: dict[str, Link] = self._transport.peers()
        heard = sum(
            link.connected and link.last_heard >= oldest and self._members.counts(peer) for peer, link in links.items()
        )
        return 2 * (heard + (not self.rejoining)) > len(self.peer_ids) + 1


def _bug(reason: str, error: Exception, **facts: object) -> NoReturn:
    faults.fatal(ExitCode.BUG, reason, error=repr(error), trace="".join(traceback.format_exception(error)), **facts)


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
