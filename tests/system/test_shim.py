"""`swoosh shim` and the client middleware before real nodes: callers that send no key, clock or window.

The leader is killed while they ask. What they ask for comes to pass once, and they hear nothing worse than 503.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from chaos.live import LiveCluster
from chaos.live.cluster import free_base_port
from swoosh.client.shim import Shim
from swoosh.hlc import HLC
from swoosh.proposal import inputs_hash
from tests.system.conftest import Found

CALLERS, WISHES = 8, 6
BEFORE_THE_KILL = 8
DEADLINE = 60.0


@pytest.fixture
async def cluster(found: Found) -> LiveCluster:
    """Three nodes that take unsigned proposals, as those of v1.0.0 were; a window a minute."""
    made = found("--insecure-signers", "--windows", "tidal:60")
    made.start()
    await made.ready()
    return made


@pytest.fixture
def shim(cluster: LiveCluster, tmp_path: Path) -> Iterator[str]:
    """A shim before them, as an operator starts it; it ends in order."""
    address = f"127.0.0.1:{free_base_port(1) + 1}"
    endpoints = [part for endpoint in cluster.endpoints for part in ("--endpoint", endpoint)]
    with (tmp_path / "shim.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster", "shim", "--listen", address, *endpoints], stderr=log
        )
    yield f"http://{address}"
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 0, (tmp_path / "shim.log").read_text()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as made:
        yield made


def wish(project: str) -> dict[str, Any]:
    inputs = {"brief": f"what {project} is for"}
    return {
        "current_state_hash": "genesis",
        "transition": "PROJECT_CREATED",
        "inputs_hash": inputs_hash(inputs),
        "signer": "old-caller",
        "evidence": [],
        "project": project,
        "inputs": inputs,
    }


async def asked(session: aiohttp.ClientSession, url: str, project: str) -> dict[str, Any]:
    """Ask until it is done. What else may come back is an honest 503; then the caller asks in the same words."""
    async with asyncio.timeout(DEADLINE):
        while True:
            async with session.post(f"{url}/transition", json=wish(project)) as answer:
                body: dict[str, Any] = await answer.json()
                if answer.status == 503:
                    assert "Retry-After" in answer.headers and body["admitted"] in (True, False)
                    continue
                assert answer.status == 200, body
                return body


async def record(cluster: LiveCluster, session: aiohttp.ClientSession, project: str) -> dict[str, Any]:
    """How the creation of a project is on record, on every running node the same."""
    found = []
    for node in cluster.running:
        async with session.get(f"{cluster.nodes[node]}/wal?project={project}") as answer:
            records = (await answer.json())["records"]
        found.append([each for each in records if each["transition_name"] == "PROJECT_CREATED"])
    assert all(len(each) == 1 for each in found), f"{project} was created once: {found}"
    first: dict[str, Any] = found[0][0]
    assert all(each == [first] for each in found)
    return first


async def serves(cluster: LiveCluster, session: aiohttp.ClientSession, shim: str) -> None:
    async def up() -> bool | None:
        try:
            async with session.get(f"{shim}/shim/health") as answer:
                return True if answer.status == 200 else None
        except aiohttp.ClientError:
            return None

    await cluster.wait_for("the shim to serve", up)


@pytest.mark.parametrize("within", [False, True], ids=["swoosh shim", "the middleware"])
async def test_a_killed_leader_costs_old_callers_nothing(
    cluster: LiveCluster, shim: str, session: aiohttp.ClientSession, within: bool
) -> None:
    await serves(cluster, session, shim)
    leader = await cluster.ready()
    follower = next(node for node in cluster.nodes if node != leader)
    url = cluster.nodes[follower] if within else shim
    done, enough = 0, asyncio.Event()

    async def caller(number: int) -> list[str]:
        nonlocal done
        names = [f"atlas-{number}-{wish}" for wish in range(WISHES)]
        middlewares = [Shim([url]).middleware] if within else []
        async with aiohttp.ClientSession(middlewares=middlewares) as own:
            for name in names:
                await asked(own, url, name)
                done += 1
                if done == BEFORE_THE_KILL:
                    enough.set()
        return names

    callers = [asyncio.create_task(caller(number)) for number in range(CALLERS)]
    await enough.wait()
    cluster.kill(leader)
    projects = [name for names in await asyncio.gather(*callers) for name in names]
    await cluster.ready()

    on_record = [await record(cluster, session, project) for project in projects]
    assert all(each["idem_key"].startswith("shim:") for each in on_record)
    assert len({each["hlc"] for each in on_record}) > 1 and all(HLC.parse(each["hlc"]).ms for each in on_record)
    assert any(each["window_id"].startswith("tidal:") for each in on_record)
    again = await asked(session, shim, projects[0])
    assert again["duplicate"] is True, "the same words, through another shim, are the same operation"


async def test_what_a_caller_says_itself_is_what_is_on_record(
    cluster: LiveCluster, shim: str, session: aiohttp.ClientSession
) -> None:
    await serves(cluster, session, shim)
    said = {**wish("lyra"), "hlc": "1-0-0000000000000001", "window_id": "window-1"}
    async with session.post(f"{shim}/transition", json=said, headers={"Idempotency-Key": "his-own"}) as answer:
        body = await answer.json()
        assert (answer.status, body["idem_key"]) == (200, "his-own")
        assert answer.headers["X-Swoosh-Node"] in cluster.nodes
    on_record = await record(cluster, session, "lyra")
    assert (on_record["window_id"], on_record["hlc"]) == ("window-1", "1970-01-01T00:00:00.001+00:00#0")
    async with session.get(f"{shim}/transitions/his-own?project=lyra") as answer:
        assert (await answer.json())["record_hash"] == body["record_hash"]
