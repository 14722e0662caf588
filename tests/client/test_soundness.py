"""Whatever the network does, an outcome is true: ``Refused`` was never applied, ``Accepted`` was applied once.

A model of the cluster judges requests as the reducer does (key, then head, then a guard that comes and goes with the
facts). The network loses requests, loses answers, and delivers requests late, after later attempts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from swoosh.client import Accepted, Refused
from swoosh.client.transport import Lost, NotSent, Reply
from tests.client.script import Asked, accepted, client, refused, reply, unavailable

STEPS = st.sampled_from(
    ["answer", "answer", "lose request", "lose answer", "delay", "not sent", "no leader", "unknown"]
)
EVENTS = st.sampled_from(["nothing", "nothing", "somebody proposes", "guard turns", "straggler arrives"])


class Model:
    """One project of a cluster behind a bad network."""

    def __init__(self, steps: list[str], events: list[str]) -> None:
        self.steps, self.events = steps, events
        self.head, self.open, self.applied = 0, True, list[str]()
        self.stragglers: list[Asked] = []

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Reply:
        self._happens(self.events.pop(0) if self.events else "nothing")
        if method == "GET":
            return self._read(url)
        asked = Asked(method, url, headers, body)
        match self.steps.pop(0) if self.steps else "answer":
            case "not sent":
                raise NotSent("refused")
            case "no leader":
                return unavailable("NO_LEADER", admitted=False)
            case "lose request":
                raise Lost("cut")
            case "lose answer":
                self.judge(asked)
                raise Lost("cut")
            case "unknown":
                self.stragglers.append(asked)
                return unavailable("OUTCOME_UNKNOWN", admitted=True)
            case "delay":
                self.stragglers.append(asked)
                raise Lost("timeout")
            case _:
                return self.judge(asked)

    def lines(self, url: str, *, headers: Mapping[str, str], idle: float) -> AsyncIterator[bytes]:
        raise NotImplementedError

    async def close(self) -> None:
        pass

    def judge(self, asked: Asked) -> Reply:
        sent = asked.document
        if sent["idem_key"] in self.applied:
            return accepted(asked, duplicate=True)
        if sent["current_state_hash"] != self._head():
            return refused("STALE_STATE", state_hash=self._head())
        if not self.open:
            return refused("GUARD_REJECTED", state_hash=self._head())
        self.applied.append(sent["idem_key"])
        self.head += 1
        return accepted(asked)

    def settle(self) -> None:
        """Everything still on its way arrives, with the guard open."""
        self.open = True
        while self.stragglers:
            self.judge(self.stragglers.pop())

    def _happens(self, event: str) -> None:
        match event:
            case "somebody proposes":
                self.head += 1
            case "guard turns":
                self.open = not self.open
            case "straggler arrives" if self.stragglers:
                self.judge(self.stragglers.pop())
            case _:
                pass

    def _head(self) -> str:
        return f"sha256-{self.head:064x}"

    def _read(self, url: str) -> Reply:
        if "/health" in url:
            return reply(200, cluster_id="swoosh-" + "0" * 32)
        body: dict[str, Any] = {"hlc_last": "2026-01-01T00:00:00.000+00:00#0", "index": 1, "node": "n", "leader": "n"}
        return reply(200, **body, state_hash=self._head(), consistency="linearizable", projection={})


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=8), st.lists(EVENTS, max_size=12), st.sampled_from(["refuse", "resubmit"]))
async def test_an_outcome_is_never_a_lie(steps: list[str], events: list[str], on_stale: Any) -> None:
    model = Model(steps, events)
    outcome = await client(model, budget=8.0).propose("T", idem_key="k", on_stale=on_stale)
    model.settle()
    assert len(model.applied) <= 1
    if isinstance(outcome, Accepted):
        assert model.applied == ["k"]
    if isinstance(outcome, Refused):
        assert model.applied == []
