"""From a request of WHOOSH to at most one transition on behalf of its caller.

The one path that all of these routes share: who calls, what the body says, what that means for the project as it
stands, and a proposal that this node signs for the caller. From there on it is a proposal like any other. Callers send
no idempotency key, so one is made from what makes a request *this* request: method, path, caller, body, and the
generation it acts in, which is whatever tells asking again from asking anew. A repeat finds its first answer, on
whatever node. This module must never answer from state that is not committed, and never propose twice for one request
under two keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from aiohttp import web

from cluster.answers import Answer, Unavailable, not_admitted
from cluster.callers import Caller
from cluster.http import gate, problems, transition
from cluster.http.access import Denied, authorise
from cluster.http.request import NODE, PROJECT, deadline, read_body
from cluster.http.whoosh import lenient
from cluster.node import Node
from cluster.whoosh import PREFIX
from swoosh import limits, state, windows
from swoosh.errors import Malformed
from swoosh.hashing import digest_hex
from swoosh.hlc import HLC, ZERO
from swoosh.outcome import Accepted, Code, Refused
from swoosh.proposal import HEADERS
from swoosh.state import Project, ProjectRegions

TRIES = 8
_KEY = "legacy:"
_MOVED_ON = frozenset({Code.STALE_STATE, Code.HLC_REGRESSION, Code.HLC_TIE})
_ANY_WINDOW = "any"
"""Where windows are always open, a name is all that is asked."""

Generation = tuple[int | str, ...]


class Call(NamedTuple):
    """A request as read: who asks, for whom, and what the body says."""

    caller: Caller
    principal: str
    body: bytes
    document: dict[str, Any]

    @property
    def agent(self) -> str:
        """What the agent it is for calls itself."""
        return self.principal.removeprefix(PREFIX)


class Wish(NamedTuple):
    """What a request comes to on a project as it stands.

    ``generation`` is what would make the same request a new one; ``repeats`` are generations under which it was the
    same request. ``says`` goes into the answer where the wish is granted, ``created`` makes it a 201. ``varies`` says
    that the inputs hold what this node adds, which another would word otherwise, or the same one a moment later.
    """

    transition: str
    inputs: dict[str, Any]
    generation: Generation = ()
    repeats: tuple[Generation, ...] = ()
    says: Mapping[str, Any] = MappingProxyType({})
    created: bool = False
    varies: bool = False


WishFor = Callable[[Project], Wish | web.Response]
"""What to do about a project, or the answer where nothing is to be done."""


# --- reading a request ------------------------------------------------------------------------------------------------


async def read(request: web.Request, *roles: str) -> Call:
    """A request of somebody who holds one of the roles, for himself.

    Raises:
        Denied: who calls is not known, or may not.
        Malformed: the body is not what it should be.
    """
    caller = authorise(request, *roles)
    body = await read_body(request, limits.BODY_BYTES_MAX, problems.JSON)
    return Call(caller, PREFIX + caller.name, body, lenient.parse(body))


async def read_for_agent(request: web.Request, named: str = "") -> Call:
    """A request of an agent, or of a service for one; ``named`` is the agent a path names.

    Raises:
        Denied: who calls is not known, or may not speak for that agent.
        Malformed: the body is not what it should be, or names no agent.
    """
    call = await read(request, "agent")
    said = lenient.text(call.document, "agent_id", "agent", "id", "agent_name", longest=limits.NAME_CHARS_MAX)
    return call._replace(principal=PREFIX + speaks_for(call.caller, named or said))


def speaks_for(caller: Caller, agent: str) -> str:
    """The agent a request is for.

    Raises:
        Denied: the caller is another agent.
        Malformed: none is named, or the name cannot be one.
    """
    found = agent or caller.agent
    if not found or not lenient.is_name(PREFIX + found):
        most = limits.NAME_CHARS_MAX - len(PREFIX)
        raise Malformed(f"agent_id: expected 1 to {most} printable ASCII characters without spaces, got {found[:80]!r}")
    if caller.agent and caller.agent != found:
        raise Denied(Code.NOT_AUTHORISED, f"the token is {caller.agent}'s, who cannot speak for {found}")
    return found


# --- proposing --------------------------------------------------------------------------------------------------------


async def propose(request: web.Request, call: Call, project_id: str, wish_for: WishFor) -> web.Response:
    """Do what a request comes to, once, and answer it. A project that moved meanwhile is looked at again."""
    node = request.app[NODE]
    request[PROJECT] = project_id
    for _ in range(TRIES):
        missing = await node.read("linearizable", deadline(request))
        if missing is not None:
            return problems.respond(missing)
        wish = wish_for(node.machine.project(project_id) or state.absent(project_id))
        if isinstance(wish, web.Response):
            return wish
        answer = await _granted(request, call, project_id, wish)
        if not (isinstance(answer, Refused) and answer.code in _MOVED_ON):
            return problems.adapted(answer, wish.says, created=wish.created)
    crowded = not_admitted(Code.OVERLOADED, f"{project_id} changes faster than this request can follow")
    return problems.respond(crowded)


def is_so(project: Project, says: Mapping[str, Any]) -> web.Response:
    """What is asked for is so already: success, and nothing is proposed."""
    return problems.ok({"success": True, "duplicate": True, "state_hash": project.state_hash, **says})


async def _granted(request: web.Request, call: Call, project_id: str, wish: Wish) -> Answer:
    """The first answer to this very request, else what became of it now."""
    node = request.app[NODE]
    key = _key(request, call, project_id, wish.generation)
    # A key of the caller's own may be used for two things by mistake. The reducer knows, unless the inputs vary.
    is_known_by_key = wish.varies or _said(request, "idem_key") is None
    for generation in (*wish.repeats, wish.generation) if is_known_by_key else ():
        first = transition.recorded(node, project_id, _key(request, call, project_id, generation))
        if first is not None:
            return first
    project = node.machine.project(project_id) or state.absent(project_id)
    document = node.voice.document(
        *(project, wish.transition, wish.inputs),
        key=key,
        window_id=_window(request, node, project, wish.transition),
        after=HLC.parse(_said(request, "hlc") or str(ZERO)),
        behalf=call.principal,
    )
    admitted = await gate.admit(request, node.admission.proposal, [document])
    [answer] = await transition.submit(request, admitted)
    if isinstance(answer, Refused) and answer.code is Code.IDEM_KEY_REUSED and is_known_by_key:
        # The key is this request's own: another node was asked as well, and read the project a moment apart.
        return await _recorded_by_now(request, project_id, key) or answer
    return answer


async def _recorded_by_now(request: web.Request, project_id: str, key: str) -> Accepted | Unavailable | None:
    node = request.app[NODE]
    missing = await node.read("linearizable", deadline(request))
    return missing or transition.recorded(node, project_id, key)


def _key(request: web.Request, call: Call, project_id: str, generation: Generation) -> str:
    """Keys are hashed whatever their source, so that no caller can take another's or one of the nodes' own."""
    own = _said(request, "idem_key")
    what = ["body", digest_hex("body", call.body), *generation] if own is None else ["key", own]
    who = [project_id, call.caller.name, call.principal, request.method, request.path]
    return _KEY + digest_hex("legacy", json.dumps([*who, *what]).encode())


def _said(request: web.Request, member: str) -> str | None:
    """What a header says of a member of the proposal to come; None where none does."""
    return next((request.headers[name] for name in HEADERS[member] if name in request.headers), None)


def _window(request: web.Request, node: Node, project: Project, name: str) -> str:
    """The window the caller names, else the one that is open for what it asks."""
    shape = node.chart.of(project.id).transitions[name]
    stated = _said(request, "window_id")
    if stated is not None or shape.window is None or not isinstance(project.regions, ProjectRegions):
        return stated or ""
    active = project.regions.execution.active_window_id
    if shape.window == "reverb":
        return active
    current = windows.current(node.machine.registry, node.clock.wall_us() // 1000)
    return active or _ANY_WINDOW if current is None else current.id
