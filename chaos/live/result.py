"""What a run came to: plain values, written as JSON and drawn by report.py. The verdict is decided here.

A run that proves nothing is no success: `INVALID` has an exit code of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

import msgspec

from chaos import history
from chaos.history import Attempt, Event, Findings, Verdict
from chaos.live.nemesis import Fault
from chaos.live.plan import Minimum

NODES_MIN = 2
"""Nodes that callers must have been acknowledged at."""
PERCENTILES = (50, 90, 99, 100)


class Ending(IntEnum):
    """How a run ended; also its exit code."""

    HELD = 0
    VIOLATED = 1
    INVALID = 3


class Sample(msgspec.Struct, frozen=True):
    """What every node was at one moment: leader, follower, candidate, cold or silent. ``at`` is monotonic seconds."""

    at: float
    roles: dict[str, str]
    term: int


class Result(msgspec.Struct, kw_only=True):
    """One run. Times are seconds of the monotonic clock; durations are seconds.

    Attributes:
        wrong: what contradicts a promise: the checker's findings, and what nodes did or failed to do.
        thin: why the run proves nothing.
        mended: when the last fault was over.
        recovery: from then to the next acknowledgement of something proposed after it.
        gaps: for each fault, from its begin to the next acknowledgement of something proposed after it.
    """

    plan: str
    why: str
    seed: int
    date: str
    machine: str
    network: str
    command: str
    started: float
    mended: float
    ended: float
    nodes: list[str]
    faults: list[Fault]
    samples: list[Sample]
    skipped: list[str]
    wrong: list[str]
    thin: list[str]
    counts: dict[str, int]
    told: dict[str, int]
    recovery: float | None
    gaps: list[float | None]
    latencies: list[float]
    acknowledged_at: list[float]

    @property
    def ending(self) -> Ending:
        """What contradicts a promise outweighs a run that is too thin."""
        if self.wrong:
            return Ending.VIOLATED
        return Ending.INVALID if self.thin else Ending.HELD

    def summary(self) -> dict[str, object]:
        """The run in one JSON line."""
        return {
            "date": self.date,
            "plan": self.plan,
            "ending": self.ending.name.lower(),
            "seed": self.seed,
            "machine": self.machine,
            "network": self.network,
            "seconds": round(self.ended - self.started, 1),
            "nodes": len(self.nodes),
            "faults": len(self.faults),
            "skipped": self.skipped,
            "exits": sorted({code for fault in self.faults for code in fault.exits.values()}),
            "wrong": self.wrong,
            "thin": self.thin,
            "told": self.told,
            "checked": self.counts,
            "ops_per_s": round(len(self.acknowledged_at) / max(self.ended - self.started, 0.1), 1),
            "latency_ms": {f"p{at}": round(value * 1000, 1) for at, value in percentiles(self.latencies).items()},
            "recovery_s": None if self.recovery is None else round(self.recovery, 2),
            "gap_s": {f"p{at}": round(value, 2) for at, value in percentiles(_known(self.gaps)).items()},
        }


def percentiles(values: Sequence[float]) -> dict[int, float]:
    """By nearest rank; empty where there is nothing."""
    ordered = sorted(values)
    return {at: ordered[max(0, -(-len(ordered) * at // 100) - 1)] for at in PERCENTILES} if ordered else {}


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def accepted(events: Sequence[Event]) -> list[Attempt]:
    """What was acknowledged."""
    return [event for event in events if isinstance(event, Attempt) and event.verdict is Verdict.ACCEPTED]


def next_acknowledged(attempts: Sequence[Attempt], moment: float) -> float | None:
    """Seconds from a moment to the first acknowledgement of something that was proposed after it."""
    ends = [attempt.end for attempt in attempts if attempt.start > moment]
    return min(ends) - moment if ends else None


def violations(found: Findings, faults: Sequence[Fault], recovery: float | None, within: float) -> list[str]:
    """Every promise that was broken."""
    wrong = [str(violation) for violation in found.violations]
    wrong += [f"{fault.do}: {fault.wrong}" for fault in faults if fault.wrong]
    if recovery is None:
        wrong.append("nothing was acknowledged after the last fault was over")
    elif recovery > within:
        wrong.append(f"the first acknowledgement after the last fault took {recovery:.1f} s; {within:g} s are allowed")
    return wrong


def shortfalls(events: Sequence[Event], faults: Sequence[Fault], minimum: Minimum, started: float) -> list[str]:
    """Everything that makes "no violation" mean nothing."""
    least = history.Minimum(
        acknowledged=minimum.acknowledged, unknown=minimum.unknown, reads=minimum.reads, nodes=NODES_MIN
    )
    thin = history.shortfalls(events, least)
    if not faults:
        return [*thin, "no fault was carried out"]
    first = min(fault.start for fault in faults)
    calm = sum(attempt.end < first for attempt in accepted(events)) / max(first - started, 0.1)
    if calm < minimum.per_second:
        thin.append(f"{calm:.1f} acknowledgements a second before the first fault, {minimum.per_second:g} are needed")
    return thin + [f"{fault.do} of {', '.join(fault.nodes)} took no effect" for fault in faults if not fault.effective]


def roles_of(reports: Mapping[str, Mapping[str, object]], nodes: Sequence[str]) -> dict[str, str]:
    """What each node is, by what it says of itself."""
    found = {}
    for node in nodes:
        report = reports.get(node)
        consensus = report["consensus"] if report else None
        role = str(consensus["role"]) if isinstance(consensus, Mapping) else "silent"
        found[node] = "cold" if report and report["status"] == "cold" else role
    return found
