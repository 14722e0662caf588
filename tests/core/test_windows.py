"""When a time-gated transition may happen, by beat, by tide, and always."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swoosh import windows
from swoosh.catalog import Registry
from swoosh.facts import Known
from swoosh.settings import WINDOW_CLASSES, tidal_schedule
from tests.core.contexts import NOW, context, fact, judge, registry

BEAT_MS = 60_000
BACKBEAT = {"window_source": "backbeat"}


def frame(phase: str = "plan", window: str = "w1", *, beat: int = 7, left_ms: int = 20_000, age_ms: int = 0) -> Known:
    """A frame of 60-second beats whose phase has ``left_ms`` to go."""
    return fact(
        "beat",
        "backbeat",
        age_ms=age_ms,
        life_ms=10 * BEAT_MS,
        cluster_id="lab",
        beat_index=beat,
        downbeat=False,
        phase=phase,
        deadline_at=NOW + left_ms,
        tempo_mbpm=1_000,
        window_id=window,
    )


def report(window: str) -> Known:
    return fact("bar_report", "backbeat", window_id=window, from_beat=0, to_beat=7)


def opening(window_class: str, named: str, *facts: Known, active: str = "", now_ms: int = NOW, **settings: Any) -> Any:
    board = registry(*facts, settings=settings or BACKBEAT)
    return windows.verdict(window_class, named, active, board, now_ms)


# --- by beat ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "window_class", "is_open"),
    [
        ("plan", "plan", True),
        ("plan", "work", True),
        ("plan", "review", False),
        ("execute", "plan", True),
        ("execute", "work", True),
        ("execute", "review", False),
        ("review", "plan", False),
        ("review", "work", False),
        ("review", "review", True),
    ],
)
def test_a_frame_opens_what_its_phase_allows(phase: str, window_class: str, is_open: bool) -> None:
    assert opening(window_class, "w1", frame(phase)).ok is is_open


def test_work_names_the_current_window() -> None:
    late = opening("work", "w0", frame(window="w1"))
    assert not late.ok
    assert "w0" in late.reason and "w1" in late.reason
    assert not opening("work", "", frame()).ok


def test_a_phase_holds_until_its_deadline() -> None:
    assert opening("plan", "w1", frame(left_ms=1)).ok
    over = opening("plan", "w1", frame(left_ms=0))
    assert not over.ok
    assert "ended" in over.reason


def test_an_old_frame_means_an_unknown_window() -> None:
    assert opening("plan", "w1", frame(age_ms=2 * BEAT_MS - 1)).ok
    old = opening("plan", "w1", frame(age_ms=2 * BEAT_MS))
    assert not old.ok
    assert "unknown" in old.reason
    assert not opening("plan", "w1").ok


@pytest.mark.parametrize("ahead_ms", [0, 400])
@pytest.mark.parametrize("tempo", [0, -1_000])
def test_a_frame_without_tempo_is_never_heard(tempo: int, ahead_ms: int) -> None:
    """Also where it was observed ahead of the cluster's time, as far as clocks may differ."""
    still = frame(age_ms=-ahead_ms)
    silent = fact("beat", "backbeat", age_ms=-ahead_ms, **{**still.body, "tempo_mbpm": tempo})
    board = registry(silent, settings=BACKBEAT)
    assert windows.current(board, NOW) is None
    assert windows.age_limit_ms(board, "tool", NOW) == board.setting("tool_age_ms")
    assert windows.age_limit_ms(registry(still), "tool", NOW) == 10 * BEAT_MS


def test_reverb_waits_for_the_end_of_the_window_worked_in() -> None:
    assert not opening("reverb", "w1", frame(window="w1"), active="w1").ok
    reported = opening("reverb", "w1", frame(window="w1"), report("w1"), active="w1")
    assert reported.ok
    assert len(reported.facts) == 2
    assert opening("reverb", "w1", frame(window="w2"), active="w1").ok


def test_reverb_pauses_while_others_review_and_comes_again_each_beat() -> None:
    assert not opening("reverb", "w1", frame("review", "w2"), active="w1").ok
    assert opening("reverb", "w1", frame("execute", "w2"), active="w1").ok


def test_reverb_names_the_active_window_only() -> None:
    for named in ("w2", ""):
        assert not opening("reverb", named, frame(window="w2"), active="w1").ok
    assert not opening("reverb", "", frame(window="w2"), active="").ok


def test_the_bar_report_of_another_window_ends_nothing() -> None:
    assert not opening("reverb", "w1", frame(window="w1"), report("w0"), active="w1").ok


def test_frames_of_a_revoked_provider_count_as_never_heard() -> None:
    board = registry(frame(), settings=BACKBEAT, revoked=("probe",))
    assert windows.current(board, NOW) is None
    assert windows.beat_index(board) == 0


# --- by tide ----------------------------------------------------------------------------------------------------------


def tide(**settings: Any) -> Registry:
    return registry(settings={"window_source": "tidal", **settings})


@given(st.integers(min_value=0, max_value=2**50), st.integers(min_value=100, max_value=10**9))
def test_plan_and_review_share_out_the_standard_period(now_ms: int, period_ms: int) -> None:
    window = windows.current(tide(tidal_schedule=tidal_schedule(period_ms)), now_ms)
    assert window is not None
    assert window.id == f"tidal:{now_ms // period_ms}"
    assert ("work" in window.open) != ("review" in window.open)
    assert ("plan" in window.open) == ("work" in window.open) == ("reverb" in window.open)


@given(st.integers(min_value=0, max_value=2**50), st.sampled_from(WINDOW_CLASSES))
def test_a_refusal_says_when_the_tide_opens_next(now_ms: int, window_class: str) -> None:
    schedule = tidal_schedule(60_000)
    board = tide(tidal_schedule=schedule)
    window = windows.current(board, now_ms)
    assert window is not None
    active = window.id if window_class == "reverb" else ""
    closed = windows.verdict(window_class, window.id, active, board, now_ms)
    wait = windows.opens_in_ms(schedule, window_class, now_ms)
    assert wait is not None
    if not closed.ok:
        assert f"opens in {wait} ms" in closed.reason
        later = windows.current(board, now_ms + wait)
        before = windows.current(board, now_ms + wait - 1)
        assert later is not None and window_class in later.open
        assert before is not None and window_class not in before.open


def test_what_was_reviewed_in_one_tide_is_delivered_in_the_next() -> None:
    origin = NOW - 12_345
    board = tide(tidal_schedule={**tidal_schedule(60_000), "origin_ms": origin})
    reviewing = origin + 5 * 60_000 + 50_000
    assert windows.verdict("review", "tidal:5", "tidal:5", board, reviewing).ok
    assert not windows.verdict("reverb", "tidal:5", "tidal:5", board, reviewing).ok
    assert windows.verdict("reverb", "tidal:5", "tidal:5", board, reviewing + 20_000).ok
    assert windows.renewed("", "tidal:5", board, reviewing + 20_000).ok
    assert not windows.renewed("", "tidal:5", board, reviewing).ok


def test_a_schedule_that_never_opens_a_class_says_so() -> None:
    schedule = {"origin_ms": 0, "period_ms": 1_000, "phases": [{"class": "plan", "from_ms": 0, "to_ms": 1_000}]}
    never = windows.verdict("work", "tidal:0", "", tide(tidal_schedule=schedule), 10)
    assert not never.ok
    assert "never" in never.reason


# --- always -----------------------------------------------------------------------------------------------------------


def test_always_open_lets_the_caller_name_the_window() -> None:
    assert opening("work", "mine", window_source="always_open").ok
    assert not opening("work", "", window_source="always_open").ok
    assert opening("reverb", "mine", active="mine", window_source="always_open").ok
    assert not opening("reverb", "other", active="mine", window_source="always_open").ok


@pytest.mark.parametrize(("named", "renewed"), [("w2", True), ("w1", False), ("", False)])
def test_a_new_window_is_another_than_the_active_one(named: str, renewed: bool) -> None:
    board = registry(settings={"window_source": "always_open"})
    assert windows.renewed(named, "w1", board, NOW).ok is renewed


def test_the_next_window_needs_a_frame_of_another_one() -> None:
    for facts, renewed in (((), False), ((frame(window="w1"),), False), ((frame(window="w2"),), True)):
        assert windows.renewed("", "w1", registry(*facts, settings=BACKBEAT), NOW).ok is renewed


# --- the guard --------------------------------------------------------------------------------------------------------


def test_the_guard_cites_the_frame_it_rests_on() -> None:
    heard = frame()
    verdict = judge(
        "window_open",
        context("EXECUTION_TASK_CLAIMED", {"task": "t1"}, window="w1", on=registry(heard, settings=BACKBEAT)),
    )
    assert verdict.ok
    assert verdict.facts == (heard.digest,)
