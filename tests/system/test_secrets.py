"""What is secret stays so: nothing a real node writes, says or leaves behind holds a key or a token of it."""

from __future__ import annotations

import gzip
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from chaos.live import LiveCluster
from cluster import config
from swoosh.client import Accepted
from tests.sealed import seal_for
from tests.system.conftest import Found

NODE = "node-1"
CANARY = "canary-3f9a77c1"


@pytest.fixture
def careless() -> Iterator[None]:
    """Whoever starts the nodes allows them to dump core."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@pytest.fixture
async def guarded(found: Found, careless: None) -> LiveCluster:
    """A node that asks readers for a token."""
    cluster = found("--windows", "always_open", nodes=1)
    home = cluster.directory / NODE
    seal_for(home, "tokens.age", CANARY)
    text = (home / "swoosh.toml").read_text()
    (home / "swoosh.toml").write_text(text.replace("[http]\n", '[http]\nread_tokens = "tokens.age"\n'))
    cluster.start()
    await cluster.up(NODE)
    return cluster


def needles(cluster: LiveCluster) -> dict[str, bytes]:
    """Everything that must not be found, by what it is."""
    home = cluster.directory / NODE
    settings = config.load(home / "swoosh.toml", {})

    def middle(pem: bytes) -> bytes:
        return pem.splitlines()[1][8:56]

    identity = (home / "age.key").read_bytes().splitlines()[-1]
    return {
        "token": CANARY.encode(),
        "identity": identity,
        "key of the certificate": middle(settings.credentials().key),
        "signing key": middle(settings.vault.open(settings.key_path)),
    }


def haystack(cluster: LiveCluster) -> Iterator[tuple[Path, bytes]]:
    """Every file there is, logs and store, but the identity itself."""
    for path in cluster.directory.rglob("*"):
        if path.is_file() and path.name != "age.key":
            yield path, path.read_bytes()


async def test_nothing_a_node_says_or_writes_holds_a_secret(guarded: LiveCluster) -> None:
    async with guarded.client("proposer") as client:
        assert isinstance(
            await client.propose("PROJECT_CREATED", inputs={"brief": "b"}, project="p", decided_on="genesis"), Accepted
        )
    said = b""
    async with aiohttp.ClientSession(guarded.endpoints[0]) as session:
        for path in ("/health", "/metrics", "/state", "/wal", "/openapi.json", "/state?projection=%00"):
            for token in (CANARY, f"{CANARY}x", ""):
                async with session.get(path, headers={"Authorization": f"Bearer {token}"}) as reply:
                    said += repr(reply.headers).encode() + await reply.read()
        async with session.post("/transition", data=b"{", headers={"Authorization": f"Bearer {CANARY}"}) as reply:
            said += await reply.read()
    out = guarded.directory / "bundle"
    asked = ["--endpoint", guarded.endpoints[0], "--file", str(guarded.log(NODE)), "--out", str(out)]
    subprocess.run([sys.executable, "-m", "cluster", "debug", "bundle", *asked], check=True)
    said += gzip.decompress(out.read_bytes())
    [pid] = guarded.pids
    said += Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    guarded.stop(NODE)
    for what, needle in needles(guarded).items():
        assert needle not in said, what
        assert [path for path, data in haystack(guarded) if needle in data] == [], what


async def test_a_node_that_dies_leaves_no_core(guarded: LiveCluster) -> None:
    [pid] = guarded.pids
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if line.startswith("Max core")).split()[4:6] == ["0", "0"]
    assert os.stat(f"/proc/{pid}/environ").st_uid == 0, "the memory of a process that cannot be dumped is root's"
    os.kill(pid, signal.SIGABRT)
    await guarded.ended(NODE)
    assert [path for path, data in haystack(guarded) if data[:4] == b"\x7fELF"] == []


async def test_a_secret_in_the_open_keeps_the_node_from_starting_and_is_not_repeated(guarded: LiveCluster) -> None:
    guarded.stop(NODE)
    (guarded.directory / NODE / "tokens.age").write_text(CANARY)
    guarded.start(NODE)
    assert await guarded.ended(NODE) == 78
    log = guarded.log(NODE).read_text()
    assert "swoosh keys seal" in log and CANARY not in log
