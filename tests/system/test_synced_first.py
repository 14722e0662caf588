"""Durable before acknowledged, seen from outside the program: a preloaded library notes its syncs and its answers.

Every sync of a log is held up for a moment before it begins, so an answer that does not wait for one gets far ahead.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import pytest

from chaos.live import LiveCluster
from swoosh.client import Accepted
from tests.system.conftest import Found

SOURCE = Path(__file__).parent / "syncwatch.c"
PROPOSALS = 45
DELAY_MS = 20


class Sync(NamedTuple):
    """One sync of a node's log, monotonic nanoseconds."""

    node: str
    begin: int
    end: int


class Answer(NamedTuple):
    """When a node had received a proposal, and when it began to send the answer to it."""

    key: str
    heard: int
    answered: int


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled library."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not installed; it compiles the library that watches the syncs")
    library = tmp_path_factory.mktemp("syncwatch") / "syncwatch.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def start_watched(cluster: LiveCluster, library: Path) -> None:
    for node, endpoint in cluster.nodes.items():
        variables = {
            "LD_PRELOAD": str(library),
            "SYNCWATCH_LOG": str(trace_of(cluster, node)),
            "SYNCWATCH_PORT": endpoint.rpartition(":")[2],
            "SYNCWATCH_FILES": ".log",
            "SYNCWATCH_DELAY_MS": str(DELAY_MS),
        }
        cluster.start(node, environment=variables)


def trace_of(cluster: LiveCluster, node: str) -> Path:
    return cluster.directory / f"{node}.trace"


def read_trace(cluster: LiveCluster, node: str) -> tuple[list[Sync], list[Answer]]:
    syncs, answers = list[Sync](), list[Answer]()
    began: dict[str, int] = {}
    heard: dict[str, int] = {}
    for line in trace_of(cluster, node).read_text().splitlines():
        at, what, which = line.split(" ", 2)
        match what:
            case "begin":
                began[which] = int(at)
            case "end":
                syncs.append(Sync(node, began.pop(which), int(at)))
            case "heard":
                heard.setdefault(which, int(at))
            case "answered" if which in heard:
                answers.append(Answer(which, heard.pop(which), int(at)))
    return syncs, answers


def synced_by(answer: Answer, syncs: list[Sync]) -> set[str]:
    """The nodes that began and completed a sync between hearing of a proposal and answering it."""
    return {sync.node for sync in syncs if answer.heard <= sync.begin and sync.end <= answer.answered}


def too_early(answers: list[Answer], syncs: list[Sync], leader: str) -> Iterator[str]:
    for answer in answers:
        nodes = synced_by(answer, syncs)
        if len(nodes) < 2 or leader not in nodes:
            yield f"{answer.key}: synced before the answer by {sorted(nodes)}, the leader is {leader}"


async def test_a_majority_has_synced_before_any_answer_leaves(found: Found, watch: Path) -> None:
    cluster = found("--windows", "always_open")
    start_watched(cluster, watch)
    leader = await cluster.ready()
    keys = []
    for number, node in zip(range(PROPOSALS), cycle(cluster.nodes), strict=False):
        async with cluster.client("operator", via=[node]) as client:
            what, inputs = (
                ("PROJECT_CREATED", {"brief": "watched"}) if number < 1 else
                ("CONTROL_PAUSED" if number % 2 else "CONTROL_RESUMED", {"reason": "watched"})
            )  # fmt: skip
            keys.append(f"watched:{number}")
            outcome = await client.propose(
                what, inputs=inputs, project="watched", idem_key=keys[-1], on_stale="resubmit"
            )
            assert isinstance(outcome, Accepted), outcome
    assert await cluster.ready() == leader, "leadership moved; which node had to sync is not plain any more"

    traces = [read_trace(cluster, node) for node in cluster.nodes]
    syncs = [sync for found_syncs, _ in traces for sync in found_syncs]
    answers = [answer for _, found_answers in traces for answer in found_answers if answer.key in keys]
    assert {answer.key for answer in answers} == set(keys), "the library did not see every answer"
    assert list(too_early(answers, syncs, leader)) == []

    followers = set(cluster.nodes) - {leader}
    without_leader = [sync for sync in syncs if sync.node != leader]
    without_followers = [sync for sync in syncs if sync.node not in followers]
    assert len(list(too_early(answers, without_leader, leader))) == len(answers)
    assert len(list(too_early(answers, without_followers, leader))) == len(answers)
