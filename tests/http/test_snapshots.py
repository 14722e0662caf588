"""Snapshots between members: over mutual TLS, to members alone, a piece at a time, and only what is lent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiohttp
import msgspec
import pytest
from aiohttp import web

from cluster.clock import ManualClock, SystemClock
from cluster.egress import Unreachable
from cluster.http.forward import peer_app
from cluster.http.snapshots import NEWEST, OFFER, PIECE, PeerDonors
from cluster.storage.donor import Donor
from cluster.storage.incoming import File
from swoosh.snapshot import Manifest
from tests.http.conftest import Caller
from tests.http.desk import Desk
from tests.http.peers import reached
from tests.wire.members import Papers

MANIFEST = Manifest(40, 3, "1970-01-01T00:00:00.001+00:00#0", 7, "sha256-" + "a" * 64, "chart")
CONTENT = bytes(range(256)) * 10


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


class Shelf:
    """One snapshot of one file."""

    def manifests(self) -> list[Manifest]:
        return [MANIFEST]

    async def files(self, index: int) -> tuple[File, ...]:
        return (File("tables", len(CONTENT), "sha256-x"),)

    async def read(self, index: int, name: str, offset: int, size: int) -> bytes:
        return CONTENT[offset : offset + size]


def lender() -> SimpleNamespace:
    return SimpleNamespace(donor=Donor("n2", Shelf(), ManualClock()), clock=SystemClock(), stopping=False)


@asynccontextmanager
async def served(papers: Papers) -> AsyncIterator[PeerDonors]:
    async with reached(lender(), papers) as way:
        yield PeerDonors(way)


async def test_a_member_sees_borrows_and_reads(papers: Papers) -> None:
    async with served(papers) as donors:
        assert await donors.newest("n2") == MANIFEST
        with pytest.raises(Unreachable, match="no longer lends"):
            await donors.read("n2", 40, "tables", 0, 10)
        assert await donors.offer("n2", 41) is None
        offer = await donors.offer("n2", 40)
        assert offer is not None
        assert (offer.donor, offer.manifest, offer.files[0].size) == ("n2", MANIFEST, len(CONTENT))
        pieces = [await donors.read("n2", 40, "tables", at, 1_000) for at in range(0, len(CONTENT), 1_000)]
        assert b"".join(pieces) == CONTENT
        with pytest.raises(Unreachable):
            await donors.read("n2", 40, "../witness", 0, 10)
        with pytest.raises(Unreachable):
            await donors.newest("n3")


@pytest.mark.parametrize("path", [NEWEST, OFFER, PIECE])
async def test_nobody_else_is_served(path: str) -> None:
    runner = web.AppRunner(peer_app(lender()), access_log=None)  # type: ignore[arg-type]
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}{path}"
            async with session.post(url, data=b"\xc0", headers={"Content-Type": "application/msgpack"}) as reply:
                assert reply.status == 403
    finally:
        await runner.cleanup()


async def test_a_question_that_does_not_decode_is_refused(papers: Papers) -> None:
    async with served(papers) as donors:

        async def body() -> AsyncIterator[bytes]:
            yield msgspec.msgpack.encode("forty")

        status, _ = await donors._peers.post("n2", OFFER, body())
        assert status == 400


async def test_anybody_may_see_which_snapshots_there_are(desk: Desk, ask: Caller) -> None:
    reply = await ask.get("/snapshots")
    assert reply.status == 200
    assert [each["lastAppliedIndex"] for each in reply.body["snapshots"]] == [7]


async def test_health_shows_the_log_and_what_is_on_its_way(desk: Desk, ask: Caller) -> None:
    body = (await ask.get("/health")).body
    assert body["log"] == {"first_index": 1, "last_index": 1}
    assert body["installs"] == {"here": None, "lent": None, "waited_for": {}}
    desk.installer.progress = {"donor": "n2", "index": 40, "received": 1, "size": 2}
    desk.donor.loan = SimpleNamespace(peer="n3", index=40)
    desk.raft.retention.leases = lambda: {"n3": 40}
    body = (await ask.get("/health")).body
    assert body["installs"]["here"]["donor"] == "n2"
    assert body["installs"]["lent"] == {"peer": "n3", "index": 40}
    assert body["installs"]["waited_for"] == {"n3": 40}
