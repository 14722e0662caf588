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
_FORM = "0000-00-00T00:00:00.000"
_DIGITS_TO_ZERO = str.maketrans("123456789", "0" * 9)


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
    if body == text or body.translate(_DIGITS_TO_ZERO) != _FORM:
        raise Malformed(f"{what}: expected YYYY-MM-DDThh:mm:ss.mmm+00:00 (UTC), got {text[:80]!r}")
    hour, minute, second, milli = int(body[11:13]), int(body[14:16]), int(body[17:19]), int(body[20:])
    try:
        day = _day(body[:10])
    except ValueError as error:
        raise Malformed(f"{what}: {error}: {text[:80]!r}") from None
    if day < 0 or hour > 23 or minute > 59 or second > 59:
        raise Malformed(f"{what}: before 1970, or no time of a day: {text[:80]!r}")
    return (((day * 24 + hour) * 60 + minute) * 60 + second) * 1000 + milli


@lru_cache(maxsize=64)
def _day(text: str) -> int:
    """Days from 1970-01-01 to a date written ``YYYY-MM-DD``. Raises ValueError for one that does not exist."""
    return (datetime(int(text[:4]), int(text[5:7]), int(text[8:]), tzinfo=UTC) - _EPOCH).days


def _number(text: str, what: str, maximum: int) -> int:
    if not (_all_digits(text) and len(text) <= len(str(maximum)) and int(text) <= maximum):
        raise Malformed(f"{what}: expected an integer from 0 to {maximum}, got {text[:40]!r}")
    return int(text)


def _all_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()
