"""THE encoder writes RFC 8785 to the byte, and the parser takes nothing it would have to change."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from swoosh import canonical, limits
from swoosh.errors import Malformed

KEYS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=12)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(
    lambda text: unicodedata.normalize("NFC", text)
)
INTEGERS = st.integers(-limits.INTEGER_MAX, limits.INTEGER_MAX)
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)


@given(VALUES)
def test_the_bytes_are_those_of_an_independent_rfc_8785_encoder(value: Any) -> None:
    assert canonical.encode(value) == rfc8785.dumps(value)


@given(VALUES)
def test_parsing_what_was_encoded_gives_it_back(value: Any) -> None:
    assert canonical.parse(canonical.encode(value)) == value


@given(VALUES)
def test_the_domain_is_what_the_encoder_writes(value: Any) -> None:
    canonical.check(value)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


REFUSED = {
    "not UTF-8": (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
    "not JSON": (b"{", "not JSON"),
    "nothing": (b"", "not JSON"),
    "text after the value": (b"{} {}", "not JSON"),
    "byte order mark": (b"\xef\xbb\xbf{}", "not JSON"),
    "duplicate member": (b'{"a": 1, "a": 1}', "duplicate member 'a'"),
    "duplicate member, escaped": (b'{"a": 1, "\\u0061": 2}', "duplicate member 'a'"),
    "duplicate member deep inside": (b'[{"b": {"a": 1, "a": 2}}]', "duplicate member 'a'"),
    "float": (b'{"a": 1.0}', "1.0 is not an integer"),
    "float with an exponent": (b"[1e3]", "1e3 is not an integer"),
    "NaN": (b"[NaN]", "NaN is not an integer"),
    "infinity": (b"[-Infinity]", "-Infinity is not an integer"),
    "integer too great": (b"[9007199254740992]", "integer beyond"),
    "integer too small": (b"[-9007199254740992]", "integer beyond"),
    "integer of many digits": (b"[" + b"9" * 5000 + b"]", "integer beyond"),
    "lone surrogate": (b'["\\ud800"]', "lone surrogate"),
    "surrogates in the wrong order": (b'["\\udc00\\ud800"]', "lone surrogate"),
    "text that is not NFC": ('["e\u0301"]'.encode(), "normal form C"),
    "member name that is not NFC": ('{"e\u0301": 1}'.encode(), "printable ASCII"),
    "member name with a line feed": (b'{"a\\n": 1}', "printable ASCII"),
    "member name that is empty": (b'{"": 1}', "printable ASCII"),
    "member name with NUL": (b'{"a\\u0000": 1}', "printable ASCII"),
    "too deep": (nested(limits.DEPTH_MAX + 1), "nested deeper than"),
    "far too deep": (nested(200_000), "nested deeper than"),
    "too many members": (b"[" + b"1," * limits.MEMBERS_MAX + b"1]", "members"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_outside_the_domain_is_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        canonical.parse(data)


TAKEN = {
    "the greatest integer": (b"[9007199254740991, -9007199254740991]", [2**53 - 1, -(2**53 - 1)]),
    "text in NFC": ('["\u00e9"]'.encode(), ["\u00e9"]),
    "a pair of surrogates": (b'["\\ud83d\\ude00"]', ["\U0001f600"]),
    "NUL inside text": (b'["\\u0000"]', ["\0"]),
    "as deep as allowed": (nested(limits.DEPTH_MAX), None),
    "white space": (b' {"a" : [ 1 , 2 ] } ', {"a": [1, 2]}),
}


@pytest.mark.parametrize(("data", "value"), TAKEN.values(), ids=TAKEN)
def test_what_is_inside_the_domain_is_taken(data: bytes, value: Any) -> None:
    parsed = canonical.parse(data)
    assert value is None or parsed == value


@given(st.binary(max_size=60))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        canonical.check(canonical.parse(data))
    except Malformed as error:
        assert error.reason


@pytest.mark.parametrize("value", [1.5, b"bytes", {1: "a"}, {"a": {2}}, object()])
def test_values_that_are_not_json_are_refused(value: Any) -> None:
    with pytest.raises(Malformed):
        canonical.check({"a": value})
