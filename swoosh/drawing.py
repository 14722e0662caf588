"""The chart as a picture: Graphviz DOT for the page and the printer, Mermaid for whoever reads Markdown.

A picture is derived from the same chart the reducer looks things up in, so it cannot show a machine that is not run.
Both texts are drawn from one model: boxes (the nodes of the chart's tree), regions in them, phases in those. What makes
it readable:

* edges between the same two phases are one edge with several names;
* a transition that stays in its phase, or that leads to one phase from everywhere, is a line inside that phase, as in
  a UML statechart, and not a loop or a fan of arrows;
* a region's own name is left off its transitions (``FETCHED``, not ``INGESTION_FETCHED``);
* a hold (CONTROL, POLICY) stands apart and says what it holds, instead of sending an arrow to each of them.

Pure text in, pure text out: Graphviz itself is run in cluster/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from swoosh.chart import Chart, RegionShape, Statechart, Transition, moves

TOP = "lifecycle"  # the region whose phases are the boxes of the tree
FAN_MIN = 2  # arrows from so many phases to one are still easier to follow than a line of text
CREATION = "meta"  # the region that knows whether there is a project at all

Phases = Mapping[str, str]
"""{region: phase} of one project, to be lit; empty for a picture of the machine alone."""


class Edge(NamedTuple):
    """An arrow and the transitions it stands for. ``back``: it leads against the order the chart lists phases in."""

    source: str
    target: str
    names: tuple[str, ...]
    back: bool = False


class Phase(NamedTuple):
    """A state. ``lines`` says which transitions stay in it or lead here from everywhere; ``holds`` names boxes."""

    name: str
    lines: tuple[str, ...]
    holds: tuple[str, ...]
    lit: bool

    @property
    def text(self) -> tuple[str, ...]:
        """What stands in it below its name."""
        return (*self.lines, f"holds {', '.join(self.holds)}") if self.holds else self.lines


class Region(NamedTuple):
    """A state machine of its own, beside others of the same box."""

    name: str
    title: str
    initial: str
    phases: tuple[Phase, ...]
    edges: tuple[Edge, ...]


class Box(NamedTuple):
    """A node of the tree. ``beside``: it is no phase of the lifecycle but a hold that exists all the time."""

    name: str
    regions: tuple[Region, ...]
    beside: bool
    lit: bool


class Picture(NamedTuple):
    """Everything both renderers draw. ``entry`` names what leads into the first box."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    entry: tuple[str, ...]


# --- what there is to draw --------------------------------------------------------------------------------------------


def picture(chart: Chart, phases: Phases | None = None) -> Picture:
    """The project's machine as boxes, regions, phases and arrows."""
    lit = phases or {}
    top = chart.project.regions[TOP]
    boxes = tuple(
        Box(
            name=name,
            regions=tuple(_region(chart, title, body, lit) for title, body in _regions_in(name, node)),
            beside=name not in top.phases,
            lit=lit.get(TOP) == name,
        )
        for name, node in chart.tree.items()
    )
    entry = tuple(name for name, transition in chart.project.transitions.items() if transition.region == CREATION)
    return Picture(boxes, tuple(_merged(chart.project, top)), entry)


def _regions_in(name: str, node: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if "region" in node:
        yield name, node
    for child, body in node.get("children", {}).items():
        yield from _regions_in(child, body)


def _region(chart: Chart, title: str, body: Mapping[str, Any], lit: Phases) -> Region:
    shape = chart.project.regions[body["region"]]
    initial = body.get("initial", shape.initial)
    outside = shape.initial if initial != shape.initial else None  # where it rests while its box is not active
    arrows = [edge for edge in _merged(chart.project, shape) if edge.source != outside]
    phases = tuple(
        Phase(
            name=phase,
            lines=tuple(_lines(chart, shape, phase, arrows)),
            holds=_held_by(chart, shape.name, phase),
            lit=lit.get(shape.name) == phase,
        )
        for phase in shape.phases
        if phase != outside
    )
    return Region(shape.name, title, initial, phases, tuple(edge for edge in arrows if edge.source != edge.target))


def _lines(chart: Chart, shape: RegionShape, phase: str, arrows: Iterable[Edge]) -> Iterator[str]:
    yield from (f"↻ {name}" for edge in arrows if edge.source == phase == edge.target for name in edge.names)
    for transition in chart.project.transitions.values():
        if _from_everywhere(transition, shape) and phase in transition.targets.values():
            yield f"from any phase: {_short(transition, shape)}"


def _from_everywhere(transition: Transition, shape: RegionShape) -> bool:
    """Whether arrows would come from all over the region and say nothing by it."""
    everywhere = transition.region == shape.name and len(transition.sources) == len(shape.phases) > FAN_MIN
    return everywhere and len(set(transition.targets.values())) == 1


def _merged(statechart: Statechart, shape: RegionShape) -> Iterator[Edge]:
    """The arrows of one region, in the order of its phases."""
    names: dict[tuple[str, str], list[str]] = {}
    for transition in statechart.transitions.values():
        if not _from_everywhere(transition, shape):
            for pair in moves(transition, shape):
                names.setdefault(pair, []).append(_short(transition, shape))
    order = shape.phases.index
    for source, target in sorted(names, key=lambda pair: (order(pair[0]), order(pair[1]))):
        yield Edge(source, target, tuple(names[source, target]), order(target) < order(source))


def _short(transition: Transition, shape: RegionShape) -> str:
    name = (
        transition.name.removeprefix(f"{shape.name.upper()}_") if transition.region == shape.name else transition.name
    )
    return f"{name} [{transition.window}]" if transition.window else name


def _held_by(chart: Chart, region: str, phase: str) -> tuple[str, ...]:
    """The boxes in which a gate lets nothing happen while ``region`` is in ``phase``."""
    blocked = {held for gate in chart.gates if phase in gate.closed_while.get(region, ()) for held in gate.blocks}
    return tuple(
        name
        for name, node in chart.tree.items()
        if name in chart.project.regions[TOP].phases
        and any(body["region"] in blocked for _, body in _regions_in(name, node))
    )


# --- Graphviz ---------------------------------------------------------------------------------------------------------

_FONT = 'fontname="Helvetica,Arial,sans-serif"'
_INK, _QUIET = "#1f2937", "#64748b"
_LIT, _STOP = "#047857", "#b91c1c"  # a phase the project is in; one that holds it up
_FILL = {False: "#eef4fb", True: "#fdf3e0"}  # a box of the lifecycle; a hold
_LINE = {False: "#7a9cc6", True: "#d3a04d"}
_LEGEND = "dashed: back to an earlier phase    ↻ accepted without leaving the phase    [work]: only in that time class"


def to_dot(chart: Chart, phases: Phases | None = None) -> str:
    """Graphviz DOT: the lifecycle from top to bottom, holds in a column beside it, the phases of ``phases`` lit."""
    shown = picture(chart, phases)
    lines = [
        f"digraph {chart.machine} {{",
        "compound=true; rankdir=TB; newrank=true; nodesep=0.35; ranksep=0.3; bgcolor=white; pad=0.3;",
        f'graph [{_FONT}, fontsize=13, fontcolor="{_INK}"];',
        f'node [{_FONT}, fontsize=12, fontcolor="{_INK}", shape=box, style="rounded,filled", fillcolor=white, '
        f'color="{_QUIET}", margin="0.14,0.07"];',
        f'edge [{_FONT}, fontsize=10, fontcolor="{_INK}", color="{_QUIET}", arrowsize=0.7];',
    ]
    for box in shown.boxes:
        lines += _dot_box(box)
    lines += _dot_between(shown)
    lines += _dot_columns(shown.boxes)
    lines.append(f'label="{_LEGEND}"; labelloc=b;')  # last, or every box would inherit it
    return "\n".join((*lines, "}", ""))


def _dot_box(box: Box) -> Iterator[str]:
    line, width = (_LIT, 3) if box.lit else (_LINE[box.beside], 1)
    if not box.regions:
        yield f'{box.name} [shape=doubleoctagon, label=<<b>{box.name}</b>>, color="{line}", penwidth={width}];'
        return
    yield f"subgraph cluster_{box.name} {{"
    yield f'label=<<b>{box.name}{" (holds)" if box.beside else ""}</b>>; style="rounded,filled"; margin=14;'
    yield f'fillcolor="{_FILL[box.beside]}"; color="{line}"; penwidth={width};'
    for region in box.regions:
        if len(box.regions) > 1:
            yield f'subgraph cluster_{region.name} {{ label="{region.title}"; style="rounded,dashed,filled";'
            yield f'fillcolor="#ffffff80"; color="{_LINE[box.beside]}"; penwidth=1;'
        yield from _dot_region(region)
        if len(box.regions) > 1:
            yield "}"
    yield "}"


def _dot_region(region: Region) -> Iterator[str]:
    yield f'{region.name} [shape=circle, fillcolor="{_INK}", label="", width=0.12, fixedsize=true];'
    yield f"{region.name} -> {region.name}_{region.initial};"
    for phase in region.phases:
        small = "".join(f'<br/><font point-size="9.5">{line}</font>' for line in phase.text)
        yield f"{region.name}_{phase.name} [label=<<b>{phase.name}</b>{small}>{_lit_style(phase)}];"
    for edge in region.edges:
        # Drawn from the upper phase in either case, so that ranks follow the order of the phases.
        upper, lower = (edge.target, edge.source) if edge.back else (edge.source, edge.target)
        back = ', dir=back, style=dashed, color="#94a3b8", fontcolor="#475569"' if edge.back else ""
        yield f"{region.name}_{upper} -> {region.name}_{lower} [label={_dot_names(edge.names)}{back}];"


def _lit_style(phase: Phase) -> str:
    colour = _STOP if phase.holds else _LIT
    return f', fillcolor="{colour}", fontcolor=white, color="{colour}"' if phase.lit else ""


def _dot_names(names: Iterable[str]) -> str:
    return '"' + "".join(f" {name} \\l" for name in names) + '"'


def _dot_between(shown: Picture) -> Iterator[str]:
    """Arrows from box to box. They are clipped at the borders, so any node inside may anchor them."""
    boxes = {box.name: box for box in shown.boxes}
    yield f'project [shape=circle, fillcolor="{_INK}", label="", width=0.16, fixedsize=true];'
    yield f"project -> {_first(shown.boxes[0])} [label={_dot_names(shown.entry)}, lhead=cluster_{shown.boxes[0].name}];"
    for edge in shown.edges:
        source, target = boxes[edge.source], boxes[edge.target]
        ends = "".join(
            f", {end}=cluster_{box.name}" for end, box in (("ltail", source), ("lhead", target)) if box.regions
        )
        yield f"{_last(source)} -> {_first(target)} [label={_dot_names(edge.names)}, penwidth=1.6{ends}];"


def _dot_columns(boxes: Iterable[Box]) -> Iterator[str]:
    """Invisible edges: boxes of the lifecycle below each other, holds below each other."""
    main = [box for box in boxes if not box.beside]
    for upper, lower in pairwise(main):
        for one in upper.regions:
            for other in lower.regions:
                yield f"{one.name}_{one.phases[-1].name} -> {other.name} [style=invis];"
    for above, below in pairwise(region for box in boxes if box.beside for region in box.regions):
        yield f"{above.name}_{above.phases[-1].name} -> {below.name} [style=invis];"


def _first(box: Box) -> str:
    return _middle(box).name if box.regions else box.name


def _last(box: Box) -> str:
    return f"{_middle(box).name}_{_middle(box).phases[-1].name}" if box.regions else box.name


def _middle(box: Box) -> Region:
    return box.regions[len(box.regions) // 2]


# --- Mermaid ----------------------------------------------------------------------------------------------------------


def to_mermaid(chart: Chart, phases: Phases | None = None) -> str:
    """A Mermaid ``stateDiagram-v2`` of the same picture."""
    shown = picture(chart, phases)
    lines = ["stateDiagram-v2", "direction TB", f"[*] --> {shown.boxes[0].name}: {_mermaid_names(shown.entry)}"]
    for box in shown.boxes:
        lines += _mermaid_box(box)
    for edge in shown.edges:
        lines.append(f"{edge.source} --> {edge.target}: {_mermaid_names(edge.names)}")
    lines += [f"{box.name} --> [*]" for box in shown.boxes if not box.regions]
    lines += [f"classDef lit fill:{_LIT},color:#fff", f"classDef stop fill:{_STOP},color:#fff"]
    for box in shown.boxes:
        for region in box.regions:
            for phase in region.phases:
                lines += [f"class {region.name}_{phase.name} {'stop' if phase.holds else 'lit'}"] if phase.lit else []
    return "\n".join((*lines, ""))


def _mermaid_box(box: Box) -> Iterator[str]:
    if not box.regions:
        return
    yield f"state {box.name} {{"
    for position, region in enumerate(box.regions):
        if position:
            yield "--"
        for phase in region.phases:
            yield f'state "{"<br/>".join((phase.name, *phase.text))}" as {region.name}_{phase.name}'
        yield f"[*] --> {region.name}_{region.initial}"
        for edge in region.edges:
            yield f"{region.name}_{edge.source} --> {region.name}_{edge.target}: {_mermaid_names(edge.names)}"
    yield "}"


def _mermaid_names(names: Iterable[str]) -> str:
    return "<br/>".join(names)
