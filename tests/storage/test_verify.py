"""Verification finds nothing in an honest store, and every lie that is planted in one.

Planted rows carry good checksums: the lie is in what they say.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from chaos.solo import Solo, key_of
from cluster import faults, verify
from cluster.clock import ManualClock
from cluster.faults import ExitCode
from cluster.raft import journal
from cluster.raft.journal import Journal
from cluster.storage import layout, store
from cluster.storage.kv import Batch, Delete, DeleteRange, Family, KeyValue, MemoryKeyValue, Put, RocksKeyValue
from cluster.storage.snapshots import DirectoryShelf, Snapshots
from cluster.storage.store import Divergence, Store
from cluster.storage.witness import Mark, MemoryWitness
from cluster.verify import Finding, Report
from swoosh import canonical, decision, genesis, idempotency, proposal, signing, snapshot, state, wal
from swoosh import entry as log_entry
from swoosh.entry import BatchItem, CheckpointItem, FactItem, Item, LogEntry, MarkItem, Note, ProposalItem
from swoosh.machine import Machine
from swoosh.principal import name_of
from swoosh.wal import WalRecord
from tests.storage.history import NODE, REGULAR, create, history, overwrite, recorded, write_log

PEOPLE = Solo(history().chart).names


class Stopped(BaseException):
    """Stands for the end of the process."""

    def __init__(self, code: ExitCode, reason: str, facts: dict[str, object]) -> None:
        super().__init__(f"{code.name}: {reason} {facts}")
        self.code = code


@pytest.fixture(autouse=True)
def _stop() -> Iterator[None]:
    def stop(code: ExitCode, reason: str, facts: dict[str, object]) -> None:
        raise Stopped(code, reason, facts)

    faults.set_stop(stop)
    yield
    faults.set_stop(None)


def examine(kv: KeyValue) -> Report:
    return verify.examine(kv, history().chart)


def replayed(kv: KeyValue, base: KeyValue | None = None) -> Report:
    return verify.examine_replay(kv, history().chart, base, audited=True)


def plant(kv: KeyValue, family: Family, key: bytes, value: bytes) -> None:
    """Put a row in place with the checksum it needs."""
    batch = Batch()
    store._put(batch, family, key, value)
    kv.write(batch, sync=True)


def plant_record(kv: KeyValue, project: str, seq: int, **changed: object) -> None:
    data = Store(kv).record(project, seq)
    assert data is not None
    record: WalRecord = msgspec.structs.replace(wal.decode(data), **changed)
    plant(kv, Family.WAL, layout.record(project, seq), wal.encode(record))


def checks(findings: tuple[Finding, ...]) -> set[str]:
    return {finding.check for finding in findings}


# --- honest stores ----------------------------------------------------------------------------------------------------


def test_an_honest_store_has_nothing_to_find() -> None:
    kv = MemoryKeyValue()
    recorded(kv)
    everything = Report(len(history().entries), ())
    assert examine(kv) == everything
    assert replayed(kv) == everything


def test_a_new_store_has_nothing_to_find() -> None:
    kv = MemoryKeyValue()
    create(kv)
    assert examine(kv) == replayed(kv) == Report(0, ())


@pytest.mark.parametrize("base", [1, 17, 40])
def test_replay_begins_anywhere(base: int) -> None:
    earlier, later = MemoryKeyValue(), MemoryKeyValue()
    recorded(earlier, upto=base)
    recorded(later)
    assert replayed(later, earlier).findings == ()


def test_what_cannot_be_replayed_is_said_and_is_no_finding() -> None:
    kv = MemoryKeyValue()
    recorded(kv)
    overwrite(kv, DeleteRange(Family.LOG, b"", layout.number(10)))
    report = replayed(kv)
    assert report.findings == ()
    assert "begins at index 10" in report.unchecked[0]
    assert "before index 10" in examine(kv).unchecked[0]


def test_a_store_that_runs_another_chart_is_not_called_diverged() -> None:
    """A node that lacks the chart in force stores the log and does not apply it; its replay proves nothing."""
    kv, told = MemoryKeyValue(), history()
    recorded(kv)
    other = told.chart._replace(hash="sha256-" + "0" * 64)
    report = verify.examine_replay(kv, other)
    assert report.findings == ()
    assert "chart" in report.unchecked[0]


# --- planted lies: replay ---------------------------------------------------------------------------------------------


def test_replay_finds_a_record_that_says_something_else() -> None:
    kv = MemoryKeyValue()
    recorded(kv)
    plant_record(kv, "apollo", 7, window_id="another")
    (finding,) = replayed(kv).findings
    assert finding.check == "replay"
    assert finding.place.startswith("apollo seq 7,")
    assert "another" in finding.reason


def test_replay_finds_a_state_that_was_computed_otherwise() -> None:
    """Records agree, heads hash, but a region holds something else: what a miscomputing node would store."""
    kv = MemoryKeyValue()
    held = recorded(kv)
    project = held.project("apollo")
    assert project is not None
    regions = state.as_project(project.regions)
    region = msgspec.structs.replace(regions.meta, brief="computed otherwise")
    after_regions, hashes, state_hash = state.rehash(project, {"meta": region})
    after = msgspec.structs.replace(project, regions=after_regions, region_hashes=hashes, state_hash=state_hash)
    for path, data in state.rows_changed(project, after):
        assert data is not None
        plant(kv, *layout.row(path), data)
    (finding,) = replayed(kv).findings
    assert finding.check == "replay"
    assert "cluster_hash" in finding.reason or "sha256-" in finding.reason
    assert "chain" in checks(examine(kv).findings)


def with_checkpoint(cluster_hash: str) -> MemoryKeyValue:
    """A store whose log ends with a mark, and the checkpoint that says what the nodes computed there."""
    told, kv = history(), MemoryKeyValue()
    index, term, _ = told.entries[-1]
    stamp = max(log_entry.decode(data).stamp_us for _, _, data in told.entries if data is not None)
    notes: tuple[Note, ...] = (MarkItem(), CheckpointItem(index + 1, cluster_hash, ("n1", "n2")))
    entries = list(told.entries)
    for after, note in enumerate(notes, 1):
        entry = LogEntry(told.chart.hash, "n1", term, stamp + after, (note,))
        entries.append((index + after, term, log_entry.encode(entry)))
    write_log(kv, entries)
    store = create(kv)
    machine = told.machine(store)
    for each in entries:
        store.commit(machine.apply(*each))
    return kv


def test_replay_compares_with_what_the_nodes_agreed_on() -> None:
    honest, other = with_checkpoint(history().hashes[-1]), with_checkpoint("sha256-" + "0" * 64)
    assert replayed(honest).findings == ()
    (finding,) = replayed(other).findings
    assert finding.check == "replay" and "n1, n2 agreed on sha256-0000" in finding.reason
    found = examine(honest)
    assert found.findings == () and found.checkpoint is not None
    assert found.checkpoint.cluster_hash == history().hashes[-1]


def test_a_store_marked_as_diverged_never_verifies() -> None:
    kv = MemoryKeyValue()
    recorded(kv).mark_diverged(Divergence(7, "sha256-ours", "sha256-theirs"))
    (finding,) = examine(kv).findings
    assert finding.place == "index 7" and "sha256-theirs" in finding.reason


def test_replay_finds_a_fact_that_was_never_accepted() -> None:
    kv = MemoryKeyValue()
    held = recorded(kv)
    fact = next(held.facts())
    forged = msgspec.structs.replace(fact, expires_at=fact.expires_at + 1)
    plant(kv, Family.REGISTRY, layout.named(fact.kind, fact.subject), canonical.encode(forged))
    assert checks(replayed(kv).findings) == {"replay"}


def test_replay_finds_an_applied_index_that_lags_behind_the_state() -> None:
    """The next start would apply an entry a second time."""
    kv = MemoryKeyValue()
    recorded(kv)
    before = history().applied[-3].position
    assert history().hashes[-3] != history().hashes[-1]
    plant(kv, Family.META, layout.APPLIED, store._pack_applied(before, Store(kv).last_hlc))
    assert checks(replayed(kv).findings) == {"replay"}


# --- planted lies: chains ---------------------------------------------------------------------------------------------


def in_record(kv: KeyValue) -> None:
    plant_record(kv, "apollo", 3, signer="somebody else")


def in_last_record(kv: KeyValue) -> None:
    project = Store(kv).project("apollo")
    assert project is not None
    plant_record(kv, "apollo", project.seq, timestamp=1)


def in_decision(kv: KeyValue) -> None:
    data = next(Store(kv).decisions("apollo", 4, 1))
    record = msgspec.json.decode(data, type=decision.DecisionRecord)
    forged = msgspec.structs.replace(record, justification="because")
    plant(kv, Family.DECISION, layout.record("apollo", 4), decision.encode(forged))


def in_decision_as_if_redacted(kv: KeyValue) -> None:
    """A redaction is honest only if the id is that of the redacted record."""
    data = next(Store(kv).decisions("apollo", 4, 1))
    record = msgspec.json.decode(data, type=decision.DecisionRecord)
    forged = msgspec.structs.replace(record, justification="[REDACTED]", redactions=("justification",))
    plant(kv, Family.DECISION, layout.record("apollo", 4), decision.encode(forged))


def in_decision_index(kv: KeyValue) -> None:
    data = next(Store(kv).decisions("apollo", 4, 1))
    dr_id = msgspec.json.decode(data, type=decision.DecisionRecord).dr_id
    plant(kv, Family.DECISION, layout.decision(dr_id), layout.record("apollo", 5))


def in_ledger(kv: KeyValue) -> None:
    key, _ = next(kv.iterate(Family.LEDGER, *layout.under("apollo")))
    entry = Store(kv).ledger(*layout.path_of(key))
    assert entry is not None
    forged = msgspec.structs.replace(entry, intent="sha256-" + "0" * 64)
    plant(kv, Family.LEDGER, key, idempotency.encode(forged))


def in_head(kv: KeyValue) -> None:
    head = next(store._opened(Family.HEAD, *row) for row in kv.iterate(Family.HEAD, b"apollo", b"apollo\0"))
    forged = msgspec.json.decode(head) | {"ledger_digest": "sha256-" + "0" * 64}
    plant(kv, Family.HEAD, b"apollo", canonical.encode(forged))


def missing_record(kv: KeyValue) -> None:
    overwrite(kv, Delete(Family.WAL, layout.record("apollo", 5)))


LIES: list[Callable[[KeyValue], None]] = [
    in_record,
    in_last_record,
    in_decision,
    in_decision_as_if_redacted,
    in_decision_index,
    in_ledger,
    in_head,
    missing_record,
]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_lie_in_a_chain_is_found(lie: Callable[[KeyValue], None]) -> None:
    kv = MemoryKeyValue()
    recorded(kv)
    lie(kv)
    findings = examine(kv).findings
    assert {(finding.check, finding.place.split()[0]) for finding in findings} == {("chain", "apollo")}


def test_a_snapshot_that_is_not_what_its_manifest_says_is_found() -> None:
    kv = MemoryKeyValue()
    held = recorded(kv)
    index = held.position().index
    manifest = snapshot.describe(history().machine(held), held.last_hlc)
    held.keep_snapshot(index, snapshot.encode(manifest), oldest=0)
    assert examine(kv).findings == ()
    forged = msgspec.structs.replace(manifest, cluster_hash="sha256-" + "0" * 64)
    held.keep_snapshot(index, snapshot.encode(forged), oldest=0)
    assert checks(examine(kv).findings) == {"state"}


@pytest.mark.parametrize("family", layout.REPLICATED)
def test_a_checkpoint_with_a_flipped_bit_in_any_row_is_not_installed(family: Family) -> None:
    """Each row, not only those a machine loads: a peer would take the damage over with the rest."""
    kv = MemoryKeyValue()
    held = recorded(kv)
    manifest = snapshot.describe(history().machine(held), held.last_hlc)
    assert verify.examine_state(kv, history().chart, manifest).findings == ()
    for key, row in list(kv.iterate(family)):
        batch = Batch()
        batch.put(family, key, row[:-1] + bytes([row[-1] ^ 1]))
        kv.write(batch, sync=True)
        assert checks(verify.examine_state(kv, history().chart, manifest).findings) == {"state"}
        batch.put(family, key, row)
        kv.write(batch, sync=True)


# --- planted lies: signatures -----------------------------------------------------------------------------------------


def tampered(change: Callable[[Item | Note], Item | None]) -> tuple[MemoryKeyValue, int]:
    """A store whose log holds one changed item, and the index of its entry."""
    entries = list(history().entries)
    for position, (index, term, data) in enumerate(entries):
        if data is None:
            continue
        entry = log_entry.decode(data)
        for number, item in enumerate(entry.items):
            changed = change(item)
            if changed is not None:
                items = (*entry.items[:number], changed, *entry.items[number + 1 :])
                entries[position] = (index, term, log_entry.encode(LogEntry(*entry[:4], items)))
                kv = MemoryKeyValue()
                write_log(kv, entries)
                held = create(kv)
                for applied in history().applied:
                    held.commit(applied)
                return kv, index
    raise AssertionError("nothing in the history to tamper with")


def altered(sent: bytes, **changed: object) -> bytes:
    return canonical.encode(msgspec.json.decode(sent) | changed)


def signer_of(item: Item | Note) -> str:
    """The name of who signed a proposal."""
    assert isinstance(item, ProposalItem)
    return PEOPLE[proposal.decode(item.sent).signer]


def resigned(item: Item | Note, name: str, *, cluster_id: str | None = None) -> Item:
    """The same, signed by somebody, who is now who it says it is from."""
    key, cluster = key_of(name), cluster_id or history().cluster_id
    who = name_of(key.public_key().public_bytes_raw())
    match item:
        case ProposalItem():
            document = msgspec.json.decode(item.sent) | {"signer": who}
            signature = signing.sign(key, signing.proposal_preimage(document, cluster))
            return item._replace(sent=canonical.encode(document | {"signature": signature}))
        case FactItem():
            document = msgspec.json.decode(item.sent) | {"provider": who}
            signature = signing.sign(key, signing.fact_preimage(document, cluster))
            return FactItem(canonical.encode(document | {"signature": signature}))
        case BatchItem():
            documents = [msgspec.json.decode(each.sent) | {"signer": who} for each in item.proposals]
            members = tuple(ProposalItem(canonical.encode(each)) for each in documents)
            return BatchItem(who, signing.sign(key, signing.batch_preimage(documents, cluster)), members)
        case _:
            raise AssertionError(f"{item} is nobody's")


def another_word(item: Item | Note) -> Item | None:
    if isinstance(item, ProposalItem) and not item.trusted:
        return item._replace(sent=altered(item.sent, evidence=["ucxl://something/else"]))
    return None


def no_signature(item: Item | Note) -> Item | None:
    if isinstance(item, ProposalItem):
        document = msgspec.json.decode(item.sent)
        del document["signature"]
        return ProposalItem(canonical.encode(document), True, item.voters)
    return None


def fewer_voters(item: Item | Note) -> Item | None:
    return item._replace(voters=item.voters[1:]) if isinstance(item, ProposalItem) and item.voters else None


def forged_voter(item: Item | Note) -> Item | None:
    return item._replace(voters=("hmmm:pubkey:ed25519:" + "0" * 64,)) if isinstance(item, ProposalItem) else None


def fact_of_tomorrow(item: Item | Note) -> Item | None:
    if isinstance(item, FactItem):
        later = msgspec.json.decode(item.sent)["expires_at"] + 1
        return FactItem(altered(item.sent, expires_at=later))
    return None


def batch_with_one_less(item: Item | Note) -> Item | None:
    return item._replace(proposals=item.proposals[:1]) if isinstance(item, BatchItem) else None


def signed_for_another_cluster(item: Item | Note) -> Item | None:
    return resigned(item, signer_of(item), cluster_id="swoosh-another") if isinstance(item, ProposalItem) else None


def fact_for_another_cluster(item: Item | Note) -> Item | None:
    return resigned(item, "probe", cluster_id="swoosh-another") if isinstance(item, FactItem) else None


def batch_for_another_cluster(item: Item | Note) -> Item | None:
    return resigned(item, "pam", cluster_id="swoosh-another") if isinstance(item, BatchItem) else None


def forged_vote(item: Item | Note) -> Item | None:
    """Whoever proposes a certificate invents a vote; his own signature is good."""
    if not isinstance(item, ProposalItem) or not item.voters:
        return None
    document = msgspec.json.decode(item.sent)
    inputs = document["inputs"]
    first, *others = inputs["votes"]
    inputs["votes"] = [{**first, "signature": others[0]["signature"]}, *others]
    document["inputs_hash"] = proposal.inputs_hash(inputs)
    return resigned(item._replace(sent=canonical.encode(document)), signer_of(item))


TAMPERING = [
    another_word,
    no_signature,
    fewer_voters,
    forged_voter,
    forged_vote,
    fact_of_tomorrow,
    batch_with_one_less,
    signed_for_another_cluster,
    fact_for_another_cluster,
    batch_for_another_cluster,
]


@pytest.mark.parametrize("change", TAMPERING, ids=lambda change: change.__name__)
def test_an_item_nobody_signed_is_found_in_the_log(change: Callable[[Item | Note], Item | None]) -> None:
    kv, index = tampered(change)
    findings = examine(kv).findings
    assert checks(findings) == {"signature"}
    assert {finding.place.split(" item")[0] for finding in findings} == {f"index {index}"}


STRANGER = "mallory"


@pytest.mark.parametrize("kind", [ProposalItem, FactItem, BatchItem], ids=lambda kind: kind.__name__)
def test_who_was_never_registered_signs_nothing_however_well(kind: type[Item]) -> None:
    """A principal is a key, so a stranger's own signature verifies; only the identities of its time tell him apart."""
    kv, index = tampered(lambda item: resigned(item, STRANGER) if isinstance(item, kind) else None)
    assert "signature" not in checks(examine(kv).findings)
    first, *more = replayed(kv).findings
    assert (first.check, first.place) == ("signature", f"index {index} item 0")
    assert "was not registered" in first.reason and checks(tuple(more)) <= {"replay"}
    assert "signature" not in checks(verify.examine_replay(kv, history().chart).findings), "that is for audits"


def test_who_was_revoked_signs_nothing_any_more_and_what_he_signed_before_stands() -> None:
    def proposals(solo: Solo) -> None:
        solo.propose("PROJECT_CREATED", {"brief": "b"}, project="before", signer="ivy")
        solo.propose("IDENTITY_REVOKED", {"principal": solo.principals["ivy"]})
        solo.propose("PROJECT_CREATED", {"brief": "b"}, project="after", signer="ivy")

    kv, last = of_its_own(proposals)
    (finding,) = replayed(kv).findings
    assert (finding.check, finding.place) == ("signature", f"index {last} item 0")
    assert "was revoked" in finding.reason


def test_unsigned_in_the_name_of_somebody_registered_is_found_where_unsigned_is_allowed() -> None:
    def proposals(solo: Solo) -> None:
        stranger = solo.document("PROJECT_CREATED", {"brief": "b"}, project="first", signer="node-001")
        solo.apply(solo.item(stranger))
        document = solo.document("PROJECT_CREATED", {"brief": "b"}, project="second", signer="pam")
        solo.apply(ProposalItem(canonical.encode(document), trusted=True))

    kv, last = of_its_own(proposals, insecure=True)
    assert examine(kv).findings == ()
    (finding,) = replayed(kv).findings
    assert (finding.check, finding.place) == ("signature", f"index {last} item 0")
    assert "unsigned in the name of" in finding.reason


def test_a_certificate_that_replay_refuses_is_named_by_its_entry() -> None:
    """The recorded verdict is forged along with the vote, so that both agree; then too few have voted."""

    def disowned(item: Item | Note) -> Item | None:
        forged = forged_vote(item)
        if not isinstance(forged, ProposalItem):
            return None
        first = msgspec.json.decode(forged.sent)["inputs"]["votes"][0]["voter"]
        others = tuple(voter for voter in forged.voters if voter != first)
        return forged._replace(voters=others[:1])

    kv, index = tampered(disowned)
    reasons = [finding for finding in replayed(kv).findings if finding.check == "replay"]
    assert [finding.place.endswith(f"index {index}") for finding in reasons] == [True]
    assert "GUARD_REJECTED" in reasons[0].reason


def of_its_own(proposals: Callable[[Solo], None], *, insecure: bool = False) -> tuple[MemoryKeyValue, int]:
    """A store of another cluster's log, and the index of its last entry."""
    solo, kv = Solo(history().chart, insecure=insecure), MemoryKeyValue()
    proposals(solo)
    write_log(kv, [(1, 0, None), *solo.log])
    rows = genesis.initial_rows(solo.genesis, solo.chart)
    held = Store.create(kv, rows, store.ORIGIN, {"genesis": genesis.encode(solo.genesis)})
    machine = Machine(solo.chart, solo.machine.cluster_id, held)
    for entry in [(1, 0, None), *solo.log]:
        held.commit(machine.apply(*entry))
    return kv, machine.position.index


def test_the_log_has_votes_facts_and_batches_to_verify() -> None:
    """Or the tests above would pass on nothing."""
    kinds = [
        type(item) for _, _, data in history().entries if data is not None for item in log_entry.decode(data).items
    ]
    assert {ProposalItem, BatchItem, FactItem} <= set(kinds)


def test_an_entry_that_does_not_decode_is_found() -> None:
    kv = MemoryKeyValue()
    recorded(kv)
    opened = Journal.open(kv, witness_of(kv), cluster_id=history().cluster_id, node=NODE)
    index, term = opened.last_index, opened.last_term
    overwrite(kv, Delete(Family.LOG, layout.number(index)))
    again = Journal.open(kv, witness_of(kv), cluster_id=history().cluster_id, node=NODE)
    again.add(REGULAR + b"\xc1", index, term)
    again.barrier()
    assert checks(examine(kv).findings) == {"signature"}


def witness_of(kv: KeyValue) -> MemoryWitness:
    """The witness that belongs to the store as it is."""
    meta = journal.decode_meta(kv.get(Family.META, b"raft"))
    witness = MemoryWitness()
    witness.write(Mark(meta.incarnation, meta.sequence))
    return witness


# --- the process of its own -------------------------------------------------------------------------------------------


async def taken(tmp_path: Path, *, damage: Callable[[KeyValue], None] | None = None) -> list[Path]:
    """Two snapshots of one node, the second with something planted in it."""
    kv, told = RocksKeyValue.create(tmp_path / "store"), history()
    write_log(kv, told.entries)
    held = create(kv)
    machine = told.machine(held)
    snapshots = Snapshots(held, DirectoryShelf(tmp_path / "snapshots"), told.chart, ManualClock())
    for upto in (20, len(told.entries)):
        while machine.position.index < upto:
            held.commit(machine.apply(*told.entries[machine.position.index]))
        if upto > 20 and damage is not None:
            damage(kv)
        await snapshots.take(machine)
    kv.close()
    return [tmp_path / "snapshots" / str(index) for index in (20, len(told.entries))]


async def test_a_process_of_its_own_replays_a_snapshot_from_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, target = await taken(tmp_path)
    await verify.replay_in_background(base, target)
    await verify.replay_in_background(None, target)
    said = capsys.readouterr().out
    assert said.count("replayed") == 2
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == sorted([base.name, target.name])


async def test_a_planted_difference_stops_the_node(tmp_path: Path) -> None:
    base, target = await taken(
        tmp_path, damage=lambda kv: plant_record(kv, "apollo", 20, window_id="computed otherwise")
    )
    with pytest.raises(Stopped, match="computed otherwise") as stopped:
        await verify.replay_in_background(base, target)
    assert stopped.value.code is ExitCode.DIVERGED


async def test_a_damaged_snapshot_stops_the_node(tmp_path: Path) -> None:
    head = layout.named("apollo")
    base, target = await taken(tmp_path, damage=lambda kv: overwrite(kv, Put(Family.HEAD, head, b"0000{}")))
    with pytest.raises(Stopped) as stopped:
        await verify.replay_in_background(base, target)
    assert stopped.value.code is ExitCode.DAMAGED


async def test_a_check_that_cannot_be_made_stops_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, target = await taken(tmp_path)
    shutil.rmtree(base)
    await verify.replay_in_background(base, target)
    assert "no determinism check" in capsys.readouterr().out
