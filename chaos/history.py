"""What callers saw of a run, and whether the records the nodes hold agree with it.

General linearizability has to search for an order. Here the nodes hand the order over: the chain of each project. So
every proposal and every linearizable read has a place in it, and the question is only whether those places respect
real time. The check is exact and linear but for two sorts.

An attempt that was never answered, or answered with "unknown", may be in the chain or not; both are right. It must
never be counted as a failure, and never as a success either.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import NamedTuple, TextIO

import msgspec

from swoosh import wal
from swoosh.client.transport import HttpTransport
from swoosh.errors import Corrupt
from swoosh.hlc import HLC
from swoosh.outcome import Code
from swoosh.proposal import RESERVED_KEYS
from swoosh.state import GENESIS_HASH
from swoosh.wal import WalRecord

FAULTS_MAX = 20
PAGE = 1_000


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


class Read(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """A linearizable read of a project's state hash."""

    project: str
    node: str
    start: float
    end: float
    state_hash: str


Event = Attempt | Read
Intent = tuple[str, str, str]
"""Key, transition and hash of the inputs: what makes two attempts the same operation."""

JUDGED_ON_STATE = frozenset(
    {
        *(Code.IDEM_KEY_REUSED, Code.UNKNOWN_PROJECT, Code.INPUTS_INVALID, Code.STALE_STATE, Code.HLC_REGRESSION),
        *(Code.HLC_TIE, Code.HLC_SKEW, Code.PAUSED, Code.NOT_LICENSED, Code.WRONG_PHASE, Code.GUARD_REJECTED),
    }
)
"""Refusals only a leader gives, after confirming that it leads: each is a linearizable read of HEAD too."""


class Journal:
    """A history on disk, one JSON line per event, in the order the answers came."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8")
        self.events: list[Event] = []

    def add(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event)
        self._file.write(msgspec.json.encode(event).decode() + "\n")

    def close(self) -> None:
        self._file.close()


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


async def exported(endpoint: str, index: int) -> dict[str, bytes]:
    """Every project's WAL as one node holds it, one record per line, once that node has applied ``index``."""
    transport = HttpTransport()

    async def get(path: str) -> bytes:
        headers = {"Accept": "application/x-ndjson, application/json"}
        reply = await transport.request("GET", endpoint + path, headers=headers, body=None, timeout=30)
        if reply.status != 200:
            raise ValueError(f"{endpoint}{path}: HTTP {reply.status}: {reply.body[:300]!r}")
        return reply.body

    try:
        listed = json.loads(await get(f"/projects?limit=200&consistency=local&min_index={index}"))
        found: dict[str, bytes] = {}
        for project in [row["project"] for row in listed["projects"]]:
            pages = [b""]
            while pages[-1] or len(pages) == 1:
                start = sum(page.count(b"\n") for page in pages) + 1
                pages.append(await get(f"/wal?project={project}&from={start}&limit={PAGE}&consistency=local"))
            found[project] = b"".join(pages)
        return found
    finally:
        await transport.close()


# --- the check --------------------------------------------------------------------------------------------------------


def check(history: Iterable[Event], exports: Mapping[str, bytes]) -> list[str]:
    """What contradicts the chains in ``exports`` ({project: WAL records, one per line}); at most ``FAULTS_MAX``."""
    by_project: dict[str, list[Event]] = {project: [] for project in exports}
    for event in history:
        by_project.setdefault(event.project, []).append(event)
    faults: list[str] = []
    for project, events in by_project.items():
        lines = exports.get(project, b"").splitlines()
        faults += (f"{project}: {fault}" for fault in _check_project(events, lines))
    return faults[:FAULTS_MAX]


def _check_project(events: list[Event], lines: list[bytes]) -> Iterator[str]:
    try:
        wal.check_chain(lines)
    except Corrupt as error:
        yield f"broken chain: {error}"
        return
    chain = [wal.decode(line) for line in lines]
    yield from _check_alone(chain)
    attempts = [event for event in events if isinstance(event, Attempt)]
    yield from _check_answers(attempts, chain)
    yield from _check_order(events, chain)


def _check_alone(chain: list[WalRecord]) -> Iterator[str]:
    """What no chain may show, whatever anybody was told."""
    for number, record in enumerate(chain, start=1):
        if record.seq != number:
            yield f"gap: record {number} has seq {record.seq}"
    for key, count in Counter(record.idem_key for record in chain).items():
        if count > 1:
            yield f"applied twice: key {key} has {count} records"
    for state_hash, count in Counter(record.state_post_hash for record in chain).items():
        if count > 1:
            yield f"repeated state: {state_hash} follows {count} records"
    for before, after in pairwise(chain):
        if HLC.parse(after.hlc) < HLC.parse(before.hlc):
            yield f"time ran back: seq {after.seq} has hlc {after.hlc} after {before.hlc}"


def _check_answers(attempts: list[Attempt], chain: list[WalRecord]) -> Iterator[str]:
    """Every acknowledgement is in the chain as it was given; nothing is in it that everybody was refused."""
    held = {record.idem_key: record for record in chain}
    for attempt in attempts:
        if attempt.verdict is Verdict.ACCEPTED:
            record = held.get(attempt.key)
            if record is None:
                yield f"acknowledged and lost: {attempt.key} at seq {attempt.seq}, {attempt.state_post_hash}"
            elif _place(record) != (attempt.seq, attempt.state_pre_hash, attempt.state_post_hash):
                told = (attempt.seq, attempt.state_pre_hash, attempt.state_post_hash)
                yield f"acknowledged otherwise: {attempt.key} was told {told}, the chain has {_place(record)}"
    possible = {_intent(attempt) for attempt in attempts if attempt.verdict in (Verdict.ACCEPTED, Verdict.UNKNOWN)}
    refused = {_intent(attempt) for attempt in attempts} - possible
    for record in chain:
        intent = (record.idem_key, record.transition_name, record.inputs_hash)
        if intent in refused:
            yield f"refused and applied: {record.idem_key} at seq {record.seq}"
        elif intent not in possible and not record.idem_key.startswith(RESERVED_KEYS):
            yield f"nobody asked for it: {record.idem_key}, {record.transition_name} at seq {record.seq}"


def _place(record: WalRecord) -> tuple[int, str, str]:
    return record.seq, record.state_pre_hash, record.state_post_hash


def _intent(attempt: Attempt) -> Intent:
    return attempt.key, attempt.transition, attempt.inputs_hash


# --- real time --------------------------------------------------------------------------------------------------------


class _Operation(NamedTuple):
    """Something with a place in the order, and the time in which it took effect. ``end`` is infinite if unknown."""

    start: float
    end: float
    position: int
    is_read: bool
    name: str


def _check_order(events: list[Event], chain: list[WalRecord]) -> Iterator[str]:
    """Nothing that is later in the order was over before something earlier began."""
    try:
        operations = [*_writes(events, chain), *_reads(events, chain)]
    except KeyError as error:
        yield f"a state that never was: {error.args[0]} was read"
        return
    by_end = sorted(operations, key=lambda operation: operation.end)
    written = read = _Operation(-inf, -inf, -1, True, "")
    over = 0
    for operation in sorted(operations, key=lambda operation: operation.start):
        while over < len(by_end) and by_end[over].end < operation.start:
            done = by_end[over]
            over += 1
            if done.is_read and done.position > read.position:
                read = done
            elif not done.is_read and done.position > written.position:
                written = done
        yield from _contradictions(operation, written, read)


def _contradictions(operation: _Operation, written: _Operation, read: _Operation) -> Iterator[str]:
    at = f"{operation.name} at {operation.position}"
    if operation.is_read:
        for earlier in (written, read):
            if earlier.position > operation.position:
                yield f"stale read: {at} began after {earlier.name} at {earlier.position} was over"
    elif written.position > operation.position:
        yield f"out of order: {at} began after {written.name} at {written.position} was over"
    elif read.position >= operation.position:
        yield f"read from the future: {at} began after {read.name} had seen {read.position}"


def _writes(events: list[Event], chain: list[WalRecord]) -> Iterator[_Operation]:
    attempts: dict[Intent, list[Attempt]] = {}
    for event in events:
        if isinstance(event, Attempt) and event.verdict in (Verdict.ACCEPTED, Verdict.UNKNOWN):
            attempts.setdefault(_intent(event), []).append(event)
    for record in chain:
        tried = attempts.get((record.idem_key, record.transition_name, record.inputs_hash), [])
        if tried:
            acknowledged = [attempt.end for attempt in tried if attempt.verdict is Verdict.ACCEPTED]
            start = min(attempt.start for attempt in tried)
            yield _Operation(start, min(acknowledged, default=inf), record.seq, False, f"write {record.idem_key}")


def _reads(events: list[Event], chain: list[WalRecord]) -> Iterator[_Operation]:
    """Raises KeyError for a state that is not in the chain."""
    positions = {GENESIS_HASH: 0, **{record.state_post_hash: record.seq for record in chain}}
    if chain:
        positions[chain[0].state_pre_hash] = 0
    for event in events:
        if isinstance(event, Read):
            yield _Operation(event.start, event.end, positions[event.state_hash], True, f"read on {event.node}")
        elif event.verdict is Verdict.REFUSED and event.code in JUDGED_ON_STATE and event.head:
            name = f"{event.code} of {event.key} on {event.node}"
            yield _Operation(event.start, event.end, positions[event.head], True, name)
