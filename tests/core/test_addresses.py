"""Addresses: what is taken leniently, what the strict grammar takes, and that our own pass it."""

from __future__ import annotations

import pytest

from swoosh import addresses, decision
from swoosh.errors import Malformed

STRICT = [
    "ucxl://chorus-agent:arbiter@backbeat:tempo-calibration/*^/decisions/tempo-1bpm",
    "ucxl://swoosh:orchestrator@default:transition/*~1042/dr.json",
    "ucxl://any:any@any:any/~~3/",
    "bubble://dr/" + "0" * 64,
    decision.ucxl_address("a.project_with-signs", 7),
]
LENIENT_ONLY = ["ucxl://chorus:spec@council/x", "ucxl://proof/123", "ucxl://*:*@DistOS:*", "bubble://dr/abc"]
REFUSED = ["", "http://example.org", "ucxl://a b", "ucxl://\n", "ucxl://" + "a" * 600, "ucxl://é"]


@pytest.mark.parametrize("text", STRICT)
def test_the_strict_grammar_takes_what_systems_of_record_write(text: str) -> None:
    addresses.check(text, "evidence[0]", strict=True)


@pytest.mark.parametrize("text", LENIENT_ONLY)
def test_informal_addresses_pass_unless_strictness_is_asked_for(text: str) -> None:
    addresses.check(text, "evidence[0]")
    with pytest.raises(Malformed, match=r"evidence\[0\]"):
        addresses.check(text, "evidence[0]", strict=True)


@pytest.mark.parametrize("text", REFUSED)
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(Malformed, match=r"evidence\[0\]"):
        addresses.check(text, "evidence[0]")
