"""Links between members: mutual TLS streams that carry wire.py's messages.

What consensus may rely on, and what this module must never break:

* A peer is who its certificate says, and its hello must claim the same node and cluster.
* One link per pair, dialled by the member with the greater id. It carries messages only after each side has accepted
  the other's hello.
* First in, first out, each message at most once. When a link ends or is replaced, nothing it still held is delivered:
  an old acknowledgement that arrived late would count entries its sender may no longer have.
* Nothing queues without bound: a peer that reads too slowly loses its link and starts over.
* Nothing reaches the receiver that wire.check did not pass. A peer that says anything else loses its link.
* An exception out of the receiver ends the process: the consensus core may be half-way through a handler, and only a
  restart from disk is known to be whole.

The transport decides nothing about Raft. It hands hellos and messages to its `Receiver`, in callbacks on the event
loop.
"""

import asyncio
import math
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import ParamSpec, Protocol, TypeVar, cast

import structlog
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from cluster import faults
from cluster.clock import Clock, Handle
from cluster.entropy import Entropy
from cluster.raft import wire
from cluster.raft.wire import Hello, Message, WireError
from cluster.tls import RAFT_PROTOCOL, PeerName, PeerNameError, peer_name

PING_SECONDS = 0.5
IDLE_SECONDS = 2.0
CONNECT_SECONDS = 2.0
REDIAL_SECONDS_MIN = 0.1
REDIAL_SECONDS_MAX = 1.0
SEND_BUFFER_BYTES_MAX = 8 << 20

Address = tuple[str, int]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class Receiver(Protocol):
    """Who the transport works for. Callbacks run on the event loop, one at a time; an exception ends the process."""

    def local_hello(self) -> Hello:
        """What this node says first on a new link."""

    def on_hello(self, peer_id: str, hello: Hello) -> str | None:
        """None welcomes the peer; a text is the reason to refuse the link."""

    def on_connected(self, peer_id: str, hello: Hello) -> None:
        """Messages may flow, both ways; `hello` is what the peer said on this link. If the link replaces another,
        `on_disconnected` came first."""

    def on_disconnected(self, peer_id: str) -> None:
        """The link has ended and delivers nothing more."""

    def on_message(self, peer_id: str, message: Message) -> None:
        """One message that wire.check passed."""

    def after_messages(self) -> None:
        """Once after each read that delivered messages."""


class OutboundGuard(Protocol):
    """The protocol shield on the way out (guard.py)."""

    def out(self, peer_id: str, message: Message) -> Message | None:
        """The message to put on the wire, or None to swallow it."""


class Refusal(StrEnum):
    """What a peer did to lose its link; the keys of `PeerTransport.refused`."""

    CERTIFICATE = "certificate"
    HELLO = "hello"
    MESSAGE = "message"
    BACKLOG = "backlog"


@dataclass(frozen=True, slots=True)
class PeerLink:
    """What is known of one peer's link. `last_heard` is monotonic seconds, minus infinity if never."""

    connected: bool
    last_heard: float
    hello: Hello | None


class PeerTransport(Transport):
    """The links of one node to all its peers, behind PySyncObj's Transport interface.

    Set `receiver` and `guard`, serve `accept` under `tls.RAFT_PROTOCOL` on the peer port, then `start`.
    """

    receiver: Receiver
    guard: OutboundGuard

    def __init__(
        self,
        *,
        me: PeerName,
        peers: Mapping[str, Address],
        context: ssl.SSLContext,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        """`peers` maps every other member to its peer address; `context` is a client context for the Raft protocol."""
        super().__init__(None, None, ())
        self.me = me
        self.clock = clock
        self.refused: Counter[Refusal] = Counter()
        self._peers = dict(peers)
        self._context = context
        self._entropy = entropy
        self._running = False
        self._dials: list[asyncio.Task[None]] = []
        self._open: set[Link] = set()
        self._announced: dict[str, Link] = {}
        self._heard = dict.fromkeys(peers, -math.inf)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Dial every peer with a smaller id, and from now on accept those with a greater one."""
        self._running = True
        for peer in sorted(self._peers):
            if peer < self.me.node:
                dial = asyncio.create_task(self._keep_dialling(peer), name=f"dial {peer}")
                dial.add_done_callback(_fatal_if_failed)
                self._dials.append(dial)

    async def stop(self) -> None:
        """End all links and return when they are gone. Their end is not announced."""
        self._running = False
        self._announced.clear()
        for dial in self._dials:
            dial.cancel()
        await asyncio.gather(*self._dials, return_exceptions=True)
        for link in list(self._open):
            link.close("this node stops")
            await link.lost.wait()

    def accept(self) -> asyncio.Protocol:
        """The protocol of one incoming connection: the factory to give to the peer port."""
        return Link(self, dialled=None)

    # --- sending and looking ------------------------------------------------------------------------------------------

    def send(self, node: Node, message: Message) -> bool:
        """PySyncObj's way out, through the guard. False = not sent, there is no link."""
        if not self._is_up(node.id):
            return False
        guarded = self.guard.out(node.id, message)
        return guarded is None or self.raw(node.id, guarded)

    def raw(self, peer_id: str, message: Message) -> bool:
        """Put one message on the wire as it is. False = not sent, there is no link."""
        return self._is_up(peer_id) and self._announced[peer_id].send(message)

    def reset(self, peer_id: str) -> None:
        """Close the link to this peer, if any. `on_disconnected` follows from the event loop, not from in here."""
        if self._is_up(peer_id):
            self._announced[peer_id].close("reset by this node")

    def peers(self) -> dict[str, PeerLink]:
        """Every peer of the configuration, connected or not."""
        return {
            peer: PeerLink(
                connected=self._is_up(peer),
                last_heard=last_heard,
                hello=self._announced[peer].hello if self._is_up(peer) else None,
            )
            for peer, last_heard in self._heard.items()
        }

    def _is_up(self, peer_id: str) -> bool:
        link = self._announced.get(peer_id)
        return link is not None and not link.closed

    # --- dialling -----------------------------------------------------------------------------------------------------

    async def _keep_dialling(self, peer: str) -> None:
        failures = 0
        complaint: str | None = None
        while True:
            link = Link(self, dialled=peer)
            problem = await self._connect(peer, link)
            if problem is None:
                await link.lost.wait()
            elif problem != complaint:
                _log.info("peer cannot be reached", peer=peer, reason=problem)
            complaint = problem
            failures = 0 if link.stage is Stage.UP else failures + 1
            await self.clock.sleep(self._redial_delay(failures))

    def _redial_delay(self, failures: int) -> float:
        """Between the two bounds, at random below a ceiling that doubles: restarted nodes do not dial in step."""
        ceiling = min(REDIAL_SECONDS_MAX, REDIAL_SECONDS_MIN * (2 << min(failures, 10)))
        return REDIAL_SECONDS_MIN + (ceiling - REDIAL_SECONDS_MIN) * self._entropy.random()

    async def _connect(self, peer: str, link: "Link") -> str | None:
        """Complete TCP and TLS for `link`. None = done; else what went wrong."""
        host, port = self._peers[peer]
        attempt = asyncio.create_task(
            asyncio.get_running_loop().create_connection(
                lambda: link, host, port, ssl=self._context, server_hostname=str(self.me._replace(node=peer))
            )
        )
        # A host that is gone answers nothing at all, and the kernel would wait minutes for it.
        patience = self.clock.call_later(CONNECT_SECONDS, lambda: _cancel(attempt))
        try:
            await asyncio.wait([attempt])
        finally:
            patience.cancel()
            attempt.cancel()
            await asyncio.wait([attempt])
        if attempt.cancelled():
            return f"{host}:{port} did not answer within {CONNECT_SECONDS} s"
        try:
            attempt.result()
        except ssl.SSLCertVerificationError as error:
            self.refused[Refusal.CERTIFICATE] += 1
            return f"{host}:{port} is not {peer}: {error.verify_message}"
        except OSError as error:
            return f"{host}:{port}: {error}"
        return None

    # --- what links report --------------------------------------------------------------------------------------------

    def link_open(self, link: "Link", dialled: str | None, transport: asyncio.Transport) -> str:
        """The peer at the other end, by its certificate. Raises PeerNameError if it may not have this link."""
        self._open.add(link)
        connection: ssl.SSLObject = transport.get_extra_info("ssl_object")
        name = peer_name(connection.getpeercert())
        if name.cluster_id != self.me.cluster_id or name.node not in self._peers:
            raise PeerNameError(f"{name} is no peer of {self.me}")
        if connection.selected_alpn_protocol() != RAFT_PROTOCOL:
            raise PeerNameError(f"{name} does not speak {RAFT_PROTOCOL}")
        if dialled is None and name.node < self.me.node:
            raise PeerNameError(f"{name} dialled {self.me}; of two members the greater id dials")
        if dialled is not None and name.node != dialled:
            raise PeerNameError(f"{name} answers where {dialled} was dialled")
        return name.node

    def judge(self, link: "Link", hello: Hello) -> str | None:
        """None = the hello is acceptable on this link; else the reason why not."""
        claimed = (hello.node, hello.cluster_id)
        if claimed != self.me._replace(node=link.peer):
            return f"it claims to be {'.'.join(claimed)} and its certificate says {self.me._replace(node=link.peer)}"
        return self.tell(self.receiver.on_hello, link.peer, hello)

    def link_up(self, link: "Link") -> None:
        """Both hellos are accepted: announce the link, in place of an older one."""
        older = self._announced.get(link.peer)
        if older is not None:
            older.close("replaced by a newer link")
            self._retire(older)
        self._announced[link.peer] = link
        _log.info("peer link up", peer=link.peer)
        assert link.hello is not None
        self.tell(self.receiver.on_connected, link.peer, link.hello)

    def link_heard(self, link: "Link", now: float) -> None:
        """Bytes came over an announced link."""
        self._heard[link.peer] = now

    def link_lost(self, link: "Link", refusal: Refusal | None, reason: str) -> None:
        """The connection is gone."""
        self._open.discard(link)
        if refusal is None:
            _log.info("peer link closed", peer=link.peer, reason=reason)
        else:
            self.refused[refusal] += 1
            _log.warning("peer link refused", peer=link.peer, refusal=refusal, reason=reason)
        self._retire(link)

    def _retire(self, link: "Link") -> None:
        if self._announced.get(link.peer) is link:
            del self._announced[link.peer]
            self.tell(self.receiver.on_disconnected, link.peer)

    def tell(self, callback: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call the receiver; an exception out of it ends the process."""
        try:
            return callback(*args, **kwargs)
        except Exception as error:
            faults.fatal(faults.ExitCode.BUG, "the receiver of peer messages raised", error=repr(error))

    @property
    def running(self) -> bool:
        """Between `start` and `stop`."""
        return self._running


class Stage(Enum):
    """What the next frame of a link must be."""

    HELLO = auto()
    WELCOME = auto()
    UP = auto()


class Link(asyncio.Protocol):
    """One connection: cuts frames, greets, keeps alive. Once `closed` it neither delivers nor sends, at once."""

    def __init__(self, owner: PeerTransport, dialled: str | None) -> None:
        self.peer = dialled or "unknown"
        self.hello: Hello | None = None
        self.stage = Stage.HELLO
        self.closed = False
        self.lost = asyncio.Event()
        self._owner = owner
        self._dialled = dialled
        self._frames = wire.FrameReader()
        self._heard_at = owner.clock.monotonic()
        self._timer: Handle | None = None
        self._transport: asyncio.Transport | None = None
        self._refusal: Refusal | None = None
        self._reason = "closed by the peer"

    # --- what the event loop says -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        try:
            self.peer = self._owner.link_open(self, self._dialled, self._transport)
        except PeerNameError as error:
            return self.close(str(error), Refusal.CERTIFICATE)
        if not self._owner.running:
            return self.close("this node takes no links yet, or no more")
        self._transport.write(wire.encode_hello(self._owner.tell(self._owner.receiver.local_hello)))
        self._heard_at = self._owner.clock.monotonic()
        self._timer = self._owner.clock.call_later(PING_SECONDS, self._on_timer)

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        if self.stage is Stage.UP:
            self._note_heard()
        delivered = 0
        try:
            for document in self._frames.feed(data):
                delivered += self._take(document)
                if self.closed:
                    break
        except WireError as error:
            self.close(str(error), Refusal.HELLO if self.stage is Stage.HELLO else Refusal.MESSAGE)
        if delivered:
            self._owner.tell(self._owner.receiver.after_messages)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed:
            self.close(self._reason if exc is None else f"{self._reason}: {exc}")
        self._owner.link_lost(self, self._refusal, self._reason)
        self.lost.set()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _take(self, document: bytes) -> bool:
        """Handle one frame; True if the receiver got it. Raises WireError."""
        if self.stage is Stage.HELLO:
            self._take_hello(wire.decode_hello(document))
            return False
        message = wire.decode(document)
        if self.stage is Stage.WELCOME or message["type"] == "welcome":
            self._take_welcome(message)
            return False
        if message["type"] == "ping":
            return False
        self._owner.tell(self._owner.receiver.on_message, self.peer, message)
        return True

    def _take_hello(self, hello: Hello) -> None:
        reason = self._owner.judge(self, hello)
        if reason is not None:
            return self.close(reason, Refusal.HELLO)
        self.hello = hello
        self.stage = Stage.WELCOME
        self.send({"type": "welcome"})

    def _take_welcome(self, message: Message) -> None:
        if self.stage is not Stage.WELCOME or message["type"] != "welcome":
            raise WireError(f"{message['type']} where the link's stage is {self.stage.name}")
        self.stage = Stage.UP
        self._frames.limit = wire.FRAME_BYTES_MAX
        self._note_heard()
        self._owner.link_up(self)

    def _note_heard(self) -> None:
        self._heard_at = self._owner.clock.monotonic()
        self._owner.link_heard(self, self._heard_at)

    # --- writing and ending -------------------------------------------------------------------------------------------

    def send(self, message: Message) -> bool:
        """False = closed, or closed just now because the peer reads too slowly."""
        if self.closed or self._transport is None:
            return False
        backlog = self._transport.get_write_buffer_size()
        if backlog > SEND_BUFFER_BYTES_MAX:
            self.close(f"{backlog} bytes wait to be sent", Refusal.BACKLOG)
            return False
        self._transport.write(wire.encode(message))
        return True

    def close(self, reason: str, refusal: Refusal | None = None) -> None:
        """Deaf and mute from here on; `connection_lost` follows from the event loop. The first reason stands."""
        if self.closed:
            return
        self.closed = True
        self._reason, self._refusal = reason, refusal
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _on_timer(self) -> None:
        silence = self._owner.clock.monotonic() - self._heard_at
        if silence >= IDLE_SECONDS:
            return self.close(f"nothing heard for {silence:.1f} s")
        self._timer = self._owner.clock.call_later(PING_SECONDS, self._on_timer)
        if self.stage is Stage.UP:
            self.send({"type": "ping"})


def _cancel(task: asyncio.Task[object]) -> None:
    task.cancel()


def _fatal_if_failed(dial: asyncio.Task[None]) -> None:
    """A dialling task that died would leave its peer cut off for ever, silently."""
    if not dial.cancelled() and (error := dial.exception()) is not None:
        faults.fatal(faults.ExitCode.BUG, "dialling a peer raised", task=dial.get_name(), error=repr(error))
