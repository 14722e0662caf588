"""What the reads of WHOOSH share: one project as it stands, pages, and how things of ours are spelled there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

from aiohttp import web

from cluster.http import problems
from cluster.http.access import authorise
from cluster.http.request import NODE, PROJECT, consistent, number
from cluster.http.whoosh import lenient
from cluster.node import Node
from cluster.whoosh import PREFIX
from swoosh.errors import Malformed
from swoosh.outcome import Code
from swoosh.proposal import DEFAULT_PROJECT
from swoosh.state import Project, ProjectRegions

READERS = ("developer", "service", "agent")
PAGE, PAGE_MAX = 50, 500

Row = TypeVar("Row")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
View = Callable[[Node, str, ProjectRegions], dict[str, Any]]


def reader(handler: Handler) -> Handler:
    """A route that is read: by somebody who may, as consistently as he asks."""

    @wraps(handler)
    async def read(request: web.Request) -> web.StreamResponse:
        authorise(request, *READERS)
        missing = await consistent(request)
        return await handler(request) if missing is None else problems.respond(missing)

    return read


async def of_project(request: web.Request, view: View, what: str) -> web.Response:
    """One project, as `view` tells of it; `what` names it to whoever asks for one that is not there."""
    node, named = request.app[NODE], request.match_info["id"]
    project = find(node, named)
    if project is None:
        return problems.refuse(Code.NOT_FOUND, f"there is no {what} {named[:80]}")
    request[PROJECT] = project.id
    assert isinstance(project.regions, ProjectRegions)
    return problems.ok({**view(node, project.id, project.regions), "state_hash": project.state_hash})


def find(node: Node, named: str) -> Project | None:
    """The project of an id; None where there is none that callers of WHOOSH see."""
    try:
        project = node.machine.project(lenient.project_id(named))
    except Malformed:
        return None
    return project if project is not None and isinstance(project.regions, ProjectRegions) else None


async def projects(node: Node) -> AsyncIterator[tuple[str, ProjectRegions]]:
    """Every project that somebody made, in order; others are served meanwhile."""
    for name in sorted(node.machine.project_ids()):
        await node.clock.sleep(0)
        project = node.machine.project(name)
        if name != DEFAULT_PROJECT and project is not None and isinstance(project.regions, ProjectRegions):
            yield name, project.regions


def page(request: web.Request, rows: Sequence[Row]) -> tuple[Sequence[Row], dict[str, int]]:
    """The rows that `limit` and `offset` ask for, and what the answer says of it.

    Raises:
        Malformed: not numbers.
    """
    limit, offset = max(1, number(request, "limit", PAGE, PAGE_MAX)), number(request, "offset", 0)
    return rows[offset : offset + limit], {"total": len(rows), "limit": limit, "offset": offset}


def agent(principal: str) -> str:
    """What callers of WHOOSH call an agent: its id there, else the key it signs with."""
    return principal.removeprefix(PREFIX)
