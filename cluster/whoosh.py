"""What the configuration says of callers and agents that know WHOOSH and not SWOOSH (``[whoosh]``).

Values only. Who may come in is in callers.py, what is done for them in http/whoosh/, and how agents are asked to fill
a council in providers/agents.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from cluster.callers import Access
from cluster.profiles import Profile
from cluster.vault import Secret
from swoosh.addresses import COMPONENT, Address

PREFIX = "whoosh:"
"""Begins the principal of everybody the nodes speak for: callers and agents that hold no keys."""


class Whoosh(NamedTuple):
    """Times are seconds.

    ``gitea_secret`` is what Gitea signs its webhooks with; without it none is taken. ``origins`` may call from a
    browser. ``agents`` are patterns of ``host:port`` where registered agents may be reached. ``profiles`` are the roles
    this node can describe, by name. ``formation`` is how long agents are asked where a request does not say,
    ``rebroadcast`` the time between two rounds of asking, ``agent_life`` how long an agent counts as present after it
    was last heard.
    """

    access: Access = Access()
    gitea_secret: Secret = Secret()
    origins: tuple[str, ...] = ()
    rate_per_minute: int = 100
    agents: tuple[str, ...] = ()
    profiles: Mapping[str, Profile] = MappingProxyType({})
    formation: float = 1_800.0
    rebroadcast: float = 30.0
    agent_life: float = 900.0


def council_address(project_id: str, agent_id: str = "any", role: str = "any", task: str = "council") -> str:
    """Where UCXL keeps what concerns a council; a letter that the grammar has no place for becomes a hyphen."""
    agent, part, project, what = (_component(each) for each in (agent_id, role, project_id, task))
    return str(Address(agent, part, project, what, "*^", ""))


def _component(text: str) -> str:
    return "".join(each if each in COMPONENT else "-" for each in text)


CLOSED = Whoosh()
"""Nobody is let in, and nobody is asked."""
