"""``swoosh leader``: who leads, moved by hand. For a machine that is about to be taken down, or is slow.

A node that is stopped with SIGTERM hands over by itself; this is for one that is to stay.
"""

from __future__ import annotations

import click

from cluster.cli.inspect import survey
from cluster.cli.shared import Connection, connected, fail, key_option, print_json, run, say
from cluster.clock import SystemClock
from swoosh.client import Key

ASK_SECONDS = 0.1


@click.group()
def leader() -> None:
    """Move leadership."""


@leader.command()
@click.option("--to", "successor", help="The member that is to lead. Default: whoever is furthest along.")
@key_option("An admin's key")
@connected
def transfer(connection: Connection, successor: str | None, key: Key) -> None:
    """Ask the leader to hand over. Nothing is lost, and callers wait for some milliseconds at most.

    The order is signed for the node that leads, so one of the endpoints must be its own and no load balancer's.
    """
    before, after = run(_transfer(connection, key, successor))
    if connection.as_json:
        print_json({"from": before, "leader": after})
    else:
        say(f"{after} leads; {before} handed over")


async def _transfer(connection: Connection, key: Key, successor: str | None) -> tuple[str, str]:
    """Who led, and who leads now."""
    before, endpoint = await find_leader(connection)
    if before == successor:
        fail(f"{before} leads already")
    if endpoint is None:
        fail(f"{before} leads, and no endpoint given is its own; add --endpoint with its address")
    async with connection.client(key) as client:
        await client.order("transfer-leadership", before, endpoint, to=successor)
    clock = SystemClock()
    deadline = clock.monotonic() + connection.timeout
    while clock.monotonic() < deadline:
        after, _ = await find_leader(connection, may_lack=True)
        if after not in ("", before):
            return before, after
        await clock.sleep(ASK_SECONDS)
    fail(f"{before} handed over, and nobody is known to lead yet; see swoosh status")


async def find_leader(connection: Connection, *, may_lack: bool = False) -> tuple[str, str | None]:
    """The leader in the newest term that anybody knows of, and its endpoint if it is among those asked."""
    found = {endpoint: await survey([endpoint], connection.timeout) for endpoint in connection.endpoints}
    reports = {endpoint: report for endpoint, one in found.items() for report in one.reports.values()}
    newest = max(reports.values(), key=lambda report: int(report["consensus"]["term"]), default=None)
    name = newest["consensus"]["leader"] if newest else None
    if name is None:
        if may_lack:
            return "", None
        fail("no leader is known: there is nothing to hand over; see swoosh status")
    return str(name), next((endpoint for endpoint, report in reports.items() if report["node"] == name), None)
