"""The nodes of a machine as electors: what `swoosh init` gives them, given to a machine that was made without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chaos.solo import Solo, key_of
from cluster.cli.init import NODE_ROLES
from swoosh.outcome import Accepted, FactAccepted
from swoosh.principal import name_of

NODES = ("n1", "n2", "n3")


def let_nodes_vote(solo: Solo, names: Sequence[str] = NODES) -> None:
    """Each has a key of its own, and may sign with it as a node and as an elector."""
    for name in names:
        key = solo.keys.setdefault(name, key_of(name))
        principal = name_of(key.public_key().public_bytes_raw())
        solo.names[principal], solo.principals[name] = name, principal
        accepted(solo.propose("IDENTITY_ADDED", {"principal": principal, "name": name, "roles": list(NODE_ROLES)}))


def register(solo: Solo, *agents: str, lasts_ms: int = 900_000) -> None:
    """Agents without keys are there, as a node says."""
    for name in agents:
        said = solo.fact("agent", f"whoosh:{name}", {"name": name}, by="n1", expires_at=solo.now_ms + lasts_ms)
        assert isinstance(said, FactAccepted), said


def claim(solo: Solo, role: str, agent: str) -> None:
    """An agent without a key claims a role through a node."""
    inputs = {"role": role, "agent": agent}
    accepted(solo.propose("COUNCIL_ROLE_CLAIMED", inputs, signer="n1", behalf=f"whoosh:{agent}"))


def accepted(outcome: Any) -> Accepted:
    """What came of it, which was to be accepted."""
    assert isinstance(outcome, Accepted), outcome
    return outcome
