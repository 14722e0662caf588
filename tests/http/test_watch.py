"""Event streams: live, resumed without a gap, and ended without holding anything up."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from cluster.clock import ManualClock
from cluster.http import watch
from cluster.http.request import Limits
from swoosh.machine import Applied, Position
from swoosh.wal import WalRecord
from tests.http.conftest import Caller, Serve
from tests.http.desk import Desk

DEADLINE = 20.0


class Stream:
    """A reader of events."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> dict[str, Any]:
        """The next event, as {id, event, data}; comments are passed over."""
        found: dict[str, Any] = {}
        async with asyncio.timeout(DEADLINE):
            while True:
                line = (await self.response.content.readline()).decode().rstrip("\n")
                if line.startswith(":"):
                    continue
                if not line and found:
                    return {**found, "data": json.loads(found["data"])}
                name, _, value = line.partition(": ")
                if name:
                    found[name] = value


@asynccontextmanager
async def watching(ask: Caller, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    async with ask.session.get(f"{ask.base}/watch{query}", headers=headers) as response:
        assert response.status == 200 and response.content_type == "text/event-stream"
        yield Stream(response)


async def settings(desk: Desk, ask: Caller, *values: int) -> None:
    for value in values:
        inputs = {"name": "max_skew_ms", "value": value}
        draft = desk.draft("SETTING_SET", f"s{value}", by="admin", project="@cluster", inputs=inputs)
        assert (await ask.post("/transition", desk.signed(draft))).status == 200


async def test_a_watcher_sees_what_is_accepted_in_its_project(desk: Desk, ask: Caller) -> None:
    async with watching(ask, "?project=@cluster") as stream:
        await ask.post("/transition", desk.created("apollo"))
        await settings(desk, ask, 501, 502)
        first, second = await stream.next(), await stream.next()
    assert (first["event"], first["data"]["seq"], second["data"]["seq"]) == ("transition", 1, 2)
    assert first["id"] == f"{first['data']['index']}.1"


async def test_a_stream_resumes_without_a_gap(desk: Desk, ask: Caller) -> None:
    await settings(desk, ask, 501, 502, 503)
    async with watching(ask, "?project=@cluster", **{"Last-Event-ID": "99.1"}) as stream:
        assert [(await stream.next())["data"]["seq"] for _ in range(2)] == [2, 3]
        await settings(desk, ask, 504)
        assert (await stream.next())["data"]["seq"] == 4
    async with watching(ask, "?project=@cluster&from=4") as stream:
        assert (await stream.next())["data"]["seq"] == 4


async def test_every_project_may_be_watched_and_a_resumed_one_is_told_of_the_gap(desk: Desk, ask: Caller) -> None:
    async with watching(ask, "?project=*", **{"Last-Event-ID": "5.1"}) as stream:
        assert (await stream.next())["event"] == "gap"
        await ask.post("/transition", desk.created("apollo"))
        await settings(desk, ask, 501)
        assert [(await stream.next())["data"]["project"] for _ in range(2)] == ["apollo", "@cluster"]


async def test_streams_are_counted_and_capped(desk: Desk, serve: Serve) -> None:
    ask = await serve(desk, Limits(watchers=1))
    async with watching(ask):
        refused = await ask.get("/watch")
        assert (refused.status, refused.body["code"]) == (503, "OVERLOADED")
        assert "swoosh_http_watchers 1.0" in (await ask.get("/metrics")).text


async def test_streams_end_first_when_a_node_stops_and_no_other_begins(ask: Caller) -> None:
    async with watching(ask) as stream, asyncio.timeout(DEADLINE):
        await ask.listener.end_streams()
        assert await stream.response.content.read() == b""
    refused = await ask.get("/watch")
    assert (refused.status, refused.body["code"]) == (503, "OVERLOADED") and "shutting down" in refused.text
    assert (await ask.get("/health/live")).status == 200


@pytest.mark.parametrize("last", ["x", "1", "1.x", "1." + "9" * 40])
async def test_a_bad_last_event_id_is_refused(ask: Caller, last: str) -> None:
    assert (await ask.get("/watch", headers={"Last-Event-ID": last})).status == 400


async def test_silence_is_broken_so_that_proxies_keep_the_stream(serve: Serve) -> None:
    desk = Desk(clock=ManualClock())
    ask = await serve(desk)
    async with watching(ask) as stream, asyncio.timeout(DEADLINE):
        comment = asyncio.ensure_future(stream.response.content.readline())
        while not comment.done():
            desk.clock.advance(watch.HEARTBEAT_SECONDS)  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        assert (await comment).startswith(b":")


async def test_a_reader_that_falls_behind_is_let_go(desk: Desk) -> None:
    watcher = watch.Watcher("default")
    event = watch.Event("default", 1, 1, b"{}")
    watcher._events.extend([event] * (watch.EVENTS_HELD + 1))
    desk.on_applied.append(watcher.see)
    draft = desk.draft("SETTING_SET", "s", by="admin", project="@cluster", inputs={"name": "max_skew_ms", "value": 9})
    answers = await desk.submit([desk.admission.proposal(desk.signed(draft))], 0.0)  # type: ignore[list-item]
    assert answers and watcher.over


async def test_a_reader_that_does_not_read_is_given_up(serve: Serve) -> None:
    desk = Desk(clock=ManualClock())
    ask = await serve(desk)
    async with watching(ask, "?project=*") as stream, asyncio.timeout(DEADLINE):
        stream.response.connection.transport.pause_reading()  # type: ignore[union-attr]
        big = Applied(Position(2, 1, 1), records=((RECORD, b"x" * (64 << 20)),))
        for listener in desk.on_applied:
            listener(big)
        while "swoosh_http_watchers 0.0" not in (await ask.get("/metrics")).text:
            desk.clock.advance(watch.WRITE_SECONDS)  # type: ignore[attr-defined]


RECORD = WalRecord(2, 1, 1, "p", "meta", "a", "PROJECT_CREATED", "i", "s", "", "k", "h", "", (), (), 1, {}, "b", "")
