"""``python -m chaos.live.failover``: what do callers behind a load balancer notice when the leader dies?

Three nodes, a real HAProxy with the committed configuration, and a crowd that knows nothing of SWOOSH
(`chaos.live.legacy`). The leader is killed again and again, or every node is told to stop and starts again, in turn.
Afterwards each wish must have been granted, and stand on record once. How long nobody was granted anything after each
fault is the gap.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from chaos.live import legacy
from chaos.live.cluster import LiveCluster
from chaos.live.haproxy import MISSING, Haproxy, is_installed
from chaos.live.legacy import Call, Crowd

REPORT = Path(__file__).resolve().parents[2] / "docs" / "reports" / "failover.jsonl"
CALLERS = 32
CALLS_BETWEEN = 4
"""Wishes of each caller before a fault, while a node is down, and after the last."""
DEADLINE_SECONDS = 60.0


class Result(msgspec.Struct, frozen=True):
    """A line of the report; times are seconds. ``gaps`` has one for each fault, ``unavailable`` counts the codes of
    503 that callers were given."""

    date: str
    fault: str
    callers: int
    calls: int
    gaps: tuple[float, ...]
    longest_call: float
    unavailable: dict[str, int]
    duplicates: int
    violations: tuple[str, ...]


class Trial:
    """A crowd at work on a cluster that is ready, while faults happen to it."""

    def __init__(self, cluster: LiveCluster, crowd: Crowd) -> None:
        self._cluster, self._crowd = cluster, crowd
        self._struck: list[float] = []
        self._turns: Iterator[str] = cycle(cluster.nodes)

    async def run(self, fault: str, times: int) -> Result:
        """``fault`` is ``kill`` (of the leader, which starts again once the others go on) or ``restart`` (of the next
        node, in good order)."""
        done = asyncio.Event()
        working = asyncio.create_task(self._crowd.run(done))
        try:
            for _ in range(times):
                await self._go_on()
                await {"kill": self._kill, "restart": self._restart}[fault]()
                await self._cluster.ready()
            await self._go_on()
        finally:
            done.set()
            await working
        await self._cluster.agreed(DEADLINE_SECONDS)
        return await self._result(fault)

    async def _kill(self) -> None:
        leader = await self._cluster.ready()
        self._struck.append(time.monotonic())
        self._cluster.kill(leader)
        await self._go_on()
        self._cluster.start(leader)

    async def _restart(self) -> None:
        node = next(self._turns)
        self._struck.append(time.monotonic())
        await asyncio.to_thread(self._cluster.stop, node)
        self._cluster.start(node)

    async def _go_on(self) -> None:
        """Wait until the crowd has begun a few wishes more."""
        calls = self._crowd.calls
        enough = len(calls) + CALLS_BETWEEN * self._crowd.size

        async def begun() -> bool | None:
            return len(calls) >= enough or None

        await self._cluster.wait_for("the callers to go on", begun, DEADLINE_SECONDS)

    async def _result(self, fault: str) -> Result:
        calls = self._crowd.calls
        on_record = await legacy.applied(self._cluster.endpoints[0], calls)
        return Result(
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            fault=fault,
            callers=self._crowd.size,
            calls=len(calls),
            gaps=tuple(round(gap, 2) for gap in gaps(calls, self._struck)),
            longest_call=round(max(call.seconds for call in calls), 2),
            unavailable=dict(legacy.codes(calls)),
            duplicates=sum(call.tries[-1].duplicate for call in calls),
            violations=(
                *legacy.troubles(calls),
                *(f"{call.ask.project}: never granted" for call in calls if not call.granted),
                *(f"{project}: on record {times} times" for project, times in on_record.items() if times != 1),
            ),
        )


def gaps(calls: Sequence[Call], struck: Sequence[float]) -> list[float]:
    """For each fault, by the time it struck, the longest time in which nobody was granted anything until the next."""
    ends = sorted(call.tries[-1].ended for call in calls if call.granted)
    found = []
    for begin, end in pairwise([*struck, float("inf")]):
        found.append(max((later - earlier for earlier, later in pairwise(ends) if begin <= later < end), default=0.0))
    return found


async def conduct(fault: str, times: int, directory: Path) -> Result:
    """One run in an empty directory."""
    cluster = LiveCluster.create(directory / "cluster", "--windows", "always_open", "--insecure-signers")
    balancer = Haproxy(directory, cluster.endpoints)
    try:
        cluster.start()
        await cluster.ready()
        balancer.start()
        return await Trial(cluster, Crowd(balancer.url, legacy.proposal, CALLERS)).run(fault, times)
    finally:
        balancer.stop()
        cluster.close()


def main() -> int:
    """Parse and go; 0 where every call ended well, 1 where not, 3 where nothing could be tried."""
    parser = argparse.ArgumentParser(prog="python -m chaos.live.failover")
    parser.add_argument("--fault", choices=["kill", "restart"], default="kill")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--record", action="store_true", help="append to the committed report")
    asked = parser.parse_args()
    if not is_installed():
        print(MISSING, file=sys.stderr)
        return 3
    with TemporaryDirectory() as directory:
        result = asyncio.run(conduct(asked.fault, asked.times, Path(directory)))
    print(msgspec.json.format(msgspec.json.encode(result)).decode())
    if asked.record:
        with REPORT.open("ab") as file:
            file.write(msgspec.json.encode(result) + b"\n")
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
