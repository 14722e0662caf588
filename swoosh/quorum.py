"""Quorum certificates: what electors sign, and what makes a set of members one set (Brief §6).

A vote is an Ed25519 signature over cluster, project, election, member set and motion, so it counts nowhere else.
Signatures are verified before the log; the guards count principals whose vote was found good. This module must never
verify or count: it says what a vote is and which bytes it covers, so that all sides mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from swoosh import limits
from swoosh.hashing import digest
from swoosh.inputs import Count, Principal
from swoosh.principal import normalise
from swoosh.signing import vote_preimage

APPROVE = "approve"
REELECT = "reelect"
EJECT = "eject:"

Motion = Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX + len(EJECT))]
"""``approve``, ``reelect``, or ``eject:`` and a role."""
Signature = Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]

# What the electors of each transition vote for. An elector who says anything else has not voted for it.
_MOTIONS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "COUNCIL_QUORUM_CERT": lambda inputs: APPROVE,
    "COUNCIL_MEMBER_EJECTED": lambda inputs: f"{EJECT}{inputs.get('role')}",
    "COUNCIL_REELECTION_CALLED": lambda inputs: REELECT,
}


class SignedVote(NamedTuple):
    """An elector's vote: who, the bytes covered, the signature as sent."""

    voter: str
    preimage: bytes
    signature: str


class Vote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vote as it travels, before it is part of a certificate: the ballot that is signed, by whom, the signature."""

    cluster_id: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]
    project: Annotated[str, Meta(max_length=limits.PROJECT_ID_CHARS_MAX)]
    election: Count
    member_set_hash: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]
    vote: Motion
    voter: Principal
    signature: Signature

    @property
    def preimage(self) -> bytes:
        """The bytes its signature covers."""
        return vote_preimage(self.cluster_id, self.project, self.election, self.member_set_hash, self.vote)

    @property
    def ballot(self) -> dict[str, str]:
        """What a certificate carries of it; the certificate says the rest once for all."""
        return {"voter": self.voter, "vote": self.vote, "signature": self.signature}


def majority(count: int) -> int:
    """More than half of ``count``."""
    return count // 2 + 1


def member_set_hash(members: Iterable[tuple[str, str, str]]) -> str:
    """``sha256-…`` of a council: (role, agent, principal) of every member, in any order."""
    listed = [{"role": role, "agent": agent, "principal": principal} for role, agent, principal in sorted(members)]
    return digest("members", listed)


def votes_in(transition: str, inputs: Mapping[str, Any], cluster_id: str, project: str) -> list[SignedVote]:
    """The votes a proposal carries for what it proposes, to be verified before the log.

    ``transition`` is the canonical name, ``inputs`` the object as sent. What is not of the form is left out here and
    refused by the reducer, which is why nothing is raised.
    """
    motion = _MOTIONS.get(transition)
    election, set_hash, votes = inputs.get("election"), inputs.get("member_set_hash", ""), inputs.get("votes")
    if motion is None or not isinstance(votes, list | tuple) or len(votes) > limits.ELECTORS_MAX:
        return []
    if not isinstance(election, int) or not isinstance(set_hash, str):
        return []
    wanted = motion(inputs)
    preimage = vote_preimage(cluster_id, project, election, set_hash, wanted)
    return [
        SignedVote(normalise(vote["voter"]), preimage, vote["signature"])
        for vote in votes
        if isinstance(vote, Mapping)
        and vote.get("vote") == wanted
        and isinstance(vote.get("voter"), str)
        and isinstance(vote.get("signature"), str)
    ]
