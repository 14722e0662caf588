"""What decisions leave behind: log entries, WAL records, Decision Records, rows. Bytes round-trip, chains hold."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.solo import Solo, the_chart
from chaos.steer import drive, step
from swoosh import addresses, canonical, decision, entry, idempotency, state, submission, wal
from swoosh.addresses import Grammar
from swoosh.entry import (
    BatchItem,
    CheckpointItem,
    DeliveredItem,
    FactItem,
    LogEntry,
    MarkItem,
    PassedOverItem,
    ProposalItem,
)
from swoosh.errors import Corrupt
from swoosh.hashing import PREFIX, digest, digest_hex

SENT = st.binary(max_size=40)
WHO = st.text(max_size=10)
PROPOSALS = st.builds(ProposalItem, SENT, st.booleans(), st.lists(WHO, max_size=3).map(tuple))
ITEMS = (
    PROPOSALS | st.builds(FactItem, SENT) | st.builds(BatchItem, WHO, WHO, st.lists(PROPOSALS, max_size=3).map(tuple))
)
NOTES = (
    st.builds(MarkItem)
    | st.builds(CheckpointItem, st.integers(0, 2**63), WHO, st.lists(WHO, max_size=3).map(tuple))
    | st.builds(DeliveredItem, WHO, st.lists(st.tuples(WHO, st.integers(0, 2**63)), max_size=3).map(tuple))
    | st.builds(PassedOverItem, WHO, WHO, st.integers(0, 2**63), WHO, WHO)
)
ENTRIES = st.builds(
    LogEntry, WHO, WHO, st.integers(0, 2**63), st.integers(0, 2**63), st.lists(ITEMS | NOTES, max_size=4).map(tuple)
)


@cache
def lived() -> Solo:
    """A project that went once around."""
    solo = Solo(the_chart())
    solo.project = "atlas"
    drive(solo, lambda r: len(r.execution.history) == 1)
    return solo


def records() -> list[bytes]:
    return lived().source.records["atlas"]


# --- entries ----------------------------------------------------------------------------------------------------------


@given(ENTRIES)
def test_an_entry_is_read_back_as_it_was_written(written: LogEntry) -> None:
    data = entry.encode(written)
    assert entry.decode(data) == written
    assert entry.stamp_of(data) == written.stamp_us
    assert entry.encode(entry.decode(data)) == data


@given(st.lists(ITEMS, max_size=4))
def test_items_are_read_back_as_they_were_forwarded(items: list[Any]) -> None:
    assert entry.unpack_items(entry.pack_items(items)) == items


@given(st.binary(max_size=80))
def test_any_bytes_are_an_entry_or_corrupt(data: bytes) -> None:
    for read in (entry.decode, entry.stamp_of, entry.unpack_items):
        try:
            read(data)
        except Corrupt as error:
            assert str(error)


@given(ENTRIES, st.data())
def test_a_damaged_entry_is_another_entry_or_corrupt(written: LogEntry, data: st.DataObject) -> None:
    whole = bytearray(entry.encode(written))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        entry.decode(bytes(whole))
    except Corrupt as error:
        assert str(error)


# --- WAL records ------------------------------------------------------------------------------------------------------


def test_the_records_of_a_project_are_one_chain() -> None:
    wal.check_chain(records(), state_pre_hash=state.GENESIS_HASH)
    decoded = [wal.decode(data) for data in records()]
    assert [record.seq for record in decoded] == list(range(1, len(decoded) + 1))
    assert decoded[-1].state_post_hash == lived().head("atlas")
    assert [wal.encode(record) for record in decoded] == records()


def test_a_later_part_of_the_chain_is_checked_from_where_it_begins() -> None:
    wal.check_chain(records()[5:], prev_record_hash=wal.record_hash(records()[4]))


def broken_at(position: int, **changes: Any) -> list[bytes]:
    chain = list(records())
    chain[position] = wal.encode(msgspec.structs.replace(wal.decode(chain[position]), **changes))
    return chain


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        (lambda: records()[1:], "atlas seq 2: prev_record_hash"),
        (lambda: [records()[0], *records()[2:]], "atlas seq 3: prev_record_hash"),
        (lambda: [records()[0], records()[2], records()[1]], "atlas seq 3: prev_record_hash"),
        (lambda: broken_at(3, signer="somebody else"), "atlas seq 5: prev_record_hash"),
        (lambda: broken_at(-1, state_pre_hash="sha256-" + "0" * 64), "the chain stood at"),
        (lambda: [b"{}"], "does not decode"),
    ],
    ids=["first cut off", "one left out", "two exchanged", "one rewritten", "another state", "no record"],
)
def test_a_broken_chain_is_refused_by_place(chain: Any, reason: str) -> None:
    with pytest.raises(Corrupt, match=reason):
        wal.check_chain(chain())


# --- Decision Records -------------------------------------------------------------------------------------------------


def decisions() -> list[decision.DecisionRecord]:
    found = [msgspec.json.decode(data, type=decision.DecisionRecord) for data in lived().source.decisions.values()]
    return sorted((each for each in found if each.project == "atlas"), key=lambda each: each.index)


def test_a_decision_record_follows_from_its_wal_record_alone() -> None:
    previous = ""
    for data, held in zip(records(), decisions(), strict=True):
        derived = decision.derive(wal.decode(data), wal.record_hash(data), previous)
        assert decision.encode(derived) == lived().source.decisions[held.dr_id]
        previous = derived.dr_id


def test_the_id_of_a_decision_record_is_its_hash_without_the_id() -> None:
    for held in decisions():
        fields = {name: value for name, value in msgspec.to_builtins(held).items() if name != "dr_id"}
        assert held.dr_id == PREFIX + digest_hex("dr", canonical.encode(fields))


def test_redaction_replaces_texts_and_keeps_the_proof() -> None:
    data = next(each for each in records() if wal.decode(each).transition_name == "COUNCIL_QUORUM_CERT")
    record = wal.decode(data)
    paths = ("guards.quorum_certificate.reasons", "justification", "signer", "state_post_hash", "no.such.path")
    derived = decision.derive(record, wal.record_hash(data), "", paths)
    assert derived.redactions == ("guards.quorum_certificate.reasons", "justification")
    assert derived.justification == decision.REDACTED
    assert derived.guards["quorum_certificate"]["reasons"] == (decision.REDACTED,)
    assert (derived.signer, derived.state_post_hash) == (record.signer, record.state_post_hash)
    assert derived.record_hash == wal.record_hash(data)


@pytest.mark.parametrize(
    ("key", "op_class"), [("goal:7:elect:1", "elect"), ("goal:7:elect:1:2", "elect"), ("a:b:c", ""), ("key", "")]
)
def test_the_op_class_is_the_third_part_of_a_key_of_four(key: str, op_class: str) -> None:
    assert decision.op_class(key) == op_class


def test_addresses() -> None:
    assert decision.ucxl_address("a.b", 3) == "ucxl://swoosh:orchestrator@a-b:transition/*~3/dr.json"
    assert decision.address("sha256-" + "0" * 64) == "bubble://dr/" + "0" * 64


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_project_is_read_back_from_its_rows() -> None:
    for name in ("atlas", "default", "@cluster"):
        held = lived().machine.project(name)
        assert held is not None
        rows = [(path, data) for path, data in state.rows_changed(None, held) if data is not None]
        assert state.project_from_rows(name, rows) == held


def test_rows_that_changed_lead_from_one_version_to_the_next() -> None:
    """Whatever path a project took, writing what changed each time is the same as writing it whole."""
    solo, rows = Solo(the_chart()), dict[tuple[str, ...], bytes]()
    solo.project = "atlas"
    for _ in range(45):
        before = solo.machine.project("atlas")
        step(solo)
        after = solo.machine.project("atlas")
        assert after is not None
        for path, data in state.rows_changed(before, after):
            if data is None:
                del rows[path]
            else:
                rows[path] = data
        assert state.project_from_rows("atlas", rows.items()) == after


def test_a_transition_writes_rows_of_what_it_changed_only() -> None:
    solo = lived().fork()
    before = solo.machine.project("atlas")
    drive(solo, lambda r: r.execution.phase == "WORK")
    after = solo.machine.project("atlas")
    assert before is not None and after is not None
    written = {path[1] for path, _ in state.rows_changed(before, after) if len(path) > 1}
    assert written == {"execution", "epoch", "hlc_last"}


def test_a_ledger_entry_is_read_back() -> None:
    key = wal.decode(records()[-1]).idem_key
    held = lived().source.ledger("atlas", key)
    assert held is not None
    assert idempotency.decode(idempotency.encode(held)) == held


@pytest.mark.parametrize("path", ["guards.quorum_certificate.reasons", "guards.quorum_certificate", "guards.*.reasons"])
def test_what_a_guard_may_not_say_the_justification_does_not_repeat(path: str) -> None:
    data = next(each for each in records() if wal.decode(each).transition_name == "COUNCIL_QUORUM_CERT")
    record = wal.decode(data)
    (said,) = (outcome.reasons for outcome in record.guard_outcomes if outcome.name == "quorum_certificate")
    whole = decision.derive(record, wal.record_hash(data), "")
    derived = decision.derive(record, wal.record_hash(data), "", [path])
    assert said[0] in whole.justification and whole.redactions == ()
    assert said[0].encode() not in decision.encode(derived)
    named = {f"guards.{outcome.name}.reasons" for outcome in record.guard_outcomes if outcome.reasons}
    assert set(derived.redactions) == (named if "*" in path else {path})
    assert decision.derive(record, wal.record_hash(data), "", derived.redactions) == derived, "as verify derives it"


# --- submissions ------------------------------------------------------------------------------------------------------


def handed_over() -> list[submission.SubmissionRecord]:
    """What a project of its own submitted: twice in one window."""
    solo = Solo(the_chart())
    solo.project = "atlas"
    drive(solo, lambda r: r.execution.phase == "REVERB")
    found = []
    for name in ("one", "two"):
        plan = solo.regions().execution.plan
        assert plan is not None
        inputs = {"plan_hash": plan.plan_hash, "artifacts": [solo.named(f"{name}/{part}") for part in "ab"]}
        applied = solo.apply(solo.item(solo.document("EXECUTION_SUBMITTED", inputs, evidence=["ucxl://proof/123"])))
        ((seq, submitted),) = applied.submissions
        ((record, _),), ((decided, _),) = applied.records, applied.decisions
        assert (seq, submitted.decision) == (record.seq, decided.dr_id)
        assert [each.content_hash for each in submitted.artifacts] == inputs["artifacts"]
        assert (submitted.window_id, submitted.evidence) == (record.window_id, ("ucxl://proof/123",))
        found.append(submitted)
    return found


def test_each_submission_has_a_record_of_its_own_named_by_its_content() -> None:
    first, second = handed_over()
    assert first.submission_id != second.submission_id
    for held in (first, second):
        fields = {name: value for name, value in msgspec.to_builtins(held).items() if name != "submission_id"}
        assert held.submission_id == PREFIX + digest_hex("submission", canonical.encode(fields))
        assert held.content_hash == digest("artifacts", [each.content_hash for each in held.artifacts])
        for address in (held.ucxl_address, *(each.ucxl_address for each in held.artifacts)):
            addresses.check(address, "address", Grammar.GO)


# --- what a Decision Record cannot give away --------------------------------------------------------------------------

FREE_TEXTS = ("reason", "rationale", "brief")


def with_canaries(value: Any, planted: list[str], name: str = "") -> Any:
    """The inputs with a word of its own in every text that is written for people, and in titles of tasks."""
    if isinstance(value, dict):
        within = FREE_TEXTS[0] if name == "tasks" else ""
        return {key: with_canaries(each, planted, within or key) for key, each in value.items()}
    if isinstance(value, str) and name in FREE_TEXTS:
        planted.append(f"canary-{len(planted)}")
        return planted[-1]
    return value


def test_what_is_written_for_people_is_in_no_decision_record() -> None:
    """Only hashes of inputs are. So no list of redactions is needed for a secret somebody put into a reason."""
    solo, planted = Solo(the_chart()), list[str]()
    solo.project = "atlas"
    document = solo.document

    def sung(transition: str, inputs: Any = None, **how: Any) -> dict[str, Any]:
        return document(transition, with_canaries(inputs, planted), **how)

    solo.document = sung  # type: ignore[method-assign]
    drive(solo, lambda r: len(r.execution.submissions) == 1)
    for transition in ("CONTROL_PAUSED", "CONTROL_RESUMED", "EXECUTION_PLAN_CHANGED", "COUNCIL_REELECTION_CALLED"):
        solo.propose(transition, {"reason": ""}, signer="op")
    drive(solo, lambda r: len(r.execution.submissions) == 2)
    accepted = {wal.decode(data).transition_name for data in solo.source.records["atlas"]}
    assert {"PROJECT_CREATED", "EXECUTION_PLAN_LOCKED", "CONTROL_PAUSED", "COUNCIL_REELECTION_CALLED"} <= accepted
    assert len(planted) > 6
    for data in solo.source.decisions.values():
        assert b"canary" not in data, data
