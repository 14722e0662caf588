"""``swoosh chart``: the machine as a picture; with ``--live``, where one project stands in it."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.cli.shared import Connection, endpoint_option, fail, run
from cluster.config import packaged_chart
from cluster.graphviz import NoGraphviz, svg
from swoosh.drawing import Phases, to_dot, to_mermaid
from swoosh.proposal import DEFAULT_PROJECT

_LIVE_SECONDS = 5.0


@click.command()
@click.option("--format", "form", type=click.Choice(["svg", "mermaid", "dot"]), default="svg", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write here instead of standard output.")
@click.option("--live", is_flag=True, help="Ask the cluster, and light the phases --project is in.")
@click.option("--project", default=DEFAULT_PROJECT, show_default=True)
@endpoint_option
def chart(form: str, out: Path | None, live: bool, project: str, endpoints: tuple[str, ...]) -> None:
    """Draw the machine this build runs."""
    phases = run(_phases(Connection(endpoints, "json", _LIVE_SECONDS), project)) if live else None
    try:
        text = _drawn(form, phases)
    except NoGraphviz as error:
        fail(str(error))
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")


def _drawn(form: str, phases: Phases | None) -> str:
    machine = packaged_chart()
    if form == "mermaid":
        return to_mermaid(machine, phases)
    text = to_dot(machine, phases)
    return text if form == "dot" else svg(text)


async def _phases(connection: Connection, project: str) -> Phases:
    async with connection.client() as client:
        state = await client.state(project)
    if state is None:
        fail(f"no project {project!r} exists")
    return {region.lower(): body["Phase"] for region, body in state.projection.items() if "Phase" in body}
