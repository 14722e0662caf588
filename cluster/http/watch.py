"""`GET /watch`: accepted transitions as Server-Sent Events, one each, in the order they were applied here.

A hint, never the truth: whoever needs to know reads `/state` or `/wal`. A reader that cannot keep up is let go and
resumes where it stopped; a stream never holds anything up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

import msgspec
from aiohttp import web

from cluster.clock import Clock, done_by
from cluster.http import problems
from cluster.http.request import NODE, consistent, number, project_of, within
from cluster.node import Node
from swoosh import wal
from swoosh.errors import Malformed
from swoosh.machine import Applied
from swoosh.outcome import Code

EVERY_PROJECT = "*"
EVENTS_HELD = 1_024
REPLAY_SLICE = 64
HEARTBEAT_SECONDS = 15.0
WRITE_SECONDS = 10.0


class Event(msgspec.Struct, frozen=True):
    """One accepted transition; `data` is the WAL record as hashed."""

    project: str
    index: int
    seq: int
    data: bytes

    def encode(self) -> bytes:
        """Its text on the stream."""
        return b"id: %d.%d\nevent: transition\ndata: %b\n\n" % (self.index, self.seq, self.data)


class Watcher:
    """What one reader has not been sent yet. Full means the reader is let go."""

    def __init__(self, project: str) -> None:
        self._project = project
        self._events: deque[Event] = deque()
        self._woken: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.over = False

    def see(self, applied: Applied) -> None:
        """Keep what concerns this reader."""
        for record, data in applied.records:
            if self._project in (EVERY_PROJECT, record.project):
                self._events.append(Event(record.project, record.index, record.seq, data))
        if len(self._events) > EVENTS_HELD:
            self.over = True
        if self._events:
            self.wake()

    def wake(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)

    async def next(self, clock: Clock, seconds: float) -> list[Event]:
        """What came; empty after so many seconds of silence."""
        if not self._events and not self.over:
            await done_by(clock, clock.monotonic() + seconds, self._woken)
            self._woken = asyncio.get_running_loop().create_future()
        events, self._events = list(self._events), deque()
        return events


class Watchers:
    """Every open stream of one listener."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[Watcher] = set()
        self._ending = False

    @property
    def count(self) -> int:
        return len(self._open)

    @property
    def refusal(self) -> str | None:
        """Why no further stream is opened; None while there is room."""
        if self._ending:
            return "this node is shutting down"
        return f"{self._most} streams are open" if len(self._open) >= self._most else None

    def open(self, project: str) -> Watcher:
        watcher = Watcher(project)
        self._open.add(watcher)
        return watcher

    def close(self, watcher: Watcher) -> None:
        self._open.discard(watcher)

    def see(self, applied: Applied) -> None:
        """Called for each applied entry."""
        if applied.records:
            for watcher in self._open:
                watcher.see(applied)

    async def stop(self, app: web.Application) -> None:
        """End every stream and open no other; readers resume elsewhere."""
        self._ending = True
        for watcher in self._open:
            watcher.over = True
            watcher.wake()


class Sink:
    """Writes to one stream; whoever does not take it in time is given up (TimeoutError)."""

    def __init__(self, stream: web.StreamResponse, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock

    async def write(self, data: bytes) -> None:
        await within(self._clock, WRITE_SECONDS, self._stream.write(data))


WATCHERS = web.AppKey("watchers", Watchers)


async def get_watch(request: web.Request) -> web.StreamResponse:
    """Events of `project` (`*` for all) after `from` or `Last-Event-ID`; a project's stream resumes without a gap."""
    node, watchers = request.app[NODE], request.app[WATCHERS]
    project = EVERY_PROJECT if request.query.get("project") == EVERY_PROJECT else project_of(request)
    after = _resume_after(request)
    missing = await consistent(request)
    if missing is not None:
        return problems.respond(missing)
    if watchers.refusal is not None:
        return problems.refuse(Code.OVERLOADED, watchers.refusal, admitted=False)
    watcher = watchers.open(project)
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    try:
        await stream.prepare(request)
        await _send(Sink(stream, node.clock), node, watcher, project, after)
    except (ConnectionError, TimeoutError):
        if request.transport is not None:
            request.transport.abort()  # the reader left, or does not read
    finally:
        watchers.close(watcher)
    return stream


async def _send(stream: Sink, node: Node, watcher: Watcher, project: str, after: int | None) -> None:
    sent = 0
    if after is not None and project == EVERY_PROJECT:
        await stream.write(b'event: gap\ndata: {"do":"read /state anew; * cannot be resumed"}\n\n')
    elif after is not None:
        sent = await _replay(stream, node, project, after)
    while True:
        events = await watcher.next(node.clock, HEARTBEAT_SECONDS)
        if watcher.over:
            return
        fresh = [event.encode() for event in events if project == EVERY_PROJECT or event.seq > sent]
        await stream.write(b"".join(fresh) if events else b": still here\n\n")


async def _replay(stream: Sink, node: Node, project: str, after: int) -> int:
    """Send what the store holds after a sequence number; the last one sent."""
    while True:
        records = list(node.store.wal(project, after + 1, REPLAY_SLICE))
        if not records:
            return after
        events = list(_events(records))
        await stream.write(b"".join(event.encode() for event in events))
        after = events[-1].seq


def _events(records: Iterable[bytes]) -> Iterable[Event]:
    for data in records:
        record = wal.decode(data)
        yield Event(record.project, record.index, record.seq, data)


def _resume_after(request: web.Request) -> int | None:
    """The sequence number after which to begin; None means from now on."""
    last = request.headers.get("Last-Event-ID")
    if last is not None:
        _, separator, seq = last.partition(".")
        if not separator or not seq.isascii() or not seq.isdigit() or len(seq) > 16:
            raise Malformed(f"Last-Event-ID: expected index.seq, got {last[:40]!r}")
        return int(seq)
    return number(request, "from", 1) - 1 if "from" in request.query else None
