"""One turn of the loop: a plan is locked on what it rests on, work is claimed, judged by others, and handed over."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swoosh import quorum
from swoosh.catalog import Context, Registry
from swoosh.merkle import MerkleMap
from swoosh.regions.execution import APPROVE, REJECT, Jury
from swoosh.state import Council, Environment, Execution, Ingestion, Member, Plan, ProjectRegions, Task, Verdict
from tests.core.contexts import NOW, after, context, fact, first_refusal, h, holds, judge, registry, who

PINS: dict[str, Any] = {"content_hash": h("content"), "member_set_hash": h("members"), "environment_hash": h("env")}
ALWAYS: dict[str, Any] = {"window_source": "always_open"}
SEATS = ("alice", "bob", "carol")


def regions(*seats: str, phase: str = "WORK", plan: Any = None, **tasks: Any) -> ProjectRegions:
    """A project whose council has these people and whose plan has these tasks."""
    return ProjectRegions(
        ingestion=Ingestion(phase="READY", content_hash=h("content")),
        council=Council(
            phase="READY",
            members=tuple(Member(f"role-{name}", name, who(name)) for name in sorted(seats or SEATS)),
            member_set_hash=h("members"),
            basis=h("content"),
        ),
        environment=Environment(phase="READY", environment_hash=h("env"), basis=h("content")),
        execution=Execution(
            phase=phase,
            plan=Plan(plan_hash=h("plan"), **PINS, window_id="w1", **(plan or {})),
            tasks=MerkleMap(tasks),
            active_window_id="w1",
        ),
    )


def done(owner: str, **verdicts: str) -> Task:
    """A finished task with people's verdicts."""
    words = {who(name): Verdict(word, "" if word == APPROVE else f"{name} minds") for name, word in verdicts.items()}
    return Task("t", "DONE", who(owner), evidence="ucxl://done", verdicts=words)


def claimed(owner: str, **limits: Any) -> Task:
    return Task("t", "CLAIMED", who(owner), **limits)


def on(*facts: Any, revoked: tuple[str, ...] = (), **settings: Any) -> Registry:
    return registry(*facts, settings={**ALWAYS, **settings}, revoked=revoked)


def act(transition: str, inputs: dict[str, Any], held: ProjectRegions, signer: str = "alice", **how: Any) -> Context:
    how.setdefault("on", on())
    return context(transition, inputs, regions=held, signer=signer, window=how.pop("window", "w1"), **how)


def beat(index: int) -> Any:
    return fact(
        "beat",
        "backbeat",
        life_ms=10**9,
        cluster_id="lab",
        beat_index=index,
        downbeat=False,
        phase="plan",
        deadline_at=NOW + 1,
        tempo_mbpm=1_000,
        window_id="w1",
    )


# --- plan -------------------------------------------------------------------------------------------------------------

LOCK = {**PINS, "plan_hash": h("plan"), "tasks": {"t1": "first", "t2": "second"}}


def test_locking_pins_the_hashes_and_opens_every_task() -> None:
    held = replace(regions(), execution=Execution(phase="PLAN"))
    execution = after(act("EXECUTION_PLAN_LOCKED", LOCK, held, "pam", window="w9")).execution
    assert execution.plan is not None
    assert execution.plan.member_set_hash == h("members")
    assert (execution.plan.window_id, execution.active_window_id) == ("w9", "w9")
    assert {name: task.state for name, task in execution.tasks.items()} == {"t1": "OPEN", "t2": "OPEN"}


def test_a_plan_without_bounds_has_no_deadline_and_one_with_bounds_counts_from_now() -> None:
    held = replace(regions(), execution=Execution(phase="PLAN"))
    free = after(act("EXECUTION_PLAN_LOCKED", LOCK, held, "pam", on=on(beat(40)))).execution.plan
    assert free is not None
    assert (free.deadline_beat, free.deadline_ms) == (0, 0)
    bound = {**LOCK, "plan_beats": 8, "plan_ms": 500, "claim_beats": 2, "claim_ms": 100}
    plan = after(act("EXECUTION_PLAN_LOCKED", bound, held, "pam", on=on(beat(40)))).execution.plan
    assert plan is not None
    assert (plan.deadline_beat, plan.deadline_ms) == (48, NOW + 500)
    assert (plan.claim_beats, plan.claim_ms) == (2, 100)


@pytest.mark.parametrize(
    "changed",
    [
        {"tasks": {}},
        {"tasks": {"a task": "x"}},
        {"tasks": {"t": ""}},
        {"plan_hash": "?"},
        {"claim_ms": -1},
        {"by": "me"},
    ],
)
def test_a_plan_out_of_form_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        context("EXECUTION_PLAN_LOCKED", {**LOCK, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"ingestion": Ingestion(content_hash=h("v2"))},
        {"council": Council(member_set_hash=h("others"))},
        {"environment": Environment(environment_hash=h("rebuilt"))},
    ],
)
def test_nothing_goes_on_under_a_plan_that_lost_a_pin(changed: dict[str, Any]) -> None:
    held = replace(regions(t1=Task("t")), **changed)
    c = act("EXECUTION_TASK_CLAIMED", {"task": "t1"}, held)
    assert first_refusal(c) == "pins_hold"
    dropped = after(context("EXECUTION_PLAN_CHANGED", {"reason": "moved on"}, regions=held, signer="op")).execution
    assert (dropped.plan, len(dropped.tasks)) == (None, 0)


# --- work -------------------------------------------------------------------------------------------------------------


def test_a_member_takes_an_open_task_for_as_long_as_the_plan_grants() -> None:
    held = regions(plan={"claim_beats": 2, "claim_ms": 100}, t1=Task("t"))
    task = after(act("EXECUTION_TASK_CLAIMED", {"task": "t1"}, held, on=on(beat(7)))).execution.tasks["t1"]
    assert (task.state, task.owner, task.expires_beat, task.expires_ms) == ("CLAIMED", who("alice"), 9, NOW + 100)


@pytest.mark.parametrize(
    ("task", "signer", "refusal"),
    [
        ("t1", "alice", None),
        ("t1", "op", "agent_seated"),
        ("t1", "stranger", "agent_seated"),
        ("t9", "alice", "task_open"),
        ("taken", "alice", "task_open"),
        ("made", "alice", "task_open"),
    ],
)
def test_who_may_claim_what(task: str, signer: str, refusal: str | None) -> None:
    held = regions(t1=Task("t"), taken=claimed("bob"), made=done("bob"))
    assert first_refusal(act("EXECUTION_TASK_CLAIMED", {"task": task}, held, signer)) == refusal


def test_what_a_revoked_agent_claimed_is_open() -> None:
    held = regions(t1=claimed("bob"))
    c = act("EXECUTION_TASK_CLAIMED", {"task": "t1"}, held, on=on(revoked=("bob",)))
    assert after(c).execution.tasks["t1"].owner == who("alice")


def test_only_the_owner_completes() -> None:
    held = regions(t1=claimed("alice"))
    result = {"task": "t1", "evidence": "ucxl://done"}
    assert first_refusal(act("EXECUTION_TASK_COMPLETED", result, held, "bob")) == "task_owner"
    completed = after(act("EXECUTION_TASK_COMPLETED", result, held))
    assert completed.execution.tasks["t1"].state == "DONE"
    assert first_refusal(act("EXECUTION_TASK_COMPLETED", result, completed)) == "task_owner"


@pytest.mark.parametrize(
    ("signer", "task", "how", "released"),
    [
        ("alice", claimed("alice"), {}, True),
        ("bob", claimed("alice"), {}, False),
        ("op", claimed("alice"), {}, True),
        ("n1", claimed("alice"), {}, False),
        ("n1", claimed("alice", expires_ms=NOW), {}, True),
        ("n1", claimed("alice", expires_ms=NOW + 1), {}, False),
        ("n1", claimed("alice", expires_beat=7), {"on": on(beat(7))}, True),
        ("n1", claimed("alice", expires_beat=8), {"on": on(beat(7))}, False),
        ("n1", claimed("alice"), {"on": on(revoked=("alice",))}, True),
        ("op", Task("t"), {}, False),
        ("op", done("alice"), {}, False),
    ],
)
def test_a_claim_ends_by_its_owner_its_time_or_an_operator(
    signer: str, task: Task, how: dict[str, Any], released: bool
) -> None:
    c = act("EXECUTION_TASK_RELEASED", {"task": "t1"}, regions(t1=task), signer, **how)
    assert (first_refusal(c) is None) is released
    if released:
        free = after(c).execution.tasks["t1"]
        assert (free.state, free.owner, free.releases, free.expires_ms) == ("OPEN", "", 1, 0)


@pytest.mark.parametrize(
    ("plan", "tasks", "opens"),
    [
        ({}, {"t1": done("alice"), "t2": done("bob")}, True),
        ({}, {"t1": done("alice"), "t2": claimed("bob")}, False),
        ({"deadline_ms": NOW}, {"t1": Task("t")}, True),
        ({"deadline_ms": NOW + 1}, {"t1": Task("t")}, False),
        ({"deadline_beat": 7}, {"t1": Task("t")}, True),
        ({"deadline_beat": 8}, {"t1": Task("t")}, False),
    ],
)
def test_review_opens_when_work_or_time_is_over(plan: dict[str, int], tasks: Any, opens: bool) -> None:
    c = act("EXECUTION_REVIEW_OPENED", {}, regions(plan=plan, **tasks), "pam", on=on(beat(7)))
    assert holds("tasks_done_or_deadline", c) is opens


# --- review -----------------------------------------------------------------------------------------------------------


def verdict(word: str, *tasks: str) -> dict[str, Any]:
    return {"verdict": word, "tasks": list(tasks), "reason": "because"}


@pytest.mark.parametrize(
    ("signer", "word", "task", "refusal"),
    [
        ("bob", APPROVE, "t1", None),
        ("bob", REJECT, "t1", None),
        ("alice", APPROVE, "t1", "not_own_work"),
        ("op", APPROVE, "t1", "reviewer"),
        ("bob", APPROVE, "t9", "tasks_named"),
        ("bob", APPROVE, "undone", "tasks_named"),
        ("bob", REJECT, "undone", None),
    ],
)
def test_members_judge_the_work_of_others(signer: str, word: str, task: str, refusal: str | None) -> None:
    held = regions(t1=done("alice"), undone=Task("t"))
    assert first_refusal(act("EXECUTION_APPROVAL_RECORDED", verdict(word, task), held, signer)) == refusal


def test_the_last_word_of_a_member_counts() -> None:
    held = after(act("EXECUTION_APPROVAL_RECORDED", verdict(REJECT, "t1"), regions(t1=done("alice")), "bob"))
    held = after(act("EXECUTION_APPROVAL_RECORDED", verdict(APPROVE, "t1"), held, "bob"))
    assert held.execution.tasks["t1"].verdicts == {who("bob"): Verdict(APPROVE, "because")}


def test_a_rejection_says_why() -> None:
    with pytest.raises(msgspec.ValidationError, match="says why"):
        act("EXECUTION_APPROVAL_RECORDED", {"verdict": REJECT, "tasks": ["t1"]}, regions())
    with pytest.raises(msgspec.ValidationError, match="verdict"):
        act("EXECUTION_APPROVAL_RECORDED", {"verdict": "abstain", "tasks": ["t1"]}, regions())


@pytest.mark.parametrize(
    ("task", "setting", "approved"),
    [
        (done("alice", bob=APPROVE, carol=APPROVE), 0, True),
        (done("alice", bob=APPROVE), 0, False),
        (done("alice", bob=APPROVE), 1, True),
        (done("alice", alice=APPROVE, bob=APPROVE), 0, False),
        (done("alice", bob=APPROVE, op=APPROVE), 0, False),
        (done("alice", bob=APPROVE, carol=REJECT), 0, False),
        (done("alice", bob=APPROVE, carol=APPROVE), 64, True),
        (done("alice", bob=APPROVE), 64, False),
    ],
)
def test_approvals_are_counted_among_the_others(task: Task, setting: int, approved: bool) -> None:
    c = act("EXECUTION_APPROVED", {}, regions(phase="REVIEW", t1=task), "pam", on=on(approval_threshold=setting))
    assert holds("approvals_threshold", c) is approved


def test_every_task_needs_its_own_approvals() -> None:
    both = done("alice", bob=APPROVE, carol=APPROVE)
    half = judge("approvals_threshold", act("EXECUTION_APPROVED", {}, regions(t1=both, t2=done("bob")), "pam"))
    assert not half.ok
    assert "task t2 has 0 of 2" in half.reasons[0]


def test_verdicts_of_a_revoked_member_count_as_never_given() -> None:
    held = regions(t1=done("alice", bob=APPROVE, carol=APPROVE))
    assert not holds("approvals_threshold", act("EXECUTION_APPROVED", {}, held, "pam", on=on(revoked=("carol",))))


def test_a_council_of_one_is_judged_by_the_operator() -> None:
    held = regions("alice", t1=done("alice"))
    assert first_refusal(act("EXECUTION_APPROVAL_RECORDED", verdict(APPROVE, "t1"), held)) == "not_own_work"
    judged = after(act("EXECUTION_APPROVAL_RECORDED", verdict(APPROVE, "t1"), held, "op"))
    assert holds("approvals_threshold", act("EXECUTION_APPROVED", {}, judged, "pam"))
    rejected = after(act("EXECUTION_APPROVAL_RECORDED", verdict(REJECT, "t1"), held, "op"))
    assert holds("rejections_threshold", act("EXECUTION_REVIEW_REJECTED", {}, rejected, "pam"))


def test_rejected_tasks_are_open_again_and_keep_the_reasons() -> None:
    bad = replace(done("alice", bob=REJECT, carol=REJECT), rejections=("earlier",))
    held = regions(phase="REVIEW", bad=bad, good=done("bob", alice=APPROVE, carol=APPROVE))
    assert not holds(
        "rejections_threshold", act("EXECUTION_REVIEW_REJECTED", {}, regions(t1=done("alice", bob=REJECT)))
    )
    execution = after(act("EXECUTION_REVIEW_REJECTED", {}, held, "pam")).execution
    reopened, kept = execution.tasks["bad"], execution.tasks["good"]
    assert (reopened.state, reopened.owner, reopened.verdicts, reopened.releases) == ("OPEN", "", {}, 1)
    assert sorted(reopened.rejections) == ["bob minds", "carol minds", "earlier"]
    assert (kept.state, kept.verdicts) == ("DONE", {})


@given(
    seats=st.integers(min_value=1, max_value=5),
    owned=st.booleans(),
    setting=st.integers(min_value=0, max_value=64),
)
def test_a_task_is_never_decided_by_nobody_and_always_by_all_of_its_judges(
    seats: int, owned: bool, setting: int
) -> None:
    names = tuple(f"m{number}" for number in range(seats))
    task = done("m0" if owned else "gone")
    c = act("EXECUTION_APPROVED", {}, regions(*names, t1=task), "pam", on=on(approval_threshold=setting))
    judges = max(1, seats - owned)
    needed = Jury(c).needed(task)
    assert 1 <= needed <= judges
    assert needed == (min(setting, judges) if setting else quorum.majority(judges))


# --- reverb -----------------------------------------------------------------------------------------------------------


def handed(plan: str, *artifacts: str) -> dict[str, Any]:
    return {"plan_hash": h(plan), "artifacts": [h(artifact) for artifact in artifacts]}


def test_submissions_are_of_the_locked_plan_and_bring_something_new() -> None:
    held = regions(phase="REVERB", t1=done("alice"))
    assert first_refusal(act("EXECUTION_SUBMITTED", handed("other", "a"), held)) == "artifact_hashes"
    once = after(act("EXECUTION_SUBMITTED", handed("plan", "a"), held))
    assert first_refusal(act("EXECUTION_SUBMITTED", handed("plan", "a"), once)) == "artifact_hashes"
    twice = after(act("EXECUTION_SUBMITTED", handed("plan", "a", "b"), once)).execution
    assert [len(each.artifacts) for each in twice.submissions] == [1, 2]
    assert {(each.window_id, each.submitter) for each in twice.submissions} == {("w1", who("alice"))}


def test_the_loop_closes_in_another_window_and_leaves_the_plan_to_history() -> None:
    held = regions(phase="REVERB", t1=done("alice"))
    assert first_refusal(act("EXECUTION_NEXT_WINDOW", {}, held, "pam", window="w1")) == "new_window"
    execution = after(act("EXECUTION_NEXT_WINDOW", {}, held, "pam", window="w2")).execution
    assert (execution.plan, len(execution.tasks), execution.history) == (None, 0, (h("plan"),))
    assert execution.active_window_id == "w1", "the active window is the one worked in"


@pytest.mark.parametrize(
    ("transition", "inputs", "held"),
    [
        ("EXECUTION_BEGUN", PINS, replace(regions(), execution=Execution())),
        ("EXECUTION_TASK_CLAIMED", {"task": "t1"}, regions(t1=Task("t"))),
        ("EXECUTION_REVIEW_OPENED", {}, regions(t1=done("bob"))),
    ],
)
def test_whatever_names_the_current_window_makes_it_the_active_one(
    transition: str, inputs: dict[str, Any], held: ProjectRegions
) -> None:
    execution = after(act(transition, inputs, held, window="w5", on=on(beat(12)))).execution
    assert (execution.active_window_id, execution.beat_index) == ("w5", 12)
