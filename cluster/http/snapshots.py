"""Snapshots between members, over their mutually authenticated connection: which there are, what is in one, and pieces
of its files, as many bytes from wherever the asker wants. Small questions and small answers, so that a transfer can
stop anywhere and go on.

What is lent, to whom and for how long is the donor's (cluster/storage/donor.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from cluster.egress import Unreachable
from cluster.http import problems
from cluster.http.request import NODE, read_body
from cluster.peerport import peer_id
from cluster.storage.donor import Donor
from cluster.storage.incoming import Offer
from swoosh.errors import Malformed
from swoosh.outcome import Code
from swoosh.snapshot import Manifest

NEWEST = "/peer/snapshots/newest"
OFFER = "/peer/snapshots/offer"
PIECE = "/peer/snapshots/piece"
MEDIA = "application/msgpack"
QUESTION_BYTES_MAX = 1 << 10

Piece = tuple[int, str, int, int]
"""Index of the snapshot, name of the file, offset, number of bytes."""

T = TypeVar("T")
_encode = msgspec.msgpack.encode


class Peers(Protocol):
    """The way to other members; `cluster.egress.PeerHttp`."""

    async def post(self, peer: str, path: str, body: AsyncIterator[bytes], /) -> tuple[int, bytes]: ...


class PeerDonors:
    """The asking side: `cluster.raft.install.Donors` over HTTP."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def newest(self, peer: str) -> Manifest | None:
        """The newest snapshot that a peer has. Raises Unreachable, as the others do."""
        manifest: Manifest | None = await self._ask(peer, NEWEST, None, Manifest | None)
        return manifest

    async def offer(self, peer: str, index: int) -> Offer | None:
        """The files of a peer's snapshot, lent from now on; None when it is gone or the peer is busy with another."""
        offer: Offer | None = await self._ask(peer, OFFER, index, Offer | None)
        return offer

    async def read(self, peer: str, index: int, name: str, offset: int, size: int) -> bytes:
        """A piece of a file."""
        piece: bytes | None = await self._ask(peer, PIECE, (index, name, offset, size), bytes | None)
        if piece is None:
            raise Unreachable(f"{peer} no longer lends its snapshot at {index}")
        return piece

    async def _ask(self, peer: str, path: str, question: object, kind: Any) -> Any:
        async def body() -> AsyncIterator[bytes]:
            yield _encode(question)

        status, reply = await self._peers.post(peer, path, body())
        if not problems.succeeded(status):
            raise Unreachable(f"{peer} answered {path} with status {status}: {reply[:200]!r}")
        try:
            return msgspec.msgpack.decode(reply, type=kind)
        except msgspec.DecodeError as error:
            raise Unreachable(f"the answer of {peer} to {path} does not decode: {error}") from None


# --- the serving side -------------------------------------------------------------------------------------------------


def routes() -> list[web.RouteDef]:
    """What a member may ask for."""
    return [web.post(NEWEST, post_newest), web.post(OFFER, post_offer), web.post(PIECE, post_piece)]


async def post_newest(request: web.Request) -> web.Response:
    """The manifest of the newest snapshot here, or nothing."""

    async def newest(donor: Donor, peer: str, question: None) -> Manifest | None:
        return donor.newest()

    return await _answer(request, type(None), newest)


async def post_offer(request: web.Request) -> web.Response:
    """The files of a snapshot, lent to the asker, or nothing."""

    async def offer(donor: Donor, peer: str, index: int) -> Offer | None:
        return await donor.offer(peer, index)

    return await _answer(request, int, offer)


async def post_piece(request: web.Request) -> web.Response:
    """A piece of a file of the snapshot that the asker borrows, or nothing."""

    async def piece(donor: Donor, peer: str, question: Piece) -> bytes | None:
        index, name, offset, size = question
        return await donor.read(peer, index, name, max(0, offset), max(0, size))

    return await _answer(request, Piece, piece)


async def _answer(
    request: web.Request, kind: Any, work: Callable[[Donor, str, Any], Awaitable[object]]
) -> web.Response:
    peer = peer_id(request)
    if peer is None:
        return problems.refuse(Code.NOT_AUTHORISED, "only members are served here")
    try:
        question = msgspec.msgpack.decode(await read_body(request, QUESTION_BYTES_MAX, MEDIA), type=kind)
    except Malformed as error:
        return problems.refuse(error.code, error.reason)
    except msgspec.DecodeError as error:
        return problems.refuse(Code.MALFORMED, f"question of {peer}: {error}")
    return problems.peer_answers(_encode(await work(request.app[NODE].donor, peer, question)))
