"""The chart: it is the one the brief draws, it names exactly the code there is, and a broken one is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import yaml

from chaos.solo import CHART, the_chart
from swoosh import catalog
from swoosh.catalog import bind
from swoosh.chart import Statechart, Transition, fold, load_chart
from swoosh.errors import ChartError

TEXT = CHART.read_text(encoding="utf-8")
BROKEN = yaml.safe_load(TEXT)

# --- the brief's drawing ----------------------------------------------------------------------------------------------

# Appendix A of the brief: (from, to, label) of every labelled edge. Where a node is a region's phase it is named so.
DRAWN = [
    ("boot.UNINITIALIZED", "boot.LICENSE_CHECK", "config_ok"),
    ("boot.LICENSE_CHECK", "lifecycle.PROJECT_LIFECYCLE", "licensed"),
    ("ingestion.DISCOVER", "ingestion.FETCH", "sources_resolved"),
    ("ingestion.FETCH", "ingestion.VALIDATE", "bytes_ok"),
    ("ingestion.VALIDATE", "ingestion.INDEX", "schema_ok"),
    ("ingestion.VALIDATE", "policy.QUARANTINED", "policy_violation"),
    ("ingestion.INDEX", "ingestion.READY", "corpus_built"),
    ("council.PLAN_ROLES", "council.ELECT", "profiles_loaded"),
    ("council.ELECT", "council.TOOLING_SYNC", "quorum_cert"),
    ("council.TOOLING_SYNC", "council.READY", "mcp_green"),
    ("environment.ALLOCATE", "environment.PROVISION", "capacity_ok"),
    ("environment.PROVISION", "environment.HEALTHCHECK", "installed"),
    ("environment.HEALTHCHECK", "environment.READY", "green"),
    ("environment.HEALTHCHECK", "environment.DEGRADED", "amber"),
    ("lifecycle.PROJECT_LIFECYCLE", "lifecycle.EXECUTION", "all_ready"),
    ("execution.PLAN", "execution.WORK", "plan_locked"),
    ("execution.WORK", "execution.REVIEW", "beat_review_gate"),
    ("execution.REVIEW", "execution.REVERB", "approvals_threshold"),
    ("execution.REVERB", "execution.PLAN", "next_window"),
    ("lifecycle.EXECUTION", "recovery.RECOVERY", "quorum_lost"),
    ("policy.QUARANTINED", "lifecycle.TERMINATED", "confirmed_block"),
]
# The edges from [*], and the transition that enters a node whose region rests elsewhere before.
BEGINNINGS = [
    ("boot.UNINITIALIZED", None),
    ("ingestion.DISCOVER", None),
    ("council.PLAN_ROLES", None),
    ("environment.ALLOCATE", None),
    ("execution.PLAN", "EXECUTION_BEGUN"),
]


def leaves(row: Transition, region: str, phase: str) -> bool:
    """Whether the transition may happen only while the region is in this phase, its own or one it asks for."""
    return phase in (row.sources if row.region == region else row.asks.get(region, ()))


def enters(row: Transition, region: str, phase: str) -> bool:
    return row.also.get(region) == phase or (row.region == region and phase in row.targets.values())


def test_the_brief_draws_26_edges() -> None:
    assert (len(DRAWN), len(BEGINNINGS)) == (21, 5)


@pytest.mark.parametrize(("source", "target", "label"), DRAWN, ids=[label for _, _, label in DRAWN])
def test_every_labelled_edge_of_the_brief_is_in_the_chart(source: str, target: str, label: str) -> None:
    row = the_chart().project.resolve(label)
    assert row is not None, f"{label} names no transition"
    assert leaves(row, *source.split("."))
    assert enters(row, *target.split("."))


@pytest.mark.parametrize(("node", "entered_by"), BEGINNINGS)
def test_every_region_begins_where_the_brief_says(node: str, entered_by: str | None) -> None:
    chart, (region, phase) = the_chart(), node.split(".")
    if entered_by is None:
        assert chart.project.regions[region].initial == phase
    else:
        assert chart.tree[region.upper()]["initial"] == phase
        assert enters(chart.project.transitions[entered_by], region, phase)


# --- spellings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("COUNCIL_QUORUM_CERT", "COUNCIL_QUORUM_CERT"),
        ("Council_QuorumCert", "COUNCIL_QUORUM_CERT"),
        ("quorum-cert", "COUNCIL_QUORUM_CERT"),
        ("RE-ELECT", "COUNCIL_REELECTION_CALLED"),
        ("Transition_Quarantine_Release", "POLICY_QUARANTINE_RELEASED"),
        ("next window", None),
        ("", None),
        ("QUORUM_CERTS", None),
    ],
)
def test_spellings_fold_to_one_transition(text: str, name: str | None) -> None:
    row = the_chart().project.resolve(text)
    assert (row.name if row else None) == name


def test_no_command_is_spelled_like_a_transition() -> None:
    chart = the_chart()
    assert not chart.project.spellings.keys() & chart.cluster.spellings.keys()
    assert fold("a-B_c") == "ABC"


def test_the_hash_follows_meaning_and_not_layout() -> None:
    chart = the_chart()
    assert load_chart("# another comment\n" + TEXT).hash == chart.hash
    assert load_chart(TEXT.replace('version: "1"', 'version: "2"')).hash != chart.hash


# --- broken charts ----------------------------------------------------------------------------------------------------


def transition(document: Any, name: str) -> Any:
    return document["project"]["transitions"][name]


def _set(name: str, member: str, value: Any) -> Callable[[Any], None]:
    return lambda document: transition(document, name).__setitem__(member, value)


def _drop(name: str) -> Callable[[Any], None]:
    return lambda document: document["project"]["transitions"].pop(name)


def _gate(member: str, value: Any) -> Callable[[Any], None]:
    return lambda document: document["gates"][0].__setitem__(member, value)


FAULTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "no cluster": (lambda d: d.pop("cluster"), "exactly"),
    "something more at the top": (lambda d: d.update(extra=1), "exactly"),
    "unknown member": (_set("CONTROL_PAUSED", "colour", "red"), r"CONTROL_PAUSED: unknown members \['colour'\]"),
    "no target": (lambda d: transition(d, "CONTROL_PAUSED").pop("to"), "misshapen: KeyError 'to'"),
    "no why": (lambda d: transition(d, "CONTROL_PAUSED").pop("why"), "misshapen"),
    "unknown region": (_set("CONTROL_PAUSED", "region", "weather"), "CONTROL_PAUSED: unknown region weather"),
    "unknown target": (_set("CONTROL_PAUSED", "to", "ASLEEP"), r"pause has no phase \['ASLEEP'\]"),
    "unknown source": (_set("CONTROL_PAUSED", "from", ["ASLEEP"]), r"pause has no phase \['ASLEEP'\]"),
    "unknown phase asked for": (_set("CONTROL_PAUSED", "asks", {"boot": ["ASLEEP"]}), "boot has no phase"),
    "unknown region moved": (_set("CONTROL_PAUSED", "also", {"weather": "RAIN"}), "unknown region weather"),
    "unknown choice": (_set("POLICY_UPDATED", "to", {"choice": "policy_verdict", "of": ["MAYBE"]}), "no phase"),
    "a source without a target": (
        _set("ENVIRONMENT_EFFECT_REVERTED", "to", {"PROVISION": "PROVISION"}),
        "must name a target for every phase",
    ),
    "unknown time class": (_set("CONTROL_PAUSED", "window", "tea"), "unknown time class tea"),
    "a guard twice": (_set("CONTROL_PAUSED", "guards", ["not_default", "not_default"]), "a guard is listed twice"),
    "one spelling for two": (_set("CONTROL_PAUSED", "aliases", ["Quorum-Cert"]), "spells both"),
    "a phase nobody reaches": (_drop("CONTROL_PAUSED"), "pause: phase PAUSED cannot be reached"),
    "a phase nobody leaves": (_drop("CONTROL_RESUMED"), "pause: phase PAUSED cannot be left"),
    "a gate on an unknown phase": (_gate("closed_while", {"pause": ["ASLEEP"]}), "gate terminated: unknown phase"),
    "a gate over an unknown region": (_gate("blocks", ["weather"]), "gate terminated: unknown regions"),
    "a gate that spares nobody known": (_gate("except", ["RAIN"]), "gate terminated: unknown transitions"),
    "a gate with an unknown code": (_gate("code", "CLOSED"), "misshapen: ValueError"),
    "a tree of unknown regions": (lambda d: d["tree"]["BOOT"].update(region="weather"), "tree node BOOT"),
    "a tree that lacks a top-level phase": (lambda d: d["tree"].pop("EXECUTION"), r"the tree lacks \['EXECUTION'\]"),
}


@pytest.mark.parametrize(("breaks", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_broken_chart_is_refused_by_name(breaks: Callable[[Any], None], reason: str) -> None:
    document = deepcopy(BROKEN)
    breaks(document)
    with pytest.raises(ChartError, match=reason):
        load_chart(yaml.safe_dump(document, sort_keys=False))


def test_all_faults_are_told_at_once() -> None:
    document = deepcopy(BROKEN)
    _drop("CONTROL_PAUSED")(document)
    _set("EXECUTION_BEGUN", "window", "tea")(document)
    with pytest.raises(ChartError, match=r"(?s)tea.*PAUSED cannot be reached"):
        load_chart(yaml.safe_dump(document, sort_keys=False))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "exactly"),
        ("- a list", "exactly"),
        ("a: [", "does not parse"),
        (TEXT.replace("    CONTROL_RESUMED:", "    CONTROL_PAUSED:"), "duplicate keys"),
        ("machine: !!python/object/apply:os.getcwd []", "does not parse"),
    ],
)
def test_text_that_is_no_chart_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ChartError, match=reason):
        load_chart(text)


# --- chart and code ---------------------------------------------------------------------------------------------------


def test_chart_and_code_name_each_other() -> None:
    bind(the_chart())


@pytest.mark.parametrize("table", [catalog.GUARDS, catalog.EFFECTS, catalog.CHOICES, catalog.INPUTS])
def test_code_that_no_transition_names_is_refused(table: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table, "forgotten", lambda context: None)
    with pytest.raises(ChartError, match="forgotten is defined, but no transition names it"):
        bind(the_chart())


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (catalog.GUARDS, "quorum_certificate"),
        (catalog.EFFECTS, "seat_members"),
        (catalog.CHOICES, "policy_verdict"),
        (catalog.INPUTS, "QuorumCertificate"),
    ],
)
def test_a_name_without_code_is_refused(table: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(table, name)
    with pytest.raises(ChartError, match=f"names .* {name}, which no code defines"):
        bind(the_chart())


def test_one_name_is_not_defined_twice() -> None:
    def authorised(context: Any) -> Any:
        return context

    with pytest.raises(ChartError, match="authorised is defined twice"):
        catalog.guard(authorised)


def test_every_phase_of_the_state_is_a_phase_of_the_chart() -> None:
    """The state's defaults are where the chart begins."""
    from swoosh.state import ClusterRegions, ProjectRegions

    chart = the_chart()
    pairs: list[tuple[Statechart, Any]] = [(chart.project, ProjectRegions()), (chart.cluster, ClusterRegions())]
    for statechart, regions in pairs:
        begins = {name: getattr(regions, name).phase for name in statechart.regions}
        assert begins == {name: shape.initial for name, shape in statechart.regions.items()}
