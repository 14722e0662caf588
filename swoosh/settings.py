"""Numbers the reducer judges by, as replicated data.

A setting is changed by the command SETTING_SET and therefore at one log position on every node; what is not in the
table below does not exist. Limits (limits.py) are part of the machine, settings are the operator's.
docs/reference/settings.md is generated from this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

DAY_MS = 24 * 3600 * 1000
WINDOW_CLASSES = ("plan", "work", "review", "reverb")


class Setting(NamedTuple):
    """One row: the default, its unit, what it means, and a check that names what is wrong with a value (or None)."""

    default: Any
    unit: str
    meaning: str
    check: Callable[[Any], str | None]


def _whole(low: int, high: int) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return None if fits else f"an integer from {low} to {high}"

    return check


def _one_of(*choices: Any) -> Callable[[Any], str | None]:
    return lambda value: None if value in choices and type(value) in {type(c) for c in choices} else f"one of {choices}"


def _texts(value: Any) -> str | None:
    fits = isinstance(value, list | tuple) and len(value) <= 64 and all(isinstance(item, str) for item in value)
    return None if fits else "a list of at most 64 texts"


def tidal_schedule(period_ms: int) -> dict[str, Any]:
    """The standard tide: the first two thirds of a period plan and work, the last third reviews.

    Reverb is open in the first two thirds, so that what was reviewed in one period is delivered in the next.
    """
    turn = period_ms * 2 // 3
    spans = {"plan": (0, turn), "work": (0, turn), "review": (turn, period_ms), "reverb": (0, turn)}
    phases = [{"class": name, "from_ms": spans[name][0], "to_ms": spans[name][1]} for name in WINDOW_CLASSES]
    return {"origin_ms": 0, "period_ms": period_ms, "phases": phases}


def _schedule(value: Any) -> str | None:
    form = "{origin_ms, period_ms, phases: [{class, from_ms, to_ms}]} with 0 <= from_ms < to_ms <= period_ms"
    if not isinstance(value, Mapping) or set(value) != {"origin_ms", "period_ms", "phases"}:
        return form
    period, phases = value["period_ms"], value["phases"]
    if _whole(0, 2**52)(value["origin_ms"]) or _whole(100, 366 * DAY_MS)(period):
        return form
    if not isinstance(phases, list | tuple) or not 1 <= len(phases) <= 64:
        return form
    for phase in phases:
        if not isinstance(phase, Mapping) or set(phase) != {"class", "from_ms", "to_ms"}:
            return form
        if phase["class"] not in WINDOW_CLASSES or _whole(0, period)(phase["from_ms"]):
            return form
        if _whole(0, period)(phase["to_ms"]) or phase["from_ms"] >= phase["to_ms"]:
            return form
    return None


SETTINGS: dict[str, Setting] = {
    "max_skew_ms": Setting(500, "ms", "how far an HLC or an observation may be ahead of the stamp", _whole(1, 60_000)),
    "window_source": Setting(
        "tidal", "", "who opens windows: backbeat, tidal or always_open", _one_of("backbeat", "tidal", "always_open")
    ),
    "tidal_schedule": Setting(tidal_schedule(60_000), "", "the tide, where window_source is tidal", _schedule),
    "beat_stale_after_beats": Setting(2, "beats", "a newest frame older than this means: no window", _whole(1, 100)),
    "license_grace_ms": Setting(DAY_MS, "ms", "grace after the last active license fact", _whole(0, 90 * DAY_MS)),
    "license_age_ms": Setting(
        DAY_MS, "ms", "age at which a license fact is no longer accepted", _whole(1, 90 * DAY_MS)
    ),
    "beat_age_ms": Setting(10 * 60_000, "ms", "the same for beat frames", _whole(1, DAY_MS)),
    "bar_report_age_ms": Setting(DAY_MS, "ms", "the same for bar reports", _whole(1, 90 * DAY_MS)),
    "policy_age_ms": Setting(30 * DAY_MS, "ms", "the same for policy files", _whole(1, 365 * DAY_MS)),
    "finding_age_ms": Setting(DAY_MS, "ms", "the same for policy findings", _whole(1, 365 * DAY_MS)),
    "tool_age_ms": Setting(
        10 * 60_000, "ms", "the same for tool probes; also the age from which guards ignore one", _whole(1, DAY_MS)
    ),
    "tool_age_beats": Setting(
        10, "beats", "while beats are heard, the age from which guards ignore a tool probe", _whole(1, 10_000)
    ),
    "tool_dwell_ms": Setting(
        15_000, "ms", "how long a tool must answer the same before it counts as reachable", _whole(0, 60 * 60_000)
    ),
    "capacity_age_ms": Setting(10 * 60_000, "ms", "the same for capacity", _whole(1, DAY_MS)),
    "health_age_ms": Setting(10 * 60_000, "ms", "the same for environment health", _whole(1, DAY_MS)),
    "agent_age_ms": Setting(10 * 60_000, "ms", "the same for agent presence", _whole(1, DAY_MS)),
    "project_quota_units": Setting(1_000, "units", "most capacity one project may hold", _whole(1, 2**31)),
    "approval_threshold": Setting(0, "members", "approvals or rejections a task needs; 0 = majority", _whole(0, 64)),
    "auto_rejoin": Setting(False, "", "the leader's node key may sign MEMBER_REJOINED", _one_of(True, False)),
    "redactions": Setting((), "", "paths in Decision Records to replace by [REDACTED], as guards.*.reasons", _texts),
    "evidence_grammar": Setting(
        "lenient", "", "the UCXL grammar evidence must be in: lenient, go or rust", _one_of("lenient", "go", "rust")
    ),
}


def lookup(values: Mapping[str, Any], name: str) -> Any:
    """The value in force: what was set, else the default. ``name`` must be in the table."""
    return values.get(name, SETTINGS[name].default)


def fault(name: str, value: Any) -> str | None:
    """Why SETTING_SET with this value is refused, or None."""
    setting = SETTINGS.get(name)
    if setting is None:
        return f"unknown setting {name[:64]!r}; known: {', '.join(sorted(SETTINGS))}"
    wrong = setting.check(value)
    return f"{name} takes {wrong}" if wrong else None
