"""The history checker convicts what it should: one honest history, and one lie for each thing it can say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from chaos.history import Attempt, Event, Read, Verdict, check
from chaos.solo import Solo, the_chart
from swoosh import wal
from swoosh.outcome import Code
from swoosh.state import GENESIS_HASH
from swoosh.wal import WalRecord

Story = tuple[list[Attempt], list[Read], dict[str, bytes]]
PROJECT = "atlas"
STEPS = 6


@pytest.fixture(scope="module")
def chain() -> bytes:
    """A project that was created, then paused and resumed."""
    solo = Solo(the_chart())
    solo.propose("PROJECT_CREATED", {"brief": "history"}, project=PROJECT)
    for number in range(STEPS - 1):
        solo.propose("CONTROL_RESUMED" if number % 2 else "CONTROL_PAUSED", {"reason": "r"}, project=PROJECT)
    lines = solo.source.records[PROJECT]
    assert len(lines) == STEPS
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


def test_an_honest_history_is_believed(chain: bytes) -> None:
    assert check(honest(chain), {PROJECT: chain}) == []


def test_what_is_unknown_may_be_applied_or_not(chain: bytes) -> None:
    doubtful = changed(honest(chain), 3, verdict=Verdict.UNKNOWN, end=3.1)
    never = replace(attempt(doubtful, 3), key="never-seen-again")
    assert check([*doubtful, never], {PROJECT: chain}) == []


def test_a_refusal_after_an_acceptance_is_another_operation(chain: bytes) -> None:
    events = honest(chain)
    first = attempt(events, 2)
    reused = replace(first, inputs_hash="sha256-other", verdict=Verdict.REFUSED, code=Code.IDEM_KEY_REUSED)
    assert check([*events, reused], {PROJECT: chain}) == []


def refused(events: list[Event], start: float, head: str) -> Attempt:
    """A STALE_STATE that names a HEAD."""
    return Attempt(
        PROJECT, "x", "CONTROL_PAUSED", "h", "node-3", start, start + 0.05, Verdict.REFUSED, Code.STALE_STATE, head=head
    )


LIES: dict[str, Callable[[list[Event]], list[Event]]] = {
    "acknowledged and lost": lambda events: [*events, replace(attempt(events, 2), key="vanished")],
    "acknowledged otherwise": lambda events: changed(events, 2, state_post_hash="sha256-other"),
    "refused and applied": lambda events: changed(events, 4, verdict=Verdict.REFUSED, code=Code.GUARD_REJECTED),
    "nobody asked for it": lambda events: [event for event in events if event is not attempt(events, 5)],
    "a state that never was": lambda events: [*events, Read(PROJECT, "node-1", 9.0, 9.1, "sha256-dreamt")],
    "stale read": lambda events: [
        *events,
        Read(PROJECT, "node-1", 4.45, 4.47, attempt(events, 3).state_post_hash),
    ],
    "stale read: STALE_STATE": lambda events: [*events, refused(events, 4.45, attempt(events, 3).state_post_hash)],
    "read from the future": lambda events: [
        *events,
        Read(PROJECT, "node-1", 2.9, 2.95, attempt(events, 3).state_post_hash),
    ],
    "out of order": lambda events: changed(events, 2, start=3.41, end=3.42),
}


@pytest.mark.parametrize("said", LIES)
def test_a_lie_is_convicted(chain: bytes, said: str) -> None:
    faults = check(LIES[said](honest(chain)), {PROJECT: chain})
    assert any(fault.startswith(f"{PROJECT}: {said}") for fault in faults), faults


def without_a_record(lines: list[bytes]) -> list[bytes]:
    return lines[:2] + lines[3:]


def with_one_twice(lines: list[bytes]) -> list[bytes]:
    """The same key applied again, properly chained."""
    last = wal.decode(lines[-1])
    again = replace(
        last,
        seq=last.seq + 1,
        state_pre_hash=last.state_post_hash,
        state_post_hash="sha256-more",
        prev_record_hash=wal.record_hash(lines[-1]),
    )
    return [*lines, wal.encode(again)]


@pytest.mark.parametrize(
    ("damage", "said"), [(without_a_record, "broken chain"), (with_one_twice, "applied twice")], ids=["gap", "twice"]
)
def test_a_damaged_chain_is_convicted(chain: bytes, damage: Callable[[list[bytes]], list[bytes]], said: str) -> None:
    damaged = b"".join(line + b"\n" for line in damage(chain.splitlines()))
    faults = check(honest(chain), {PROJECT: damaged})
    assert any(fault.startswith(f"{PROJECT}: {said}") for fault in faults), faults
