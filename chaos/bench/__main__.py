"""``make bench``: SWOOSH beside etcd, in one run, on the same machine in the same minute.

Starts three real nodes and points the load generator in ``anchors/`` at them, which starts three etcd members by
itself and interleaves the two round by round. One line per measurement goes to ``docs/reports/bench.jsonl``; the last
lines are the ratios. Only ratios of one run mean anything: absolute numbers are the machine's.

Needs Debian's ``etcd-server``; without it only SWOOSH is measured, and the run says so.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from chaos.live import LiveCluster

ANCHORS = Path(__file__).parent / "anchors"
REPORT = Path(__file__).parents[2] / "docs" / "reports" / "bench.jsonl"


def main() -> int:
    """Parse the arguments, measure, and hand on the generator's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="+", default=["1", "32"], help="numbers of clients")
    parser.add_argument("--rounds", default="3")
    parser.add_argument("--seconds", default="3", help="measured seconds per point")
    parser.add_argument("--quiet", default="5", help="wait up to so many seconds before a point for an idle machine")
    return asyncio.run(_run(parser.parse_args()))


async def _run(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="swoosh-bench-") as directory:
        cluster = LiveCluster.create(Path(directory) / "cluster", "--windows", "always_open")
        try:
            cluster.start(environment={"SWOOSH_PROJECTS_PER_SIGNER": "0"})  # one key creates a project for each client
            leader = await cluster.ready()
            return _measure(cluster, leader, options)
        finally:
            cluster.close()


def _measure(cluster: LiveCluster, leader: str, options: argparse.Namespace) -> int:
    first = [leader, *(node for node in cluster.nodes if node != leader)]
    command = [sys.executable, "swoosh_anchor.py", "--only", "own", "contended", "--out", str(REPORT)]
    command += ["--nodes", *(cluster.nodes[node].removeprefix("http://") for node in first)]
    command += ["--pids", *map(str, cluster.pids)]
    command += ["--c", *options.clients, "--rounds", options.rounds, "--seconds", options.seconds]
    command += ["--quiet", options.quiet]
    if shutil.which("etcd") is None:
        print("etcd is not installed: measuring SWOOSH alone, without ratios", file=sys.stderr)
        command.append("--no-etcd")
    REPORT.parent.mkdir(exist_ok=True)
    environment = os.environ | {"SWOOSH_CLUSTER": str(cluster.directory)}
    return subprocess.run(command, cwd=ANCHORS, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
