"""The witness: two slots, and the damage that only it can see (a real RocksDB whose write-ahead log is spoilt)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import faults
from cluster.faults import ExitCode
from cluster.raft.journal import Journal
from cluster.storage.kv import RocksKeyValue
from cluster.storage.witness import FileWitness, Mark

LIFE = b"0123456789abcdef"


class Stopped(BaseException):
    pass


def raise_stopped(code: ExitCode, reason: str, facts: dict[str, object]) -> None:
    raise Stopped(code, reason)


@pytest.fixture(autouse=True)
def stops_are_raised() -> Iterator[None]:
    faults.set_stop(raise_stopped)
    yield
    faults.set_stop(None)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_newest_mark_is_read_back(tmp_path: Path) -> None:
    witness = FileWitness.create(tmp_path / "witness")
    assert witness.read() is None
    for sequence in range(1, 6):
        witness.write(Mark(LIFE, sequence))
        assert witness.read() == Mark(LIFE, sequence)
    witness.close()
    reopened = FileWitness.open(tmp_path / "witness")
    assert reopened.read() == Mark(LIFE, 5)
    reopened.close()


@pytest.mark.parametrize("damage", [b"\xff" * 28, b"\0" * 28, b""], ids=["garbage", "zeros", "cut off"])
def test_a_spoilt_slot_leaves_the_one_before(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "witness"
    witness = FileWitness.create(path)
    witness.write(Mark(LIFE, 6))
    witness.write(Mark(LIFE, 7))
    witness.close()
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:512] + damage)  # odd numbers live in the second slot
    reopened = FileWitness.open(path)
    assert reopened.read() == Mark(LIFE, 6)
    reopened.close()


def test_a_witness_is_not_made_twice(tmp_path: Path) -> None:
    FileWitness.create(tmp_path / "witness").close()
    with pytest.raises(FileExistsError):
        FileWitness.create(tmp_path / "witness")


# --- what it is for ---------------------------------------------------------------------------------------------------

WRITER = """
import os, sys
from pathlib import Path
from cluster.raft.journal import Journal
from cluster.storage.kv import RocksKeyValue
from cluster.storage.witness import FileWitness
home = Path(sys.argv[1])
store, witness = RocksKeyValue.create(home / "store"), FileWitness.create(home / "witness")
Journal.create(store, witness, cluster_id="c", node="n0", incarnation=b"0123456789abcdef")
journal = Journal.open(store, witness, cluster_id="c", node="n0")
journal.setCurrentTerm(7, "n1")
for index in range(1, 301):
    journal.add(b"\\0" + b"e%05d" % index * 40, index, 7)
    journal.barrier()
journal.setCurrentTerm(9, "n2")
os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a node leaves behind that synced 300 entries and a vote in term 9, and was killed."""
    home = tmp_path_factory.mktemp("node")
    subprocess.run([sys.executable, "-c", WRITER, str(home)], check=False)
    return home


def reopen(home: Path) -> Journal:
    witness = FileWitness.open(home / "witness")
    return Journal.open(RocksKeyValue.open(home / "store"), witness, cluster_id="c", node="n0")


def copy_of(home: Path, to: Path) -> Path:
    (to / "store").mkdir(parents=True)
    for file in (home / "store").iterdir():
        if file.name != "LOCK":
            (to / "store" / file.name).write_bytes(file.read_bytes())
    (to / "witness").write_bytes((home / "witness").read_bytes())
    return to


def newest_log(home: Path) -> Path:
    return max((home / "store").glob("*.log"), key=lambda path: path.stat().st_size)


def test_after_a_kill_everything_synced_is_there(killed: Path, tmp_path: Path) -> None:
    journal = reopen(copy_of(killed, tmp_path / "node"))
    assert (journal.first_index, journal.last_index) == (1, 300)
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (9, "n2")
    assert journal.boots == 2


def flip_a_bit(log: Path) -> None:
    content = bytearray(log.read_bytes())
    content[len(content) // 3] ^= 1
    log.write_bytes(content)


def cut_in_half(log: Path) -> None:
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_in_half, Path.unlink], ids=["bit flipped", "cut", "removed"])
def test_a_damaged_write_ahead_log_is_refused(killed: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """RocksDB opens all three without a word: fewer entries and an older vote, each record in perfect order."""
    home = copy_of(killed, tmp_path / "node")
    damage(newest_log(home))
    with pytest.raises(Stopped) as stop:
        reopen(home)
    assert stop.value.args[0] is ExitCode.DAMAGED


def test_what_the_witness_is_needed_for(killed: Path, tmp_path: Path) -> None:
    """The same damage without the check: this is the node that would break its word."""
    home = copy_of(killed, tmp_path / "node")
    flip_a_bit(newest_log(home))
    store = RocksKeyValue.open(home / "store")
    forgetful = FileWitness.create(tmp_path / "made up")
    forgetful.write(Mark(LIFE, 1))
    journal = Journal.open(store, forgetful, cluster_id="c", node="n0")
    assert 1 < journal.last_index < 300
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (7, "n1")
    store.close()


def test_a_store_without_its_witness_is_refused(killed: Path, tmp_path: Path) -> None:
    home = copy_of(killed, tmp_path / "node")
    (home / "witness").write_bytes(b"")
    with pytest.raises(Stopped) as stop:
        reopen(home)
    assert stop.value.args[0] is ExitCode.DAMAGED


def test_a_witness_of_another_life_is_refused(killed: Path, tmp_path: Path) -> None:
    home = copy_of(killed, tmp_path / "node")
    (home / "witness").unlink()
    witness = FileWitness.create(home / "witness")
    witness.write(Mark(b"another life....", 5))
    witness.close()
    with pytest.raises(Stopped) as stop:
        reopen(home)
    assert stop.value.args[0] is ExitCode.DAMAGED
