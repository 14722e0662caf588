"""The administrator's routes: commands on `@cluster`, facts, and two requests to one node.

The first four are shorthands: the body is the very proposal `POST /transition` takes, and the route only makes sure
it is one of its own, so that a proxy can fence administration off by path. A snapshot and a change of leader concern
a node and not the replicated state: they are signed by an admin and fresh, but leave nothing in the log.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from cluster.answers import Unavailable
from cluster.http import gate, problems, transition
from cluster.http.rate import charge
from cluster.http.request import LIMITS, NODE, read_body, within
from cluster.node import Node
from swoosh import canonical, limits, principal, signing
from swoosh.errors import Malformed
from swoosh.hlc import HLC
from swoosh.outcome import Code, Refused

COMMANDS = {
    "/admin/identities": frozenset({"IDENTITY_ADDED", "IDENTITY_REVOKED"}),
    "/admin/flags": frozenset({"FLAG_SET"}),
    "/admin/settings": frozenset({"SETTING_SET"}),
    "/admin/members": frozenset({"MEMBER_REJOINED"}),
}
ORDER_FRESH_MS = 30_000
"""How far the time of a signed order may be from this node's clock; a copied one is worth no more."""


async def post_command(request: web.Request) -> web.Response:
    """A signed proposal on `@cluster` of the kind this path stands for."""
    body = await read_body(request, limits.BODY_BYTES_MAX, problems.JSON)
    item = await transition.admit(request, body, belongs=COMMANDS[request.path])
    [answer] = await transition.submit(request, [item])
    return problems.respond(answer)


async def post_facts(request: web.Request) -> web.Response:
    """One signed fact, or an array of them; answers in order."""
    document = canonical.parse(await read_body(request, limits.BODY_BYTES_MAX, problems.JSON))
    facts = document if isinstance(document, list) else [document]
    if not 1 <= len(facts) <= limits.ENTRY_PROPOSALS_MAX:
        raise Malformed(f"{len(facts)} facts; 1 to {limits.ENTRY_PROPOSALS_MAX} go into one request", Code.TOO_LARGE)
    charge(request, len(facts) - 1)
    answers = await transition.submit(request, await gate.admit(request, request.app[NODE].admission.fact, facts))
    return problems.outcomes(answers, lines=False) if facts is document else problems.respond(answers[0])


# --- orders to one node -----------------------------------------------------------------------------------------------


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an admin signs for one node: the path is part of it, so an order is good for one thing only."""

    order: str
    node: str
    hlc: str
    signer: str
    signature: str
    to: str | None = None


async def post_snapshot(request: web.Request) -> web.Response:
    """Ask this node for a snapshot: it is taken now, or when the least interval since the last one has passed."""
    node = request.app[NODE]
    order = await ordered(request, "snapshot")
    if not isinstance(order, Order):
        return problems.respond(order)
    node.snapshots.request()
    return problems.ok({"success": True, "node": node.config.node_id, "leader": node.raft.leader})


async def get_snapshots(request: web.Request) -> web.Response:
    """The manifests of the snapshots this node keeps, oldest first."""
    node = request.app[NODE]
    return problems.ok({"node": node.config.node_id, "snapshots": node.snapshots.kept()})


async def post_transfer(request: web.Request) -> web.Response:
    """Hand leadership to `to`, or to the member furthest along. Asked of the node that leads."""
    node = request.app[NODE]
    order = await ordered(request, "transfer-leadership")
    if not isinstance(order, Order):
        return problems.respond(order)
    try:
        moved = await within(node.clock, request.app[LIMITS].answer, node.raft.transfer_leadership(order.to))
    except TimeoutError:
        moved = False
    if not moved:
        reason = f"leadership did not move; role {node.raft.role.name.lower()}, leader {node.raft.leader}"
        return problems.refuse(Code.NO_LEADER, reason, admitted=False)
    return problems.ok({"success": True, "node": node.config.node_id, "leader": node.raft.leader})


async def ordered(request: web.Request, wanted: str) -> Order | Refused | Unavailable:
    """The order of this name that an admin signed for this node, or why there is none."""
    document = canonical.parse(await read_body(request, limits.BODY_BYTES_MAX, problems.JSON))
    [order] = await gate.admit(request, partial(_verified, request.app[NODE], wanted), [document])
    return order


def _verified(node: Node, wanted: str, document: Any) -> Order | Refused:
    """The order, or why it is not an admin's fresh word to this node.

    Raises:
        Malformed: it is not of the form.
    """
    try:
        order = msgspec.convert(document, Order)
    except msgspec.ValidationError as error:
        raise Malformed(f"order: {error}") from None
    if (order.order, order.node) != (wanted, node.config.node_id):
        seen = f"got {order.order[:40]} on {order.node[:40]}"
        raise Malformed(f"this is for order {wanted} on {node.config.node_id}; {seen}")
    signer = principal.normalise(order.signer)
    key, identity = principal.key_of(signer), node.machine.registry.identity(signer)
    if key is None or identity is None:
        return Refused(Code.UNKNOWN_SIGNER, (f"{signer[:120]} is not registered, or revoked",))
    if not signing.verify(key, signing.order_preimage(document, node.machine.cluster_id), order.signature):
        return Refused(Code.BAD_SIGNATURE, (f"the signature is not {signer[:120]}'s over this order",))
    if "admin" not in identity.roles:
        return Refused(Code.NOT_AUTHORISED, (f"needs the role admin; held: {', '.join(identity.roles)}",))
    if abs(HLC.parse(order.hlc).ms - node.clock.wall_us() // 1000) > ORDER_FRESH_MS:
        return Refused(Code.HLC_SKEW, (f"hlc is more than {ORDER_FRESH_MS} ms from this node's clock",))
    return order
