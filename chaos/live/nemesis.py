"""Carries out a plan: breaks, waits, mends, and notes when and whether it took effect.

It knows nothing of the traffic and judges nothing. Whatever it broke it can mend, so that a run that is interrupted
leaves the machine as it was.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from chaos.live import disk
from chaos.live.cluster import LiveCluster, Trouble
from chaos.live.disk import Disk
from chaos.live.network import Network, Unfit
from chaos.live.plan import EXIT_CODES, LEAVES_DAMAGE, Do, Plan, Step, To
from cluster.faults import ExitCode

ENDS_WITHIN_SECONDS = 30.0
READY_WITHIN_SECONDS = 60.0
CUTS = frozenset({Do.ISOLATE, Do.MUTE, Do.DEAFEN, Do.HALVE, Do.BRIDGE})

Undo = Callable[[], Awaitable[None]]


class Fault(msgspec.Struct):
    """One thing that went wrong. Times are seconds of the monotonic clock.

    Attributes:
        said: what exactly was done.
        exits: how nodes ended that ended by themselves.
        effective: False when it showed no effect, so that the run proves nothing about it.
        wrong: what the nodes should have done about it and did not.
    """

    do: Do
    nodes: list[str]
    start: float
    end: float = 0.0
    said: str = ""
    exits: dict[str, str] = {}
    effective: bool = True
    wrong: str = ""


class Tools(msgspec.Struct, frozen=True):
    """What a nemesis works with. ``flags`` is a directory for the files that nodes look at."""

    network: Network
    disks: Mapping[str, Disk]
    flags: Path

    def clock_file(self, node: str) -> Path:
        """Milliseconds by which a node's wall clock is off."""
        return self.flags / f"{node}.clock"

    def sync_flag(self, node: str) -> Path:
        """While it exists, the syncs of a node fail."""
        return self.flags / f"{node}.sync-fails"


class Nemesis:
    """One plan on one cluster."""

    def __init__(self, plan: Plan, cluster: LiveCluster, tools: Tools, chance: random.Random) -> None:
        self._plan, self._cluster, self._tools, self._chance = plan, cluster, tools, chance
        self.faults: list[Fault] = []
        self.skipped: list[str] = []
        """Steps this machine cannot do, with the reason."""

    async def run(self) -> None:
        """Every step, one after another."""
        for step in self._plan.steps:
            for number in range(step.times):
                await asyncio.sleep(step.after)
                targets = await self._targets(step, number)
                await self._once(step, targets)

    async def _once(self, step: Step, targets: list[str]) -> None:
        fault = Fault(step.do, targets, time.monotonic())
        try:
            undo = await _INJECT[step.do](self, step, targets, fault)
        except Unfit as reason:
            self.skipped.append(f"{step.do}: {reason}")
            return
        self.faults.append(fault)
        print(f"  {step.do} {', '.join(targets)} {fault.said}", flush=True)
        try:
            await asyncio.sleep(step.hold)
            if step.do in CUTS:
                fault.effective = await self._somebody_is_missed()
        finally:
            await undo()
            fault.end = time.monotonic()
        if step.settle:
            await self._cluster.ready(READY_WITHIN_SECONDS)

    async def _targets(self, step: Step, number: int) -> list[str]:
        leader = await self._cluster.ready(READY_WITHIN_SECONDS)
        nodes = self._cluster.running
        followers = [node for node in nodes if node != leader]
        match step.to:
            case To.LEADER:
                return [leader]
            case To.FOLLOWER:
                return [self._chance.choice(followers)]
            case To.ANY:
                return [self._chance.choice(nodes)]
            case To.IN_TURN:
                return [nodes[number % len(nodes)]]
            case To.MAJORITY:
                return [leader, *followers[: len(self._cluster.nodes) // 2]]
            case To.ALL:
                return nodes

    # --- processes ----------------------------------------------------------------------------------------------------

    async def _kill(self, step: Step, targets: list[str], fault: Fault) -> Undo:
        self._cluster.kill(*targets)
        return self._starts(targets)

    def _starts(self, targets: Sequence[str]) -> Undo:
        """A fault is over when the nodes are processes again: how long an interpreter takes to load is not theirs."""

        async def undo() -> None:
            self._cluster.start(*targets)
            await self._cluster.up(*targets)

        return undo

    async def _stop(self, step: Step, targets: list[str], fault: Fault) -> Undo:
        for node in targets:
            code = await asyncio.to_thread(self._cluster.stop, node)
            if code:
                fault.wrong = f"{node} ended with {code} when told to stop"
        return self._starts(targets)

    async def _pause(self, step: Step, targets: list[str], fault: Fault) -> Undo:
        for node in targets:
            self._cluster.pause(node)

        async def undo() -> None:
            for node in targets:
                self._cluster.resume(node)

        return undo

    # --- links --------------------------------------------------------------------------------------------------------

    async def _cut(self, step: Step, targets: list[str], fault: Fault) -> Undo:
        links = grudge(step.do, targets, list(self._cluster.nodes), self._chance)
        fault.said = f"({len(links)} directed links)"
        for source, target in links:
            self._tools.network.cut(source, target)

        async def undo() -> None:
            for source, target in links:
                self._tools.network.mend(source, target)

        return undo

    async def _flap(self, step: Step, targets: list[str], fault: Fault) -> Undo:
        links = grudge(Do.ISOLATE, targets, list(self._cluster.nodes), self._chance)
        fault.said = f"every {step.period:g} s"

        async def flapping() -> None:
            while True:
                for act in (self._tools.network.cut, self._tools.network.mend):
                    for source, target in links:
                        act(source, target)
                    await asyncio.sleep(step.period)

        task = asyncio.create_task(flapping())

        async def undo() -> None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            for source, target in links:
                self._tools.network.mend(source, target)

        return undo

    async def _slow(self, step: Step, targets: list[str], fault: Fault) -> Undo:
        fault.said = f"{step.rate_kbit} kbit/s, {step.delay_ms} ms"
        for node in targets:
            self._tools.network.slow(node, step.rate_kbit, step.delay_ms)

        async def undo() -> None:
            for node in targets:
                self._tools.network.normal(node)

        return undo

    async def _somebody_is_missed(self) -> bool:
        """Whether any node says that it cannot reach another."""
        reports = (await self._cluster.survey()).reports.values()
        return any(not peer["reachable"] for report in reports for peer in report["consensus"]["peers"])

    # --- disks --------------------------------------------------------------------------------------------------------

    async def _power_cut(self, step: Step, targets: list[str], fault: Fault) -> Undo:
        disks = [self._disk(node) for node in targets]
        for each in disks:
            each.cut_power()
        self._cluster.kill(*targets)
        for each in disks:
            each.restore_power()  # not in a thread: that would mount it again after an interrupted run had cleaned up
        return self._starts(targets)

    async def _fail_sync(self, step: Step, targets: list[str], fault: Fault) -> Undo:
        for node in targets:
            if "LD_PRELOAD" not in self._cluster.environment[node]:
                raise Unfit("nodes run without the library that makes syncs fail")
            self._tools.sync_flag(node).touch()
        await self._must_end(step, targets, fault)

        async def undo() -> None:
            for node in targets:
                self._tools.sync_flag(node).unlink(missing_ok=True)
                await self._start_again(node)

        return undo

    async def _fill(self, step: Step, targets: list[str], fault: Fault) -> Undo:
        disks = [self._disk(node) for node in targets]
        taken = [each.fill() for each in disks]
        fault.said = f"{max(taken) >> 20} MiB of ballast"
        await self._must_end(step, targets, fault)

        async def undo() -> None:
            for node, each in zip(targets, disks, strict=True):
                each.empty()
                await self._start_again(node)

        return undo

    def _disk(self, node: str) -> Disk:
        try:
            return self._tools.disks[node]
        except KeyError:
            raise Unfit("nodes have no file system of their own") from None

    async def _start_again(self, node: str) -> None:
        if node not in self._cluster.running:
            self._cluster.start(node)
            await self._cluster.up(node)

    async def _damage(self, step: Step, targets: list[str], fault: Fault) -> Undo:
        """Kill, damage, start: the node must not serve what it cannot prove."""
        [node] = targets
        if step.do is Do.ROLL_BACK:
            await self._with_a_backup(step, node)
        self._cluster.kill(node)
        try:
            fault.said = self._damaged(step, node)
        finally:
            self._cluster.start(node)
        if step.ends_with:
            await self._must_end(step, targets, fault)
        else:
            await self._ended_or_ready(targets, fault)

        async def undo() -> None:
            if fault.exits:
                await self._come_back(node)

        return undo

    def _damaged(self, step: Step, node: str) -> str:
        home = self._cluster.home(node)
        match step.do:
            case Do.FLIP:
                return disk.flip(home, step.file, self._chance)
            case Do.ROLL_BACK:
                disk.put_back(home, self._tools.flags / "backup")
                return f"to what it was {step.hold:g} s ago"
            case Do.SWAP:
                other = self._chance.choice([name for name in self._cluster.nodes if name != node])
                disk.put_back(home, self._tools.flags / f"as-initialised-{other}")
                return f"it found the directory of {other}"
            case _:
                disk.wipe(home)
                return ""

    async def _with_a_backup(self, step: Step, node: str) -> None:
        self._cluster.kill(node)
        disk.keep(self._cluster.home(node), self._tools.flags / "backup")
        self._cluster.start(node)
        await self._cluster.ready(READY_WITHIN_SECONDS)
        await asyncio.sleep(step.hold)

    async def _must_end(self, step: Step, targets: list[str], fault: Fault) -> None:
        wanted = step.ends_with or (ExitCode.DISK.name,)
        for node in targets:
            try:
                code = await self._cluster.ended(node, ENDS_WITHIN_SECONDS)
            except Trouble:
                fault.wrong = f"{node} went on serving; it should have ended with {' or '.join(wanted)}"
                continue
            fault.exits[node] = _name(code)
            if fault.exits[node] not in wanted:
                fault.wrong = f"{node} ended with {fault.exits[node]}, not {' or '.join(wanted)}"

    async def _ended_or_ready(self, targets: list[str], fault: Fault) -> None:
        """Found at once, or no harm done: the checker sees to it that what such a node says is true."""
        deadline = time.monotonic() + ENDS_WITHIN_SECONDS
        waiting = list(targets)
        while waiting and time.monotonic() < deadline:
            for node in list(waiting):
                if self._cluster.exit_code(node) is not None:
                    fault.exits[node] = _name(await self._cluster.ended(node))
                    waiting.remove(node)
                    if fault.exits[node] not in EXIT_CODES:
                        fault.wrong = f"{node} ended with {fault.exits[node]}, which tells an operator nothing"
                elif await self._serves(node):
                    waiting.remove(node)
            await asyncio.sleep(0.2)

    async def _serves(self, node: str) -> bool:
        report = (await self._cluster.survey()).reports.get(node)
        return report is not None and not report["missing"]

    async def _come_back(self, node: str) -> None:
        """As a new member: an operator starts it with a new store, and an admin accepts that."""
        self._cluster.start(node, options=["--rejoin", "--yes"])
        await self._cluster.wait_for(f"{node} to be replaced", lambda: self._replaced(node), READY_WITHIN_SECONDS)

    async def _replaced(self, node: str) -> bool | None:
        others = [endpoint for name, endpoint in self._cluster.nodes.items() if name != node]
        endpoints = [part for endpoint in others for part in ("--endpoint", endpoint)]
        key = str(self._cluster.keys / "admin.pem")
        command = ["member", "replace", node, "--yes", "--key", key, *endpoints]
        return (await asyncio.to_thread(self._cluster.swoosh, *command)).returncode == 0 or None

    # --- clocks -------------------------------------------------------------------------------------------------------

    async def _clock(self, step: Step, targets: list[str], fault: Fault) -> Undo:
        fault.said = f"by {step.offset_ms} ms"
        for node in targets:
            self._tools.clock_file(node).write_text(str(step.offset_ms))

        async def undo() -> None:
            for node in targets:
                self._tools.clock_file(node).write_text("0")

        return undo


def grudge(do: Do, targets: Sequence[str], nodes: Sequence[str], chance: random.Random) -> list[tuple[str, str]]:
    """Who is not heard by whom: (source, target) pairs."""
    others = [node for node in nodes if node not in targets]
    match do:
        case Do.MUTE:
            return [(target, other) for target in targets for other in others]
        case Do.DEAFEN:
            return [(other, target) for target in targets for other in others]
        case Do.BRIDGE:
            return between(*halves(others, chance))
        case Do.HALVE:
            fewer = (len(nodes) - 1) // 2
            with_it = chance.sample(others, max(0, fewer - len(targets)))
            return between([*targets, *with_it], [other for other in others if other not in with_it])
        case _:
            return between(targets, others)


def between(some: Sequence[str], others: Sequence[str]) -> list[tuple[str, str]]:
    """Every directed link between two groups."""
    return [pair for a in some for b in others for pair in ((a, b), (b, a))]


def halves(nodes: Sequence[str], chance: random.Random) -> tuple[list[str], list[str]]:
    """Two groups of about the same size."""
    shuffled = chance.sample(list(nodes), len(nodes))
    return shuffled[: len(nodes) // 2], shuffled[len(nodes) // 2 :]


def _name(code: int) -> str:
    return ExitCode(code).name if code in set(ExitCode) else str(code)


_INJECT: dict[Do, Callable[[Nemesis, Step, list[str], Fault], Awaitable[Undo]]] = {
    Do.KILL: Nemesis._kill,
    Do.STOP: Nemesis._stop,
    Do.PAUSE: Nemesis._pause,
    **dict.fromkeys(CUTS, Nemesis._cut),
    Do.FLAP: Nemesis._flap,
    Do.SLOW: Nemesis._slow,
    Do.POWER_CUT: Nemesis._power_cut,
    Do.FAIL_SYNC: Nemesis._fail_sync,
    Do.FILL: Nemesis._fill,
    **dict.fromkeys(LEAVES_DAMAGE, Nemesis._damage),
    Do.CLOCK: Nemesis._clock,
}
