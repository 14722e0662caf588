"""`swoosh serve` by the variables of v1.0.0 alone: made once, found again, and never made where something was lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster import config, faults, stores
from cluster.cli import alone, main
from cluster.cli.alone import HOME, MAKING, NotMade
from cluster.clock import ManualClock
from cluster.config import Config, Misconfigured
from cluster.entropy import SystemEntropy
from cluster.faults import ExitCode


class Place:
    """Two directories, and the variables that name them."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data, self.snapshots = root / "wal", root / "snapshots"
        self._monkeypatch = monkeypatch
        self.says(SWOOSH_LISTEN_ADDR=":8080", SWOOSH_WAL_DIR=str(self.data), SWOOSH_SNAPSHOT_DIR=str(self.snapshots))

    def says(self, **variables: str) -> None:
        for name, value in variables.items():
            self._monkeypatch.setenv(name, value)

    def start(self) -> Config:
        """As far as `serve` has a configuration."""
        return alone.settings(ManualClock(), SystemEntropy())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv("SWOOSH_INSECURE_SIGNERS", raising=False)
    return Place(tmp_path, monkeypatch)


def test_the_first_start_makes_what_later_starts_find(place: Place) -> None:
    first = place.start()
    assert first.genesis().nodes == ("node-1",) and not first.genesis().insecure
    assert first.http == ("", 8080), "on every address, as Go has it"
    assert first.snapshots_path == place.snapshots
    assert stores.examine(first).fault is None
    assert (place.data / HOME / "keys" / "proposer.pem").exists()
    place.says(SWOOSH_LISTEN_ADDR="127.0.0.1:9000")
    again = place.start()
    assert (again.cluster_id, again.http) == (first.cluster_id, ("127.0.0.1", 9000))
    assert again.node_key() is not None and again.credentials() is not None
    assert "made now" in first.notices[-1] and "as it was made" in again.notices[-1]


def test_what_was_made_is_a_cluster_like_any_other(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made = place.start()
    for name in ("SWOOSH_LISTEN_ADDR", "SWOOSH_WAL_DIR", "SWOOSH_SNAPSHOT_DIR"):
        monkeypatch.delenv(name)
    by_file = config.load(place.data / HOME / "node-1" / "swoosh.toml")
    assert (by_file.store_path, by_file.cluster_id) == (made.store_path, made.cluster_id)
    assert by_file.http == ("127.0.0.1", 8080), "nobody but this machine, unless it is asked for"


def test_relative_directories_are_those_of_where_it_was_started(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place.says(SWOOSH_WAL_DIR="wal", SWOOSH_SNAPSHOT_DIR="wal/snapshots")
    (tmp_path / "wal" / "snapshots").mkdir(parents=True)
    (tmp_path / "wal" / "lost+found").mkdir()
    made = place.start()
    assert made.store_path == place.data / HOME / "node-1" / "store"
    assert place.start().snapshots_path == place.data / "snapshots"


def test_an_interrupted_first_start_is_begun_anew(place: Place) -> None:
    (place.data / MAKING / "keys").mkdir(parents=True)
    (place.data / MAKING / "keys" / "admin.pem").write_text("half")
    made = place.start()
    assert stores.examine(made).fault is None
    assert not (place.data / MAKING).exists()


def test_a_store_that_is_lost_is_not_made_again(place: Place) -> None:
    made = place.start()
    shutil.rmtree(made.store_path)
    found = stores.examine(place.start())
    assert found.fault is ExitCode.DAMAGED
    assert not made.store_path.exists()


def test_a_volume_that_comes_back_empty_is_missed(place: Place) -> None:
    made = place.start()
    shutil.rmtree(place.data)
    with pytest.raises(NotMade, match=r"group-of-one is not there, but .*group-of-one\.id is"):
        place.start()
    assert not made.store_path.exists()


@pytest.mark.parametrize("left", ["wal/store/CURRENT", "snapshots/5200/manifest.json"])
def test_something_that_is_there_is_left_alone_and_named(place: Place, tmp_path: Path, left: str) -> None:
    file = tmp_path / left
    file.parent.mkdir(parents=True)
    file.write_text("somebody's")
    with pytest.raises(NotMade, match=file.parent.name):
        place.start()
    assert file.read_text() == "somebody's"
    assert not (place.data / HOME).exists()


def test_a_place_that_cannot_be_written_is_named(place: Place, tmp_path: Path) -> None:
    (tmp_path / "wal").write_text("a file")
    with pytest.raises(NotMade, match=r"cannot be made: .*wal"):
        place.start()


def test_unsigned_proposals_are_for_groups_that_were_made_for_them(place: Place) -> None:
    place.says(SWOOSH_INSECURE_SIGNERS="0")
    assert not place.start().genesis().insecure
    place.says(SWOOSH_INSECURE_SIGNERS="1")
    later = place.start()
    assert not later.genesis().insecure
    assert "made without it" in later.notices[-1]


def test_unsigned_proposals_are_taken_where_that_was_asked_for_at_first(place: Place) -> None:
    place.says(SWOOSH_INSECURE_SIGNERS="1")
    assert place.start().genesis().insecure
    assert not any("INSECURE" in notice for notice in place.start().notices)


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"SWOOSH_WAL_DIR": ""}, "SWOOSH_WAL_DIR not set: give --config"),
        ({"SWOOSH_WAL_DIR": "", "SWOOSH_SNAPSHOT_DIR": ""}, "SWOOSH_WAL_DIR, SWOOSH_SNAPSHOT_DIR not set"),
        ({"SWOOSH_LISTEN_ADDR": "8080"}, "expected host:port or :port, got '8080'"),
        ({"SWOOSH_INSECURE_SIGNERS": "yes"}, "SWOOSH_INSECURE_SIGNERS: expected 1 or 0, got 'yes'"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_made(place: Place, variables: dict[str, str], complaint: str) -> None:
    place.says(**variables)
    with pytest.raises(Misconfigured, match=complaint):
        place.start()
    assert not place.data.exists()


def test_without_file_and_variables_serve_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SWOOSH_LISTEN_ADDR", "SWOOSH_WAL_DIR", "SWOOSH_SNAPSHOT_DIR"):
        monkeypatch.delenv(name, raising=False)
    with faults.raised():
        try:
            done = CliRunner().invoke(main, ["serve"], standalone_mode=False, catch_exceptions=False)
        except faults.Stopped as stop:
            assert stop.code is ExitCode.MISCONFIGURED and "give --config FILE" in stop.reason
        else:
            pytest.fail(f"it ended with {done.exit_code}")


def test_a_group_of_one_has_nobody_to_rejoin(place: Place) -> None:
    done = CliRunner().invoke(main, ["serve", "--rejoin"])
    assert done.exit_code == 2 and "nobody to rejoin" in done.output
    assert not place.data.exists()
