"""Outboxes: what was decided, handed to a sink outside, at least once, in order per project, named by its content.

Nothing is queued. Records are kept for good on every node and numbered per project, so all there is to an outbox is one
number for each project: up to which record its sink has them. The leader hands over what lies behind that number and
notes in the log how far it came; every node keeps the number beside its state, snapshots carry it, and the next leader
goes on from there. A sink that is configured later gets everything from the first record on.

* What may reach a sink twice is what was handed over and not yet noted: at most `UNNOTED_MAX` records and a round. The
  id is the hash of the record, so the sink can tell.
* A project's records go one after the other. One that the sink refuses for good, and one that may not leave, hold their
  own project and no other; both are tried again, ever more slowly. An admin may have a refused one passed over, which
  the log then says (`pass_over`). Nothing is dropped otherwise.
* One round hands over at most `ROUND_RECORDS`, so a sink that is slow or away costs the node no memory.

It must never read what is not committed, and never hold up a proposal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog

from cluster import faults
from cluster.clock import done_by
from cluster.license_gate import LicenseGate
from cluster.providers.leading import Leading
from cluster.storage.store import Store
from swoosh.entry import DeliveredItem, PassedOverItem
from swoosh.errors import Corrupt
from swoosh.machine import Applied
from swoosh.proposal import CLUSTER

ROUND_RECORDS = 64
"""Read and rendered without a pause: a few milliseconds in which the node does nothing else."""
RUN_RECORDS = 16
"""Of one project in one round."""
UNNOTED_MAX = 256
NOTE_SECONDS = 2.0
PAUSE_SECONDS = 0.5
"""The first pause after a failure; each is twice the one before, up to one of the next two."""
SINK_PAUSE_MAX = 5.0
"""Where the sink is away, or a record may not leave: asking again is cheap."""
REFUSED_PAUSE_MAX = 60.0
REST_SECONDS = 60.0
SURVEY_PROJECTS, SURVEY_SECONDS = 64, 0.05
SHOWN = 100

_log = structlog.get_logger(__name__)

Redact = Callable[[Any], tuple[Any, tuple[str, ...]]]
"""A JSON value to the value with what may not leave replaced, and the paths of what was."""


def nothing_redacted(value: Any) -> tuple[Any, tuple[str, ...]]:
    """The value as it is."""
    return value, ()


class Outgoing(NamedTuple):
    """A record on its way. ``delivery`` is what is told beside it (templates.DELIVERY)."""

    project: str
    seq: int
    id: str
    stamp_us: int
    document: Mapping[str, Any]
    delivery: Mapping[str, Any]


class Records(Protocol):
    """What one outbox delivers. ``name`` is the outbox's: a system of cluster/egress.py, and a label."""

    name: str

    def waiting(self, project: str, after: int) -> int:
        """How many records of a project come after a sequence number."""
        ...

    def read(self, project: str, after: int, limit: int) -> list[Outgoing]:
        """The first of them."""
        ...

    def new(self, applied: Applied) -> Iterable[str]:
        """The project of each record that an entry made."""
        ...


class Why(StrEnum):
    """Why a project's records do not go on."""

    REFUSED = "refused"
    """The sink will not have this record as it is."""
    BLOCKED = "blocked"
    """It may not leave: the license, as a rule."""


class Held(NamedTuple):
    """A record that is not in the sink, and why."""

    seq: int
    why: Why
    reason: str


@dataclass(slots=True)
class Taken:
    """What became of some records: those the sink has, the first of each project that it has not for that record's
    reasons, and what is wrong with the sink itself. What is in none of these was not tried."""

    delivered: list[Outgoing] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    trouble: str | None = None


class Sink(Protocol):
    """Where records go. ``where`` is for people."""

    where: str

    async def take(self, records: Sequence[Outgoing]) -> Taken:
        """Hand over records, those of a project in the order given."""
        ...


@dataclass(slots=True)
class _Pause:
    """Ever longer, until something succeeds."""

    until: float = float("-inf")
    length: float = 0.0

    def begin(self, now: float, longest: float) -> None:
        self.length = min(2 * self.length or PAUSE_SECONDS, longest)
        self.until = now + self.length

    def end(self) -> None:
        self.until, self.length = float("-inf"), 0.0


@dataclass(slots=True)
class _Lag:
    """A project of which the sink lacks records; ``since_us`` is the stamp of the oldest."""

    waiting: int
    since_us: int
    held: Held | None = None
    pause: _Pause = field(default_factory=_Pause)


class Outbox:
    """One outbox of one node: a provider, so it works while the node leads."""

    def __init__(self, records: Records, sink: Sink, store: Store) -> None:
        self.name = records.name
        self._records, self._sink, self._store = records, sink, store
        self._leading: Leading | None = None
        self._lags: dict[str, _Lag] = {}
        self._unnoted: dict[str, int] = {}
        self._unnoted_records = 0
        self._noted_at = float("-inf")
        self._pause = _Pause()
        self._trouble: str | None = None
        self._woken: asyncio.Future[None] | None = None
        self.delivered = self.failed = 0
        """Records handed over, and attempts that failed, since this node started."""

    @property
    def trouble(self) -> str | None:
        """As `Provider.trouble`."""
        refused = [name for name, lag in self._lags.items() if lag.held is not None and lag.held.why is Why.REFUSED]
        if self._trouble is None and refused:
            return f"{self._sink.where} refuses a record of {len(refused)} projects, first {refused[0]}"
        return self._trouble

    @trouble.setter
    def trouble(self, reason: str | None) -> None:
        self._trouble = reason

    # --- delivering ---------------------------------------------------------------------------------------------------

    async def run(self, leading: Leading) -> None:
        """Until cancelled."""
        self._leading, self._noted_at = leading, leading.clock.monotonic()
        gate = LicenseGate(leading.machine, leading.clock)
        leading.on_applied.append(self._on_applied)
        try:
            await self._survey(leading)
            while True:
                records = self._pick(leading.clock.monotonic())
                if records:
                    self._learn(await self._sink.take(records), gate, leading.clock.monotonic())
                if self._note_due_at() <= leading.clock.monotonic():
                    await self._note(leading)
                if not records:
                    await self._rest(leading)
        finally:
            leading.on_applied.remove(self._on_applied)
            self._leading = None
            self._lags, self._unnoted, self._unnoted_records = {}, {}, 0
            self._pause.end()

    async def _survey(self, leading: Leading) -> None:
        """Which projects the sink lacks records of. What former leaders noted is applied by the time this one's own
        first entry is."""
        while leading.machine.position.term < leading.term:
            await leading.clock.sleep(SURVEY_SECONDS)
        for number, project in enumerate(leading.machine.project_ids()):
            after = self._after(project)
            waiting = self._records.waiting(project, after)
            if waiting:
                self._lags[project] = _Lag(waiting, self._records.read(project, after, 1)[0].stamp_us)
            if number % SURVEY_PROJECTS == 0:
                await leading.clock.sleep(0)

    def _on_applied(self, applied: Applied) -> None:
        for project in self._records.new(applied):
            lag = self._lags.setdefault(project, _Lag(0, applied.position.stamp_us))
            lag.waiting += 1
        if self._leading is not None and self._pause.until <= self._leading.clock.monotonic():
            self._wake()

    def _after(self, project: str) -> int:
        return max(self._store.delivered(self.name, project), self._unnoted.get(project, 0))

    def _pick(self, now: float) -> list[Outgoing]:
        """The next round: a run of records of each project whose turn it is. What failed is tried with one record."""
        found: list[Outgoing] = []
        if now < self._pause.until:
            return found
        most = 1 if self._pause.length else ROUND_RECORDS
        for project, lag in list(self._lags.items()):
            if len(found) >= most:
                break
            if lag.pause.until <= now:
                limit = 1 if lag.held is not None else min(most, RUN_RECORDS)
                run = self._records.read(project, self._after(project), limit)
                lag.since_us = run[0].stamp_us
                self._lags[project] = self._lags.pop(project)  # the others come first next time
                found += run
        return found

    def _learn(self, taken: Taken, gate: LicenseGate, now: float) -> None:
        faults.failpoint("outbox.taken")
        trouble = taken.trouble
        self._unnoted.update((record.project, record.seq) for record in taken.delivered)
        self._unnoted_records += len(taken.delivered)
        self.delivered += len(taken.delivered)
        for project in {record.project: None for record in taken.delivered}:
            self._advance(project)
        for project, held in taken.held.items():
            if held.why is Why.BLOCKED and gate.closed(on_behalf_of(project)) is None:
                trouble = held.reason  # by something that is no matter of this project, such as the breaker
            else:
                self._hold(project, held, now)
        if taken.delivered:
            self._pause.end()
        elif trouble is not None:
            self._pause.begin(now, SINK_PAUSE_MAX)
        self.failed += trouble is not None
        if trouble != self._trouble:
            _log.warning("outbox", outbox=self.name, sink=self._sink.where, trouble=trouble)
        self._trouble = trouble

    def _advance(self, project: str) -> None:
        """Something of a project has been dealt with."""
        lag = self._lags.get(project)
        if lag is None:
            return
        lag.waiting, lag.held = self._records.waiting(project, self._after(project)), None
        lag.pause.end()
        if not lag.waiting:
            del self._lags[project]

    def _hold(self, project: str, held: Held, now: float) -> None:
        lag = self._lags.get(project)
        if lag is None or held.seq <= self._after(project):
            return  # it was passed over meanwhile
        if held.why is Why.REFUSED:
            self.failed += 1
            if lag.held is None or lag.held[:2] != held[:2]:
                _log.warning("outbox holds a project", outbox=self.name, project=project, **held._asdict())
        lag.held = held
        lag.pause.begin(now, REFUSED_PAUSE_MAX if held.why is Why.REFUSED else SINK_PAUSE_MAX)

    # --- noting -------------------------------------------------------------------------------------------------------

    def _note_due_at(self) -> float:
        """Many records, or a while: a note is an entry of the log like any other."""
        if not self._unnoted:
            return float("inf")
        return float("-inf") if self._unnoted_records >= UNNOTED_MAX else self._noted_at + NOTE_SECONDS

    async def _note(self, leading: Leading) -> None:
        noted = dict(self._unnoted)
        committed = await leading.note(DeliveredItem(self.name, tuple(noted.items())))
        self._noted_at = leading.clock.monotonic()
        if committed:  # then it is applied here, and the store knows
            self._unnoted, self._unnoted_records = {}, 0

    # --- waiting ------------------------------------------------------------------------------------------------------

    async def _rest(self, leading: Leading) -> None:
        """Until there is something to do."""
        turns = [max(lag.pause.until, self._pause.until) for lag in self._lags.values()]
        deadline = min([*turns, self._note_due_at(), leading.clock.monotonic() + REST_SECONDS])
        self._woken = asyncio.get_running_loop().create_future()
        await done_by(leading.clock, deadline, self._woken)

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    # --- what operators see and say -----------------------------------------------------------------------------------

    def gauges(self, now_us: int) -> dict[str, int | float]:
        """Numbers, while the node leads: records that wait, seconds that the oldest that may leave has waited, projects
        held, by reason."""
        held = [lag.held.why for lag in self._lags.values() if lag.held is not None]
        waits = [lag.since_us for lag in self._lags.values() if lag.held is None or lag.held.why is not Why.BLOCKED]
        return {
            "backlog": sum(lag.waiting for lag in self._lags.values()),
            "oldest_s": max(0, now_us - min(waits)) / 1e6 if waits else 0.0,
            "delivered": self.delivered,
            "failed": self.failed,
            **{why.value: held.count(why) for why in Why},
        }

    def document(self, now_us: int) -> dict[str, Any]:
        """For people: the numbers, what holds which project, and what was passed over, the first of each."""
        held = [{"project": name, **lag.held._asdict()} for name, lag in self._lags.items() if lag.held is not None]
        return {
            "sink": self._sink.where,
            "trouble": self.trouble,
            **self.gauges(now_us),
            "held": held[:SHOWN],
            "passed_over": [each._asdict() for each in islice(self._store.passed_over(self.name), SHOWN)],
        }

    def retry(self) -> None:
        """Try everything again now."""
        self._pause.end()
        for lag in self._lags.values():
            lag.pause.end()
        self._wake()

    async def pass_over(self, project: str, seq: int, by: str) -> str | None:
        """Go on behind a record that the sink refuses. None once that is committed, or why it is not done."""
        lag = self._lags.get(project)
        if self._leading is None or lag is None or lag.held is None or lag.held.why is not Why.REFUSED:
            return f"{self._sink.where} refuses no record of {project}"
        if lag.held.seq != seq:
            return f"of {project} it refuses record {lag.held.seq}, not {seq}"
        if not await self._leading.note(PassedOverItem(self.name, project, seq, by, lag.held.reason)):
            return "leadership was lost; it may have been passed over, or not"
        self._advance(project)
        self._wake()
        return None


def on_behalf_of(project: str) -> str | None:
    """Whose license lets a project's records leave; what concerns the cluster leaves on the node's own behalf."""
    return None if project == CLUSTER else project


class _Stamped(msgspec.Struct):
    """As much of a WAL record as a delivery tells."""

    timestamp: int


def stamp_of(store: Store, project: str, seq: int) -> int:
    """The leader stamp of a record, microseconds.

    Raises:
        Corrupt: the store has no WAL record to it.
    """
    data = store.record(project, seq)
    if data is None:
        raise Corrupt(f"{project} seq {seq}: there is something to deliver and no WAL record")
    return msgspec.json.decode(data, type=_Stamped).timestamp


def whole(document: dict[str, Any], texts: Collection[str], redact: Redact) -> tuple[dict[str, Any], list[str]]:
    """A record as it leaves: the members that hold words, redacted, and the paths of what was."""
    redacted, paths = redact({name: document[name] for name in texts})
    return {**document, **redacted}, list(paths)
