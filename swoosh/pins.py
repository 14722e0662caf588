"""Version pins: which version of a tool, and which tools of a server, a council is content with (Brief §6).

    1.4.2                exactly this text
    >=1.4,<2             a range: every comparison holds; known are >=, >, <= and <
    1.4.2#sha256-<hex>   either of them, and the tools the server lists hash to this
    #sha256-<hex>        whatever the version, exactly these tools

A range compares whole numbers joined by dots, from the left, a missing number being 0; a leading ``v`` and a build
behind ``+`` are left out. What is of another form, such as the pre-release ``2.0.0-rc.1``, lies in no range: it is
pinned by its text. So a range never lets in what was not released.

Pure and total: a text is a pin or is refused with a reason, and a pin has an answer for every text a server may send.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import NamedTuple

from swoosh.hashing import PREFIX, is_hex

Numbers = tuple[int, ...]

_COMPARISONS: dict[str, Callable[[Numbers, Numbers], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_RANGES_BEGIN_WITH = ("<", ">", "=", "!", "~", "^")
_DIGITS_MAX = 18


class Bound(NamedTuple):
    """One comparison of a range."""

    comparison: str
    numbers: Numbers


class Pin(NamedTuple):
    """A pin that was read: the version part as written, its bounds where it is a range, the hash; each may be empty."""

    version: str
    bounds: tuple[Bound, ...]
    tools_hash: str

    def objection(self, version: str, tools_hash: str) -> str | None:
        """What a server that answers so lacks, for a sentence that begins with its name; None where the pin fits."""
        if self.version and not self._covers(version):
            return f"answers with version {version[:80] or '(none)'}; pinned is {self.version[:80]}"
        if self.tools_hash and self.tools_hash != tools_hash:
            return f"lists tools that hash to {tools_hash[:80] or '(nothing)'}; pinned is {self.tools_hash}"
        return None

    def _covers(self, version: str) -> bool:
        if not self.bounds:
            return version == self.version
        numbers = _numbers(version)
        return numbers is not None and all(_COMPARISONS[b.comparison](numbers, b.numbers) for b in self.bounds)


def parse(text: str) -> Pin:
    """A pin from its text.

    Raises:
        ValueError: it is none; the reason says what is expected where.
    """
    version, mark, tools_hash = text.partition("#")
    if mark and not (tools_hash.startswith(PREFIX) and is_hex(tools_hash.removeprefix(PREFIX), 64)):
        raise ValueError(f"expected sha256- and 64 lower-case hex digits after #, got {tools_hash[:80]!r}")
    if not version and not mark:
        raise ValueError("expected a version, a range, or # and a hash of tools")
    bounds = tuple(map(_bound, version.split(","))) if version.startswith(_RANGES_BEGIN_WITH) else ()
    return Pin(version, bounds, tools_hash)


def _bound(text: str) -> Bound:
    comparison = next((sign for sign in _COMPARISONS if text.startswith(sign)), None)
    numbers = None if comparison is None else _numbers(text.removeprefix(comparison))
    if comparison is None or numbers is None:
        raise ValueError(f"expected {', '.join(_COMPARISONS)} and numbers joined by dots, got {text[:80]!r}")
    return Bound(comparison, numbers)


def _numbers(version: str) -> Numbers | None:
    """The numbers of a released version, without zeros at the end, so that 1.4 and 1.4.0 are one; else None."""
    parts = version.removeprefix("v").partition("+")[0].split(".")
    if not all(part.isascii() and part.isdecimal() and len(part) <= _DIGITS_MAX for part in parts):
        return None
    numbers = list(map(int, parts))
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
