"""Installing a snapshot: how a node gets a state that the log can no longer lead it to.

It is prepared while the node goes on as it is, voting and answering heartbeats: a checkpoint is fetched from a peer,
a follower where one has what is needed, piece by piece and no faster than configured; every file is compared with what
was offered, the state is hashed anew, everything is synced. Only then does the process restart, and `finish`, before
anything else looks at the store, makes the checkpoint this node's own: with its own promises (term, vote, incarnation)
and every entry of its own log that it may have acknowledged.

A node whose own state is known to be wrong (it is marked `diverged`) takes no part; it keeps log and promises, and
`recover` is all it does.

An install that lost its sense on the way, because the node caught up otherwise, is dropped and nothing is lost by it.
An install that fails is begun again when the leader says once more that the node is behind, and goes on where it was
if the same checkpoint is still offered. Nothing here decides who is behind: retention.py does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog

from cluster import faults
from cluster.clock import Clock, done_by
from cluster.egress import Unreachable
from cluster.raft.journal import Journal
from cluster.storage import layout
from cluster.storage.incoming import Offer, Place
from cluster.storage.kv import Family
from cluster.storage.store import Store
from cluster.storage.witness import Witness
from swoosh.errors import Corrupt
from swoosh.snapshot import Manifest

ASK_SECONDS = 5.0
OFFER_SECONDS = 120.0
"""A donor reads every file once before it offers them."""
RETRY_SECONDS = 1.0
PIECE_SECONDS = 30.0
PIECE_BYTES = 256 << 10
"""Asked for at a time, and never more than a second's worth: a narrow link still brings it within its time."""
BYTES_PER_SECOND = 32 << 20

_log = structlog.get_logger(__name__)

T = TypeVar("T")


class Donors(Protocol):
    """The way to the peers' snapshots. Every call may raise Unreachable."""

    async def newest(self, peer: str) -> Manifest | None: ...

    async def offer(self, peer: str, index: int) -> Offer | None: ...

    async def read(self, peer: str, index: int, name: str, offset: int, size: int) -> bytes: ...


@dataclass(slots=True)
class Progress:
    """An install on its way: whose snapshot, of which entry, and how many bytes of how many are here."""

    donor: str
    index: int
    received: int
    size: int


class Installer:
    """Prepares installs, one at a time, and then restarts the process."""

    def __init__(
        self,
        peers: Sequence[str],
        place: Place,
        donors: Donors,
        clock: Clock,
        *,
        bytes_per_second: int = BYTES_PER_SECOND,
    ) -> None:
        self._peers, self._place, self._donors, self._clock = tuple(sorted(peers)), place, donors, clock
        self._bytes_per_second = bytes_per_second
        self._wanted: tuple[str, int] | None = None
        self._asked = asyncio.Event()
        self.progress: Progress | None = None

    def request(self, leader: str, least: int) -> int | None:
        """Ask for a snapshot at `least` or later. The index of the one that is on its way already, or None."""
        if self.progress is not None:
            return self.progress.index
        self._wanted = (leader, least)
        self._asked.set()
        return None

    async def run(self, applied: Callable[[], int]) -> None:
        """Install what is asked for, until cancelled. `applied` is the index the node has reached by itself."""
        half = self._place.offered()
        if half is None or half.manifest.last_applied_index <= applied():
            await self._place.discard()
        while True:
            await self._asked.wait()
            self._asked.clear()
            assert self._wanted is not None
            try:
                await self.install(*self._wanted, applied)
            except (Unreachable, Corrupt) as error:
                _log.warning("no snapshot was installed", reason=str(error))
            finally:
                self.progress = None
                self._asked.clear()  # the leader asks again if there is still need

    async def recover(self, least: int) -> None:
        """Instead of taking part, where this node's own state is known to be wrong: install a snapshot that its log
        goes on from, whoever lends one. Never returns."""
        while True:
            try:
                await self.install("", least, lambda: 0)
            except (Unreachable, Corrupt) as error:
                _log.warning("no snapshot was installed", reason=str(error))
                await self._clock.sleep(RETRY_SECONDS)

    async def install(self, leader: str, least: int, applied: Callable[[], int]) -> None:
        """Fetch, examine, seal, and restart.

        Raises:
            Unreachable: no peer has such a snapshot to lend now, or its donor fell silent.
            Corrupt: what came is not what was offered.
        """
        offer = await self._choose(leader, least)
        index = offer.manifest.last_applied_index
        received = sum(self._place.size(file.name) for file in offer.files)
        self.progress = Progress(offer.donor, index, received, sum(file.size for file in offer.files))
        _log.info("installing a snapshot", **self._facts())
        await self._fetch(offer)
        problem = await self._place.examine(offer)
        if problem is not None:
            await self._place.discard()
            raise Corrupt(f"the snapshot at {index} from {offer.donor}: {problem}")
        if applied() >= index:
            await self._place.discard()
            _log.info("a snapshot is not needed any more", **self._facts(), applied=applied())
            return
        await self._place.seal(offer)
        facts = self._facts()
        self._clock.call_later(0, lambda: faults.restart("a snapshot is ready to be installed", **facts))
        await asyncio.get_running_loop().create_future()  # nothing else happens in this life

    async def _choose(self, leader: str, least: int) -> Offer:
        """The checkpoint that is half here, if it can still be had; else the newest one, a follower's if there is one:
        the leader has other things to do."""
        half = self._place.offered()
        if half is not None and half.manifest.last_applied_index >= least:
            offer = await self._offered(half.donor, half.manifest.last_applied_index)
            if offer == half:
                return offer
        found = [(peer, await self._newest(peer)) for peer in self._peers]
        usable = [(peer != leader, index, peer) for peer, index in found if index >= least]
        for _, index, peer in sorted(usable, reverse=True):
            offer = await self._offered(peer, index)
            if offer is not None:
                offer.check()
                await self._place.begin(offer)
                return offer
        raise Unreachable(f"no peer lends a snapshot at {least} or later now; newest: {dict(found)}")

    async def _newest(self, peer: str) -> int:
        try:
            manifest = await self._within(ASK_SECONDS, self._donors.newest(peer))
        except Unreachable:
            return 0
        return 0 if manifest is None else manifest.last_applied_index

    async def _offered(self, peer: str, index: int) -> Offer | None:
        try:
            return await self._within(OFFER_SECONDS, self._donors.offer(peer, index))
        except Unreachable:
            return None

    async def _fetch(self, offer: Offer) -> None:
        assert self.progress is not None
        for file in offer.files:
            at = self._place.size(file.name)
            while at < file.size:
                asked = min(PIECE_BYTES, self._bytes_per_second, file.size - at)
                ask = self._donors.read(offer.donor, self.progress.index, file.name, at, asked)
                began = self._clock.monotonic()
                piece = await self._within(PIECE_SECONDS, ask)
                if not 0 < len(piece) <= asked:
                    raise Corrupt(f"{offer.donor} gave {len(piece)} bytes of {file.name} where {asked} were asked for")
                await self._place.append(file.name, piece)
                at += len(piece)
                self.progress.received += len(piece)
                faults.failpoint("install.piece")
                elapsed = self._clock.monotonic() - began
                await self._clock.sleep(max(0.0, len(piece) / self._bytes_per_second - elapsed))

    async def _within(self, seconds: float, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, or Unreachable when it takes longer."""
        task = asyncio.get_running_loop().create_task(work)
        try:
            if not await done_by(self._clock, self._clock.monotonic() + seconds, task):
                raise Unreachable(f"no answer within {seconds:.0f} s")
            return task.result()
        finally:
            task.cancel()

    def _facts(self) -> dict[str, Any]:
        assert self.progress is not None
        return {"donor": self.progress.donor, "index": self.progress.index, "bytes": self.progress.size}


def finish(place: Place, witness: Witness, *, cluster_id: str, node: str) -> Manifest | None:
    """Make a sealed checkpoint this node's store, or drop it when the node is as far by itself. Before any core, at
    every start: what a crash interrupted is done again from wherever it was.

    Stops the node when its own store is damaged: its promises are then not known, and an install would forget them.
    """
    manifest = place.ready()
    if manifest is None:
        return None
    if not place.is_moved() and not _move(place, manifest, witness, cluster_id, node):
        place.withdraw()
        return None
    faults.failpoint("install.moved")
    place.switch()
    _log.info("a snapshot is installed", index=manifest.last_applied_index, cluster_hash=manifest.cluster_hash)
    return manifest


def _move(place: Place, manifest: Manifest, witness: Witness, cluster_id: str, node: str) -> bool:
    """Put this node's promises and log into the checkpoint. False when it is of no use here."""
    index = manifest.last_applied_index
    own = place.open_current()
    try:
        journal, applied = Journal.examine(own, witness, cluster_id=cluster_id, node=node), Store(own).position().index
        if applied >= index and own.get(Family.META, layout.DIVERGED) is None:
            _log.info("a snapshot is not needed any more", index=index, applied=applied)
            return False
        incoming = place.open_incoming()
        try:
            journal.move_into(incoming, index, manifest.term)
        finally:
            incoming.close()
    except Corrupt as error:
        _log.warning("a snapshot cannot be installed", index=index, reason=str(error))
        return False
    finally:
        own.close()
    return True
