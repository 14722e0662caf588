"""``make chaos PLAN=name``: real nodes, real faults, a verdict. Without a name, the plans there are.

Exit code 0: nothing that was promised was broken. 1: something was. 3: the run proves nothing, and says why.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from chaos.live import report
from chaos.live.cluster import Trouble
from chaos.live.disk import RUN_PREFIX
from chaos.live.plan import BadPlan, load, names
from chaos.live.result import Ending, Result
from chaos.live.run import conduct

ROOT = Path(__file__).parents[2]
OUT = ROOT / "out" / "chaos"
RECORD = ROOT / "docs" / "reports" / "chaos.jsonl"


def main() -> int:
    """Parse the arguments, run, report."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    options = _options()
    if not options.plan:
        for name in names():
            print(f"  {name:<18} {load(name).why}")
        return 0
    try:
        plan = load(options.plan)
    except BadPlan as error:
        print(error, file=sys.stderr)
        return 2
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"{plan.name}, seed {seed}: {plan.why}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{RUN_PREFIX}{os.getpid()}-"))
    command = f"make chaos PLAN={plan.name} SEED={seed}"
    try:
        result = asyncio.run(conduct(plan, directory, seed=seed, proxies=options.proxies, command=command))
    except Trouble as trouble:
        print(f"{plan.name}: {trouble}", file=sys.stderr)
        return Ending.VIOLATED
    except KeyboardInterrupt:
        return 130
    finally:
        if not options.keep:
            shutil.rmtree(directory, ignore_errors=True)
    return _tell(result, directory if options.keep else None, record=options.record)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("plan", nargs="?", default="", help="one of chaos/plans")
    parser.add_argument("--seed", type=int, help="repeats the choices of a run, not its timing")
    parser.add_argument("--proxies", action="store_true", help="loopback proxies even where namespaces would do")
    parser.add_argument("--keep", action="store_true", help="leave the directory: logs, stores, history.jsonl")
    parser.add_argument("--record", action="store_true", help=f"add a line to {RECORD.relative_to(ROOT)}")
    return parser.parse_args()


def _tell(result: Result, kept: Path | None, *, record: bool) -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{result.plan}-{result.seed}.html"
    path.write_text(report.page(result), encoding="utf-8")
    summary = result.summary()
    for fault in (*result.wrong, *result.thin, *(f"skipped: {reason}" for reason in result.skipped)):
        print(f"  {fault}")
    print(f"  {summary['told']}")
    print(f"  latency {summary['latency_ms']} ms, gaps {summary['gap_s']} s, recovery {summary['recovery_s']} s")
    print(f"{result.plan}: {result.ending.name}; report in {path}{f', all else in {kept}' if kept else ''}")
    if record:
        with RECORD.open("a", encoding="utf-8") as file:
            file.write(json.dumps(summary) + "\n")
    return result.ending


if __name__ == "__main__":
    sys.exit(main())
