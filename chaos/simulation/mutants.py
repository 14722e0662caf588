"""Bugs planted on purpose, to show that the simulation would see them.

A simulator that finds nothing has either nothing to find or no eyes. Each mutant here breaks one rule the way a hasty
change would, and `python -m chaos.simulation mutants` runs seeds until a check convicts it. Some breaks need a
schedule that chance does not reach in any number of seeds; these name the directed test that reaches it. Planting is
for the whole process and is never undone: a process with a mutant in it does nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from chaos.simulation.host import LIVING
from cluster.answers import not_admitted
from cluster.http.forward import Call
from cluster.node import Node
from cluster.proposals import Proposals
from cluster.providers import environment, sinks
from cluster.raft import guard
from cluster.raft.driver import Fate, Raft, Role
from cluster.raft.guard import Guard
from cluster.raft.journal import Journal
from cluster.raft.replica import Replica
from cluster.storage.kv import Batch, KeyValue
from swoosh import machine, reducer
from swoosh.hashing import digest
from swoosh.machine import Layer, Machine
from swoosh.outcome import Code

VARIABLE = "SWOOSH_PLANTED"
"""Names the mutant that the pytest plugin `chaos.simulation.planted` plants before it runs a directed test."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A planted bug. ``directed`` is the test that shows it, where chance does not."""

    what: str
    plant: Callable[[], None]
    directed: str = ""


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put ``make(original)`` in the place of a function."""
    setattr(owner, name, make(getattr(owner, name)))


# --- durability -------------------------------------------------------------------------------------------------------


class _Unsynced:
    """A store whose syncs return before anything is synced."""

    def __init__(self, kv: KeyValue) -> None:
        self._kv = kv

    def write(self, batch: Batch, *, sync: bool) -> None:
        self._kv.write(batch, sync=False)


def _skip_the_barrier() -> None:
    def make(original: Any) -> Any:
        def begin_write(self: Any) -> None:
            kv, self._kv = self._kv, _Unsynced(self._kv)
            try:
                original(self)
            finally:
                self._kv = kv

        return begin_write

    _replace(Journal, "_begin_write", make)


def _acknowledge_before_commit() -> None:
    def make(original: Any) -> Any:
        def next_entry(self: Any, term: int, stamp_us: int) -> Any:
            entry = original(self, term, stamp_us)
            if entry is not None:
                entry[1](Fate.COMMITTED, self._machine.pending._speculations[-1].applied)
            return entry

        return next_entry

    _replace(Proposals, "next_entry", make)


def _forget_the_vote() -> None:
    Journal.getVotedForNodeId = lambda self: None  # type: ignore[method-assign]


# --- the log ----------------------------------------------------------------------------------------------------------


def _truncate_on_a_match() -> None:
    def cut(journal: Journal, append: dict[str, Any]) -> Any:
        if journal.term_at(append["prevLogIdx"]) != append["prevLogTerm"]:
            return append, None
        return append, append["prevLogIdx"] + len(append["entries"])

    guard.without_known_entries = cut


def _count_a_stale_acknowledgement() -> None:
    def make(original: Any) -> Any:
        def next_node_idx(self: Any, peer: str, message: dict[str, Any]) -> Any:
            return original(self, peer, message | {"t": self._core.raftCurrentTerm})

        return next_node_idx

    _replace(Guard, "_next_node_idx", make)


def _commit_over_an_unverified_tail() -> None:
    def make(original: Any) -> Any:
        def stripped(journal: Journal, append: dict[str, Any]) -> Any:
            message, vouched = original(journal, append)
            return message | {"commit_index": append["commit_index"]}, vouched

        return stripped

    _replace(guard, "without_known_entries", make)


def _believe_an_earlier_connection() -> None:
    Replica.forget = lambda self, peer: None  # type: ignore[method-assign]


# --- leadership and reads ---------------------------------------------------------------------------------------------


def _lead_before_applying() -> None:
    def may_append(self: Any) -> bool:
        return self.role is Role.LEADER and self.last_index - self.commit_index < 8

    Raft._may_append = may_append  # type: ignore[method-assign]


def _serve_a_local_read_as_linearizable() -> None:
    async def read(self: Any, consistency: str, deadline: float, *, min_index: int = 0) -> None:
        return None

    Node.read = read  # type: ignore[method-assign]


def _refuse_without_a_round() -> None:
    async def confirm(self: Any, verdicts: Any, place: Any) -> None:
        for ticket, judged in verdicts:
            ticket.settle(judged)

    Proposals._confirm = confirm  # type: ignore[method-assign]


def _call_a_lost_hop_refused() -> None:
    def lose(self: Any, reason: str) -> None:
        self.settle([not_admitted(Code.NO_LEADER, reason)] * self.size)

    Call.lose = lose  # type: ignore[method-assign]


# --- determinism ------------------------------------------------------------------------------------------------------


def _forget_keys() -> None:
    Layer.ledger = lambda self, project_id, idem_key: None  # type: ignore[method-assign]


def _float_in_a_hash() -> None:
    """A sum that depends on the order of its terms: that of the log while running, that of the keys after a restart."""
    sums: WeakKeyDictionary[Machine, float] = WeakKeyDictionary()

    def make(original: Any) -> Any:
        def apply(self: Any, index: int, term: int, data: bytes | None) -> Any:
            sums[self] = sums.get(self, 0.1) * 1.1 + index / 3
            return original(self, index, term, data)

        return apply

    _replace(Machine, "apply", make)
    Machine.cluster_hash = property(lambda self: digest("cluster", {"sum": repr(sums.get(self, 0.1))}))  # type: ignore[method-assign,assignment]


def _order_of_a_dictionary() -> None:
    Machine.cluster_hash = property(lambda self: digest("cluster", {"projects": list(self._projects)}))  # type: ignore[method-assign,assignment]


def _wall_clock_in_the_reducer() -> None:
    def make(original: Any) -> Any:
        def reduce(chart: Any, view: Any, place: Any, *rest: Any, **how: Any) -> Any:
            life = LIVING.get()
            now = place.stamp_us if life is None else life.clock.wall_us()
            return original(chart, view, msgspec.structs.replace(place, stamp_us=now), *rest, **how)

        return reduce

    _replace(machine, "reduce", make)


def _two_epochs_at_once() -> None:
    def make(original: Any) -> Any:
        def regions_after(transition: Any, *rest: Any) -> Any:
            changed = original(transition, *rest)
            served = next(name for name in changed["epoch"] if name.lower() == transition.region)
            return changed | {"epoch": changed["epoch"] | {served: changed["epoch"][served] + 1}}

        return regions_after

    _replace(reducer, "_regions_after", make)


# --- outside ----------------------------------------------------------------------------------------------------------


def _another_name_for_each_call() -> None:
    def make(original: Any) -> Any:
        calls = count()
        return lambda *of: digest("effect", [original(*of), next(calls)])

    _replace(environment, "effect_id", make)


def _call_an_unanswered_record_delivered() -> None:
    def make(original: Any) -> Any:
        async def send(self: Any, record: Any, taken: Any) -> None:
            await original(self, record, taken)
            if taken.trouble is not None:
                taken.trouble = None
                taken.delivered.append(record)

        return send

    _replace(sinks.Http, "_send", make)


MUTANTS: dict[str, Mutant] = {
    "skip-the-barrier": Mutant("a synced batch is not synced", _skip_the_barrier),
    "acknowledge-before-commit": Mutant("accepted is said when the entry is appended", _acknowledge_before_commit),
    "forget-the-vote": Mutant(
        "a restarted node votes again in its term",
        _forget_the_vote,
        "tests/raft/test_journal.py::test_a_vote_is_durable_when_it_is_cast",
    ),
    "truncate-on-a-match": Mutant("an append cuts entries it does not contradict", _truncate_on_a_match),
    "count-a-stale-ack": Mutant(
        "an acknowledgement of an earlier term counts in this one",
        _count_a_stale_acknowledgement,
        "tests/raft/test_hazards.py::test_an_acknowledgement_from_an_earlier_term_counts_for_nothing",
    ),
    "commit-an-unverified-tail": Mutant(
        "the commit index passes what the leader vouched for",
        _commit_over_an_unverified_tail,
        "tests/raft/test_append.py",
    ),
    "believe-an-earlier-connection": Mutant(
        "what a peer acknowledged before its link broke still counts",
        _believe_an_earlier_connection,
        "tests/raft/test_shield.py::test_a_follower_put_back_to_an_older_disk_is_not_counted",
    ),
    "lead-before-applying": Mutant(
        "a new leader judges on the state before its term",
        _lead_before_applying,
        "tests/raft/test_driver.py::test_a_new_leader_judges_nothing_before_it_has_applied_what_was_committed_before_it",
    ),
    "local-read-as-linearizable": Mutant("a read is answered from what is here", _serve_a_local_read_as_linearizable),
    "refuse-without-a-round": Mutant(
        "a refusal leaves without confirming leadership",
        _refuse_without_a_round,
        "tests/cluster/test_proposals.py::test_a_refusal_alone_leaves_after_a_read_round_and_not_without",
    ),
    "call-a-lost-hop-refused": Mutant(
        "a forward without an answer is called not admitted",
        _call_a_lost_hop_refused,
        "tests/http/test_forward.py::test_a_message_without_an_answer_is_unknown",
    ),
    "forget-keys": Mutant("an idempotency key is applied again", _forget_keys),
    "float-in-a-hash": Mutant("a hash depends on the order of a floating-point sum", _float_in_a_hash),
    "order-of-a-dictionary": Mutant("a hash depends on the order in which rows were loaded", _order_of_a_dictionary),
    "wall-clock-in-the-reducer": Mutant("a record carries the node's own time", _wall_clock_in_the_reducer),
    "two-epochs-at-once": Mutant("a transition advances its epoch by two", _two_epochs_at_once),
    "another-name-for-each-call": Mutant("an effect is asked for again under a new name", _another_name_for_each_call),
    "call-an-unanswered-record-delivered": Mutant(
        "a record whose sink was silent is noted as delivered", _call_an_unanswered_record_delivered
    ),
}


def plant(name: str) -> None:
    """Put a bug into this process, for good."""
    MUTANTS[name].plant()


def plant_for_tests() -> None:
    """Plant what the environment names."""
    if name := os.environ.get(VARIABLE):
        plant(name)
