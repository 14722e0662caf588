"""``python -m chaos.elector``: an elector as a program of its own, for demos and tests.

It waits until every role is claimed, signs exactly that set of claims, and leaves its ballot in a directory, from where
whoever may propose takes it. It never sees another vote.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from cluster.cli.shared import Connection, connected, key_option
from cluster.clock import SystemClock
from cluster.worker.common import LOOK_SECONDS
from swoosh import canonical, quorum
from swoosh.client import Client, Key


def held_set(council: dict[str, Any]) -> str:
    """The hash of the claims as they stand."""
    claims = council["Claims"].items()
    return quorum.member_set_hash((role, claim["Agent"], claim["Principal"]) for role, claim in claims)


async def claimed(client: Client, project: str) -> dict[str, Any]:
    """The council, once every role is claimed."""
    while True:
        seen = await client.state(project, projection=["Council"])
        council: dict[str, Any] = seen.projection["Council"] if seen else {"Phase": ""}
        if council["Phase"] == "ELECT" and set(council["Claims"]) == set(council["PlannedRoles"]):
            return council
        await SystemClock().sleep(LOOK_SECONDS)


@click.command()
@click.option("--project", required=True)
@click.option("--ballots", type=click.Path(path_type=Path), required=True, help="The directory the ballot is left in.")
@key_option("An elector's key")
@connected
def main(connection: Connection, project: str, ballots: Path, key: Key) -> None:
    """Vote once on the council of PROJECT."""

    async def vote() -> None:
        async with connection.client() as client:
            cluster_id = (await client.health())["cluster_id"]
            council = await claimed(client, project)
        signature = key.sign_vote(cluster_id, project, council["Election"], held_set(council))
        ballot = {"voter": key.principal, "vote": quorum.APPROVE, "signature": signature}
        place = ballots / f"{key.principal[-16:]}.json"
        place.with_suffix(".part").write_bytes(canonical.encode(ballot))
        place.with_suffix(".part").rename(place)

    asyncio.run(vote())


if __name__ == "__main__":
    main()
