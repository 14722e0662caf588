"""What a request to a SWOOSH cluster lacks, and the request with that added. No I/O.

An idempotency key makes a write safe to repeat, an HLC and a window put it in its place (Brief §13). On WHOOSH's routes
they travel as headers. In a proposal they are members of the body, and headers may only repeat them, so there they are
put into the body. What a caller said is never changed, what is signed is never touched, and a body that does not read
strictly is left as it is: the node will say what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, NamedTuple

import msgspec

from swoosh import canonical
from swoosh.errors import Malformed
from swoosh.hashing import digest_hex
from swoosh.proposal import HEADERS

KEY_PREFIX = "shim:"
_UNTOUCHABLE = ("X-HMMM-Signature", "Content-Encoding")
_NDJSON = "application/x-ndjson"
_RENEWED = frozenset({"hlc", "window_id"})

Source = Callable[[str], str]
"""Gives what is to be added for a member, a new one at each call; empty where nothing is."""


class Place(Enum):
    """Where a route takes what is added."""

    HEADERS = auto()
    """WHOOSH's routes, for which a node makes a key from method, path, caller, body and generation where none is
    sent."""
    BODY = auto()
    """Proposals."""
    NOWHERE = auto()
    """Everything else speaks for itself: signed facts, orders and commands, messages, reads."""


class Call(NamedTuple):
    """One request as its caller made it. ``path`` without the query; ``headers`` in any case."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Amended(NamedTuple):
    """What one attempt sends: further headers, the body, and which members are not the caller's own words."""

    headers: dict[str, str]
    body: bytes
    own: dict[str, str]


def place_of(path: str) -> Place:
    """Where a POST to this path takes what is added."""
    if path in ("/transition", "/transitions"):
        return Place.BODY
    return Place.HEADERS if path.startswith(("/api/v1/", "/webhooks/")) else Place.NOWHERE


def amend(call: Call, source: Source) -> Amended:
    """The call with what it lacks, as far as ``source`` has it."""
    said = _said(call.headers)
    match place_of(call.path):
        case Place.HEADERS:
            own = {member: text for member in HEADERS if member not in said and (text := source(member))}
            return Amended({HEADERS[member][0]: text for member, text in own.items()}, call.body, own)
        case Place.BODY if not any(_header(call.headers, name) for name in _UNTOUCHABLE):
            if call.path == "/transitions":
                return Amended({}, _batch(call, source), {})
            return _single(call.body, said, source)
        case _:
            return Amended({}, call.body, {})


def key_of(proposal: Mapping[str, Any]) -> str:
    """The key of a proposal that has none: a hash of all it says but its place in time.

    It names the state it was decided on, and no state comes twice. So the same words again, to whomever, can only mean
    the same thing.
    """
    said = {name: value for name, value in proposal.items() if name not in _RENEWED and name != "idem_key"}
    return KEY_PREFIX + digest_hex("shim", canonical.encode(said))


def _said(headers: Mapping[str, str]) -> dict[str, str]:
    """{member: what a header says of it}."""
    said = {}
    for member, names in HEADERS.items():
        if text := next(filter(None, (_header(headers, name) for name in names)), ""):
            said[member] = text
    return said


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((text for each, text in headers.items() if each.lower() == name.lower()), "")


# --- proposals --------------------------------------------------------------------------------------------------------


def _single(body: bytes, said: Mapping[str, str], source: Source) -> Amended:
    """An unsigned proposal with the members it lacks: what a header says of them, else what is to be added."""
    unchanged = Amended({}, body, {})
    try:
        document = canonical.parse(body)
    except Malformed:
        return unchanged
    if not isinstance(document, dict) or document.get("signature") is not None:
        return unchanged
    added, own = {}, {}
    for member in HEADERS:
        if document.get(member) not in (None, ""):
            continue
        if member in said:
            added[member] = said[member]
        elif text := key_of(document) if member == "idem_key" else source(member):
            added[member] = own[member] = text
    return Amended({}, canonical.encode({**document, **added}), own) if added else unchanged


def _batch(call: Call, source: Source) -> bytes:
    """Each unsigned proposal of an array, or of lines, for itself; headers say nothing of many proposals."""
    lines = _header(call.headers, "Content-Type").partition(";")[0].strip().lower() == _NDJSON
    if lines:
        members = call.body.splitlines()
    elif call.body.lstrip()[:1] == b"[":
        try:
            members = [bytes(each) for each in msgspec.json.decode(call.body, type=list[msgspec.Raw])]
        except msgspec.DecodeError:
            return call.body
    else:
        return call.body
    filled = [_single(member, {}, source).body for member in members]
    if filled == members:
        return call.body
    return b"\n".join(filled) + b"\n" if lines else b"[" + b",".join(filled) + b"]"
