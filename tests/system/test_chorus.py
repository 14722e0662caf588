"""Thirty-four agents that know nothing of SWOOSH, behind a real HAProxy: from Gitea's issue to completed tasks.

No caller but the workers knows a transition, a key or a hash. The leader is killed while the council forms.
"""

from __future__ import annotations

import shutil
from collections import Counter

import pytest

from chaos import chorus
from chaos.chorus import AGENTS, PROJECT, Chorus
from chaos.live import haproxy
from tests.system.conftest import Found


@pytest.mark.skipif(not haproxy.is_installed(), reason=haproxy.MISSING)
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.timeout(600)
async def test_an_issue_becomes_completed_tasks(found: Found) -> None:
    cluster = found("--windows", "always_open")
    played = await chorus.play(cluster)
    try:
        await look(played)
        again = await played.webhook(cluster.directory / "upstream")
        assert again["duplicate"] is True, "the same delivery, a second time"
        await cluster.agreed()
    finally:
        played.close()


async def look(played: Chorus) -> None:
    """What is committed: every role one agent, every agent one role, every vote a node's, every task a member's."""
    council = await played.stage.region("Council")
    core = {name for name, profile in chorus.roles().items() if profile.core}
    seats = {member["Role"]: member["Principal"] for member in council["Members"]}
    assert core <= seats.keys()
    assert len(set(seats.values())) == len(seats) <= AGENTS
    assert all(principal.startswith("whoosh:") for principal in seats.values())
    async with played.stage.cluster.client() as client:
        records = [record async for record in client.wal(PROJECT)]
    nodes = {record["signer"] for record in records if record["transition_name"] == "BOOT_CONFIGURED"}
    assert nodes and len(council["Certificate"]["Votes"]) >= 2
    tasks = (await played.stage.region("Execution"))["Tasks"]
    assert {task["Owner"] for task in tasks.values()} <= set(seats.values())
    done = Counter(record["transition_name"] for record in records)
    assert done["PROJECT_CREATED"] == done["COUNCIL_PROFILES_LOADED"] == done["COUNCIL_QUORUM_CERT"] == 1
    assert done["COUNCIL_ROLE_CLAIMED"] - done["COUNCIL_ROLE_RELEASED"] == len(seats)
    assert done["EXECUTION_TASK_COMPLETED"] == len(tasks)
    shown = await played.get(f"/api/v1/tasks?status=completed&limit={len(tasks)}")
    assert [task["id"] for task in shown["tasks"]] == [f"{PROJECT}.{name}" for name in sorted(tasks)]
