"""``swoosh hmmm``: what travelled over HMMM, handed in by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cluster.cli.shared import UNKNOWN_EXIT, Connection, connected, print_json, print_table, run, say
from swoosh import canonical
from swoosh.client import Client, ClientError, Rejected
from swoosh.errors import Malformed

Line = tuple[int, str, str, str]
"""Its number, the type of the message, what became of it, and why."""


@click.group()
def hmmm() -> None:
    """Hand in messages of HMMM."""


@hmmm.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@connected
def replay(connection: Connection, file: Path) -> None:
    """Hand in every message of FILE, a saved topic with one JSON message a line, and say what became of each.

    Any number of times is once. Exit 0 when every line was taken or ignored, 1 when one was refused, 75 when nobody
    could say of one.
    """
    with click.open_file(str(file), "rb") as topic:
        lines = run(_replayed(connection, topic.read().splitlines()))
    if connection.as_json:
        print_json([dict(zip(("line", "type", "became", "reason"), line, strict=True)) for line in lines])
    else:
        print_table(("LINE", "TYPE", "BECAME", "REASON"), lines)
    found = {became for _, _, became, _ in lines}
    say(f"{len(lines)} messages")
    if "unknown" in found or "refused" in found:
        raise click.exceptions.Exit(UNKNOWN_EXIT if "unknown" in found else 1)


async def _replayed(connection: Connection, lines: list[bytes]) -> list[Line]:
    async with connection.client() as client:
        return [(number, *await hand_in(client, line)) for number, line in enumerate(lines, start=1) if line.strip()]


async def hand_in(client: Client, text: bytes) -> tuple[str, str, str]:
    """Type of one message, what became of it, and why."""
    kind = ""
    try:
        message = canonical.parse(text, "message")
        kind = str(message.get("type", ""))[:80] if isinstance(message, dict) else ""
        return kind, *_became(await client.message(message))
    except (Rejected, Malformed) as error:
        return kind, "refused", str(error)
    except ClientError as error:
        return kind, "unknown", str(error)


def _became(answer: dict[str, Any]) -> tuple[str, str]:
    """What a node said, in two words: of a vote, of a message that is none of ours, of a proposal."""
    if "votes" in answer:
        return answer["became"], f"{answer['project']}: {answer['votes']} of {answer['threshold']} to {answer['vote']}"
    if "became" in answer:
        return answer["became"], answer["reason"]
    became = "applied before" if answer["duplicate"] else "applied"
    return became, f"{answer['project']}: {answer['transition']} at index {answer['index']}"
