"""A circuit breaker: whoever keeps failing is left alone for a while, so that waiting for it costs nothing.

Closed, it lets everything through. After so many failures in a row it opens and refuses at once; when its pause is over
it lets one call through, whose result decides. It never retries and never sleeps: callers do, or do not.
"""

from __future__ import annotations

from cluster.clock import Clock

FAILURES = 5
PAUSE_SECONDS = 30.0


class Breaker:
    """One breaker, for one peer of one system."""

    def __init__(self, clock: Clock, *, failures: int = FAILURES, pause: float = PAUSE_SECONDS) -> None:
        """`failures` in a row open it for `pause` seconds."""
        self._clock, self._failures, self._pause = clock, failures, pause
        self._failed = 0
        self._open_until = float("-inf")

    def refusal(self) -> str | None:
        """Why nothing may be tried now, or None. Where it says None after a pause, the caller's is the one trial."""
        wait = self._open_until - self._clock.monotonic()
        if wait > 0:
            return f"it failed {self._failed} times in a row; the next trial is in {wait:.1f} s"
        if self._failed >= self._failures:
            self._open_until = self._clock.monotonic() + self._pause
        return None

    def succeeded(self) -> None:
        """It answered."""
        self._failed, self._open_until = 0, float("-inf")

    def failed(self) -> None:
        """It did not."""
        self._failed += 1
        if self._failed >= self._failures:
            self._open_until = self._clock.monotonic() + self._pause
