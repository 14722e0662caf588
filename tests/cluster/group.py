"""Whole nodes in one process: the group of tests/raft/cluster.py with the real machine, store and queue on each.

Virtual time, a seeded network, kills that lose what was not synced. The hop from a follower to the leader is a call:
it arrives at once where a link stands, and what it loses on the way is the business of tests/http/test_forward.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from chaos.solo import Solo, the_chart
from cluster import faults
from cluster.answers import Answer, not_admitted
from cluster.config import Config
from cluster.entropy import SeededEntropy
from cluster.node import Node
from cluster.nodekey import NodeKey
from cluster.raft.journal import Journal
from cluster.raft.replica import Timing
from cluster.storage.snapshots import MemoryShelf, Snapshots
from cluster.storage.store import ORIGIN
from cluster.storage.store import Store as StateStore
from cluster.tls import Credentials
from swoosh import genesis, state
from swoosh.entry import Item, ProposalItem, owed
from swoosh.outcome import Accepted, Code
from swoosh.proposal import CLUSTER, DEFAULT_PROJECT
from tests.raft.cluster import IDENTITY, Cluster, MemoryTransport, OurHost

NOWHERE = Path("/nonexistent")
ANSWER_SECONDS = 10.0


class NodeHost(OurHost):
    """A machine on which a whole node runs."""

    cluster: Group
    node: Node

    def __init__(self, cluster: Cluster, name: str) -> None:
        super().__init__(cluster, name)
        people = self.cluster.people
        StateStore.create(self.store, genesis.initial_rows(people.genesis, people.chart), ORIGIN, {})

    def _begin(self) -> Coroutine[Any, Any, None]:
        return self.node.start()

    def _build(self) -> None:
        people = self.cluster.people
        self.transport = MemoryTransport(self)
        store = StateStore(self.store)
        self.node = Node(
            config=replace(_config(self.name, people), projects_per_signer=self.cluster.projects_per_signer),
            genesis=people.genesis,
            identity=replace(IDENTITY, cluster_id=people.machine.cluster_id),
            chart=people.chart,
            store=store,
            snapshots=Snapshots(store, MemoryShelf(), people.chart, self.clock),
            journal=Journal.open(self.store, self.witness, cluster_id="c", node=self.name),
            transport=self.transport,
            forwarder=Hop(self),
            key=NodeKey.of(people.keys["n1"]),
            clock=self.clock,
            entropy=SeededEntropy(f"{self.cluster.seed}/{self.name}/{self.life}"),
        )
        self.raft = self.node.raft

    def lose_unsynced(self) -> None:
        super().lose_unsynced()
        for task in list(self.node._tasks):
            task.cancel()


class Hop:
    """From a follower to the leader."""

    def __init__(self, host: NodeHost) -> None:
        self._host = host

    async def submit(self, leader: str, items: Sequence[Item], deadline: float, *, dry_run: bool) -> list[Answer]:
        if leader not in self._host.links:
            return [not_admitted(Code.NO_LEADER, f"{leader} is out of reach")] * sum(map(owed, items))
        there = self._host.cluster.node(leader)
        return await there.submit_forwarded(items, deadline, dry_run=dry_run)


class Group(Cluster):
    """Nodes n0, n1, … of one cluster, and the people who sign."""

    def __init__(self, seed: int, *, nodes: int = 3, projects_per_signer: int = 0, **how: Any) -> None:
        self.projects_per_signer = projects_per_signer
        names = tuple(f"n{number}" for number in range(nodes))
        self.people = Solo(the_chart(), nodes=nodes)
        self.people.genesis = msgspec.structs.replace(self.people.genesis, nodes=names)
        self.serial = 0
        super().__init__(seed, nodes=nodes, ours=NodeHost, **how)

    def host(self, name: str) -> NodeHost:
        host = self.hosts[name]
        assert isinstance(host, NodeHost)
        return host

    def node(self, name: str) -> Node:
        return self.host(name).node

    def leading(self) -> NodeHost:
        """Wait for a leader that may judge: every live node is ready, and knows it."""
        self.run_until(lambda: self.leader() is not None)
        self.run_until(lambda: all(h.node.ready is None for h in self.live()))
        leader = self.leader()
        assert isinstance(leader, NodeHost)
        return leader

    def live(self) -> list[NodeHost]:
        return [self.host(name) for name in self.names if self.hosts[name].alive]

    def ask(self, name: str, *items: Item, within: float = ANSWER_SECONDS) -> asyncio.Task[list[Answer]]:
        """Submit at a node; the task has the answers."""
        node = self.node(name)
        return self.loop.create_task(node.submit(items, node.clock.monotonic() + within))

    def answers(self, asked: asyncio.Task[list[Answer]], seconds: float = 2 * ANSWER_SECONDS) -> list[Answer]:
        self.run_until(asked.done, seconds)
        return asked.result()

    def propose(self, name: str, item: Item) -> Answer:
        (answer,) = self.answers(self.ask(name, item))
        return answer

    def create(self, project: str, **how: Any) -> ProposalItem:
        """PROJECT_CREATED, signed."""
        document = self.people.document("PROJECT_CREATED", {"brief": "a story"}, project=project, **how)
        return self.people.item(self._now(document))

    def load(self, name: str, project: str = DEFAULT_PROJECT, **how: Any) -> ProposalItem:
        """A transition of a project as this node has applied it: a pause or a resume, whichever may come next."""
        held = self.node(name).machine.project(project)
        assert held is not None
        paused = state.as_project(held.regions).pause.phase == "PAUSED"
        how = {"head": held.state_hash, **how}
        document = self.people.document(
            "CONTROL_RESUMED" if paused else "CONTROL_PAUSED", {"reason": "a story"}, project=project, **how
        )
        return self.people.item(self._now(document))

    def command(self, name: str, transition: str, inputs: dict[str, Any]) -> ProposalItem:
        """A command on @cluster as this node has applied it."""
        held = self.node(name).machine.project(CLUSTER)
        assert held is not None
        return self.people.item(self._now(self.people.document(transition, inputs, head=held.state_hash)))

    def _now(self, document: dict[str, Any]) -> dict[str, Any]:
        """Said now: virtual time moves on without the people noticing."""
        clock = self.live()[0].clock
        self.serial += 1
        self.people.now_ms = clock.wall_us() // 1000
        return {**document, "hlc": str(self.people.next_hlc("@none")._replace(counter=self.serial))}

    def converge(self) -> str:
        """Wait until every live node stands at the same entry; the hash they agree on."""
        leader = self.leading()
        self.run_until(lambda: {host.raft.applied_index for host in self.live()} == {leader.raft.last_index})
        hashes = {host.node.machine.cluster_hash for host in self.live()}
        assert len(hashes) == 1, {host.name: host.node.machine.cluster_hash for host in self.live()}
        return hashes.pop()

    def records(self, name: str, project: str = DEFAULT_PROJECT) -> list[bytes]:
        return list(self.node(name).store.wal(project, 0, 1_000))

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        faults.disarm()


def accepted(answer: Answer) -> Accepted:
    assert isinstance(answer, Accepted), answer
    return answer


def _config(name: str, people: Solo) -> Config:
    return Config(
        node_id=name,
        cluster_id=people.machine.cluster_id,
        http=("localhost", 0),
        peer=("localhost", 0),
        members={},
        genesis_path=NOWHERE,
        license_path=NOWHERE,
        key_path=NOWHERE,
        data_dir=NOWHERE,
        snapshots_path=NOWHERE,
        credentials=Credentials(NOWHERE, NOWHERE, NOWHERE),
        timing=Timing(),
    )
