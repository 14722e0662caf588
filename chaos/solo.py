"""One machine alone: no nodes, no disk, no network, and a clock that moves when it is told to.

It feeds a Machine as a cluster would: signed proposals and facts, verified votes, one entry per call, a stamp that
only grows. Scenarios, property tests, recorded logs and the benchmark of the core run on it. It must never judge
anything: what is refused is refused by the machine. Keys follow from names, so every run writes the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from swoosh import canonical, entry, genesis, principal, proposal, quorum, signing, state, windows
from swoosh.chart import Chart, load_chart
from swoosh.entry import BatchItem, FactItem, Item, LogEntry, ProposalItem
from swoosh.hashing import digest, digest_bytes
from swoosh.hlc import HLC, merge
from swoosh.machine import Applied, Machine, MemorySource, Position
from swoosh.outcome import Accepted, FactAccepted, ItemOutcome, Refused
from swoosh.proposal import CLUSTER, DEFAULT_PROJECT
from swoosh.state import ProjectRegions

CHART = Path(__file__).resolve().parent.parent / "statechart.yaml"
START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
TERM = 1
FACT_LIFE_MS = 5 * 60_000

PEOPLE: dict[str, tuple[str, ...]] = {
    "op": ("operator",),
    "root": ("admin",),
    "pol": ("policy",),
    "pam": ("proposer:*",),
    "ivy": ("proposer:ingestion",),
    "alice": ("agent",),
    "bob": ("agent",),
    "carol": ("agent",),
    "dave": ("agent",),
    "ed": ("elector",),
    "eli": ("elector",),
    "eva": ("elector",),
    "n1": ("node", "provider:*"),
    "probe": ("provider:*",),
    "scan": ("provider:policy",),
}
ELECTORS = ("ed", "eli", "eva")
# Who signs where a caller names nobody: the first entry of the chart's `by` that somebody here stands for.
_SIGNERS = {
    "proposer": "pam",
    "proposer:any": "pam",
    "proposer:ingestion": "pam",
    "operator": "op",
    "agent": "alice",
    "policy": "pol",
    "admin": "root",
    "node": "n1",
    "provider:policy": "scan",
}


def key_of(name: str) -> Ed25519PrivateKey:
    """The private key of a name: no secret, and the same everywhere."""
    return Ed25519PrivateKey.from_private_bytes(digest_bytes(b"solo/" + name.encode()))


@cache
def the_chart() -> Chart:
    """The chart of this repository."""
    return load_chart(CHART.read_text(encoding="utf-8"))


class Solo:
    """A machine, the log it was fed, and the people who sign.

    Args:
        nodes: member nodes in the genesis, 1 to 5.
        settings: what differs from the defaults.
        insecure: whether unknown signers count as proposers.
        start_ms: what the clock says, milliseconds since 1970 UTC.

    Attributes:
        log: (index, term, bytes) of every entry so far.
        project: the project meant where a call names none.
        names: the name of every principal; ``principals`` is the inverse.
        hashes: the name of every hash that ``named`` made.
    """

    def __init__(
        self,
        chart: Chart,
        *,
        nodes: int = 3,
        settings: Mapping[str, Any] | None = None,
        insecure: bool = False,
        start_ms: int = START_MS,
    ) -> None:
        self.chart = chart
        self.keys = {name: key_of(name) for name in PEOPLE}
        self.names = {principal.name_of(key.public_key().public_bytes_raw()): name for name, key in self.keys.items()}
        self.principals = {name: who for who, name in self.names.items()}
        identities = tuple(genesis.Registered(name, self.principals[name], roles) for name, roles in PEOPLE.items())
        self.genesis = genesis.Genesis(
            nonce="00" * genesis.NONCE_BYTES,
            nodes=tuple(f"n{number}" for number in range(1, nodes + 1)),
            identities=identities,
            settings=dict(settings or {}),
            chart_hash=chart.hash,
            insecure=insecure,
            created_ms=start_ms,
        )
        self.source = MemorySource(genesis.initial_projects(self.genesis, chart), Position(1, TERM, start_ms * 1000))
        self.machine = Machine(chart, genesis.cluster_id(self.genesis), self.source)
        self.log: list[tuple[int, int, bytes]] = []
        self.project = DEFAULT_PROJECT
        self.now_ms = start_ms
        self.hashes: dict[str, str] = {}
        self._signed = 0

    # --- looking -----------------------------------------------------------------------------------------------------

    def regions(self, project: str | None = None) -> ProjectRegions:
        """A project's regions; those of nobody's project where it was never created."""
        name = project or self.project
        held = self.machine.project(name)
        return state.as_project((held or state.absent(name)).regions)

    def head(self, project: str | None = None) -> str:
        """The state hash a proposal must name now."""
        name = project or self.project
        return (self.machine.project(name) or state.absent(name)).state_hash

    def window(self, window_class: str, project: str | None = None) -> str:
        """The window a transition of this class has to name now; empty where it is unknown."""
        active = self.regions(project).execution.active_window_id
        if window_class == "reverb":
            return active
        current = windows.current(self.machine.registry, self.now_ms)
        if current is not None:
            return current.id
        return (active or "w1") if self.machine.registry.setting("window_source") == "always_open" else ""

    def named(self, name: str) -> str:
        """The hash that stands for some content, plan or artifact."""
        made = digest("solo", name)
        self.hashes[made] = name
        return made

    # --- writing documents -------------------------------------------------------------------------------------------

    def document(
        self,
        transition: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        project: str | None = None,
        signer: str | None = None,
        head: str | None = None,
        key: str | None = None,
        hlc: str | None = None,
        window: str | None = None,
        behalf: str | None = None,
        evidence: Iterable[str] = (),
    ) -> dict[str, Any]:
        """A proposal as it would be sent, unsigned. What is not named is what an honest caller would put there."""
        found = self.chart.project.resolve(transition)
        commanded = found is None and self.chart.cluster.resolve(transition) is not None
        where = project or (CLUSTER if commanded else self.project)
        row = self.chart.of(where).resolve(transition)
        who = signer or next((_SIGNERS[role] for role in (row.by if row else ()) if role in _SIGNERS), "pam")
        if window is None:
            window = self.window(row.window, where) if row is not None and row.window else ""
        self._signed += 1
        sent: dict[str, Any] = {
            "current_state_hash": head or self.head(where),
            "transition": transition,
            "inputs_hash": proposal.inputs_hash(dict(inputs or {})),
            "signer": self.principals.get(who, who),
            "idem_key": key or f"k{self._signed}",
            "hlc": hlc or str(self.next_hlc(where)),
            "project": where,
            "inputs": dict(inputs or {}),
        }
        optional = {"window_id": window, "on_behalf_of": behalf, "evidence": list(evidence)}
        return sent | {name: value for name, value in optional.items() if value}

    def next_hlc(self, project: str) -> HLC:
        """A clock value that follows everything applied in the project."""
        held = self.machine.project(project)
        return merge(self.now_ms, HLC.parse(held.regions.hlc_last.hlc)) if held else merge(self.now_ms)

    def ballots(self, electors: Iterable[str], motion: str = quorum.APPROVE, **claimed: Any) -> dict[str, Any]:
        """Inputs that carry the named electors' votes on the current project's council, as it stands.

        ``claimed`` replaces ``election`` or ``member_set_hash`` both in the inputs and in what is signed.
        """
        council = self.regions().council
        claims = ((role, claim.agent, claim.principal) for role, claim in council.claims.items())
        held = quorum.member_set_hash(claims) if motion == quorum.APPROVE else council.member_set_hash
        election, members = claimed.get("election", council.election), claimed.get("member_set_hash", held)
        covered = signing.vote_preimage(self.machine.cluster_id, self.project, election, members, motion)
        votes = [
            {"voter": self.principals[name], "vote": motion, "signature": signing.sign(self.keys[name], covered)}
            for name in electors
        ]
        return {"election": election, "member_set_hash": members, "votes": votes}

    def item(self, sent: Mapping[str, Any], signed_by: str | None = None) -> ProposalItem:
        """The document signed, with its votes verified, as it enters an entry."""
        name = signed_by or self.names.get(sent["signer"])
        whole = dict(sent)
        if name is not None:
            covered = signing.proposal_preimage(whole, self.machine.cluster_id)
            whole["signature"] = signing.sign(self.keys[name], covered)
        return ProposalItem(canonical.encode(whole), name is None, self._voters(whole))

    def batch(self, sent: list[dict[str, Any]], signer: str) -> BatchItem:
        """Documents under one signature."""
        covered = signing.batch_preimage(sent, self.machine.cluster_id)
        members = tuple(ProposalItem(canonical.encode(each), False, self._voters(each)) for each in sent)
        return BatchItem(self.principals[signer], signing.sign(self.keys[signer], covered), members)

    def fact_item(
        self,
        kind: str,
        subject: str,
        body: Mapping[str, Any],
        *,
        by: str = "probe",
        observed_at: int | None = None,
        expires_at: int | None = None,
        term: int | None = None,
    ) -> FactItem:
        """A signed fact, observed now and good for five minutes unless said otherwise."""
        self._signed += 1
        sent: dict[str, Any] = {
            "kind": kind,
            "subject": subject,
            "observed_at": self.now_ms if observed_at is None else observed_at,
            "seq": self._signed,
            "expires_at": self.now_ms + FACT_LIFE_MS if expires_at is None else expires_at,
            "body": dict(body),
            "provider": self.principals.get(by, by),
        }
        if term is not None:
            sent["gathered_term"] = term
        sent["signature"] = signing.sign(self.keys[by], signing.fact_preimage(sent, self.machine.cluster_id))
        return FactItem(canonical.encode(sent))

    # --- acting ------------------------------------------------------------------------------------------------------

    def tick(self, ms: int) -> None:
        """Time passes."""
        self.now_ms += ms

    def propose(self, transition: str, inputs: Mapping[str, Any] | None = None, **how: Any) -> Accepted | Refused:
        """Send one proposal; ``how`` as in ``document``."""
        (outcome,) = self.apply(self.item(self.document(transition, inputs, **how))).outcomes
        return cast("Accepted | Refused", outcome)

    def fact(self, kind: str, subject: str, body: Mapping[str, Any], **how: Any) -> FactAccepted | Refused:
        """Send one fact; ``how`` as in ``fact_item``."""
        (outcome,) = self.apply(self.fact_item(kind, subject, body, **how)).outcomes
        return cast("FactAccepted | Refused", outcome)

    def apply(self, *items: Item, chart_hash: str | None = None) -> Applied:
        """One entry with these items, written by the leader now."""
        index, stamp = self.machine.position.index + 1, max(self.machine.position.stamp_us + 1, self.now_ms * 1000)
        return self.feed(index, TERM, entry.encode(LogEntry(chart_hash or self.chart.hash, "n1", TERM, stamp, items)))

    def feed(self, index: int, term: int, data: bytes) -> Applied:
        """An entry as Raft would deliver it, whatever its bytes."""
        applied = self.machine.apply(index, term, data)
        self.source.commit(applied)
        self.log.append((index, term, data))
        return applied

    def fork(self) -> Solo:
        """Another machine that stands exactly where this one stands; what it does from now on stays its own."""
        other = copy(self)
        other.source = self.source.copy()
        other.machine = Machine(self.chart, self.machine.cluster_id, other.source)
        other.log, other.hashes = list(self.log), dict(self.hashes)
        return other

    def _voters(self, sent: Mapping[str, Any]) -> tuple[str, ...]:
        row = self.chart.of(sent["project"]).resolve(sent["transition"])
        votes = quorum.votes_in(row.name if row else "", sent["inputs"], self.machine.cluster_id, sent["project"])
        return tuple(sorted({vote.voter for vote in votes if _verified(vote)}))


def outcome_of(outcome: ItemOutcome) -> Accepted:
    """The outcome if it was accepted.

    Raises:
        AssertionError: it was refused; the text says why.
    """
    assert isinstance(outcome, Accepted), f"{outcome}"
    return outcome


def _verified(vote: quorum.SignedVote) -> bool:
    key = principal.key_of(vote.voter)
    return key is not None and signing.verify(key, vote.preimage, vote.signature)
