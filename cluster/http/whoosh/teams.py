"""Teams as WHOOSH knows them: a project and its council under a third name; read, watched, and handed on to SLURP."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from cluster.http import problems, watch
from cluster.http.request import NODE, within
from cluster.http.whoosh import adapter, councils, lenient, reading
from cluster.http.whoosh.adapter import Call, Wish
from cluster.node import Node
from swoosh import limits
from swoosh.errors import Malformed
from swoosh.hashing import digest, normalise
from swoosh.hlc import HLC, time_text
from swoosh.outcome import Code
from swoosh.state import Project, ProjectRegions


@reading.reader
async def get_team(request: web.Request) -> web.Response:
    """A team's state, in short."""
    return await reading.of_project(request, view, "team")


def view(node: Node, project_id: str, regions: ProjectRegions) -> dict[str, Any]:
    """The first table of WHOOSH's schema, as far as there is something to put into it."""
    held = councils.council(node, project_id, regions)
    meta, tasks = regions.meta, regions.execution.tasks
    return {
        "id": project_id,
        "team_name": project_id,
        "status": held["status"],
        "phase": _phase(regions),
        "task_title": meta.brief.partition("\n")[0][: limits.NAME_CHARS_MAX],
        "task_description": meta.brief[: limits.TEXT_CHARS_MAX],
        "repository_url": meta.repository,
        "ucxl_address": held["ucxl_address"],
        "members": held["members"],
        "tasks": {"total": len(tasks), "completed": sum(task.state == "DONE" for task in tasks.values())},
        "created_at": time_text(HLC.parse(meta.created_hlc).ms),
    }


def _phase(regions: ProjectRegions) -> str:
    return "planning" if regions.execution.phase in ("IDLE", "PLAN") else regions.execution.phase.lower()


# --- submissions ------------------------------------------------------------------------------------------------------


async def post_submission(request: web.Request) -> web.Response:
    """EXECUTION_SUBMITTED under the plan that is locked; SLURP hears of it from the outbox."""
    call = await adapter.read_for_agent(request)
    made = artifacts(call)
    project_id = lenient.project_id(request.match_info["id"])
    return await adapter.propose(request, call, project_id, lambda project: _submitted(project, made))


def artifacts(call: Call) -> list[str]:
    """What was made, by hash: one that is sent as a hash as it is, anything else by the hash of what was sent.

    Raises:
        Malformed: nothing was.
    """
    most = limits.EVIDENCE_MAX
    listed = lenient.texts(call.document, "artifacts", most=most)
    listed += tuple(
        found
        for each in lenient.objects(call.document, "artifacts")
        if (found := lenient.text(each, "hash", "sha256", "cid", "ucxl_address", "address", "url"))
    )
    listed = listed or tuple(filter(None, [lenient.text(call.document, "hash", "cid", "ucxl_address")]))
    if not listed:
        raise Malformed("artifacts: name what was made, by hash or address; or give its ucxl_address")
    return list(dict.fromkeys(map(_hashed, listed)))[:most]


def _hashed(reference: str) -> str:
    try:
        return normalise(reference, "artifact")
    except Malformed:
        return digest("legacy-artifact", reference)


def _submitted(project: Project, made: list[str]) -> Wish | web.Response:
    regions = project.regions
    if not isinstance(regions, ProjectRegions) or regions.meta.phase == "ABSENT":
        return problems.refuse(Code.NOT_FOUND, f"there is no team {project.id}")
    plan = regions.execution.plan
    plan_hash = digest("legacy-plan", "none") if plan is None else plan.plan_hash
    says = {"team_id": project.id, "status": "submitted", "artifacts": made}
    generation = (plan_hash, regions.execution.active_window_id)
    return Wish("EXECUTION_SUBMITTED", {"plan_hash": plan_hash, "artifacts": made}, generation, says=says)


# --- activity ---------------------------------------------------------------------------------------------------------


@reading.reader
async def get_activity(request: web.Request) -> web.StreamResponse:
    """A WebSocket on which each accepted transition of the project is a message, from now on; nothing is read from it.

    Like `/watch` a hint: who missed something reads the team anew.
    """
    node, watchers = request.app[NODE], request.app[watch.WATCHERS]
    project = reading.find(node, request.match_info["id"])
    if project is None:
        return problems.refuse(Code.NOT_FOUND, f"there is no team {request.match_info['id'][:80]}")
    socket = web.WebSocketResponse(heartbeat=watch.HEARTBEAT_SECONDS, max_msg_size=4_096)
    if not socket.can_prepare(request):
        raise Malformed("activity is a WebSocket: ask for it with Upgrade: websocket, or use GET /watch")
    if watchers.refusal is not None:
        return problems.refuse(Code.OVERLOADED, watchers.refusal, admitted=False)
    watcher = watchers.open(project.id)
    try:
        await socket.prepare(request)
        await _send(socket, node, watcher)
    except (ConnectionError, TimeoutError):
        if request.transport is not None:
            request.transport.abort()  # the reader left, or does not read
    finally:
        watchers.close(watcher)
    return socket


async def _send(socket: web.WebSocketResponse, node: Node, watcher: watch.Watcher) -> None:
    while not socket.closed:
        events = await watcher.next(node.clock, watch.HEARTBEAT_SECONDS)
        if watcher.over:
            await socket.close(code=1_001, message=b"resume elsewhere")
            return
        for event in events:
            await within(node.clock, watch.WRITE_SECONDS, socket.send_str(event.data.decode()))
