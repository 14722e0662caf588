"""``swoosh identity``: who may sign. ``swoosh member``: who votes, which is fixed, and on what store.

Both go through the log: an identity is added or revoked at one position on every node.
"""

from __future__ import annotations

from typing import Any

import click

from cluster.cli.inspect import survey
from cluster.cli.propose import report
from cluster.cli.shared import Connection, connected, fail, key_option, print_json, print_table, run, say
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
    """List the members, accept a new store of one. Who they are is fixed when a cluster is made."""


def _fixed(action: str) -> None:
    fail(
        f"501: member {action} is not offered: the size of a cluster is fixed when it is made, because a group that is "
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
    """The members: the store accepted for each that was replaced, how often that was, and what waits to be."""
    nodes = run(_region(connection, "Members"))["Nodes"]
    waiting = run(_waiting(connection))
    if connection.as_json:
        print_json({name: {**each, "Waiting": sorted(waiting.get(name, ()))} for name, each in nodes.items()})
        return
    rows = [
        (name, each["Incarnation"] or None, each["Rejoined"], ", ".join(sorted(waiting.get(name, ()))) or None)
        for name, each in nodes.items()
    ]
    print_table(("NODE", "INCARNATION", "REPLACED", "WAITING"), rows)


@member.command()
@click.argument("node")
@click.option("--yes", is_flag=True, help="Do not ask.")
@key_option("An admin's key")
@connected
def replace(connection: Connection, node: str, yes: bool, key: Key) -> None:
    """Accept the new store of NODE, which waits after `swoosh serve --rejoin`."""
    found = run(_waiting(connection)).get(node, set())
    if not found:
        fail(
            f"nobody who answered sees a new store of {node} that waits to be accepted. Start it with "
            "`swoosh serve --rejoin`; `swoosh member list` shows what waits."
        )
    if len(found) > 1:
        fail(f"{node} waits with {len(found)} stores: {', '.join(sorted(found))}. Stop all but one, and ask again.")
    (incarnation,) = found
    if not yes:
        say(f"The store that {node} had, wherever it may be, must never run again.")
        click.confirm(f"Accept store {incarnation} in its place?", abort=True, err=True)
    inputs = {"node": node, "incarnation": incarnation}
    report(connection, run(_command(connection, key, "MEMBER_REJOINED", inputs)))


async def _waiting(connection: Connection) -> dict[str, set[str]]:
    """{node: incarnations of its stores that wait to be accepted}, as the nodes that answer see them."""
    found: dict[str, set[str]] = {}
    for answered in (await survey(connection.endpoints, connection.timeout)).reports.values():
        for peer in answered["consensus"]["peers"]:
            if peer["rejoining"]:
                found.setdefault(peer["id"], set()).add(peer["incarnation"])
    return found


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
