"""Role profiles: what a role of a council is called, needs and may do, as agents are told (CHORUS: human-roles.yaml).

Read from one YAML file. Nothing here is replicated or decides anything: the state knows roles by name, and an agent
that claims one is told the rest.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Profile(NamedTuple):
    """One role. ``core`` roles are the ones a council is composed of where a request names none."""

    role_name: str
    display_name: str = ""
    description: str = ""
    prompt_key: str = ""
    prompt_pack: str = ""
    capabilities: tuple[str, ...] = ()
    brief_routing_hint: str = ""
    default_brief_owner: bool = False
    core: bool = False

    @property
    def told(self) -> dict[str, Any]:
        """The `role_profile` of an answer to a claim."""
        return {
            "role_name": self.role_name,
            "display_name": self.display_name or self.role_name,
            "prompt_key": self.prompt_key or self.role_name,
            "prompt_pack": self.prompt_pack,
            "capabilities": list(self.capabilities),
            "brief_routing_hint": self.brief_routing_hint,
            "default_brief_owner": self.default_brief_owner,
        }
