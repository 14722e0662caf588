"""``swoosh worker``: programs of the SDK that carry a project forward. They may be killed and started at any time."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from cluster.cli.shared import Connection, connected, fail, key_option, read_object, run, say
from cluster.worker.common import Decider, Done, GaveUp, work
from swoosh.client import Client, Key
from swoosh.proposal import DEFAULT_PROJECT
from swoosh.regions.environment import Allocation

_TERMS = ("plan_beats", "plan_ms", "claim_beats", "claim_ms")

work_option = click.option(
    "--work",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("swoosh-work"),
    show_default=True,
    help="Where content is kept, by hash; ingest and run share it.",
)


@click.group()
def worker() -> None:
    """Carry a project forward, one committed step after the other."""


@worker.command()
@click.option("--project", default=DEFAULT_PROJECT, show_default=True)
@click.option("--asset", "wanted", multiple=True, metavar="NAME:KIND:UNITS", help="What is needed; repeatable.")
@click.option("--assets", help='The same as {"assets": [{"name", "kind", "units"}]}, or @FILE.')
@click.option("--teardown", is_flag=True, help="Take everything back instead.")
@click.option(
    "--patience",
    type=click.FloatRange(min=0.1),
    default=300.0,
    show_default=True,
    help="Seconds to wait for one thing before everything is taken back.",
)
@key_option("A key with the role proposer:environment; to tear down what is healthy, an operator's")
@connected
def provision(
    connection: Connection,
    project: str,
    wanted: tuple[str, ...],
    assets: str | None,
    teardown: bool,
    patience: float,
    key: Key,
) -> None:
    """Provision the environment of a project and wait until it is healthy. Killed, it may be started again: it goes on
    where the project stands. Exit 0 when it is where it should be, 1 when it is not."""
    from cluster.worker import provision as saga
    from swoosh.client.transport import SystemClock

    clock = SystemClock()
    allocation = None if teardown else _allocation(wanted, assets)

    async def go() -> Done:
        async with connection.client(key) as client:
            if allocation is None:
                return await saga.tear_down(client, project, clock=clock, say=say)
            return await saga.provision(client, project, allocation, patience=patience, clock=clock, say=say)

    try:
        say(f"{project}: {run(go()).what}")
    except GaveUp as error:
        fail(f"{project}: {error}")


def _allocation(wanted: tuple[str, ...], assets: str | None) -> Allocation:
    """What the options ask for."""
    document = read_object(assets, "--assets") if assets else {"assets": []}
    for text in wanted:
        name, _, rest = text.partition(":")
        kind, _, units = rest.rpartition(":")
        if not units.isdecimal():
            raise click.BadParameter(f"--asset {text}: expected NAME:KIND:UNITS")
        document["assets"].append({"name": name, "kind": kind, "units": int(units)})
    try:
        return msgspec.convert(document, Allocation)
    except msgspec.ValidationError as error:
        raise click.BadParameter(f"--asset, --assets: {error}") from None


@worker.command()
@click.option("--listen", default="127.0.0.1:9300", show_default=True, metavar="HOST:PORT")
@click.option("--root", type=click.Path(file_okay=False, path_type=Path), required=True, help="Where assets are made.")
@click.option("--units", type=click.IntRange(min=0), default=1_000, show_default=True, help="All there is to give.")
@click.option("--token", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A file with the bearer.")
def receive(listen: str, root: Path, units: int, token: Path | None) -> None:
    """Be the effect receiver of a cluster: a directory for each asset that is provisioned, gone when it is reverted."""
    from cluster import config
    from cluster.worker.receive import serve

    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal():
        raise click.BadParameter(f"--listen {listen}: expected HOST:PORT")
    config.arm_failpoints()
    bearer = token.read_text(encoding="utf-8").strip() if token else ""
    try:
        asyncio.run(serve(root, host.strip("[]"), int(port), units=units, token=bearer, say=say))
    except (OSError, ValueError) as error:
        fail(str(error))


@worker.command()
@click.option("--project", default=DEFAULT_PROJECT, show_default=True)
@click.option("--repository", help="A git URL or a local path. Default: what the project was created with.")
@click.option("--ref", default="HEAD", show_default=True, help="The branch, tag or commit of it.")
@click.option("--follow", is_flag=True, help="Stay, and build a new version whenever the ref has moved.")
@click.option(
    "--policy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What content is held against; else the built-in policy.",
)
@work_option
@key_option("A key with the role proposer:ingestion")
@connected
def ingest(
    connection: Connection,
    project: str,
    repository: str | None,
    ref: str,
    follow: bool,
    policy: Path | None,
    directory: Path,
    key: Key,
) -> None:
    """Fetch, validate and index a git repository, and pin it as a version of the project's content."""
    from cluster.cli.policy import load
    from cluster.clock import SystemClock
    from cluster.config import inherited
    from cluster.shhh.scanner import Scanner
    from cluster.worker.corpus import Corpus
    from cluster.worker.ingest import Ingest
    from cluster.worker.repository import INHERITED, Git, repository_of

    try:
        named = repository_of(repository) if repository else None
    except ValueError as error:
        raise click.BadParameter(f"--repository: {error}") from None
    git = Git(SystemClock(), inherited(*INHERITED))
    scanner = Scanner(load(policy))
    ingestion = Ingest(git, Corpus(directory), repository=named, ref=ref, follow=follow, scanner=scanner)
    _work(connection, key, project, lambda _: ingestion)


@worker.command(name="run")
@click.option("--project", default=DEFAULT_PROJECT, show_default=True)
@click.option("--pins", required=True, help="The tools the council works with: {tool: version} as JSON, or @FILE.")
@click.option(
    "--brief", default="BRIEF.md", show_default=True, help="The Design Brief, a path in the ingested content."
)
@click.option(
    "--brief-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A file of this machine instead."
)
@click.option(
    "--approve/--no-approve", default=True, show_default=True, help="Whether accepted work goes on by itself."
)
@click.option("--terms", default="{}", help=f"How long plan and claims last: {', '.join(_TERMS)} as JSON, or @FILE.")
@click.option("--follow", is_flag=True, help="Stay, and begin the next plan when one was delivered.")
@work_option
@key_option("A key with the roles proposer:council, proposer:lifecycle and proposer:execution")
@connected
def run_project(
    connection: Connection,
    project: str,
    pins: str,
    brief: str,
    brief_file: Path | None,
    approve: bool,
    terms: str,
    follow: bool,
    directory: Path,
    key: Key,
) -> None:
    """Carry a project whose regions become ready through plan, work and review to a submission."""
    from cluster.clock import SystemClock
    from cluster.worker.corpus import Corpus
    from cluster.worker.run import Orders, Run

    granted = read_object(terms, "--terms")
    if set(granted) - set(_TERMS):
        raise click.BadParameter(f"--terms: known are {', '.join(_TERMS)}")
    orders = Orders(read_object(pins, "--pins"), brief, brief_file, approve, granted, follow)
    _work(connection, key, project, lambda client: Run(client, project, Corpus(directory), orders, SystemClock()))


def _work(connection: Connection, key: Key, project: str, decider: Callable[[Client], Decider]) -> None:
    """Work to the end. Exit 0 where the project is where it should be, 1 where that is out of reach."""
    from cluster.clock import SystemClock

    async def go() -> Done:
        async with connection.client(key) as client:
            it = decider(client)
            return await work(client, project, it.decide, regions=it.regions, clock=SystemClock(), say=say)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        say(f"{project}: {run(go()).what}")
    except (GaveUp, OSError) as error:
        fail(f"{project}: {error}")
