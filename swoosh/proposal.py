"""A transition proposal (Brief §5): as sent, and in the normal form the reducer works on.

What was sent is kept to the byte, because its signature is re-checked offline for as long as the log exists; it is
normalised only into a second value, never in place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from swoosh import addresses, canonical, limits, principal
from swoosh.errors import Malformed
from swoosh.hashing import GENESIS, digest, normalise
from swoosh.hlc import HLC
from swoosh.outcome import Code

DEFAULT_PROJECT = "default"
CLUSTER = "@cluster"
PREVIOUS = "@prev"
HEADERS = {
    "idem_key": ("X-Swoosh-Idem-Key", "Idempotency-Key", "idem_key"),
    "hlc": ("X-Swoosh-HLC", "hlc"),
    "window_id": ("X-Swoosh-Window-Id", "window_id"),
}
"""{member: the HTTP headers that say it}; the first is the one to write (Brief §13)."""
RESERVED_KEYS = ("steward:", "breach:", "legacy:")
_KEY_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:@/-")
_PROJECT_FIRST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_PROJECT_REST = _PROJECT_FIRST | frozenset("._-")
_PRINTABLE = frozenset(map(chr, range(0x21, 0x7F)))


class Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The JSON object of ``POST /transition``: the brief's eight fields and the five that came after it."""

    current_state_hash: str
    transition: str
    inputs_hash: str
    signer: str
    idem_key: str
    hlc: str
    window_id: str = ""
    evidence: tuple[str, ...] = ()
    project: str = DEFAULT_PROJECT
    inputs: dict[str, Any] | None = None
    on_behalf_of: str | None = None
    signature: str | None = None


class Normal(NamedTuple):
    """A proposal with every spelling resolved. ``head`` is a hash, ``genesis`` or ``@prev``."""

    project: str
    transition: str
    head: str
    inputs: dict[str, Any]
    inputs_hash: str
    signer: str
    principal: str
    idem_key: str
    hlc: HLC
    window_id: str
    evidence: tuple[str, ...]


_decoder = msgspec.json.Decoder(Proposal)


def decode(sent: bytes) -> Proposal:
    """A Proposal from canonical bytes of an object as sent.

    Raises:
        Malformed: unknown, missing or wrongly typed members; the reason names the member.
    """
    try:
        return _decoder.decode(sent)
    except msgspec.ValidationError as error:
        raise Malformed(f"proposal: {error}") from None
    except msgspec.DecodeError as error:
        raise Malformed(f"proposal: not JSON: {error}") from None


def inputs_hash(inputs: dict[str, Any]) -> str:
    """``sha256-…`` of an inputs object, as ``inputs_hash`` must carry it."""
    return digest("inputs", inputs)


def normal(proposal: Proposal, *, trusting: bool = False) -> Normal:
    """Check the form of every member and resolve its spellings.

    ``trusting`` is for clusters made with ``--insecure-signers``: there a hash of absent inputs may be any text.

    Raises:
        Malformed: with MALFORMED, INPUTS_HASH_MISMATCH and a reason that names the member.
    """
    signer = _text(proposal.signer, "signer", limits.SIGNER_CHARS_MAX)
    behalf = proposal.on_behalf_of
    return Normal(
        project=project_id(proposal.project),
        transition=_text(proposal.transition, "transition", limits.NAME_CHARS_MAX),
        head=_head(proposal.current_state_hash),
        inputs=proposal.inputs or {},
        inputs_hash=_inputs_hash(proposal, trusting),
        signer=principal.normalise(signer),
        principal=principal.normalise(
            signer if behalf is None else _text(behalf, "on_behalf_of", limits.SIGNER_CHARS_MAX)
        ),
        idem_key=idem_key(proposal.idem_key),
        hlc=HLC.parse(proposal.hlc),
        window_id=_window(proposal.window_id),
        evidence=_evidence(proposal.evidence),
    )


def project_id(text: str) -> str:
    """``text`` if it is a project id: ``[a-z0-9][a-z0-9._-]{0,63}``, or ``@cluster``.

    Raises:
        Malformed: otherwise.
    """
    fits = 0 < len(text) <= limits.PROJECT_ID_CHARS_MAX and text[0] in _PROJECT_FIRST and _PROJECT_REST.issuperset(text)
    if not fits and text != CLUSTER:
        raise Malformed(f"project: expected [a-z0-9][a-z0-9._-]{{0,63}}, got {text[:80]!r}")
    return text


def idem_key(text: str) -> str:
    """``text`` if it is an idempotency key: 1 to 200 of ``[A-Za-z0-9._:@/-]``.

    Raises:
        Malformed: otherwise.
    """
    if not (0 < len(text) <= limits.IDEM_KEY_CHARS_MAX and _KEY_CHARACTERS.issuperset(text)):
        raise Malformed(f"idem_key: expected 1 to 200 of A-Z a-z 0-9 . _ : @ / -, got {text[:80]!r}")
    return text


def _head(text: str) -> str:
    return text if text in (GENESIS, PREVIOUS) else normalise(text, "current_state_hash")


def _inputs_hash(proposal: Proposal, trusting: bool) -> str:
    if proposal.inputs is None:
        if trusting:
            return _text(proposal.inputs_hash, "inputs_hash", limits.NAME_CHARS_MAX)
        return normalise(proposal.inputs_hash, "inputs_hash")
    actual = inputs_hash(proposal.inputs)
    if proposal.inputs_hash != actual:  # in another spelling, at best
        claimed = normalise(proposal.inputs_hash, "inputs_hash")
        if claimed != actual:
            raise Malformed(f"inputs_hash is {claimed}, the inputs hash to {actual}", Code.INPUTS_HASH_MISMATCH)
    return actual


def _window(text: str) -> str:
    bare = text.removeprefix("backbeat:")
    if len(bare) > limits.WINDOW_ID_CHARS_MAX or not _PRINTABLE.issuperset(bare):
        raise Malformed(f"window_id: expected at most {limits.WINDOW_ID_CHARS_MAX} printable ASCII characters")
    return bare


def _evidence(sent: tuple[str, ...]) -> tuple[str, ...]:
    if len(sent) > limits.EVIDENCE_MAX:
        raise Malformed(f"evidence: more than {limits.EVIDENCE_MAX} addresses")
    for position, text in enumerate(sent):
        addresses.check(text, f"evidence[{position}]")
    return sent


def _text(text: str, what: str, longest: int) -> str:
    if not 0 < len(text) <= longest:
        raise Malformed(f"{what}: expected 1 to {longest} characters")
    return text


def to_sent(proposal: dict[str, Any]) -> bytes:
    """The bytes kept in the log for an object as sent: its canonical encoding, signature included."""
    return canonical.encode(proposal)
