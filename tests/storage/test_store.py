"""The store gives back what the machine wrote, after any crash the state of one moment, and never a damaged row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from cluster import faults
from cluster.entropy import SeededEntropy
from cluster.faults import ExitCode
from cluster.storage import layout, store
from cluster.storage.kv import Batch, Delete, Family, KeyValue, MemoryKeyValue, Put, RocksKeyValue
from cluster.storage.store import Store
from swoosh import decision, submission, wal
from swoosh.entry import DeliveredItem, Note, PassedOverItem, decode
from swoosh.errors import Corrupt
from swoosh.hlc import HLC
from swoosh.machine import Applied, Machine, Position
from swoosh.outcome import Code, Refused
from tests.storage.history import create, dump, history, overwrite, recorded


class Stopped(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def _stop() -> Iterator[None]:
    def stop(code: ExitCode, reason: str, facts: dict[str, object]) -> None:
        raise Stopped(f"{code.name}: {reason} {facts}")

    faults.set_stop(stop)
    yield
    faults.set_stop(None)


@pytest.fixture(params=["twin", "rocks"])
def kv(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyValue]:
    made: KeyValue = MemoryKeyValue() if request.param == "twin" else RocksKeyValue.create(tmp_path / "store")
    yield made
    made.close()


def everything(machine: Machine) -> dict[str, object]:
    return {project_id: machine.project(project_id) for project_id in machine.project_ids()}


# --- what goes in comes out -------------------------------------------------------------------------------------------


def test_a_machine_on_a_reopened_store_is_the_machine_that_wrote_it(kv: KeyValue) -> None:
    told = history()
    writer = told.machine(create(kv))
    for entry, expected in zip(told.entries, told.hashes, strict=True):
        applied = writer.apply(*entry)
        Store(kv).commit(applied)
        assert writer.cluster_hash == expected
    reader = told.machine(Store(kv))
    assert (reader.position, reader.cluster_hash) == (writer.position, writer.cluster_hash)
    assert everything(reader) == everything(writer)
    assert reader.registry.facts.entries.root == writer.registry.facts.entries.root


def test_the_twin_and_rocksdb_hold_the_same_bytes(tmp_path: Path) -> None:
    twin, rocks = MemoryKeyValue(), RocksKeyValue.create(tmp_path / "store")
    recorded(twin)
    recorded(rocks)
    assert dump(twin) == dump(rocks)
    rocks.close()


def test_an_applied_key_is_found_again_and_points_to_its_record(kv: KeyValue) -> None:
    held = recorded(kv)
    for applied in history().applied:
        for project_id, idem_key, entry in applied.ledger:
            assert held.ledger(project_id, idem_key) == entry
            data = held.record(project_id, entry.seq)
            assert data is not None
            assert wal.record_hash(data) == entry.record_hash
    assert held.ledger("apollo", "never-used") is None


def test_records_are_read_by_project_and_sequence_number(kv: KeyValue) -> None:
    held, told = recorded(kv), history()
    written = [data for a in told.applied for record, data in a.records if record.project == "apollo"]
    assert list(held.wal("apollo", 1, 1_000)) == written
    assert list(held.wal("apollo", 5, 3)) == written[4:7]
    assert list(held.wal("apollo", len(written) + 1, 10)) == []
    derived = [data for a in told.applied for dr, data in a.decisions if dr.project == "apollo"]
    assert list(held.decisions("apollo", 1, 1_000)) == derived
    first = told.applied[1].decisions or next(a.decisions for a in told.applied if a.decisions)
    assert held.decision(first[0][0].dr_id) == first[0][1]
    assert held.decision("sha256-" + "0" * 64) is None


def test_a_project_whose_id_begins_another_id_is_not_mixed_with_it(kv: KeyValue) -> None:
    """`gemini` and `gemini-2` share a prefix; their rows must not."""
    held, told = recorded(kv), history()
    gemini = told.machine(held).project("gemini")
    assert gemini is not None
    path, row = ("gemini-2", "meta"), b"a stranger's row"
    batch = Batch()
    store._put(batch, *layout.row(path), row)
    kv.write(batch, sync=False)
    assert held.project("gemini") == gemini


def test_the_export_is_ordered_by_project_and_sequence_and_ends_at_the_index(kv: KeyValue) -> None:
    held, told = recorded(kv), history()
    upto = len(told.entries) // 2
    records = [(r.project, r.seq, data) for a in told.applied[:upto] for r, data in a.records]
    assert b"".join(held.wal_export(upto)) == b"".join(data + b"\n" for _, _, data in sorted(records))
    assert len(list(held.wal_export(10**9))) > len(records)


def test_a_submission_is_kept_beside_the_decision_that_accepted_it(kv: KeyValue) -> None:
    held, told = recorded(kv), history()
    written = [(seq, submission.encode(each)) for a in told.applied for seq, each in a.submissions]
    assert written, "the history hands nothing over"
    assert list(held.submissions("apollo", 0)) == written
    assert list(held.submissions("apollo", written[0][0])) == written[1:]
    for seq, data in written:
        found = msgspec.json.decode(data, type=submission.SubmissionRecord)
        decided = held.decision(found.decision)
        assert decided is not None
        assert next(held.decisions("apollo", seq, 1)) == decided


def noting(held: Store, *notes: Note) -> None:
    """An entry that carries notes and nothing else."""
    at = held.position()
    held.commit(Applied(Position(at.index + 1, at.term, at.stamp_us + 1), notes=notes))


def test_how_far_an_outbox_came_is_kept_by_project_and_never_runs_back(kv: KeyValue) -> None:
    held = recorded(kv)
    assert held.delivered("bubble", "apollo") == 0
    noting(held, DeliveredItem("bubble", (("apollo", 7), ("gemini", 2))), DeliveredItem("slurp", (("apollo", 3),)))
    noting(held, DeliveredItem("bubble", (("apollo", 5), ("gemini", 3))))
    for reader in (held, Store(kv)):
        assert [reader.delivered("bubble", name) for name in ("apollo", "gemini", "gemini-2")] == [7, 3, 0]
        assert reader.delivered("slurp", "apollo") == 3


def test_what_was_passed_over_is_on_record_with_who_said_so(kv: KeyValue) -> None:
    held = recorded(kv)
    left_out = PassedOverItem("bubble", "apollo", 256, "ed25519:root", "400: too long")
    noting(held, left_out)
    assert list(Store(kv).passed_over("bubble")) == [left_out]
    assert list(Store(kv).passed_over("slurp")) == []
    assert held.delivered("bubble", "apollo") == 256


def test_the_newest_hlc_is_that_of_all_projects(kv: KeyValue) -> None:
    held, told = recorded(kv), history()
    stamps = [HLC.parse(record.hlc) for applied in told.applied for record, _ in applied.records]
    assert held.last_hlc == max(stamps) == Store(kv).last_hlc


def test_a_state_is_created_once(kv: KeyValue) -> None:
    create(kv)
    with pytest.raises(Stopped, match="DAMAGED"):
        create(kv)


def test_a_store_without_state_is_refused(kv: KeyValue) -> None:
    with pytest.raises(Corrupt, match="holds no state"):
        Store(kv)


@pytest.mark.parametrize("offset", [0, 2], ids=["again", "with a gap"])
def test_an_entry_out_of_order_stops_the_node(kv: KeyValue, offset: int) -> None:
    held = recorded(kv, upto=10)
    with pytest.raises(Stopped, match="BUG"):
        held.commit(history().applied[9 + offset])


# --- crashes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
def test_after_any_crash_the_log_leads_to_the_same_bytes(seed: int) -> None:
    """The machine runs, loses power at random points, comes back and goes on behind its applied index."""
    told, rng, entropy = history(), Random(seed), SeededEntropy(seed)
    untouched, twin = MemoryKeyValue(), MemoryKeyValue()
    recorded(untouched)
    recorded_log_only = create(twin)
    machine, held, crashes = told.machine(recorded_log_only), recorded_log_only, 0
    while held.position().index < len(told.entries):
        held.commit(machine.apply(*told.entries[held.position().index]))
        if rng.random() < 0.05:
            kv_write_barrier(twin)
        if rng.random() < 0.05 and crashes < 6:
            before = held.position().index
            twin.crash(entropy.random())
            held, crashes = Store(twin), crashes + 1
            machine = told.machine(held)
            index = held.position().index
            assert index <= before
            if index:
                assert machine.cluster_hash == told.hashes[index - 1], f"seed {seed}: not the state after {index}"
    assert dump(twin) == dump(untouched), f"seed {seed}, {crashes} crashes"


def kv_write_barrier(kv: KeyValue) -> None:
    """What the journal's next sync does for the state: everything before it is durable."""
    kv.write(Batch(), sync=True)


# --- damage -----------------------------------------------------------------------------------------------------------


def read_all(kv: KeyValue) -> None:
    """Read every row through the store."""
    held = Store(kv)
    for project_id, _ in held.projects():
        project = held.project(project_id)
        assert project is not None
        for data in held.wal(project_id, 0, 10**6):
            held.ledger(project_id, wal.decode(data).idem_key)
        for data in held.decisions(project_id, 0, 10**6):
            held.decision(msgspec.json.decode(data, type=decision.DecisionRecord).dr_id)
        list(held.submissions(project_id, 0))
        held.delivered("bubble", project_id)
    list(held.passed_over("bubble"))
    list(held.facts())
    list(held.rejections(None, None))
    assert held.meta("genesis")


DAMAGED = ["meta", "project", "head", "ledger", "wal", "decision", "submission", "outbox", "rejection", "registry"]


@pytest.mark.parametrize("family", DAMAGED)
def test_a_flipped_bit_in_any_row_is_found_when_it_is_read(family: str) -> None:
    kv = MemoryKeyValue()
    held = recorded(kv)
    held.reject(Refused(Code.STALE_STATE, ("old",), "apollo"), 1)
    noting(held, DeliveredItem("bubble", (("apollo", 1),)), PassedOverItem("bubble", "gemini", 1, "root", "too long"))
    read_all(kv)
    rng = Random(family)
    rows = [(key, value) for key, value in kv.iterate(Family(family)) if key not in layout.JOURNALED]
    for key, value in rng.sample(rows, min(len(rows), 12)):
        place = rng.randrange(len(value))
        flipped = value[:place] + bytes([value[place] ^ 1 << rng.randrange(8)]) + value[place + 1 :]
        overwrite(kv, Put(Family(family), key, flipped))
        with pytest.raises(Corrupt):
            read_all(kv)
        overwrite(kv, Put(Family(family), key, value))
    read_all(kv)


def test_a_row_that_is_gone_is_found_by_the_state_hash() -> None:
    """Unless it said nothing: a region at its defaults is the same region without its row."""
    kv = MemoryKeyValue()
    held = recorded(kv)
    whole = held.project("apollo")
    rows = list(kv.iterate(Family.PROJECT, *layout.under("apollo")))
    found = 0
    for key, value in rows:
        overwrite(kv, Delete(Family.PROJECT, key))
        try:
            assert held.project("apollo") == whole, f"{key!r} was missed"
        except Corrupt:
            found += 1
        overwrite(kv, Put(Family.PROJECT, key, value))
    assert held.project("apollo") == whole
    assert found > len(rows) // 2


def test_a_row_from_another_place_is_not_taken() -> None:
    """Every row is whole, but one lies where another belongs."""
    kv = MemoryKeyValue()
    held = recorded(kv)
    (_, other), (here, _) = list(kv.iterate(Family.LEDGER))[:2]
    overwrite(kv, Put(Family.LEDGER, here, other))
    project_id, idem_key = layout.path_of(here)
    with pytest.raises(Corrupt, match="ledger"):
        held.ledger(project_id, idem_key)


def test_a_project_without_its_head_row_is_not_a_project_nobody_created() -> None:
    kv = MemoryKeyValue()
    held = recorded(kv)
    overwrite(kv, Delete(Family.HEAD, layout.named("apollo")))
    with pytest.raises(Corrupt, match="head row"):
        held.project("apollo")


def test_damage_met_while_judging_ends_apply_instead_of_becoming_a_verdict() -> None:
    """A refusal on the damaged node alone would be a divergence nobody notices."""
    told, kv = history(), MemoryKeyValue()
    upto = next(
        i for i, a in enumerate(told.applied) if any(r.project == "apollo" and r.seq == 3 for r, _ in a.records)
    )
    machine = told.machine(recorded(kv, upto=upto))
    data = told.entries[upto][2]
    assert data is not None
    assert decode(data).items
    overwrite(kv, Put(Family.HEAD, layout.named("apollo"), b"0000{}"))
    with pytest.raises(Corrupt):
        machine.apply(*told.entries[upto])


# --- refusals ---------------------------------------------------------------------------------------------------------


def noted(held: Store, project: str | None = None, signer: str | None = None) -> list[dict[str, Any]]:
    return [msgspec.json.decode(note) for notes in held.rejections(project, signer) for note in notes]


def test_refusals_are_found_by_project_and_signer_newest_first(kv: KeyValue) -> None:
    held = create(kv)
    for number, (project, signer) in enumerate([("a", "x"), ("b", "x"), ("a", "y"), ("a", "x")]):
        held.reject(Refused(Code.WRONG_PHASE, (f"reason {number}",), project), number, signer)
    found = noted(held, "a", "x")
    assert [note["reasons"] for note in found] == [["reason 3"], ["reason 0"]]
    assert found[0]["code"] == "WRONG_PHASE"
    assert found[0]["at"] == 3
    assert len(noted(held)) == 4
    assert len(noted(held, "a")) == 3


def test_a_search_among_refusals_goes_in_slices_also_where_nothing_matches(
    kv: KeyValue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "REJECTIONS_A_SLICE", 3)
    held = create(kv)
    for number in range(7):
        held.reject(Refused(Code.WRONG_PHASE, (str(number),), "a"), number)
    assert list(held.rejections("b", None)) == [[], [], []]
    assert [len(notes) for notes in held.rejections("a", None)] == [3, 3, 1]
    search = held.rejections("a", None)
    next(search)
    held.reject(Refused(Code.WRONG_PHASE, ("meanwhile",), "a"), 7)
    later = [msgspec.json.decode(note)["at"] for notes in search for note in notes]
    assert later == [3, 2, 1, 0], "none twice, none left out"


def test_only_so_many_refusals_are_kept_also_across_a_restart(kv: KeyValue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "REJECTIONS_KEPT", 5)
    held = create(kv)
    for number in range(12):
        held = Store(kv) if number == 7 else held
        held.reject(Refused(Code.WRONG_PHASE, (str(number),)), number)
    kept = [note["at"] for note in noted(held)]
    assert kept == [11, 10, 9, 8, 7]


def test_refusals_touch_no_hash(kv: KeyValue) -> None:
    held = recorded(kv)
    held.reject(Refused(Code.WRONG_PHASE, ("no",), "apollo"), 1)
    assert history().machine(Store(kv)).cluster_hash == history().hashes[-1]


# --- keys -------------------------------------------------------------------------------------------------------------


def test_keys_and_their_parts_are_one_to_one_and_sort_as_their_parts_do() -> None:
    paths = [("a",), ("a", "council"), ("a", "execution", "tasks", "t\u00e9 1"), ("a-b", "meta"), ("b", "meta")]
    keys = [layout.row(path)[1] for path in paths]
    assert [layout.path_of(key) for key in keys] == paths
    assert sorted(keys) == keys
    places = [("a", 1), ("a", 2), ("a", 256), ("a-b", 1), ("b", 70_000)]
    assert [layout.record_of(layout.record(*place)) for place in places] == places
    assert sorted(layout.record(*place) for place in places) == [layout.record(*place) for place in places]
    start, end = layout.passed_over_by("bubble")
    assert start < layout.passed_over("bubble", "a", 2**63) < layout.passed_over("bubble", "b", 0) < end
    assert not start <= layout.passed_over("slurp", "a", 1) < end
    assert not start <= layout.delivered("bubble", "a") < end
