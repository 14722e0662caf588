"""A run as one HTML page that needs nothing else: verdict, counts, a picture of what happened when, distributions."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from itertools import pairwise

from chaos.live.result import Ending, Result, Sample, percentiles

WIDTH, LABEL, LANE, BAR, CURVE = 960, 90, 34, 10, 90
BINS = 24
COLOURS = {"leader": "#2a7", "follower": "#9cb", "candidate": "#fb4", "cold": "#bbb", "silent": "#eee"}
FAULT = "#c33"
ENDINGS = {
    Ending.HELD: ("held", "#2a7", "Nothing that was promised was broken."),
    Ending.VIOLATED: ("violated", "#c33", "A promise was broken:"),
    Ending.INVALID: ("invalid", "#e90", "The run proves nothing:"),
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em } table { border-collapse: collapse }
td, th { padding: .15em 1em .15em 0; text-align: left; vertical-align: top } td.n { text-align: right }
.verdict { color: #fff; padding: .1em .6em; border-radius: .3em } code { background: #f3f3f3; padding: .1em .3em }
svg text { font: 11px system-ui, sans-serif; fill: #444 } svg { display: block; max-width: 100% }
"""


def page(result: Result) -> str:
    """The whole document."""
    name, colour, says = ENDINGS[result.ending]
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{_e(result.plan)}: {name}</title><style>{STYLE}</style>",
        f'<h1>{_e(result.plan)} <span class=verdict style="background:{colour}">{name}</span></h1>',
        f"<p>{_e(result.why)}</p><p>{says}</p>",
        _items(result.wrong or result.thin),
        "<h2>What happened when</h2>",
        timeline(result),
        "<h2>What was done</h2>",
        _faults(result),
        _items([f"skipped: {reason}" for reason in result.skipped]),
        "<h2>What callers were told, and what was checked</h2>",
        _counts(result),
        "<h2>Latency of what was acknowledged</h2>",
        histogram([latency * 1000 for latency in result.latencies], "ms"),
        "<h2>From each fault to the next acknowledgement</h2>",
        histogram([gap for gap in result.gaps if gap is not None], "s"),
        f"<p>From the last mending to the next acknowledgement: {_seconds(result.recovery)}.</p>",
        "<h2>Again</h2>",
        f"<p><code>{_e(result.command)}</code></p>",
        f"<p>{_e(result.date)}, {_e(result.machine)}, {_e(result.network)}</p>",
    ]
    return "\n".join(parts) + "\n"


# --- pictures ---------------------------------------------------------------------------------------------------------


def timeline(result: Result) -> str:
    """Nodes as lanes, faults as bars, acknowledgements a second as a curve, new leaders as marks."""
    height = CURVE + LANE * len(result.nodes) + 30
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">'
        + "".join((*_curve(result), *_lanes(result), *_bars(result), *_new_leaders(result), *_axis(result, height)))
        + "</svg>"
        + "<p>"
        + " ".join(f'<span style="background:{colour}">&emsp;</span> {role}' for role, colour in COLOURS.items())
        + f' <span style="background:{FAULT}">&emsp;</span> fault &emsp; ▼ a new leader</p>'
    )


def _x(result: Result, at: float) -> float:
    share = (at - result.started) / max(result.ended - result.started, 0.001)
    return round(LABEL + (WIDTH - LABEL) * min(max(share, 0.0), 1.0), 1)


def _y(result: Result, node: str) -> int:
    return CURVE + LANE * result.nodes.index(node)


def _lanes(result: Result) -> Iterator[str]:
    for node in result.nodes:
        y = _y(result, node)
        yield f'<text x="0" y="{y + 15}">{_e(node)}</text>'
        for start, end, role in _stretches(result.samples, node, result.ended):
            yield _rectangle(_x(result, start), y, _x(result, end), 20, COLOURS.get(role, "#eee"), role)


def _stretches(samples: Sequence[Sample], node: str, ended: float) -> Iterator[tuple[float, float, str]]:
    """(from, to, role) for each stretch in which a node was the same."""
    if not samples:
        return
    start, role = samples[0].at, samples[0].roles[node]
    for sample in samples[1:]:
        if sample.roles[node] != role:
            yield start, sample.at, role
            start, role = sample.at, sample.roles[node]
    yield start, ended, role


def _bars(result: Result) -> Iterator[str]:
    for fault in result.faults:
        for node in fault.nodes:
            y = _y(result, node) + 20 - BAR // 2
            title = f"{fault.do} {fault.said} {fault.exits.get(node, '')}"
            yield _rectangle(_x(result, fault.start), y, _x(result, fault.end), BAR, FAULT, title)
            yield f'<text x="{_x(result, fault.start)}" y="{y - 2}">{_e(fault.do)}</text>'


def _new_leaders(result: Result) -> Iterator[str]:
    for before, after in pairwise(result.samples):
        for node, role in after.roles.items():
            if role == "leader" and before.roles[node] != "leader":
                yield f'<text x="{_x(result, after.at) - 4}" y="{_y(result, node) - 1}">▼</text>'


def _curve(result: Result) -> Iterator[str]:
    seconds = max(1, int(result.ended - result.started))
    rates = [0] * seconds
    for at in result.acknowledged_at:
        rates[min(seconds - 1, max(0, int(at - result.started)))] += 1
    most = max(rates) or 1
    points = " ".join(
        f"{_x(result, result.started + second + 0.5)},{round(CURVE - 16 - (CURVE - 30) * rate / most, 1)}"
        for second, rate in enumerate(rates)
    )
    yield f'<polyline points="{points}" fill="none" stroke="#36a" stroke-width="1.5"/>'
    yield f'<text x="0" y="14">{most}/s</text><text x="0" y="{CURVE - 14}">0/s</text>'


def _axis(result: Result, height: int) -> Iterator[str]:
    seconds = result.ended - result.started
    step = next((step for step in (5, 10, 30, 60, 120, 300) if seconds / step <= 16), 600)
    for second in range(0, int(seconds) + 1, step):
        yield f'<text x="{_x(result, result.started + second)}" y="{height - 8}">{second} s</text>'


def _rectangle(start: float, y: float, end: float, height: float, colour: str, title: str) -> str:
    width = max(2.0, round(end - start, 1))
    return (
        f'<rect x="{start}" y="{y}" width="{width}" height="{height}" fill="{colour}">'
        f"<title>{_e(title.strip())}</title></rect>"
    )


def histogram(values: Sequence[float], unit: str) -> str:
    """Bars over equal steps up to the 99th percentile, what is beyond in the last; and the percentiles."""
    if not values:
        return "<p>None.</p>"
    marks = percentiles(values)
    end = max(marks[99], 1e-9)
    bins = [0] * BINS
    for value in values:
        bins[min(BINS - 1, int(BINS * value / end))] += 1
    width, height, most = 20, 80, max(bins)
    bars = "".join(
        f'<rect x="{number * width}" y="{height - round(height * count / most)}" width="{width - 2}" '
        f'height="{round(height * count / most)}" fill="#36a"><title>{count}</title></rect>'
        for number, count in enumerate(bins)
    )
    told = ", ".join(f"{'most' if at == 100 else f'p{at}'} {value:.4g} {unit}" for at, value in marks.items())
    return (
        f'<svg viewBox="0 0 {BINS * width} {height + 16}" width="{BINS * width}" height="{height + 16}">{bars}'
        f'<text x="0" y="{height + 13}">0</text>'
        f'<text x="{(BINS - 3) * width}" y="{height + 13}">{end:.3g} {unit}</text>'
        f"</svg><p>{len(values)} values: {told}</p>"
    )


# --- tables -----------------------------------------------------------------------------------------------------------


def _faults(result: Result) -> str:
    rows = (
        f"<tr><td class=n>{fault.start - result.started:.1f} s<td>{_e(fault.do)}<td>{_e(', '.join(fault.nodes))}"
        f"<td>{_e(fault.said)}<td>{_e(', '.join(f'{node} {code}' for node, code in fault.exits.items()))}"
        f"<td class=n>{_seconds(gap)}"
        for fault, gap in zip(result.faults, result.gaps, strict=True)
    )
    head = "<tr><th>at<th>what<th>whom<th>how<th>ended by itself<th>next acknowledgement after"
    return f"<table>{head}{''.join(rows)}</table>"


def _counts(result: Result) -> str:
    rows = (f"<tr><td>{_e(name)}<td class=n>{count}" for name, count in {**result.told, **result.counts}.items())
    return f"<table>{''.join(rows)}</table>"


def _items(texts: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_e(text)}' for text in texts)}</ul>" if texts else ""


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f} s"


def _e(text: str) -> str:
    return html.escape(str(text))
