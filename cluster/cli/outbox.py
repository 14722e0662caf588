"""``swoosh outbox``: what waits to be delivered, what is held and why, and what an admin can do about it.

Only the leader delivers, so the leader is asked: one of the endpoints must be its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from cluster.cli.leader import find_leader
from cluster.cli.shared import Connection, connected, fail, key_option, print_json, print_table, run, say
from swoosh.client import Key

COLUMNS = ("OUTBOX", "SINK", "BACKLOG", "OLDEST", "DELIVERED", "FAILED", "REFUSED", "BLOCKED")
HELD_COLUMNS = ("OUTBOX", "PROJECT", "SEQ", "REASON")


@click.group()
def outbox() -> None:
    """What is handed to BUBBLE and SLURP."""


@outbox.command()
@connected
def show(connection: Connection) -> None:
    """The outboxes of the leader: what waits, and which projects are held by which record."""
    found = run(_show(connection))
    if connection.as_json:
        print_json(found)
        return
    outboxes = found["outboxes"].items()
    print_table(COLUMNS, [_row(name, each) for name, each in outboxes])
    for title in ("held", "passed_over"):
        rows = [(name, row["project"], row["seq"], row["reason"]) for name, each in outboxes for row in each[title]]
        if rows:
            print_table(HELD_COLUMNS, rows, title=title.replace("_", " "))
    for name, each in outboxes:
        if each["trouble"]:
            say(f"{name}: {each['trouble']}")


@outbox.command()
@click.argument("name", type=click.Choice(["bubble", "slurp"]))
@key_option("An admin's key")
@connected
def retry(connection: Connection, name: str, key: Key) -> None:
    """Try everything that waits in an outbox now: the sink was mended."""
    run(_order(connection, key, "outbox-retry", name))
    say(f"{name}: everything that waits is tried again")


@outbox.command()
@click.argument("name", type=click.Choice(["bubble", "slurp"]))
@click.argument("project")
@click.argument("seq", type=click.IntRange(min=1))
@click.option("--yes", is_flag=True, help="Do not ask.")
@key_option("An admin's key")
@connected
def pass_over(connection: Connection, name: str, project: str, seq: int, yes: bool, key: Key) -> None:
    """Go on behind a record that the sink refuses. The sink will lack it; the cluster keeps it and says so for good."""
    if not yes:
        click.confirm(f"{name} will never have record {seq} of {project}. Go on?", abort=True, err=True)
    run(_order(connection, key, "outbox-pass-over", f"{name}/{project}/{seq}"))
    say(f"{name}: record {seq} of {project} is passed over")


async def _show(connection: Connection) -> dict[str, Any]:
    _, endpoint = await _leader(connection)
    async with replace(connection, endpoints=(endpoint,)).client() as client:
        found: dict[str, Any] = await client.get("/outboxes")
    if found["outboxes"] is None:
        fail(f"{found['node']} does not lead any more; ask again")
    return found


async def _order(connection: Connection, key: Key, order: str, target: str) -> None:
    leader, endpoint = await _leader(connection)
    async with connection.client(key) as client:
        await client.order(order, leader, endpoint, to=target)


async def _leader(connection: Connection) -> tuple[str, str]:
    leader, endpoint = await find_leader(connection)
    if endpoint is None:
        fail(f"{leader} leads, and no endpoint given is its own; add --endpoint with its address")
    return leader, endpoint


def _row(name: str, found: dict[str, Any]) -> tuple[Any, ...]:
    numbers = (found[key] for key in ("delivered", "failed", "refused", "blocked"))
    return (name, found["sink"], found["backlog"], f"{found['oldest_s']:.0f} s", *numbers)
