"""No state is a dead end, and nothing in the chart is out of reach.

From every state that a random legal walk comes to, a written policy (chaos/steer.py) leads to an accepted
EXECUTION_NEXT_WINDOW by legal moves, facts being free. It needs the operator for two things only: to lift the
operator's own pause, and to review where the council has a single seat. The two transitions that end a project on
purpose are left out of the walks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

from chaos.solo import CHART, Solo, the_chart
from chaos.steer import Move, await_window, next_move, step
from swoosh import wal
from swoosh.chart import Chart, Transition, load_chart
from swoosh.outcome import Accepted
from tests.properties.walk import ENDS, At, random_move

WALKS = [
    (seed, seats, source) for seed in range(4) for seats in (1, 3) for source in ("tidal", "backbeat", "always_open")
]
STEPS = 160
LOOK_EVERY = 8
MOVES_MAX = 150

Edge = tuple[str, str]


def taken(solo: Solo, move: Move) -> Edge | None:
    """The edge the move took, or None when it was refused."""
    row = the_chart().project.resolve(move.transition)
    assert row is not None
    for said in move.facts:
        solo.fact(*said)
    source = getattr(solo.regions(), row.region).phase
    window = "a-new-one" if row.name == "EXECUTION_NEXT_WINDOW" else None
    outcome = solo.propose(move.transition, move.inputs, signer=move.signer, window=window)
    return (row.name, source) if isinstance(outcome, Accepted) else None


def walk(at: At) -> Iterator[Edge]:
    """A walk of accepted moves, half of them sensible, half of them anybody's, the rarest attempts first."""
    attempts: Counter[Edge] = Counter()
    rows = [row for row in at.solo.chart.project.transitions.values() if row.name not in ENDS]
    for _ in range(STEPS):
        if at.rng.random() < 0.5:
            move = next_move(at.solo, at.seats)
        else:
            edges = {(row.name, getattr(at.r, row.region).phase): row for row in rows}
            fitting = sorted(edge for edge, row in edges.items() if edge[1] in row.sources and is_asked(at, row))
            chosen = min(fitting, key=lambda edge: (attempts[edge], at.rng.random()))
            attempts[chosen] += 1
            move = random_move(at, edges[chosen])
        row = at.solo.chart.project.resolve(move.transition)
        if row is not None and row.window and at.rng.random() < 0.9:
            await_window(at.solo, row.window)
        edge = taken(at.solo, move)
        if edge is not None:
            yield edge


def is_asked(at: At, row: Transition) -> bool:
    return all(getattr(at.r, region).phase in phases for region, phases in row.asks.items())


def leads_on(at: At) -> None:
    """The policy finds the next window from here, without the operator wherever it can do without."""
    fork, made = at.solo.fork(), list[Accepted]()
    while not made or made[-1].transition != "EXECUTION_NEXT_WINDOW":
        outcome = step(fork, seats=at.seats)
        assert isinstance(outcome, Accepted), f"blocked after {[each.transition for each in made]}: {outcome}"
        made.append(outcome)
        assert len(made) < MOVES_MAX, f"no next window: {[each.transition for each in made]}"
    if at.r.pause.phase != "PAUSED" and at.seats > 1:
        assert at.solo.principals["op"] not in {wal.decode(data).signer for data in since(at.solo, fork)}


def since(before: Solo, after: Solo) -> list[bytes]:
    """The records that a fork has and its origin has not."""
    records = after.source.records.get(after.project, [])
    return records[len(before.source.records.get(before.project, [])) :]


def ends(at: At) -> Iterator[Edge]:
    """The transitions that end a project, each tried on a fork of its own."""
    for name in ENDS:
        fork = at._replace(solo=at.solo.fork())
        row = the_chart().project.transitions[name]
        if getattr(at.r, row.region).phase in row.sources:
            edge = taken(fork.solo, random_move(fork, row))
            if edge is not None:
                yield edge


def beginning(seed: int, seats: int, source: str, chart: Chart | None = None) -> At:
    """A project nobody created yet, and the dice of one walk."""
    solo = Solo(chart or the_chart(), settings={} if source == "tidal" else {"window_source": source})
    solo.project = "atlas"
    return At(solo, Random(f"{seed}/{seats}/{source}"), seats)


@pytest.mark.parametrize(("seed", "seats", "source"), WALKS)
def test_from_every_state_there_is_a_way_to_the_next_window(seed: int, seats: int, source: str) -> None:
    at = beginning(seed, seats, source)
    for number, _ in enumerate(walk(at)):
        if number % LOOK_EVERY == 0:
            leads_on(at)


def test_nothing_in_the_chart_is_out_of_reach() -> None:
    """Every transition is accepted from every phase it lists, somewhere on the walks above."""
    seen: set[Edge] = set()
    for seed, seats, source in WALKS:
        at = beginning(seed, seats, source)
        for number, edge in enumerate(walk(at)):
            seen.add(edge)
            if number % LOOK_EVERY == 0 or at.r.lifecycle.phase == "BOOT":
                seen.update(ends(at))
    listed = {(row.name, phase) for row in the_chart().project.transitions.values() for phase in row.sources}
    missed = sorted(listed - seen)
    assert not missed, f"the chart lists what cannot happen, or the walks are too tame: {missed}"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("blocks: [lifecycle, ingestion, council, environment, execution, license]", None),
        ("from: [PROVISION]\n      to: ALLOCATE", "from: [PROVISION, DEGRADED]\n      to: ALLOCATE"),
        ("from: [TOOLING_SYNC]\n      to: READY", "from: [TOOLING_SYNC, READY]\n      to: READY"),
    ],
    ids=[
        "a hold that blocks what lifts it",
        "a degraded environment cannot be given up",
        "a council is ready once only",
    ],
)
def test_a_chart_with_a_dead_end_is_found_out(wrong: str, right: str | None) -> None:
    """The property can fail: charts that would strand a project, each by one small mistake."""
    text = CHART.read_text(encoding="utf-8")
    found = right or "blocks: [lifecycle, ingestion, council, environment, execution]"
    assert found in text, "the chart is written otherwise now; mend this test"
    broken = load_chart(text.replace(found, wrong))
    with pytest.raises(AssertionError, match=r"blocked after|no next window"):
        for seed, seats, source in WALKS:
            at = beginning(seed, seats, source, broken)
            for number, _ in enumerate(walk(at)):
                if number % LOOK_EVERY == 0:
                    leads_on(at)
