"""LogEntry: what Raft orders. One entry carries many items, so that one sync serves many proposals (group commit).

The codec is msgpack with arrays in fixed order, hence deterministic. Everything a replica needs in order to judge is
inside: the chart it was written under, the leader's stamp, and the verdicts that must not be taken twice
(signatures, above all). Objects stay in the bytes they were signed in.

Besides items, which are judged, an entry may carry *notes*, by which the nodes compare what they have computed and tell
each other what they have delivered. A note is nobody's proposal, changes no project, has no outcome and is outside
every hash.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack
import msgspec

from swoosh.errors import Corrupt
from swoosh.principal import normalise

FORMAT = 1
_HEAD_BYTES = 1_024
"""More than everything before the items takes."""


class ProposalItem(NamedTuple):
    """One proposal as sent. ``trusted``: accepted unsigned by a cluster made with ``--insecure-signers``.

    ``voters``: principals whose votes inside the inputs were verified before the log.
    """

    sent: bytes
    trusted: bool = False
    voters: tuple[str, ...] = ()


class BatchItem(NamedTuple):
    """Proposals under one signature, kept whole so that it can be re-checked. ``@prev`` chains live inside one."""

    signer: str
    signature: str
    proposals: tuple[ProposalItem, ...]


class FactItem(NamedTuple):
    """One signed fact as sent."""

    sent: bytes


class CheckpointItem(NamedTuple):
    """What the members computed at index ``at``: the ``cluster_hash`` a majority reported, and the nodes that did.

    Without a hash: ``nodes`` reported, and no majority of the members agrees. Nothing is accepted from here on, until a
    later checkpoint has a hash.
    """

    at: int
    cluster_hash: str
    nodes: tuple[str, ...]


class MarkItem(NamedTuple):
    """Every node reports its cluster hash at this entry."""


class DeliveredItem(NamedTuple):
    """The sink of an outbox has every record of each of these projects up to this sequence number."""

    outbox: str
    upto: tuple[tuple[str, int], ...]


class PassedOverItem(NamedTuple):
    """The sink of an outbox is not offered this record any more: it refused it, and an admin (``by``) said to go on."""

    outbox: str
    project: str
    seq: int
    by: str
    reason: str


Item = ProposalItem | BatchItem | FactItem
Note = CheckpointItem | MarkItem | DeliveredItem | PassedOverItem
NOTES = (CheckpointItem, MarkItem, DeliveredItem, PassedOverItem)


def owed(item: Item | Note) -> int:
    """How many outcomes an item has: one per proposal or fact in it, none for a note."""
    if isinstance(item, BatchItem):
        return len(item.proposals)
    return 0 if isinstance(item, NOTES) else 1


class LogEntry(NamedTuple):
    """The envelope. ``stamp_us`` is strictly increasing along the log; an entry without items is a barrier."""

    chart_hash: str
    leader: str
    term: int
    stamp_us: int
    items: tuple[Item | Note, ...]


def encode(entry: LogEntry) -> bytes:
    """The bytes Raft replicates."""
    body = [FORMAT, entry.chart_hash, entry.leader, entry.term, entry.stamp_us, [_pack(item) for item in entry.items]]
    return msgpack.packb(body, use_bin_type=True)


def decode(data: bytes) -> LogEntry:
    """The entry of ``data``.

    Raises:
        Corrupt: bytes that no node of this format version wrote.
    """
    try:
        version, chart_hash, leader, term, stamp_us, items = msgpack.unpackb(data, use_list=False, raw=False)
        if version != FORMAT:
            raise Corrupt(f"log entry of format {version}; this build reads format {FORMAT}")
        return LogEntry(chart_hash, leader, term, stamp_us, tuple(_unpack_logged(item) for item in items))
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise Corrupt(f"log entry does not decode: {error}") from None


def stamp_of(data: bytes) -> int:
    """The stamp (µs) in an encoded entry, without unpacking its items.

    Raises:
        Corrupt: bytes that are not an entry of this format.
    """
    unpacker = msgpack.Unpacker()
    unpacker.feed(data[:_HEAD_BYTES])
    try:
        if unpacker.read_array_header() != 6 or unpacker.unpack() != FORMAT:
            raise Corrupt("not a log entry of this format")
        for _ in range(3):
            unpacker.skip()
        stamp: int = unpacker.unpack()
    except (ValueError, msgpack.UnpackException) as error:
        raise Corrupt(f"log entry does not decode: {error}") from None
    return stamp


def weight(item: Item) -> int:
    """The bytes an item takes in an entry, the verdicts that travel with it included."""
    return len(msgpack.packb(_pack(item), use_bin_type=True))


def pack_items(items: list[Item]) -> bytes:
    """Items alone, as one node forwards them to another."""
    return msgpack.packb([_pack(item) for item in items], use_bin_type=True)


def unpack_items(data: bytes) -> list[Item]:
    """The inverse of ``pack_items``.

    Raises:
        Corrupt: bytes that are not items.
    """
    try:
        return [_unpack(item) for item in msgpack.unpackb(data, use_list=False, raw=False)]
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise Corrupt(f"items do not decode: {error}") from None


def signers_of(item: Item) -> list[str]:
    """Who signed each proposal or fact of an item, as canonical principals; one per answer it is owed."""
    match item:
        case ProposalItem(sent):
            return [normalise(_Signed.read(sent).signer)]
        case BatchItem(signer, _, proposals):
            return [signer] * len(proposals)
        case FactItem(sent):
            return [normalise(_Signed.read(sent).provider)]


class _Signed(msgspec.Struct):
    """As much of an object as sent as names its signer."""

    signer: str = ""
    provider: str = ""

    @classmethod
    def read(cls, sent: bytes) -> _Signed:
        return msgspec.json.decode(sent, type=cls)


def _pack(item: Item | Note) -> list[Any]:
    match item:
        case ProposalItem(sent, trusted, voters):
            return ["p", sent, trusted, voters]
        case BatchItem(signer, signature, proposals):
            return ["b", signer, signature, [_pack(proposal)[1:] for proposal in proposals]]
        case FactItem(sent):
            return ["f", sent]
        case CheckpointItem(at, cluster_hash, nodes):
            return ["c", at, cluster_hash, nodes]
        case MarkItem():
            return ["m"]
        case DeliveredItem(outbox, upto):
            return ["d", outbox, upto]
        case PassedOverItem():
            return ["o", *item]


def _unpack_logged(packed: tuple[Any, ...]) -> Item | Note:
    """Notes are the leader's alone: only an entry holds them, never what one node hands another."""
    tag, *rest = packed
    if tag == "c":
        at, cluster_hash, nodes = rest
        return CheckpointItem(at, cluster_hash, tuple(nodes))
    if tag == "d":
        outbox, upto = rest
        return DeliveredItem(outbox, tuple((project, seq) for project, seq in upto))
    if tag == "o":
        return PassedOverItem(*rest)
    return MarkItem(*rest) if tag == "m" else _unpack(packed)


def _unpack(packed: tuple[Any, ...]) -> Item:
    tag, *rest = packed
    if tag == "p":
        sent, trusted, voters = rest
        return ProposalItem(sent, trusted, tuple(voters))
    if tag == "b":
        signer, signature, proposals = rest
        return BatchItem(signer, signature, tuple(ProposalItem(s, t, tuple(v)) for s, t, v in proposals))
    if tag == "f":
        (sent,) = rest
        return FactItem(sent)
    raise ValueError(f"unknown item {tag!r}")
