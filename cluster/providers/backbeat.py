"""BACKBEAT: the newest beat and the newest bar report on record, and what the cluster claims of itself, once a beat.

Frames come as they like: late, twice, out of order, in bursts, from another cluster, or not at all. One rule decides
which is put on record, and it looks only at what is on record already, so that a new leader judges as the old one did:

    A frame counts if its phase is not over and it is later (beat, then phase) than the one held.
    An earlier one counts once the one held has expired: then Pulse has begun to count anew.

A frame expires after the beats that make a window unknown, at its own tempo.
What waits while an entry is in flight collapses to the newest, so there is at most one fact per frame and never a
queue. Reports follow the same rule by their last beat, and live as long as a frame.

Nothing leaves while the outbound gate is closed. A standing line answers pings, so it is ended a little before the
license's grace is over, and opened again when the gate is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from itertools import cycle
from typing import NamedTuple

import msgspec
import structlog

from cluster.clock import done_by
from cluster.egress import Blocked, Outside, Unreachable, address_of
from cluster.entropy import Entropy
from cluster.providers import beats
from cluster.providers.beats import PHASES, BarReport, BeatFrame, Legacy, StatusClaim
from cluster.providers.broker import Access, Broker, Line
from cluster.providers.leading import Leading
from swoosh import facts, state
from swoosh.errors import Malformed
from swoosh.facts import Known
from swoosh.outcome import FactAccepted
from swoosh.regions.license import lapsed
from swoosh.state import Project, ProjectRegions
from swoosh.windows import BEAT_SUBJECT

LOOK_SECONDS = 0.1
"""How often the gate and the line are looked at."""
CLEAR_SECONDS = 0.5
"""A standing line is ended so long before the license's grace is over."""
CONNECTING_SECONDS = 15.0
"""Nor is one begun when that is nearer than connecting can take."""
PAUSE_SECONDS = 2.0
PACE_SECONDS = 0.02
"""The shortest phase there can be, a third of a beat at 1,000 BPM: who sends faster fills no log."""
FIRST_TEMPO_MBPM = 1_000
"""Where no frame is on record: Pulse's default, 1 BPM."""
MS_PER_BEAT_AT_1_MBPM = 60_000 * 1_000
PROJECTS_BETWEEN_PAUSES = 64
DROPPED = ("late", "repeated", "backward", "foreign", "legacy", "malformed", "refused")
_WORD_OF_PHASE = {"PLAN": "planning", "WORK": "executing", "REVIEW": "reviewing", "REVERB": "completed"}
WORDS = (*_WORD_OF_PHASE.values(), "blocked")
_log = structlog.get_logger(__name__)


class Settings(NamedTuple):
    """What the configuration says of BACKBEAT. Subjects and headers are nobody's standard, so they are settings."""

    urls: tuple[str, ...]
    cluster: str
    agent: str
    beats: str
    reports: str
    claims: str
    key_header: str
    signature_header: str
    access: Access = Access()


class Backbeat:
    """The provider."""

    name = "backbeat"

    def __init__(self, settings: Settings, broker: Broker, outside: Outside, entropy: Entropy) -> None:
        self._settings, self._broker, self._outside, self._entropy = settings, broker, outside, entropy
        self.trouble: str | None = None
        self.counts: Counter[str] = Counter()

    async def run(self, leading: Leading) -> None:
        """Until cancelled: hold a line to one broker after the other."""
        for url in cycle(self._settings.urls):
            try:
                await self._listen(leading, url)
            except (Blocked, Unreachable) as reason:
                self._complain(str(reason))
            await leading.clock.sleep(PAUSE_SECONDS * (0.5 + self._entropy.random()))

    async def _listen(self, leading: Leading, url: str) -> None:
        """Until the line is lost or must end.

        Raises:
            Blocked: nothing may leave.
            Unreachable: there is no line.
        """
        self._permit(leading, url, CONNECTING_SECONDS)
        ear = _Ear(self._settings.cluster, self.counts)
        line = await self._broker.connect(url, (self._settings.beats, self._settings.reports), ear.hear)
        relay = asyncio.ensure_future(self._relay(leading, url, line, ear))
        try:
            while not relay.done():
                self._permit(leading, url, CLEAR_SECONDS)
                if line.lost is not None:
                    raise Unreachable(line.lost)
                self._complain(self._silence(leading, url))
                await done_by(leading.clock, leading.clock.monotonic() + LOOK_SECONDS, relay)
            await relay
        finally:
            relay.cancel()
            await line.close()

    def _permit(self, leading: Leading, url: str, ahead_s: float) -> None:
        """Return if something may leave now, and so much longer.

        Raises:
            Blocked: it may not.
        """
        self._outside.permit("backbeat", url)
        registry = leading.registry
        held, then = registry.fact("license", registry.cluster_id), leading.now_ms + round(ahead_s * 1000)
        reason = lapsed(held, then, registry.setting("license_grace_ms"))
        if reason is not None:
            raise Blocked(f"backbeat: within {ahead_s:g} s, {reason}")

    def _silence(self, leading: Leading, url: str) -> str | None:
        held = leading.registry.fact("beat", BEAT_SUBJECT)
        if held is not None and not _is_over(held, leading.now_ms):
            return None
        dropped = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()) if what in DROPPED)
        heard = f"; dropped so far: {dropped}" if dropped else ""
        return f"connected to {address_of(url)}, but no fresh beat of {self._settings.cluster} was heard{heard}"

    def _complain(self, reason: str | None) -> None:
        if reason != self.trouble and reason is not None and self.trouble is None:
            _log.warning("backbeat", reason=reason)
        self.trouble = reason

    # --- what is heard ------------------------------------------------------------------------------------------------

    async def _relay(self, leading: Leading, url: str, line: Line, ear: _Ear) -> None:
        """Put what is heard on record, and answer each beat with a claim."""
        claimed = None
        while True:
            await leading.clock.sleep(PACE_SECONDS)
            frame, report = await ear.newest()
            if report is not None:
                await self._record(leading, "bar_report", report.body(), _life_ms(leading, None))
            if frame is None or not await self._record(leading, "beat", frame.body(), _life_ms(leading, frame)):
                continue
            if frame.beat_index != claimed:
                claimed = frame.beat_index
                tally = await _tally(leading)
                self._permit(leading, url, CLEAR_SECONDS)
                await self._publish(leading, line, claim(tally, frame, self._settings.agent, leading.principal))

    async def _record(self, leading: Leading, kind: str, body: facts.Beat | facts.BarReport, lives_ms: int) -> bool:
        held, now_ms = leading.registry.fact(kind, BEAT_SUBJECT), leading.now_ms
        reason = refusal(body, held, now_ms)
        if reason is not None:
            self.counts[reason] += 1
            return False
        self.counts["missing"] += missing(body, held, now_ms)
        fact = leading.fact(kind, BEAT_SUBJECT, msgspec.to_builtins(body), lives_ms=lives_ms)
        (answer,) = await leading.submit([fact])
        self.counts[kind if isinstance(answer, FactAccepted) else "refused"] += 1
        if not isinstance(answer, FactAccepted):
            _log.warning("a fact was not taken", kind=kind, answer=str(answer)[:300])
        return isinstance(answer, FactAccepted)

    async def _publish(self, leading: Leading, line: Line, said: StatusClaim) -> None:
        """The signature covers the bytes of the message."""
        data = msgspec.json.encode(said)
        keys, signatures = self._settings.key_header, self._settings.signature_header
        await line.publish(self._settings.claims, data, {keys: leading.principal, signatures: leading.sign(data)})
        self.counts["claimed"] += 1


class _Ear:
    """What one line heard and nobody has taken yet: at most one frame and one report, the latest of each."""

    def __init__(self, cluster: str, counts: Counter[str]) -> None:
        self._cluster, self._counts = cluster, counts
        self._frame: BeatFrame | None = None
        self._report: BarReport | None = None
        self._woken: asyncio.Future[None] | None = None
        self._noticed: set[str] = set()

    def hear(self, data: bytes) -> None:
        """Never raises; what cannot be used is counted, and the first of its kind is logged."""
        try:
            message = beats.decode(data)
        except Legacy as error:
            self._drop("legacy", error.reason)
        except Malformed as error:
            self._drop("malformed", error.reason)
        else:
            self._keep(message)

    def _keep(self, message: BeatFrame | BarReport) -> None:
        if isinstance(message, BarReport):
            if self._report is None or message.to_beat >= self._report.to_beat:
                self._report = message
        elif message.cluster_id != self._cluster:
            return self._drop("foreign", f"a frame of cluster {message.cluster_id}")
        elif self._frame is None:
            self._frame = message
        else:
            self._counts["collapsed"] += 1
            self._frame = max(self._frame, message, key=position)
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def _drop(self, what: str, reason: str) -> None:
        self._counts[what] += 1
        if what not in self._noticed:
            self._noticed.add(what)
            _log.warning("backbeat: messages are ignored", what=what, reason=reason)

    async def newest(self) -> tuple[BeatFrame | None, BarReport | None]:
        """Wait until something was heard, and take it."""
        while self._frame is None and self._report is None:
            self._woken = asyncio.get_running_loop().create_future()
            await self._woken
        heard = self._frame, self._report
        self._frame = self._report = None
        return heard


# --- the rule ---------------------------------------------------------------------------------------------------------


def position(said: BeatFrame | facts.Beat | BarReport | facts.BarReport) -> tuple[int, int]:
    """Where in the count a frame or a report stands."""
    if isinstance(said, BeatFrame | facts.Beat):
        rank = PHASES.index(said.phase) if said.phase in PHASES else -1  # another provider's word is not checked
        return said.beat_index, rank
    return said.to_beat, 0


def refusal(body: facts.Beat | facts.BarReport, held: Known | None, now_ms: int) -> str | None:
    """Why this is not put on record in place of what is held: ``late``, ``repeated`` or ``backward``; None if it is."""
    if isinstance(body, facts.Beat) and body.deadline_at <= now_ms:
        return "late"
    if held is None or _is_over(held, now_ms):
        return None
    last = position(msgspec.convert(held.body, type(body)))
    if position(body) > last:
        return None
    return "repeated" if position(body) == last else "backward"


def missing(body: facts.Beat | facts.BarReport, held: Known | None, now_ms: int) -> int:
    """Beats between this frame and the one held, of which none is on record."""
    if not isinstance(body, facts.Beat) or held is None or _is_over(held, now_ms):
        return 0
    return max(0, body.beat_index - int(held.body["beat_index"]) - 1)


def _is_over(held: Known, now_ms: int) -> bool:
    return held.expires_at <= now_ms


def _life_ms(leading: Leading, frame: BeatFrame | None) -> int:
    """The beats that make a window unknown, at the tempo of this frame, or of the newest one on record."""
    registry = leading.registry
    held = registry.fact("beat", BEAT_SUBJECT)
    if frame is not None:
        tempo_mbpm = frame.body().tempo_mbpm
    else:
        tempo_mbpm = FIRST_TEMPO_MBPM if held is None else int(held.body["tempo_mbpm"])
    return int(registry.setting("beat_stale_after_beats")) * MS_PER_BEAT_AT_1_MBPM // max(tempo_mbpm, 1)


# --- what is claimed --------------------------------------------------------------------------------------------------


def claim(tally: Mapping[str, int], frame: BeatFrame, agent: str, principal: str) -> StatusClaim:
    """What the cluster says of itself in this beat: what most projects in execution do, and all of it in the notes.

    The clock value follows the frame's, as an answer's does; its wall part is 16 bits of nobody knows what.
    """
    busy = [word for word in WORDS if tally.get(word)]
    state_word = max(busy, key=lambda word: tally[word]) if busy else "idle"
    wall, logical, _ = frame.hlc.split(":")
    return StatusClaim(
        agent_id=agent,
        beat_index=frame.beat_index,
        state=state_word,
        notes=", ".join(f"{tally[word]} {word}" for word in (*WORDS, "idle") if tally.get(word)),
        hlc=f"{wall}:{(int(logical, 16) + 1) & 0xFFFF:04x}:{principal[-4:]}",
    )


async def _tally(leading: Leading) -> Counter[str]:
    """How many projects are at what, by the words of a claim."""
    tally: Counter[str] = Counter()
    for number, project_id in enumerate(leading.machine.project_ids(), 1):
        project = leading.machine.project(project_id)
        if project is not None and isinstance(project.regions, ProjectRegions):
            tally[_word(project, project.regions)] += 1
        if number % PROJECTS_BETWEEN_PAUSES == 0:
            await leading.clock.sleep(0)  # callers come first
    return tally


def _word(project: Project, regions: ProjectRegions) -> str:
    if regions.lifecycle.phase != "EXECUTION":
        return "idle"
    control = state.control(regions)
    held = project.quarantined or control["Paused"] or control["Recovering"]
    return "blocked" if held else _WORD_OF_PHASE[regions.execution.phase]
