"""What must hold at every moment of a run, and what must hold when it is over.

Looked at from outside, where a node cannot see: into every disk, at every message that leaves and every answer that is
given. A check that fails ends the run with a `Violation`; its kind is what shrinking keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from chaos.history import check
from chaos.simulation.web import reply_of
from cluster import verify
from cluster.raft.driver import Role
from cluster.raft.journal import META_KEY, decode_meta
from cluster.storage.kv import Family, KeyValue, Tables
from swoosh.machine import Applied

if TYPE_CHECKING:
    from chaos.simulation.host import Life, Message
    from chaos.simulation.world import World

REPLICATED = (
    *(Family.HEAD, Family.PROJECT, Family.LEDGER, Family.WAL, Family.DECISION, Family.SUBMISSION, Family.OUTBOX),
    Family.REGISTRY,
)
"""What every node must hold in the same bytes."""
QUEUED_MAX = 10_000
HTTP_OK, HTTP_BROKEN = 200, 500


class Violation(Exception):
    """A promise was broken. `kind` names which; the text says where and by whom."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Checks:
    """The watch over one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._applied: dict[int, tuple[str, Applied]] = {}
        self._leaders: dict[int, str] = {}
        self._votes: dict[tuple[str, int], str] = {}
        self._terms: dict[tuple[str, int], int] = {}
        self.violation: Violation | None = None
        self.acknowledged = 0
        self.transitions = 0
        self.leaderships = 0

    def broken(self, kind: str, text: str) -> None:
        """Note the first violation; the world stops at its next step."""
        if self.violation is None:
            self.violation = Violation(kind, f"at {self._world.loop.time():.3f} s: {text}")

    # --- while it runs ------------------------------------------------------------------------------------------------

    def watch(self, life: Life) -> None:
        """See everything this life applies and every role it takes."""
        life.node.on_applied.append(lambda applied: self._on_applied(life, applied))
        machine_on_role = life.node.on_role

        def on_role(role: Role, term: int, leader: str | None) -> None:
            self._on_role(life, role, term)
            machine_on_role(role, term, leader)

        life.node.on_role = on_role  # type: ignore[method-assign]

    def _on_applied(self, life: Life, applied: Applied) -> None:
        index = applied.position.index
        name, known = self._applied.setdefault(index, (life.name, applied))
        if known != applied:
            self.broken("divergence", f"{name} and {life.name} differ at index {index}: {_difference(known, applied)}")
        if name == life.name and known is applied:
            self.transitions += len(applied.records)
        if index > max(1, life.raft.commit_index):
            self.broken("applied before commit", f"{life.name} applied {index}, commit is {life.raft.commit_index}")

    def _on_role(self, life: Life, role: Role, term: int) -> None:
        if role is Role.LEADER:
            leader = self._leaders.setdefault(term, life.name)
            self.leaderships += leader == life.name
            if leader != life.name:
                self.broken("two leaders", f"{leader} and {life.name} both lead in term {term}")
        seen = (life.name, life.host.lives)
        if term < self._terms.get(seen, 0):
            self.broken("term ran back", f"{life.name} went from term {self._terms[seen]} to {term}")
        self._terms[seen] = term

    def on_send(self, life: Life, message: Message) -> None:
        """Is what this message promises on the sender's disk?"""
        disk = life.host.kv.durable
        if message["type"] == "next_node_idx" and message["success"]:
            last = _last_index(disk)
            if message["next_node_idx"] - 1 > max(last, 1):
                self.broken("acknowledged before durable", f"{life.name} acknowledged past {last}: {message}")
        elif message["type"] in ("request_vote", "response_vote"):
            meta = decode_meta(disk.get(Family.META, META_KEY))
            if meta.term != message["term"] or meta.vote is None:
                self.broken(
                    "voted before durable", f"{life.name} sent {message}, its disk says {meta.term} {meta.vote}"
                )
            elif self._votes.setdefault((life.name, meta.term), meta.vote) != meta.vote:
                before = self._votes[life.name, meta.term]
                self.broken("voted twice", f"{life.name} voted for {before} and {meta.vote} in term {meta.term}")

    def on_answer(self, life: Life, data: bytes) -> None:
        """Is what is acknowledged on the disks of a majority?"""
        reply = reply_of(data)
        if reply.status == HTTP_BROKEN:
            self.broken("handler raised", f"{life.name} answered {reply.body[:500]!r}")
        if reply.status != HTTP_OK or b'"state_post_hash"' not in reply.body:
            return
        document = msgspec.json.decode(reply.body)
        for outcome in document.get("outcomes", [document]):
            is_new = not outcome.get("duplicate") and "dry_run" not in outcome
            if is_new and outcome.get("state_post_hash") and outcome.get("index"):
                self._acknowledged(life, outcome)

    def _acknowledged(self, life: Life, outcome: dict[str, Any]) -> None:
        self.acknowledged += 1
        index = outcome["index"]
        if index not in self._applied:
            return  # a dry run names where it would have been
        holders = [host.name for host in self._world.hosts.values() if _last_index(host.kv.durable) >= index]
        if 2 * len(holders) <= len(self._world.names):
            key = outcome.get("idem_key")
            self.broken(
                "acknowledged before durable", f"{life.name} acknowledged {key} at {index}; it lies on {holders}"
            )

    # --- when it is over ----------------------------------------------------------------------------------------------

    def at_the_end(self) -> None:
        """Everything is healed and quiet: all nodes are equal, and what callers were told is true."""
        world = self._world
        machines = {host.name: host.life.node.machine for host in world.hosts.values() if host.life is not None}
        hashes = {name: machine.cluster_hash for name, machine in machines.items()}
        if len(set(hashes.values())) != 1:
            self.broken("divergence", f"cluster hashes at the end: {hashes}")
        first, *others = world.names
        for family in REPLICATED:
            rows = list(world.hosts[first].kv.iterate(family))
            for other in others:
                if list(world.hosts[other].kv.iterate(family)) != rows:
                    self.broken("divergence", f"{first} and {other} hold different rows of {family.value}")
        dumps = {name: self._chains(name) for name in world.names}
        for violation in check(world.crowd.history, dumps, converged=True).violations:
            self.broken(violation.kind, str(violation))
        for name in world.names:
            self._verify(name)

    def _chains(self, name: str) -> dict[str, bytes]:
        """What a node holds of every project's chain."""
        life = self._world.hosts[name].life
        assert life is not None
        store = life.node.store
        return {project: b"\n".join(store.wal(project, 0, 1 << 30)) for project, _ in store.projects()}

    def _verify(self, name: str) -> None:
        """Everything in the store again, by the checks that trust nothing but genesis, chart and bytes."""
        kv: KeyValue = self._world.hosts[name].kv
        for report in (verify.examine(kv, self._world.chart), verify.examine_replay(kv, self._world.chart)):
            for finding in report.findings:
                self.broken(f"verify {finding.check}", f"{name}: {finding.place}: {finding.reason}")


def _last_index(disk: Tables) -> int:
    newest = disk.last(Family.LOG)
    return 0 if newest is None else int.from_bytes(newest)


def _difference(a: Applied, b: Applied) -> str:
    for name, one, other in zip(a._fields, a, b, strict=True):
        if one != other:
            return f"{name}: {one!r:.300} and {other!r:.300}"
    return "nothing"
