"""Contexts for guards and effects, told in a few words: who signs what, on which regions, under which facts.

People are named; their principals and keys follow from the name. Nothing here judges.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

import swoosh.regions  # noqa: F401  (registers what the chart names)
from swoosh.catalog import CHOICES, EFFECTS, GUARDS, INPUTS, Context, Registry, Verdict
from swoosh.chart import load_chart
from swoosh.facts import Fact, FactBoard, Known, known
from swoosh.merkle import MerkleMap
from swoosh.principal import name_of
from swoosh.state import (
    ChartInForce,
    ClusterMember,
    ClusterRegions,
    Identities,
    Identity,
    Members,
    ProjectRegions,
    Settings,
)

CHART = load_chart((Path(__file__).resolve().parents[2] / "statechart.yaml").read_text(encoding="utf-8"))
CLUSTER_ID = "swoosh-0123456789abcdef0123456789abcdef"
NOW = 1_767_225_600_000  # 2026-01-01T00:00:00Z
PROJECT = "alpha"

ROLES: dict[str, tuple[str, ...]] = {
    "op": ("operator",),
    "root": ("admin",),
    "pol": ("policy",),
    "pam": ("proposer:*",),
    "ivy": ("proposer:ingestion",),
    "alice": ("agent",),
    "bob": ("agent",),
    "carol": ("agent",),
    "ed": ("elector",),
    "eli": ("elector",),
    "eva": ("elector",),
    "n1": ("node",),
    "probe": ("provider:*",),
}


def who(name: str) -> str:
    """The principal of a named person."""
    return name_of(sha256(name.encode()).digest())


def h(text: str) -> str:
    """A hash that is easy to tell from others."""
    return "sha256-" + sha256(text.encode()).hexdigest()


def fact(kind: str, subject: str, *, age_ms: int = 0, life_ms: int = 60_000, by: str = "probe", **body: Any) -> Known:
    """A fact on the board, observed ``age_ms`` ago and good for ``life_ms`` from then."""
    observed = NOW - age_ms
    return known(Fact(kind, subject, observed, 1, observed + life_ms, body, who(by)), who(by))


def identities(roles: Mapping[str, tuple[str, ...]], *, revoked: tuple[str, ...] = ()) -> Identities:
    """The identity table of named people."""
    entries = {who(name): Identity(name, held, (), name in revoked) for name, held in roles.items()}
    return Identities(entries=MerkleMap(entries))


def registry(
    *facts: Known,
    settings: Mapping[str, Any] | None = None,
    nodes: int = 3,
    roles: Mapping[str, tuple[str, ...]] | None = None,
    revoked: tuple[str, ...] = (),
) -> Registry:
    """What guards consult."""
    board = FactBoard()
    for each in facts:
        board = board.set(each)
    cluster = ClusterRegions(
        identities=identities({**ROLES, **(roles or {})}, revoked=revoked),
        settings=Settings(values=dict(settings or {})),
        members=Members(nodes={f"n{number}": ClusterMember() for number in range(1, nodes + 1)}),
        chart=ChartInForce(chart_hash=CHART.hash, version=CHART.version),
    )
    return Registry(CLUSTER_ID, board, cluster)


def context(
    transition: str,
    inputs: Mapping[str, Any] | None = None,
    *,
    regions: ProjectRegions | None = None,
    on: Registry | None = None,
    signer: str = "pam",
    behalf: str | None = None,
    window: str = "",
    voters: tuple[str, ...] = (),
    project: str = PROJECT,
    now_ms: int = NOW,
    trusting: bool = False,
) -> Context:
    """The context of one proposal. ``signer`` and ``voters`` are people's names, ``behalf`` is a principal as sent.

    Raises:
        msgspec.ValidationError: the inputs are not of the transition's form.
    """
    row = CHART.project.resolve(transition) or CHART.cluster.resolve(transition)
    assert row is not None, transition
    return Context(
        project=project,
        regions=regions or ProjectRegions(),
        registry=on or registry(),
        transition=row,
        chart_hash=CHART.hash,
        inputs=msgspec.convert(dict(inputs or {}), INPUTS[row.inputs]),
        signer=who(signer),
        principal=who(signer) if behalf is None else behalf,
        hlc="2026-01-01T00:00:00.000+00:00#1",
        window_id=window,
        evidence=(),
        log_index=1_000,
        stamp_us=now_ms * 1000,
        voters=tuple(sorted(map(who, voters))),
        trusting=trusting,
    )


def judge(guard: str, c: Context) -> Verdict:
    """One guard's verdict. A guard always says why, whichever way it decides."""
    verdict = GUARDS[guard](c)
    assert verdict.reasons and all(verdict.reasons), f"{guard} gives no reason"
    return verdict


def holds(guard: str, c: Context) -> bool:
    """Whether a guard holds."""
    return judge(guard, c).ok


def first_refusal(c: Context) -> str | None:
    """The first guard of the transition's own that refuses, in chart order; None when all hold."""
    return next((name for name in c.transition.guards if not holds(name, c)), None)


def after(c: Context) -> ProjectRegions:
    """The regions after the transition's effect, every guard of its own having held; phases are left as they were."""
    assert first_refusal(c) is None, first_refusal(c)
    assert c.transition.effect is not None
    return msgspec.structs.replace(c.regions, **EFFECTS[c.transition.effect](c))


def chosen(name: str, c: Context) -> str:
    """The phase a choice picks."""
    return CHOICES[name](c)
