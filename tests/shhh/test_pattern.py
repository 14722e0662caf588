"""The form of a pattern is what bounds a scan: everything else is refused, with the place."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.shhh.pattern import PATTERN_CHARS_MAX, WIDTH_PER_LETTER, named, token
from cluster.shhh.policy import BUILT_IN, decode
from cluster.shhh.scanner import Scanner
from swoosh import limits
from swoosh.errors import Malformed


@pytest.mark.parametrize(
    "pattern, fits, misfits",
    [
        ("acme_[a-z]{4}", "acme_abcd", "acme_abc"),
        (r"acme\.\d{2,3}-\w?", "acme.12-", "acme.1-"),
        (r"acme[^a-z]{1,4}x", "acme12x", "acmebx"),
        (r"ac\+me .y", "ac+me xy", "ac+mey"),
        ("acme[a-z]{0,3}z", "acmeabcz", "acmeabz"),  # the set takes the z, and gives it back to nobody
    ],
)
def test_a_row_of_characters_and_sets_matches(pattern: str, fits: str, misfits: str) -> None:
    regex = token(pattern).regex
    found = regex.search(f"see {fits} there")
    assert found is not None and found[1] == fits
    assert regex.search(f"see {misfits} there") is None


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "(a+)+$",
            "acme(a|aa)*",
            "acme.*",
            "acme[a-z]+",
            "acme[a-z]{3,}",
            "acme|beta",
            "acme(?=x)",
            r"acme\1",
            "^acme",
        ),
        *("", "ac", "a?cme", "[a]cme", r"\d\d\d", "acme{0}", "acme{3,2}", "acme[a-z", "acme[]", "acme[[:alpha:]]"),
        *("acme[a--b]", "acme\\", "acme\n", r"acme\b", r"acme\Z", "acme{10000}", "acme\\q", "acme{1}{2}"),
        "acme[a-z]{0," + str(4 * WIDTH_PER_LETTER) + "}",
        "acme" + "x" * PATTERN_CHARS_MAX,
        "=-" * 40 + "[a-z=-]{0,1000}",  # it stands at every other place of its own repetition
    ],
)
def test_what_could_blow_up_or_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(Malformed, match="pattern"):
        token(pattern)


@pytest.mark.parametrize("name", ["", "a", "Api_Key", "api-key", "api key", "_key", "key_", "a" * 40])
def test_a_name_is_words(name: str) -> None:
    with pytest.raises(Malformed, match="name"):
        named(name)


def test_a_pattern_with_a_fixed_end_takes_whole_tokens_and_one_with_an_open_end_all_of_them() -> None:
    fixed, open_ended = token("acme_[a-z]{4}").regex, token("acme_[a-z]{4,6}").regex
    for longer in ("acme_abcde", "acme_abcd-", "acme_abcd_1", "xacme_abcd", "-acme_abcd"):
        assert fixed.search(longer) is None
    found = open_ended.search("acme_abcdefgh-1_2.rest")
    assert found is not None and found[1] == "acme_abcdefgh-1_2"


def test_a_longer_beginning_may_be_followed_by_more() -> None:
    assert token("acme_key_[a-z]{0,2500}").regex.search("acme_key_x")
    with pytest.raises(Malformed, match="wide"):
        token("acme_[a-z]{0,2500}")


WORST = ("acme", "acm", "acmeb", " acme ", "acmea" * 200 + " ")


def filled(unit: str) -> str:
    """As much of it as a request may hold."""
    return unit * (limits.BODY_BYTES_MAX // len(unit))


@pytest.mark.parametrize("unit", WORST)
def test_the_worst_pattern_on_the_worst_text_takes_a_bounded_time(unit: str) -> None:
    """As wide as may be, and failing at the last character. The bound is a hundred times what it takes, as the machine
    may be busy; what it keeps out takes hours."""
    worst = f"acm[a-z ]{{0,{3 * WIDTH_PER_LETTER - 4}}}X"
    rules = [{"name": "worst", "severity": "high", "tags": ["secret"], "patterns": [worst]}]
    scanner = Scanner(decode({"version": "1", "rules": rules}))
    begun = time.process_time()
    scanner.scan({"text": filled(unit)})
    assert time.process_time() - begun < 20.0


@pytest.mark.parametrize("prefix", sorted({probe.prefix for _, probe in BUILT_IN.probes}))
def test_no_built_in_pattern_takes_long_on_its_own_beginning_repeated(prefix: str) -> None:
    scanner = Scanner(BUILT_IN)
    begun = time.process_time()
    for between in ("", " ", "=a", "\n1", "= \"' "):
        scanner.scan({"text": filled(prefix + between)})
    assert time.process_time() - begun < 20.0


@given(st.text(alphabet="acme[]{}()|*+?^$\\.,-0123456789dws \n", max_size=24))
def test_any_text_is_a_pattern_or_refused(pattern: str) -> None:
    try:
        probe = token("acme" + pattern)
    except Malformed:
        return
    assert probe.prefix.startswith("acm")
