"""The license gate: nothing leaves before the first license, after grace, or for a project that has none."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from chaos.solo import Solo, the_chart
from cluster.clock import ManualClock
from cluster.license_gate import LicenseGate
from swoosh.proposal import DEFAULT_PROJECT

GRACE_MS = 60_000
LIFE_MS = 10_000


class House:
    """A machine, the gate beside it, and a license authority's words."""

    def __init__(self) -> None:
        self.solo = Solo(the_chart(), settings={"license_grace_ms": GRACE_MS})
        self.clock = ManualClock(self.solo.now_ms * 1000)
        self.gate = LicenseGate(self.solo.machine, self.clock)

    def say(self, status: str = "active", **body: int) -> None:
        until = self.solo.now_ms + LIFE_MS
        said = {"license_id": "lic", "status": status, "valid_until": until, **body}
        self.solo.fact("license", self.solo.machine.cluster_id, said, expires_at=until)

    def license_default(self) -> None:
        """The story until `default` is licensed."""
        self.say()
        self.propose("BOOT_CONFIGURED", chart_hash=self.solo.chart.hash)
        self.propose("BOOT_LICENSE_GRANTED")

    def propose(self, transition: str, project: str = DEFAULT_PROJECT, **inputs: str) -> None:
        accepted = self.solo.apply(self.solo.item(self.solo.document(transition, inputs, project=project)))
        assert accepted.records, accepted.outcomes
        self.gate.on_applied(accepted)

    def wait(self, ms: int) -> None:
        self.clock.advance(ms / 1000)
        self.solo.tick(ms)


@pytest.fixture
def house() -> House:
    return House()


def test_it_is_closed_until_some_project_is_licensed_whatever_the_fact_says(house: House) -> None:
    assert house.gate.closed() == "no project of this cluster has been licensed yet"
    house.say()
    assert house.gate.closed() == "no project of this cluster has been licensed yet"
    house.license_default()
    assert house.gate.closed() is None


def test_a_node_that_starts_later_finds_the_project_that_was_licensed(house: House) -> None:
    house.license_default()
    assert LicenseGate(house.solo.machine, house.clock).closed() is None


def test_all_projects_are_looked_through_once_and_not_at_every_question(house: House) -> None:
    house.gate.closed()
    with patch.object(house.solo.machine, "project_ids", side_effect=AssertionError("again")):
        house.gate.closed()
        house.license_default()
        assert house.gate.closed() is None


def test_a_project_is_let_out_once_it_is_licensed_itself(house: House) -> None:
    house.license_default()
    assert house.gate.closed("atlas") == "atlas is no project of this cluster"
    house.propose("PROJECT_CREATED", "atlas", brief="b")
    assert house.gate.closed("atlas") == "the license of atlas is in phase NONE"
    house.propose("BOOT_CONFIGURED", "atlas", chart_hash=house.solo.chart.hash)
    house.propose("BOOT_LICENSE_GRANTED", "atlas")
    assert house.gate.closed("atlas") is None
    assert house.gate.closed("@cluster") == "@cluster is no project of this cluster"


def test_grace_keeps_it_open_and_its_end_closes_it_by_the_clock_alone(house: House) -> None:
    house.license_default()
    house.wait(LIFE_MS)
    house.propose("LICENSE_GRACE")
    assert house.gate.closed() is None and house.gate.closed(DEFAULT_PROJECT) is None
    house.wait(GRACE_MS - 1)
    assert house.gate.closed() is None and house.gate.seconds_left() == 0.001
    house.wait(1)
    assert "ran out, and its grace ended at 2026-01-01T00:01:10" in (house.gate.closed() or "")
    assert house.gate.closed(DEFAULT_PROJECT) == house.gate.closed(), "before any transition says EXPIRED"
    assert house.gate.seconds_left() == 0.0


def test_what_the_authority_grants_counts_where_it_is_more(house: House) -> None:
    house.say(grace_until=house.solo.now_ms + 10 * GRACE_MS)
    house.license_default()
    house.say(grace_until=house.solo.now_ms + 10 * GRACE_MS)
    assert house.gate.seconds_left() == 10 * GRACE_MS / 1000


def test_no_entry_after_it_can_turn_the_stamp_back(house: House) -> None:
    house.license_default()
    house.solo.tick(LIFE_MS + GRACE_MS)
    house.propose("CONTROL_PAUSED", reason="a stamp of later, from a leader whose clock is ahead")
    assert house.gate.closed() is not None, "the node's own clock still says that there is time"


@pytest.mark.parametrize("status", ["denied", "suspended"])
def test_a_no_closes_it_at_once_and_a_later_yes_opens_it(house: House, status: str) -> None:
    house.license_default()
    house.say(status)
    assert house.gate.closed() == f"license lic is {status}"
    assert house.gate.seconds_left() == 0.0
    house.say()
    assert house.gate.closed() is None


def test_an_expired_project_is_closed_until_its_own_region_is_renewed(house: House) -> None:
    house.license_default()
    house.say("denied")
    house.propose("LICENSE_EXPIRED")
    house.say()
    assert house.gate.closed() is None
    assert house.gate.closed(DEFAULT_PROJECT) == "the license of default is in phase EXPIRED"
    house.propose("LICENSE_RENEWED")
    assert house.gate.closed(DEFAULT_PROJECT) is None
