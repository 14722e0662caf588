"""A node's store on disk: made on request only, looked at without a trace, moved aside and never deleted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cluster import config, faults, stores
from cluster.cli.init import Plan, create
from cluster.clock import SystemClock
from cluster.config import Config
from cluster.entropy import SeededEntropy
from cluster.faults import ExitCode
from cluster.raft.journal import Journal
from cluster.storage.kv import RocksKeyValue
from cluster.storage.store import Store
from cluster.storage.witness import FileWitness


@pytest.fixture
def home(tmp_path: Path) -> Path:
    create(tmp_path / "c", Plan(3), SystemClock(), SeededEntropy(1))
    return tmp_path / "c" / "node-1"


def settings(home: Path) -> Config:
    return config.load(home / "swoosh.toml", {})


def opened(home: Path) -> tuple[RocksKeyValue, Journal]:
    found = settings(home)
    kv, witness = RocksKeyValue.open(found.store_path), FileWitness.open(found.witness_path)
    return kv, Journal.open(kv, witness, cluster_id=found.cluster_id, node=found.node_id)


def test_looking_changes_nothing(home: Path) -> None:
    for _ in range(2):
        assert stores.examine(settings(home)) == stores.Condition(None, "the store is healthy")
    kv, journal = opened(home)
    assert journal.boots == 1
    kv.close()


def test_what_cannot_be_used_is_told_from_what_must_not_be_touched(home: Path) -> None:
    found = settings(home)
    kv, journal = opened(home)
    assert stores.examine(found).fault is ExitCode.MISCONFIGURED, "another process has it"
    with faults.raised(), pytest.raises(faults.Stopped) as stop:
        journal.must_hold(journal.incarnation.hex(), journal.sequence + 1)
    assert stop.value.code is ExitCode.ROLLED_BACK
    kv.close()
    assert stores.examine(found).fault is ExitCode.ROLLED_BACK
    assert stores.examine(found).replaceable
    other = home.parent / "node-2"
    for name in ("store", "witness"):
        (home / name).rename(home / f"{name}.mine")
        (other / name).rename(home / name)
    assert stores.examine(found).fault is ExitCode.MISCONFIGURED
    assert not stores.examine(found).replaceable
    (home / "witness").unlink()
    assert stores.examine(found).fault is ExitCode.DAMAGED
    shutil.rmtree(home / "store")
    assert stores.examine(found).fault is ExitCode.DAMAGED


def test_what_is_replaced_lies_beside_what_replaces_it(home: Path) -> None:
    found, chart = settings(home), config.packaged_chart()
    for number in (1, 2):
        moved = stores.set_aside(found)
        assert [path.name for path in moved] == [f"store.damaged-{number}", f"witness.damaged-{number}"]
        stores.create(found, found.genesis(), chart, SeededEntropy(number), rejoining=True)
        assert stores.examine(found).rejoining
    with pytest.raises(FileExistsError):
        stores.create(found, found.genesis(), chart, SeededEntropy(3))
    kv, journal = opened(home)
    assert journal.rejoining and Store(kv).position().index == 0
    journal.end_rejoining()
    kv.close()
    assert not stores.examine(found).rejoining


def test_one_that_was_being_made_when_the_power_went_is_made_again(home: Path) -> None:
    """Between the two renames, and between the store and its first record."""
    found = settings(home)
    found.store_path.rename(home / "store.damaged-1")
    assert stores.examine(found).replaceable
    assert [path.name for path in stores.set_aside(found)] == ["witness.damaged-2"]
    RocksKeyValue.create(found.store_path).close()
    assert stores.examine(found).replaceable
