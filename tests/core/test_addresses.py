"""Addresses: what is taken leniently, what each of the two strict grammars takes, and that our own pass the first."""

from __future__ import annotations

import string
from contextlib import suppress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from swoosh import addresses, decision, limits, submission
from swoosh.addresses import Address, Grammar
from swoosh.errors import Malformed

LENIENT, GO, RUST = Grammar.LENIENT, Grammar.GO, Grammar.RUST

VECTORS: dict[str, set[Grammar]] = {
    # seen in the wild
    "ucxl://chorus-agent:arbiter@backbeat:tempo-calibration/*^/decisions/tempo-1bpm": {LENIENT, GO},
    "ucxl://*:*@DistOS:*": {LENIENT},
    "ucxl://council-docs:*@DistOS:docs/*^/": {LENIENT},
    "ucxl://chorus:spec@council/x": {LENIENT},
    "ucxl://proof/123": {LENIENT},
    "ucxl://agent:role@project:task/#/path": {LENIENT, RUST},
    # our own
    decision.ucxl_address("a.project_with-signs", 1042): {LENIENT, GO},
    decision.ucxl_address("@cluster", 7): {LENIENT, GO},
    submission.ucxl_address("apollo", 3): {LENIENT, GO},
    # each temporal of either grammar, with an empty path
    "ucxl://any:any@any:any/*^/": {LENIENT, GO},
    "ucxl://any:any@any:any/*~/": {LENIENT, GO},
    "ucxl://any:any@any:any/*~0/": {LENIENT, GO},
    "ucxl://any:any@any:any/~~3/": {LENIENT, GO},
    "ucxl://any:any@any:any/^^12/": {LENIENT, GO},
    "ucxl://any:any@any:any/#/": {LENIENT, RUST},
    "ucxl://any:any@any:any/~~/": {LENIENT, RUST},
    "ucxl://any:any@any:any/^^/": {LENIENT, RUST},
    # what is close to them
    "ucxl://any@any:any/#/": {LENIENT, RUST},
    "ucxl://any@any:any/*^/": {LENIENT},
    "ucxl://any:@any:any/#/": {LENIENT},
    "ucxl://any:any@any:any/*^": {LENIENT},
    "ucxl://any:any@any:any/*^1/": {LENIENT},
    "ucxl://any:any@any:any/*~x/": {LENIENT},
    "ucxl://any:any@any:any/##/": {LENIENT},
    "ucxl://any:any@any:any//": {LENIENT},
    "ucxl://any:any@any:any/*^/a?b": {LENIENT},
    "ucxl://any:any@any:any/*^/a/b-c_d.e/": {LENIENT, GO},
    "ucxl://a:b:c@any:any/*^/": {LENIENT},
    "ucxl://a:b@any:any:any/*^/": {LENIENT},
    "ucxl://a:b@c@any:any/*^/": {LENIENT},
    "ucxl://a.b:c@any:any/*^/": {LENIENT},
    "bubble://dr/" + "0" * 64: {LENIENT, GO, RUST},
    "bubble://dr/" + "A" * 64: {LENIENT},
    "bubble://dr/abc": {LENIENT},
    "bubble://" + "0" * 64: {LENIENT},
    # no address at all
    "": set(),
    "http://example.org": set(),
    "ucxl:/a:b@c:d/*^/": set(),
    "UCXL://a:b@c:d/*^/": set(),
    "ucxl://a b": set(),
    "ucxl://\n": set(),
    "ucxl://\u00e9": set(),
    "ucxl://any:any@any:any/~~\u0663/": set(),
    "ucxl://" + "a" * limits.ADDRESS_CHARS_MAX: set(),
}


def readers(text: str) -> set[Grammar]:
    found = set()
    for grammar in Grammar:
        with suppress(Malformed):
            addresses.check(text, "evidence[0]", grammar)
            found.add(grammar)
    return found


@pytest.mark.parametrize("text", VECTORS)
def test_who_can_read_it(text: str) -> None:
    assert readers(text) == VECTORS[text]


@pytest.mark.parametrize("grammar", Grammar)
def test_a_refusal_names_what_was_meant(grammar: Grammar) -> None:
    with pytest.raises(Malformed, match=r"evidence\[3\]"):
        addresses.check("http://example.org", "evidence[3]", grammar)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("ucxl://a!:b@c:d/*^/", "agent"),
        ("ucxl://a:b!@c:d/*^/", "role"),
        ("ucxl://a@c:d/*^/", "role"),
        ("ucxl://a:b@/*^/", "project"),
        ("ucxl://a:b@c/*^/", "task"),
        ("ucxl://a:b@c:d/now/", "temporal"),
        ("ucxl://a:b@c:d/*^/e f".replace(" ", "?"), "path"),
    ],
)
def test_a_refusal_names_the_part_that_does_not_fit(text: str, part: str) -> None:
    with pytest.raises(Malformed, match=part):
        addresses.check(text, "evidence[0]", GO)


# --- laws -------------------------------------------------------------------------------------------------------------

names = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=12)
paths = st.text(string.ascii_letters + string.digits + "_-/.", max_size=30)
counted = st.tuples(st.sampled_from(["*~", "~~", "^^"]), st.integers(0, 10**9)).map(lambda t: f"{t[0]}{t[1]}")
temporals = {GO: st.sampled_from(["*^", "*~"]) | counted, RUST: st.sampled_from(["#", "~~", "^^"])}
roles = {GO: names, RUST: names | st.just("")}


def written(grammar: Grammar) -> st.SearchStrategy[Address]:
    return st.builds(Address, names, roles[grammar], names, names, temporals[grammar], paths)


@pytest.mark.parametrize("grammar", [GO, RUST])
@given(data=st.data())
def test_what_a_grammar_builds_it_reads_back(grammar: Grammar, data: st.DataObject) -> None:
    address = data.draw(written(grammar))
    addresses.check(str(address), "it", grammar)
    assert addresses.parse(str(address), "it", grammar) == address


@pytest.mark.parametrize("grammar", [GO, RUST])
@given(text=st.text(string.printable, max_size=40).map(lambda rest: f"ucxl://{rest}") | st.text(max_size=60))
def test_whatever_is_read_is_written_back_to_the_letter(grammar: Grammar, text: str) -> None:
    try:
        address = addresses.parse(text, "it", grammar)
    except Malformed:
        return
    assert str(address) == text


@given(
    text=written(GO).map(str) | written(RUST).map(str) | st.text(string.printable, max_size=40).map("ucxl://".__add__)
)
def test_what_a_strict_grammar_reads_the_lenient_one_does(text: str) -> None:
    found = readers(text)
    assert LENIENT in found or not found
    assert not {GO, RUST} <= found, "no temporal is in both"


@given(project=st.text("abcdefghijklmnopqrstuvwxyz0123456789._-", min_size=1, max_size=64), seq=st.integers(1, 2**53))
def test_what_swoosh_writes_is_in_the_go_grammar(project: str, seq: int) -> None:
    assume(project[0] not in "._-")
    for text in (decision.ucxl_address(project, seq), submission.ucxl_address(project, seq)):
        assert addresses.parse(text, "ours", GO).temporal == f"*~{seq}"
