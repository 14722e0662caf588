"""Ingestion where something goes wrong or moves on: failures with reasons, versions, what policy keeps out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from chaos import steer
from cluster.clock import SystemClock
from cluster.config import inherited
from cluster.worker.common import Done, GaveUp, Step
from cluster.worker.corpus import Corpus, Missing
from cluster.worker.ingest import Ingest
from cluster.worker.repository import INHERITED, Bounds, Git, Source, repository_of
from tests.worker.gits import Repository
from tests.worker.world import World, seen


class Enough(Exception):
    """The worker waits, and nobody will help it."""


@dataclass
class Desk:
    """An upstream repository, a worker, and a project that is licensed and nothing else."""

    path: Path
    world: World = field(default_factory=World)
    bounds: Bounds | None = None
    naps_left: int = 2

    def __post_init__(self) -> None:
        self.upstream = Repository(self.path / "upstream")
        self.corpus = Corpus(self.path / "work")
        self.url = repository_of(str(self.upstream.path))
        self.upstream.commit({"README.md": "one\n"})
        while self.world.regions.boot.phase != "LICENSED":
            self.world.others_act()
        self.world.busy = False
        self.world.sleep = self._sleep  # type: ignore[method-assign]

    def worker(self, *, follow: bool = False) -> Ingest:
        git = Git(SystemClock(), inherited(*INHERITED), self.bounds)
        return Ingest(git, self.corpus, repository=self.url, ref="main", follow=follow)

    async def ingest(self, *, follow: bool = False) -> Done | None:
        """Until it is done, or only waits any more; then None."""
        self.naps_left = 2
        worker = self.worker(follow=follow)
        try:
            return await self.world.run("ivy", lambda _: worker)
        except Enough:
            return None

    async def _sleep(self, seconds: float) -> None:
        self.naps_left -= 1
        if not self.naps_left:
            raise Enough

    @property
    def region(self) -> Any:
        return self.world.regions.ingestion

    def names(self) -> list[str]:
        return [name.removeprefix("INGESTION_") for name, _ in self.world.applied()]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_the_source_that_is_committed_names_the_commit(desk: Desk) -> None:
    commit = desk.upstream.git("rev-parse", "HEAD")
    done = await desk.ingest()
    assert desk.region.source_set == (str(Source(desk.url, commit)),)
    assert done is not None and done.what == f"{desk.region.content_hash} is version 1"
    assert desk.region.validation == {"documents": "ok", "names": "ok", "links": "ok", "scan": "ok"}
    assert desk.corpus.has_index(desk.region.content_hash)


async def test_what_is_done_is_not_done_again(desk: Desk) -> None:
    await desk.ingest()
    desk.upstream.commit({"README.md": "two\n"})
    await desk.ingest()
    assert desk.names() == ["SOURCES_RESOLVED", "FETCHED", "VALIDATED", "INDEXED"]


async def test_content_that_is_lost_is_fetched_again_by_its_hash(desk: Desk) -> None:
    """Also on a machine that never had it."""
    await desk.ingest()
    shutil.rmtree(desk.corpus.directory)
    desk.upstream.commit({"README.md": "two\n"})
    await desk.ingest()
    assert desk.corpus.find(desk.region.content_hash, "README.md") == b"one\n"
    assert len(desk.names()) == 4


async def test_content_that_is_lost_in_mid_build_is_fetched_again(desk: Desk) -> None:
    worker = desk.worker()
    for phase in ("FETCH", "VALIDATE", "INDEX", "READY"):
        await step(desk, worker)
        assert desk.region.phase == phase
        shutil.rmtree(desk.corpus.directory, ignore_errors=True)


async def step(desk: Desk, worker: Ingest) -> None:
    """One decision of a worker, proposed."""
    due = await worker.decide(seen(desk.world))
    assert isinstance(due, Step)
    desk.world.solo.propose(due.transition, due.inputs, signer="ivy")


# --- failures ---------------------------------------------------------------------------------------------------------


async def test_content_that_must_not_be_kept_fails_with_its_reason(desk: Desk) -> None:
    desk.upstream.point(desk.upstream.tree(("120000", b"out", desk.upstream.blob(b"../../etc/passwd"))))
    with pytest.raises(GaveUp, match="may leave the tree"):
        await desk.ingest()
    assert desk.names() == ["SOURCES_RESOLVED", "FETCHED", "FAILED"]
    assert desk.region.phase == "DISCOVER" and "may leave the tree" in desk.region.last_error


async def test_a_repository_beyond_the_bounds_fails_with_its_reason(tmp_path: Path) -> None:
    desk = Desk(tmp_path, bounds=Bounds(document_bytes=2))
    with pytest.raises(GaveUp, match="at most 2 are taken"):
        await desk.ingest()
    assert "a document of 4 bytes" in desk.region.last_error


async def test_a_commit_that_is_gone_fails_with_git_s_words(desk: Desk) -> None:
    desk.world.solo.propose(
        "INGESTION_SOURCES_RESOLVED", {"sources": [str(Source(desk.url, "0" * 39 + "1"))]}, signer="ivy"
    )
    with pytest.raises(GaveUp, match="git fetch"):
        await desk.ingest()
    assert desk.names() == ["SOURCES_RESOLVED", "FAILED"]


async def test_a_new_start_is_a_new_try(desk: Desk) -> None:
    good = desk.upstream.git("rev-parse", "HEAD")
    desk.upstream.point(desk.upstream.tree())
    with pytest.raises(GaveUp, match="the tree is empty"):
        await desk.ingest()
    desk.upstream.git("update-ref", "refs/heads/main", good)
    assert await desk.ingest() is not None
    assert desk.region.phase == "READY" and not desk.region.last_error


async def test_a_repository_out_of_reach_writes_nothing(desk: Desk) -> None:
    shutil.rmtree(desk.upstream.path)
    with pytest.raises(GaveUp, match="git ls-remote"):
        await desk.ingest()
    assert desk.names() == []


async def test_a_follower_waits_for_a_repository_out_of_reach(desk: Desk) -> None:
    shutil.rmtree(desk.upstream.path)
    assert await desk.ingest(follow=True) is None
    assert desk.names() == [] and "the repository: git ls-remote" in desk.world.said[-1]


async def test_a_follower_waits_for_a_commit_that_cannot_be_fetched_now(tmp_path: Path) -> None:
    desk = Desk(tmp_path, bounds=Bounds(total_bytes=50_000))
    desk.upstream.commit({"noise": Random(1).randbytes(100_000)})
    assert await desk.ingest(follow=True) is None
    assert desk.region.phase == "FETCH" and "the repository: git fetch" in desk.world.said[-1]


async def test_a_follower_gives_up_a_commit_that_is_gone(desk: Desk) -> None:
    gone = Source(desk.url, "0" * 39 + "1")
    desk.world.solo.propose("INGESTION_SOURCES_RESOLVED", {"sources": [str(gone)]}, signer="ivy")
    assert await desk.ingest(follow=True) is None
    assert desk.names()[1:3] == ["FAILED", "SOURCES_RESOLVED"] and desk.region.phase == "READY"


@pytest.mark.parametrize("source", ["ucxl://chorus:spec@demo/brief", f"git+https://example.org/a.git@{'a' * 40}"])
async def test_somebody_else_s_ingestion_is_left_alone(desk: Desk, source: str) -> None:
    desk.world.solo.propose("INGESTION_SOURCES_RESOLVED", {"sources": [source]}, signer="ivy")
    with pytest.raises(GaveUp, match=r"at work on .*, not on file://"):
        await desk.ingest()


async def test_content_that_its_source_does_not_have_fails(desk: Desk) -> None:
    """Somebody said that other bytes were fetched."""
    other = "sha256-" + "0" * 64
    await step(desk, desk.worker())
    desk.world.solo.propose("INGESTION_FETCHED", {"content_hash": other}, signer="ivy")
    with pytest.raises(GaveUp, match=rf"its content is sha256-.*, not {other}"):
        await desk.ingest()


async def test_a_project_without_a_repository_needs_one_named(desk: Desk) -> None:
    desk.url = ""
    with pytest.raises(GaveUp, match="name a repository"):
        await desk.ingest()


# --- following --------------------------------------------------------------------------------------------------------


async def test_a_follower_builds_the_next_version_beside_the_pinned_one(desk: Desk) -> None:
    await desk.ingest()
    first = desk.region.content_hash
    desk.upstream.commit({"README.md": "two\n"})
    assert await desk.ingest(follow=True) is None
    assert desk.region.content_version == 2 and desk.region.phase == "READY"
    assert desk.names()[4:] == ["REINDEX_REQUESTED", "FETCHED", "VALIDATED", "INDEXED"]
    assert desk.corpus.find(first, "README.md") == b"one\n"
    assert "waiting for main to move on" in desk.world.said[-1]


async def test_a_follower_that_cannot_use_what_came_stays_with_what_it_had(desk: Desk) -> None:
    await desk.ingest()
    first = desk.region.content_hash
    bad = desk.upstream.point(desk.upstream.tree())
    assert await desk.ingest(follow=True) is None
    assert desk.names()[4:] == ["REINDEX_REQUESTED", "FETCHED", "FAILED", "INDEX_ROLLED_BACK"]
    assert (desk.region.phase, desk.region.content_hash) == ("READY", first)
    assert bad in desk.region.last_error
    assert await desk.ingest(follow=True) is None
    assert len(desk.names()) == 8, "the same commit is not tried twice"
    desk.upstream.commit({"README.md": "three\n"})
    await desk.ingest(follow=True)
    assert desk.region.content_version == 2


async def test_a_follower_without_a_version_waits_for_another_commit(desk: Desk) -> None:
    desk.upstream.point(desk.upstream.tree())
    assert await desk.ingest(follow=True) is None
    assert desk.names() == ["SOURCES_RESOLVED", "FETCHED", "FAILED"]
    assert "to move on from" in desk.world.said[-1]


async def test_nothing_is_indexed_under_a_running_plan(desk: Desk) -> None:
    await desk.ingest()
    while desk.world.regions.execution.phase != "WORK":
        steer.step(desk.world.solo)
    desk.upstream.commit({"README.md": "two\n"})
    assert await desk.ingest(follow=True) is None
    assert "the running plan to end" in desk.world.said[-1]
    assert len([name for name in desk.names() if name == "REINDEX_REQUESTED"]) == 0


# --- policy -----------------------------------------------------------------------------------------------------------


async def test_what_policy_quarantines_is_rejected_by_rule_and_line_and_never_quoted(desk: Desk) -> None:
    token = "sk-" + "proj-" + "a1B2" * 10
    await desk.ingest()
    assert desk.region.validation["scan"] == "ok"
    desk.upstream.commit({"notes/setup.md": f"first\nexport OPENAI_API_KEY={token}\n"})
    assert await desk.ingest(follow=True) is None
    assert desk.names()[4:] == ["REINDEX_REQUESTED", "FETCHED", "REJECTED"]
    policy = desk.world.regions.policy
    assert policy.phase == "QUARANTINED" and policy.rationale.startswith("the content holds ")
    assert {each.location for each in policy.findings} == {"notes/setup.md:2"}
    assert token not in repr(policy)
    assert desk.world.said[-1].startswith("waiting for a policy signer")


async def test_nothing_is_fetched_while_a_project_is_held(desk: Desk) -> None:
    desk.world.solo.propose("CONTROL_PAUSED", {"reason": "a story"})
    assert await desk.ingest() is None
    assert desk.names() == [] and "paused" in desk.world.said[-1]
    with pytest.raises(Missing):
        desk.corpus.tree("sha256-" + "0" * 64)
