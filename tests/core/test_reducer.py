"""The reducer is total and deterministic, a refusal changes nothing, and what the leader judged early is applied."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.solo import TERM, Solo, the_chart
from chaos.steer import drive, license_fact, step
from swoosh import canonical, entry, facts, invariants, state
from swoosh.catalog import EFFECTS
from swoosh.entry import Item, LogEntry, ProposalItem
from swoosh.errors import Corrupt, InvariantBroken
from swoosh.machine import Applied, Machine, Pending
from swoosh.outcome import Accepted, Code, FactAccepted, Refused
from swoosh.reducer import Place

ROOT = Path(__file__).resolve().parents[2]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text("aZ_-@:#0\u00e9 ", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_", min_size=1, max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@cache
def at_work() -> Solo:
    solo = Solo(the_chart())
    drive(solo, lambda r: r.execution.phase == "WORK")
    return solo


def changed_nothing(applied: Applied) -> bool:
    return not (applied.rows or applied.ledger or applied.records or applied.decisions or applied.facts)


# --- total ------------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes_give_an_outcome_and_change_nothing(data: bytes) -> None:
    solo = at_work()
    before = solo.machine.cluster_hash
    applied = solo.feed(solo.machine.position.index + 1, TERM, data)
    assert all(isinstance(outcome, Refused) for outcome in applied.outcomes)
    assert changed_nothing(applied)
    assert solo.machine.cluster_hash == before


@given(st.binary(max_size=200))
def test_any_bytes_inside_an_entry_give_an_outcome_and_change_nothing(sent: bytes) -> None:
    solo = at_work()
    before = solo.machine.cluster_hash
    applied = solo.apply(ProposalItem(sent), entry.FactItem(sent), entry.BatchItem("who", "", (ProposalItem(sent),)))
    assert len(applied.outcomes) == 3
    assert changed_nothing(applied)
    assert solo.machine.cluster_hash == before


@given(st.data())
def test_any_inputs_of_any_transition_give_an_outcome(data: st.DataObject) -> None:
    """Inputs of any shape, also ones close to the right shape; what is refused changes nothing."""
    solo = at_work().fork()
    row = data.draw(st.sampled_from(list(the_chart().transitions())))
    inputs = data.draw(st.dictionaries(st.text("abc_", min_size=1, max_size=5), JSON, max_size=3) | plausible())
    before = solo.machine.cluster_hash
    applied = solo.apply(solo.item(solo.document(row.name, inputs)))
    (outcome,) = applied.outcomes
    if isinstance(outcome, Refused):
        assert outcome.code is not Code.INTERNAL, outcome
        assert changed_nothing(applied)
        assert solo.machine.cluster_hash == before


def plausible() -> st.SearchStrategy[dict[str, Any]]:
    """Names that inputs have, with values of any shape."""
    people = ("role", "agent", "principal", "roles", "votes", "election")
    things = ("content_hash", "task", "tasks", "assets", "asset", "effect", "evidence", "findings")
    names = ("reason", "name", "value", "project", "seq", *people, *things)
    return st.dictionaries(st.sampled_from(names), JSON, max_size=6)


@given(JSON, st.sampled_from(["current_state_hash", "transition", "signer", "idem_key", "hlc", "window_id", "evidence",
                              "project", "inputs", "inputs_hash", "on_behalf_of", "signature"]))  # fmt: skip
def test_any_value_in_any_member_of_a_proposal_gives_an_outcome(value: Any, member: str) -> None:
    solo = at_work()
    sent = solo.document("CONTROL_PAUSED", {"reason": "why not"}) | {member: value}
    try:
        canonical.check(sent)
    except Exception:
        return
    (outcome,) = solo.fork().apply(ProposalItem(canonical.encode(sent))).outcomes
    assert isinstance(outcome, Accepted | Refused)


def test_a_raft_no_op_moves_the_index_alone() -> None:
    solo = at_work().fork()
    before = solo.machine.position
    applied = solo.machine.apply(before.index + 1, TERM + 1, None)
    assert changed_nothing(applied) and not applied.outcomes
    assert (applied.position.index, applied.position.stamp_us) == (before.index + 1, before.stamp_us)


def test_an_entry_of_another_term_is_refused() -> None:
    solo = at_work().fork()
    stamp = solo.machine.position.stamp_us + 1
    data = entry.encode(LogEntry(solo.chart.hash, "n1", TERM, stamp, (ProposalItem(b""),)))
    (outcome,) = solo.feed(solo.machine.position.index + 1, TERM + 1, data).outcomes
    assert isinstance(outcome, Refused) and outcome.code is Code.INTERNAL


# --- laws -------------------------------------------------------------------------------------------------------------


def test_an_effect_that_reaches_beyond_its_region_is_internal_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(EFFECTS, "record_pause", lambda c: {"policy": c.regions.policy})
    solo = at_work().fork()
    applied = solo.apply(solo.item(solo.document("CONTROL_PAUSED", {"reason": "audit"})))
    (outcome,) = applied.outcomes
    assert isinstance(outcome, Refused) and outcome.code is Code.INTERNAL
    assert outcome.reasons == ("CONTROL_PAUSED: effect record_pause changed ['policy']",)
    assert changed_nothing(applied)


def test_an_effect_that_raises_is_internal_and_says_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EFFECTS, "record_pause", lambda c: c.registry.setting(str(id(c))))
    solo = at_work().fork()
    (outcome,) = solo.apply(solo.item(solo.document("CONTROL_PAUSED", {"reason": "audit"}))).outcomes
    assert isinstance(outcome, Refused) and outcome.code is Code.INTERNAL
    assert outcome.reasons == ("KeyError",), "no address, no text that differs between two builds"


def test_a_fact_whose_judgement_raises_is_internal(monkeypatch: pytest.MonkeyPatch) -> None:
    solo = at_work().fork()
    monkeypatch.setattr(facts, "refusal", lambda *_, **__: 1 // 0)
    outcome = solo.fact(*license_fact(solo))
    assert isinstance(outcome, Refused) and (outcome.code, outcome.reasons) == (Code.INTERNAL, ("ZeroDivisionError",))


@pytest.mark.parametrize("unwell", [MemoryError, RecursionError, OSError, SystemError, Corrupt])
def test_what_says_that_the_process_is_unwell_is_no_outcome(
    monkeypatch: pytest.MonkeyPatch, unwell: type[Exception]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise unwell("planted")

    solo = at_work().fork()
    monkeypatch.setitem(EFFECTS, "record_pause", fails)
    monkeypatch.setattr(facts, "refusal", fails)
    before = solo.machine.position
    with pytest.raises(unwell):
        solo.apply(solo.item(solo.document("CONTROL_PAUSED", {"reason": "audit"})))
    with pytest.raises(unwell):
        solo.fact(*license_fact(solo))
    assert solo.machine.position == before


def test_notes_change_nothing_and_have_no_outcome() -> None:
    solo = at_work().fork()
    before, kept = solo.machine.cluster_hash, entry.CheckpointItem(7, "sha256-x", ("n1", "n2"))
    data = entry.encode(
        LogEntry(solo.chart.hash, "n1", TERM, solo.machine.position.stamp_us + 1, (entry.MarkItem(), kept))
    )
    applied = solo.feed(solo.machine.position.index + 1, TERM, data)
    assert changed_nothing(applied) and applied.outcomes == () and solo.machine.cluster_hash == before
    assert applied.notes == (entry.MarkItem(), kept)


def test_no_node_can_hand_another_a_note() -> None:
    mixed = entry.encode(LogEntry("c", "n1", TERM, 1, (entry.MarkItem(),)))
    assert entry.decode(mixed).items == (entry.MarkItem(),)
    with pytest.raises(Corrupt):
        entry.unpack_items(entry.pack_items([entry.MarkItem()]))  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("spoil", "law"),
    [
        (lambda r: {"policy": state.Policy(quarantined=True)}, "Policy.Quarantined is True in phase CLEAR"),
        (lambda r: {"boot": state.Boot(phase="LICENSED")}, "Boot.Licensed is False in phase LICENSED"),
        (lambda r: {"execution": state.Execution(phase="WORK")}, "execution in WORK without a plan"),
        (lambda r: {"lifecycle": state.Lifecycle()}, "execution in WORK while the lifecycle is in BOOT"),
        (lambda r: {"council": state.Council(phase="READY")}, "the certificate does not match the elected set"),
        (lambda r: {"hlc_last": state.HlcLast()}, "time went from"),
        (lambda r: {"epoch": {}}, "epochs are {}, expected was"),
        (lambda r: {"council": state.Council(planned_roles=("r",) * 65)}, "65 roles, at most 64 are kept"),
    ],
)
def test_each_law_stops_what_breaks_it(spoil: Any, law: str) -> None:
    solo = at_work().fork()
    before, row = solo.regions(), the_chart().project.transitions["CONTROL_PAUSED"]
    assert isinstance(solo.propose("CONTROL_PAUSED", {"reason": "audit"}), Accepted)
    after = solo.regions()
    invariants.check(row, before, after)
    with pytest.raises(InvariantBroken, match=law):
        invariants.check(row, before, msgspec.structs.replace(after, **spoil(after)))


# --- deterministic ----------------------------------------------------------------------------------------------------

REPLAY = """
import json, sys
from chaos.solo import Solo, the_chart
solo = Solo(the_chart())
for index, term, data in json.load(sys.stdin):
    solo.feed(index, term, bytes.fromhex(data))
told = [data.decode() for name in sorted(solo.source.records) for data in solo.source.records[name]]
print(json.dumps([solo.machine.cluster_hash, told, sorted(data.decode() for data in solo.source.decisions.values())]))
"""


def test_five_interpreters_with_five_hash_seeds_write_the_same_bytes() -> None:
    solo = Solo(the_chart())
    solo.project = "atlas"
    drive(solo, lambda r: len(r.execution.history) == 1)
    log = json.dumps([(index, term, data.hex()) for index, term, data in solo.log])
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", REPLAY],
            cwd=ROOT,
            env={"PYTHONHASHSEED": str(seed)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in (0, 1, 7, 42, 4_294_967_295)
    ]
    told = {run.communicate(log)[0] for run in runs}
    assert all(run.returncode == 0 for run in runs)
    (same,) = told
    cluster_hash, records, decisions = json.loads(same)
    assert cluster_hash == solo.machine.cluster_hash
    assert (
        len(records)
        == len(decisions)
        == len(solo.source.records["atlas"]) + len(solo.source.records.get("default", []))
    )


def test_a_machine_that_starts_in_the_middle_goes_on_alike() -> None:
    """State read back from rows is as good as state held in memory."""
    solo = Solo(the_chart())
    for _ in range(45):
        fork = solo.fork()
        assert fork.machine.cluster_hash == solo.machine.cluster_hash
        seen = len(solo.log)
        step(solo)
        for index, term, data in solo.log[seen:]:
            fork.feed(index, term, data)
        assert fork.machine.cluster_hash == solo.machine.cluster_hash


# --- what is pending --------------------------------------------------------------------------------------------------


class Leader:
    """A machine that judges each entry before it is committed, and may have several in flight."""

    def __init__(self, solo: Solo) -> None:
        self.machine: Machine = solo.machine
        self.pending: Pending = solo.machine.pending
        self._solo = solo
        self.flight: list[tuple[int, bytes]] = []

    def append(self, *items: Item) -> list[Any]:
        """Judge an entry on everything in flight, and send it on its way."""
        index = self.machine.position.index + len(self.flight) + 1
        place = Place(index, TERM, self._solo.machine.position.stamp_us + index)
        layer = self.pending.open()
        outcomes = [outcome for item in items for outcome in layer.judge(place, item)]
        data = entry.encode(LogEntry(self._solo.chart.hash, "n1", TERM, place.stamp_us, items))
        self.pending.push(place, data, layer, outcomes)
        self.flight.append((index, data))
        return outcomes

    def commit(self) -> Applied:
        """The oldest entry in flight comes back committed."""
        index, data = self.flight.pop(0)
        return self._solo.feed(index, TERM, data)


def toggles(solo: Solo, count: int) -> list[ProposalItem]:
    """Pause, resume, pause, …, each on the state the one before it leaves behind."""
    twin, items = solo.fork(), list[ProposalItem]()
    for number in range(count):
        sent = twin.document(("CONTROL_PAUSED", "CONTROL_RESUMED")[number % 2], {"reason": f"turn {number}"})
        items.append(twin.item(sent))
        twin.apply(items[-1])
    return items


def test_what_the_leader_judged_early_is_what_every_follower_applies() -> None:
    solo = at_work().fork()
    follower, leader = solo.fork(), Leader(solo)
    early = [leader.append(item) for item in toggles(solo, 6)]
    for judged in early:
        index, data = leader.flight[0]
        applied = leader.commit()
        assert list(applied.outcomes) == judged
        assert all(isinstance(outcome, Accepted) for outcome in judged)
        assert follower.feed(index, TERM, data) == applied
        assert follower.machine.cluster_hash == solo.machine.cluster_hash


def test_an_entry_in_flight_is_seen_by_the_next_and_by_nobody_else() -> None:
    solo = at_work().fork()
    leader, head = Leader(solo), solo.head()
    first, second = toggles(solo, 2)
    (accepted,) = leader.append(first)
    assert isinstance(accepted, Accepted)
    assert solo.head() == head, "not committed, not visible"
    assert leader.pending.open().ledger("default", accepted.idem_key) is not None
    assert solo.machine.ledger("default", accepted.idem_key) is None
    (stale,) = leader.pending.open().judge(Place(99, TERM, 2**60), solo.item(solo.document("CONTROL_PAUSED")))
    assert isinstance(stale, Refused) and stale.head == accepted.state_post_hash
    (again,) = leader.append(first)
    assert isinstance(again, Accepted) and again.duplicate
    assert isinstance(leader.append(second)[0], Accepted)


def test_a_leader_that_lost_the_log_forgets_what_it_judged() -> None:
    """Another entry arrives in place of the one in flight: all that was pending is judged anew."""
    solo = at_work().fork()
    follower, leader = solo.fork(), Leader(solo)
    first, second = toggles(solo, 2)
    leader.append(first)
    leader.append(second)
    index, stamp = solo.machine.position.index + 1, solo.machine.position.stamp_us + 1_000_000
    other = solo.item(solo.document("EXECUTION_PLAN_CHANGED", {"reason": "another leader said so"}))
    data = entry.encode(LogEntry(solo.chart.hash, "n2", TERM + 1, stamp, (other, second)))
    applied = solo.feed(index, TERM + 1, data)
    assert [type(outcome) for outcome in applied.outcomes] == [Accepted, Refused]
    assert follower.feed(index, TERM + 1, data) == applied
    assert leader.pending.open().project("default") is solo.machine.project("default")
    assert follower.machine.cluster_hash == solo.machine.cluster_hash


def test_facts_and_commands_in_flight_are_seen_by_the_next_entry() -> None:
    solo = Solo(the_chart())
    leader = Leader(solo)
    (taken,) = leader.append(solo.fact_item("capacity", "default", {"units_free": 4}))
    assert isinstance(taken, FactAccepted)
    layer = leader.pending.open()
    assert layer.registry.fact("capacity", "default") is not None
    assert solo.machine.registry.fact("capacity", "default") is None
    leader.append(solo.item(solo.document("IDENTITY_REVOKED", {"principal": solo.principals["probe"]})))
    assert leader.pending.open().registry.fact("capacity", "default") is None, "its provider is revoked"
    leader.commit()
    assert solo.machine.registry.fact("capacity", "default") is not None
