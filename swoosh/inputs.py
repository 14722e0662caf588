"""The inputs transitions share, and the forms their members have.

A transition's inputs are a frozen Struct that refuses unknown members. Whether the members make sense is for guards to
say; here only form is checked, so that what reaches the state is bounded and can be a key of a hashed object. No
pattern is ever matched with a regular expression, because replicas of different builds must agree.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from swoosh import limits, state
from swoosh.catalog import inputs
from swoosh.hashing import PREFIX, is_hex

Text = Annotated[str, Meta(min_length=1, max_length=limits.TEXT_CHARS_MAX)]
Word = Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARS_MAX)]
OptionalText = Annotated[str, Meta(max_length=limits.TEXT_CHARS_MAX)]
Address = Annotated[str, Meta(min_length=1, max_length=limits.ADDRESS_CHARS_MAX)]
Principal = Annotated[str, Meta(min_length=1, max_length=limits.SIGNER_CHARS_MAX)]
Count = Annotated[int, Meta(ge=0, le=limits.COUNT_MAX)]

_PRINTABLE = frozenset(map(chr, range(0x21, 0x7F)))


def is_printable(text: str) -> bool:
    """Whether a text may be a key of a hashed object: printable ASCII without a space."""
    return _PRINTABLE.issuperset(text)


def check_names(what: str, *names: str) -> None:
    """Names of roles, tasks, assets and tools become keys: 1 to 128 printable ASCII characters, no space.

    Raises:
        ValueError: the first that is not.
    """
    for name in names:
        if not (0 < len(name) <= limits.NAME_CHARS_MAX and is_printable(name)):
            raise ValueError(
                f"{what}: expected 1 to {limits.NAME_CHARS_MAX} printable ASCII characters, got {name[:80]!r}"
            )


def check_distinct(what: str, names: tuple[str, ...]) -> None:
    """Nothing is listed twice.

    Raises:
        ValueError: naming the first that is.
    """
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{what}: {twice[:80]!r} is listed twice")


def check_hashes(what: str, *hashes: str) -> None:
    """Hashes are kept as sent, so only the written form is taken: ``sha256-<64 lower-case hex>``.

    Raises:
        ValueError: the first that is not.
    """
    for text in hashes:
        if not (text.startswith(PREFIX) and is_hex(text.removeprefix(PREFIX), 64)):
            raise ValueError(f"{what}: expected sha256- and 64 lower-case hex digits, got {text[:80]!r}")


class Inputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every inputs type."""


@inputs
class Nothing(Inputs, frozen=True):
    """``{}``, or no inputs at all."""


@inputs
class Reason(Inputs, frozen=True):
    """Why, in a sentence for whoever reads it later."""

    reason: Text


@inputs
class Content(Inputs, frozen=True):
    """The content meant, by its hash."""

    content_hash: str

    def __post_init__(self) -> None:
        check_hashes("content_hash", self.content_hash)


@inputs
class Agreement(Inputs, frozen=True):
    """The three hashes execution stands on."""

    content_hash: str
    member_set_hash: str
    environment_hash: str

    def __post_init__(self) -> None:
        check_hashes("content_hash", self.content_hash)
        check_hashes("member_set_hash", self.member_set_hash)
        check_hashes("environment_hash", self.environment_hash)


class Formation(Inputs, frozen=True):
    """That the cluster forms the council: roles that may stay open, and until when it asks agents (milliseconds since
    1970, 0 for no end)."""

    optional_roles: Annotated[tuple[str, ...], Meta(max_length=limits.ROLES_MAX)] = ()
    until_ms: Annotated[int, Meta(ge=0, le=limits.HLC_MS_MAX)] = 0

    def check_beside(self, what: str, roles: tuple[str, ...]) -> None:
        """Optional roles are names, and none is planned too; together they are as many as a council may have.

        Raises:
            ValueError: the first fault.
        """
        check_names("formation.optional_roles", *self.optional_roles)
        check_distinct(f"{what} and formation.optional_roles", (*roles, *self.optional_roles))
        if len(roles) + len(self.optional_roles) > limits.ROLES_MAX:
            raise ValueError(f"{what} and formation.optional_roles: more than {limits.ROLES_MAX} roles")

    @property
    def kept(self) -> state.Formation:
        """As the state keeps it."""
        return state.Formation(tuple(sorted(self.optional_roles)), self.until_ms)


@inputs
class RoleName(Inputs, frozen=True):
    """One role of the council."""

    role: str

    def __post_init__(self) -> None:
        check_names("role", self.role)


@inputs
class TaskName(Inputs, frozen=True):
    """One task of the plan."""

    task: str

    def __post_init__(self) -> None:
        check_names("task", self.task)
