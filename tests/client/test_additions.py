"""What is added to a request, where, and that nothing else about it changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swoosh import canonical
from swoosh.client.additions import KEY_PREFIX, Amended, Call, Place, amend, key_of, place_of
from swoosh.hlc import HLC
from swoosh.proposal import HEADERS, decode, idem_key, normal

OWN = {"idem_key": "shim:1", "hlc": "2026-01-01T00:00:00.000+00:00#1", "window_id": "W-9"}
JSON = {"Content-Type": "application/json"}
PROPOSAL = {
    "current_state_hash": "a" * 64,
    "transition": "LICENSE_GRANTED",
    "inputs_hash": "b" * 64,
    "signer": "node-001",
    "evidence": ["ucxl://proof/123"],
}
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
MEMBERS = st.sampled_from(["idem_key", "hlc", "window_id", "signer", "evidence", "project", "signature", "inputs"])
VALUES = st.one_of(st.none(), st.integers(0, 9), TEXTS, st.lists(TEXTS, max_size=2))
DOCUMENTS = st.dictionaries(MEMBERS, VALUES, max_size=6)


def own(member: str) -> str:
    return OWN[member]


def amended(path: str, body: Any, headers: Mapping[str, str] | None = None) -> Amended:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return amend(Call(path, {**JSON, **(headers or {})}, sent), own)


def document(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body)
    return found


# --- where ------------------------------------------------------------------------------------------------------------


def test_the_headers_are_those_the_node_reads() -> None:
    assert {header: member for member, headers in HEADERS.items() for header in headers} == {
        "X-Swoosh-Idem-Key": "idem_key",
        "Idempotency-Key": "idem_key",
        "idem_key": "idem_key",
        "X-Swoosh-HLC": "hlc",
        "hlc": "hlc",
        "X-Swoosh-Window-Id": "window_id",
        "window_id": "window_id",
    }


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/transition", Place.BODY),
        ("/transitions", Place.BODY),
        ("/api/v1/tasks/atlas.build/claim", Place.HEADERS),
        ("/webhooks/gitea", Place.HEADERS),
        ("/admin/facts", Place.NOWHERE),
        ("/admin/transfer-leadership", Place.NOWHERE),
        ("/hmmm/messages", Place.NOWHERE),
        ("/command", Place.NOWHERE),
    ],
)
def test_each_route_takes_it_in_one_place(path: str, place: Place) -> None:
    assert place_of(path) is place
    found = amended(path, {"agent_id": "ada"})
    assert bool(found.headers) is (place is Place.HEADERS)
    assert (found.body != b'{"agent_id": "ada"}') is (path == "/transition")


# --- headers ----------------------------------------------------------------------------------------------------------


def test_a_route_of_whoosh_gets_headers_and_its_body_stays() -> None:
    found = amended("/api/v1/councils/atlas/claims", b'{"confidence": 0.5}')
    assert found.headers == {
        "X-Swoosh-Idem-Key": OWN["idem_key"],
        "X-Swoosh-HLC": OWN["hlc"],
        "X-Swoosh-Window-Id": OWN["window_id"],
    }
    assert found.body == b'{"confidence": 0.5}' and found.own == OWN


@pytest.mark.parametrize("name", [name.swapcase() for names in HEADERS.values() for name in names])
def test_what_the_caller_said_in_whatever_spelling_is_his_to_say(name: str) -> None:
    [member] = [member for member, names in HEADERS.items() if name.swapcase() in names]
    found = amended("/api/v1/tasks/ingest", {}, {name: "his own"})
    assert member not in found.own and HEADERS[member][0] not in found.headers
    assert set(found.own) == set(HEADERS) - {member}


def test_what_is_not_known_is_left_out() -> None:
    call = Call("/api/v1/projects", JSON, b"{}")
    assert amend(call, lambda member: "").headers == {}


# --- a proposal -------------------------------------------------------------------------------------------------------


def test_an_unsigned_proposal_is_completed() -> None:
    found = document(amended("/transition", PROPOSAL).body)
    assert found.pop("idem_key").startswith(KEY_PREFIX)
    assert found == {**PROPOSAL, "hlc": OWN["hlc"], "window_id": OWN["window_id"]}


def test_a_completed_proposal_is_one_the_machine_reads() -> None:
    form = normal(decode(canonical.encode(document(amended("/transition", PROPOSAL).body))))
    assert form.hlc == HLC.parse(OWN["hlc"]) and form.window_id == OWN["window_id"]


def test_an_empty_text_is_what_a_go_caller_sends_for_nothing() -> None:
    body = {**PROPOSAL, "idem_key": "", "hlc": "", "window_id": ""}
    found = amended("/transition", body)
    assert set(found.own) == {"idem_key", "hlc", "window_id"}
    assert document(found.body)["idem_key"] == key_of(PROPOSAL)


def test_a_header_becomes_the_member_it_may_only_repeat() -> None:
    found = amended("/transition", PROPOSAL, {"Idempotency-Key": "his", "X-Swoosh-HLC": "7-0-0", "window_id": "W-1"})
    assert document(found.body) == {**PROPOSAL, "idem_key": "his", "hlc": "7-0-0", "window_id": "W-1"}
    assert found.own == {} and found.headers == {}


@given(DOCUMENTS)
def test_no_member_that_says_something_is_changed(body: dict[str, Any]) -> None:
    before = json.dumps(body).encode()
    found = amended("/transition", before)
    after = document(found.body)
    assert {name: value for name, value in after.items() if body.get(name) not in (None, "")} == {
        name: value for name, value in body.items() if value not in (None, "")
    }
    assert set(after) - set(body) <= set(HEADERS)
    if body.get("signature") is not None:
        assert found.body == before


@given(DOCUMENTS)
def test_what_is_complete_stays_as_it_is_to_the_byte(body: dict[str, Any]) -> None:
    once = amended("/transition", body)
    assert amended("/transition", once.body) == Amended({}, once.body, {})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"not json",
        b'{"transition": "A", "transition": "B"}',
        b'{"confidence": 0.5}',
        b'{"signature": ""}',
        b'\xff{"transition": "A"}',
        json.dumps({**PROPOSAL, "signature": "c2lnbmVk"}).encode(),
    ],
    ids=lambda body: body[:20].decode("utf-8", "replace"),
)
def test_what_is_signed_or_does_not_read_strictly_is_left_to_the_node(body: bytes) -> None:
    assert amended("/transition", body) == Amended({}, body, {})


def test_a_signature_in_a_header_signs_the_body_too() -> None:
    found = amended("/transition", PROPOSAL, {"x-hmmm-signature": "c2lnbmVk"})
    assert document(found.body) == PROPOSAL and found.own == {}


# --- the key of a proposal --------------------------------------------------------------------------------------------


@given(st.permutations(list(PROPOSAL)), TEXTS, TEXTS)
def test_the_same_words_have_the_same_key_whenever_they_are_said(order: list[str], hlc: str, window: str) -> None:
    again = {name: PROPOSAL[name] for name in order} | {"hlc": hlc, "window_id": window, "idem_key": ""}
    assert key_of(again) == key_of(PROPOSAL)
    assert idem_key(key_of(again)), "and the machine takes it for a key"


@given(st.sampled_from(sorted(PROPOSAL)), TEXTS)
def test_other_words_have_another_key(name: str, value: str) -> None:
    other = {**PROPOSAL, name: [value] if name == "evidence" else value}
    assert (key_of(other) == key_of(PROPOSAL)) is (other == PROPOSAL)


# --- batches ----------------------------------------------------------------------------------------------------------


def test_each_proposal_of_an_array_is_completed_for_itself() -> None:
    signed = {**PROPOSAL, "signature": "c2lnbmVk"}
    found = json.loads(amended("/transitions", [PROPOSAL, signed, {**PROPOSAL, "idem_key": "his"}]).body)
    assert [each.get("idem_key") for each in found] == [key_of(PROPOSAL), None, "his"]
    assert found[1] == signed


def test_so_are_lines() -> None:
    body = b"".join(json.dumps({**PROPOSAL, "project": name}).encode() + b"\n" for name in ("a", "b"))
    found = amend(Call("/transitions", {"Content-Type": "application/x-ndjson; charset=utf-8"}, body), own)
    lines = [document(line) for line in found.body.splitlines()]
    assert [(line["project"], line["hlc"]) for line in lines] == [("a", OWN["hlc"]), ("b", OWN["hlc"])]
    assert lines[0]["idem_key"] != lines[1]["idem_key"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"proposals": [{}], "signer": "s", "signature": "c2lnbmVk"}',
        b"[1, 2",
        b'[{"a": 0.5}, {"signature": "x"}]',
        json.dumps([{**PROPOSAL, **OWN}]).encode(),
    ],
    ids=["under one signature", "no array", "nothing to complete", "complete"],
)
def test_a_batch_that_lacks_nothing_is_sent_as_it_is(body: bytes) -> None:
    assert amended("/transitions", body).body == body
