"""A picture of the machine shows the machine that runs, and where a project stands in it."""

import re

from cluster.config import packaged_chart
from swoosh.drawing import picture, to_dot, to_mermaid

CHART = packaged_chart()
AT_WORK = {
    "lifecycle": "EXECUTION",
    "ingestion": "READY",
    "execution": "WORK",
    "license": "ACTIVE",
    "pause": "RUNNING",
    "policy": "CLEAR",
}


def test_every_transition_is_somewhere_in_both_pictures() -> None:
    for text in (to_dot(CHART), to_mermaid(CHART)):
        for transition in CHART.project.transitions.values():
            short = transition.name.removeprefix(f"{transition.region.upper()}_")
            assert re.search(rf"\b({transition.name}|{short})\b", text), transition.name


def test_holds_stand_apart_and_say_what_they_hold() -> None:
    boxes = {box.name: box for box in picture(CHART).boxes}
    assert [name for name, box in boxes.items() if box.beside] == ["CONTROL", "POLICY"]
    (policy,) = boxes["POLICY"].regions
    holds = {phase.name: phase.holds for phase in policy.phases}
    assert holds == {"CLEAR": (), "QUARANTINED": ("PROJECT_LIFECYCLE", "EXECUTION")}


def test_the_loop_begins_at_plan_and_closes() -> None:
    (box,) = (box for box in picture(CHART).boxes if box.name == "EXECUTION")
    (execution,) = box.regions
    assert execution.initial == "PLAN"
    assert [phase.name for phase in execution.phases] == ["PLAN", "WORK", "REVIEW", "REVERB"]
    (closing,) = (edge for edge in execution.edges if (edge.source, edge.target) == ("REVERB", "PLAN"))
    assert "NEXT_WINDOW" in closing.names


def test_the_phases_of_a_project_are_lit_and_no_others() -> None:
    shown = picture(CHART, AT_WORK)
    lit = {(r.name, p.name) for box in shown.boxes for r in box.regions for p in r.phases if p.lit}
    assert lit == set(AT_WORK.items()) - {("lifecycle", "EXECUTION")}
    assert [box.name for box in shown.boxes if box.lit] == ["EXECUTION"]
    assert "class execution_WORK lit" in to_mermaid(CHART, AT_WORK)


def test_a_phase_that_holds_the_project_up_has_another_colour() -> None:
    text = to_mermaid(CHART, {**AT_WORK, "policy": "QUARANTINED"})
    assert "class policy_QUARANTINED stop" in text
    assert "class policy_CLEAR" not in text
    assert to_dot(CHART, {"policy": "QUARANTINED"}) != to_dot(CHART, {"policy": "CLEAR"}) != to_dot(CHART)


def test_mermaid_names_each_state_once() -> None:
    """Three regions have a phase READY; Mermaid would make one state of them."""
    names = re.findall(r'^state ".*" as (\w+)$', to_mermaid(CHART), re.MULTILINE)
    assert len(names) == len(set(names))
    assert {"ingestion_READY", "council_READY", "environment_READY"} <= set(names)
