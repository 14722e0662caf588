"""A project as WHOOSH's world begins it: an issue in Gitea, agents that know nothing of SWOOSH, a load balancer.

Every call that is not a worker's is one WHOOSH knew, through HAProxy. Gitea's webhook creates the project, the steward
boots it, the leader asks the agents, they claim roles, the nodes vote, and the agents work off the plan. The leader is
killed while the council forms. Nothing is played: what came of it is read back from the log.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import aiohttp

from chaos.demo import Play, open_stage, repository, send_workers
from chaos.live import LiveCluster, Trouble
from chaos.live.haproxy import Haproxy
from cluster import profiles
from cluster.profiles import Profile

PROJECT = "chorus.survey-12"
AGENTS = 34
CALLS_A_MINUTE = 100_000
"""The agents share one machine here, and one token."""
ROLES_FILE = Path(__file__).resolve().parents[1] / "deploy" / "roles" / "human-roles.yaml"
FLEET, WEBHOOK_SECRET = "a-token-for-the-whole-fleet", "a-secret-gitea-signs-with"
FORMED_SECONDS, WORKED_SECONDS = 120.0, 240.0


class Chorus:
    """The stage, the balancer before it, and whoever calls as if WHOOSH were there."""

    def __init__(self, cluster: LiveCluster) -> None:
        self.stage = Play(cluster, PROJECT)
        self.stage.broker = None
        self.balancer = Haproxy(cluster.directory, cluster.endpoints)

    async def open(self) -> None:
        """Nodes that let these callers in, the balancer, 34 agents, and the workers of the project to come."""
        for node in self.stage.cluster.nodes:
            let_in(self.stage.cluster, node)
        await open_stage(self.stage)
        self.balancer.start()
        there = ("--whoosh", self.balancer.url, "--token", FLEET, "--count", str(AGENTS), "--listen", "127.0.0.1:0")
        able = (("--capabilities", ",".join(each.capabilities)) for each in roles().values())
        self.stage.start("agents", "cluster.standins.agent", *there, *chain.from_iterable(able))
        send_workers(self.stage)

        async def registered() -> bool | None:
            found = await self.get("/api/v1/agents?limit=100")
            return True if found.get("total") == AGENTS else None

        await self.stage.until("every agent to register", registered)

    async def webhook(self, upstream: Path) -> dict[str, Any]:
        """Gitea's word of a Design Brief; again in the same words where it is told to come again, as Gitea does."""
        body = json.dumps(issue(upstream)).encode()
        mac = hmac.new(WEBHOOK_SECRET.encode(), body, hashlib.sha256).hexdigest()
        url = f"{self.balancer.url}/webhooks/gitea"
        signed = {"X-Gitea-Event": "issues", "X-Gitea-Signature": mac, "Content-Type": "application/json"}

        async def taken() -> dict[str, Any] | None:
            async with aiohttp.request("POST", url, data=body, headers=signed) as reply:
                said: dict[str, Any] = await reply.json()
                return said if reply.status in (200, 201) else None

        found: dict[str, Any] = await self.stage.until("the webhook to be taken", taken)
        return found

    async def kill_the_leader_while_it_forms(self) -> str:
        """SIGKILL once a role is claimed; the node comes back while the others go on."""

        async def claimed() -> bool | None:
            council = await self.stage.region("Council")
            return True if council and (council["Claims"] or council["Members"]) else None

        await self.stage.until("a role to be claimed", claimed, within=FORMED_SECONDS)
        victim = await self.stage.follow()
        self.stage.cluster.kill(victim)
        await self.stage.follow()
        self.stage.cluster.start(victim)
        return victim

    async def formed(self) -> dict[str, Any]:
        """The council, once it is seated."""

        async def seated() -> dict[str, Any] | None:
            council = await self.stage.region("Council")
            return council if council["Certificate"] is not None else None

        found: dict[str, Any] = await self.stage.until("the council to be seated", seated, within=FORMED_SECONDS)
        return found

    async def worked(self) -> dict[str, Any]:
        """The tasks, once every one of them is done."""

        async def done() -> dict[str, Any] | None:
            tasks: dict[str, Any] = (await self.stage.region("Execution"))["Tasks"]
            return tasks if tasks and all(task["State"] == "DONE" for task in tasks.values()) else None

        found: dict[str, Any] = await self.stage.until("every task to be done", done, within=WORKED_SECONDS)
        return found

    async def get(self, path: str) -> dict[str, Any]:
        """What a caller of WHOOSH reads through the balancer; nothing where it is told to come again."""
        known = {"Authorization": f"Bearer {FLEET}"}
        async with aiohttp.request("GET", self.balancer.url + path, headers=known) as reply:
            said: dict[str, Any] = await reply.json()
            return said if reply.status == 200 else {}

    def close(self) -> None:
        """End everything but the nodes."""
        self.stage.close()
        self.balancer.stop()


def let_in(cluster: LiveCluster, node: str) -> None:
    """Tokens, roles and the agents' addresses into the configuration of a node."""
    home = cluster.home(node)
    secrets = {"tokens": f"fleet agent {FLEET}\n", "gitea": WEBHOOK_SECRET}
    for name, text in secrets.items():
        (home / name).write_text(text)
        done = cluster.swoosh("keys", "seal", str(home / name))
        if done.returncode:
            raise Trouble(f"swoosh keys seal: {done.stderr}")
        (home / name).unlink()
    settings: Mapping[str, Any] = {
        "tokens": "tokens.age",
        "gitea_secret": "gitea.age",
        "rate_per_minute": CALLS_A_MINUTE,
        "agents": ["127.0.0.1:*"],
        "roles": str(ROLES_FILE),
        "rebroadcast_seconds": 2,
    }
    lines = ["[whoosh]", *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]
    with (home / "swoosh.toml").open("a") as file:
        file.write("\n".join(lines) + "\n")


def roles() -> Mapping[str, Profile]:
    """The roles of a council here."""
    return profiles.read(ROLES_FILE.read_bytes())


def issue(upstream: Path) -> dict[str, Any]:
    """What Gitea sends when a Design Brief is opened, as far as anybody reads it."""
    return {
        "action": "opened",
        "issue": {
            "number": 12,
            "title": "Design Brief: a parser in an afternoon",
            "body": "As the repository describes it.",
            "labels": [{"name": "chorus-entrypoint"}],
        },
        "repository": {"name": "survey", "full_name": "chorus/survey", "clone_url": upstream.as_uri()},
    }


async def play(cluster: LiveCluster) -> Chorus:
    """From the issue to the last completed task. The nodes are left running, the others too."""
    chorus = Chorus(cluster)
    try:
        await chorus.open()
        await chorus.webhook(repository(cluster.directory / "upstream"))
        await chorus.kill_the_leader_while_it_forms()
        await chorus.formed()
        await chorus.worked()
    except BaseException:
        chorus.close()
        raise
    return chorus
