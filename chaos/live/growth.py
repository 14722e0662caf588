"""``python -m chaos.live.growth``: does a node grow with the length of its history?

Real nodes are sent signed batches through ``/transitions``. Ten times on the way the run stops and looks: memory of
every process, bytes on disk, entries the log still holds; then one node is stopped and started again, and the time
until it serves is taken. History is kept on disk for good, by design; memory and the way back must not follow it.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import time
from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from chaos.live.cluster import LiveCluster, Trouble
from swoosh.client import Client
from swoosh.client.answers import Accepted
from swoosh.client.client import Draft
from swoosh.client.retry import Policy

BATCH = 256
PROJECTS = 64
AT_A_TIME = 8
LOOKS = 10
REPORT = Path(__file__).resolve().parents[2] / "docs" / "reports" / "growth.jsonl"
SETTLED_SECONDS = 600.0
PATIENCE = Policy(budget=SETTLED_SECONDS, attempt=30.0)
MIB = 1 << 20


class Look(msgspec.Struct, frozen=True):
    """A glance at the cluster after so many transitions: memory in MiB by node, seconds from the start of a node to
    the moment it serves (``process_s`` of them until it answers at all)."""

    transitions: int
    took_s: float
    memory_mib: dict[str, int]
    disk_mib: int
    log_entries: int
    restart_s: float
    process_s: float


class Run(msgspec.Struct, frozen=True):
    """A line of the report."""

    date: str
    nodes: int
    looks: list[Look]


class Feed:
    """One project, moved on in batches: created once, then paused and resumed for ever."""

    def __init__(self, client: Client, project: str) -> None:
        self._client, self._project, self._moves = client, project, _moves()

    async def send(self) -> int:
        """One batch; how many were accepted.

        Raises:
            Trouble: not all of them.
        """
        drafts = [Draft(transition, inputs, self._project) for transition, inputs in islice(self._moves, BATCH)]
        outcomes = await self._client.batch(drafts)
        for outcome in outcomes:
            if not isinstance(outcome, Accepted):
                raise Trouble(f"{self._project}: {outcome}")
        return len(outcomes)


def _moves() -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "PROJECT_CREATED", {"brief": "it grows"}
    while True:
        yield "CONTROL_PAUSED", {"reason": "it grows"}
        yield "CONTROL_RESUMED", {"reason": "it grows"}


async def grow(nodes: int, transitions: int) -> Run:
    """Take a cluster to so many transitions, and look at it on the way."""
    with TemporaryDirectory() as directory:
        cluster = LiveCluster.create(Path(directory) / "cluster", nodes=nodes)
        cluster.start()
        try:
            await cluster.ready()
            return Run(datetime.datetime.now(datetime.UTC).date().isoformat(), nodes, await _grow(cluster, transitions))
        finally:
            cluster.close()


async def _grow(cluster: LiveCluster, transitions: int) -> list[Look]:
    clients = [Client(cluster.endpoints, key=cluster.key("operator"), policy=PATIENCE) for _ in range(AT_A_TIME)]
    feeds = [Feed(clients[number % AT_A_TIME], f"g-{number:02}") for number in range(PROJECTS)]
    turns, looks, sent, busy = cycle(feeds), list[Look](), 0, 0.0
    try:
        for number in range(1, LOOKS + 1):
            began = time.monotonic()
            while sent < transitions * number // LOOKS:
                sent += sum(await asyncio.gather(*(feed.send() for feed in islice(turns, AT_A_TIME))))
            busy += time.monotonic() - began
            looks.append(await _look(cluster, sent, busy))
            print(looks[-1], flush=True)
    finally:
        for client in clients:
            await client.close()
    return looks


async def _look(cluster: LiveCluster, transitions: int, took: float) -> Look:
    found = await cluster.agreed(timeout=SETTLED_SECONDS)
    log = next(iter(found.reports.values()))["log"]
    memory = {node: _resident(pid) // MIB for node, pid in zip(cluster.running, cluster.pids, strict=True)}
    last = cluster.running[-1]
    disk = sum(path.stat().st_size for path in cluster.home(last).rglob("*") if path.is_file()) // MIB
    cluster.stop(last)
    began = time.monotonic()
    cluster.start(last)
    await cluster.up(last, timeout=SETTLED_SECONDS)
    answers = time.monotonic() - began
    await cluster.ready(timeout=SETTLED_SECONDS)
    serves = time.monotonic() - began
    entries = log["last_index"] - log["first_index"] + 1
    return Look(transitions, round(took, 1), memory, disk, entries, round(serves, 2), round(answers, 2))


def _resident(pid: int) -> int:
    """Bytes of memory a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Parse and go."""
    parser = argparse.ArgumentParser(prog="python -m chaos.live.growth")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--transitions", type=int, default=100_000)
    parser.add_argument("--record", action="store_true", help="append to the committed report")
    asked = parser.parse_args()
    result = asyncio.run(grow(asked.nodes, asked.transitions))
    if asked.record:
        with REPORT.open("ab") as file:
            file.write(msgspec.json.encode(result) + b"\n")


if __name__ == "__main__":
    main()
