"""Execution: the loop PLAN → WORK → REVIEW → REVERB → PLAN, one turn per window (Brief §4, §6, §11).

A plan is locked on three hashes: content, council, environment. Whatever it rests on may move on beside it, but work
under the plan is refused from then on (``pins_hold``) until an operator drops the plan: an index, a council or an
environment never changes under running work.

Review counts per task. A task needs its own verdicts, from members other than the one who did it; the last word of a
member counts. A council of one seat has nobody else, so there the operator reviews.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta
from msgspec.structs import replace

from swoosh import limits, quorum, windows
from swoosh.catalog import Context, Verdict, effect, guard, inputs, passed, refused
from swoosh.guards import has_role, is_revoked, signed_by_operator
from swoosh.inputs import (
    Address,
    Agreement,
    Count,
    Inputs,
    OptionalText,
    Text,
    check_distinct,
    check_hashes,
    check_names,
)
from swoosh.merkle import MerkleMap
from swoosh.state import Execution, Plan, Submission, Task
from swoosh.state import Verdict as Review

APPROVE, REJECT = "approve", "reject"
Duration = Annotated[int, Meta(ge=0, le=limits.DURATION_MS_MAX)]

# --- what is sent -----------------------------------------------------------------------------------------------------


@inputs
class PlanLock(Agreement, frozen=True):
    """The plan, what it rests on, and its tasks as {id: title}.

    How long the plan has, and how long a claim lasts, is counted in beats from the newest one heard or in milliseconds
    from the stamp; whichever runs out first counts, 0 sets no bound.
    """

    plan_hash: str
    tasks: Annotated[dict[str, Text], Meta(min_length=1, max_length=limits.TASKS_MAX)]
    plan_beats: Count = 0
    plan_ms: Duration = 0
    claim_beats: Count = 0
    claim_ms: Duration = 0

    def __post_init__(self) -> None:
        Agreement.__post_init__(self)
        check_hashes("plan_hash", self.plan_hash)
        check_names("tasks", *self.tasks)


@inputs
class TaskResult(Inputs, frozen=True):
    """The task that is done, and where the evidence lies."""

    task: str
    evidence: Address

    def __post_init__(self) -> None:
        check_names("task", self.task)


@inputs
class Approval(Inputs, frozen=True):
    """A verdict, ``approve`` or ``reject``, on named tasks; a rejection says why."""

    verdict: str
    tasks: Annotated[tuple[str, ...], Meta(min_length=1, max_length=limits.TASKS_MAX)]
    reason: OptionalText = ""

    def __post_init__(self) -> None:
        if self.verdict not in (APPROVE, REJECT):
            raise ValueError(f"verdict: expected {APPROVE} or {REJECT}, got {self.verdict[:40]!r}")
        if self.verdict == REJECT and not self.reason:
            raise ValueError("reason: a rejection says why")
        check_names("tasks", *self.tasks)
        check_distinct("tasks", self.tasks)


@inputs
class Artifacts(Inputs, frozen=True):
    """What was made under the plan, each artifact by its hash."""

    plan_hash: str
    artifacts: Annotated[tuple[str, ...], Meta(min_length=1, max_length=limits.EVIDENCE_MAX)]

    def __post_init__(self) -> None:
        check_hashes("plan_hash", self.plan_hash)
        check_hashes("artifacts", *self.artifacts)
        check_distinct("artifacts", self.artifacts)


# --- plan -------------------------------------------------------------------------------------------------------------


@guard
def pins_hold(c: Context) -> Verdict:
    """Reads the plan and the content, member set and environment it was locked on; refuses when one has changed."""
    r, plan = c.regions, c.regions.execution.plan
    if plan is None:
        return refused("no plan is locked")
    faults = [
        f"the plan was locked on {what} {pinned}; now it is {held or 'not set'}; an operator may drop the plan"
        for what, pinned, held in (
            ("content", plan.content_hash, r.ingestion.content_hash),
            ("member set", plan.member_set_hash, r.council.member_set_hash),
            ("environment", plan.environment_hash, r.environment.environment_hash),
        )
        if held != pinned
    ]
    return refused(*faults) if faults else passed(f"plan {plan.plan_hash} rests on what it was locked on")


@effect
def begin_execution(c: Context) -> Mapping[str, Any]:
    """The first window."""
    return {"execution": _in_window(c)}


@effect
def lock_plan(c: Context) -> Mapping[str, Any]:
    """The plan with its pins, and every task open."""
    sent, beat = c.inputs, windows.beat_index(c.registry)
    plan = Plan(
        plan_hash=sent.plan_hash,
        content_hash=sent.content_hash,
        member_set_hash=sent.member_set_hash,
        environment_hash=sent.environment_hash,
        window_id=c.window_id,
        deadline_beat=_after(beat, sent.plan_beats),
        deadline_ms=_after(c.now_ms, sent.plan_ms),
        claim_beats=sent.claim_beats,
        claim_ms=sent.claim_ms,
    )
    tasks = MerkleMap({name: Task(title) for name, title in sent.tasks.items()})
    return {"execution": replace(_in_window(c), plan=plan, tasks=tasks)}


@effect
def drop_plan(c: Context) -> Mapping[str, Any]:
    """No pins, no tasks; what was submitted stays submitted."""
    return {"execution": replace(c.regions.execution, plan=None, tasks=MerkleMap())}


# --- work -------------------------------------------------------------------------------------------------------------


@guard
def task_open(c: Context) -> Verdict:
    """Reads the task; refuses one that is unknown, claimed or done."""
    task = _task(c, c.inputs.task)
    if task is None:
        return refused(_unknown(c.inputs.task))
    if task.state == "OPEN" or (task.state == "CLAIMED" and is_revoked(c, task.owner)):
        return passed(f"task {c.inputs.task} is open")
    return refused(f"task {c.inputs.task} is {task.state} by {task.owner}; an open one is needed")


@guard
def agent_seated(c: Context) -> Verdict:
    """Reads the members; refuses who has no seat in the council."""
    role = _seats(c).get(c.principal)
    if role is None:
        return refused(f"{c.principal} has no seat in the council; a member is needed")
    return passed(f"{c.principal} is seated as {role}")


@guard
def task_owner(c: Context) -> Verdict:
    """Reads the task; refuses anyone but its owner, who may finish late as long as nobody took the task away."""
    task = _task(c, c.inputs.task)
    if task is None:
        return refused(_unknown(c.inputs.task))
    if task.state != "CLAIMED" or task.owner != c.principal:
        return refused(f"task {c.inputs.task} is {task.state} by {task.owner or 'nobody'}, not claimed by "
                       f"{c.principal}")  # fmt: skip
    return passed(f"{c.principal} claimed task {c.inputs.task}")


@guard
def task_owner_expired_or_operator(c: Context) -> Verdict:
    """Reads the task, the stamp, the newest beat; refuses unless owner or operator signs, or the claim ran out."""
    task = _task(c, c.inputs.task)
    if task is None:
        return refused(_unknown(c.inputs.task))
    if task.state != "CLAIMED":
        return refused(f"task {c.inputs.task} is {task.state}; only a claimed one is given back")
    if task.owner == c.principal:
        return passed("the owner gives it back")
    if signed_by_operator(c):
        return passed("an operator frees it")
    if is_revoked(c, task.owner):
        return passed(f"its owner {task.owner} was revoked")
    if _is_past(c, task.expires_beat, task.expires_ms):
        return passed("its claim ran out")
    until = _limit(task.expires_beat, task.expires_ms)
    return refused(f"task {c.inputs.task} is claimed by {task.owner} until {until}")


@effect
def claim_task(c: Context) -> Mapping[str, Any]:
    """The task is the claimant's for as long as the plan grants."""
    plan = c.regions.execution.plan
    assert plan is not None, "pins_hold saw it"
    changes = {
        "state": "CLAIMED",
        "owner": c.principal,
        "expires_beat": _after(windows.beat_index(c.registry), plan.claim_beats),
        "expires_ms": _after(c.now_ms, plan.claim_ms),
    }
    return {"execution": _with_task(_in_window(c), c.inputs.task, changes)}


@effect
def complete_task(c: Context) -> Mapping[str, Any]:
    """Done, with the evidence."""
    changes = {"state": "DONE", "evidence": c.inputs.evidence, "expires_beat": 0, "expires_ms": 0}
    return {"execution": _with_task(_in_window(c), c.inputs.task, changes)}


@effect
def release_task(c: Context) -> Mapping[str, Any]:
    """Open again; how often that happened tells a later claim from a repeated one."""
    held = c.regions.execution
    return {"execution": _with_task(held, c.inputs.task, _reopened(held.tasks[c.inputs.task]))}


# --- review -----------------------------------------------------------------------------------------------------------


@guard
def tasks_done_or_deadline(c: Context) -> Verdict:
    """Reads the tasks, the plan's deadline, the stamp, the newest beat; refuses while work and time are left."""
    held = c.regions.execution
    undone = sorted(name for name, task in held.tasks.items() if task.state != "DONE")
    if not undone:
        return passed(f"all {len(held.tasks)} tasks are done")
    beat, ms = (held.plan.deadline_beat, held.plan.deadline_ms) if held.plan else (0, 0)
    if _is_past(c, beat, ms):
        return passed(f"the plan's time is over; {len(undone)} tasks are not done")
    return refused(f"{len(undone)} tasks are not done, first {undone[0]}; the plan runs until {_limit(beat, ms)}")


@guard
def tasks_named(c: Context) -> Verdict:
    """Reads the tasks; refuses a verdict on one the plan lacks, and approval of one that is not done."""
    faults = []
    for name in c.inputs.tasks:
        task = _task(c, name)
        if task is None:
            faults.append(_unknown(name))
        elif c.inputs.verdict == APPROVE and task.state != "DONE":
            faults.append(f"task {name} is {task.state}; only what is done can be approved")
    return refused(*faults) if faults else passed(f"{len(c.inputs.tasks)} tasks of the plan are named")


@guard
def reviewer(c: Context) -> Verdict:
    """Reads the members and the signer; refuses who has no seat; in a council of one, an operator may review."""
    seats = _seats(c)
    if c.principal in seats:
        return passed(f"{c.principal} is seated as {seats[c.principal]}")
    if len(seats) == 1 and signed_by_operator(c):
        return passed("the council has one seat, so an operator reviews")
    return refused(f"{c.principal} has no seat among the {len(seats)} of the council")


@guard
def not_own_work(c: Context) -> Verdict:
    """Reads the owners of the tasks named; refuses a verdict on one's own work."""
    named = ((name, _task(c, name)) for name in c.inputs.tasks)
    own = [name for name, task in named if task is not None and task.owner == c.principal]
    if own:
        return refused(f"task {own[0]} is {c.principal}'s own work; another member judges it")
    return passed("none of the tasks is the reviewer's own work")


@guard
def rejections_threshold(c: Context) -> Verdict:
    """Reads the verdicts, the members, the setting approval_threshold; refuses unless a task has enough rejections."""
    jury, tasks = Jury(c), c.regions.execution.tasks
    rejected = jury.decided(REJECT)
    if not rejected:
        most = max(sorted(tasks), key=lambda name: jury.count(tasks[name], REJECT))
        return refused(f"no task has enough rejections; {jury.tally(most, REJECT)}")
    return passed(f"rejected are {', '.join(rejected[:8])}{' and others' if len(rejected) > 8 else ''}")


@guard
def approvals_threshold(c: Context) -> Verdict:
    """Reads the verdicts, the members, the setting approval_threshold; refuses unless every task has its approvals."""
    jury, tasks = Jury(c), c.regions.execution.tasks
    short = sorted(set(tasks) - set(jury.decided(APPROVE)))
    if short:
        return refused(f"{len(short)} of {len(tasks)} tasks lack approvals; {jury.tally(short[0], APPROVE)}")
    return passed(f"each of {len(tasks)} tasks has the approvals it needs")


@effect
def open_review(c: Context) -> Mapping[str, Any]:
    """The window of the review."""
    return {"execution": _in_window(c)}


@effect
def record_approval(c: Context) -> Mapping[str, Any]:
    """The reviewer's last word on each task named."""
    held, word = _in_window(c), Review(c.inputs.verdict, c.inputs.reason)
    named = [(name, held.tasks[name]) for name in c.inputs.tasks]
    changed = [(name, replace(task, verdicts={**task.verdicts, c.principal: word})) for name, task in named]
    return {"execution": replace(held, tasks=held.tasks.update(changed))}


@effect
def reopen_rejected(c: Context) -> Mapping[str, Any]:
    """What was rejected is open again and keeps the reasons; every verdict is taken back."""
    held, rejected = _in_window(c), Jury(c).decided(REJECT)
    changed = []
    for name, task in held.tasks.items():
        if name in rejected:
            reasons = tuple(word.reason for _, word in sorted(task.verdicts.items()) if word.verdict == REJECT)
            kept = (*task.rejections, *reasons)[-limits.REJECTIONS_KEPT :]
            changed.append((name, replace(task, verdicts={}, rejections=kept, **_reopened(task))))
        elif task.verdicts:
            changed.append((name, replace(task, verdicts={})))
    return {"execution": replace(held, tasks=held.tasks.update(changed))}


@effect
def accept_work(c: Context) -> Mapping[str, Any]:
    """The beat at which the work was accepted."""
    return {"execution": _in_window(c)}


class Jury:
    """Who may judge which task, and what their verdicts come to.

    A task's judges are the seated members but its owner; in a council of one seat they are the operators, so that one
    verdict decides. Verdicts of revoked identities count as never given.
    """

    def __init__(self, c: Context) -> None:
        self._c = c
        self._seats = _seats(c)
        self._wanted: int = c.registry.setting("approval_threshold")
        self._tasks = c.regions.execution.tasks
        self._may_judge: dict[str, bool] = {}

    def decided(self, verdict: str) -> list[str]:
        """The tasks with enough verdicts of this kind, sorted."""
        return [name for name, task in sorted(self._tasks.items()) if self.count(task, verdict) >= self.needed(task)]

    def needed(self, task: Task) -> int:
        """Verdicts that decide a task: the setting, else a majority of its judges; at least one, at most all."""
        judges = max(1, len(self._seats) - (task.owner in self._seats))
        return min(self._wanted or quorum.majority(judges), judges)

    def count(self, task: Task, verdict: str) -> int:
        """Verdicts of this kind that count."""
        return sum(
            1
            for principal, word in task.verdicts.items()
            if word.verdict == verdict and principal != task.owner and self._judges(principal)
        )

    def tally(self, name: str, verdict: str) -> str:
        """How far a task is from being decided."""
        task = self._tasks[name]
        return f"task {name} has {self.count(task, verdict)} of {self.needed(task)} {verdict} verdicts"

    def _judges(self, principal: str) -> bool:
        if principal not in self._may_judge:
            seated = principal in self._seats or (len(self._seats) == 1 and has_role(self._c, principal, "operator"))
            self._may_judge[principal] = seated and not is_revoked(self._c, principal)
        return self._may_judge[principal]


# --- reverb -----------------------------------------------------------------------------------------------------------


@guard
def artifact_hashes(c: Context) -> Verdict:
    """Reads the plan and what was submitted under it; refuses artifacts of another plan, or none that is new."""
    held = c.regions.execution
    if held.plan is None or c.inputs.plan_hash != held.plan.plan_hash:
        return refused(f"the artifacts are of plan {c.inputs.plan_hash}; locked is "
                       f"{held.plan.plan_hash if held.plan else 'none'}")  # fmt: skip
    earlier = [each.artifacts for each in held.submissions if _is_of(each, held)]
    new = [artifact for artifact in c.inputs.artifacts if not any(artifact in artifacts for artifacts in earlier)]
    if not new:
        return refused("all of these artifacts were submitted in this window already")
    return passed(f"{len(new)} artifacts of plan {c.inputs.plan_hash} are new")


@guard
def new_window(c: Context) -> Verdict:
    """Reads the active window and the current one; refuses while they are the same, or the current one is unknown."""
    opening = windows.renewed(c.window_id, c.regions.execution.active_window_id, c.registry, c.now_ms)
    return Verdict(opening.ok, (opening.reason,), opening.facts)


@effect
def record_submission(c: Context) -> Mapping[str, Any]:
    """What was handed over, under which plan and in which window."""
    held = _in_window(c)
    submitted = Submission(c.inputs.plan_hash, held.active_window_id, c.inputs.artifacts, c.principal)
    return {"execution": replace(held, submissions=(*held.submissions, submitted)[-limits.SUBMISSIONS_KEPT :])}


@effect
def next_window(c: Context) -> Mapping[str, Any]:
    """The plan is history. The active window stays until work begins in another."""
    held = c.regions.execution
    done = () if held.plan is None else (held.plan.plan_hash,)
    history = (*held.history, *done)[-limits.HISTORY_KEPT :]
    return {"execution": replace(held, plan=None, tasks=MerkleMap(), history=history)}


# --- shared -----------------------------------------------------------------------------------------------------------


def _in_window(c: Context) -> Execution:
    """Execution with the window named as the active one: the guard window_open has found it right."""
    return replace(c.regions.execution, active_window_id=c.window_id, beat_index=windows.beat_index(c.registry))


def _with_task(held: Execution, name: str, changes: Mapping[str, Any]) -> Execution:
    return replace(held, tasks=held.tasks.set(name, replace(held.tasks[name], **changes)))


def _reopened(task: Task) -> dict[str, Any]:
    return {
        "state": "OPEN",
        "owner": "",
        "evidence": "",
        "expires_beat": 0,
        "expires_ms": 0,
        "releases": task.releases + 1,
    }


def _task(c: Context, name: str) -> Task | None:
    return c.regions.execution.tasks.get(name)


def _unknown(name: str) -> str:
    return f"the plan has no task {name}"


def _is_of(submission: Submission, held: Execution) -> bool:
    plan_hash = held.plan.plan_hash if held.plan else ""
    return submission.plan_hash == plan_hash and submission.window_id == held.active_window_id


def _seats(c: Context) -> dict[str, str]:
    """{principal: role} of the seated members."""
    return {member.principal: member.role for member in c.regions.council.members}


def _after(start: int, span: int) -> int:
    """``span`` after ``start``; no span, no bound."""
    return min(start + span, limits.INTEGER_MAX) if span else 0


def _is_past(c: Context, beat: int, ms: int) -> bool:
    return (0 < beat <= windows.beat_index(c.registry)) or (0 < ms <= c.now_ms)


def _limit(beat: int, ms: int) -> str:
    bounds = [f"beat {beat}"] if beat else []
    bounds += [f"{ms} ms since 1970"] if ms else []
    return " or ".join(bounds) or "it is released: the plan sets no bound"
