"""A cluster of one machine for the workers: the real chart and reducer, asked through the real SDK, without a network.

Everybody but the workers acts by the policy of chaos/steer.py, one move at each request, so that the state moves
between a worker's look and its proposal. Time passes when somebody sleeps. A worker can be killed at any proposal.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import cycle
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from chaos import steer
from chaos.solo import Solo, the_chart
from cluster.clock import SystemClock
from cluster.http import problems
from cluster.http.windows import outlook
from cluster.worker.common import Decider, Done, work
from swoosh import state
from swoosh.client import Client, Key, State
from swoosh.client.transport import Reply
from swoosh.entry import ProposalItem

PROJECT = "default"
WORKERS = (
    *("INGESTION_", "COUNCIL_TOOLING_SYNCED", "EXECUTION_BEGUN", "EXECUTION_PLAN_LOCKED"),
    *("EXECUTION_REVIEW_OPENED", "EXECUTION_REVIEW_REJECTED", "EXECUTION_APPROVED"),
    *("EXECUTION_SUBMITTED", "EXECUTION_NEXT_WINDOW"),
)
"""What only workers propose here, by the beginning of the name."""
BEATS = ("plan", "plan", "review")


class Killed(BaseException):
    """SIGKILL, as far as one process can tell."""


class World(SystemClock):
    """One project, everybody around it, and the clock on the wall.

    Attributes:
        dies: how many proposals from now the worker is killed, and whether the cluster still hears the last of them.
        said: what workers said.
        sent: every proposal a worker sent.
    """

    def __init__(self, *, windows: str = "always_open") -> None:
        self.solo = Solo(the_chart(), settings={"window_source": windows})
        self.dies: tuple[int, bool] | None = None
        self.said: list[str] = []
        self.sent: list[dict[str, Any]] = []
        self.busy = True
        self._beats = cycle(BEATS)
        self._slept = 0.0

    async def run(self, signer: str, decider: Callable[[Client], Decider]) -> Done:
        """A worker from its start to its end, or to its death."""
        async with sdk(self, signer) as client:
            it = decider(client)
            return await work(client, PROJECT, it.decide, regions=it.regions, clock=self, say=self.said.append)

    @property
    def regions(self) -> state.ProjectRegions:
        return self.solo.regions()

    def applied(self) -> list[tuple[str, str]]:
        """(transition, hash of its inputs) of all that workers got accepted, in order."""
        return [(each["transition_name"], each["inputs_hash"]) for each in self.wal() if _is_workers(each)]

    def wal(self) -> list[dict[str, Any]]:
        return [json.loads(data) for data in self.solo.source.records.get(PROJECT, [])]

    # --- time ---------------------------------------------------------------------------------------------------------

    def monotonic(self) -> float:
        return self._slept

    def wall_us(self) -> int:
        return self.solo.now_ms * 1000

    async def sleep(self, seconds: float) -> None:
        """Time passes; where beats are heard, one comes with each second."""
        await super().sleep(0)
        self._slept += seconds
        if self.solo.machine.registry.setting("window_source") == "backbeat":
            for _ in range(max(1, round(seconds))):
                steer.beat(self.solo, next(self._beats))
        else:
            self.solo.tick(round(seconds * 1000))

    # --- everybody else -----------------------------------------------------------------------------------------------

    def others_act(self) -> None:
        """One move of somebody else; where it is a worker's turn, what it needs to be true is said."""
        move = steer.next_move(self.solo)
        if not move.transition.startswith(WORKERS):
            steer.step(self.solo)
            return
        for said in move.facts:
            self.solo.fact(*said)

    def answer(self, method: str, url: str, body: bytes | None) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(url)
        match method, parts.path:
            case "POST", "/transition":
                return self._judge(json.loads(body or b""))
            case "GET", "/health":
                return 200, {"cluster_id": self.solo.machine.cluster_id}
            case "GET", "/windows":
                active = self.regions.execution.active_window_id
                return 200, outlook(active, self.solo.machine.registry, self.solo.now_ms)
            case _:
                query = parse_qs(parts.query)
                return 200, self._state(query["project"][0], query.get("projection", [""])[0])

    def _judge(self, sent: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.sent.append(sent)
        (outcome,) = self.solo.apply(ProposalItem(msgspec.json.encode(sent, order="sorted"))).outcomes
        return problems.document(outcome)

    def _state(self, project: str, asked: str) -> dict[str, Any]:
        """The regions asked for, as a node serves them, or all."""
        held = self.solo.machine.project(project)
        assert held is not None
        served = state.SERVED[type(held.regions)].values()
        names = [name for name in served if name in asked.split(",") or not asked]
        projection = {name: json.loads(b"".join(state.served(held.regions, name))) for name in names}
        control = {"Control": state.control(state.as_project(held.regions))} if "Control" in asked or not asked else {}
        return {
            "state_hash": held.state_hash,
            "hlc_last": held.regions.hlc_last.hlc,
            "index": self.solo.machine.position.index,
            "node": "n1",
            "leader": "n1",
            "consistency": "linearizable",
            "projection": projection | control,
        }


def sdk(world: World, signer: str) -> Client:
    """A client of the world."""
    key = Key(world.solo.keys[signer])
    return Client(["http://solo"], key=key, clock=world, entropy=_Even(), transport=_Wire(world))


def seen(world: World, project: str = PROJECT) -> State:
    """The project as a worker sees it."""
    return msgspec.convert(world.answer("GET", f"http://solo/state?project={project}", None)[1], State)


def _is_workers(record: dict[str, Any]) -> bool:
    name: str = record["transition_name"]
    return name.startswith(WORKERS)


class _Wire:
    """The transport between a worker and the world."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Reply:
        world = self._world
        if world.busy:
            world.others_act()
        dying = world.dies if method == "POST" else None
        if dying == (0, False):
            raise Killed
        status, document = world.answer(method, url, body)
        if dying == (0, True):
            raise Killed
        if dying is not None:
            world.dies = (dying[0] - 1, dying[1])
        return Reply(status, {}, msgspec.json.encode(document))

    def lines(self, url: str, *, headers: Mapping[str, str], idle: float) -> AsyncIterator[bytes]:
        raise NotImplementedError

    async def close(self) -> None: ...


class _Even:
    """Chance that takes no side."""

    def random(self) -> float:
        return 0.5

    def uuid(self) -> str:
        return "00000000-0000-4000-8000-000000000000"
