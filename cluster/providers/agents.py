"""Agents that serve HTTP as WHOOSH's do: asked to fill a council that the cluster forms, and looked after meanwhile.

What is asked follows from committed state alone: a project whose council is being formed and that nothing holds up, a
role that is open, and an agent whose fact has not run out. Each such agent is handed the opportunity, and again after
every ``rebroadcast``, until nothing is open or the formation's time is over; one that registers later, or an election
that begins anew, is a new question and is asked at once. An agent that does not answer waits for its next turn. What
agents make of it they say by claiming, over HTTP, at any node; nothing is read from their answers here.

Where agents are, they have told themselves. So an address is taken apart and put together again before it is used, and
the gatekeeper lets only those through that the operator's patterns name.

A fact that nears its end is renewed if the agent's own ``/health`` answers, else it runs out. This module must never
keep what the next leader would miss: a new leader asks everybody again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from string import ascii_letters, digits
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import structlog

from cluster.egress import Blocked, Call, Outside, Unreachable, address_of
from cluster.entropy import Entropy
from cluster.profiles import Profile
from cluster.providers.errands import Errands
from cluster.providers.leading import Leading, is_aging
from cluster.providers.outbox import Redact
from cluster.whoosh import PREFIX, Whoosh, council_address
from swoosh import limits, quorum
from swoosh.facts import Known
from swoosh.hlc import HLC, time_text
from swoosh.inputs import is_printable
from swoosh.machine import Applied
from swoosh.merkle import MerkleMap
from swoosh.outcome import FactAccepted, Refused
from swoosh.reducer import closing_phase
from swoosh.regions.council import poll, roles_of
from swoosh.state import Project, ProjectRegions

LOOK_SECONDS = 0.25
PROJECTS_BETWEEN_PAUSES = 16
TIMEOUT_SECONDS = 5.0
HEALTH_LOOKS = 20
"""So many in the life of a fact, of which the last third are made: one answer may go missing."""
CLAIMED = "COUNCIL_ROLE_CLAIMED"
OPPORTUNITY, HEALTH = "/api/v1/opportunities/council", "/health"

_HOST = frozenset(ascii_letters + digits + ".-_:")
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}
_log = structlog.get_logger(__name__)

Errand = Callable[[], Awaitable[float]]


class Opening(NamedTuple):
    """A council that is being formed, and its roles that nobody holds."""

    project: Project
    regions: ProjectRegions
    roles: tuple[str, ...]

    @property
    def election(self) -> int:
        """Which election of the project it is."""
        return self.regions.council.election

    def is_over(self, now_ms: int) -> bool:
        """Whether agents are no longer asked."""
        formation = self.regions.council.formation
        return formation is not None and 0 < formation.until_ms <= now_ms


class Agents:
    """All agents, for all projects."""

    name = "agents"

    def __init__(self, whoosh: Whoosh, outside: Outside, entropy: Entropy, redact: Redact) -> None:
        """``redact`` is applied to the words in what leaves."""
        self._whoosh, self._outside, self._entropy, self._redact = whoosh, outside, entropy, redact
        self._begin()
        self.trouble: str | None = None
        self.counts: Counter[str] = Counter()

    def _begin(self) -> None:
        """Whoever leads begins with nothing but what is on record."""
        self._watched: dict[str, None] = {}
        self._board: MerkleMap[Known] = MerkleMap()
        self._agents: dict[str, Known] = {}
        self._faults: dict[str, str] = {}
        """Why an agent was not reached the last time."""
        self._over: dict[str, int] = {}
        """The election of each project that was still open when its time was over."""

    async def run(self, leading: Leading) -> None:
        """Until cancelled."""
        errands = Errands(leading.clock, self._entropy)
        self._begin()
        self._watched.update(dict.fromkeys(leading.machine.project_ids()))
        leading.on_applied.append(self._on_applied)
        try:
            while True:
                errands.collect()
                if leading.caught_up:  # else a council that sits already may look as if it were being formed
                    await self._look(leading, errands)
                self.trouble = self._words()
                await leading.clock.sleep(LOOK_SECONDS)
        finally:
            leading.on_applied.remove(self._on_applied)
            errands.cancel()

    def _on_applied(self, applied: Applied) -> None:
        """Whatever moved may be a council that is being formed."""
        self._watched.update(dict.fromkeys(record.project for record, _ in applied.records))

    # --- what is due --------------------------------------------------------------------------------------------------

    async def _look(self, leading: Leading, errands: Errands) -> None:
        present = self._present(leading)
        wanted: dict[str, Errand] = dict(self._renewals(leading, present))
        for number, project_id in enumerate(list(self._watched), 1):
            opening = self._asking(leading, project_id)
            if opening is not None:
                wanted.update(self._questions(opening, present))
            if number % PROJECTS_BETWEEN_PAUSES == 0:
                await leading.clock.sleep(0)  # callers come first
        errands.retain(wanted)
        for name, errand in wanted.items():
            errands.begin(name, errand)

    def _present(self, leading: Leading) -> list[Known]:
        """The facts of agents that are registered and tell where they are, by principal."""
        board, registry = leading.registry.facts.entries, leading.registry
        for key, known in board.changes_since(self._board):
            if known is not None and known.kind == "agent":
                self._agents[key] = known
        self._board = board
        identities, now_ms = registry.cluster.identities.entries, leading.now_ms
        found = []
        for known in self._agents.values():
            identity = identities.get(known.subject)
            is_live = now_ms < known.expires_at and registry.fact("agent", known.subject) is not None
            if is_live and known.body.get("endpoint") and (identity is None or not identity.revoked):
                found.append(known)
        self._faults = {known.subject: fault for known in found if (fault := self._faults.get(known.subject))}
        return sorted(found, key=lambda known: known.subject)

    def _renewals(self, leading: Leading, present: list[Known]) -> Iterator[tuple[str, Errand]]:
        """Whose fact nears its end. Who signs for himself says himself that he is there."""
        for known in present:
            if known.subject.startswith(PREFIX) and is_aging(known, leading.now_ms):
                yield f"health of {known.subject}", partial(self._renew, leading, known.subject)

    def _asking(self, leading: Leading, project_id: str) -> Opening | None:
        """What agents are asked to fill; None where that is nothing. A council that is not being formed is not looked
        at again before its project moves."""
        opening = opening_of(leading, project_id)
        if opening is None:
            self._watched.pop(project_id, None)
            self._over.pop(project_id, None)
        elif opening.roles and opening.is_over(leading.now_ms):
            self._note_over(opening)
        elif opening.roles:
            return opening
        return None

    def _note_over(self, opening: Opening) -> None:
        project_id, election = opening.project.id, opening.election
        if self._over.get(project_id) != election:
            self._over[project_id] = election
            told = {"project": project_id, "election": election, "open_roles": opening.roles}
            _log.warning("the time to form a council is over, and nobody is asked any more", **told)

    def _questions(self, opening: Opening, present: list[Known]) -> Iterator[tuple[str, Errand]]:
        """One for each agent. Its name says what would make it another question."""
        for known in present:
            endpoint = known.body["endpoint"]
            name = f"{opening.project.id} {opening.election} {known.subject} {endpoint}"
            yield name, partial(self._ask, opening, known.subject, endpoint)

    # --- errands ------------------------------------------------------------------------------------------------------

    async def _ask(self, opening: Opening, agent: str, endpoint: str) -> float:
        """Hand an agent the opportunity; seconds until it is asked again."""
        told, _ = self._redact(opportunity(opening, self._whoosh.profiles))
        await self._reach(agent, "POST", endpoint, OPPORTUNITY, msgspec.json.encode(told), opening.project.id)
        return self._whoosh.rebroadcast

    async def _renew(self, leading: Leading, agent: str) -> float:
        """Look whether an agent is there, and say so; seconds until it is worth another look."""
        known = leading.registry.fact("agent", agent)
        if known is not None and await self._reach(agent, "GET", known.body["endpoint"], HEALTH):
            said = leading.registry.fact("agent", agent) or known  # it may have said something of itself meanwhile
            answer = await leading.observe("agent", agent, said.body, lives_ms=int(self._whoosh.agent_life * 1000))
            if isinstance(answer, FactAccepted):
                self.counts["renewed"] += 1
        return max(1.0, self._whoosh.agent_life / HEALTH_LOOKS)

    async def _reach(
        self, agent: str, method: str, endpoint: str, path: str, body: bytes | None = None, project: str | None = None
    ) -> bool:
        """Whether the agent took it."""
        base = base_of(endpoint)
        if base is None:
            return self._missed(agent, "blocked", f"its endpoint {endpoint[:120]!r} is no http(s)://host:port")
        call = Call(self.name, method, base + path, body, _JSON, project, TIMEOUT_SECONDS)
        try:
            reply = await self._outside.request(call)
        except Blocked as error:
            return self._missed(agent, "blocked", str(error))
        except Unreachable as error:
            return self._missed(agent, "failed", str(error))
        if not 200 <= reply.status < 300:
            said = reply.body[:120].decode("utf-8", "replace").strip()
            return self._missed(agent, "failed", f"{base}{path} answers {reply.status} {said}".strip())
        self.counts["answered"] += 1
        if self._faults.pop(agent, None) is not None:
            _log.info("agent answers again", agent=agent)
        return True

    def _missed(self, agent: str, kind: str, reason: str) -> bool:
        self.counts[kind] += 1
        if agent not in self._faults:  # an outage is logged once, not at every turn
            _log.warning("agent is not reached", agent=agent, reason=reason)
        self._faults[agent] = reason
        return False

    def _words(self) -> str | None:
        """The first fault by principal, and how many more there are."""
        if not self._faults:
            return None
        agent, more = min(self._faults), len(self._faults) - 1
        return f"{agent}: {self._faults[agent]}" + (f"; and {more} more are not reached" if more else "")


def opening_of(leading: Leading, project_id: str) -> Opening | None:
    """The council that the cluster forms for a project, as it stands; None where it forms none, or nobody may claim."""
    project = leading.machine.project(project_id)
    regions = None if project is None else project.regions
    if project is None or not isinstance(regions, ProjectRegions):
        return None
    council, gates = regions.council, leading.machine.chart.project.transitions[CLAIMED].gates
    if council.phase != "ELECT" or council.formation is None:
        return None
    found = poll(project_id, council, quorum.APPROVE, leading.registry.cluster.identities.entries.get)
    if isinstance(found, Refused) or any(closing_phase(gate.closed_while, project) for gate in gates):
        return None
    held = {member.role for member in found.members}
    return Opening(project, regions, tuple(role for role in roles_of(council) if role not in held))


def base_of(endpoint: str) -> str | None:
    """Where an agent's routes begin, spelled anew; None where that is no plain http(s)://host:port/path.

    What is judged by the gatekeeper must be what is sent to, however another parser would read the text.
    """
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    is_plain = is_printable(endpoint) and host and _HOST.issuperset(host) and port != 0
    has_more = "@" in parts.netloc or parts.query or parts.fragment
    if parts.scheme not in ("http", "https") or not is_plain or has_more:
        return None
    return f"{parts.scheme}://{address_of(endpoint)}{parts.path.rstrip('/')}"


def opportunity(opening: Opening, profiles: Mapping[str, Profile]) -> dict[str, Any]:
    """What agents are told of a council that is being formed, in the words of WHOOSH.

    ``core_roles`` are all that must be filled, ``metadata.open_roles`` those that nobody holds yet. A formation without
    an end has the last moment there is as its deadline.
    """
    meta, council = opening.regions.meta, opening.regions.council
    assert council.formation is not None, "only such councils are formed"

    def offered(names: tuple[str, ...], *, required: bool) -> list[dict[str, Any]]:
        return [profiles.get(name, Profile(name)).offered(required=required) for name in names]

    return {
        "council_id": opening.project.id,
        "project_name": opening.project.id,
        "repository": meta.repository,
        "project_brief": meta.brief,
        "core_roles": offered(council.planned_roles, required=True),
        "optional_roles": offered(council.formation.optional_roles, required=False),
        "ucxl_address": council_address(opening.project.id),
        "formation_deadline": time_text(council.formation.until_ms or limits.HLC_MS_MAX),
        "created_at": time_text(HLC.parse(meta.created_hlc).ms),
        "metadata": {"election": council.election, "open_roles": list(opening.roles)},
    }
