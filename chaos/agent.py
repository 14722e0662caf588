"""``python -m chaos.agent``: an agent as a program of its own, for demos and tests.

It says that it is there, claims its role in the council, takes one open task after the other, writes what it made into
the common directory, points to it by hash, and judges what the others made by reading it. It knows nothing but the SDK
and may be killed at any time.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from cluster.cli.shared import Connection, connected, key_option, say
from cluster.clock import SystemClock
from cluster.worker.common import Done, Step, Wait, work
from cluster.worker.corpus import Corpus, Missing
from cluster.worker.holds import unless_held
from cluster.worker.windows import in_window
from swoosh import canonical
from swoosh.client import Client, Key, State


class Agent:
    """Decides what one agent does next in one project."""

    def __init__(self, client: Client, project: str, name: str, role: str, corpus: Corpus) -> None:
        self._client, self._project = client, project
        self._name, self._role, self._corpus = name, role, corpus

    async def decide(self, seen: State | None) -> Step | Wait | Done:
        """What is due now (see cluster.worker.common.Decide)."""
        project = unless_held(seen)
        if isinstance(project, Wait):
            return project
        council, execution = project.projection["Council"], project.projection["Execution"]
        if self._role not in council["PlannedRoles"]:
            return Wait(f"a council that needs a {self._role}")
        if council["Phase"] == "ELECT":
            if self._role not in council["Claims"]:
                return Step("COUNCIL_ROLE_CLAIMED", {"role": self._role, "agent": self._name})
            return Wait("the electors")
        match execution["Phase"]:
            case "WORK":
                due = self._work(execution, council["PlannedRoles"].index(self._role))
                return await self._in_window("work", execution, due) if due else Wait("an open task")
            case "REVIEW":
                due = self._judge(execution)
                return await self._in_window("review", execution, due) if due else Wait("the others to judge")
            case _:
                return Wait("a plan")

    def _work(self, execution: dict[str, Any], place: int) -> Step | None:
        """Finish the task that is ours, or take an open one: each place in the council begins at another."""
        tasks = sorted(execution["Tasks"].items())
        for name, task in tasks:
            if task["State"] == "CLAIMED" and task["Owner"] == self._client.principal:
                return Step("EXECUTION_TASK_COMPLETED", {"task": name, "evidence": self._make(name, task["Title"])})
        opened = [name for name, task in tasks if task["State"] == "OPEN"]
        return Step("EXECUTION_TASK_CLAIMED", {"task": opened[place % len(opened)]}) if opened else None

    def _make(self, name: str, title: str) -> str:
        """Do the task; where the result lies."""
        digits = self._corpus.keep(canonical.encode({"task": name, "title": title, "made_by": self._name}))
        return f"ucxl://{self._name}:{self._role}@{self._project}:{name}/*^/{digits}"

    def _judge(self, execution: dict[str, Any]) -> Step | None:
        """A verdict on the first task of somebody else that has none from us."""
        me = self._client.principal
        for name, task in sorted(execution["Tasks"].items()):
            if task["Owner"] != me and me not in task["Verdicts"]:
                fault = self._fault(name, task)
                verdict = {"verdict": "reject", "reason": fault} if fault else {"verdict": "approve"}
                return Step("EXECUTION_APPROVAL_RECORDED", {**verdict, "tasks": [name]})
        return None

    def _fault(self, name: str, task: dict[str, Any]) -> str | None:
        try:
            made = self._corpus.document(task["Evidence"].rpartition("/")[2])
        except Missing as error:
            return f"the evidence cannot be read: {error}"
        return None if canonical.parse(made)["task"] == name else "the evidence is of another task"

    async def _in_window(self, name: str, execution: dict[str, Any], due: Step) -> Step | Wait:
        return await in_window(self._client, self._project, name, due, chosen=execution["ActiveWindowID"])


@click.command()
@click.option("--project", required=True)
@click.option("--name", required=True, help="What the agent calls itself.")
@click.option("--role", required=True, help="Its role in the council.")
@click.option("--work", "directory", type=click.Path(path_type=Path), required=True, help="Where results are kept.")
@key_option("A key with the roles agent and provider:agent")
@connected
def main(connection: Connection, project: str, name: str, role: str, directory: Path, key: Key) -> None:
    """Be an agent until somebody ends it."""

    async def live() -> None:
        async with connection.client(key) as client:
            agent = Agent(client, project, name, role, Corpus(directory))
            async with asyncio.TaskGroup() as both:
                both.create_task(client.announce(name, capabilities=[role]))
                both.create_task(work(client, project, agent.decide, clock=SystemClock(), say=say))

    with suppress(KeyboardInterrupt):
        asyncio.run(live())


if __name__ == "__main__":
    main()
