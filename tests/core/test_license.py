"""The hard gate, grace, and the difference between silence and a no."""

from typing import Any

import pytest
from msgspec.structs import replace

from swoosh.catalog import Context
from swoosh.facts import Known
from swoosh.state import License, ProjectRegions
from tests.core.contexts import CHART, CLUSTER_ID, NOW, after, context, fact, first_refusal, h, holds, registry

HOUR = 3_600_000


def license_fact(
    status: str = "active", *, left_ms: int = HOUR, age_ms: int = 0, life_ms: int = HOUR, **more: Any
) -> Known:
    return fact(
        "license",
        CLUSTER_ID,
        age_ms=age_ms,
        life_ms=life_ms,
        license_id="L-1",
        status=status,
        valid_until=NOW + left_ms,
        **more,
    )


def asked(
    transition: str, *facts: Known, phase: str = "ACTIVE", grace_until: int = 0, held: str = "", **how: Any
) -> Context:
    regions = ProjectRegions(license=License(phase=phase, fact_digest=held, grace_until=grace_until))
    inputs = {"reason": "no"} if transition == "BOOT_LICENSE_FAILED" else {}
    return context(transition, inputs, regions=regions, on=registry(*facts, **how))


@pytest.mark.parametrize(
    ("facts", "active", "unavailable", "denied"),
    [
        ((), False, True, False),
        ((license_fact(),), True, False, False),
        ((license_fact(left_ms=0),), False, True, False),
        ((license_fact(age_ms=HOUR, left_ms=2 * HOUR),), False, True, False),
        ((license_fact("grace"),), False, True, False),
        ((license_fact("expired"),), False, True, False),
        ((license_fact("denied"),), False, False, True),
        ((license_fact("suspended"),), False, False, True),
        ((license_fact("denied", age_ms=2 * HOUR),), False, False, True),
    ],
)
def test_active_unavailable_and_denied_exclude_each_other(
    facts: tuple[Known, ...], active: bool, unavailable: bool, denied: bool
) -> None:
    assert holds("license_active", asked("BOOT_LICENSE_GRANTED", *facts)) is active
    assert holds("license_unavailable", asked("LICENSE_GRACE", *facts)) is unavailable
    assert holds("license_denied", asked("BOOT_LICENSE_FAILED", *facts)) is denied


def test_facts_of_a_revoked_provider_are_silence() -> None:
    assert not holds("license_active", asked("BOOT_LICENSE_GRANTED", license_fact(), revoked=("probe",)))
    assert holds("license_unavailable", asked("LICENSE_GRACE", license_fact("denied"), revoked=("probe",)))


def test_the_license_of_another_cluster_opens_nothing() -> None:
    other = fact("license", "swoosh-" + "f" * 32, license_id="L", status="active", valid_until=NOW + HOUR)
    assert not holds("license_active", asked("BOOT_LICENSE_GRANTED", other))


def test_granting_writes_down_the_fact_it_rests_on() -> None:
    seen = license_fact()
    regions = after(asked("BOOT_LICENSE_GRANTED", seen))
    assert regions.boot.licensed
    assert regions.boot.license_expiry == "2026-01-01T01:00:00.000+00:00"
    assert regions.boot.fact_digest == regions.license.fact_digest == seen.digest


def test_a_license_without_end_has_an_expiry_that_can_be_written() -> None:
    forever = license_fact(left_ms=2**53 - 1 - NOW)
    assert after(asked("BOOT_LICENSE_GRANTED", forever)).boot.license_expiry.startswith("9999-12-31")


def test_renewing_takes_a_newer_fact() -> None:
    seen = license_fact()
    assert first_refusal(asked("LICENSE_RENEWED", seen, phase="GRACE", held=seen.digest)) == "license_newer"
    renewed = after(asked("LICENSE_RENEWED", seen, phase="GRACE", held=h("older"), grace_until=NOW)).license
    assert (renewed.fact_digest, renewed.grace_until) == (seen.digest, 0)


@pytest.mark.parametrize(
    ("facts", "until"),
    [
        ((), NOW + 100),
        ((license_fact(left_ms=-50),), NOW + 100),
        ((license_fact(left_ms=500, age_ms=HOUR),), NOW + 600),
        ((license_fact("grace", left_ms=-50, grace_until=NOW + 900),), NOW + 900),
        ((license_fact("grace", left_ms=-50, grace_until=NOW + 90),), NOW + 100),
    ],
)
def test_grace_counts_from_the_end_of_the_license_and_the_authority_may_grant_more(
    facts: tuple[Known, ...], until: int
) -> None:
    c = asked("LICENSE_GRACE", *facts, settings={"license_grace_ms": 100})
    assert after(c).license.grace_until == until


@pytest.mark.parametrize(
    ("facts", "phase", "grace_until", "over"),
    [
        ((), "GRACE", NOW, True),
        ((), "GRACE", NOW + 1, False),
        ((), "ACTIVE", 0, False),
        ((license_fact(left_ms=-1),), "ACTIVE", 0, False),
        ((license_fact(),), "GRACE", NOW, False),
        ((license_fact("denied"),), "ACTIVE", 0, True),
        ((license_fact("denied"),), "GRACE", NOW + HOUR, True),
    ],
)
def test_a_license_expires_when_grace_is_over_or_it_is_denied(
    facts: tuple[Known, ...], phase: str, grace_until: int, over: bool
) -> None:
    c = asked("LICENSE_EXPIRED", *facts, phase=phase, grace_until=grace_until)
    assert holds("grace_over_or_denied", c) is over
    if over:
        assert after(c).license == License(phase=phase)


def test_the_configuration_names_the_chart_in_force() -> None:
    assert first_refusal(context("BOOT_CONFIGURED", {"chart_hash": h("another")})) == "chart_matches"
    configured = after(context("BOOT_CONFIGURED", {"chart_hash": CHART.hash}))
    assert configured.boot == replace(ProjectRegions().boot, node_id=CLUSTER_ID)
