"""The receiver as a program: directories, a ledger on disk, HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from cluster.storage.lines import Lines
from cluster.worker.receive import Directories, receiver_app
from cluster.worker.receiver import Receiver
from tests.worker.test_receiver import DOWN, UP


@asynccontextmanager
async def served(root: Path, token: str = "") -> AsyncIterator[TestClient[Any, Any]]:
    assets = root / "assets"
    assets.mkdir(exist_ok=True)
    ledger = Lines.open(root / "ledger.jsonl")
    app = receiver_app(Receiver(ledger, Directories(assets), units=10), token)
    async with TestClient(TestServer(app)) as client:
        yield client
    ledger.close()


async def test_an_asset_is_a_directory_until_it_is_reverted(tmp_path: Path) -> None:
    home = tmp_path / "assets" / "atlas" / "vm-1"
    async with served(tmp_path) as client:
        answer = await client.post("/effects", json=UP)
        assert answer.status == 200 and set(await answer.json()) == {"receipt"}
        assert home.is_dir()
        (home / "work.txt").write_text("made here")
        assert (await (await client.get("/capacity")).json()) == {"units_free": 6}
        assert (await (await client.get("/health/atlas")).json())["status"] in ("green", "amber")
        assert (await client.post("/effects", json=DOWN)).status == 200
        assert not home.exists()
        assert (await client.post("/effects", json=UP)).status == 409


async def test_it_goes_on_where_its_disk_stands(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        first = await (await client.post("/effects", json=UP)).json()
    (tmp_path / "assets" / "atlas" / "vm-1").rmdir()
    async with served(tmp_path) as client:
        assert (tmp_path / "assets" / "atlas" / "vm-1").is_dir(), "the ledger says that it stands"
        assert await (await client.post("/effects", json=UP)).json() == first


async def test_a_disk_that_is_nearly_full_is_amber(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(tmp_path) as client:
        await client.post("/effects", json=UP)
        for free, status in ((1 << 30, "green"), (1 << 20, "amber")):
            monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
            assert (await (await client.get("/health/atlas")).json())["status"] == status


async def test_what_is_gone_is_red(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        await client.post("/effects", json=UP)
        (tmp_path / "assets" / "atlas" / "vm-1").rmdir()
        health = await (await client.get("/health/atlas")).json()
        assert health == {"status": "red", "detail": "the directory of vm-1 is gone"}


@pytest.mark.parametrize(
    "name", ["..", ".", "../../escape", "/etc/passwd", "a/b", "@x", "%2e%2e", "~", "-rf", "x" * 128]
)
async def test_no_name_leads_out_of_the_root(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "escape").mkdir()
    async with served(root) as client:
        for request in (UP, DOWN):
            assert (await client.post("/effects", json=request | {"asset": name})).status == 200
            made = [path for path in tmp_path.rglob("*") if path.is_dir()]
            homes = [path for path in made if path.parent == root / "assets" / "atlas"]
            assert len(homes) == (request is UP)
            assert set(made) - set(homes) <= {root, tmp_path / "escape", root / "assets", root / "assets" / "atlas"}


async def test_two_names_are_two_places(tmp_path: Path) -> None:
    places = Directories(tmp_path)
    names = ["a", "A", "a/b", "a_b", "..", ".", "@a", "a:b", "x" * 128]
    assert len({places.path("atlas", name) for name in names}) == len(names)


async def test_only_who_bears_the_token_is_served(tmp_path: Path) -> None:
    async with served(tmp_path, "sesame") as client:
        for headers in ({}, {"Authorization": "Bearer simsim"}, {"Authorization": "sesame"}):
            assert (await client.post("/effects", json=UP, headers=headers)).status == 401
            assert (await client.get("/capacity", headers=headers)).status == 401
        assert (await client.post("/effects", json=UP, headers={"Authorization": "Bearer sesame"})).status == 200


async def test_a_body_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        assert (await client.post("/effects", data=b" " * 1_000_000)).status == 413


async def test_requests_side_by_side_are_one_effect(tmp_path: Path) -> None:
    async with served(tmp_path) as client:

        async def ask() -> str:
            async with client.post("/effects", json=UP) as answer:
                return str(await answer.json())

        assert len(set(await asyncio.gather(*(ask() for _ in range(10))))) == 1
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    assert [json.loads(line)["effect"] for line in lines] == ["e1"]
