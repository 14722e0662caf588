"""A node that cannot prove what it has does not start; its exit code says which promise it could not keep."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.live import LiveCluster
from cluster.faults import ExitCode
from cluster.storage import layout
from cluster.storage.kv import Batch, RocksKeyValue
from swoosh.client import Accepted
from tests.system.conftest import Found

VICTIM = "node-2"


async def refusal(cluster: LiveCluster, node: str = VICTIM) -> tuple[int, str]:
    """Start a node that must not come up: its exit code, and the reason it gave last."""
    cluster.start(node)
    code = await cluster.ended(node)
    said = json.loads(cluster.log(node).read_text().splitlines()[-1])
    assert (said["event"], said["exit"]) == ("fatal", code)
    return code, said["reason"]


@pytest.fixture
async def used(cluster: LiveCluster) -> LiveCluster:
    """A cluster with something in its logs, one node of which was killed."""
    async with cluster.client("proposer") as client:
        for number in range(30):
            brief = {"brief": f"something to lose {number}"}
            outcome = await client.propose("PROJECT_CREATED", inputs=brief, project=f"p{number}")
            assert isinstance(outcome, Accepted)
    await cluster.agreed()
    cluster.kill(VICTIM)
    return cluster


def home(cluster: LiveCluster, node: str = VICTIM) -> Path:
    return cluster.directory / node


def write_ahead_log(cluster: LiveCluster) -> Path:
    """The newest file of RocksDB's own log: what was synced but not yet written to tables."""
    return max((home(cluster) / "store").glob("*.log"), key=lambda path: path.stat().st_size)


def flip_in_the_middle(cluster: LiveCluster) -> None:
    path = write_ahead_log(cluster)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def cut_the_second_half_off(cluster: LiveCluster) -> None:
    path = write_ahead_log(cluster)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_it(cluster: LiveCluster) -> None:
    write_ahead_log(cluster).unlink()


def lose_the_witness(cluster: LiveCluster) -> None:
    (home(cluster) / "witness").unlink()


def blank_the_witness(cluster: LiveCluster) -> None:
    path = home(cluster) / "witness"
    path.write_bytes(bytes(path.stat().st_size))


def lose_the_store(cluster: LiveCluster) -> None:
    shutil.rmtree(home(cluster) / "store")


DAMAGE: list[Callable[[LiveCluster], None]] = [
    flip_in_the_middle,
    cut_the_second_half_off,
    lose_it,
    lose_the_witness,
    blank_the_witness,
    lose_the_store,
]


@pytest.mark.timeout(240)
async def test_a_store_that_lost_what_it_had_synced_stays_down(used: LiveCluster, tmp_path: Path) -> None:
    """One node, damaged in every way in turn; the others serve all the while, and it comes back once mended."""
    spare = tmp_path / "spare"
    shutil.copytree(home(used), spare)
    for damage in DAMAGE:
        damage(used)
        code, reason = await refusal(used)
        assert code == ExitCode.DAMAGED, f"{damage.__name__}: {reason}"
        shutil.rmtree(home(used))
        shutil.copytree(spare, home(used))
    used.start(VICTIM)
    await used.agreed()


async def test_a_node_whose_state_contradicts_its_hashes_is_damaged(found: Found) -> None:
    """A row is gone that its head row vouches for: no checksum of the store can know that."""
    made = found()
    kv, batch = RocksKeyValue.open(home(made) / "store"), Batch()
    batch.delete(*layout.row(("@cluster", "settings")))
    kv.write(batch, sync=True)
    kv.close()
    code, reason = await refusal(made)
    assert code == ExitCode.DAMAGED
    assert "@cluster hashes to" in reason


async def test_a_node_that_never_had_a_store_is_misconfigured(found: Found) -> None:
    made = found()
    shutil.rmtree(home(made) / "store")
    (home(made) / "witness").unlink()
    code, reason = await refusal(made)
    assert code == ExitCode.MISCONFIGURED
    assert "no store at" in reason


async def test_the_store_of_another_node_or_cluster_is_refused(found: Found) -> None:
    ours, theirs = found(), found()
    for other in (home(ours, "node-1"), home(theirs)):
        for name in ("store", "witness"):
            mine = home(ours) / name
            shutil.rmtree(mine) if mine.is_dir() else mine.unlink()
            (shutil.copytree if (other / name).is_dir() else shutil.copy)(other / name, mine)
        code, reason = await refusal(ours)
        assert code == ExitCode.MISCONFIGURED
        assert "belongs to another" in reason


async def test_one_store_is_not_served_twice(cluster: LiveCluster, tmp_path: Path) -> None:
    twin = LiveCluster(cluster.directory)
    twin.log = lambda node: tmp_path / f"{node}.log"  # type: ignore[method-assign]
    try:
        code, reason = await refusal(twin)
    finally:
        twin.close()
    assert code == ExitCode.MISCONFIGURED
    assert "another process" in reason
    await cluster.agreed()


async def test_a_node_of_another_cluster_finds_no_way_in(found: Found) -> None:
    """It knows the addresses and answers to the right name; the members show it out and go on without it."""
    ours, theirs = found("--windows", "always_open"), found("--windows", "always_open")
    addresses = dict(zip(ports(theirs), ports(ours), strict=True))
    config = home(theirs, "node-3") / "swoosh.toml"
    text = config.read_text()
    for their_port, our_port in addresses.items():
        text = text.replace(f":{their_port}", f":{our_port}")
    config.write_text(text)
    theirs.nodes["node-3"] = ours.nodes["node-3"]
    try:
        ours.start("node-1", "node-2")
        await ours.ready()
        theirs.start("node-3")

        async def turned_away() -> bool | None:
            return True if "peer cannot be reached" in theirs.log("node-3").read_text() else None

        await theirs.wait_for("the stranger to be turned away", turned_away)
        async with ours.client("proposer", via=["node-1", "node-2"]) as client:
            outcome = await client.propose("PROJECT_CREATED", inputs={"brief": "ours"}, project="ours")
        assert isinstance(outcome, Accepted), outcome
        reports = (await ours.survey()).reports
        assert not any(
            peer["reachable"]
            for node in ("node-1", "node-2")
            for peer in reports[node]["consensus"]["peers"]
            if peer["id"] == "node-3"
        )
        assert reports["node-3"]["status"] == "cold"
        assert '"peer link up"' not in theirs.log("node-3").read_text()
    finally:
        theirs.close()


def ports(cluster: LiveCluster) -> list[str]:
    """The ports of a cluster, http and peer, in the order of its nodes."""
    document = json.loads((cluster.directory / "cluster.json").read_text())
    return [address.rpartition(":")[2] for node in document["nodes"] for address in (node["http"], node["peer"])]
