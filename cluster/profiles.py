"""Role profiles: what a role of a council is called, needs and may do, as agents are told (CHORUS: human-roles.yaml).

Read from one YAML file, strictly, because a member that is silently ignored is a role described wrongly to every
agent. Nothing here is replicated or decides anything: the state knows roles by name, and an agent that claims one is
told the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from swoosh import limits
from swoosh.chart import strict_yaml
from swoosh.errors import ChartError, Malformed
from swoosh.inputs import check_names

_Word = Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]
_Words = Annotated[tuple[_Word, ...], Meta(max_length=limits.AGENT_CAPABILITIES_MAX)]


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

    def offered(self, *, required: bool) -> dict[str, Any]:
        """The role in an opportunity. ``required``: without it there is no council."""
        return {
            "role_name": self.role_name,
            "agent_name": self.display_name or self.role_name,
            "required": required,
            "required_skills": list(self.capabilities),
            "description": self.description,
        }


class _Role(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A role as it is written. ``skills`` is another word for ``capabilities``."""

    display_name: _Word = ""
    description: Annotated[str, Meta(max_length=limits.TEXT_CHARS_MAX)] = ""
    prompt_key: _Word = ""
    prompt_pack: Annotated[str, Meta(max_length=limits.ADDRESS_CHARS_MAX)] = ""
    capabilities: _Words | None = None
    skills: _Words | None = None
    brief_routing_hint: _Word = ""
    default_brief_owner: bool = False
    core: bool = False

    def __post_init__(self) -> None:
        if self.capabilities is not None and self.skills is not None:
            raise ValueError("capabilities and skills are two words for one list; give one of them")

    def called(self, name: str) -> Profile:
        """The profile of the role of this name."""
        members = {**msgspec.structs.asdict(self), "capabilities": self.capabilities or self.skills or ()}
        del members["skills"]
        return Profile(name, **members)


def read(content: bytes) -> Mapping[str, Profile]:
    """The roles that a file describes, by name, in its order.

    Raises:
        Malformed: no YAML, or not of the form; every role that is wrong is named.
    """
    try:
        document = strict_yaml(content.decode("utf-8"), "the YAML")
    except (UnicodeDecodeError, ChartError) as error:
        raise Malformed(str(error)) from None
    if not isinstance(document, dict) or list(document) != ["roles"]:
        raise Malformed("expected `roles:` at the top, and nothing beside it")
    roles = document["roles"]
    if not isinstance(roles, dict) or not 0 < len(roles) <= limits.ROLES_MAX:
        raise Malformed(f"roles: expected 1 to {limits.ROLES_MAX} names, each with what it is")
    if faults := list(_faults(roles)):
        raise Malformed("; ".join(faults))
    return {name: _role(body).called(name) for name, body in roles.items()}


def _faults(roles: Mapping[Any, Any]) -> Iterator[str]:
    for name, body in roles.items():
        try:
            if not isinstance(name, str):
                raise ValueError("the name of a role is text; write it in quotes")
            check_names("the name of a role", name)
            _role(body)
        except (ValueError, msgspec.ValidationError) as error:
            yield f"roles.{str(name)[:80]}: {error}"


def _role(body: Any) -> _Role:
    return msgspec.convert({} if body is None else body, _Role)
