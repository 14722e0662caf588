"""Every node is restarted in turn under load, and no caller of the SDK sees an error: at most a slow answer.

The distribution of what callers noticed is printed: `pytest -s`, or the report of a failure.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from chaos.live import LiveCluster
from swoosh.client import Accepted, Client, Outcome

CLIENTS = 32
DEADLINE = 60.0
WORST_SECONDS = 10.0


@dataclass
class Caller:
    """One client with a project of its own: how long each call took, and what went wrong."""

    project: str
    took: list[float] = field(default_factory=list)
    failures: list[Outcome | Exception] = field(default_factory=list)

    async def work(self, client: Client, done: asyncio.Event) -> None:
        number = 0
        await self._propose(client, "PROJECT_CREATED", {"brief": "a rolling restart"})
        while not done.is_set():
            await self._propose(client, "CONTROL_RESUMED" if number % 2 else "CONTROL_PAUSED", {"reason": "r"})
            number += 1

    async def _propose(self, client: Client, transition: str, inputs: dict[str, str]) -> None:
        began = time.monotonic()
        try:
            outcome: Outcome | Exception = await client.propose(
                transition, inputs=inputs, project=self.project, on_stale="resubmit"
            )
        except Exception as error:
            outcome = error
        self.took.append(time.monotonic() - began)
        if not isinstance(outcome, Accepted):
            self.failures.append(outcome)


def distribution(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    parts = [f"p{share:g} {ordered[int(len(ordered) * share / 100)] * 1000:.0f} ms" for share in (50, 90, 99, 99.9)]
    return ", ".join([f"{len(ordered)} calls", *parts, f"longest {ordered[-1] * 1000:.0f} ms"])


@pytest.mark.timeout(240)
async def test_a_rolling_restart_of_all_nodes_fails_no_call(cluster: LiveCluster) -> None:
    done = asyncio.Event()
    callers = [Caller(f"rolling-{number}") for number in range(CLIENTS)]
    nodes = list(cluster.nodes)

    async def work(number: int) -> None:
        first = number % len(nodes)
        async with cluster.client("operator", via=nodes[first:] + nodes[:first]) as client:
            await callers[number].work(client, done)

    working = [asyncio.create_task(work(number)) for number in range(CLIENTS)]
    try:
        for node in nodes:
            await asyncio.sleep(2.0)  # load of its own between two restarts, not a wait for something
            began = time.monotonic()
            assert await asyncio.to_thread(cluster.stop, node) == 0
            stopped = time.monotonic()
            cluster.start(node)
            leader = await cluster.ready()
            print(
                f"{node}: stopped in {stopped - began:.2f} s, ready {time.monotonic() - stopped:.2f} s after; {leader}"
            )
    finally:
        done.set()
        await asyncio.gather(*working)
    gaps = [max(caller.took) for caller in callers]
    print("calls:", distribution([seconds for caller in callers for seconds in caller.took]))
    print("longest call of each client:", distribution(gaps))
    assert [failure for caller in callers for failure in caller.failures] == []
    assert min(len(caller.took) for caller in callers) > 10, "every client was at work"
    assert max(gaps) < WORST_SECONDS
    await cluster.agreed(DEADLINE)


async def test_an_operator_moves_leadership(cluster: LiveCluster) -> None:
    before = await cluster.ready()
    successor = next(node for node in cluster.nodes if node != before)
    everywhere = [part for endpoint in cluster.endpoints for part in ("--endpoint", endpoint)]

    def transfer(*arguments: str, key: str = "admin") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cluster", "leader", "transfer", *arguments]
        command += ["--key", str(cluster.keys / f"{key}.pem")]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    moved = await asyncio.to_thread(transfer, "--to", successor, "-o", "json", *everywhere)
    assert moved.returncode == 0, moved.stderr
    assert json.loads(moved.stdout) == {"from": before, "leader": successor}
    assert await cluster.ready() == successor
    again = await asyncio.to_thread(transfer, "--to", successor, *everywhere)
    assert again.returncode == 1
    assert "leads already" in again.stderr
    elsewhere = await asyncio.to_thread(transfer, "--endpoint", cluster.nodes[before])
    assert elsewhere.returncode == 1
    assert "no endpoint given is its own" in elsewhere.stderr
    not_admin = await asyncio.to_thread(transfer, *everywhere, key="operator")
    assert not_admin.returncode == 1
    assert "NOT_AUTHORISED" in not_admin.stderr
    anyone = await asyncio.to_thread(transfer, *everywhere)
    assert anyone.returncode == 0, anyone.stderr
    assert await cluster.ready() != successor
