"""Findings as the machine takes them: the inputs of a breach, and the fact about a content.

The machine knows the severities low, medium and high, and `quarantine` for what holds a project: there the verdict
takes the place of the rule's own severity, because a guard may judge nothing but what is in the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.shhh.policy import Policy, Severity, Verdict
from cluster.shhh.scanner import Finding
from swoosh import limits


def quarantining(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Those that hold a project."""
    return tuple(finding for finding in findings if finding.verdict is Verdict.QUARANTINE)


def breach(findings: Sequence[Finding], policy: Policy, what: str, *, principal: str | None = None) -> dict[str, Any]:
    """Inputs of POLICY_BREACHED and INGESTION_REJECTED: what quarantines, as far as a project can hold it.

    ``what`` was looked at, in words; ``principal`` sent it.
    """
    grave = quarantining(findings)[: limits.FINDINGS_MAX]
    return {
        "rationale": f"{what} holds {', '.join(dict.fromkeys(finding.rule for finding in grave))}",
        "findings": [
            {
                "rule": finding.rule,
                "severity": _severity(finding),
                "location": finding.location,
                "value_hash": finding.value_hash,
                **({} if principal is None else {"principal": principal}),
            }
            for finding in grave
        ],
        "policy_version": policy.version,
    }


def fact(findings: Sequence[Finding], policy: Policy) -> dict[str, Any] | None:
    """Body of the `finding` fact about a content: the gravest, on which guard `policy_clear` decides; None if there is
    none. There is one such fact for a content, so a scan is reported whole or not at all."""
    gravest = max(findings, key=lambda found: (found.verdict is Verdict.QUARANTINE, found.severity.rank), default=None)
    if gravest is None:
        return None
    return {
        "rule": gravest.rule,
        "severity": _severity(gravest),
        "location": gravest.location,
        "value_hash": gravest.value_hash,
        "policy_version": policy.version,
    }


def _severity(finding: Finding) -> str:
    if finding.verdict is Verdict.QUARANTINE:
        return str(Verdict.QUARANTINE)
    return str(min(finding.severity, Severity.HIGH, key=lambda severity: severity.rank))
