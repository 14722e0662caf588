"""Tasks as WHOOSH knows them: those of every locked plan, as `<project>.<task>`; claimed, completed, and taken in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from aiohttp import web

from cluster.http import problems
from cluster.http.request import NODE, PROJECT, consistent
from cluster.http.whoosh import adapter, lenient, reading
from cluster.http.whoosh.adapter import Call, Generation, Wish
from cluster.node import Node
from cluster.whoosh import council_address
from swoosh import limits
from swoosh.errors import Malformed
from swoosh.hashing import digest
from swoosh.outcome import Code
from swoosh.state import Project, ProjectRegions, Task

WishForTask = Callable[[Call, Project, ProjectRegions, "Found", Task], Wish | web.Response]
STATUS = {"OPEN": "open", "CLAIMED": "claimed", "DONE": "completed"}


class Found(NamedTuple):
    """A task of a plan, and the project as it stood when it was found."""

    project: str
    name: str
    regions: ProjectRegions


# --- reads ------------------------------------------------------------------------------------------------------------


@reading.reader
async def get_tasks(request: web.Request) -> web.Response:
    """The tasks of all plans, by project and name; `status`, `limit` and `offset` choose."""
    wanted = request.query.get("status", "")
    if wanted and wanted not in STATUS.values():
        raise Malformed(f"status: expected {', '.join(STATUS.values())}, got {wanted[:40]!r}")
    found = [
        (project_id, regions, name, task)
        async for project_id, regions in reading.projects(request.app[NODE])
        for name, task in sorted(regions.execution.tasks.items())
        if not wanted or STATUS[task.state] == wanted
    ]
    shown, counts = reading.page(request, found)
    return problems.ok({"tasks": [view(*row) for row in shown], **counts})


@reading.reader
async def get_task(request: web.Request) -> web.Response:
    """One task."""
    found = find(request.app[NODE], request.match_info["id"])
    if found is None:
        return unknown(request.match_info["id"])
    request[PROJECT] = found.project
    return problems.ok(view(found.project, found.regions, found.name, found.regions.execution.tasks[found.name]))


def view(project_id: str, regions: ProjectRegions, name: str, task: Task) -> dict[str, Any]:
    """A task as a caller of WHOOSH reads it."""
    return {
        "id": f"{project_id}.{name}",
        "title": task.title,
        "description": task.title,
        "status": STATUS[task.state],
        "priority": "normal",
        "repository": regions.meta.repository,
        "project_id": project_id,
        "labels": [],
        "claimed_by": reading.agent(task.owner) or None,
        "evidence": task.evidence or None,
        "ucxl_address": council_address(project_id, task=name),
    }


def find(node: Node, named: str) -> Found | None:
    """The task of an id. Both halves may hold dots: the first split that names a task counts."""
    for position, letter in enumerate(named):
        if letter == "." and (project := reading.find(node, named[:position])) is not None:
            assert isinstance(project.regions, ProjectRegions)
            if named[position + 1 :] in project.regions.execution.tasks:
                return Found(project.id, named[position + 1 :], project.regions)
    return None


def unknown(named: str) -> web.Response:
    """No plan has it, or has it any more."""
    return problems.refuse(Code.NOT_FOUND, f"there is no task {named[:120]} in a plan that is locked")


# --- work -------------------------------------------------------------------------------------------------------------


async def post_claim(request: web.Request) -> web.Response:
    """EXECUTION_TASK_CLAIMED: 200 too for the agent who has it, 409 where another has, 404 unknown."""
    return await _of_task(request, _claim)


async def post_complete(request: web.Request) -> web.Response:
    """EXECUTION_TASK_COMPLETED. What is kept is one reference: the first artifact, else the hash of the result."""
    return await _of_task(request, _complete)


async def post_review(request: web.Request) -> web.Response:
    """EXECUTION_APPROVAL_RECORDED by a member other than the one who did it. WHOOSH had no such route; without one, a
    council of agents that hold no keys could never leave REVIEW."""
    return await _of_task(request, _review)


async def _of_task(request: web.Request, wish: WishForTask) -> web.Response:
    call = await adapter.read_for_agent(request)
    node, named = request.app[NODE], request.match_info["id"]
    missing = await consistent(request)
    if missing is not None:
        return problems.respond(missing)
    found = find(node, named)
    if found is None:
        return unknown(named)

    def of(project: Project) -> Wish | web.Response:
        regions = project.regions
        assert isinstance(regions, ProjectRegions)
        task = regions.execution.tasks.get(found.name)
        return unknown(named) if task is None else wish(call, project, regions, found, task)

    return await adapter.propose(request, call, found.project, of)


def _claim(call: Call, project: Project, regions: ProjectRegions, found: Found, task: Task) -> Wish | web.Response:
    says = _says(found, call, "claimed")
    if task.state != "OPEN" and task.owner == call.principal:
        return adapter.is_so(project, {**says, "status": STATUS[task.state]})
    return Wish("EXECUTION_TASK_CLAIMED", {"task": found.name}, _generation(regions, task), says=says)


def _complete(call: Call, project: Project, regions: ProjectRegions, found: Found, task: Task) -> Wish | web.Response:
    reference = evidence(call.document)
    says = {**_says(found, call, "completed"), "evidence": reference}
    inputs = {"task": found.name, "evidence": reference}
    return Wish("EXECUTION_TASK_COMPLETED", inputs, _generation(regions, task), says=says)


def _review(call: Call, project: Project, regions: ProjectRegions, found: Found, task: Task) -> Wish | web.Response:
    verdict = lenient.text(call.document, "verdict", "decision", longest=limits.NAME_CHARS_MAX).lower()
    reason = lenient.text(call.document, "reason", "comment")
    says = {**_says(found, call, STATUS[task.state]), "claimed_by": reading.agent(task.owner), "verdict": verdict}
    inputs = {"verdict": verdict, "tasks": [found.name], "reason": reason}
    epoch = regions.epoch.get("Execution", 0)
    given = task.verdicts.get(call.principal)
    if given is not None and (given.verdict, given.reason) == (verdict, reason):
        return adapter.is_so(project, says)
    return Wish("EXECUTION_APPROVAL_RECORDED", inputs, (*_generation(regions, task), epoch), says=says)


def _generation(regions: ProjectRegions, task: Task) -> Generation:
    """The plan, and how often the task was given back under it."""
    plan = regions.execution.plan
    return ("" if plan is None else plan.plan_hash, task.releases)


def _says(found: Found, call: Call, status: str) -> dict[str, Any]:
    return {
        "id": f"{found.project}.{found.name}",
        "task_id": f"{found.project}.{found.name}",
        "project_id": found.project,
        "status": status,
        "claimed_by": call.agent,
        "ucxl_address": council_address(found.project, call.agent, task=found.name),
    }


def evidence(said: Mapping[str, Any]) -> str:
    """Where the result lies: the first artifact that is a reference; the hash of what was said, where none is."""
    made = lenient.objects(said, "artifacts")
    listed = [
        *lenient.texts(said, "artifacts", most=1),
        *(lenient.text(each, "ucxl_address", "address", "url", "cid", "path") for each in made),
        lenient.text(said, "ucxl_address", "evidence"),
    ]
    fitting = (each for each in listed if 0 < len(each) <= limits.ADDRESS_CHARS_MAX)
    return next(fitting, None) or digest("legacy-result", lenient.text(said, "result", "summary", "output"))


# --- what comes from issues -------------------------------------------------------------------------------------------


async def post_ingest(request: web.Request) -> web.Response:
    """INGESTION_SOURCES_RESOLVED on the project the body names, by id or by repository."""
    call = await adapter.read(request, "service")
    return await ingest(request, call)


async def ingest(request: web.Request, call: Call) -> web.Response:
    """The sources a body names become those of its project; the same again are what they are already."""
    missing = await consistent(request)
    if missing is not None:
        return problems.respond(missing)
    said, node = call.document, request.app[NODE]
    wanted = sources(said)
    named = lenient.text(said, "project_id", "council_id", "project")
    project_id = await _by_repository(node, repositories(said)) if not named else lenient.project_id(named)
    if project_id is None or node.machine.project(project_id) is None:
        reason = f"no project {named or 'with this repository'} exists"
        return problems.refuse(Code.NOT_FOUND, reason, help="create it first: POST /api/v1/projects")
    return await adapter.propose(request, call, project_id, lambda project: _resolved(project, wanted))


def _resolved(project: Project, wanted: tuple[str, ...]) -> Wish | web.Response:
    regions = project.regions
    assert isinstance(regions, ProjectRegions), "@cluster has no legacy spelling"
    says = {"project_id": project.id, "sources": list(wanted)}
    held = regions.ingestion
    if held.phase != "DISCOVER" and set(wanted) <= set(held.source_set):
        return adapter.is_so(project, says)
    generation = (regions.epoch.get("Ingestion", 0),)
    return Wish("INGESTION_SOURCES_RESOLVED", {"sources": list(wanted)}, generation, says=says)


def sources(said: Mapping[str, Any]) -> tuple[str, ...]:
    """Where the content comes from: what is listed, else the issue and its repository.

    Raises:
        Malformed: nothing is named.
    """
    longest = limits.ADDRESS_CHARS_MAX
    listed = lenient.texts(said, "sources", "source_urls", most=limits.SOURCES_MAX, longest=longest)
    issue = {**lenient.member(said, "issue"), "issue_url": said.get("issue_url")}
    one = lenient.text(issue, "issue_url", "html_url", "url", longest=longest)
    found = listed or tuple(filter(None, (one, *repositories(said)[:1])))
    if not found:
        raise Malformed("sources: name what to take in, or an issue_url or repository")
    return found


def repositories(said: Mapping[str, Any]) -> tuple[str, ...]:
    """Every spelling of the repository a body is about."""
    there = lenient.member(said, "repository")
    longest = limits.ADDRESS_CHARS_MAX
    spelled = [lenient.text(said, "repository", "repository_url", "repo_url", longest=longest)]
    spelled += [lenient.text(there, name, longest=longest) for name in ("clone_url", "html_url", "ssh_url")]
    return tuple(dict.fromkeys(each for each in spelled if each))


async def _by_repository(node: Node, spelled: tuple[str, ...]) -> str | None:
    async for name, regions in reading.projects(node):
        if regions.meta.repository and regions.meta.repository in spelled:
            return name
    return None
