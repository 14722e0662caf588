"""One run from an empty directory to a verdict: cluster, callers, nemesis, recovery, check.

Everything it makes outside its directory (namespaces, mounts, processes) is gone when it returns, however it returns.
"""

from __future__ import annotations

import asyncio
import os
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from chaos.history import Findings, check, tally
from chaos.live import disk, result
from chaos.live.cluster import LiveCluster, Trouble
from chaos.live.disk import Disk
from chaos.live.nemesis import Nemesis, Tools
from chaos.live.network import Namespaces, Network, Proxies, Unfit
from chaos.live.plan import Do, Plan
from chaos.live.result import Result, Sample, accepted, next_acknowledged, roles_of
from chaos.live.traffic import Traffic
from chaos.recording import Journal, exported

OF_OPERATORS = frozenset({"MEMBER_REJOINED"})
"""Proposed by the command line where a node comes back; it keeps no history."""
SAMPLE_SECONDS = 0.5
RECOVERY_SECONDS_MAX = 60.0
CALM_SECONDS = 3.0
"""Of traffic after the last fault, so that there is something to measure."""


async def conduct(plan: Plan, directory: Path, *, seed: int, proxies: bool, command: str) -> Result:
    """Carry out a plan in an empty directory.

    Raises:
        Trouble: the cluster did not even start.
    """
    async with _world(plan, directory, proxies) as (cluster, tools):
        cluster.start()
        await cluster.ready()
        nemesis = Nemesis(plan, cluster, tools, random.Random(seed))
        journal = Journal(directory / "history.jsonl")
        samples: list[Sample] = []
        troubles: list[str] = []
        started = time.monotonic()
        try:
            mended = await _attack(plan, cluster, nemesis, journal, samples, troubles, seed)
        finally:
            journal.close()
        ended = time.monotonic()
        found = await _judge(cluster, journal, troubles)
        acknowledged = accepted(journal.events)
        recovery = next_acknowledged(acknowledged, mended)
        return Result(
            plan=plan.name,
            why=plan.why,
            seed=seed,
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            machine=machine(),
            network=type(tools.network).__name__.lower(),
            command=command,
            started=started,
            mended=mended,
            ended=ended,
            nodes=list(cluster.nodes),
            faults=nemesis.faults,
            samples=samples,
            skipped=nemesis.skipped,
            wrong=troubles + result.violations(found, nemesis.faults, recovery, plan.recovered_within),
            thin=result.shortfalls(journal.events, nemesis.faults, plan.minimum, started),
            counts=dict(found.counts),
            told={str(name): count for name, count in tally(journal.events).items()},
            recovery=recovery,
            gaps=[next_acknowledged(acknowledged, fault.start) for fault in nemesis.faults],
            latencies=[attempt.end - attempt.start for attempt in acknowledged],
            acknowledged_at=[attempt.end for attempt in acknowledged],
        )


async def _attack(
    plan: Plan,
    cluster: LiveCluster,
    nemesis: Nemesis,
    journal: Journal,
    samples: list[Sample],
    troubles: list[str],
    seed: int,
) -> float:
    """Traffic and faults side by side, then calm; when the last fault was over."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(Traffic(cluster, journal, plan.callers, seed).run(over))
        sampling = group.create_task(_sample(cluster, samples))
        try:
            await nemesis.run()
            await _until_acknowledged(journal, _mended(nemesis))
            await cluster.ready()
            await asyncio.sleep(CALM_SECONDS)
        except Trouble as trouble:
            _note(trouble, troubles)
        finally:
            over.set()
            sampling.cancel()
    return _mended(nemesis)


def _mended(nemesis: Nemesis) -> float:
    return max((fault.end for fault in nemesis.faults), default=time.monotonic())


async def _judge(cluster: LiveCluster, journal: Journal, troubles: list[str]) -> Findings:
    """Hold the history against what the running nodes hold, once they agree."""
    try:
        agreement = (await cluster.agreed(nodes=len(cluster.running))).agreement()
    except Trouble as trouble:
        _note(trouble, troubles)
        return Findings([], Counter())
    assert agreement is not None
    dumps = {node: await exported(cluster.nodes[node], agreement.at_index) for node in cluster.running}
    return check(journal.events, dumps, converged=True, unrecorded=OF_OPERATORS)


async def _until_acknowledged(journal: Journal, moment: float) -> None:
    deadline = time.monotonic() + RECOVERY_SECONDS_MAX
    while next_acknowledged(accepted(journal.events), moment) is None and time.monotonic() < deadline:
        await asyncio.sleep(SAMPLE_SECONDS)


async def _sample(cluster: LiveCluster, samples: list[Sample]) -> None:
    nodes = list(cluster.nodes)
    while True:
        at = time.monotonic()
        reports = (await cluster.survey(within=SAMPLE_SECONDS)).reports
        term = max((report["consensus"]["term"] for report in reports.values()), default=0)
        samples.append(Sample(at, roles_of(reports, nodes), term))
        await asyncio.sleep(max(0.0, at + SAMPLE_SECONDS - time.monotonic()))


def _note(trouble: Trouble, troubles: list[str]) -> None:
    """Its first line goes into the report; the logs of the nodes behind it are for whoever watches."""
    print(trouble, file=sys.stderr, flush=True)
    troubles.append(str(trouble).partition("\n")[0])


# --- the world --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _world(plan: Plan, directory: Path, proxies: bool) -> AsyncIterator[tuple[LiveCluster, Tools]]:
    """A cluster that is not started yet, on its network and its disks."""
    flags = directory / "flags"
    flags.mkdir()
    async with AsyncExitStack() as stack:
        cluster = LiveCluster.create(directory / "cluster", "--windows", "always_open", nodes=plan.nodes)
        network = _network(proxies)
        stack.push_async_callback(network.close)
        cluster = network.attach(cluster)
        await network.open()
        disks: dict[str, Disk] = {}
        if plan.mounts:
            disks = _disks(cluster, plan.disk_mb, stack)
        tools = Tools(network, disks, flags)
        _equip(plan, cluster, tools)
        stack.callback(cluster.close)
        yield cluster, tools


def _network(proxies: bool) -> Network:
    if proxies:
        return Proxies()
    try:
        return Namespaces()
    except Unfit as reason:
        print(f"  proxies instead of namespaces: {reason}", flush=True)
        return Proxies()


def _disks(cluster: LiveCluster, size_mb: int, stack: AsyncExitStack) -> dict[str, Disk]:
    disk.sweep()
    disks = {}
    for node in cluster.nodes:
        try:
            disks[node] = Disk(cluster.home(node), size_mb)
        except Unfit as reason:
            print(f"  no disks of their own: {reason}", flush=True)
            return disks
        stack.callback(disks[node].close)
    return disks


def _equip(plan: Plan, cluster: LiveCluster, tools: Tools) -> None:
    """What the steps of the plan will need at the nodes."""
    kinds = {step.do for step in plan.steps}
    library: Path | None = None
    if plan.fails_syncs:
        try:
            library = disk.failing_sync_library(tools.flags)
        except Unfit as reason:
            print(f"  syncs cannot fail here: {reason}", flush=True)
    for node, environment in cluster.environment.items():
        if Do.CLOCK in kinds:
            environment["SWOOSH_CLOCK_OFFSET_FILE"] = str(tools.clock_file(node))
        if library:
            environment |= {"LD_PRELOAD": str(library), "CHAOS_SYNC_FAILS": str(tools.sync_flag(node))}
        if Do.SWAP in kinds:
            disk.keep(cluster.home(node), tools.flags / f"as-initialised-{node}")


def machine() -> str:
    """What the numbers were measured on."""
    return f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
