"""How far this node's wall clock is from those of the other members.

The leader's wall clock stamps entries, and everything timed (windows, grace periods, the age of facts) is judged by
those stamps alone. A leader whose clock is wrong would close windows early or keep them open, on every node alike. So
each node asks the others for their time twice a second (`clock {at}` and `clock_ok {at, wall_us}`, where `at` is the
asker's own monotonic reading in microseconds, given back unread) and keeps the newest answer of each.

An answer taken `d` seconds after its question fixes the other clock to within d/2 (Cristian 1989); that error is always
counted in favour of this node, so a slow link or a long pause never makes a good clock look bad.

Nothing here sets a clock or decides a stamp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cluster.clock import Clock

PROBE_SECONDS = 0.5
FRESH_SECONDS = 5 * PROBE_SECONDS


@dataclass(frozen=True, slots=True)
class Sample:
    """One peer's wall clock against our monotonic one, in microseconds, give or take `error`. Our wall clock may be
    stepped right after it was compared; the monotonic one may not."""

    theirs: int
    error: int
    taken_at: float


class Difference(NamedTuple):
    """A wall clock against ours as it stands now, in microseconds: positive = it is ahead, give or take `error`."""

    ahead: int
    error: int


class Skew:
    """The samples of one node. A majority always counts the node itself, with no difference and no error."""

    def __init__(
        self, *, peers: Sequence[str], raw: Callable[[str, dict[str, Any]], bool], clock: Clock, limit_us: int
    ) -> None:
        """`raw(peer, message)` sends past the guard; beyond `limit_us` from the median a clock is off."""
        self._peers, self._raw, self._clock, self._limit_us = tuple(peers), raw, clock, limit_us
        self._samples: dict[str, Sample] = {}

    def probe(self, peer: str) -> None:
        """Ask one peer for its time."""
        self._raw(peer, {"type": "clock", "at": self._now_us()})

    def on_probe(self, peer: str, message: dict[str, Any]) -> None:
        self._raw(peer, {"type": "clock_ok", "at": message["at"], "wall_us": self._clock.wall_us()})

    def on_answer(self, peer: str, message: dict[str, Any]) -> None:
        error = max(0, self._now_us() - message["at"]) // 2
        self._samples[peer] = Sample(message["wall_us"] + error - self._now_us(), error, self._clock.monotonic())

    def forget(self, peer: str) -> None:
        self._samples.pop(peer, None)

    def is_known(self) -> bool:
        """Fresh samples of a majority are at hand."""
        return 2 * (len(self._fresh()) + 1) > len(self._peers) + 1

    def is_off(self) -> bool:
        """This node's clock is further than the limit from the median of a majority. Unknown is not off."""
        return self.is_known() and abs(self.from_median_us()) > self._limit_us

    def is_taken(self, stamp_us: int, ahead_us: int, counts: Callable[[str], bool]) -> bool:
        """Would a majority of the members that count take an entry with this stamp, at most `ahead_us` ahead of each
        one's clock? An entry that nobody but its leader takes stays in that leader's log, before all that come after.

        Two clocks that differ cannot say which is wrong, so with a third node away `is_off` alone would not ask.
        """
        differences = [self._difference(sample) for peer, sample in self._fresh_of() if counts(peer)]
        ours = self._clock.wall_us()
        takers = sum(stamp_us - (ours + ahead - error) <= ahead_us for ahead, error in differences)
        return 2 * (takers + 1) > len(self._peers) + 1

    def is_peer_off(self, peer: str) -> bool:
        """The same judgement about a peer, as far as we can see."""
        sample = self._samples.get(peer)
        if sample is None:
            return False
        ahead, error = self._difference(sample)
        return abs(self.from_median_us() + ahead) - error > self._limit_us

    def from_median_us(self) -> int:
        """How far this node's clock is ahead of the median of those it knows, microseconds, at least.

        Two clocks that differ cannot say which is wrong: with an even number, the nearer of the middle two counts.
        """
        ordered = sorted([Difference(0, 0), *map(self._difference, self._fresh())])
        below, above = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
        if below.ahead <= 0 <= above.ahead:
            return 0
        nearest = min(below, above, key=lambda difference: abs(difference.ahead))
        distance = max(0, abs(nearest.ahead) - nearest.error)
        return -distance if nearest.ahead > 0 else distance

    def _fresh(self) -> list[Sample]:
        return [sample for _, sample in self._fresh_of()]

    def _fresh_of(self) -> list[tuple[str, Sample]]:
        oldest = self._clock.monotonic() - FRESH_SECONDS
        return [(peer, sample) for peer, sample in self._samples.items() if sample.taken_at >= oldest]

    def _difference(self, sample: Sample) -> Difference:
        return Difference(sample.theirs - (self._clock.wall_us() - self._now_us()), sample.error)

    def _now_us(self) -> int:
        return int(self._clock.monotonic() * 1_000_000)
