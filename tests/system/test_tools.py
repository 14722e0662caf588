"""Real tool servers, real nodes: a council is ready with the tools it pinned while these answer, and not otherwise."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from chaos.live import LiveCluster
from chaos.live.stage import CONTENT, PROJECT, Stage, boot, ingest, seat
from swoosh.client import Accepted, Client, Refused
from tests.sealed import seal_for
from tests.system.conftest import Found

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "open sesame"
DWELL_MS = 2_000


class ToolProcess:
    """A tool server on a port of its own, and its successor where there is one."""

    def __init__(self, era: str, token: str = "") -> None:
        self.era, self.token = era, token
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, version: str) -> None:
        """Start it; it listens as soon as its port is free."""
        options = {"--port": str(self.port), "--version": version, "--era": self.era, "--token": self.token}
        command = [sys.executable, "-m", "tests.toolserver", *(word for option in options.items() for word in option)]
        self._processes.append(subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}))

    async def listens(self) -> None:
        """Wait for that: a server that fails five times in a row is left alone for half a minute."""
        async with asyncio.timeout(60):
            while not self._answers():
                await asyncio.sleep(0.1)

    def _answers(self) -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """SIGKILL of the oldest that runs."""
        process = self._processes.pop(0)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        while self._processes:
            self.kill()


@pytest.fixture
def search() -> Iterator[ToolProcess]:
    """A modern server that wants a token."""
    tool = ToolProcess("modern", TOKEN)
    yield tool
    tool.close()


@pytest.fixture
def files() -> Iterator[ToolProcess]:
    """An older server, with sessions."""
    tool = ToolProcess("legacy")
    yield tool
    tool.close()


def configure(cluster: LiveCluster, search: ToolProcess, files: ToolProcess) -> None:
    for node in cluster.nodes:
        seal_for(cluster.home(node), "search.token.age", TOKEN)
        with (cluster.home(node) / "swoosh.toml").open("a") as config:
            config.write(f"""
[mcp]
interval_ms = 1000

[mcp.servers.search]
url = "http://127.0.0.1:{search.port}/mcp"
token = "search.token.age"

[mcp.servers.files]
url = "http://127.0.0.1:{files.port}/mcp"
""")


class Council:
    """What the guard says to pins."""

    def __init__(self, cluster: LiveCluster, proposer: Client) -> None:
        self.cluster, self.proposer = cluster, proposer

    async def hears(self, verdict: str, pins: Mapping[str, str]) -> None:
        """Wait until the guard lets these pins pass, or refuses them with a sentence that has these words."""

        async def heard() -> bool | None:
            outcome = await self.proposer.propose(
                "COUNCIL_TOOLING_SYNCED",
                inputs={"content_hash": CONTENT, "pins": pins},
                project=PROJECT,
                on_stale="resubmit",
                dry_run=True,
            )
            if isinstance(outcome, Accepted):
                return True if verdict == "green" else None
            words = "; ".join(outcome.reasons) if isinstance(outcome, Refused) else ""
            print(f"{pins}: {outcome}", flush=True)
            return True if verdict in words else None

        await self.cluster.wait_for(f"{pins} to be {verdict}", heard)


@pytest.mark.timeout(300)
async def test_a_council_is_ready_with_its_tools_while_they_answer_as_pinned(
    found: Found, search: ToolProcess, files: ToolProcess
) -> None:
    cluster = found("--windows", "always_open")
    configure(cluster, search, files)
    search.start("1.4.2")
    files.start("1.4.2")
    await search.listens()
    await files.listens()
    search.start("2.0.0")
    cluster.start()
    stage = Stage(cluster)
    try:
        await stage.follow()
        async with cluster.client("admin") as admin, cluster.client("proposer") as proposer:
            set_to = {"name": "tool_dwell_ms", "value": DWELL_MS}
            assert isinstance(await admin.propose("SETTING_SET", inputs=set_to, project="@cluster"), Accepted)
            await boot(stage)
            await ingest(stage)
            await seat(stage)
            council = Council(cluster, proposer)
            await council.hears("green", {"search": ">=1.4,<2", "files": "1.4.2"})
            await council.hears("answers with version 1.4.2; pinned is >=2", {"search": ">=2"})
            await council.hears("no fresh fact about tool other", {"other": "1"})

            search.kill()
            await council.hears("green", {"search": ">=2", "files": "1.4.2"})

            cluster.kill(stage.leader)
            await stage.follow()
            await council.hears("green", {"search": ">=2", "files": "1.4.2"})
            files.kill()
            await council.hears("tool files does not answer as it should: mcp at 127.0.0.1", {"files": "1.4.2"})
            pins = {"content_hash": CONTENT, "pins": {"search": "2.0.0"}}
            await stage.act("proposer", "COUNCIL_TOOLING_SYNCED", pins)
            assert (await stage.region("Council"))["Phase"] == "READY"
    finally:
        await stage.close()
    assert not any(TOKEN in cluster.log(node).read_text() for node in cluster.nodes)
