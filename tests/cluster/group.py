"""Whole nodes in one process: the group of tests/raft/cluster.py with the real machine, store and queue on each.

Virtual time, a seeded network, kills that lose what was not synced. The hop from a follower to the leader is a call:
it arrives at once where a link stands, and what it loses on the way is the business of tests/http/test_forward.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from chaos.nowhere import node_config
from chaos.solo import CHART, Solo, key_of, the_chart
from cluster import faults, verify
from cluster.answers import Answer, not_admitted, unknown
from cluster.cli.init import NODE_ROLES
from cluster.egress import Gatekeeper, Unreachable
from cluster.entropy import SeededEntropy
from cluster.node import REDUCER_VERSION, Node
from cluster.nodekey import NodeKey
from cluster.providers.hmmm import Polled
from cluster.providers.leading import Provider
from cluster.raft import install
from cluster.raft.journal import Journal
from cluster.raft.retention import KEEP, Keep
from cluster.storage.donor import Donor
from cluster.storage.incoming import MemoryPlace, Offer
from cluster.storage.kv import KeyValue
from cluster.storage.snapshots import MemoryShelf, Snapshots
from cluster.storage.store import ORIGIN
from cluster.storage.store import Store as StateStore
from swoosh import genesis, limits, principal, state
from swoosh.chart import Chart, load_chart
from swoosh.entry import Item, ProposalItem, owed
from swoosh.outcome import Accepted, Code
from swoosh.proposal import CLUSTER, DEFAULT_PROJECT
from swoosh.quorum import Vote
from swoosh.snapshot import Manifest
from tests.raft.cluster import IDENTITY, Cluster, MemoryTransport, OurHost, Store

ANSWER_SECONDS = 10.0


class NodeHost(OurHost):
    """A machine on which a whole node runs."""

    cluster: Group
    node: Node
    beginning: genesis.Genesis
    """What its store begins with."""
    chart: Chart | None = None
    """What its build has; None is the chart of the group."""
    claimed_chart: str | None = None
    """What its build says it has, where that is something else."""
    free_bytes = 1 << 40

    def __init__(self, cluster: Cluster, name: str) -> None:
        super().__init__(cluster, name)
        self.beginning = self.cluster.people.genesis
        self._fill()

    def _examine(self, store: KeyValue, manifest: Manifest) -> str | None:
        report = verify.examine_state(store, self.cluster.people.chart, manifest)
        return str(report.findings) if report.findings else None

    def _fill(self) -> None:
        """The state before the first entry, and no snapshot."""
        document = {"genesis": genesis.encode(self.beginning)}
        StateStore.create(self.store, genesis.initial_rows(self.beginning, self.cluster.people.chart), ORIGIN, document)
        self.place = MemoryPlace(lambda: Store(self), self._examine)
        self.place.store = self.store
        self.shelf = MemoryShelf()

    def wipe(self, *, rejoining: bool = True) -> None:
        super().wipe(rejoining=rejoining)
        self._fill()

    def _begin(self) -> Coroutine[Any, Any, None]:
        return self.node.start()

    def _build(self) -> None:
        people, chart = self.cluster.people, self.chart or self.cluster.people.chart
        self.transport = MemoryTransport(self)
        install.finish(self.place, self.witness, cluster_id="c", node=self.name)
        assert isinstance(self.place.store, Store)
        self.store = self.place.store
        store = StateStore(self.store)
        donor = Donor(self.name, self.shelf, self.clock)
        keeper = Gatekeeper(self.clock, self.cluster.reachable, self.cluster.agents)
        self.node = Node(
            config=node_config(
                self.name,
                people.machine.cluster_id,
                scrub_period=self.cluster.scrub_period,
                keep=self.cluster.keep,
                projects_per_signer=self.cluster.projects_per_signer,
            ),
            genesis=people.genesis,
            identity=replace(
                IDENTITY,
                cluster_id=people.machine.cluster_id,
                chart_hash=self.claimed_chart or chart.hash,
                reducer_version=REDUCER_VERSION,
            ),
            chart=chart,
            store=store,
            snapshots=self.cluster.snapshots(store, self.shelf, chart, self.clock, is_lent=donor.is_lent),
            donor=donor,
            installer=install.Installer(
                [name for name in self.cluster.names if name != self.name],
                self.place,
                Neighbours(self),
                self.clock,
                bytes_per_second=self.cluster.bytes_per_second,
            ),
            journal=Journal.open(self.store, self.witness, cluster_id="c", node=self.name, syncer=self.syncer),
            transport=self.transport,
            forwarder=Hop(self),
            key=NodeKey.of(people.keys[self.name if self.cluster.voting else "n1"]),
            clock=self.clock,
            entropy=SeededEntropy(f"{self.cluster.seed}/{self.name}/{self.life}"),
            checkpoint_every=self.cluster.checkpoint_every,
            free_bytes=lambda: self.free_bytes,
            keeper=keeper,
            providers=tuple(self.cluster.providers(self, keeper, store)),
        )
        ended = self.node._ended
        self.node._ended = lambda task: self.run(lambda: ended(task))  # type: ignore[method-assign]
        self.raft = self.node.raft

    def lose_unsynced(self) -> None:
        super().lose_unsynced()
        self.place.crash()
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

    async def poll(self, leader: str, project: str, vote: Vote | None, deadline: float) -> Polled:
        if leader not in self._host.links:
            return unknown(f"{leader} is out of reach")
        return await self._host.cluster.node(leader).poll_as_leader(project, vote, deadline)


class Neighbours:
    """From a node to its peers' snapshots. A question takes as long as a message, and is lost with the link."""

    def __init__(self, host: NodeHost) -> None:
        self._host = host

    async def newest(self, peer: str) -> Manifest | None:
        return (await self._ask(peer)).newest()

    async def offer(self, peer: str, index: int) -> Offer | None:
        return await (await self._ask(peer)).offer(self._host.name, index)

    async def read(self, peer: str, index: int, name: str, offset: int, size: int) -> bytes:
        piece = await (await self._ask(peer)).read(self._host.name, index, name, offset, size)
        if piece is None:
            raise Unreachable(f"{peer} no longer lends its snapshot at {index}")
        return piece

    async def _ask(self, peer: str) -> Donor:
        cluster = self._host.cluster
        await self._host.clock.sleep(cluster.random.uniform(*cluster.latency))
        if peer not in self._host.links:
            raise Unreachable(f"{peer} is out of reach")
        return cluster.node(peer).donor


class Group(Cluster):
    """Nodes n0, n1, … of one cluster, and the people who sign."""

    def __init__(
        self,
        seed: int,
        *,
        nodes: int = 3,
        checkpoint_every: int = limits.CHECKPOINT_EVERY,
        scrub_period: float = 86_400.0,
        keep: Keep = KEEP,
        snapshots: Callable[..., Snapshots] = Snapshots,
        bytes_per_second: int = install.BYTES_PER_SECOND,
        projects_per_signer: int = 0,
        providers: Callable[[NodeHost, Gatekeeper, StateStore], Iterable[Provider]] = lambda host, keeper, store: (),
        reachable: Sequence[str] = (),
        agents: Sequence[str] = (),
        voting: bool = False,
        **how: Any,
    ) -> None:
        """`keep` is what stays of each log, `snapshots` how each node takes them, `bytes_per_second` how fast it
        fetches one. `providers` says which a host has at each of its starts, `reachable` what they may reach, `agents`
        where agents are. With `voting` each node signs with a key of its own, which is an elector's too."""
        self.providers, self.reachable, self.agents, self.voting = providers, reachable, agents, voting
        self.projects_per_signer = projects_per_signer
        names = tuple(f"n{number}" for number in range(nodes))
        self.people = Solo(the_chart(), nodes=nodes)
        self.people.genesis = msgspec.structs.replace(self.people.genesis, nodes=names)
        if voting:
            self.people.genesis = with_voting(self.people, names)
        self.serial = 0
        self.checkpoint_every, self.scrub_period = checkpoint_every, scrub_period
        self.keep, self.snapshots, self.bytes_per_second = keep, snapshots, bytes_per_second
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


def with_voting(people: Solo, names: Sequence[str]) -> genesis.Genesis:
    """The genesis in which each of these nodes has a key of its own, as `swoosh init` makes it."""
    people.keys |= {name: key_of(name) for name in names}
    principals = {name: principal.name_of(people.keys[name].public_key().public_bytes_raw()) for name in names}
    others = [each for each in people.genesis.identities if each.name not in principals]
    nodes = [genesis.Registered(name, who, NODE_ROLES) for name, who in principals.items()]
    return msgspec.structs.replace(people.genesis, identities=(*others, *nodes))


def next_chart() -> Chart:
    """The same machine under another hash."""
    return load_chart(CHART.read_text(encoding="utf-8").replace('version: "1"', 'version: "2"', 1))


def claim(group: Group, name: str, chart: Chart) -> None:
    """Have the node say, whenever a link comes up, that its build has this chart."""
    host = group.host(name)
    host.run(host.kill)
    host.claimed_chart = chart.hash
    host.start()


def activation(group: Group, host: NodeHost, chart: Chart) -> ProposalItem:
    """CHART_ACTIVATED for this chart, signed, on record as supported by everybody."""
    inputs = {"chart_hash": chart.hash, "version": chart.version, "supported_by": group.names}
    return group.command(host.name, "CHART_ACTIVATED", inputs)


def accepted(answer: Answer) -> Accepted:
    assert isinstance(answer, Accepted), answer
    return answer
