"""The guide of v1.0.0, "Run" and "Test", word for word: its own three curl lines, by the real curl.

guide-v1.0.0.txt is the text of the guide. Its commands ask localhost:8080, so where this is run by root each test has a
network of its own with nothing on it; elsewhere another port takes that one's place if it is in use, and nothing else
is changed. What curl prints and how is decided by a .curlrc, not in the command.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from chaos.live.cluster import free_base_port, is_free
from cluster.cli.init import PEER_PORT_OFFSET
from tests.system.loopback import own_loopback

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

GUIDE = Path(__file__).with_name("guide-v1.0.0.txt")
ROOT = Path(__file__).parents[2]
PORT = 8080
DEADLINE = 60.0
SERVES = f"curl http://localhost:{PORT}/health/ready"
SWOOSH = f"{sys.executable} -m cluster"


class Said(NamedTuple):
    """An answer, as curl had it."""

    status: int
    body: dict[str, Any]


class Desk:
    """Somewhere to type commands: a directory, a network, a port that is free there."""

    def __init__(self, home: Path, network: list[str], port: int) -> None:
        self.home, self.port = home, port
        self._network = network
        self._running: list[subprocess.Popen[bytes]] = []
        (home / ".curlrc").write_text('silent\nmax-time = 15\nwrite-out = "\\n%{http_code}"\n')

    def start(self, script: str) -> subprocess.Popen[bytes]:
        """Type it, and leave it running."""
        with (self.home / "log").open("ab") as log:
            process = subprocess.Popen(self._command(script), cwd=self.home, env=self._environment(), stderr=log)
        self._running.append(process)
        return process

    def run(self, script: str) -> str:
        """Type it; what it printed."""
        done = self._typed(script)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def ask(self, command: str) -> Said:
        """What one command of the guide is answered; by nobody, with status 0."""
        body, _, status = self._typed(command).stdout.rpartition("\n")
        return Said(int(status), json.loads(body) if body.startswith("{") else {})

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not holds():
            ended = [process.returncode for process in self._running if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                pytest.fail(f"waited for {what}; ended: {ended}\n{(self.home / 'log').read_text()[-4_000:]}")
            time.sleep(0.1)

    def end(self, how: signal.Signals = signal.SIGTERM) -> list[int]:
        """End everything that runs; how it ended."""
        for process in self._running:
            process.send_signal(how)
        codes = [process.wait(DEADLINE) for process in self._running]
        self._running.clear()
        return codes

    def _typed(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(script), cwd=self.home, env=self._environment(), capture_output=True, text=True, check=False
        )

    def _command(self, script: str) -> list[str]:
        return [*self._network, "sh", "-euc", script.replace(f"localhost:{PORT}", f"localhost:{self.port}")]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SWOOSH_")}
        return kept | {"CURL_HOME": str(self.home), "HOME": str(self.home), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with own_loopback("guide") as network:
        found = Desk(tmp_path, network or [], PORT if network else _free())
        yield found
        found.end(signal.SIGKILL)


def _free() -> int:
    """The guide's port, or another where a cluster's ports from there on are in use."""
    ports = [PORT + number + offset for number in range(3) for offset in (0, PEER_PORT_OFFSET)]
    return PORT if all(is_free(port) for port in ports) else free_base_port(3) + 1


# --- the guide --------------------------------------------------------------------------------------------------------


def section(name: str) -> str:
    """The lines of the guide below one of its titles."""
    text = GUIDE.read_text(encoding="utf-8")
    titles = ("Run\n", "Test\n")
    begin = text.index(f"{name}\n") + len(name) + 1
    return text[begin : min((text.find(title, begin) for title in titles if title in text[begin:]), default=None)]


def commands() -> dict[str, str]:
    """{what the guide says it does: the command}."""
    parts = [part for part in section("Test").split("# ") if part]
    return {title: command for title, _, command in (part.partition("\n") for part in parts)}


def the_three_lines(desk: Desk) -> None:
    """They answer as the guide has it; repeated, nothing changes."""
    lines = commands()
    health, state, submit = lines["Health check"], lines["Get state"], lines["Submit transition"]
    desk.until("a node that serves", lambda: desk.ask(SERVES).status == 200)
    rehearsal = submit.replace("/transition", "/transition?dry_run=true")
    desk.until("the license", lambda: desk.ask(rehearsal).status == 200)

    found = desk.ask(health)
    assert found.status == 200 and found.body["licensed"] is False
    assert {"licensed", "quarantined", "degraded", "recovering", "hlc_last", "state_hash"} <= set(found.body)

    before = desk.ask(state)
    assert before.status == 200 and set(before.body) >= {"state_hash", "hlc_last", "projection"}
    regions = {"Meta", "Boot", "Ingestion", "Council", "Environment", "Execution", "Control", "Policy"}
    assert set(before.body["projection"]) >= regions
    assert before.body["projection"]["Boot"]["Phase"] == "LICENSE_CHECK", "nobody booted it but whoever reads this"

    first = desk.ask(submit)
    assert first.status == 200 and first.body["success"] is True and first.body["quarantined"] is False
    assert first.body["duplicate"] is False
    assert first.body["state_hash"] != before.body["state_hash"]
    after = desk.ask(state)  # linearizable: this node has applied it by then, so that /health, which is local, says so
    assert after.body["state_hash"] == first.body["state_hash"]
    assert desk.ask(health).body["licensed"] is True

    again = desk.ask(submit)
    assert again.status == 200 and again.body["success"] is True and again.body["duplicate"] is True
    assert again.body["state_hash"] == first.body["state_hash"]
    assert desk.ask(state).body["hlc_last"] == after.body["hlc_last"]


def test_the_guide_has_three_lines() -> None:
    assert list(commands()) == ["Health check", "Get state", "Submit transition"]
    assert all(command.startswith("curl ") for command in commands().values())


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_guide_s_three_lines_in_a_cluster_that_init_made(desk: Desk, nodes: int) -> None:
    desk.run(f"{SWOOSH} init c --insecure-signers --nodes {nodes} --base-port {desk.port - 1}")
    for number in range(1, nodes + 1):
        desk.start(f"exec {SWOOSH} serve --config c/node-{number}/swoosh.toml")
    the_three_lines(desk)
    assert desk.end() == [0] * nodes
    desk.run(f"{SWOOSH} verify c/node-1 --replay")


def test_the_guide_as_it_stands_with_one_variable_more(desk: Desk) -> None:
    """ "Run", its program being ours now and its paths this test's, and "Test"."""
    run = section("Run").replace("./build/swoosh-server", f"exec {SWOOSH} serve")
    run = run.replace("=/path/to/", f"={desk.home}/").replace(f"=:{PORT}", f"=:{desk.port}")
    assert run.count("export SWOOSH_") == 3
    desk.start(f"export SWOOSH_INSECURE_SIGNERS=1\n{run}")
    the_three_lines(desk)

    desk.end(signal.SIGKILL)
    desk.start(run)
    desk.until("the same node", lambda: desk.ask(SERVES).status == 200)
    found = desk.ask(commands()["Get state"]).body
    assert found["projection"]["Boot"]["Phase"] == "LICENSED", "what was acknowledged is there after a kill"
    repeated = desk.ask(commands()["Submit transition"]).body
    assert repeated["duplicate"] is True and repeated["state_hash"] == found["state_hash"]
    assert desk.end() == [0]
    log = (desk.home / "log").read_text()
    assert "a group of one, made now" in log and "a group of one, as it was made" in log and "INSECURE" in log
    desk.run(f"{SWOOSH} verify wal/group-of-one/node-1 --replay")


def test_without_that_variable_a_signature_is_asked_for(desk: Desk) -> None:
    run = section("Run").replace("./build/swoosh-server", f"exec {SWOOSH} serve")
    desk.start(run.replace("=/path/to/", f"={desk.home}/").replace(f"=:{PORT}", f"=:{desk.port}"))
    desk.until("a node that serves", lambda: desk.ask(SERVES).status == 200)
    submit = commands()["Submit transition"]
    found = desk.ask(submit)
    assert (found.status, found.body["code"]) == (400, "MALFORMED") and "inputs_hash" in found.body["error"]
    found = desk.ask(submit.replace('"inputs_hash": "test"', f'"inputs_hash": "{64 * "0"}"'))
    assert (found.status, found.body["code"]) == (401, "UNSIGNED")
