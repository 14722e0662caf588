"""``swoosh worker``: programs of the SDK that carry a project forward. They may be killed and started at any time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import msgspec

from cluster.cli.shared import Connection, connected, fail, key_option, read_object, run, say
from swoosh.client import Key
from swoosh.proposal import DEFAULT_PROJECT
from swoosh.regions.environment import Allocation


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
    from cluster.worker.common import Done, GaveUp
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
