"""The state store: what the machine reads, and where each applied entry goes in one batch.

The batch of an entry holds everything it changed together with its index, and is not synced: the synced Raft log is
the truth, and both share one write-ahead log. After any crash the store is therefore the state after *some* entry, and
the log goes on from there; an entry is never half applied and never applied twice.

Nothing read from here is believed untested. Each row carries a checksum over its key and value, which tells that the
row is the one that was written there; the state hash recomputed from a project's rows tells that they are all there.
What fails raises ``Corrupt``. This module must never repair, and never judge a proposal.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, TypeVar

import msgspec

from cluster import faults
from cluster.faults import ExitCode
from cluster.storage import layout
from cluster.storage.kv import Batch, Family, KeyValue
from swoosh import canonical, idempotency, state, submission
from swoosh.entry import CheckpointItem, DeliveredItem, MarkItem, PassedOverItem
from swoosh.errors import Corrupt
from swoosh.facts import Known
from swoosh.hlc import HLC, ZERO
from swoosh.idempotency import LedgerEntry
from swoosh.machine import Applied, HeadSummary, Position
from swoosh.outcome import Refused
from swoosh.state import Head, Project, Row
from swoosh.wal import WalRecord

ORIGIN = Position(0, 0, 0)
"""Where a new store stands: before the first entry of the log."""
REJECTIONS_KEPT = 10_000
REJECTIONS_A_SLICE = 256
"""Read and decoded in one go; about a millisecond."""

_APPLIED = struct.Struct(">QQQQQ")  # index, term, stamp, HLC milliseconds, HLC counter
_CRC_BYTES = 4
T = TypeVar("T")


class Checkpoint(msgspec.Struct, frozen=True):
    """What the members computed at index ``at``, as the log says: the hash of a majority and who reported it, or no
    hash where none agrees. ``stamp_us`` is when the log said it."""

    at: int
    cluster_hash: str
    nodes: tuple[str, ...]
    stamp_us: int


class Divergence(msgspec.Struct, frozen=True):
    """This node computed ``ours`` at index ``at``, and a majority ``agreed``."""

    at: int
    ours: str
    agreed: str


class _Indexed(msgspec.Struct):
    """As much of a WAL record as an export looks at."""

    index: int


class _Noted(msgspec.Struct):
    """As much of a refusal as a search looks at."""

    project: str
    signer: str


class Store:
    """A ``swoosh.machine.Source`` over a key-value store, and the only writer of its state families.

    Raises:
        Corrupt: no state lies there, or its position fails its checksum.
    """

    def __init__(self, kv: KeyValue) -> None:
        self.kv = kv
        self._position, self._last_hlc = self._read_applied()
        self.checkpoint = self._document(layout.CHECKPOINT, Checkpoint)
        """The last state a majority agreed on; None before the first."""
        self.halt = self._document(layout.HALT, Checkpoint)
        """Where no majority agreed, as long as none has since; else None."""
        self.divergence = self._document(layout.DIVERGED, Divergence)
        """Set where this state was found to be wrong: no node may run on it."""
        newest = next(kv.iterate(Family.REJECTION, reverse=True), None)
        self._refusals = 0 if newest is None else layout.number_of(newest[0]) + 1

    @classmethod
    def create(cls, kv: KeyValue, rows: Iterable[Row], position: Position, meta: Mapping[str, bytes]) -> Store:
        """Write the first state into an empty store, synced. Once in its life.

        Args:
            rows: those of every project there is at the start; ``genesis.initial_rows`` has them.
            position: what they are the state of; ``ORIGIN`` for a new cluster.
            meta: documents kept beside the state; ``genesis`` is needed to verify the store by itself.
        """
        if kv.get(Family.META, layout.APPLIED) is not None:
            faults.fatal(ExitCode.DAMAGED, "a state exists here already")
        batch = Batch()
        for name, document in meta.items():
            _put(batch, Family.META, name.encode(), document)
        _put_rows(batch, rows)
        _put(batch, Family.META, layout.APPLIED, _pack_applied(position, ZERO))
        kv.write(batch, sync=True)
        return cls(kv)

    # --- writing ------------------------------------------------------------------------------------------------------

    def commit(self, applied: Applied) -> None:
        """Write everything an entry changed, and its index, in one batch. Entries come in order, each once."""
        if applied.position.index != self._position.index + 1:
            faults.fatal(
                ExitCode.BUG,
                "an entry would be stored out of order",
                index=applied.position.index,
                applied=self._position.index,
            )
        last_hlc = max([self._last_hlc, *(HLC.parse(record.hlc) for record, _ in applied.records)])
        batch = Batch()
        _put_rows(batch, applied.rows)
        for project_id, idem_key, entry in applied.ledger:
            _put(batch, Family.LEDGER, layout.named(project_id, idem_key), idempotency.encode(entry))
        _put_records(batch, applied)
        for fact in applied.facts:
            _put(batch, Family.REGISTRY, layout.named(fact.kind, fact.subject), canonical.encode(fact))
        for note in applied.notes:
            match note:
                case CheckpointItem():
                    self._put_checkpoint(batch, Checkpoint(*note, applied.position.stamp_us))
                case DeliveredItem(outbox, upto):
                    for project, seq in upto:
                        self._put_delivered(batch, outbox, project, seq)
                case PassedOverItem(outbox, project, seq):
                    self._put_delivered(batch, outbox, project, seq)
                    row = layout.passed_over(outbox, project, seq)
                    _put(batch, Family.OUTBOX, row, canonical.encode(tuple(note)))
                case MarkItem():
                    pass  # the nodes report, and store nothing
        _put(batch, Family.META, layout.APPLIED, _pack_applied(applied.position, last_hlc))
        self.kv.write(batch, sync=False)
        self._position, self._last_hlc = applied.position, last_hlc

    def _put_delivered(self, batch: Batch, outbox: str, project: str, seq: int) -> None:
        """What a former leader delivered stays delivered, whatever a later one, that had not heard of it, says."""
        if seq > self.delivered(outbox, project):
            _put(batch, Family.OUTBOX, layout.delivered(outbox, project), layout.number(seq))

    def mark_diverged(self, divergence: Divergence) -> None:
        """Note, synced, that this state is wrong. Only another node's state, put in its place, ends that."""
        batch = Batch()
        _put(batch, Family.META, layout.DIVERGED, canonical.encode(divergence))
        self.kv.write(batch, sync=True)
        self.divergence = divergence

    def _put_checkpoint(self, batch: Batch, found: Checkpoint) -> None:
        """The newest agreement counts, and ends a disagreement that is not newer."""
        if self.checkpoint is not None and found.at <= self.checkpoint.at:
            return
        if not found.cluster_hash:
            self.halt = found
            _put(batch, Family.META, layout.HALT, canonical.encode(found))
            return
        self.checkpoint = found
        _put(batch, Family.META, layout.CHECKPOINT, canonical.encode(found))
        if self.halt is not None and self.halt.at <= found.at:
            self.halt = None
            batch.delete(Family.META, layout.HALT)

    def reject(self, refused: Refused, at_us: int, signer: str = "") -> None:
        """Note a refusal for operators: node-local, outside every hash, the oldest dropped beyond
        ``REJECTIONS_KEPT``. ``at_us`` is this node's wall clock in microseconds, ``signer`` a canonical principal."""
        document = msgspec.to_builtins(refused)
        del document["type"]
        batch = Batch()
        note = canonical.encode({"at": at_us, "signer": signer, **document})
        _put(batch, Family.REJECTION, layout.number(self._refusals), note)
        if self._refusals >= REJECTIONS_KEPT:
            batch.delete(Family.REJECTION, layout.number(self._refusals - REJECTIONS_KEPT))
        self.kv.write(batch, sync=False)
        self._refusals += 1

    def keep_snapshot(self, index: int, manifest: bytes, *, oldest: int) -> None:
        """Note the manifest of the snapshot about to be taken, and forget those below ``oldest``."""
        batch = Batch()
        _put(batch, Family.SNAPSHOT, layout.number(index), manifest)
        batch.delete_range(Family.SNAPSHOT, layout.number(0), layout.number(oldest))
        self.kv.write(batch, sync=False)

    # --- what a Machine reads -----------------------------------------------------------------------------------------

    def position(self) -> Position:
        """The last applied entry."""
        return self._position

    def projects(self) -> Iterator[tuple[str, HeadSummary]]:
        """Every project in the order of ids, with the hashes its head row claims."""
        for key, value in self.kv.iterate(Family.HEAD):
            head = _decoded("head row", _opened(Family.HEAD, key, value), dict[str, Any])
            yield key.decode(), HeadSummary(head["state_hash"], head["wal_head"], head["ledger_digest"])

    def first_records(self) -> Iterator[bytes]:
        """The first WAL record of every project that has any, in the order of ids."""
        for key, _ in self.kv.iterate(Family.HEAD):
            data = self.record(key.decode(), 1)
            if data is not None:
                yield data

    def project(self, project_id: str) -> Project | None:
        """A project, verified against its head row; None when nobody created it.

        Raises:
            Corrupt: its rows are damaged, or they do not hash to what the head row says.
        """
        start, end = layout.under(project_id)
        rows = []
        for key, value in self.kv.iterate(Family.PROJECT, start, end):
            data = _opened(Family.PROJECT, key, value)
            rows.append((layout.path_of(key), data))
        head = self._get(Family.HEAD, layout.named(project_id))
        if head is None:
            if rows:
                raise Corrupt(f"project {project_id} has lost its head row")
            return None
        with _decoding(project_id):
            return _checked(state.project_from_rows(project_id, [((project_id,), head), *rows]), head)

    def verify_project(self, project_id: str) -> Iterator[None]:
        """Read and hash a project anew, a little between one ``yield`` and the next. Entries that are applied meanwhile
        do not disturb: what is read is the project as it was at the first step.

        Raises:
            Corrupt: as ``project``.
        """
        start, end = layout.under(project_id)
        found = self.kv.iterate(Family.PROJECT, start, end)
        first = next(found, None)  # the iteration begins, and stands still, together with the head that is read next
        head = self._get(Family.HEAD, layout.named(project_id))
        if head is None:
            return
        rows = (
            (layout.path_of(key), _opened(Family.PROJECT, key, value))
            for key, value in chain([] if first is None else [first], found)
        )
        with _decoding(project_id):
            project = yield from state.project_in_steps(project_id, chain([((project_id,), head)], rows))
            _checked(project, head)

    def head(self, project_id: str) -> Head | None:
        """Where the state and the chains of a project stand, by its head row."""
        found = self._get(Family.HEAD, layout.named(project_id))
        return None if found is None else _decoded("head row", found, Head)

    def ledger(self, project_id: str, idem_key: str) -> LedgerEntry | None:
        """What a key was used for, or None."""
        found = self._get(Family.LEDGER, layout.named(project_id, idem_key))
        return None if found is None else idempotency.decode(found)

    def facts(self) -> Iterator[Known]:
        """The newest fact of each kind and subject."""
        for key, value in self.kv.iterate(Family.REGISTRY):
            yield _decoded("fact", _opened(Family.REGISTRY, key, value), Known)

    def fact(self, key: bytes) -> bytes | None:
        """The stored bytes of the fact under a key of its family."""
        return self._get(Family.REGISTRY, key)

    # --- records ------------------------------------------------------------------------------------------------------

    def record(self, project_id: str, seq: int) -> bytes | None:
        """A project's n-th WAL record as hashed, or None."""
        return self._get(Family.WAL, layout.record(project_id, seq))

    def wal(self, project_id: str, from_seq: int, limit: int) -> Iterator[bytes]:
        """Up to ``limit`` WAL records of a project, from a sequence number on."""
        return islice(self._records(Family.WAL, project_id, from_seq), limit)

    def wal_export(self, upto_index: int) -> Iterator[bytes]:
        """Every WAL record of the entries up to an index, one line each (JSONL), by project id and sequence number:
        the same bytes on every node."""
        for key, value in self.kv.iterate(Family.WAL):
            data = _opened(Family.WAL, key, value)
            if _decoded("WAL record", data, _Indexed).index <= upto_index:
                yield data + b"\n"

    def decision(self, dr_id: str) -> bytes | None:
        """The Decision Record with this id, or None."""
        place = self._get(Family.DECISION, layout.decision(dr_id))
        return None if place is None else self._get(Family.DECISION, place)

    def decisions(self, project_id: str, from_seq: int, limit: int) -> Iterator[bytes]:
        """Up to ``limit`` Decision Records of a project, from a sequence number on."""
        return islice(self._records(Family.DECISION, project_id, from_seq), limit)

    def submission(self, project_id: str, seq: int) -> bytes | None:
        """The submission record beside a project's n-th WAL record, or None."""
        return self._get(Family.SUBMISSION, layout.record(project_id, seq))

    def submissions(self, project_id: str, after: int) -> Iterator[tuple[int, bytes]]:
        """The submission records of a project behind a sequence number, each with its own."""
        start, end = layout.record(project_id, after + 1), layout.under(project_id)[1]
        for key, value in self.kv.iterate(Family.SUBMISSION, start, end):
            yield layout.record_of(key)[1], _opened(Family.SUBMISSION, key, value)

    def delivered(self, outbox: str, project_id: str) -> int:
        """The sequence number up to which an outbox has delivered a project's records; 0 before the first."""
        found = self._get(Family.OUTBOX, layout.delivered(outbox, project_id))
        return 0 if found is None else layout.number_of(found)

    def passed_over(self, outbox: str) -> Iterator[PassedOverItem]:
        """The records that an outbox left out because an admin said so, by project and sequence number."""
        for key, value in self.kv.iterate(Family.OUTBOX, *layout.passed_over_by(outbox)):
            yield _decoded("record passed over", _opened(Family.OUTBOX, key, value), PassedOverItem)

    def rejections(self, project_id: str | None, signer: str | None) -> Iterator[list[bytes]]:
        """This node's refusals, newest first; None matches every project or signer.

        Each step looks through ``REJECTIONS_A_SLICE`` of them and gives those that match, perhaps none: whoever looks
        for what is not there has others waiting.
        """
        below = self._refusals
        while rows := list(islice(self._refused_below(below), REJECTIONS_A_SLICE)):
            below = layout.number_of(rows[-1][0])
            notes = (_opened(Family.REJECTION, key, value) for key, value in rows)
            yield [note for note in notes if _concerns(note, project_id, signer)]

    def _refused_below(self, number: int) -> Iterator[tuple[bytes, bytes]]:
        return self.kv.iterate(Family.REJECTION, end=layout.number(number), reverse=True)

    def check_row(self, family: Family, key: bytes, row: bytes) -> bytes:
        """A row as it lies in one of this store's families, without its checksum.

        Raises:
            Corrupt: the checksum is not that of its content; both are named.
        """
        return _opened(family, key, row)

    # --- beside the state ---------------------------------------------------------------------------------------------

    @property
    def last_hlc(self) -> HLC:
        """The greatest HLC any project has applied."""
        return self._last_hlc

    def meta(self, name: str) -> bytes | None:
        """A document ``create`` was given, or None."""
        return self._get(Family.META, name.encode())

    def manifest(self, index: int) -> bytes | None:
        """The manifest noted for a snapshot at ``index``, or None."""
        return self._get(Family.SNAPSHOT, layout.number(index))

    def _records(self, family: Family, project_id: str, from_seq: int) -> Iterator[bytes]:
        start, end = layout.record(project_id, max(from_seq, 0)), layout.under(project_id)[1]
        return (_opened(family, key, value) for key, value in self.kv.iterate(family, start, end))

    def _get(self, family: Family, key: bytes) -> bytes | None:
        value = self.kv.get(family, key)
        return None if value is None else _opened(family, key, value)

    def _document(self, key: bytes, kind: type[T]) -> T | None:
        data = self._get(Family.META, key)
        return None if data is None else _decoded(key.decode(), data, kind)

    def _read_applied(self) -> tuple[Position, HLC]:
        raw = self._get(Family.META, layout.APPLIED)
        if raw is None:
            raise Corrupt("the store holds no state: it was never created, or it has lost its position")
        index, term, stamp_us, ms, counter = _APPLIED.unpack(raw)
        return Position(index, term, stamp_us), HLC(ms, counter)


def _put_rows(batch: Batch, rows: Iterable[Row]) -> None:
    for path, data in rows:
        family, key = layout.row(path)
        if data is None:
            batch.delete(family, key)
        else:
            _put(batch, family, key, data)


def _put_records(batch: Batch, applied: Applied) -> None:
    pairs = zip(applied.records, applied.decisions, strict=True)
    for (record, data), (decided, decided_data) in pairs:
        place = _place(record)
        _put(batch, Family.WAL, place, data)
        _put(batch, Family.DECISION, place, decided_data)
        _put(batch, Family.DECISION, layout.decision(decided.dr_id), place)
    for seq, submitted in applied.submissions:
        _put(batch, Family.SUBMISSION, layout.record(submitted.project, seq), submission.encode(submitted))


def _place(record: WalRecord) -> bytes:
    return layout.record(record.project, record.seq)


def _pack_applied(position: Position, last_hlc: HLC) -> bytes:
    return _APPLIED.pack(position.index, position.term, position.stamp_us, last_hlc.ms, last_hlc.counter)


@contextmanager
def _decoding(project_id: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, msgspec.DecodeError) as error:
        raise Corrupt(f"project {project_id} does not decode: {error!r}") from None


def _checked(project: Project, head_row: bytes) -> Project:
    claimed = state.stored_head(head_row).state_hash
    if project.state_hash != claimed:
        raise Corrupt(f"project {project.id} hashes to {project.state_hash}, its head row says {claimed}")
    return project


def _concerns(note: bytes, project_id: str | None, signer: str | None) -> bool:
    refused = _decoded("refusal", note, _Noted)
    return project_id in (None, refused.project) and signer in (None, refused.signer)


def _decoded(what: str, data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise Corrupt(f"{what} does not decode: {error}") from None


def _put(batch: Batch, family: Family, key: bytes, value: bytes) -> None:
    batch.put(family, key, _checksum(key, value) + value)


def _opened(family: Family, key: bytes, row: bytes) -> bytes:
    value, expected = row[_CRC_BYTES:], _checksum(key, row[_CRC_BYTES:])
    if row[:_CRC_BYTES] != expected:
        raise Corrupt(
            f"a row of {family.value} fails its checksum: {key!r} "
            f"has {row[:_CRC_BYTES].hex()}, its content {expected.hex()}"
        )
    return value


def _checksum(key: bytes, value: bytes) -> bytes:
    return zlib.crc32(value, zlib.crc32(key)).to_bytes(_CRC_BYTES)
