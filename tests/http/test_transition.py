"""Proposals over HTTP: the brief's contract, v1.0.0's fields, and what each kind of bad input comes to."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from cluster.answers import not_admitted, unknown
from swoosh import canonical, limits, signing
from swoosh.outcome import Code
from tests.http.conftest import Caller
from tests.http.desk import KEYS, Desk


async def test_an_accepted_proposal_is_answered_with_its_record(desk: Desk, ask: Caller) -> None:
    reply = await ask.post("/transition", desk.created("apollo"))
    assert reply.status == 200
    assert reply.body["success"] is True and reply.body["duplicate"] is False
    assert reply.body["transition"] == "PROJECT_CREATED" and reply.body["project"] == "apollo"
    assert reply.body["state_hash"] == reply.body["state_post_hash"] == desk.head("apollo")
    assert [outcome["name"] for outcome in reply.body["guard_outcomes"]] == ["authorised"]
    assert all(reply.body["guards_v1"].values())
    assert reply.headers["X-Swoosh-Node"] == "n1" and reply.headers["X-Swoosh-Leader"] == "n1"
    assert reply.headers["X-Swoosh-State-Hash"] == desk.head("apollo")
    assert reply.headers["X-Swoosh-Index"] == str(reply.body["index"])


async def test_the_brief_s_202_is_the_same_verdict_and_says_where_it_is_kept(desk: Desk, ask: Caller) -> None:
    proposal = desk.created("apollo", idem_key="goal:1:create/x:7")
    reply = await ask.post("/transition", proposal, headers={"Prefer": "respond-async, wait=5"})
    assert reply.status == 202
    assert reply.headers["Location"] == "/transitions/goal%3A1%3Acreate%2Fx%3A7?project=apollo"
    kept = await ask.get(reply.headers["Location"])
    assert kept.status == 200 and kept.body["duplicate"] is True
    assert kept.body["record_hash"] == reply.body["record_hash"]
    assert kept.body["guard_outcomes"] == reply.body["guard_outcomes"]


async def test_a_repeat_is_a_duplicate_and_another_intent_under_the_key_is_refused(desk: Desk, ask: Caller) -> None:
    proposal = desk.created("apollo", idem_key="once")
    first = await ask.post("/transition", proposal)
    again = await ask.post("/transition", proposal)
    assert again.status == 200 and again.body["duplicate"] is True
    assert again.body["record_hash"] == first.body["record_hash"]
    other = desk.signed(desk.draft("INGESTION_SOURCES_RESOLVED", "once", project="apollo", inputs={"sources": []}))
    refused = await ask.post("/transition", other)
    assert (refused.status, refused.body["code"]) == (400, "IDEM_KEY_REUSED")
    assert refused.body["record"]["record_hash"] == first.body["record_hash"]


async def test_a_refusal_names_guard_reasons_and_head(desk: Desk, ask: Caller) -> None:
    await ask.post("/transition", desk.created("apollo"))
    wrong = {"chart_hash": "sha256-" + "0" * 64}
    reply = await ask.post("/transition", desk.signed(desk.draft("CONFIG_OK", "c", project="apollo", inputs=wrong)))
    assert (reply.status, reply.body["success"], reply.body["code"]) == (400, False, "GUARD_REJECTED"), reply.text
    assert reply.body["error"].startswith("guard rejected transition: ")
    assert reply.body["failing_guard"] == "chart_matches" and reply.body["reasons"]
    assert [outcome["name"] for outcome in reply.body["guard_outcomes"]] == ["authorised", "chart_matches"]
    assert reply.body["state_hash"] == desk.head("apollo")
    assert reply.body["help"]


async def test_a_dry_run_judges_and_commits_nothing(desk: Desk, ask: Caller) -> None:
    reply = await ask.post("/transition?dry_run=true", desk.created("apollo"))
    assert reply.status == 200 and reply.body["guard_outcomes"]
    assert desk.machine.project("apollo") is None
    assert {"path": "Meta.Phase", "before": "ABSENT", "after": "CREATED"} in reply.body["changes"]
    assert "changes" not in (await ask.post("/transition", desk.created("apollo"))).body


# --- bad input --------------------------------------------------------------------------------------------------------

Make = Callable[[Desk], Any]


def raw(change: Callable[[dict[str, Any]], str]) -> Make:
    """A signed proposal whose text is then spoilt."""
    return lambda desk: change(desk.created("apollo")).encode()


def resigned(**members: Any) -> Make:
    """A proposal with other members, properly signed."""
    return lambda desk: desk.signed({**desk.signed(desk.draft("PROJECT_CREATED", "k", project="apollo")), **members})


def with_member(name: str, text: str) -> Make:
    return raw(lambda proposal: json.dumps(proposal)[:-1] + f', "{name}": {text}}}')


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


def without(*names: str) -> Make:
    return lambda desk: {name: value for name, value in desk.created("apollo").items() if name not in names}


def unsigned_change(**members: Any) -> Make:
    """Changed after it was signed."""
    return lambda desk: {**desk.created("apollo"), **members}


BAD: dict[str, tuple[Make, int, Code]] = {
    "empty": (lambda desk: b"", 400, Code.MALFORMED),
    "not json": (lambda desk: b"{", 400, Code.MALFORMED),
    "not utf-8": (lambda desk: b'{"a": "\xff"}', 400, Code.MALFORMED),
    "an array": (lambda desk: [1], 400, Code.MALFORMED),
    "a number": (lambda desk: b"7", 400, Code.MALFORMED),
    "too deep": (with_member("inputs", nested(40)), 400, Code.MALFORMED),
    "absurdly deep": (lambda desk: nested(100_000).encode(), 400, Code.MALFORMED),
    "too many members": (with_member("evidence", json.dumps(["x"] * 2_000)), 400, Code.MALFORMED),
    "duplicate key": (with_member("idem_key", '"other"'), 400, Code.MALFORMED),
    "nan": (with_member("extra", "NaN"), 400, Code.MALFORMED),
    "float": (with_member("extra", "1.5"), 400, Code.MALFORMED),
    "huge integer": (with_member("extra", "9" * 400), 400, Code.MALFORMED),
    "lone surrogate": (with_member("extra", r'"\ud800"'), 400, Code.MALFORMED),
    "not nfc": (with_member("extra", '"e\\u0301"'), 400, Code.MALFORMED),
    "unknown field": (with_member("extra", "1"), 400, Code.MALFORMED),
    "missing field": (without("idem_key"), 400, Code.MALFORMED),
    "wrong type": (unsigned_change(idem_key=7), 400, Code.MALFORMED),
    "bad project id": (unsigned_change(project="../etc"), 400, Code.MALFORMED),
    "nul in project id": (unsigned_change(project="a\0b"), 400, Code.MALFORMED),
    "bad key": (unsigned_change(idem_key="spaces are not allowed"), 400, Code.MALFORMED),
    "bad hlc": (unsigned_change(hlc="yesterday"), 400, Code.MALFORMED),
    "bad hash": (unsigned_change(current_state_hash="sha256-xyz"), 400, Code.MALFORMED),
    "@prev alone": (resigned(current_state_hash="@prev"), 400, Code.MALFORMED),
    "inputs hash": (unsigned_change(inputs_hash="sha256-" + "0" * 64), 400, Code.INPUTS_HASH_MISMATCH),
    "reserved key": (resigned(idem_key="steward:x"), 400, Code.IDEM_KEY_RESERVED),
    "oversized": (lambda desk: b" " * (limits.BODY_BYTES_MAX + 1), 413, Code.TOO_LARGE),
    "unsigned": (without("signature"), 401, Code.UNSIGNED),
    "signature of another": (
        lambda desk: desk.signed(desk.draft("PROJECT_CREATED", "k", project="apollo"), by="agent"),
        401,
        Code.BAD_SIGNATURE,
    ),
    "signature of nothing": (unsigned_change(signature="AAAA"), 401, Code.BAD_SIGNATURE),
    "changed after signing": (unsigned_change(idem_key="changed"), 401, Code.BAD_SIGNATURE),
    "stranger": (
        lambda desk: desk.signed(desk.draft("PROJECT_CREATED", "k", by="stranger", project="apollo")),
        401,
        Code.UNKNOWN_SIGNER,
    ),
    "not entitled": (
        lambda desk: desk.signed(desk.draft("PROJECT_CREATED", "k", by="admin", project="apollo")),
        403,
        Code.NOT_AUTHORISED,
    ),
    "unknown transition": (resigned(transition="FLY_TO_THE_MOON"), 400, Code.UNKNOWN_TRANSITION),
    "unknown project": (
        lambda desk: desk.signed(
            desk.draft("INGESTION_SOURCES_RESOLVED", "k", project="nowhere", inputs={"sources": []})
        ),
        400,
        Code.UNKNOWN_PROJECT,
    ),
    "wrong inputs": (
        lambda desk: desk.signed(desk.draft("PROJECT_CREATED", "k", project="apollo", inputs={"wings": 2})),
        400,
        Code.INPUTS_INVALID,
    ),
    "stale": (lambda desk: desk.created("apollo", current_state_hash="0" * 64), 400, Code.STALE_STATE),
    "far future": (lambda desk: desk.created("apollo", hlc=desk.now_hlc(3_600_000)), 400, Code.HLC_SKEW),
    "before the license": (
        lambda desk: desk.signed(desk.draft("INGESTION_SOURCES_RESOLVED", "k", inputs={"sources": ["a"]})),
        400,
        Code.NOT_LICENSED,
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_input_has_a_status_and_a_code_and_is_never_a_bug(desk: Desk, ask: Caller, name: str) -> None:
    make, status, code = BAD[name]
    reply = await ask.post("/transition", make(desk))
    assert (reply.status, reply.body["code"]) == (status, code), reply.text
    assert reply.body["success"] is False and reply.body["reasons"] and reply.body["help"]
    assert desk.machine.position.index == 1, "nothing may be stored"


async def test_a_clock_that_lags_is_told_what_to_merge(desk: Desk, ask: Caller) -> None:
    await ask.post("/transition", desk.created("apollo"))
    inputs = {"chart_hash": desk.chart.hash}
    late = desk.draft("BOOT_CONFIGURED", "late", project="apollo", inputs=inputs, hlc="1600000000000-0-1")
    reply = await ask.post("/transition", desk.signed(late))
    assert (reply.status, reply.body["code"]) == (400, "HLC_REGRESSION")
    assert reply.body["hlc_last"] and reply.body["retryable"] is True
    assert reply.body["error"].startswith("precondition failed")


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/xml", "application/json; charset=latin-1", "multipart/form-data; boundary=x"],
)
async def test_other_media_types_are_415(desk: Desk, ask: Caller, content_type: str) -> None:
    body = json.dumps(desk.created("apollo")).encode()
    reply = await ask.post("/transition", body, headers={"Content-Type": content_type})
    assert (reply.status, reply.body["code"]) == (415, "UNSUPPORTED_MEDIA")


async def test_a_compressed_body_is_415(desk: Desk, ask: Caller) -> None:
    reply = await ask.post("/transition", b"x", headers={"Content-Encoding": "gzip"})
    assert reply.status == 415


async def test_a_chunked_body_is_cut_at_the_limit(ask: Caller) -> None:
    async def endless() -> Any:
        for _ in range(64):
            yield b" " * 8_192

    reply = await ask("POST", "/transition", data=endless(), headers={"Content-Type": "application/json"})
    assert (reply.status, reply.body["code"]) == (413, "TOO_LARGE")


# --- headers ----------------------------------------------------------------------------------------------------------


async def test_the_signature_may_come_as_a_header(desk: Desk, ask: Caller) -> None:
    proposal = desk.created("apollo")
    signature = proposal.pop("signature")
    reply = await ask.post("/transition", proposal, headers={"X-HMMM-Signature": signature})
    assert reply.status == 200


@pytest.mark.parametrize(
    ("header", "value"),
    [("X-Swoosh-HLC", "1-0-1"), ("idem_key", "other"), ("Idempotency-Key", "other"), ("X-Swoosh-Window-Id", "w")],
)
async def test_a_header_that_contradicts_the_body_is_refused(desk: Desk, ask: Caller, header: str, value: str) -> None:
    reply = await ask.post("/transition", desk.created("apollo"), headers={header: value})
    assert (reply.status, reply.body["code"]) == (400, "HEADER_MISMATCH")


async def test_headers_that_repeat_the_body_change_nothing(desk: Desk, ask: Caller) -> None:
    proposal = desk.created("apollo")
    headers = {"idem_key": proposal["idem_key"], "X-Swoosh-HLC": proposal["hlc"]}
    assert (await ask.post("/transition", proposal, headers=headers)).status == 200


# --- conditions of the cluster ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "admitted"),
    [(not_admitted(Code.NO_LEADER, "election"), False), (unknown("the leader fell silent"), True)],
)
async def test_503_says_whether_it_may_have_been_admitted(desk: Desk, ask: Caller, answer: Any, admitted: bool) -> None:
    desk.instead = lambda items: [answer] * len(items)
    reply = await ask.post("/transition", desk.created("apollo"))
    assert reply.status == 503 and reply.body["admitted"] is admitted
    assert reply.body["code"] == answer.code and int(reply.headers["Retry-After"]) >= 1


async def test_a_bug_is_a_500_that_promises_nothing(desk: Desk, ask: Caller) -> None:
    def broken(items: Any) -> Any:
        raise RuntimeError("secret detail")

    desk.instead = broken
    reply = await ask.post("/transition", desk.created("apollo"))
    assert (reply.status, reply.body["code"]) == (500, "INTERNAL")
    assert "secret detail" not in reply.text and "idem_key" in reply.body["help"]


# --- batches ----------------------------------------------------------------------------------------------------------


async def test_a_batch_answers_each_in_its_place(desk: Desk, ask: Caller) -> None:
    batch = [desk.created("a1"), {"nonsense": 1}, desk.created("b2"), desk.created("c3", current_state_hash="0" * 64)]
    reply = await ask.post("/transitions", batch)
    assert reply.status == 200
    assert [each["status"] for each in reply.body["outcomes"]] == [200, 400, 200, 400]
    assert [each.get("code") for each in reply.body["outcomes"]] == [None, "MALFORMED", None, "STALE_STATE"]
    assert desk.machine.project("a1") is not None and desk.machine.project("b2") is not None


async def test_a_member_of_a_batch_is_no_larger_than_a_proposal_alone(desk: Desk, ask: Caller) -> None:
    huge = desk.created("a1") | {"project": "a" * limits.BODY_BYTES_MAX}
    reply = await ask.post("/transitions", [huge, desk.created("b2")])
    assert [each["status"] for each in reply.body["outcomes"]] == [413, 200]


async def test_a_batch_of_lines_is_answered_in_lines(desk: Desk, ask: Caller) -> None:
    lines = b"\n".join(canonical.encode(desk.created(name)) for name in ("a1", "b2")) + b"\n\n"
    reply = await ask.post("/transitions", lines, headers={"Content-Type": "application/x-ndjson"})
    assert reply.status == 200 and reply.headers["Content-Type"].startswith("application/x-ndjson")
    assert [json.loads(line)["project"] for line in reply.text.splitlines()] == ["a1", "b2"]


async def test_one_signature_carries_a_chain(desk: Desk, ask: Caller) -> None:
    create = desk.draft(
        "PROJECT_CREATED", "p1", project="apollo", inputs={"brief": "b", "repository": "", "planned_roles": []}
    )
    boot = desk.draft("BOOT_CONFIGURED", "p2", project="apollo", inputs={"chart_hash": desk.chart.hash})
    boot["current_state_hash"] = "@prev"
    reply = await ask.post("/transitions", signed_batch(desk, [create, boot]))
    assert reply.status == 200, reply.text
    assert [each["status"] for each in reply.body["outcomes"]] == [200, 200], reply.text
    first, second = reply.body["outcomes"]
    assert second["state_pre_hash"] == first["state_post_hash"]


async def test_a_batch_signed_by_another_is_refused_as_a_whole(desk: Desk, ask: Caller) -> None:
    batch = signed_batch(desk, [desk.draft("PROJECT_CREATED", "p1", project="apollo")], by="agent")
    batch["signer"] = KEYS["proposer"].principal
    reply = await ask.post("/transitions", batch)
    assert (reply.status, reply.body["code"]) == (401, "BAD_SIGNATURE")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"[]", 413, "TOO_LARGE"),
        (b"[" + b",".join([b"{}"] * 513) + b"]", 413, "TOO_LARGE"),
        (b"{}", 400, "MALFORMED"),
        (b'{"proposals": [], "signer": "x", "signature": "y", "more": 1}', 400, "MALFORMED"),
        (b'{"proposals": [{"a": 1, "a": 2}], "signer": "x", "signature": "y"}', 400, "MALFORMED"),
        (b"[1", 400, "MALFORMED"),
        (b" " * (limits.BATCH_BODY_BYTES_MAX + 1), 413, "TOO_LARGE"),
    ],
)
async def test_bad_batches(ask: Caller, body: bytes, status: int, code: str) -> None:
    reply = await ask.post("/transitions", body)
    assert (reply.status, reply.body["code"]) == (status, code)


@pytest.mark.parametrize("name", ["proposals", "signer", "signature"])
@pytest.mark.parametrize("first", [True, False])
async def test_no_member_around_a_signed_batch_stands_twice(desk: Desk, ask: Caller, name: str, first: bool) -> None:
    """Two readers of such an object may see two batches, and only one of them was signed."""
    batch = signed_batch(desk, [desk.draft("PROJECT_CREATED", "p1", project="apollo")])
    other = json.dumps({name: [] if name == "proposals" else "other"})[1:-1]
    text = json.dumps(batch)[1:-1]
    body = f"{{{other}, {text}}}" if first else f"{{{text}, {other}}}"
    reply = await ask.post("/transitions", body.encode())
    assert reply.status == 400 and "duplicate member" in reply.body["reasons"][0], reply.text
    assert desk.machine.project("apollo") is None


async def test_a_signer_that_spells_the_proposals_confuses_nobody(desk: Desk, ask: Caller) -> None:
    reply = await ask.post("/transitions", b'{"signature": "[1]", "signer": "[1]", "proposals": [1]}')
    assert (reply.status, reply.body["code"]) == (401, "BAD_SIGNATURE")


async def test_a_full_batch_of_the_largest_number_is_taken(desk: Desk, ask: Caller) -> None:
    reply = await ask.post("/transitions", [desk.created(f"p{n}") for n in range(limits.ENTRY_PROPOSALS_MAX)])
    assert {each["status"] for each in reply.body["outcomes"]} == {200}


def signed_batch(desk: Desk, proposals: list[Any], by: str = "proposer") -> dict[str, Any]:
    signature = KEYS[by].sign(signing.batch_preimage(proposals, desk.cluster_id))
    return {"proposals": proposals, "signer": KEYS[by].principal, "signature": signature}


# --- recorded outcomes ------------------------------------------------------------------------------------------------


async def test_an_unknown_key_is_not_found_as_of_an_index(desk: Desk, ask: Caller) -> None:
    reply = await ask.get("/transitions/never?project=default")
    assert reply.status == 404 and reply.body["as_of_index"] == desk.machine.position.index


@pytest.mark.parametrize("key", ["a%0Ab", "%00", "a%20b", "%C3%A9", "k" * 201])
async def test_a_key_that_cannot_be_one_is_malformed(ask: Caller, key: str) -> None:
    reply = await ask.get(f"/transitions/{key}")
    assert (reply.status, reply.body["code"]) == (400, "MALFORMED")


async def test_many_callers_at_once_each_get_their_own_answer(desk: Desk, ask: Caller) -> None:
    replies = await asyncio.gather(*(ask.post("/transition", desk.created(f"p{n}")) for n in range(40)))
    assert [reply.body["project"] for reply in replies] == [f"p{n}" for n in range(40)]
