"""The workers carry a project to its end, whoever is killed on the way and whenever."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.steer import TOOLS
from cluster.clock import SystemClock
from cluster.config import inherited
from cluster.worker.common import Done
from cluster.worker.corpus import Corpus
from cluster.worker.ingest import Ingest
from cluster.worker.repository import INHERITED, Bounds, Git, repository_of
from cluster.worker.run import Orders, Run
from tests.worker.gits import Repository
from tests.worker.world import Killed, World

BRIEF = "# Demo\n\n- [ ] Design it {#design}\n- [ ] Build it\n- [x] Wish for it\n- [ ] Test it\n"
INGESTED = ["SOURCES_RESOLVED", "FETCHED", "VALIDATED", "INDEXED"]
EXECUTED = ["BEGUN", "PLAN_LOCKED", "REVIEW_OPENED", "APPROVED", "SUBMITTED", "NEXT_WINDOW"]
WHOLE = [
    *(f"INGESTION_{name}" for name in INGESTED),
    "COUNCIL_TOOLING_SYNCED",
    *(f"EXECUTION_{name}" for name in EXECUTED),
]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    made = Repository(tmp_path_factory.mktemp("git") / "upstream")
    made.commit({"BRIEF.md": BRIEF, "src/main.py": "print('hello')\n"})
    return made


async def carry(world: World, repository: Repository, work: Path, *, bounds: Bounds | None = None) -> Done:
    """Both workers, one after the other, as a shell script would call them."""
    corpus = Corpus(work)
    git = Git(SystemClock(), inherited(*INHERITED), bounds)
    ingest = Ingest(git, corpus, repository=repository_of(str(repository.path)))
    await world.run("ivy", lambda _: ingest)
    orders = Orders(TOOLS, terms={"claim_beats": 8})
    return await world.run("pam", lambda client: Run(client, "default", corpus, orders, world))


@pytest.mark.parametrize("windows", ["always_open", "tidal", "backbeat"])
async def test_a_repository_becomes_a_submission_and_the_next_window(
    upstream: Repository, tmp_path: Path, windows: str
) -> None:
    world = World(windows=windows)
    done = await carry(world, upstream, tmp_path)
    assert [name for name, _ in world.applied()] == WHOLE
    execution = world.regions.execution
    assert execution.phase == "PLAN" and "was delivered" in done.what
    (submission,) = execution.submissions
    assert execution.history == (submission.plan_hash,)
    delivery = Corpus(tmp_path).document(submission.artifacts[0].removeprefix("sha256-"))
    assert b'"build-it":{"evidence":"ucxl://evidence/build-it"' in delivery
    assert all(record["window_id"] for record in world.wal() if record["transition_name"].startswith("EXECUTION"))


async def test_the_same_input_gives_the_same_proposals_under_the_same_keys(
    upstream: Repository, tmp_path: Path
) -> None:
    worlds = [World(), World()]
    for number, world in enumerate(worlds):
        await carry(world, upstream, tmp_path / str(number))
    one, other = ([(sent["idem_key"], sent["inputs_hash"]) for sent in world.sent] for world in worlds)
    assert one == other
    assert len(set(one)) == len(one)


async def test_killed_at_any_proposal_they_go_on_where_the_project_stands(upstream: Repository, tmp_path: Path) -> None:
    """Before the cluster hears it, and after, with the answer on its way."""
    whole = World()
    await carry(whole, upstream, tmp_path / "whole")
    for moment in range(len(whole.sent)):
        for heard in (False, True):
            world = World()
            world.dies = (moment, heard)
            with pytest.raises(Killed):
                await carry(world, upstream, tmp_path / "killed")
            world.dies = None
            await carry(world, upstream, tmp_path / "killed")
            assert world.applied() == whole.applied(), f"killed at proposal {moment}, heard: {heard}"


async def test_killed_again_and_again(upstream: Repository, tmp_path: Path) -> None:
    """At every second proposal, for as long as it takes."""
    whole, world = World(), World()
    await carry(whole, upstream, tmp_path / "whole")
    for life in range(100):
        world.dies = (1, bool(life % 2))
        try:
            await carry(world, upstream, tmp_path / "killed")
            break
        except Killed:
            continue
    assert world.applied() == whole.applied()


async def test_killed_between_two_documents(
    upstream: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, left = Corpus.keep, iter([True, False])

    def dying(corpus: Corpus, data: bytes) -> str:
        if next(left, True):
            return keep(corpus, data)
        raise Killed

    monkeypatch.setattr(Corpus, "keep", dying)
    world = World()
    with pytest.raises(Killed):
        await carry(world, upstream, tmp_path)
    await carry(world, upstream, tmp_path)
    assert [name for name, _ in world.applied()] == WHOLE
