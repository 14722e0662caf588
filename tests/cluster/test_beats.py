"""The messages of BACKBEAT: what their schemas pass passes, and nothing else."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.providers import beats
from cluster.providers.beats import BarReport, BeatFrame, Legacy
from swoosh import facts
from swoosh.errors import Malformed
from swoosh.limits import INTEGER_MAX

FRAME: dict[str, Any] = {
    "type": "backbeat.beatframe.v1",
    "cluster_id": "lab",
    "beat_index": 480,
    "downbeat": True,
    "phase": "plan",
    "hlc": "0a10:0000:0001",
    "deadline_at": "2026-01-05T12:00:20Z",
    "tempo_bpm": 1.0,
    "window_id": "00112233445566778899aabbccddeeff",
}
REPORT: dict[str, Any] = {
    "type": "backbeat.barreport.v1",
    "window_id": "00112233445566778899aabbccddeeff",
    "from_beat": 473,
    "to_beat": 480,
    "agents_reporting": 3,
    "on_time_reviews": 2,
    "help_promises_fulfilled": 0,
    "secret_rotations_ok": True,
    "tempo_drift_ms": -12.6,
    "issues": [{"severity": "warn", "category": "late", "count": 1}],
}
HEX = st.text("0123456789abcdefABCDEF", min_size=4, max_size=4)


def decode(document: Any) -> BeatFrame | BarReport:
    return beats.decode(json.dumps(document).encode())


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {member: value for member, value in document.items() if member != name}


@st.composite
def frames(draw: st.DrawFn) -> dict[str, Any]:
    """Every frame that the schema passes and a fact can hold."""
    frame = {
        "type": FRAME["type"],
        "cluster_id": draw(st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True)),
        "beat_index": draw(st.integers(0, INTEGER_MAX)),
        "downbeat": draw(st.booleans()),
        "phase": draw(st.sampled_from(["plan", "execute", "review"])),
        "hlc": ":".join(draw(HEX) for _ in range(3)),
        "deadline_at": draw(st.datetimes(min_value=datetime(1970, 1, 2))).isoformat() + "Z",
        "tempo_bpm": draw(st.integers(1, 10_000)) / 10,
        "window_id": draw(st.from_regex(r"[0-9a-f]{32}", fullmatch=True)),
    }
    if draw(st.booleans()):
        frame["metadata"] = {"pulse_version": "1", "cluster_health": draw(st.text()), "more": [1.5, None]}
    return frame


@given(frames())
def test_a_frame_that_the_schema_passes_becomes_a_fact_of_integers(frame: dict[str, Any]) -> None:
    found = decode(frame)
    assert isinstance(found, BeatFrame)
    body = msgspec.to_builtins(found.body())
    assert not any(isinstance(value, float) for value in body.values())
    assert body["tempo_mbpm"] * 10 == round(frame["tempo_bpm"] * 10) * 1000
    assert body["beat_index"] == frame["beat_index"] and body["window_id"] == frame["window_id"]
    assert msgspec.convert(body, facts.Beat) == found.body()


def test_times_are_milliseconds() -> None:
    found = decode(FRAME | {"deadline_at": "2026-01-05T14:00:20.2509+02:00"})
    assert isinstance(found, BeatFrame) and found.body().deadline_at == 1_767_614_420_250


@pytest.mark.parametrize("name", [*FRAME])
def test_a_frame_lacks_no_member(name: str) -> None:
    with pytest.raises(Malformed, match=name):
        decode(without(FRAME, name))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("type", "backbeat.beatframe.v2"),
        ("cluster_id", ""),
        ("cluster_id", "a" * 65),
        ("cluster_id", "lab\n"),
        ("cluster_id", "a.b"),
        ("beat_index", -1),
        ("beat_index", 1.5),
        ("beat_index", "1"),
        ("beat_index", True),
        ("beat_index", INTEGER_MAX + 1),
        ("downbeat", 1),
        ("phase", "work"),
        ("hlc", "0a10:0000"),
        ("hlc", "0a10:0000:0001\n"),
        ("hlc", "g000:0000:0000"),
        ("deadline_at", "2026-01-05T12:00:20"),
        ("deadline_at", 1_767_614_420),
        ("tempo_bpm", 0),
        ("tempo_bpm", 1000.1),
        ("tempo_bpm", 1.05),
        ("tempo_bpm", True),
        ("tempo_bpm", "1.0"),
        ("window_id", "0" * 31),
        ("window_id", "0" * 33),
        ("window_id", "z" * 32),
        ("metadata", None),
        ("metadata", []),
        ("bar", 1),
    ],
)
def test_a_frame_that_the_schema_refuses_is_refused(name: str, value: Any) -> None:
    with pytest.raises(Malformed):
        decode(FRAME | {name: value})


def test_a_report_becomes_a_fact() -> None:
    found = decode(REPORT)
    assert isinstance(found, BarReport)
    assert found.body() == facts.BarReport(
        window_id=REPORT["window_id"],
        from_beat=473,
        to_beat=480,
        agents_reporting=3,
        on_time_reviews=2,
        help_promises_fulfilled=0,
        secret_rotations_ok=True,
        drift_ms=-13,
    )


def test_a_report_may_say_more_than_is_known_and_its_issues_may_not() -> None:
    assert decode(REPORT | {"cluster_id": "lab", "more": {"deep": [1.5]}}) == decode(REPORT)
    assert decode(without(REPORT, "issues"))
    issue = REPORT["issues"][0]
    for wrong in ({**issue, "more": 1}, without(issue, "count"), {**issue, "count": -1}):
        with pytest.raises(Malformed):
            decode(REPORT | {"issues": [wrong]})
    with pytest.raises(Malformed):
        decode(REPORT | {"issues": [issue] * 101})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window_id", "0" * 31),
        ("from_beat", -1),
        ("from_beat", 481),
        ("to_beat", INTEGER_MAX + 1),
        ("agents_reporting", -1),
        ("on_time_reviews", 0.5),
        ("help_promises_fulfilled", None),
        ("secret_rotations_ok", "yes"),
        ("tempo_drift_ms", "0"),
        ("tempo_drift_ms", 1e300),
    ],
)
def test_a_report_that_the_schema_refuses_is_refused(name: str, value: Any) -> None:
    with pytest.raises(Malformed):
        decode(REPORT | {name: value})


@pytest.mark.parametrize("name", [*without(without(REPORT, "issues"), "type")])
def test_a_report_lacks_no_member(name: str) -> None:
    with pytest.raises(Malformed, match=name):
        decode(without(REPORT, name))


def test_the_old_form_is_known_for_what_it_is() -> None:
    with pytest.raises(Legacy):
        decode({"bar": 1, "beat": 2, "tempo": 2})
    others: list[Any] = [{"bar": 1}, {**FRAME, "bar": 1, "beat": 2}, [], "bar beat"]
    for other in others:
        with pytest.raises(Malformed) as refused:
            decode(other)
        assert not isinstance(refused.value, Legacy)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(repr).map(str.encode))
def test_anything_else_is_malformed_and_nothing_raises_otherwise(data: bytes) -> None:
    with pytest.raises(Malformed):
        beats.decode(data)


def test_neither_length_nor_depth_costs_anything() -> None:
    for data in (b"[" * 60_000, b'{"type":' * 8_000, b" " * (beats.MESSAGE_BYTES_MAX + 1)):
        with pytest.raises(Malformed):
            beats.decode(data)


def test_a_claim_is_what_its_schema_says() -> None:
    claim = beats.StatusClaim(agent_id="swoosh-1", beat_index=7, state="idle", notes="1 idle", hlc="0a10:0001:0001")
    assert msgspec.to_builtins(claim) == {
        "type": "backbeat.statusclaim.v1",
        "agent_id": "swoosh-1",
        "beat_index": 7,
        "state": "idle",
        "notes": "1 idle",
        "hlc": "0a10:0001:0001",
    }
    assert re.fullmatch(beats.AGENT_NAME, "swoosh-1") and not re.fullmatch(beats.AGENT_NAME, "a.b")
