"""``swoosh status``, ``health``, ``state`` and ``log``: what a cluster says of itself. They change nothing.

A verdict about the whole is drawn from what every endpoint said, never from one node's word for the others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import click

from cluster.cli.shared import Connection, connected, print_json, print_table, run, say, short
from cluster.clock import SystemClock
from swoosh.client import Client, ClientError, Policy
from swoosh.proposal import DEFAULT_PROJECT

WATCH_SECONDS = 1.0
STATUS_COLUMNS = ("NODE", "ROLE", "TERM", "COMMIT", "APPLIED", "LAG", "LAST-CONTACT", "STATE-HASH", "VERSION")

Report = dict[str, Any]
"""One node's answer to ``GET /health``."""


class Verdict(IntEnum):
    """How the cluster is; also the exit code of ``swoosh health``."""

    HEALTHY = 0
    DEGRADED = 1
    NO_LEADER = 2
    DIVERGED = 3
    UNREACHABLE = 4


class Agreement(NamedTuple):
    """How many nodes hold the same state at the same index, out of how many."""

    agreeing: int
    nodes: int
    at_index: int
    cluster_hash: str

    def __str__(self) -> str:
        return f"{self.agreeing} of {self.nodes} at index {self.at_index} {self.cluster_hash}"


@dataclass(frozen=True, slots=True)
class Survey:
    """What the endpoints answered, and what those that did not were asked."""

    reports: dict[str, Report]
    silent: dict[str, str]

    @property
    def verdict(self) -> Verdict:
        """The worst that is certain."""
        if not self.reports:
            return Verdict.UNREACHABLE
        if self._diverged():
            return Verdict.DIVERGED
        if not any(report["consensus"]["leader"] and report["consensus"]["quorum"] for report in self.reports.values()):
            return Verdict.NO_LEADER
        all_well = not self.silent and all(report["status"] == "healthy" for report in self.reports.values())
        return Verdict.HEALTHY if all_well else Verdict.DEGRADED

    @property
    def faults_left(self) -> int:
        """How many more nodes may fail, by those who hear a majority."""
        heard = [r["consensus"]["faults_left"] for r in self.reports.values() if r["consensus"]["quorum"]]
        return max(heard, default=0)

    def agreement(self) -> Agreement | None:
        """The largest group of verified nodes with one hash at one index; None where there is none."""
        found = Counter(
            (report["consensus"]["last_applied"], report["cluster_hash"])
            for report in self.reports.values()
            if report["cluster_hash"]
        )
        if not found:
            return None
        (index, cluster_hash), agreeing = max(found.items(), key=lambda entry: (entry[1], entry[0]))
        return Agreement(agreeing, len(self.reports) + len(self.silent), index, cluster_hash)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The status table: those who answered in their own words, the others in their leader's."""
        for node, report in sorted(self.reports.items()):
            consensus = report["consensus"]
            yield (
                node,
                consensus["role"],
                consensus["term"],
                consensus["commit_index"],
                consensus["last_applied"],
                report["walLag"],
                self._contact(node),
                short(report["cluster_hash"]),
                report["version"],
            )
        for node, peer in sorted(self._seen_by_leader().items()):
            if node not in self.reports:
                role = "unreachable" if not peer["reachable"] else None
                yield node, role, None, None, peer["match_index"], peer["lag"], _ms(peer["last_contact_ms"]), None, None

    def _contact(self, node: str) -> str | None:
        peer = self._seen_by_leader().get(node)
        return None if peer is None else _ms(peer["last_contact_ms"])

    def _seen_by_leader(self) -> dict[str, Any]:
        for node, report in sorted(self.reports.items()):
            if report["consensus"]["leader"] == node:
                return {peer["id"]: peer for peer in report["consensus"]["peers"]}
        return {}

    def _diverged(self) -> bool:
        at_index: dict[int, str] = {}
        for report in self.reports.values():
            index, found = report["consensus"]["last_applied"], report["cluster_hash"]
            if report["status"] == "diverged" or (found and at_index.setdefault(index, found) != found):
                return True
        return False


async def survey(endpoints: Sequence[str], timeout: float, project: str = DEFAULT_PROJECT) -> Survey:
    """Ask every endpoint once, at the same time; ``timeout`` in seconds for each."""
    answers = await asyncio.gather(*(_ask(endpoint, timeout, project) for endpoint in endpoints))
    reports = {report["node"]: report for report in answers if isinstance(report, dict)}
    silent = {endpoint: said for endpoint, said in zip(endpoints, answers, strict=True) if isinstance(said, str)}
    return Survey(reports, silent)


async def _ask(endpoint: str, timeout: float, project: str) -> Report | str:
    async with Client([endpoint], policy=Policy(budget=timeout, attempt=timeout)) as client:
        try:
            report: Report = await client.get("/health", project=project)
        except ClientError as error:
            return str(error)
        return report


# --- commands ---------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--watch", is_flag=True, help="Again every second, until interrupted.")
@connected
def status(connection: Connection, watch: bool) -> None:
    """Every node: role, term, log, state hash; and how many more may fail."""

    async def show() -> None:
        clock = SystemClock()
        while True:
            found = await survey(connection.endpoints, connection.timeout)
            if watch and not connection.as_json:
                click.clear()
            print_status(found, as_json=connection.as_json)
            if not watch:
                return
            await clock.sleep(WATCH_SECONDS)

    run(show())


def print_status(found: Survey, *, as_json: bool = False) -> None:
    """The status table, and below it what the table amounts to."""
    agreement = found.agreement()
    if as_json:
        agree = agreement._asdict() if agreement else None
        print_json({"nodes": found.reports, "silent": found.silent, "faults_left": found.faults_left, "agree": agree})
        return
    print_table(STATUS_COLUMNS, found.rows())
    for endpoint, reason in found.silent.items():
        say(f"{endpoint} is silent: {reason}")
    click.echo(f"faults left: {found.faults_left}")
    click.echo(f"agree: {agreement or 'nobody has verified its state yet'}")


@click.command()
@click.option("--project", default=DEFAULT_PROJECT, show_default=True)
@connected
def health(connection: Connection, project: str) -> None:
    """One word. Exit 0 healthy, 1 degraded, 2 no leader, 3 diverged, 4 unreachable."""
    found = run(survey(connection.endpoints, connection.timeout, project))
    if connection.as_json:
        print_json({"verdict": found.verdict.name.lower(), "nodes": found.reports, "silent": found.silent})
    else:
        click.echo(found.verdict.name.lower())
    for endpoint, reason in found.silent.items():
        say(f"{endpoint} is silent: {reason}")
    if found.verdict:
        raise click.exceptions.Exit(int(found.verdict))


@click.command()
@click.option("--project", default=DEFAULT_PROJECT, show_default=True)
@click.option("--projection", default="", help="Regions, comma separated. Default: all.")
@click.option("--consistency", type=click.Choice(["linearizable", "local"]), default="linearizable", show_default=True)
@connected
def state(connection: Connection, project: str, projection: str, consistency: str) -> None:
    """A project's regions: the phase and hash of each."""

    async def ask() -> Any:
        query = {"project": project, "consistency": consistency} | ({"projection": projection} if projection else {})
        async with connection.client() as client:
            return await client.get("/state", **query)

    found = run(ask())
    if connection.as_json:
        print_json(found)
        return
    rows = [
        (region, body.get("Phase") if isinstance(body, dict) else None, short(found["region_hashes"].get(region)))
        for region, body in found["projection"].items()
    ]
    print_table(("REGION", "PHASE", "HASH"), rows)
    click.echo(f"{found['state_hash']} at index {found['index']}, {found['hlc_last']}, from {found['node']}")


@click.command()
@click.option("--project", default=DEFAULT_PROJECT, show_default=True)
@click.option("--from", "start", type=click.IntRange(min=1), default=1, show_default=True, help="Sequence number.")
@click.option("--follow", is_flag=True, help="Go on as transitions are accepted, until interrupted.")
@connected
def log(connection: Connection, project: str, start: int, follow: bool) -> None:
    """A project's WAL: one line per accepted transition."""

    async def show() -> None:
        async with connection.client() as client:
            while True:
                following = await _print_records(connection, client, project, start)
                if not follow:
                    return
                async for _ in client.watch(project):
                    following = await _print_records(connection, client, project, following)

    run(show())


async def _print_records(connection: Connection, client: Client, project: str, start: int) -> int:
    """Print the records from ``start`` on; the sequence number that comes next."""
    async for record in client.wal(project, start=start):
        if connection.as_json:
            print_json(record)
        else:
            click.echo(
                f"{record['seq']:>6} {record['index']:>8} {record['hlc']} {record['transition_name']:<36} "
                f"{short(record['state_post_hash'])} {record['signer'][-12:]} {record['window_id']}".rstrip()
            )
        start = record["seq"] + 1
    return start


def _ms(value: int | None) -> str | None:
    return None if value is None else f"{value} ms"
