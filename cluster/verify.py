"""Is what is stored what the log says? Checks that trust nothing but the genesis, the chart and the bytes.

* **state**: every project hashes to its head row, and the whole to the manifest if this is a snapshot;
* **chains**: every WAL record follows from the one before it, and Decision Records, ledger and heads from those;
* **signatures**: everything that entered the log was signed for this cluster, and recorded votes are exactly the good
  ones;
* **replay**: the log reduced again from the genesis or an earlier snapshot gives the same records, byte for byte, and
  the same cluster hash; and, where it is audited, whoever signed was registered at that place in the log.

`swoosh verify` runs them on a stopped node's store or on a snapshot, audited. A running node has each new snapshot
replayed from the one before it, by a process of its own at low priority (``replay_in_background``), and stops if the
bytes differ: a replica that computes something else is none. This module must never repair, nor write to what it
examines.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import structlog

from cluster import faults
from cluster.checkpoints import is_due
from cluster.config import packaged_chart
from cluster.faults import ExitCode
from cluster.raft.journal import Journal, Meta
from cluster.raft.replica import payload_of
from cluster.storage import layout
from cluster.storage.kv import KeyValue
from cluster.storage.snapshots import opened
from cluster.storage.store import ORIGIN, Checkpoint, Store
from cluster.storage.witness import MemoryWitness
from swoosh import decision, facts, genesis, idempotency, principal, proposal, signing, snapshot, submission, wal
from swoosh import entry as log_entry
from swoosh.catalog import Registry
from swoosh.chart import Chart
from swoosh.entry import NOTES, BatchItem, CheckpointItem, FactItem, Item, Note, ProposalItem, signers_of
from swoosh.errors import Corrupt, Malformed
from swoosh.facts import Known
from swoosh.genesis import Genesis
from swoosh.idempotency import LedgerEntry
from swoosh.machine import Applied, HeadSummary, Machine, MemorySource, Position, Source
from swoosh.outcome import Refused
from swoosh.quorum import votes_in
from swoosh.snapshot import Manifest
from swoosh.state import GENESIS_HASH, Head, Project
from swoosh.wal import WalRecord

FINDINGS_MAX = 100
NICENESS = 15

_log = structlog.get_logger(__name__)

Entry = tuple[int, int, bytes | None]
"""Index, term and data of a log entry; None is a no-op of Raft's own."""


class Finding(msgspec.Struct, frozen=True):
    """Something that does not verify: which check, where, and what was seen."""

    check: str
    place: str
    reason: str


class Report(msgspec.Struct, frozen=True):
    """The result of checks on a store as of ``index``.

    ``unchecked`` says what could not be checked and why; it is no finding. At most ``FINDINGS_MAX`` are listed.
    ``checkpoint`` is the last state that a majority of the nodes agreed on.
    """

    index: int
    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...] = ()
    checkpoint: Checkpoint | None = None


class Subject(NamedTuple):
    """What is examined: a store, the chart it runs, and the genesis it came from."""

    store: Store
    chart: Chart
    genesis: Genesis

    @property
    def cluster_id(self) -> str:
        """What its signatures are bound to."""
        return genesis.cluster_id(self.genesis)

    def machine(self, source: Source | None = None) -> Machine:
        """A machine on the store, or on another source."""
        return Machine(self.chart, self.cluster_id, source or self.store)


def subject(kv: KeyValue, chart: Chart) -> Subject:
    """What there is to examine in a store.

    Raises:
        Corrupt: it holds no state or no genesis.
    """
    store = Store(kv)
    document = store.meta("genesis")
    if document is None:
        raise Corrupt("the store holds no genesis document")
    return Subject(store, chart, genesis.decode(document))


def examine(kv: KeyValue, chart: Chart) -> Report:
    """Check state, chains and signatures of a store."""
    try:
        found = subject(kv, chart)
        upto, first = found.store.position().index, max(first_logged(kv), 1)
        findings = [*verify_state(found), *islice(verify_chains(found), FINDINGS_MAX)]
        findings += islice(verify_signatures(log(kv, first, upto), found), FINDINGS_MAX)
    except (Corrupt, Malformed) as error:
        return Report(0, (Finding("state", "store", str(error)),))
    unchecked = (f"signatures before index {first}, where the log begins",) if first > 1 else ()
    return Report(upto, tuple(findings[:FINDINGS_MAX]), unchecked, found.store.checkpoint)


def examine_replay(kv: KeyValue, chart: Chart, base: KeyValue | None = None, *, audited: bool = False) -> Report:
    """Replay the log of a store from the state in ``base``, or from the genesis, and compare with what it holds.

    ``audited``: also hold every signer against the identities in force where it signed. A running node does not: what
    the reducer refuses changes no state, and one bad leader must not be able to stop every node with an entry.
    """
    try:
        found, earlier = subject(kv, chart), Store(base) if base is not None else None
        upto, after = found.store.position().index, ORIGIN.index if earlier is None else earlier.position().index
        obstacle = _obstacle(found, earlier, after)
        if obstacle is not None:
            return Report(upto, (), (f"replay: {obstacle}",))
        origin = earlier or MemorySource(genesis.initial_projects(found.genesis, found.chart), ORIGIN)
        findings = [*verify_state(found), *replay(log(kv, after + 1, upto), found, origin, audited=audited)]
    except (Corrupt, Malformed) as error:
        return Report(0, (Finding("state", "store", str(error)),))
    return Report(upto, tuple(findings[:FINDINGS_MAX]))


def examine_state(kv: KeyValue, chart: Chart, manifest: Manifest) -> Report:
    """Is a checkpoint the state its manifest describes, every project loaded and hashed, does its log reach it, and is
    every row beside the state as it was written? A damaged row of a record would else move from disk to disk."""
    try:
        found = subject(kv, chart)
        for family in layout.REPLICATED:
            for key, row in kv.iterate(family):
                found.store.check_row(family, key, row)
        snapshot.check(manifest, found.machine())
        index = manifest.last_applied_index
        for _ in log(kv, max(1, index - 1), index):
            pass
    except (Corrupt, Malformed) as error:
        return Report(0, (Finding("state", "checkpoint", str(error)),))
    return Report(index, ())


def _obstacle(found: Subject, earlier: Store | None, after: int) -> str | None:
    """Why a replay would prove nothing: entries are gone, or were judged by a chart that this build has not."""
    first = first_logged(found.store.kv)
    if first > after + 1:
        return f"the log begins at index {first}, the base is at {after}"
    before = found.genesis.chart_hash if earlier is None else _chart_in_force(found.machine(earlier))
    others = {before, _chart_in_force(found.machine())} - {found.chart.hash}
    return f"chart {min(others)} was in force, this build has {found.chart.hash}" if others else None


def _chart_in_force(machine: Machine) -> str:
    return machine.registry.cluster.chart.chart_hash


# --- the log ----------------------------------------------------------------------------------------------------------


def first_logged(kv: KeyValue) -> int:
    """The index the log in a store begins at."""
    return _journal(kv).first_index


def log(kv: KeyValue, first: int, last: int) -> Iterator[Entry]:
    """Entries ``first`` to ``last`` of the log in a store. A damaged log ends the process.

    Raises:
        Corrupt: it does not reach that far.
    """
    journal, index = _journal(kv), first
    while index <= last:
        base = journal.first_index
        found = journal[index - base : last + 1 - base] if index >= base else []
        if not found:
            raise Corrupt(f"the log holds {base} to {journal.last_index}; entry {index} is not there")
        for command, at, term in found:
            yield at, term, payload_of(command)
        index += len(found)


def _journal(kv: KeyValue) -> Journal:
    """The log, to be read only: without its barriers the rest of a journal's memory plays no part."""
    return Journal(kv, MemoryWitness(), Meta("", "", b"", boots=0, sequence=0, term=0, vote=None, commit=0))


# --- state and chains -------------------------------------------------------------------------------------------------


def verify_state(found: Subject) -> list[Finding]:
    """Load every project; compare with the manifest, if the store is a snapshot's."""
    broken, wrong = [], found.store.divergence
    if wrong is not None:
        reason = f"a majority agreed on {wrong.agreed}, this node computed {wrong.ours}"
        broken.append(Finding("state", f"index {wrong.at}", reason))
    for project_id, _ in found.store.projects():
        try:
            found.store.project(project_id)
        except Corrupt as error:
            broken.append(Finding("state", project_id, str(error)))
    manifest = found.store.manifest(found.store.position().index)
    if manifest is not None and not broken:
        try:
            snapshot.check(snapshot.decode(manifest), found.machine())
        except Corrupt as error:
            broken.append(Finding("state", "manifest", str(error)))
    return broken


class Links(NamedTuple):
    """Where a project's chains stand after some records."""

    seq: int
    wal: str
    state: str | None
    decision: str
    ledger: str


def verify_chains(found: Subject) -> Iterator[Finding]:
    """Walk the records of every project from the first to its head."""
    begun = origins(found)
    for project_id, _ in found.store.projects():
        links = Links(0, "", begun.get(project_id, GENESIS_HASH), "", "")
        try:
            project = found.store.project(project_id)
            if project is None:
                continue
            for data in found.store.wal(project_id, 0, project.seq + 1):
                links = follow(found.store, project_id, links, data)
            check_head(project, links)
        except Corrupt as error:
            yield Finding("chain", f"{project_id} after seq {links.seq}", str(error))


def origins(found: Subject) -> dict[str, str | None]:
    """The state hash each project of the genesis began with; unknown where the genesis names an older chart."""
    try:
        return {project.id: project.state_hash for project in genesis.initial_projects(found.genesis, found.chart)}
    except Malformed:
        return dict.fromkeys((proposal.CLUSTER, proposal.DEFAULT_PROJECT))


def follow(store: Store, project_id: str, links: Links, data: bytes) -> Links:
    """Where the chains stand after one more record, which must continue them, and so must all that goes with it.

    Raises:
        Corrupt: something does not.
    """
    wal.check_chain([data], prev_record_hash=links.wal, state_pre_hash=links.state)
    record, record_hash = wal.decode(data), wal.record_hash(data)
    _demand("project and seq", (record.project, record.seq), (project_id, links.seq + 1))
    kept = next(store.decisions(project_id, record.seq, 1), None)
    derived = _derived(record, record_hash, links.decision, kept)
    _demand("decision record", kept, decision.encode(derived))
    _demand(f"decision {derived.dr_id}", store.decision(derived.dr_id), kept)
    submission.check(store.submission(project_id, record.seq), record, derived.dr_id)
    entry = LedgerEntry(
        intent=idempotency.intent(
            project_id, record.transition_name, record.inputs_hash, record.on_behalf_of or record.signer
        ),
        transition=record.transition_name,
        seq=record.seq,
        index=record.index,
        hlc=record.hlc,
        state_pre_hash=record.state_pre_hash,
        state_post_hash=record.state_post_hash,
        record_hash=record_hash,
        decision=derived.dr_id,
    )
    _demand(f"ledger entry {record.idem_key}", store.ledger(project_id, record.idem_key), entry)
    ledger = idempotency.digest_after(links.ledger, record.idem_key, entry)
    return Links(record.seq, record_hash, record.state_post_hash, derived.dr_id, ledger)


def _derived(record: WalRecord, record_hash: str, prev_dr: str, kept: bytes | None) -> decision.DecisionRecord:
    """The Decision Record of a record. What was redacted is a setting of its time, so the kept one is asked; the
    deepest path goes first, since redacting a member removes what is below it."""
    try:
        redactions = msgspec.json.decode(kept or b"{}", type=_Redacted).redactions
    except msgspec.DecodeError as error:
        raise Corrupt(f"decision record does not decode: {error}") from None
    return decision.derive(record, record_hash, prev_dr, sorted(redactions, key=lambda path: -path.count(".")))


class _Redacted(msgspec.Struct):
    redactions: tuple[str, ...] = ()


def check_head(project: Project | Head, links: Links) -> None:
    """A project's head must be where its records lead.

    Raises:
        Corrupt: it is elsewhere.
    """
    head = Links(project.seq, project.wal_head, project.state_hash, project.dr_head, project.ledger_digest)
    for name, claimed, reached in zip(Links._fields, head, links, strict=True):
        if reached is not None:
            _demand(f"head row, {name}", claimed, reached)


def _demand(what: str, stored: object, expected: object) -> None:
    if stored != expected:
        raise Corrupt(f"{what}: stored is {_short(stored)}, expected {_short(expected)}")


# --- signatures -------------------------------------------------------------------------------------------------------


def verify_signatures(entries: Iterable[Entry], found: Subject) -> Iterator[Finding]:
    """Verify every signature in the log again, as admission did before it let the items in."""
    for index, _, data in entries:
        if data is None:
            continue
        try:
            items = log_entry.decode(data).items
        except Corrupt as error:
            yield Finding("signature", f"index {index}", str(error))
            continue
        for number, item in enumerate(items):
            for reason in _signature_faults(item, found):
                yield Finding("signature", f"index {index} item {number}", reason)


def _signature_faults(item: Item | Note, found: Subject) -> Iterator[str]:
    if isinstance(item, NOTES):
        return  # nobody's proposal
    try:
        match item:
            case ProposalItem():
                yield from _proposal_faults(item, found)
            case BatchItem(signer=signer, signature=signature, proposals=members):
                covered = signing.batch_preimage([_document(member.sent) for member in members], found.cluster_id)
                if not _signed(signer, covered, signature):
                    yield f"the batch is not signed by {signer}"
                for member in members:
                    yield from _member_faults(member, signer, found)
            case FactItem(sent=sent):
                fact = facts.decode(sent)
                covered = signing.fact_preimage(_document(sent), found.cluster_id)
                if not _signed(fact.provider, covered, fact.signature or ""):
                    yield f"the fact is not signed by {fact.provider}"
    except (Malformed, Corrupt) as error:
        yield str(error)


def _proposal_faults(item: ProposalItem, found: Subject) -> Iterator[str]:
    document, sent = _document(item.sent), proposal.decode(item.sent)
    if not item.trusted:
        if not _signed(sent.signer, signing.proposal_preimage(document, found.cluster_id), sent.signature or ""):
            yield f"the proposal is not signed by {sent.signer}"
    elif not found.genesis.insecure or sent.signature is not None:
        yield "the proposal was taken unsigned, which this cluster does not allow"
    yield from _vote_faults(item, found)


def _member_faults(item: ProposalItem, signer: str, found: Subject) -> Iterator[str]:
    sent = proposal.decode(item.sent)
    if item.trusted or sent.signature is not None or principal.normalise(sent.signer) != signer:
        yield f"a proposal in the batch is not {signer}'s"
    yield from _vote_faults(item, found)


def _vote_faults(item: ProposalItem, found: Subject) -> Iterator[str]:
    form = proposal.normal(proposal.decode(item.sent), trusting=item.trusted)
    transition = found.chart.of(form.project).resolve(form.transition)
    votes = votes_in(transition.name if transition else "", form.inputs, found.cluster_id, form.project)
    good = {principal.normalise(vote.voter) for vote in votes if _signed(vote.voter, vote.preimage, vote.signature)}
    if item.voters != tuple(sorted(good)):
        yield f"recorded voters are {list(item.voters)}, good votes are from {sorted(good)}"


def _signed(signer: str, covered: bytes, signature: str) -> bool:
    key = principal.key_of(signer)
    return key is not None and signing.verify(key, covered, signature)


def _document(sent: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(sent, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Corrupt(f"object does not decode: {error}") from None


# --- replay -----------------------------------------------------------------------------------------------------------


class _Replayed:
    """A source that stands where ``base`` stood and remembers the keys used since; the machine remembers the rest."""

    def __init__(self, base: Source) -> None:
        self._base = base
        self._ledger: dict[tuple[str, str], LedgerEntry] = {}

    def commit(self, applied: Applied) -> None:
        self._ledger.update({(project_id, key): entry for project_id, key, entry in applied.ledger})

    def position(self) -> Position:
        return self._base.position()

    def projects(self) -> Iterator[tuple[str, HeadSummary]]:
        return self._base.projects()

    def project(self, project_id: str) -> Project | None:
        return self._base.project(project_id)

    def ledger(self, project_id: str, idem_key: str) -> LedgerEntry | None:
        return self._ledger.get((project_id, idem_key)) or self._base.ledger(project_id, idem_key)

    def facts(self) -> Iterator[Known]:
        return self._base.facts()


def replay(entries: Iterable[Entry], found: Subject, base: Source, *, audited: bool = False) -> list[Finding]:
    """Reduce again what came after ``base`` and compare with the store: its first difference, or none; before it, where
    it is audited, whoever signed without being registered.

    ``entries`` are those after ``base.position()`` up to the store's.

    Raises:
        Corrupt: the base is damaged.
    """
    source = _Replayed(base)
    machine = found.machine(source)
    noted: dict[int, str] = {}
    strangers: list[Finding] = []
    for index, term, data in entries:
        if audited:
            strangers += _strangers(index, data, machine.registry)
        applied = machine.apply(index, term, data)
        source.commit(applied)
        different = _first_difference(found.store, applied) or _disagreement(noted, applied)
        if different is not None:
            return [*strangers, different]
        if is_due(applied):
            noted[index] = machine.cluster_hash
    stored = found.machine()
    if (machine.position, machine.cluster_hash) == (stored.position, stored.cluster_hash):
        return strangers
    reason = (
        f"replay ends at {machine.position} with {machine.cluster_hash}, "
        f"the store is at {stored.position} with {stored.cluster_hash}"
    )
    return [*strangers, Finding("replay", f"index {stored.position.index}", reason)]


def _strangers(index: int, data: bytes | None, registry: Registry) -> Iterator[Finding]:
    """Who signed items of an entry, though the registry as of the entry before does not have them."""
    try:
        items = () if data is None else log_entry.decode(data).items
        signers = [() if isinstance(item, NOTES) else signers_of(item) for item in items]
    except (Corrupt, msgspec.DecodeError):
        return  # found by verify_signatures
    for number, (item, names) in enumerate(zip(items, signers, strict=True)):
        unsigned = isinstance(item, ProposalItem) and item.trusted
        for name in dict.fromkeys(names):
            held = registry.cluster.identities.entries.get(name)
            if unsigned and held is not None:
                reason = f"taken unsigned in the name of {name}, who is registered"
            elif not unsigned and (held is None or held.revoked):
                reason = f"{name} was {'revoked' if held else 'not registered'} at this place in the log"
            else:
                continue
            yield Finding("signature", f"index {index} item {number}", reason)


def _first_difference(store: Store, applied: Applied) -> Finding | None:
    accepted = {(project_id, key) for project_id, key, _ in applied.ledger}
    for outcome in applied.outcomes:
        if isinstance(outcome, Refused) and (outcome.project, outcome.idem_key) not in accepted:
            entry = store.ledger(outcome.project, outcome.idem_key)
            if entry is not None and entry.index == applied.position.index:
                place = f"{outcome.project} seq {entry.seq}, index {entry.index}"
                reason = f"{outcome.code}: {'; '.join(outcome.reasons)}"
                return Finding("replay", place, f"stored is that it was accepted, replay refuses it: {reason}")
    for (record, data), (decided, decided_data) in zip(applied.records, applied.decisions, strict=True):
        place = f"{record.project} seq {record.seq}, index {record.index}"
        kept = store.record(record.project, record.seq)
        if kept != data:
            return Finding("replay", place, f"WAL record: {_differing(kept, data)}")
        kept = store.decision(decided.dr_id)
        if kept != decided_data:
            return Finding("replay", place, f"Decision Record {decided.dr_id}: {_differing(kept, decided_data)}")
    for seq, submitted in applied.submissions:
        place = f"{submitted.project} seq {seq}"
        kept, data = store.submission(submitted.project, seq), submission.encode(submitted)
        if kept != data:
            return Finding("replay", place, f"submission record: {_differing(kept, data)}")
    return None


def _disagreement(noted: Mapping[int, str], applied: Applied) -> Finding | None:
    """Where the nodes agreed on another state than the replay gives."""
    for note in applied.notes:
        if isinstance(note, CheckpointItem) and note.cluster_hash:
            replayed = noted.get(note.at, note.cluster_hash)
            if replayed != note.cluster_hash:
                reason = f"{', '.join(note.nodes)} agreed on {note.cluster_hash}, replay gives {replayed}"
                return Finding("replay", f"index {note.at}", reason)
    return None


def _differing(kept: bytes | None, given: bytes) -> str:
    """The members in which two canonical objects differ."""
    if kept is None:
        return "replay gives one, none is stored"
    stored, replayed = _document(kept), _document(given)
    names = [name for name in sorted({*stored, *replayed}) if stored.get(name) != replayed.get(name)]
    texts = [f"{name} is {_short(stored.get(name))}, replay gives {_short(replayed.get(name))}" for name in names]
    return "; ".join(texts) or "the same members in other bytes"


def _short(value: object) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= 200 else text[:200] + "…"


# --- the process of its own -------------------------------------------------------------------------------------------


async def replay_in_background(base: Path | None, target: Path) -> None:
    """Have the snapshot at ``target`` replayed from the one at ``base``, or from the genesis, by another process.

    Stops the node when the bytes differ (DIVERGED) or the snapshot, whose files are the store's, is damaged (DAMAGED).
    A check that could not be made is logged, and proves nothing either way.
    """
    code, out, err = await _in_process(target, *(["--base", str(base.absolute())] if base is not None else []))
    details: dict[str, object] = {"target": str(target), "base": str(base), "report": out}
    if code in (ExitCode.DIVERGED, ExitCode.DAMAGED):
        faults.fatal(ExitCode(code), "replaying the log does not give what is stored", **details, stderr=err)
    if code != 0:
        _log.warning("no determinism check", exit=code, **details, stderr=err)
    else:
        _log.info("replayed", **details)


async def examine_in_background(target: Path, manifest: Manifest) -> str | None:
    """Have another process see whether the checkpoint at ``target`` is the state that ``manifest`` describes. None, or
    what is wrong; a check that could not be made is wrong too."""
    code, out, err = await _in_process(target, "--manifest", snapshot.encode(manifest).decode())
    return None if code == 0 else f"exit {code}: {out} {err}"


async def _in_process(target: Path, *options: str) -> tuple[int, str, str]:
    """Exit code, output and the end of the error output of ``main``. The working directory makes sure that the process
    runs the very code that is running here."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cluster.verify", str(target.absolute()), *options),
        cwd=Path(__file__).parent.parent,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode().strip(), err.decode()[-2000:]


def main(arguments: list[str]) -> int:
    """``python -m cluster.verify SNAPSHOT [--base SNAPSHOT | --manifest JSON]``. Prints the report as one JSON line.

    Returns:
        0, or DIVERGED when replay gives other bytes, or DAMAGED when the snapshot does not verify by itself.
    """
    parser = argparse.ArgumentParser(prog="python -m cluster.verify", description="Replay a snapshot from its log.")
    parser.add_argument("target", type=Path, help="the snapshot to verify")
    parser.add_argument("--base", type=Path, help="an earlier snapshot to begin at; without it, the genesis")
    parser.add_argument("--manifest", help="replay nothing; see whether the state is the one described here")
    parsed = parser.parse_args(arguments)
    os.nice(NICENESS)
    with ExitStack() as stack:
        target = stack.enter_context(opened(parsed.target))
        base = stack.enter_context(opened(parsed.base)) if parsed.base is not None else None
        if parsed.manifest is not None:
            report = examine_state(target, packaged_chart(), snapshot.decode(parsed.manifest.encode()))
        else:
            report = examine_replay(target, packaged_chart(), base)
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    if any(finding.check == "replay" for finding in report.findings):
        return ExitCode.DIVERGED
    return ExitCode.DAMAGED if report.findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
