"""``swoosh-backbeat-sim``: an honest Pulse and Reverb on a NATS server.

Pulse keeps time: `spans` are the phases as they really are, and what follows from a seed happens to the frames on their
way, never to the time. Each frame is sent in the phase it names, and its ``deadline_at`` is that phase's end; it may
then come late, twice, after its successor, or not at all. Reverb reports each bar at the next downbeat, and counts the
agents whose claims it heard.

The tempo moves by at most a tenth at a time, as the tempo guide asks. Everything here is for tests and first steps;
nothing of it runs in a node.
"""

from __future__ import annotations

import asyncio
import heapq
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import click

from cluster.clock import Clock, SystemClock
from cluster.egress import Unreachable
from cluster.entropy import SeededEntropy
from cluster.providers.broker import Access, Broker, Line
from cluster.providers.nats import Nats
from swoosh.hlc import time_text

PHASES = ("plan", "execute", "review")
TEMPO_STEP = 0.1
"""The largest change of tempo at a time, as a share of it."""
TEMPO_MIN, TEMPO_MAX = 0.1, 1000.0
SHARE = click.FloatRange(0, 1)


class Score(NamedTuple):
    """What is played.

    Shares are of frames, from 0 to 1: ``loss`` are never sent, ``twice`` sent again, ``disorder`` sent after their
    successor. ``jitter`` is the most by which a frame is late, as a share of its phase. Every ``tempo_every`` beats the
    tempo changes; at beat ``restart_at`` Pulse forgets its count. 0 is never.
    """

    cluster: str = "lab"
    tempo_bpm: float = 60.0
    bar: int = 4
    seed: int = 0
    jitter: float = 0.0
    loss: float = 0.0
    twice: float = 0.0
    disorder: float = 0.0
    tempo_every: int = 0
    restart_at: int = 0


class Span(NamedTuple):
    """One phase as it really is, from ``from_ms`` until before ``to_ms`` (since 1970)."""

    beat: int
    downbeat: bool
    phase: str
    window: str
    tempo_bpm: float
    from_ms: int
    to_ms: int


class Sent(NamedTuple):
    """A message on its way: when it is handed to the broker, the subject's last word, what it says."""

    at_ms: int
    order: int
    subject: str
    message: dict[str, Any]


def spans(score: Score, start_ms: int) -> Iterator[Span]:
    """The phases of every beat, without end."""
    entropy = SeededEntropy(f"pulse/{score.seed}")
    tempo, at_ms = score.tempo_bpm, float(start_ms)
    window = ""
    for number in count():
        restarted = score.restart_at and number >= score.restart_at
        beat = number - score.restart_at if restarted else number
        if score.tempo_every and number and number % score.tempo_every == 0:
            tempo = _changed(tempo, entropy)
        downbeat = beat % score.bar == 0
        if downbeat:
            window = entropy.token(16).hex()
        length_ms = 60_000 / tempo
        edges = [round(at_ms + length_ms * third / len(PHASES)) for third in range(len(PHASES) + 1)]
        for place, phase in enumerate(PHASES):
            yield Span(beat, downbeat, phase, window, tempo, edges[place], edges[place + 1])
        at_ms += length_ms


def _changed(tempo: float, entropy: SeededEntropy) -> float:
    """Up or down in whole tenths of a beat per minute, by at most a tenth of what it was."""
    most = int(tempo * TEMPO_STEP * 10)
    tenths = round(tempo * 10) + round((2 * entropy.random() - 1) * most)
    return min(max(tenths / 10, TEMPO_MIN), TEMPO_MAX)


def messages(score: Score, played: Iterable[Span]) -> Iterator[Sent]:
    """What is sent about these spans, in the order in which it is sent."""
    entropy, numbers = SeededEntropy(f"line/{score.seed}"), count()
    waiting: list[Sent] = []
    first: Span | None = None
    last: Span | None = None
    for span in played:
        while waiting and waiting[0].at_ms <= span.from_ms:
            yield heapq.heappop(waiting)
        if first is None or span.window != first.window:
            if first is not None and last is not None:
                heapq.heappush(waiting, Sent(span.from_ms, next(numbers), "report", report_of(first, last)))
            first = span
        last = span
        for at_ms in _times(score, span, entropy):
            heapq.heappush(waiting, Sent(at_ms, next(numbers), "beat", frame_of(score.cluster, span)))
    while waiting:
        yield heapq.heappop(waiting)


def _times(score: Score, span: Span, entropy: SeededEntropy) -> list[int]:
    """When a frame is sent: once, as a rule. Five draws for each, so that no share changes another's choices."""
    lost, again, disordered, late, gap = (entropy.random() for _ in range(5))
    length_ms = span.to_ms - span.from_ms
    at_ms = span.from_ms + int(late * score.jitter * length_ms)
    if disordered < score.disorder:
        at_ms += length_ms
    times = [] if lost < score.loss else [at_ms]
    return [*times, at_ms + int(gap * 2 * length_ms)] if again < score.twice else times


def frame_of(cluster: str, span: Span) -> dict[str, Any]:
    """INT-A."""
    return {
        "type": "backbeat.beatframe.v1",
        "cluster_id": cluster,
        "beat_index": span.beat,
        "downbeat": span.downbeat,
        "phase": span.phase,
        "hlc": f"{span.from_ms // 1000 & 0xFFFF:04x}:{PHASES.index(span.phase):04x}:0001",
        "deadline_at": time_text(span.to_ms),
        "tempo_bpm": span.tempo_bpm,
        "window_id": span.window,
    }


def report_of(first: Span, last: Span) -> dict[str, Any]:
    """INT-C, of the bar from ``first`` to ``last``."""
    return {
        "type": "backbeat.barreport.v1",
        "window_id": first.window,
        "from_beat": first.beat,
        "to_beat": last.beat,
        "agents_reporting": 0,
        "on_time_reviews": 0,
        "help_promises_fulfilled": 0,
        "secret_rotations_ok": True,
        "tempo_drift_ms": 0.0,
        "issues": [],
    }


# --- playing ----------------------------------------------------------------------------------------------------------


class Reverb:
    """Counts the agents that said something in the bar."""

    def __init__(self) -> None:
        self._agents: set[str] = set()

    def hear(self, data: bytes) -> None:
        """A claim; what is none is passed over."""
        try:
            claim = json.loads(data)
        except ValueError:
            return
        if isinstance(claim, dict) and claim.get("type") == "backbeat.statusclaim.v1":
            self._agents.add(str(claim.get("agent_id")))

    def counted(self, report: dict[str, Any]) -> dict[str, Any]:
        """The report with its count; the next bar begins at nought."""
        agents, self._agents = self._agents, set()
        return {**report, "agents_reporting": len(agents)}


async def play(
    broker: Broker, url: str, score: Score, clock: Clock, *, beats: int = 0, span: Callable[[Span], None] | None = None
) -> None:
    """Play so many beats, 0 without end, to the broker. A broker that is away misses what is played meanwhile.

    ``span`` is told every phase before anything is said about it.
    """
    reverb, line = Reverb(), None
    heard = _told(_first(spans(score, clock.wall_us() // 1000), beats), span)
    try:
        for sent in messages(score, heard):
            await clock.sleep(max(0.0, sent.at_ms / 1000 - clock.wall_us() / 1_000_000))
            message = reverb.counted(sent.message) if sent.subject == "report" else sent.message
            line = await _say(broker, url, line, reverb, f"backbeat.{score.cluster}.{sent.subject}", message)
    finally:
        if line is not None:
            await line.close()


async def _say(
    broker: Broker, url: str, line: Line | None, reverb: Reverb, subject: str, message: dict[str, Any]
) -> Line | None:
    try:
        if line is None or line.lost is not None:
            line = await broker.connect(url, ("backbeat.status.>",), reverb.hear)
        await line.publish(subject, json.dumps(message).encode(), {})
    except Unreachable as error:
        click.echo(f"not sent: {error}", err=True)
    return line


def _first(played: Iterator[Span], beats: int) -> Iterator[Span]:
    for number, span in enumerate(played):
        if beats and number >= beats * len(PHASES):
            return
        yield span


def _told(played: Iterator[Span], tell: Callable[[Span], None] | None) -> Iterator[Span]:
    for span in played:
        if tell is not None:
            tell(span)
        yield span


@click.command()
@click.option("--url", default="nats://127.0.0.1:4222", show_default=True, help="nats:// or tls:// of the broker.")
@click.option(
    "--login", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File of name and password."
)
@click.option("--authorities", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Whom tls:// trusts.")
@click.option("--cluster", default="lab", show_default=True, help="The cluster_id of the frames.")
@click.option("--tempo", default=60.0, show_default=True, type=click.FloatRange(TEMPO_MIN, TEMPO_MAX), help="BPM.")
@click.option("--bar", default=4, show_default=True, type=click.IntRange(1), help="Beats per bar.")
@click.option("--beats", default=0, show_default=True, help="How many to play; 0 plays until it is stopped.")
@click.option("--seed", default=0, show_default=True, help="What happens to the frames follows from it.")
@click.option("--jitter", default=0.0, show_default=True, type=SHARE, help="Most lateness, as a share of a phase.")
@click.option("--loss", default=0.0, show_default=True, type=SHARE, help="Share of frames never sent.")
@click.option("--twice", default=0.0, show_default=True, type=SHARE, help="Share of frames sent again.")
@click.option("--disorder", default=0.0, show_default=True, type=SHARE, help="Share of frames sent after the next.")
@click.option(
    "--tempo-every", default=0, show_default=True, help="Beats from one change of tempo to the next; 0: none."
)
@click.option("--restart-at", default=0, show_default=True, help="The beat at which the count begins anew; 0: none.")
def main(
    url: str, login: Path | None, authorities: Path | None, cluster: str, tempo: float, beats: int, **how: Any
) -> None:
    """Play BACKBEAT to a NATS server: a frame for each phase, a report for each bar."""
    access = Access(login.read_text(encoding="utf-8") if login else "", authorities)
    score = Score(cluster=cluster, tempo_bpm=round(tempo, 1), **how)
    try:
        asyncio.run(play(Nats(access), url, score, SystemClock(), beats=beats))
    except KeyboardInterrupt:
        click.echo("stopped", err=True)


if __name__ == "__main__":
    main()
