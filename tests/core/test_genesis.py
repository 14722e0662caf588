"""The beginning of a cluster: one document, one identity, the same first state everywhere."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from cluster.config import packaged_chart
from swoosh import genesis
from swoosh.canonical import encode
from swoosh.client import Key
from swoosh.errors import Malformed
from swoosh.genesis import Genesis, Registered
from swoosh.machine import Machine, MemorySource, Position
from swoosh.proposal import CLUSTER, DEFAULT_PROJECT
from swoosh.state import as_cluster, as_project, project_from_rows

CHART = packaged_chart()
ADMIN = Key.from_seed(bytes(32)).principal
GENESIS = Genesis(
    nonce="ab" * 32,
    nodes=("n1", "n2", "n3"),
    identities=(Registered("admin", ADMIN, ("admin",)),),
    settings={"window_source": "always_open"},
    chart_hash=CHART.hash,
    insecure=False,
    created_ms=1_760_000_000_000,
)


def test_a_document_survives_its_own_bytes() -> None:
    assert genesis.decode(genesis.encode(GENESIS)) == GENESIS


def test_the_identity_of_a_cluster_is_the_hash_of_its_beginning() -> None:
    identity = genesis.cluster_id(GENESIS)
    assert identity == "swoosh-" + genesis.genesis_hash(GENESIS).removeprefix("sha256-")[:32]
    assert genesis.cluster_id(replace(GENESIS, nonce="cd" * 32)) != identity
    assert identity.encode() not in genesis.encode(GENESIS), "the id follows from the document, so it is not in it"


def test_the_first_state_knows_members_keys_settings_and_chart() -> None:
    cluster, default = genesis.initial_projects(GENESIS, CHART)
    regions = as_cluster(cluster.regions)
    assert list(regions.members.nodes) == ["n1", "n2", "n3"]
    assert regions.identities.entries[ADMIN].roles == ("admin",)
    assert regions.settings.values == {"window_source": "always_open"}
    assert regions.chart.chart_hash == CHART.hash
    assert as_project(default.regions).meta.phase == "CREATED"
    assert as_project(default.regions).boot.phase == "UNINITIALIZED"


def test_a_development_cluster_has_its_default_project_waiting_for_the_license() -> None:
    _, default = genesis.initial_projects(replace(GENESIS, insecure=True), CHART)
    assert as_project(default.regions).boot.phase == "LICENSE_CHECK"


def test_its_rows_are_its_projects() -> None:
    rows = genesis.initial_rows(GENESIS, CHART)
    for project in genesis.initial_projects(GENESIS, CHART):
        mine = [(path, data) for path, data in rows if path[0] == project.id and data is not None]
        assert project_from_rows(project.id, mine) == project


def test_a_machine_starts_on_it() -> None:
    source = MemorySource(genesis.initial_projects(GENESIS, CHART), Position(0, 0, 0))
    machine = Machine(CHART, genesis.cluster_id(GENESIS), source)
    assert machine.project_ids() == [CLUSTER, DEFAULT_PROJECT]
    assert machine.registry.setting("window_source") == "always_open"


def test_another_build_refuses_it() -> None:
    with pytest.raises(Malformed, match="this build has"):
        genesis.initial_projects(replace(GENESIS, chart_hash="sha256-" + "0" * 64), CHART)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"nonce": "ab"}, "nonce"),
        ({"nodes": []}, "nodes"),
        ({"nodes": ["n1", "n2"]}, "nodes"),
        ({"nodes": ["n1", "n2", "n3", "n4"]}, "nodes"),
        ({"nodes": ["n1", "n1"]}, "nodes"),
        ({"nodes": ["Node_1"]}, "nodes"),
        ({"identities": [{"name": "x", "principal": "alice", "roles": []}]}, "identities"),
        ({"settings": {"window_source": "sun"}}, "window_source"),
        ({"settings": {"moon": 1}}, "unknown setting"),
        ({"cluster_id": "swoosh-0"}, "unknown field"),
    ],
)
def test_a_document_that_contradicts_itself_is_refused(changes: dict[str, Any], complaint: str) -> None:
    import json

    document = {**json.loads(genesis.encode(GENESIS)), **changes}
    with pytest.raises(Malformed, match=complaint):
        genesis.decode(encode(document))
