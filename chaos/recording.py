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
    """A history on disk, one JSON line per event, in the order the answers came."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8")
        self.events: list[Event] = []

    def add(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event)
        self._file.write(msgspec.json.encode(event).decode() + "\n")

    def close(self) -> None:
        self._file.close()


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
