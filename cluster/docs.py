"""``python -m cluster.docs``: the pages of docs/ that are generated (``make docs``).

Everything said twice drifts apart, so what the code already says (the chart, docstrings of guards, effects and inputs,
settings, codes, limits) is never written again by hand: these pages are derived from it, and tests/test_docs_current.py
fails while one of them is not. Prose that explains is written here, above the tables it explains.

The SVG is drawn from docs/statechart.dot by whatever Graphviz is installed. Releases of it draw differently, so it is
the DOT text that has to be current.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect as types

import swoosh.regions  # noqa: F401  (registers what the chart names)
from cluster.config import packaged_chart
from cluster.graphviz import NoGraphviz, svg
from cluster.http.problems import STATUS
from swoosh import facts, limits, state
from swoosh.catalog import CHOICES, EFFECTS, GUARDS, INPUTS
from swoosh.chart import Chart, Statechart, Transition
from swoosh.drawing import to_dot, to_mermaid
from swoosh.outcome import ADVICE, Code
from swoosh.settings import SETTINGS

DOCS = Path(__file__).resolve().parent.parent / "docs"
PICTURE = "statechart.dot"
_GENERATED = "<!-- Written by `make docs`. Change the code it names, not this page. -->\n"

RUNBOOKS = {
    Code.NO_LEADER: "no-leader",
    Code.NO_QUORUM: "no-leader",
    Code.OUTCOME_UNKNOWN: "no-leader",
    Code.STALE_READ: "no-leader",
    Code.COLD: "node-will-not-start",
    Code.INTERNAL: "node-will-not-start",
    Code.CLOCK: "clock-off",
    Code.HALTED: "diverged",
    Code.DISK_SLOW: "disk",
    Code.DISK_LOW: "disk",
    Code.HLC_SKEW: "clock-off",
    Code.QUARANTINED: "quarantine",
    Code.NOT_LICENSED: "license",
    Code.PAUSED: "license",
}
"""{code: page of docs/runbooks/}, for the codes an operator has to act on."""


def pages() -> dict[str, str]:
    """{path below docs/: text} of every generated page."""
    chart = packaged_chart()
    return {
        "statechart.md": statechart_page(chart),
        PICTURE: to_dot(chart),
        "reference/settings.md": settings_page(),
        "reference/refusal-codes.md": codes_page(),
        "reference/guards.md": guards_page(chart),
        "reference/facts.md": facts_page(),
        "reference/limits.md": limits_page(inspect.getsource(limits)),
    }


def main() -> None:
    """Write them all; without Graphviz the SVG stays as it is."""
    for name, text in pages().items():
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_text(text, encoding="utf-8")
    try:
        drawn = svg((DOCS / PICTURE).read_text(encoding="utf-8"))
    except NoGraphviz as error:
        sys.exit(f"docs/statechart.svg was not drawn anew: {error}")
    (DOCS / PICTURE).with_suffix(".svg").write_text(drawn, encoding="utf-8")


# --- the statechart ---------------------------------------------------------------------------------------------------

_EXPLAINER = """\
# The machine

A project is one statechart, and this page shows all of it. It is generated from
[`statechart.yaml`](../statechart.yaml), which is also what the reducer runs.

**How to read the picture.** A project begins at the top, in BOOT: its configuration is agreed, and a license opens the
hard gate. Then three regions work side by side: *Ingestion* pins one version of the content, *Council* elects who works
on it, *Environment* provides what they work with. Once all three are READY for the same content, the project enters
EXECUTION and goes round: PLAN → WORK → REVIEW → REVERB, and into PLAN again with the next window. It ends in
TERMINATED, which nothing leaves. A solid arrow leads onward, a dashed one back. ↻ marks a transition that is accepted
without leaving the phase. A word in brackets is a time class: such a window must be open.

**Holds stand apart.** CONTROL and POLICY are not steps on the way. They exist all the time beside the others, and some
of their phases hold the rest up: nothing moves in the boxes named there until the hold is over, and then everything
goes on from exactly where it was. So a quarantine, a pause or a lapsed license never costs a project its place.

**How a proposal is judged.** Always in this order, and the first that says no is the answer: the idempotency key; the
transition and its inputs; the state it was decided on; its place in time (HLC); the gates; the phases it needs; then
all guards. Everything a guard may look at is replicated, so every node comes to the same verdict. Nothing fires by
itself: where this page says that `node` may sign, the leader proposes it as soon as the facts allow.
"""


def statechart_page(chart: Chart) -> str:
    """The explainer, the picture twice, and every transition."""
    parts = [
        _EXPLAINER,
        "## The picture\n",
        "![The statechart](statechart.svg)\n",
        "<details><summary>The same as Mermaid</summary>\n",
        f"```mermaid\n{to_mermaid(chart)}```\n",
        "</details>\n",
        "`swoosh chart --live --project ID` draws it with the phases that a project is in.\n",
        "## Regions\n",
        _regions(chart.project, state.ProjectRegions),
        "## Gates\n",
        "Judged before phases and guards. While a region is in a phase of the second column, transitions of the",
        "regions in the third are refused with the code, except those named.\n",
        _gates(chart),
        "## Transitions of a project\n",
        "`authorised` and, with a time class, `window_open` come before the guards named here. `proposer` stands for",
        "`proposer:<region>` or `proposer:*`. A field without a default is required.\n",
        *_transitions(chart.project),
        "## Commands\n",
        "Proposals for the reserved project `@cluster`, under the same rules. They change what all projects share.\n",
        _regions(chart.cluster, state.ClusterRegions),
        *_transitions(chart.cluster),
    ]
    return _page(*parts)


def _regions(statechart: Statechart, regions: type[Any]) -> str:
    hints = inspect.get_annotations(regions, eval_str=True)
    rows = [
        (f"`{shape.name}`", " · ".join(_phase(shape.initial, shape.final, p) for p in shape.phases), _doc(hints[name]))
        for name, shape in statechart.regions.items()
    ]
    return _table(("region", "phases (**initial**, *final*)", "what it holds"), rows)


def _phase(initial: str, final: Sequence[str], phase: str) -> str:
    return f"**{phase}**" if phase == initial else f"*{phase}*" if phase in final else phase


def _gates(chart: Chart) -> str:
    rows = [
        (
            gate.name,
            _asked(gate.closed_while),
            _listed(sorted(gate.blocks)),
            _listed(sorted(gate.exempt)),
            _code(gate.code),
        )
        for gate in chart.gates
    ]
    return _table(("gate", "closed while", "holds", "except", "code"), rows)


def _transitions(statechart: Statechart) -> Iterator[str]:
    for region in statechart.regions:
        rows = [t for t in statechart.transitions.values() if t.region == region]
        if rows:
            yield f"### {region}\n"
        for transition in rows:
            yield f"#### `{transition.name}`\n\n{transition.why}\n"
            yield _table(("", ""), _facts_of(transition))


def _facts_of(transition: Transition) -> Iterator[tuple[str, str]]:
    yield "moves", "<br>".join(_moves(transition))
    if transition.asks:
        yield "asks for", _asked(transition.asks)
    yield "signed by", _listed(transition.by)
    if transition.window:
        yield "time class", f"`{transition.window}`"
    if transition.guards:
        yield "guards", ", ".join(f"[`{name}`](reference/guards.md#{name})" for name in transition.guards)
    yield "inputs", "<br>".join(_inputs(INPUTS[transition.inputs]))
    if transition.effect:
        yield "changes", _doc(EFFECTS[transition.effect])
    if transition.aliases:
        yield "also spelled", _listed(transition.aliases)


def _moves(transition: Transition) -> Iterator[str]:
    by_target: dict[str, list[str]] = {}
    for source, target in transition.targets.items():
        by_target.setdefault(target, []).append(source)
    for target, sources in by_target.items():
        yield f"{transition.region}: {', '.join(sources)} → {target}"
    if transition.choice:
        between = f"{', '.join(transition.sources)} → {' or '.join(transition.choice.of)}"
        yield f"{transition.region}: {between}. {_doc(CHOICES[transition.choice.name])}"
    for region, phase in transition.also.items():
        yield f"{region}: → {phase}"


def _inputs(kind: type[Any]) -> Iterator[str]:
    yield f"`{kind.__name__}`: {_doc(kind)}"
    yield from (f"`{path}`: {text}" for path, text in _fields(kind))


# --- reference --------------------------------------------------------------------------------------------------------


def settings_page() -> str:
    """Every setting with its default."""
    rows = [
        (
            f"`{name}`",
            setting.meaning,
            setting.unit or "-",
            f"`{json.dumps(setting.default)}`",
            setting.check(None) or "-",
        )
        for name, setting in SETTINGS.items()
    ]
    return _page(
        "# Settings\n",
        "Numbers the machine judges by. They are replicated: an admin changes one with the command",
        "[`SETTING_SET`](../statechart.md#setting_set), and it holds from that entry on, on every node. What a single",
        "node reads from its own file (addresses, paths, timing) is in the `swoosh.toml` that `swoosh init` writes.\n",
        _table(("setting", "meaning", "unit", "default", "takes"), rows),
    )


def codes_page() -> str:
    """Every code with its status and what to do."""
    rows = [
        (
            _code(code),
            str(int(STATUS[code])),
            "yes" if ADVICE[code].retryable else "no",
            ADVICE[code].do,
            f"[{RUNBOOKS[code]}](../runbooks/{RUNBOOKS[code]}.md)" if code in RUNBOOKS else "",
        )
        for code in Code
    ]
    return _page(
        "# Refusal codes\n",
        "The `code` of every answer that is not a success. 4xx: decided, this attempt is not applied. 503: not",
        "decided; `admitted` in the body says whether it may still be applied. *Retryable*: the same intent may",
        "succeed later. After `OUTCOME_UNKNOWN`, and whenever in doubt, repeat with the same `idem_key`.",
        "Whatever lies between may deliver a request twice: a copy of one that was refused for a time or a fact",
        "(`HLC_SKEW`, `GUARD_REJECTED`) is judged anew when it arrives, while HEAD has not moved.\n",
        _table(("code", "status", "retryable", "what to do", "runbook"), rows),
    )


def guards_page(chart: Chart) -> str:
    """Every guard: what it reads, what it refuses, who asks it."""
    used: dict[str, list[str]] = {}
    for transition in chart.transitions():
        for name in transition.guards:
            used.setdefault(name, []).append(transition.name)
    everywhere = {"authorised": "every transition", "window_open": "every transition with a time class"}
    parts = [
        "# Guards\n",
        "A guard is a pure function of the project, the inputs and the newest signed facts. All guards of a transition",
        "run, in the order of the chart; the first that refuses is the `failing_guard` of the answer, and its reasons",
        "say what it saw and what it needs. [Facts](facts.md) come from outside; all else named here is replicated.\n",
    ]
    for name in sorted(GUARDS):
        reads, refuses = _reads_and_refuses(name)
        asked_by = everywhere.get(name) or ", ".join(f"[`{t}`](../statechart.md#{t.lower()})" for t in used[name])
        rows = [("reads", reads), ("refuses", refuses), ("asked by", asked_by)]
        parts += [f"## `{name}`\n", _table(("", ""), rows)]
    return _page(*parts)


def _reads_and_refuses(name: str) -> tuple[str, str]:
    found = re.fullmatch(r"Reads (.+?); refuses (.+)\.", _doc(GUARDS[name]))
    if found is None:
        raise ValueError(
            f"guard {name}: its docstring must begin `Reads …; refuses ….`, as it is its line in the reference"
        )
    return found[1], found[2]


def facts_page() -> str:
    """Every kind of fact and its body."""
    parts = [
        "# Facts\n",
        "What guards know of the outside world: signed observations, taken with `POST /admin/facts` from identities",
        "that hold `provider:<kind>` or `provider:*`. The board keeps the newest of each kind and subject; an older",
        "one changes nothing. Times are milliseconds since 1970 UTC. Each kind has an age limit in the",
        "[settings](settings.md).\n",
        "## The envelope\n",
        _doc(facts.Fact) + "\n",
        _table(("field", "type", ""), _commented(facts.Fact)),
    ]
    for kind, body in facts.KINDS.items():
        parts += [f"## `{kind}`\n", _doc(body) + "\n", _table(("field", "type", ""), _commented(body))]
    return _page(*parts)


def _commented(kind: type[Any]) -> Iterator[tuple[str, str, str]]:
    """Path, type and the comment that stands behind the field in the source."""
    comments = dict(re.findall(r"^    (\w+): .+?  # (.+)$", inspect.getsource(kind), re.MULTILINE))
    yield from ((f"`{path}`", text, comments.get(path, "")) for path, text in _fields(kind))


def limits_page(source: str) -> str:
    """Every bound, in the groups and with the comments of its module."""
    parts = [
        "# Limits\n",
        "Bounds that are part of the machine: they change with a new version and not at run time. What is beyond one",
        "of them is refused, with the bound in the reason.\n",
    ]
    rows: list[tuple[str, str, str]] = []
    for line in source.partition("import annotations\n")[2].splitlines():
        heading = re.fullmatch(r"# (.+?)\.?", line)
        bound = re.fullmatch(r"([A-Z_]+) = [^#]+(?:# (.+))?", line)
        if heading:
            parts += [_table(("limit", "value", ""), rows)] if rows else []
            parts.append(f"## {heading[1]}\n")
            rows = []
        elif bound:
            rows.append((f"`{bound[1]}`", f"{getattr(limits, bound[1]):,}".replace(",", " "), bound[2] or ""))
    return _page(*parts, _table(("limit", "value", ""), rows))


# --- types in words ---------------------------------------------------------------------------------------------------


def _fields(kind: type[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(path, type in words) of every member; a Struct inside a list or map follows with its own members."""
    shape = types.type_info(kind)
    assert isinstance(shape, types.StructType)
    for field in shape.fields:
        path = prefix + field.encode_name
        yield path, _words(field.type) + _default(field)
        yield from _inner(field.type, path)


def _inner(shape: types.Type, path: str) -> Iterator[tuple[str, str]]:
    match shape:
        case types.StructType(cls=cls):
            yield from _fields(cls, f"{path}.")
        case types.VarTupleType(item_type=item):
            yield from _inner(item, f"{path}[]")
        case types.DictType(value_type=value):
            yield from _inner(value, f"{path}{{}}")
        case _:
            pass


def _default(field: types.Field) -> str:
    if field.required:
        return ""
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return f"; default `{json.dumps(default)}`"


def _words(shape: types.Type) -> str:
    match shape:
        case types.StrType(min_length=low, max_length=high):
            return "text" + _range(low, high, " characters")
        case types.IntType(ge=low, le=high):
            return "integer" + _range(low, high)
        case types.BoolType():
            return "boolean"
        case types.VarTupleType(item_type=item, min_length=low, max_length=high):
            return f"list{_range(low, high)} of {_words(item)}"
        case types.DictType(value_type=value, min_length=low, max_length=high):
            return f"object{_range(low, high, ' names')} of {_words(value)}"
        case types.StructType():
            return "object"
        case types.LiteralType(values=values):
            return " or ".join(f"`{json.dumps(value)}`" for value in values)
        case types.UnionType(types=several):
            return " or ".join(_words(one) for one in several)
        case types.NoneType():
            return "null"
        case types.AnyType():
            return "any JSON value"
        case _:
            raise TypeError(f"no words for {shape}")


def _range(low: int | None, high: int | None, what: str = "") -> str:
    if high is None:
        return "" if low is None else f" (at least {low}{what})"
    return f" (at most {high}{what})" if low is None else f" ({low} to {high}{what})"


# --- Markdown ---------------------------------------------------------------------------------------------------------


def _page(*parts: str) -> str:
    return _GENERATED + "\n" + "\n".join(parts).rstrip("\n") + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _doc(thing: Any) -> str:
    """The first paragraph of a docstring, on one line, in Markdown's quotes."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split()).replace("``", "`")


def _asked(phases: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{region} in {' or '.join(names)}" for region, names in phases.items())


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _code(code: Code) -> str:
    return f"`{code.value}`"


if __name__ == "__main__":
    main()
