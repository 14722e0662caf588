"""What WHOOSH served, served by SWOOSH: for callers that know nothing of transitions, keys and hashes.

Every request here comes to at most one transition on behalf of its caller, to a read, or to an honest 501
(docs/reference/whoosh-routes.md). The way of a request is in adapter.py; one module for each thing WHOOSH speaks of
says what a request means. Nothing here may decide what a guard decides.
"""

from __future__ import annotations

from aiohttp import web

from cluster.http import health
from cluster.http.access import authorise
from cluster.http.whoosh import agents, councils, gitea, projects, tasks, teams, unserved


def routes() -> list[web.RouteDef]:
    """Everything that is served of WHOOSH's surface."""
    return [
        web.post("/api/v1/projects", projects.post_project),
        web.get("/api/v1/projects", projects.get_projects),
        web.get("/api/v1/projects/{id}", projects.get_project),
        web.post("/api/v1/opportunities/council", councils.post_opportunity),
        web.get("/api/v1/councils/{id}", councils.get_council),
        web.get("/api/v1/councils/{id}/artifacts", councils.get_artifacts),
        web.post("/api/v1/councils/{id}/claims", councils.post_claim),
        web.get("/api/v1/tasks", tasks.get_tasks),
        web.post("/api/v1/tasks/ingest", tasks.post_ingest),
        web.get("/api/v1/tasks/{id}", tasks.get_task),
        web.post("/api/v1/tasks/{id}/claim", tasks.post_claim),
        web.post("/api/v1/tasks/{id}/complete", tasks.post_complete),
        web.post("/api/v1/tasks/{id}/review", tasks.post_review),
        web.post("/webhooks/gitea", gitea.post_webhook),
        web.get("/api/v1/teams/{id}", teams.get_team),
        web.get("/api/v1/teams/{id}/activity", teams.get_activity, allow_head=False),
        web.post("/api/v1/teams/{id}/submissions", teams.post_submission),
        web.post("/api/v1/agents/register", agents.post_register),
        web.post("/api/v1/agents/{id}/status", agents.post_status),
        web.get("/api/v1/agents", agents.get_agents),
        web.get("/api/v1/bootstrap-peers", agents.get_bootstrap_peers),
        web.get("/api/v1/topology", agents.get_topology),
        web.get("/api/v1/assignments/{agent}", agents.get_assignment),
        web.get("/api/v1/status", health.get_health),
        web.get("/admin/health/details", get_details),
        *unserved.routes(),
    ]


async def get_details(request: web.Request) -> web.Response:
    """`/health` for those who show who they are."""
    authorise(request, "developer", "service")
    return await health.get_health(request)
