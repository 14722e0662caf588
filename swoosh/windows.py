"""Windows: when a time-gated transition may happen (Brief §6, BACKBEAT and tidal windows).

Three sources, chosen by the setting ``window_source``: the newest committed BACKBEAT frame, a tidal schedule of whole
milliseconds, or always open, where the caller names the window. A transition of class ``plan``, ``work`` or ``review``
names the current window; ``reverb`` names the project's active one, which was worked in and must have ended.

Pure functions of replicated facts, settings and the leader stamp: a verdict is the same on every node and in every
replay. Pressure, which only scales how long callers are told to wait, has no place here.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from swoosh.facts import Known

BEAT_SUBJECT = "backbeat"
_MS_PER_BEAT_AT_1_MBPM = 60_000 * 1_000
_OPEN_IN_PHASE = {
    "plan": ("plan", "work", "reverb"),
    "execute": ("plan", "work", "reverb"),
    "review": ("review",),
}


class Board(Protocol):
    """What windows are read from; ``catalog.Registry`` is one."""

    def setting(self, name: str) -> Any: ...

    def fact(self, kind: str, subject: str) -> Known | None: ...


class Window(NamedTuple):
    """The window in force and the classes open in it now. ``why`` says what closed the others."""

    id: str
    open: tuple[str, ...]
    why: str
    facts: tuple[str, ...] = ()


class Opening(NamedTuple):
    """A verdict: whether it is open, the sentence that says so, the digests of the facts it rests on."""

    ok: bool
    reason: str
    facts: tuple[str, ...] = ()


def current(board: Board, now_ms: int) -> Window | None:
    """The window at ``now_ms``. None where it is unknown: no frame is fresh, or only callers name windows."""
    match board.setting("window_source"):
        case "backbeat":
            return _of_frame(board, now_ms)
        case "tidal":
            return _of_tide(board.setting("tidal_schedule"), now_ms)
        case _:
            return None


def verdict(window_class: str, named: str, active: str, board: Board, now_ms: int) -> Opening:
    """Whether a transition of this class, naming the window ``named``, may happen now.

    ``active`` is the window of the project's last work, empty when there was none.
    """
    if window_class == "reverb":
        if not active or named != active:
            return Opening(False, f"names window {named!r}; reverb delivers what was made in window {active!r}")
    elif not named:
        return Opening(False, f"names no window; {window_class} needs the current one in window_id")
    if board.setting("window_source") == "always_open":
        return Opening(True, f"windows are always open; the caller names {named}")
    window = current(board, now_ms)
    if window is None:
        return Opening(False, _unknown(board))
    if window_class != "reverb" and named != window.id:
        return Opening(False, f"names window {named}, the current one is {window.id}", window.facts)
    if window_class not in window.open:
        why = f"{window_class} is closed in window {window.id}: {window.why}{_wait(window_class, board, now_ms)}"
        return Opening(False, why, window.facts)
    if window_class == "reverb":
        return _ended(active, window, board)
    return Opening(True, f"{window_class} is open in window {window.id}: {window.why}", window.facts)


def renewed(named: str, active: str, board: Board, now_ms: int) -> Opening:
    """Whether a window other than the active one has come."""
    if board.setting("window_source") == "always_open":
        if named and named != active:
            return Opening(True, f"the caller names window {named}, other than {active or 'none'}")
        return Opening(False, f"names window {named!r}; another one than the active {active!r} is needed in window_id")
    window = current(board, now_ms)
    if window is None:
        return Opening(False, _unknown(board))
    if window.id == active:
        return Opening(False, f"window {active} is still the current one; a later one is needed", window.facts)
    return Opening(True, f"window {window.id} follows {active or 'none'}", window.facts)


def beat_index(board: Board) -> int:
    """The index of the newest frame, however old, since beats only grow; 0 where none was ever heard."""
    frame = board.fact("beat", BEAT_SUBJECT)
    return 0 if frame is None else max(0, frame.body["beat_index"])


def age_limit_ms(board: Board, kind: str, now_ms: int) -> int:
    """The age from which a fact of this kind counts no more: ``<kind>_age_beats`` where beats are heard at
    ``now_ms``, at their tempo, else ``<kind>_age_ms``."""
    frame = _heard(board, now_ms)
    if frame is None:
        return int(board.setting(f"{kind}_age_ms"))
    return _span_ms(board.setting(f"{kind}_age_beats"), frame.body["tempo_mbpm"])


def opens_in_ms(schedule: dict[str, Any], window_class: str, now_ms: int) -> int | None:
    """Milliseconds until a tidal schedule next opens a class that is closed now; None when it never does."""
    offset, period = _offset(schedule, now_ms), schedule["period_ms"]
    waits = [(span["from_ms"] - offset) % period for span in schedule["phases"] if span["class"] == window_class]
    return min(waits, default=None)


def _heard(board: Board, now_ms: int) -> Known | None:
    """The newest frame; None where it is stale, or none ever came."""
    frame = board.fact("beat", BEAT_SUBJECT)
    return None if frame is None or now_ms >= _stale_at(frame, board.setting("beat_stale_after_beats")) else frame


def _of_frame(board: Board, now_ms: int) -> Window | None:
    frame = _heard(board, now_ms)
    if frame is None:
        return None
    phase, deadline = frame.body["phase"], frame.body["deadline_at"]
    if now_ms >= deadline:
        why = f"beat phase {phase} ended {now_ms - deadline} ms ago and the next frame has not been committed"
        return Window(frame.body["window_id"], (), why, (frame.digest,))
    why = f"beat {frame.body['beat_index']} is in phase {phase} for {deadline - now_ms} ms"
    return Window(frame.body["window_id"], _OPEN_IN_PHASE.get(phase, ()), why, (frame.digest,))


def _stale_at(frame: Known, beats: int) -> int:
    tempo: int = frame.body["tempo_mbpm"]
    if tempo <= 0:
        return 0
    return min(frame.expires_at, frame.observed_at + _span_ms(beats, tempo))


def _span_ms(beats: int, tempo_mbpm: int) -> int:
    return beats * _MS_PER_BEAT_AT_1_MBPM // tempo_mbpm


def _of_tide(schedule: dict[str, Any], now_ms: int) -> Window:
    number, offset = (now_ms - schedule["origin_ms"]) // schedule["period_ms"], _offset(schedule, now_ms)
    listed = {span["class"] for span in schedule["phases"] if span["from_ms"] <= offset < span["to_ms"]}
    return Window(f"tidal:{number}", tuple(sorted(listed)), f"{offset} of {schedule['period_ms']} ms into the tide")


def _offset(schedule: dict[str, Any], now_ms: int) -> int:
    return int((now_ms - schedule["origin_ms"]) % schedule["period_ms"])


def _ended(active: str, window: Window, board: Board) -> Opening:
    """BACKBEAT says when a window is over, by its report or by a frame of another; a tide lists reverb itself.

    The newest report is enough: where a window has an older one, the newest frame is of a later window.
    """
    if board.setting("window_source") == "tidal" or window.id != active:
        return Opening(True, f"reverb of window {active} is open: {window.why}", window.facts)
    report = board.fact("bar_report", BEAT_SUBJECT)
    if report is not None and report.body["window_id"] == active:
        return Opening(True, f"window {active} has its bar report", (*window.facts, report.digest))
    why = f"window {active} has not ended; its bar report or a frame of a later window is needed"
    return Opening(False, why, window.facts)


def _wait(window_class: str, board: Board, now_ms: int) -> str:
    """When the class opens next, where that can be computed: beats come when they come."""
    if board.setting("window_source") != "tidal":
        return ""
    wait = opens_in_ms(board.setting("tidal_schedule"), window_class, now_ms)
    return "; the schedule never opens it" if wait is None else f"; it opens in {wait} ms"


def _unknown(board: Board) -> str:
    beats = board.setting("beat_stale_after_beats")
    return f"the window is unknown: no BACKBEAT frame younger than {beats} beats has been committed"
