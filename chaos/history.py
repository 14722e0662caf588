"""What callers saw of a run, and whether the records the nodes hold agree with it. Pure: values in, findings out.

General linearizability has to search for an order. Here the nodes hand the order over: the chain of each project. So
every proposal and every read has a place in it, and the question is only whether those places respect real time. The
check is exact, and linear but for the sorts.

An attempt that was never answered, or answered with "unknown", may be in the chain or not; both are right. It must
never be counted as a failure, and never as a success either.

What it cannot see: effects outside the cluster, an order between projects, and a lie that all nodes tell alike, to
every caller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import islice, pairwise
from math import inf
from typing import NamedTuple

import msgspec

from swoosh import wal
from swoosh.errors import Corrupt
from swoosh.hlc import HLC
from swoosh.outcome import Code
from swoosh.proposal import RESERVED_KEYS
from swoosh.settings import SETTINGS
from swoosh.state import GENESIS_HASH, SERVED, regions_type
from swoosh.wal import WalRecord

VIOLATIONS_MAX = 20
SKEW_MS_MAX = int(SETTINGS["max_skew_ms"].default)


class Verdict(StrEnum):
    """What one attempt was told."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    NOT_ADMITTED = "not admitted"
    UNKNOWN = "unknown"


class Attempt(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """One proposal sent once. Times are seconds of one monotonic clock. Hashes are those the answer carried."""

    project: str
    key: str
    transition: str
    inputs_hash: str
    node: str
    start: float
    end: float
    verdict: Verdict
    code: str = ""
    state_pre_hash: str = ""
    state_post_hash: str = ""
    seq: int = 0
    head: str = ""
    """The state a refusal was judged on."""
    session: str = ""
    """Whose later reads may not be older than this; empty: nobody's."""


class Read(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """A read of a project's state hash: linearizable, or at most ``staleness`` seconds old."""

    project: str
    node: str
    start: float
    end: float
    state_hash: str
    staleness: float = 0.0
    session: str = ""


Event = Attempt | Read
Intent = tuple[str, str, str]
"""Key, transition and hash of the inputs: what makes two attempts the same operation."""
Dump = Mapping[str, bytes]
"""What one node holds: {project: WAL records, one per line}. It may begin late, where a node cut its history."""

JUDGED_ON_STATE = frozenset(
    {
        *(Code.IDEM_KEY_REUSED, Code.UNKNOWN_PROJECT, Code.INPUTS_INVALID, Code.STALE_STATE, Code.HLC_REGRESSION),
        *(Code.HLC_TIE, Code.HLC_SKEW, Code.PAUSED, Code.NOT_LICENSED, Code.WRONG_PHASE, Code.GUARD_REJECTED),
    }
)
"""Refusals only a leader gives, after confirming that it leads: each is a linearizable read of HEAD too."""
JUDGED_ON_TIME = frozenset({Code.HLC_SKEW, Code.GUARD_REJECTED})
"""Refusals for a time or a fact: a copy of the same request that arrives later may be judged otherwise."""


class Kind(StrEnum):
    """Every sort of violation, and the promise it breaks."""

    # What no chain may show, whatever anybody was told.
    BROKEN_CHAIN = "broken chain"
    APPLIED_TWICE = "applied twice"
    REPEATED_STATE = "repeated state"
    TIME_RAN_BACK = "time ran back"
    AHEAD_OF_TIME = "ahead of time"
    EPOCH_SKIPPED = "epoch skipped"
    GUARD_FAILED = "accepted against a guard"
    # What the nodes may not disagree about.
    FORKED = "forked chain"
    NOT_CONVERGED = "not converged"
    # What callers were told, and the chain does not bear out.
    LOST = "acknowledged and lost"
    OTHERWISE = "acknowledged otherwise"
    FORKED_ANSWERS = "acknowledged both"
    REFUSED_APPLIED = "refused and applied"
    APPLIED_REFUSED = "applied and refused"
    UNASKED = "nobody asked for it"
    NEVER_WAS = "a state that never was"
    # What respects no real time.
    OUT_OF_ORDER = "out of order"
    FUTURE_READ = "read from the future"
    STALE_READ = "stale read"
    NODE_WENT_BACK = "a node went back"
    SESSION_WENT_BACK = "a session went back"


class Violation(NamedTuple):
    """One contradiction."""

    kind: Kind
    project: str
    text: str

    def __str__(self) -> str:
        return f"{self.project}: {self.kind}: {self.text}"


class Findings(NamedTuple):
    """What the check came to.

    Attributes:
        violations: at most ``VIOLATIONS_MAX``, the first of every project first.
        counts: what was held against what: records, acknowledged, unknown, applied after all, reads, unverifiable.
    """

    violations: list[Violation]
    counts: Counter[str]


class Minimum(NamedTuple):
    """Less than this proves nothing."""

    acknowledged: int = 100
    unknown: int = 0
    reads: int = 10
    nodes: int = 2
    """That acknowledged something."""


def tally(history: Iterable[Event]) -> Counter[str]:
    """How many attempts came to what: by verdict, and refusals by code."""
    found: Counter[str] = Counter()
    for event in history:
        if isinstance(event, Read):
            found["reads"] += 1
        else:
            found[event.verdict] += 1
            if event.verdict is Verdict.REFUSED:
                found[event.code] += 1
    return found


def shortfalls(history: Sequence[Event], minimum: Minimum) -> list[str]:
    """Why this history is too thin for "no violation" to mean anything; empty when it is not."""
    told = tally(history)
    accepted = (event for event in history if isinstance(event, Attempt) and event.verdict is Verdict.ACCEPTED)
    found = Minimum(
        acknowledged=told[Verdict.ACCEPTED],
        unknown=told[Verdict.UNKNOWN],
        reads=told["reads"],
        nodes=len({attempt.node for attempt in accepted}),
    )
    pairs = zip(Minimum._fields, found, minimum, strict=True)
    return [f"{name}: {had}, at least {least} are needed" for name, had, least in pairs if had < least]


def check(
    history: Iterable[Event],
    dumps: Mapping[str, Dump],
    *,
    converged: bool = False,
    skew_ms_max: int = SKEW_MS_MAX,
    unrecorded: frozenset[str] = frozenset(),
    doubled: bool = False,
) -> Findings:
    """Hold what callers saw against what the nodes hold.

    Args:
        dumps: by node. Nodes that are behind are welcome: their chains are prefixes.
        converged: the nodes were quiet, so that no chain may be shorter than another.
        skew_ms_max: how far an HLC may be ahead of the leader's stamp; the replicated setting of the run.
        unrecorded: transitions that somebody proposes who keeps no history; everything but who asked is checked.
        doubled: the network may deliver a request twice, the second time later.
    """
    run = _Run(converged, skew_ms_max, unrecorded, doubled)
    by_project: dict[str, list[Event]] = {project: [] for dump in dumps.values() for project in dump}
    for event in history:
        by_project.setdefault(event.project, []).append(event)
    violations: list[Violation] = []
    counts: Counter[str] = Counter()
    for project, events in by_project.items():
        copies = {node: dump.get(project, b"").splitlines() for node, dump in dumps.items()}
        found = _check_project(events, copies, counts, run)
        violations += (Violation(kind, project, text) for kind, text in islice(found, VIOLATIONS_MAX))
    return Findings(violations[:VIOLATIONS_MAX], counts)


Faults = Iterator[tuple[Kind, str]]


class _Run(NamedTuple):
    """Under what the history came about; the arguments of ``check``."""

    converged: bool
    skew_ms_max: int
    unrecorded: frozenset[str]
    doubled: bool


def _check_project(events: list[Event], copies: dict[str, list[bytes]], counts: Counter[str], run: _Run) -> Faults:
    whole, broken = _whole_copies(copies)
    yield from broken
    yield from _check_copies(whole, run.converged)
    if broken and not whole:
        return
    chain = _merge(list(whole.values()))
    counts["records"] += len(chain.records)
    yield from _check_alone(chain, run.skew_ms_max)
    attempts = [event for event in events if isinstance(event, Attempt)]
    yield from _check_answers(attempts, chain, counts, run)
    yield from _check_order(events, chain, counts, run)


# --- the chain --------------------------------------------------------------------------------------------------------


class _Chain(NamedTuple):
    """One order. ``base`` is how many records before the first are no longer held by anybody."""

    base: int
    records: list[WalRecord]

    @property
    def root(self) -> str:
        return self.records[0].state_pre_hash if self.records else GENESIS_HASH


def _whole_copies(copies: Mapping[str, list[bytes]]) -> tuple[dict[str, list[bytes]], list[tuple[Kind, str]]]:
    """The copies that are each one chain without a gap, by node; and what is wrong with the others."""
    whole: dict[str, list[bytes]] = {}
    broken: list[tuple[Kind, str]] = []
    for node, lines in copies.items():
        if not any(lines == known for known in whole.values()):
            try:
                _check_links(lines)
            except Corrupt as error:
                broken.append((Kind.BROKEN_CHAIN, f"{node}: {error}"))
                continue
        whole[node] = lines
    return whole, broken


def _check_links(lines: list[bytes]) -> None:
    records = [wal.decode(line) for line in lines]
    if not records:
        return
    start = records[0].seq
    wal.check_chain(lines, prev_record_hash=records[0].prev_record_hash if start > 1 else "")
    for number, record in enumerate(records, start=start):
        if record.seq != number:
            raise Corrupt(f"record {number} has seq {record.seq}")


def _check_copies(copies: Mapping[str, list[bytes]], converged: bool) -> Faults:
    """Every copy is a part of the same chain."""
    held: dict[int, tuple[str, bytes]] = {}
    ends: dict[str, int] = {}
    for node, lines in copies.items():
        start = wal.decode(lines[0]).seq if lines else 1
        ends[node] = start - 1 + len(lines)
        for seq, line in enumerate(lines, start=start):
            other, known = held.setdefault(seq, (node, line))
            if line is not known and line != known:
                ours, theirs = wal.decode(line).state_post_hash, wal.decode(known).state_post_hash
                yield Kind.FORKED, f"seq {seq} leads to {ours} on {node}, to {theirs} on {other}"
                break
    if converged and len(set(ends.values())) > 1:
        yield Kind.NOT_CONVERGED, f"all was quiet, and the chains end at {ends}"


def _merge(copies: list[list[bytes]]) -> _Chain:
    """The longest chain, and before it what only others still hold."""
    runs = [[wal.decode(line) for line in lines] for lines in _distinct(copies) if lines]
    if not runs:
        return _Chain(0, [])
    chain = max(runs, key=lambda run: run[-1].seq)
    while chain[0].seq > 1:
        earlier = [run for run in runs if run[0].seq < chain[0].seq <= run[-1].seq + 1 and _meets(run, chain)]
        if not earlier:
            break
        longest = min(earlier, key=lambda run: run[0].seq)
        chain = longest[: chain[0].seq - longest[0].seq] + chain
    return _Chain(chain[0].seq - 1, chain)


def _distinct(copies: list[list[bytes]]) -> list[list[bytes]]:
    """Copies that are alike, once: a run that went well is decoded once and not once per node."""
    found: list[list[bytes]] = []
    for lines in copies:
        if lines not in found:
            found.append(lines)
    return found


def _meets(run: list[WalRecord], chain: list[WalRecord]) -> bool:
    return run[chain[0].seq - 1 - run[0].seq].state_post_hash == chain[0].state_pre_hash


def _check_alone(chain: _Chain, skew_ms_max: int) -> Faults:
    """What no chain may show, whatever anybody was told."""
    records = chain.records
    for key, count in Counter(record.idem_key for record in records).items():
        if count > 1:
            yield Kind.APPLIED_TWICE, f"key {key} has {count} records"
    for state_hash, count in Counter([chain.root, *(record.state_post_hash for record in records)]).items():
        if count > 1:
            yield Kind.REPEATED_STATE, f"{state_hash} is reached {count} times"
    for record in records:
        ahead = HLC.parse(record.hlc).ms - record.timestamp // 1000
        if ahead > skew_ms_max:
            yield Kind.AHEAD_OF_TIME, f"seq {record.seq} has an hlc {ahead} ms ahead of the leader that stamped it"
        failed = [outcome.name for outcome in record.guard_outcomes if not outcome.ok]
        if failed:
            yield Kind.GUARD_FAILED, f"seq {record.seq}, {record.transition_name}, failed {', '.join(failed)}"
    for before, after in pairwise(records):
        if _moment(after) <= _moment(before):
            yield Kind.TIME_RAN_BACK, f"seq {after.seq} has {_moment(after)} after {_moment(before)}"
        yield from _check_epochs(before, after)


def _moment(record: WalRecord) -> tuple[HLC, str, str]:
    return HLC.parse(record.hlc), record.signer, record.idem_key


def _check_epochs(before: WalRecord, after: WalRecord) -> Faults:
    """Its own region moves on by one; another the chart lists may too, and none by more."""
    own = SERVED[regions_type(after.project)][after.region]
    for region in {*before.epochs, *after.epochs}:
        step = after.epochs.get(region, 0) - before.epochs.get(region, 0)
        if step not in ((1,) if region == own else (0, 1)):
            yield Kind.EPOCH_SKIPPED, f"seq {after.seq}, {after.transition_name}, moved {region} by {step}"


# --- answers ----------------------------------------------------------------------------------------------------------


def _check_answers(attempts: list[Attempt], chain: _Chain, counts: Counter[str], run: _Run) -> Faults:
    """Every acknowledgement is in the chain as it was given; nothing is in it that everybody was refused."""
    held = {record.idem_key: record for record in chain.records}
    accepted = [attempt for attempt in attempts if attempt.verdict is Verdict.ACCEPTED]
    for attempt in accepted:
        record = held.get(attempt.key)
        if record is None and 0 < attempt.seq <= chain.base:
            counts["unverifiable"] += 1
        elif record is None:
            yield Kind.LOST, f"{attempt.key} at seq {attempt.seq}, {attempt.state_post_hash}, by {attempt.node}"
        elif _place(record) != _place(attempt):
            yield Kind.OTHERWISE, f"{attempt.key} was told {_place(attempt)}, the chain has {_place(record)}"
    yield from _check_answers_alone(accepted)
    yield from _check_refusals(attempts, accepted)
    possible = {_intent(attempt) for attempt in attempts if _may_be_applied(attempt, run)}
    refused = {_intent(attempt) for attempt in attempts} - possible
    for record in chain.records:
        intent = (record.idem_key, record.transition_name, record.inputs_hash)
        if intent in refused:
            yield Kind.REFUSED_APPLIED, f"{record.idem_key} at seq {record.seq}"
        elif (
            intent in possible or record.transition_name in run.unrecorded or record.idem_key.startswith(RESERVED_KEYS)
        ):
            continue
        else:
            yield Kind.UNASKED, f"{record.idem_key}, {record.transition_name} at seq {record.seq}"
    _count(possible, accepted, held, counts)


def _may_be_applied(attempt: Attempt, run: _Run) -> bool:
    if attempt.verdict is Verdict.REFUSED:
        return run.doubled and attempt.code in JUDGED_ON_TIME
    return attempt.verdict in (Verdict.ACCEPTED, Verdict.UNKNOWN)


def _check_answers_alone(accepted: list[Attempt]) -> Faults:
    """Acknowledgements that cannot all be true, whatever the chain holds."""
    places: dict[str, tuple[int, str, str]] = {}
    followers: dict[str, str] = {}
    for attempt in accepted:
        place = places.setdefault(attempt.key, _place(attempt))
        if place != _place(attempt):
            yield Kind.FORKED_ANSWERS, f"{attempt.key} was told {place} and {_place(attempt)}"
        first = followers.setdefault(attempt.state_pre_hash, attempt.key)
        if first != attempt.key:
            yield Kind.FORKED_ANSWERS, f"{first} and {attempt.key} both follow {attempt.state_pre_hash}"


def _check_refusals(attempts: list[Attempt], accepted: list[Attempt]) -> Faults:
    """Who asks again after an acknowledgement gets that acknowledgement, and no judgement on a state it has left."""
    first_end: dict[Intent, float] = {}
    for attempt in accepted:
        intent = _intent(attempt)
        first_end[intent] = min(attempt.end, first_end.get(intent, inf))
    for attempt in attempts:
        judged = attempt.verdict is Verdict.REFUSED and attempt.code in JUDGED_ON_STATE
        if judged and attempt.start > first_end.get(_intent(attempt), inf):
            yield Kind.APPLIED_REFUSED, f"{attempt.key} was acknowledged, then answered {attempt.code}"


def _count(possible: set[Intent], accepted: list[Attempt], held: Mapping[str, WalRecord], counts: Counter[str]) -> None:
    acknowledged = {_intent(attempt) for attempt in accepted}
    unknown = possible - acknowledged
    counts["acknowledged"] += len(acknowledged)
    counts["unknown"] += len(unknown)
    counts["unknown, and applied"] += sum(intent[0] in held for intent in unknown)


def _place(of: WalRecord | Attempt) -> tuple[int, str, str]:
    return of.seq, of.state_pre_hash, of.state_post_hash


def _intent(attempt: Attempt) -> Intent:
    return attempt.key, attempt.transition, attempt.inputs_hash


# --- real time --------------------------------------------------------------------------------------------------------


class Operation(NamedTuple):
    """Something with a place in the order, and the time in which it took effect. ``end`` is infinite if unknown.

    A write at position p makes state p; a read at p saw it. A read that may be old began that much earlier.
    """

    start: float
    end: float
    position: int
    is_read: bool
    name: str = ""


def contradictions(operations: Sequence[Operation]) -> Iterator[tuple[Operation, Operation]]:
    """(later, earlier) pairs: ``earlier`` was over before ``later`` began, and comes after it in the order.

    There is none exactly if some order of all operations respects both real time and the positions.
    """
    by_end = sorted(operations, key=lambda operation: operation.end)
    written = read = Operation(-inf, -inf, -1, True)
    over = 0
    for operation in sorted(operations, key=lambda operation: operation.start):
        while over < len(by_end) and by_end[over].end < operation.start:
            done = by_end[over]
            over += 1
            if done.is_read and done.position > read.position:
                read = done
            elif not done.is_read and done.position > written.position:
                written = done
        if written.position > operation.position:
            yield operation, written
        elif read.position > operation.position - (not operation.is_read):
            yield operation, read


def _check_order(events: list[Event], chain: _Chain, counts: Counter[str], run: _Run) -> Faults:
    """Nothing that is later in the order was over before something earlier began."""
    positions = {chain.root: chain.base} | {record.state_post_hash: record.seq for record in chain.records}
    if not chain.base:
        positions.setdefault(GENESIS_HASH, 0)
    strange = sorted({seen for seen in _seen(events) if seen not in positions})
    if not chain.base:
        yield from ((Kind.NEVER_WAS, f"{seen} was read") for seen in strange)
    reads = list(_reads(events, positions, chain.base))
    counts["reads"] += len(reads)
    counts["unverifiable"] += sum(seen not in positions for seen in _seen(events)) if chain.base else 0
    for later, earlier in contradictions([*_writes(events, chain, run), *reads]):
        text = f"{later.name} at {later.position} began after {earlier.name} at {earlier.position} was over"
        if later.is_read:
            yield Kind.STALE_READ, text
        else:
            yield Kind.FUTURE_READ if earlier.is_read else Kind.OUT_OF_ORDER, text
    yield from _went_back(Kind.NODE_WENT_BACK, _by_node(events, positions))
    yield from _went_back(Kind.SESSION_WENT_BACK, _by_session(events, positions))


def _seen(events: list[Event]) -> Iterator[str]:
    for event in events:
        if isinstance(event, Read):
            yield event.state_hash
        elif _names_head(event):
            yield event.head


def _names_head(attempt: Attempt) -> bool:
    return attempt.verdict is Verdict.REFUSED and attempt.code in JUDGED_ON_STATE and bool(attempt.head)


def _writes(events: list[Event], chain: _Chain, run: _Run) -> Iterator[Operation]:
    attempts: dict[Intent, list[Attempt]] = {}
    for event in events:
        if isinstance(event, Attempt) and _may_be_applied(event, run):
            attempts.setdefault(_intent(event), []).append(event)
    places = {(record.idem_key, record.transition_name, record.inputs_hash): record.seq for record in chain.records}
    for intent, tried in attempts.items():
        acknowledged = [attempt for attempt in tried if attempt.verdict is Verdict.ACCEPTED]
        claimed = min((attempt.seq for attempt in acknowledged), default=0)
        position = places.get(intent) or (claimed if claimed <= chain.base else 0)
        if position:
            start = min(attempt.start for attempt in tried)
            end = min((attempt.end for attempt in acknowledged), default=inf)
            yield Operation(start, end, position, False, f"write {intent[0]}")


def _reads(events: list[Event], positions: Mapping[str, int], base: int) -> Iterator[Operation]:
    """Reads with a place. What lies before the base has none: it is old for certain, and proves nothing to others."""
    for event in events:
        if isinstance(event, Read):
            seen, name, old = event.state_hash, f"read on {event.node}", event.staleness
        elif _names_head(event):
            seen, name, old = event.head, f"{event.code} of {event.key} on {event.node}", 0.0
        else:
            continue
        if seen in positions:
            yield Operation(event.start - old, event.end, positions[seen], True, name)
        elif base:
            yield Operation(event.start - old, inf, base - 1, True, name)


def _went_back(kind: Kind, groups: Mapping[str, list[Operation]]) -> Faults:
    for operations in groups.values():
        for later, earlier in contradictions(operations):
            if later.is_read:
                yield kind, f"{later.name} at {later.position} after {earlier.name} at {earlier.position}"


def _by_node(events: list[Event], positions: Mapping[str, int]) -> dict[str, list[Operation]]:
    """What each node showed of itself."""
    groups: dict[str, list[Operation]] = {}
    for event in events:
        if isinstance(event, Read) and event.state_hash in positions:
            operation = Operation(event.start, event.end, positions[event.state_hash], True, f"read on {event.node}")
            groups.setdefault(event.node, []).append(operation)
    return groups


def _by_session(events: list[Event], positions: Mapping[str, int]) -> dict[str, list[Operation]]:
    """What each session was shown, and what it was told it had done."""
    groups: dict[str, list[Operation]] = {}
    for event in events:
        is_read = isinstance(event, Read)
        seen = event.state_hash if isinstance(event, Read) else event.state_post_hash
        if event.session and seen in positions:
            name = f"{'read' if is_read else 'write'} of {event.session} on {event.node}"
            operation = Operation(event.start, event.end, positions[seen], is_read, name)
            groups.setdefault(event.session, []).append(operation)
    return groups
