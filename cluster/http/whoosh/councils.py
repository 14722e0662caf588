"""Councils as WHOOSH knows them: opportunities, claims, and what became of them. A council's id is its project's.

An opportunity for a project nobody knows creates it with its roles, and the steward does the rest; for one that is
known it opens an election. Either way the cluster forms the council: the leader asks agents, the members vote
(cluster/elector.py). A claim is answered with the profile of its role.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from aiohttp import web

from cluster.elector import is_present, profiles
from cluster.http import problems
from cluster.http.request import NODE
from cluster.http.whoosh import adapter, lenient, reading
from cluster.http.whoosh.adapter import Call, Generation, Wish
from cluster.node import Node
from cluster.profiles import Profile
from cluster.whoosh import council_address
from swoosh import limits
from swoosh.errors import Malformed
from swoosh.hlc import time_text
from swoosh.outcome import Code
from swoosh.regions.council import roles_of
from swoosh.state import Council, Formation, Project, ProjectRegions


class Opportunity(NamedTuple):
    """A council to be formed: what for, with whom, and how long agents are asked (milliseconds since 1970)."""

    brief: str
    repository: str
    roles: tuple[str, ...]
    formation: Formation


async def post_opportunity(request: web.Request) -> web.Response:
    """PROJECT_CREATED for a project that is not known, COUNCIL_PROFILES_LOADED for one that is."""
    call = await adapter.read(request, "developer", "service")
    node, said = request.app[NODE], call.document
    project_id = lenient.project_id(lenient.text(said, "council_id", "project_id", "project_name", "name"))
    wanted = opportunity(node, said)
    return await adapter.propose(request, call, project_id, lambda project: _wish(node, project, wanted))


def opportunity(node: Node, said: Mapping[str, Any]) -> Opportunity:
    """What a body asks for; the roles this node calls core, where it names none.

    Raises:
        Malformed: there are no roles to fill, or names that cannot be.
    """
    asked = [*lenient.objects(said, "core_roles", "roles"), *lenient.objects(said, "optional_roles")]
    optional = {name for each in lenient.objects(said, "optional_roles") if (name := _role_name(each))}
    optional |= {name for each in asked if each.get("required") is False and (name := _role_name(each))}
    named = dict.fromkeys(
        [name for each in asked if (name := _role_name(each))]
        + list(lenient.texts(said, "core_roles", "roles", "planned_roles", most=limits.ROLES_MAX))
    )
    roles = tuple(name for name in named if name not in optional) or _core(node)
    until_ms = lenient.moment_ms(lenient.text(said, "formation_deadline"))
    if not until_ms:
        until_ms = node.voice.now_ms + int(node.config.whoosh.formation * 1000)
    brief = lenient.text(said, "project_brief", "brief", "description", longest=limits.BRIEF_CHARS_MAX)
    name = lenient.text(said, "project_name", "name")
    where = lenient.text(said, "repository", "repository_url", "repo_url", longest=limits.ADDRESS_CHARS_MAX)
    return Opportunity(brief or name, where, roles, Formation(tuple(sorted(optional)), until_ms))


def _core(node: Node) -> tuple[str, ...]:
    core = tuple(name for name, profile in node.config.whoosh.profiles.items() if profile.core)
    if not core:
        reason = "the request names no core_roles, and this node's role file (whoosh.roles) has none that is core"
        raise Malformed(reason)
    return core


def _role_name(role: Mapping[str, Any]) -> str:
    name = lenient.text(role, "role_name", "name", "role", longest=limits.NAME_CHARS_MAX)
    if name and not lenient.is_name(name):
        raise Malformed(f"role_name: expected printable ASCII characters without spaces, got {name[:80]!r}")
    return name


def _wish(node: Node, project: Project, wanted: Opportunity) -> Wish:
    """The election that this request opens, or opened: asking again after another one is asking anew."""
    regions = project.regions
    assert isinstance(regions, ProjectRegions), "@cluster has no legacy spelling"
    election = regions.council.election
    generation, repeats = (election + 1,), ((election,),)
    if regions.meta.phase == "ABSENT":
        return created(project.id, wanted, generation, repeats)
    inputs = profiles(node.machine.registry, wanted.roles, wanted.formation)
    return Wish("COUNCIL_PROFILES_LOADED", inputs, generation, repeats, says=_said(project.id, wanted), varies=True)


def created(
    project_id: str, wanted: Opportunity, generation: Generation = (), repeats: tuple[Generation, ...] = ()
) -> Wish:
    """The wish for a new project whose council the cluster forms."""
    formation = {"optional_roles": list(wanted.formation.optional_roles), "until_ms": wanted.formation.until_ms}
    inputs = {
        "brief": wanted.brief or project_id,
        "repository": wanted.repository,
        "planned_roles": list(wanted.roles),
        "formation": formation,
    }
    says = _said(project_id, wanted)
    return Wish("PROJECT_CREATED", inputs, generation, repeats, says, created=True, varies=True)


def _said(project_id: str, wanted: Opportunity) -> dict[str, Any]:
    return {
        "council_id": project_id,
        "project_id": project_id,
        "status": "forming",
        "formation_deadline": time_text(wanted.formation.until_ms),
        "ucxl_address": council_address(project_id),
    }


# --- claims -----------------------------------------------------------------------------------------------------------


async def post_claim(request: web.Request) -> web.Response:
    """COUNCIL_ROLE_CLAIMED: 201 first, 200 for the same agent again, 409 taken, 404 unknown."""
    call = await adapter.read_for_agent(request)
    role = lenient.text(call.document, "role_name", "role", longest=limits.NAME_CHARS_MAX)
    if not role:
        raise Malformed("role_name: which role is claimed?")
    node, project_id = request.app[NODE], lenient.project_id(request.match_info["id"])
    return await adapter.propose(request, call, project_id, lambda project: _claim(node, project, call, role))


def _claim(node: Node, project: Project, call: Call, role: str) -> Wish | web.Response:
    regions = project.regions
    if not isinstance(regions, ProjectRegions) or regions.meta.phase == "ABSENT":
        return problems.refuse(Code.NOT_FOUND, f"there is no council {project.id}")
    council = regions.council
    if role not in (*roles_of(council), *(member.role for member in council.members)):
        return problems.refuse(Code.NOT_FOUND, f"council {project.id} has no role {role}; it has {_listed(council)}")
    if not is_present(node.machine.registry, call.principal, node.voice.now_ms):
        reason = f"agent {call.agent} is not registered, or was not heard of for too long"
        return problems.refuse(Code.NOT_FOUND, reason, help="register it: POST /api/v1/agents/register")
    says = _claimed(node, project.id, role, call.agent)
    holder = _holder(council, role)
    if holder == call.principal:
        return adapter.is_so(project, says)
    if holder:
        return problems.conflict(f"role {role} of council {project.id} is taken by {reading.agent(holder)}")
    generation = (council.election, council.releases.get(role, 0))
    inputs = {"role": role, "agent": call.agent}
    return Wish("COUNCIL_ROLE_CLAIMED", inputs, generation, says=says, created=True)


def _holder(council: Council, role: str) -> str:
    """The principal who claims a role or is seated in it; empty where it is open."""
    seated = {member.role: member.principal for member in council.members}
    claim = council.claims.get(role)
    return seated.get(role, "") if claim is None else claim.principal


def _listed(council: Council) -> str:
    return ", ".join(roles_of(council)) or "none yet: its profiles are not loaded"


def _claimed(node: Node, project_id: str, role: str, agent: str) -> dict[str, Any]:
    profile = node.config.whoosh.profiles.get(role, Profile(role))
    return {
        "council_id": project_id,
        "role_name": role,
        "agent_id": agent,
        "status": "accepted",
        "ucxl_address": council_address(project_id, agent, role),
        "role_profile": profile.told,
        "council_brief": None,
        "assigned_at": time_text(node.voice.now_ms),
    }


# --- reads ------------------------------------------------------------------------------------------------------------


@reading.reader
async def get_council(request: web.Request) -> web.Response:
    """How far a council is, and who holds which role."""
    return await reading.of_project(request, council, "council")


def council(node: Node, project_id: str, regions: ProjectRegions) -> dict[str, Any]:
    """A council's status as a caller of WHOOSH reads it."""
    held, wanted = regions.council, regions.council.formation or regions.meta.formation
    optional = wanted.optional_roles if wanted is not None else ()
    profiles = node.config.whoosh.profiles
    return {
        "council_id": project_id,
        "project_id": project_id,
        "project_name": project_id,
        "repository": regions.meta.repository,
        "project_brief": regions.meta.brief,
        "status": _status(regions),
        "phase": held.phase,
        "election": held.election,
        "core_roles": [_role(held, profiles, name) for name in held.planned_roles or regions.meta.planned_roles],
        "optional_roles": [_role(held, profiles, name, required=False) for name in optional],
        "members": [{"role_name": m.role, "agent_id": reading.agent(m.principal)} for m in held.members],
        "member_set_hash": held.member_set_hash or None,
        "formation_deadline": time_text(wanted.until_ms) if wanted is not None and wanted.until_ms else None,
        "ucxl_address": council_address(project_id),
    }


def _status(regions: ProjectRegions) -> str:
    if regions.lifecycle.phase == "TERMINATED":
        return "closed"
    return {"PLAN_ROLES": "planned", "ELECT": "forming", "TOOLING_SYNC": "formed", "READY": "active"}[
        regions.council.phase
    ]


def _role(held: Council, profiles: Mapping[str, Profile], name: str, *, required: bool = True) -> dict[str, Any]:
    profile, holder = profiles.get(name, Profile(name)), _holder(held, name)
    seated = any(member.role == name for member in held.members)
    return {
        **profile.offered(required=required),
        "status": "seated" if seated else "claimed" if holder else "open",
        "agent_id": reading.agent(holder) or None,
    }


@reading.reader
async def get_artifacts(request: web.Request) -> web.Response:
    """What a council has made: evidence of what is done, and what was submitted."""
    return await reading.of_project(request, artifacts, "council")


def artifacts(_: Node, project_id: str, regions: ProjectRegions) -> dict[str, Any]:
    """References only; what they point to lies elsewhere."""
    return {"council_id": project_id, "artifacts": [*_evidence(regions), *_submitted(regions)]}


def _evidence(regions: ProjectRegions) -> Iterable[dict[str, Any]]:
    for name, task in sorted(regions.execution.tasks.items()):
        if task.state == "DONE":
            yield {"kind": "task", "task": name, "reference": task.evidence, "agent_id": reading.agent(task.owner)}


def _submitted(regions: ProjectRegions) -> Iterable[dict[str, Any]]:
    for each in regions.execution.submissions:
        for reference in each.artifacts:
            agent = reading.agent(each.submitter)
            yield {"kind": "submission", "plan_hash": each.plan_hash, "reference": reference, "agent_id": agent}
