"""Patterns that cannot blow up: a row of characters and sets, each with a bounded count.

A pattern is a part of the regular expressions, and is matched without ever going back: a count takes all it can and
gives nothing back. So an attempt at one place takes no more steps than the pattern is wide. Attempts are made only
where the literal letters stand with which every pattern begins, and a pattern may be at most `WIDTH_PER_LETTER` times
as wide as two such places are apart. Together: at most so many steps for each character of a text, whatever the text.

Groups, alternatives, look-around, back-references and open counts (`*`, `+`) are refused: they are what lets a short
text cost minutes, and a scan may not be left to a thread or a clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from swoosh.errors import Malformed

PREFIX_MIN = 3
WIDTH_PER_LETTER = 320
PATTERN_CHARS_MAX = 256
VALUE_CHARS_MIN = 20
"""The shortest value of a name that is taken for a secret."""

TOKEN = "[A-Za-z0-9_-]"
"""What a token is made of, base64url above all: a match inside of one is chance."""

_ITEM = re.compile(
    r"(?P<atom>\\[dws]|\\[^A-Za-z0-9\s]|\[\^?(?:\\.|[^\[\]\\])+\]|[^\\\[\](){}|*+?^$\n])(?P<count>\{\d{1,4}(?:,\d{1,4})?\}|\?)?"
)
_SET_OPERATORS = re.compile(r"--|&&|\|\||~~")
_NAME = re.compile(r"[a-z0-9]{2,32}(?:_[a-z0-9]{1,32}){0,7}")
_VALUE = rf"(?=[A-Za-z._~+/=-]{{0,63}}+[0-9])[A-Za-z0-9._~+/=-]{{{VALUE_CHARS_MIN},}}+"
_VALUE_BEGUN = "[A-Za-z0-9._~+/=-]{8}"
_REST = f"(?:(?<=[A-Za-z0-9]){TOKEN}*+)?+"
"""What is left of a token behind an open end. It stands last and always matches, so it is read once."""
_ASSIGNED = r"""(?:["'\\]{0,2}+\s{0,4}+(?:=>|:=|[:=])\s{0,4}+|\s{1,4}+)["'\\]{0,2}+"""


class Probe(NamedTuple):
    """A compiled pattern.

    Attributes:
        prefix: stands literally at its beginning.
        folds: whether the case of ASCII letters is ignored; then ``prefix`` is in lower case.
        regex: group 1 is the value.
        begun: where a value begins that may have been cut.
    """

    prefix: str
    folds: bool
    regex: re.Pattern[str]
    begun: re.Pattern[str]


class _Item(NamedTuple):
    atom: str
    least: int
    most: int

    @property
    def text(self) -> str:
        if (self.least, self.most) == (1, 1):
            return self.atom
        return self.atom + (f"{{{self.least}}}" if self.least == self.most else f"{{{self.least},{self.most}}}+")

    @property
    def literal(self) -> str | None:
        """The one character it stands for, if it is one."""
        if (self.least, self.most) != (1, 1) or self.atom.startswith("[") or self.atom in (".", r"\d", r"\w", r"\s"):
            return None
        return self.atom[-1]


def token(pattern: str) -> Probe:
    """A probe for a value of this form.

    It matches where a token begins. If its last count is fixed, the token ends there, for a longer one is another; if
    not, the rest of the token belongs to the value.

    Raises:
        Malformed: not of the form above; the reason names the place.
    """
    items = list(_items(pattern))
    prefix = _prefix(items)
    if len(prefix) < PREFIX_MIN:
        raise Malformed(f"pattern {pattern!r}: begin with at least {PREFIX_MIN} literal characters, here {prefix!r}")
    width, widest = sum(item.most for item in items), WIDTH_PER_LETTER * _period(prefix)
    if width > widest:
        raise Malformed(
            f"pattern {pattern!r}: up to {width} characters wide; {widest} are allowed behind {prefix!r}, "
            f"{WIDTH_PER_LETTER} for each literal character before these can begin again"
        )
    before = f"(?<!{TOKEN})" if re.match(r"\w", prefix, re.ASCII) else ""
    row = "".join(item.text for item in items)
    fixed = items[-1].least == items[-1].most
    text = f"{before}({row})(?!{TOKEN})" if fixed else f"{before}({row}{_REST})"
    return Probe(prefix, False, re.compile(text, re.ASCII), re.compile(before + re.escape(prefix)))


def named(name: str) -> Probe:
    """A probe for a value that is assigned to something whose name ends in `name`, or follows it.

    Case, `-` and `_` are ignored. A value is at least `VALUE_CHARS_MIN` token characters, a digit among them.

    Raises:
        Malformed: not words of lower-case letters and digits, joined by `_`.
    """
    if not _NAME.fullmatch(name):
        raise Malformed(f"name {name[:80]!r}: expected words of lower-case letters and digits, joined by _")
    words, flags = name.split("_"), re.ASCII | re.IGNORECASE
    assigned = "[_-]?+".join(words) + _ASSIGNED
    return Probe(
        words[0], True, re.compile(f"{assigned}({_VALUE})", flags), re.compile(f"{assigned}{_VALUE_BEGUN}", flags)
    )


def _items(pattern: str) -> Iterator[_Item]:
    if not 0 < len(pattern) <= PATTERN_CHARS_MAX:
        raise Malformed(f"pattern {pattern[:80]!r}: 1 to {PATTERN_CHARS_MAX} characters")
    at = 0
    while at < len(pattern):
        found = _ITEM.match(pattern, at)
        if found is None or (found["atom"].startswith("[") and _SET_OPERATORS.search(found["atom"])):
            raise Malformed(
                f"pattern {pattern!r}: at {pattern[at : at + 12]!r} expected a character, an escaped one, \\d, \\w, "
                "\\s, a [set], each with {n}, {m,n} or ? if need be; groups, |, *, + and look-around are not taken"
            )
        least, most = _count(found["count"])
        if not 0 <= least <= most or most < 1:
            raise Malformed(f"pattern {pattern!r}: the count {found['count']} is none")
        yield _Item(found["atom"], least, most)
        at = found.end()


def _count(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    if text == "?":
        return 0, 1
    least, _, most = text.strip("{}").partition(",")
    return int(least), int(most or least)


def _period(prefix: str) -> int:
    """How many characters there are at least from one place where it stands to the next."""
    return next(apart for apart in range(1, len(prefix) + 1) if prefix.startswith(prefix[apart:]))


def _prefix(items: list[_Item]) -> str:
    letters = []
    for item in items:
        if item.literal is None:
            break
        letters.append(item.literal)
    return "".join(letters)
