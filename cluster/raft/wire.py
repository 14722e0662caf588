"""What two nodes may say to each other: framing, the hello, and the allow-list of messages.

A frame is a 4-byte big-endian length and one msgpack document. The first frame in each direction is a `Hello`, the
second a `welcome`; every later one is a message of the table `MESSAGES`. Bytes from a peer reach the consensus core
only as a dictionary that `check` has passed: a known type, exactly its keys, values of the right type and range.

Why an allow-list: the library this stands in front of trusts its peers. It would unpickle a `transmission`, load a
`serialized` state, append an inbound `apply_command` and adopt any term. None of those can be said in this vocabulary.

This module must never act: it opens nothing, keeps no state but a half-received frame, and judges a message by itself
alone. Whether a well-formed message is *believable* (its term, its sender, its moment) is for guard.py.
"""

import re
import reprlib
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import msgpack
import msgspec

Message = dict[str, Any]

COMMAND_BYTES_MAX = 512 << 10
"""Longest command of one log entry, its type byte included: half of what the library would begin to pickle."""
ENTRIES_MAX = 8192
FRAME_BYTES_MAX = 4 << 20
"""Above any append: 1 MiB of commands closes a batch; its last command and the entries' own framing come on top."""
HELLO_BYTES_MAX = 4 << 10
COUNTER_END = 1 << 48
"""Exclusive bound of terms, indices and round numbers: unreachable by counting, and far from integer overflow."""
MEMBERS_MAX = 16
NAME_MAX = 128
MICROSECONDS_END = 1 << 53
"""Exclusive bound of clock readings: the year 2255 on a wall clock."""

_LENGTH = struct.Struct(">I")
_HEX = re.compile(r"[0-9a-f]{1,64}")


class WireError(ValueError):
    """What a peer sent is not in the vocabulary. The text says which rule was broken; the link must be closed."""


# --- the vocabulary ---------------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """One sort of value: the predicate, and the words for the log line when it fails."""

    accepts: Callable[[object], bool]
    meaning: str


def _integer(end: int) -> Kind:
    # `type() is int`: True and False are ints to isinstance, and are not counters.
    return Kind(lambda value: type(value) is int and 0 <= value < end, f"an integer in 0..{end - 1}")


def _is_entry(value: object) -> bool:
    if not (isinstance(value, tuple) and len(value) == 3):
        return False
    command, index, term = value
    return (
        type(command) is bytes
        and 0 < len(command) <= COMMAND_BYTES_MAX
        and command[0] in (0, 1)
        and COUNTER.accepts(index)
        and COUNTER.accepts(term)
    )


def _is_seen(value: object) -> bool:
    return isinstance(value, dict) and len(value) <= MEMBERS_MAX and all(map(_is_store, value, value.values()))


def _is_store(node: object, store: object) -> bool:
    if not (type(node) is str and 0 < len(node) <= NAME_MAX and isinstance(store, list | tuple) and len(store) == 2):
        return False
    incarnation, sequence = store
    return type(incarnation) is str and _HEX.fullmatch(incarnation) is not None and COUNTER.accepts(sequence)


def _are_entries(value: object) -> bool:
    # The library builds a list; msgpack gives back a tuple.
    return isinstance(value, list | tuple) and len(value) <= ENTRIES_MAX and all(map(_is_entry, value))


COUNTER = _integer(COUNTER_END)
MICROSECONDS = _integer(MICROSECONDS_END)
HASH = Kind(
    lambda value: isinstance(value, str) and re.fullmatch(r"sha256-[0-9a-f]{64}", value) is not None,
    "sha256- and 64 hex digits",
)
FLAG = Kind(lambda value: type(value) is bool, "true or false")
COUNTER_OR_NOTHING = Kind(lambda value: value is None or COUNTER.accepts(value), f"null or {COUNTER.meaning}")
ENTRIES = Kind(
    _are_entries,
    f"at most {ENTRIES_MAX} triples (command, index, term), each command 1..{COMMAND_BYTES_MAX} bytes that begin with "
    "0 (regular) or 1 (no-op)",
)

SEEN = Kind(_is_seen, f"at most {MEMBERS_MAX} members, each with an incarnation in hex and {COUNTER.meaning}")

Layout = Mapping[str, Kind]

MESSAGES: Mapping[str, Layout] = {
    # Raft's own, under PySyncObj's names. The sender's guard stamps `t`, its term, on the reply to an append, and `b`,
    # the number of its last synced batch, on all that promises something; `seen` is what it knows of every store.
    "request_vote": {"term": COUNTER, "last_log_index": COUNTER, "last_log_term": COUNTER, "b": COUNTER},
    "response_vote": {"term": COUNTER, "b": COUNTER},
    "append_entries": {
        "term": COUNTER,
        "commit_index": COUNTER,
        "prevLogIdx": COUNTER,
        "prevLogTerm": COUNTER,
        "entries": ENTRIES,
        "seen": SEEN,
    },
    "next_node_idx": {"next_node_idx": COUNTER, "reset": FLAG, "success": FLAG, "t": COUNTER, "b": COUNTER},
    "timeout_now": {"term": COUNTER},
    # Pre-vote (Raft dissertation §9.6): round, term, last index and last term of the would-be candidate.
    "pv": {"r": COUNTER, "t": COUNTER, "li": COUNTER, "lt": COUNTER},
    "pv_ok": {"r": COUNTER},
    # "Your term is over": tells a deposed leader, which the library would leave in silence.
    "stale_term": {"t": COUNTER},
    # ReadIndex (Raft dissertation §6.4): the leader's round, and a peer that still knows no newer term.
    "ri": {"id": COUNTER, "t": COUNTER},
    "ri_ok": {"id": COUNTER, "t": COUNTER},
    # A follower asks the leader for a read index; null = refused (not the leader, or no quorum).
    "index_query": {"id": COUNTER},
    "index_answer": {"id": COUNTER, "index": COUNTER_OR_NOTHING},
    # "My log begins with this entry, after the end of yours": install a snapshot. And which one is being installed.
    "behind": {"t": COUNTER, "first": COUNTER, "first_term": COUNTER},
    "installing": {"t": COUNTER, "index": COUNTER},
    # What does your wall clock say? `at` is the asker's monotonic reading, given back unread.
    "clock": {"at": MICROSECONDS},
    "clock_ok": {"at": MICROSECONDS, "wall_us": MICROSECONDS},
    # A member's cluster hash at an applied index, to the leader. No term: a committed index names one history.
    "checkpoint": {"index": COUNTER, "hash": HASH},
    # Both end in the transport: the first says that the receiver's hello was accepted, the second keeps a link alive.
    "welcome": {},
    "ping": {},
}


def check(message: object) -> Message:
    """Return `message` itself if it is in the vocabulary.

    Raises WireError naming the type, the key and the broken rule.
    """
    if not isinstance(message, dict):
        raise WireError(f"a message must be a map, not {type(message).__name__}")
    name = message.get("type")
    layout = MESSAGES.get(name) if isinstance(name, str) else None
    if layout is None:
        raise WireError(f"no message type {reprlib.repr(name)}")
    keys = message.keys() - {"type"}
    if layout.keys() != keys:
        raise WireError(f"{name}: has the keys {reprlib.repr(sorted(map(str, keys)))}, must have {sorted(layout)}")
    for key, kind in layout.items():
        if not kind.accepts(message[key]):
            raise WireError(f"{name}.{key}: {reprlib.repr(message[key])} is not {kind.meaning}")
    if "entries" in layout:
        _check_continuity(message)
    return message


def _check_continuity(append: Message) -> None:
    """Log Matching (Raft §5.3) within one message: indices contiguous, terms never falling, none above the leader's."""
    index, term = append["prevLogIdx"], append["prevLogTerm"]
    for _, entry_index, entry_term in append["entries"]:
        if entry_index != index + 1:
            raise WireError(f"append_entries: index {entry_index} follows {index}")
        if entry_term < term:
            raise WireError(f"append_entries: term {entry_term} at index {entry_index} follows term {term}")
        index, term = entry_index, entry_term
    if term > append["term"]:
        raise WireError(f"append_entries: an entry of term {term} in a message of term {append['term']}")


# --- the hello --------------------------------------------------------------------------------------------------------

_Counter = Annotated[int, msgspec.Meta(ge=0, lt=COUNTER_END)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_MAX)]
_Hex = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{1,64}\Z")]


class Hello(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who a node is and how far its log reaches; the first frame in each direction of a link.

    `cluster_id`, `genesis_hash`, `config_epoch` and `member_set_hash` must be equal on both sides. `incarnation` names
    one life of the node's store (hex), `boots` counts its starts, `barrier_seq` its synced batches: they let a peer see
    that a store was replaced or rolled back. `rejoining` says that it was made in place of another and is not accepted
    yet; `seen` is what the node knows of every member's store. `chart_hash` and `reducer_version` say what it can
    reduce.
    """

    cluster_id: _Name
    genesis_hash: _Name
    config_epoch: _Counter
    member_set_hash: _Name
    node: _Name
    incarnation: _Hex
    boots: _Counter
    barrier_seq: _Counter
    rejoining: bool
    seen: Annotated[dict[_Name, tuple[_Hex, _Counter]], msgspec.Meta(max_length=MEMBERS_MAX)]
    term: _Counter
    last_index: _Counter
    last_term: _Counter
    chart_hash: _Name
    reducer_version: _Name


# --- frames -----------------------------------------------------------------------------------------------------------


def encode(message: Message) -> bytes:
    """One frame. Raises WireError if it would be longer than a peer accepts."""
    return _frame(message, FRAME_BYTES_MAX)


def decode(document: bytes) -> Message:
    """The message in one frame's document. Raises WireError."""
    return check(_unpack(document))


def encode_hello(hello: Hello) -> bytes:
    """One frame. Raises WireError if the peer would refuse it: a node must not greet with what it would not accept."""
    frame = _frame(msgspec.structs.asdict(hello), HELLO_BYTES_MAX)
    decode_hello(frame[_LENGTH.size :])
    return frame


def decode_hello(document: bytes) -> Hello:
    """The hello in a link's first frame. Raises WireError."""
    try:
        return msgspec.convert(_unpack(document), Hello, strict=True)
    except msgspec.ValidationError as error:
        raise WireError(f"hello: {error}") from None


class FrameReader:
    """Cuts a byte stream into the documents of its frames. One per link; holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._received = bytearray()
        self.limit = HELLO_BYTES_MAX
        """Longest document accepted next, bytes. The link raises it once the peer's hello is welcome."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield every document that `data` completes, in order.

        Raises WireError as soon as a length above `limit` is announced, before any of that frame is kept. A caller may
        stop early and must then feed nothing more.
        """
        self._received += data
        start = 0
        while len(self._received) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received, start)
            if length > self.limit:
                raise WireError(f"a frame of {length} bytes where at most {self.limit} are accepted")
            end = start + _LENGTH.size + length
            if len(self._received) < end:
                break
            yield bytes(self._received[start + _LENGTH.size : end])
            start = end
        del self._received[:start]


def _frame(value: object, limit: int) -> bytes:
    document = msgpack.packb(value, use_bin_type=True)
    if len(document) > limit:
        raise WireError(f"a frame of {len(document)} bytes where at most {limit} are accepted")
    return _LENGTH.pack(len(document)) + document


def _unpack(document: bytes) -> object:
    # The bounds matter because msgpack reserves an array when it sees its header: without them a few nested headers
    # of five bytes each would claim gigabytes.
    try:
        return msgpack.unpackb(
            document,
            use_list=False,
            strict_map_key=True,
            object_pairs_hook=_without_duplicates,
            max_array_len=ENTRIES_MAX,
            max_map_len=64,
            max_bin_len=COMMAND_BYTES_MAX,
            max_str_len=1024,
            max_ext_len=0,
        )
    except WireError:
        raise
    except (ValueError, TypeError) as error:
        # One family: truncated, trailing bytes, bad UTF-8, too deep, over a bound, a key that is no text.
        raise WireError(f"not one msgpack document ({type(error).__name__})") from None


def _without_duplicates(pairs: list[tuple[object, object]]) -> dict[object, object]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise WireError("a map with a key given twice")
    return unique
