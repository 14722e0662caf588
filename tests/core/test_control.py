"""Holds: an operator's pause, and recovery while too few members are present."""

from typing import Any

import pytest

from swoosh.state import Council, Member, ProjectRegions, Recovery
from tests.core.contexts import PROJECT, after, context, fact, first_refusal, holds, registry, who


def council(*names: str) -> ProjectRegions:
    return ProjectRegions(council=Council(members=tuple(Member(f"r-{name}", name, who(name)) for name in names)))


def present(*names: str, age_ms: int = 0) -> list[Any]:
    return [fact("agent", who(name), name=name, age_ms=age_ms) for name in names]


ALL = ("alice", "bob", "carol")


@pytest.mark.parametrize(
    ("seated", "there", "lost", "quorate"),
    [
        (ALL, ALL, False, True),
        (ALL, ("alice", "bob"), False, True),
        (ALL, ("alice",), True, False),
        (ALL, (), True, False),
        (("alice",), ("alice",), False, True),
        (("alice",), ("bob",), True, False),
        ((), ALL, False, False),
    ],
)
def test_a_council_has_its_quorum_while_a_majority_is_present(
    seated: tuple[str, ...], there: tuple[str, ...], lost: bool, quorate: bool
) -> None:
    on = registry(*present(*there))
    assert holds("council_below_quorum", context("EXECUTION_QUORUM_LOST", regions=council(*seated), on=on)) is lost
    assert holds("council_quorate", context("CONTROL_RECOVERED", regions=council(*seated), on=on)) is quorate


def test_who_was_last_seen_long_ago_or_was_revoked_is_not_present() -> None:
    lost = context("EXECUTION_QUORUM_LOST", regions=council(*ALL), on=registry(*present(*ALL, age_ms=60_000)))
    assert holds("council_below_quorum", lost)
    revoked = registry(*present("alice", "bob"), revoked=("bob",))
    assert holds("council_below_quorum", context("EXECUTION_QUORUM_LOST", regions=council(*ALL), on=revoked))


def test_recovery_remembers_why_and_since_when() -> None:
    c = context("EXECUTION_QUORUM_LOST", regions=council(*ALL), on=registry(*present("alice")))
    held = after(c).recovery
    assert held == Recovery(reason="1 of 3 seated members are present", since_hlc=c.hlc)
    back = context("CONTROL_RECOVERED", regions=council(*ALL), on=registry(*present(*ALL)))
    assert after(back).recovery.reason == ""


@pytest.mark.parametrize("transition", ["CONTROL_PAUSED", "CONTROL_RESUMED"])
def test_a_pause_says_who_why_and_when(transition: str) -> None:
    c = context(transition, {"reason": "audit"}, signer="op")
    held = after(c).pause
    assert (held.reason, held.by, held.since_hlc) == ("audit", who("op"), c.hlc)


def test_a_project_begins_with_its_brief_and_ends_with_a_reason() -> None:
    brief = {"brief": "Index the archive.", "repository": "https://git.example/atlas", "planned_roles": ["lead", "dev"]}
    c = context("PROJECT_CREATED", brief)
    meta = after(c).meta
    assert (meta.project_id, meta.planned_roles, meta.created_hlc) == (PROJECT, ("lead", "dev"), c.hlc)
    assert meta.chart_hash == c.chart_hash and meta.schema_hash.startswith("sha256-")
    closed = after(context("PROJECT_CLOSED", {"reason": "shipped"}, signer="op")).lifecycle
    assert (closed.reason, closed.closed_by) == ("shipped", who("op"))
    assert first_refusal(context("PROJECT_CLOSED", {"reason": "no"}, signer="op", project="default")) == "not_default"
