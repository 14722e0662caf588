"""Reads of state: `GET /state`, `GET /projects`.

What is served is what is hashed, under the names that are hashed, so a reader can recompute every hash from the
answer. Only committed state is ever shown.
"""

from __future__ import annotations

from aiohttp import web

from cluster.http import problems
from cluster.http.request import (
    NODE,
    consistency_of,
    consistent,
    number,
    project_of,
    provenance,
)
from swoosh import state
from swoosh.errors import Malformed
from swoosh.outcome import Code
from swoosh.proposal import project_id

CONTROL = "Control"
PAGE = 50
PAGE_MAX = 200


async def get_state(request: web.Request) -> web.Response:
    """The regions of one project (Brief §5), all or those `projection` names."""
    node = request.app[NODE]
    wanted_id = project_of(request)
    if "at" in request.query:
        return problems.refuse(
            Code.NOT_IMPLEMENTED, "state as of an earlier index is not offered; GET /wal has the records up to it"
        )
    names = _projection(request.query.get("projection", ""), wanted_id)
    missing = await consistent(request)
    if missing is not None:
        return problems.respond(missing)
    project = node.machine.project(wanted_id)
    if project is None:
        return problems.absent(wanted_id, state.GENESIS_HASH)
    etag = f'W/"{project.state_hash}"'
    if _held(request.headers.get("If-None-Match", ""), project.state_hash):
        return problems.not_modified(etag)
    body = {
        "project": project.id,
        "state_hash": project.state_hash,
        "hash": project.state_hash,
        "hlc_last": project.regions.hlc_last.hlc,
        **provenance(request),
        "region_hashes": project.region_hashes,
        "collections": state.collection_paths(project.regions),
        "projection": _document(project, names),
    }
    if consistency_of(request) == "local":
        body["age_ms"] = int(node.age_s() * 1000)
    return problems.ok(body, {"ETag": etag})


def _projection(text: str, project: str) -> list[str]:
    """The served names of a comma-separated list; all of them where it is empty. Case does not matter."""
    kind = state.regions_type(project)
    known = [*state.SERVED[kind].values(), *([CONTROL] if kind is state.ProjectRegions else [])]
    folded = {name.lower(): name for name in known}
    asked = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in asked if name.lower() not in folded]
    if unknown:
        reason = f"no region {unknown[0][:64]!r}; there are {', '.join(known)}"
        raise Malformed(reason, Code.UNKNOWN_PROJECTION)
    return [folded[name.lower()] for name in asked] or known


def _document(project: state.Project, names: list[str]) -> dict[str, object]:
    document = state.document(project.regions, names)
    if CONTROL in names:
        document[CONTROL] = state.control(state.as_project(project.regions))
    return document


def _held(if_none_match: str, state_hash: str) -> bool:
    """Whether one of the entity tags is this state's (RFC 9110 §13.1.2, weak comparison)."""
    tags = (tag.strip().removeprefix("W/").strip('"') for tag in if_none_match.split(","))
    return any(tag in ("*", state_hash) for tag in tags)


async def get_projects(request: web.Request) -> web.Response:
    """Every project after the id `after`: its head and the phases it is in."""
    node = request.app[NODE]
    limit = max(1, number(request, "limit", PAGE, PAGE_MAX))
    after = request.query.get("after", "")
    if after:
        project_id(after)
    missing = await consistent(request)
    if missing is not None:
        return problems.respond(missing)
    ids = [name for name in sorted(node.machine.project_ids()) if name > after]
    rows = []
    for name in ids[:limit]:
        await node.clock.sleep(0)
        project = node.machine.project(name)
        if project is not None:
            rows.append(_row(project))
    return problems.ok(
        {"projects": rows, "next": rows[-1]["project"] if len(ids) > limit else None, **provenance(request)}
    )


def _row(project: state.Project) -> dict[str, object]:
    names = state.SERVED[type(project.regions)]
    regions = ((served, getattr(project.regions, name)) for name, served in names.items())
    return {
        "project": project.id,
        "state_hash": project.state_hash,
        "seq": project.seq,
        "hlc_last": project.regions.hlc_last.hlc,
        "quarantined": project.quarantined,
        "phases": {served: region.phase for served, region in regions if isinstance(region, state.Region)},
    }
