"""The leader's queue: what waits to enter the log, and who waits for the verdict.

Everything that arrives while an entry is in flight forms the next one (group commit; no timer). Each item is reduced
on pending state *before* it is appended:

* accepted: it joins the entry, and its outcome is what ``apply`` makes of it;
* refused: it never enters the log. Its verdict is a read of pending state, so it leaves only once that state is
  committed in this term *and* leadership was confirmed by something begun after the request came in: the commit of
  the entry gathered with it, or else a read round. A deposed leader therefore refuses nobody;
* beyond what one signer may create (creators.py): refused likewise, a signed batch as a whole;
* broken (a bug, an invariant): answered INTERNAL, and never enters the log, where it would meet every node.

A request whose deadline passes here is taken out before it is answered, so that "not admitted" is certain; one whose
entry is on its way is answered as unknown, and so is one that repeats what an entry on its way would apply.

One tick judges a bounded number, refused ones included: no flood of requests keeps a leader from its heartbeats.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.answers import Answer, not_admitted, unknown
from cluster.clock import Clock, done_by
from cluster.creators import Creators
from cluster.raft.driver import Fate, NoQuorum, NotLeader, Raft
from cluster.support import objected
from swoosh import entry as log_entry
from swoosh import limits, state
from swoosh.entry import Item, LogEntry, Note, owed
from swoosh.machine import Applied, Layer, Machine
from swoosh.outcome import Accepted, Code, FactAccepted, ItemOutcome, Refused
from swoosh.reducer import Place

QUEUE_ITEMS_MAX = 8_192
QUEUE_BYTES_MAX = 64 << 20
JUDGED_MAX = 128
"""Proposals and facts judged in one tick, about 30 ms; a batch is one item and judged whole."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One item and whoever waits for its answers (one per proposal or fact in it).

    ``in_flight``: it may yet be applied, by its own entry or by that of an earlier proposal with its key.
    """

    item: Item
    weight: int
    deadline: float
    dry_run: bool
    answers: asyncio.Future[tuple[Answer, ...]]
    in_flight: bool = False

    @property
    def size(self) -> int:
        """How many answers it is owed."""
        return owed(self.item)

    def settle(self, answers: Sequence[Answer]) -> None:
        """Answer it, unless it was answered before."""
        if not self.answers.done():
            self.answers.set_result(tuple(answers))

    def settle_all(self, answer: Answer) -> None:
        """The same answer for everything in it."""
        self.settle((answer,) * self.size)


Verdict = tuple[Ticket, tuple[ItemOutcome, ...]]


class Proposals:
    """The queue of one node. Only a leader takes from it.

    Args:
        spawn: runs a coroutine beside the caller; its owner cancels it at shutdown.
    """

    def __init__(
        self,
        node_id: str,
        machine: Machine,
        creators: Creators,
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._node_id = node_id
        self._machine = machine
        self._creators = creators
        self._clock = clock
        self._spawn = spawn
        self._queue: deque[Ticket] = deque()
        self._queued_bytes = 0
        self._notes: deque[tuple[Note, Callable[[bool], None]]] = deque()
        self.raft: Raft
        self.objection: Callable[[Item], str | None] = lambda item: None
        """Why this leader lets an item not enter the log, whatever the machine would say; None for most."""

    async def submit(self, items: Sequence[Item], deadline: float, *, dry_run: bool) -> list[Answer]:
        """Queue items, wait for their answers until ``deadline`` (monotonic seconds), one per proposal or fact."""
        if not self.raft.clock_ok:
            reason = "time stands still: this leader's clock is off, or behind the newest stamp"
            return [not_admitted(Code.CLOCK, reason)] * sum(map(owed, items))
        loop = asyncio.get_running_loop()
        tickets = [Ticket(item, log_entry.weight(item), deadline, dry_run, loop.create_future()) for item in items]
        weight = sum(ticket.weight for ticket in tickets)
        while self._queue and self._queue[0].answers.done():
            self._take()
        if len(self._queue) + len(items) > QUEUE_ITEMS_MAX or self._queued_bytes + weight > QUEUE_BYTES_MAX:
            waiting = f"{len(self._queue)} items of {self._queued_bytes} bytes wait already"
            return [not_admitted(Code.OVERLOADED, waiting)] * sum(map(owed, items))
        self._queue.extend(tickets)
        self._queued_bytes += weight
        self.raft.kick()
        return [answer for ticket in tickets for answer in await self._answers(ticket)]

    async def _answers(self, ticket: Ticket) -> tuple[Answer, ...]:
        if not await done_by(self._clock, ticket.deadline, ticket.answers):
            if ticket.in_flight:
                ticket.settle_all(unknown("the deadline passed while an entry with this key was on its way"))
            else:
                ticket.settle_all(
                    not_admitted(Code.OVERLOADED, "the deadline passed before the item could be appended")
                )
        return ticket.answers.result()

    def note(self, note: Note, done: Callable[[bool], None]) -> None:
        """Have the next entry carry a note, whether or not anything else waits. ``done`` is told whether it was
        committed as far as this leader knows."""
        self._notes.append((note, done))
        self.raft.kick()

    def drop_notes(self) -> None:
        """This node does not lead: its notes are not for the log."""
        notes, self._notes = self._notes, deque()
        for _, done in notes:
            done(False)

    def refuse_queued(self, reason: str, code: Code = Code.NO_LEADER) -> None:
        """Nothing that waits was appended, and this node is not the one to do it now."""
        queued, self._queue, self._queued_bytes = self._queue, deque(), 0
        for ticket in queued:
            ticket.settle_all(not_admitted(code, reason))

    def next_entry(self, term: int, stamp_us: int) -> tuple[bytes, Callable[[Fate, object], None]] | None:
        """Gather the next entry; None when nothing that waits may enter the log."""
        place = Place(self.raft.last_index + 1, term, stamp_us)
        layer = self._machine.pending.open()
        notes, self._notes = self._notes, deque()
        for note, _ in notes:
            layer.judge(place, note)
        included, outcomes, verdicts = self._gather(layer, place)
        if not included and not notes:
            if verdicts:
                self._spawn(self._confirm(verdicts, place))
            if self._queue:
                self.raft.kick()
            return None
        items = (*(note for note, _ in notes), *(ticket.item for ticket in included))
        data = log_entry.encode(LogEntry(layer.chart_hash, self._node_id, term, stamp_us, items))
        self._machine.pending.push(place, data, layer, outcomes)

        def done(fate: Fate, applied: object) -> None:
            for _, committed in notes:
                committed(fate is Fate.COMMITTED)
            _settle(included, verdicts, fate, applied)

        return data, done

    def _gather(self, layer: Layer, place: Place) -> tuple[list[Ticket], list[ItemOutcome], list[Verdict]]:
        """Judge what waits, oldest first, until the entry is full or enough was judged for one tick."""
        included: list[Ticket] = []
        outcomes: list[ItemOutcome] = []
        verdicts: list[Verdict] = []
        in_flight = Counter(self._creators.of(step.record for step in self._machine.pending.steps()))
        count = weight = 0
        while self._queue:
            ticket = self._queue[0]
            full = count + ticket.size > JUDGED_MAX or weight + ticket.weight > limits.ENTRY_BYTES_MAX
            if count and full:
                break
            self._take()
            if ticket.answers.done():
                continue
            count, weight = count + ticket.size, weight + ticket.weight
            objection = self.objection(ticket.item)
            trial, judged = self._judge(layer, place, ticket.item, in_flight)
            if objection is not None:
                verdicts.append((ticket, objected(judged, objection)))
            elif ticket.dry_run:
                verdicts.append((ticket, trial.explained(judged)))
            elif any(_changes_state(outcome) for outcome in judged):
                ticket.in_flight = True
                layer.absorb(trial)
                in_flight.update(self._creators.of(step.record for step in trial.steps))
                included.append(ticket)
                outcomes.extend(judged)
            elif all(_is_recorded(self._machine, outcome) for outcome in judged):
                ticket.settle(judged)
            else:
                ticket.in_flight = any(isinstance(outcome, Accepted) for outcome in judged)
                verdicts.append((ticket, judged))
        return included, outcomes, verdicts

    def _judge(
        self, layer: Layer, place: Place, item: Item, in_flight: Counter[str]
    ) -> tuple[Layer, tuple[ItemOutcome, ...]]:
        """Judge an item on a layer of its own, which joins the entry's if the item does."""
        trial = Layer(layer, self._machine.chart)
        judged = trial.judge(place, item)
        excess = self._creators.excess(trial, in_flight)
        if excess is not None:  # then nothing of it may be appended, and only what was recorded before still holds
            judged = tuple(o if _is_recorded(layer, o) else _too_many_projects(layer, o, excess) for o in judged)
        return trial, judged

    def _take(self) -> Ticket:
        ticket = self._queue.popleft()
        self._queued_bytes -= ticket.weight
        return ticket

    async def _confirm(self, verdicts: list[Verdict], place: Place) -> None:
        """Nothing was appended along with these: confirm the state they were judged on by a read round."""
        deadline = max(ticket.deadline for ticket, _ in verdicts)
        confirmed = False
        try:
            await self.raft.read_index(deadline)
            await self.raft.wait_applied(place.index - 1, deadline)
            confirmed = self.raft.term == place.term
        except (NotLeader, NoQuorum):
            pass
        finally:  # also where the node stops meanwhile: nobody is left waiting
            _release(verdicts, confirmed)


def _settle(included: list[Ticket], verdicts: list[Verdict], fate: Fate, applied: object) -> None:
    """The entry's fate is every included item's; the verdicts gathered with it are confirmed by its commit."""
    if fate is Fate.COMMITTED and isinstance(applied, Applied):
        outcomes = iter(applied.outcomes)
        for ticket in included:
            ticket.settle([next(outcomes) for _ in range(ticket.size)])
    else:
        lost = not_admitted(Code.NO_LEADER, "leadership was lost and the entry was discarded")
        for ticket in included:
            ticket.settle_all(lost if fate is Fate.REFUSED else unknown("leadership was lost while it was on its way"))
    _release(verdicts, fate is Fate.COMMITTED)


def _release(verdicts: list[Verdict], confirmed: bool) -> None:
    for ticket, judged in verdicts:
        if confirmed:
            ticket.settle(judged)
        elif ticket.in_flight:
            ticket.settle_all(unknown("an earlier proposal with this key was on its way when leadership was lost"))
        else:
            ticket.settle_all(not_admitted(Code.NO_LEADER, "leadership could not be confirmed for this verdict"))


def _changes_state(outcome: ItemOutcome) -> bool:
    return isinstance(outcome, FactAccepted) or (isinstance(outcome, Accepted) and not outcome.duplicate)


def _is_recorded(view: Machine | Layer, outcome: ItemOutcome) -> bool:
    """Whether it repeats a record of this state. One that is committed stays true whoever leads; one in flight does
    not, nor one of this very entry."""
    if not isinstance(outcome, Accepted) or not outcome.duplicate:
        return False
    held = view.ledger(outcome.project, outcome.idem_key)
    return held is not None and held.record_hash == outcome.record_hash


def _too_many_projects(layer: Layer, outcome: ItemOutcome, reason: str) -> Refused:
    assert not isinstance(outcome, FactAccepted)
    held = layer.project(outcome.project) or state.absent(outcome.project)
    return Refused(
        Code.TOO_MANY_PROJECTS,
        (reason,),
        outcome.project,
        outcome.transition,
        outcome.idem_key,
        head=held.state_hash,
        hlc_last=held.regions.hlc_last.hlc,
        quarantined=held.quarantined,
    )
