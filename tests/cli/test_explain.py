"""``swoosh explain`` against a node that answers: what a transition would do, and nothing done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cluster.cli import main
from cluster.http.app import public_app
from cluster.http.listener import Listener
from cluster.http.request import Limits
from cluster.telemetry.metrics import Metrics
from swoosh import state
from tests.http.desk import CHART, KEYS, Desk

PAUSE = ("CONTROL_PAUSED", "--inputs", '{"reason": "audit"}')


class Operator:
    """Somebody at a terminal, and the node he talks to."""

    def __init__(self, desk: Desk, port: int, key: Path) -> None:
        self.desk, self._port, self._key = desk, port, key

    async def explain(self, *arguments: str) -> Result:
        where = ("--endpoint", f"http://127.0.0.1:{self._port}", "--key", str(self._key))
        return await asyncio.to_thread(CliRunner().invoke, main, ["explain", *arguments, *where])

    async def as_json(self, *arguments: str) -> dict[str, Any]:
        done = await self.explain(*arguments, "-o", "json")
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture
async def operator(tmp_path: Path) -> AsyncIterator[Operator]:
    desk, limits, key = Desk(), Limits(), tmp_path / "operator.pem"
    key.write_bytes(KEYS["operator"].private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    listener = Listener(public_app(desk, Metrics(CHART), limits), desk.clock, limits)  # type: ignore[arg-type]
    await listener.start("127.0.0.1", 0)
    yield Operator(desk, listener.port, key)
    await listener.stop()


async def test_what_would_be_accepted_is_shown_field_by_field(operator: Operator) -> None:
    head = operator.desk.head()
    done = await operator.explain(*PAUSE)
    assert done.exit_code == 0, done.output
    assert "would be accepted" in done.stderr
    shown = [line.split() for line in done.stdout.splitlines()]
    assert ["Pause.Phase", "RUNNING", "PAUSED"] in shown
    assert ["Pause.Reason", "-", "audit"] in shown
    assert ["Epoch[Pause]", "-", "1"] in shown
    assert f"propose against: {head}" in done.stdout
    assert operator.desk.head() == head, "nothing was written"


async def test_a_program_reads_the_same(operator: Operator) -> None:
    found = (await operator.as_json(*PAUSE))["CONTROL_PAUSED"]
    assert (found["outcome"], found["against"]) == ("accepted", operator.desk.head())
    moved = {change["path"]: (change["before"], change["after"]) for change in found["changes"]}
    assert moved["Pause.Phase"] == ("RUNNING", "PAUSED")
    assert moved["HLCLast.Signer"] == ("", KEYS["operator"].principal)
    assert {path.partition(".")[0].partition("[")[0] for path in moved} == {"Pause", "Epoch", "HLCLast"}


async def test_what_would_be_refused_names_the_hash_too(operator: Operator) -> None:
    found = (await operator.as_json("CONTROL_RESUMED", "--inputs", '{"reason": "x"}'))["CONTROL_RESUMED"]
    assert (found["outcome"], found["code"], found["against"]) == ("refused", "WRONG_PHASE", operator.desk.head())
    nowhere = (await operator.as_json(*PAUSE, "--project", "nobodys"))["CONTROL_PAUSED"]
    assert (nowhere["code"], nowhere["against"]) == ("UNKNOWN_PROJECT", state.GENESIS_HASH)


async def test_without_a_name_every_transition_in_reach_is_tried(operator: Operator) -> None:
    done = await operator.explain()
    assert done.exit_code == 0, done.output
    verdicts = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "needs inputs" in verdicts["CONTROL_PAUSED"]
    assert "CONTROL_RESUMED" not in verdicts
