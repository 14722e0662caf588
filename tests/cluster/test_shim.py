"""The shim as a reverse proxy: between aiohttp's own client and real servers that say what a test wrote."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from cluster.clock import SystemClock
from cluster.shim import HEALTH, Proxy, end_to_end, forwarded
from swoosh import limits
from swoosh.client.retry import Policy

CLAIM = "/api/v1/councils/atlas/claims"
PROPOSAL = {"current_state_hash": "genesis", "transition": "T", "inputs_hash": "a" * 64, "signer": "s"}
OK = {"success": True}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def says(status: int, **body: Any) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status, headers={"Retry-After": "1"} if status == 503 else {})

    return answer


async def hangs_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class Node:
    """A server in a node's place. ``answer`` says what it does; what it was sent is noted."""

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.url = ""
        self.answer: Handler = says(200, **OK)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/windows":
            return web.json_response({"window_id": "W-1"})
        self.asked.append(request)
        self.bodies.append(await request.read())
        return await self.answer(request)

    def said(self, name: str) -> list[str | None]:
        return [request.headers.get(name) for request in self.asked]


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def listening(node: Node) -> AsyncIterator[Node]:
    app = web.Application(client_max_size=8 << 20)
    app.router.add_route("*", "/{path:.*}", node.handle)
    async with served(app) as node.url:
        yield node


@asynccontextmanager
async def shim_before(*endpoints: str, budget: float = 8.0) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that knows the shim and nobody else."""
    proxy = Proxy(endpoints, Policy(budget=budget, attempt=2.0), SystemClock())
    try:
        async with served(proxy.app()) as url, aiohttp.ClientSession(url, auto_decompress=False) as session:
            yield session
    finally:
        await proxy.close()


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with listening(Node()) as made:
        yield made


@pytest.fixture
async def other() -> AsyncIterator[Node]:
    async with listening(Node()) as made:
        yield made


@pytest.fixture
async def caller(node: Node, other: Node) -> AsyncIterator[aiohttp.ClientSession]:
    async with shim_before(node.url, other.url) as session:
        yield session


def closed_port() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


# --- what passes ------------------------------------------------------------------------------------------------------


async def test_an_answer_passes_as_it_is(node: Node, caller: aiohttp.ClientSession) -> None:
    packed = gzip.compress(b"an answer")

    async def answer(_: web.Request) -> web.StreamResponse:
        headers = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Content-Encoding", "gzip"), ("ETag", 'W/"x"')]
        connection = [("Connection", "keep-alive, X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "timeout=5")]
        return web.Response(status=203, reason="As Told", body=packed, headers=[*headers, *connection])

    node.answer = answer
    async with caller.get("/state?projection=Council,Meta&project=a%2Fb") as reply:
        assert (reply.status, reply.reason, await reply.read()) == (203, "As Told", packed)
        assert reply.headers.getall("Set-Cookie") == ["a=1", "b=2"] and reply.headers["ETag"] == 'W/"x"'
        assert "X-Hop" not in reply.headers and "Keep-Alive" not in reply.headers
    assert node.asked[0].path_qs == "/state?projection=Council,Meta&project=a/b"


async def test_a_request_says_who_asked_and_nothing_of_the_connection(
    node: Node, caller: aiohttp.ClientSession
) -> None:
    headers = {
        "Connection": "X-Secret-Hop",
        "X-Secret-Hop": "1",
        "X-Forwarded-For": "203.0.113.7",
        "Authorization": "Bearer t",
        "User-Agent": "chorus/0.5",
    }
    async with caller.post(CLAIM, json={}, headers=headers):
        pass
    [request] = node.asked
    assert request.headers["X-Forwarded-For"] == "203.0.113.7, 127.0.0.1"
    assert request.headers["Host"] == node.url.removeprefix("http://")
    assert (request.headers["Authorization"], request.headers["User-Agent"]) == ("Bearer t", "chorus/0.5")
    assert "X-Secret-Hop" not in request.headers and request.headers["Via"] == "1.1 swoosh-shim"


async def test_head_options_and_not_modified_have_no_body(node: Node, caller: aiohttp.ClientSession) -> None:
    async with caller.head("/health/ready") as reply:
        assert (reply.status, await reply.read()) == (200, b"")
    node.answer = says(304)
    async with caller.get("/state", headers={"If-None-Match": 'W/"x"'}) as reply:
        assert (reply.status, await reply.read()) == (304, b"")
    assert node.said("If-None-Match")[-1] == 'W/"x"'
    async with caller.options("/leader") as reply:
        assert reply.status == 304


async def test_a_long_answer_is_passed_on_while_it_comes(node: Node, caller: aiohttp.ClientSession) -> None:
    heard = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first\n")
        await heard.wait()
        await response.write(b"second\n")
        return response

    node.answer = answer
    async with caller.get("/wal") as reply:
        assert await reply.content.readline() == b"first\n"
        heard.set()
        assert await reply.content.readline() == b"second\n"


@pytest.mark.parametrize("length", [None, 1_000], ids=["chunked", "of a known length"])
async def test_half_an_answer_does_not_look_like_a_whole_one(
    node: Node, caller: aiohttp.ClientSession, length: int | None
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = length
        await response.prepare(request)
        await response.write(b"half")
        return await hangs_up(request)

    node.answer = answer
    async with caller.get("/wal") as reply:
        with pytest.raises(aiohttp.ClientError):
            await reply.read()


PAIRS = st.lists(st.tuples(st.sampled_from(["A", "b", "TE", "X-Forwarded-For", "Via"]), st.sampled_from("xyz")))


@given(PAIRS, st.lists(st.sampled_from(["A", "B", "close", "keep-alive"])))
def test_exactly_the_headers_of_a_connection_stay_behind(pairs: list[tuple[str, str]], listed: list[str]) -> None:
    behind = {"te", "connection", *(name.lower() for name in listed)}
    kept = list(end_to_end([*pairs, ("Connection", ", ".join(listed))]))
    assert kept == [(name, text) for name, text in pairs if name.lower() not in behind]
    chain = [text for name, text in pairs if name == "X-Forwarded-For"]
    assert dict(forwarded(pairs, "192.0.2.1"))["X-Forwarded-For"] == ", ".join([*chain, "192.0.2.1"])


# --- what is added ----------------------------------------------------------------------------------------------------


async def test_a_claim_is_stamped_and_its_key_is_left_to_the_node(node: Node, caller: aiohttp.ClientSession) -> None:
    async with caller.post(CLAIM, json={"agent_id": "ada"}) as reply:
        assert await reply.json() == OK
    assert node.said("X-Swoosh-Window-Id") == ["W-1"] and node.said("X-Swoosh-HLC") != [None]
    assert node.said("X-Swoosh-Idem-Key") == [None] and node.bodies == [b'{"agent_id": "ada"}']
    async with caller.post(CLAIM, json={}, headers={"X-Swoosh-Idem-Key": "his", "window_id": "W-0"}):
        assert node.said("X-Swoosh-Idem-Key")[-1] == "his" and node.said("X-Swoosh-Window-Id")[-1] is None


async def test_a_proposal_is_completed_and_a_caller_s_repeat_is_the_same_one(node: Node) -> None:
    """Even where it goes through another shim."""
    for _ in range(2):
        async with shim_before(node.url) as caller, caller.post("/transition", json=PROPOSAL) as reply:
            assert reply.status == 200
    first, second = map(json.loads, node.bodies)
    assert first["idem_key"] == second["idem_key"] and first["hlc"] != second["hlc"]
    assert first["window_id"] == "W-1" and PROPOSAL.items() <= first.items()


async def test_a_signed_proposal_passes_to_the_byte(node: Node, caller: aiohttp.ClientSession) -> None:
    body = json.dumps({**PROPOSAL, "signature": "c2lnbmVk"}, indent=3).encode()
    async with caller.post("/transition", data=body, headers={"Content-Type": "application/json"}):
        assert node.bodies == [body]


async def test_a_webhook_passes_to_the_byte(node: Node, caller: aiohttp.ClientSession) -> None:
    body = b'{"action":  "opened", "number": 1.0}'
    async with caller.post("/webhooks/gitea", data=body, headers={"X-Gitea-Signature": "ab"}):
        pass
    assert node.bodies == [body] and node.said("X-Gitea-Signature") == ["ab"]


# --- what is repeated -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        says(503, code="NO_LEADER", admitted=False),
        says(503, code="OUTCOME_UNKNOWN", admitted=True),
        hangs_up,
        says(502),
    ],
    ids=["no leader", "unknown", "hangs up", "bad gateway"],
)
async def test_where_one_cannot_answer_another_is_asked_the_same(
    node: Node, other: Node, caller: aiohttp.ClientSession, trouble: Handler
) -> None:
    node.answer = trouble
    async with caller.post("/transition", json=PROPOSAL) as reply:
        assert (reply.status, await reply.json()) == (200, OK)
    keys = {json.loads(body)["idem_key"] for body in [*node.bodies, *other.bodies]}
    assert (len(node.bodies), len(other.bodies), len(keys)) == (1, 1, 1)
    async with caller.post(CLAIM, json={}):
        assert len(node.bodies) == 1, "who answered last is asked first"


async def test_a_node_that_hangs_costs_an_attempt(node: Node, other: Node, caller: aiohttp.ClientSession) -> None:
    over = asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        await over.wait()
        return web.Response()

    node.answer = hang
    async with caller.post(CLAIM, json={}) as reply:
        assert reply.status == 200
    over.set()
    assert len(other.bodies) == 1


async def test_a_read_is_asked_of_each_until_one_answers(node: Node, other: Node) -> None:
    node.answer = says(503, code="COLD", admitted=False)
    async with shim_before(closed_port(), node.url, other.url) as caller:
        async with caller.get("/state") as reply:
            assert (reply.status, await reply.json()) == (200, OK)
        async with caller.get(HEALTH) as reply:
            found = {each["url"]: each["last"] for each in (await reply.json())["endpoints"]}
        assert (found[node.url], found[other.url]) == ("503", "200") and "cannot connect" in str(found.values())
    async with shim_before(node.url, node.url) as caller, caller.get("/health/ready") as reply:
        assert (reply.status, (await reply.json())["code"]) == (503, "COLD"), "and the last answer is passed on"


async def test_what_is_no_operation_of_the_cluster_is_sent_once(
    node: Node, other: Node, caller: aiohttp.ClientSession
) -> None:
    node.answer = other.answer = says(503, code="OUTCOME_UNKNOWN", admitted=True)
    for method, path in (("POST", "/admin/transfer-leadership"), ("PUT", CLAIM)):
        async with caller.request(method, path, data=b"{}") as reply:
            assert (reply.status, (await reply.json())["code"]) == (503, "OUTCOME_UNKNOWN")
    assert [request.method for request in (*node.asked, *other.asked)] == ["POST", "PUT"]


# --- what it says itself ----------------------------------------------------------------------------------------------


async def test_nobody_to_ask_means_certainly_not_applied() -> None:
    async with shim_before(closed_port(), closed_port(), budget=2.0) as caller:
        async with caller.post(CLAIM, json={}) as reply:
            body = await reply.json()
        assert (reply.status, body["code"], body["admitted"]) == (503, "NO_LEADER", False)
        assert reply.headers["Retry-After"] == "1" and "no endpoint could be reached" in body["error"]
        async with caller.get(HEALTH) as reply:
            assert reply.status == 200 and (await reply.json())["status"] == "serving"


async def test_what_was_sent_and_not_answered_is_unknown(node: Node) -> None:
    node.answer = hangs_up
    async with shim_before(node.url, budget=2.0) as caller, caller.post(CLAIM, json={}) as reply:
        body = await reply.json()
        assert (reply.status, body["code"], body["admitted"]) == (503, "OUTCOME_UNKNOWN", True)
        assert reply.headers["Retry-After"] == "1"


async def test_a_refusal_after_a_doubt_is_unknown_too(node: Node, other: Node) -> None:
    node.answer = hangs_up
    other.answer = says(400, code="GUARD_REJECTED", failing_guard="authorised")
    async with shim_before(node.url, other.url, budget=2.0) as caller, caller.post(CLAIM, json={}) as reply:
        assert (reply.status, (await reply.json())["code"]) == (503, "OUTCOME_UNKNOWN")


async def test_a_refusal_is_passed_on_whole(node: Node, caller: aiohttp.ClientSession) -> None:
    node.answer = says(409, code="GUARD_REJECTED", reasons=["taken"])
    async with caller.post(CLAIM, json={}) as reply:
        assert (reply.status, (await reply.json())["reasons"]) == (409, ["taken"])
        assert reply.content_type == "application/json"


@pytest.mark.parametrize(
    ("path", "largest"), [("/transition", limits.BODY_BYTES_MAX), ("/transitions", limits.BATCH_BODY_BYTES_MAX)]
)
async def test_a_body_is_bounded_as_a_node_bounds_it(
    node: Node, caller: aiohttp.ClientSession, path: str, largest: int
) -> None:
    async def stream(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // 1_024):
            yield b" " * 1_024
        yield b" " * (size % 1_024)

    async with caller.post(path, data=stream(largest)) as reply:
        assert reply.status == 200 and len(node.bodies[-1]) == largest
    async with caller.post(path, data=stream(largest + 1)) as reply:
        assert (reply.status, (await reply.json())["code"]) == (413, "TOO_LARGE")
    assert len(node.bodies) == 1


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/watch", {}),
        ("/state", {"Accept": "text/event-stream"}),
        ("/api/v1/teams/atlas/activity", {"Connection": "Upgrade", "Upgrade": "websocket"}),
    ],
)
async def test_what_has_no_end_is_not_carried_and_that_is_said(
    node: Node, caller: aiohttp.ClientSession, path: str, headers: dict[str, str]
) -> None:
    async with caller.get(path, headers=headers) as reply:
        assert (reply.status, (await reply.json())["code"]) == (501, "NOT_IMPLEMENTED")
    assert node.asked == []
