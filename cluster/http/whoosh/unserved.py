"""What WHOOSH served and SWOOSH does not: 501, why, and what to use instead, in the error body of v1.0.0."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from cluster.http import problems

NO_TOKENS = "tokens are issued by your identity provider; SWOOSH only checks them"
ROUTES: dict[tuple[str, str], tuple[str, str]] = {
    ("POST", "/command"): ("a command has no form that one transition follows from", "POST /transition"),
    ("POST", "/state"): ("state changes by transitions only", "POST /transition; GET /state reads it"),
    ("POST", "/api/v1/auth/login"): (NO_TOKENS, "the login of your identity provider"),
    ("POST", "/api/v1/auth/logout"): (NO_TOKENS, "the logout of your identity provider"),
    ("POST", "/api/v1/auth/refresh"): (NO_TOKENS, "the refresh of your identity provider"),
    ("POST", "/api/v1/auth/agent-register"): (NO_TOKENS, "POST /api/v1/agents/register, with a token"),
    ("GET", "/api/v1/auth/me"): (NO_TOKENS, "the token itself: its claims say who you are"),
    ("POST", "/api/v1/teams"): ("a team is the council of a project", "POST /api/v1/projects"),
    ("GET", "/api/v1/repositories"): ("repositories are not part of the state", "GET /api/v1/projects"),
    ("POST", "/api/v1/repositories"): ("repositories are not part of the state", "POST /api/v1/projects"),
    ("GET", "/api/v1/metrics"): ("metrics are served as Prometheus text", "GET /metrics"),
    ("GET", "/api/v1/backbeat/status"): ("the beat is a fact, and windows follow from it", "GET /windows"),
    ("POST", "/api/v1/scaling"): ("how many agents run is decided where they run", "your container scheduler"),
}
"""Method and path: the reason, and what serves instead."""


def routes() -> list[web.RouteDef]:
    """One handler each."""
    return [web.route(method, path, _handler(*why)) for (method, path), why in ROUTES.items()]


def _handler(reason: str, instead: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def not_served(request: web.Request) -> web.Response:
        return problems.unserved(f"{request.method} {request.path} is not served", reason, instead)

    return not_served
