"""The composition root: one node, built from its parts in order, and the path of a proposal through them.

A request comes in at any node. Where this node leads, it joins the queue (proposals.py); where another does, it is
handed over in one hop by the forwarder the node was given. Committed entries come back through ``apply``: machine,
then store, then whoever listens. The node holds no state of its own that a restart would miss.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from itertools import islice
from typing import Any, Protocol

import structlog

from cluster import faults, support
from cluster.admission import Admission
from cluster.answers import Answer, Unavailable, not_admitted
from cluster.checkpoints import Checkpoints, refuse_diverged
from cluster.clock import Clock, Handle, done_by
from cluster.config import Config
from cluster.creators import Creators
from cluster.disk import Disk
from cluster.egress import Gatekeeper
from cluster.elector import Elector
from cluster.entropy import Entropy
from cluster.faults import ExitCode
from cluster.license_gate import LicenseGate
from cluster.nodekey import NodeKey
from cluster.proposals import Proposals
from cluster.providers.hmmm import Polled, Votes
from cluster.providers.leading import Leading, Provider, Voice
from cluster.raft.driver import Fate, Identity, Links, NoQuorum, NotLeader, Raft, Role
from cluster.raft.install import Installer
from cluster.raft.journal import Journal
from cluster.screen import Screen
from cluster.scrub import Scrubber
from cluster.seats import Crowded, Seats
from cluster.shhh.scanner import Scanner
from cluster.steward import Steward
from cluster.storage.donor import Donor
from cluster.storage.snapshots import Snapshots
from cluster.storage.store import Store
from swoosh import genesis as genesis_document
from swoosh import limits
from swoosh.chart import Chart
from swoosh.entry import Item, owed, signers_of, stamp_of
from swoosh.errors import Corrupt, Malformed
from swoosh.genesis import Genesis
from swoosh.hashing import digest
from swoosh.machine import Applied, Machine
from swoosh.outcome import Code, Refused
from swoosh.proposal import CLUSTER
from swoosh.quorum import Vote
from swoosh.state import Members, as_cluster

PULSE_SECONDS = 0.25
CATCH_UP_SECONDS = 5.0
COMPACT_SECONDS = 1.0
LEADER_POLL_SECONDS = 0.1
PROVIDER_PAUSE_SECONDS = 5.0
NOTES_HELD = 1_000
READS_WAITING_MAX = 512
INDEX_WAITERS_MAX = 128
"""They wait for what may never come, up to their deadline: fewer of them than reads, which wait for one round trip."""
REDUCER_VERSION = "1"

_log = structlog.get_logger(__name__)


def members_of(store: Store) -> Members:
    """Who votes: as the log says, not as a file does.

    Raises:
        Corrupt: the store does not hold ``@cluster``.
    """
    cluster = store.project(CLUSTER)
    if cluster is None:
        raise Corrupt("the store holds no @cluster")
    return as_cluster(cluster.regions).members


def identity_of(genesis: Genesis, chart: Chart, store: Store) -> Identity:
    """What every member must have in common. Raises Corrupt as ``members_of`` does."""
    members = members_of(store)
    return Identity(
        cluster_id=genesis_document.cluster_id(genesis),
        genesis_hash=genesis_document.genesis_hash(genesis),
        config_epoch=members.config_epoch,
        member_set_hash=digest("members", sorted(members.nodes)),
        chart_hash=chart.hash,
        reducer_version=REDUCER_VERSION,
    )


class Forwarder(Protocol):
    """One hop to the leader. Its answers obey the same rule: ``admitted=False`` only where that is certain."""

    async def submit(self, leader: str, items: Sequence[Item], deadline: float, *, dry_run: bool) -> list[Answer]: ...

    async def poll(self, leader: str, project: str, vote: Vote | None, deadline: float) -> Polled: ...


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
        donor: Donor,
        installer: Installer,
        journal: Journal,
        transport: Links,
        forwarder: Forwarder,
        key: NodeKey,
        clock: Clock,
        entropy: Entropy,
        free_bytes: Callable[[], int],
        keeper: Gatekeeper,
        providers: Sequence[Provider] = (),
        checkpoint_every: int = limits.CHECKPOINT_EVERY,
    ) -> None:
        """``free_bytes`` says how much may still be written to the store's file system; ``keeper`` decides what may
        leave for outside systems; ``providers`` run while this node leads."""
        refuse_diverged(store)
        self.config, self.chart, self.store, self.snapshots, self.clock = config, chart, store, snapshots, clock
        self.donor, self.installer = donor, installer
        try:
            self.machine = Machine(chart, identity.cluster_id, store)
            creators = Creators(chart, store.first_records(), config.projects_per_signer)
        except Corrupt as error:
            faults.fatal(ExitCode.DAMAGED, str(error))
        self.votes = Votes(self.machine)
        self.providers = (*providers, self.votes)
        self.admission = Admission(chart, identity.cluster_id, lambda: self.machine.registry, insecure=genesis.insecure)
        self.insecure = genesis.insecure
        self.voice = Voice(self.machine, clock, key, scanner=Scanner(config.policy))
        self.screen = Screen(Scanner(config.policy), self.voice, self.read, self.submit)
        self.keeper = keeper
        gate = LicenseGate(self.machine, clock)
        keeper.closed, keeper.seconds_left = gate.closed, gate.seconds_left
        self.on_applied: list[Callable[[Applied], None]] = [snapshots.on_applied, creators.on_applied, gate.on_applied]
        self._forwarder = forwarder
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._leading: list[asyncio.Task[None]] = []
        self._voice: Leading | None = None
        self._key = key
        self._pulse_timer: Handle | None = None
        self._moved_on: asyncio.Future[None] | None = None
        self._started_at = clock.monotonic()
        self._heard_at = self._current_at = float("-inf")
        self._caught_up = self._stopping = self._waits_for_nobody = False
        self.recovery_s: float | None = None
        """Seconds from start to ready; None before."""
        self._reads = Seats(READS_WAITING_MAX, "linearizable reads")
        self._index_waits = Seats(INDEX_WAITERS_MAX, "readers with min_index")
        self._proposals = Proposals(config.node_id, self.machine, creators, clock, self.spawn)
        self.raft = self._consensus(journal, transport, entropy, identity)
        self.checkpoints = Checkpoints(
            *(config.node_id, genesis.nodes, self.machine, store, self._proposals, clock),
            every=checkpoint_every,
            patience=2 * config.timing.election_max,
        )
        self.scrubber = Scrubber(self.machine, store, chart, genesis, clock, config.scrub_period)
        self.disk = Disk(
            lambda: self.raft.stalled_s, free_bytes, least=config.disk_free_min, patience=config.timing.election_min
        )
        self._notes: deque[tuple[Refused, int, str]] = deque(maxlen=NOTES_HELD)
        self._members = Members()
        self._connect()

    def _consensus(self, journal: Journal, transport: Links, entropy: Entropy, identity: Identity) -> Raft:
        return Raft(
            me=self.config.node_id,
            members=tuple(sorted(self.machine.registry.cluster.members.nodes)),
            journal=journal,
            transport=transport,
            machine=self,
            clock=self.clock,
            entropy=entropy,
            timing=self.config.timing,
            identity=identity,
            applied=self.machine.position.index,
            keep=self.config.keep,
        )

    def _connect(self) -> None:
        """The parts that need each other, made known to each other."""
        raft = self.raft
        self._elector = Elector(self.voice, self.poll)
        self.on_applied.append(self._elector.on_applied)
        raft.retention.install = self.installer.request
        raft.may_lead = lambda hello: hello.chart_hash == self.machine.registry.cluster.chart.chart_hash
        raft.listen("checkpoint", self.checkpoints.on_report)
        self._proposals.raft = self.checkpoints.raft = raft
        self._proposals.objection = self._objection
        self.snapshots.may_write = lambda: raft.stalled_s is None
        self._check_support()
        self._note_members()

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Replay what is committed, join the group, and catch up in the background."""
        self._started_at = self.clock.monotonic()
        await self.raft.start()
        self._pulse()
        jobs = (
            self._catch_up(),
            self.snapshots.run(self.machine),
            self._compact(),
            self.installer.run(lambda: self.raft.applied_index),
            self.scrubber.run(),
            self._elector.run(),
        )
        self._background = [self.spawn(job) for job in jobs]

    async def hand_over(self) -> None:
        """The first half of stopping: not ready from now on, nothing more is admitted here, and leadership goes to
        another, who is known when this returns, or an election timeout has passed.

        Requests are still answered: those on their way to commit by this leader, the others through the next one, for
        which they are held.
        """
        self._stopping = True
        self._proposals.refuse_queued("this node is shutting down")
        led = self.raft.role is Role.LEADER
        deadline = self.clock.monotonic() + 2 * self.config.timing.election_max
        if await self.raft.transfer_leadership(None) or not led:
            while self.raft.leader in (None, self.config.node_id) and self.clock.monotonic() < deadline:
                await self._leadership_moves(deadline)
        if self.raft.leader in (None, self.config.node_id):
            self._wait_for_nobody()

    async def stop(self) -> None:
        """Hand leadership over, if that is not done, and leave. The store is synced and closed by who opened it."""
        self._stopping = True
        self._proposals.refuse_queued("this node is shutting down")
        await self.raft.transfer_leadership(None)
        self._wait_for_nobody()
        if self._pulse_timer is not None:
            self._pulse_timer.cancel()
        for task in self._tasks:
            task.cancel()
        await self.snapshots.settle()
        await self.raft.stop()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` beside everything else until it ends or the node stops. What it raises ends the process."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, Corrupt):
                faults.fatal(ExitCode.DAMAGED, str(error))
            trace = "".join(traceback.format_exception(error))
            faults.fatal(ExitCode.BUG, "a background task of the node raised", error=repr(error), trace=trace)

    async def _catch_up(self) -> None:
        while not self._caught_up:
            if self.raft.rejoining:
                await self.clock.sleep(PULSE_SECONDS)
                continue
            try:
                await self.raft.caught_up(self.clock.monotonic() + CATCH_UP_SECONDS)
                self._caught_up = True
                self._heard_at = self._current_at = self.clock.monotonic()  # a leader has just confirmed itself
                self.recovery_s = self.clock.monotonic() - self._started_at
                _log.info("ready", recovery_s=round(self.recovery_s, 3), index=self.raft.applied_index)
            except (NotLeader, NoQuorum):
                await self.clock.sleep(PULSE_SECONDS)

    async def _compact(self) -> None:
        """Keep the log from growing: cut it behind the newest snapshot, and ask for one when it is long."""
        while True:
            await self.clock.sleep(COMPACT_SECONDS)
            if self.raft.retention.is_full():
                self.snapshots.request()
            self.raft.compact(self.snapshots.verified)

    def _pulse(self) -> None:
        self.age_s()
        self._silent_s()
        self.checkpoints.tick()
        self.disk.look()
        if self.disk.is_stalled:
            self._proposals.refuse_queued(self.disk.trouble or "", Code.DISK_SLOW)
        self._write_notes()
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
            self.store.commit(applied)  # which reads what it adds to
        except Corrupt as error:
            faults.fatal(ExitCode.DAMAGED, str(error), index=index)
        faults.failpoint("applied")
        self.checkpoints.on_applied(applied)
        self._check_support()
        self._note_members()
        for listener in (*self.on_applied, *(self._voice.on_applied if self._voice is not None else ())):
            listener(applied)
        return applied

    def _note_members(self) -> None:
        """Tell consensus whose stores count, as of the entry applied last."""
        members = self.machine.registry.cluster.members
        if members is not self._members:
            self._members = members
            self.raft.accept({node: member.incarnation for node, member in members.nodes.items()})

    def stamp_of(self, payload: bytes) -> int:
        """The stamp in an entry, microseconds."""
        return stamp_of(payload)

    def applied_stamp(self) -> int:
        """The newest stamp in the state, microseconds."""
        return self.machine.position.stamp_us

    def on_role(self, role: Role, term: int, leader: str | None) -> None:
        """Leadership moved: what was pending is uncertain, and who waits for a leader may go on."""
        self.machine.pending.clear()
        for task in self._leading:
            task.cancel()
        self._leading, self._voice = [], None
        if role is Role.LEADER:
            leading = self._voice = Leading(
                *(term, self.machine, self.clock, self._key, self._submit_here),
                take_note=self._proposals.note,
                scanner=self.screen.scanner,
            )
            jobs = [self._steward(leading), *(self._provide(provider, leading) for provider in self.providers)]
            self._leading = [self.spawn(job) for job in jobs]
        else:
            self._proposals.refuse_queued(f"{self.config.node_id} does not lead")
        self.checkpoints.on_role(role)
        self._wake_who_waits()

    def _check_support(self) -> None:
        reason = support.lacking(self.machine)
        if reason is not None:
            self.raft.suspend(reason)

    def _objection(self, item: Item) -> str | None:
        me = {self.config.node_id: self.raft.local_hello()}
        return support.objection(item, self.chart, dict.fromkeys(self.raft.peer_ids) | self.raft.hellos() | me)

    async def _steward(self, leading: Leading) -> None:
        steward = Steward(leading, boots_default=not self.insecure, waiting=self.raft.waiting)
        self.on_applied.append(steward.on_applied)
        try:
            await steward.run()
        finally:
            self.on_applied.remove(steward.on_applied)

    async def _provide(self, provider: Provider, leading: Leading) -> None:
        """What goes wrong with an outside system is that provider's trouble, never the node's."""
        while True:
            try:
                await provider.run(leading)
            except Corrupt:
                raise
            except Exception as error:
                provider.trouble = f"{type(error).__name__}: {error}"[:300]
                _log.exception("a provider failed; it is started again", provider=provider.name)
            await self.clock.sleep(PROVIDER_PAUSE_SECONDS)

    # --- proposals ----------------------------------------------------------------------------------------------------

    async def submit(self, items: Sequence[Item], deadline: float, *, dry_run: bool = False) -> list[Answer]:
        """Submit items on any node and wait for their answers, one per proposal or fact, batches flattened.

        ``deadline`` is in monotonic seconds. Without a leader the items are held up to ``forward_wait``, so that a
        client behind a load balancer sees a slow answer rather than an error.
        """
        held_until = min(deadline, self.clock.monotonic() + self.config.forward_wait)
        if self.disk.is_low and (refusal := self.disk.refusal()):
            return [refusal] * sum(map(owed, items))
        while True:
            answers = await self._submit_once(items, deadline, dry_run)
            refused_for_want_of_a_leader = all(
                isinstance(answer, Unavailable) and answer.code is Code.NO_LEADER and not answer.admitted
                for answer in answers
            )
            if not refused_for_want_of_a_leader or self.clock.monotonic() >= held_until or self._waits_for_nobody:
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
        if self.raft.role is not Role.LEADER or self._stopping or self.raft.suspended is not None:
            return [not_admitted(Code.NO_LEADER, f"{self.config.node_id} does not lead")] * sum(map(owed, items))
        halted = self.checkpoints.halted
        if halted is not None:
            return [not_admitted(Code.HALTED, halted)] * sum(map(owed, items))
        if (refusal := self.disk.refusal()) is not None:
            return [refusal] * sum(map(owed, items))
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

    # --- votes --------------------------------------------------------------------------------------------------------

    async def poll(self, project: str, vote: Vote | None, deadline: float) -> Polled:
        """The votes the leader has gathered on a project's council, with one more if one is handed in and counts."""
        leader = self.raft.leader
        if self.raft.role is Role.LEADER:
            return await self.poll_as_leader(project, vote, deadline)
        if leader is None or leader == self.config.node_id:
            return not_admitted(Code.NO_LEADER, "no leader is known")
        return await self._forwarder.poll(leader, project, vote, deadline)

    async def poll_as_leader(self, project: str, vote: Vote | None, deadline: float) -> Polled:
        """As ``poll`` where this node leads. A refusal of state is final, so it rests on all that was committed."""
        if self.raft.role is not Role.LEADER or self._stopping:
            return not_admitted(Code.NO_LEADER, f"{self.config.node_id} does not lead")
        found = self.votes.tally(project, vote)
        if not isinstance(found, Refused) or found.code is Code.BAD_SIGNATURE:
            return found
        return await self.read("linearizable", deadline) or self.votes.tally(project, vote)

    # --- what was refused ---------------------------------------------------------------------------------------------

    def _note_refusals(self, items: Sequence[Item], answers: Sequence[Answer]) -> None:
        """Operators ask who was refused and why; node-local, outside every hash."""
        signers = (signer for item in items for signer in signers_of(item))
        for signer, answer in zip(signers, answers, strict=True):
            if isinstance(answer, Refused):
                self.note(answer, signer)

    def note(self, refused: Refused, signer: str) -> None:
        """Keep a refusal for operators; in memory while the disk is stalled, the oldest let go."""
        self._notes.append((refused, self.clock.wall_us(), signer))
        self._write_notes()

    def _write_notes(self) -> None:
        while self._notes and self.raft.stalled_s is None:
            self.store.reject(*self._notes.popleft())

    def _wait_for_nobody(self) -> None:
        """No leader will be known here any more: what is held for one is answered."""
        self._waits_for_nobody = True
        self._wake_who_waits()

    def _wake_who_waits(self) -> None:
        if self._moved_on is not None and not self._moved_on.done():
            self._moved_on.set_result(None)

    async def _leadership_moves(self, deadline: float) -> None:
        if self._moved_on is None or self._moved_on.done():
            self._moved_on = asyncio.get_running_loop().create_future()
        await done_by(self.clock, min(deadline, self.clock.monotonic() + LEADER_POLL_SECONDS), self._moved_on)

    # --- reads --------------------------------------------------------------------------------------------------------

    async def read(self, consistency: str, deadline: float, *, min_index: int = 0) -> Unavailable | None:
        """Return once this node's machine may answer: None, or why not.

        ``linearizable``: everything committed before the call is applied here. ``local``: at once. ``min_index`` waits
        for that index in either case; one that does not come is a read that would be too old. Only so many wait for
        either at a time.
        """
        halted = self.checkpoints.halted
        if consistency == "linearizable" and halted is not None:
            return not_admitted(Code.HALTED, f"{halted}; consistency=local answers what this node has")
        code = Code.NO_QUORUM
        try:
            if consistency == "linearizable":
                with self._reads.taken():
                    await self.raft.caught_up(deadline)
            if min_index > self.raft.applied_index:
                code = Code.STALE_READ
                with self._index_waits.taken():
                    await self.raft.wait_applied(min_index, deadline)
        except Crowded as error:
            return not_admitted(Code.OVERLOADED, str(error))
        except NotLeader as error:
            return not_admitted(Code.NO_LEADER, str(error))
        except NoQuorum as error:
            if self.disk.is_stalled:
                return not_admitted(Code.DISK_SLOW, self.disk.trouble or str(error))
            return not_admitted(code, f"{error}; this node stands at index {self.raft.applied_index}")
        return None

    # --- what there is to see -----------------------------------------------------------------------------------------

    @property
    def missing(self) -> list[str]:
        """What keeps this node from serving; empty when it is ready."""
        reasons = []
        if self._stopping:
            reasons.append("shutting down")
        if self.raft.suspended is not None:
            reasons.append(self.raft.suspended)
        if self.installer.progress is not None:
            reasons.append("installing a snapshot")
        if self.raft.rejoining:
            reasons.append("its new store is not accepted yet: swoosh member replace " + self.config.node_id)
        elif not self._caught_up:
            reasons.append("catching up with the leader's commit index")
        if self.disk.is_stalled:
            reasons.append(self.disk.trouble or "")
        if self._silent_s() > 2 * self.config.timing.election_max + 2 * PULSE_SECONDS:
            reasons.append("no majority heard")
        return reasons

    @property
    def caught_up(self) -> bool:
        """Whether this node has once, since its start, applied what the leader had committed, and applies still."""
        return self._caught_up and self.raft.suspended is None

    @property
    def ready(self) -> str | None:
        """None when the node may serve, else what is missing."""
        return "; ".join(self.missing) or None

    @property
    def reason(self) -> str | None:
        """What is wrong with this node or keeps it from serving, in words; None when it is well."""
        trouble = self.disk.trouble
        return "; ".join(dict.fromkeys([*self.missing, *([trouble] if trouble else [])])) or None

    @property
    def stopping(self) -> bool:
        """It was told to stop, and says goodbye."""
        return self._stopping

    def age_s(self) -> float:
        """Seconds since this node was last known to have applied all there was: how old a local read may be. Counted
        from when the leader was heard; what it said can have been on its way for as long as a link may be silent."""
        if self.raft.is_current():
            self._current_at = self.clock.monotonic()
        return self.clock.monotonic() - self._current_at

    def _silent_s(self) -> float:
        """Seconds since a majority was last known to be heard."""
        if self.raft.quorum_heard():
            self._heard_at = self.clock.monotonic()
        return self.clock.monotonic() - self._heard_at
