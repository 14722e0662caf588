"""What is found and what is not; that what was found is nowhere in what comes back."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.shhh import report
from cluster.shhh.policy import BUILT_IN, FAMILIES, Verdict, decode
from cluster.shhh.scanner import REDACTED, Scanner
from swoosh import limits, principal
from swoosh.hashing import digest
from tests.shhh.secrets import A20, CANARY, JWT, NEGATIVE, OPENAI, POSITIVE, pem

SCANNER = Scanner(BUILT_IN)
EXAMPLES = [(family, text) for family, texts in POSITIVE.items() for text in texts]
SECRETS = st.sampled_from([text for _, text in EXAMPLES])


@pytest.mark.parametrize("family, text", EXAMPLES)
def test_each_family_finds_its_own_and_removes_it(family: str, text: str) -> None:
    findings = SCANNER.scan({"inputs": {"brief": f"see:\n{text}\nthat is all"}})
    assert family in {finding.rule for finding in findings}
    assert {finding.location for finding in findings} == {"inputs.brief"}
    clean = SCANNER.redact_text(f"see:\n{text}\nthat is all")
    assert REDACTED in clean and clean.startswith("see:\n") and clean.endswith("\nthat is all")
    assert not SCANNER.scan(clean)
    assert all(part not in clean for part in (A20, "MIIEvQ", "dozjgNryP4J3", "IOSFODNN7"))


@pytest.mark.parametrize("text", NEGATIVE)
def test_what_only_looks_like_one_is_let_be(text: str) -> None:
    assert SCANNER.scan({"inputs": {"brief": text}, "evidence": [text]}) == ()
    assert SCANNER.redact_text(text) == text


def test_every_family_has_examples() -> None:
    assert set(POSITIVE) == {rule.name for rule in FAMILIES}


# --- places -----------------------------------------------------------------------------------------------------------


def test_a_finding_has_a_place_a_hash_and_no_value() -> None:
    document = {"inputs": {"list": ["fine", {"why": f"because {OPENAI}"}]}, "evidence": [f"ucxl://{JWT}"]}
    first, second = SCANNER.scan(document)
    assert (first.location, first.rule, first.verdict) == ("evidence[0]", "bearer-token", Verdict.QUARANTINE)
    assert (second.location, second.rule, second.severity) == ("inputs.list[1].why", "openai-secret", "critical")
    assert second.value_hash == digest("secret", OPENAI)
    assert OPENAI not in repr((first, second)) and JWT not in repr((first, second))


def test_the_name_it_is_filed_under_counts() -> None:
    assert SCANNER.scan({"env": {"ACME_API_KEY": A20}})[0].location == "env.ACME_API_KEY"
    assert not SCANNER.scan({"env": {"ACME_API_NOTE": A20}})
    assert SCANNER.redact({"env": {"ACME_API_KEY": A20, "n": 1}}) == (
        {"env": {"ACME_API_KEY": REDACTED, "n": 1}},
        ("env.ACME_API_KEY",),
    )


def test_a_secret_for_a_name_is_in_no_place() -> None:
    document = {"inputs": {CANARY: {"inner": f"Bearer {A20}"}}}
    findings = SCANNER.scan(document)
    assert {finding.location for finding in findings} == {f"inputs.{REDACTED}", f"inputs.{REDACTED}.inner"}
    clean, places = SCANNER.redact(document)
    assert CANARY not in json.dumps(clean) and A20 not in json.dumps(clean) and len(places) == 2


def test_overlapping_finds_leave_one_gap_and_a_text_around_it() -> None:
    assert SCANNER.redact_text(f"a Bearer {OPENAI} b {OPENAI} c") == f"a Bearer {REDACTED} b {REDACTED} c"
    assert SCANNER.redact_text(f"api_key={OPENAI}, access_token={JWT};") == (
        f"api_key={REDACTED}, access_token={REDACTED};"
    )
    assert SCANNER.redact_text(f"<{pem()}>").startswith(f"<{REDACTED}-----END")


def test_a_value_longer_than_its_pattern_goes_whole() -> None:
    for long in ("sk-" + "proj-" + A20 * 40, f"ya29.{A20 * 60}"):
        assert SCANNER.redact_text(f"x {long} y") == f"x {REDACTED} y"


def test_lines_of_a_file_are_places() -> None:
    found = SCANNER.scan_lines(f"one\ntwo {OPENAI}\n\n{pem()}\n", "src/a.py")
    assert [(each.location, each.rule) for each in found] == [
        ("src/a.py:2", "openai-secret"),
        ("src/a.py:4", "private-key"),
    ]


def test_what_holds_nothing_comes_back_as_it_is() -> None:
    document = {"a": ["b", {"c": (1, None, True)}]}
    assert SCANNER.redact(document) == (document, ()) and SCANNER.redact(document)[0] is document


@pytest.mark.parametrize("family, text", EXAMPLES)
def test_what_was_cut_off_a_secret_is_known_by_its_beginning(family: str, text: str) -> None:
    for chars in range(len(text) // 2, len(text)):
        assert not SCANNER.scan(text[:chars]) or SCANNER.begun(f"got {text[:chars]!r}")
    assert SCANNER.begun(f"got {text!r}")


def test_what_only_mentions_a_secret_begins_none() -> None:
    for text in (
        "needs Authorization: Bearer and a read token",
        "task-1 is in risk-2",
        "not authorised: access denied",
    ):
        assert SCANNER.begun(text) == ()


# --- our own protocol -------------------------------------------------------------------------------------------------

HEX64 = st.binary(min_size=32, max_size=32).map(bytes.hex)
BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
TOKENS = tuple(probe.prefix for _, probe in BUILT_IN.probes if not probe.folds)


@st.composite
def signatures(draw: st.DrawFn) -> str:
    """86 characters of base64url, many of which begin as a secret does, or hold its beginning."""
    text = draw(st.text(alphabet=BASE64URL, min_size=86, max_size=86))
    begin = draw(st.sampled_from(("", *(each for each in TOKENS if set(each) <= set(BASE64URL)))))
    at = draw(st.integers(0, 86 - len(begin)))
    return (text[:at] + begin + text[at + len(begin) :])[:86]


@given(
    signature=signatures(),
    hashes=st.lists(HEX64, min_size=4, max_size=4),
    name=st.sampled_from(["default", "apollo-11", "api", "sk-proj"]),
    uuid=st.uuids(),
)
def test_nothing_of_our_own_is_ever_taken_for_a_secret(signature: str, hashes: list[str], name: str, uuid: Any) -> None:
    key = principal.name_of(bytes.fromhex(hashes[3]))
    document = {
        "current_state_hash": f"sha256-{hashes[0]}",
        "transition": "COUNCIL_QUORUM_CERT",
        "inputs": {
            "content_hash": hashes[1],
            "votes": [{"voter": key, "vote": "approve", "signature": signature}],
            "member_set_hash": f"sha256:{hashes[2]}",
            "repository": "https://git.example.org/apollo/api.git",
        },
        "inputs_hash": f"sha256-{hashes[2]}",
        "signer": key,
        "idem_key": f"{name}:12:COUNCIL_QUORUM_CERT:{uuid}",
        "hlc": "2025-10-19T01:23:45.678+00:00#7",
        "window_id": f"backbeat:{hashes[0][:32]}",
        "evidence": [f"bubble://dr/{hashes[0]}", f"ucxl://bearer:api-key@{name}:token/*^/src/access_token.md"],
        "project": name,
        "signature": signature,
    }
    assert SCANNER.scan(document) == ()
    assert SCANNER.redact(document)[0] is document


def test_a_signature_may_spell_what_it_likes() -> None:
    chance = (CANARY + A20 * 3)[:86]
    assert SCANNER.scan({"signature": chance}) == () and SCANNER.redact({"signature": chance})[1] == ()
    assert SCANNER.scan({"proof": chance}) and SCANNER.scan({"signature": chance + "x"})


@given(signatures())
def test_under_another_name_a_signature_of_fixed_forms_is_no_secret_either(signature: str) -> None:
    """Only forms with an open end can be met by chance, and these begin with five or more letters of their own."""
    fixed = [found.rule for found in SCANNER.scan({"proof": signature})]
    long = [begin for begin in TOKENS if len(begin) >= 5 and signature.startswith(begin)]
    assert not fixed or long


# --- laws -------------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1, max_size=12), inner, max_size=4),
    max_leaves=12,
)


def planted(draw: st.DrawFn, secret: str) -> Any:
    """A document with the secret somewhere in it."""
    text = draw(st.text(max_size=10)) + " " + secret + " " + draw(st.text(max_size=10))
    value: Any = text
    for _ in range(draw(st.integers(0, 4))):
        other = draw(JSON)
        value = draw(st.sampled_from([{"k": other, "in": value}, [other, value], [value], {"in": value}]))
    return value


@st.composite
def documents(draw: st.DrawFn) -> tuple[Any, str]:
    secret = draw(SECRETS)
    return planted(draw, secret), secret


@given(documents())
def test_whatever_is_planted_is_found_and_gone(planting: tuple[Any, str]) -> None:
    document, secret = planting
    assert SCANNER.scan(document)
    clean, places = SCANNER.redact(document)
    assert places and not SCANNER.scan(clean) and secret not in json.dumps(clean, ensure_ascii=False)
    assert SCANNER.redact(clean) == (clean, ())
    assert SCANNER.scan(document) == SCANNER.scan(json.loads(json.dumps(document)))


@given(JSON)
def test_redaction_keeps_the_shape(document: Any) -> None:
    clean, places = SCANNER.redact(document)
    assert (clean == document) is (not places)


# --- as the machine takes it ------------------------------------------------------------------------------------------


def test_a_report_holds_what_quarantines_and_the_gravest_is_the_fact() -> None:
    rules = [{"name": "internal", "severity": "critical", "tags": ["secret"], "patterns": ["acme_[a-z]{8}"]}]
    verdicts = [{"rule": "internal", "verdict": "redact"}]
    policy = decode({"version": "7", "rules": rules, "verdicts": verdicts})
    findings = Scanner(policy).scan({"a": "acme_abcdefgh", "b": OPENAI})
    breach = report.breach(findings, policy, "the content", principal="someone")
    assert [(each["rule"], each["severity"]) for each in breach["findings"]] == [("openai-secret", "quarantine")]
    assert breach["policy_version"] == "7" and breach["rationale"] == "the content holds openai-secret"
    fact, lesser = report.fact(findings, policy), report.fact(findings[:1], policy)
    assert fact is not None and (fact["rule"], fact["severity"]) == ("openai-secret", "quarantine")
    assert lesser is not None and (lesser["rule"], lesser["severity"]) == ("internal", "high")
    assert report.fact((), policy) is None


def test_a_report_is_never_larger_than_a_project_may_hold() -> None:
    findings = SCANNER.scan({"evidence": [OPENAI] * 200, "x" * 600: OPENAI})
    breach = report.breach(findings, BUILT_IN, "a request")
    assert len(breach["findings"]) == limits.FINDINGS_MAX
    assert all(len(each["location"]) <= limits.ADDRESS_CHARS_MAX for each in breach["findings"])
