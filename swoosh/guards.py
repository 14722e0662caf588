"""Guards that regions share, and the questions several of them ask.

A guard is a pure function of a Context. It refuses with a sentence that names what it saw and what it needs, and
passes with one that justifies the transition in its Decision Record (Brief §6). A guard's docstring is its line in
docs/reference/guards.md: what it reads, and what it refuses.

Rules of one region live in regions/, not here.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from swoosh import windows
from swoosh.catalog import Context, Verdict, guard, passed, refused
from swoosh.chart import Transition
from swoosh.facts import Body, Known
from swoosh.proposal import DEFAULT_PROJECT
from swoosh.state import Environment, Identity

BodyOf = TypeVar("BodyOf", bound=Body)
_NEVER_WITH_POLICY = ("node", "provider:")


# --- who --------------------------------------------------------------------------------------------------------------


@guard
def authorised(c: Context) -> Verdict:
    """Reads the signer's roles in the project; refuses a signer who holds none that the chart lists."""
    lacking = may_sign(c.transition, c.roles, on_behalf=c.principal != c.signer)
    if lacking is not None:
        return refused(lacking)
    behalf = f" on behalf of {c.principal}" if c.principal != c.signer else ""
    return passed(f"{c.signer} holds {', '.join(c.roles)} and may sign {c.transition.name}{behalf}")


def may_sign(transition: Transition, roles: tuple[str, ...], *, on_behalf: bool) -> str | None:
    """What someone with these roles lacks to sign the transition, or None.

    ``on_behalf`` says that another principal is named: only nodes speak for others, and only where an agent or a
    proposer could have spoken.
    """
    if on_behalf:
        if "node" not in roles:
            return f"on_behalf_of needs the role node; held: {_listed(roles)}"
        if not any(entry == "agent" or entry.startswith("proposer") for entry in transition.by):
            return f"{transition.name} is not signed for others; it is signed by {_listed(transition.by)}"
        return None
    held = [entry for entry in transition.by if _holds(roles, entry, transition.region)]
    if not held:
        return f"{transition.name} needs one of {_listed(transition.by)}; held: {_listed(roles)}"
    if held == ["policy"] and any(role.startswith(_NEVER_WITH_POLICY) for role in roles):
        return f"a policy key belongs to a person: it may not also be a node's or a provider's; held: {_listed(roles)}"
    return None


def _holds(roles: tuple[str, ...], entry: str, region: str) -> bool:
    """Whether an entry of ``by`` is met: ``proposer`` by proposer:<region>, any ``x:y`` also by ``x:*``."""
    if entry == "proposer":
        entry = f"proposer:{region}"
    if entry == "proposer:any":
        return any(role.startswith("proposer:") for role in roles)
    kind, colon, _ = entry.partition(":")
    return entry in roles or (bool(colon) and f"{kind}:*" in roles)


def _listed(words: tuple[str, ...]) -> str:
    return ", ".join(words) or "none"


def signed_by_operator(c: Context) -> bool:
    """Whether an operator signs, and for nobody else."""
    return c.signer == c.principal and "operator" in c.roles


def has_role(c: Context, principal: str, role: str) -> bool:
    """Whether a principal holds a role in this project and was not revoked."""
    return holds(c.registry.identity(principal), role, c.project)


def holds(identity: Identity | None, role: str, project: str) -> bool:
    """Whether an identity, if there is one, holds a role in a project and was not revoked."""
    if identity is None or identity.revoked or role not in identity.roles:
        return False
    return not identity.projects or project in identity.projects


def is_revoked(c: Context, principal: str) -> bool:
    """Whether a principal was registered and revoked. One that was never registered is not: a node may vouch for it."""
    identity = c.registry.cluster.identities.entries.get(principal)
    return identity is not None and identity.revoked


# --- when -------------------------------------------------------------------------------------------------------------


@guard
def window_open(c: Context) -> Verdict:
    """Reads window_id, the active window, and frames, bar reports or the tide; refuses outside the time class."""
    window_class, active = c.transition.window or "", c.regions.execution.active_window_id
    opening = windows.verdict(window_class, c.window_id, active, c.registry, c.now_ms)
    return Verdict(opening.ok, (opening.reason,), opening.facts)


# --- what -------------------------------------------------------------------------------------------------------------


@guard
def not_default(c: Context) -> Verdict:
    """Reads the project's name; refuses to end the project default, which always exists."""
    if c.project == DEFAULT_PROJECT:
        return refused(f"project {DEFAULT_PROJECT} always exists; end a project of your own, or pause this one")
    return passed(f"{c.project} may end")


@guard
def regions_ready(c: Context) -> Verdict:
    """Reads ingestion, council, environment; refuses unless all are READY and no asset's effect is in flight."""
    r = c.regions
    phases = {"ingestion": r.ingestion.phase, "council": r.council.phase, "environment": r.environment.phase}
    waiting = [f"{region} is in {phase}; READY is needed" for region, phase in phases.items() if phase != "READY"]
    moving = asset_in_flight(r.environment)
    if moving:
        waiting.append(f"asset {moving} is {r.environment.assets[moving].state}; every effect must be settled")
    return refused(*waiting) if waiting else passed("ingestion, council and environment are READY")


@guard
def hashes_match(c: Context) -> Verdict:
    """Reads the inputs' hashes, ingestion's pin, bases and hashes of council and environment; refuses a difference."""
    r, named = c.regions, c.inputs
    faults = [
        f"{what} is {held or 'not set'}; the inputs name {wanted}"
        for what, held, wanted in (
            ("ingestion's pinned content", r.ingestion.content_hash, named.content_hash),
            ("the content the council was made ready for", r.council.basis, named.content_hash),
            ("the content the environment was found healthy for", r.environment.basis, named.content_hash),
            ("the council's member set", r.council.member_set_hash, named.member_set_hash),
            ("the environment", r.environment.environment_hash, named.environment_hash),
        )
        if held != wanted
    ]
    return refused(*faults) if faults else passed(f"all regions stand on content {named.content_hash}")


def asset_in_flight(environment: Environment) -> str | None:
    """The asset whose effect was requested and not yet answered, if there is one."""
    moving = (name for name, asset in environment.assets.items() if asset.state in ("REQUESTED", "REVERTING"))
    return min(moving, default=None)


def said(fact: Known, kind: type[BodyOf]) -> BodyOf:
    """A fact's body as the type of its kind, which it was checked against when it was taken."""
    return msgspec.convert(fact.body, kind)
