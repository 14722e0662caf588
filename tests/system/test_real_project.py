"""`make demo`, looked into: a real project from a git repository and its brief to a submission and the next window.

Nodes, receiver, tool server, broker, Pulse, workers, electors and agents are processes of their own; the leader is
killed on the way.
"""

from __future__ import annotations

import shutil

import pytest

from chaos import demo
from chaos.demo import PROJECT, ROLES, Play
from cluster.worker.brief import plan_of
from swoosh.client import Refused

WORKERS = {
    "ingester": ("INGESTION_SOURCES_RESOLVED", "INGESTION_FETCHED", "INGESTION_VALIDATED", "INGESTION_INDEXED"),
    "provisioner": ("ENVIRONMENT_CAPACITY_ALLOCATED", "ENVIRONMENT_EFFECT_REQUESTED", "ENVIRONMENT_PROVISIONED"),
    "runner": (
        *("COUNCIL_TOOLING_SYNCED", "EXECUTION_BEGUN", "EXECUTION_PLAN_LOCKED", "EXECUTION_REVIEW_OPENED"),
        *("EXECUTION_APPROVED", "EXECUTION_SUBMITTED", "EXECUTION_NEXT_WINDOW"),
    ),
}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.timeout(400)
def test_a_repository_becomes_a_submission_and_the_next_window(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(look) == 0, capsys.readouterr()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("SIGKILL") for line in lines)
    assert lines[-1].startswith("agree: 3 of 3 at index ") and " sha256-" in lines[-1]


async def look(stage: Play) -> None:
    """Hold what is committed against what everybody was to do."""
    execution, ingestion = await stage.region("Execution"), await stage.region("Ingestion")
    plan = plan_of(demo.BRIEF)
    assert execution["Phase"] == "PLAN" and execution["History"] == [plan.plan_hash]
    assert stage.work.find(ingestion["ContentHash"], "BRIEF.md").decode() == demo.BRIEF
    delivery = await demo.delivered(stage)
    assert (delivery["plan_hash"], delivery["tasks"].keys()) == (plan.plan_hash, plan.tasks.keys())
    assert (stage.assets / "assets" / PROJECT / "runner").is_dir()
    await look_at_the_log(stage)
    await look_at_the_keys(stage)


async def look_at_the_log(stage: Play) -> None:
    """Every step was taken once, by the key of the worker whose it is, in two terms; what the last window of work made
    was submitted, and the next one is another."""
    async with stage.cluster.client() as client:
        records = [record async for record in client.wal(PROJECT)]
    names = {stage.cluster.key(name).principal: name for name in ROLES}
    taken = [(names.get(record["signer"]), record["transition_name"]) for record in records]
    for worker, transitions in WORKERS.items():
        assert tuple(name for who, name in taken if who == worker) == transitions
    assert len({record["term"] for record in records}) > 1
    windows = {record["transition_name"]: record["window_id"] for record in records}
    worked_in = windows["EXECUTION_APPROVAL_RECORDED"]
    assert windows["EXECUTION_SUBMITTED"] == worked_in != windows["EXECUTION_NEXT_WINDOW"]


async def look_at_the_keys(stage: Play) -> None:
    """A worker's key is good for its own region alone."""
    async with stage.cluster.client("ingester") as client:
        outcome = await client.propose("EXECUTION_NEXT_WINDOW", project=PROJECT)
    assert isinstance(outcome, Refused) and outcome.code == "NOT_AUTHORISED", outcome
