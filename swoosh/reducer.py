"""Reduce: one proposal on one state gives one outcome (Brief §4), in one fixed order.

Pure and total. It knows no transition, phase or region by name: the chart says what may happen, guards and effects
say whether and what, and this module says in which order that is judged. Signatures were verified before the log;
nothing here may depend on the build, the clock or the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from swoosh import decision, idempotency, invariants, state, wal
from swoosh.catalog import CHOICES, EFFECTS, INPUTS, Context, Registry, judge
from swoosh.chart import Chart, Transition
from swoosh.decision import DecisionRecord
from swoosh.hashing import GENESIS
from swoosh.hlc import HLC
from swoosh.idempotency import LedgerEntry
from swoosh.outcome import Accepted, Code, GuardOutcome, Refused
from swoosh.proposal import Normal
from swoosh.state import SERVED, HlcLast, Project
from swoosh.wal import WalRecord


class View(Protocol):
    """The state a proposal is judged on: committed, or committed with what is pending on top."""

    @property
    def registry(self) -> Registry: ...

    def project(self, project_id: str) -> Project | None: ...

    def ledger(self, project_id: str, idem_key: str) -> LedgerEntry | None: ...


class Place(msgspec.Struct, frozen=True):
    """Where in the log a proposal is judged. ``stamp_us`` is the leader stamp, the only time the reducer knows."""

    index: int
    term: int
    stamp_us: int


class Step(NamedTuple):
    """An accepted proposal: the outcome, the new project, and the records it leaves."""

    outcome: Accepted
    project: Project
    record: WalRecord
    record_bytes: bytes
    decision: DecisionRecord
    decision_bytes: bytes
    ledger_entry: LedgerEntry


def reduce(
    chart: Chart, view: View, place: Place, proposal: Normal, *, voters: tuple[str, ...] = (), trusting: bool = False
) -> Step | Accepted | Refused:
    """Judge one proposal.

    ``voters`` are principals whose votes were verified before the log; ``trusting`` says that the proposal was taken
    unsigned by a cluster made with ``--insecure-signers``.

    Returns:
        A Step when accepted now, an Accepted with ``duplicate`` when it was accepted before, else a Refused.

    Raises:
        InvariantBroken: the transition would break a law. The caller answers INTERNAL and changes nothing.
    """
    statechart = chart.of(proposal.project)
    transition = statechart.resolve(proposal.transition)
    held = view.project(proposal.project)
    project = state.absent(proposal.project) if held is None else held
    refuse = _Refusal(project, proposal, transition)

    # 1. The same operation again: its recorded outcome. Another operation under a used key: refused.
    remembered = view.ledger(proposal.project, proposal.idem_key)
    if remembered is not None and remembered.index >= view.registry.cluster.ledgers.horizons.get(proposal.project, 0):
        return _recall(remembered, proposal, transition, project, refuse)

    # 2. Names that mean nothing here, and inputs that are not of the transition's form.
    if transition is None:
        return refuse(Code.UNKNOWN_TRANSITION, f"{proposal.transition[:64]!r} is not a transition of this machine")
    if held is None and not transition.creates:
        return refuse(Code.UNKNOWN_PROJECT, f"no project {proposal.project!r} exists")
    try:
        inputs = msgspec.convert(proposal.inputs, INPUTS[transition.inputs])
    except msgspec.ValidationError as error:
        return refuse(Code.INPUTS_INVALID, f"inputs of {transition.name}: {error}")

    # 3. Decided on a state that is not HEAD.
    decided_on = _decided_on(proposal, project)
    if decided_on != project.state_hash:
        return refuse(Code.STALE_STATE, f"decided on {decided_on}, HEAD is {project.state_hash}")

    # 4. Before, beside or too far ahead in time.
    late = _out_of_order(proposal, project, place, view.registry)
    if late is not None:
        return refuse(*late)

    # 5. Holds over the region.
    for gate in transition.gates:
        closing = closing_phase(gate.closed_while, project)
        if closing:
            return refuse(gate.code, f"gate {gate.name} is closed: {closing}")

    # 6. The phase the region, and those it asks about, are in.
    misplaced = _wrong_phase(transition, project)
    if misplaced:
        return refuse(Code.WRONG_PHASE, misplaced)

    # 7. Authorisation and every guard.
    context = Context(
        project=proposal.project,
        regions=state.as_project(project.regions),
        registry=view.registry,
        transition=transition,
        chart_hash=chart.hash,
        inputs=inputs,
        signer=proposal.signer,
        principal=proposal.principal,
        hlc=str(proposal.hlc),
        window_id=proposal.window_id,
        evidence=proposal.evidence,
        log_index=place.index,
        stamp_us=place.stamp_us,
        voters=voters,
        trusting=trusting,
    )
    outcomes = tuple(judge(name, context) for name in transition.judged_by)
    failing = next((outcome for outcome in outcomes if not outcome.ok), None)
    if failing:
        return refuse(Code.GUARD_REJECTED, *failing.reasons, failing=failing.name, outcomes=outcomes)

    # 8. What it changes, the laws, the hash, the records.
    return _accept(transition, context, project, place, proposal, outcomes)


class _Refusal:
    """Builds refusals that all name the same facts."""

    def __init__(self, project: Project, proposal: Normal, transition: Transition | None) -> None:
        self._project, self._proposal = project, proposal
        self._name = transition.name if transition else proposal.transition

    def __call__(
        self,
        code: Code,
        *reasons: str,
        failing: str | None = None,
        outcomes: tuple[GuardOutcome, ...] = (),
        record: Mapping[str, Any] | None = None,
    ) -> Refused:
        return Refused(
            code=code,
            reasons=reasons,
            project=self._project.id,
            transition=self._name,
            idem_key=self._proposal.idem_key,
            failing_guard=failing,
            guard_outcomes=outcomes,
            head=self._project.state_hash,
            hlc_last=self._project.regions.hlc_last.hlc,
            quarantined=self._project.quarantined,
            record=dict(record) if record else None,
        )


def _recall(
    entry: LedgerEntry, proposal: Normal, transition: Transition | None, project: Project, refuse: _Refusal
) -> Accepted | Refused:
    name = transition.name if transition else proposal.transition
    if entry.intent != idempotency.intent(proposal.project, name, proposal.inputs_hash, proposal.principal):
        return refuse(
            Code.IDEM_KEY_REUSED,
            f"key {proposal.idem_key!r} was used by {entry.transition} at index {entry.index}",
            record=msgspec.to_builtins(entry),
        )
    return idempotency.recorded(entry, proposal.project, proposal.idem_key, quarantined=project.quarantined)


def _decided_on(proposal: Normal, project: Project) -> str:
    """``genesis`` is the state a project begins with, which for `default` is not that of a project nobody created."""
    if proposal.head != GENESIS:
        return proposal.head
    return state.GENESIS_HASH if project.seq else project.state_hash


def _out_of_order(proposal: Normal, project: Project, place: Place, registry: Registry) -> tuple[Code, str] | None:
    last = project.regions.hlc_last
    last_hlc = HLC.parse(last.hlc)
    if proposal.hlc < last_hlc:
        return Code.HLC_REGRESSION, f"hlc {proposal.hlc} is before the last applied {last_hlc}"
    if proposal.hlc == last_hlc and (proposal.signer, proposal.idem_key) <= (last.signer, last.idem_key):
        return Code.HLC_TIE, f"hlc {proposal.hlc} equals the last applied one, and (signer, idem_key) is not after it"
    ahead = proposal.hlc.ms - place.stamp_us // 1000
    if ahead > registry.setting("max_skew_ms"):
        return Code.HLC_SKEW, f"hlc is {ahead} ms ahead of the cluster; at most {registry.setting('max_skew_ms')} ms"
    return None


def closing_phase(closed_while: Mapping[str, tuple[str, ...]], project: Project) -> str | None:
    """Which region closes a gate, and by what phase, in words; None where it is open."""
    for region, phases in closed_while.items():
        phase = getattr(project.regions, region).phase
        if phase in phases:
            return f"{region} is in {phase}"
    return None


def _wrong_phase(transition: Transition, project: Project) -> str | None:
    for region, phases in {transition.region: transition.sources, **transition.asks}.items():
        phase = getattr(project.regions, region).phase
        if phase not in phases:
            return f"{transition.name} needs {region} in {' or '.join(phases)}; it is in {phase}"
    return None


def _accept(
    transition: Transition,
    context: Context,
    project: Project,
    place: Place,
    proposal: Normal,
    outcomes: tuple[GuardOutcome, ...],
) -> Step:
    regions = _regions_after(transition, context, project, proposal)
    after_regions, hashes, post_hash = state.rehash(project, regions)
    invariants.check(transition, project.regions, after_regions)
    record = _record(transition, project, place, proposal, outcomes, after_regions.epoch, post_hash)
    record_bytes = wal.encode(record)
    record_hash = wal.record_hash(record_bytes)
    decided = decision.derive(record, record_hash, project.dr_head, context.registry.setting("redactions"))
    entry = LedgerEntry(
        intent=idempotency.intent(proposal.project, transition.name, proposal.inputs_hash, proposal.principal),
        transition=transition.name,
        seq=record.seq,
        index=record.index,
        hlc=record.hlc,
        state_pre_hash=record.state_pre_hash,
        state_post_hash=post_hash,
        record_hash=record_hash,
        decision=decided.dr_id,
    )
    after = Project(
        id=project.id,
        regions=after_regions,
        region_hashes=hashes,
        state_hash=post_hash,
        seq=record.seq,
        wal_head=record_hash,
        dr_head=decided.dr_id,
        ledger_digest=idempotency.digest_after(project.ledger_digest, proposal.idem_key, entry),
    )
    outcome = Accepted(
        project=proposal.project,
        transition=transition.name,
        idem_key=proposal.idem_key,
        hlc=record.hlc,
        index=record.index,
        seq=record.seq,
        state_pre_hash=record.state_pre_hash,
        state_post_hash=post_hash,
        record_hash=record_hash,
        decision=decided.dr_id,
        guard_outcomes=outcomes,
        quarantined=after.quarantined,
    )
    return Step(outcome, after, record, record_bytes, decided, decision.encode(decided), entry)


def _record(
    transition: Transition,
    project: Project,
    place: Place,
    proposal: Normal,
    outcomes: tuple[GuardOutcome, ...],
    epochs: dict[str, int],
    post_hash: str,
) -> WalRecord:
    return WalRecord(
        index=place.index,
        seq=project.seq + 1,
        term=place.term,
        project=proposal.project,
        region=transition.region,
        state_pre_hash=project.state_hash,
        transition_name=transition.name,
        inputs_hash=proposal.inputs_hash,
        signer=proposal.signer,
        on_behalf_of=proposal.principal if proposal.principal != proposal.signer else "",
        idem_key=proposal.idem_key,
        hlc=str(proposal.hlc),
        window_id=proposal.window_id,
        guard_outcomes=outcomes,
        evidence=proposal.evidence,
        timestamp=place.stamp_us,
        epochs=epochs,
        state_post_hash=post_hash,
        prev_record_hash=project.wal_head,
    )


def _regions_after(transition: Transition, context: Context, project: Project, proposal: Normal) -> dict[str, Any]:
    """{region: new value} of everything the transition moves: data by its effect, phases and epochs by the chart."""
    changed = dict(EFFECTS[transition.effect](context)) if transition.effect else {}
    invariants.check_frame(transition, changed)
    source = getattr(project.regions, transition.region).phase
    target = CHOICES[transition.choice.name](context) if transition.choice else transition.targets[source]
    epoch = dict(project.regions.epoch)
    for region, phase in {transition.region: target, **transition.also}.items():
        value = changed.get(region, getattr(project.regions, region))
        changed[region] = msgspec.structs.replace(value, phase=phase)
        served = SERVED[type(project.regions)][region]
        epoch[served] = epoch.get(served, 0) + 1
    changed["epoch"] = epoch
    changed["hlc_last"] = HlcLast(str(proposal.hlc), proposal.signer, proposal.idem_key)
    return changed
