"""``python -m chaos.live.fuzz``: requests made up from the published description, sent to three real nodes.

Schemathesis reads docs/openapi.yaml as a node serves it and makes requests of it, fitting and not: each node is sent
its share. Whatever comes back must be described: no status, media type or body that the page does not have, and no 5xx
but the 501s and 503s that it has. Afterwards the nodes must still agree on one state. `/watch` is left out: an event
stream does not end, and the fuzzer waits for the end.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from chaos.live.cluster import LiveCluster, Trouble

REPORT = Path(__file__).resolve().parents[2] / "docs" / "reports" / "api-fuzz.jsonl"
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_schema_conformance", "response_headers_conformance"),
)
ENDLESS = "/watch"
LONGEST_SECONDS = 60
"""A read of an entry that never comes is answered at the node's own deadline."""
CONFIGURATION = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 501, 503]
"""
UNHURRIED = {"SWOOSH_WHOOSH_RATE_PER_MINUTE": "0", "SWOOSH_HTTP_RATE_PER_IP": "0"}
"""Whoever sends too much is told so, and nothing behind that would be reached."""
_COUNTED = re.compile(r"Test cases:\s+([\d,]+) generated")


class Run(msgspec.Struct, frozen=True):
    """A line of the report: requests by node, and how many were answered in a way that is not described."""

    date: str
    cases: dict[str, int]
    failures: int
    agreed: bool


async def fuzz(each: int, seed: int) -> tuple[Run, str]:
    """Send every operation ``each`` made-up requests on every node, beside those of the boundaries; what was found."""
    with TemporaryDirectory(prefix="swoosh-") as directory:
        cluster = LiveCluster.create(Path(directory) / "cluster", "--insecure-signers")
        for node in cluster.nodes:
            cluster.environment[node] = UNHURRIED
        configuration = Path(directory) / "schemathesis.toml"
        configuration.write_text(CONFIGURATION)
        cluster.start()
        try:
            await cluster.ready()
            found = [
                await asyncio.to_thread(_run, url, configuration, each, seed + number)
                for number, url in enumerate(cluster.endpoints)
            ]
            agreed = await _agree(cluster)
        finally:
            cluster.close()
    cases = {node: _cases(text) for node, (_, text) in zip(cluster.nodes, found, strict=True)}
    failures = sum(code != 0 for code, _ in found)
    told = "\n".join(text for code, text in found if code != 0)
    return Run(datetime.date.today().isoformat(), cases, failures, agreed), told


def _run(url: str, configuration: Path, each: int, seed: int) -> tuple[int, str]:
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(configuration)),
        *("run", f"{url}/openapi.json", "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing"),
        *("--max-examples", str(each), "--seed", str(seed), "--exclude-path", ENDLESS),
        *("--request-timeout", str(LONGEST_SECONDS)),
        *("--suppress-health-check", "all", "--continue-on-failure", "--no-color", "--warnings", "off"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=configuration.parent)
    return done.returncode, done.stdout + done.stderr


def _cases(text: str) -> int:
    counted = _COUNTED.search(text)
    if counted is None:
        raise Trouble(f"the fuzzer did not say how many requests it made:\n{text[-2_000:]}")
    return int(counted[1].replace(",", ""))


async def _agree(cluster: LiveCluster) -> bool:
    """Whether every node comes to the same state, with all that was sent applied."""

    async def one_hash() -> bool | None:
        found = (await cluster.survey()).agreement()
        return True if found is not None and found.agreeing == found.nodes else None

    try:
        return await cluster.wait_for("the nodes to agree", one_hash)
    except Trouble:
        return False


def main() -> None:
    """Run, tell, and fail if anything came back that is not described."""
    parser = argparse.ArgumentParser(prog="python -m chaos.live.fuzz")
    parser.add_argument("--each", type=int, default=10, help="made-up requests for each operation and node")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="append to docs/reports/api-fuzz.jsonl")
    options = parser.parse_args()
    run, told = asyncio.run(fuzz(options.each, options.seed))
    print(told)
    print(f"{sum(run.cases.values())} requests, nodes that answered in ways not described: {run.failures}, "
          f"{'one' if run.agreed else 'NOT ONE'} state on all nodes; seed {options.seed}")  # fmt: skip
    if options.record:
        with REPORT.open("ab") as file:
            file.write(msgspec.json.encode(run) + b"\n")
    sys.exit(0 if run.failures == 0 and run.agreed else 1)


if __name__ == "__main__":
    main()
