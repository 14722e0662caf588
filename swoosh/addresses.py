"""Addresses are checked for form and stored; nothing here or anywhere in the core ever resolves one (Brief §7).

Two grammars of UCXL are in use beside looser spellings, so evidence is read leniently by default: a known scheme,
printable ASCII without spaces, bounded length. The setting ``strict_evidence`` asks for the full grammar

    ucxl://agent:role@project:task/temporal/path        temporal = *^ | *~ | *~N | ~~N | ^^N
    bubble://dr/<64 hex>

which is also the form SWOOSH itself writes.
"""

from __future__ import annotations

from swoosh import limits
from swoosh.errors import Malformed
from swoosh.hashing import is_hex

UCXL = "ucxl://"
BUBBLE = "bubble://"
_PRINTABLE = frozenset(map(chr, range(0x21, 0x7F)))
_COMPONENT = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_PATH = _COMPONENT | frozenset("/.")


def check(text: str, what: str, *, strict: bool = False) -> None:
    """Refuse text that is no address.

    Raises:
        Malformed: naming ``what`` and the part that does not fit.
    """
    if not 0 < len(text) <= limits.ADDRESS_CHARS_MAX or not _PRINTABLE.issuperset(text):
        raise Malformed(f"{what}: expected 1 to {limits.ADDRESS_CHARS_MAX} printable ASCII characters without spaces")
    if not text.startswith((UCXL, BUBBLE)):
        raise Malformed(f"{what}: expected an address beginning {UCXL} or {BUBBLE}, got {text[:80]!r}")
    if strict and not (_is_strict_ucxl(text) or _is_strict_bubble(text)):
        form = f"{UCXL}agent:role@project:task/temporal/path or {BUBBLE}dr/<64 hex>"
        raise Malformed(f"{what}: expected {form}, got {text[:80]!r}")


def _is_strict_ucxl(text: str) -> bool:
    names, slash, rest = text.removeprefix(UCXL).partition("/")
    temporal, second_slash, path = rest.partition("/")
    who, at, where = names.partition("@")
    components = [*who.split(":"), *where.split(":")]
    shaped = text.startswith(UCXL) and bool(slash) and bool(at) and bool(second_slash) and len(components) == 4
    named = all(component and _COMPONENT.issuperset(component) for component in components)
    return shaped and named and _is_temporal(temporal) and _PATH.issuperset(path)


def _is_temporal(text: str) -> bool:
    kind, count = text[:2], text[2:]
    if kind == "*^":
        return not count
    numbered = count.isascii() and count.isdigit()
    return numbered if kind in ("~~", "^^") else kind == "*~" and (numbered or not count)


def _is_strict_bubble(text: str) -> bool:
    return text.startswith(f"{BUBBLE}dr/") and is_hex(text.removeprefix(f"{BUBBLE}dr/"), 64)
