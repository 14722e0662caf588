"""``python -m chaos.live.beats``: does a real cluster keep the windows of a real broker?

Three nodes, a ``nats-server``, and a Pulse whose frames come late, twice, out of order or not at all, and whose tempo
changes. A project goes round and round; its callers propose whenever they like. A third on the way the broker is
restarted, two thirds on the way the leader is killed. Then the WAL records of the project, guard outcomes and all, are
held against the music as it was played (`chaos.beats`).
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from chaos.beats import CLASSES, judge
from chaos.live import stage
from chaos.live.cluster import LiveCluster
from chaos.live.nats import MISSING, NatsServer, is_installed
from chaos.live.stage import ARTIFACT, PLAN, PROJECT, ROLES, TASKS, Stage
from cluster.clock import SystemClock
from cluster.config import packaged_chart
from cluster.providers.broker import Access
from cluster.providers.nats import Nats
from cluster.standins.backbeat import PHASES, Score, Span, play
from swoosh.client import Refused
from swoosh.wal import WalRecord

REPORT = Path(__file__).resolve().parents[2] / "docs" / "reports" / "beats.jsonl"
BAD_LUCK = Score(tempo_bpm=150.0, bar=4, jitter=0.3, loss=0.1, twice=0.1, disorder=0.1, tempo_every=8)
PAUSE_SECONDS = 0.02


class Result(msgspec.Struct, frozen=True):
    """A line of the report. ``accepted`` and ``closed`` count proposals by time class: those on record, and those that
    a window guard refused."""

    date: str
    beats: int
    tempo_bpm: tuple[float, float]
    score: dict[str, Any]
    windows: int
    leaders: int
    accepted: dict[str, int]
    closed: dict[str, int]
    violations: tuple[str, ...]

    @property
    def is_thin(self) -> bool:
        """Whether the windows were not put to the test: some class was never entered, or none refused."""
        return not (all(self.accepted.get(name) for name in CLASSES) and any(self.closed.values()))


class Cast(Stage):
    """Everyone who acts on the project, and the music they hear."""

    def __init__(self, cluster: LiveCluster) -> None:
        super().__init__(cluster)
        self.played: list[Span] = []
        self.closed: Counter[str] = Counter()
        self._clock = SystemClock()

    @property
    def beat(self) -> int:
        """How many have begun."""
        now_ms = self._clock.wall_us() // 1000
        return sum(span.phase == PHASES[0] and span.from_ms <= now_ms for span in self.played)

    async def act(self, who: str, transition: str, inputs: Mapping[str, Any] | None = None, window: str = "") -> None:
        """Propose again and again until it is accepted."""
        while not await self.tried(who, transition, inputs, window):
            await asyncio.sleep(PAUSE_SECONDS)

    def is_closed(self, window: str, outcome: object) -> bool:
        """Counts what it finds closed."""
        closed = super().is_closed(window, outcome)
        if closed and isinstance(outcome, Refused):
            self.closed[window if outcome.failing_guard == "window_open" else "next"] += 1
        return closed

    async def records(self) -> list[dict[str, Any]]:
        """The project's WAL."""
        return [record async for record in self._clients["proposer"].wal(PROJECT)]

    async def window_id(self, window: str) -> str:
        """The window that is heard, but for reverb."""
        if window == "reverb":
            return await super().window_id(window)
        now_ms = self._clock.wall_us() // 1000
        begun = [span.window for span in self.played if span.from_ms <= now_ms]
        return begun[-1] if window and begun else ""


async def conduct(beats: int, score: Score, directory: Path) -> Result:
    """One run in an empty directory."""
    server = NatsServer(directory)
    cluster = LiveCluster.create(directory / "cluster", "--windows", "backbeat")
    url = f"nats://{server.address}"
    try:
        server.start()
        for told in cluster.environment.values():
            told |= {"SWOOSH_BACKBEAT_URL": url, "SWOOSH_BACKBEAT_CLUSTER": score.cluster}
        cluster.start()
        cast = Cast(cluster)
        try:
            await cast.follow()
            for act in (stage.boot, stage.ingest, stage.seat, stage.pin_tools, stage.provision):
                await act(cast)
            await _play(cast, server, url, score, beats)
            await cluster.agreed()
            return await _result(cast, score)
        finally:
            await cast.close()
    finally:
        cluster.close()
        server.stop(signal.SIGKILL)


async def _play(cast: Cast, server: NatsServer, url: str, score: Score, beats: int) -> None:
    """The music goes on until the play is over; where it breaks off, nobody waits for a window any more."""
    music = asyncio.ensure_future(play(Nats(Access()), url, score, SystemClock(), span=cast.played.append))
    acts = asyncio.ensure_future(_acts(cast, server, beats))
    try:
        await asyncio.wait([music, acts], return_when=asyncio.FIRST_COMPLETED)
        await (acts if acts.done() else music)
    finally:
        music.cancel()
        acts.cancel()


async def _acts(cast: Cast, server: NatsServer, beats: int) -> None:
    """Three, of a third of the beats each. Before the second the broker is restarted, before the third the leader is
    killed."""
    await _go_round(cast, beats // 3)
    server.stop(signal.SIGKILL)
    server.start()
    await _go_round(cast, beats * 2 // 3)
    victim = cast.leader
    cast.cluster.kill(victim)
    await cast.follow()
    cast.cluster.start(victim)
    await _go_round(cast, beats)


async def _go_round(cast: Cast, until_beat: int) -> None:
    """Whole turns of the loop, at least one, until so many beats have been played."""
    while True:
        await _turn(cast)
        if cast.beat >= until_beat:
            return


async def _turn(cast: Cast) -> None:
    for agent in ROLES.values():
        await cast.report("agent", cast.principals([agent])[0], {"name": agent})
    stands_on = await stage.agreement(cast)
    phase = (await cast.region("Execution"))["Phase"]
    if phase == "IDLE":
        await cast.act("proposer", "EXECUTION_BEGUN", stands_on, "plan")
    tasks = {task: f"{task} it" for task in TASKS}
    await cast.act("proposer", "EXECUTION_PLAN_LOCKED", {**stands_on, "plan_hash": PLAN, "tasks": tasks}, "plan")
    for task, agent in TASKS.items():
        await cast.act(agent, "EXECUTION_TASK_CLAIMED", {"task": task}, "work")
        evidence = f"ucxl://{agent}:{task}@demo/result"
        await cast.act(agent, "EXECUTION_TASK_COMPLETED", {"task": task, "evidence": evidence}, "work")
    await cast.act("proposer", "EXECUTION_REVIEW_OPENED", {}, "review")
    for agent in ROLES.values():
        others = [task for task, owner in TASKS.items() if owner != agent]
        await cast.act(agent, "EXECUTION_APPROVAL_RECORDED", {"verdict": "approve", "tasks": others}, "review")
    await cast.act("proposer", "EXECUTION_APPROVED", {}, "reverb")
    await cast.act("proposer", "EXECUTION_SUBMITTED", {"plan_hash": PLAN, "artifacts": [ARTIFACT]}, "reverb")
    await cast.act("proposer", "EXECUTION_NEXT_WINDOW", {}, "plan")


async def _result(cast: Cast, score: Score) -> Result:
    records = msgspec.convert(await cast.records(), list[WalRecord])
    kept = judge(records, cast.played, packaged_chart())
    tempi = [span.tempo_bpm for span in cast.played]
    return Result(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        beats=cast.beat,
        tempo_bpm=(min(tempi), max(tempi)),
        score=score._asdict(),
        windows=len({span.window for span in cast.played}),
        leaders=len({record.term for record in records}),
        accepted=dict(kept.accepted),
        closed=dict(cast.closed),
        violations=kept.violations,
    )


def main() -> int:
    """Parse and go; 0 where the windows were kept, 1 where not, 3 where the run shows nothing."""
    parser = argparse.ArgumentParser(prog="python -m chaos.live.beats")
    parser.add_argument("--beats", type=int, default=500)
    parser.add_argument("--tempo", type=float, default=BAD_LUCK.tempo_bpm, help="beats per minute to begin with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="append to the committed report")
    asked = parser.parse_args()
    if not is_installed():
        print(MISSING, file=sys.stderr)
        return 3
    with TemporaryDirectory() as directory:
        score = BAD_LUCK._replace(tempo_bpm=asked.tempo, seed=asked.seed)
        result = asyncio.run(conduct(asked.beats, score, Path(directory)))
    print(msgspec.json.format(msgspec.json.encode(result)).decode())
    if asked.record:
        with REPORT.open("ab") as file:
            file.write(msgspec.json.encode(result) + b"\n")
    return 1 if result.violations else 3 if result.is_thin else 0


if __name__ == "__main__":
    sys.exit(main())
