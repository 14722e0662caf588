"""``swoosh policy`` and ``swoosh scan``: what a policy says, and what it finds in files. Neither needs a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cluster import config
from cluster.cli.shared import Connection, connected, fail, key_option, print_json, print_table, run, say
from cluster.shhh import report, tree
from cluster.shhh.policy import BUILT_IN, Policy
from cluster.shhh.scanner import Finding, Scanner
from swoosh.client import Key
from swoosh.client.answers import FactAccepted, Refused, Unknown

UNREAD_EXIT = 66  # EX_NOINPUT of sysexits(3)
VALID_MS = 24 * 3_600_000

_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def policy() -> None:
    """Read a policy."""


@policy.command("show")
@click.argument("path", type=_file, required=False)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def show(path: Path | None, output: str) -> None:
    """The rules of the policy in PATH, or of the built-in one, and what is done about what each finds. A file that
    cannot be a policy is refused as a node would."""
    found = load(path)
    if output == "json":
        rules = [
            {"rule": rule.name, "severity": rule.severity, "tags": rule.tags, "verdict": found.verdicts[rule.name]}
            for rule in found.rules
        ]
        print_json({"version": found.version, "hash": found.hash, "rules": rules})
        return
    rows = [(rule.name, rule.severity, ", ".join(rule.tags), found.verdicts[rule.name]) for rule in found.rules]
    print_table(("RULE", "SEVERITY", "TAGS", "VERDICT"), rows)
    click.echo(f"version {found.version}, {found.hash}")


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--policy", "policy_path", type=_file, help="A policy file. Default: the built-in policy.")
@click.option("--report", "content", help="Put the gravest finding on record as the fact about this content hash.")
@key_option("With --report: a key of role provider:finding", required=False)
@connected
def scan(connection: Connection, path: Path, policy_path: Path | None, content: str | None, key: Key | None) -> None:
    """Look for what policy forbids in a file, or in all files of a directory.

    Exit 0: nothing that quarantines; 1: something; 66: a file could not be read, so nothing is said.
    """
    found = load(policy_path)
    try:
        findings = tuple(tree.scan(Scanner(found), path))
    except tree.Unread as error:
        fail(str(error), UNREAD_EXIT)
    grave = report.quarantining(findings)
    if content is not None:
        if key is None:
            raise click.UsageError("--report needs --key")
        _report(connection, key, content, report.fact(findings, found))
    if connection.as_json:
        print_json(_document(found, findings))
    else:
        rows = [(each.location, each.rule, each.severity, each.verdict, each.value_hash) for each in findings]
        print_table(("LOCATION", "RULE", "SEVERITY", "VERDICT", "VALUE-HASH"), rows)
    if grave:
        raise click.exceptions.Exit(1)


def _document(policy: Policy, findings: tuple[Finding, ...]) -> dict[str, Any]:
    """Findings, and the inputs of INGESTION_REJECTED that follow from them."""
    grave = report.quarantining(findings)
    return {
        "policy_version": policy.version,
        "policy_hash": policy.hash,
        "findings": [each._asdict() for each in findings],
        "rejection": report.breach(grave, policy, "the content") if grave else None,
    }


def _report(connection: Connection, key: Key, content: str, body: dict[str, Any] | None) -> None:
    if body is None:
        say("nothing was found, so there is no fact to report")
        return

    async def send(body: dict[str, Any]) -> FactAccepted | Refused | Unknown:
        async with connection.client(key) as client:
            return await client.fact("finding", content, body, valid_ms=VALID_MS)

    answer = run(send(body))
    if not isinstance(answer, FactAccepted):
        fail(f"the finding is not on record: {answer}")
    say(f"on record as {answer.digest}")


def load(path: Path | None) -> Policy:
    """The policy in a file, the built-in one without; ends the command where it is none."""
    try:
        return BUILT_IN if path is None else config.policy(path)
    except config.Misconfigured as error:
        fail(str(error))
