"""A coordinator as small as one can be: WHOOSH's published shapes, and faults on order. It decides nothing but who was
first."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiohttp import web

Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


class Heard(NamedTuple):
    """A request: which, with what, by which connection."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    connection: str

    @property
    def document(self) -> Any:
        return json.loads(self.body)


class Whoosh:
    """What it was told, and who holds what."""

    def __init__(self) -> None:
        self.url = ""
        self.heard: list[Heard] = []
        self.agents: dict[str, dict[str, Any]] = {}
        self.claims: dict[tuple[str, str], str] = {}
        """(council, role): agent."""
        self.tasks: dict[str, dict[str, Any]] = {}
        self.faults: list[Fault] = []
        """Each is met by one request, before anything else, and may answer it in its place."""
        self.closed_windows = 0
        """So many completions are refused first."""

    def count(self, path: str) -> int:
        return Counter(each.path for each in self.heard)[path]

    def opportunity(self, *roles: str, optional: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
        """An opportunity for the council `atlas`; ``name:skill,skill`` is a role that asks for skills."""

        def written(text: str, *, required: bool) -> dict[str, Any]:
            name, _, skills = text.partition(":")
            told = {"agent_name": name.title(), "required": required, "description": "does it"}
            return {"role_name": name, "required_skills": list(filter(None, skills.split(","))), **told}

        return {
            "council_id": "atlas",
            "project_name": "atlas",
            "repository": "https://git.example/atlas",
            "project_brief": "Index the survey archive.",
            "core_roles": [written(each, required=True) for each in roles],
            "optional_roles": [written(each, required=False) for each in optional],
            "ucxl_address": "ucxl://any:any@atlas:council/*^/",
            "formation_deadline": "2036-01-05T12:30:00Z",
            "created_at": "2026-01-05T12:00:00Z",
            "metadata": more,
        }

    # --- routes -------------------------------------------------------------------------------------------------------

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._hear])
        app.router.add_post("/api/v1/agents/register", self._register)
        app.router.add_post("/api/v1/agents/{id}/status", self._status)
        app.router.add_post("/api/v1/councils/{id}/claims", self._claim_role)
        app.router.add_get("/api/v1/tasks", self._list)
        app.router.add_post("/api/v1/tasks/{id}/claim", self._claim_task)
        app.router.add_post("/api/v1/tasks/{id}/complete", self._complete)
        return app

    @web.middleware
    async def _hear(self, request: web.Request, handler: Any) -> web.StreamResponse:
        assert request.transport is not None
        connection = str(request.transport.get_extra_info("peername"))
        body, headers = await request.read(), dict(request.headers)
        self.heard.append(Heard(request.method, request.path, body, headers, connection))
        instead = await self.faults.pop(0)(request) if self.faults else None
        response: web.StreamResponse = instead or await handler(request)
        return response

    async def _register(self, request: web.Request) -> web.Response:
        said = await request.json()
        known = said["agent_id"] in self.agents
        self.agents[said["agent_id"]] = said
        return web.json_response({"agent_id": said["agent_id"]}, status=200 if known else 201)

    async def _status(self, request: web.Request) -> web.Response:
        if request.match_info["id"] not in self.agents:
            return web.json_response({"error": "unknown agent", "code": "NOT_FOUND"}, status=404)
        return web.json_response({})

    async def _claim_role(self, request: web.Request) -> web.Response:
        said, council = await request.json(), request.match_info["id"]
        holder = self.claims.setdefault((council, said["role_name"]), said["agent_id"])
        if holder != said["agent_id"]:
            return web.json_response({"error": f"taken by {holder}", "code": "CONFLICT"}, status=409)
        profile = {"role_name": said["role_name"], "display_name": said["role_name"].title()}
        told = {"council_id": council, "role_name": said["role_name"], "agent_id": holder, "status": "accepted"}
        return web.json_response({**told, "role_profile": profile, "council_brief": None}, status=201)

    async def _list(self, request: web.Request) -> web.Response:
        wanted = request.query.get("status")
        found = [task for task in self.tasks.values() if wanted in (None, task["status"])]
        return web.json_response({"tasks": found, "total": len(found)})

    async def _claim_task(self, request: web.Request) -> web.Response:
        task = self.tasks.get(request.match_info["id"])
        agent = (await request.json())["agent_id"]
        if task is None:
            return web.json_response({"error": "no such task"}, status=404)
        if task["claimed_by"] not in (None, agent):
            return web.json_response({"error": f"claimed by {task['claimed_by']}"}, status=409)
        task |= {"claimed_by": agent, "status": "claimed"}
        return web.json_response({"id": task["id"], "status": "claimed"})

    async def _complete(self, request: web.Request) -> web.Response:
        task = self.tasks.get(request.match_info["id"])
        if task is None:
            return web.json_response({"error": "no such task"}, status=404)
        if self.closed_windows:
            self.closed_windows -= 1
            return web.json_response({"error": "the window is closed"}, status=409)
        task |= {"status": "completed", **{key: (await request.json())[key] for key in ("result", "artifacts")}}
        return web.json_response({"id": task["id"], "status": "completed"})

    def add_tasks(self, *names: str) -> None:
        for name in names:
            self.tasks[name] = {
                "id": name,
                "title": name,
                "description": name,
                "status": "open",
                "priority": "normal",
                "repository": "",
                "labels": [],
                "claimed_by": None,
                "ucxl_address": "ucxl://any:any@atlas:t/*^/",
                "created_at": "2026-01-05T12:00:00Z",
            }


# --- what may go wrong ------------------------------------------------------------------------------------------------


def says(status: int, **headers: str) -> Fault:
    """An answer in place of the answer."""

    async def fault(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={name.replace("_", "-"): text for name, text in headers.items()})

    return fault


async def hangs_up(request: web.Request) -> None:
    """The connection is gone before anything was done."""
    assert request.transport is not None
    request.transport.abort()
    await asyncio.Event().wait()


async def is_silent(_: web.Request) -> None:
    """No answer, ever."""
    await asyncio.Event().wait()


async def is_well(_: web.Request) -> None:
    """Nothing."""


@asynccontextmanager
async def whoosh() -> AsyncIterator[Whoosh]:
    """One that is served."""
    made = Whoosh()
    runner = web.AppRunner(made.application(), shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()
