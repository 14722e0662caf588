"""A snapshot is the state of exactly the entry its manifest names, stays as it was taken, and is complete or absent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest

from cluster import faults
from cluster.clock import ManualClock
from cluster.faults import ExitCode
from cluster.storage.kv import Family, KeyValue, MemoryKeyValue, RocksKeyValue
from cluster.storage.snapshots import (
    FIRST_AFTER_SECONDS,
    MANIFEST_NAME,
    Check,
    DirectoryShelf,
    MemoryShelf,
    Shelf,
    Snapshots,
    opened,
)
from cluster.storage.store import Store
from swoosh import snapshot
from swoosh.errors import Corrupt
from swoosh.machine import Machine
from tests.storage.history import create, dump, history

TURNS_MAX = 2_000


class Stopped(BaseException):
    """Stands for the end of the process."""


class Node:
    """As much of a node as takes snapshots: it applies the history's entries when told to."""

    def __init__(self, kv: KeyValue, shelf: Shelf, *, every: int = 10_000, check: Check | None = None) -> None:
        self.kv, self.shelf, self.clock = kv, shelf, ManualClock()
        self.store = create(kv)
        self.machine: Machine = history().machine(self.store)
        self.snapshots = Snapshots(
            self.store, shelf, history().chart, self.clock, every=every, min_interval=60.0, check=check
        )

    def apply(self, upto: int) -> None:
        while self.machine.position.index < upto:
            applied = self.machine.apply(*history().entries[self.machine.position.index])
            self.store.commit(applied)
            self.snapshots.on_applied(applied)

    @contextmanager
    def open(self, index: int) -> Iterator[KeyValue]:
        """The store inside a snapshot."""
        if isinstance(self.shelf, MemoryShelf):
            yield self.shelf.taken(index)
        else:
            with opened(self.shelf.path(index)) as kv:
                yield kv

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.get_running_loop().create_task(self.snapshots.run(self.machine))
        await asyncio.sleep(0)
        self.clock.advance(FIRST_AFTER_SECONDS)
        try:
            yield
        finally:
            task.cancel()
            await self.snapshots.settle()
            await asyncio.gather(task, return_exceptions=True)

    async def newest(self, index: int) -> None:
        """Wait until the newest snapshot is the one at `index`."""
        for _ in range(TURNS_MAX):
            if self.snapshots.newest is not None and self.snapshots.newest.last_applied_index == index:
                return
            await asyncio.sleep(0.005)
        pytest.fail(f"no snapshot at {index}; newest is {self.snapshots.newest}")

    def indexes(self) -> list[int]:
        return [manifest.last_applied_index for manifest in self.snapshots.kept()]


@pytest.fixture(params=["twin", "rocks"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    if request.param == "twin":
        made = Node(MemoryKeyValue(), MemoryShelf())
    else:
        made = Node(RocksKeyValue.create(tmp_path / "store"), DirectoryShelf(tmp_path / "snapshots"))
    yield made
    made.kv.close()


async def test_a_snapshot_holds_the_state_its_manifest_describes(node: Node) -> None:
    told = history()
    node.apply(30)
    manifest = await node.snapshots.take(node.machine)
    assert manifest.last_applied_index == 30
    assert manifest.cluster_hash == told.hashes[29]
    assert manifest.last_applied_hlc == str(node.store.last_hlc)
    assert manifest.chart_hash == told.chart.hash
    before = dump(node.kv)
    node.apply(60)
    with node.open(30) as kv:
        held = Store(kv)
        assert dump(kv) == before
        assert held.manifest(30) == snapshot.encode(manifest)
        snapshot.check(manifest, told.machine(held))


async def test_a_snapshot_leads_on_to_the_same_state(node: Node) -> None:
    told = history()
    node.apply(40)
    await node.snapshots.take(node.machine)
    with node.open(40) as kv:
        held = Store(kv)
        machine = told.machine(held)
        for entry in told.entries[40:]:
            held.commit(machine.apply(*entry))
        assert machine.cluster_hash == told.hashes[-1]


async def test_what_is_applied_while_memory_is_flushed_is_in_the_snapshot(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest must describe the instant of the checkpoint, not the moment somebody asked."""
    node.apply(20)
    flush = node.shelf.prepare

    async def prepare(store: KeyValue) -> None:
        await flush(store)
        node.apply(25)

    monkeypatch.setattr(node.shelf, "prepare", prepare)
    manifest = await node.snapshots.take(node.machine)
    assert manifest.last_applied_index == 25
    with node.open(25) as kv:
        snapshot.check(manifest, history().machine(Store(kv)))


async def test_two_are_kept_and_nothing_new_takes_none(node: Node) -> None:
    for upto in (10, 20, 30, 40):
        node.apply(upto)
        await node.snapshots.take(node.machine)
    await node.snapshots.take(node.machine)
    assert node.indexes() == [30, 40] == [m.last_applied_index for m in node.shelf.manifests()]
    assert [key for key, _ in node.kv.iterate(Family.SNAPSHOT)] == [(30).to_bytes(8), (40).to_bytes(8)]


async def test_one_is_taken_soon_after_the_start_and_after_so_many_entries_but_not_too_soon(tmp_path: Path) -> None:
    node = Node(MemoryKeyValue(), MemoryShelf(), every=10)
    node.apply(3)
    async with node.running():
        await node.newest(3)
        node.apply(13)
        for _ in range(50):
            await asyncio.sleep(0)
        assert node.indexes() == [3], "the least interval was not kept"
        node.clock.advance(59.0)
        for _ in range(50):
            await asyncio.sleep(0)
        assert node.indexes() == [3]
        node.clock.advance(2.0)
        await node.newest(13)


async def test_a_project_that_enters_reverb_asks_for_one() -> None:
    told, node = history(), Node(MemoryKeyValue(), MemoryShelf())
    entered = next(
        a.position.index for a in told.applied if any(r.transition_name == "EXECUTION_APPROVED" for r, _ in a.records)
    )
    node.apply(entered - 1)
    async with node.running():
        await node.newest(entered - 1)
        node.clock.advance(61.0)
        for _ in range(50):
            await asyncio.sleep(0)
        assert node.indexes() == [entered - 1]
        node.apply(entered)
        await node.newest(entered)


async def test_each_snapshot_is_checked_against_the_one_before(tmp_path: Path) -> None:
    seen: list[tuple[Path | None, Path]] = []

    async def check(base: Path | None, target: Path) -> None:
        seen.append((base, target))

    node = Node(MemoryKeyValue(), MemoryShelf(), every=10, check=check)
    node.apply(5)
    async with node.running():
        await node.newest(5)
        for upto in (20, 40):
            node.apply(upto)
            for _ in range(50):
                await asyncio.sleep(0)
            node.clock.advance(61.0)
            await node.newest(upto)
    assert seen == [(None, Path("5")), (Path("5"), Path("20")), (Path("20"), Path("40"))]


# --- on disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def rocks(tmp_path: Path) -> Iterator[Node]:
    made = Node(RocksKeyValue.create(tmp_path / "store"), DirectoryShelf(tmp_path / "snapshots"))
    yield made
    made.kv.close()


async def test_snapshots_are_found_again_after_a_restart(rocks: Node, tmp_path: Path) -> None:
    rocks.apply(10)
    await rocks.snapshots.take(rocks.machine)
    again = Snapshots(rocks.store, DirectoryShelf(tmp_path / "snapshots"), history().chart, rocks.clock)
    assert again.newest == rocks.snapshots.newest


def test_what_is_no_snapshot_is_left_alone(tmp_path: Path) -> None:
    for name in ("wal", "store", "7.reading-1", "8"):
        (tmp_path / name).mkdir()
    (tmp_path / "wal" / "000001.log").write_text("a log")
    DirectoryShelf(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "wal"]


async def test_an_interrupted_snapshot_is_removed_at_the_start(rocks: Node, tmp_path: Path) -> None:
    class Crash(BaseException):
        pass

    def crash() -> None:
        raise Crash

    rocks.apply(10)
    await rocks.snapshots.take(rocks.machine)
    rocks.apply(20)
    faults.arm("snapshot.checkpoint", 1, crash)
    with pytest.raises(Crash):
        await rocks.snapshots.take(rocks.machine)
    assert (tmp_path / "snapshots" / "20").is_dir()
    shelf = DirectoryShelf(tmp_path / "snapshots")
    assert [manifest.last_applied_index for manifest in shelf.manifests()] == [10]
    assert not (tmp_path / "snapshots" / "20").exists()
    again = Snapshots(rocks.store, shelf, history().chart, rocks.clock)
    assert (await again.take(rocks.machine)).last_applied_index == 20


async def test_reading_a_snapshot_leaves_it_as_it_was(rocks: Node, tmp_path: Path) -> None:
    rocks.apply(30)
    await rocks.snapshots.take(rocks.machine)
    root = tmp_path / "snapshots"
    before = {path.name: path.read_bytes() for path in (root / "30").iterdir()}
    with opened(root / "30") as kv:
        Store(kv).commit(history().applied[30])
    assert {path.name: path.read_bytes() for path in (root / "30").iterdir()} == before
    assert [path.name for path in root.iterdir()] == ["30"]


async def test_a_snapshot_with_an_unreadable_manifest_is_left_out_and_left_alone(rocks: Node, tmp_path: Path) -> None:
    rocks.apply(10)
    await rocks.snapshots.take(rocks.machine)
    (tmp_path / "snapshots" / "10" / MANIFEST_NAME).write_bytes(b"{}")
    assert DirectoryShelf(tmp_path / "snapshots").manifests() == []
    assert (tmp_path / "snapshots" / "10").is_dir()


async def test_a_disk_that_fails_stops_the_node(rocks: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(code: ExitCode, reason: str, facts: dict[str, object]) -> None:
        raise Stopped(code.name)

    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    faults.set_stop(stop)
    monkeypatch.setattr(Path, "write_bytes", full)
    rocks.apply(10)
    try:
        with pytest.raises(Stopped, match="DISK"):
            await rocks.snapshots.take(rocks.machine)
    finally:
        faults.set_stop(None)


# --- the manifest -----------------------------------------------------------------------------------------------------


async def described() -> tuple[snapshot.Manifest, Machine]:
    node = Node(MemoryKeyValue(), MemoryShelf())
    node.apply(30)
    return await node.snapshots.take(node.machine), node.machine


@pytest.mark.parametrize(
    "name", ["last_applied_index", "term", "last_applied_hlc", "stamp", "cluster_hash", "chart_hash"]
)
async def test_a_manifest_that_says_something_else_is_refused(name: str) -> None:
    manifest, machine = await described()
    value = getattr(manifest, name)
    changed = msgspec.structs.replace(manifest, **{name: value + 1 if isinstance(value, int) else value + "0"})
    snapshot.check(manifest, machine)
    assert snapshot.manifest_hash(changed) != snapshot.manifest_hash(manifest)
    with pytest.raises(Corrupt, match="the manifest says"):
        snapshot.check(changed, machine)


async def test_a_manifest_travels_as_canonical_json_in_the_brief_s_names() -> None:
    manifest, _ = await described()
    data = snapshot.encode(manifest)
    assert snapshot.decode(data) == manifest
    assert {"lastAppliedIndex", "lastAppliedHLC"} <= set(msgspec.json.decode(data))


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[1]"])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(Corrupt):
        snapshot.decode(data)


async def test_a_manifest_of_another_format_is_refused() -> None:
    manifest, _ = await described()
    with pytest.raises(Corrupt, match="format 2"):
        snapshot.decode(snapshot.encode(msgspec.structs.replace(manifest, format=2)))
