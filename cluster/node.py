"""The composition root: one node, built from its parts in order, and the path of a proposal through them.

A request comes in at any node. Where this node leads, it joins the queue (proposals.py); where another does, it is
handed over in one hop by the forwarder the node was given. Committed entries come back through ``apply``: machine,
then store, then whoever listens. The node holds no state of its own that a restart would miss.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine, Sequence
from itertools import islice
from typing import Any, Protocol

import structlog

from cluster import faults
from cluster.admission import Admission
from cluster.answers import Answer, Unavailable, not_admitted
from cluster.clock import Clock, Handle, done_by
from cluster.config import Config
from cluster.creators import Creators
from cluster.entropy import Entropy
from cluster.faults import ExitCode
from cluster.nodekey import NodeKey
from cluster.proposals import Proposals
from cluster.providers.license import LicenseFile
from cluster.raft.driver import Fate, Identity, Links, NoQuorum, NotLeader, Raft, Role
from cluster.raft.journal import Journal
from cluster.seats import Crowded, Seats
from cluster.steward import Steward
from cluster.storage.snapshots import Snapshots
from cluster.storage.store import Store
from swoosh.chart import Chart
from swoosh.entry import Item, owed, signers_of, stamp_of
from swoosh.errors import Corrupt, Malformed
from swoosh.genesis import Genesis
from swoosh.machine import Applied, Machine
from swoosh.outcome import Code, Refused

PULSE_SECONDS = 0.25
CATCH_UP_SECONDS = 5.0
LEADER_POLL_SECONDS = 0.1
READS_WAITING_MAX = 512
INDEX_WAITERS_MAX = 128
"""They wait for what may never come, up to their deadline: fewer of them than reads, which wait for one round trip."""
REDUCER_VERSION = "1"

_log = structlog.get_logger(__name__)


class Forwarder(Protocol):
    """One hop to the leader. Its answers obey the same rule: ``admitted=False`` only where that is certain."""

    async def submit(self, leader: str, items: Sequence[Item], deadline: float, *, dry_run: bool) -> list[Answer]: ...


class Node:
    """One member of the cluster.

    Everything it needs from outside is handed in, so that the whole of it also runs on a virtual clock, an in-memory
    store and a simulated network. ``start`` begins to take part, ``stop`` hands leadership over and leaves.
    """

    def __init__(
        self,
        *,
        config: Config,
        genesis: Genesis,
        identity: Identity,
        chart: Chart,
        store: Store,
        snapshots: Snapshots,
        journal: Journal,
        transport: Links,
        forwarder: Forwarder,
        key: NodeKey,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self.config, self.chart, self.store, self.snapshots, self.clock = config, chart, store, snapshots, clock
        try:
            self.machine = Machine(chart, identity.cluster_id, store)
            creators = Creators(chart, store.first_records(), config.projects_per_signer)
        except Corrupt as error:
            faults.fatal(ExitCode.DAMAGED, str(error))
        self.admission = Admission(chart, identity.cluster_id, lambda: self.machine.registry, insecure=genesis.insecure)
        self.insecure = genesis.insecure
        self.on_applied: list[Callable[[Applied], None]] = [snapshots.on_applied, creators.on_applied]
        self._forwarder = forwarder
        self._tasks: set[asyncio.Task[None]] = set()
        self._leading: list[asyncio.Task[None]] = []
        self._key = key
        self._pulse_timer: Handle | None = None
        self._moved_on: asyncio.Future[None] | None = None
        self._started_at = clock.monotonic()
        self._heard_at = float("-inf")
        self._caught_up = self._stopping = False
        self.recovery_s: float | None = None
        """Seconds from start to ready; None before."""
        self._reads = Seats(READS_WAITING_MAX, "linearizable reads")
        self._index_waits = Seats(INDEX_WAITERS_MAX, "readers with min_index")
        self._proposals = Proposals(config.node_id, self.machine, creators, clock, self.spawn)
        self.raft = Raft(
            me=config.node_id,
            members=genesis.nodes,
            journal=journal,
            transport=transport,
            machine=self,
            clock=clock,
            entropy=entropy,
            timing=config.timing,
            identity=identity,
            applied=self.machine.position.index,
        )
        self._proposals.raft = self.raft

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Replay what is committed, join the group, and catch up in the background."""
        self._started_at = self.clock.monotonic()
        await self.raft.start()
        self._pulse()
        self._background = [self.spawn(self._catch_up()), self.spawn(self.snapshots.run(self.machine))]

    async def stop(self) -> None:
        """Stop admitting, hand leadership over, leave. The store is synced and closed by who opened it."""
        self._stopping = True
        self._proposals.refuse_queued("this node is shutting down")
        await self.raft.transfer_leadership(None)
        if self._pulse_timer is not None:
            self._pulse_timer.cancel()
        for task in self._tasks:
            task.cancel()
        await self.snapshots.settle()
        await self.raft.stop()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` beside everything else until it ends or the node stops. What it raises ends the process."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, Corrupt):
                faults.fatal(ExitCode.DAMAGED, str(error))
            trace = "".join(traceback.format_exception(error))
            faults.fatal(ExitCode.BUG, "a background task of the node raised", error=repr(error), trace=trace)

    async def _catch_up(self) -> None:
        while not self._caught_up:
            try:
                await self.raft.caught_up(self.clock.monotonic() + CATCH_UP_SECONDS)
                self._caught_up = True
                self._heard_at = self.clock.monotonic()  # a leader has just confirmed itself to this node
                self.recovery_s = self.clock.monotonic() - self._started_at
                _log.info("ready", recovery_s=round(self.recovery_s, 3), index=self.raft.applied_index)
            except (NotLeader, NoQuorum):
                await self.clock.sleep(PULSE_SECONDS)

    def _pulse(self) -> None:
        self.age_s()
        self._pulse_timer = self.clock.call_later(PULSE_SECONDS, self._pulse)

    # --- the replicated state machine, as consensus drives it ---------------------------------------------------------

    def next_entry(self, term: int, stamp: int) -> tuple[bytes, Callable[[Fate, object], None]] | None:
        """The next entry to append, stamped with ``stamp`` (microseconds); None when nothing waits."""
        try:
            return self._proposals.next_entry(term, stamp)
        except Corrupt as error:
            faults.fatal(ExitCode.DAMAGED, str(error))

    def apply(self, index: int, term: int, payload: bytes | None) -> Applied:
        """Apply one committed entry: machine, store, listeners. What it raises ends the process."""
        try:
            applied = self.machine.apply(index, term, payload)
        except Corrupt as error:
            faults.fatal(ExitCode.DAMAGED, str(error), index=index)
        self.store.commit(applied)
        faults.failpoint("applied")
        for listener in self.on_applied:
            listener(applied)
        return applied

    def stamp_of(self, payload: bytes) -> int:
        """The stamp in an entry, microseconds."""
        return stamp_of(payload)

    def on_role(self, role: Role, term: int, leader: str | None) -> None:
        """Leadership moved: what was pending is uncertain, and who waits for a leader may go on."""
        self.machine.pending.clear()
        for task in self._leading:
            task.cancel()
        self._leading = []
        if role is Role.LEADER:
            self._leading = [self.spawn(self._steward()), self.spawn(self._license().run(term))]
        else:
            self._proposals.refuse_queued(f"{self.config.node_id} does not lead")
        if self._moved_on is not None and not self._moved_on.done():
            self._moved_on.set_result(None)

    async def _steward(self) -> None:
        boots_default = not self.insecure
        steward = Steward(self.machine, self.clock, self._key, self._submit_here, boots_default=boots_default)
        self.on_applied.append(steward.on_applied)
        try:
            await steward.run()
        finally:
            self.on_applied.remove(steward.on_applied)

    def _license(self) -> LicenseFile:
        path = self.config.license_path
        return LicenseFile(path, self.clock, self._key, lambda: self.machine.registry, self._submit_here)

    # --- proposals ----------------------------------------------------------------------------------------------------

    async def submit(self, items: Sequence[Item], deadline: float, *, dry_run: bool = False) -> list[Answer]:
        """Submit items on any node and wait for their answers, one per proposal or fact, batches flattened.

        ``deadline`` is in monotonic seconds. Without a leader the items are held up to ``forward_wait``, so that a
        client behind a load balancer sees a slow answer rather than an error.
        """
        held_until = min(deadline, self.clock.monotonic() + self.config.forward_wait)
        while True:
            answers = await self._submit_once(items, deadline, dry_run)
            refused_for_want_of_a_leader = all(
                isinstance(answer, Unavailable) and answer.code is Code.NO_LEADER and not answer.admitted
                for answer in answers
            )
            if not refused_for_want_of_a_leader or self.clock.monotonic() >= held_until or self._stopping:
                if not dry_run:
                    self._note_refusals(items, answers)
                return answers
            await self._leadership_moves(held_until)

    async def _submit_once(self, items: Sequence[Item], deadline: float, dry_run: bool) -> list[Answer]:
        leader = self.raft.leader
        if self.raft.role is Role.LEADER:
            return await self.submit_as_leader(items, deadline, dry_run=dry_run)
        if leader is None or leader == self.config.node_id:
            return [not_admitted(Code.NO_LEADER, "no leader is known")] * sum(map(owed, items))
        return await self._forwarder.submit(leader, items, deadline, dry_run=dry_run)

    async def submit_as_leader(self, items: Sequence[Item], deadline: float, *, dry_run: bool = False) -> list[Answer]:
        """Submit where this node leads, or say that it does not. Never forwards."""
        if self.raft.role is not Role.LEADER or self._stopping:
            return [not_admitted(Code.NO_LEADER, f"{self.config.node_id} does not lead")] * sum(map(owed, items))
        return await self._proposals.submit(items, deadline, dry_run=dry_run)

    async def submit_forwarded(self, items: Sequence[Item], deadline: float, *, dry_run: bool = False) -> list[Answer]:
        """Submit what another member took. What this node does not affirm is not admitted, and never finally refused:
        a leader that is new may not have applied what the other has."""
        try:
            doubts = [self.admission.affirm(item) for item in items]
        except Malformed as error:
            doubts = [error.reason] * len(items)
        affirmed = [item for item, doubt in zip(items, doubts, strict=True) if doubt is None]
        judged = iter(await self.submit_as_leader(affirmed, deadline, dry_run=dry_run) if affirmed else ())
        answers: list[Answer] = []
        for item, doubt in zip(items, doubts, strict=True):
            if doubt is None:
                answers.extend(islice(judged, owed(item)))
            else:
                answers.extend([not_admitted(Code.NO_LEADER, doubt)] * owed(item))
        return answers

    async def _submit_here(self, items: Sequence[Item], deadline: float) -> list[Answer]:
        return await self.submit_as_leader(items, deadline)

    def _note_refusals(self, items: Sequence[Item], answers: Sequence[Answer]) -> None:
        """Operators ask who was refused and why; node-local, outside every hash."""
        signers = (signer for item in items for signer in signers_of(item))
        for signer, answer in zip(signers, answers, strict=True):
            if isinstance(answer, Refused):
                self.store.reject(answer, self.clock.wall_us(), signer)

    async def _leadership_moves(self, deadline: float) -> None:
        if self._moved_on is None or self._moved_on.done():
            self._moved_on = asyncio.get_running_loop().create_future()
        await done_by(self.clock, min(deadline, self.clock.monotonic() + LEADER_POLL_SECONDS), self._moved_on)

    # --- reads --------------------------------------------------------------------------------------------------------

    async def read(self, consistency: str, deadline: float, *, min_index: int = 0) -> Unavailable | None:
        """Return once this node's machine may answer: None, or why not.

        ``linearizable``: everything committed before the call is applied here. ``local``: at once. ``min_index`` waits
        for that index in either case. Only so many wait for either at a time.
        """
        try:
            if consistency == "linearizable":
                with self._reads.taken():
                    await self.raft.caught_up(deadline)
            if min_index > self.raft.applied_index:
                with self._index_waits.taken():
                    await self.raft.wait_applied(min_index, deadline)
        except Crowded as error:
            return not_admitted(Code.OVERLOADED, str(error))
        except NotLeader as error:
            return not_admitted(Code.NO_LEADER, str(error))
        except NoQuorum as error:
            return not_admitted(Code.NO_QUORUM, str(error))
        return None

    # --- what there is to see -----------------------------------------------------------------------------------------

    @property
    def missing(self) -> list[str]:
        """What keeps this node from serving; empty when it is ready."""
        reasons = []
        if self._stopping:
            reasons.append("shutting down")
        if not self._caught_up:
            reasons.append("catching up with the leader's commit index")
        if self.age_s() > 2 * self.config.timing.election_max + 2 * PULSE_SECONDS:
            reasons.append("no majority heard")
        return reasons

    @property
    def caught_up(self) -> bool:
        """Whether this node has once, since its start, applied what the leader had committed."""
        return self._caught_up

    @property
    def ready(self) -> str | None:
        """None when the node may serve, else what is missing."""
        return "; ".join(self.missing) or None

    def age_s(self) -> float:
        """Seconds since a majority was last known to be heard: how old a local read may be."""
        if self.raft.quorum_heard():
            self._heard_at = self.clock.monotonic()
        return self.clock.monotonic() - self._heard_at
