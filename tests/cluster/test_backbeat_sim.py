"""The stand-in for BACKBEAT is honest: it keeps time, whatever happens to the frames on their way."""

from __future__ import annotations

import asyncio
import json
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.clock import ManualClock
from cluster.providers import beats
from cluster.providers.beats import BarReport, BeatFrame
from cluster.providers.broker import MemoryBroker
from cluster.standins.backbeat import PHASES, TEMPO_STEP, Score, Span, messages, play, spans

START_MS = 1_767_225_600_000
SHARES = st.sampled_from([0.0, 0.2, 1.0])
SCORES = st.builds(
    Score,
    cluster=st.just("lab"),
    tempo_bpm=st.integers(1, 10_000).map(lambda tenths: tenths / 10),
    bar=st.integers(1, 8),
    seed=st.integers(0, 1000),
    jitter=SHARES,
    loss=SHARES,
    twice=SHARES,
    disorder=SHARES,
    tempo_every=st.integers(0, 4),
    restart_at=st.integers(0, 20),
)


def played(score: Score, beats_played: int = 30) -> list[Span]:
    return list(islice(spans(score, START_MS), beats_played * len(PHASES)))


@given(SCORES)
def test_time_has_no_gaps_and_the_tempo_moves_by_a_tenth_at_most(score: Score) -> None:
    music = played(score)
    assert [span.phase for span in music[:3]] == list(PHASES) and music[0].from_ms == START_MS
    for now, then in pairwise(music):
        assert now.to_ms == then.from_ms
        assert abs(then.tempo_bpm - now.tempo_bpm) <= now.tempo_bpm * TEMPO_STEP + 1e-9
        assert (then.window != now.window) == (then.downbeat and then.phase == "plan")
        assert then.beat - now.beat == (then.phase == "plan") or then.beat == 0


@given(SCORES)
def test_what_is_sent_is_of_the_schema_and_true(score: Score) -> None:
    music = played(score)
    truth = {(span.window, span.beat, span.phase): span for span in music}
    sent = list(messages(score, music))
    assert [each.at_ms for each in sent] == sorted(each.at_ms for each in sent)
    for each in sent:
        said = beats.decode(json.dumps(each.message).encode())
        if isinstance(said, BeatFrame):
            span = truth[said.window_id, said.beat_index, said.phase]
            assert said.body().deadline_at == span.to_ms and each.at_ms >= span.from_ms
        else:
            bar = [span for span in music if span.window == said.window_id]
            assert (said.from_beat, said.to_beat) == (bar[0].beat, bar[-1].beat) and each.at_ms >= bar[-1].to_ms
    reports = [each for each in sent if each.subject == "report"]
    assert len(reports) == len({span.window for span in music}) - 1, "the last bar is not over"
    assert sent == list(messages(score, played(score))), "the seed decides"


def test_weather_is_as_it_was_ordered() -> None:
    music = played(Score(), 500)
    calm = [each for each in messages(Score(), music) if each.subject == "beat"]
    assert [each.at_ms for each in calm] == [span.from_ms for span in music]
    lossy = [each for each in messages(Score(loss=0.5), music) if each.subject == "beat"]
    assert 600 < len(lossy) < 900
    assert not [each for each in messages(Score(loss=1.0), music) if each.subject == "beat"]
    assert len([each for each in messages(Score(twice=1.0), music) if each.subject == "beat"]) == 2 * len(music)


async def test_it_plays_in_time_and_counts_who_claims() -> None:
    broker, clock, heard = MemoryBroker(), ManualClock(START_MS * 1000), list[Span]()
    playing = asyncio.ensure_future(play(broker, "nats://x", Score(bar=1), clock, beats=3, span=heard.append))
    claim = {"type": "backbeat.statusclaim.v1", "agent_id": "a"}
    for _ in range(60):
        for _ in range(10):
            await asyncio.sleep(0)
        broker.say("backbeat.status.>", json.dumps(claim).encode())
        broker.say("backbeat.status.>", b"noise")
        clock.advance(0.1)
    await playing
    assert len(heard) == 9 and not broker.lines
    said = [beats.decode(each.data) for each in broker.said]
    assert [each.phase for each in said if isinstance(each, BeatFrame)] == list(PHASES) * 3
    assert [each.agents_reporting for each in said if isinstance(each, BarReport)] == [1, 1]
    assert {each.subject for each in broker.said} == {"backbeat.lab.beat", "backbeat.lab.report"}


async def test_a_broker_that_is_away_misses_what_is_played(capsys: pytest.CaptureFixture[str]) -> None:
    broker, clock = MemoryBroker(), ManualClock(START_MS * 1000)
    broker.stop()
    playing = asyncio.ensure_future(play(broker, "nats://x", Score(), clock, beats=2))
    for step in range(30):
        for _ in range(10):
            await asyncio.sleep(0)
        clock.advance(0.1)
        if step == 10:
            broker.start()
    await playing
    frames = [beats.decode(each.data) for each in broker.said]
    assert [each.beat_index for each in frames if isinstance(each, BeatFrame)] == [1, 1]
    assert "not sent" in capsys.readouterr().err
