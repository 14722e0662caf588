"""Reads of state: `GET /state`, `GET /projects`.

What is served is what is hashed, under the names that are hashed, so a reader can recompute every hash from the
answer. Only committed state is ever shown. A large state is written in slices, between which others are served; it
stays the state it was when the first was written, for states are values.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import chain

import msgspec
from aiohttp import web

from cluster.clock import Clock
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
SLICE_BYTES = 64 * 1024
"""Written in one go; about a millisecond."""


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
    head = {
        "project": project.id,
        "state_hash": project.state_hash,
        "hash": project.state_hash,
        "hlc_last": project.regions.hlc_last.hlc,
        **provenance(request),
        "region_hashes": project.region_hashes,
        "collections": state.collection_paths(project.regions),
    }
    if consistency_of(request) == "local":
        head["age_ms"] = int(node.age_s() * 1000)
    slices = _slices(head, project, names)
    first, second = next(slices), next(slices, None)
    text = first if second is None else _paced(node.clock, chain((first, second), slices))
    return problems.record(text, {"ETag": etag})


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


def _slices(head: dict[str, object], project: state.Project, names: list[str]) -> Iterator[bytes]:
    """The text of the answer; one slice unless the state is large."""
    text = bytearray(msgspec.json.encode(head)[:-1])
    opening = b',"projection":{'
    for name in names:
        text += opening + msgspec.json.encode(name) + b":"
        for piece in _region(project, name):
            text += piece
            if len(text) >= SLICE_BYTES:
                yield bytes(text)
                text.clear()
        opening = b","
    yield bytes(text + b"}}")


def _region(project: state.Project, name: str) -> Iterable[bytes]:
    if name == CONTROL:
        return (msgspec.json.encode(state.control(state.as_project(project.regions))),)
    return state.served(project.regions, name)


async def _paced(clock: Clock, slices: Iterable[bytes]) -> AsyncIterator[bytes]:
    for text in slices:
        yield text
        await clock.sleep(0)


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
