"""Signed observations of the outside world, and the board that keeps the newest of each.

A guard consults nothing but facts (Brief §17: cached, signed facts). A fact enters through the log, so that every
replica judges by the same one, and replaces the stored one only if it is later: an old signed fact replayed changes
nothing. Bodies hold integers, never floats; times are milliseconds since 1970 UTC.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from swoosh import limits
from swoosh.errors import Malformed
from swoosh.hashing import digest
from swoosh.merkle import MerkleMap
from swoosh.principal import normalise

Name = Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]
Address = Annotated[str, Meta(max_length=limits.ADDRESS_CHARS_MAX)]


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the fact bodies; one subclass per kind."""


class License(Body, frozen=True):
    """What KACHING says about this cluster. Subject: the cluster id. ``denied`` is a signed no, not unreachability."""

    license_id: str
    status: str  # active | grace | suspended | expired | denied
    valid_until: int
    grace_until: int = 0
    features: tuple[str, ...] = ()
    max_nodes: int | None = None
    token_fingerprint: str = ""


class Beat(Body, frozen=True):
    """A BACKBEAT frame (INT-A). Subject: ``backbeat``. ``tempo_mbpm`` is thousandths of a beat per minute."""

    cluster_id: str
    beat_index: int
    downbeat: bool
    phase: str  # plan | execute | review
    deadline_at: int
    tempo_mbpm: int
    window_id: str


class BarReport(Body, frozen=True):
    """The newest BACKBEAT bar report (INT-C). Subject: ``backbeat``; one for each bar would never end."""

    window_id: str
    from_beat: int
    to_beat: int
    agents_reporting: int = 0
    on_time_reviews: int = 0
    help_promises_fulfilled: int = 0
    secret_rotations_ok: bool = True
    drift_ms: int = 0


class PolicyFile(Body, frozen=True):
    """The policy in force. Subject: ``policy``."""

    version: str
    policy_hash: str


class Finding(Body, frozen=True):
    """What a scan of one content found. Subject: the content hash."""

    rule: str
    severity: str  # low | medium | high | quarantine
    location: str = ""
    value_hash: str = ""
    policy_version: str = ""


class Tool(Body, frozen=True):
    """One MCP server as probed. Subject: the tool's name. ``reachable``: it answered the same for the dwell time."""

    reachable: bool
    version: str
    tools_hash: str = ""
    name: str = ""  # as the server calls itself
    protocol_version: str = ""
    detail: str = ""  # why it does not count as reachable


class Capacity(Body, frozen=True):
    """What an environment pool can still give. Subject: the pool's name (``default``)."""

    units_free: int


class Health(Body, frozen=True):
    """Health of a project's environment. Subject: the project id."""

    status: str  # green | amber | red
    detail: str = ""


class Agent(Body, frozen=True):
    """An agent is there. Subject: its principal; ``whoosh:<id>`` where a node vouches for one without a key."""

    name: Name
    capabilities: Annotated[tuple[Name, ...], Meta(max_length=limits.AGENT_CAPABILITIES_MAX)] = ()
    endpoint: Address = ""  # base URL of its HTTP server
    multiaddrs: Annotated[tuple[Address, ...], Meta(max_length=limits.AGENT_ADDRESSES_MAX)] = ()  # best first
    transport: Name = ""  # that it prefers
    certificate_hash: Name = ""
    status: Name = ""  # as it calls it


KINDS: dict[str, type[Body]] = {
    "license": License,
    "beat": Beat,
    "bar_report": BarReport,
    "policy": PolicyFile,
    "finding": Finding,
    "tool": Tool,
    "capacity": Capacity,
    "health": Health,
    "agent": Agent,
}


class Fact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The JSON object of ``POST /admin/facts``. ``gathered_term`` is set by providers that act on the leader only."""

    kind: str
    subject: str
    observed_at: int
    seq: int
    expires_at: int
    body: dict[str, Any]
    provider: str
    gathered_term: int | None = None
    signature: str | None = None


class Known(msgspec.Struct, frozen=True):
    """A fact on the board: who said it, when, and the digest guards cite."""

    kind: str
    subject: str
    observed_at: int
    seq: int
    expires_at: int
    body: dict[str, Any]
    provider: str
    digest: str


_decoder = msgspec.json.Decoder(Fact)


def decode(sent: bytes) -> Fact:
    """A Fact from canonical bytes as sent.

    Raises:
        Malformed: unknown kind, or members that do not fit; the reason names the member.
    """
    try:
        fact = _decoder.decode(sent)
    except msgspec.DecodeError as error:
        raise Malformed(f"fact: {error}") from None
    if fact.kind not in KINDS:
        raise Malformed(f"fact: unknown kind {fact.kind[:40]!r}; known: {', '.join(sorted(KINDS))}")
    if not 0 < len(fact.subject) <= limits.SIGNER_CHARS_MAX or "\0" in fact.subject:
        raise Malformed(f"fact: subject needs 1 to {limits.SIGNER_CHARS_MAX} characters")
    if min(fact.observed_at, fact.seq, fact.expires_at) < 0:
        raise Malformed("fact: observed_at, seq and expires_at are not negative")
    try:
        msgspec.convert(fact.body, KINDS[fact.kind])
    except msgspec.ValidationError as error:
        raise Malformed(f"fact of kind {fact.kind}: {error}") from None
    if fact.kind == "agent":  # whatever spelling of the key was sent, guards ask for the principal
        return msgspec.structs.replace(fact, subject=normalise(fact.subject))
    return fact


def known(fact: Fact, provider: str) -> Known:
    """The board's form of an accepted fact; ``provider`` is the canonical principal."""
    cited = digest("fact", {"kind": fact.kind, "subject": fact.subject, "observed_at": fact.observed_at,
                            "seq": fact.seq, "body": fact.body, "provider": provider})  # fmt: skip
    return Known(fact.kind, fact.subject, fact.observed_at, fact.seq, fact.expires_at, fact.body, provider, cited)


class FactBoard:
    """The newest fact per (kind, subject). Immutable; ``set`` gives a new board."""

    __slots__ = ("entries",)

    def __init__(self, entries: MerkleMap[Known] | None = None) -> None:
        self.entries: MerkleMap[Known] = MerkleMap() if entries is None else entries

    def get(self, kind: str, subject: str) -> Known | None:
        """The newest fact, however old; guards judge its age by the stamp."""
        return self.entries.get(f"{kind}/{subject}")

    def set(self, fact: Known) -> FactBoard:
        """The board with ``fact`` in place of what it held for its kind and subject."""
        return FactBoard(self.entries.set(f"{fact.kind}/{fact.subject}", fact))


def refusal(fact: Fact, held: Known | None, *, now_ms: int, max_skew_ms: int, max_age_ms: int, term: int) -> str | None:
    """Why ``fact`` may not replace ``held`` at this stamp, or None. All times in milliseconds."""
    if held is not None and (fact.observed_at, fact.seq) <= (held.observed_at, held.seq):
        return f"not newer than the one held: (observed_at, seq) is ({held.observed_at}, {held.seq})"
    if fact.observed_at > now_ms + max_skew_ms:
        return (
            f"observed {fact.observed_at - now_ms} ms ahead of the cluster's time; at most {max_skew_ms} ms is allowed"
        )
    if now_ms - fact.observed_at > max_age_ms:
        return f"observed {now_ms - fact.observed_at} ms ago; {fact.kind} facts are accepted up to {max_age_ms} ms"
    if fact.gathered_term is not None and fact.gathered_term != term:
        return f"gathered by the leader of term {fact.gathered_term}, but this is term {term}"
    return None
