"""The saga for real: three nodes, a worker that proposes, a receiver that makes directories, and any of them killed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.live import LiveCluster
from swoosh.client import Accepted, Client
from swoosh.hashing import digest
from tests.system.conftest import Found

PROJECT = "atlas"
ASSETS = ("db", "vm-1", "vm-2")
CONTENT = digest("content", "what ingestion pinned")


class Program:
    """A command of ours as a process of its own, that can be killed and started again."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.log, self.arguments = log, arguments
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> None:
        command = [sys.executable, "-m", "cluster", *self.arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})

    @property
    def ended(self) -> int | None:
        assert self.process is not None
        return self.process.poll()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Plant:
    """A cluster, its receiver and its workers."""

    def __init__(self, cluster: LiveCluster, root: Path) -> None:
        self.cluster, self.root = cluster, root
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.receiver = Program(
            cluster.directory / "receiver.log", *("worker", "receive", "--listen", self.address, "--root", str(root))
        )
        self.workers: list[Program] = []
        self.deaths: Counter[str] = Counter()
        for variables in cluster.environment.values():
            variables["SWOOSH_ENVIRONMENT_URL"] = f"http://{self.address}"
            variables["SWOOSH_ENVIRONMENT_EVERY_MS"] = "500"

    def worker(self, key: str, *options: str) -> Program:
        endpoints = [part for endpoint in self.cluster.endpoints for part in ("--endpoint", endpoint)]
        signer = ("--key", str(self.cluster.keys / f"{key}.pem"))
        log = self.cluster.directory / f"worker-{len(self.workers)}.log"
        command = ("worker", "provision", "--project", PROJECT, *options)
        self.workers.append(Program(log, *command, *signer, *endpoints))
        return self.workers[-1]

    def up(self) -> Program:
        return self.worker("proposer", *(part for name in ASSETS for part in ("--asset", f"{name}:vm:1")))

    def down(self) -> Program:
        return self.worker("operator", "--teardown")

    def effects(self) -> list[tuple[str, str]]:
        lines = map(json.loads, (self.root / "ledger.jsonl").read_text().splitlines())
        return [(line["action"], line["asset"]) for line in lines]

    def standing(self) -> list[str]:
        return sorted(path.name for path in (self.root / "assets" / PROJECT).iterdir())

    async def ends(self, worker: Program) -> None:
        """Wait until the worker is done; whatever dies meanwhile is started again, without what made it die."""

        async def done() -> bool | None:
            for node in [node for node in self.cluster.running if self.cluster.exit_code(node) is not None]:
                await self.cluster.ended(node)
                self.deaths["node"] += 1
                self.cluster.environment[node].pop("SWOOSH_FAILPOINT", None)
                self.cluster.start(node)
            if self.receiver.ended is not None:
                self.deaths["receiver"] += 1
                self.receiver.start()
            return None if worker.ended is None else True

        await self.cluster.wait_for("the worker to end", done, 90.0)
        assert worker.ended == 0, worker.log.read_text()

    def close(self) -> None:
        for program in (self.receiver, *self.workers):
            program.kill()


@pytest.fixture
def plant(found: Found, tmp_path: Path) -> Iterator[Plant]:
    made = Plant(found("--windows", "always_open"), tmp_path / "receiver")
    yield made
    made.close()


async def ready(plant: Plant) -> str:
    """Everything runs, and the project has its content; the leader."""
    plant.cluster.start()
    leader = await plant.cluster.ready()
    async with plant.cluster.client("proposer") as client:
        for transition, inputs in (
            ("PROJECT_CREATED", {"brief": "a plant"}),
            ("INGESTION_SOURCES_RESOLVED", {"sources": ["ucxl://corpus"]}),
            ("INGESTION_FETCHED", {"content_hash": CONTENT}),
            ("INGESTION_VALIDATED", {"outcomes": {"schema": "ok"}}),
            ("INGESTION_INDEXED", {"content_hash": CONTENT}),
        ):
            await accepted(plant, client, transition, inputs)
    return leader


async def accepted(plant: Plant, client: Client, transition: str, inputs: dict[str, Any]) -> None:
    """Proposed until it is: the license is granted by and by."""

    async def propose() -> bool | None:
        outcome = await client.propose(transition, inputs=inputs, project=PROJECT, on_stale="resubmit")
        assert isinstance(outcome, Accepted) or getattr(outcome, "retryable", True), outcome
        return True if isinstance(outcome, Accepted) else None

    await plant.cluster.wait_for(transition, propose)


async def environment(plant: Plant) -> dict[str, Any]:
    async with plant.cluster.client() as client:
        found = await client.state(PROJECT, projection=["Environment"])
    assert found is not None
    region: dict[str, Any] = found.projection["Environment"]
    return region


async def test_a_project_is_provisioned_found_healthy_and_torn_down(plant: Plant) -> None:
    plant.receiver.start()
    leader = await ready(plant)
    up = plant.up()
    up.start()
    await plant.ends(up)
    held = await environment(plant)
    assert (held["Phase"], held["Basis"]) == ("READY", CONTENT)
    assert {asset["State"] for asset in held["Assets"].values()} == {"CONFIRMED"}
    assert plant.standing() == list(ASSETS)

    async def told(trouble: Callable[[str | None], bool]) -> None:
        async def looks() -> bool | None:
            report = (await plant.cluster.survey()).reports[leader]
            return True if trouble(report["providers"]["environment"]) else None

        await plant.cluster.wait_for("the provider's word in /health", looks)

    await told(lambda trouble: trouble is None)
    down = plant.down()
    down.start()
    await plant.ends(down)
    assert (await environment(plant))["Phase"] == "ALLOCATE"
    assert Counter(plant.effects()) == Counter((action, name) for action in ("provision", "revert") for name in ASSETS)
    assert plant.standing() == []
    plant.receiver.kill()
    await told(lambda trouble: trouble is not None and plant.address in trouble)


async def test_every_node_that_leads_dies_at_an_edge_and_each_effect_is_one(plant: Plant) -> None:
    """The second dies while it mends what the first left, the third while it mends that."""
    edges = ("effect.committed", "effect.answered", "effect.proposed")
    for node, edge in zip(plant.cluster.nodes, edges, strict=True):
        plant.cluster.environment[node]["SWOOSH_FAILPOINT"] = f"{edge}:1"
    plant.receiver.start()
    await ready(plant)
    up = plant.up()
    up.start()
    await plant.ends(up)
    print(dict(plant.deaths))
    assert plant.deaths["node"] >= 2
    assert plant.effects() == [("provision", name) for name in ASSETS]
    assert plant.standing() == list(ASSETS)
    await plant.cluster.agreed()


async def test_receiver_worker_and_leader_die_and_each_effect_is_one(plant: Plant) -> None:
    plant.receiver.start(SWOOSH_FAILPOINT="receiver.written:2")
    leader = await ready(plant)
    up = plant.up()
    up.start()

    async def begun() -> bool | None:
        return True if (plant.root / "ledger.jsonl").read_text() else None

    await plant.cluster.wait_for("the first effect", begun)
    up.kill()
    plant.cluster.kill(leader)
    again = plant.up()
    again.start()
    await plant.ends(again)
    plant.cluster.start(leader)
    assert plant.deaths["receiver"] == 1
    assert plant.effects() == [("provision", name) for name in ASSETS]
    assert plant.standing() == list(ASSETS)
    await plant.cluster.agreed()
