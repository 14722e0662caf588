"""What the execution worker finds due, in each state a project can be in, and what it leaves to others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chaos import steer
from chaos.steer import TOOLS
from cluster.worker.common import Done, GaveUp, Step, Wait
from cluster.worker.corpus import Corpus
from cluster.worker.run import Orders, Run
from swoosh.client import Client
from swoosh.outcome import Accepted
from swoosh.state import ProjectRegions
from tests.worker.world import PROJECT, World, sdk, seen

BRIEF = "- [ ] Lead it {#t1}\n- [ ] Build it {#t2}\n- [ ] Test it {#t3}\n"


@pytest.fixture
def brief(tmp_path: Path) -> Path:
    path = tmp_path / "BRIEF.md"
    path.write_text(BRIEF)
    return path


def reached(phase: str) -> Callable[[ProjectRegions], bool]:
    return lambda regions: bool(regions.execution.phase == phase)


def world_in(phase: str, *, windows: str = "always_open") -> World:
    """Everybody has done their part up to this phase of execution."""
    world = World(windows=windows)
    world.busy = False
    steer.drive(world.solo, reached(phase))
    return world


async def due(world: World, brief: Path | None, tmp_path: Path, **orders: Any) -> Step | Wait | Done:
    async with sdk(world, "pam") as client:
        return await worker(client, brief, tmp_path, world, **orders).decide(seen(world))


def worker(client: Client, brief: Path | None, tmp_path: Path, world: World, **orders: Any) -> Run:
    asked = Orders(**{"pins": TOOLS, "brief_file": brief, **orders})
    return Run(client, PROJECT, Corpus(tmp_path / "work"), asked, world)


async def test_nothing_is_begun_before_all_three_regions_are_ready(brief: Path, tmp_path: Path) -> None:
    world = World()
    world.busy = False
    steer.drive(world.solo, lambda r: r.ingestion.phase == "READY")
    found = await due(world, brief, tmp_path)
    assert found == Wait("council, environment to be ready for one content")


async def test_tools_are_pinned_again_when_other_versions_are_wanted(brief: Path, tmp_path: Path) -> None:
    world = world_in("PLAN")
    found = await due(world, brief, tmp_path, pins={"git": "3.0"})
    content = world.regions.ingestion.content_hash
    assert found == Step("COUNCIL_TOOLING_SYNCED", {"content_hash": content, "pins": {"git": "3.0"}})


async def test_a_plan_is_locked_on_what_is_ready_with_the_terms_an_operator_set(brief: Path, tmp_path: Path) -> None:
    world = world_in("PLAN")
    found = await due(world, brief, tmp_path, terms={"claim_ms": 60_000})
    assert isinstance(found, Step) and found.transition == "EXECUTION_PLAN_LOCKED"
    assert found.inputs["claim_ms"] == 60_000
    assert found.inputs["tasks"] == {"t1": "Lead it", "t2": "Build it", "t3": "Test it"}
    assert found.inputs["environment_hash"] == world.regions.environment.environment_hash
    outcome = world.solo.propose(found.transition, found.inputs, window=found.window_id, signer="pam")
    assert isinstance(outcome, Accepted), outcome


async def test_a_brief_is_found_in_the_content_that_is_pinned(tmp_path: Path) -> None:
    world = world_in("PLAN")
    with pytest.raises(GaveUp, match=r"no brief: .*Name one of the ingested files"):
        await due(world, None, tmp_path)


async def test_a_brief_without_open_items_is_the_end_or_a_wait(brief: Path, tmp_path: Path) -> None:
    brief.write_text("- [x] all done\n")
    world = world_in("PLAN")
    assert isinstance(await due(world, brief, tmp_path), Done)
    found = await due(world, brief, tmp_path, follow=True)
    assert isinstance(found, Wait) and "no open item" in found.what


async def test_work_that_is_not_done_is_waited_for_until_time_is_over(brief: Path, tmp_path: Path) -> None:
    world = world_in("PLAN")
    lock = await due(world, brief, tmp_path, terms={"plan_ms": 60_000})
    assert isinstance(lock, Step)
    world.solo.propose(lock.transition, lock.inputs, window=lock.window_id, signer="pam")
    assert await due(world, brief, tmp_path) == Wait("3 of 3 tasks to be done")
    world.solo.tick(60_000)
    found = await due(world, brief, tmp_path)
    assert isinstance(found, Step) and found.transition == "EXECUTION_REVIEW_OPENED"
    outcome = world.solo.propose(found.transition, window=found.window_id, signer="pam")
    assert isinstance(outcome, Accepted), outcome


async def test_a_plan_whose_ground_has_moved_is_for_an_operator(brief: Path, tmp_path: Path) -> None:
    world = world_in("WORK")
    world.solo.propose("COUNCIL_REELECTION_CALLED", {"reason": "a story"}, signer="op")
    found = await due(world, brief, tmp_path)
    assert isinstance(found, Wait) and "an operator to drop the plan" in found.what


async def test_verdicts_are_waited_for(brief: Path, tmp_path: Path) -> None:
    assert await due(world_in("REVIEW"), brief, tmp_path) == Wait("3 of 3 tasks to be judged")


async def test_what_was_rejected_is_sent_back(brief: Path, tmp_path: Path) -> None:
    world = world_in("REVIEW")
    (name, task), *_ = world.regions.execution.tasks.items()
    for member in world.regions.council.members:
        if member.principal != task.owner:
            verdict = {"verdict": "reject", "tasks": [name], "reason": "no tests"}
            world.solo.propose("EXECUTION_APPROVAL_RECORDED", verdict, signer=world.solo.names[member.principal])
    found = await due(world, brief, tmp_path)
    assert isinstance(found, Step) and found.transition == "EXECUTION_REVIEW_REJECTED"
    outcome = world.solo.propose(found.transition, window=found.window_id, signer="pam")
    assert isinstance(outcome, Accepted) and world.regions.execution.tasks[name].rejections == ("no tests",) * 2


async def test_an_operator_may_keep_the_last_word(brief: Path, tmp_path: Path) -> None:
    world = world_in("REVIEW")
    while steer.next_move(world.solo).transition == "EXECUTION_APPROVAL_RECORDED":
        steer.step(world.solo)
    found = await due(world, brief, tmp_path, approve=False)
    assert found == Wait("a person to take over the work (EXECUTION_APPROVED)")
    assert isinstance(await due(world, brief, tmp_path), Step)


async def test_a_closed_window_is_waited_for_as_long_as_the_tide_takes(brief: Path, tmp_path: Path) -> None:
    world = world_in("WORK", windows="tidal")
    while steer.next_move(world.solo).transition.startswith("EXECUTION_TASK"):
        steer.step(world.solo)
    tide = world.solo.machine.registry.setting("tidal_schedule")["period_ms"]
    world.solo.tick(tide - world.solo.now_ms % tide + tide // 2)
    found = await due(world, brief, tmp_path)
    assert found == Wait("the review window to open", tide / 6 / 1000)
    world.solo.tick(tide // 6)
    assert isinstance(await due(world, brief, tmp_path), Step)


async def test_the_next_window_is_another_one(brief: Path, tmp_path: Path) -> None:
    world = world_in("REVERB", windows="tidal")
    found = await due(world, brief, tmp_path)
    assert isinstance(found, Step) and found.transition == "EXECUTION_SUBMITTED"
    world.solo.propose(found.transition, found.inputs, window=found.window_id, signer="pam")
    tide = world.solo.machine.registry.setting("tidal_schedule")["period_ms"]
    active = int(world.regions.execution.active_window_id.removeprefix("tidal:"))
    world.solo.now_ms = active * tide + 1
    assert await due(world, brief, tmp_path) == Wait("the next window")
    world.solo.tick(tide)
    assert await due(world, brief, tmp_path) == Step("EXECUTION_NEXT_WINDOW", window_id=f"tidal:{active + 1}")


async def test_each_plan_is_submitted(brief: Path, tmp_path: Path) -> None:
    """Also when another was submitted before it."""
    world = world_in("REVERB")
    steer.drive(world.solo, lambda r: r.execution.phase == "REVERB" and len(r.execution.history) == 1)
    assert len(world.regions.execution.submissions) == 1
    found = await due(world, brief, tmp_path)
    assert isinstance(found, Step) and found.transition == "EXECUTION_SUBMITTED"


async def test_the_same_state_gives_the_same_artifact(brief: Path, tmp_path: Path) -> None:
    world = world_in("REVERB")
    one, other = await due(world, brief, tmp_path / "a"), await due(world, brief, tmp_path / "b")
    assert one == other


async def test_a_council_that_is_not_there_is_waited_for(brief: Path, tmp_path: Path) -> None:
    world = world_in("WORK")
    world.solo.propose("EXECUTION_QUORUM_LOST", {}, signer="n1")
    found = await due(world, brief, tmp_path)
    assert found == Wait("a majority of the council to be present again")


async def test_a_project_that_is_over_is_no_work(brief: Path, tmp_path: Path) -> None:
    world = World()
    world.busy = False
    world.solo.project = "atlas"
    steer.drive(world.solo, lambda r: r.boot.phase == "LICENSED")
    world.solo.propose("PROJECT_CLOSED", {"reason": "no money"}, signer="op")
    async with sdk(world, "pam") as client:
        with pytest.raises(GaveUp, match="no money"):
            await worker(client, brief, tmp_path, world).decide(seen(world, "atlas"))
