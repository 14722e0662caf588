"""Strangers get nothing: whatever does not come from the right member in the right words ends without effect.

Each story ends when the door has closed; then the node must have noted nothing at all.
"""

import ssl
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cluster import peerport, tls
from cluster.raft import wire
from cluster.raft.transport import Refusal
from cluster.tls import PeerName
from tests.wire.conftest import Arrive
from tests.wire.members import CLUSTER, Impostor, Member, Papers, hello
from tests.wire.test_wire import FORBIDDEN, SENTENCES, document


@pytest.fixture
async def n1(arrive: Arrive) -> Member:
    member = await arrive("n1")
    await member.transport.start()
    return member


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", bytes(4096), framed(document(SENTENCES[0]))])
async def test_plain_tcp(n1: Member, noise: bytes) -> None:
    stranger = await Impostor.dial(n1.port.port, None)
    stranger.say(noise)
    await stranger.shown_out()
    assert n1.notes.seen == []


async def test_silence(papers: Papers, arrive: Arrive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peerport, "HANDSHAKE_SECONDS", 0.1)
    member = await arrive("n1")
    stranger = await Impostor.dial(member.port.port, None)
    await stranger.shown_out()
    assert member.notes.seen == []


async def test_tls_without_a_certificate(n1: Member) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([tls.RAFT_PROTOCOL])
    stranger = await Impostor.dial(n1.port.port, context)
    stranger.say(wire.encode_hello(hello("n2")))
    await stranger.shown_out()
    assert n1.notes.seen == []


async def test_tls_1_2(n1: Member, papers: Papers) -> None:
    context = tls.client_context(papers.nodes["n2"], tls.RAFT_PROTOCOL)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await Impostor.dial(n1.port.port, context)
    assert n1.notes.seen == []


async def test_a_certificate_of_a_foreign_authority_with_the_same_names(n1: Member, tmp_path: Path) -> None:
    forged = Papers(tmp_path)
    context = tls.client_context(forged.nodes["n2"], tls.RAFT_PROTOCOL)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    stranger = await Impostor.dial(n1.port.port, context)
    stranger.say(wire.encode_hello(hello("n2")), wire.encode({"type": "welcome"}))
    await stranger.shown_out()
    assert n1.notes.seen == []


async def test_no_protocol_named(n1: Member, papers: Papers) -> None:
    context = tls.client_context(papers.nodes["n2"], "swoosh-raft/0")
    stranger = await Impostor.dial(n1.port.port, context)
    stranger.say(wire.encode_hello(hello("n2")), wire.encode({"type": "welcome"}))
    await stranger.shown_out()
    assert n1.notes.seen == []


async def test_a_certificate_of_this_authority_for_no_member(n1: Member, papers: Papers, tmp_path: Path) -> None:
    guest = papers.issue(tmp_path / "n9", PeerName("n9", CLUSTER))
    stranger = await Impostor.greeting(n1.port.port, guest, hello("n9"))
    await stranger.shown_out()
    assert n1.notes.seen == []


async def test_a_member_that_dials_against_the_order(arrive: Arrive, papers: Papers) -> None:
    n2 = await arrive("n2")
    await n2.transport.start()
    context = tls.client_context(papers.nodes["n1"], tls.RAFT_PROTOCOL)
    smaller = await Impostor.dial(n2.port.port, context, server=f"n2.{CLUSTER}")
    smaller.say(wire.encode_hello(hello("n1")), wire.encode({"type": "welcome"}))
    await smaller.shown_out()
    assert n2.notes.seen == []
    assert n2.transport.refused == {Refusal.CERTIFICATE: 1}


@pytest.mark.parametrize(
    "claims",
    [hello("n3"), hello("n1"), hello("n9"), hello("n2", cluster_id="swoosh-" + "00" * 16)],
    ids=["another member", "myself", "nobody", "another cluster"],
)
async def test_a_hello_that_contradicts_the_certificate(n1: Member, papers: Papers, claims: wire.Hello) -> None:
    impostor = await Impostor.greeting(n1.port.port, papers.nodes["n2"], claims)
    await impostor.shown_out()
    assert n1.notes.seen == []
    assert n1.transport.refused == {Refusal.HELLO: 1}


async def test_a_hello_the_receiver_refuses_costs_one_line_in_the_log(n1: Member, papers: Papers) -> None:
    n1.notes.refuse = "genesis hash differs"
    with capture_logs() as lines:
        impostor = await Impostor.greeting(n1.port.port, papers.nodes["n2"], hello("n2"))
        await impostor.shown_out()
    assert n1.notes.seen == [("refused", "n2")]
    assert n1.transport.refused == {Refusal.HELLO: 1}
    assert lines == [
        {
            "event": "peer link refused",
            "log_level": "warning",
            "peer": "n2",
            "refusal": "hello",
            "reason": "genesis hash differs",
        }
    ]


FIRST_WORDS = {
    "a message before the hello": wire.encode(SENTENCES[0]),
    "a welcome before the hello": wire.encode({"type": "welcome"}),
    "an empty frame": framed(b""),
    "garbage": framed(b"\xc1\xff\x00"),
    "a frame longer than any hello": (wire.HELLO_BYTES_MAX + 1).to_bytes(4, "big"),
    "a frame of four gigabytes": b"\xff\xff\xff\xff",
}


@pytest.mark.parametrize("words", FIRST_WORDS.values(), ids=FIRST_WORDS.keys())
async def test_first_words_that_are_no_hello(n1: Member, papers: Papers, words: bytes) -> None:
    member = await Impostor.dial(n1.port.port, tls.client_context(papers.nodes["n2"], tls.RAFT_PROTOCOL))
    member.say(words, wire.encode(SENTENCES[0]))
    await member.shown_out()
    assert n1.notes.seen == []
    assert n1.transport.refused == {Refusal.HELLO: 1}


async def test_a_message_before_the_welcome(n1: Member, papers: Papers) -> None:
    member = await Impostor.dial(n1.port.port, tls.client_context(papers.nodes["n2"], tls.RAFT_PROTOCOL))
    member.say(wire.encode_hello(hello("n2")), wire.encode(SENTENCES[0]))
    await member.shown_out()
    assert n1.notes.seen == []
    assert n1.transport.refused == {Refusal.MESSAGE: 1}


LATER_WORDS = {reason: framed(document(message)) for reason, message in FORBIDDEN.items()} | {
    "a second welcome": wire.encode({"type": "welcome"}),
    "another hello": wire.encode_hello(hello("n2")),
    "garbage": framed(b"\xc1\xff\x00"),
    "a frame above the limit": (wire.FRAME_BYTES_MAX + 1).to_bytes(4, "big"),
}


@pytest.mark.parametrize("words", LATER_WORDS.values(), ids=LATER_WORDS.keys())
async def test_a_member_that_says_what_must_never_be_said(n1: Member, papers: Papers, words: bytes) -> None:
    member = await Impostor.greeting(n1.port.port, papers.nodes["n2"], hello("n2"))
    await n1.notes.until_seen("connected", "n2")
    member.say(words, wire.encode(SENTENCES[0]))
    await member.shown_out()
    await n1.notes.until_seen("disconnected", "n2")
    assert n1.notes.messages == []
    assert n1.transport.refused == {Refusal.MESSAGE: 1}
    assert not n1.transport.peers()["n2"].connected
