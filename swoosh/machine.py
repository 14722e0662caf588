"""The one mutable shell around the pure parts: committed state, and what the leader has in flight on top of it.

The contract of ``Machine.apply`` is that of a replicated state machine: called in log order, once per index, with the
same bytes on every node; it is deterministic, total, and does no I/O but reading through the ``Source`` it was given.
What it changed comes back as an ``Applied``, which the caller writes in one batch. It must never consult a clock, and
nothing may reach its state but ``apply``.

The leader reduces each proposal before it enters the log, on the state as it will be once everything in flight has
committed (``Pending``). That judgement is reused when the very same entry comes back committed, so a proposal is
reduced once on the leader and once on each follower.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple, Protocol

import msgspec

import swoosh.regions  # noqa: F401  (registers every guard, effect and input the chart names)
from swoosh import diff, facts, proposal, state, submission
from swoosh import entry as log_entry
from swoosh.catalog import Registry, bind
from swoosh.chart import Chart
from swoosh.decision import DecisionRecord
from swoosh.entry import NOTES, BatchItem, FactItem, Item, LogEntry, Note, ProposalItem, owed
from swoosh.errors import Corrupt, InvariantBroken, Malformed
from swoosh.facts import FactBoard, Known
from swoosh.hashing import digest, digest_bytes
from swoosh.idempotency import LedgerEntry
from swoosh.merkle import MerkleMap
from swoosh.outcome import Accepted, Code, FactAccepted, ItemOutcome, Refused
from swoosh.principal import normalise
from swoosh.proposal import CLUSTER, PREVIOUS, Normal
from swoosh.reducer import Place, Step, reduce
from swoosh.state import Project, Row
from swoosh.submission import SubmissionRecord
from swoosh.wal import WalRecord

ENDS_THE_PROCESS = (MemoryError, RecursionError, OSError, SystemError, Corrupt)
"""What says that this process or its store is unwell, and nothing about the proposal."""
FOLD_AT = 256
"""Moved projects after which their heads are folded into the tree, so that asking for the hash is never a long job."""


class Position(msgspec.Struct, frozen=True):
    """The last applied entry. ``stamp_us`` is the newest leader stamp seen; a Raft no-op moves only the index."""

    index: int
    term: int
    stamp_us: int


class HeadSummary(NamedTuple):
    """What a project contributes to the cluster hash."""

    state_hash: str
    wal_head: str
    ledger_digest: str


class Source(Protocol):
    """What a Machine reads. Everything it returns is as of ``position``."""

    def position(self) -> Position: ...

    def projects(self) -> Iterator[tuple[str, HeadSummary]]: ...

    def project(self, project_id: str) -> Project | None: ...

    def ledger(self, project_id: str, idem_key: str) -> LedgerEntry | None: ...

    def facts(self) -> Iterator[Known]: ...


class Applied(NamedTuple):
    """Everything one entry changed, to be written in one batch together with its index.

    ``outcomes`` has one per proposal and fact, in order, batches flattened. ``submissions`` come with the sequence
    numbers of their records. ``notes`` are handed through unjudged.
    """

    position: Position
    outcomes: tuple[ItemOutcome, ...] = ()
    rows: tuple[Row, ...] = ()
    ledger: tuple[tuple[str, str, LedgerEntry], ...] = ()
    records: tuple[tuple[WalRecord, bytes], ...] = ()
    decisions: tuple[tuple[DecisionRecord, bytes], ...] = ()
    submissions: tuple[tuple[int, SubmissionRecord], ...] = ()
    facts: tuple[Known, ...] = ()
    notes: tuple[Note, ...] = ()


class Layer:
    """The changes of one entry over the state below it. Itself a view proposals are judged on."""

    def __init__(self, below: Machine | Layer, chart: Chart) -> None:
        self._below = below
        self._chart = chart
        self._registry = below.registry
        self.chart_hash = below.registry.cluster.chart.chart_hash
        """The chart in force below, which an entry of this layer must name."""
        self.projects: dict[str, Project] = {}
        self.entries: dict[tuple[str, str], LedgerEntry] = {}
        self.steps: list[Step] = []
        self.known: list[Known] = []
        self.notes: list[Note] = []

    @property
    def registry(self) -> Registry:
        return self._registry

    def rest_on(self, below: Machine) -> None:
        """What lay below has been absorbed by ``below``."""
        self._below = below

    def project(self, project_id: str) -> Project | None:
        held = self.projects.get(project_id)
        return self._below.project(project_id) if held is None else held

    def ledger(self, project_id: str, idem_key: str) -> LedgerEntry | None:
        held = self.entries.get((project_id, idem_key))
        return self._below.ledger(project_id, idem_key) if held is None else held

    def judge(self, place: Place, item: Item | Note) -> tuple[ItemOutcome, ...]:
        """Reduce one item on this layer and keep what is accepted. One outcome per proposal or fact."""
        if isinstance(item, NOTES):
            self.notes.append(item)
            return ()
        match item:
            case ProposalItem():
                return (self._judge_proposal(place, item),)
            case BatchItem(proposals=proposals):
                return tuple(self._judge_chained(place, proposals))
            case FactItem():
                return (self._judge_fact(place, item),)

    def explained(self, outcomes: Iterable[ItemOutcome]) -> tuple[ItemOutcome, ...]:
        """The outcomes of this layer's items, those accepted now with what each would change."""
        found: list[ItemOutcome] = []
        stood: dict[str, Project] = {}
        steps = iter(self.steps)
        for outcome in outcomes:
            if not isinstance(outcome, Accepted) or outcome.duplicate:
                found.append(outcome)
                continue
            after = next(steps).project
            before = stood.get(after.id) or self._below.project(after.id) or state.absent(after.id)
            stood[after.id] = after
            moved = tuple(diff.changes(before.regions, after.regions))
            found.append(msgspec.structs.replace(outcome, changes=moved))
        return tuple(found)

    def absorb(self, above: Layer) -> None:
        """Take over what a layer that rests on this one changed."""
        self.projects.update(above.projects)
        self.entries.update(above.entries)
        self.steps += above.steps
        self.known += above.known
        self._registry = above.registry

    def applied(self, position: Position, outcomes: Iterable[ItemOutcome]) -> Applied:
        """What this layer changed, as rows and records."""
        rows = [
            row
            for project_id, after in self.projects.items()
            for row in state.rows_changed(self._below.project(project_id), after)
        ]
        return Applied(
            position=position,
            outcomes=tuple(outcomes),
            rows=tuple(rows),
            ledger=tuple((pid, key, entry) for (pid, key), entry in self.entries.items()),
            records=tuple((step.record, step.record_bytes) for step in self.steps),
            decisions=tuple((step.decision, step.decision_bytes) for step in self.steps),
            submissions=tuple(_submissions(self.steps)),
            facts=tuple(self.known),
            notes=tuple(self.notes),
        )

    def _judge_chained(self, place: Place, proposals: tuple[ProposalItem, ...]) -> Iterator[ItemOutcome]:
        """``@prev`` names the hash the proposal before it, of the same project and batch, produced."""
        produced: dict[str, str | None] = {}
        for item in proposals:
            outcome = self._judge_proposal(place, item, produced)
            produced[outcome.project] = outcome.state_post_hash if isinstance(outcome, Accepted) else None
            yield outcome

    def _judge_proposal(
        self, place: Place, item: ProposalItem, produced: Mapping[str, str | None] | None = None
    ) -> Accepted | Refused:
        try:
            sent = proposal.normal(proposal.decode(item.sent), trusting=item.trusted)
        except Malformed as error:
            return Refused(error.code, (error.reason,))
        if sent.head == PREVIOUS:
            head = (produced or {}).get(sent.project)
            if head is None:
                return self._refuse_chained(sent)
            sent = sent._replace(head=head)
        try:
            result = reduce(self._chart, self, place, sent, voters=item.voters, trusting=item.trusted)
        except ENDS_THE_PROCESS:
            raise
        except Exception as error:
            return _internal(sent, error)
        if isinstance(result, Step):
            self._keep(result)
            return result.outcome
        return result

    def _refuse_chained(self, sent: Normal) -> Refused:
        held = self.project(sent.project)
        head, last = (held.state_hash, held.regions.hlc_last.hlc) if held else (state.GENESIS_HASH, "")
        reason = "@prev: no proposal of this project was accepted just before it under the same signature"
        return Refused(
            Code.STALE_STATE, (reason,), sent.project, sent.transition, sent.idem_key, head=head, hlc_last=last
        )

    def _keep(self, step: Step) -> None:
        self.projects[step.project.id] = step.project
        self.entries[step.project.id, step.outcome.idem_key] = step.ledger_entry
        self.steps.append(step)
        if step.project.id == CLUSTER:
            self._registry = self._registry._replace(cluster=state.as_cluster(step.project.regions))

    def _judge_fact(self, place: Place, item: FactItem) -> FactAccepted | Refused:
        try:
            fact = facts.decode(item.sent)
        except Malformed as error:
            return Refused(Code.FACT_REFUSED, (error.reason,))
        provider = normalise(fact.provider)
        try:
            refusal = self._fact_refusal(place, fact, provider)
        except ENDS_THE_PROCESS:
            raise
        except Exception as error:
            return _refused(Code.INTERNAL, type(error).__name__)
        if refusal is not None:
            return Refused(Code.FACT_REFUSED, (refusal,))
        known = facts.known(fact, provider)
        self.known.append(known)
        self._registry = self._registry._replace(facts=self._registry.facts.set(known))
        return FactAccepted(known.kind, known.subject, known.digest, place.index)

    def _fact_refusal(self, place: Place, fact: facts.Fact, provider: str) -> str | None:
        identity = self._registry.identity(provider)
        roles = () if identity is None else identity.roles
        if f"provider:{fact.kind}" not in roles and "provider:*" not in roles:
            return f"{provider[:120]} holds no role provider:{fact.kind}"
        return facts.refusal(
            fact,
            self._registry.facts.get(fact.kind, fact.subject),
            now_ms=place.stamp_us // 1000,
            max_skew_ms=self._registry.setting("max_skew_ms"),
            max_age_ms=self._registry.setting(f"{fact.kind}_age_ms"),
            term=place.term,
        )


class Speculation(msgspec.Struct, frozen=True):
    """An entry judged on pending state; ``digest`` is that of its bytes."""

    index: int
    term: int
    digest: bytes
    layer: Layer
    applied: Applied


class Pending:
    """What the leader appended and has not yet seen committed, one layer per entry, oldest first."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._speculations: deque[Speculation] = deque()

    def open(self) -> Layer:
        """A fresh layer on top of everything in flight. Nothing of it lasts until ``push``."""
        below = self._speculations[-1].layer if self._speculations else self._machine
        return Layer(below, self._machine.chart)

    def push(self, place: Place, data: bytes, layer: Layer, outcomes: Iterable[ItemOutcome]) -> None:
        """Remember the judgement of an entry that is now on its way into the log."""
        applied = layer.applied(Position(place.index, place.term, place.stamp_us), outcomes)
        self._speculations.append(Speculation(place.index, place.term, digest_bytes(data), layer, applied))

    def take(self, index: int, term: int, data: bytes) -> Speculation | None:
        """The judgement of exactly this entry on exactly this state, or None; then nothing pending can be right."""
        if self._speculations:
            oldest = self._speculations.popleft()
            if (oldest.index, oldest.term) == (index, term) and oldest.digest == digest_bytes(data):
                return oldest
        self.clear()
        return None

    def steps(self) -> Iterator[Step]:
        """Every accepted transition in flight, oldest first."""
        return chain.from_iterable(speculation.layer.steps for speculation in self._speculations)

    def settle(self) -> None:
        """The oldest entry is committed state now: the next layer rests on that, so that no chain of layers grows."""
        if self._speculations:
            self._speculations[0].layer.rest_on(self._machine)

    def clear(self) -> None:
        """Leadership was lost or the log took another turn: nothing in flight is certain any more."""
        self._speculations.clear()


class Machine:
    """Committed state of every project, moved by ``apply`` alone.

    Args:
        chart: the chart in force; ``bind`` has accepted it.
        cluster_id: the identity signatures are bound to.
        source: where projects, ledger and facts are read from on demand.

    Raises:
        ChartError: the chart and the code disagree.
    """

    def __init__(self, chart: Chart, cluster_id: str, source: Source) -> None:
        bind(chart)
        self.chart = chart
        self.cluster_id = cluster_id
        self.position = source.position()
        self.pending = Pending(self)
        self._source = source
        self._projects: dict[str, Project] = {}
        self._heads: MerkleMap[HeadSummary] = MerkleMap(dict(source.projects()))
        self._moved: set[str] = set()
        self._facts = FactBoard(MerkleMap({f"{f.kind}/{f.subject}": f for f in source.facts()}))
        self._registry = self._registry_of(self._must_have(CLUSTER))

    @property
    def registry(self) -> Registry:
        """Facts, identities, flags and settings as of ``position``."""
        return self._registry

    @property
    def cluster_hash(self) -> str:
        """``sha256-…`` over every project, its WAL head and ledger, and the facts: what replicas compare."""
        self._fold_moved()
        return digest("cluster", {"projects": self._heads.root, "facts": self._facts.entries.root})

    def project(self, project_id: str) -> Project | None:
        """A project's committed state, or None when nobody created it."""
        held = self._projects.get(project_id)
        if held is None:
            held = self._source.project(project_id)
            if held is not None:
                self._projects[project_id] = held
        return held

    def project_ids(self) -> list[str]:
        """Ids of every project, sorted, ``@cluster`` included."""
        return sorted({*self._heads, *self._moved})

    def ledger(self, project_id: str, idem_key: str) -> LedgerEntry | None:
        """What a key was used for, or None. As of ``position``, provided the caller commits each Applied in turn."""
        return self._source.ledger(project_id, idem_key)

    def apply(self, index: int, term: int, data: bytes | None) -> Applied:
        """Apply the entry at ``index``; ``data`` None is a Raft no-op. Total: any bytes give an Applied."""
        if data is None:
            self.position = Position(index, term, self.position.stamp_us)
            return Applied(self.position)
        speculation = self.pending.take(index, term, data)
        if speculation is None:
            layer = Layer(self, self.chart)
            applied = self._reduce(layer, index, term, data)
        else:
            layer, applied = speculation.layer, speculation.applied
        self._absorb(layer)
        self.position = applied.position
        self.pending.settle()
        return applied

    def _reduce(self, layer: Layer, index: int, term: int, data: bytes) -> Applied:
        try:
            entry = log_entry.decode(data)
        except Corrupt as error:
            return Applied(Position(index, term, self.position.stamp_us), (_refused(Code.INTERNAL, str(error)),))
        refusal = self._refusal_of(entry, term)
        position = Position(index, term, max(entry.stamp_us, self.position.stamp_us))
        if refusal is not None:
            return Applied(position, (refusal,) * sum(map(owed, entry.items)))
        place = Place(index, term, entry.stamp_us)
        outcomes = [outcome for item in entry.items for outcome in layer.judge(place, item)]
        return layer.applied(position, outcomes)

    def _refusal_of(self, entry: LogEntry, term: int) -> Refused | None:
        if entry.term != term:
            return _refused(Code.INTERNAL, f"entry says term {entry.term}, Raft says {term}")
        if entry.stamp_us <= self.position.stamp_us:
            return _refused(Code.INTERNAL, f"stamp {entry.stamp_us} is not after {self.position.stamp_us}")
        in_force = self.registry.cluster.chart.chart_hash
        if entry.chart_hash != in_force:
            return _refused(Code.CHART_MISMATCH, f"written under chart {entry.chart_hash}, in force is {in_force}")
        return None

    def _absorb(self, layer: Layer) -> None:
        self._projects.update(layer.projects)
        self._moved.update(layer.projects)
        self._facts = layer.registry.facts
        self._registry = layer.registry
        if len(self._moved) >= FOLD_AT:
            self._fold_moved()

    def _fold_moved(self) -> None:
        moved, self._moved = self._moved, set()
        self._heads = self._heads.update((pid, self._summary(pid)) for pid in sorted(moved))

    def _summary(self, project_id: str) -> HeadSummary:
        project = self._must_have(project_id)
        return HeadSummary(project.state_hash, project.wal_head, project.ledger_digest)

    def _must_have(self, project_id: str) -> Project:
        project = self.project(project_id)
        if project is None:
            raise Corrupt(f"the store holds no project {project_id}")
        return project

    def _registry_of(self, cluster: Project) -> Registry:
        return Registry(self.cluster_id, self._facts, state.as_cluster(cluster.regions))


class MemorySource:
    """The in-memory twin of a store: a Source that keeps every Applied it is handed.

    Enough to run a Machine alone, in tests and in programs that embed the reducer.
    """

    def __init__(self, projects: Iterable[Project], position: Position) -> None:
        self._rows: dict[str, dict[tuple[str, ...], bytes]] = {}
        self._ledger: dict[tuple[str, str], LedgerEntry] = {}
        self._facts: dict[str, Known] = {}
        self._position = position
        self.records: dict[str, list[bytes]] = {}
        self.decisions: dict[str, bytes] = {}
        for project in projects:
            self._put(state.rows_changed(None, project))

    def commit(self, applied: Applied) -> None:
        """Keep what an entry changed."""
        self._put(applied.rows)
        self._ledger.update({(pid, key): entry for pid, key, entry in applied.ledger})
        self._facts.update({f"{fact.kind}/{fact.subject}": fact for fact in applied.facts})
        for record, data in applied.records:
            self.records.setdefault(record.project, []).append(data)
        self.decisions.update({decided.dr_id: data for decided, data in applied.decisions})
        self._position = applied.position

    def copy(self) -> MemorySource:
        """A source that holds the same and changes by itself."""
        twin = MemorySource((), self._position)
        twin._rows = {project_id: dict(rows) for project_id, rows in self._rows.items()}
        twin._ledger, twin._facts = dict(self._ledger), dict(self._facts)
        twin.records = {project_id: list(data) for project_id, data in self.records.items()}
        twin.decisions = dict(self.decisions)
        return twin

    def position(self) -> Position:
        return self._position

    def projects(self) -> Iterator[tuple[str, HeadSummary]]:
        for project_id in sorted(self._rows):
            project = self.project(project_id)
            if project is not None:
                yield project_id, HeadSummary(project.state_hash, project.wal_head, project.ledger_digest)

    def project(self, project_id: str) -> Project | None:
        rows = self._rows.get(project_id)
        return state.project_from_rows(project_id, rows.items()) if rows else None

    def ledger(self, project_id: str, idem_key: str) -> LedgerEntry | None:
        return self._ledger.get((project_id, idem_key))

    def facts(self) -> Iterator[Known]:
        yield from self._facts.values()

    def _put(self, rows: Iterable[Row]) -> None:
        for path, data in rows:
            held = self._rows.setdefault(path[0], {})
            if data is None:
                held.pop(path, None)
            else:
                held[path] = data


def _submissions(steps: Iterable[Step]) -> Iterator[tuple[int, SubmissionRecord]]:
    for step in steps:
        submitted = submission.derive(step.record, step.decision.dr_id, step.project)
        if submitted is not None:
            yield step.record.seq, submitted


def _refused(code: Code, reason: str) -> Refused:
    return Refused(code, (reason,))


def _internal(sent: Normal, error: Exception) -> Refused:
    """A bug or a broken law: the same text on every node, as it may enter an outcome that replicas compare."""
    what = str(error) if isinstance(error, InvariantBroken) else type(error).__name__
    return Refused(Code.INTERNAL, (what,), sent.project, sent.transition, sent.idem_key)
