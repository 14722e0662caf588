"""``swoosh snapshot``: take one, list them, and why none is ever put back under a node.

A snapshot lies in the node's own data directory (``snapshots/<index>``): copy that directory to back it up, and see
that it verifies with ``swoosh verify DIRECTORY``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from cluster.cli.inspect import survey
from cluster.cli.shared import Connection, connected, fail, key_option, print_json, print_table, run, say, short
from cluster.clock import SystemClock
from swoosh.client import Key

ASK_SECONDS = 0.5
COLUMNS = ("NODE", "INDEX", "TERM", "HLC", "CLUSTER-HASH")

Listing = dict[str, Any]
"""One node's answer to ``GET /snapshots``."""


@click.group()
def snapshot() -> None:
    """Take a snapshot of a node's state, and list those there are."""


@snapshot.command()
@key_option("An admin's key")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Until it is complete, up to --timeout.")
@connected
def save(connection: Connection, key: Key, wait: bool) -> None:
    """Ask the node at the first endpoint for a snapshot of what it has applied.

    It is taken now, or when the least interval since the last one has passed. The order is signed for one node, so the
    endpoint must be its own and no load balancer's.
    """
    listing = run(_save(connection, key, wait))
    if connection.as_json:
        print_json(listing)
    else:
        _print([listing])


async def _save(connection: Connection, key: Key, wait: bool) -> Listing:
    endpoint, clock = connection.endpoints[0], SystemClock()
    deadline = clock.monotonic() + connection.timeout
    found = await survey([endpoint], connection.timeout)
    if not found.reports:
        fail("; ".join(found.silent.values()))
    [(node, report)] = found.reports.items()
    wanted = report["consensus"]["last_applied"]
    async with connection.client(key) as client:
        await client.order("snapshot", node, endpoint)
    while True:
        listing = await _list(connection, endpoint)
        if not wait or any(each["lastAppliedIndex"] >= wanted for each in listing["snapshots"]):
            return listing
        if clock.monotonic() >= deadline:
            fail(f"{node} took up the order and has no snapshot at index {wanted} yet; see swoosh snapshot list")
        await clock.sleep(ASK_SECONDS)


@snapshot.command(name="list")
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@connected
def list_snapshots(connection: Connection, directory: Path | None) -> None:
    """The snapshots of every endpoint's node, or those in DIRECTORY (a node's ``snapshots``, a backup)."""
    if directory is not None:
        listings = [_found_in(directory)]
    else:
        listings = [run(_list(connection, endpoint)) for endpoint in connection.endpoints]
    if connection.as_json:
        print_json(listings)
    else:
        _print(listings)


@snapshot.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1)
def restore(arguments: tuple[str, ...]) -> None:
    """Not offered: a node that is put back to an earlier state has forgotten what it promised."""
    fail(
        "a snapshot is never restored under a voting node: it would have forgotten votes and entries it acknowledged, "
        "and two majorities could come of it. One lost or damaged node: `swoosh serve --rejoin`, and it fetches what "
        "it lacks from its peers. A majority lost: a new cluster, with a cluster_id of its own (`swoosh init`)."
    )


async def _list(connection: Connection, endpoint: str) -> Listing:
    one = Connection((endpoint,), connection.output, connection.timeout)
    async with one.client() as client:
        listing: Listing = await client.get("/snapshots")
    return listing


def _found_in(directory: Path) -> Listing:
    from cluster.storage.snapshots import MANIFEST_NAME, read_manifest
    from swoosh.errors import Corrupt

    found = []
    for path in sorted((directory, *directory.iterdir())):
        if (path / MANIFEST_NAME).exists():
            try:
                found.append(msgspec.to_builtins(read_manifest(path)))
            except Corrupt as error:
                say(f"{path}: {error}")
    return {"node": str(directory), "snapshots": sorted(found, key=lambda each: int(each["lastAppliedIndex"]))}


def _print(listings: list[Listing]) -> None:
    rows = [
        (
            listing["node"],
            each["lastAppliedIndex"],
            each["term"],
            each["lastAppliedHLC"],
            short(each["cluster_hash"]),
        )
        for listing in listings
        for each in listing["snapshots"]
    ]
    print_table(COLUMNS, rows)
