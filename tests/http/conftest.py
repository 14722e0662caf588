"""A desk behind a real listener, and a caller who holds every answer against the published description."""

import io
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from openapi_schema_validator import OAS31Validator

from cluster.http.app import public_app
from cluster.http.listener import Listener
from cluster.http.request import Limits
from cluster.telemetry.metrics import Metrics
from docs.openapi_json import render
from tests.http.desk import CHART, Desk

SPEC: dict[str, Any] = json.loads(render())


@dataclass
class Reply:
    """A status, headers, and a body read as JSON where it is JSON."""

    status: int
    headers: Any
    text: str
    body: Any = None


def described(method: str, path: str, status: int, media: str, body: Any) -> None:
    """Fail unless the description has this answer, and its body fits."""
    template = template_of(path)
    responses = SPEC["paths"][template][method.lower() if method != "HEAD" or has_head(template) else "get"][
        "responses"
    ]
    assert str(status) in responses, f"{method} {template} answered {status}, which docs/openapi.yaml does not list"
    response = resolve(responses[str(status)])
    if method == "HEAD" or "content" not in response:
        return
    assert media in response["content"], f"{method} {template} {status} sent {media}"
    schema = response["content"][media]["schema"]
    if media == "application/json":
        OAS31Validator({**schema, "components": SPEC["components"]}).validate(body)


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in node:
        return node
    found: Any = SPEC
    for part in node["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


def has_head(template: str) -> bool:
    return "head" in SPEC["paths"][template]


def template_of(path: str) -> str:
    """The path as described: the one with the fewest parameters that fits."""
    plain = path.partition("?")[0]
    fitting = (name for name in SPEC["paths"] if _fits(name, plain))
    return min(fitting, key=lambda name: str(name).count("{"), default=plain)


def _fits(template: str, path: str) -> bool:
    if template.startswith("/transitions/"):  # a key may hold slashes
        return path.startswith("/transitions/")
    return re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path) is not None


@dataclass
class Caller:
    """Talks to one listener."""

    base: str
    session: aiohttp.ClientSession
    listener: Listener
    seen: list[Reply] = field(default_factory=list)

    async def __call__(
        self, method: str, path: str, body: Any = None, *, checked: bool = True, **options: Any
    ) -> Reply:
        if isinstance(body, bytes):
            options |= {"data": io.BytesIO(body)}
            options["headers"] = {"Content-Type": "application/json"} | options.get("headers", {})
        elif body is not None:
            options |= {"json": body}
        async with self.session.request(method, self.base + path, **options) as response:
            data = await response.read()
            reply = Reply(response.status, response.headers, data.decode())
            if response.content_type == "application/json" and data:
                reply.body = await response.json()
            if checked:
                described(method, path, reply.status, response.content_type, reply.body)
        self.seen.append(reply)
        return reply

    async def get(self, path: str, **options: Any) -> Reply:
        return await self("GET", path, **options)

    async def post(self, path: str, body: Any, **options: Any) -> Reply:
        return await self("POST", path, body, **options)


Serve = Callable[..., Awaitable[Caller]]


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Put a desk behind a listener on a free port, with more routes where a test needs them."""
    listeners: list[Listener] = []
    sessions: list[aiohttp.ClientSession] = []

    async def start(desk: Desk, limits: Limits | None = None, routes: Iterable[web.RouteDef] = ()) -> Caller:
        limits = limits or Limits()
        app = public_app(desk, Metrics(CHART), limits)  # type: ignore[arg-type]
        app.router.add_routes(routes)
        listener = Listener(app, desk.clock, limits)
        await listener.start("127.0.0.1", 0)
        listeners.append(listener)
        sessions.append(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)))
        return Caller(f"http://127.0.0.1:{listener.port}", sessions[-1], listener)

    yield start
    for session in sessions:
        await session.close()
    for listener in listeners:
        await listener.stop()


@pytest.fixture
async def ask(desk: Desk, serve: Serve) -> Caller:
    return await serve(desk)
