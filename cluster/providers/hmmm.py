"""HMMM: votes that electors cast outside, gathered until they are a quorum certificate (Brief §6).

A node speaks no libp2p. A bridge that does hands in what it hears on HMMM, as the JSON it travelled in; electors may
do the same without one. The leader keeps each verified vote on what is voted on *now* and, once a quorum has signed
exactly the claims held, proposes the certificate under its own key. Ejections and re-elections need a person's or a
program's proposal: their votes are gathered too, for `swoosh council certify`.

Nothing rests on what is kept here. It is bounded, in memory, and gone with the leader: a vote is good for as long as
its election, so whoever cast or carried it sends it again. The idempotency key is one per election, so two leaders
never seat twice; and whether the certificate holds is for its guard to say, once it is in the log. This module must
never count a vote it did not verify.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from cluster.answers import Answer, Unavailable, not_admitted
from cluster.providers.leading import Leading
from swoosh import limits, signing
from swoosh.errors import Malformed
from swoosh.machine import Machine
from swoosh.outcome import Accepted, Code, Refused
from swoosh.principal import key_of, normalise
from swoosh.quorum import APPROVE, Vote
from swoosh.regions.council import Poll, is_settled, poll
from swoosh.state import Council, Project, ProjectRegions

LOOK_SECONDS = 0.25
VOTES_MAX = 4_096

# --- messages ---------------------------------------------------------------------------------------------------------

OURS = "swoosh."
VOTE = "swoosh.vote.v1"
PROPOSAL = "swoosh.proposal.v1"


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The common envelope of HMMM. Who sent it, when and over how many hops is told to people; the signature inside
    ``data`` decides."""

    type: str
    from_: str = msgspec.field(name="from")
    timestamp: str | int
    data: dict[str, Any]
    hop_count: int = 0


def read(document: Any) -> Vote | dict[str, Any] | None:
    """The vote or the proposal in a message; None where it is none of ours.

    Raises:
        Malformed: no message, or one of ours that is not of the form.
    """
    kind = document.get("type") if isinstance(document, dict) else None
    if not isinstance(kind, str) or len(kind) > limits.NAME_CHARS_MAX:
        raise Malformed(f"a message is a JSON object with a type of at most {limits.NAME_CHARS_MAX} characters")
    if not kind.startswith(OURS):
        return None
    if kind not in (VOTE, PROPOSAL):
        raise Malformed(f"type: this node reads {VOTE} and {PROPOSAL}, got {kind!r}")
    try:
        data = msgspec.convert(document, Message).data
        return data if kind == PROPOSAL else msgspec.convert(data, Vote)
    except msgspec.ValidationError as error:
        raise Malformed(f"{kind}: {error}") from None


def is_signed(vote: Vote) -> bool:
    """Whether the voter's signature covers exactly this ballot."""
    key = key_of(vote.voter)
    return key is not None and signing.verify(key, vote.preimage, vote.signature)


def certificate(asked: Poll, votes: list[Vote]) -> dict[str, Any]:
    """What every proposal that rests on votes says of them."""
    ballots = [vote.ballot for vote in sorted(votes, key=lambda vote: normalise(vote.voter))]
    return {"election": asked.election, "member_set_hash": asked.member_set_hash, "votes": ballots}


# --- gathering --------------------------------------------------------------------------------------------------------


class Tally(msgspec.Struct, frozen=True, tag=True):
    """The votes gathered on a project's council.

    ``became``: what came of the vote that was handed in: ``counted``, ``known`` where it was there, ``settled`` where
    the council it approves is seated, and empty where none was.
    """

    project: str
    election: int
    threshold: int
    electorate: tuple[str, ...]
    votes: tuple[Vote, ...]
    became: str = ""


Polled = Tally | Refused | Unavailable


@dataclass(slots=True)
class Box:
    """A project's votes by motion and voter. ``tried_on``: the state on which a certificate of just these votes was
    proposed; ``trouble``: why it was not taken."""

    votes: dict[tuple[str, str], Vote] = field(default_factory=dict)
    tried_on: str = ""
    trouble: str | None = None


class Votes:
    """Gathers votes at the leader, and proposes what they certify."""

    name = "hmmm"

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._boxes: dict[str, Box] = {}
        self.trouble: str | None = None

    # --- from callers -------------------------------------------------------------------------------------------------

    def tally(self, project_id: str, vote: Vote | None = None) -> Polled:
        """The votes on a project's council, with one more if one is handed in and counts."""
        council = self._council(project_id)
        if council is None:
            return Refused(Code.UNKNOWN_PROJECT, (f"no project {project_id[:80]!r} exists",), project_id)
        became = "" if vote is None else self._take(council, vote)
        if not isinstance(became, str):
            return became
        held = self._boxes.get(project_id, Box()).votes
        votes = tuple(held[key] for key in sorted(held))
        return Tally(project_id, council.election, council.threshold, council.electorate, votes, became)

    def _take(self, council: Council, vote: Vote) -> str | Refused | Unavailable:
        """Keep a vote that is its voter's, and on what is voted on now; what became of it."""
        voter = normalise(vote.voter)
        if vote.cluster_id != self._machine.cluster_id:
            return _refuse(Code.BAD_SIGNATURE, vote, f"the vote is for cluster {vote.cluster_id}, not this one")
        if not is_signed(vote):
            return _refuse(Code.BAD_SIGNATURE, vote, f"the signature is not {voter[:120]}'s over this ballot")
        if self._machine.registry.identity(voter) is None:
            return _refuse(Code.UNKNOWN_SIGNER, vote, f"{voter[:120]} is not registered, or revoked")
        if is_settled(council, vote):
            return "settled"
        asked = self._poll(vote.project, council, vote.vote)
        refusal = asked if isinstance(asked, Refused) else asked.objection(vote)
        if refusal is not None:
            return refusal
        box, key = self._boxes.get(vote.project, Box()), (vote.vote, voter)
        if key in box.votes:
            return "known"
        if sum(len(each.votes) for each in self._boxes.values()) >= VOTES_MAX:
            return not_admitted(Code.OVERLOADED, f"{VOTES_MAX} votes wait for a quorum already")
        self._boxes[vote.project] = box
        box.votes[key], box.tried_on = vote, ""
        return "counted"

    # --- at the leader ------------------------------------------------------------------------------------------------

    async def run(self, leading: Leading) -> None:
        """Until cancelled: let go of what is no longer voted on, and propose what a quorum has signed."""
        for box in self._boxes.values():
            box.tried_on = ""
        while True:
            for project_id in list(self._boxes):
                await self._look(leading, project_id)
                await leading.clock.sleep(0)  # callers come first
            self.trouble = next((box.trouble for box in self._boxes.values() if box.trouble), None)
            await leading.clock.sleep(LOOK_SECONDS)

    async def _look(self, leading: Leading, project_id: str) -> None:
        project, council, box = self._machine.project(project_id), self._council(project_id), self._boxes[project_id]
        if project is None or council is None:
            return
        box.votes = {key: vote for key, vote in box.votes.items() if self._counts(council, vote)}
        if not box.votes:
            del self._boxes[project_id]
            return
        approvals = [vote for vote in box.votes.values() if vote.vote == APPROVE]
        asked = self._poll(project_id, council, APPROVE)
        if isinstance(asked, Refused) or asked.lacking or len(approvals) < asked.threshold:
            return
        if box.tried_on != project.state_hash:
            box.tried_on = project.state_hash
            answer = await self._certify(leading, project, asked, approvals)
            box.trouble = None if isinstance(answer, Accepted) else f"{project_id}: no certificate: {_words(answer)}"
            if isinstance(answer, Unavailable):
                box.tried_on = ""

    async def _certify(self, leading: Leading, project: Project, asked: Poll, votes: list[Vote]) -> Answer:
        inputs = {**certificate(asked, votes), "threshold": asked.threshold}
        item = leading.proposal(project, asked.transition, inputs, key=f"steward:{asked.transition}:{asked.election}")
        voters = tuple(sorted(normalise(vote.voter) for vote in votes))
        (answer,) = await leading.submit([item._replace(voters=voters)])
        return answer

    def _counts(self, council: Council, vote: Vote) -> bool:
        asked = self._poll(vote.project, council, vote.vote)
        return not isinstance(asked, Refused) and asked.objection(vote) is None

    def _poll(self, project_id: str, council: Council, motion: str) -> Poll | Refused:
        return poll(project_id, council, motion, self._machine.registry.cluster.identities.entries.get)

    def _council(self, project_id: str) -> Council | None:
        project = self._machine.project(project_id)
        return project.regions.council if project and isinstance(project.regions, ProjectRegions) else None


def _words(answer: Answer) -> str:
    return "; ".join(answer.reasons) if isinstance(answer, Refused) else getattr(answer, "reason", "")


def _refuse(code: Code, vote: Vote, reason: str) -> Refused:
    return Refused(code, (reason,), vote.project)
