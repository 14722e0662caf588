"""Whether a build can judge what the log holds: the chart in force is a fact of the log, the charts in a build are not.

Two nodes that judge one entry by different charts are two machines. So a node whose build lacks the chart in force
stores and votes and judges nothing (`Raft.suspend`). And a leader appends no command that would bring into force what
some member lacks: the command's own list of supporters goes on record and is checked by a guard, and this is where
somebody vouches that the list is true, by what each member says of its build when its link comes up.

A build that judges by other rules under the same chart is not told apart here: new rules come with a new chart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cluster.raft.wire import Hello
from swoosh.chart import Chart
from swoosh.entry import BatchItem, Item, ProposalItem
from swoosh.machine import Machine
from swoosh.outcome import Accepted, Code, ItemOutcome, Refused
from swoosh.proposal import CLUSTER, decode

ACTIVATION = "CHART_ACTIVATED"
GUARD = "chart_supported"


def lacking(machine: Machine) -> str | None:
    """Why this build may not judge what comes next, or None."""
    needed = machine.registry.cluster.chart.chart_hash
    return None if needed == machine.chart.hash else f"in force is chart {needed}, this build has {machine.chart.hash}"


def objection(item: Item, chart: Chart, hellos: Mapping[str, Hello | None]) -> str | None:
    """Why this must not enter the log now: it activates a chart that some member lacks.

    ``hellos`` has every member, by what it said of its build; None for one that is out of reach.
    """
    for named in _charts_named(item, chart):
        having = {node: hello for node, hello in hellos.items() if hello is not None and hello.chart_hash == named}
        without = sorted(hellos.keys() - having.keys())
        if without:
            return f"{', '.join(without)} did not report to support chart {named}; upgrade there first"
        versions = sorted({hello.reducer_version for hello in having.values()})
        if len(versions) > 1:
            return f"the members run reducers {', '.join(versions)}; bring them to one version first"
    return None


def objected(judged: Sequence[ItemOutcome], reason: str) -> tuple[ItemOutcome, ...]:
    """The same verdicts, with a refusal where something new would have been accepted."""
    return tuple(
        Refused(
            Code.GUARD_REJECTED,
            (reason,),
            outcome.project,
            outcome.transition,
            outcome.idem_key,
            GUARD,
            head=outcome.state_pre_hash,
        )
        if isinstance(outcome, Accepted) and not outcome.duplicate
        else outcome
        for outcome in judged
    )


def _charts_named(item: Item, chart: Chart) -> Iterator[str]:
    """Charts that an item would bring into force. What is sent is canonical, so its project shows in the bytes."""
    match item:
        case ProposalItem(sent=sent) if CLUSTER.encode() in sent:
            proposal = decode(sent)
            transition = chart.of(proposal.project).resolve(proposal.transition)
            if transition is not None and transition.name == ACTIVATION:
                yield str((proposal.inputs or {}).get("chart_hash"))
        case BatchItem(proposals=proposals):
            for member in proposals:
                yield from _charts_named(member, chart)
        case _:
            pass
