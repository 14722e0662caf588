"""One project played by hand: every step of its life proposed over the public API by the identity the chart asks for.

For runs that are about something else, an outside system or the windows: workers, agents and electors are one program
here, and what they would have made is a name. Requests go to the followers of the moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from chaos.ballot import certificate
from chaos.live.cluster import LiveCluster, Trouble
from swoosh import quorum
from swoosh.client import Accepted, Client, Refused
from swoosh.hashing import digest

PROJECT = "demo"
ROLES = {"architect": "agent-1", "developer": "agent-2", "tester": "agent-3"}
ELECTORS = ("elector-1", "elector-2", "elector-3")
TASKS = {"design": "agent-1", "build": "agent-2", "verify": "agent-3"}
TOOL, TOOL_VERSION = "mcp-search", "1.4.2"
CONTENT, ENVIRONMENT, PLAN, ARTIFACT = (digest("demo", name) for name in ("content", "environment", "plan", "artifact"))
PATIENCE_SECONDS = 30.0
PAUSE_SECONDS = 0.1


class Stage:
    """The project, and everyone who acts on it, through the followers of the moment."""

    def __init__(self, cluster: LiveCluster) -> None:
        self.cluster = cluster
        self.leader = ""
        self._stack = AsyncExitStack()
        self._clients: dict[str, Client] = {}

    async def follow(self) -> None:
        """Find the leader, and go through its followers from now on."""
        await self.close()
        self.leader = await self.cluster.ready()
        followers = [node for node in self.cluster.running if node != self.leader]
        for name in ("proposer", "operator", "provider", *ROLES.values()):
            client = self.cluster.client(name, via=[*followers, self.leader])
            self._clients[name] = await self._stack.enter_async_context(client)

    async def close(self) -> None:
        """Release the connections."""
        await self._stack.aclose()

    async def act(self, who: str, transition: str, inputs: Mapping[str, Any] | None = None, window: str = "") -> None:
        """Propose until the window of class ``window`` is open and the proposal accepted."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not await self.tried(who, transition, inputs, window):
            if time.monotonic() > deadline:
                raise Trouble(f"{transition} by {who}: no window opened{self.cluster.logs()}")
            await asyncio.sleep(PAUSE_SECONDS)

    async def tried(self, who: str, transition: str, inputs: Mapping[str, Any] | None, window: str) -> bool:
        """Propose once; False where the window is closed."""
        outcome = await self._clients[who].propose(
            transition, inputs=inputs, project=PROJECT, window_id=await self.window_id(window), on_stale="resubmit"
        )
        if not isinstance(outcome, Accepted) and not self.is_closed(window, outcome):
            raise Trouble(f"{transition} by {who}: {outcome}{self.cluster.logs()}")
        return isinstance(outcome, Accepted)

    def is_closed(self, window: str, outcome: object) -> bool:
        """Whether this refusal only says that it is too early."""
        return isinstance(outcome, Refused) and outcome.failing_guard in ("window_open", "new_window")

    async def report(self, kind: str, subject: str, body: Mapping[str, Any]) -> None:
        """A provider's signed fact."""
        outcome = await self._clients["provider"].fact(kind, subject, body)
        if isinstance(outcome, Refused):
            raise Trouble(f"fact {kind}/{subject}: {outcome}{self.cluster.logs()}")

    async def reaches(self, region: str, phase: str) -> None:
        """Wait for the steward to do what follows from the facts."""

        async def reached() -> bool | None:
            return True if (await self.region(region))["Phase"] == phase else None

        await self.cluster.wait_for(f"{region} to reach {phase}", reached)

    async def region(self, name: str) -> dict[str, Any]:
        """One region of the project, as a follower has it."""
        state = await self._clients["proposer"].state(PROJECT, projection=[name])
        found: dict[str, Any] = state.projection[name] if state else {}
        return found

    def principals(self, names: Sequence[str]) -> list[str]:
        """What the cluster calls these keys."""
        return [self.cluster.key(name).principal for name in names]

    async def window_id(self, window: str) -> str:
        """What to name for a transition of this class."""
        if window == "reverb":
            return str((await self.region("Execution"))["ActiveWindowID"])
        return "w" if window else ""


async def boot(stage: Stage) -> None:
    """A project is created; the steward boots it on the license fact."""
    brief = {
        "brief": "Show one whole turn.",
        "repository": "https://example.org/demo.git",
        "planned_roles": list(ROLES),
    }
    await stage.act("proposer", "PROJECT_CREATED", brief)
    await stage.reaches("Boot", "LICENSED")


async def ingest(stage: Stage) -> None:
    """Sources become one pinned version."""
    await stage.act("proposer", "INGESTION_SOURCES_RESOLVED", {"sources": ["ucxl://chorus:spec@demo/brief"]})
    await stage.act("proposer", "INGESTION_FETCHED", {"content_hash": CONTENT})
    await stage.act("proposer", "INGESTION_VALIDATED", {"outcomes": {"schema": "ok"}})
    await stage.act("proposer", "INGESTION_INDEXED", {"content_hash": CONTENT})


async def seat(stage: Stage) -> None:
    """Agents claim roles and electors sign the exact set."""
    for role, agent in ROLES.items():
        await stage.report("agent", stage.principals([agent])[0], {"name": agent, "capabilities": [role]})
    electorate = stage.principals(ELECTORS)
    profiles = {"roles": list(ROLES), "electorate": electorate, "threshold": quorum.majority(len(ELECTORS))}
    await stage.act("proposer", "COUNCIL_PROFILES_LOADED", profiles)
    for role, agent in ROLES.items():
        await stage.act(agent, "COUNCIL_ROLE_CLAIMED", {"role": role, "agent": agent})
    council, cluster = await stage.region("Council"), stage.cluster
    voters = [cluster.key(name) for name in ELECTORS[: council["Threshold"]]]
    inputs = certificate(cluster.cluster_id, PROJECT, council, voters)
    await stage.act("proposer", "COUNCIL_QUORUM_CERT", inputs)


async def pin_tools(stage: Stage) -> None:
    """The tool answers, a provider says, and its version is pinned."""
    await stage.report("tool", TOOL, {"reachable": True, "version": TOOL_VERSION})
    await stage.act("proposer", "COUNCIL_TOOLING_SYNCED", {"content_hash": CONTENT, "pins": {TOOL: TOOL_VERSION}})


async def provision(stage: Stage) -> None:
    """A saga of one asset; the steward finds the environment healthy once its probe says so."""
    await stage.report("capacity", "default", {"units_free": 100})
    wanted = [{"name": "runner", "kind": "container", "units": 4}]
    await stage.act("proposer", "ENVIRONMENT_CAPACITY_ALLOCATED", {"assets": wanted})
    step = {"asset": "runner", "effect": "runner-1"}
    await stage.act("proposer", "ENVIRONMENT_EFFECT_REQUESTED", step)
    await stage.act("proposer", "ENVIRONMENT_EFFECT_CONFIRMED", {**step, "receipt": digest("demo", "receipt")})
    await stage.act("proposer", "ENVIRONMENT_PROVISIONED", {"environment_hash": ENVIRONMENT})
    await stage.report("health", PROJECT, {"status": "green"})
    await stage.reaches("Environment", "READY")


async def agreement(stage: Stage) -> dict[str, str]:
    """The three hashes execution stands on."""
    members = (await stage.region("Council"))["MemberSetHash"]
    return {"content_hash": CONTENT, "member_set_hash": members, "environment_hash": ENVIRONMENT}
