"""A policy decides about every rule, or is refused; its hash says which policy it is."""

from typing import Any

import pytest

from cluster.shhh.policy import BUILT_IN, FAMILIES, Verdict, decode
from cluster.shhh.scanner import Scanner
from swoosh.errors import Malformed
from tests.shhh.secrets import A20

ACME = {"name": "acme-key", "severity": "medium", "patterns": ["acme_[A-Za-z0-9]{8,64}"], "tags": ["internal"]}
SECRET = {**ACME, "tags": ["secret"]}


def policy(*rules: dict[str, Any], verdicts: tuple[dict[str, Any], ...] = (), version: str = "1") -> dict[str, Any]:
    return {"version": version, "rules": list(rules), "verdicts": list(verdicts)}


def test_the_built_in_policy_quarantines_the_five_families() -> None:
    names = {"bearer-token", "api-key", "oauth-token", "private-key", "openai-secret"}
    assert {rule.name for rule in FAMILIES} == names
    assert BUILT_IN.verdicts == dict.fromkeys(names, Verdict.QUARANTINE)
    assert set(BUILT_IN.quarantines) == names


@pytest.mark.parametrize(
    "verdicts, verdict",
    [
        (({"tag": "internal", "verdict": "allow"},), Verdict.ALLOW),
        (({"tag": "internal", "severity": "high", "verdict": "quarantine"}, {"rule": "acme-key", "verdict": "redact"}),
         Verdict.REDACT),
        (({"tag": "internal", "severity": "medium", "verdict": "quarantine"}, {"rule": "acme-key", "verdict": "allow"}),
         Verdict.QUARANTINE),
        (({"rule": "acme-key", "severity": "low", "verdict": "quarantine"},), Verdict.QUARANTINE),
    ],
)  # fmt: skip
def test_the_first_line_that_fits_decides(verdicts: tuple[dict[str, Any], ...], verdict: Verdict) -> None:
    found = decode(policy(ACME, verdicts=verdicts))
    assert found.verdicts["acme-key"] is verdict
    assert found.verdicts["api-key"] is Verdict.QUARANTINE


@pytest.mark.parametrize("severity, verdict", [("low", "redact"), ("medium", "redact"), ("high", "quarantine")])
def test_behind_the_file_s_lines_the_built_in_ones_decide_about_secrets(severity: str, verdict: str) -> None:
    assert decode(policy({**SECRET, "severity": severity})).verdicts["acme-key"] == verdict


def test_a_family_can_be_judged_otherwise_and_not_be_forgotten() -> None:
    found = decode(policy(verdicts=({"rule": "bearer-token", "verdict": "redact"},)))
    assert found.verdicts["bearer-token"] is Verdict.REDACT
    assert "bearer-token" not in found.quarantines and len(found.quarantines) == 4


def test_what_is_allowed_is_not_found() -> None:
    text = {"note": f"Bearer {A20}"}
    assert Scanner(BUILT_IN).scan(text)
    assert not Scanner(decode(policy(verdicts=({"rule": "bearer-token", "verdict": "allow"},)))).scan(text)


@pytest.mark.parametrize(
    "document, said",
    [
        (policy(ACME), "no verdict for rule acme-key"),
        (policy(SECRET, SECRET), "there twice"),
        (policy({**SECRET, "name": "api-key"}), "there twice"),
        (policy({**SECRET, "patterns": []}), "neither patterns nor names"),
        (policy({**SECRET, "patterns": ["(a+)+"]}), "pattern"),
        (policy({**SECRET, "name": "with space"}), "printable"),
        (policy({**SECRET, "severity": "terrible"}), "severity"),
        (policy({**SECRET, "regex": "x"}), "regex"),
        (policy(verdicts=({"rule": "nobody", "verdict": "allow"},)), "not there"),
        (policy(verdicts=({"verdict": "allow"},)), "a rule or a tag"),
        (policy(verdicts=({"rule": "api-key", "tag": "secret", "verdict": "allow"},)), "a rule or a tag"),
        (policy(verdicts=({"rule": "api-key", "verdict": "forget"},)), "verdict"),
        (policy(version=""), "version"),
        ({}, "version"),
        ([], "policy"),
        (policy(*({**SECRET, "name": f"r{number}"} for number in range(252))), "at most 256"),
    ],
)
def test_what_is_no_policy_is_refused(document: Any, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        decode(document)


def test_the_hash_tells_policies_apart_and_nothing_else_does() -> None:
    one = decode(policy(SECRET))
    assert one.hash == decode(policy(SECRET)).hash
    others = (policy(SECRET, version="2"), policy({**SECRET, "severity": "low"}), policy())
    assert len({one.hash, BUILT_IN.hash, *(decode(other).hash for other in others)}) == 5
