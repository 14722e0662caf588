"""``swoosh identity``: who may sign. ``swoosh member``: who votes, which is fixed.

Both go through the log: an identity is added or revoked at one position on every node.
"""

from __future__ import annotations

from typing import Any

import click

from cluster.cli.propose import report
from cluster.cli.shared import Connection, connected, fail, key_option, print_json, print_table, run
from swoosh.client import Key, Outcome
from swoosh.proposal import CLUSTER


@click.group()
def identity() -> None:
    """List, add and revoke identities."""


@identity.command()
@click.argument("name")
@click.argument("principal")
@click.option("--role", "roles", multiple=True, required=True, help="For example proposer:council; repeatable.")
@click.option("--project", "projects", multiple=True, help="Only in this project; repeatable. Default: in all.")
@key_option("An admin's key")
@connected
def add(
    connection: Connection, name: str, principal: str, roles: tuple[str, ...], projects: tuple[str, ...], key: Key
) -> None:
    """Let the key PRINCIPAL (see `swoosh keys new`) sign under NAME."""
    inputs = {"name": name, "principal": principal, "roles": list(roles), "projects": list(projects)}
    report(connection, run(_command(connection, key, "IDENTITY_ADDED", inputs)))


@identity.command()
@click.argument("principal")
@click.option("--yes", is_flag=True, help="Do not ask.")
@key_option("An admin's key")
@connected
def revoke(connection: Connection, principal: str, yes: bool, key: Key) -> None:
    """Take every right from PRINCIPAL. Its claims, votes and facts count no more."""
    if not yes:
        click.confirm(f"Revoke {principal} for good?", abort=True, err=True)
    report(connection, run(_command(connection, key, "IDENTITY_REVOKED", {"principal": principal})))


@identity.command(name="list")
@connected
def list_(connection: Connection) -> None:
    """Who may sign what."""
    entries = run(_entries(connection))
    if connection.as_json:
        print_json(entries)
        return
    rows = [
        (each["Name"], ", ".join(each["Roles"]), ", ".join(each["Projects"]) or "all", _mark(each), principal)
        for principal, each in sorted(entries.items(), key=lambda entry: entry[1]["Name"])
    ]
    print_table(("NAME", "ROLES", "PROJECTS", "REVOKED", "PRINCIPAL"), rows)


@click.group()
def member() -> None:
    """The members are fixed when a cluster is made."""


def _fixed(action: str) -> None:
    fail(
        f"member {action} is not offered: the size of a cluster is fixed when it is made, because a group that is "
        "resized by hand can end up with two leaders. Make a new cluster of the size you need with `swoosh init`."
    )


@member.command(name="add", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1)
def add_member(arguments: tuple[str, ...]) -> None:
    """Not offered in this version."""
    _fixed("add")


@member.command(name="remove", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1)
def remove_member(arguments: tuple[str, ...]) -> None:
    """Not offered in this version."""
    _fixed("remove")


@member.command(name="list")
@connected
def list_members(connection: Connection) -> None:
    """The members, and the incarnation of each that was replaced."""
    nodes = run(_region(connection, "Members"))["Nodes"]
    if connection.as_json:
        print_json(nodes)
    else:
        print_table(("NODE", "INCARNATION"), [(name, each["Incarnation"] or None) for name, each in nodes.items()])


async def _command(connection: Connection, key: Key, transition: str, inputs: dict[str, Any]) -> Outcome:
    async with connection.client(key) as client:
        return await client.propose(transition, inputs=inputs, project=CLUSTER, on_stale="resubmit")


async def _entries(connection: Connection) -> dict[str, Any]:
    found: dict[str, Any] = (await _region(connection, "Identities"))["Entries"]
    return found


async def _region(connection: Connection, region: str) -> dict[str, Any]:
    async with connection.client() as client:
        state = await client.state(CLUSTER, projection=[region])
    if state is None:
        fail("the cluster holds no @cluster project")
    found: dict[str, Any] = state.projection[region]
    return found


def _mark(entry: dict[str, Any]) -> str | None:
    return "yes" if entry["Revoked"] else None
