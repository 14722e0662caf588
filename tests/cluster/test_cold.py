"""What callers see of a node from the first moment of its life: nothing it could be wrong about, and nothing that was
not on disk first."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from cluster import faults
from cluster.answers import Answer
from cluster.faults import ExitCode
from cluster.http.app import public_app
from cluster.storage.kv import Batch, Family, Put
from cluster.telemetry.metrics import Metrics
from swoosh import wal
from swoosh.machine import Applied
from swoosh.outcome import Accepted
from swoosh.proposal import DEFAULT_PROJECT
from swoosh.state import GENESIS_HASH
from tests.cluster.group import Group, NodeHost, accepted

READS = ("/state?consistency=local", "/projects", "/wal", "/decisions", "/rejections", "/health", "/health/live")
PROBES = ("/health/ready", "/leader", "/follower", "/metrics", "/transitions/nobody", "/watch?from=0")


class Caller:
    """Asks one life of one node, as its public address would."""

    def __init__(self, group: Group, host: NodeHost) -> None:
        self.group = group
        self.metrics = Metrics(host.node.chart)
        self.app = public_app(host.node, self.metrics)
        self.app.freeze()

    def get(self, path: str) -> tuple[int, Any]:
        request = make_mocked_request("GET", path, app=self.app)
        response = self.group.wait(self.app._handle(request))
        assert isinstance(response, web.Response), path
        body = response.body
        if not isinstance(body, bytes) or response.content_type != "application/json":
            return response.status, None
        return response.status, msgspec.json.decode(body)


def chain_of(host: NodeHost, project: str) -> dict[str, int]:
    """{state hash: sequence number} of everything a project ever was."""
    records = [wal.decode(data) for data in host.node.store.wal(project, 0, 10**6)]
    return {records[0].state_pre_hash: 0, **{record.state_post_hash: record.seq for record in records}}


@pytest.mark.parametrize("seed", [151, 152])
def test_from_its_first_moment_a_node_answers_what_is_true_or_that_it_is_cold(seed: int) -> None:
    """Polled all through its start, replay and catching up: each 200 is in the chain, and not behind what it served."""
    with Group(seed) as group:
        leader = group.leading()
        victim = next(host for host in group.live() if host is not leader)
        accepted(group.propose(leader.name, group.create("atlas")))
        for _ in range(30):
            group.propose(leader.name, group.load(leader.name, "atlas"))  # the steward may be quicker, now and then
        group.converge()
        status, served = Caller(group, victim).get("/state?project=atlas&consistency=local")
        assert status == 200
        victim.run(victim.kill)
        for _ in range(5):
            group.propose(leader.name, group.load(leader.name, "atlas"))
        before = chain_of(leader, "atlas")
        victim.start()
        caller = Caller(group, victim)
        answers: list[tuple[int, Any]] = []
        while not answers or answers[-1][0] != 200:
            answers.append(caller.get("/state?project=atlas&consistency=local"))
            if not victim.node.caught_up:
                check_cold(caller)
            group.run(0.002)
            assert len(answers) < 10_000
        cold = [body for status, body in answers if status != 200]
        assert len(cold) > 5 and all(body["status"] == "cold" and body["missing"] for body in cold)
        chain = chain_of(leader, "atlas")
        found = answers[-1][1]["state_hash"]
        assert chain[found] >= max(before.values()) >= chain[served["state_hash"]]
        for path in READS:
            assert caller.get(path)[0] == 200, path


def check_cold(caller: Caller) -> None:
    for path in (*READS, *PROBES):
        status, body = caller.get(path)
        if path in ("/health", "/health/live", "/metrics"):
            assert status == 200, path
            assert body is None or (body["status"] == "cold" and body["state_hash"] is body["cluster_hash"] is None)
        else:
            assert status == 503, path
            assert path in PROBES or (body["status"], body["code"]) == ("cold", "COLD"), path


def test_a_project_nobody_created_is_cold_too() -> None:
    """No default, no empty state."""
    with Group(153) as group:
        caller = Caller(group, group.host("n0"))
        status, body = caller.get(f"/state?project={DEFAULT_PROJECT}&consistency=local")
        assert status == 503 and GENESIS_HASH not in str(body)


# --- durable before visible -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [1, 3])
def test_where_the_sync_fails_nothing_is_to_be_seen(nodes: int) -> None:
    """State, metrics, events and answers stay what they were, and the node is gone."""
    with Group(154, nodes=nodes) as group:
        leader = group.leading()
        accepted(group.propose(leader.name, group.create("atlas")))
        group.run(1.0)
        caller, seen = Caller(group, leader), list[Applied]()
        leader.node.on_applied.append(seen.append)
        node, position, cluster_hash = leader.node, leader.node.machine.position, leader.node.machine.cluster_hash
        exposed = caller.metrics.exposition()
        write = leader.store.write

        def failing(batch: Batch, *, sync: bool) -> None:
            if sync and any(isinstance(op, Put) and op.family is Family.LOG for op in batch.operations):
                faults.fatal(ExitCode.DISK, "store write failed")
            write(batch, sync=sync)

        leader.store.write = failing  # type: ignore[method-assign]
        heard: list[Answer] = []
        asked = group.ask(leader.name, group.create("gemini"))
        asked.add_done_callback(lambda task: heard.extend([] if task.cancelled() else task.result()))
        group.run_until(lambda: not leader.alive)
        assert leader.stopped is not None and leader.stopped.code is ExitCode.DISK
        assert node.machine.project("gemini") is None
        assert (node.machine.position, node.machine.cluster_hash) == (position, cluster_hash)
        assert not seen and not any(isinstance(answer, Accepted) for answer in heard)
        assert caller.metrics.exposition().split(b"swoosh_raft")[0] == exposed.split(b"swoosh_raft")[0]
        asked.cancel()
