"""What a provider is: something that looks at an outside system, or acts on it, while its node leads.

A guard reads nothing but committed facts (Brief §17). So whatever is seen outside becomes a signed fact, and whatever
follows from an answer becomes a signed proposal; both take the ordinary way through the log. Every provider is started
when its node becomes the leader and cancelled when it no longer leads, and is handed a `Leading`: what is on record,
and the node's own signed voice in one term.

A provider must never block the loop, touch the machine's state, keep anything that the next leader would miss, or talk
to the outside but through `cluster.egress`. One that raises is started again after a pause; it never ends the node.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from cluster.answers import Answer
from cluster.clock import Clock
from cluster.nodekey import NodeKey
from swoosh import hlc, signing
from swoosh.catalog import Registry
from swoosh.entry import FactItem, Item, ProposalItem
from swoosh.hlc import HLC
from swoosh.machine import Machine
from swoosh.proposal import inputs_hash, to_sent
from swoosh.state import Project

SUBMIT_SECONDS = 5.0

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


class Leading:
    """A node's say in the term it leads."""

    def __init__(self, term: int, machine: Machine, clock: Clock, key: NodeKey, submit: Submit) -> None:
        self.term, self.machine, self.clock = term, machine, clock
        self._key, self._submit = key, submit

    @property
    def registry(self) -> Registry:
        """Identities, settings and facts as applied here."""
        return self.machine.registry

    @property
    def now_ms(self) -> int:
        """The stamp that an entry made now would get, in milliseconds."""
        return max(self.machine.position.stamp_us, self.clock.wall_us()) // 1000

    @property
    def caught_up(self) -> bool:
        """Whether all that former leaders committed is applied here: an entry of this term is."""
        return self.machine.position.term == self.term

    async def observe(self, kind: str, subject: str, body: dict[str, Any], *, lives_ms: int) -> Answer | None:
        """Put an observation made now on record; None where the board says the same and is fresh enough.

        The fact expires ``lives_ms`` after now and is renewed at two thirds of that. ``body`` is the fact's, whole.
        """
        held = self.registry.fact(kind, subject)
        if held is not None and held.body == body and self.now_ms < _renew_at(held.observed_at, held.expires_at):
            return None
        return (await self.submit([self.fact(kind, subject, body, lives_ms=lives_ms)]))[0]

    def fact(self, kind: str, subject: str, body: dict[str, Any], *, lives_ms: int) -> FactItem:
        """A signed fact, later than the one the board holds whatever the clocks of former leaders said."""
        held = self.machine.registry.facts.get(kind, subject)
        now_ms = self.now_ms
        document = {
            "kind": kind,
            "subject": subject,
            "observed_at": now_ms if held is None else max(now_ms, held.observed_at),
            "seq": 0 if held is None else held.seq + 1,
            "expires_at": now_ms + lives_ms,
            "body": body,
            "provider": self._key.principal,
            "gathered_term": self.term,
        }
        preimage = signing.fact_preimage(document, self.machine.cluster_id)
        return FactItem(to_sent({**document, "signature": signing.sign(self._key.private, preimage)}))

    def proposal(
        self, project: Project, transition: str, inputs: dict[str, Any], *, key: str, window_id: str = ""
    ) -> ProposalItem:
        """A signed proposal on the project as it is now. ``key`` is its idempotency key."""
        document = {
            "current_state_hash": project.state_hash,
            "transition": transition,
            "inputs": inputs,
            "inputs_hash": inputs_hash(inputs),
            "signer": self._key.principal,
            "idem_key": key,
            "hlc": str(hlc.merge(self.clock.wall_us() // 1000, HLC.parse(project.regions.hlc_last.hlc))),
            "window_id": window_id,
            "evidence": [],
            "project": project.id,
        }
        preimage = signing.proposal_preimage(document, self.machine.cluster_id)
        return ProposalItem(to_sent({**document, "signature": signing.sign(self._key.private, preimage)}))

    async def submit(self, items: Sequence[Item]) -> list[Answer]:
        """One answer per proposal or fact, in order."""
        return await self._submit(items, self.clock.monotonic() + SUBMIT_SECONDS)


def _renew_at(observed_at: int, expires_at: int) -> int:
    return observed_at + (expires_at - observed_at) * 2 // 3
