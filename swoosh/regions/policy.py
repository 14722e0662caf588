"""Policy: a breach quarantines the project until a person, or a new policy, says otherwise (Brief §4, §6).

Quarantine is sticky. What was found is kept by rule, place and hash of the value: a secret never enters the state. The
one transition whose outcome is computed is a new policy, which may find that nothing on record is forbidden any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from swoosh import limits
from swoosh.catalog import Context, Verdict, choice, effect, guard, inputs, passed, refused
from swoosh.inputs import Address, Inputs, Principal, Text, Word, check_hashes, check_names
from swoosh.state import PolicyFinding

CLEAR, QUARANTINED = "CLEAR", "QUARANTINED"


class Found(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One finding: the rule, how severe, where, the hash of the value, and whose request it was in."""

    rule: str
    severity: Word
    location: Annotated[str, Meta(max_length=limits.ADDRESS_CHARS_MAX)] = ""
    value_hash: str = ""
    principal: Principal | None = None

    def __post_init__(self) -> None:
        check_names("rule", self.rule)
        if self.value_hash:
            check_hashes("value_hash", self.value_hash)


@inputs
class Breach(Inputs, frozen=True):
    """What was found, and under which policy."""

    rationale: Text
    findings: Annotated[tuple[Found, ...], Meta(min_length=1, max_length=limits.FINDINGS_MAX)]
    policy_version: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] = ""


class Looked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A finding as a person names it."""

    rule: str
    location: Annotated[str, Meta(max_length=limits.ADDRESS_CHARS_MAX)] = ""


@inputs
class Release(Inputs, frozen=True):
    """Why the project may go on, and every finding that was looked at."""

    reason: Text
    findings: Annotated[tuple[Looked, ...], Meta(min_length=1, max_length=limits.FINDINGS_MAX)]


@inputs
class PolicyUpdate(Inputs, frozen=True):
    """A new policy: its version, where it is to be read, and the rules whose findings it quarantines."""

    policy_version: Word
    policy: Address
    quarantines: Annotated[tuple[str, ...], Meta(max_length=limits.POLICY_RULES_MAX)]

    def __post_init__(self) -> None:
        check_names("quarantines", *self.quarantines)


@guard
def finding_named(c: Context) -> Verdict:
    """Reads the inputs; refuses a breach without a finding of severity quarantine."""
    grave = [finding for finding in c.inputs.findings if finding.severity == "quarantine"]
    if not grave:
        return refused("no finding has severity quarantine; the policy lets the ones named through")
    return passed(f"{grave[0].rule} at {grave[0].location or 'no place'}: {len(grave)} findings quarantine")


@guard
def findings_named(c: Context) -> Verdict:
    """Reads the findings on record and the inputs; refuses a release that leaves one unnamed or names another."""
    recorded = {(finding.rule, finding.location) for finding in c.regions.policy.findings}
    named = {(finding.rule, finding.location) for finding in c.inputs.findings}
    faults = [f"finding {rule} at {place or 'no place'} is on record and not named"
              for rule, place in sorted(recorded - named)]  # fmt: skip
    faults += [f"finding {rule} at {place or 'no place'} is not on record" for rule, place in sorted(named - recorded)]
    return refused(*faults) if faults else passed(f"all {len(recorded)} findings on record are named")


@choice
def policy_verdict(c: Context) -> str:
    """QUARANTINED while the new policy still quarantines a finding on record, else CLEAR."""
    return QUARANTINED if _still_forbidden(c) else CLEAR


@effect
def quarantine(c: Context) -> Mapping[str, Any]:
    """What was found holds the project."""
    findings = tuple(
        PolicyFinding(found.rule, found.severity, found.location, found.value_hash, found.principal or c.principal)
        for found in c.inputs.findings
    )
    version = c.inputs.policy_version or c.regions.policy.policy_version
    return _moved(c, quarantined=True, rationale=c.inputs.rationale, findings=findings, policy_version=version)


@effect
def release_quarantine(c: Context) -> Mapping[str, Any]:
    """Nothing holds it; why stays on record."""
    return _moved(c, quarantined=False, rationale=c.inputs.reason, findings=())


@effect
def update_policy(c: Context) -> Mapping[str, Any]:
    """The findings the new policy still quarantines, and the quarantine that follows from them."""
    remaining = _still_forbidden(c)
    rationale = c.regions.policy.rationale if remaining else f"policy {c.inputs.policy_version}: {c.inputs.policy}"
    return _moved(
        c,
        quarantined=bool(remaining),
        rationale=rationale,
        findings=remaining,
        policy_version=c.inputs.policy_version,
    )


def _still_forbidden(c: Context) -> tuple[PolicyFinding, ...]:
    return tuple(finding for finding in c.regions.policy.findings if finding.rule in c.inputs.quarantines)


def _moved(c: Context, **changes: Any) -> Mapping[str, Any]:
    return {"policy": replace(c.regions.policy, **changes)}
