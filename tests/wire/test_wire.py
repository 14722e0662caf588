"""The vocabulary: everything in it passes, nothing else does, and judging never ends in anything but WireError."""

import itertools
import struct
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.raft import wire
from cluster.raft.wire import Message, WireError
from tests.wire.members import hello

ENTRY = (b"\x00payload", 12, 3)

SENTENCES: list[Message] = [
    {"type": "request_vote", "term": 3, "last_log_index": 11, "last_log_term": 2, "b": 7},
    {"type": "response_vote", "term": 3, "b": 7},
    {
        "type": "append_entries",
        "term": 3,
        "commit_index": 10,
        "prevLogIdx": 11,
        "prevLogTerm": 2,
        "entries": (ENTRY, (b"\x01", 13, 3)),
        "seen": {"n1": ("5c" * 16, 7)},
    },
    {
        "type": "append_entries",
        "term": 3,
        "commit_index": 10,
        "prevLogIdx": 11,
        "prevLogTerm": 2,
        "entries": (),
        "seen": {},
    },
    {"type": "next_node_idx", "next_node_idx": 12, "reset": False, "success": True, "t": 3, "b": 7},
    {"type": "timeout_now", "term": 3},
    {"type": "pv", "r": 1, "t": 3, "li": 11, "lt": 2},
    {"type": "pv_ok", "r": 1},
    {"type": "stale_term", "t": 4},
    {"type": "ri", "id": 5, "t": 3},
    {"type": "ri_ok", "id": 5, "t": 3},
    {"type": "index_query", "id": 6},
    {"type": "index_answer", "id": 6, "index": 40},
    {"type": "index_answer", "id": 6, "index": None},
    {"type": "behind", "t": 3, "first": 7, "first_term": 2},
    {"type": "installing", "t": 3, "index": 40},
    {"type": "clock", "at": 5_000_000},
    {"type": "clock_ok", "at": 5_000_000, "wall_us": 1_760_000_000_000_000},
    {"type": "checkpoint", "index": 1_000, "hash": "sha256-" + "5c" * 32},
    {"type": "welcome"},
    {"type": "ping"},
]

PICKLE = b"cos\nsystem\n(S'true'\ntR."

FORBIDDEN: dict[str, Message] = {
    "a client command, which only this node may append": {"type": "apply_command", "command": b"\x00x"},
    "a client command with a request id": {"type": "apply_command", "command": b"\x00x", "request_id": 1},
    "an answer to a forwarded command": {"type": "apply_command_response", "request_id": 1, "error": 0},
    "a pickled entry": {
        "type": "append_entries",
        "term": 3,
        "commit_index": 10,
        "prevLogIdx": 11,
        "prevLogTerm": 2,
        "transmission": "finish",
        "data": PICKLE,
    },
    "a pickled entry beside proper ones": SENTENCES[2] | {"transmission": "finish", "data": PICKLE},
    "a report without a hash": {"type": "checkpoint", "index": 5, "hash": "sha256-"},
    "a snapshot chunk": {"type": "append_entries", "term": 3, "commit_index": 10, "serialized": (PICKLE, True, True)},
    "no snapshot chunk": {"type": "append_entries", "term": 3, "commit_index": 10, "serialized": None},
    "a membership command": SENTENCES[2] | {"entries": ((b"\x02" + PICKLE, 12, 3),)},
    "a code version command": SENTENCES[2] | {"entries": ((b"\x03" + PICKLE, 12, 3),)},
    "a utility message": {"type": "add", "node": "n9"},
    "no type": {"term": 3},
    "a second hello": {"type": "hello"},
    "an unknown key": {"type": "response_vote", "term": 3, "b": 7, "voter": "n9"},
    "a missing key": {"type": "request_vote", "term": 3, "last_log_index": 11, "b": 7},
    "an absurd term": {"type": "response_vote", "term": 1 << 48, "b": 7},
    "a negative term": {"type": "response_vote", "term": -1, "b": 7},
    "a term that is a flag": {"type": "response_vote", "term": True, "b": 7},
    "a term that is a float": {"type": "response_vote", "term": 3.0, "b": 7},
    "a flag that is a number": SENTENCES[4] | {"success": 1},
    "an unstamped reply": {"type": "next_node_idx", "next_node_idx": 12, "reset": False, "success": True, "b": 7},
    "a store of no incarnation": SENTENCES[2] | {"seen": {"n1": ("xyz", 7)}},
    "a store that counts nothing": SENTENCES[2] | {"seen": {"n1": ("5c" * 16, -1)}},
    "a store that is a text": SENTENCES[2] | {"seen": {"n1": "5c"}},
    "a store of nobody": SENTENCES[2] | {"seen": {7: ("5c" * 16, 7)}},
    "more stores than members": SENTENCES[2] | {"seen": {f"n{number}": ("5c" * 16, 7) for number in range(17)}},
    "entries after a gap": SENTENCES[2] | {"entries": ((b"\x00x", 13, 3),)},
    "entries that repeat an index": SENTENCES[2] | {"entries": (ENTRY, ENTRY)},
    "an entry older than its predecessor": SENTENCES[2] | {"entries": (ENTRY, (b"\x00x", 13, 2))},
    "an entry older than the anchor": SENTENCES[2] | {"entries": ((b"\x00x", 12, 1),)},
    "an entry newer than its leader": SENTENCES[2] | {"entries": ((b"\x00x", 12, 4),)},
    "an anchor newer than its leader": SENTENCES[3] | {"prevLogTerm": 4},
    "an empty command": SENTENCES[2] | {"entries": ((b"", 12, 3),)},
    "a command that is text": SENTENCES[2] | {"entries": (("\x00x", 12, 3),)},
    "an entry of four parts": SENTENCES[2] | {"entries": ((b"\x00x", 12, 3, 0),)},
    "entries that are a map": SENTENCES[2] | {"entries": {"a": 1}},
    "a command too long": SENTENCES[2] | {"entries": ((bytes(wire.COMMAND_BYTES_MAX + 1), 12, 3),)},
    "too many entries": SENTENCES[2] | {"entries": tuple((b"\x00", 12 + n, 3) for n in range(wire.ENTRIES_MAX + 1))},
}


def document(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def name_of(sentence: Message) -> str:
    return str(sentence["type"])


@pytest.mark.parametrize("sentence", SENTENCES, ids=name_of)
def test_every_sentence_arrives_as_it_was_said(sentence: Message) -> None:
    (frame,) = feed(wire.encode(sentence), limit=wire.FRAME_BYTES_MAX)
    assert wire.decode(frame) == sentence


def test_there_is_an_example_of_every_sentence() -> None:
    assert {said["type"] for said in SENTENCES} == wire.MESSAGES.keys()


@pytest.mark.parametrize("message", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_what_must_never_be_said_is_refused(message: Message) -> None:
    with pytest.raises(WireError):
        wire.check(message)
    with pytest.raises(WireError):
        wire.decode(document(message))


def test_the_largest_append_the_library_builds_fits_one_frame() -> None:
    # It closes a batch with the first entry that reaches 1 MiB in all.
    commands = [bytes(wire.COMMAND_BYTES_MAX - 1)] * 2 + [b"\x00"] * 1 + [bytes(wire.COMMAND_BYTES_MAX)]
    entries = tuple((command, 12 + n, 3) for n, command in enumerate(commands))
    frame = wire.encode(SENTENCES[2] | {"entries": entries})
    assert len(frame) < wire.FRAME_BYTES_MAX
    assert wire.decode(frame[4:])["entries"] == entries


def test_a_refusal_names_type_key_and_rule_but_not_a_megabyte_of_it() -> None:
    with pytest.raises(
        WireError, match=r"^request_vote\.term: 'x+\.\.\.x+' is not an integer in 0\.\.281474976710655$"
    ):
        wire.check(SENTENCES[0] | {"term": "x" * 1_000_000})


# --- anything at all --------------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from([0, 1, 2, 11, 12, 13, wire.COUNTER_END - 1, wire.COUNTER_END])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=8) | st.binary(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def passes_or_is_refused(judge: Any, subject: Any) -> None:
    try:
        message = judge(subject)
    except WireError:
        return
    assert message["type"] in wire.MESSAGES
    assert wire.check(message) is message


@given(values)
def test_check_refuses_any_value_or_returns_a_message(value: object) -> None:
    passes_or_is_refused(wire.check, value)


@given(st.sampled_from(SENTENCES), st.data())
def test_check_survives_a_sentence_with_one_thing_changed(sentence: Message, data: st.DataObject) -> None:
    changed = dict(sentence)
    key = data.draw(st.sampled_from([*sentence, "serialized", "transmission", "extra"]))
    if data.draw(st.booleans()):
        changed[key] = data.draw(values)
    else:
        changed.pop(key, None)
    passes_or_is_refused(wire.check, changed)


@given(st.lists(st.tuples(scalars, scalars, scalars), max_size=4))
def test_check_survives_any_entries(entries: list[tuple[object, object, object]]) -> None:
    passes_or_is_refused(wire.check, SENTENCES[2] | {"entries": tuple(entries)})


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xc1")
@example(b"\x91" * 100_000)
@example(b"\xdd\x00\x10\x00\x00" * 400)
@example(b"\x81\x01\x02")
@example(b"\xd6\xff\x00\x00\x00\x00")
@example(document({"type": "ping"}) + b"\x00")
@example(b"\x82\xa4type\xa4ping\xa4type\xa4ping")
@example(b"\x81\xa4type\xa2\xff\xff")
def test_decode_survives_any_bytes(noise: bytes) -> None:
    passes_or_is_refused(wire.decode, noise)
    with pytest.raises(WireError):
        wire.decode_hello(noise)


def test_headers_that_claim_gigabytes_reserve_none() -> None:
    claims = b"\xdd\x00\x10\x00\x00" * 20 + bytes(1 << 20)
    tracemalloc.start()
    with pytest.raises(WireError):
        wire.decode(claims)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(WireError, match="twice"):
        wire.decode(b"\x82\xa4type\xa4ping\xa4type\xa4ping")


# --- the hello --------------------------------------------------------------------------------------------------------


def test_a_hello_arrives_as_it_was_said() -> None:
    (frame,) = feed(wire.encode_hello(hello("n1")), limit=wire.HELLO_BYTES_MAX)
    assert wire.decode_hello(frame) == hello("n1")


def as_map(**changes: object) -> dict[str, object]:
    said: dict[str, object] = msgpack.unpackb(wire.encode_hello(hello("n1"))[4:])
    return said | changes


@pytest.mark.parametrize(
    "said",
    [
        as_map(extra=1),
        {key: value for key, value in as_map().items() if key != "boots"},
        as_map(term=True),
        as_map(term=3.0),
        as_map(term="3"),
        as_map(term=-1),
        as_map(last_index=wire.COUNTER_END),
        as_map(node=""),
        as_map(node=b"n1"),
        as_map(cluster_id="x" * 129),
        as_map(incarnation="not hex"),
        as_map(incarnation="0f\n"),
        list(as_map().values()),
        None,
    ],
    ids=lambda said: str(said)[-40:],
)
def test_a_hello_of_any_other_shape_is_refused(said: object) -> None:
    with pytest.raises(WireError, match=r"^hello: "):
        wire.decode_hello(document(said))


def test_a_node_does_not_say_a_hello_it_would_not_accept() -> None:
    with pytest.raises(WireError):
        wire.encode_hello(hello("n1", term=-1))


# --- frames -----------------------------------------------------------------------------------------------------------


def feed(*pieces: bytes, limit: int) -> list[bytes]:
    reader = wire.FrameReader()
    reader.limit = limit
    return [found for piece in pieces for found in reader.feed(piece)]


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 400), max_size=8))
def test_however_a_stream_is_cut_the_same_documents_come_out(documents: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(struct.pack(">I", len(each)) + each for each in documents)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert feed(*pieces, limit=40) == documents


def test_a_frame_above_the_limit_is_refused_at_its_header() -> None:
    with pytest.raises(WireError, match="1000 bytes where at most 999"):
        feed(struct.pack(">I", 1000), limit=999)


def test_no_frame_is_sent_that_the_peer_would_refuse() -> None:
    entries = tuple((bytes(wire.COMMAND_BYTES_MAX), 12 + n, 3) for n in range(9))
    with pytest.raises(WireError, match="at most"):
        wire.encode(SENTENCES[2] | {"entries": entries})
