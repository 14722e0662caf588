"""Reading what callers of WHOOSH send: any JSON object, of which only what is asked for is read.

Nothing read here reaches the log as it came: text is brought into the form that signed proposals have to be in (NFC,
no control characters, bounded), names become names, everything else is left behind or kept by its hash. Wrong types
count as missing, for nobody knows which fields which release of a caller sends.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from swoosh import limits, proposal
from swoosh.errors import Malformed
from swoosh.hashing import digest_hex
from swoosh.inputs import is_printable
from swoosh.outcome import Code

DEPTH_MAX = 32
_TAG_DIGITS = 8


def parse(body: bytes) -> dict[str, Any]:
    """The object in a body. Floats, repeated members and unknown ones are welcome.

    Raises:
        Malformed: no JSON object, or nested deeper than 32.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the body is not JSON: {str(error)[:120]}") from None
    if not isinstance(document, dict):
        raise Malformed(f"a JSON object is needed, got {type(document).__name__}")
    if _depth(document) > DEPTH_MAX:
        raise Malformed(f"the body is nested deeper than {DEPTH_MAX}", Code.TOO_LARGE)
    return document


def _depth(document: object) -> int:
    depth, level = 0, [document]
    while level:
        depth += 1
        if depth > DEPTH_MAX:
            break
        containers = [each for each in level if isinstance(each, dict | list)]
        level = [one for each in containers for one in (each.values() if isinstance(each, dict) else each)]
    return depth


def text(document: Mapping[str, Any], *names: str, longest: int = limits.TEXT_CHARS_MAX) -> str:
    """The first of the members that holds text, cleaned and cut; empty where none does. Numbers are text, too."""
    for name in names:
        value = document.get(name)
        if isinstance(value, str) and (found := clean(value, longest)):
            return found
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)[:longest]
    return ""


def clean(value: str, longest: int = limits.TEXT_CHARS_MAX) -> str:
    """NFC, line breaks kept, other control characters and what is no character left out, cut to `longest`."""
    whole = value.encode("utf-8", "replace").decode()  # lone surrogates become question marks
    plain = unicodedata.normalize("NFC", whole)
    kept = "".join(each for each in plain if each in "\n\t" or not unicodedata.category(each).startswith("C"))
    return unicodedata.normalize("NFC", kept.strip()[:longest])


def texts(document: Mapping[str, Any], *names: str, most: int, longest: int = limits.TEXT_CHARS_MAX) -> tuple[str, ...]:
    """The texts of the first of the members that is a list."""
    cleaned = (clean(each, longest) for each in _listed(document, names) if isinstance(each, str))
    return tuple(dict.fromkeys(each for each in cleaned if each))[:most]


def objects(document: Mapping[str, Any], *names: str) -> list[dict[str, Any]]:
    """The objects of the first of the members that is a list."""
    return [each for each in _listed(document, names) if isinstance(each, dict)]


def _listed(document: Mapping[str, Any], names: tuple[str, ...]) -> list[Any]:
    return next((found for name in names if isinstance(found := document.get(name), list)), [])


def member(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object in a member; an empty one where it is none."""
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def moment_ms(value: str) -> int:
    """Milliseconds since 1970 of an RFC 3339 time, 0 where it is none. Without an offset it is UTC."""
    try:
        found = datetime.fromisoformat(value)
        found = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
        return min(max(0, int(found.timestamp() * 1000)), limits.HLC_MS_MAX)
    except (ValueError, OverflowError, OSError):
        return 0


def is_name(value: str) -> bool:
    """Whether a text can name a role, a task or an agent as it is."""
    return 0 < len(value) <= limits.NAME_CHARS_MAX and is_printable(value)


def project_id(value: str) -> str:
    """The project a council id, a repository or a name stands for; one that had to be changed carries a tag of its
    own, so that two names never become one project.

    Raises:
        Malformed: there is nothing to make an id of.
    """
    plain = value.strip().lower()
    try:
        if plain == value.strip() and plain != proposal.CLUSTER:
            return proposal.project_id(plain)
    except Malformed:
        pass
    if not plain:
        raise Malformed("the request names no project")
    slug = "".join(each if each.isascii() and (each.isalnum() or each in "._-") else "-" for each in plain)
    tag = digest_hex("legacy", value.encode())[:_TAG_DIGITS]
    head = slug.strip("-._")[: limits.PROJECT_ID_CHARS_MAX - _TAG_DIGITS - 1] or "project"
    return proposal.project_id(f"{head}-{tag}")
