"""500 beats with jitter, loss, repeats, disorder, changes of tempo, a Pulse that forgets its count, and new leaders.

Callers propose the next step of a project at any moment, in whatever window. Afterwards the log is replayed, and the
guard outcomes in the records it gives are held against the music as it was played (chaos/beats.py).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import msgspec
import pytest

from chaos import steer
from chaos.beats import CLASSES, Kept, judge
from chaos.solo import Solo, the_chart
from cluster.entropy import SeededEntropy
from cluster.standins.backbeat import PHASES, Score, Span, messages, spans
from swoosh.outcome import FactAccepted, GuardOutcome, Refused
from swoosh.wal import WalRecord
from tests.cluster.band import BEATS, REPORTS, Band

BEATS_PLAYED = 500
BAD_LUCK = Score(jitter=0.6, loss=0.1, twice=0.1, disorder=0.1, tempo_every=8, restart_at=300)
LEADERS = 4
TRIES_A_BEAT = 6
SUBJECTS = {"beat": BEATS, "report": REPORTS}


@dataclass
class Concert:
    """What was played, what was asked and refused, and what the replayed log says."""

    band: Band
    played: list[Span]
    closed: Counter[str]
    records: list[WalRecord]
    frames: dict[str, dict[str, object]]


async def play(score: Score, beats: int) -> Concert:
    band = Band()
    entropy = SeededEntropy(f"callers/{score.seed}")
    played = list(islice(spans(score, band.now_ms), beats * len(PHASES)))
    end, closed = played[-1].to_ms, Counter[str]()
    sent = [(each.at_ms, 0, each) for each in messages(score, played) if each.at_ms < end]
    tries = [
        (round(band.now_ms + entropy.random() * (end - band.now_ms)), 1, None) for _ in range(beats * TRIES_A_BEAT)
    ]
    elections = [(played[len(played) * each // LEADERS].from_ms, 2, None) for each in range(1, LEADERS)]
    await band.start()
    for at_ms, what, message in sorted([*sent, *tries, *elections], key=lambda each: each[:2]):
        await band.pass_ms(at_ms - band.now_ms)
        if message is not None:
            band.say(message.message, SUBJECTS[message.subject])
            await band.turn()
        elif what == 1:
            propose(band.solo, played, entropy, closed)
        else:
            await band.stop()
            await band.start()
    await band.stop()
    return Concert(band, played, closed, *replayed(band.solo))


def propose(solo: Solo, played: list[Span], entropy: SeededEntropy, closed: Counter[str]) -> None:
    """The project's next step, now; one in five names some window of the past or the future."""
    move = steer.next_move(solo)
    row = solo.chart.project.resolve(move.transition)
    assert row is not None
    for said in move.facts:
        solo.fact(*said)
    window = None
    if row.window and entropy.random() < 0.2:
        window = played[int(entropy.random() * len(played))].window
    outcome = solo.propose(move.transition, move.inputs, signer=move.signer, window=window)
    if isinstance(outcome, Refused):
        assert outcome.failing_guard in ("window_open", "new_window"), outcome
        closed[row.window or "next"] += 1


def replayed(solo: Solo) -> tuple[list[WalRecord], dict[str, dict[str, object]]]:
    """The records that the log gives, and the frames that guards may cite by digest."""
    again = Solo(the_chart(), settings=solo.genesis.settings)
    records, frames = [], {}
    for index, term, data in solo.log:
        applied = again.feed(index, term, data)
        records += [record for record, _ in applied.records]
        for outcome in applied.outcomes:
            if isinstance(outcome, FactAccepted) and outcome.kind == "beat":
                held = again.machine.registry.facts.get(outcome.kind, outcome.subject)
                assert held is not None and held.digest == outcome.digest
                frames[outcome.digest] = held.body
    assert again.machine.cluster_hash == solo.machine.cluster_hash
    return records, frames


@pytest.fixture(scope="module")
def concert() -> Concert:
    return asyncio.run(play(BAD_LUCK, BEATS_PLAYED))


def test_time_gated_transitions_happen_only_in_their_windows(concert: Concert) -> None:
    kept = judge(concert.records, concert.played, the_chart())
    assert not kept.violations, "\n".join(kept.violations)
    for window_class in CLASSES:
        assert kept.accepted[window_class] >= 30 and concert.closed[window_class] >= 30, (kept, concert.closed)


def test_each_guard_cites_the_frame_it_rests_on(concert: Concert) -> None:
    for record, outcome in gated(concert):
        frame = concert.frames[outcome.facts[0]]
        row = the_chart().of(record.project).transitions[record.transition_name]
        assert (frame["phase"] == "review") == (row.window == "review")
        assert record.timestamp // 1000 < int(str(frame["deadline_at"]))
        assert (frame["window_id"] == record.window_id) == (row.window != "reverb")


def gated(concert: Concert) -> Iterator[tuple[WalRecord, GuardOutcome]]:
    for record in concert.records:
        yield from ((record, outcome) for outcome in record.guard_outcomes if outcome.name == "window_open")


def test_the_weather_was_bad_and_the_log_stayed_small(concert: Concert) -> None:
    counts, facts = sum((provider.counts for provider in concert.band.providers), Counter[str]()), concert.band.facts
    assert min(counts[what] for what in ("late", "repeated", "backward", "missing")) > 0, counts
    tempi = {span.tempo_bpm for span in concert.played}
    assert len(tempi) > 20
    frames = [fact for fact in facts if fact.kind == "beat"]
    assert len(frames) <= len(concert.played), "at most one fact for each frame"
    assert len(frames) > len(concert.played) / 2, "and most of them were heard"
    assert concert.band.broker.said


def test_the_model_is_not_blind(concert: Concert) -> None:
    """Shift the music under the same records, and it must object in every class."""
    late = [span._replace(from_ms=span.from_ms + 400, to_ms=span.to_ms + 400) for span in concert.played]
    named = {
        violation.split(", ")[1].split(" in ")[0] for violation in judge(concert.records, late, the_chart()).violations
    }
    assert named >= {"EXECUTION_REVIEW_OPENED", "EXECUTION_APPROVED", "EXECUTION_PLAN_LOCKED", "EXECUTION_TASK_CLAIMED"}
    silent = [msgspec.structs.replace(record, guard_outcomes=()) for record in concert.records]
    kept: Kept = judge(silent, concert.played, the_chart())
    assert len(kept.violations) == kept.accepted.total()
