"""Three processes with short logs: what was cut is made good by a snapshot, over the network, from disk to disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.live import LiveCluster
from swoosh.client import Accepted
from tests.system.conftest import Found

SHORT = {"SWOOSH_LOG_KEEP_ENTRIES": "20", "SWOOSH_INSTALL_MIB_PER_SECOND": "8"}
WRITTEN = 60


async def write(cluster: LiveCluster, name: str, count: int = WRITTEN) -> None:
    async with cluster.client("proposer") as client:
        for number in range(count):
            outcome = await client.propose("PROJECT_CREATED", inputs={"brief": "b"}, project=f"{name}-{number}")
            assert isinstance(outcome, Accepted), outcome


async def log_of(cluster: LiveCluster, node: str) -> tuple[int, int]:
    report = (await cluster.survey()).reports[node]
    return report["log"]["first_index"], report["log"]["last_index"]


async def left_behind(cluster: LiveCluster) -> str:
    """A follower that was down while the others cut what it lacks."""
    cluster.start(environment=SHORT)
    leader = await cluster.ready()
    follower = next(node for node in cluster.nodes if node != leader)
    _, had = await log_of(cluster, follower)
    cluster.kill(follower)
    await write(cluster, "a")

    async def is_cut() -> bool | None:
        firsts = [(await log_of(cluster, node))[0] for node in cluster.running]
        return True if min(firsts) > had + 1 else None

    await cluster.wait_for("the logs to be cut", is_cut, 90.0)
    return follower


def said(cluster: LiveCluster, node: str, what: str) -> bool:
    return any(what in line for line in cluster.log(node).read_text().splitlines())


async def test_a_follower_behind_the_cut_comes_back_by_a_snapshot(found: Found) -> None:
    cluster = found("--windows", "always_open")
    follower = await left_behind(cluster)
    cluster.start(follower, environment=SHORT)
    await cluster.ready()
    await cluster.agreed()
    assert said(cluster, follower, '"event": "restart"')
    home = cluster.directory / follower
    assert {path.name for path in home.glob("store*")} == {"store-1"}
    assert (home / "CURRENT_STORE").read_text() == "store-1"
    assert not (home / "install.ready").exists()
    await write(cluster, "b", 10)
    await cluster.agreed()
    for node in cluster.nodes:
        assert cluster.stop(node) == 0
        command = [sys.executable, "-m", "cluster", "verify", str(cluster.directory / node)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    cluster.start(environment=SHORT)
    await cluster.ready()
    await cluster.agreed()


@pytest.mark.parametrize("place", ["install.piece", "install.moved"])
async def test_a_kill_in_the_middle_of_an_install_is_made_good(found: Found, place: str) -> None:
    cluster = found("--windows", "always_open")
    follower = await left_behind(cluster)
    cluster.start(follower, environment=SHORT | {"SWOOSH_FAILPOINT": f"{place}:1"})
    assert await cluster.ended(follower) == -9
    cluster.start(follower, environment=SHORT)
    await cluster.ready()
    await cluster.agreed()
    assert (cluster.directory / follower / "CURRENT_STORE").read_text() == "store-1"


async def test_an_operator_takes_a_snapshot_and_sees_it(found: Found) -> None:
    cluster = found("--windows", "always_open")
    cluster.start()
    await cluster.ready()
    await write(cluster, "a", 5)

    def swoosh(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cluster", "snapshot", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

    key, endpoint = str(cluster.keys / "admin.pem"), cluster.endpoints[1]
    saved = swoosh("save", "--key", key, "--endpoint", endpoint, "--timeout", "90", "-o", "json")
    assert saved.returncode == 0, saved.stderr
    kept = json.loads(saved.stdout)
    listed = json.loads(swoosh("list", "--endpoint", endpoint, "-o", "json").stdout)
    assert listed == [kept]
    directory = cluster.directory / kept["node"] / "snapshots"
    (on_disk,) = json.loads(swoosh("list", str(directory), "-o", "json").stdout)
    assert on_disk["snapshots"] == kept["snapshots"]
    newest = directory / str(kept["snapshots"][-1]["lastAppliedIndex"])
    command = [sys.executable, "-m", "cluster", "verify", str(Path(newest))]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
