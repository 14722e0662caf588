"""Two states, and what a person is told of their difference."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest

from chaos.solo import Solo, the_chart
from chaos.steer import agreement, drive
from swoosh import diff, state
from swoosh.machine import Layer
from swoosh.merkle import MerkleMap
from swoosh.outcome import Accepted, Change
from swoosh.reducer import Place
from swoosh.state import ProjectRegions


def between(before: ProjectRegions, after: ProjectRegions) -> dict[str, tuple[Any, Any]]:
    return {change.path: (change.before, change.after) for change in diff.changes(before, after)}


def served(regions: ProjectRegions) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: json.loads(b"".join(state.served(regions, name))) for name in state.SERVED[ProjectRegions].values()
    }
    return found


def patched(document: dict[str, Any], change: Change) -> None:
    """Write a change into what `GET /state` serves."""
    *parents, last = (key or name for key, name in re.findall(r"\[([^]]+)\]|([^.[]+)", change.path))
    for name in parents:
        document = document.setdefault(name, {})
    if change.after is None:
        document.pop(last, None)
    else:
        document[last] = json.loads(msgspec.json.encode(change.after))


def test_the_same_state_differs_in_nothing() -> None:
    assert between(ProjectRegions(), ProjectRegions()) == {}


def test_fields_go_by_their_served_names() -> None:
    before = ProjectRegions(council=state.Council(claims={"lead": state.Claim("alice", "p1")}))
    claims = {"lead": state.Claim("alice", "p2"), "second": state.Claim("bob", "p3")}
    after = ProjectRegions(council=state.Council(phase="ELECT", claims=claims), epoch={"Council": 1})
    assert between(before, after) == {
        "Council.Phase": ("PLAN_ROLES", "ELECT"),
        "Council.Claims[lead].Principal": ("p1", "p2"),
        "Council.Claims[second]": (None, {"Agent": "bob", "Principal": "p3"}),
        "Epoch[Council]": (None, 1),
    }


@pytest.mark.parametrize(("tasks", "said"), [(diff.ENTRIES_SHOWN, diff.ENTRIES_SHOWN), (diff.ENTRIES_SHOWN + 1, 1)])
def test_of_a_collection_only_so_much_is_said(tasks: int, said: int) -> None:
    many = MerkleMap({f"t{number}": state.Task("a task") for number in range(tasks)})
    found = between(ProjectRegions(execution=state.Execution(tasks=many)), ProjectRegions())
    assert len(found) == said
    if said == 1:
        assert found == {"Execution.Tasks": (f"{tasks} entries", "0 entries")}
    else:
        assert found["Execution.Tasks[t0]"][1] is None


def test_whatever_happens_in_a_projects_life_the_changes_lead_from_one_state_to_the_next() -> None:
    """Applied to what was served before, they give what is served after."""
    solo = Solo(the_chart(), settings={"window_source": "always_open"})
    drive(solo, lambda regions: regions.execution.phase == "PLAN", seats=1)
    plan = {"plan_hash": solo.named("plan"), "tasks": {f"t{number}": "a task" for number in range(20)}}
    solo.propose("EXECUTION_PLAN_LOCKED", agreement(solo.regions()) | plan)
    solo.propose("EXECUTION_TASK_CLAIMED", {"task": "t3"}, signer="alice")
    replayed = Solo(the_chart(), settings={"window_source": "always_open"})
    moved = 0
    for index, term, data in solo.log:
        before = replayed.regions()
        replayed.feed(index, term, data)
        document = served(before)
        for change in diff.changes(before, replayed.regions()):
            patched(document, change)
            moved += 1
        assert document == served(replayed.regions())
    assert moved > 100


def test_each_step_of_a_batch_is_explained_on_the_one_before_it() -> None:
    solo = Solo(the_chart())
    pause = solo.document("CONTROL_PAUSED", {"reason": "one"}, signer="op")
    resume = solo.document("CONTROL_RESUMED", {"reason": "two"}, signer="op", head="@prev")
    wrong = solo.document("CONTROL_RESUMED", {"reason": "x"}, signer="op", head="@prev")
    later = [{**document, "hlc": str(solo.next_hlc("default")._replace(counter=n))} for n, document in
             enumerate((pause, resume, wrong), 5)]  # fmt: skip
    layer = Layer(solo.machine, solo.chart)
    judged = layer.judge(Place(9, 1, solo.now_ms * 1000 + 1), solo.batch(later, "op"))
    first, second, third = layer.explained(judged)
    assert isinstance(first, Accepted) and isinstance(second, Accepted)
    assert Change("Pause.Phase", "RUNNING", "PAUSED") in (first.changes or ())
    assert Change("Pause.Phase", "PAUSED", "RUNNING") in (second.changes or ())
    assert third == judged[2]
