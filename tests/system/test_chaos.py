"""One plan from an empty directory to its verdict: real nodes, a killed leader, callers, and the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from chaos.history import Attempt, Minimum, Verdict, shortfalls
from chaos.live import report
from chaos.live.plan import Do, Step, To, load
from chaos.live.result import Ending
from chaos.live.run import conduct
from chaos.recording import recorded

KILL = Step(do=Do.KILL, to=To.LEADER, after=3.0, hold=2.0)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("proxies", [True, False], ids=["proxies", "namespaces where root"])
async def test_a_leader_is_killed_under_load_and_nothing_is_lost(tmp_path: Path, proxies: bool) -> None:
    plan = replace(load("kill-leader"), steps=(KILL,), recovered_within=60.0)
    result = await conduct(plan, tmp_path, seed=1, proxies=proxies, command="pytest")
    print(json.dumps(result.summary(), indent=1))
    assert result.ending is Ending.HELD, (result.wrong, result.thin)
    assert [fault.do for fault in result.faults] == [Do.KILL]
    assert result.recovery is not None
    assert {"leader", "follower"} <= {role for sample in result.samples for role in sample.roles.values()}
    history = recorded(tmp_path / "history.jsonl")
    assert shortfalls(history, Minimum(acknowledged=100, reads=20, nodes=2)) == []
    again = [event for event in history if isinstance(event, Attempt) and event.verdict is Verdict.ACCEPTED]
    assert len({event.key for event in again}) < len(again), "nothing was asked for twice"
    assert "held" in report.page(result)


def test_without_a_name_the_plans_are_listed_and_a_wrong_one_is_refused() -> None:
    listed = chaos()
    assert listed.returncode == 0
    assert "kill-leader" in listed.stdout
    refused = chaos("kill-everybody")
    assert refused.returncode == 2
    assert "kill-leader" in refused.stderr


def chaos(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chaos.live", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
