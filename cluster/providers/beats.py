"""The messages of BACKBEAT: INT-A BeatFrame, INT-B StatusClaim, INT-C BarReport, as their schemas have them.

A frame and an issue of a report refuse members that the schema does not name; a report tolerates them, since its schema
names more than is known here. What passes is what the schema passes, but for numbers that no fact can hold
(|n| > 2^53 - 1). `facts` bodies hold integers only: tempo in thousandths of a beat per minute, times in milliseconds.

Values only: what a message means on arrival, new, old or somebody else's, is decided in `backbeat`.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from swoosh import facts
from swoosh.errors import Malformed
from swoosh.limits import INTEGER_MAX

MESSAGE_BYTES_MAX = 64 * 1024
PHASES = ("plan", "execute", "review")
"""In the order in which a beat goes through them."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

# `\Z`, not `$`, which would let a line feed pass at the end.
CLUSTER_NAME = r"^[a-zA-Z0-9_-]{1,64}\Z"
AGENT_NAME = r"^[a-zA-Z0-9_:-]{1,128}\Z"
Index = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
Count = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
Hlc = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{4}(:[0-9a-fA-F]{4}){2}\Z")]
WindowId = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{32}\Z")]


class BeatFrame(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type", tag="backbeat.beatframe.v1"
):
    """What Pulse says at each beat (INT-A). ``deadline_at`` ends the phase, not the beat."""

    cluster_id: Annotated[str, Meta(pattern=CLUSTER_NAME)]
    beat_index: Index
    downbeat: bool
    phase: str
    hlc: Hlc
    deadline_at: Annotated[datetime, Meta(tz=True)]
    tempo_bpm: Annotated[float, Meta(ge=0.1, le=1000)]
    window_id: WindowId
    metadata: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ValueError(f"phase: expected one of {', '.join(PHASES)}, got {self.phase[:20]!r}")
        if not math.isclose(self.tempo_bpm * 10, round(self.tempo_bpm * 10), rel_tol=0, abs_tol=1e-9):
            raise ValueError(f"tempo_bpm: expected a multiple of 0.1, got {self.tempo_bpm!r}")

    def body(self) -> facts.Beat:
        """The fact it becomes."""
        return facts.Beat(
            cluster_id=self.cluster_id,
            beat_index=self.beat_index,
            downbeat=self.downbeat,
            phase=self.phase,
            deadline_at=(self.deadline_at - _EPOCH) // _MILLISECOND,
            tempo_mbpm=round(self.tempo_bpm * 10) * 100,
            window_id=self.window_id,
        )


class Issue(Struct, frozen=True, forbid_unknown_fields=True):
    """What went wrong in a bar, so many times."""

    severity: str
    category: str
    count: Count


class BarReport(Struct, frozen=True, kw_only=True, tag_field="type", tag="backbeat.barreport.v1"):
    """What Reverb says about a bar that is over (INT-C). ``from_beat`` and ``to_beat`` belong to it."""

    window_id: WindowId
    from_beat: Index
    to_beat: Index
    agents_reporting: Count
    on_time_reviews: Count
    help_promises_fulfilled: Count
    secret_rotations_ok: bool
    tempo_drift_ms: Annotated[float, Meta(ge=-INTEGER_MAX, le=INTEGER_MAX)]
    issues: Annotated[tuple[Issue, ...], Meta(max_length=100)] = ()

    def __post_init__(self) -> None:
        if self.from_beat > self.to_beat:
            raise ValueError(f"to_beat: {self.to_beat} is before from_beat, {self.from_beat}")

    def body(self) -> facts.BarReport:
        """The fact it becomes."""
        return facts.BarReport(
            window_id=self.window_id,
            from_beat=self.from_beat,
            to_beat=self.to_beat,
            agents_reporting=self.agents_reporting,
            on_time_reviews=self.on_time_reviews,
            help_promises_fulfilled=self.help_promises_fulfilled,
            secret_rotations_ok=self.secret_rotations_ok,
            drift_ms=round(self.tempo_drift_ms),
        )


class StatusClaim(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type", tag="backbeat.statusclaim.v1"
):
    """What an agent says of itself (INT-B); the members that SWOOSH has something to say in."""

    agent_id: Annotated[str, Meta(pattern=AGENT_NAME)]
    beat_index: Index
    state: str  # idle | planning | executing | reviewing | completed | failed | blocked | helping
    notes: Annotated[str, Meta(max_length=256)]
    hlc: Hlc


class Legacy(Malformed):
    """A ``{bar, beat}`` message from before INT-A."""


_heard: msgspec.json.Decoder[BeatFrame | BarReport] = msgspec.json.Decoder(BeatFrame | BarReport)


def decode(data: bytes) -> BeatFrame | BarReport:
    """A message as Pulse or Reverb sent it.

    Raises:
        Malformed: it is neither, or not valid by its schema; the reason names the member.
        Legacy: it is of the old form.
    """
    if len(data) > MESSAGE_BYTES_MAX:
        raise Malformed(f"backbeat: {len(data)} bytes; at most {MESSAGE_BYTES_MAX} are read")
    try:
        return _heard.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        if _is_legacy(data):
            raise Legacy("backbeat: a {bar, beat} message from before INT-A") from None
        raise Malformed(f"backbeat: {error}") from None


def _is_legacy(data: bytes) -> bool:
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return False
    return isinstance(found, dict) and "type" not in found and {"bar", "beat"} <= set(found)
