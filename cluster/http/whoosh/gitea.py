"""Webhooks of Gitea: a Design Brief issue begins a project, a task issue names what to take in.

Gitea signs what it sends (HMAC-SHA256 over the body), and may send it again at any time: the same delivery has the
same body, so it is answered as the first one was. What is no business of ours is answered with 200, or Gitea would
send it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from cluster.callers import Caller
from cluster.http import problems
from cluster.http.access import verify_gitea
from cluster.http.request import NODE, read_body
from cluster.http.whoosh import adapter, councils, lenient, projects, tasks
from cluster.http.whoosh.adapter import Call
from cluster.http.whoosh.councils import Opportunity
from cluster.node import Node
from cluster.whoosh import PREFIX
from swoosh import limits
from swoosh.errors import Malformed

ENTRYPOINT = "chorus-entrypoint"
TASK = "bzzz-task"
BRIEF = "design brief"
GITEA = Caller("gitea", frozenset({"service"}))


async def post_webhook(request: web.Request) -> web.Response:
    """PROJECT_CREATED for an issue that is a Design Brief, INGESTION_SOURCES_RESOLVED for a task."""
    body = await read_body(request, limits.BODY_BYTES_MAX, problems.JSON)
    verify_gitea(request, body)
    said = lenient.parse(body)
    call = Call(GITEA, PREFIX + GITEA.name, body, said)
    issue = lenient.member(said, "issue")
    labels = {lenient.text(label, "name").lower() for label in lenient.objects(issue, "labels")}
    if request.headers.get("X-Gitea-Event", "") != "issues" or lenient.text(said, "action") in ("closed", "deleted"):
        return ignored("only issues that are opened, edited or labelled change anything")
    if ENTRYPOINT in labels and BRIEF in lenient.text(issue, "title").lower():
        return await _begin(request, call, issue)
    if TASK in labels:
        return await tasks.ingest(request, call)
    return ignored(f"the issue is no Design Brief labelled {ENTRYPOINT}, nor labelled {TASK}")


def ignored(reason: str) -> web.Response:
    """Nothing to do, which is no error."""
    return problems.ok({"success": True, "ignored": True, "reason": reason})


async def _begin(request: web.Request, call: Call, issue: Mapping[str, Any]) -> web.Response:
    repository = lenient.member(call.document, "repository")
    name, number = lenient.text(repository, "name"), lenient.text(issue, "number")
    if not name or not number:
        raise Malformed("the issue has no number, or its repository no name")
    full = lenient.text(repository, "full_name") or name
    project_id = lenient.project_id(f"{full.replace('/', '.').lower()}-{number}")
    wanted = brief(request.app[NODE], call.document, issue)
    return await adapter.propose(request, call, project_id, lambda project: projects.new(project, wanted))


def brief(node: Node, said: Mapping[str, Any], issue: Mapping[str, Any]) -> Opportunity:
    """The council for an issue: the roles this node calls core and optional."""
    where = (*tasks.repositories(said), "")[0]
    text = f"{lenient.text(issue, 'title')}\n\n{lenient.text(issue, 'body', longest=limits.BRIEF_CHARS_MAX)}"
    optional = [name for name, profile in node.config.whoosh.profiles.items() if not profile.core]
    asked = {
        "brief": text[: limits.BRIEF_CHARS_MAX].strip(),
        "repository": where,
        "optional_roles": [{"role_name": name} for name in optional],
    }
    return councils.opportunity(node, asked)
