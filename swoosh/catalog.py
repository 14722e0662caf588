"""Where guards and effects are registered by the name the chart calls them.

A guard answers "may it happen?", an effect "what does it change?". Both are pure functions of a Context. Guards see
everything and change nothing; an effect returns the new value of regions, never a phase, an epoch or a clock: the
reducer sets those from the chart. ``bind`` refuses a chart that names a function nobody wrote, and a function no
chart names, so the two cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from swoosh.errors import ChartError
from swoosh.facts import FactBoard, Known
from swoosh.outcome import GuardOutcome
from swoosh.settings import lookup
from swoosh.state import ClusterRegions, Identity, ProjectRegions

if TYPE_CHECKING:
    from swoosh.chart import Chart, Transition


class Registry(NamedTuple):
    """What guards consult, shared by all projects."""

    cluster_id: str
    facts: FactBoard
    cluster: ClusterRegions

    def setting(self, name: str) -> Any:
        """A setting's value in force."""
        return lookup(self.cluster.settings.values, name)

    def identity(self, principal: str) -> Identity | None:
        """The unrevoked identity of a principal, or None."""
        identity = self.cluster.identities.entries.get(principal)
        return None if identity is None or identity.revoked else identity

    def fact(self, kind: str, subject: str) -> Known | None:
        """The newest fact whose provider is not revoked."""
        known = self.facts.get(kind, subject)
        if known is None:
            return None
        held = self.cluster.identities.entries.get(known.provider)
        return None if held is not None and held.revoked else known


class Context(NamedTuple):
    """Everything a guard or effect may look at.

    ``inputs`` is the Struct the chart names for the transition, already converted. ``log_index`` is where in the log
    it is judged, ``stamp_us`` the leader stamp of the entry, the only time there is. ``voters`` are the principals
    whose vote signatures were verified before the log.
    """

    project: str
    regions: ProjectRegions
    registry: Registry
    transition: Transition
    chart_hash: str
    inputs: Any
    signer: str
    principal: str
    hlc: str
    window_id: str
    evidence: tuple[str, ...]
    log_index: int
    stamp_us: int
    voters: tuple[str, ...]
    trusting: bool

    @property
    def now_ms(self) -> int:
        """The stamp in milliseconds since 1970."""
        return self.stamp_us // 1000

    @property
    def roles(self) -> tuple[str, ...]:
        """The signer's roles in this project: none for an unknown or revoked identity. An unsigned proposal has those
        of a stranger, and none where its signer is registered: nobody proved to be that one."""
        if self.trusting:
            return () if self.signer in self.registry.cluster.identities.entries else ("proposer:*",)
        identity = self.registry.identity(self.signer)
        if identity is None:
            return ()
        return identity.roles if not identity.projects or self.project in identity.projects else ()

    def fresh(self, kind: str, subject: str) -> Known | None:
        """The newest fact that has not expired at the stamp."""
        known = self.registry.fact(kind, subject)
        return known if known is not None and known.expires_at > self.now_ms else None


class Verdict(NamedTuple):
    """A guard's answer: why, and the digests of the facts it rests on."""

    ok: bool
    reasons: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


def passed(*reasons: str, facts: tuple[str, ...] = ()) -> Verdict:
    """The guard holds; the reasons justify it in the Decision Record."""
    return Verdict(True, reasons, facts)


def refused(*reasons: str, facts: tuple[str, ...] = ()) -> Verdict:
    """The guard does not hold; each reason is a sentence naming what was seen and what is needed."""
    return Verdict(False, reasons, facts)


Guard = Callable[[Context], Verdict]
Effect = Callable[[Context], Mapping[str, Any]]
Choice = Callable[[Context], str]
S = TypeVar("S", bound=msgspec.Struct)

GUARDS: dict[str, Guard] = {}
EFFECTS: dict[str, Effect] = {}
CHOICES: dict[str, Choice] = {}
INPUTS: dict[str, type[msgspec.Struct]] = {}


def guard(function: Guard) -> Guard:
    """Register a guard under its own name."""
    _register(GUARDS, function)
    return function


def effect(function: Effect) -> Effect:
    """Register an effect under its own name. It returns {region attribute: new region value}."""
    _register(EFFECTS, function)
    return function


def choice(function: Choice) -> Choice:
    """Register a pure function that picks the target phase where the chart says ``to: {choice: …}``."""
    _register(CHOICES, function)
    return function


def inputs(kind: type[S]) -> type[S]:
    """Register the Struct of a transition's inputs under its class name."""
    _register(INPUTS, kind)
    return kind


def _register(table: dict[str, Any], thing: Any) -> None:
    if thing.__name__ in table and table[thing.__name__] is not thing:
        raise ChartError(f"{thing.__name__} is defined twice")
    table[thing.__name__] = thing


def judge(name: str, context: Context) -> GuardOutcome:
    """Run one guard by name."""
    verdict = GUARDS[name](context)
    return GuardOutcome(name, verdict.ok, verdict.reasons, verdict.facts)


def bind(chart: Chart) -> None:
    """Refuse a chart and a catalogue that do not name the same functions.

    Raises:
        ChartError: listing every name that is missing in the code and every one the chart forgot.
    """
    used = chart.names()
    faults: list[str] = []
    for what, table in (("guard", GUARDS), ("effect", EFFECTS), ("choice", CHOICES), ("inputs", INPUTS)):
        faults += [f"the chart names {what} {name}, which no code defines" for name in sorted(used[what] - set(table))]
        faults += [f"{what} {name} is defined, but no transition names it" for name in sorted(set(table) - used[what])]
    if faults:
        raise ChartError("; ".join(faults))
