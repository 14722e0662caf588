"""statechart.yaml → Chart: shape first, then meaning, and every fault at once.

The chart is the one source of regions, phases, transitions and gates; the reducer looks things up here and knows none
of them by name. A chart that could strand a project (a phase nobody reaches, or nobody leaves) is refused, as is one
that is ambiguous (two spellings that fold to one).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from swoosh.errors import ChartError
from swoosh.hashing import digest
from swoosh.outcome import Code
from swoosh.proposal import CLUSTER
from swoosh.settings import WINDOW_CLASSES

_TOP = {"machine", "version", "tree", "gates", "project", "cluster"}
_TRANSITION = {
    "region", "creates", "from", "to", "also", "asks", "guards", "inputs", "effect", "by", "window", "aliases", "why",
}  # fmt: skip
_DEFAULT_SIGNERS = ("proposer", "operator")


class Choice(NamedTuple):
    """A target picked by a registered pure function among ``of``."""

    name: str
    of: tuple[str, ...]


class Gate(NamedTuple):
    """A hold over regions, judged before phases and guards."""

    name: str
    closed_while: dict[str, tuple[str, ...]]
    blocks: frozenset[str]
    exempt: frozenset[str]
    code: Code


class Transition(NamedTuple):
    """One row of the chart. ``targets`` maps each source phase to the phase entered; with a choice it is empty.

    ``gates`` are those that may hold it, ``judged_by`` all guards in the order they are judged: authorisation, the
    window, then the chart's own.
    """

    name: str
    region: str
    creates: bool
    sources: tuple[str, ...]
    targets: dict[str, str]
    choice: Choice | None
    also: dict[str, str]
    asks: dict[str, tuple[str, ...]]
    guards: tuple[str, ...]
    inputs: str
    effect: str | None
    by: tuple[str, ...]
    window: str | None
    aliases: tuple[str, ...]
    why: str
    gates: tuple[Gate, ...]
    judged_by: tuple[str, ...]


class RegionShape(NamedTuple):
    """The phases of one region."""

    name: str
    initial: str
    phases: tuple[str, ...]
    final: tuple[str, ...]


class Statechart(NamedTuple):
    """Regions and transitions of one kind of document."""

    regions: dict[str, RegionShape]
    transitions: dict[str, Transition]
    spellings: dict[str, str]

    def resolve(self, text: str) -> Transition | None:
        """The transition ``text`` spells: canonical name or alias, case folded, ``-`` and ``_`` ignored."""
        name = self.spellings.get(fold(text))
        return None if name is None else self.transitions[name]


class Chart(NamedTuple):
    """The machine. ``hash`` covers the whole document and rides in every log entry."""

    machine: str
    version: str
    tree: dict[str, Any]
    gates: tuple[Gate, ...]
    project: Statechart
    cluster: Statechart
    hash: str

    def of(self, project_id: str) -> Statechart:
        """The statechart that governs a project id."""
        return self.cluster if project_id == CLUSTER else self.project

    def transitions(self) -> Iterator[Transition]:
        """Every transition, projects' first."""
        yield from self.project.transitions.values()
        yield from self.cluster.transitions.values()

    def names(self) -> dict[str, set[str]]:
        """The functions and types the chart names, by kind."""
        every = list(self.transitions())
        return {
            "guard": {"authorised", "window_open"} | {name for t in every for name in t.guards},
            "effect": {t.effect for t in every if t.effect},
            "choice": {t.choice.name for t in every if t.choice},
            "inputs": {t.inputs for t in every},
        }


def fold(text: str) -> str:
    """How spellings are compared: upper case, without ``-`` and ``_``."""
    return text.upper().replace("-", "").replace("_", "")


def load_chart(text: str) -> Chart:
    """The chart of a YAML document.

    Raises:
        ChartError: every fault of shape or meaning, in one text.
    """
    document = strict_yaml(text, "statechart")
    if not isinstance(document, dict) or set(document) != _TOP:
        raise ChartError(f"statechart needs exactly {sorted(_TOP)} at the top")
    try:
        gates = tuple(_gate(gate) for gate in document["gates"])
        chart = Chart(
            machine=str(document["machine"]),
            version=str(document["version"]),
            tree=document["tree"],
            gates=gates,
            project=_statechart(document["project"], gates),
            cluster=_statechart(document["cluster"], ()),
            hash=digest("chart", document),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ChartError(f"statechart is misshapen: {type(error).__name__} {error}") from None
    faults = [*_faults(chart.project), *_faults(chart.cluster), *_gate_faults(chart), *_tree_faults(chart)]
    if faults:
        raise ChartError("; ".join(faults))
    return chart


def strict_yaml(text: str, what: str) -> Any:
    """What a YAML document says. ``what`` it is, for the reason.

    Raises:
        ChartError: it does not parse, or says one key twice.
    """
    try:
        return _StrictLoader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ChartError(f"{what} does not parse: {error}") from None


class _StrictLoader(yaml.CSafeLoader):
    """Refuses a mapping that says one key twice. libyaml's parser: ten times as fast, and every start waits for it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise ChartError(f"duplicate keys {sorted(map(str, twice))} at line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep=deep)


def _statechart(document: Mapping[str, Any], gates: tuple[Gate, ...]) -> Statechart:
    regions = {
        name: RegionShape(name, body["initial"], tuple(body["phases"]), tuple(body.get("final", ())))
        for name, body in document["regions"].items()
    }
    transitions = {name: _transition(name, body, gates) for name, body in document["transitions"].items()}
    spellings: dict[str, str] = {}
    for transition in transitions.values():
        for spelling in (transition.name, *transition.aliases):
            other = spellings.setdefault(fold(spelling), transition.name)
            if other != transition.name:
                raise ChartError(f"{spelling} spells both {other} and {transition.name}")
    return Statechart(regions, transitions, spellings)


def _transition(name: str, body: Mapping[str, Any], gates: tuple[Gate, ...]) -> Transition:
    if set(body) - _TRANSITION:
        raise ChartError(f"{name}: unknown members {sorted(set(body) - _TRANSITION)}")
    to, sources = body["to"], tuple(body["from"])
    choice = Choice(to["choice"], tuple(to["of"])) if isinstance(to, dict) and "choice" in to else None
    targets = {} if choice else dict(to) if isinstance(to, dict) else dict.fromkeys(sources, to)
    window, guards = body.get("window"), tuple(body.get("guards", ()))
    return Transition(
        name=name,
        region=body["region"],
        creates=body.get("creates", False),
        sources=sources,
        targets=targets,
        choice=choice,
        also=dict(body.get("also", {})),
        asks={region: tuple(phases) for region, phases in body.get("asks", {}).items()},
        guards=guards,
        inputs=body["inputs"],
        effect=body.get("effect"),
        by=tuple(body.get("by", _DEFAULT_SIGNERS)),
        window=window,
        aliases=tuple(body.get("aliases", ())),
        why=body["why"],
        gates=tuple(gate for gate in gates if body["region"] in gate.blocks and name not in gate.exempt),
        judged_by=("authorised", *(("window_open",) if window else ()), *guards),
    )


def _gate(body: Mapping[str, Any]) -> Gate:
    return Gate(
        name=body["name"],
        closed_while={region: tuple(phases) for region, phases in body["closed_while"].items()},
        blocks=frozenset(body["blocks"]),
        exempt=frozenset(body.get("except", ())),
        code=Code(body["code"]),
    )


def _faults(chart: Statechart) -> Iterator[str]:
    for transition in chart.transitions.values():
        yield from _transition_faults(transition, chart.regions)
    for region in chart.regions.values():
        yield from _phase_faults(region, chart.transitions)


def _transition_faults(transition: Transition, regions: Mapping[str, RegionShape]) -> Iterator[str]:
    named = [(transition.region, (*transition.sources, *transition.targets, *transition.targets.values()))]
    named += [(region, (phase,)) for region, phase in transition.also.items()]
    named += list(transition.asks.items())
    if transition.choice:
        named.append((transition.region, transition.choice.of))
    for region, phases in named:
        if region not in regions:
            yield f"{transition.name}: unknown region {region}"
        elif set(phases) - set(regions[region].phases):
            yield f"{transition.name}: {region} has no phase {sorted(set(phases) - set(regions[region].phases))}"
    if not transition.choice and set(transition.targets) != set(transition.sources):
        yield f"{transition.name}: `to` must name a target for every phase in `from`"
    if transition.window is not None and transition.window not in WINDOW_CLASSES:
        yield f"{transition.name}: unknown time class {transition.window}; known: {', '.join(WINDOW_CLASSES)}"
    if len(set(transition.guards)) != len(transition.guards):
        yield f"{transition.name}: a guard is listed twice"


def _phase_faults(region: RegionShape, transitions: Mapping[str, Transition]) -> Iterator[str]:
    edges = [edge for transition in transitions.values() for edge in moves(transition, region)]
    reached, frontier = {region.initial}, [region.initial]
    while frontier:
        phase = frontier.pop()
        for source, target in edges:
            if source == phase and target not in reached:
                reached.add(target)
                frontier.append(target)
    for phase in region.phases:
        if phase not in reached:
            yield f"{region.name}: phase {phase} cannot be reached"
        leaves = any(source == phase and target != phase for source, target in edges)
        if not leaves and phase not in region.final and len(region.phases) > 1:
            yield f"{region.name}: phase {phase} cannot be left and is not final"


def moves(transition: Transition, region: RegionShape) -> Iterator[tuple[str, str]]:
    """(source, target) of every move of ``region`` that a transition can make."""
    if transition.region == region.name:
        yield from transition.targets.items()
        if transition.choice:
            yield from ((source, target) for source in transition.sources for target in transition.choice.of)
    if region.name in transition.also:
        yield region.initial, transition.also[region.name]


def _gate_faults(chart: Chart) -> Iterator[str]:
    regions, transitions = chart.project.regions, chart.project.transitions
    for gate in chart.gates:
        for region, phases in gate.closed_while.items():
            if region not in regions or set(phases) - set(regions[region].phases):
                yield f"gate {gate.name}: unknown phase in {region}: {phases}"
        if gate.blocks - set(regions):
            yield f"gate {gate.name}: unknown regions {sorted(gate.blocks - set(regions))}"
        if gate.exempt - set(transitions):
            yield f"gate {gate.name}: unknown transitions {sorted(gate.exempt - set(transitions))}"


def _tree_faults(chart: Chart) -> Iterator[str]:
    named = dict(_tree_regions(chart.tree))
    for node, region in named.items():
        if region not in chart.project.regions:
            yield f"tree node {node}: unknown region {region}"
    top_level = set(chart.project.regions["lifecycle"].phases) if "lifecycle" in chart.project.regions else set()
    if not top_level <= set(chart.tree):
        yield f"the tree lacks {sorted(top_level - set(chart.tree))}, which the lifecycle region rests in"


def _tree_regions(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for node, body in tree.items():
        if "region" in body:
            yield node, body["region"]
        yield from _tree_regions(body.get("children", {}))
