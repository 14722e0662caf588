"""The BACKBEAT provider: which frames are put on record, what is claimed, and when nothing may leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos import steer
from chaos.solo import Solo, the_chart
from cluster.providers import backbeat
from cluster.providers.backbeat import CLEAR_SECONDS, LOOK_SECONDS, PAUSE_SECONDS
from cluster.providers.beats import PHASES, StatusClaim
from cluster.standins import backbeat as standin
from cluster.standins.backbeat import Span
from swoosh import facts, signing, windows
from swoosh.facts import Known
from tests.cluster.band import CLAIMS, PACE_MS, REPORTS, Band

WINDOW, LATER = "a" * 32, "b" * 32
BEAT_MS = 60_000
THIRD_MS = BEAT_MS // 3


@pytest.fixture
async def band() -> AsyncIterator[Band]:
    made = Band()
    await made.start()
    yield made
    await made.stop()


def frame(band: Band, beat: int, phase: str = "plan", *, left_ms: int = THIRD_MS, **change: Any) -> dict[str, Any]:
    """What an honest Pulse says now, at 1 BPM; ``left_ms`` until the phase is over."""
    now = band.now_ms
    span = Span(beat, beat % 4 == 0, phase, WINDOW, 1.0, now + left_ms - THIRD_MS, now + left_ms)
    return standin.frame_of("lab", span) | change


def report(first: int, last: int, window: str = WINDOW) -> dict[str, Any]:
    bar = [Span(beat, False, "plan", window, 1.0, 0, 1) for beat in (first, last)]
    return standin.report_of(bar[0], bar[1])


# --- what is put on record --------------------------------------------------------------------------------------------


async def test_a_frame_becomes_a_fact_that_lives_as_long_as_the_window_is_known(band: Band) -> None:
    assert band.provider.trouble is not None and "no fresh beat" in band.provider.trouble
    await band.hear(frame(band, 480))
    (fact,) = band.facts
    assert (fact.kind, fact.subject, fact.gathered_term) == ("beat", "backbeat", 1)
    assert fact.expires_at - fact.observed_at == 2 * BEAT_MS, "two beats at its own tempo"
    assert fact.body["tempo_mbpm"] == 1_000 and fact.body["deadline_at"] == fact.observed_at + THIRD_MS
    await band.pass_ms(100)
    assert band.provider.trouble is None
    assert windows.current(band.solo.machine.registry, band.now_ms) is not None


async def test_the_life_of_a_frame_follows_the_tempo(band: Band) -> None:
    await band.hear(frame(band, 1, tempo_bpm=24.0))
    await band.hear(frame(band, 2, tempo_bpm=0.5))
    assert [fact.expires_at - fact.observed_at for fact in band.facts] == [5_000, 240_000]


async def test_only_what_is_later_counts(band: Band) -> None:
    for beat, phase in ((5, "execute"), (5, "execute"), (5, "plan"), (4, "review"), (5, "review"), (6, "plan")):
        await band.hear(frame(band, beat, phase))
    assert band.recorded() == [(5, "execute"), (5, "review"), (6, "plan")]
    assert band.provider.counts["repeated"] == 1 and band.provider.counts["backward"] == 2


async def test_a_phase_that_is_over_opens_nothing(band: Band) -> None:
    await band.hear(frame(band, 5, left_ms=0))
    await band.hear(frame(band, 5, "execute", left_ms=-1))
    assert not band.facts and band.provider.counts["late"] == 2
    await band.pass_ms(200)
    assert band.provider.trouble is not None and "2 late" in band.provider.trouble


async def test_a_pulse_that_begins_anew_is_believed_once_its_old_count_has_expired(band: Band) -> None:
    await band.hear(frame(band, 900))
    await band.pass_ms(2 * BEAT_MS - 2 * PACE_MS)
    await band.hear(frame(band, 0))
    assert band.recorded() == [(900, "plan")] and band.provider.counts["backward"] == 1
    await band.hear(frame(band, 0, "execute"))
    assert band.recorded() == [(900, "plan"), (0, "execute")]


async def test_missing_beats_are_counted(band: Band) -> None:
    for beat in (1, 2, 5):
        await band.hear(frame(band, beat))
    assert band.provider.counts["missing"] == 2


async def test_a_burst_collapses_to_the_newest(band: Band) -> None:
    band.stuck = asyncio.Event()
    await band.hear(frame(band, 1))
    for beat in (2, 4, 3):
        await band.hear(frame(band, beat))
    await band.hear(report(0, 3), REPORTS)
    assert not band.facts
    band.stuck.set()
    await band.turn()
    await band.pass_ms(PACE_MS)
    assert band.recorded() == [(1, "plan"), (4, "plan")] and band.recorded("bar_report") == [3]
    assert band.provider.counts["collapsed"] == 2


async def test_a_flood_of_frames_fills_no_log(band: Band) -> None:
    for beat in range(500):
        band.say(frame(band, beat))
        await band.pass_ms(1)
    assert 20 <= len(band.facts) <= 26, "one in 20 ms at most"
    await band.pass_ms(20)
    assert band.recorded()[-1] == (499, "plan")


async def test_the_word_of_another_provider_is_judged_like_our_own(band: Band) -> None:
    strange = facts.Beat("lab", 5, False, "coda", band.now_ms + 1, 0, WINDOW)
    band.solo.fact("beat", "backbeat", msgspec.to_builtins(strange), by="probe")
    await band.hear(frame(band, 4))
    await band.hear(report(0, 3), REPORTS)
    await band.hear(frame(band, 5))
    assert band.recorded() == [(5, "plan")] and band.recorded("bar_report") == [3]


async def test_the_frames_of_another_cluster_are_not_ours(band: Band) -> None:
    await band.hear(frame(band, 1, cluster_id="attic"))
    assert not band.facts and band.provider.counts["foreign"] == 1


async def test_what_is_not_of_the_schema_is_counted_and_complained_of_once(
    band: Band, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        await band.hear({"bar": 1, "beat": 2})
        await band.hear(b"noise")
    await band.hear(frame(band, 1))
    assert band.recorded() == [(1, "plan")]
    assert band.provider.counts["legacy"] == band.provider.counts["malformed"] == 3
    assert capsys.readouterr().out.count("messages are ignored") == 2


async def test_the_newest_report_is_on_record(band: Band) -> None:
    await band.hear(report(0, 3), REPORTS)
    await band.hear(report(0, 3), REPORTS)
    await band.hear(report(4, 7, LATER), REPORTS)
    await band.hear(report(0, 3), REPORTS)
    assert band.recorded("bar_report") == [3, 7]
    held = band.held("bar_report")
    assert held is not None and held["window_id"] == LATER
    assert len({fact.subject for fact in band.facts}) == 1, "reports replace each other: the board does not grow"


async def test_a_new_leader_judges_as_the_old_one_did(band: Band) -> None:
    await band.hear(frame(band, 7))
    await band.stop()
    await band.start()
    for beat, phase in ((7, "plan"), (6, "review"), (7, "execute")):
        await band.hear(frame(band, beat, phase))
    assert band.recorded() == [(7, "plan"), (7, "execute")]


async def test_a_fact_that_is_refused_is_tried_with_the_next_frame(band: Band) -> None:
    probe = band.solo.principals["probe"]
    assert band.solo.propose("IDENTITY_REVOKED", {"principal": probe, "reason": "a story"})
    await band.hear(frame(band, 1))
    await band.hear(frame(band, 2))
    assert band.provider.counts["refused"] == 2 and band.held() is None


# --- laws of the rule -------------------------------------------------------------------------------------------------

NOW = 10**12
BODIES = st.builds(
    lambda beat, phase, left: facts.Beat("lab", beat, False, phase, NOW + left, 1_000, WINDOW),
    st.integers(0, 6),
    st.sampled_from(PHASES),
    st.integers(-2, 2),
)


def known(body: facts.Beat, left_ms: int) -> Known:
    return Known("beat", "backbeat", NOW - 5, 0, NOW + left_ms, msgspec.to_builtins(body), "p", "d")


@given(BODIES, BODIES, st.integers(-2, 2))
def test_what_counts_is_later_or_follows_an_expired_one(body: facts.Beat, on_record: facts.Beat, left_ms: int) -> None:
    reason = backbeat.refusal(body, known(on_record, left_ms), NOW)
    later = (body.beat_index, PHASES.index(body.phase)) > (on_record.beat_index, PHASES.index(on_record.phase))
    assert (reason is None) == (body.deadline_at > NOW and (later or left_ms <= 0))


@given(st.lists(BODIES, max_size=30))
def test_while_nothing_expires_the_count_only_grows_whatever_the_order(heard: list[facts.Beat]) -> None:
    held: Known | None = None
    positions = []
    for body in heard:
        if backbeat.refusal(body, held, NOW) is None:
            held = known(body, 1)
            positions.append(backbeat.position(body))
    assert positions == sorted(set(positions))
    assert {*positions[-1:]} == {*sorted(backbeat.position(b) for b in heard if b.deadline_at > NOW)[-1:]}


# --- laws of the windows ----------------------------------------------------------------------------------------------

CLASSES = ("plan", "work", "review", "reverb")


@settings(max_examples=60)
@given(
    st.sampled_from(PHASES),
    st.integers(1, 1000),
    st.integers(1, 10_000),
    st.integers(0, 5_000),
    st.sampled_from([None, WINDOW, LATER]),
    st.sampled_from(["", WINDOW, LATER]),
    st.sampled_from([WINDOW, LATER]),
)
def test_a_frame_opens_no_more_than_it_says_and_no_longer(
    phase: str, left_ms: int, tenths: int, age_ms: int, reported: str | None, active: str, named: str
) -> None:
    """Held against the rules as the contract words them, for any frame, report, project and moment."""
    solo = Solo(the_chart(), settings={"window_source": "backbeat"})
    deadline = solo.now_ms + left_ms
    body = facts.Beat("lab", 9, False, phase, deadline, tenths * 100, WINDOW)
    solo.fact("beat", "backbeat", msgspec.to_builtins(body), expires_at=solo.now_ms + 10**9)
    if reported is not None:
        said = facts.BarReport(reported, 0, 8)
        solo.fact("bar_report", "backbeat", msgspec.to_builtins(said))
    now = solo.now_ms + age_ms
    fresh = age_ms < 2 * 600_000 // tenths
    running = fresh and now < deadline
    ended = active != WINDOW or reported == active
    expected = {
        "plan": running and phase != "review" and named == WINDOW,
        "work": running and phase != "review" and named == WINDOW,
        "review": running and phase == "review" and named == WINDOW,
        "reverb": running and phase != "review" and bool(active) and named == active and ended,
    }
    registry = solo.machine.registry
    assert {each: windows.verdict(each, named, active, registry, now).ok for each in CLASSES} == expected
    assert windows.renewed(named, active, registry, now).ok == (fresh and active != WINDOW)


# --- what is claimed --------------------------------------------------------------------------------------------------


async def test_the_cluster_claims_once_a_beat_under_the_node_s_key(band: Band) -> None:
    for beat, phase in ((1, "plan"), (1, "execute"), (1, "review"), (2, "plan"), (2, "plan")):
        await band.hear(frame(band, beat, phase, hlc="ffff:ffff:0007"))
    claims = [msgspec.json.decode(said.data, type=StatusClaim) for said in band.broker.said]
    assert [claim.beat_index for claim in claims] == [1, 2]
    first, said = claims[0], band.broker.said[0]
    assert said.subject == CLAIMS and said.headers["X-Key"] == band.solo.principals["probe"]
    public = band.solo.keys["probe"].public_key().public_bytes_raw()
    assert signing.verify(public, said.data, said.headers["X-Signature"])
    assert not signing.verify(public, said.data + b" ", said.headers["X-Signature"])
    assert (first.agent_id, first.state, first.notes) == ("swoosh", "idle", "1 idle")
    assert first.hlc == f"ffff:0000:{band.solo.principals['probe'][-4:]}", "the counter wraps"
    assert set(json.loads(said.data)) == {"type", "agent_id", "beat_index", "state", "notes", "hlc"}


async def test_a_claim_says_what_most_projects_in_execution_do() -> None:
    band = Band(window_source="always_open")
    solo = band.solo
    steer.drive(solo, lambda r: r.execution.phase == "WORK")
    await band.start()
    await band.hear(frame(band, 1))
    solo.project = "atlas"
    steer.drive(solo, lambda r: r.execution.phase == "REVIEW")
    solo.project = "borea"
    steer.drive(solo, lambda r: r.execution.phase == "REVIEW")
    await band.hear(frame(band, 2))
    solo.propose("CONTROL_PAUSED", {"reason": "a story"}, project="default")
    await band.hear(frame(band, 3))
    claims = [msgspec.json.decode(said.data, type=StatusClaim) for said in band.broker.said]
    assert [(claim.state, claim.notes) for claim in claims] == [
        ("executing", "1 executing"),
        ("reviewing", "1 executing, 2 reviewing"),
        ("reviewing", "2 reviewing, 1 blocked"),
    ]
    await band.stop()


# --- when nothing may leave -------------------------------------------------------------------------------------------


async def test_a_closed_gate_ends_the_line_and_an_open_one_brings_it_back(band: Band) -> None:
    assert len(band.broker.lines) == 1
    band.gate.closed = "the license of this cluster is denied"
    await band.pass_ms(round(LOOK_SECONDS * 1000))
    assert not band.broker.lines and band.provider.trouble == band.gate.closed
    await band.pass_ms(10_000)
    assert not band.broker.lines
    band.gate.closed = None
    await band.pass_ms(round(PAUSE_SECONDS * 1500))
    assert len(band.broker.lines) == 1


async def test_the_line_ends_before_grace_does_not_after() -> None:
    """A standing line answers pings, and its end is a packet too."""
    band = Band(license_grace_ms=60_000)
    band.license(lasts_ms=60_000)
    await band.start()
    over = band.now_ms + 120_000
    while band.broker.lines:
        await band.pass_ms(50)
    assert over - CLEAR_SECONDS * 1000 <= band.now_ms < over
    await band.pass_ms(60_000)
    assert not band.broker.lines, "nor is a new one begun"
    band.license(lasts_ms=10**9)
    await band.pass_ms(round(PAUSE_SECONDS * 1500))
    assert band.broker.lines
    await band.stop()


async def test_nothing_is_published_through_a_gate_that_closed_meanwhile(band: Band) -> None:
    band.stuck = asyncio.Event()
    await band.hear(frame(band, 1))
    band.gate.closed = "over"
    band.stuck.set()
    await band.turn()
    assert band.recorded() == [(1, "plan")] and not band.broker.said


async def test_a_standing_entry_does_not_hold_the_line_open(band: Band) -> None:
    band.stuck = asyncio.Event()
    await band.hear(frame(band, 1))
    band.gate.closed = "over"
    await band.pass_ms(round(LOOK_SECONDS * 1000))
    assert not band.broker.lines


# --- when the broker is away ------------------------------------------------------------------------------------------


async def test_a_broker_that_comes_back_is_found_again(band: Band) -> None:
    await band.hear(frame(band, 1))
    band.broker.stop()
    await band.pass_ms(5_000)
    assert band.provider.trouble is not None and "refused" in band.provider.trouble
    band.broker.start()
    await band.pass_ms(round(PAUSE_SECONDS * 1500))
    await band.hear(frame(band, 2))
    assert band.recorded() == [(1, "plan"), (2, "plan")]


async def test_who_no_longer_leads_holds_no_line(band: Band) -> None:
    await band.stop()
    assert not band.broker.lines
    await band.hear(frame(band, 1))
    assert not band.facts
    await band.start()
