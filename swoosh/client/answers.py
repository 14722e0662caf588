"""What a cluster answers, as values.

Read from JSON leniently (members a newer server adds are ignored) and completely (a member that is missing is a server
of another kind, and said so). A refusal is a value; only a read that cannot be answered raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from swoosh.client.transport import Reply
from swoosh.outcome import Change, GuardOutcome

T = TypeVar("T")
_REDIRECTION = 300
_UNAVAILABLE = 503


class ClientError(Exception):
    """Root of what the SDK raises."""


class Unavailable(ClientError):
    """Nobody could answer a read within the budget. The text says what each kind of attempt came to."""


class Rejected(ClientError):
    """The cluster answered a read with a refusal."""

    def __init__(self, code: str, reasons: tuple[str, ...]) -> None:
        super().__init__(f"{code}: {'; '.join(reasons)}" if reasons else code)
        self.code = code
        self.reasons = reasons


class Accepted(msgspec.Struct, frozen=True):
    """Committed and applied. With ``duplicate``, it had been before: these are the hashes of that first time.

    Of a dry run: it would have been, on ``state_pre_hash``, and ``changes`` lists the fields it would have moved.
    """

    project: str
    transition: str
    index: int
    hlc: str
    state_pre_hash: str
    state_post_hash: str
    decision: str
    guard_outcomes: tuple[GuardOutcome, ...] = ()
    duplicate: bool = False
    quarantined: bool = False
    idem_key: str = ""
    seq: int = 0
    """Its place in the project's chain, from 1."""
    changes: tuple[Change, ...] = ()


class Refused(msgspec.Struct, frozen=True):
    """Not applied. ``state_hash`` is HEAD, where a state was read.

    It stays so for this attempt, unless something between delivers a copy of the request later, HEAD has not moved, and
    what it was refused for was a time or a fact (HLC_SKEW, GUARD_REJECTED): the copy is judged when it arrives.

    ``code`` is one of swoosh.outcome.Code, or ``HTTP_<status>`` where something in between answered.
    """

    code: str
    reasons: tuple[str, ...] = ()
    failing_guard: str | None = None
    guard_outcomes: tuple[GuardOutcome, ...] = ()
    state_hash: str = ""
    hlc_last: str = ""
    quarantined: bool = False
    retryable: bool = False
    help: str = ""
    idem_key: str = ""
    findings: tuple[dict[str, str], ...] = ()
    """What policy found in the request: rule, severity, location and hash of each value."""

    def __str__(self) -> str:
        by = f" by {self.failing_guard}" if self.failing_guard else ""
        return f"{self.code}{by}: {'; '.join(self.reasons)}"


class Unknown(msgspec.Struct, frozen=True):
    """The budget ran out while an attempt may still be applied. Propose again with the same ``idem_key``."""

    idem_key: str
    reason: str


class FactAccepted(msgspec.Struct, frozen=True):
    """The fact is the newest of its kind and subject. Guards cite it by ``digest``."""

    kind: str
    subject: str
    digest: str
    index: int


Outcome = Accepted | Refused | Unknown


class _Outcomes(msgspec.Struct, frozen=True):
    outcomes: list[dict[str, Any]]


class State(msgspec.Struct, frozen=True):
    """An answer to ``GET /state``. ``projection`` maps region names to their documents."""

    state_hash: str
    hlc_last: str
    index: int
    node: str
    leader: str | None
    consistency: str
    projection: dict[str, Any]
    region_hashes: dict[str, str] = {}


class Opening(msgspec.Struct, frozen=True):
    """One time class of a project: whether it is open, the window a proposal has to name (None: the caller chooses),
    and in how many milliseconds it opens (None where nobody can say)."""

    open: bool
    reason: str
    window_id: str | None = None
    opens_in_ms: int | None = None


class Windows(msgspec.Struct, frozen=True):
    """An answer to ``GET /windows``. ``classes`` has ``plan``, ``work``, ``review`` and ``reverb``."""

    classes: dict[str, Opening]
    active_window_id: str
    window_id: str | None = None


def outcome(reply: Reply, idem_key: str) -> Accepted | Refused:
    """What ``POST /transition`` came to.

    Raises:
        ClientError: a success that is not in the form of a node's.
    """
    return _decode(reply.body, Accepted) if reply.status < _REDIRECTION else _refusal(reply, idem_key)


def outcomes(reply: Reply, idem_keys: Sequence[str]) -> list[Outcome]:
    """What ``POST /transitions`` came to, one outcome per key.

    Raises:
        ClientError: a success that is not in the form of a node's.
    """
    if reply.status >= _REDIRECTION:
        return [_refusal(reply, key) for key in idem_keys]
    documents = _decode(reply.body, _Outcomes).outcomes
    if len(documents) != len(idem_keys):
        raise ClientError(f"{len(documents)} outcomes for {len(idem_keys)} proposals")
    return [_item(document, key) for document, key in zip(documents, idem_keys, strict=True)]


def fact(reply: Reply, name: str) -> FactAccepted | Refused:
    """What ``POST /admin/facts`` came to.

    Raises:
        ClientError: a success that is not in the form of a node's.
    """
    return _decode(reply.body, FactAccepted) if reply.status < _REDIRECTION else _refusal(reply, name)


def read(reply: Reply, kind: type[T]) -> T:
    """The answer to a read.

    Raises:
        Rejected: it is a refusal.
        ClientError: it is not in the form of a node's.
    """
    if reply.status >= _REDIRECTION:
        refused = _refusal(reply, "")
        raise Rejected(refused.code, refused.reasons)
    return _decode(reply.body, kind)


def _item(document: dict[str, Any], idem_key: str) -> Outcome:
    if document.get("status") == _UNAVAILABLE:
        return Unknown(idem_key, str(document.get("error", "")))
    try:
        if document.get("success"):
            return msgspec.convert(document, Accepted)
        return msgspec.structs.replace(msgspec.convert(document, Refused), idem_key=idem_key)
    except msgspec.ValidationError as error:
        raise ClientError(f"not an answer of a SWOOSH node: {error}") from None


def _refusal(reply: Reply, idem_key: str) -> Refused:
    """The refusal an error answer carries, whoever wrote it."""
    try:
        found = msgspec.json.decode(reply.body, type=Refused)
    except msgspec.DecodeError:
        text = reply.body[:200].decode("utf-8", "replace").strip()
        return Refused(f"HTTP_{reply.status}", (text,) if text else (), idem_key=idem_key)
    return msgspec.structs.replace(found, idem_key=idem_key)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise ClientError(f"not an answer of a SWOOSH node: {error}: {body[:120]!r}") from None
