"""Were the windows kept? What the chains say, held against the music as it was really played.

A model of its own: it knows the phases as Pulse kept them (`Span`), not the frames that arrived, the facts they became,
or the code that judged by them. Jitter, loss, disorder and elections may close a window that was open. Nothing may open
one that was closed, and every record must say that its window guard looked, and at what.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cluster.standins.backbeat import Span
from swoosh.chart import Chart
from swoosh.wal import WalRecord

CLASSES = ("plan", "work", "review", "reverb")
_PHASES = {"plan": ("plan", "execute"), "work": ("plan", "execute"), "review": ("review",)}


class Kept(NamedTuple):
    """What was accepted in which class, and every record that ought not to be there, in words."""

    accepted: Counter[str]
    violations: tuple[str, ...]


def judge(records: Iterable[WalRecord], played: Sequence[Span], chart: Chart) -> Kept:
    """Hold the records of a project against ``played``, the spans in order, without gaps."""
    accepted: Counter[str] = Counter()
    violations: list[str] = []
    for record in records:
        row = chart.of(record.project).transitions[record.transition_name]
        if row.window is not None:
            accepted[row.window] += 1
            violations += [f"{_place(record)}: {fault}" for fault in _faults(row.window, record, played)]
    return Kept(accepted, tuple(violations))


def _place(record: WalRecord) -> str:
    return f"{record.project} seq {record.seq}, {record.transition_name} in {record.window_id}"


def _faults(window_class: str, record: WalRecord, played: Sequence[Span]) -> Iterator[str]:
    outcomes = [outcome for outcome in record.guard_outcomes if outcome.name == "window_open"]
    if len(outcomes) != 1 or not outcomes[0].ok or not outcomes[0].facts:
        yield f"its window guard says {outcomes}"
    now_ms, named = record.timestamp // 1000, record.window_id.removeprefix("backbeat:")
    at = bisect_right(played, now_ms, key=lambda span: span.from_ms) - 1
    if at < 0 or now_ms >= played[at].to_ms:
        yield "nothing was played then"
        return
    span = played[at]
    if window_class == "reverb":
        if span.phase == "review":
            yield f"beat {span.beat} was in review"
        if named not in {each.window for each in played[:at]} or span.window == named:
            yield f"window {named} was not over"
    else:
        if span.phase not in _PHASES[window_class]:
            yield f"beat {span.beat} was in {span.phase}"
        if span.window != named:
            yield f"the window was {span.window}"
