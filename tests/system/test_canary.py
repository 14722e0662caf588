"""A secret sent to real nodes is on none of their disks, and a person leads the project out of quarantine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp

from chaos.live import LiveCluster
from cluster.storage.kv import Family, RocksKeyValue
from swoosh.client import Accepted, Client, Refused
from tests.shhh.secrets import A20, CANARY

PROJECT = "canary"


def written(cluster: LiveCluster) -> list[tuple[Path, bytes]]:
    """Every file of the cluster: stores, snapshots, logs, configuration."""
    return [(path, path.read_bytes()) for path in cluster.directory.rglob("*") if path.is_file()]


def rows(cluster: LiveCluster) -> list[tuple[Path, bytes]]:
    """Every row of every store and snapshot, which in its file may be compressed."""
    found = []
    for mark in cluster.directory.rglob("CURRENT"):
        kv = RocksKeyValue.open(mark.parent)
        found += [(mark.parent, key + value) for family in Family for key, value in kv.iterate(family)]
        kv.close()
    return found


def holding(kept: list[tuple[Path, bytes]], text: str) -> set[Path]:
    return {path for path, data in kept if text.encode() in data}


async def raw(cluster: LiveCluster, node: str, body: str) -> str:
    """What a node answers to a body that is sent as it stands."""
    headers = {"Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{cluster.nodes[node]}/transition", data=body, headers=headers) as reply,
    ):
        return await reply.text()


async def snapshots(client: Client) -> bool | None:
    return bool((await client.get("/snapshots"))["snapshots"]) or None


async def refused(client: Client, transition: str, inputs: dict[str, Any]) -> Refused:
    """The steward boots the project meanwhile: what is stale is asked again."""
    outcome = await client.propose(transition, inputs=inputs, project=PROJECT, on_stale="resubmit")
    assert isinstance(outcome, Refused), outcome
    return outcome


async def test_a_secret_is_on_no_disk_and_its_project_is_held_until_a_person_says_so(
    cluster: LiveCluster, tmp_path: Path
) -> None:
    leader = await cluster.ready()
    follower = next(node for node in cluster.running if node != leader)
    marker = "a perfectly harmless brief"
    async with cluster.client("proposer", via=[follower]) as client:
        created = await client.propose("PROJECT_CREATED", inputs={"brief": marker}, project=PROJECT)
        assert isinstance(created, Accepted), created
        found = await refused(client, "INGESTION_SOURCES_RESOLVED", {"sources": [f"https://x.example/?k={CANARY}"]})
        assert (found.code, found.quarantined) == ("QUARANTINED", True)
        assert [each["location"] for each in found.findings] == ["inputs.sources[0]"]
        later = await refused(client, "INGESTION_SOURCES_RESOLVED", {"sources": ["https://x.example/"]})
        assert later.code == "QUARANTINED" and not later.findings
    for body in (f'{{"{CANARY}": 1, "{CANARY}": 2}}', f'{{"transition": "{CANARY}"}}', "{'" + CANARY):
        assert CANARY not in await raw(cluster, follower, body)
    await cluster.agreed()

    endpoint = ["--endpoint", cluster.nodes[leader]]
    shown = cluster.swoosh("quarantine", "show", "-o", "json", *endpoint)
    assert [each["Rule"] for each in json.loads(shown.stdout)[PROJECT]["Findings"]] == ["openai-secret"], shown.stderr
    key = ["--key", str(cluster.keys / "policy.pem")]
    with_wrong_key = ["--key", str(cluster.keys / "operator.pem")]
    release = ["quarantine", "release", "--project", PROJECT, "--reason", "rotated", "--yes", *endpoint]
    assert "NOT_AUTHORISED" in cluster.swoosh(*release, *with_wrong_key).stderr
    done = cluster.swoosh(*release, *key)
    assert done.returncode == 0, done.stderr

    lenient = tmp_path / "policy.toml"
    lenient.write_text('version = "2"\n[[verdicts]]\nrule = "openai-secret"\nverdict = "redact"\n')
    async with cluster.client("proposer") as client:
        await refused(client, "INGESTION_SOURCES_RESOLVED", {"sources": [f"https://y.example/?k={CANARY}"]})
    reassess = ["quarantine", "reassess", "--project", PROJECT, "--policy", str(lenient), *endpoint, *key]
    done = cluster.swoosh(*reassess)
    assert done.returncode == 0, done.stderr
    async with cluster.client(via=[leader]) as client:
        state = await client.state(PROJECT)
        assert state is not None
        region = state.projection["Policy"]
    assert (region["Phase"], region["PolicyVersion"], region["Findings"]) == ("CLEAR", "2", [])

    content = tmp_path / "content"
    content.mkdir()
    (content / "a.env").write_text(f"api_key={A20}\n")
    provider = ["--key", str(cluster.keys / "provider.pem")]
    scanned = cluster.swoosh("scan", str(content), "--report", "sha256-" + "ab" * 32, *endpoint, *provider)
    assert scanned.returncode == 1 and "on record as sha256-" in scanned.stderr, scanned.stderr

    async with cluster.client(via=[leader]) as client:
        await cluster.wait_for("a snapshot", lambda: snapshots(client))
    for node in cluster.running:
        assert cluster.stop(node) == 0
    kept = [*written(cluster), *rows(cluster)]
    assert len(holding(kept, marker)) >= 3, "the search is good for something: it finds what each store does hold"
    assert not any(holding(kept, secret) for secret in (CANARY, CANARY[:20], A20))
    said = b"".join(data for path, data in kept if path.suffix == ".log")
    assert b"request refused by policy" in said and b"inputs.sources[0]" in said
