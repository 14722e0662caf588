"""A request of WHOOSH's, ten times in the same words, on different nodes, while the leader dies: done once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from itertools import cycle, islice
from typing import Any

import aiohttp
import pytest

from chaos.live import LiveCluster
from swoosh.client import Accepted
from tests.system.conftest import Found

TIMES, KILLED_AT = 10, 4
PATIENCE_SECONDS = 60.0
PROJECT, AGENT = "atlas", "chorus-7"
ROLE = {"role_name": "tech-lead", "required": True}
SOURCES = {"project_id": PROJECT, "sources": ["https://git.example/atlas"], "weight": 0.5}


class Repeater:
    """Asks for the same thing again and again, at one node after the other."""

    def __init__(self, cluster: LiveCluster, session: aiohttp.ClientSession) -> None:
        self.cluster, self._session = cluster, session

    async def ask(self, path: str, body: Mapping[str, Any]) -> list[bool]:
        """Whether each of ten answers was a repeat; the leader is killed on the way, and comes back afterwards."""
        answers: list[bool] = []
        killed = ""
        for number, node in enumerate(islice(cycle(self.cluster.nodes), TIMES)):
            if number == KILLED_AT:
                killed = await self.cluster.ready()
                self.cluster.kill(killed)
            answers.append(await self._insist(self.cluster.nodes[node], path, body))
        self.cluster.start(killed)
        await self.cluster.ready()
        return answers

    async def _insist(self, url: str, path: str, body: Mapping[str, Any]) -> bool:
        """Ask this node, or another where it is gone, until the answer is final."""
        deadline, urls = time.monotonic() + PATIENCE_SECONDS, cycle([url, *self.cluster.endpoints])
        for where in urls:
            assert time.monotonic() < deadline, f"{path}: no final answer in {PATIENCE_SECONDS:g} s"
            try:
                async with self._session.post(where + path, json=body) as reply:
                    said = await reply.json()
                    if reply.status != 503:
                        assert reply.status in (200, 201), f"{path}: {reply.status} {said}"
                        return bool(said.get("duplicate"))
                    await asyncio.sleep(float(reply.headers["Retry-After"]))
            except (aiohttp.ClientError, TimeoutError):
                continue
        raise AssertionError("unreachable")

    async def counts(self) -> Counter[str]:
        """How often each transition is on the project's record."""
        async with self.cluster.client() as client:
            return Counter([record["transition_name"] async for record in client.wal(PROJECT)])

    async def until_electing(self) -> None:
        """Wait for the steward to have opened the election."""

        async def open_() -> bool | None:
            async with self.cluster.client() as client:
                state = await client.state(PROJECT, projection=["Council"])
            return True if state is not None and state.projection["Council"]["Phase"] == "ELECT" else None

        await self.cluster.wait_for("the election", open_)


@pytest.mark.timeout(400)
async def test_ten_times_in_the_same_words_is_once(found: Found) -> None:
    cluster = found("--insecure-signers")
    cluster.start()
    await cluster.ready()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session:
        await ten_times_each(Repeater(cluster, session))
    await cluster.agreed()


async def ten_times_each(repeater: Repeater) -> None:
    """Every request that can be made of a project before there is work."""
    wish = {"id": PROJECT, "description": "maps", "core_roles": [ROLE, {"role_name": "dev", "required": True}]}
    await once(repeater, "/api/v1/projects", wish, "PROJECT_CREATED")
    await repeater.until_electing()
    other = {"council_id": PROJECT, "core_roles": [ROLE, {"role_name": "qa", "required": True}]}
    await once(repeater, "/api/v1/opportunities/council", other, "COUNCIL_PROFILES_LOADED", before=1)
    assert (await repeater.ask("/api/v1/agents/register", {"agent_id": AGENT, "load": 0.25})).count(False) == 1
    claim = {"agent_id": AGENT, "role_name": "tech-lead", "confidence": 0.87}
    await once(repeater, f"/api/v1/councils/{PROJECT}/claims", claim, "COUNCIL_ROLE_CLAIMED")
    await once(repeater, "/api/v1/tasks/ingest", SOURCES, "INGESTION_SOURCES_RESOLVED")
    async with repeater.cluster.client("operator") as client:
        called = await client.propose("COUNCIL_REELECTION_CALLED", inputs={"reason": "anew"}, project=PROJECT)
    assert isinstance(called, Accepted), called
    await once(repeater, f"/api/v1/councils/{PROJECT}/claims", claim, "COUNCIL_ROLE_CLAIMED", before=1)


async def once(repeater: Repeater, path: str, body: Mapping[str, Any], transition: str, *, before: int = 0) -> None:
    """Ten answers, one transition. Who was cut off may be told first that it is a repeat; never two that it is not."""
    answers = await repeater.ask(path, body)
    assert answers.count(False) <= 1, f"{path}: {answers}"
    assert (await repeater.counts())[transition] == before + 1, f"{path} was done more than once, or not at all"
