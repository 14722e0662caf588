"""The history checker convicts what it should: one honest history, and one lie for each thing it can say.

On small random histories it is held against an exhaustive search for an order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from math import inf

import pytest
from msgspec.structs import replace

from chaos.history import (
    Attempt,
    Event,
    Kind,
    Minimum,
    Read,
    Verdict,
    Violation,
    check,
    shortfalls,
)
from chaos.solo import Solo, the_chart
from swoosh import wal
from swoosh.hlc import HLC
from swoosh.outcome import Code
from swoosh.state import GENESIS_HASH
from swoosh.wal import WalRecord

PROJECT = "atlas"
STEPS = 6
SMALL_HISTORIES = 3_000


@pytest.fixture(scope="module")
def chain() -> bytes:
    """A project that was created, then paused and resumed."""
    solo = Solo(the_chart())
    solo.propose("PROJECT_CREATED", {"brief": "history"}, project=PROJECT)
    for number in range(STEPS - 1):
        solo.propose("CONTROL_RESUMED" if number % 2 else "CONTROL_PAUSED", {"reason": "r"}, project=PROJECT)
    lines = solo.source.records[PROJECT]
    assert len(lines) == STEPS
    return joined(lines)


def joined(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def records(chain: bytes) -> list[WalRecord]:
    return [wal.decode(line) for line in chain.splitlines()]


def honest(chain: bytes) -> list[Event]:
    """Record n was proposed at n.0 and acknowledged at n.4; the state it led to was read from n.5 to n.6."""
    events: list[Event] = [Read(PROJECT, "node-1", 0.0, 0.1, GENESIS_HASH)]
    for record in records(chain):
        events.append(
            Attempt(
                project=PROJECT,
                key=record.idem_key,
                transition=record.transition_name,
                inputs_hash=record.inputs_hash,
                node="node-1",
                start=record.seq,
                end=record.seq + 0.4,
                verdict=Verdict.ACCEPTED,
                state_pre_hash=record.state_pre_hash,
                state_post_hash=record.state_post_hash,
                seq=record.seq,
            )
        )
        events.append(Read(PROJECT, "node-2", record.seq + 0.5, record.seq + 0.6, record.state_post_hash))
    return events


def attempt(events: list[Event], seq: int) -> Attempt:
    return next(event for event in events if isinstance(event, Attempt) and event.seq == seq)


def changed(events: list[Event], seq: int, **changes: object) -> list[Event]:
    """The history with one attempt told otherwise."""
    told = attempt(events, seq)
    return [replace(event, **changes) if event is told else event for event in events]


def judged(events: list[Event], *copies: bytes, converged: bool = False) -> list[Violation]:
    dumps = {f"node-{number}": {PROJECT: copy} for number, copy in enumerate(copies, start=1)}
    return check(events, dumps, converged=converged).violations


def kinds(violations: list[Violation]) -> set[Kind]:
    return {violation.kind for violation in violations}


# --- what is believed -------------------------------------------------------------------------------------------------


def test_an_honest_history_is_believed(chain: bytes) -> None:
    assert judged(honest(chain), chain, chain, converged=True) == []


def test_what_is_unknown_may_be_applied_or_not(chain: bytes) -> None:
    doubtful = changed(honest(chain), 3, verdict=Verdict.UNKNOWN, end=3.1)
    never = replace(attempt(doubtful, 3), key="never-seen-again")
    assert judged([*doubtful, never], chain) == []


def test_a_refusal_after_an_acceptance_is_another_operation(chain: bytes) -> None:
    events = honest(chain)
    reused = replace(
        attempt(events, 2), start=7, end=8, inputs_hash="other", verdict=Verdict.REFUSED, code=Code.IDEM_KEY_REUSED
    )
    assert judged([*events, reused], chain) == []


def test_a_duplicate_counts_from_its_first_attempt_to_its_first_acknowledgement(chain: bytes) -> None:
    """Asked at 1.1, in doubt; what it led to was read before it was asked again and acknowledged."""
    events = honest(chain)
    second = attempt(events, 2)
    again = [replace(second, start=1.1, end=1.2, verdict=Verdict.UNKNOWN), replace(second, start=5.0, end=5.1)]
    others = [event for event in events if event is not second]
    assert judged([*others, *again], chain) == []
    assert kinds(judged([*others, again[1]], chain)) == {Kind.OUT_OF_ORDER}


def test_a_read_may_be_as_old_as_it_says(chain: bytes) -> None:
    old = Read(PROJECT, "node-3", 5.0, 5.1, records(chain)[1].state_post_hash)
    assert judged([*honest(chain), replace(old, staleness=2.0)], chain) == []
    assert kinds(judged([*honest(chain), replace(old, staleness=1.0)], chain)) == {Kind.STALE_READ}


def test_who_saw_what_is_unknown_proves_it(chain: bytes) -> None:
    """An old read showed record 3, which nobody acknowledged: nobody may be shown record 2 from then on."""
    doubtful = [event for event in changed(honest(chain), 3, verdict=Verdict.UNKNOWN) if event.start < 3.1]
    seen = Read(PROJECT, "node-1", 3.5, 3.6, records(chain)[2].state_post_hash, staleness=5.0)
    stale = Read(PROJECT, "node-2", 3.7, 3.8, records(chain)[1].state_post_hash)
    short = joined(chain.splitlines()[:3])
    assert judged([*doubtful, stale], short) == []
    assert kinds(judged([*doubtful, seen, stale], short)) == {Kind.STALE_READ}


def test_nodes_may_be_behind_and_may_have_cut_their_past(chain: bytes) -> None:
    lines = chain.splitlines()
    behind, cut = joined(lines[:4]), joined(lines[2:])
    assert judged(honest(chain), behind, cut) == []
    assert kinds(judged(honest(chain), behind, cut, converged=True)) == {Kind.NOT_CONVERGED}


def test_what_lies_before_the_base_is_counted_and_what_is_old_for_certain_convicted(chain: bytes) -> None:
    cut = joined(chain.splitlines()[3:])
    found = check(honest(chain), {"node-1": {PROJECT: cut}})
    assert found.violations == []
    assert found.counts["unverifiable"] == 3 + 3, "three acknowledgements, three reads"
    late = Read(PROJECT, "node-1", 5.0, 5.1, GENESIS_HASH)
    assert kinds(judged([*honest(chain), late], cut)) == {Kind.STALE_READ}


# --- what is convicted ------------------------------------------------------------------------------------------------


def refused(events: list[Event], start: float, head: str) -> Attempt:
    """A STALE_STATE that names a HEAD."""
    return Attempt(
        PROJECT, "x", "CONTROL_PAUSED", "h", "node-3", start, start + 0.05, Verdict.REFUSED, Code.STALE_STATE, head=head
    )


def read(events: list[Event], seq: int, start: float, end: float, **more: object) -> Read:
    """Somebody saw what record ``seq`` led to."""
    return replace(Read(PROJECT, "node-1", start, end, attempt(events, seq).state_post_hash), **more)


LIES: list[tuple[str, Kind, Callable[[list[Event]], list[Event]]]] = [
    ("of a key", Kind.LOST, lambda events: [*events, replace(attempt(events, 2), key="vanished")]),
    ("of a state", Kind.OTHERWISE, lambda events: changed(events, 2, state_post_hash="sha256-other")),
    (
        "two told the same",
        Kind.FORKED_ANSWERS,
        lambda events: [*events, replace(attempt(events, 2), key="twin", state_post_hash="sha256-other")],
    ),
    (
        "one told two things",
        Kind.FORKED_ANSWERS,
        lambda events: [*events, replace(attempt(events, 2), state_post_hash="sha256-other", start=8, end=9)],
    ),
    (
        "of a guard",
        Kind.REFUSED_APPLIED,
        lambda events: changed(events, 4, verdict=Verdict.REFUSED, code=Code.GUARD_REJECTED),
    ),
    (
        "forgotten key",
        Kind.APPLIED_REFUSED,
        lambda events: [
            *events,
            replace(attempt(events, 2), start=8, end=9, verdict=Verdict.REFUSED, code=Code.STALE_STATE),
        ],
    ),
    ("unasked", Kind.UNASKED, lambda events: [event for event in events if event is not attempt(events, 5)]),
    ("dreamt", Kind.NEVER_WAS, lambda events: [*events, Read(PROJECT, "node-1", 9.0, 9.1, "sha256-dreamt")]),
    ("old", Kind.STALE_READ, lambda events: [*events, read(events, 3, 4.45, 4.47)]),
    (
        "old refusal",
        Kind.STALE_READ,
        lambda events: [*events, refused(events, 4.45, attempt(events, 3).state_post_hash)],
    ),
    ("early", Kind.FUTURE_READ, lambda events: [*events, read(events, 3, 2.9, 2.95)]),
    ("late", Kind.OUT_OF_ORDER, lambda events: changed(events, 2, start=3.41, end=3.42)),
    (
        "node forgot",
        Kind.NODE_WENT_BACK,
        lambda events: [*events, read(events, 4, 4.7, 4.8, staleness=5.0), read(events, 3, 4.9, 5.0, staleness=5.0)],
    ),
    (
        "session forgot",
        Kind.SESSION_WENT_BACK,
        lambda events: [
            *changed(events, 4, session="s"),
            read(events, 3, 4.9, 5.0, node="node-3", staleness=5.0, session="s"),
        ],
    ),
]


@pytest.mark.parametrize("kind, lie", [(kind, lie) for _, kind, lie in LIES], ids=[name for name, _, _ in LIES])
def test_a_lie_is_convicted(chain: bytes, kind: Kind, lie: Callable[[list[Event]], list[Event]]) -> None:
    found = judged(lie(honest(chain)), chain)
    assert kind in kinds(found), found


def test_what_keeps_no_history_may_be_proposed_by_name(chain: bytes) -> None:
    """Nobody needs to have asked for it; a caller who was refused it is still believed."""
    whole = honest(chain)
    without = [event for event in whole if event is not attempt(whole, 5)]
    its = frozenset({attempt(whole, 5).transition})
    dumps = {"node-1": {PROJECT: chain}}
    assert check(without, dumps, unrecorded=its).violations == []
    assert kinds(check(without, dumps, unrecorded=frozenset({"OTHER"})).violations) == {Kind.UNASKED}
    refused = changed(whole, 5, verdict=Verdict.REFUSED, code=Code.GUARD_REJECTED)
    assert Kind.REFUSED_APPLIED in kinds(check(refused, dumps, unrecorded=its).violations)


@pytest.mark.parametrize("code", [*Code])
def test_a_doubled_request_may_be_judged_otherwise_the_second_time_but_only_for_a_time_or_a_fact(
    chain: bytes, code: Code
) -> None:
    refused = changed(honest(chain), 5, verdict=Verdict.REFUSED, code=code)
    dumps = {"node-1": {PROJECT: chain}}
    assert Kind.REFUSED_APPLIED in kinds(check(refused, dumps).violations)
    excused = Kind.REFUSED_APPLIED not in kinds(check(refused, dumps, doubled=True).violations)
    assert excused == (code in (Code.HLC_SKEW, Code.GUARD_REJECTED))


def test_a_doubled_request_that_was_refused_first_began_when_it_was_sent(chain: bytes) -> None:
    """Refused, applied by its copy and followed by another; then its caller asks again, and is told."""
    whole = honest(chain)
    refused = replace(attempt(whole, 5), verdict=Verdict.REFUSED, code=Code.HLC_SKEW)
    later = changed(whole, 5, start=20.0, end=20.1)
    dumps = {"node-1": {PROJECT: chain}}
    assert Kind.OUT_OF_ORDER in kinds(check([refused, *later], dumps).violations)
    assert check([refused, *later], dumps, doubled=True).violations == []


def relinked(changed_records: list[WalRecord]) -> list[bytes]:
    """These records, each properly chained to the one before it: what only a look at their content convicts."""
    lines: list[bytes] = []
    for record in changed_records:
        before = wal.record_hash(lines[-1]) if lines else record.prev_record_hash
        lines.append(wal.encode(replace(record, prev_record_hash=before)))
    return lines


def without_a_record(found: list[WalRecord]) -> list[bytes]:
    return [wal.encode(record) for record in found[:2] + found[3:]]


def misnumbered(found: list[WalRecord]) -> list[bytes]:
    return relinked([*found[:-1], replace(found[-1], seq=found[-1].seq + 1)])


def with_one_twice(found: list[WalRecord]) -> list[bytes]:
    last = found[-1]
    more = {"seq": last.seq + 1, "state_pre_hash": last.state_post_hash, "state_post_hash": "sha256-more"}
    return relinked([*found, replace(last, **more)])


def back_at_the_start(found: list[WalRecord]) -> list[bytes]:
    return relinked([*found[:-1], replace(found[-1], state_post_hash=found[0].state_post_hash)])


def back_in_time(found: list[WalRecord]) -> list[bytes]:
    earlier = HLC.parse(found[-2].hlc)
    return relinked([*found[:-1], replace(found[-1], hlc=str(HLC(earlier.ms - 1, 0)))])


def tied(found: list[WalRecord]) -> list[bytes]:
    """The same HLC, and a signer that is not after the one before."""
    return relinked([*found[:-1], replace(found[-1], hlc=found[-2].hlc, signer="")])


def from_the_future(found: list[WalRecord]) -> list[bytes]:
    ahead = HLC(found[-1].timestamp // 1000 + 60_000, 0)
    return relinked([*found[:-1], replace(found[-1], hlc=str(ahead))])


def two_epochs_on(found: list[WalRecord]) -> list[bytes]:
    epochs = {region: epoch + 1 for region, epoch in found[-1].epochs.items()}
    return relinked([*found[:-1], replace(found[-1], epochs=epochs)])


def against_a_guard(found: list[WalRecord]) -> list[bytes]:
    first, *others = found[-1].guard_outcomes
    return relinked([*found[:-1], replace(found[-1], guard_outcomes=(replace(first, ok=False), *others))])


DAMAGE = [
    (without_a_record, Kind.BROKEN_CHAIN),
    (misnumbered, Kind.BROKEN_CHAIN),
    (with_one_twice, Kind.APPLIED_TWICE),
    (back_at_the_start, Kind.REPEATED_STATE),
    (back_in_time, Kind.TIME_RAN_BACK),
    (tied, Kind.TIME_RAN_BACK),
    (from_the_future, Kind.AHEAD_OF_TIME),
    (two_epochs_on, Kind.EPOCH_SKIPPED),
    (against_a_guard, Kind.GUARD_FAILED),
]


@pytest.mark.parametrize("damage, kind", DAMAGE, ids=[damage.__name__ for damage, _ in DAMAGE])
def test_a_chain_no_node_may_hold_is_convicted(
    chain: bytes, damage: Callable[[list[WalRecord]], list[bytes]], kind: Kind
) -> None:
    found = judged(honest(chain), joined(damage(records(chain))))
    assert kind in kinds(found), found


def test_every_kind_of_violation_is_planted_here() -> None:
    planted = {kind for _, kind, _ in LIES} | {kind for _, kind in DAMAGE}
    assert planted | {Kind.FORKED, Kind.NOT_CONVERGED} == set(Kind)


def test_a_damaged_copy_condemns_itself_alone(chain: bytes) -> None:
    found = judged(honest(chain), chain, joined(without_a_record(records(chain))))
    assert [violation.kind for violation in found] == [Kind.BROKEN_CHAIN]
    assert "node-2" in str(found[0])


def test_a_fork_is_convicted_and_the_shorter_branch_is_lost(chain: bytes) -> None:
    """Whoever was acknowledged on the branch that is not followed has lost what it was promised."""
    found = records(chain)
    other = replace(found[3], idem_key="other", state_post_hash="sha256-branch")
    branch = joined(relinked([*found[:3], other]))
    told = attempt(honest(chain), 4)
    heard = replace(told, key="other", state_post_hash="sha256-branch", start=4.1, end=4.2)
    assert kinds(judged([*honest(chain), heard], chain, branch)) == {Kind.FORKED, Kind.FORKED_ANSWERS, Kind.LOST}


# --- against an exhaustive search -------------------------------------------------------------------------------------


def test_exactly_what_an_exhaustive_search_cannot_order_is_convicted(chain: bytes) -> None:
    """Attempts of three keys, some twice, some in doubt, and reads, at random times, of random states."""
    found = records(chain)[:3]
    short = joined(chain.splitlines()[:3])
    verdicts = {True: 0, False: 0}
    for seed in range(SMALL_HISTORIES):
        events = a_small_history(found, random.Random(seed))
        possible = some_order_exists(events, found)
        real_time = {Kind.OUT_OF_ORDER, Kind.FUTURE_READ, Kind.STALE_READ}
        said = kinds(judged(events, short)) & real_time
        assert (not said) == possible, f"seed {seed}: {said or 'believed'}, but an order exists: {possible}: {events}"
        verdicts[possible] += 1
    print(verdicts)
    assert min(verdicts.values()) > SMALL_HISTORIES // 10, verdicts


def a_small_history(found: list[WalRecord], chance: random.Random) -> list[Event]:
    events: list[Event] = []
    spread = chance.choice([1.0, 2.0, 4.0])
    for record in found:
        for _ in range(chance.choice([1, 1, 2])):
            start = record.seq * spread + chance.uniform(-2, 2)
            verdict = Verdict.ACCEPTED if chance.random() < 0.6 else Verdict.UNKNOWN
            events.append(
                Attempt(
                    PROJECT,
                    record.idem_key,
                    record.transition_name,
                    record.inputs_hash,
                    "node-1",
                    start,
                    start + chance.uniform(0.1, 3),
                    verdict,
                    state_pre_hash=record.state_pre_hash,
                    state_post_hash=record.state_post_hash,
                    seq=record.seq,
                )
            )
    states = [found[0].state_pre_hash, *(record.state_post_hash for record in found)]
    for _ in range(chance.choice([0, 1, 2, 2])):
        position = chance.randrange(len(states))
        start, staleness = (position + 0.5) * spread + chance.uniform(-2, 2), chance.choice([0.0, 0.0, 1.5])
        end = start + chance.uniform(0.1, 2)
        events.append(Read(PROJECT, "node-2", start, end, states[position], staleness=staleness))
    return events


def some_order_exists(events: list[Event], found: list[WalRecord]) -> bool:
    """Try every order of attempts and reads that respects real time, against the plain meaning of each.

    An attempt applies its record on the state before it, finds it applied already, or, if it is in doubt, does nothing.
    """
    places = {record.idem_key: record.seq for record in found}
    states = {found[0].state_pre_hash: 0, **{record.state_post_hash: record.seq for record in found}}
    doubtful = [event for event in events if isinstance(event, Attempt) and event.verdict is Verdict.UNKNOWN]

    def starts(event: Event) -> float:
        return event.start - event.staleness if isinstance(event, Read) else event.start

    def ends(event: Event) -> float:
        return inf if event in doubtful else event.end

    def after(event: Event, position: int) -> list[int]:
        """The positions it may leave behind; none where it cannot come here."""
        if isinstance(event, Read):
            return [position] if states[event.state_hash] == position else []
        place = places[event.key]
        applied = [place] if position == place - 1 else []
        idle = [position] if position >= place or event in doubtful else []
        return applied + idle

    def order(left: list[Event], position: int) -> bool:
        if not left:
            return position == len(found)
        first_end = min(ends(event) for event in left)
        return any(
            order([other for other in left if other is not event], reached)
            for event in left
            if starts(event) <= first_end
            for reached in after(event, position)
        )

    return order(events, 0)


# --- runs that prove nothing ------------------------------------------------------------------------------------------


def test_a_run_that_proves_nothing_is_not_called_a_success(chain: bytes) -> None:
    events = honest(chain)
    assert shortfalls(events, Minimum(acknowledged=STEPS, unknown=0, reads=STEPS, nodes=1)) == []
    assert shortfalls(events, Minimum(acknowledged=100, unknown=1, reads=STEPS, nodes=2)) == [
        f"acknowledged: {STEPS}, at least 100 are needed",
        "unknown: 0, at least 1 are needed",
        "nodes: 1, at least 2 are needed",
    ]


def test_what_was_held_against_what_is_counted(chain: bytes) -> None:
    doubtful = changed(honest(chain), 3, verdict=Verdict.UNKNOWN)
    counts = check(doubtful, {"node-1": {PROJECT: chain}}).counts
    assert counts == {
        "records": STEPS,
        "acknowledged": STEPS - 1,
        "unknown": 1,
        "unknown, and applied": 1,
        "reads": STEPS + 1,
        "unverifiable": 0,
    }
