"""``python -m chaos.simulation``: run many seeds, or one again, or make one small.

    seeds --from 0 --seeds 300 [--nodes 3] [--record]   what CI does; a violation is one line, with how to repeat it
    again SEED|PLAN.yaml [--nodes 3]                    one run, with the last events of the nodes
    shrink SEED [--nodes 3]                             the smallest plan that shows the same violation
    plan SEED [--nodes 3]                               what a seed stands for
    mutants [NAME ...] [--seeds 1000] [--record]        does it see the bugs that are planted on purpose?

Exit status 0: nothing was found; 1: a promise was broken; 3: the runs put nothing to the test.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from chaos.simulation import plan as plans
from chaos.simulation import report
from chaos.simulation.many import run_all
from chaos.simulation.mutants import MUTANTS, VARIABLE, plant
from chaos.simulation.plan import Plan
from chaos.simulation.shrink import shrink
from chaos.simulation.world import run

SEEDS_OF_A_DIRECTED_MUTANT = 8
"""Chance is tried so often before the test that is known to show it."""
REPEATED = 100
"""One seed in so many is run a second time, in a process that hashes otherwise; both must go the same way."""


def main(arguments: list[str]) -> int:
    """Parse and go."""
    parser = argparse.ArgumentParser(prog="python -m chaos.simulation")
    commands = parser.add_subparsers(dest="command", required=True)
    many = commands.add_parser("seeds")
    many.add_argument("--from", dest="first", type=int, default=0)
    many.add_argument("--seeds", type=int, default=300)
    many.add_argument("--nodes", type=int, default=3)
    many.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    many.add_argument("--record", action="store_true", help="append the totals to the committed report")
    for name in ("again", "shrink", "plan"):
        one = commands.add_parser(name)
        one.add_argument("what")
        one.add_argument("--nodes", type=int, default=3)
    planted = commands.add_parser("mutants")
    planted.add_argument("names", nargs="*", choices=[[], *MUTANTS])
    planted.add_argument("--seeds", type=int, default=1000)
    planted.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    planted.add_argument("--record", action="store_true", help="write the committed report anew")
    asked = parser.parse_args(arguments)
    match asked.command:
        case "seeds":
            return _seeds(range(asked.first, asked.first + asked.seeds), asked.nodes, asked.jobs, record=asked.record)
        case "again":
            return _again(_plan(asked.what, asked.nodes))
        case "shrink":
            return _shrink(_plan(asked.what, asked.nodes))
        case "mutants":
            return _mutants(asked.names or list(MUTANTS), asked.seeds, asked.jobs, record=asked.record)
        case _:
            print(plans.dump(_plan(asked.what, asked.nodes)), end="")
            return 0


def _plan(what: str, nodes: int) -> Plan:
    return plans.make(int(what), nodes) if what.isdecimal() else plans.load(Path(what))


# --- many -------------------------------------------------------------------------------------------------------------


def _seeds(seeds: range, nodes: int, jobs: int, *, record: bool) -> int:
    began, totals = time.monotonic(), report.Totals(nodes=nodes, first=seeds.start, seeds=len(seeds))
    traces: dict[int, str] = {}
    for result in run_all(seeds, nodes, jobs):
        totals.add(result)
        traces[result.seed] = result.trace
        if result.violation is not None:
            print(f"\rseed {result.seed}: {result.violation:.600}\n    {_repeat(result.seed, nodes)}")
        _progress(totals, began)
    for result in run_all([seed for seed in seeds if seed % REPEATED == 0], nodes, jobs, hash_seed="1"):
        if result.trace != traces[result.seed]:
            totals.violations["not deterministic"] += 1
            print(f"\rseed {result.seed}: not deterministic: two runs went different ways")
            print(f"    {_repeat(result.seed, nodes)}")
    print(f"\r{totals.line(time.monotonic() - began)}")
    if record:
        report.append(totals)
    if totals.violations:
        return 1
    if not totals.is_telling():
        print("these runs put nothing to the test: too little was acknowledged, or no fault took effect")
        return 3
    return 0


def _repeat(seed: int, nodes: int) -> str:
    return f"again: python -m chaos.simulation again {seed}{f' --nodes {nodes}' if nodes != 3 else ''}"


def _progress(totals: report.Totals, began: float) -> None:
    if sys.stderr.isatty():
        print(f"\r{totals.line(time.monotonic() - began)}", end="", file=sys.stderr, flush=True)
    elif totals.done % 50 == 0:
        print(totals.line(time.monotonic() - began), flush=True)


# --- one --------------------------------------------------------------------------------------------------------------


def _again(plan: Plan) -> int:
    result = run(plan)
    print("\n".join(result.events))
    print(result.violation or f"nothing found: {Counter(result.told)}, faults {result.faults}")
    print(f"trace {result.trace}, {result.simulated_s} simulated seconds in {result.took_s} s")
    return 1 if result.violation else 0


def _shrink(plan: Plan) -> int:
    result = run(plan)
    if result.kind is None:
        print("this plan breaks nothing")
        return 0
    print(result.violation, file=sys.stderr)
    smallest, found = shrink(plan, result.kind, lambda text: print(text, file=sys.stderr, flush=True))
    print(f"# {found.violation}"[:600])
    print(plans.dump(smallest), end="")
    return 1


# --- planted bugs -----------------------------------------------------------------------------------------------------


def _mutants(names: list[str], seeds: int, jobs: int, *, record: bool) -> int:
    """Each mutant alone: by chance within so many seeds, or else by the test it names."""
    convictions: list[report.Conviction] = []
    for name in names:
        began = time.monotonic()
        found = _by_chance(name, seeds, jobs) or _by_test(name)
        convictions.append(report.Conviction(name, MUTANTS[name].what, *(found or ("", "")), time.monotonic() - began))
        print(f"{name}: {' '.join(found) if found else 'NOT FOUND'} ({convictions[-1].took_s:.0f} s)", flush=True)
    if record:
        report.write_convictions(convictions)
    return 0 if all(conviction.by for conviction in convictions) else 1


def _by_chance(name: str, seeds: int, jobs: int) -> tuple[str, str] | None:
    """The first seed that shows it, and what it shows."""
    few = min(seeds, SEEDS_OF_A_DIRECTED_MUTANT) if MUTANTS[name].directed else seeds
    for result in run_all(range(few), 3, jobs, prepare=(plant, name)):
        if result.kind is not None:
            return f"seed {result.seed}", result.kind
    return None


def _by_test(name: str) -> tuple[str, str] | None:
    """The directed test fails with the mutant planted, and is known to pass without."""
    test = MUTANTS[name].directed
    if not test:
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-p", "chaos.simulation.planted", test]
    done = subprocess.run(command, env=os.environ | {VARIABLE: name}, capture_output=True, check=False)
    return (f"`{test}`", "fails") if done.returncode == 1 else None


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
