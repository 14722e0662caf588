"""A recorded log replays to the recorded bytes, in this build and in every later one.

If this fails, the build computes something else than the nodes that wrote the log: it could not take over their state.
Give the change a new version of chart or reducer, and record a new log beside the old one.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chaos.solo import Solo
from swoosh import wal
from swoosh.chart import load_chart
from tests.replay.record import exported

RECORDED = sorted(path for path in Path(__file__).parent.iterdir() if (path / "expected.json").exists())


def replayed(version: Path) -> Solo:
    solo = Solo(load_chart((version / "chart.yaml").read_text(encoding="utf-8")))
    for line in (version / "entries.jsonl").read_text(encoding="utf-8").splitlines():
        recorded = json.loads(line)
        solo.feed(recorded["index"], recorded["term"], bytes.fromhex(recorded["data"]))
    return solo


@pytest.mark.parametrize("version", RECORDED, ids=lambda path: path.name)
def test_the_recorded_log_comes_to_the_recorded_bytes(version: Path) -> None:
    expected = json.loads((version / "expected.json").read_text(encoding="utf-8"))
    solo = replayed(version)
    assert exported(solo) == (version / "wal.jsonl").read_bytes()
    assert solo.chart.hash == expected["chart_hash"]
    assert {name: solo.head(name) for name in solo.machine.project_ids()} == expected["heads"]
    assert solo.machine.cluster_hash == expected["cluster_hash"]


@pytest.mark.parametrize("version", RECORDED, ids=lambda path: path.name)
def test_the_recorded_records_are_chains(version: Path) -> None:
    chains: dict[str, list[bytes]] = {}
    for line in (version / "wal.jsonl").read_bytes().splitlines():
        chains.setdefault(wal.decode(line).project, []).append(line)
    assert {"@cluster", "atlas", "lyra"} <= set(chains)
    for chain in chains.values():
        wal.check_chain(chain)


def test_something_is_recorded() -> None:
    assert RECORDED
