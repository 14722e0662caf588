"""What was recorded: the WAL and Decision Records of accepted transitions, and this node's refusals.

Records are handed out as the bytes they are hashed in. Refusals are node-local, kept for a short while, and part of
no hash: they answer "who was refused here, and why".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import msgspec
from aiohttp import web

from cluster.http import problems
from cluster.http.request import NODE, consistent, number, project_of, provenance
from swoosh import hashing, limits, principal
from swoosh.errors import Malformed
from swoosh.outcome import Code

PAGE = 100
PAGE_MAX = 1_000


async def get_wal(request: web.Request) -> web.Response:
    """WAL records of one project, from sequence number `from` on (Brief §7)."""
    return await _page(request, request.app[NODE].store.wal)


async def get_decisions(request: web.Request) -> web.Response:
    """Decision Records of one project, from sequence number `from` on (Brief §9)."""
    return await _page(request, request.app[NODE].store.decisions)


async def _page(request: web.Request, read: Callable[[str, int, int], Iterable[bytes]]) -> web.Response:
    project = project_of(request)
    start = number(request, "from", 1)
    limit = max(1, number(request, "limit", PAGE, PAGE_MAX))
    missing = await consistent(request)
    if missing is not None:
        return problems.respond(missing)
    found = list(islice(read(project, start, limit + 1), limit + 1))
    if _wants_lines(request):
        return problems.ndjson(found[:limit])
    more = max(start, 1) + limit if len(found) > limit else None
    records = [msgspec.Raw(data) for data in found[:limit]]
    return problems.ok({"project": project, "records": records, "next": more, **provenance(request)})


async def get_decision(request: web.Request) -> web.Response:
    """One Decision Record by its id: `sha256-<hex>`, bare hex, or the last part of `bubble://dr/<hex>`."""
    node = request.app[NODE]
    dr_id = hashing.normalise(request.match_info["id"], "decision id")
    missing = await consistent(request)
    if missing is not None:
        return problems.respond(missing)
    data = node.store.decision(dr_id)
    if data is None:
        index = node.machine.position.index
        return problems.refuse(Code.NOT_FOUND, f"no decision {dr_id} as of index {index}", as_of_index=index)
    return problems.record(data)


async def get_rejections(request: web.Request) -> web.Response:
    """What this node refused lately, newest first; `project` and `signer` narrow it."""
    node = request.app[NODE]
    project = project_of(request) if "project" in request.query else None
    signer = request.query.get("signer")
    if signer is not None and not 0 < len(signer) <= limits.SIGNER_CHARS_MAX:
        raise Malformed(f"signer: expected 1 to {limits.SIGNER_CHARS_MAX} characters")
    limit = max(1, number(request, "limit", PAGE, PAGE_MAX))
    name = None if signer is None else principal.normalise(signer)
    found: list[bytes] = []
    for matching in node.store.rejections(project, name):
        found += matching[: limit - len(found)]
        if len(found) == limit:
            break
        await node.clock.sleep(0)
    if _wants_lines(request):
        return problems.ndjson(found)
    return problems.ok({"node": node.config.node_id, "rejections": [msgspec.Raw(data) for data in found]})


def _wants_lines(request: web.Request) -> bool:
    return problems.NDJSON in request.headers.get("Accept", "")
