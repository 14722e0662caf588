"""A member's disk is gone, or was put back to an earlier state: the way back, as an operator types it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.live import LiveCluster
from cluster.faults import ExitCode
from swoosh.client import Accepted
from tests.system.conftest import Found

VICTIM = "node-2"
REJOIN = ("--rejoin",)


def swoosh(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def endpoints(cluster: LiveCluster) -> list[str]:
    return [part for endpoint in cluster.endpoints for part in ("--endpoint", endpoint)]


async def fill(cluster: LiveCluster, prefix: str, count: int = 10) -> None:
    async with cluster.client("proposer") as client:
        for number in range(count):
            outcome = await client.propose("PROJECT_CREATED", inputs={"brief": "b"}, project=f"{prefix}{number}")
            assert isinstance(outcome, Accepted), outcome


async def waits(cluster: LiveCluster, node: str) -> None:
    """Until the others see that a new store of a node asks to be accepted."""

    async def seen() -> bool | None:
        reports = (await cluster.survey()).reports.values()
        peers = [peer for report in reports for peer in report["consensus"]["peers"]]
        return True if any(peer["id"] == node and peer["rejoining"] for peer in peers) else None

    await cluster.wait_for(f"{node} to wait with a new store", seen)


async def replaced(cluster: LiveCluster, node: str) -> None:
    await waits(cluster, node)
    listed = swoosh("member", "list", "-o", "json", *endpoints(cluster))
    assert len(json.loads(listed.stdout)[node]["Waiting"]) == 1
    admin = cluster.keys / "admin.pem"
    done = swoosh("member", "replace", node, "--yes", "--key", admin, *endpoints(cluster))
    assert done.returncode == 0, done.stderr
    await cluster.agreed()


async def refusal(cluster: LiveCluster, node: str, *options: str) -> tuple[int, str]:
    """Start a node that must not stay up: its exit code, and the reason it gave last."""
    cluster.start(node, options=options)
    code = await cluster.ended(node)
    said = json.loads(cluster.log(node).read_text().splitlines()[-1])
    assert (said["event"], said["exit"]) == ("fatal", code)
    return code, said["reason"]


def lose_everything(home: Path) -> None:
    shutil.rmtree(home / "store")
    (home / "witness").unlink()


def flip_a_bit(home: Path) -> None:
    path = max((home / "store").glob("*.log"), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("damage", [lose_everything, flip_a_bit])
async def test_a_node_without_its_store_comes_back_and_votes(
    cluster: LiveCluster, damage: Callable[[Path], None]
) -> None:
    await fill(cluster, "before")
    await cluster.agreed()
    home = cluster.directory / VICTIM
    cluster.kill(VICTIM)
    damage(home)
    assert (await refusal(cluster, VICTIM))[0] in (ExitCode.DAMAGED, ExitCode.MISCONFIGURED)
    cluster.start(VICTIM, options=REJOIN)
    await waits(cluster, VICTIM)
    report = (await cluster.survey()).reports[VICTIM]
    assert report["status"] == "cold"
    assert any(f"member replace {VICTIM}" in reason for reason in report["missing"])
    cluster.stop(VICTIM)
    cluster.start(VICTIM, options=REJOIN)  # a supervisor starts it again as it was told to: the same new store
    await replaced(cluster, VICTIM)
    leader = await cluster.ready()
    cluster.kill(next(node for node in cluster.nodes if node not in (leader, VICTIM)))
    await fill(cluster, "after")  # a majority only with the node that came back
    left = [path.name for path in home.iterdir() if ".damaged-" in path.name]
    assert ("store.damaged-1" in left) == (damage is flip_a_bit)
    cluster.stop(VICTIM)
    cluster.start(VICTIM)
    cluster.start(*(set(cluster.nodes) - set(cluster.running)))
    await cluster.agreed()


@pytest.mark.timeout(240)
async def test_a_node_whose_volume_was_put_back_stops_and_comes_back_with_a_new_store(
    cluster: LiveCluster, tmp_path: Path
) -> None:
    home, saved = cluster.directory / VICTIM, tmp_path / "saved"
    cluster.stop(VICTIM)
    shutil.copytree(home, saved)
    cluster.start(VICTIM)
    await cluster.agreed()
    await fill(cluster, "later", 20)
    await cluster.agreed()
    cluster.kill(VICTIM)
    shutil.rmtree(home)
    shutil.copytree(saved, home)
    for _ in range(2):
        code, reason = await refusal(cluster, VICTIM)
        assert code == ExitCode.ROLLED_BACK
        assert "earlier state" in reason
    cluster.start(VICTIM, options=REJOIN)
    await replaced(cluster, VICTIM)


async def test_a_healthy_store_is_not_replaced_unasked(cluster: LiveCluster) -> None:
    cluster.stop(VICTIM)
    cluster.start(VICTIM, options=REJOIN)
    assert await cluster.ended(VICTIM) == 1, "nobody is there to say yes"
    cluster.start(VICTIM)
    await cluster.agreed()
    done = swoosh("member", "replace", VICTIM, "--yes", "--key", cluster.keys / "admin.pem", *endpoints(cluster))
    assert done.returncode == 1
    assert "serve --rejoin" in done.stderr


async def test_files_that_name_other_members_are_refused(cluster: LiveCluster) -> None:
    """The genesis is part of the store's identity, so a genesis of five is another cluster's; and the addresses of
    five are not those of three."""
    config = cluster.directory / VICTIM / "swoosh.toml"
    cluster.stop(VICTIM)
    config.write_text(config.read_text() + 'node-4 = "127.0.0.1:9"\nnode-5 = "127.0.0.1:10"\n')
    code, reason = await refusal(cluster, VICTIM)
    assert code == ExitCode.MISCONFIGURED
    assert "members" in reason


async def test_the_first_store_of_a_node_elsewhere_is_made_once_and_only_before_anything_began(
    found: Found, tmp_path: Path
) -> None:
    made = found("--windows", "always_open")
    for node in made.nodes:
        lose_everything(made.directory / node)
        done = swoosh("init", "--genesis", made.directory / "genesis.json", "--node", node, made.directory / node)
        assert done.returncode == 0, done.stderr
    again = swoosh("init", "--genesis", made.directory / "genesis.json", "--node", VICTIM, made.directory / VICTIM)
    assert again.returncode == 1
    wrong = swoosh("init", "--genesis", made.directory / "genesis.json", "--node", VICTIM, made.directory / "node-1")
    assert "directory of node-1" in wrong.stderr
    made.start("node-1", "node-3")
    await made.ready()
    lose_everything(made.directory / VICTIM)
    late = swoosh("init", "--genesis", made.directory / "genesis.json", "--node", VICTIM, made.directory / VICTIM)
    assert late.returncode == 1
    assert "the cluster has begun" in late.stderr
    assert not (made.directory / VICTIM / "store").exists()
    made.start(VICTIM, options=REJOIN)
    await replaced(made, VICTIM)
