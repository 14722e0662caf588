"""Agents as WHOOSH knows them: registered, alive, and told where the others are.

An agent is a fact that this node signs: it says that a caller who may speak for the agent was heard at that moment. It
runs out unless the agent is heard again, by a status, by registering anew, or when its own `/health` answers the
leader (providers/agents.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web
from msgspec.structs import asdict

from cluster.http import gate, problems, transition
from cluster.http.request import NODE, deadline
from cluster.http.whoosh import adapter, lenient, reading
from cluster.http.whoosh.adapter import Call
from cluster.node import Node
from cluster.profiles import Profile
from cluster.whoosh import PREFIX, council_address
from swoosh import facts, limits
from swoosh.facts import Agent, Known
from swoosh.hlc import time_text
from swoosh.outcome import Code, FactAccepted

KIND = "agent"


async def post_register(request: web.Request) -> web.Response:
    """The agent is there, can do this, and is reached there. 201 when it is new, 200 when it was known."""
    call = await adapter.read_for_agent(request)
    return await _heard(request, call, lambda _: registration(call))


async def post_status(request: web.Request) -> web.Response:
    """The agent is still there; what it is doing is kept as one word."""
    call = await adapter.read_for_agent(request, request.match_info["id"])
    status = lenient.text(call.document, "status", "state", longest=limits.NAME_CHARS_MAX)
    return await _heard(request, call, lambda held: None if held is None else {**held.body, "status": status})


async def _heard(
    request: web.Request, call: Call, told: Callable[[Known | None], dict[str, Any] | None]
) -> web.Response:
    """Put it on record that the agent was heard, unless that is on record for long enough. ``told`` is what to say of
    it, beside what is held; nothing where it has to register first."""
    node = request.app[NODE]
    missing = await node.read("linearizable", deadline(request))
    if missing is not None:
        return problems.respond(missing)
    held = _fact(node, call.principal)
    body = told(held)
    if body is None:
        reason = f"agent {call.agent} is not registered"
        return problems.refuse(Code.NOT_FOUND, reason, help="register it: POST /api/v1/agents/register")
    life_ms = int(node.config.whoosh.agent_life * 1000)
    says = {"success": True, "agent_id": call.agent, "expires_in_s": life_ms // 1000, "duplicate": False}
    if held is not None and held.body == body and node.voice.now_ms < held.expires_at - life_ms * 2 // 3:
        return problems.ok({**says, "duplicate": True})
    item = node.voice.fact(KIND, call.principal, body, lives_ms=life_ms)
    [admitted] = await gate.admit(request, node.admission.fact, [msgspec.json.decode(item.sent)])
    [answer] = await transition.submit(request, [admitted])
    if not isinstance(answer, FactAccepted):
        return problems.adapted(answer, {}, created=False)
    return problems.created(says) if held is None else problems.ok(says)


def registration(call: Call) -> dict[str, Any]:
    """What is kept of a registration, in the form of an `agent` fact."""
    said, word, address = call.document, limits.NAME_CHARS_MAX, limits.ADDRESS_CHARS_MAX
    can, dialled = limits.AGENT_CAPABILITIES_MAX, limits.AGENT_ADDRESSES_MAX
    agent = Agent(
        name=lenient.text(said, "agent_name", "name", "display_name", longest=word) or call.agent,
        capabilities=lenient.texts(said, "capabilities", "skills", "expertise", most=can, longest=word),
        endpoint=lenient.text(said, "endpoint", "url", "http_endpoint", "address", longest=address),
        multiaddrs=lenient.texts(said, "multiaddrs", "addresses", most=dialled, longest=address),
        transport=lenient.text(said, "transport", "transport_preference", longest=word),
        certificate_hash=lenient.text(said, "certificate_hash", "cert_hash", longest=word),
        status=lenient.text(said, "status", "state", longest=word),
    )
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(agent).items()}


# --- reads ------------------------------------------------------------------------------------------------------------


@reading.reader
async def get_agents(request: web.Request) -> web.Response:
    """Every agent that is there, or was lately."""
    node = request.app[NODE]
    shown, counts = reading.page(request, registered(node))
    return problems.ok({"agents": [_view(node, known) for known in shown], **counts})


@reading.reader
async def get_bootstrap_peers(request: web.Request) -> web.Response:
    """Where a mesh begins: the agents that told how they are dialled."""
    return problems.ok({"bootstrap_peers": _bootstrap_peers(request.app[NODE])})


@reading.reader
async def get_topology(request: web.Request) -> web.Response:
    """The agents that are there, and the councils they sit in together."""
    node = request.app[NODE]
    councils: dict[str, list[str]] = {}
    for at, _, who in await _seats(node):
        councils.setdefault(at, []).append(reading.agent(who))
    rows = [{"council_id": name, "members": members} for name, members in councils.items()]
    return problems.ok({"nodes": _peers(node), "councils": rows})


@reading.reader
async def get_assignment(request: web.Request) -> web.Response:
    """What one agent is to do: its seats, and where the mesh begins. 404 for an agent nobody registered."""
    node, agent = request.app[NODE], request.match_info["agent"]
    known = _fact(node, PREFIX + agent)
    if known is None:
        return problems.refuse(Code.NOT_FOUND, f"there is no agent {agent[:120]}")
    seats = [_assigned(node, agent, at, role) for at, role, who in await _seats(node) if who == known.subject]
    return problems.ok(
        {
            "agent_id": agent,
            "config_epoch": node.machine.registry.cluster.members.config_epoch,
            "assignments": seats,
            "bootstrap_peers": _bootstrap_peers(node),
        }
    )


def _assigned(node: Node, agent: str, project_id: str, role: str) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "council_id": project_id,
        "role_name": role,
        "role_profile": node.config.whoosh.profiles.get(role, Profile(role)).told,
        "ucxl_address": council_address(project_id, agent, role),
    }


def registered(node: Node) -> list[Known]:
    """The newest fact about each agent, by principal."""
    entries = node.machine.registry.facts.entries
    return [known for path, known in sorted(entries.items()) if path.startswith(f"{KIND}/")]


def _fact(node: Node, principal: str) -> Known | None:
    return node.machine.registry.fact(KIND, principal)


def _said(known: Known) -> Agent:
    return msgspec.convert(known.body, facts.Agent)


def _view(node: Node, known: Known) -> dict[str, Any]:
    said = _said(known)
    return {
        "agent_id": reading.agent(known.subject),
        "name": said.name,
        "capabilities": list(said.capabilities),
        "endpoint": said.endpoint or None,
        "status": (said.status or "online") if node.voice.now_ms < known.expires_at else "offline",
        "last_seen": time_text(known.observed_at),
    }


def _peers(node: Node) -> list[dict[str, Any]]:
    """The agents that are there."""
    now_ms = node.voice.now_ms
    return [_peer(known) for known in registered(node) if now_ms < known.expires_at]


def _bootstrap_peers(node: Node) -> list[dict[str, Any]]:
    return [peer for peer in _peers(node) if peer["multiaddrs"] or peer["endpoint"]]


def _peer(known: Known) -> dict[str, Any]:
    said = _said(known)
    return {
        "agent_id": reading.agent(known.subject),
        "transport": said.transport or "tcp",
        "certificate_hash": said.certificate_hash or None,
        "multiaddrs": list(said.multiaddrs),
        "endpoint": said.endpoint or None,
    }


async def _seats(node: Node) -> list[tuple[str, str, str]]:
    """(project, role, principal) of everybody who is seated."""
    return [
        (project_id, member.role, member.principal)
        async for project_id, regions in reading.projects(node)
        for member in regions.council.members
    ]
