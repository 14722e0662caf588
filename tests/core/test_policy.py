"""Quarantine is sticky: released by a person who names every finding, or by a policy that forbids none of them."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from swoosh.state import Ingestion, Policy, PolicyFinding, ProjectRegions
from tests.core.contexts import after, chosen, context, fact, first_refusal, h, holds, judge, registry, who

TOKEN = {"rule": "bearer-token", "severity": "quarantine", "location": "evidence[0]", "value_hash": h("secret")}
HELD = ProjectRegions(
    policy=Policy(
        phase="QUARANTINED",
        quarantined=True,
        rationale="a token",
        findings=(
            PolicyFinding("bearer-token", "quarantine", "evidence[0]"),
            PolicyFinding("pem-block", "high", "brief"),
        ),
        policy_version="1",
    )
)


def breach(*findings: dict[str, Any]) -> dict[str, Any]:
    return {"rationale": "a token", "findings": list(findings), "policy_version": "7"}


@pytest.mark.parametrize("transition", ["POLICY_BREACHED", "INGESTION_REJECTED"])
def test_a_finding_of_severity_quarantine_holds_the_project(transition: str) -> None:
    policy = after(context(transition, breach(TOKEN), signer="n1")).policy
    assert policy.quarantined
    assert policy.policy_version == "7"
    assert policy.findings == (PolicyFinding("bearer-token", "quarantine", "evidence[0]", h("secret"), who("n1")),)


def test_lesser_findings_hold_nothing() -> None:
    assert first_refusal(context("POLICY_BREACHED", breach({**TOKEN, "severity": "high"}))) == "finding_named"


@pytest.mark.parametrize(
    "inputs",
    [
        breach(),
        breach({**TOKEN, "value": "hunter2"}),
        breach({**TOKEN, "value_hash": "hunter2"}),
        breach(*[TOKEN] * 65),
    ],
)
def test_a_breach_carries_hashes_and_never_the_value(inputs: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        context("POLICY_BREACHED", inputs)


BOTH = [{"rule": "bearer-token", "location": "evidence[0]"}, {"rule": "pem-block", "location": "brief"}]


@pytest.mark.parametrize(
    ("named", "enough"),
    [(BOTH, True), (BOTH[:1], False), ([*BOTH, {"rule": "api-key"}], False), ([{"rule": "pem-block"}, BOTH[0]], False)],
)
def test_a_release_names_every_finding_and_no_other(named: list[dict[str, str]], enough: bool) -> None:
    c = context("POLICY_QUARANTINE_RELEASED", {"reason": "rotated", "findings": named}, signer="pol", regions=HELD)
    assert holds("findings_named", c) is enough
    if enough:
        policy = after(c).policy
        assert (policy.quarantined, policy.findings, policy.rationale) == (False, (), "rotated")


@pytest.mark.parametrize(
    ("rules", "phase", "remaining"),
    [
        ([], "CLEAR", 0),
        (["api-key"], "CLEAR", 0),
        (["pem-block"], "QUARANTINED", 1),
        (["pem-block", "bearer-token"], "QUARANTINED", 2),
    ],
)
def test_a_new_policy_decides_anew(rules: list[str], phase: str, remaining: int) -> None:
    inputs = {"policy_version": "8", "policy": "ucxl://policy", "quarantines": rules}
    c = context("POLICY_UPDATED", inputs, signer="pol", regions=HELD)
    assert chosen("policy_verdict", c) == phase
    policy = after(c).policy
    assert policy.quarantined is (phase == "QUARANTINED")
    assert (len(policy.findings), policy.policy_version) == (remaining, "8")


def test_a_new_policy_holds_nobody_who_was_clear() -> None:
    inputs = {"policy_version": "8", "policy": "ucxl://policy", "quarantines": ["bearer-token"]}
    c = context("POLICY_UPDATED", inputs, signer="pol")
    assert chosen("policy_verdict", c) == "CLEAR"
    assert not after(c).policy.quarantined


@pytest.mark.parametrize(
    ("severity", "age_ms", "clear"), [("quarantine", 0, False), ("high", 0, True), ("quarantine", 60_000, True)]
)
def test_a_live_finding_stops_the_content_it_names(severity: str, age_ms: int, clear: bool) -> None:
    finding = fact("finding", h("content"), rule="pem-block", severity=severity, age_ms=age_ms)
    regions = ProjectRegions(ingestion=Ingestion(phase="VALIDATE", candidate=h("content")))
    c = context("INGESTION_VALIDATED", {"outcomes": {"schema": "ok"}}, regions=regions, on=registry(finding))
    verdict = judge("policy_clear", c)
    assert verdict.ok is clear
    other = replace(regions, ingestion=replace(regions.ingestion, candidate=h("other")))
    assert holds("policy_clear", c._replace(regions=other))
