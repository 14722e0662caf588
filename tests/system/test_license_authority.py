"""A license authority that denies, stalls, flaps and comes back, before real nodes: nobody has to help.

A token lives for three seconds here, and grace, where nothing else is said, for a day. The stories go by what nodes say
of themselves, not by the clock.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.live import LiveCluster
from swoosh.client import Accepted, Refused
from tests.system.authority import LicenseAuthority
from tests.system.conftest import Found

LIFE_MS = 3_000
PROJECT = "atlas"


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[LicenseAuthority]:
    made = LicenseAuthority(tmp_path)
    made.order(life_ms=LIFE_MS)
    yield made
    made.close()


@pytest.fixture
async def licensed(found: Found, authority: LicenseAuthority) -> AsyncIterator[LiveCluster]:
    """Three nodes and a project in the middle of its life, all licensed by the authority."""
    cluster = found("--windows", "always_open")
    authority.license(cluster)
    cluster.start()
    await cluster.ready()
    async with cluster.client("proposer") as client:
        assert isinstance(await client.propose("PROJECT_CREATED", inputs={"brief": "b"}, project=PROJECT), Accepted)
    await until(cluster, "ACTIVE")
    assert isinstance(await fetch(cluster), Accepted)
    yield cluster


async def until(cluster: LiveCluster, phase: str) -> None:
    """Wait until the project's license region is in this phase."""

    async def there() -> bool | None:
        return True if (await phases(cluster))["License"] == phase else None

    await cluster.wait_for(f"the license to be {phase}", there)


async def phases(cluster: LiveCluster) -> dict[str, str]:
    async with cluster.client() as client:
        state = await client.state(PROJECT)
    assert state is not None
    return {name: region["Phase"] for name, region in state.projection.items() if "Phase" in region}


async def fetch(cluster: LiveCluster) -> Accepted | Refused:
    """The project begins to fetch what it is about."""
    return await propose(cluster, "INGESTION_SOURCES_RESOLVED", {"sources": ["https://example.org/repository"]})


async def fail(cluster: LiveCluster) -> Accepted | Refused:
    """It could not, and will have to begin again."""
    return await propose(cluster, "INGESTION_FAILED", {"reason": "r"})


async def propose(cluster: LiveCluster, transition: str, inputs: dict[str, Any]) -> Accepted | Refused:
    async with cluster.client("proposer") as client:
        outcome = await client.propose(transition, inputs=inputs, project=PROJECT)
    assert isinstance(outcome, Accepted | Refused), outcome
    return outcome


async def license_moves(cluster: LiveCluster) -> list[str]:
    """What was done to the license region, in order."""
    async with cluster.client() as client:
        records = [record async for record in client.wal(PROJECT)]
    return [record["transition_name"] for record in records if record["region"] == "license"]


async def outbound(cluster: LiveCluster) -> set[str]:
    return {report["outbound"] for report in (await cluster.survey()).reports.values()}


async def hears(cluster: LiveCluster, text: str) -> None:
    """Wait until the leader says this about its license provider."""

    async def said() -> bool | None:
        reports = (await cluster.survey()).reports.values()
        return any(text in (report["providers"]["kaching"] or "") for report in reports if report["providers"]) or None

    await cluster.wait_for(f"the leader to say {text!r}", said)


async def let_grace_be(cluster: LiveCluster, ms: int) -> None:
    async with cluster.client("admin") as client:
        inputs = {"name": "license_grace_ms", "value": ms}
        done = await client.propose("SETTING_SET", inputs=inputs, project="@cluster")
    assert isinstance(done, Accepted), done


def but_license(found: dict[str, str]) -> dict[str, str]:
    """The phases that no license may move."""
    return {name: phase for name, phase in found.items() if name != "License"}


@pytest.mark.timeout(180)
async def test_a_denial_holds_projects_at_once_and_its_end_lets_them_go_on(
    licensed: LiveCluster, authority: LicenseAuthority
) -> None:
    before = await phases(licensed)
    assert await outbound(licensed) == {"open"}
    authority.order(status="denied")
    await until(licensed, "EXPIRED")
    refused = await fail(licensed)
    assert isinstance(refused, Refused) and refused.code == "PAUSED", refused
    assert "license is in EXPIRED" in "; ".join(refused.reasons) and "/health" in refused.help
    assert await outbound(licensed) == {"license lic-of-the-test is denied"}
    await hears(licensed, "lic-of-the-test is denied, the authority says")
    licensed.kill(await licensed.ready())
    await licensed.ready()
    assert (await phases(licensed)) == {**before, "License": "EXPIRED"}, "phases moved for a license"
    authority.order(status="active")
    await until(licensed, "ACTIVE")
    assert but_license(await phases(licensed)) == but_license(before)
    assert isinstance(await fail(licensed), Accepted)


@pytest.mark.timeout(180)
async def test_an_authority_that_is_slow_or_gone_costs_grace_and_then_the_outside(
    licensed: LiveCluster, authority: LicenseAuthority
) -> None:
    before = await phases(licensed)
    asked = authority.order(latency_ms=300)["asked"]

    async def asked_more() -> bool | None:
        return True if authority.order()["asked"] >= asked + 3 else None

    await licensed.wait_for("the slow authority to be asked again and again", asked_more)
    await until(licensed, "ACTIVE")
    authority.order(latency_ms=60_000)
    await until(licensed, "GRACE")
    began = time.monotonic()
    assert isinstance(await fail(licensed), Accepted), "grace holds nobody up"
    assert time.monotonic() - began < 5.0, "a proposal waited for the license authority"
    assert isinstance(await fetch(licensed), Accepted)
    await hears(licensed, "TimeoutError")
    assert await outbound(licensed) == {"open"}
    authority.order(latency_ms=0)
    await until(licensed, "ACTIVE")
    await let_grace_be(licensed, 1_000)
    authority.order(outage="reset")
    await until(licensed, "EXPIRED")
    assert all("its grace ended at" in reason for reason in await outbound(licensed))
    assert isinstance(await fail(licensed), Refused)
    assert but_license(await phases(licensed)) == but_license(before)
    authority.order(outage="none")
    await until(licensed, "ACTIVE")
    assert await outbound(licensed) == {"open"}
    assert isinstance(await fail(licensed), Accepted)


@pytest.mark.timeout(180)
async def test_an_authority_that_comes_and_goes_never_ends_anything(
    licensed: LiveCluster, authority: LicenseAuthority
) -> None:
    before = await phases(licensed)
    for outage in ({"retry_after_s": 1}, {"outage": "error"}, {"forged": True}):
        authority.order(**outage)
        await until(licensed, "GRACE")
        assert (await phases(licensed)) == {**before, "License": "GRACE"}
        authority.order(retry_after_s=0, outage="none", forged=False)
        await until(licensed, "ACTIVE")
    moves = await license_moves(licensed)
    assert len(moves) >= 6 and set(moves[0::2]) == {"LICENSE_GRACE"} and set(moves[1::2]) == {"LICENSE_RENEWED"}, moves
    survey = await licensed.agreed()
    assert survey.faults_left == 1
