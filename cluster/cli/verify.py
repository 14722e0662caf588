"""``swoosh verify``: examine the store of a stopped node, or a snapshot, trusting nothing but bytes.

It never repairs, and never opens a store another process has open: what is being written cannot be examined.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from cluster.cli.shared import fail, print_json, print_table, say
from cluster.config import packaged_chart
from cluster.storage.incoming import current_store
from cluster.storage.kv import KeyValue, RocksKeyValue, StoreMissing
from cluster.storage.snapshots import MANIFEST_NAME, opened
from cluster.verify import Report, examine, examine_replay


@click.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--replay",
    is_flag=True,
    help="Also reduce the whole log again, compare every byte, and hold signers against the identities of their time.",
)
@click.option(
    "--base", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Replay from this snapshot."
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def verify(path: Path, replay: bool, base: Path | None, output: str) -> None:
    """Check state, chains and signatures of PATH: a stopped node's directory, or a snapshot.

    Exit 0 when everything verifies, 1 when something does not.
    """
    with ExitStack() as stack:
        kv = _open(stack, path)
        reports = [examine(kv, packaged_chart())]
        if replay or base is not None:
            earlier = _open(stack, base) if base is not None else None
            reports.append(examine_replay(kv, packaged_chart(), earlier, audited=True))
    if output == "json":
        print_json(reports)
    else:
        _print(reports, "state, chains, signatures" + (", replay" if len(reports) > 1 else ""))
    if any(report.findings for report in reports):
        raise click.exceptions.Exit(1)


def _open(stack: ExitStack, path: Path) -> KeyValue:
    if (path / MANIFEST_NAME).exists():
        return stack.enter_context(opened(path))
    try:
        kv = RocksKeyValue.open(current_store(path))
    except StoreMissing as error:
        fail(f"{error}; give a node's directory or a snapshot")
    stack.callback(kv.close)
    return kv


def _print(reports: list[Report], checked: str) -> None:
    findings = [finding for report in reports for finding in report.findings]
    for report in reports:
        for reason in report.unchecked:
            say(f"not checked: {reason}")
    if findings:
        print_table(("CHECK", "PLACE", "REASON"), [(each.check, each.place, each.reason) for each in findings])
    else:
        click.echo(f"verified at index {reports[0].index}: {checked}")
    last = reports[0].checkpoint
    if last is not None:
        click.echo(f"{', '.join(last.nodes)} agreed at index {last.at} on {last.cluster_hash}")
