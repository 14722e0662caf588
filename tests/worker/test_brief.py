"""The plan of a brief: which lines are tasks, what they are called, and which plans are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.worker.brief import NoPlan, plan_of
from swoosh.inputs import check_names

TITLES = st.lists(st.text("abc XYZ\u00e9\u65e5,.", min_size=1, max_size=20).map(str.strip), min_size=1, max_size=8)


def test_open_items_are_tasks_and_nothing_else_is() -> None:
    plan = plan_of(
        """# A parser

We will - [ ] not take this.

- [ ] Design the tree {#design}
  * [ ] Écrire la grammaire
+ [x] Choose a grammar
- [X] Choose another
- [ ]
- [] Not an item
```text
- [ ] An example
```
~~~
- [ ] Another
```
- [ ] Still code
~~~
1. [ ] Not of a checklist
"""
    )
    assert plan.tasks == {"design": "Design the tree", "ecrire-la-grammaire": "Écrire la grammaire"}


def test_a_task_keeps_its_name_when_others_come_and_go() -> None:
    before = plan_of("- [ ] One thing\n- [ ] Another thing\n").tasks
    after = plan_of("- [ ] Something new\n- [ ] Another thing\n- [x] One thing\n").tasks
    assert after.items() & before.items() == {("another-thing", "Another thing")}


def test_words_around_the_list_are_no_part_of_the_plan() -> None:
    assert plan_of("# One\n\n- [ ] a\n- [ ] b").plan_hash == plan_of("- [x] c\n- [ ] b\n\ntext\n- [ ] a").plan_hash
    assert plan_of("- [ ] a").plan_hash != plan_of("- [ ] a thing {#a}").plan_hash


def test_text_that_makes_no_name_is_named_by_its_hash() -> None:
    (one,) = plan_of("- [ ] \u65e5\u672c\u8a9e").tasks
    (other,) = plan_of("- [ ] \u4e2d\u6587").tasks
    (long,) = plan_of("- [ ] " + "very " * 30 + "long").tasks
    assert one.startswith("task-") and one != other
    assert len(long) < 80


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no open item"),
        ("- [x] done", "no open item"),
        ("- [ ] Do it\n- [ ] do it!", "two open items are called do-it"),
        ("\n".join(f"- [ ] task {number}" for number in range(10_001)), "at most 10000"),
    ],
)
def test_what_gives_no_plan_says_why(text: str, why: str) -> None:
    with pytest.raises(NoPlan, match=why):
        plan_of(text)


@given(TITLES)
def test_names_are_names_the_machine_takes_in_any_order(titles: list[str]) -> None:
    lines = [f"- [ ] {title}" for title in titles if title]
    try:
        plan = plan_of("\n".join(lines))
    except NoPlan:
        return
    check_names("tasks", *plan.tasks)
    assert plan_of("\n".join(reversed(lines))) == plan


def test_a_line_without_end_costs_no_more_than_its_length() -> None:
    plan = plan_of("- [ ] one" + " " * 500_000 + "{#" * 100_000 + "\n- [ ] two {#second}\n- [ ] {#alone}")
    assert list(plan.tasks)[1:] == ["second", "alone"]
