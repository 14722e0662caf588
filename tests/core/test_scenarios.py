"""The stories in tests/scenarios, and that together they tell of everything the machine may do.

After a wanted change of what is printed run `make scenarios`, read the diff, and understand every changed line before
you commit it. The language is that of scenario.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from chaos.solo import the_chart
from swoosh.catalog import GUARDS
from swoosh.outcome import Accepted, Code, ItemOutcome, Refused
from tests.core.scenario import Scenario, blocks, rewritten

FOLDER = Path(__file__).parent.parent / "scenarios"
STORIES = sorted(FOLDER.glob("*.txt"))
# Codes the reducer decides stand first in the list, and two it decides for what never should have entered the log.
DECIDED_BY_THE_REDUCER = {*list(Code)[: list(Code).index(Code.MALFORMED)], Code.MALFORMED, Code.INPUTS_HASH_MISMATCH}


@cache
def outcomes() -> tuple[ItemOutcome, ...]:
    """What every proposal and fact of every story came to."""
    found: list[ItemOutcome] = []
    for path in STORIES:
        scenario = Scenario(the_chart())
        for block in blocks(path.read_text(encoding="utf-8")):
            scenario.tell(block)
        found += scenario.outcomes
    return tuple(found)


def refusals() -> Iterable[Refused]:
    return (outcome for outcome in outcomes() if isinstance(outcome, Refused))


def demand(missing: set[str] | set[Code], what: str) -> None:
    assert not missing, f"{what}: {', '.join(sorted(missing))}; write a story in {FOLDER.name}/"


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_story(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    scenario = Scenario(the_chart())
    told = [(block, scenario.tell(block)) for block in blocks(text)]
    if os.environ.get("REWRITE"):
        path.write_text(rewritten(text, [output for _, output in told]), encoding="utf-8")
        return
    for block, output in told:
        assert output == block.expected, f"{path.name}:{block.line}: {' / '.join(block.head)}"


def test_every_transition_is_accepted_in_a_story() -> None:
    accepted = {outcome.transition for outcome in outcomes() if isinstance(outcome, Accepted)}
    demand({row.name for row in the_chart().transitions()} - accepted, "transitions no story sees accepted")


def test_every_transition_is_refused_in_a_wrong_phase() -> None:
    """But those of regions with a single phase, and PROJECT_CLOSED, which every phase but the last allows."""
    refused = {outcome.transition for outcome in refusals() if outcome.code is Code.WRONG_PHASE}
    open_everywhere = {"PROJECT_CLOSED", "POLICY_UPDATED"}
    demand(set(the_chart().project.transitions) - refused - open_everywhere, "transitions never tried in a wrong phase")


def test_every_guard_refuses_and_passes_in_a_story() -> None:
    judged = [guard for outcome in outcomes() for guard in getattr(outcome, "guard_outcomes", ())]
    demand(set(GUARDS) - {guard.name for guard in judged if guard.ok}, "guards that never pass")
    failing = {outcome.failing_guard or "" for outcome in refusals()}
    demand(set(GUARDS) - failing, "guards that are never the first to refuse")


def test_every_gate_refuses_in_a_story() -> None:
    told = " ".join(reason for outcome in refusals() for reason in outcome.reasons)
    demand(
        {gate.name for gate in the_chart().gates if f"gate {gate.name} is closed" not in told}, "gates never met closed"
    )


def test_every_code_of_the_reducer_is_in_a_story() -> None:
    demand(DECIDED_BY_THE_REDUCER - {outcome.code for outcome in refusals()}, "codes no story meets")


def test_a_guard_that_refuses_says_what_it_saw() -> None:
    silent = {
        guard.name
        for outcome in refusals()
        for guard in outcome.guard_outcomes
        if not guard.ok and not all(len(reason) > 12 for reason in guard.reasons or ("",))
    }
    demand(silent, "guards that refuse without saying what they saw")
