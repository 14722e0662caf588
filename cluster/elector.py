"""The node as an elector of councils that the cluster forms (docs/how-to/form-a-council-with-chorus.md).

Where nobody brings electors of his own, the electorate is the members: each votes for what *its own* applied state
shows, so that a council exists only once a majority of replicas has seen every planned role held by an agent that is
there. A vote is handed to the leader again and again while its election lasts, for the leader keeps votes in memory;
what it does with them is in providers/hmmm.py. This module must never vote for a set it has not looked at here, nor
for a council whose electors are people.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from cluster.providers.hmmm import Polled
from cluster.providers.leading import Voice
from swoosh import quorum
from swoosh.catalog import Registry
from swoosh.machine import Applied
from swoosh.outcome import Refused
from swoosh.quorum import Vote
from swoosh.regions.council import Poll, poll
from swoosh.state import Council, Formation, ProjectRegions

LOOK_SECONDS = 0.25
REPEAT_SECONDS = 2.0
PROJECTS_BETWEEN_PAUSES = 16
POLL_SECONDS = 2.0

_log = structlog.get_logger(__name__)

Hand = Callable[[str, Vote | None, float], Awaitable[Polled]]
"""`Node.poll`."""


def profiles(registry: Registry, roles: tuple[str, ...], formation: Formation) -> dict[str, Any]:
    """The inputs of COUNCIL_PROFILES_LOADED for a council that the cluster forms: a majority of its members decides."""
    entries = registry.cluster.identities.entries.items()
    nodes = sorted(name for name, held in entries if {"node", "elector"} <= set(held.roles) and not held.revoked)
    return {
        "roles": list(roles),
        "electorate": nodes,
        "threshold": quorum.majority(len(nodes)),
        "formation": {"optional_roles": list(formation.optional_roles), "until_ms": formation.until_ms},
    }


def is_present(registry: Registry, principal: str, now_ms: int) -> bool:
    """Whether an agent is registered: with a key of its own, or by a fact that has not run out."""
    identity, fact = registry.identity(principal), registry.fact("agent", principal)
    return (identity is not None and "agent" in identity.roles) or (fact is not None and now_ms < fact.expires_at)


class Elector:
    """Watches the councils that are being formed, and votes."""

    def __init__(self, voice: Voice, hand: Hand) -> None:
        self._voice, self._hand, self._machine, self._clock = voice, hand, voice.machine, voice.clock
        self._watched: dict[str, None] = {}
        self._said: dict[str, tuple[Poll, float]] = {}
        """The last vote on each project, and when it was handed in."""

    def on_applied(self, applied: Applied) -> None:
        """Whatever moved may be a council that is being formed."""
        self._watched.update(dict.fromkeys(record.project for record, _ in applied.records))

    async def run(self) -> None:
        """Until cancelled."""
        self._watched.update(dict.fromkeys(self._machine.project_ids()))
        while True:
            for number, project_id in enumerate(list(self._watched), 1):
                await self._look(project_id)
                if number % PROJECTS_BETWEEN_PAUSES == 0:
                    await self._clock.sleep(0)
            await self._clock.sleep(LOOK_SECONDS)

    async def _look(self, project_id: str) -> None:
        council = self._forming(project_id)
        if council is None:
            self._watched.pop(project_id, None)
            self._said.pop(project_id, None)
            return
        asked = self._asked(project_id, council)
        if asked is None or not self._is_due(project_id, asked):
            return
        self._said[project_id] = (asked, self._clock.monotonic())
        polled = await self._hand(project_id, self._voice.vote(asked), self._clock.monotonic() + POLL_SECONDS)
        if isinstance(polled, Refused):
            _log.info("vote not counted", project=project_id, election=asked.election, reasons=polled.reasons)

    def _forming(self, project_id: str) -> Council | None:
        project = self._machine.project(project_id)
        if project is None or not isinstance(project.regions, ProjectRegions):
            return None
        council = project.regions.council
        return council if council.phase == "ELECT" and council.formation is not None else None

    def _asked(self, project_id: str, council: Council) -> Poll | None:
        """What this node may vote for as things stand; None while a role is open or its holder is gone."""
        registry = self._machine.registry
        found = poll(project_id, council, quorum.APPROVE, registry.cluster.identities.entries.get)
        if isinstance(found, Refused) or found.lacking or self._voice.principal not in found.electors:
            return None
        now_ms = self._voice.now_ms
        return found if all(is_present(registry, each.principal, now_ms) for each in found.members) else None

    def _is_due(self, project_id: str, asked: Poll) -> bool:
        said, at = self._said.get(project_id, (None, 0.0))
        return said != asked or self._clock.monotonic() >= at + REPEAT_SECONDS
