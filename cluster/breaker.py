"""A circuit breaker: whoever keeps failing is left alone for a while, so that waiting for it costs nothing.

Closed, it lets everything through. After so many failures in a row it opens and refuses at once; when its pause is over
it lets one call through, whose result decides. It never retries and never sleeps: callers do, or do not.
"""

from __future__ import annotations

from cluster.clock import Clock

FAILURES = 5
PAUSE_SECONDS = 30.0


class Breaker:
    """One breaker, for one address of one system."""

    def __init__(self, clock: Clock, *, failures: int = FAILURES, pause: float = PAUSE_SECONDS) -> None:
        """`failures` in a row open it for `pause` seconds."""
        self._clock, self._failures, self._pause = clock, failures, pause
        self._failed = 0
        self._open_until = float("-inf")

    def refusal(self) -> str | None:
        """Why nothing may be tried now, or None. Asking changes nothing; who goes on to try says `begin`."""
        wait = self._open_until - self._clock.monotonic()
        return f"it failed {self._failed} times in a row; the next trial is in {wait:.1f} s" if wait > 0 else None

    def begin(self) -> None:
        """A call is on its way. After a pause it is the one trial, and the others wait for another pause."""
        if self._failed >= self._failures:
            self._open_until = self._clock.monotonic() + self._pause

    def succeeded(self) -> None:
        """It answered."""
        self._failed, self._open_until = 0, float("-inf")

    def failed(self) -> None:
        """It did not."""
        self._failed += 1
        self.begin()
