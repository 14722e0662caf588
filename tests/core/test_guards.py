"""Who may sign, and the guards several regions share."""

import pytest
from msgspec.structs import replace

from swoosh.catalog import GUARDS, bind
from swoosh.guards import has_role, may_sign
from swoosh.merkle import MerkleMap
from swoosh.state import Asset, Council, Environment, Ingestion, ProjectRegions
from tests.core.contexts import CHART, context, h, holds, judge, registry, who

REASON = {"reason": "because"}


def test_the_chart_and_the_code_name_the_same_functions() -> None:
    bind(CHART)


def test_every_guard_documents_itself_in_one_line() -> None:
    for name, guard in GUARDS.items():
        text = (guard.__doc__ or "").strip()
        assert text.startswith("Reads ") and "; refuses " in text and "\n" not in text, name


@pytest.mark.parametrize(
    ("transition", "roles", "allowed"),
    [
        ("INGESTION_FAILED", ("proposer:ingestion",), True),
        ("INGESTION_FAILED", ("proposer:*",), True),
        ("INGESTION_FAILED", ("proposer:council",), False),
        ("INGESTION_FAILED", ("operator",), True),
        ("INGESTION_FAILED", ("agent", "node", "admin", "policy", "elector"), False),
        ("INGESTION_REJECTED", ("proposer:ingestion",), True),
        ("INGESTION_REJECTED", ("proposer:policy",), False),
        ("PROJECT_CREATED", ("proposer:council",), True),
        ("PROJECT_CREATED", ("agent",), False),
        ("CONTROL_PAUSED", ("proposer:*",), False),
        ("CONTROL_PAUSED", ("operator",), True),
        ("POLICY_BREACHED", ("provider:policy",), True),
        ("POLICY_BREACHED", ("provider:*",), True),
        ("POLICY_BREACHED", ("provider:license",), False),
        ("POLICY_BREACHED", ("operator", "proposer:*"), False),
        ("POLICY_QUARANTINE_RELEASED", ("policy",), True),
        ("POLICY_QUARANTINE_RELEASED", ("operator", "admin"), False),
        ("POLICY_QUARANTINE_RELEASED", ("policy", "node"), False),
        ("POLICY_QUARANTINE_RELEASED", ("policy", "provider:tool"), False),
        ("EXECUTION_TASK_CLAIMED", ("agent",), True),
        ("EXECUTION_TASK_CLAIMED", ("proposer:*",), False),
        ("IDENTITY_ADDED", ("admin",), True),
        ("IDENTITY_ADDED", ("operator",), False),
        ("IDENTITY_ADDED", (), False),
    ],
)
def test_roles_decide_who_may_sign(transition: str, roles: tuple[str, ...], allowed: bool) -> None:
    row = CHART.project.resolve(transition) or CHART.cluster.resolve(transition)
    assert row is not None
    assert (may_sign(row, roles, on_behalf=False) is None) is allowed


@pytest.mark.parametrize(
    ("transition", "roles", "allowed"),
    [
        ("COUNCIL_ROLE_CLAIMED", ("node",), True),
        ("COUNCIL_PROFILES_LOADED", ("node",), True),
        ("INGESTION_REJECTED", ("node",), True),
        ("COUNCIL_ROLE_CLAIMED", ("operator", "agent"), False),
        ("CONTROL_PAUSED", ("node", "operator"), False),
        ("POLICY_QUARANTINE_RELEASED", ("node", "policy"), False),
        ("IDENTITY_ADDED", ("node", "admin"), False),
    ],
)
def test_only_nodes_speak_for_others_and_only_for_agents_and_proposers(
    transition: str, roles: tuple[str, ...], allowed: bool
) -> None:
    row = CHART.project.resolve(transition) or CHART.cluster.resolve(transition)
    assert row is not None
    assert (may_sign(row, roles, on_behalf=True) is None) is allowed


def test_a_revoked_or_unknown_signer_holds_nothing() -> None:
    assert holds("authorised", context("CONTROL_PAUSED", REASON, signer="op"))
    assert not holds("authorised", context("CONTROL_PAUSED", REASON, signer="op", on=registry(revoked=("op",))))
    assert not holds("authorised", context("CONTROL_PAUSED", REASON, signer="nobody"))


def test_an_insecure_cluster_takes_unknown_signers_for_proposers() -> None:
    assert holds("authorised", context("INGESTION_FAILED", REASON, signer="nobody", trusting=True))
    assert not holds("authorised", context("CONTROL_PAUSED", REASON, signer="nobody", trusting=True))


def test_a_list_of_projects_restricts_an_identity() -> None:
    on = registry()
    cluster, identities = on.cluster, on.cluster.identities
    listed = {name: replace(held, projects=("beta",)) for name, held in identities.entries.items()}
    on = on._replace(cluster=replace(cluster, identities=replace(identities, entries=MerkleMap(listed))))
    assert holds("authorised", context("CONTROL_PAUSED", REASON, signer="op", on=on, project="beta"))
    assert not holds("authorised", context("CONTROL_PAUSED", REASON, signer="op", on=on))
    elsewhere = context("CONTROL_PAUSED", REASON, signer="op", on=on)
    assert not has_role(elsewhere, who("op"), "operator")
    assert has_role(elsewhere._replace(project="beta"), who("op"), "operator")


def test_default_never_ends() -> None:
    assert not holds("not_default", context("PROJECT_CLOSED", REASON, signer="op", project="default"))
    assert holds("not_default", context("PROJECT_CLOSED", REASON, signer="op"))


READY = ProjectRegions(
    ingestion=Ingestion(phase="READY", content_hash=h("content")),
    council=Council(phase="READY", member_set_hash=h("members"), basis=h("content")),
    environment=Environment(phase="READY", environment_hash=h("env"), basis=h("content")),
)
AGREED = {"content_hash": h("content"), "member_set_hash": h("members"), "environment_hash": h("env")}


def test_execution_begins_when_three_regions_agree() -> None:
    c = context("EXECUTION_BEGUN", AGREED, regions=READY)
    assert holds("regions_ready", c)
    assert holds("hashes_match", c)


@pytest.mark.parametrize("region", ["ingestion", "council", "environment"])
def test_one_region_that_is_not_ready_holds_execution_up(region: str) -> None:
    waiting = replace(READY, **{region: replace(getattr(READY, region), phase="DEGRADED")})
    verdict = judge("regions_ready", context("EXECUTION_BEGUN", AGREED, regions=waiting))
    assert not verdict.ok
    assert region in verdict.reasons[0]


@pytest.mark.parametrize("state", ["REQUESTED", "REVERTING"])
def test_an_effect_in_flight_holds_execution_up(state: str) -> None:
    environment = replace(READY.environment, assets=MerkleMap({"vm": Asset(state, "vm", 1)}))
    moving = replace(READY, environment=environment)
    assert not holds("regions_ready", context("EXECUTION_BEGUN", AGREED, regions=moving))


@pytest.mark.parametrize(
    "changed",
    [
        replace(READY, ingestion=replace(READY.ingestion, content_hash=h("new"))),
        replace(READY, council=replace(READY.council, basis=h("old"))),
        replace(READY, council=replace(READY.council, member_set_hash=h("others"))),
        replace(READY, environment=replace(READY.environment, basis="")),
        replace(READY, environment=replace(READY.environment, environment_hash=h("rebuilt"))),
    ],
)
def test_one_hash_that_differs_holds_execution_up(changed: ProjectRegions) -> None:
    assert not holds("hashes_match", context("EXECUTION_BEGUN", AGREED, regions=changed))


def test_naming_other_hashes_than_the_regions_hold_is_refused() -> None:
    for name in AGREED:
        assert not holds("hashes_match", context("EXECUTION_BEGUN", {**AGREED, name: h("?")}, regions=READY))
