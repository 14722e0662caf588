"""Projects as WHOOSH knows them: made by a request or a Design Brief issue, and read."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from cluster.http import problems
from cluster.http.request import NODE
from cluster.http.whoosh import adapter, councils, lenient, reading
from cluster.http.whoosh.adapter import Wish
from cluster.http.whoosh.councils import Opportunity
from cluster.node import Node
from swoosh import limits
from swoosh.hlc import HLC, time_text
from swoosh.state import Project, ProjectRegions


async def post_project(request: web.Request) -> web.Response:
    """PROJECT_CREATED, with the roles the request names, or this node's core roles; 409 where the id is taken."""
    call = await adapter.read(request, "developer", "service")
    said, node = call.document, request.app[NODE]
    project_id = lenient.project_id(lenient.text(said, "project_id", "id", "name", "project_name"))
    wanted = councils.opportunity(node, said)
    return await adapter.propose(request, call, project_id, lambda project: new(project, wanted))


def new(project: Project, wanted: Opportunity) -> Wish:
    """The wish for a project that is not there yet. That it is there already, the log says: to a repeat its first
    answer, to anybody else a refusal."""
    wish = councils.created(project.id, wanted)
    return wish._replace(says={"id": project.id, "name": project.id, "repository": wanted.repository, **wish.says})


@reading.reader
async def get_projects(request: web.Request) -> web.Response:
    """Every project, paged."""
    node = request.app[NODE]
    shown, counts = reading.page(request, [each async for each in reading.projects(node)])
    return problems.ok({"projects": [view(node, *each) for each in shown], **counts})


@reading.reader
async def get_project(request: web.Request) -> web.Response:
    """One project."""
    return await reading.of_project(request, view, "project")


def view(_: Node, project_id: str, regions: ProjectRegions) -> dict[str, Any]:
    """A project as a caller of WHOOSH reads it."""
    meta = regions.meta
    return {
        "id": project_id,
        "name": project_id,
        "council_id": project_id,
        "team_id": project_id,
        "brief": meta.brief[: limits.TEXT_CHARS_MAX],
        "repository": meta.repository,
        "status": regions.lifecycle.phase.lower(),
        "phase": regions.execution.phase.lower(),
        "quarantined": regions.policy.phase == "QUARANTINED",
        "created_at": time_text(HLC.parse(meta.created_hlc).ms),
    }
