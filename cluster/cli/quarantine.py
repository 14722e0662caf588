"""``swoosh quarantine``: what holds a project, and the ways out of it that do not end it.

Releasing is a person's word that every finding was looked at, so the command shows them, asks, and names exactly those
it has shown, on the very state it has shown: a finding that came in between refuses the release.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click

from cluster.cli.propose import report
from cluster.cli.shared import Connection, connected, fail, key_option, print_json, print_table, run, say, short
from swoosh.client import Client, Key
from swoosh.client.answers import Outcome, State
from swoosh.proposal import DEFAULT_PROJECT

project_option = click.option("--project", default=DEFAULT_PROJECT, show_default=True)
FINDING_COLUMNS = ("RULE", "LOCATION", "VALUE-HASH", "SENT-BY")


@click.group()
def quarantine() -> None:
    """Look at what holds a project, and let it go on."""


@quarantine.command()
@click.option("--project", help="Default: every project that is held.")
@connected
def show(connection: Connection, project: str | None) -> None:
    """The findings that hold a project, or all projects that are held."""

    async def ask() -> dict[str, Any]:
        async with connection.client() as client:
            names = [project] if project else [name async for name in _held(client)]
            return {name: (await _policy(client, name)).projection["Policy"] for name in names}

    found = run(ask())
    if connection.as_json:
        print_json(found)
        return
    for name, region in found.items():
        _print_findings(name, region)
    if not found:
        click.echo("no project is quarantined")


@quarantine.command()
@project_option
@click.option("--reason", required=True, help="Why it may go on; it stays on record.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@key_option("A person's policy key")
@connected
def release(connection: Connection, project: str, reason: str, yes: bool, key: Key) -> None:
    """Let a project go on from where it was. Names every finding shown; exit as `swoosh propose`."""
    held = run(_read(connection, project))
    region = held.projection["Policy"]
    if region["Phase"] != "QUARANTINED":
        fail(f"{project} is not quarantined")
    _print_findings(project, region)
    if not yes:
        say("If a secret got out, rotate it first: releasing the project does not take it back.")
        click.confirm("Were all of these looked at, and may the project go on?", abort=True, err=True)
    named = [{"rule": each["Rule"], "location": each["Location"]} for each in region["Findings"]]
    inputs = {"reason": reason, "findings": named}
    report(connection, run(_propose(connection, key, "POLICY_QUARANTINE_RELEASED", inputs, held, project)))


@quarantine.command()
@project_option
@click.option(
    "--policy",
    "path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The policy file that judges the findings on record anew.",
)
@click.option("--address", help="Where the policy is to be read. Default: its hash.")
@key_option("A person's policy key")
@connected
def reassess(connection: Connection, project: str, path: Path, address: str | None, key: Key) -> None:
    """Judge the findings on record by a policy: what it no longer quarantines no longer holds the project."""
    from cluster import config

    try:
        policy = config.policy(path)
    except config.Misconfigured as error:
        fail(str(error))
    inputs = {
        "policy_version": policy.version,
        "policy": address or policy.hash,
        "quarantines": list(policy.quarantines),
    }
    held = run(_read(connection, project))
    report(connection, run(_propose(connection, key, "POLICY_UPDATED", inputs, held, project)))


async def _propose(
    connection: Connection, key: Key, transition: str, inputs: dict[str, Any], held: State, project: str
) -> Outcome:
    async with connection.client(key) as client:
        return await client.propose(transition, inputs=inputs, project=project, decided_on=held.state_hash)


async def _read(connection: Connection, project: str) -> State:
    async with connection.client() as client:
        return await _policy(client, project)


async def _policy(client: Client, project: str) -> State:
    found = await client.state(project, projection=["Policy"])
    if found is None:
        fail(f"nobody created a project {project}")
    return found


async def _held(client: Client) -> AsyncIterator[str]:
    after: str | None = ""
    while after is not None:
        page = await client.get("/projects", **({"after": after} if after else {}))
        for row in page["projects"]:
            if row["quarantined"]:
                yield row["project"]
        after = page["next"]


def _print_findings(project: str, region: dict[str, Any]) -> None:
    rows = [
        (each["Rule"], each["Location"], short(each["ValueHash"]), each["Principal"]) for each in region["Findings"]
    ]
    title = f"{project} {region['Phase']}: {region['Rationale'] or '-'} (policy {region['PolicyVersion'] or '-'})"
    print_table(FINDING_COLUMNS, rows, title=title)
