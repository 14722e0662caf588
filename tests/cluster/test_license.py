"""The built-in license provider: it says what the file says, keeps it fresh, and never overrules an authority."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from chaos.solo import TERM, Solo, the_chart
from cluster.answers import Answer
from cluster.clock import ManualClock
from cluster.nodekey import NodeKey
from cluster.providers.leading import Leading
from cluster.providers.license import LIFE_MS, LOOK_SECONDS, LicenseFile
from swoosh import canonical, facts
from swoosh.entry import FactItem, Item
from swoosh.outcome import FactAccepted
from tests.running import running, turns

YEAR_MS = 365 * 24 * 3_600_000


class Shop:
    """A cluster, a file, and the provider that reads it on the node of `probe`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.solo = Solo(the_chart())
        self.clock = ManualClock(self.solo.now_ms * 1000)
        self.answers: list[Answer] = []
        self.facts: list[facts.Fact] = []
        self.provider = LicenseFile(path)
        self.leading = Leading(TERM, self.solo.machine, self.clock, NodeKey.of(self.solo.keys["probe"]), self.submit)

    async def submit(self, items: Sequence[Item], deadline: float) -> list[Answer]:
        self.facts += [facts.decode(item.sent) for item in items if isinstance(item, FactItem)]
        self.answers += self.solo.apply(*items).outcomes
        return self.answers[-len(items) :]

    def write(self, *, by: str = "probe", subject: str | None = None, lasts_ms: int = YEAR_MS, **change: Any) -> None:
        until = self.solo.now_ms + lasts_ms
        body = {"license_id": "l", "status": "active", "valid_until": until}
        sent = self.solo.fact_item(
            "license", subject or self.solo.machine.cluster_id, body, by=by, expires_at=until
        ).sent
        self.path.write_bytes(canonical.encode({**canonical.parse(sent), **change}))

    async def run(self, seconds: float) -> None:
        async with running(self.provider.run(self.leading)):
            for _ in range(max(1, int(seconds / LOOK_SECONDS))):
                await turns(5)
                self.clock.advance(LOOK_SECONDS)
                self.solo.now_ms = self.clock.wall_us() // 1000
            await turns(5)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "license.json")


async def test_a_file_becomes_a_fact_and_stays_fresh(shop: Shop) -> None:
    shop.write()
    await shop.run(LIFE_MS / 1000 * 2)
    assert all(isinstance(answer, FactAccepted) for answer in shop.answers), shop.answers
    assert len(shop.facts) == 4, "at the start, and at each two thirds of an hour"
    assert all(fact.expires_at <= fact.observed_at + LIFE_MS and fact.gathered_term == TERM for fact in shop.facts)
    held = shop.solo.machine.registry.fact("license", shop.solo.machine.cluster_id)
    assert held is not None and held.expires_at > shop.solo.now_ms


async def test_a_file_written_later_is_found(shop: Shop) -> None:
    await shop.run(10)
    assert not shop.facts
    shop.write()
    await shop.run(LOOK_SECONDS)
    assert len(shop.facts) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"by": "alice"},
        {"subject": "swoosh-another"},
        {"signature": "AAAA"},
        {"seq": 99},
        {"lasts_ms": 0},
        {"kind": "capacity"},
    ],
)
async def test_a_file_of_anybody_else_about_anything_else_gives_no_fact(shop: Shop, change: dict[str, Any]) -> None:
    shop.write(**change)
    await shop.run(10)
    assert not shop.facts


async def test_a_missing_file_is_complained_of_once(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    await shop.run(20)
    assert capsys.readouterr().out.count("license file gives no fact") == 1


async def test_the_no_of_an_authority_stands(shop: Shop) -> None:
    shop.write()
    body = {"license_id": "l", "status": "denied", "valid_until": 0}
    shop.solo.fact("license", shop.solo.machine.cluster_id, body)
    await shop.run(10)
    assert not shop.facts


async def test_it_ends_with_the_license(shop: Shop) -> None:
    shop.write(lasts_ms=60_000)
    await shop.run(300)
    assert shop.facts and max(fact.expires_at for fact in shop.facts) <= shop.solo.genesis.created_ms + 60_000
