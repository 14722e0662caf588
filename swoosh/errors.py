"""The error tree of the core, drawn once.

An exception here means a bug, a corrupt store or bytes that are not of the agreed form. A proposal that is merely
*refused* never raises: refusals are outcomes (see outcome.py), so that the reducer stays total.

    SwooshError
    ├── Malformed            bytes or values outside the canonical domain or a schema; carries the refusal code
    ├── ChartError           statechart.yaml and the code disagree, or the chart contradicts itself
    ├── InvariantBroken      an accepted transition would break a law of the machine
    └── Corrupt              a stored record, entry or snapshot does not verify
"""

from __future__ import annotations

from swoosh.outcome import Code


class SwooshError(Exception):
    """Root of every error the core raises."""


class Malformed(SwooshError):
    """Input that is not of the agreed form.

    Attributes:
        code: the refusal code a caller sees (``MALFORMED`` unless said otherwise).
        reason: one sentence naming the place and what is wrong with it.
    """

    def __init__(self, reason: str, code: Code = Code.MALFORMED) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class ChartError(SwooshError):
    """The chart and the code drifted apart, or the chart cannot be a machine. The text lists every fault found."""


class InvariantBroken(SwooshError):
    """A law of the machine (Brief §12) would not hold after the transition. The text names the law and the values."""


class Corrupt(SwooshError):
    """Stored bytes do not match their hash, their order or their schema. Never repaired silently."""
