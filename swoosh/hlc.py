"""Hybrid logical clock values (Kulkarni et al. 2014): a physical part in milliseconds and a counter.

A pure value: nothing here reads a clock. Two spellings are read, the brief's RFC 3339 form with ``#counter`` and the
v1.0.0 guide's ``physical-logical-node`` (the third part carries no order and is ignored); only the brief's is written.
Values compare numerically, never as text: ``10-0-…`` is after ``5-0-…``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from swoosh import limits
from swoosh.errors import Malformed

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGITS = ((0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19), (20, 23))
_SEPARATORS = "--T::."


class HLC(NamedTuple):
    """Milliseconds since 1970-01-01 UTC, and a counter that orders events of one millisecond."""

    ms: int
    counter: int

    def __str__(self) -> str:
        return f"{time_text(self.ms)}#{self.counter}"

    @classmethod
    def parse(cls, text: str) -> HLC:
        """Read either spelling.

        Raises:
            Malformed: another shape, or a part out of range (counter < 2^31, year 1970 to 9999).
        """
        return _parse(text)


@lru_cache(maxsize=4_096)  # one proposal's text is read by admission, reducer, invariants and store
def _parse(text: str) -> HLC:
    stamp, separator, counter = text.partition("#")
    if separator:
        return HLC(parse_time(stamp, "hlc"), _number(counter, "hlc counter", limits.HLC_COUNTER_MAX))
    parts = text.split("-")
    if len(parts) != 3 or not parts[2] or ":" in parts[2]:  # a time that lacks its counter is not the other form
        raise Malformed(f"hlc: expected 2025-10-19T01:23:45.678+00:00#7 or physical-logical-node, got {text[:80]!r}")
    return HLC(
        _number(parts[0], "hlc physical part", limits.HLC_MS_MAX),
        _number(parts[1], "hlc logical part", limits.HLC_COUNTER_MAX),
    )


ZERO = HLC(0, 0)


def merge(now_ms: int, *seen: HLC) -> HLC:
    """The next value for an event at ``now_ms`` that follows all of ``seen``: strictly greater than each of them."""
    latest = max(seen, default=ZERO)
    if now_ms > latest.ms:
        return HLC(now_ms, 0)
    return HLC(latest.ms, latest.counter + 1)


@lru_cache(maxsize=4_096)
def time_text(ms: int) -> str:
    """``YYYY-MM-DDThh:mm:ss.mmm+00:00`` of milliseconds since 1970."""
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds")


def parse_time(text: str, what: str = "time") -> int:
    """Milliseconds since 1970 of ``YYYY-MM-DDThh:mm:ss.mmm`` followed by ``+00:00`` or ``Z``.

    Written out by hand because library parsers accept more in newer versions, and replicas must agree.

    Raises:
        Malformed: another shape, another offset, or a date that does not exist.
    """
    body = text.removesuffix("+00:00") if text.endswith("+00:00") else text.removesuffix("Z")
    parts = [body[start:end] for start, end in _DIGITS]
    separators = "".join(body[end : end + 1] for _, end in _DIGITS)
    if len(body) != 23 or body == text or separators != _SEPARATORS or not _all_digits("".join(parts)):
        raise Malformed(f"{what}: expected YYYY-MM-DDThh:mm:ss.mmm+00:00 (UTC), got {text[:80]!r}")
    year, month, day, hour, minute, second, milli = map(int, parts)
    try:
        moment = datetime(year, month, day, hour, minute, second, milli * 1000, UTC)
    except ValueError as error:
        raise Malformed(f"{what}: {error}: {text[:80]!r}") from None
    ms = (moment - _EPOCH) // timedelta(milliseconds=1)
    if ms < 0:
        raise Malformed(f"{what}: before 1970: {text[:80]!r}")
    return ms


def _number(text: str, what: str, maximum: int) -> int:
    if not (_all_digits(text) and len(text) <= len(str(maximum)) and int(text) <= maximum):
        raise Malformed(f"{what}: expected an integer from 0 to {maximum}, got {text[:40]!r}")
    return int(text)


def _all_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()
