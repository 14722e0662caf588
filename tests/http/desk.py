"""A node without consensus: the real machine and the real admission, with entries applied as they come.

Enough for the HTTP surface, which knows a node by what it answers. What a cluster adds (elections, lost answers, time
that stands still) a test plays by hand.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cluster.admission import Admission
from cluster.answers import Answer, Unavailable
from cluster.clock import Clock, SystemClock
from cluster.egress import Gatekeeper
from cluster.nodekey import NodeKey
from cluster.providers.hmmm import Polled, Votes
from cluster.providers.leading import Voice
from cluster.raft.driver import PeerStatus, Role
from cluster.screen import Screen
from cluster.shhh.policy import BUILT_IN, Policy
from cluster.shhh.scanner import Scanner
from cluster.whoosh import CLOSED, Whoosh
from swoosh import canonical, genesis, hlc, principal, proposal, signing
from swoosh import entry as log_entry
from swoosh.chart import load_chart
from swoosh.entry import FactItem, Item, LogEntry, ProposalItem, signers_of
from swoosh.genesis import Genesis, Registered
from swoosh.machine import Applied, Machine, MemorySource, Position
from swoosh.outcome import Accepted, Refused
from swoosh.quorum import Vote
from swoosh.reducer import Place
from swoosh.snapshot import Manifest

CHART = load_chart((Path(__file__).parents[2] / "statechart.yaml").read_text(encoding="utf-8"))
ROLES = {
    "admin": ("admin",),
    "operator": ("operator",),
    "proposer": ("proposer:*",),
    "agent": ("agent",),
    "provider": ("provider:*",),
    "node": ("node", "provider:*", "elector"),
    "ed": ("elector",),
    "eli": ("elector",),
    "eva": ("elector",),
    "policy": ("policy",),
}


class Key:
    """A key pair that is the same in every run."""

    def __init__(self, name: str) -> None:
        self.private = Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b".")[:32])
        self.principal = principal.name_of(self.private.public_key().public_bytes_raw())

    def sign(self, preimage: bytes) -> str:
        return signing.sign(self.private, preimage)


KEYS = {name: Key(name) for name in (*ROLES, "stranger")}


class Store:
    """The reading side of a store."""

    def __init__(self, memory: MemorySource) -> None:
        self._memory = memory
        self.refused: list[Refused] = []
        self.signers: list[str] = []
        self.ledger = memory.ledger
        self.checkpoint = None

    def wal(self, project: str, from_seq: int, limit: int) -> Iterator[bytes]:
        first = max(from_seq, 1) - 1
        yield from self._memory.records.get(project, [])[first : first + limit]

    def record(self, project: str, seq: int) -> bytes | None:
        return next(self.wal(project, seq, 1), None)

    def decision(self, dr_id: str) -> bytes | None:
        return self._memory.decisions.get(dr_id)

    def decisions(self, project: str, from_seq: int, limit: int) -> Iterator[bytes]:
        every = self._memory.decisions.values()
        first = max(from_seq, 1) - 1
        yield from [data for data in every if msgspec.json.decode(data)["project"] == project][first : first + limit]

    def reject(self, refused: Refused, at_us: int, signer: str = "") -> None:
        self.refused.append(refused)
        self.signers.append(signer)

    def rejections(self, project: str | None, signer: str | None) -> Iterator[list[bytes]]:
        for refused, by in zip(reversed(self.refused), reversed(self.signers), strict=True):
            fits = project in (None, refused.project) and signer in (None, by)
            yield [canonical.encode({"signer": by, **msgspec.to_builtins(refused)})] if fits else []


@dataclass
class Desk:
    """The node's face towards HTTP."""

    insecure: bool = False
    clock: Clock = field(default_factory=SystemClock)
    read_tokens: tuple[str, ...] = ()
    rate_per_signer: int = 0
    rate_per_ip: int = 0
    trusted_proxies: tuple[str, ...] = ()
    whoosh: Whoosh = CLOSED
    missing: list[str] = field(default_factory=list)
    caught_up: bool = True
    stale_s: float = 0.0
    unreadable: Unavailable | None = None
    instead: Callable[[Sequence[Item]], list[Answer]] | None = None
    recovery_s: float | None = 0.25
    stopping: bool = False
    policy: Policy = BUILT_IN
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        people = tuple(Registered(name, KEYS[name].principal, roles) for name, roles in ROLES.items())
        self.genesis = Genesis("ab" * 32, ("n1", "n2", "n3"), people, self.settings, CHART.hash, self.insecure, 0)
        self.cluster_id = genesis.cluster_id(self.genesis)
        self.chart = CHART
        rates = {"rate_per_signer": self.rate_per_signer, "rate_per_ip": self.rate_per_ip}
        self.config = SimpleNamespace(
            node_id="n1",
            read_tokens=self.read_tokens,
            trusted_proxies=tuple(map(ip_network, self.trusted_proxies)),
            whoosh=self.whoosh,
            **rates,
        )
        self.memory = MemorySource(genesis.initial_projects(self.genesis, CHART), Position(1, 1, 0))
        self.store = Store(self.memory)
        self.machine = Machine(CHART, self.cluster_id, self.memory)
        self.votes = Votes(self.machine)
        self.keeper = Gatekeeper(self.clock, ())
        self.providers: tuple[Any, ...] = (self.votes,)
        self.admission = Admission(CHART, self.cluster_id, lambda: self.machine.registry, insecure=self.insecure)
        self.voice = Voice(self.machine, self.clock, NodeKey(KEYS["node"].private, KEYS["node"].principal))
        self.screen = Screen(Scanner(self.policy), self.voice, self.read, self.submit)
        self.on_applied: list[Callable[[Applied], None]] = []
        self.snapshots = FakeSnapshots()
        self.checkpoints = SimpleNamespace(halted=None, document=lambda: {"checkpoint": None, "halted": None})
        self.scrubber = SimpleNamespace(
            passes=0,
            steps=0,
            document=lambda: dict(passes=0, steps=0, steps_last_pass=0, reading="", age_s=None, period_s=86_400.0),
        )
        self.donor, self.installer = SimpleNamespace(loan=None), SimpleNamespace(progress=None)
        self.raft = FakeRaft(self)
        self.disk = SimpleNamespace(trouble=None, free_bytes=1 << 40)

    @property
    def ready(self) -> str | None:
        return "; ".join(self.missing) or None

    @property
    def reason(self) -> str | None:
        return self.ready or self.disk.trouble

    def note(self, refused: Refused, signer: str) -> None:
        self.store.reject(refused, self.clock.wall_us(), signer)

    def age_s(self) -> float:
        return self.stale_s

    async def read(self, consistency: str, deadline: float, *, min_index: int = 0) -> Unavailable | None:
        return self.unreadable

    async def submit(self, items: Sequence[Item], deadline: float, *, dry_run: bool = False) -> list[Answer]:
        await asyncio.sleep(0)
        if self.instead is not None:
            return self.instead(items)
        return [answer for item in items for answer in self._judge(item, dry_run)]

    submit_forwarded = submit

    async def poll(self, project: str, vote: Vote | None, deadline: float) -> Polled:
        return self.unreadable or self.votes.tally(project, vote)

    poll_as_leader = poll

    def _judge(self, item: Item, dry_run: bool) -> Sequence[Answer]:
        position = self.machine.position
        index, stamp = position.index + 1, max(self.clock.wall_us(), position.stamp_us + 1)
        layer = self.machine.pending.open()
        outcomes = layer.judge(Place(index, 1, stamp), item)
        changes = any(not isinstance(o, Refused) and not getattr(o, "duplicate", False) for o in outcomes)
        for outcome, signer in zip(outcomes, signers_of(item), strict=True):
            if isinstance(outcome, Refused):
                self.store.reject(outcome, stamp, signer)
        if dry_run or not changes:
            return layer.explained(outcomes) if dry_run else outcomes
        applied = self.machine.apply(index, 1, log_entry.encode(LogEntry(CHART.hash, "n1", 1, stamp, (item,))))
        self.memory.commit(applied)
        for listener in self.on_applied:
            listener(applied)
        return applied.outcomes

    # --- what callers write -------------------------------------------------------------------------------------------

    def head(self, project: str = "default") -> str:
        held = self.machine.project(project)
        return "genesis" if held is None else held.state_hash

    def now_hlc(self, ahead_ms: int = 0) -> str:
        return str(hlc.HLC(self.clock.wall_us() // 1000 + ahead_ms, 0))

    def draft(self, transition: str, key: str, by: str = "proposer", **members: Any) -> dict[str, Any]:
        """A proposal nobody signed yet, on HEAD."""
        project = members.get("project", "default")
        inputs = members.pop("inputs", {})
        return {
            "current_state_hash": self.head(project),
            "transition": transition,
            "inputs": inputs,
            "inputs_hash": proposal.inputs_hash(inputs),
            "signer": KEYS[by].principal,
            "idem_key": key,
            "hlc": self.now_hlc(),
            **members,
        }

    def signed(self, draft: dict[str, Any], by: str | None = None) -> dict[str, Any]:
        """The same, signed by who it names, or by somebody else."""
        name = by or next(name for name, key in KEYS.items() if key.principal == draft["signer"])
        return {**draft, "signature": KEYS[name].sign(signing.proposal_preimage(draft, self.cluster_id))}

    def created(self, project: str, **members: Any) -> dict[str, Any]:
        """A signed PROJECT_CREATED."""
        inputs = {"brief": "a brief", "repository": "", "planned_roles": []}
        key = members.pop("idem_key", f"create:{project}")
        return self.signed(self.draft("PROJECT_CREATED", key, project=project, inputs=inputs, **members))

    def elect(self) -> None:
        """Bring `default` to where electors may vote: one role, claimed."""
        until = self.clock.wall_us() // 1000 + 60_000
        licensed = {"license_id": "l", "status": "active", "valid_until": until}
        electorate = [KEYS[name].principal for name in ("ed", "eli", "eva")]
        profiles = {"roles": ["lead"], "electorate": electorate, "threshold": 2}
        item = self.admission.fact(self.fact("license", self.cluster_id, licensed))
        assert isinstance(item, FactItem)
        self._judge(item, False)
        for transition, by, inputs in (
            ("BOOT_CONFIGURED", "node", {"chart_hash": CHART.hash}),
            ("BOOT_LICENSE_GRANTED", "node", {}),
            ("COUNCIL_PROFILES_LOADED", "proposer", profiles),
            ("COUNCIL_ROLE_CLAIMED", "agent", {"role": "lead", "agent": "al"}),
        ):
            held = self.machine.project("default")
            assert held is not None
            later = hlc.merge(self.clock.wall_us() // 1000, hlc.HLC.parse(held.regions.hlc_last.hlc))
            sent = self.signed(self.draft(transition, f"elect:{transition}", by, inputs=inputs, hlc=str(later)))
            admitted = self.admission.proposal(sent)
            assert isinstance(admitted, ProposalItem), admitted
            (outcome,) = self._judge(admitted, False)
            assert isinstance(outcome, Accepted), outcome

    def fact(self, kind: str, subject: str, body: dict[str, Any], by: str = "provider", seq: int = 1) -> dict[str, Any]:
        """A signed fact, observed now."""
        now = self.clock.wall_us() // 1000
        unsigned = {
            "kind": kind,
            "subject": subject,
            "observed_at": now,
            "seq": seq,
            "expires_at": now + 60_000,
            "body": body,
            "provider": KEYS[by].principal,
        }
        return {**unsigned, "signature": KEYS[by].sign(signing.fact_preimage(unsigned, self.cluster_id))}

    def order(self, name: str, by: str = "admin", **members: Any) -> dict[str, Any]:
        """A signed order to this node."""
        unsigned = {"order": name, "node": "n1", "hlc": self.now_hlc(), "signer": KEYS[by].principal, **members}
        return {**unsigned, "signature": KEYS[by].sign(signing.order_preimage(unsigned, self.cluster_id))}


class FakeSnapshots:
    """Takes none, and counts what was asked for."""

    newest = None

    def __init__(self) -> None:
        self.asked = 0

    def request(self) -> None:
        self.asked += 1

    def kept(self) -> list[Manifest]:
        return [Manifest(7, 1, str(hlc.HLC(1, 0)), 2, "sha256-" + "a" * 64, CHART.hash)]


class FakeRaft:
    """What there is to see of consensus: n1 leads, n2 and n3 follow."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.role, self.leader, self.term = Role.LEADER, "n1", 1
        self.clock_ok = True
        self.suspended: str | None = None
        self.stalled_s: float | None = None
        self.down: set[str] = set()
        self.first_index = 1
        self.retention = SimpleNamespace(leases=dict)
        self.behind = 0
        self.rejoining = False

    @property
    def applied_index(self) -> int:
        return self._desk.machine.position.index

    @property
    def last_index(self) -> int:
        return self.commit_index

    @property
    def commit_index(self) -> int:
        return self.applied_index + self.behind

    def peers(self) -> list[PeerStatus]:
        up = {peer: peer not in self.down for peer in ("n2", "n3")}
        return [PeerStatus(peer, up[peer], self.applied_index, 0, 5, up[peer], False, "5c" * 16) for peer in up]

    def quorum_heard(self) -> bool:
        return len(self.down) < 2

    async def transfer_leadership(self, to: str | None) -> bool:
        if self.role is not Role.LEADER:
            return False
        self.role, self.leader = Role.FOLLOWER, to or "n2"
        return True
