"""Do the nodes still compute the same? Agreement on the state itself, beside the agreement on the log.

Raft makes all nodes apply the same entries. That they come to the same state is a promise of the code, and of memory
and disk. So every `CHECKPOINT_EVERY` entries, at every mark, and wherever an entry ended in an internal error, each
node notes its cluster hash and reports it to the leader. What a majority reported the leader writes into the log as a
checkpoint, and whoever computed something else stops when it applies that:

* a follower at once; its store is marked, so that it does not start again on that state;
* the leader, before it writes anything: it applies and acknowledges nothing more, hands over, and stops;
* where no majority can agree, nobody knows who is right: writes halt, which the log says too, until a later checkpoint
  has a majority. That takes an operator.

A report needs no term. It speaks of a committed index, and a committed index names one history. So it may come late,
twice, or to the next leader; one for an index that was settled since is dropped, and a node that restarted has nothing
to compare for what it applied before. Reports are repeated until they are settled.

The hashes are compared, never repaired: a node returns with the state of a peer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from cluster import faults
from cluster.clock import Clock
from cluster.faults import ExitCode
from cluster.proposals import Proposals
from cluster.raft.driver import Raft, Role
from cluster.storage.store import Divergence, Store
from swoosh.entry import CheckpointItem, MarkItem
from swoosh.limits import CHECKPOINT_EVERY
from swoosh.machine import Applied, Machine
from swoosh.outcome import Code, Refused

KEPT = 8
"""Hashes remembered of each node: one that lags so many checkpoints behind is compared at a later one."""
MARK_SECONDS = 1.0
DISPUTE_SECONDS = 2.0
"""How long a leader waits for the reports that could settle a disagreement before the log says that there is one."""
RUNBOOK = "docs/runbooks/diverged.md"

_log = structlog.get_logger(__name__)


def is_due(applied: Applied, every: int = CHECKPOINT_EVERY) -> bool:
    """Whether every node notes its hash at this entry. An internal error counts: it may be this node's alone."""
    marked = any(isinstance(note, MarkItem) for note in applied.notes)
    return marked or applied.position.index % every == 0 or _went_wrong(applied)


def agreed(votes: Mapping[str, str], members: int) -> str | None:
    """The hash that a majority of so many members reported, or None."""
    ((found, count),) = Counter(votes.values()).most_common(1) or [("", 0)]
    return found if 2 * count > members else None


class Checkpoints:
    """One node's part in it, as follower and as leader. ``tick`` is to be called a few times a second.

    Args:
        members: all of them, this node included.
        every: entries from one checkpoint to the next; the same on every node.
        patience: seconds a leader that is wrong waits for its successor.
    """

    def __init__(
        self,
        node_id: str,
        members: Sequence[str],
        machine: Machine,
        store: Store,
        proposals: Proposals,
        clock: Clock,
        *,
        every: int,
        patience: float,
    ) -> None:
        self._node_id, self._members = node_id, tuple(members)
        self._machine, self._store, self._proposals, self._clock = machine, store, proposals, clock
        self._every, self._patience = every, patience
        self._own: dict[int, str] = {}
        self._reports: dict[str, dict[int, str]] = {}
        self._in_flight = self._wanted = False
        self._disputed_since: float | None = None
        self._marked_at = float("-inf")
        self._marked_for: frozenset[str] = frozenset()
        self._wrong: tuple[Divergence, float] | None = None
        self.raft: Raft

    # --- every node ---------------------------------------------------------------------------------------------------

    def on_applied(self, applied: Applied) -> None:
        """Compare what the log says, note and report this node's own hash where it is due."""
        for note in applied.notes:
            if isinstance(note, CheckpointItem):
                self._compare(note)
        if is_due(applied, self._every):
            self._own[applied.position.index] = self._machine.cluster_hash
            _forget(self._own)
            self._wanted = self._wanted or _went_wrong(applied)
            self._report()

    def on_report(self, peer: str, message: Mapping[str, Any]) -> None:
        """What a peer computed."""
        held = self._reports.setdefault(peer, {})
        held[message["index"]] = message["hash"]
        _forget(held)
        if self._settled_at < message["index"] <= self._machine.position.index and not self._awaits(message["index"]):
            self._wanted = True  # it saw reason to compare where this node did not
        self._lead()

    def on_role(self, role: Role) -> None:
        """Leadership moved. The reports stay: they are about committed entries, whoever leads."""
        self._disputed_since, self._marked_for = None, frozenset()
        if role is not Role.LEADER:
            self._proposals.drop_notes()
            self._stop_if_wrong()

    def tick(self) -> None:
        """Repeat what was not settled, and as leader settle what can be."""
        if self._wrong is not None and self._clock.monotonic() >= self._wrong[1]:
            self._stop_if_wrong()
        self._report()
        self._lead()

    @property
    def halted(self) -> str | None:
        """Why nothing may be accepted here, or None."""
        halt = self._store.halt
        if halt is not None:
            return f"no majority agrees on the state at index {halt.at}, by the reports of {', '.join(halt.nodes)}"
        if self._disputed_since is not None:
            return "the nodes report different states, and no majority one of them"
        return None

    def document(self) -> dict[str, Any]:
        """For people and monitors: the last agreement, its age in seconds, and what stands in the way of another."""
        found = self._store.checkpoint
        last = None
        if found is not None:
            age_s = (self._clock.wall_us() - found.stamp_us) / 1e6
            last = {"index": found.at, "cluster_hash": found.cluster_hash, "nodes": found.nodes, "age_s": age_s}
        return {"checkpoint": last, "halted": self.halted}

    @property
    def _settled_at(self) -> int:
        return 0 if self._store.checkpoint is None else self._store.checkpoint.at

    def _awaits(self, index: int) -> bool:
        """Whether this node has a hash that whoever reports on ``index`` has, or will come to."""
        return max(self._own, default=0) >= index

    def _compare(self, note: CheckpointItem) -> None:
        if not note.cluster_hash:
            _log.error("no majority agrees on the state", at=note.at, nodes=note.nodes, next=RUNBOOK)
            self._proposals.refuse_queued(self.halted or "", Code.HALTED)
            return
        ours = self._own.get(note.at, note.cluster_hash)
        if ours != note.cluster_hash:
            self._stop(Divergence(note.at, ours, note.cluster_hash))
        _log.info("checkpoint", at=note.at, cluster_hash=note.cluster_hash, nodes=note.nodes)
        for known in (self._own, *self._reports.values()):
            for index in [index for index in known if index <= note.at]:
                del known[index]

    def _report(self) -> None:
        newest = max(self._own, default=0)
        leader = self.raft.leader
        if newest > self._settled_at and leader not in (None, self._node_id):
            self.raft.tell(leader, {"type": "checkpoint", "index": newest, "hash": self._own[newest]})

    # --- the leader ---------------------------------------------------------------------------------------------------

    def _lead(self) -> None:
        """Settle the newest index that can be settled, or say that it cannot."""
        if self.raft.role is not Role.LEADER or self.raft.suspended is not None:
            return
        open_at = {index for known in (self._own, *self._reports.values()) for index in known}
        disputed = None
        for index in sorted((index for index in open_at if index > self._settled_at), reverse=True):
            votes = self._votes(index)
            found = agreed(votes, len(self._members))
            if found is not None:
                self._disputed_since = None
                return self._settle(index, found, votes)
            if disputed is None and len(set(votes.values())) > 1:
                disputed = (index, votes)
        self._follow_dispute(disputed)
        self._mark_if_wanted()

    def _votes(self, index: int) -> dict[str, str]:
        known = {**self._reports, self._node_id: self._own}
        return {node: known[node][index] for node in self._members if index in known.get(node, {})}

    def _settle(self, index: int, found: str, votes: Mapping[str, str]) -> None:
        ours = votes.get(self._node_id, found)
        if ours == found:
            self._note(CheckpointItem(index, found, tuple(sorted(node for node in votes if votes[node] == found))))
            return
        wrong = Divergence(index, ours, found)
        self._wrong = (wrong, self._clock.monotonic() + self._patience)
        self._store.mark_diverged(wrong)
        self._proposals.refuse_queued("this leader's state contradicts the majority's")
        self.raft.suspend(f"its state at index {index} contradicts the majority's")

    def _follow_dispute(self, disputed: tuple[int, Mapping[str, str]] | None) -> None:
        if disputed is None:
            self._disputed_since = None
            return
        index, votes = disputed
        if self._disputed_since is None:
            self._disputed_since = self._clock.monotonic()
            _log.error("the nodes report different states", at=index, votes=dict(votes))
            self._proposals.refuse_queued(self.halted or "", Code.HALTED)
        waited = self._clock.monotonic() - self._disputed_since
        if self._store.halt is None and (len(votes) == len(self._members) or waited >= DISPUTE_SECONDS):
            self._note(CheckpointItem(index, "", tuple(sorted(votes))))

    def _mark_if_wanted(self) -> None:
        """Where an error made somebody doubt, and where a node came that may settle what the others cannot."""
        here = frozenset(peer.id for peer in self.raft.peers() if peer.reachable)
        self._marked_for &= here
        wanted = self._wanted or (self.halted is not None and not here <= self._marked_for)
        if wanted and not self._in_flight and self._clock.monotonic() - self._marked_at >= MARK_SECONDS:
            self._marked_at, self._marked_for, self._wanted = self._clock.monotonic(), here, False
            self._note(MarkItem())

    def _note(self, note: CheckpointItem | MarkItem) -> None:
        if not self._in_flight:
            self._in_flight = True
            self._proposals.note(note, self._noted)

    def _noted(self, committed: bool) -> None:
        self._in_flight = False

    # --- the end ------------------------------------------------------------------------------------------------------

    def _stop_if_wrong(self) -> None:
        if self._wrong is not None:
            self._stop(self._wrong[0])

    def _stop(self, found: Divergence) -> None:
        if self._store.divergence is None:
            self._store.mark_diverged(found)
        refuse_diverged(self._store)


def refuse_diverged(store: Store) -> None:
    """End the process where its state is known to be wrong: at once, and at every start until it was replaced."""
    found = store.divergence
    if found is not None:
        faults.fatal(
            ExitCode.DIVERGED,
            "this node computed another state than the majority; it returns with a peer's checkpoint in its place",
            at=found.at,
            ours=found.ours,
            agreed=found.agreed,
            next=RUNBOOK,
        )


def _went_wrong(applied: Applied) -> bool:
    return any(isinstance(outcome, Refused) and outcome.code is Code.INTERNAL for outcome in applied.outcomes)


def _forget(known: dict[int, str]) -> None:
    for index in sorted(known)[:-KEPT]:
        del known[index]
