"""The store and its twin: the same operations give the same answers, and only the unsynced can be lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import faults
from cluster.entropy import SeededEntropy
from cluster.faults import ExitCode
from cluster.storage.kv import (
    Batch,
    Delete,
    DeleteRange,
    Family,
    KeyValue,
    MemoryKeyValue,
    Put,
    RocksKeyValue,
    StoreMissing,
)


class Stopped(BaseException):
    pass


def raise_stopped(code: ExitCode, reason: str, facts: dict[str, object]) -> None:
    raise Stopped(code, reason, facts)


@pytest.fixture(autouse=True)
def stops_are_raised() -> Iterator[None]:
    faults.set_stop(raise_stopped)
    yield
    faults.set_stop(None)


@pytest.fixture(params=["rocksdb", "twin"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyValue]:
    opened: KeyValue = RocksKeyValue.create(tmp_path / "store") if request.param == "rocksdb" else MemoryKeyValue()
    yield opened
    opened.close()


def everything(store: KeyValue) -> dict[Family, list[tuple[bytes, bytes]]]:
    return {family: list(store.iterate(family)) for family in Family}


# --- one behaviour ----------------------------------------------------------------------------------------------------


def test_a_batch_takes_effect_in_the_order_it_was_written(store: KeyValue) -> None:
    batch = Batch()
    for key in (b"a", b"b", b"c"):
        batch.put(Family.LOG, key, b"old")
    batch.delete_range(Family.LOG, b"a", b"c")
    batch.put(Family.LOG, b"b", b"new")
    batch.delete(Family.LOG, b"missing")
    batch.put(Family.META, b"b", b"elsewhere")
    assert len(batch) == 7
    store.write(batch, sync=True)
    assert list(store.iterate(Family.LOG)) == [(b"b", b"new"), (b"c", b"old")]
    assert store.get(Family.META, b"b") == b"elsewhere"
    assert store.get(Family.HEAD, b"b") is None


def test_a_range_includes_its_start_and_excludes_its_end(store: KeyValue) -> None:
    batch = Batch()
    for key in (b"a", b"b", b"c", b"d"):
        batch.put(Family.LOG, key, key)
    store.write(batch, sync=False)
    assert [key for key, _ in store.iterate(Family.LOG, b"b", b"d")] == [b"b", b"c"]
    assert [key for key, _ in store.iterate(Family.LOG, b"b", b"d", reverse=True)] == [b"c", b"b"]
    assert [key for key, _ in store.iterate(Family.LOG, b"bb")] == [b"c", b"d"]
    assert [key for key, _ in store.iterate(Family.LOG, reverse=True)] == [b"d", b"c", b"b", b"a"]
    assert list(store.iterate(Family.LOG, b"d", b"a")) == []


def test_an_iteration_sees_the_store_as_it_was_when_it_began(store: KeyValue) -> None:
    batch = Batch()
    batch.put(Family.LOG, b"a", b"1")
    batch.put(Family.LOG, b"b", b"1")
    store.write(batch, sync=False)
    walk = store.iterate(Family.LOG)
    first = next(walk)
    later = Batch()
    later.put(Family.LOG, b"b", b"2")
    later.put(Family.LOG, b"c", b"2")
    store.write(later, sync=False)
    assert [first, *walk] == [(b"a", b"1"), (b"b", b"1")]


keys = st.binary(min_size=1, max_size=3)
families = st.sampled_from([Family.META, Family.LOG, Family.HEAD])
operations = st.one_of(
    st.builds(Put, families, keys, st.binary(max_size=4)),
    st.builds(Delete, families, keys),
    st.builds(DeleteRange, families, keys, keys).filter(lambda operation: operation.start < operation.end),
)
queries = st.tuples(families, keys | st.just(b""), keys | st.none(), st.booleans())


@settings(max_examples=40, deadline=None)
@given(batches=st.lists(st.lists(operations, max_size=6), max_size=6), asked=st.lists(queries, max_size=4))
def test_the_twin_answers_as_the_store_does(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[Put | Delete | DeleteRange]],
    asked: list[tuple[Family, bytes, bytes | None, bool]],
) -> None:
    path = tmp_path_factory.mktemp("twin") / "store"
    store, twin = RocksKeyValue.create(path), MemoryKeyValue()
    for written in batches:
        batch = Batch()
        batch.operations.extend(written)
        for one in (store, twin):
            one.write(batch, sync=False)
    assert everything(store) == everything(twin)
    for family, start, end, reverse in asked:
        assert list(store.iterate(family, start, end, reverse)) == list(twin.iterate(family, start, end, reverse))
    store.close()
    reopened = RocksKeyValue.open(path)
    assert everything(reopened) == everything(twin)
    reopened.close()


# --- loss -------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(synced=st.lists(st.booleans(), min_size=1, max_size=12), seed=st.integers(0, 2**16))
def test_a_crash_of_the_twin_keeps_a_prefix_that_reaches_the_last_sync(synced: list[bool], seed: int) -> None:
    twin = MemoryKeyValue()
    for number, sync in enumerate(synced):
        batch = Batch()
        batch.put(Family.LOG, number.to_bytes(2), b"x")
        batch.put(Family.HEAD, number.to_bytes(2), b"x")
        twin.write(batch, sync=sync)
    twin.crash(SeededEntropy(seed).random())
    kept = [int.from_bytes(key) for key, _ in twin.iterate(Family.LOG)]
    last_synced = max((number for number, sync in enumerate(synced) if sync), default=-1)
    assert kept == list(range(len(kept)))
    assert len(kept) > last_synced
    assert kept == [int.from_bytes(key) for key, _ in twin.iterate(Family.HEAD)], "batches are atomic over families"


WRITER = """
import os, sys
from pathlib import Path
from cluster.storage.kv import Batch, Family, RocksKeyValue
store = RocksKeyValue.create(Path(sys.argv[1]))
for number in range(200):
    batch = Batch()
    batch.put(Family.LOG, number.to_bytes(2), b"x" * 100)
    store.write(batch, sync=number % 2 == 1)
os.kill(os.getpid(), 9)
"""


def test_a_killed_process_loses_nothing_it_synced(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", WRITER, str(tmp_path / "store")], check=False)
    store = RocksKeyValue.open(tmp_path / "store")
    assert [int.from_bytes(key) for key, _ in store.iterate(Family.LOG)] == list(range(200))
    store.close()


def test_what_open_recovered_no_longer_lives_in_the_log_alone(tmp_path: Path) -> None:
    """A batch whose sync a kill interrupted may sit in the page cache only. Once `open` has shown it to this node, it
    may be acknowledged, so it must be durable by then: RocksDB writes it to a table and syncs that."""
    subprocess.run([sys.executable, "-c", WRITER, str(tmp_path / "store")], check=False)
    store = RocksKeyValue.open(tmp_path / "store")
    (tmp_path / "copy").mkdir()
    for file in (tmp_path / "store").iterdir():
        if file.suffix != ".log" and file.name != "LOCK":
            (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    store.close()
    without_log = RocksKeyValue.open(tmp_path / "copy")
    assert len(list(without_log.iterate(Family.LOG))) == 200
    without_log.close()


# --- opening ----------------------------------------------------------------------------------------------------------


def test_open_never_makes_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match="swoosh init"):
        RocksKeyValue.open(tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_create_never_takes_over_a_store(tmp_path: Path) -> None:
    RocksKeyValue.create(tmp_path / "store").close()
    with pytest.raises(FileExistsError):
        RocksKeyValue.create(tmp_path / "store")


def test_a_second_process_is_turned_away(tmp_path: Path) -> None:
    store = RocksKeyValue.create(tmp_path / "store")
    with pytest.raises(Stopped) as stop:
        RocksKeyValue.open(tmp_path / "store")
    assert stop.value.args[0] is ExitCode.MISCONFIGURED
    store.close()


def test_a_store_whose_tables_are_gone_is_damaged(tmp_path: Path) -> None:
    store = RocksKeyValue.create(tmp_path / "store")
    batch = Batch()
    batch.put(Family.LOG, b"a", b"1")
    store.write(batch, sync=True)
    store.flush()
    store.close()
    for table in (tmp_path / "store").glob("*.sst"):
        table.unlink()
    with pytest.raises(Stopped) as stop:
        RocksKeyValue.open(tmp_path / "store")
    assert stop.value.args[0] is ExitCode.DAMAGED


@pytest.fixture
def flipped(tmp_path: Path) -> Iterator[RocksKeyValue]:
    """Rows from 000 to 199 in a table, one bit of whose middle is another."""
    store = RocksKeyValue.create(tmp_path / "store")
    batch, entropy = Batch(), SeededEntropy(1)
    for number in range(200):
        batch.put(Family.LOG, b"%03d" % number, entropy.token(400))
    store.write(batch, sync=True)
    store.flush()
    store.close()
    table = max((tmp_path / "store").glob("*.sst"), key=lambda path: path.stat().st_size)
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    opened = RocksKeyValue.open(tmp_path / "store")
    yield opened
    opened.close()


@pytest.mark.parametrize("reverse", [False, True])
def test_rows_behind_a_flipped_bit_are_not_passed_over(flipped: RocksKeyValue, reverse: bool) -> None:
    """The library ends the iteration there as if there were no more; a log would lose its end without a word."""
    found = []
    with pytest.raises(Stopped) as stopped:
        found += [key for key, _ in flipped.iterate(Family.LOG, reverse=reverse)]
    assert stopped.value.args[0] is ExitCode.DAMAGED
    assert "checksum" in stopped.value.args[2]["error"]
    assert [key for key, _ in flipped.iterate(Family.LOG, b"000", b"020")] == [b"%03d" % number for number in range(20)]


def test_an_iteration_that_begins_behind_a_flipped_bit_says_so(flipped: RocksKeyValue) -> None:
    bad = []
    for number in range(200):
        try:
            flipped.get(Family.LOG, b"%03d" % number)
        except Stopped as stopped:
            assert stopped.args[0] is ExitCode.DAMAGED
            bad.append(number)
    assert 0 < len(bad) < 100
    with pytest.raises(Stopped):
        list(flipped.iterate(Family.LOG, b"%03d" % bad[0]))
    with pytest.raises(Stopped):
        list(flipped.iterate(Family.LOG, b"", b"%03d" % (bad[0] + 1), reverse=True))


def test_a_checkpoint_is_a_store_of_its_own(tmp_path: Path) -> None:
    store = RocksKeyValue.create(tmp_path / "store")
    batch = Batch()
    batch.put(Family.HEAD, b"a", b"then")
    store.write(batch, sync=False)
    store.checkpoint(tmp_path / "copy")
    batch.put(Family.HEAD, b"a", b"now")
    store.write(batch, sync=False)
    copy = RocksKeyValue.open(tmp_path / "copy")
    assert (copy.get(Family.HEAD, b"a"), store.get(Family.HEAD, b"a")) == (b"then", b"now")
    copy.close()
    store.close()


def test_a_checkpoint_of_the_twin_is_a_store_of_its_own() -> None:
    twin = MemoryKeyValue()
    batch = Batch()
    batch.put(Family.HEAD, b"a", b"then")
    twin.write(batch, sync=False)
    twin.checkpoint(Path("copy"))
    batch.put(Family.HEAD, b"a", b"now")
    twin.write(batch, sync=False)
    assert twin.checkpoints[Path("copy")].get(Family.HEAD, b"a") == b"then"
    with pytest.raises(FileExistsError):
        twin.checkpoint(Path("copy"))


def test_a_failed_write_stops_the_node(tmp_path: Path) -> None:
    store = RocksKeyValue.create(tmp_path / "store")
    store.close()
    with pytest.raises(Stopped) as stop:
        store.write(Batch(), sync=True)
    assert stop.value.args[0] is ExitCode.DISK
