"""The shim for producers: what a call is told is true, and every attempt of it is the same operation.

The laws are tried on a model of the cluster behind a bad network; the middleware on a real server and aiohttp's own
client.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.entropy import SeededEntropy
from swoosh.client.additions import Amended, Call
from swoosh.client.retry import Policy
from swoosh.client.shim import WINDOW_SECONDS, OutcomeUnknown, Shim
from swoosh.client.transport import Lost, NotSent, Reply
from swoosh.hlc import HLC
from tests.client.script import HLC_LAST, LeapClock, accepted, refused, reply, unavailable

CLAIM = "/api/v1/councils/atlas/claims"
PROPOSAL = {"current_state_hash": "genesis", "transition": "T", "inputs_hash": "a" * 64, "signer": "s"}


# --- laws -------------------------------------------------------------------------------------------------------------

STEPS = st.sampled_from(
    [
        "answer",
        "answer",
        "lose request",
        "lose answer",
        "delay",
        "not sent",
        "no leader",
        "unknown",
        "late",
        "bad gateway",
    ]
)
EVENTS = st.sampled_from(["nothing", "nothing", "guard turns", "straggler arrives"])


@dataclass
class Heard:
    """An answer as the shim looks at it."""

    said: Reply

    @property
    def status(self) -> int:
        return self.said.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self.said.headers

    async def read(self) -> bytes:
        return self.said.body


@dataclass
class Model:
    """A cluster behind a bad network: it applies a key once, if a guard that comes and goes is open."""

    steps: list[str]
    events: list[str]
    open: bool = True
    applied: list[str] = field(default_factory=list)
    attempts: list[Amended] = field(default_factory=list)
    stragglers: list[str] = field(default_factory=list)

    async def send(self, amended: Amended, seconds: float) -> Heard:
        self.attempts.append(amended)
        self._happens(self.events.pop(0) if self.events else "nothing")
        key = self.key(amended)
        match self.steps.pop(0) if self.steps else "answer":
            case "not sent":
                raise NotSent("refused")
            case "no leader":
                return Heard(unavailable("NO_LEADER", admitted=False))
            case "lose request":
                raise Lost("cut")
            case "lose answer":
                self.judge(key)
                raise Lost("cut")
            case "unknown":
                self.stragglers.append(key)
                return Heard(unavailable("OUTCOME_UNKNOWN", admitted=True))
            case "bad gateway":
                self.stragglers.append(key)
                return Heard(Reply(502, {}, b"<html>"))
            case "delay":
                self.stragglers.append(key)
                raise Lost("timeout")
            case "late":
                return Heard(refused("HLC_REGRESSION"))
            case _:
                return Heard(self.judge(key))

    @staticmethod
    def key(amended: Amended) -> str:
        return amended.headers.get("X-Swoosh-Idem-Key") or str(json.loads(amended.body)["idem_key"])

    @staticmethod
    def hlc(amended: Amended) -> HLC:
        return HLC.parse(amended.headers.get("X-Swoosh-HLC") or str(json.loads(amended.body)["hlc"]))

    def judge(self, key: str) -> Reply:
        if key in self.applied:
            return accepted(duplicate=True)
        if not self.open:
            return refused("GUARD_REJECTED")
        self.applied.append(key)
        return accepted()

    def settle(self) -> None:
        """Everything still on its way arrives, with the guard open."""
        self.open = True
        while self.stragglers:
            self.judge(self.stragglers.pop())

    def _happens(self, event: str) -> None:
        if event == "guard turns":
            self.open = not self.open
        elif event == "straggler arrives" and self.stragglers:
            self.judge(self.stragglers.pop())


async def no_window() -> str:
    return ""


def shim(clock: LeapClock | None = None, *, budget: float = 8.0, endpoints: tuple[str, ...] = ()) -> Shim:
    return Shim(endpoints, policy=Policy(budget=budget), clock=clock or LeapClock(), entropy=SeededEntropy(7))


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=8), st.lists(EVENTS, max_size=12), st.sampled_from([CLAIM, "/transition"]))
async def test_what_a_caller_is_told_is_never_a_lie(steps: list[str], events: list[str], path: str) -> None:
    model = Model(steps, events)
    told: Reply | Exception
    try:
        told = (await shim().carry(Call(path, {}, json.dumps(PROPOSAL).encode()), model.send, no_window)).said
    except (NotSent, Lost, OutcomeUnknown) as error:
        told = error
    model.settle()
    assert len({model.key(attempt) for attempt in model.attempts}) == 1
    assert len(model.applied) <= 1
    stamps = [model.hlc(attempt) for attempt in model.attempts]
    assert all(earlier < later for earlier, later in pairwise(stamps))
    match told:
        case Reply(status=200):
            assert len(model.applied) == 1
        case Reply(status=400) | NotSent():
            assert model.applied == []
        case Reply(status=503, body=body) if json.loads(body).get("admitted") is False:
            assert model.applied == []
        case _:
            pass


async def test_a_not_applied_does_not_stand_for_an_earlier_attempt_in_doubt() -> None:
    model = Model(["delay", *["no leader"] * 99], [])
    with pytest.raises(OutcomeUnknown, match="last: NO_LEADER"):
        await shim().carry(Call(CLAIM, {}, b"{}"), model.send, no_window)


async def test_what_carries_no_key_is_not_repeated_in_doubt() -> None:
    order = Call("/admin/transfer-leadership", {}, b"{}")
    model = Model(["lose request"], [])
    model.key = lambda amended: "order"  # type: ignore[method-assign]
    with pytest.raises(Lost):
        await shim().carry(order, model.send, no_window)
    assert model.attempts == [Amended({}, b"{}", {})]
    model.steps = ["not sent", "no leader", "answer"]
    assert (await shim().carry(order, model.send, no_window)).status == 200, "but what certainly did nothing is"


# --- the middleware ---------------------------------------------------------------------------------------------------

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """A real server that says what a test wrote, in order; the last goes on for ever. It notes what it was sent."""

    def __init__(self) -> None:
        self.answers: list[Reply | Exception] = [accepted()]
        self.window: str | None = "W-1"
        self.asked: list[tuple[str, Mapping[str, str], bytes]] = []
        self.looks = 0
        self.url = ""

    @property
    def keys(self) -> list[str | None]:
        return [headers.get("X-Swoosh-Idem-Key") for _, headers, _ in self.asked]

    @property
    def windows(self) -> list[str | None]:
        return [headers.get("X-Swoosh-Window-Id") for _, headers, _ in self.asked]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/windows"):
            self.looks += 1
            if request.headers.get("Authorization") == "Bearer stranger":
                return web.Response(status=401, text="{}")
            return web.json_response({"window_id": self.window})
        self.asked.append((request.path, request.headers.copy(), await request.read()))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            assert request.transport is not None
            request.transport.abort()
            raise answer
        return web.Response(status=answer.status, body=answer.body, headers=dict(answer.headers))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made, app = Server(), web.Application(client_max_size=8 << 20)
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def clock() -> LeapClock:
    return LeapClock()


@pytest.fixture
async def session(server: Server, clock: LeapClock) -> AsyncIterator[aiohttp.ClientSession]:
    found = shim(clock, endpoints=(server.url,))
    async with aiohttp.ClientSession(server.url, middlewares=[found.middleware]) as made:
        yield made


async def test_every_retry_of_one_call_carries_the_same_key(
    server: Server, session: aiohttp.ClientSession, clock: LeapClock
) -> None:
    server.answers = [unavailable("NO_QUORUM", admitted=False), ConnectionError(), reply(502), accepted()]
    async with session.post(CLAIM, json={"agent_id": "ada"}) as answer:
        assert answer.status == 200 and (await answer.json())["success"] is True
    assert len(server.keys) == 4 and len(set(server.keys)) == 1 and server.keys[0] is not None
    assert {body for _, _, body in server.asked} == {b'{"agent_id": "ada"}'}
    assert clock.naps[0] >= 3, "no sooner than a condition that all nodes share asks for"
    async with session.post(CLAIM, json={"agent_id": "ada"}):
        assert len(set(server.keys)) == 2, "another call is another operation"


async def test_a_caller_s_own_headers_are_left_as_they_are(server: Server, session: aiohttp.ClientSession) -> None:
    own = {"Idempotency-Key": "his", "hlc": "7-0-0", "X-Swoosh-Window-Id": "W-7", "Prefer": "wait=9"}
    async with session.post(CLAIM, json={}, headers=own):
        pass
    [(_, headers, _)] = server.asked
    assert {name: headers.get(name) for name in own} == own
    assert headers.getall("Prefer") == ["wait=9"]  # type: ignore[attr-defined]
    assert "X-Swoosh-Idem-Key" not in headers and "X-Swoosh-HLC" not in headers


async def test_a_proposal_is_completed_in_its_body(server: Server, session: aiohttp.ClientSession) -> None:
    server.answers = [unavailable("NO_LEADER", admitted=False), accepted()]
    async with session.post("/transition", json=PROPOSAL) as answer:
        assert answer.status == 200
    bodies = [json.loads(body) for _, _, body in server.asked]
    assert len({body["idem_key"] for body in bodies}) == 1
    assert [body["window_id"] for body in bodies] == ["W-1", "W-1"]
    assert HLC.parse(bodies[0]["hlc"]) < HLC.parse(bodies[1]["hlc"])
    assert server.keys == [None, None], "a header may only repeat what the body says"
    assert {headers["Content-Type"] for _, headers, _ in server.asked} == {"application/json"}


async def test_a_large_batch_is_completed_and_sent_again(server: Server, session: aiohttp.ClientSession) -> None:
    server.answers = [unavailable("NO_LEADER", admitted=False), accepted()]
    batch = [{**PROPOSAL, "evidence": [f"ucxl://{number}/{'x' * 4_000}"]} for number in range(500)]
    async with session.post(
        "/transitions", data=BytesIO(json.dumps(batch).encode()), headers={"Content-Type": "application/json"}
    ):
        pass
    found = [json.loads(body) for _, _, body in server.asked]
    assert len(found) == 2 and len({each["idem_key"] for each in found[1]}) == 500
    assert [each["idem_key"] for each in found[0]] == [each["idem_key"] for each in found[1]]


async def test_what_is_no_post_to_the_cluster_passes_as_it_is(server: Server, session: aiohttp.ClientSession) -> None:
    server.answers = [unavailable("COLD", admitted=False)]
    async with session.get("/api/v1/tasks") as answer:
        assert answer.status == 503
    elsewhere = server.url.replace("127.0.0.1", "localhost")
    async with session.post(elsewhere + CLAIM, json={}) as answer:
        assert answer.status == 503
    assert len(server.asked) == 2 and server.keys == [None, None] and server.looks == 0


async def test_an_endpoint_may_have_a_path(server: Server) -> None:
    found = shim(endpoints=(f"{server.url}/swoosh/",))
    async with aiohttp.ClientSession(middlewares=[found.middleware]) as session:
        for path in (f"/swoosh{CLAIM}", f"/swooshed{CLAIM}", CLAIM):
            async with session.post(server.url + path, json={}):
                pass
    assert [key is not None for key in server.keys] == [True, False, False]


async def test_a_body_that_can_be_read_once_is_sent_once(server: Server, session: aiohttp.ClientSession) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"{}"

    server.answers = [unavailable("NO_LEADER", admitted=False)]
    async with session.post(CLAIM, data=stream()) as answer:
        assert answer.status == 503
    assert len(server.asked) == 1


async def test_a_refusal_is_handed_on_and_can_be_read(server: Server, session: aiohttp.ClientSession) -> None:
    server.answers = [reply(409, code="GUARD_REJECTED", reasons=["taken"])]
    async with session.post(CLAIM, json={}) as answer:
        assert (answer.status, (await answer.json())["reasons"]) == (409, ["taken"])
    assert len(server.asked) == 1


async def test_an_honest_503_is_handed_on_when_time_is_up(server: Server, session: aiohttp.ClientSession) -> None:
    server.answers = [unavailable("NO_LEADER", admitted=False)]
    async with session.post(CLAIM, json={}) as answer:
        assert (answer.status, (await answer.json())["admitted"], answer.headers["Retry-After"]) == (503, False, "3")
    assert len(server.asked) > 3


async def test_a_caller_finds_aiohttp_s_own_errors(clock: LeapClock) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with aiohttp.ClientSession(middlewares=[shim(clock, endpoints=(url,)).middleware]) as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.post(url + CLAIM, json={})
    assert len(clock.naps) > 3


async def test_an_attempt_that_is_not_answered_ends_and_is_repeated() -> None:
    """A node that hangs costs an attempt, not the call."""
    silent, keys = asyncio.Event(), list[str]()

    async def handle(request: web.Request) -> web.Response:
        if request.method == "POST":
            keys.append(request.headers["X-Swoosh-Idem-Key"])
            if len(keys) == 1:
                await silent.wait()
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    found = Shim([url], policy=Policy(budget=60.0, attempt=0.2), clock=LeapClock())
    async with (
        aiohttp.ClientSession(middlewares=[found.middleware]) as session,
        session.post(url + CLAIM, json={}) as answer,
    ):
        assert answer.status == 200
    silent.set()
    await runner.cleanup()
    assert len(keys) == 2 and len(set(keys)) == 1


# --- its own stamps ---------------------------------------------------------------------------------------------------


async def test_the_window_is_read_once_in_a_while(
    server: Server, session: aiohttp.ClientSession, clock: LeapClock
) -> None:
    for _ in range(3):
        async with session.post(CLAIM, json={}):
            pass
    assert server.looks == 1 and server.windows == ["W-1"] * 3
    server.window = "W-2"
    clock.now += WINDOW_SECONDS
    async with session.post(CLAIM, json={}):
        assert server.windows[-1] == "W-2"


async def test_one_asks_for_all_who_begin_at_once(server: Server, session: aiohttp.ClientSession) -> None:
    answers = await asyncio.gather(*(session.post(CLAIM, json={}) for _ in range(8)))
    assert {answer.status for answer in answers} == {200}
    assert server.looks == 1 and server.windows == ["W-1"] * 8


async def test_where_no_window_is_known_none_is_named(server: Server, session: aiohttp.ClientSession) -> None:
    server.window = None
    async with session.post(CLAIM, json={}):
        pass
    async with session.post("/transition", json=PROPOSAL):
        pass
    assert server.windows == [None, None] and "window_id" not in json.loads(server.asked[1][2])


async def test_the_window_is_asked_for_with_the_caller_s_credentials(
    server: Server, session: aiohttp.ClientSession
) -> None:
    async with session.post(CLAIM, json={}, headers={"Authorization": "Bearer stranger"}):
        pass
    assert server.windows == [None]


async def test_a_window_that_ended_meanwhile_is_stamped_anew(server: Server, session: aiohttp.ClientSession) -> None:
    async with session.post(CLAIM, json={}):
        pass
    server.window = "W-2"
    server.answers = [refused("GUARD_REJECTED", failing_guard="window_open"), accepted()]
    async with session.post("/transition", json=PROPOSAL) as answer:
        assert answer.status == 200
    assert [json.loads(body).get("window_id") for _, _, body in server.asked[1:]] == ["W-1", "W-2"]


async def test_a_window_that_does_not_fit_is_left_to_the_node(server: Server, session: aiohttp.ClientSession) -> None:
    """What is submitted belongs to the window that is over, and the node knows which one that is."""
    server.answers = [refused("GUARD_REJECTED", failing_guard="window_open"), accepted()]
    async with session.post("/api/v1/teams/atlas/submissions", json={}) as answer:
        assert answer.status == 200
    assert server.windows == ["W-1", None] and len(set(server.keys)) == 1


async def test_a_window_the_caller_named_is_refused_for_good(server: Server, session: aiohttp.ClientSession) -> None:
    server.answers = [refused("GUARD_REJECTED", failing_guard="window_open"), accepted()]
    async with session.post(CLAIM, json={}, headers={"window_id": "W-0"}) as answer:
        assert answer.status == 400
    assert len(server.asked) == 1


async def test_a_stamp_is_after_whatever_the_cluster_told(server: Server, session: aiohttp.ClientSession) -> None:
    later = "2099-01-01T00:00:00.000+00:00#7"
    server.answers = [refused("HLC_REGRESSION", hlc_last=later), accepted()]
    async with session.post("/transition", json=PROPOSAL) as answer:
        assert answer.status == 200
    stamps = [HLC.parse(json.loads(body)["hlc"]) for _, _, body in server.asked]
    assert stamps[0] < HLC.parse(later) < stamps[1]
    async with session.post("/transition", json={**PROPOSAL, "hlc": HLC_LAST}) as answer:
        assert json.loads(server.asked[-1][2])["hlc"] == HLC_LAST


async def test_a_clock_that_is_ahead_leaves_the_stamp_to_the_node(
    server: Server, session: aiohttp.ClientSession
) -> None:
    server.answers = [refused("HLC_SKEW"), accepted()]
    async with session.post(CLAIM, json={}) as answer:
        assert answer.status == 200
    assert ["X-Swoosh-HLC" in headers for _, headers, _ in server.asked] == [True, False]
    server.answers = [refused("HLC_SKEW")]
    async with session.post("/transition", json=PROPOSAL) as answer:
        assert answer.status == 400, "a proposal has to have one"
