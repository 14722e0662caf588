"""A pin is a version, a range, a hash of tools, or the first two with the third; it has an answer for every text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swoosh import pins
from tests.core.contexts import h

TOOLS = h("tools")


def fits(pin: str, version: str, tools: str = TOOLS) -> bool:
    return pins.parse(pin).objection(version, tools) is None


@pytest.mark.parametrize("text", ["1.4.2", "2", "v1", "main (2026)", "latest", "1.0-rc.1", "*", "1.4.2+build.5"])
def test_a_text_is_pinned_as_it_is(text: str) -> None:
    assert fits(text, text)
    assert not any(fits(text, other) for other in ("", text + ".0", "v" + text, text.upper() + "!"))


@pytest.mark.parametrize(
    ("pin", "within", "without"),
    [
        (">=1.4,<2", ["1.4", "1.4.0", "v1.4.2", "1.10", "1.99.99", "1.4.2+build.5", "1.04"], ["1.3.9", "2", "2.0.0"]),
        (">1.4", ["1.4.0.1", "1.5"], ["1.4", "1.4.0", "1.3"]),
        ("<=2", ["2", "2.0", "0", "1.9"], ["2.0.1", "3"]),
        ("<2026.11", ["2026.2", "2025.12.31"], ["2026.11", "2026.11.1"]),
        (">=1,>=1.2,<1.5,<3", ["1.2", "1.4.9"], ["1.1", "1.5"]),
        (">2,<1", [], ["1", "1.5", "2", "3"]),
    ],
)
def test_a_range_compares_numbers_from_the_left(pin: str, within: list[str], without: list[str]) -> None:
    assert all(fits(pin, version) for version in within)
    assert not any(fits(pin, version) for version in without)


@pytest.mark.parametrize(
    "version",
    ["", "latest", "2.0.0-rc.1", "1.5rc1", "1..5", "1.5.", ".", "-1", "+1", "1_5", "１.５", "1." + "9" * 19],
)
def test_what_is_no_released_version_is_in_no_range(version: str) -> None:
    assert not fits(">=0", version)


def test_a_hash_is_asked_for_beside_the_version_or_alone() -> None:
    for pin in (f"1.4.2#{TOOLS}", f">=1.4,<2#{TOOLS}", f"#{TOOLS}"):
        assert fits(pin, "1.4.2") and not fits(pin, "1.4.2", h("others")) and not fits(pin, "1.4.2", "")
    assert fits(f"#{TOOLS}", "") and not fits(f"1.4.2#{TOOLS}", "1.4.3")


def test_an_objection_says_what_was_seen_and_what_is_needed() -> None:
    pin = pins.parse(f">=1.4,<2#{TOOLS}")
    assert pin.objection("2.0", TOOLS) == "answers with version 2.0; pinned is >=1.4,<2"
    assert pin.objection("", TOOLS) == "answers with version (none); pinned is >=1.4,<2"
    assert pin.objection("1.5", h("x")) == f"lists tools that hash to {h('x')}; pinned is {TOOLS}"
    assert pin.objection("1.5", "") == f"lists tools that hash to (nothing); pinned is {TOOLS}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected a version"),
        ("1.4#", "hex digits after #"),
        ("1.4#sha256-abc", "hex digits after #"),
        (f"1.4#{TOOLS.upper()}", "hex digits after #"),
        (f"1.4#{TOOLS}#{TOOLS}", "hex digits after #"),
        (">=", "numbers joined by dots"),
        (">=1.x", "numbers joined by dots"),
        (">=1.4,", "numbers joined by dots"),
        (">=1.4, <2", "numbers joined by dots"),
        (">=1.4,2", "expected >=, <=, >, <"),
        ("^1.4", "expected >=, <=, >, <"),
        ("~=1.4", "expected >=, <=, >, <"),
        ("==1.4", "expected >=, <=, >, <"),
        ("!=1.4", "expected >=, <=, >, <"),
        ("<2-rc.1", "numbers joined by dots"),
    ],
)
def test_what_is_no_pin_is_refused_with_a_reason(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        pins.parse(text)


@given(st.text(alphabet="<>=!~^#,.+-v0123456789 sha256xé", max_size=40), st.text(max_size=40))
def test_every_text_is_a_pin_or_refused_and_every_version_fits_or_not(text: str, version: str) -> None:
    try:
        pin = pins.parse(text)
    except ValueError as error:
        assert str(error)
        return
    pin.objection(version, version)
    assert pin.bounds or not pin.version or pin.objection(pin.version, pin.tools_hash) is None


@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_of_two_versions_one_is_below_the_other_or_they_are_one(a: list[int], b: list[int]) -> None:
    one, two = (".".join(map(str, numbers)) for numbers in (a, b))
    assert [fits(f"<{two}", one), fits(f">{two}", one), fits(f">={two},<={two}", one)].count(True) == 1
