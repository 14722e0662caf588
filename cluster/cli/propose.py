"""``swoosh propose`` and ``swoosh explain``: the same question, asked for good or only asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from cluster.cli.shared import (
    UNKNOWN_EXIT,
    Connection,
    connected,
    key_option,
    print_json,
    print_table,
    read_object,
    run,
    say,
    short,
)
from swoosh import canonical
from swoosh.client import Accepted, Client, Key, Outcome, Refused, Unknown
from swoosh.client.client import OnStale
from swoosh.outcome import Code, GuardOutcome
from swoosh.proposal import DEFAULT_PROJECT

CELL_CHARS = 71
"""A hash fits."""


def _intent(command: Any) -> Any:
    """What a proposal says."""
    for option in (
        click.option("--evidence", multiple=True, help="A UCXL or bubble address; repeatable."),
        click.option("--window", "window_id", default="", help="Where the transition has a time class."),
        click.option("--inputs", default="{}", help="A JSON object, or @FILE."),
        click.option("--project", default=DEFAULT_PROJECT, show_default=True),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("transition")
@_intent
@click.option("--idem-key", help="Name the operation, to be able to repeat it. Default: a new one.")
@click.option("--head", help="The state hash you decided on. Default: the newest.")
@click.option("--on-stale", type=click.Choice(["refuse", "resubmit"]), default="refuse", show_default=True)
@key_option("The signer's key")
@connected
def propose(
    connection: Connection,
    transition: str,
    project: str,
    inputs: str,
    window_id: str,
    evidence: tuple[str, ...],
    idem_key: str | None,
    head: str | None,
    on_stale: OnStale,
    key: Key,
) -> None:
    """Propose TRANSITION. Exit 0 accepted, 1 refused, 75 unknown: repeat with the same --idem-key."""
    values = read_object(inputs, "--inputs")

    async def ask() -> Outcome:
        async with connection.client(key) as client:
            return await client.propose(
                transition,
                inputs=values,
                project=project,
                window_id=window_id,
                evidence=evidence,
                idem_key=idem_key,
                decided_on=head,
                on_stale=on_stale,
            )

    report(connection, run(ask()))


@click.command()
@click.argument("transition", required=False)
@_intent
@key_option("The signer's key")
@connected
def explain(
    connection: Connection,
    transition: str | None,
    project: str,
    inputs: str,
    window_id: str,
    evidence: tuple[str, ...],
    key: Key,
) -> None:
    """Run every guard of TRANSITION and write nothing: what they saw, the fields it would change, and the state hash to
    propose it against. Without a name: every transition the phases allow now."""
    values = read_object(inputs, "--inputs")

    async def ask() -> dict[str, Outcome]:
        async with connection.client(key) as client:
            names = [transition] if transition else await _within_reach(client, project)
            return {
                name: await client.propose(
                    name, inputs=values, project=project, window_id=window_id, evidence=evidence, dry_run=True
                )
                for name in names
            }

    verdicts = run(ask())
    if connection.as_json:
        print_json({name: {**_document(each), "against": _against(each)} for name, each in verdicts.items()})
    elif transition:
        _print_verdict(transition, verdicts[transition])
    else:
        print_table(("TRANSITION", "WOULD BE", "BECAUSE"), (_summary(*each) for each in verdicts.items()))


def report(connection: Connection, outcome: Outcome) -> None:
    """Print an outcome and end with the exit code it stands for."""
    if connection.as_json:
        print_json(_document(outcome))
    elif isinstance(outcome, Accepted):
        rows = [
            (
                outcome.transition,
                "yes (before)" if outcome.duplicate else "yes",
                outcome.index,
                short(outcome.state_post_hash),
                outcome.idem_key,
            )
        ]
        print_table(("TRANSITION", "ACCEPTED", "INDEX", "STATE-HASH", "IDEM-KEY"), rows)
    elif isinstance(outcome, Refused):
        _print_refusal(outcome)
    else:
        say(f"unknown: {outcome.reason}")
        say(f"It may still be applied, once at most. Repeat with --idem-key {outcome.idem_key}")
    code = 0 if isinstance(outcome, Accepted) else UNKNOWN_EXIT if isinstance(outcome, Unknown) else 1
    if code:
        raise click.exceptions.Exit(code)


async def _within_reach(client: Client, project: str) -> list[str]:
    """The transitions that leave, or stay in, the phases the project is in."""
    from cluster.config import packaged_chart

    chart, found = packaged_chart().of(project), await client.state(project)
    if found is None:
        return [transition.name for transition in chart.transitions.values() if transition.creates]
    phases = {name.lower(): body["Phase"] for name, body in found.projection.items() if "Phase" in body}
    return [
        transition.name
        for transition in chart.transitions.values()
        if phases.get(transition.region) in transition.sources
        and all(phases.get(region) in wanted for region, wanted in transition.asks.items())
    ]


def _document(outcome: Outcome) -> dict[str, Any]:
    from msgspec import to_builtins

    found: dict[str, Any] = {"outcome": type(outcome).__name__.lower(), **to_builtins(outcome)}
    return found


def _summary(name: str, outcome: Outcome) -> tuple[str, str, str]:
    match outcome:
        case Accepted():
            return name, "accepted", ""
        case Refused():
            if outcome.code == Code.INPUTS_INVALID:
                return name, "needs inputs", outcome.reasons[0]
            lacking = [guard.name for guard in outcome.guard_outcomes if not guard.ok]
            near = " (one guard away)" if len(lacking) == 1 else ""
            by = f"{outcome.code} {', '.join(lacking)}".strip()
            return name, f"refused{near}", f"{by}: {outcome.reasons[0] if outcome.reasons else ''}"
        case Unknown():
            return name, "unknown", outcome.reason


def _print_verdict(name: str, outcome: Outcome) -> None:
    match outcome:
        case Accepted():
            say(f"{name} would be accepted; HEAD would become {outcome.state_post_hash}")
            _print_guards(outcome.guard_outcomes)
            rows = [(change.path, _value(change.before), _value(change.after)) for change in outcome.changes]
            print_table(("FIELD", "BEFORE", "AFTER"), rows)
            click.echo(f"propose against: {_against(outcome)}")
        case Refused():
            _print_guards(outcome.guard_outcomes)
            _print_refusal(outcome)
        case Unknown():
            say(f"nobody could say: {outcome.reason}")


def _against(outcome: Outcome) -> str | None:
    """The state hash that a proposal has to name now."""
    match outcome:
        case Accepted():
            return outcome.state_pre_hash
        case Refused():
            return outcome.state_hash or None
        case Unknown():
            return None


def _value(value: Any) -> str | None:
    """A value of the state in one cell; all of it is in the JSON."""
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else canonical.encode(value).decode()
    return text if len(text) <= CELL_CHARS else text[: CELL_CHARS - 1] + "…"


def _print_guards(outcomes: Iterable[GuardOutcome]) -> None:
    rows = [(each.name, "ok" if each.ok else "REFUSED", "; ".join(each.reasons)) for each in outcomes]
    if rows:
        print_table(("GUARD", "VERDICT", "WHAT IT SAW"), rows)


def _print_refusal(refused: Refused) -> None:
    """What was refused, by what, what it saw, what to do next."""
    say(f"refused {refused.code}" + (f" by guard {refused.failing_guard}" if refused.failing_guard else ""))
    for reason in refused.reasons:
        say(f"  {reason}")
    if refused.help:
        say(f"Next: {refused.help}")
    if refused.state_hash:
        say(f"HEAD is {refused.state_hash}")
