"""Hybrid logical clock values: read in two spellings, written in one, compared as numbers, merged forward only."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swoosh import limits
from swoosh.errors import Malformed
from swoosh.hlc import HLC, ZERO, merge, parse_time, time_text

HLCS = st.builds(HLC, st.integers(0, limits.HLC_MS_MAX), st.integers(0, limits.HLC_COUNTER_MAX))


@given(HLCS)
def test_what_is_written_is_read_back(hlc: HLC) -> None:
    assert HLC.parse(str(hlc)) == hlc
    assert HLC.parse(f"{hlc.ms}-{hlc.counter}-node7") == hlc


@given(HLCS)
def test_the_text_is_rfc_3339(hlc: HLC) -> None:
    written = datetime.fromisoformat(time_text(hlc.ms))
    assert written.tzinfo == UTC
    assert round(written.timestamp() * 1000) == hlc.ms


@given(HLCS, HLCS)
def test_values_compare_as_numbers(one: HLC, other: HLC) -> None:
    assert (one < other) is ((one.ms, one.counter) < (other.ms, other.counter))


def test_numbers_not_texts_are_compared() -> None:
    assert HLC.parse("10-0-a") > HLC.parse("5-0-b")
    assert HLC.parse("5-10-a") > HLC.parse("5-9-b")


@given(st.integers(0, limits.HLC_MS_MAX), st.lists(HLCS, max_size=4))
def test_a_merge_is_after_everything_seen_and_not_before_now(now_ms: int, seen: list[HLC]) -> None:
    merged = merge(now_ms, *seen)
    assert all(merged > each for each in seen)
    assert merged.ms >= now_ms
    assert merged.ms in {now_ms, *(each.ms for each in seen)}, "a merge invents no time"


@given(st.integers(1, limits.HLC_MS_MAX), st.integers(1, 20))
def test_events_of_one_millisecond_count_up(now_ms: int, events: int) -> None:
    hlc = ZERO
    for _ in range(events):
        hlc = merge(now_ms, hlc)
    assert hlc == HLC(now_ms, events - 1)


SPELLINGS = {
    "2025-10-19T01:23:45.678+00:00#7": HLC(1760837025678, 7),
    "2025-10-19T01:23:45.678Z#7": HLC(1760837025678, 7),
    "1970-01-01T00:00:00.000+00:00#0": ZERO,
    "9999-12-31T23:59:59.999Z#2147483647": HLC(limits.HLC_MS_MAX, limits.HLC_COUNTER_MAX),
    "2024-02-29T00:00:00.000Z#0": HLC(1709164800000, 0),
    "1760837025678-7-n1": HLC(1760837025678, 7),
}


@pytest.mark.parametrize(("text", "hlc"), SPELLINGS.items())
def test_spellings(text: str, hlc: HLC) -> None:
    assert HLC.parse(text) == hlc


@pytest.mark.parametrize(
    "text",
    [
        "",
        "#",
        "now",
        "2025-10-19T01:23:45.678+00:00",
        "2025-10-19T01:23:45.678+00:00#",
        "2025-10-19T01:23:45.678+00:00#-1",
        "2025-10-19T01:23:45.678+00:00#+1",
        "2025-10-19T01:23:45.678+00:00#1.0",
        "2025-10-19T01:23:45.678+00:00#2147483648",
        "2025-10-19T01:23:45.678+00:00#\u0661",
        "2025-10-19T01:23:45.678+02:00#0",
        "2025-10-19T01:23:45.678#0",
        "2025-10-19 01:23:45.678Z#0",
        "2025-10-19T01:23:45Z#0",
        "2025-10-19T01:23:45.6789Z#0",
        "2025-02-30T00:00:00.000Z#0",
        "2025-10-19T24:00:00.000Z#0",
        "2025-10-19T01:23:60.000Z#0",
        "1969-12-31T23:59:59.999Z#0",
        "2025-1-19T01:23:45.678Z#0",
        "1-2",
        "1-2-",
        "-1-2-n",
        "1--n",
        "1_0-2-n",
        "253402300800000-0-n",
    ],
)
def test_what_is_no_clock_value_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="hlc"):
        HLC.parse(text)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert HLC.parse(text) >= ZERO
    except Malformed as error:
        assert error.reason.startswith("hlc")


@given(st.integers(0, limits.HLC_MS_MAX))
def test_times_are_read_in_both_spellings_of_utc(ms: int) -> None:
    text = time_text(ms)
    assert parse_time(text) == parse_time(text.removesuffix("+00:00") + "Z") == ms
