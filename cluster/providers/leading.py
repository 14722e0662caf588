"""What a provider is: something that looks at an outside system, or acts on it, while its node leads.

A guard reads nothing but committed facts (Brief §17). So whatever is seen outside becomes a signed fact, and whatever
follows from an answer becomes a signed proposal; both take the ordinary way through the log. Every provider is started
when its node becomes the leader and cancelled when it no longer leads, and is handed a `Leading`: what is on record,
and the node's own signed voice in one term.

A provider must never block the loop, touch the machine's state, keep anything that the next leader would miss, or talk
to the outside but through `cluster.egress`. One that raises is started again after a pause; it never ends the node.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from cluster.answers import Answer
from cluster.clock import Clock
from cluster.nodekey import NodeKey
from cluster.shhh.policy import BUILT_IN
from cluster.shhh.scanner import Scanner
from swoosh import canonical, hlc, signing
from swoosh.catalog import Registry
from swoosh.entry import FactItem, Item, Note, ProposalItem
from swoosh.facts import Known
from swoosh.hlc import HLC, ZERO
from swoosh.machine import Applied, Machine
from swoosh.proposal import inputs_hash, to_sent
from swoosh.quorum import Vote
from swoosh.regions.council import Poll
from swoosh.state import Project

SUBMIT_SECONDS = 5.0
_SCANNER = Scanner(BUILT_IN)

TakeNote = Callable[[Note, Callable[[bool], None]], None]
"""``(note, told whether it was committed)`` to the queue of this leader."""

Submit = Callable[[Sequence[Item], float], Awaitable[list[Answer]]]
"""``(items, deadline in monotonic seconds)`` to the queue of this leader."""


class Provider(Protocol):
    """One outside system."""

    name: str
    trouble: str | None
    """What is wrong with the system or the way there, in words for `/health`; None while all is well."""

    async def run(self, leading: Leading) -> None:
        """Until cancelled."""
        ...


@runtime_checkable
class Counting(Protocol):
    """A provider that counts what it sees, by words of a closed set."""

    counts: Counter[str]


class Voice:
    """A node's signed word, whether it leads or not."""

    bound: Mapping[str, Any] = MappingProxyType({})
    """What its facts are bound to beside their time."""

    def __init__(self, machine: Machine, clock: Clock, key: NodeKey, *, scanner: Scanner = _SCANNER) -> None:
        self.machine, self.clock, self._key, self._scanner = machine, clock, key, scanner

    @property
    def principal(self) -> str:
        """Whom the node signs as."""
        return self._key.principal

    @property
    def registry(self) -> Registry:
        """Identities, settings and facts as applied here."""
        return self.machine.registry

    @property
    def now_ms(self) -> int:
        """The stamp that an entry made now would get, in milliseconds."""
        return max(self.machine.position.stamp_us, self.clock.wall_us()) // 1000

    def sign(self, data: bytes) -> str:
        """The node's signature over a message of another system, base64url.

        ``data`` is never a preimage of our own: those begin with ``swoosh/``, a JSON object does not.
        """
        return signing.sign(self._key.private, data)

    def proposal(
        self, project: Project, transition: str, inputs: dict[str, Any], *, key: str, window_id: str = ""
    ) -> ProposalItem:
        """A signed proposal on the project as it is now. ``key`` is its idempotency key."""
        return ProposalItem(to_sent(self.document(project, transition, inputs, key=key, window_id=window_id)))

    def document(
        self,
        project: Project,
        transition: str,
        inputs: dict[str, Any],
        *,
        key: str,
        window_id: str = "",
        after: HLC = ZERO,
        behalf: str | None = None,
    ) -> dict[str, Any]:
        """The same as the JSON object that `POST /transition` takes.

        Args:
            after: a clock value it follows, beside the project's and this node's.
            behalf: the principal it is for, where that is not the node.
        """
        now = hlc.merge(self.clock.wall_us() // 1000, HLC.parse(project.regions.hlc_last.hlc), after)
        document = {
            "current_state_hash": project.state_hash,
            "transition": transition,
            "inputs": inputs,
            "inputs_hash": inputs_hash(inputs),
            "signer": self._key.principal,
            "idem_key": key,
            "hlc": str(now),
            "window_id": window_id,
            "evidence": [],
            "project": project.id,
            **({} if behalf is None else {"on_behalf_of": behalf}),
        }
        preimage = signing.proposal_preimage(document, self.machine.cluster_id)
        return {**document, "signature": signing.sign(self._key.private, preimage)}

    def vote(self, asked: Poll) -> Vote:
        """The node's vote for exactly this motion."""
        ballot = (self.machine.cluster_id, asked.project, asked.election, asked.member_set_hash, asked.motion)
        signature = signing.sign(self._key.private, signing.vote_preimage(*ballot))
        return Vote(*ballot, self.principal, signature)

    def fact(self, kind: str, subject: str, body: dict[str, Any], *, lives_ms: int) -> FactItem:
        """A signed fact, later than the one the board holds whatever the clocks of former leaders said, and without
        what policy takes for a secret.

        Raises:
            Malformed: the body is not in canonical form, as what an outside system says need not be.
        """
        canonical.check(body, f"{kind} fact")
        held = self.machine.registry.facts.get(kind, subject)
        now_ms = self.now_ms
        document = {
            "kind": kind,
            "subject": subject,
            "observed_at": now_ms if held is None else max(now_ms, held.observed_at),
            "seq": 0 if held is None else held.seq + 1,
            "expires_at": now_ms + lives_ms,
            "body": self._scanner.redact(body)[0],
            "provider": self._key.principal,
            **self.bound,
        }
        preimage = signing.fact_preimage(document, self.machine.cluster_id)
        return FactItem(to_sent({**document, "signature": signing.sign(self._key.private, preimage)}))


class Leading(Voice):
    """A node's say in the term it leads."""

    def __init__(
        self,
        term: int,
        machine: Machine,
        clock: Clock,
        key: NodeKey,
        submit: Submit,
        *,
        take_note: TakeNote = lambda note, done: done(False),
        scanner: Scanner = _SCANNER,
    ) -> None:
        super().__init__(machine, clock, key, scanner=scanner)
        self.term, self._submit, self._take_note = term, submit, take_note
        self.bound = {"gathered_term": term}
        self.on_applied: list[Callable[[Applied], None]] = []
        """Called with each entry that is applied in this term."""

    @property
    def caught_up(self) -> bool:
        """Whether all that former leaders committed is applied here: an entry of this term is."""
        return self.machine.position.term == self.term

    async def observe(self, kind: str, subject: str, body: dict[str, Any], *, lives_ms: int) -> Answer | None:
        """Put an observation made now on record; None where the board says the same and is fresh enough.

        The fact expires ``lives_ms`` after now and is renewed at two thirds of that. ``body`` is the fact's, whole,
        but for what policy takes for a secret: an outside system may say anything, and it does not get into the log.
        """
        body, _ = self._scanner.redact(body)
        held = self.registry.fact(kind, subject)
        if held is not None and held.body == body and not is_aging(held, self.now_ms):
            return None
        return (await self.submit([self.fact(kind, subject, body, lives_ms=lives_ms)]))[0]

    async def submit(self, items: Sequence[Item]) -> list[Answer]:
        """One answer per proposal or fact, in order."""
        return await self._submit(items, self.clock.monotonic() + SUBMIT_SECONDS)

    async def note(self, note: Note) -> bool:
        """Have the log carry a note; whether it was committed, which it then is here as well."""
        told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._take_note(note, lambda committed: None if told.done() else told.set_result(committed))
        return await told


def is_aging(fact: Known, now_ms: int) -> bool:
    """Whether a fact has lived for two thirds of its life, so that it is time to look again."""
    return now_ms >= fact.observed_at + (fact.expires_at - fact.observed_at) * 2 // 3
