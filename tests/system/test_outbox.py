"""Real nodes and a real sink, both killed while records are on their way: nothing is missing, and nothing out of order.

What the cluster says it accepted (`GET /wal`) is held against what the sink has.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from chaos.live import LiveCluster
from swoosh.client import Accepted, Client
from swoosh.proposal import CLUSTER

Found = Callable[..., LiveCluster]
PROJECTS = ("apollo", "gemini", "mercury")
DEADLINE = 90.0


class SinkProcess:
    """One sink: its port and its file stay, its process comes and goes."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "sink.jsonl"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        script = Path(__file__).with_name("sink.py")
        self._process = subprocess.Popen([sys.executable, str(script), str(self.port), str(self.file)])

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def refuse(self, *projects: str) -> None:
        self.file.with_name(self.file.name + ".refused").write_text(" ".join(projects))

    def records(self) -> list[dict[str, Any]]:
        return lines(self.file)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().rpartition(b"\n")[0].splitlines()] if file.exists() else []


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[SinkProcess]:
    made = SinkProcess(tmp_path)
    yield made
    made.kill()


async def delivering(found: Found, section: str) -> tuple[LiveCluster, str]:
    """Three ready nodes with a section in their configuration, and the leader."""
    cluster = found("--windows", "always_open")
    for node in cluster.nodes:
        with (cluster.home(node) / "swoosh.toml").open("a") as config:
            config.write(f"\n[bubble]\n{section}\n")
    cluster.start()
    return cluster, await cluster.ready()


async def work(client: Client, times: int) -> None:
    for number in range(times):
        for project in PROJECTS:
            transition = "CONTROL_RESUMED" if number % 2 else "CONTROL_PAUSED"
            outcome = await client.propose(transition, inputs={"reason": "r"}, project=project, on_stale="resubmit")
            assert isinstance(outcome, Accepted), outcome


async def create(client: Client) -> None:
    for project in PROJECTS:
        outcome = await client.propose("PROJECT_CREATED", inputs={"brief": "b"}, project=project)
        assert isinstance(outcome, Accepted), outcome


async def outboxes(cluster: LiveCluster) -> dict[str, Any] | None:
    """What the leader shows, if there is one that knows."""
    async with aiohttp.ClientSession() as session:
        for node in cluster.running:
            try:
                async with session.get(f"{cluster.nodes[node]}/outboxes") as reply:
                    shown: dict[str, Any] | None = (await reply.json()).get("outboxes")
            except aiohttp.ClientError:
                continue
            if shown is not None:
                return shown
    return None


async def drained(cluster: LiveCluster) -> None:
    """Wait until nothing waits any more."""

    async def empty() -> bool | None:
        shown = await outboxes(cluster)
        return True if shown is not None and shown["bubble"]["backlog"] == 0 else None

    await cluster.wait_for("the outbox to be empty", empty, DEADLINE)


async def accepted(cluster: LiveCluster) -> dict[str, list[str]]:
    """By project: the id of the Decision Record of every accepted transition, in order, as the cluster tells."""
    found = {}
    async with cluster.client() as client:
        for project in (*PROJECTS, "default", CLUSTER):
            page = await client.get("/decisions", project=project, limit="1000")
            found[project] = [record["dr_id"] for record in page["records"]]
            assert len(found[project]) == len([record async for record in client.wal(project)])
    return found


def check(wanted: dict[str, list[str]], records: list[dict[str, Any]]) -> None:
    """Every id once, in order per project, and nothing else; each with what a Decision Record must have."""
    for project, ids in wanted.items():
        arrived = list(dict.fromkeys(record["dr_id"] for record in records if record["project"] == project))
        assert arrived == ids, project
    assert len({record["dr_id"] for record in records}) == sum(map(len, wanted.values()))
    for record in records:
        assert record["guards"] and all(each["ok"] for each in record["guards"].values()), record
        assert record["justification"] and record["signer"] and record["state_post_hash"], record
        assert record["delivery"]["links"]["self"][1] == record["ucxl_address"]


async def test_every_accepted_transition_is_in_the_sink_once_whoever_is_killed(found: Found, sink: SinkProcess) -> None:
    sink.start()
    cluster, leader = await delivering(found, f'url = "http://127.0.0.1:{sink.port}/decisions"')
    async with cluster.client("operator") as client:
        await create(client)
        for turn in range(2):
            await work(client, 4)
            if turn:
                sink.kill()
            await work(client, 2)
            cluster.kill(leader)
            if turn:
                sink.start()
            await work(client, 4)
            cluster.start(leader)
            leader = await cluster.ready()
    await drained(cluster)
    await cluster.agreed()
    check(await accepted(cluster), sink.records())


async def test_a_record_that_is_refused_is_seen_tried_again_and_passed_over(found: Found, sink: SinkProcess) -> None:
    sink.refuse("gemini")
    sink.start()
    cluster, _ = await delivering(found, f'url = "http://127.0.0.1:{sink.port}/decisions"')
    ask = [option for endpoint in cluster.endpoints for option in ("--endpoint", endpoint)]
    admin = ["--key", str(cluster.keys / "admin.pem")]
    async with cluster.client("operator") as client:
        await create(client)
        await work(client, 2)

    async def refused() -> list[dict[str, Any]] | None:
        shown = await outboxes(cluster)
        held = shown["bubble"]["held"] if shown else []
        return [row for row in held if row["why"] == "refused"] or None  # the others wait for their license

    rows = await cluster.wait_for("the refusal to be seen", refused)
    assert [(row["project"], row["seq"]) for row in rows] == [("gemini", 1)]
    shown = cluster.swoosh("outbox", "show", *ask)
    assert shown.returncode == 0 and "gemini" in shown.stdout and "422" in shown.stdout, shown.stderr
    assert "gemini" in shown.stderr
    done = cluster.swoosh("outbox", "pass-over", "bubble", "gemini", "1", "--yes", *admin, *ask)
    assert done.returncode == 0, done.stderr
    sink.refuse()
    done = cluster.swoosh("outbox", "retry", "bubble", *admin, *ask)
    assert done.returncode == 0, done.stderr
    await drained(cluster)
    await cluster.agreed()
    wanted = await accepted(cluster)
    wanted["gemini"] = wanted["gemini"][1:]
    check(wanted, sink.records())
    shown = cluster.swoosh("outbox", "show", "-o", "json", *ask)
    (left_out,) = json.loads(shown.stdout)["outboxes"]["bubble"]["passed_over"]
    assert (left_out["project"], left_out["seq"], left_out["by"]) == ("gemini", 1, cluster.key("admin").principal)


async def test_the_files_of_all_nodes_together_hold_every_record(found: Found) -> None:
    cluster, leader = await delivering(found, 'path = "decisions.jsonl"')
    async with cluster.client("operator") as client:
        await create(client)
        await work(client, 4)
        cluster.kill(leader)
        await work(client, 4)
        cluster.start(leader)
        await cluster.ready()
        await work(client, 1)
    await drained(cluster)
    await cluster.agreed()
    files = [lines(cluster.home(node) / "decisions.jsonl") for node in cluster.nodes]
    for records in files:
        for project in PROJECTS:
            numbers = [record["delivery"]["seq"] for record in records if record["project"] == project]
            assert list(dict.fromkeys(numbers)) == sorted(set(numbers)), "each leader goes forward"
    assert sum(map(bool, files)) >= 2, "two nodes have led"
    together = sorted((record for records in files for record in records), key=lambda each: each["delivery"]["seq"])
    check(await accepted(cluster), together)
