"""``make demo``: three nodes on this machine drive one project through its whole life, losing their leader on the way.

Every request goes to a follower, signed by the identity the chart asks for. Nothing is played: these are the processes,
keys and routes an operator has. What happens is read back from the project's log, so the steward's own steps show too.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from chaos.live import LiveCluster, Trouble
from cluster.cli.inspect import print_status
from swoosh import quorum
from swoosh.client import Accepted, Client, Refused
from swoosh.hashing import digest

PROJECT = "demo"
TIDE_SECONDS = 6
ROLES = {"architect": "agent-1", "developer": "agent-2", "tester": "agent-3"}
ELECTORS = ("elector-1", "elector-2", "elector-3")
TASKS = {"design": "agent-1", "build": "agent-2", "verify": "agent-3"}
TOOL, TOOL_VERSION = "mcp-search", "1.4.2"
CONTENT, ENVIRONMENT, PLAN, NEXT_PLAN, ARTIFACT = (
    digest("demo", name) for name in ("content", "environment", "plan", "next plan", "artifact")
)
PATIENCE_SECONDS = 30.0
PAUSE_SECONDS = 0.1


class Stage:
    """The project, and everyone who acts on it, through the followers of the moment."""

    def __init__(self, cluster: LiveCluster) -> None:
        self.cluster = cluster
        self.leader = ""
        self._stack = AsyncExitStack()
        self._clients: dict[str, Client] = {}
        self._shown = 0
        self._names = {cluster.key(name).principal: name for name in ("proposer", "operator", *ROLES.values())}

    async def follow(self) -> None:
        """Find the leader, and go through its followers from now on."""
        await self.close()
        self.leader = await self.cluster.ready()
        followers = [node for node in self.cluster.running if node != self.leader]
        names = ("proposer", "operator", "provider", *ROLES.values())
        for name in names:
            client = self.cluster.client(name, via=[*followers, self.leader])
            self._clients[name] = await self._stack.enter_async_context(client)
        print(f"  leader {self.leader}; asking {followers[0]}", flush=True)

    async def close(self) -> None:
        """Release the connections."""
        await self._stack.aclose()

    async def act(self, who: str, transition: str, inputs: Mapping[str, Any] | None = None, window: str = "") -> None:
        """Propose until the window of class ``window`` is open and the proposal accepted."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            window_id = await self._window_id(window)
            outcome = await self._clients[who].propose(
                transition, inputs=inputs, project=PROJECT, window_id=window_id, on_stale="resubmit"
            )
            if isinstance(outcome, Accepted):
                await self.show()
                return
            closed = isinstance(outcome, Refused) and outcome.failing_guard in ("window_open", "new_window")
            if not closed or time.monotonic() > deadline:
                raise Trouble(f"{transition} by {who}: {outcome}{self.cluster.logs()}")
            await asyncio.sleep(PAUSE_SECONDS)

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
        await self.show()

    async def region(self, name: str) -> dict[str, Any]:
        """One region of the project, as a follower has it."""
        state = await self._clients["proposer"].state(PROJECT, projection=[name])
        found: dict[str, Any] = state.projection[name] if state else {}
        return found

    async def show(self) -> None:
        """One line for each transition that was not shown yet."""
        async for record in self._clients["proposer"].wal(PROJECT, start=self._shown + 1):
            who = self._names.get(record["signer"], "steward")
            head = record["state_post_hash"].removeprefix("sha256-")[:12]
            print(f"  {record['index']:>5}  {record['transition_name']:<32} {head}  {self.leader}  {who}", flush=True)
            self._shown = record["seq"]

    def principals(self, names: Sequence[str]) -> list[str]:
        """What the cluster calls these keys."""
        return [self.cluster.key(name).principal for name in names]

    async def _window_id(self, window: str) -> str:
        if window == "reverb":
            return str((await self.region("Execution"))["ActiveWindowID"])
        return f"tidal:{time.time_ns() // (TIDE_SECONDS * 10**9)}" if window else ""


async def play(cluster: LiveCluster) -> None:
    """The whole life of one project."""
    stage = Stage(cluster)
    try:
        print("three nodes start", flush=True)
        cluster.start()
        await stage.follow()
        print("  INDEX  TRANSITION                       STATE-HASH    LEADER  SIGNED BY", flush=True)
        await boot(stage)
        await ingest(stage)
        await elect(stage)
        await provision(stage)
        await work(stage)
        await review_and_deliver(stage)
        print("all three agree", flush=True)
        print_status(await cluster.agreed())
    finally:
        await stage.close()


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


async def elect(stage: Stage) -> None:
    """Agents claim roles, electors sign the exact set, and tools are pinned."""
    for role, agent in ROLES.items():
        await stage.report("agent", stage.principals([agent])[0], {"name": agent, "capabilities": [role]})
    electorate = stage.principals(ELECTORS)
    profiles = {"roles": list(ROLES), "electorate": electorate, "threshold": quorum.majority(len(ELECTORS))}
    await stage.act("proposer", "COUNCIL_PROFILES_LOADED", profiles)
    for role, agent in ROLES.items():
        await stage.act(agent, "COUNCIL_ROLE_CLAIMED", {"role": role, "agent": agent})
    await stage.act("proposer", "COUNCIL_QUORUM_CERT", await certificate(stage))
    await stage.report("tool", TOOL, {"reachable": True, "version": TOOL_VERSION})
    await stage.act("proposer", "COUNCIL_TOOLING_SYNCED", {"content_hash": CONTENT, "pins": {TOOL: TOOL_VERSION}})


async def certificate(stage: Stage) -> dict[str, Any]:
    """A quorum of electors signs the claims as they stand."""
    council = await stage.region("Council")
    claims = [(role, claim["Agent"], claim["Principal"]) for role, claim in council["Claims"].items()]
    held, election, cluster = quorum.member_set_hash(claims), council["Election"], stage.cluster
    voters = [cluster.key(name) for name in ELECTORS[: council["Threshold"]]]
    votes = [
        {
            "voter": key.principal,
            "vote": quorum.APPROVE,
            "signature": key.sign_vote(cluster.cluster_id, PROJECT, election, held),
        }
        for key in voters
    ]
    return {"election": election, "member_set_hash": held, "threshold": council["Threshold"], "votes": votes}


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


async def work(stage: Stage) -> None:
    """The plan is locked, work begins, the leader is killed, work goes on, the dead one comes back."""
    stands_on = await agreement(stage)
    await stage.act("proposer", "EXECUTION_BEGUN", stands_on, "plan")
    tasks = {task: f"{task} it" for task in TASKS}
    await stage.act("proposer", "EXECUTION_PLAN_LOCKED", {**stands_on, "plan_hash": PLAN, "tasks": tasks}, "plan")
    await stage.act(TASKS["design"], "EXECUTION_TASK_CLAIMED", {"task": "design"}, "work")
    victim = stage.leader
    print(f"SIGKILL {victim}, the leader", flush=True)
    stage.cluster.kill(victim)
    await stage.follow()
    for task in ("build", "verify"):
        await stage.act(TASKS[task], "EXECUTION_TASK_CLAIMED", {"task": task}, "work")
    print(f"{victim} starts again", flush=True)
    stage.cluster.start(victim)
    for task, agent in TASKS.items():
        evidence = f"ucxl://{agent}:{task}@demo/result"
        await stage.act(agent, "EXECUTION_TASK_COMPLETED", {"task": task, "evidence": evidence}, "work")
    await stage.follow()


async def review_and_deliver(stage: Stage) -> None:
    """Members judge each other's work; it is delivered in reverb; the next window begins with a new plan."""
    await stage.act("proposer", "EXECUTION_REVIEW_OPENED", {}, "review")
    for agent in ROLES.values():
        others = [task for task, owner in TASKS.items() if owner != agent]
        await stage.act(agent, "EXECUTION_APPROVAL_RECORDED", {"verdict": "approve", "tasks": others}, "review")
    await stage.act("proposer", "EXECUTION_APPROVED", {}, "reverb")
    await stage.act("proposer", "EXECUTION_SUBMITTED", {"plan_hash": PLAN, "artifacts": [ARTIFACT]}, "reverb")
    await stage.act("proposer", "EXECUTION_NEXT_WINDOW", {}, "plan")
    follow_up = {**await agreement(stage), "plan_hash": NEXT_PLAN, "tasks": {"polish": "polish it"}}
    await stage.act("proposer", "EXECUTION_PLAN_LOCKED", follow_up, "plan")


def main() -> int:
    """Run it in a directory that is gone afterwards; 0 when the cluster did what it should."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="swoosh-demo-", ignore_cleanup_errors=True) as directory:
        cluster = LiveCluster.create(Path(directory) / "cluster", "--windows", f"tidal:{TIDE_SECONDS}")
        try:
            asyncio.run(play(cluster))
        except Trouble as trouble:
            print(f"the demo failed: {trouble}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            cluster.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
