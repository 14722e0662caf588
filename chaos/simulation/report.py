"""What many runs came to: one line on a terminal, one line in the committed record."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from chaos.simulation.world import Result

DIRECTORY = Path(__file__).resolve().parent.parent.parent / "docs" / "reports"
MUTANTS_PAGE = DIRECTORY / "mutants.md"
RECORD, PAGE = DIRECTORY / "simulation.jsonl", DIRECTORY / "simulation.md"
ACKNOWLEDGED_MIN = 10
"""Acknowledgements a seed that deserve the name of a test."""


@dataclass
class Totals:
    """The sum of many runs."""

    nodes: int
    first: int
    seeds: int
    done: int = 0
    simulated_s: float = 0.0
    acknowledged: int = 0
    transitions: int = 0
    leaderships: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)

    def add(self, result: Result) -> None:
        """One more run."""
        self.done += 1
        self.simulated_s += result.simulated_s
        self.acknowledged += result.acknowledged
        self.transitions += result.transitions
        self.leaderships += result.leaderships
        self.faults.update(result.faults)
        self.told.update(result.told)
        if result.kind is not None:
            self.violations[result.kind] += 1

    def is_telling(self) -> bool:
        """Whether enough happened for the absence of violations to mean something."""
        return bool(self.done and self.faults) and self.acknowledged >= ACKNOWLEDGED_MIN * self.done

    def line(self, took: float) -> str:
        """Where it stands."""
        found = ", ".join(f"{count} {kind}" for kind, count in self.violations.items()) or "no violation"
        hours = self.simulated_s / 3600
        return (
            f"{self.done} of {self.seeds} seeds on {self.nodes} nodes, {hours:.2f} simulated hours in {took:.0f} s, "
            f"{self.acknowledged} acknowledged, {sum(self.faults.values())} faults: {found}"
        )


class Run(msgspec.Struct, frozen=True):
    """A line of the record."""

    date: str
    nodes: int
    first: int
    seeds: int
    simulated_s: float
    acknowledged: int
    transitions: int
    leaderships: int
    faults: dict[str, int]
    told: dict[str, int]
    violations: dict[str, int]


def append(totals: Totals) -> None:
    """Add a run to the record, and write the page anew."""
    row = Run(
        datetime.datetime.now(datetime.UTC).date().isoformat(), totals.nodes, totals.first, totals.done,
        round(totals.simulated_s, 1), totals.acknowledged, totals.transitions, totals.leaderships,
        dict(sorted(totals.faults.items())), dict(sorted(totals.told.items())), dict(totals.violations),
    )  # fmt: skip
    with RECORD.open("ab") as file:
        file.write(msgspec.json.encode(row) + b"\n")
    PAGE.write_text(page([msgspec.json.decode(line, type=Run) for line in RECORD.read_bytes().splitlines()]))


def page(rows: list[Run]) -> str:
    """The record as a page: accumulated sums first, then each run."""
    faults: Counter[str] = Counter()
    for row in rows:
        faults.update(row.faults)
    lines = [
        "# Simulation",
        "",
        "Whole nodes on virtual time under seeded faults (`make sim FROM= SEEDS= NODES= RECORD=1` appends a row).",
        "Each row ran on the code of its day; what a violation came from, and where it was repaired, is in",
        "[bugs-found.md](../reference/bugs-found.md).",
        "",
        f"**{sum(row.seeds for row in rows):,} seeds, "
        f"{sum(row.simulated_s for row in rows) / 3600:,.1f} simulated hours, "
        f"{sum(row.acknowledged for row in rows):,} acknowledgements, "
        f"{sum(sum(row.violations.values()) for row in rows)} violations in the recorded runs.**",
        "",
        "Faults by kind: " + ", ".join(f"{kind} {count:,}" for kind, count in sorted(faults.items())) + ".",
        "",
        "| date | nodes | seeds | simulated hours | acknowledged | transitions | leaderships | faults | violations |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = ", ".join(f"{count} {kind}" for kind, count in row.violations.items()) or "none"
        lines.append(
            f"| {row.date} | {row.nodes} | {row.first}..{row.first + row.seeds - 1} | {row.simulated_s / 3600:.2f} "
            f"| {row.acknowledged} | {row.transitions} | {row.leaderships} | {sum(row.faults.values())} | {found} |"
        )
    return "\n".join(lines) + "\n"


class Conviction(NamedTuple):
    """How a planted bug was found: ``by`` a seed or a test (empty: it was not), which showed ``what_it_showed``."""

    name: str
    what: str
    by: str
    what_it_showed: str
    took_s: float


def write_convictions(convictions: Iterable[Conviction]) -> None:
    """The page of planted bugs."""
    lines = [
        "# Planted bugs",
        "",
        "Does the simulation see what it is there to see? `make sim-mutants` plants each of these, alone, and runs",
        "seeds until a check convicts it; where chance does not reach it, the named test does.",
        "",
        "| mutant | what it breaks | found by | which showed |",
        "|---|---|---|---|",
        *(f"| {row.name} | {row.what} | {row.by or '**nobody**'} | {row.what_it_showed} |" for row in convictions),
    ]
    MUTANTS_PAGE.write_text("\n".join(lines) + "\n")
