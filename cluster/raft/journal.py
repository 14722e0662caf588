"""The Raft log, term and vote of this node, and the barrier that makes them durable.

The core writes here as it goes; nothing of it may leave the node (an acknowledgement, a vote, a request for votes)
before `barrier` has returned. A barrier is one batch and one sync: the entries, cuts, term and vote since the last
one, together with every unsynced state write before it, since both share the store's write-ahead log.

A disk may be slow. `begin_barrier` waits for it only a moment, and tells whether that was enough; until it is, the
write is *under way*: at most one, with copies of its operations, so nothing that happens meanwhile changes it.

Three promises are checked here rather than trusted (Raft §5.3, §5.4):

* the log is contiguous and every entry passes its checksum, or the node does not start;
* the store has everything it ever synced (the witness knows how much that was), or the node does not start;
* an entry at or below the commit index never gives way to another, or the node stops.

The log is cut at its beginning (`cut_before`, decided in retention.py) behind a state that is safe elsewhere, and may
begin inside a peer's checkpoint (`move_into`, called by install.py): a node then keeps its own promises, and every
entry of its own that it may have acknowledged.

All entries are on disk, the newest ones in memory too: the core reads the end of the log constantly and the rest
almost never. Slices are bounded, because the core takes open-ended ones and hands them to the state machine or to a
peer in one piece; whatever did not fit comes with the next tick.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Callable
from itertools import accumulate, takewhile
from typing import NamedTuple, overload

import msgspec
import pysyncobj.journal

from cluster import faults
from cluster.faults import ExitCode
from cluster.storage import layout
from cluster.storage.kv import Batch, Family, KeyValue
from cluster.storage.syncer import BlockingSyncer, Syncer
from cluster.storage.witness import Mark, Witness
from swoosh.errors import Corrupt

Entry = tuple[bytes, int, int]
"""(command, index, term), as the core wants it. The first byte of a command is its type: 0 regular, 1 no-op."""

SLICE_BYTES = 256 << 10
SLICE_ENTRIES = 1024
MEMORY_BYTES = 64 << 20
MEMORY_ENTRIES = 1 << 14

RUNBOOK = "docs/runbooks/node-will-not-start.md"
REJOIN = "swoosh serve --rejoin; docs/runbooks/damaged-store.md"

META_KEY = b"raft"
_KEY = struct.Struct(">Q")
_HEAD = struct.Struct(">QI")  # term, crc32 over index, term and command
_END = b"\xff" * 9  # above every key


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """What is kept beside the log, under one key, behind a checksum."""

    cluster_id: str
    node: str
    incarnation: bytes
    """16 random bytes: one life of this store."""
    boots: int
    sequence: int
    """Number of this synced batch, counted from 1; the witness holds the same."""
    term: int
    vote: str | None
    commit: int
    """A hint: at least this was committed. Written with whatever is synced next."""
    rejoining: bool = False
    """Made in place of a store that was lost: it promises nothing until the members have accepted it."""
    rolled_back: bool = False
    """Peers have seen more of this store than it holds. Never served again."""


class Write(NamedTuple):
    """A barrier under way: what will be durable when it is done."""

    sequence: int
    last_index: int


class Journal(pysyncobj.journal.Journal):
    """The log as PySyncObj wants it (a list that starts at its first entry) and as Raft counts it (by index)."""

    def __init__(
        self,
        kv: KeyValue,
        witness: Witness,
        meta: Meta,
        *,
        memory_entries: int = MEMORY_ENTRIES,
        syncer: Syncer | None = None,
    ) -> None:
        self._kv, self._witness, self._meta = kv, witness, meta
        self._syncer = syncer or BlockingSyncer()
        self._memory_entries = memory_entries
        self._batch = Batch()
        self._dirty = self._sync_witness = False
        self._write: Write | None = None
        self.on_written: Callable[[], None] = lambda: None
        """Called on the event loop when a barrier that was not waited for may be over: ask `begin_barrier`."""
        self._term, self._vote, self._commit = meta.term, meta.vote, meta.commit
        self._first: Entry | None = None
        self._tail: list[Entry] = []
        self._tail_bytes = 0
        self._sizes = array("I")
        self._bytes = 0
        self._load()
        self._durable = self.last_index
        self._kept: dict[bytes, Callable[[], bytes]] = {}

    # --- life ---------------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        kv: KeyValue,
        witness: Witness,
        *,
        cluster_id: str,
        node: str,
        incarnation: bytes,
        rejoining: bool = False,
    ) -> None:
        """Write the first record of a new store, synced, and the witness's first mark. Once in a store's life.

        `rejoining` marks a store made in place of one that was lost.
        """
        if kv.get(Family.META, META_KEY) is not None or witness.read() is not None:
            faults.fatal(ExitCode.DAMAGED, "a journal or its witness exists here already", node=node)
        meta = Meta(
            cluster_id, node, incarnation, boots=0, sequence=1, term=0, vote=None, commit=0, rejoining=rejoining
        )
        batch = Batch()
        batch.put(Family.META, META_KEY, _encode_meta(meta))
        kv.write(batch, sync=True)
        witness.write(Mark(incarnation, meta.sequence))
        witness.sync()

    @classmethod
    def open(
        cls,
        kv: KeyValue,
        witness: Witness,
        *,
        cluster_id: str,
        node: str,
        memory_entries: int = MEMORY_ENTRIES,
        syncer: Syncer | None = None,
    ) -> Journal:
        """Open the journal of an existing store and count the boot, synced. Stops the node as `examine` does."""
        meta = cls._checked_meta(kv, witness, cluster_id, node)
        meta = msgspec.structs.replace(meta, boots=meta.boots + 1)
        journal = cls(kv, witness, meta, memory_entries=memory_entries, syncer=syncer)
        journal.sync()
        return journal

    @classmethod
    def examine(cls, kv: KeyValue, witness: Witness, *, cluster_id: str, node: str) -> Journal:
        """The journal of an existing store, to look at: nothing is written.

        Stops the node when the store is not this node's (MISCONFIGURED), not all there (DAMAGED), or was found to
        be an older copy (ROLLED_BACK).
        """
        return cls(kv, witness, cls._checked_meta(kv, witness, cluster_id, node))

    @staticmethod
    def _checked_meta(kv: KeyValue, witness: Witness, cluster_id: str, node: str) -> Meta:
        meta = decode_meta(kv.get(Family.META, META_KEY))
        if (meta.cluster_id, meta.node) != (cluster_id, node):
            faults.fatal(
                ExitCode.MISCONFIGURED,
                "this store belongs to another node or cluster",
                store=f"{meta.node}.{meta.cluster_id}",
                configured=f"{node}.{cluster_id}",
            )
        _check_witness(witness.read(), meta)
        if meta.rolled_back:
            faults.fatal(ExitCode.ROLLED_BACK, "this store was put back to an earlier state", next=REJOIN)
        return meta

    def move_into(self, kv: KeyValue, index: int, term: int) -> None:
        """Make a checkpoint of a peer's store, taken at entry (`index`, `term`), this node's own: one synced batch.

        The peer's promises, its log and what else concerns that node alone go; this node's take their place. Of the
        logs stay the two entries up to `index`, and what follows in this one if it holds that very entry: an
        acknowledged entry must outlive an install that was prepared while this node caught up (Raft §7). The store
        this journal lies in is not touched, so the move may be made again after a crash.

        Raises:
            Corrupt: the checkpoint does not hold that entry.
        """
        first = max(1, index - 1)
        entries = [_decode_entry(*row) for row in kv.iterate(Family.LOG, _KEY.pack(first), _KEY.pack(index + 1))]
        if [at for _, at, _ in entries] != list(range(first, index + 1)) or entries[-1][2] != term:
            raise Corrupt(f"the checkpoint does not hold entry {index} of term {term}")
        ours = self.term_at(index)
        if ours is not None and ours != term and index <= self._commit:
            faults.fatal(ExitCode.DIVERGED, "a checkpoint contradicts a committed entry", at=(index, term), ours=ours)
        if ours == term:
            entries += [self.entry(at) for at in range(index + 1, self.last_index + 1)]
        batch = Batch()
        for family in (Family.LOG, *layout.NODE_LOCAL):
            batch.delete_range(family, b"", _END)
        for entry in entries:
            _put_entry(batch, entry)
        _replace_node_meta(batch, self._kv, kv)
        batch.put(Family.META, META_KEY, _encode_meta(self._meta_after(index, term, entries[-1][1])))
        kv.write(batch, sync=True)

    def _meta_after(self, index: int, term: int, last: int) -> Meta:
        """What this node has promised, as of a store whose state is that of (`index`, `term`). A term learnt from the
        log is a term like any other: this node has not voted in it."""
        return msgspec.structs.replace(
            self._meta,
            sequence=self._meta.sequence + 1,
            term=max(self._term, term),
            vote=self._vote if self._term >= term else None,
            commit=max(index, min(self._commit, last)),
        )

    def close(self) -> None:
        """Make everything durable, the witness too. The store itself is closed by who opened it."""
        self.barrier()
        self._witness.sync()

    def sync_witness(self) -> None:
        """Let the next barrier make the witness durable too, and make one due; between two calls a power cut may leave
        it older than the store, never newer."""
        self._sync_witness = self._dirty = True

    def _load(self) -> None:
        for key, value in self._kv.iterate(Family.LOG):
            entry = _decode_entry(key, value)
            if self._tail and entry[1] != self.last_index + 1:
                faults.fatal(ExitCode.DAMAGED, "the log has a gap", after=self.last_index, next=entry[1])
            self._append(entry)
            self._trim()

    # --- durability ---------------------------------------------------------------------------------------------------

    def barrier(self) -> None:
        """Everything added, cut, promised or voted so far is on stable storage when this returns."""
        while not self.begin_barrier():
            self._syncer.wait()

    def begin_barrier(self) -> bool:
        """The same, but wait for a moment only. True = it is durable. Otherwise the write goes on, `on_written` will be
        called, and nothing that rests on it may leave the node or be applied."""
        while True:
            if self._write is not None:
                if not self._syncer.is_done():
                    return False
                self._written(self._write)
            if not self._dirty:
                return True
            self._begin_write()

    @property
    def is_writing(self) -> bool:
        """A barrier has begun and is not over."""
        return self._write is not None

    def _begin_write(self) -> None:
        faults.failpoint("journal.barrier.before")
        meta = msgspec.structs.replace(
            self._meta, sequence=self._meta.sequence + 1, term=self._term, vote=self._vote, commit=self._commit
        )
        batch, self._batch, self._dirty = self._batch, Batch(), False
        sync_witness, self._sync_witness = self._sync_witness, False
        batch.put(Family.META, META_KEY, _encode_meta(meta))
        for key, document in self._kept.items():
            batch.put(Family.META, key, _with_checksum(document()))
        self._write = Write(meta.sequence, self.last_index)

        def write() -> None:
            self._kv.write(batch, sync=True)
            self._witness.write(Mark(meta.incarnation, meta.sequence))
            if sync_witness:
                self._witness.sync()

        self._syncer.begin(write, self._finished)

    def _finished(self) -> None:
        self.on_written()

    def _written(self, write: Write) -> None:
        self._write = None
        # Not before: a hello that names a batch which a power cut then takes back looks like a store put back. Nor more
        # than that: what was noted in the meantime goes out with the next batch.
        self._meta = msgspec.structs.replace(self._meta, sequence=write.sequence)
        self._durable = write.last_index
        if not self._dirty:
            self._trim()
        faults.failpoint("journal.barrier.after")

    def sync(self) -> None:
        """A barrier although nothing was added: something kept beside the log has changed."""
        self._dirty = True
        self.barrier()

    def keep(self, key: bytes, document: Callable[[], bytes]) -> None:
        """From now on, write this document with every barrier, as it then is."""
        self._kept[key] = document

    def kept(self, key: bytes) -> bytes | None:
        """What the last barrier wrote; None if none did. Stops the node when it is damaged."""
        raw = self._kv.get(Family.META, key)
        return None if raw is None else _without_checksum(raw, key.decode())

    @property
    def durable_index(self) -> int:
        """The last entry known to be on stable storage."""
        return self._durable

    # --- the log by index ---------------------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        return self._first[1] if self._first else 0

    @property
    def last_index(self) -> int:
        return self._tail[-1][1] if self._tail else 0

    @property
    def last_term(self) -> int:
        return self._tail[-1][2] if self._tail else 0

    @property
    def commit(self) -> int:
        """The highest commit index ever seen, whatever the core's own has moved back to."""
        return self._commit

    def reaches(self, applied: int) -> bool:
        """Whether the log goes on from a state that holds every entry up to `applied`."""
        return self.first_index <= max(applied, 1) <= max(self.last_index, 1)

    def entry(self, index: int) -> Entry:
        """The entry at `index`. Raises IndexError outside first..last."""
        return self[index - self.first_index]

    def term_at(self, index: int) -> int | None:
        """The term of the entry at `index`; None outside first..last."""
        return self.entry(index)[2] if self.first_index <= index <= self.last_index and self._tail else None

    # --- the log as the core sees it ----------------------------------------------------------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        if self._tail and (idx != self.last_index + 1 or term < self.last_term):
            last = (self.last_index, self.last_term)
            faults.fatal(ExitCode.BUG, "an entry does not continue the log", last=last, entry=(idx, term))
        self._append((command, idx, term))
        _put_entry(self._batch, (command, idx, term))
        self._dirty = True

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Cut the entries from this *position* on: they conflict with the leader's."""
        index = self.first_index + entryFrom
        if index <= self._commit:
            faults.fatal(
                ExitCode.DIVERGED, "the leader contradicts a committed entry", index=index, commit=self._commit
            )
        self._forget(slice(entryFrom, None))
        kept = index - self._tail[0][1]
        if kept > 0:
            self._tail_bytes -= sum(len(command) for command, _, _ in self._tail[kept:])
            del self._tail[kept:]
        else:
            self._tail = self._read(max(self.first_index, index - SLICE_ENTRIES), index)
            self._tail_bytes = sum(len(command) for command, _, _ in self._tail)
        self._batch.delete_range(Family.LOG, _KEY.pack(index), _END)
        self._durable = min(self._durable, index - 1)
        if self._write is not None:
            self._write = self._write._replace(last_index=min(self._write.last_index, index - 1))
        self._dirty = True

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Drop the entries before this *position*; they are in the state. One atomic range delete."""
        if entryTo <= 0:
            return
        index = self.first_index + entryTo
        self._first = self.entry(index)
        self._forget(slice(0, entryTo))
        held = max(0, index - self._tail[0][1])
        self._tail_bytes -= sum(len(command) for command, _, _ in self._tail[:held])
        del self._tail[:held]
        self._batch.delete_range(Family.LOG, b"", _KEY.pack(index))
        self._dirty = True

    def cut_before(self, index: int) -> None:
        """Drop the entries before `index`, which are in a state that is safe; durable with the next barrier."""
        if index >= self._commit:
            faults.fatal(ExitCode.BUG, "the log would be cut at its end", index=index, commit=self._commit)
        self.deleteEntriesTo(index - self.first_index)

    def first_within(self, size: int) -> int:
        """The first index from which on the commands of the log have no more than `size` bytes together; at most the
        last one."""
        after = accumulate(reversed(self._sizes))
        return self.last_index - max(0, sum(1 for _ in takewhile(lambda total: total <= size, after)) - 1)

    @property
    def size(self) -> int:
        """How long all commands in the log are together, bytes."""
        return self._bytes

    def __len__(self) -> int:
        return self.last_index - self.first_index + 1 if self._tail else 0

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        if isinstance(item, slice):
            return self._slice(item)
        if item == 0 and self._first:
            return self._first
        position = item if item >= 0 else len(self) + item
        if not 0 <= position < len(self):
            raise IndexError(f"no entry at position {item}: the log holds {self.first_index}..{self.last_index}")
        index = self.first_index + position
        held = index - self._tail[0][1]
        return self._tail[held] if held >= 0 else self._read(index, index + 1)[0]

    def _slice(self, positions: slice) -> list[Entry]:
        """A bounded prefix of the slice: at least two of its entries, since the core tells one from more than one."""
        start, stop, _ = positions.indices(len(self))
        first, end = self.first_index + start, self.first_index + min(stop, start + SLICE_ENTRIES)
        if first >= end:
            return []
        in_memory = self._tail[0][1]
        entries = self._read(first, min(end, in_memory)) if first < in_memory else []
        entries += self._tail[max(0, first - in_memory) : max(0, end - in_memory)]  # may not be on disk yet
        size = 0
        for count, (command, _, _) in enumerate(entries):
            size += len(command)
            if size > SLICE_BYTES and count >= 2:
                return entries[:count]
        return entries

    # --- term, vote, commit -------------------------------------------------------------------------------------------

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        self._commit = max(self._commit, raftCommitIndex)
        on_its_way = self._durable if self._write is None else self._write.last_index
        if raftCommitIndex > on_its_way:
            # A leader counts itself, so its own copy must be durable before the entry is committed. A follower has its
            # copy on the way by now, and applies nothing before it has arrived.
            self.barrier()

    def getRaftCommitIndex(self) -> int:
        return max(1, min(self._commit, self.last_index))

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        self._term, self._vote = term, votedForNodeId
        self._dirty = True
        self.begin_barrier()  # where this is not enough, the guard holds back what would tell

    def getCurrentTerm(self) -> int:
        return self._term

    def getVotedForNodeId(self) -> str | None:
        return self._vote

    # --- what a hello says --------------------------------------------------------------------------------------------

    @property
    def incarnation(self) -> bytes:
        return self._meta.incarnation

    @property
    def boots(self) -> int:
        return self._meta.boots

    @property
    def sequence(self) -> int:
        """Number of the last synced batch."""
        return self._meta.sequence

    # --- a store in place of another ----------------------------------------------------------------------------------

    @property
    def rejoining(self) -> bool:
        """This store was made in place of one that was lost, and is not accepted yet."""
        return self._meta.rejoining

    def end_rejoining(self) -> None:
        """The members have accepted this store; durable when this returns."""
        self._meta = msgspec.structs.replace(self._meta, rejoining=False)
        self.sync()

    def must_hold(self, incarnation: str, sequence: int) -> None:
        """A peer has seen this store sync batch `sequence`. If it is not there any more, note so for good, and stop."""
        if incarnation == self.incarnation.hex() and sequence > self.sequence:
            facts = {"store": self.sequence, "seen": sequence, "next": REJOIN}
            self._meta = msgspec.structs.replace(self._meta, rolled_back=True)
            self.sync()
            faults.fatal(ExitCode.ROLLED_BACK, "this store was put back to an earlier state", **facts)

    # --- memory -------------------------------------------------------------------------------------------------------

    def _append(self, entry: Entry) -> None:
        if self._first is None:
            self._first = entry
        self._tail.append(entry)
        self._tail_bytes += len(entry[0])
        self._sizes.append(len(entry[0]))
        self._bytes += len(entry[0])

    def _forget(self, positions: slice) -> None:
        self._bytes -= sum(self._sizes[positions])
        del self._sizes[positions]

    def _trim(self) -> None:
        """Let go of the oldest entries in memory, a quarter at a time. Only what is on disk may go."""
        while len(self._tail) > self._memory_entries or self._tail_bytes > MEMORY_BYTES:
            dropped = max(1, len(self._tail) // 4)
            self._tail_bytes -= sum(len(command) for command, _, _ in self._tail[:dropped])
            del self._tail[:dropped]

    def _read(self, first: int, end: int) -> list[Entry]:
        """Entries first..end-1 from disk."""
        found = self._kv.iterate(Family.LOG, _KEY.pack(first), _KEY.pack(end))
        entries = [_decode_entry(key, value) for key, value in found]
        if [index for _, index, _ in entries] != list(range(first, end)):
            faults.fatal(ExitCode.DAMAGED, "entries have gone from the log", first=first, end=end)
        return entries


def _check_witness(mark: Mark | None, meta: Meta) -> None:
    facts = {"store": meta.sequence, "witness": mark.sequence if mark else None, "next": RUNBOOK}
    if mark is None:
        faults.fatal(ExitCode.DAMAGED, "the witness beside the store is missing or unreadable", **facts)
    if mark.incarnation != meta.incarnation:
        faults.fatal(ExitCode.DAMAGED, "the witness belongs to another life of this store", **facts)
    if meta.sequence < mark.sequence:
        faults.fatal(ExitCode.DAMAGED, "the store has lost batches that it had synced", **facts)


def check_row(family: Family, key: bytes, row: bytes) -> None:
    """Check what a journal keeps in a store, an entry of the log or term and vote, without believing any of it.

    Raises:
        Corrupt: it fails its checksum; both are named.
    """
    if family is Family.LOG:
        (index,), (_, stored) = _KEY.unpack(key), _HEAD.unpack_from(row)
        found, what = _entry_checksum(key, row), f"log entry {index}"
    else:
        stored, found, what = int.from_bytes(row[:4]), zlib.crc32(row[4:]), f"the document {key.decode()!r}"
    if found != stored:
        raise Corrupt(f"{what} fails its checksum: stored with {stored:08x}, its content has {found:08x}")


def _entry_checksum(key: bytes, row: bytes) -> int:
    (index,), (term, _) = _KEY.unpack(key), _HEAD.unpack_from(row)
    return _checksum(index, term, row[_HEAD.size :])


def _encode_meta(meta: Meta) -> bytes:
    return _with_checksum(msgspec.msgpack.encode(meta))


def decode_meta(raw: bytes | None) -> Meta:
    """What is kept beside the log. Stops the node (DAMAGED) when it is missing or fails its checksum."""
    if raw is None:
        faults.fatal(ExitCode.DAMAGED, "the store holds no term and vote", next=RUNBOOK)
    return msgspec.msgpack.decode(_without_checksum(raw, "term and vote"), type=Meta)


def _with_checksum(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4) + body


def _without_checksum(raw: bytes, what: str) -> bytes:
    if zlib.crc32(raw[4:]).to_bytes(4) != raw[:4]:
        faults.fatal(ExitCode.DAMAGED, f"{what}: the checksum fails", next=RUNBOOK)
    return raw[4:]


def _replace_node_meta(batch: Batch, ours: KeyValue, theirs: KeyValue) -> None:
    """Of the documents beside the state, only those that every node shares may come from a peer. That the state which
    is replaced had diverged is no longer true."""
    for key, _ in theirs.iterate(Family.META):
        if key not in layout.SHARED_META:
            batch.delete(Family.META, key)
    for key, value in ours.iterate(Family.META):
        if key not in layout.SHARED_META and key != layout.DIVERGED:
            batch.put(Family.META, key, value)


def _put_entry(batch: Batch, entry: Entry) -> None:
    command, index, term = entry
    batch.put(Family.LOG, _KEY.pack(index), _HEAD.pack(term, _checksum(index, term, command)) + command)


def _checksum(index: int, term: int, command: bytes) -> int:
    return zlib.crc32(command, zlib.crc32(struct.pack(">QQ", index, term)))


def _decode_entry(key: bytes, value: bytes) -> Entry:
    (index,) = _KEY.unpack(key)
    term, crc = _HEAD.unpack_from(value)
    command = value[_HEAD.size :]
    if _entry_checksum(key, value) != crc:
        faults.fatal(ExitCode.DAMAGED, "a log entry fails its checksum", index=index, next=RUNBOOK)
    return command, index, term
