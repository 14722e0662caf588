"""Callers of v1.0.0 and of WHOOSH behind a real HAProxy with the committed configuration, in front of three real nodes.

They know one address and nothing of SWOOSH (`chaos.live.legacy`). What they notice when nodes are killed or restarted
is printed: `pytest -s`, or the report of a failure. `make failover` has more of it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from chaos.live import LiveCluster, legacy
from chaos.live.failover import CALLERS, Trial
from chaos.live.haproxy import MISSING, Haproxy, is_installed
from chaos.live.legacy import Crowd, Kind
from tests.system.conftest import Found

pytestmark = pytest.mark.skipif(not is_installed(), reason=MISSING)

DEADLINE = 60.0


@pytest.fixture
async def cluster(found: Found) -> LiveCluster:
    """Three ready nodes that take unsigned proposals, told where to listen in the words of v1.0.0."""
    made = found("--windows", "always_open", "--insecure-signers")
    for node, url in made.nodes.items():
        # All callers come from one address here.
        made.environment[node] |= {"SWOOSH_LISTEN_ADDR": f":{urlsplit(url).port}", "SWOOSH_WHOOSH_RATE_PER_MINUTE": "0"}
    made.start()
    await made.ready()
    return made


@pytest.fixture
def balancer(cluster: LiveCluster, tmp_path: Path) -> Iterator[Haproxy]:
    made = Haproxy(tmp_path, cluster.endpoints)
    made.start()
    yield made
    made.stop()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [legacy.proposal, legacy.project], ids=["v1.0.0", "WHOOSH"])
async def test_when_the_leader_is_killed_every_call_ends_well_and_counts_once(
    kind: Kind, cluster: LiveCluster, balancer: Haproxy
) -> None:
    result = await Trial(cluster, Crowd(balancer.url, kind, CALLERS)).run("kill", 2)
    print(f"leader killed twice, nobody was granted anything for {result.gaps} s; {result}")
    assert result.violations == ()


@pytest.mark.timeout(300)
async def test_in_a_rolling_restart_every_call_ends_well_and_counts_once(
    cluster: LiveCluster, balancer: Haproxy
) -> None:
    """How many are told to come again is in the report of `make failover`: few, and none where disks keep up."""
    result = await Trial(cluster, Crowd(balancer.url, legacy.proposal, CALLERS)).run("restart", len(cluster.nodes))
    print(f"rolling restart, nobody was granted anything for {result.gaps} s; {result}")
    assert result.violations == ()


# --- one by one -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=legacy.PATIENCE_SECONDS)) as opened:
        yield opened


async def post(
    session: aiohttp.ClientSession, url: str, caller: str, *, pad: int = 0, request_id: str = ""
) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    """A caller's first wish; ``pad`` makes its body longer by white space."""
    ask = legacy.proposal(caller, 1)
    headers = {**ask.headers, **({"X-Request-Id": request_id} if request_id else {})}
    async with session.post(url + ask.path, data=ask.body + b" " * pad, headers=headers) as reply:
        return reply.status, await reply.json(), reply.headers


async def test_who_leads_is_asked_first_where_that_is_wanted(
    cluster: LiveCluster, balancer: Haproxy, session: aiohttp.ClientSession
) -> None:
    callers = (f"direct-{number}" for number in range(10_000))

    async def led() -> str | None:
        """Three in turn were answered by the leader: nobody else is asked."""
        answers = [await post(session, balancer.leader_url, next(callers)) for _ in range(3)]
        if {status for status, _, _ in answers} != {200}:
            return None  # an election
        by = {(headers["X-Swoosh-Node"], headers["X-Swoosh-Leader"]) for _, _, headers in answers}
        node, leader = by.pop()
        return node if not by and node == leader else None

    leader = await cluster.wait_for("the balancer to know the leader", led)
    cluster.kill(leader)
    assert (await post(session, balancer.leader_url, "meanwhile"))[0] in (200, 503)
    assert await cluster.wait_for("the balancer to know the next", led) != leader


async def test_requests_have_names_and_may_be_larger_than_what_can_be_repeated(
    cluster: LiveCluster, balancer: Haproxy, session: aiohttp.ClientSession
) -> None:
    status, _, headers = await post(session, balancer.url, "named", request_id="mine-1")
    assert (status, headers["X-Request-Id"]) == (200, "mine-1")
    status, _, headers = await post(session, balancer.url, "nameless", pad=150_000)
    assert status == 200

    async def logged() -> bool | None:
        return True if headers["X-Request-Id"] in balancer.log() else None

    await cluster.wait_for("its line in the log", logged)
    async with session.post(f"{balancer.url}/transition", data=b"{", headers={"Content-Type": legacy.JSON}) as refused:
        assert (refused.status, (await refused.json())["code"]) == (400, "MALFORMED")


async def test_without_a_majority_the_answer_is_honest_and_without_a_node_too(
    cluster: LiveCluster, balancer: Haproxy, session: aiohttp.ClientSession
) -> None:
    leader = await cluster.ready()
    left = next(node for node in cluster.nodes if node != leader)
    cluster.kill(*(node for node in cluster.nodes if node != left))
    for dead in (False, True):
        if dead:
            cluster.kill(left)
        status, body, headers = await post(session, balancer.url, "patient")
        assert (status, body["admitted"]) == (503, body["code"] == "OUTCOME_UNKNOWN")
        assert body["code"] in ({"OUTCOME_UNKNOWN"} if dead else {"NO_LEADER", "OUTCOME_UNKNOWN"})
        assert headers["Retry-After"] == "1" and headers["X-Request-Id"]
        async with session.get(f"{balancer.url}/health") as health:
            assert health.status == (503 if dead else 200), "a node that serves says how it is"
    cluster.start()
    await cluster.ready()

    async def granted() -> bool | None:
        status, body, _ = await post(session, balancer.url, "patient")
        assert status in (200, 503), body
        return status == 200 or None

    await cluster.wait_for("the balancer to find the nodes again", granted)


async def test_a_watcher_hears_through_it_and_is_not_cut_off_in_a_silence(
    balancer: Haproxy, session: aiohttp.ClientSession
) -> None:
    """A node says something every 15 s; the balancer waits 12 s for any other answer."""
    url = f"{balancer.url}/watch?project=watched-1&from=1"
    assert (await post(session, balancer.url, "watched"))[0] == 200
    seen: list[str] = []
    async with session.get(url, timeout=aiohttp.ClientTimeout(total=DEADLINE)) as stream:
        assert stream.status == 200
        async for line in stream.content:
            seen.append(line.decode().strip())
            if seen[-1] == ": still here":
                break
    assert any('"transition_name":"PROJECT_CREATED"' in line for line in seen)
    assert seen[-1] == ": still here"


# --- in front of nodes that do not answer as they should --------------------------------------------------------------

NOT_ADMITTED = b'{"code":"NO_LEADER","admitted":false}'
PASSED_ON = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: %d\r\n\r\n%b" % (
    len(NOT_ADMITTED),
    NOT_ADMITTED,
)


class Nodes:
    """Three ports that pass for ready, and answer a request with these bytes, each in its turn, then hang up."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = cycle(answers)
        self._servers: list[asyncio.Server] = []

    async def __aenter__(self) -> list[str]:
        self._servers = [await asyncio.start_server(self._serve, "127.0.0.1") for _ in range(3)]
        return [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in self._servers]

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        probed = head.startswith(b"GET /health")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" if probed else next(self._answers))
        await writer.drain()
        writer.close()


async def test_what_it_answers_itself_ends_the_connection_and_says_so(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    """A client that is not told sends its next request into a connection that is being closed."""
    async with Nodes(b"") as urls:
        balancer = Haproxy(tmp_path, urls)
        balancer.start()
        try:
            for number in range(10):
                status, body, headers = await post(session, balancer.url, f"again-{number}")
                assert (status, body["code"], headers["Connection"]) == (503, "OUTCOME_UNKNOWN", "close")
        finally:
            balancer.stop()


async def test_nobody_is_promised_that_a_lost_try_was_not_admitted(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    """The second node asked knows nothing of the first, which may have passed the request on before it died."""
    async with Nodes(b"", PASSED_ON) as urls:
        balancer = Haproxy(tmp_path, urls)
        balancer.start()
        try:
            status, body, _ = await post(session, balancer.url, "unsure")
            assert (status, body["code"], body["admitted"]) == (503, "OUTCOME_UNKNOWN", True)
            async with session.get(f"{balancer.url}/state") as read:
                assert (read.status, await read.json(content_type=None)) == (503, json.loads(NOT_ADMITTED))
        finally:
            balancer.stop()
