"""The outboxes of the node that leads: what waits, what is held and why, and an admin's two orders to one of them.

An order is signed for one node and one target, written ``OUTBOX`` or ``OUTBOX/PROJECT/SEQ``. That a record was passed
over is noted in the log, with who said so.
"""

from __future__ import annotations

from aiohttp import web

from cluster.http import problems
from cluster.http.admin import Order, ordered
from cluster.http.health import leads
from cluster.http.request import NODE
from cluster.node import Node
from cluster.providers.outbox import Outbox
from swoosh import principal
from swoosh.errors import Malformed
from swoosh.outcome import Code


def of(node: Node) -> dict[str, Outbox]:
    """Those that have a sink, by name."""
    return {provider.name: provider for provider in node.providers if isinstance(provider, Outbox)}


async def get_outboxes(request: web.Request) -> web.Response:
    """Each outbox of this node if it leads, else null: only the leader delivers."""
    node = request.app[NODE]
    now_us = node.clock.wall_us()
    found = {name: outbox.document(now_us) for name, outbox in of(node).items()} if leads(node) else None
    return problems.ok({"node": node.config.node_id, "leader": node.raft.leader, "outboxes": found})


async def post_retry(request: web.Request) -> web.Response:
    """Try everything that waits in an outbox again now."""
    order = await ordered(request, "outbox-retry")
    if not isinstance(order, Order):
        return problems.respond(order)
    _outbox(request, order.to or "").retry()
    return _done(request)


async def post_pass_over(request: web.Request) -> web.Response:
    """Go on behind a record that a sink refuses."""
    order = await ordered(request, "outbox-pass-over")
    if not isinstance(order, Order):
        return problems.respond(order)
    name, _, place = (order.to or "").partition("/")
    project, _, seq = place.rpartition("/")
    if not seq.isascii() or not seq.isdecimal():
        raise Malformed(f"to: expected OUTBOX/PROJECT/SEQ, got {(order.to or '')[:80]!r}")
    refusal = await _outbox(request, name).pass_over(project, int(seq), principal.normalise(order.signer))
    if refusal is not None:
        return problems.refuse(Code.NOT_FOUND, refusal)
    return _done(request)


def _outbox(request: web.Request, name: str) -> Outbox:
    node = request.app[NODE]
    found = of(node).get(name)
    if found is None:
        raise Malformed(f"{node.config.node_id} has no outbox {name[:40]!r}; it has {', '.join(of(node)) or 'none'}")
    return found


def _done(request: web.Request) -> web.Response:
    node = request.app[NODE]
    return problems.ok({"success": True, "node": node.config.node_id, "leader": node.raft.leader})
