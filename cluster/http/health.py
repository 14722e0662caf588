"""How the node is: one document for people and monitors, four probes for load balancers.

`GET /health` answers 200 as long as the process serves, cold or without a leader too: a container's health check that
fails restarts it, and restarting helps neither. The probes answer 200 or 503 and one line.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from aiohttp import web

from cluster.http import problems
from cluster.http.request import NODE, head_of, number, project_of
from cluster.node import Node
from cluster.providers.leading import Counting
from cluster.providers.outbox import Outbox
from cluster.raft.driver import Role
from cluster.telemetry.metrics import Gauges
from swoosh import state
from swoosh.state import Project

try:
    VERSION = version("swoosh")
except PackageNotFoundError:  # run from a source tree that was never installed
    VERSION = "source"


class Quorum(NamedTuple):
    """Whether a majority is heard, and how many more members may fail before it is lost."""

    heard: bool
    faults_left: int
    all_here: bool


async def get_health(request: web.Request) -> web.Response:
    """The brief's and v1.0.0's fields in one; null where nothing is verified yet."""
    node = request.app[NODE]
    raft = node.raft
    quorum, snapshot = quorum_of(node), node.snapshots.newest
    return problems.ok(
        {
            "status": status_of(node, quorum),
            "reason": node.reason,
            "missing": node.missing,
            "node": node.config.node_id,
            "consensus": {
                "role": raft.role.name.lower(),
                "leader": raft.leader,
                "term": raft.term,
                "commit_index": raft.commit_index,
                "last_applied": raft.applied_index,
                "quorum": quorum.heard,
                "faults_left": quorum.faults_left,
                "clock_ok": raft.clock_ok,
                "peers": raft.peers(),
            },
            "log": {"first_index": raft.first_index, "last_index": raft.last_index},
            "installs": installs_of(node),
            "lastSnapshotHLC": None if snapshot is None else snapshot.last_applied_hlc,
            "walLag": raft.commit_index - raft.applied_index,
            **_of_project(head_of(node, project_of(request))),
            "cluster_hash": node.machine.cluster_hash if node.caught_up else None,
            **node.checkpoints.document(),
            "scrub": node.scrubber.document(),
            "suspended": raft.suspended,
            "policy": node.screen.document(),
            "outbound": node.keeper.closed(None) or "open",
            "breakers": node.keeper.resting(),
            "providers": troubles_of(node) if leads(node) else None,
            "outboxes": outboxes_of(node),
            "cluster_id": node.machine.cluster_id,
            "version": VERSION,
            "chart_hash": node.chart.hash,
            "insecure": node.insecure,
        }
    )


def troubles_of(node: Node) -> dict[str, str | None]:
    """What is wrong with each outside system, without what it may have let slip."""
    told, _ = node.screen.scanner.redact({provider.name: provider.trouble for provider in node.providers})
    return dict(told)


def leads(node: Node) -> bool:
    """Whether this node leads; nobody else has anything to do with the outside."""
    return node.raft.role is Role.LEADER


def outboxes_of(node: Node) -> dict[str, dict[str, int | float]] | None:
    """What waits in each outbox that has a sink, at the leader, which alone delivers; null elsewhere."""
    if not leads(node):
        return None
    now_us = node.clock.wall_us()
    return {each.name: each.gauges(now_us) for each in node.providers if isinstance(each, Outbox)}


def quorum_of(node: Node) -> Quorum:
    """What this node sees of its group."""
    peers = node.raft.peers()
    here = (not node.raft.rejoining) + sum(peer.reachable and peer.counts for peer in peers)
    majority = (len(peers) + 1) // 2 + 1
    return Quorum(node.raft.quorum_heard(), max(0, here - majority), here == len(peers) + 1)


def installs_of(node: Node) -> dict[str, Any]:
    """Snapshots on their way: to this node, from this node, and to whom the log of this node, if it leads, waits."""
    lent = node.donor.loan
    return {
        "here": node.installer.progress,
        "lent": None if lent is None else {"peer": lent.peer, "index": lent.index},
        "waited_for": node.raft.retention.leases(),
    }


def gauges(node: Node, *, watchers: int) -> Gauges:
    """The node as its metrics show it."""
    raft, quorum = node.raft, quorum_of(node)
    peers = raft.peers()
    return Gauges(
        role=raft.role.name.lower(),
        term=raft.term,
        commit_index=raft.commit_index,
        applied_index=raft.applied_index,
        first_index=raft.first_index,
        last_index=raft.last_index,
        installing=node.installer.progress is not None,
        quorum=quorum.heard,
        faults_left=quorum.faults_left,
        clock_ok=raft.clock_ok,
        ready=not node.missing,
        recovery_s=node.recovery_s,
        checkpoint_index=0 if node.store.checkpoint is None else node.store.checkpoint.at,
        halted=node.checkpoints.halted is not None,
        scrub_passes=node.scrubber.passes,
        scrub_steps=node.scrubber.steps,
        peers_reachable={peer.id: peer.reachable for peer in peers},
        peers_lag={peer.id: peer.lag for peer in peers},
        watchers=watchers,
        disk_stalled_s=raft.stalled_s or 0.0,
        disk_free_bytes=node.disk.free_bytes,
        findings=node.screen.counts,
        policy_agrees=node.screen.document()["agrees"],
        outbound_open=node.keeper.closed(None) is None,
        outbound_seconds_left=node.keeper.seconds_left(),
        breakers_open=len(node.keeper.resting()),
        outbound_calls=node.keeper.counts,
        outboxes=outboxes_of(node) or {},
        providers_well={provider.name: provider.trouble is None for provider in node.providers} if leads(node) else {},
        providers_counts={
            provider.name: provider.counts for provider in node.providers if isinstance(provider, Counting)
        },
    )


def status_of(node: Node, quorum: Quorum) -> str:
    """`healthy`, `degraded`, `cold`, `no_leader` or `diverged`. A node that a majority contradicts ends its process, so
    it never answers here; diverged are those of which nobody knows who is right."""
    if node.checkpoints.halted is not None:
        return "diverged"
    if not node.caught_up:
        return "cold"
    if node.raft.leader is None or not quorum.heard:
        return "no_leader"
    return "healthy" if quorum.all_here and node.raft.clock_ok and node.reason is None else "degraded"


def _of_project(project: Project | None) -> dict[str, Any]:
    if project is None or not isinstance(project.regions, state.ProjectRegions):
        return dict.fromkeys(("licensed", "quarantined", "degraded", "recovering", "hlc_last", "state_hash"))
    control = state.control(project.regions)
    return {
        "licensed": project.regions.boot.licensed and project.regions.license.phase != "EXPIRED",
        "quarantined": project.quarantined,
        "degraded": control["Degraded"],
        "recovering": control["Recovering"],
        "hlc_last": project.regions.hlc_last.hlc,
        "state_hash": project.state_hash,
    }


# --- probes -----------------------------------------------------------------------------------------------------------


async def get_live(request: web.Request) -> web.Response:
    """The process serves."""
    return problems.probe(True, "live")


async def get_ready(request: web.Request) -> web.Response:
    """Caught up, a majority heard, and at most `max_lag` entries behind what it knows to be committed."""
    node = request.app[NODE]
    lag = node.raft.commit_index - node.raft.applied_index
    if "max_lag" in request.query and lag > number(request, "max_lag", 0):
        return problems.probe(False, f"{lag} entries behind")
    return problems.probe(not node.missing, "; ".join(node.missing) or "ready")


async def get_leader(request: web.Request) -> web.Response:
    """This node leads."""
    return _role(request.app[NODE], Role.LEADER)


async def get_follower(request: web.Request) -> web.Response:
    """This node follows a leader."""
    return _role(request.app[NODE], Role.FOLLOWER)


def _role(node: Node, wanted: Role) -> web.Response:
    role, leader = node.raft.role, node.raft.leader
    holds = role is wanted and leader is not None and not node.missing
    return problems.probe(holds, f"{role.name.lower()}, leader {leader or 'unknown'}, {node.ready or 'ready'}")


async def options(request: web.Request) -> web.Response:
    """What a probe takes."""
    return problems.options("GET", "HEAD", "OPTIONS")
