"""The execution worker: from three ready regions through plan, work and review to a submission, and on (Brief §4).

    tools      the council's pins, for the content that is pinned     COUNCIL_TOOLING_SYNCED
    begin      all three regions are ready for one content            EXECUTION_BEGUN
    PLAN       the open items of the Design Brief become the plan     EXECUTION_PLAN_LOCKED
    WORK       agents work; when all is done, or time is over         EXECUTION_REVIEW_OPENED
    REVIEW     members judge; what they rejected is open again        EXECUTION_REVIEW_REJECTED, or _APPROVED
    REVERB     one document that names every task and its evidence    EXECUTION_SUBMITTED
    after it   once another window has come                           EXECUTION_NEXT_WINDOW

It does nobody's work: agents claim, complete and judge, the steward reports health and lost quorums, and what is
refused waits. It knows windows as every caller does, by asking, and waits for the one it needs. A plan that was
delivered is not begun again: the worker is then done, or waits for a brief that asks for something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cluster.worker.brief import NoPlan, Plan, plan_of
from cluster.worker.common import Done, GaveUp, Step, Wait
from cluster.worker.corpus import Corpus, Missing
from cluster.worker.holds import HOLDS, unless_held
from cluster.worker.windows import in_window
from swoosh import canonical
from swoosh.client import Client, State
from swoosh.client.transport import Clock
from swoosh.hashing import PREFIX

BRIEF_BYTES_MAX = 1 << 20


class Orders(NamedTuple):
    """How an operator wants a project run.

    Attributes:
        pins: {tool: version} the council works with.
        brief: the Design Brief, a path within the ingested content; or with ``brief_file`` a file of this machine.
        approve: whether accepted work is taken over by the worker, or by a person.
        terms: how long plan and claims last: ``plan_beats``, ``plan_ms``, ``claim_beats``, ``claim_ms``.
        follow: whether to wait for the next plan when one was delivered.
    """

    pins: Mapping[str, str]
    brief: str = "BRIEF.md"
    brief_file: Path | None = None
    approve: bool = True
    terms: Mapping[str, int] = {}
    follow: bool = False


class Run:
    """Decides what is due in the execution of one project."""

    regions: tuple[str, ...] = ("Ingestion", "Council", "Environment", "Execution", "Epoch", *HOLDS)

    def __init__(self, client: Client, project: str, corpus: Corpus, orders: Orders, clock: Clock) -> None:
        self._client, self._project = client, project
        self._corpus, self._orders, self._clock = corpus, orders, clock

    async def decide(self, seen: State | None) -> Step | Wait | Done:
        """What is due now (see common.Decide)."""
        project = unless_held(seen)
        if isinstance(project, Wait):
            return project
        regions = project.projection
        if self._tools_are_due(regions):
            inputs = {"content_hash": regions["Ingestion"]["ContentHash"], "pins": dict(self._orders.pins)}
            return Step("COUNCIL_TOOLING_SYNCED", inputs)
        if regions["Control"]["Recovering"]:
            return Wait("a majority of the council to be present again")
        match regions["Execution"]["Phase"]:
            case "IDLE" | "PLAN":
                return await self._plan(regions)
            case "WORK":
                return await self._work(regions)
            case "REVIEW":
                return await self._review(regions)
            case _:
                return await self._reverb(regions)

    def _tools_are_due(self, regions: dict[str, Any]) -> bool:
        ingestion, council = regions["Ingestion"], regions["Council"]
        synced = council["Basis"] == ingestion["ContentHash"] and council["ToolPins"] == self._orders.pins
        seated = council["Phase"] == "TOOLING_SYNC" or (council["Phase"] == "READY" and not synced)
        return bool(seated and ingestion["Phase"] == "READY")

    async def _plan(self, regions: dict[str, Any]) -> Step | Wait | Done:
        unready = _unready(regions)
        if unready:
            return Wait(f"{', '.join(unready)} to be ready for one content")
        execution, stands_on = regions["Execution"], _agreement(regions)
        if regions["Lifecycle"]["Phase"] == "PROJECT_LIFECYCLE":
            return await self._in_window("plan", regions, Step("EXECUTION_BEGUN", stands_on))
        try:
            plan = self._plan_for(stands_on["content_hash"])
        except NoPlan as error:
            return self._rest(str(error))
        if plan.plan_hash in execution["History"]:
            return self._rest(f"plan {plan.plan_hash} was delivered")
        lock = {**stands_on, **self._orders.terms, "plan_hash": plan.plan_hash, "tasks": plan.tasks}
        return await self._in_window("plan", regions, Step("EXECUTION_PLAN_LOCKED", lock))

    async def _work(self, regions: dict[str, Any]) -> Step | Wait:
        plan, tasks = regions["Execution"]["Plan"], regions["Execution"]["Tasks"]
        if _agreement(regions) != {name: plan[served] for name, served in _PINNED.items()}:
            return Wait("an operator to drop the plan: what it was locked on has changed (EXECUTION_PLAN_CHANGED)")
        undone = sum(task["State"] != "DONE" for task in tasks.values())
        if undone and not self._may_be_over(plan):
            return Wait(f"{undone} of {len(tasks)} tasks to be done")
        return await self._in_window("review", regions, Step("EXECUTION_REVIEW_OPENED"))

    async def _review(self, regions: dict[str, Any]) -> Step | Wait:
        tallies = [_tally(task) for task in regions["Execution"]["Tasks"].values()]
        if any(rejects > approves for approves, rejects in tallies):
            return await self._in_window("review", regions, Step("EXECUTION_REVIEW_REJECTED"))
        unjudged = sum(not approves for approves, _ in tallies)
        if unjudged:
            return Wait(f"{unjudged} of {len(tallies)} tasks to be judged")
        if not self._orders.approve:
            return Wait("a person to take over the work (EXECUTION_APPROVED)")
        return await self._in_window("reverb", regions, Step("EXECUTION_APPROVED"))

    async def _reverb(self, regions: dict[str, Any]) -> Step | Wait:
        execution = regions["Execution"]
        if not _is_submitted(execution):
            inputs = {"plan_hash": execution["Plan"]["PlanHash"], "artifacts": [self._deliver(execution)]}
            return await self._in_window("reverb", regions, Step("EXECUTION_SUBMITTED", inputs))
        current = (await self._client.windows(self._project)).window_id
        if current == execution["ActiveWindowID"]:
            return Wait("the next window")
        return Step("EXECUTION_NEXT_WINDOW", window_id=current or _named(regions))

    # --- leaves -------------------------------------------------------------------------------------------------------

    async def _in_window(self, name: str, regions: dict[str, Any], due: Step) -> Step | Wait:
        return await in_window(self._client, self._project, name, due, chosen=_named(regions))

    def _plan_for(self, content: str) -> Plan:
        orders = self._orders
        try:
            data = orders.brief_file.read_bytes() if orders.brief_file else self._corpus.find(content, orders.brief)
        except (OSError, Missing) as error:
            raise GaveUp(
                f"no brief: {error}. Name one of the ingested files, in the directory `swoosh worker ingest` works in, "
                "or a file of this machine"
            ) from None
        if len(data) > BRIEF_BYTES_MAX:
            raise GaveUp(f"the brief has {len(data)} bytes; at most {BRIEF_BYTES_MAX} are read")
        try:
            return plan_of(data.decode("utf-8"))
        except UnicodeDecodeError:
            raise GaveUp("the brief is not UTF-8") from None

    def _deliver(self, execution: dict[str, Any]) -> str:
        """Keep the document that is submitted; its hash. From the same state, the same bytes."""
        tasks = {
            name: {"title": task["Title"], "owner": task["Owner"], "evidence": task["Evidence"]}
            for name, task in execution["Tasks"].items()
        }
        plan = execution["Plan"]
        delivery = {
            "project": self._project,
            "plan_hash": plan["PlanHash"],
            "content_hash": plan["ContentHash"],
            "window_id": execution["ActiveWindowID"],
            "tasks": tasks,
        }
        return PREFIX + self._corpus.keep(canonical.encode(delivery))

    def _may_be_over(self, plan: dict[str, Any]) -> bool:
        """Whether the plan's time may have run out; the guard decides, by stamp and beat."""
        deadline_ms = plan["DeadlineMs"]
        return bool(plan["DeadlineBeat"] or (deadline_ms and deadline_ms <= self._clock.wall_us() // 1000))

    def _rest(self, why: str) -> Wait | Done:
        return Wait(f"another plan: {why}") if self._orders.follow else Done(why)


_PINNED = {"content_hash": "ContentHash", "member_set_hash": "MemberSetHash", "environment_hash": "EnvironmentHash"}


def _agreement(regions: dict[str, Any]) -> dict[str, str]:
    """The three hashes execution stands on."""
    return {
        "content_hash": regions["Ingestion"]["ContentHash"],
        "member_set_hash": regions["Council"]["MemberSetHash"],
        "environment_hash": regions["Environment"]["EnvironmentHash"],
    }


def _unready(regions: dict[str, Any]) -> list[str]:
    """The regions that are not ready for the pinned content."""
    content = regions["Ingestion"]["ContentHash"]
    return [
        name.lower()
        for name in ("Ingestion", "Council", "Environment")
        if regions[name]["Phase"] != "READY" or regions[name].get("Basis", content) != content
    ]


def _tally(task: dict[str, Any]) -> tuple[int, int]:
    """Verdicts given: approvals, rejections. Which of them count, the guard decides."""
    words = [word["Verdict"] for word in task["Verdicts"].values()]
    return words.count("approve"), words.count("reject")


def _is_submitted(execution: dict[str, Any]) -> bool:
    """Whether this plan was handed over in this window."""
    wanted = execution["Plan"]["PlanHash"], execution["ActiveWindowID"]
    return any((each["PlanHash"], each["WindowID"]) == wanted for each in execution["Submissions"])


def _named(regions: dict[str, Any]) -> str:
    """A window's name where callers choose: the active one while a plan is worked on, a new one for the next."""
    execution = regions["Execution"]
    if execution["Phase"] in ("WORK", "REVIEW") or (execution["Phase"] == "REVERB" and not _is_submitted(execution)):
        return str(execution["ActiveWindowID"])
    return f"window-{regions['Epoch'].get('Execution', 0) + 1}"
