"""The protocol shield: every Raft message passes here on its way to the core and on its way out.

PySyncObj's handlers are right about terms, votes and commits and careless about the rest. What the guard adds, and the
loss each rule prevents:

* **Append only what extends or conflicts** (`without_known_entries`). The library cuts its log at every append that
  does not start at its end, conflict or not, and forgets entries it has acknowledged. Here an append reaches it with
  the entries it already has taken off (Raft §5.3, steps 3 and 4 of AppendEntries), and the acknowledgement names the
  last entry the leader's message vouched for, not the end of the log.
* **Replies carry their term.** The library's do not, so one delayed across two elections counts in the wrong one.
* **Durable before it leaves.** Votes, requests for votes and acknowledgements wait for the journal's barrier; where
  that takes long, in `stall`.
* **Votes are attributed**: one per peer and term.
* **Pre-vote** (dissertation §9.6) with leader stickiness: a node that cannot hear the leader does not depose it. A
  deposed leader is told so with `stale_term`, since the library would leave it in silence.
* **Promises need a memory.** What a peer says about votes and copies counts only if it comes from the store that is
  accepted for that member (members.py), and not from one that is older than what was seen of it. A node whose own
  store is not accepted yet takes entries, says "not stored", and takes no part in elections.
* **Stamps**: a new entry stamped too far ahead of this node's wall clock is neither appended nor acknowledged, and its
  sender not counted as heard, so a leader with a fast clock cannot commit and loses its seat.
* **One leader per term**, or the node stops: the proof of everything else rests on it.

Beyond the library's own messages it speaks `pv {r, t, li, lt}` and `pv_ok {r}` (round, term, last index, last term) and
`stale_term {t}`. It adds `t` (term) to `next_node_idx`, `b` (number of the last synced batch) to all that promises
something, and `seen` (the members' stores) to `append_entries`. The shape of a message has been checked by
`wire.check`; the guard judges whether it is believable now. It keeps no promises of its own on disk and never calls the
state machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from cluster import faults
from cluster.clock import Clock
from cluster.entropy import Entropy
from cluster.faults import ExitCode
from cluster.raft.journal import Journal
from cluster.raft.members import Known, Members, Seen
from cluster.raft.replica import Replica, Role, Timing, payload_of
from cluster.raft.skew import Skew
from cluster.raft.stall import Stall
from swoosh.errors import Corrupt

Message = dict[str, Any]

TERM_JUMP_MAX = 1 << 20
"""A peer may be this many terms ahead. Elections cannot get further; a forged term would end the cluster's life."""

LAST_RESORT = 4
"""A node whose clock is off campaigns only after this many election timeouts without a leader: the others may lack a
committed entry that only it and a dead node hold. It will then replicate, and hand over."""


ELECTIONS = frozenset({"request_vote", "response_vote", "pv", "pv_ok", "timeout_now"})
"""Messages that are a matter among members whose stores are accepted."""


class Refused(Exception):
    """A peer said something that no correct member says; its link must be closed."""


class Guard:
    """One node's shield. `out` and `inp` return the message to pass on, or None when there is nothing to pass."""

    def __init__(
        self,
        core: Replica,
        journal: Journal,
        *,
        me: str,
        peers: Sequence[str],
        members: Members,
        raw: Callable[[str, Message], bool],
        stamp_of: Callable[[bytes], int],
        skew: Skew,
        stall: Stall,
        clock: Clock,
        entropy: Entropy,
        timing: Timing,
    ) -> None:
        """`raw(peer, message)` sends past the guard; `stamp_of(payload)` reads an entry's stamp in microseconds."""
        self._core, self._journal, self._me, self._peers, self._raw = core, journal, me, tuple(peers), raw
        self._members = members
        self._stamp_of, self._skew, self._clock, self._entropy, self._timing = stamp_of, skew, clock, entropy, timing
        self._stall = stall
        self._heard_at = clock.monotonic() - timing.election_max
        self.leader_commit = 0
        """What the leader heard last had committed."""
        self._leader_of_term = (0, "")
        self._vouched: int | None = None
        self._ahead: tuple[int, int, int] | None = None
        self._voters: tuple[int, set[str]] = (0, set())
        self._round, self._round_term = 0, 0
        self._willing: set[str] = set()
        self._elected_to_campaign = False
        self._transfer_until: float | None = None
        self._inbound: dict[str, Callable[[str, Message], Message | None]] = {
            "append_entries": self._append_entries,
            "next_node_idx": self._next_node_idx,
            "request_vote": self._request_vote,
            "response_vote": self._response_vote,
            "timeout_now": self._timeout_now,
            "stale_term": self._stale_term,
            "pv": self._pre_vote,
            "pv_ok": self._pre_vote_granted,
        }

    # --- out ----------------------------------------------------------------------------------------------------------

    def out(self, peer: str, message: Message) -> Message | None:
        """What the core wants to send, as it may leave; None = swallowed."""
        match message["type"]:
            case "append_entries":
                self._leader_of_term = (message["term"], self._me)
                return message | {"seen": self.seen()}
            case "timeout_now":
                return message
            case "request_vote" | "response_vote":
                return self._stall.once_durable(peer, message)
            case "next_node_idx":
                return self._stall.once_durable(peer, self._reply(message))
            case "apply_command":
                self._core.refuse_forward(message)
                return None
            case unknown:
                faults.fatal(ExitCode.BUG, "the core sends what it has no business to send", type=unknown, peer=peer)

    def _reply(self, message: Message) -> Message:
        stamped = message | {"t": self._core.raftCurrentTerm}
        if message["success"] and self._vouched is not None:
            stamped["next_node_idx"] = self._vouched + 1
        if self._journal.rejoining:
            stamped |= {"success": False, "reset": True}  # send the rest, and do not count this copy
        return stamped

    def seen(self) -> Seen:
        """What this node knows of every member's store, its own included."""
        return self._members.seen(self._me, Known(self._journal.incarnation.hex(), self._journal.sequence))

    # --- in -----------------------------------------------------------------------------------------------------------

    def inp(self, peer: str, message: Message) -> Message | None:
        """What a peer sent, as the core may see it; None = nothing for the core. Raises Refused."""
        handler = self._inbound.get(message["type"])
        if handler is None:
            raise Refused(f"{message['type']} is no message between members")
        term = message["term"] if "term" in message else message.get("t", 0)
        if term > self._core.raftCurrentTerm + TERM_JUMP_MAX:
            raise Refused(f"term {term} is out of reach of ours, {self._core.raftCurrentTerm}")
        self._note_stores(peer, message)
        if message["type"] in ELECTIONS and (self._journal.rejoining or not self._members.counts(peer)):
            return None
        return handler(peer, message)

    def _note_stores(self, peer: str, message: Message) -> None:
        """What the message says of its sender's store, and of the others'."""
        self.hear(peer, message.get("seen", {}))
        linked = self._members.linked(peer)
        if linked is None or "b" not in message:
            return
        # Against what came over this very link, which keeps its order. What others know of the sender may be news that
        # overtook this message; a store that went back since then says so in its hello.
        if message["b"] < linked.sequence:
            raise Refused(f"its store has lost {linked.sequence - message['b']} synced batches")
        linked.sequence = message["b"]
        self._members.note(peer, linked.incarnation, message["b"])

    def hear(self, peer: str, seen: Seen) -> None:
        """What a peer knows of every member's store. Stops this node if it knows more of ours than there is."""
        self._journal.must_hold(*seen.get(self._me, ("", 0)))
        if self._members.hear(peer, seen):
            self._journal.sync()

    def _append_entries(self, peer: str, message: Message) -> Message | None:
        if "prevLogIdx" not in message or "transmission" in message:
            raise Refused("an append without an anchor, or in chunks")
        if message["term"] < self._core.raftCurrentTerm:
            self._raw(peer, {"type": "stale_term", "t": self._core.raftCurrentTerm})
            return None
        self._check_one_leader(peer, message["term"])
        if self._is_ahead(message):
            return None
        self._heard_at = self._clock.monotonic()
        self.leader_commit = message["commit_index"]
        self._elected_to_campaign = self._transfer_until is not None
        message, self._vouched = without_known_entries(self._journal, message)
        return message

    def _check_one_leader(self, peer: str, term: int) -> None:
        known_term, known = self._leader_of_term
        if term == known_term and peer != known:
            faults.fatal(ExitCode.DIVERGED, "two leaders in one term", term=term, leaders=[known, peer])
        self._leader_of_term = (term, peer)

    def _is_ahead(self, message: Message) -> bool:
        """Does this append come from a leader whose clock runs too far ahead of ours? What is committed already is
        history and welcome whatever its stamp; and once our clock has caught up, so is the rest."""
        limit = self._clock.wall_us() + self._timing.ahead_max_us
        if self._ahead:
            term, index, stamp = self._ahead
            if message["term"] == term and message["commit_index"] < index and stamp > limit:
                return True
        self._ahead = None
        for command, index, term in message["entries"]:
            payload = payload_of(command)
            is_new = index > message["commit_index"] and self._journal.term_at(index) != term
            if is_new and payload is not None and (stamp := self._stamp_in(payload)) > limit:
                self._ahead = (message["term"], index, stamp)
                return True
        return False

    def _stamp_in(self, payload: bytes) -> int:
        try:
            return self._stamp_of(payload)
        except Corrupt as error:
            raise Refused(str(error)) from None

    def _next_node_idx(self, peer: str, message: Message) -> Message | None:
        if message["t"] != self._core.raftCurrentTerm or not self._core.is_leader():
            return None
        if message["success"] and message["next_node_idx"] > self._journal.last_index + 1:
            raise Refused(f"it acknowledges {message['next_node_idx'] - 1}; our log ends at {self._journal.last_index}")
        self._core.answered(peer, message["next_node_idx"], message["reset"])
        if not self._members.counts(peer):
            self._core.move_on(peer, message["next_node_idx"])
            return None
        return message

    def _request_vote(self, peer: str, message: Message) -> Message:
        """As it is: the library's rule for granting a vote is right, and the vote is durable before it leaves."""
        return message

    def _response_vote(self, peer: str, message: Message) -> Message | None:
        term = self._core.raftCurrentTerm
        if message["term"] != term or self._core.role() is not Role.CANDIDATE:
            return None
        voted_in, voters = self._voters if self._voters[0] == term else (term, set())
        if peer in voters:
            return None
        self._voters = (voted_in, voters | {peer})
        return message

    def _timeout_now(self, peer: str, message: Message) -> Message | None:
        if message["term"] != self._core.raftCurrentTerm or peer != self._core.leader_id():
            return None
        # The leader itself asks: no pre-vote. Its heartbeats are ignored until then, but not for ever.
        self._elected_to_campaign = True
        self._transfer_until = self._clock.monotonic() + self._timing.election_min
        return message

    def _stale_term(self, peer: str, message: Message) -> Message | None:
        if message["t"] <= self._core.raftCurrentTerm:
            return None
        # A request for a vote that no log can grant: all the core does with it is adopt the term and step down.
        return {"type": "request_vote", "term": message["t"], "last_log_index": 0, "last_log_term": -1}

    # --- pre-vote -----------------------------------------------------------------------------------------------------

    def before_tick(self) -> None:
        """Call right before every tick of the core: turns a due election into a question to the others first."""
        self._core.may_campaign = False
        now = self._clock.monotonic()
        if self._transfer_until is not None and now >= self._transfer_until:
            self._transfer_until, self._elected_to_campaign = None, False
            self._core.end_transfer()
        if self._core.is_leader() or self._core.election_deadline() >= now:
            return
        if self._core.is_suspended() or self._journal.rejoining:
            # What it applied trails what it stores, or what it stores may lack what it once promised.
            self._core.set_election_deadline(now + self._timing.election_max)
            return
        if self._core.is_alone() or self._elected_to_campaign:
            self._transfer_until, self._elected_to_campaign = None, False
            self._core.may_campaign = True
            return
        self._core.set_election_deadline(now + self._timing.election_min * (0.2 + 0.6 * self._entropy.random()))
        if self._skew.is_off() and now - self._heard_at < LAST_RESORT * self._timing.election_max:
            return
        self._ask_before_campaigning()

    def _ask_before_campaigning(self) -> None:
        self._round, self._round_term = self._round + 1, self._core.raftCurrentTerm
        self._willing = set()
        question = {
            "type": "pv",
            "r": self._round,
            "t": self._core.raftCurrentTerm,
            "li": self._journal.last_index,
            "lt": self._journal.last_term,
        }
        for peer in self._peers:
            self._raw(peer, question)

    def hears_leader(self) -> bool:
        """A leader was heard within the shortest election timeout."""
        return self._clock.monotonic() - self._heard_at < self._timing.election_min

    def _pre_vote(self, peer: str, message: Message) -> None:
        if self._core.is_leader() or self.hears_leader():
            return
        if message["t"] < self._core.raftCurrentTerm:
            self._raw(peer, {"type": "stale_term", "t": self._core.raftCurrentTerm})
        elif (message["lt"], message["li"]) >= (self._journal.last_term, self._journal.last_index):
            self._raw(peer, {"type": "pv_ok", "r": message["r"]})

    def _pre_vote_granted(self, peer: str, message: Message) -> None:
        if (message["r"], self._core.raftCurrentTerm) != (self._round, self._round_term) or self.hears_leader():
            return
        self._willing.add(peer)
        if 2 * (len(self._willing) + 1) > len(self._peers) + 1:
            self._elected_to_campaign = True
            self._core.set_election_deadline(0.0)


def without_known_entries(journal: Journal, append: Message) -> tuple[Message, int | None]:
    """An append with the entries this log already holds taken off, and the last index it vouches for.

    What is left either extends the log or starts with a real conflict, so the library's cut (everything after the
    anchor) removes only entries that the leader's log is known not to have. The commit index is capped at what was
    vouched for: a tail beyond that was never compared with the leader's.

    The message is returned as it is, with None, when the anchor does not match; the library then answers "further
    back". Stops the node when an equal (index, term) holds other bytes: Raft §5.3 says that cannot be.
    """
    anchor = append["prevLogIdx"]
    if journal.term_at(anchor) != append["prevLogTerm"]:
        return append, None
    entries = [tuple(entry) for entry in append["entries"]]
    known = 0
    for command, index, term in entries:
        if journal.term_at(index) != term:
            break
        if journal.entry(index)[0] != command:
            _diverged(index, term)
        known += 1
    vouched = anchor + len(entries)
    # Nothing new: anchor at our own end, or the library would cut a tail nobody contradicted.
    anchor = anchor + known if known < len(entries) else journal.last_index
    return append | {
        "entries": entries[known:],
        "prevLogIdx": anchor,
        "prevLogTerm": journal.term_at(anchor),
        "commit_index": min(append["commit_index"], vouched),
    }, vouched


def _diverged(index: int, term: int) -> NoReturn:
    faults.fatal(ExitCode.DIVERGED, "the leader's entry differs from ours of the same index and term", at=(index, term))
