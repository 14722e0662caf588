"""What a run leaves for the checker: the history on disk, and the records out of the nodes.

Nothing is judged here (see history.py), so a bad run can be judged again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

import msgspec

from chaos.history import Event
from swoosh.client.transport import HttpTransport

PAGE = 1_000


class Journal:
    """A history on disk: one JSON line ``[number, event]`` before something is sent, and one when it is answered.

    Of two lines with one number the later counts. What was never answered stays as it was begun: unknown.
    """

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8", buffering=1)
        self._events: list[Event] = []

    @property
    def events(self) -> list[Event]:
        """The history so far."""
        return self._events

    def begin(self, event: Event) -> int:
        """Keep what is about to be sent, as the attempt whose end nobody knows; its number."""
        self._events.append(event)
        number = len(self._events) - 1
        self._write(number, event)
        return number

    def complete(self, number: int, event: Event) -> None:
        """What was begun under this number was answered."""
        self._events[number] = event
        self._write(number, event)

    def add(self, event: Event) -> None:
        """Keep what is over and changes nothing if it is lost, such as a read."""
        self.begin(event)

    def close(self) -> None:
        self._file.close()

    def _write(self, number: int, event: Event) -> None:
        self._file.write(msgspec.json.encode([number, event]).decode() + "\n")


def recorded(path: Path) -> list[Event]:
    """The history in a file, even of a run that was interrupted."""
    found: dict[int, Event] = {}
    for line in path.read_bytes().splitlines():
        number, event = msgspec.json.decode(line, type=tuple[int, Event])
        found[number] = event
    return [found[number] for number in sorted(found)]


async def exported(endpoint: str, index: int) -> dict[str, bytes]:
    """Every project's WAL as one node holds it, one record per line, once that node has applied ``index``."""
    transport = HttpTransport()

    async def get(path: str) -> bytes:
        headers = {"Accept": "application/x-ndjson, application/json"}
        reply = await transport.request("GET", endpoint + path, headers=headers, body=None, timeout=30)
        if reply.status != 200:
            raise ValueError(f"{endpoint}{path}: HTTP {reply.status}: {reply.body[:300]!r}")
        return reply.body

    try:
        listed = json.loads(await get(f"/projects?limit=200&consistency=local&min_index={index}"))
        found: dict[str, bytes] = {}
        for project in [row["project"] for row in listed["projects"]]:
            pages = [b""]
            while pages[-1] or len(pages) == 1:
                start = sum(page.count(b"\n") for page in pages) + 1
                pages.append(await get(f"/wal?project={project}&from={start}&limit={PAGE}&consistency=local"))
            found[project] = b"".join(pages)
        return found
    finally:
        await transport.close()
