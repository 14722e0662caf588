"""A row that fails its checksum is no server error: the node must not go on voting on what it cannot trust."""

import asyncio
from collections.abc import Iterator

import aiohttp
import pytest

from cluster import faults
from cluster.faults import ExitCode
from swoosh.errors import Corrupt
from tests.http.conftest import Caller
from tests.http.desk import Desk


@pytest.fixture
def codes() -> Iterator[list[ExitCode]]:
    """What the process would have ended with."""
    found: list[ExitCode] = []

    def stop(code: ExitCode, reason: str, facts: dict[str, object]) -> None:
        found.append(code)
        raise asyncio.CancelledError

    faults.set_stop(stop)
    yield found
    faults.set_stop(None)


async def test_a_damaged_row_stops_the_node_also_where_it_is_only_mentioned(
    desk: Desk, ask: Caller, codes: list[ExitCode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every answer says where the project stands, this one's body nothing of it."""

    def project(project_id: str) -> None:
        raise Corrupt("a row of project fails its checksum")

    monkeypatch.setattr(desk.machine, "project", project)
    with pytest.raises(aiohttp.ClientError):
        await ask.get("/health/live")
    assert set(codes) == {ExitCode.DAMAGED}


async def test_a_damaged_row_stops_the_node(
    desk: Desk, ask: Caller, codes: list[ExitCode], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wal(project: str, from_seq: int, limit: int) -> Iterator[bytes]:
        raise Corrupt("a row of wal fails its checksum")

    monkeypatch.setattr(desk.store, "wal", wal)
    with pytest.raises(aiohttp.ClientError):
        await ask.get("/wal")
    assert set(codes) == {ExitCode.DAMAGED}
