"""The one mapping from codes to statuses and texts."""

import pytest

from cluster.answers import Unavailable
from cluster.http import problems
from swoosh.outcome import ADVICE, Accepted, Code, GuardOutcome, Refused
from tests.http.desk import CHART

V1_TEXTS = {
    Code.GUARD_REJECTED: "guard rejected transition",
    Code.UNKNOWN_TRANSITION: "unknown transition",
    Code.QUARANTINED: "transition blocked by quarantine",
    Code.WRONG_PHASE: "invalid phase for transition",
    Code.STALE_STATE: "precondition failed",
    Code.PAUSED: "precondition failed",
}


@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_status_a_text_and_advice(code: Code) -> None:
    status, body = problems.document(Refused(code, ("because",)))
    assert status in {400, 401, 403, 404, 408, 413, 415, 429, 500, 501, 503}
    assert body["error"] == f"{problems.phrase(code)}: because"
    assert body["help"] == ADVICE[code].do and body["retryable"] is ADVICE[code].retryable


@pytest.mark.parametrize(("code", "text"), V1_TEXTS.items())
def test_v1_finds_its_texts(code: Code, text: str) -> None:
    assert problems.document(Refused(code, ()))[1]["error"] == text


def test_only_a_bug_is_a_500() -> None:
    assert [code for code, status in problems.STATUS.items() if status == 500] == [Code.INTERNAL]


def test_503_always_says_when_and_whether() -> None:
    response = problems.respond(Unavailable(Code.NO_QUORUM, False, "alone", retry_after_s=3))
    assert response.status == 503 and response.headers["Retry-After"] == "3"


def test_the_guard_families_of_v1_are_guards_of_this_chart() -> None:
    named = set().union(*problems._GUARDS_V1.values())
    assert named <= CHART.names()["guard"]


@pytest.mark.parametrize(
    ("guard", "family"),
    [
        ("license_active", "LicenseOK"),
        ("window_open", "BackbeatOK"),
        ("quorum_certificate", "QuorumOK"),
        ("policy_clear", "PolicyOK"),
        ("tools_green", "MCPHealthy"),
    ],
)
def test_a_refusing_guard_turns_its_family_false(guard: str, family: str) -> None:
    booleans = problems.guards_v1((GuardOutcome("authorised", True), GuardOutcome(guard, False, ("no",))))
    assert [name for name, holds in booleans.items() if not holds] == [family]


def test_a_closed_gate_turns_its_family_false() -> None:
    assert problems.guards_v1((), Code.NOT_LICENSED)["LicenseOK"] is False
    assert problems.guards_v1((), Code.QUARANTINED)["PolicyOK"] is False


def test_an_accepted_answer_names_the_new_hash() -> None:
    accepted = Accepted("p", "T", "k", "h", 1, 1, "before", "after", "r", "d")
    status, body = problems.document(accepted)
    assert status == 200 and body["state_hash"] == "after" and body["success"] is True
