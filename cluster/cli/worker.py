"""``swoosh worker``: programs of the SDK that carry a project forward. They may be killed and started at any time."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cluster.cli.shared import Connection, connected, fail, key_option, read_object, say
from cluster.cli.shared import run as run_to_the_end
from swoosh.client import Client, Key
from swoosh.proposal import DEFAULT_PROJECT

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
@click.option("--repository", help="A git URL or a local path. Default: what the project was created with.")
@click.option("--ref", default="HEAD", show_default=True, help="The branch, tag or commit of it.")
@click.option("--follow", is_flag=True, help="Stay, and build a new version whenever the ref has moved.")
@work_option
@key_option("A key with the role proposer:ingestion")
@connected
def ingest(
    connection: Connection, project: str, repository: str | None, ref: str, follow: bool, directory: Path, key: Key
) -> None:
    """Fetch, validate and index a git repository, and pin it as a version of the project's content."""
    from cluster.clock import SystemClock
    from cluster.config import inherited
    from cluster.worker.corpus import Corpus
    from cluster.worker.ingest import Ingest
    from cluster.worker.repository import INHERITED, Git, repository_of

    try:
        named = repository_of(repository) if repository else None
    except ValueError as error:
        raise click.BadParameter(f"--repository: {error}") from None
    git = Git(SystemClock(), inherited(*INHERITED))
    ingestion = Ingest(git, Corpus(directory), repository=named, ref=ref, follow=follow)
    _work(connection, key, project, lambda _: ingestion.decide)


@worker.command()
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
def run(
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
    _work(
        connection, key, project, lambda client: Run(client, project, Corpus(directory), orders, SystemClock()).decide
    )


def _work(connection: Connection, key: Key, project: str, decider: Callable[[Client], Any]) -> None:
    """Work to the end. Exit 0 where the project is where it should be, 1 where that is out of reach."""
    from cluster.clock import SystemClock
    from cluster.worker.common import Done, GaveUp, work

    async def go() -> Done:
        async with connection.client(key) as client:
            return await work(client, project, decider(client), clock=SystemClock(), say=say)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        say(f"{project}: {run_to_the_end(go()).what}")
    except GaveUp as error:
        fail(f"{project}: {error}")
