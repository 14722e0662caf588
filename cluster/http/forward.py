"""From a follower to the leader: one hop, over the members' mutually authenticated connection.

The forwarding side gathers what waits into one message; the serving side believes a hop from an authenticated member
only, and never forwards again. What travels are parsed items with the verdicts taken at the node that was asked,
never a caller's headers.

The one thing that must be right here is *not admitted*: it is a promise. Until the body of a message is asked for,
nothing of it has left, and whoever gives up first is struck from it. From then on an answer that does not come is
unknown, not refused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
from aiohttp import web

from cluster.answers import Answer, Unavailable, not_admitted, unknown
from cluster.clock import Clock, done_by
from cluster.egress import Unreachable
from cluster.http import problems, snapshots
from cluster.http.request import LIMITS, NODE, Limits, read_body
from cluster.node import Node
from cluster.peerport import peer_id
from cluster.providers.hmmm import Polled
from swoosh import limits
from swoosh.entry import Item, owed, pack_items, unpack_items, weight
from swoosh.errors import Corrupt, Malformed
from swoosh.outcome import Code
from swoosh.quorum import Vote

PATH = "/peer/submit"
VOTES_PATH = "/peer/votes"
LOG_PATH = "/peer/log"
MEDIA = "application/msgpack"
MESSAGES_IN_FLIGHT = 4
MESSAGE_ITEMS_MAX = limits.ENTRY_PROPOSALS_MAX
MESSAGE_BYTES_MAX = 2 * limits.BATCH_BODY_BYTES_MAX

Group = tuple[int, bool, bytes]
"""One caller's items as sent: milliseconds left, dry run, packed items."""

Ballot = tuple[str, Vote | None, int]
"""A project, a vote on its council, milliseconds left."""

_encode = msgspec.msgpack.encode
_groups = msgspec.msgpack.Decoder(list[Group])
_answers = msgspec.msgpack.Decoder(list[list[Answer]])
_ballot = msgspec.msgpack.Decoder(Ballot)
_polled: msgspec.msgpack.Decoder[Polled] = msgspec.msgpack.Decoder(Polled)


class Peers(Protocol):
    """The way to other members; `cluster.egress.PeerHttp`."""

    async def post(self, peer: str, path: str, body: AsyncIterator[bytes], /) -> tuple[int, bytes]: ...


@dataclass(slots=True, eq=False)
class Call:
    """Items of one caller, and its answer. `sent` once they may have left this node."""

    items: Sequence[Item]
    deadline: float
    dry_run: bool
    answers: asyncio.Future[list[Answer]]
    weight: int
    sent: bool = False

    @property
    def size(self) -> int:
        """How many answers it is owed: one per proposal or fact."""
        return sum(map(owed, self.items))

    def settle(self, answers: list[Answer]) -> None:
        """Answer it, unless it was answered before."""
        if not self.answers.done():
            self.answers.set_result(answers)

    def lose(self, reason: str) -> None:
        """No answer came: unknown if it may have arrived and would have changed something, else not admitted."""
        lost: Unavailable = not_admitted(Code.NO_LEADER, reason)
        if self.sent and not self.dry_run:
            lost = unknown(reason)
        self.settle([lost] * self.size)


class Forwarder:
    """Hands items to the leader. One per node; its bound `submit` is what the node is given."""

    def __init__(self, peers: Peers, clock: Clock) -> None:
        self._peers = peers
        self._clock = clock
        self._lanes: dict[str, Lane] = {}

    async def submit(
        self, leader: str, items: Sequence[Item], deadline: float, *, dry_run: bool = False
    ) -> list[Answer]:
        """One answer per proposal or fact, at the latest at `deadline` (monotonic seconds)."""
        answers: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        call = Call(items, deadline, dry_run, answers, sum(map(weight, items)))
        lane = self._lanes.get(leader)
        if lane is None:
            lane = self._lanes[leader] = Lane(leader, self._peers, self._clock)
        lane.put(call)
        try:
            if not await done_by(self._clock, deadline, call.answers):
                call.lose(f"{leader}, the leader, did not answer in time")
            return call.answers.result()
        finally:
            call.answers.cancel()  # a caller that left is struck from what has not been sent

    async def poll(self, leader: str, project: str, vote: Vote | None, deadline: float) -> Polled:
        """Ask the leader which votes it has, and hand it one. Without an answer, whether it has that one is unknown."""
        remaining_ms = max(0, int((deadline - self._clock.monotonic()) * 1000))
        posting = asyncio.ensure_future(
            self._peers.post(leader, VOTES_PATH, _once(_encode((project, vote, remaining_ms))))
        )
        try:
            if not await done_by(self._clock, deadline, posting):
                return unknown(f"{leader}, the leader, did not answer in time")
            status, reply = posting.result()
            if not problems.succeeded(status):
                return unknown(f"the leader answered the hop with status {status}: {reply[:200]!r}")
            return _polled.decode(reply)
        except (Unreachable, msgspec.DecodeError) as error:
            return unknown(str(error))
        finally:
            posting.cancel()

    def stop(self) -> None:
        """Give up what is on its way: its outcome is unknown."""
        for lane in self._lanes.values():
            lane.stop()


class Lane:
    """What waits for one leader, and the few messages on their way to it."""

    def __init__(self, leader: str, peers: Peers, clock: Clock) -> None:
        self._leader = leader
        self._peers = peers
        self._clock = clock
        self._waiting: deque[Call] = deque()
        self._messages: dict[asyncio.Task[None], None] = {}
        self._woken = False

    def put(self, call: Call) -> None:
        """Send it with whatever else arrives before the loop turns, or comes free with the next message."""
        self._waiting.append(call)
        if not self._woken:
            self._woken = True
            self._clock.call_later(0, self._wake)

    def stop(self) -> None:
        for message in self._messages:
            message.cancel()

    def _wake(self) -> None:
        self._woken = False
        while self._waiting and len(self._messages) < MESSAGES_IN_FLIGHT:
            message = asyncio.ensure_future(self._send(self._take()))
            self._messages[message] = None
            message.add_done_callback(self._sent)

    def _sent(self, message: asyncio.Task[None]) -> None:
        self._messages.pop(message, None)
        if not message.cancelled():
            self._wake()
            message.result()

    def _take(self) -> list[Call]:
        """What fits into one message, and one caller's items in any case; these are fewer than a message may hold."""
        taken: list[Call] = []
        size = bulk = 0
        while self._waiting:
            call = self._waiting[0]
            full = size + call.size > MESSAGE_ITEMS_MAX or bulk + call.weight > limits.BATCH_BODY_BYTES_MAX
            if taken and full:
                break
            self._waiting.popleft()
            if not call.answers.done():
                taken.append(call)
                size, bulk = size + call.size, bulk + call.weight
        return taken

    async def _send(self, calls: list[Call]) -> None:
        live: list[Call] = []
        reason = f"forwarding to {self._leader} was given up"
        posting = asyncio.ensure_future(self._peers.post(self._leader, PATH, self._body(calls, live)))
        try:
            last = max((call.deadline for call in calls), default=0.0)
            if await done_by(self._clock, last, posting):
                status, reply = posting.result()
                for call, answers in zip(live, _read_answers(status, reply, live), strict=True):
                    call.settle(answers)
        except (Unreachable, Malformed) as error:
            reason = str(error)
        finally:
            posting.cancel()
            for call in calls:
                call.lose(reason)

    async def _body(self, calls: list[Call], live: list[Call]) -> AsyncIterator[bytes]:
        """The message, made when a connection stands and its first byte is about to leave, of those who still wait."""
        live += [call for call in calls if not call.answers.done()]
        now = self._clock.monotonic()
        for call in live:
            call.sent = True
        yield _encode(
            [(max(0, int((call.deadline - now) * 1000)), call.dry_run, pack_items(list(call.items))) for call in live]
        )


async def _once(message: bytes) -> AsyncIterator[bytes]:
    yield message


def _read_answers(status: int, reply: bytes, calls: list[Call]) -> list[list[Answer]]:
    """Raises Malformed if the reply is not one answer for each thing asked."""
    if not problems.succeeded(status):
        raise Malformed(f"the leader answered the hop with status {status}: {reply[:200]!r}")
    try:
        answers = _answers.decode(reply)
    except msgspec.DecodeError as error:
        raise Malformed(f"the leader's answer does not decode: {error}") from None
    if [len(group) for group in answers] != [call.size for call in calls]:
        raise Malformed("the leader's answers are not those that were asked for")
    return answers


# --- the serving side -------------------------------------------------------------------------------------------------


def peer_app(node: Node) -> web.Application:
    """What members may ask of each other over HTTP; served on the peer port alone."""
    app = web.Application()
    app[NODE], app[LIMITS] = node, Limits()
    app.on_response_prepare.append(_farewell)
    app.router.add_post(PATH, post_submit)
    app.router.add_post(VOTES_PATH, post_votes)
    app.router.add_routes(snapshots.routes())
    app.router.add_get(LOG_PATH, get_log)
    return app


async def _farewell(request: web.Request, response: web.StreamResponse) -> None:
    """A node that leaves ends each connection with an answer. Closed while idle, it could meet the next message on its
    way, and whether that one arrived nobody would know."""
    if request.app[NODE].stopping:
        response.force_close()
        response.headers["Connection"] = "close"


async def get_log(request: web.Request) -> web.Response:
    """How far this member's log reaches; asked before somebody makes a member a first store."""
    return problems.peer_answers(_encode(request.app[NODE].raft.last_index))


async def post_submit(request: web.Request) -> web.Response:
    """Items of a member's callers, judged here or not at all: a node that does not lead says so."""
    node = request.app[NODE]
    sender = peer_id(request)
    if sender is None:
        return problems.refuse(Code.NOT_AUTHORISED, "only members are served here")
    try:
        asked = [
            (unpack_items(packed), node.clock.monotonic() + remaining_ms / 1000, dry_run)
            for remaining_ms, dry_run, packed in _groups.decode(await read_body(request, MESSAGE_BYTES_MAX, MEDIA))
        ]
    except Malformed as error:
        return problems.refuse(error.code, error.reason)
    except (msgspec.DecodeError, Corrupt) as error:
        return problems.refuse(Code.MALFORMED, f"message of {sender}: {error}")
    answers = await asyncio.gather(
        *(node.submit_forwarded(items, deadline, dry_run=dry_run) for items, deadline, dry_run in asked)
    )
    return problems.peer_answers(_encode(answers))


async def post_votes(request: web.Request) -> web.Response:
    """A vote that a member was handed, or none: what this node, if it leads, has gathered with it."""
    node = request.app[NODE]
    if peer_id(request) is None:
        return problems.refuse(Code.NOT_AUTHORISED, "only members are served here")
    try:
        project, vote, remaining_ms = _ballot.decode(await read_body(request, limits.BODY_BYTES_MAX, MEDIA))
    except Malformed as error:
        return problems.refuse(error.code, error.reason)
    except msgspec.DecodeError as error:
        return problems.refuse(Code.MALFORMED, str(error))
    polled = await node.poll_as_leader(project, vote, node.clock.monotonic() + remaining_ms / 1000)
    return problems.peer_answers(_encode(polled))
