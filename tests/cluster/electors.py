"""Electors, told in a few words: what may be voted on now, and a vote on it. Nothing here judges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from cluster.providers.hmmm import VOTE
from swoosh.machine import Machine
from swoosh.proposal import DEFAULT_PROJECT
from swoosh.quorum import APPROVE, Vote
from swoosh.regions.council import Poll, poll
from swoosh.state import as_project


def asked(machine: Machine, motion: str = APPROVE, project: str = DEFAULT_PROJECT) -> Poll:
    """What electors may vote on, as the machine stands."""
    held = machine.project(project)
    assert held is not None
    known = machine.registry.cluster.identities.entries.get
    found = poll(project, as_project(held.regions).council, motion, known)
    assert isinstance(found, Poll), found
    return found


def cast(on: Poll, machine: Machine, voter: str, sign: Callable[[bytes], str], **changed: Any) -> Vote:
    """A vote on that; about something else where told so."""
    ballot = {
        "cluster_id": machine.cluster_id,
        "project": on.project,
        "election": on.election,
        "member_set_hash": on.member_set_hash,
        "vote": on.motion,
        **changed,
    }
    unsigned = Vote(**ballot, voter=voter, signature="")
    return msgspec.structs.replace(unsigned, signature=sign(unsigned.preimage))


def message(data: Any, **changed: Any) -> dict[str, Any]:
    """A vote, or what else is said, as it travels over HMMM."""
    envelope = {"type": VOTE, "from": "12D3KooWsomebody", "timestamp": "2026-01-01T00:00:00Z"}
    return {**envelope, "data": msgspec.to_builtins(data), **changed}
