"""A tool server as facts: green after a dwell time, red at once, quiet while it flaps, the same to the next leader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from chaos.solo import Solo, the_chart
from cluster.answers import Answer, not_admitted
from cluster.clock import ManualClock
from cluster.egress import Blocked, Unreachable
from cluster.nodekey import NodeKey
from cluster.providers import mcp
from cluster.providers.leading import Leading
from cluster.providers.mcp import ToolProbe
from cluster.providers.mcp_probe import Seen, ToolServer, Unusable
from swoosh import facts
from swoosh.entry import FactItem, Item
from swoosh.facts import Known
from swoosh.outcome import Code, FactAccepted, Refused
from tests.running import running, turns

DWELL_S, LIFE_S, LOOK_S, STEP_S = 15, 600, 5, 0.25
SERVER = ToolServer("search", "http://tools.example/mcp", interval=LOOK_S)
OLD, NEW = Seen("search", "1.4.2", "2026-07-28", "sha256-a"), Seen("search", "2.0.0", "2026-07-28", "sha256-b")

Answers = Seen | Exception


class Bench:
    """A machine, a tool server that answers as it is told, and the provider that watches it where `probe` leads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.solo = Solo(the_chart(), settings=settings)
        self.clock = ManualClock(self.solo.now_ms * 1000)
        self.answers: Answers = OLD
        self.facts: list[facts.Fact] = []
        self.takes = True
        self.looks = 0
        monkeypatch.setattr(mcp, "probe", self._probe)
        self.lead()

    def lead(self) -> None:
        """Another node leads."""
        self.provider = ToolProbe(SERVER, None)  # type: ignore[arg-type]  # the probe is played
        key = NodeKey.of(self.solo.keys["probe"])
        self.leading = Leading(1, self.solo.machine, self.clock, key, self._submit)

    async def _probe(self, *_: Any) -> Seen:
        self.looks += 1
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers

    async def _submit(self, items: Sequence[Item], deadline: float) -> list[Answer]:
        if not self.takes:
            return [not_admitted(Code.NO_LEADER, "just lost it")] * len(items)
        self.facts += [facts.decode(item.sent) for item in items if isinstance(item, FactItem)]
        outcomes = self.solo.apply(*items).outcomes
        assert all(isinstance(outcome, FactAccepted) for outcome in outcomes), outcomes
        return list(outcomes)

    async def run(self, seconds: float, *says: Answers) -> None:
        """Time passes while the provider looks, a new answer at each look until there are no more."""
        waiting = list(says)
        async with running(self.provider.run(self.leading)):
            for step in range(round(seconds / STEP_S)):
                if waiting and step % round(LOOK_S / STEP_S) == 0:
                    self.answers = waiting.pop(0)
                await turns(5)
                self.clock.advance(STEP_S)
                self.solo.now_ms = self.clock.wall_us() // 1000
            await turns(5)

    @property
    def board(self) -> Known | None:
        return self.solo.machine.registry.fact("tool", "search")

    @property
    def green(self) -> bool:
        return self.board is not None and self.board.body["reachable"]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


async def test_a_tool_is_green_after_the_whole_dwell_time(bench: Bench) -> None:
    await bench.run(DWELL_S - 1)
    assert not bench.green and bench.board is not None
    assert bench.provider.trouble == bench.board.body["detail"] != ""
    await bench.run(DWELL_S - 1)
    assert not bench.green, "who leads anew begins the dwell anew"
    await bench.run(DWELL_S + 1)
    assert bench.green and bench.provider.trouble is None
    body = bench.board.body
    assert facts.Tool(**body) == facts.Tool(True, "1.4.2", "sha256-a", "search", "2026-07-28")
    assert len(bench.facts) == 2


@pytest.mark.parametrize("trouble", [Unreachable("mcp at tools.example:80: timed out"), Unusable("HTTP 401"), NEW])
async def test_a_tool_is_red_at_the_first_look_that_finds_another(bench: Bench, trouble: Answers) -> None:
    await bench.run(DWELL_S + 1)
    assert bench.green
    bench.answers = trouble
    await bench.run(1)
    assert not bench.green and bench.board is not None
    assert bench.board.body["detail"] == bench.provider.trouble
    if isinstance(trouble, Exception):
        assert bench.board.body["detail"] == str(trouble)
    bench.answers = OLD
    await bench.run(DWELL_S - 1)
    assert not bench.green
    await bench.run(DWELL_S + 1)
    assert bench.green


async def test_a_new_version_is_green_once_it_has_stayed(bench: Bench) -> None:
    await bench.run(DWELL_S + 1)
    bench.answers = NEW
    await bench.run(DWELL_S + 1)
    assert bench.board is not None and bench.board.body["version"] == "2.0.0" and bench.green


async def test_a_server_that_flaps_stays_red_and_does_not_fill_the_log(bench: Bench) -> None:
    down: list[Answers] = [Unreachable("refused"), Unusable("HTTP 500"), Unreachable("timed out"), NEW]
    await bench.run(LIFE_S // 2, *[answer for fault in down * 15 for answer in (OLD, OLD, fault)])
    assert bench.looks > LIFE_S // 2 // LOOK_S and not bench.green
    assert len(bench.facts) == 1, "why it is red may change as it likes"


async def test_a_slow_flap_makes_two_facts_per_dwell_at_most(bench: Bench) -> None:
    """Up for exactly as long as it takes to be green, then down for one look."""
    up: list[Answers] = [OLD] * (DWELL_S // LOOK_S + 1)
    await bench.run(LIFE_S // 2, *[answer for _ in range(30) for answer in (*up, Unreachable("refused"))])
    assert len(bench.facts) <= 2 * (LIFE_S // 2) // DWELL_S
    assert [fact.body["reachable"] for fact in bench.facts[:4]] == [False, True, False, True]


async def test_no_dwell_is_green_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, tool_dwell_ms=0)
    await bench.run(1)
    assert bench.green and len(bench.facts) == 1


async def test_a_fact_is_renewed_at_two_thirds_of_its_life(bench: Bench) -> None:
    await bench.run(DWELL_S + 1)
    first = bench.facts[-1]
    assert first.expires_at - first.observed_at == LIFE_S * 1000
    await bench.run(LIFE_S)
    assert bench.green and len(bench.facts) == 3
    assert bench.facts[-1].observed_at - first.observed_at in range(LIFE_S * 2000 // 3, LIFE_S * 2000 // 3 + 6_000)


async def test_what_is_red_is_renewed_with_the_newest_reason(bench: Bench) -> None:
    for reason in ("first", "second", "third"):
        bench.answers = Unreachable(reason)
        await bench.run(LIFE_S // 4)
    assert [fact.body["detail"] for fact in bench.facts] == ["first", "third"]


async def test_the_next_leader_reads_from_the_board_what_is_green(bench: Bench) -> None:
    await bench.run(DWELL_S + 1)
    bench.lead()
    await bench.run(60)
    assert bench.green and len(bench.facts) == 2, "no word changes, and none is repeated"
    bench.answers = NEW
    bench.lead()
    await bench.run(1)
    assert not bench.green, "but only for what it is now"


async def test_what_has_run_out_on_the_board_is_dwelt_on_again(bench: Bench) -> None:
    await bench.run(DWELL_S + 1)
    bench.clock.advance(LIFE_S)
    bench.solo.now_ms += LIFE_S * 1000
    bench.lead()
    await bench.run(1)
    assert not bench.green
    await bench.run(DWELL_S + 1)
    assert bench.green


async def test_nothing_is_said_where_nothing_may_leave(bench: Bench) -> None:
    await bench.run(DWELL_S + 1)
    bench.answers = Blocked("mcp: the license ran out")
    await bench.run(60)
    assert bench.green and len(bench.facts) == 2 and bench.provider.trouble == "mcp: the license ran out"
    await bench.run(LIFE_S)
    assert len(bench.facts) == 2, "it runs out by itself"
    bench.answers = OLD
    await bench.run(1)
    assert not bench.green, "and has to dwell again"


async def test_a_fact_that_was_not_taken_is_said_again(bench: Bench) -> None:
    bench.takes = False
    await bench.run(DWELL_S + 1)
    assert bench.board is None
    bench.takes = True
    await bench.run(DWELL_S + 1)
    assert bench.green


async def test_a_refused_fact_is_trouble(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuses(items: Sequence[Item], deadline: float) -> list[Answer]:
        return [Refused(Code.FACT_REFUSED, ("n1 holds no role provider:tool",))]

    bench.leading = Leading(1, bench.solo.machine, bench.clock, NodeKey.of(bench.solo.keys["probe"]), refuses)
    await bench.run(1)
    assert bench.provider.trouble is not None and "provider:tool" in bench.provider.trouble


async def test_a_fact_lives_as_many_beats_as_guards_believe_it(bench: Bench) -> None:
    def beat(index: int) -> None:
        body = {"cluster_id": "c", "beat_index": index, "downbeat": False, "phase": "plan",
                "deadline_at": bench.solo.now_ms + 4_000, "tempo_mbpm": 12_000, "window_id": "w"}  # fmt: skip
        bench.solo.fact("beat", "backbeat", body)

    await bench.run(DWELL_S + 1)
    beat(1)
    for index in range(2, 22):
        await bench.run(5)
        beat(index)
    assert bench.green
    lives = {fact.expires_at - fact.observed_at for fact in bench.facts[2:]}
    assert lives == {50_000}, "ten beats of five seconds"
    assert len(bench.facts) == 4, "the old one is replaced before guards stop to believe it, and each in its time"


async def test_a_fast_tempo_is_no_reason_to_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, beat_stale_after_beats=100)
    body = {"cluster_id": "c", "beat_index": 1, "downbeat": False, "phase": "plan",
            "deadline_at": 0, "tempo_mbpm": 1_000_000, "window_id": "w"}  # fmt: skip
    bench.solo.fact("beat", "backbeat", body)
    await bench.run(4.5)
    assert bench.looks == 5, "beats of 60 ms, and yet a look a second"
