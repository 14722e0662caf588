"""Links between members: greeting, order, replacement, silence, backlog, and what an error does."""

import asyncio
import socket
from collections.abc import Iterator
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pysyncobj.node import Node

from cluster import faults, tls
from cluster.clock import ManualClock
from cluster.entropy import SeededEntropy
from cluster.raft import transport, wire
from cluster.raft.transport import Link, PeerTransport, Refusal
from cluster.raft.wire import Message
from cluster.tls import PeerName
from tests.wire.conftest import Arrive
from tests.wire.members import CLUSTER, DEADLINE_SECONDS, Impostor, Member, Notes, Papers, hello


def ri(number: int) -> Message:
    return {"type": "ri", "id": number, "t": 3}


async def pair(arrive: Arrive, **options: object) -> tuple[Member, Member]:
    """n1 and n2, connected; n2 dials."""
    n1, n2 = await arrive("n1", **options), await arrive("n2", **options)
    n2.knows(n1)
    await n1.transport.start()
    await n2.transport.start()
    await n1.notes.until_seen("connected", "n2")
    await n2.notes.until_seen("connected", "n1")
    return n1, n2


# --- greeting ---------------------------------------------------------------------------------------------------------


async def test_three_members_find_each_other(arrive: Arrive) -> None:
    members = [await arrive(node) for node in ("n1", "n2", "n3")]
    for member in members:
        member.knows(*(other for other in members if other is not member))
        await member.transport.start()
    for member in members:
        for other in members:
            if other is not member:
                await member.notes.until_seen("connected", other.notes.node)
        peers = member.transport.peers()
        assert {peer: link.hello for peer, link in peers.items()} == {peer: hello(peer) for peer in peers}
        assert all(link.connected and link.last_heard > 0 for link in peers.values())


async def test_a_peer_never_met_has_no_hello_and_was_never_heard(arrive: Arrive) -> None:
    n1 = await arrive("n1")
    n1.transport.guard = None  # type: ignore[assignment]  # what cannot be sent must not pass the guard's barrier
    assert n1.transport.peers()["n2"] == transport.PeerLink(connected=False, last_heard=float("-inf"), hello=None)
    assert not n1.transport.raw("n2", ri(1))
    assert not n1.transport.send(Node("n2"), ri(1))
    n1.transport.reset("n2")


async def test_one_refusal_is_enough_and_neither_side_is_told_of_a_link(arrive: Arrive) -> None:
    n1, n2 = await arrive("n1"), await arrive("n2")
    n2.knows(n1)
    n1.notes.refuse = "member set hash differs"
    await n1.transport.start()
    await n2.transport.start()
    await n1.notes.until_seen("refused", "n2", times=2)  # n2 came, was refused, and came again
    assert set(n1.notes.seen) == {("refused", "n2")}
    assert n2.notes.seen == []


async def test_a_dialled_node_must_hold_the_certificate_of_the_node_meant(arrive: Arrive) -> None:
    n2, n3 = await arrive("n2"), await arrive("n3")
    n3.transport._peers["n1"] = ("127.0.0.1", n2.port.port)  # n2 answers where n1 should live
    problem = await n3.transport._connect("n1", Link(n3.transport, dialled="n1"))
    assert problem is not None
    assert "is not n1: Hostname mismatch" in problem
    assert n3.transport.refused == {Refusal.CERTIFICATE: 1}


async def test_a_host_that_does_not_answer_is_given_up(arrive: Arrive) -> None:
    clock = ManualClock()
    n3 = await arrive("n3", clock=clock)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts in the kernel, and never shakes hands
        n3.transport._peers["n1"] = mute.getsockname()
        attempt = asyncio.create_task(n3.transport._connect("n1", Link(n3.transport, dialled="n1")))
        await asyncio.sleep(0)  # the attempt is under way
        clock.advance(transport.CONNECT_SECONDS)
        assert await attempt == f"127.0.0.1:{mute.getsockname()[1]} did not answer within 2.0 s"


async def test_the_transport_checks_papers_itself() -> None:
    owner, notes = in_memory()
    await owner.start()
    for stranger in ("n9", "n0"):
        Link(owner, dialled=None).connection_made(wire_to := Wire(stranger))
        assert wire_to.aborted
        assert wire_to.said == b""
    assert notes.seen == []


async def test_links_are_refused_before_start_and_after_stop(arrive: Arrive, papers: Papers) -> None:
    n1 = await arrive("n1")
    early = await Impostor.greeting(n1.port.port, papers.nodes["n2"], hello("n2"))
    await early.shown_out()
    await n1.transport.start()
    await n1.transport.stop()
    late = await Impostor.greeting(n1.port.port, papers.nodes["n2"], hello("n2"))
    await late.shown_out()
    assert n1.notes.seen == []


# --- order and exactly once -------------------------------------------------------------------------------------------


async def test_messages_arrive_once_in_order_both_ways(arrive: Arrive) -> None:
    n1, n2 = await pair(arrive)
    said = [ri(number) for number in range(500)]
    for message in said:
        assert n1.transport.raw("n2", message)
        assert n2.transport.raw("n1", message)
    await n1.notes.until(lambda: len(n1.notes.messages) >= len(said))
    await n2.notes.until(lambda: len(n2.notes.messages) >= len(said))
    assert n1.notes.messages == n2.notes.messages == said


async def test_a_large_append_arrives_whole(arrive: Arrive) -> None:
    n1, n2 = await pair(arrive)
    entries = tuple((b"\x00" + bytes([n]) * 300_000, 12 + n, 3) for n in range(4))
    append = {
        "type": "append_entries",
        "term": 3,
        "commit_index": 9,
        "prevLogIdx": 11,
        "prevLogTerm": 2,
        "entries": entries,
        "seen": {},
    }
    assert n1.transport.raw("n2", append)
    await n2.notes.until(lambda: bool(n2.notes.messages))
    assert n2.notes.messages == [append]


async def test_each_read_that_delivers_is_followed_by_one_note(arrive: Arrive, papers: Papers) -> None:
    n1 = await arrive("n1")
    await n1.transport.start()
    member = await Impostor.greeting(n1.port.port, papers.nodes["n2"], hello("n2"))
    await n1.notes.until_seen("connected", "n2")
    member.say(wire.encode(ri(1)), wire.encode({"type": "ping"}), wire.encode(ri(2)))
    await n1.notes.until_seen("read")
    assert n1.notes.seen[1:] == [("message", "n2", ri(1)), ("message", "n2", ri(2)), ("read",)]
    await member.leave()


async def test_the_guard_may_rewrite_or_swallow_what_the_library_sends(arrive: Arrive) -> None:
    n1, n2 = await pair(arrive)
    n1.notes.swallow = True
    assert n1.transport.send(Node("n2"), {"type": "timeout_now", "term": 3})
    n1.notes.swallow = False
    assert n1.transport.send(Node("n2"), {"type": "stale_term", "t": 3})
    assert n1.transport.raw("n2", {"type": "stale_term", "t": 3})
    await n2.notes.until(lambda: len(n2.notes.messages) == 2)
    assert n2.notes.messages == [{"type": "stale_term", "t": 9}, {"type": "stale_term", "t": 3}]


async def test_a_newer_link_replaces_the_older_and_nothing_of_that_is_delivered(arrive: Arrive, papers: Papers) -> None:
    n1 = await arrive("n1")
    await n1.transport.start()
    older = await Impostor.greeting(n1.port.port, papers.nodes["n2"], hello("n2"))
    late = wire.encode(ri(2))
    older.say(wire.encode(ri(1)), late[:-1])
    await n1.notes.until_seen("message", "n2", ri(1))

    newer = await Impostor.greeting(n1.port.port, papers.nodes["n2"], hello("n2", boots=2))
    await n1.notes.until_seen("connected", "n2", times=2)
    older.say(late[-1:], wire.encode(ri(3)))
    newer.say(wire.encode(ri(4)))
    await older.shown_out()
    await n1.notes.until_seen("message", "n2", ri(4))

    assert [note for note in n1.notes.seen if note != ("read",)] == [
        ("connected", "n2"),
        ("message", "n2", ri(1)),
        ("disconnected", "n2"),
        ("connected", "n2"),
        ("message", "n2", ri(4)),
    ]
    link = n1.transport.peers()["n2"]
    assert link.connected
    assert link.hello == hello("n2", boots=2)
    await newer.leave()


class Wire(asyncio.Transport):
    """The far side of a `Link` in memory: a certificate, and an ear."""

    def __init__(self, node: str) -> None:
        super().__init__({"ssl_object": self})
        self.node = node
        self.said = b""
        self.aborted = False

    def getpeercert(self) -> dict[str, object]:
        return {"subjectAltName": (("DNS", f"{self.node}.{CLUSTER}"),)}

    def selected_alpn_protocol(self) -> str:
        return tls.RAFT_PROTOCOL

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.said += bytes(data)

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return 0


def in_memory() -> tuple[PeerTransport, Notes]:
    """The links of n1 to n2 and n3, without sockets."""
    owner = PeerTransport(
        me=PeerName("n1", CLUSTER),
        peers={"n2": ("127.0.0.1", 0), "n3": ("127.0.0.1", 0)},
        context=None,  # type: ignore[arg-type]
        clock=ManualClock(),
        entropy=SeededEntropy(0),
    )
    owner.receiver = Notes("n1")
    return owner, owner.receiver


def connected(owner: PeerTransport, node: str) -> Link:
    link = Link(owner, dialled=None)
    link.connection_made(Wire(node))
    link.data_received(wire.encode_hello(hello(node)) + wire.encode({"type": "welcome"}))
    return link


async def test_a_link_that_the_receiver_resets_delivers_nothing_more_of_the_same_read() -> None:
    owner, notes = in_memory()
    notes.on_each = lambda message: owner.reset("n2")
    await owner.start()
    link = connected(owner, "n2")
    link.data_received(wire.encode(ri(1)) + wire.encode(ri(2)))
    assert notes.seen == [("connected", "n2"), ("message", "n2", ri(1)), ("read",)]


links = st.integers(0, 3)
steps = st.lists(st.tuples(st.just("read"), links, st.integers(1, 60)) | st.tuples(st.just("lost"), links, st.just(0)))


@settings(deadline=None)
@given(steps)
def test_in_any_interleaving_of_links_each_delivers_a_prefix_and_none_after_its_successor(
    steps: list[tuple[str, int, int]],
) -> None:
    asyncio.run(interleave(steps))


async def interleave(steps: list[tuple[str, int, int]]) -> None:
    """Four links of one peer, each with ten messages that carry its number, read in pieces in the order of `steps`."""
    owner, notes = in_memory()
    await owner.start()
    streams = []
    made = []
    for number in range(4):
        words = [wire.encode_hello(hello("n2")), wire.encode({"type": "welcome"})]
        words += [wire.encode({"type": "ri", "id": each, "t": number}) for each in range(10)]
        streams.append(b"".join(words))
        made.append(Link(owner, dialled=None))
        made[-1].connection_made(Wire("n2"))
    lost = set()
    for kind, number, size in steps:
        if kind == "read" and number not in lost:
            made[number].data_received(streams[number][: size * 8])
            streams[number] = streams[number][size * 8 :]
        elif kind == "lost" and number not in lost:
            made[number].connection_lost(None)
            lost.add(number)
    assert_links_are_orderly(notes.seen)


def assert_links_are_orderly(seen: list[tuple[object, ...]]) -> None:
    said: dict[int, list[int]] = {}
    connected = False
    current: int | None = None
    for note in seen:
        if note[0] == "message":
            message: Message = note[2]  # type: ignore[assignment]
            if current is None:
                current = message["t"]
                assert current not in said, "a replaced link spoke again"
            assert connected and message["t"] == current
            said.setdefault(current, []).append(message["id"])
        elif note[0] in ("connected", "disconnected"):
            assert connected is (note[0] == "disconnected")
            connected = note[0] == "connected"
            current = None
    for numbers in said.values():
        assert numbers == list(range(len(numbers)))


# --- ends -------------------------------------------------------------------------------------------------------------


async def test_a_link_that_ends_is_dialled_again(arrive: Arrive) -> None:
    n1, n2 = await pair(arrive)
    n1.transport.reset("n2")
    assert not n1.transport.raw("n2", ri(1)), "a link that was reset is mute at once"
    await n1.notes.until_seen("connected", "n2", times=2)
    await n2.notes.until_seen("connected", "n1", times=2)
    order = [("connected", "n2"), ("disconnected", "n2"), ("connected", "n2")]
    assert n1.notes.seen == order


async def test_a_peer_that_comes_up_later_is_found(arrive: Arrive, papers: Papers) -> None:
    n1, n2 = await pair(arrive)
    port = n1.port.port
    await n1.stop()
    await n2.notes.until_seen("disconnected", "n1")
    again = await arrive("n1", bind=port)
    await again.transport.start()
    await n2.notes.until_seen("connected", "n1", times=2)
    await again.notes.until_seen("connected", "n2")


async def test_redials_spread_between_a_tenth_of_a_second_and_one(papers: Papers, arrive: Arrive) -> None:
    n3 = await arrive("n3")
    for failures, longest in [(0, 0.2), (1, 0.4), (2, 0.8), (3, 1.0), (1000, 1.0)]:
        delays = [n3.transport._redial_delay(failures) for _ in range(200)]
        assert 0.1 <= min(delays) < max(delays) <= longest
        assert max(delays) > 0.8 * longest


async def test_silence_ends_a_link_and_pings_keep_it(arrive: Arrive, papers: Papers) -> None:
    clock = ManualClock()
    n1 = await arrive("n1", clock=clock)
    await n1.transport.start()
    member = await Impostor.greeting(n1.port.port, papers.nodes["n2"], hello("n2"))
    await n1.notes.until_seen("connected", "n2")
    for number in range(8):
        clock.advance(transport.PING_SECONDS)
        member.say(wire.encode({"type": "ping"}), wire.encode(ri(number)))
        await n1.notes.until_seen("message", "n2", ri(number))
    assert n1.transport.peers()["n2"] == transport.PeerLink(connected=True, last_heard=4.0, hello=hello("n2"))
    clock.advance(transport.IDLE_SECONDS)
    await member.shown_out()
    await n1.notes.until_seen("disconnected", "n2")


async def test_a_member_that_never_says_hello_is_shown_out(arrive: Arrive, papers: Papers) -> None:
    clock = ManualClock()
    n1 = await arrive("n1", clock=clock)
    await n1.transport.start()
    member = await Impostor.dial(n1.port.port, tls.client_context(papers.nodes["n2"], tls.RAFT_PROTOCOL))
    await member.reader.readexactly(4)  # n1 greets first, so its link exists
    clock.advance(transport.IDLE_SECONDS / 2)
    member.say(b"\x00")  # a trickle of bytes is not a hello
    clock.advance(transport.IDLE_SECONDS / 2)
    await member.shown_out()
    assert n1.notes.seen == []


async def test_a_silent_link_is_pinged(arrive: Arrive, papers: Papers) -> None:
    clock = ManualClock()
    n1 = await arrive("n1", clock=clock)
    await n1.transport.start()
    member = await Impostor.greeting(n1.port.port, papers.nodes["n2"], hello("n2"))
    await n1.notes.until_seen("connected", "n2")
    clock.advance(transport.PING_SECONDS)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await member.reader.readuntil(wire.encode({"type": "ping"}))
    await member.leave()


async def test_a_peer_that_does_not_read_loses_its_link(arrive: Arrive, papers: Papers) -> None:
    n1 = await arrive("n1")
    await n1.transport.start()
    member = await Impostor.greeting(n1.port.port, papers.nodes["n2"], hello("n2"))
    await n1.notes.until_seen("connected", "n2")
    entries = tuple((bytes(wire.COMMAND_BYTES_MAX), 12 + n, 3) for n in range(4))
    append = {
        "type": "append_entries",
        "term": 3,
        "commit_index": 9,
        "prevLogIdx": 11,
        "prevLogTerm": 2,
        "entries": entries,
        "seen": {},
    }
    sent = sum(n1.transport.raw("n2", append) for _ in range(64))
    assert 4 <= sent < 24, "8 MiB wait here; the kernel takes some besides"
    await n1.notes.until_seen("disconnected", "n2")
    assert n1.transport.refused == {Refusal.BACKLOG: 1}
    await member.leave()


async def test_stop_ends_links_without_announcing_it(arrive: Arrive) -> None:
    n1, n2 = await pair(arrive)
    await n1.stop()
    await n2.notes.until_seen("disconnected", "n1")
    assert n1.notes.seen == [("connected", "n2")]
    assert not n1.transport.peers()["n2"].connected


# --- errors -----------------------------------------------------------------------------------------------------------


class Stopped(BaseException):
    """What `faults.fatal` raises here instead of ending the process."""


@pytest.fixture
def stops() -> Iterator[list[tuple[faults.ExitCode, dict[str, object]]]]:
    recorded: list[tuple[faults.ExitCode, dict[str, object]]] = []

    def stop(code: faults.ExitCode, reason: str, facts: dict[str, object]) -> NoReturn:
        recorded.append((code, facts))
        raise Stopped(reason)

    faults.set_stop(stop)
    yield recorded
    faults.set_stop(None)


async def test_an_exception_out_of_the_receiver_ends_the_process(
    stops: list[tuple[faults.ExitCode, dict[str, object]]],
) -> None:
    def explode(message: Message) -> None:
        raise KeyError(message["id"])

    owner, notes = in_memory()
    notes.on_each = explode
    await owner.start()
    link = connected(owner, "n2")
    with pytest.raises(Stopped):
        link.data_received(wire.encode(ri(5)) + wire.encode(ri(6)))
    assert stops == [(faults.ExitCode.BUG, {"error": "KeyError(5)"})]
    assert notes.seen == [("connected", "n2")], "the second message must not follow a half-handled first"
