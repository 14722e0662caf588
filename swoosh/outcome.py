"""What a proposal comes to: accepted, or refused with one code out of a closed list.

An outcome is a value. It carries everything an answer needs (Brief §5, §6: the reason and the failing guard), so that
neither the HTTP layer nor the SDK ever re-derives a verdict. HTTP statuses are not known here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class Code(StrEnum):
    """Every reason to refuse. The groups say who decides."""

    # Decided by the reducer, from replicated state.
    IDEM_KEY_REUSED = "IDEM_KEY_REUSED"
    UNKNOWN_PROJECT = "UNKNOWN_PROJECT"
    UNKNOWN_TRANSITION = "UNKNOWN_TRANSITION"
    INPUTS_INVALID = "INPUTS_INVALID"
    STALE_STATE = "STALE_STATE"
    HLC_REGRESSION = "HLC_REGRESSION"
    HLC_TIE = "HLC_TIE"
    HLC_SKEW = "HLC_SKEW"
    TERMINATED = "TERMINATED"
    QUARANTINED = "QUARANTINED"
    PAUSED = "PAUSED"
    RECOVERING = "RECOVERING"
    NOT_LICENSED = "NOT_LICENSED"
    WRONG_PHASE = "WRONG_PHASE"
    GUARD_REJECTED = "GUARD_REJECTED"
    INTERNAL = "INTERNAL"
    CHART_MISMATCH = "CHART_MISMATCH"
    FACT_REFUSED = "FACT_REFUSED"

    # Decided before the log, from the request and who sent it.
    MALFORMED = "MALFORMED"
    INPUTS_HASH_MISMATCH = "INPUTS_HASH_MISMATCH"
    IDEM_KEY_RESERVED = "IDEM_KEY_RESERVED"
    HEADER_MISMATCH = "HEADER_MISMATCH"
    UNKNOWN_PROJECTION = "UNKNOWN_PROJECTION"
    UNSIGNED = "UNSIGNED"
    UNKNOWN_SIGNER = "UNKNOWN_SIGNER"
    BAD_SIGNATURE = "BAD_SIGNATURE"
    NOT_AUTHORISED = "NOT_AUTHORISED"
    TOO_LARGE = "TOO_LARGE"
    TOO_SLOW = "TOO_SLOW"
    UNSUPPORTED_MEDIA = "UNSUPPORTED_MEDIA"
    RATE_LIMITED = "RATE_LIMITED"
    NOT_FOUND = "NOT_FOUND"
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED"

    # Decided by the leader as it gathers an entry: a bound of its own, not a law of the machine.
    TOO_MANY_PROJECTS = "TOO_MANY_PROJECTS"

    # Decided by the cluster's condition.
    NO_LEADER = "NO_LEADER"
    NO_QUORUM = "NO_QUORUM"
    COLD = "COLD"
    OVERLOADED = "OVERLOADED"
    CLOCK = "CLOCK"
    HALTED = "HALTED"
    DISK_SLOW = "DISK_SLOW"
    DISK_LOW = "DISK_LOW"
    STALE_READ = "STALE_READ"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"


class Advice(msgspec.Struct, frozen=True):
    """What the one who sees a code should do. ``retryable`` means: the same intent may succeed later."""

    retryable: bool
    do: str


ADVICE: dict[Code, Advice] = {
    Code.IDEM_KEY_REUSED: Advice(False, "this key already names another operation; use a fresh idem_key for a new one"),
    Code.UNKNOWN_PROJECT: Advice(False, "create it first with PROJECT_CREATED against current_state_hash genesis"),
    Code.UNKNOWN_TRANSITION: Advice(False, "see GET /openapi.json or swoosh explain for the transition names"),
    Code.INPUTS_INVALID: Advice(False, "send the inputs this transition takes; docs/statechart.md lists them"),
    Code.STALE_STATE: Advice(True, "read GET /state, decide again, and resubmit with its state_hash"),
    Code.HLC_REGRESSION: Advice(True, "merge hlc_last of this answer into your clock and resubmit"),
    Code.HLC_TIE: Advice(True, "raise the counter of your HLC above hlc_last and resubmit"),
    Code.HLC_SKEW: Advice(True, "your clock runs ahead of the cluster; synchronise it and resubmit"),
    Code.TERMINATED: Advice(False, "the project is over; create a new one"),
    Code.QUARANTINED: Advice(
        False, "a policy signer must release or confirm the quarantine; a request with findings is sent without them"
    ),
    Code.PAUSED: Advice(True, "resume the project, or see outbound and providers of /health for the license"),
    Code.RECOVERING: Advice(True, "wait until the council is quorate again"),
    Code.NOT_LICENSED: Advice(True, "wait for BOOT_LICENSE_GRANTED; the leader's /health says in providers why not"),
    Code.WRONG_PHASE: Advice(False, "read GET /state; propose a transition that leaves the phase it is in"),
    Code.GUARD_REJECTED: Advice(True, "read the reasons of the failing guard, mend what they name, and resubmit"),
    Code.INTERNAL: Advice(False, "nothing was applied; report the idem_key and the node's log to the maintainers"),
    Code.CHART_MISMATCH: Advice(True, "the chart changed while this was on its way; resubmit"),
    Code.FACT_REFUSED: Advice(False, "send a newer observation, signed by an identity with that provider role"),
    Code.MALFORMED: Advice(False, "correct the place named in the reason"),
    Code.INPUTS_HASH_MISMATCH: Advice(False, "inputs_hash must be the typed hash of inputs: sha256(swoosh/inputs/v1…)"),
    Code.IDEM_KEY_RESERVED: Advice(False, "choose a key that does not begin with steward:, breach: or legacy:"),
    Code.HEADER_MISMATCH: Advice(False, "make the header agree with the body, or leave it out"),
    Code.UNKNOWN_PROJECTION: Advice(False, "name regions from the list in the reasons"),
    Code.UNSIGNED: Advice(False, "sign the proposal with a registered Ed25519 key"),
    Code.UNKNOWN_SIGNER: Advice(False, "an admin adds the public key with swoosh identity add"),
    Code.BAD_SIGNATURE: Advice(False, "sign the canonical bytes of the object as sent, with the cluster_id of /health"),
    Code.NOT_AUTHORISED: Advice(False, "use an identity that holds one of the roles in the reasons"),
    Code.TOO_LARGE: Advice(False, "send less in one request; the limit is in the reason"),
    Code.TOO_SLOW: Advice(True, "send the whole request within the time limit"),
    Code.UNSUPPORTED_MEDIA: Advice(False, "send Content-Type: application/json"),
    Code.RATE_LIMITED: Advice(True, "wait as long as Retry-After says"),
    Code.NOT_FOUND: Advice(False, "check the spelling; see GET /openapi.json for the routes"),
    Code.NOT_IMPLEMENTED: Advice(False, "the reason names what to use instead"),
    Code.TOO_MANY_PROJECTS: Advice(
        False, "work in a project you have, create it under another identity, or have projects_per_signer raised"
    ),
    Code.NO_LEADER: Advice(True, "retry after Retry-After; an election is on its way"),
    Code.NO_QUORUM: Advice(True, "retry after Retry-After; a majority of nodes must be reachable"),
    Code.COLD: Advice(True, "retry after Retry-After; the node is catching up"),
    Code.OVERLOADED: Advice(True, "retry after Retry-After, with fewer requests at a time"),
    Code.CLOCK: Advice(True, "the cluster's clocks disagree; see the clock runbook"),
    Code.HALTED: Advice(True, "the nodes computed different states and no majority agrees; an operator must act"),
    Code.DISK_SLOW: Advice(True, "retry after Retry-After; the leader waits for its disk, or another takes over"),
    Code.DISK_LOW: Advice(True, "ask another node; an operator must free disk space on this one"),
    Code.STALE_READ: Advice(True, "ask another node, or read with consistency=linearizable"),
    Code.OUTCOME_UNKNOWN: Advice(True, "repeat with the same idem_key: it is applied once or not at all"),
}


class GuardOutcome(msgspec.Struct, frozen=True):
    """One guard's verdict (Brief §6: ``{ok, reasons[]}``) and the digests of the facts it rested on."""

    name: str
    ok: bool
    reasons: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


class Change(msgspec.Struct, frozen=True):
    """One field that a transition moves, by its served name; None where there is nothing."""

    path: str
    before: Any
    after: Any


class Accepted(msgspec.Struct, frozen=True, tag=True):
    """The transition is (or, on pending state, would be) applied.

    ``duplicate`` says that the record below was written by an earlier proposal with the same key and intent.
    ``changes`` is for dry runs: what it would change, field by field.
    """

    project: str
    transition: str
    idem_key: str
    hlc: str
    index: int
    seq: int
    state_pre_hash: str
    state_post_hash: str
    record_hash: str
    decision: str
    guard_outcomes: tuple[GuardOutcome, ...] = ()
    quarantined: bool = False
    duplicate: bool = False
    changes: tuple[Change, ...] | None = None


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Nothing changed. ``head`` and ``hlc_last`` are what the verdict was judged on; empty where no state was read.

    ``findings`` are what policy found in the request: rule, severity, location and hash of the value.
    """

    code: Code
    reasons: tuple[str, ...]
    project: str = ""
    transition: str = ""
    idem_key: str = ""
    failing_guard: str | None = None
    guard_outcomes: tuple[GuardOutcome, ...] = ()
    head: str = ""
    hlc_last: str = ""
    quarantined: bool = False
    record: dict[str, Any] | None = None
    findings: tuple[dict[str, str], ...] = ()


class FactAccepted(msgspec.Struct, frozen=True, tag=True):
    """The fact is now the newest of its kind and subject; guards cite it by ``digest``."""

    kind: str
    subject: str
    digest: str
    index: int


Outcome = Accepted | Refused
ItemOutcome = Accepted | Refused | FactAccepted
