"""Addresses are checked for form and stored; nothing here or anywhere in the core ever resolves one (Brief §7).

Two grammars of UCXL are in use beside looser spellings, so evidence is read leniently by default: a known scheme,
printable ASCII without spaces, bounded length. The setting ``evidence_grammar`` asks for one of the two

    go      ucxl://agent:role@project:task/temporal/path     temporal = *^ | *~ | *~N | ~~N | ^^N
    rust    ucxl://agent[:role]@project:task/temporal/path   temporal = # | ~~ | ^^

and, under either, for ``bubble://dr/<64 hex>``. ``#`` begins a fragment in general parsers of URLs, so addresses are
taken apart here. What SWOOSH writes itself is in the first form.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from swoosh import limits
from swoosh.errors import Malformed
from swoosh.hashing import is_hex

UCXL = "ucxl://"
BUBBLE = "bubble://"
_PRINTABLE = frozenset(map(chr, range(0x21, 0x7F)))
COMPONENT = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
"""What agent, role, project and task are made of; ``any`` is the wildcard."""
_PATH = COMPONENT | frozenset("/.")


class Grammar(StrEnum):
    """Who must be able to read an address."""

    LENIENT = "lenient"
    GO = "go"
    RUST = "rust"


class Address(NamedTuple):
    """A UCXL address, taken apart. ``role`` is empty where the grammar lets it be missing."""

    agent: str
    role: str
    project: str
    task: str
    temporal: str
    path: str

    def __str__(self) -> str:
        who = f"{self.agent}:{self.role}" if self.role else self.agent
        return f"{UCXL}{who}@{self.project}:{self.task}/{self.temporal}/{self.path}"


def check(text: str, what: str, grammar: Grammar = Grammar.LENIENT) -> None:
    """Refuse text that is no address.

    Raises:
        Malformed: naming ``what`` and the part that does not fit.
    """
    if not 0 < len(text) <= limits.ADDRESS_CHARS_MAX or not _PRINTABLE.issuperset(text):
        raise Malformed(f"{what}: expected 1 to {limits.ADDRESS_CHARS_MAX} printable ASCII characters without spaces")
    if not text.startswith((UCXL, BUBBLE)):
        raise Malformed(f"{what}: expected an address beginning {UCXL} or {BUBBLE}, got {text[:80]!r}")
    if grammar is Grammar.LENIENT:
        return
    if text.startswith(UCXL):
        parse(text, what, grammar)
    elif not _is_decision(text):
        raise Malformed(f"{what}: expected {BUBBLE}dr/ and 64 hex digits, got {text[:80]!r}")


def parse(text: str, what: str, grammar: Grammar) -> Address:
    """A UCXL address of the ``go`` or ``rust`` grammar, taken apart; ``str`` of it is the text again.

    Raises:
        Malformed: naming ``what`` and the part that does not fit.
    """
    names, _, rest = text.removeprefix(UCXL).partition("/")
    temporal, slash, path = rest.partition("/")
    who, _, where = names.partition("@")
    agent, colon, role = who.partition(":")
    project, _, task = where.partition(":")
    parts = {"agent": agent, "role": role, "project": project, "task": task}
    if grammar is Grammar.RUST and not colon:
        del parts["role"]
    for part, value in parts.items():
        if not value or not COMPONENT.issuperset(value):
            raise Malformed(f"{what}: {part}: expected letters, digits, _ and -, got {value[:80]!r} in {text[:80]!r}")
    if not _is_temporal(temporal, grammar):
        raise Malformed(f"{what}: temporal: expected {_TEMPORALS[grammar]}, got {temporal[:80]!r} in {text[:80]!r}")
    if not text.startswith(UCXL) or not slash or not _PATH.issuperset(path):
        raise Malformed(f"{what}: expected {UCXL}…/temporal/path of letters, digits and _-./, got {text[:80]!r}")
    return Address(agent, role, project, task, temporal, path)


_TEMPORALS = {Grammar.GO: "*^, *~, *~N, ~~N or ^^N", Grammar.RUST: "#, ~~ or ^^"}


def _is_temporal(text: str, grammar: Grammar) -> bool:
    if grammar is Grammar.RUST:
        return text in ("#", "~~", "^^")
    kind, count = text[:2], text[2:]
    if kind == "*^":
        return not count
    numbered = count.isascii() and count.isdigit()
    return numbered if kind in ("~~", "^^") else kind == "*~" and (numbered or not count)


def _is_decision(text: str) -> bool:
    return text.startswith(f"{BUBBLE}dr/") and is_hex(text.removeprefix(f"{BUBBLE}dr/"), 64)
