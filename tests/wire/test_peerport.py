"""One port, two protocols: ALPN decides, and HTTP handlers know which member asks."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from cluster import tls
from cluster.peerport import peer_id
from cluster.tls import PeerName
from tests.wire.conftest import Arrive
from tests.wire.members import CLUSTER, Member, Papers


@pytest.fixture
async def application() -> AsyncIterator[web.AppRunner]:
    async def who(request: web.Request) -> web.Response:
        return web.json_response({"peer": peer_id(request), "said": await request.text()})

    app = web.Application()
    app.router.add_post("/who", who)
    runner = web.AppRunner(app)
    await runner.setup()
    yield runner
    await runner.cleanup()


@pytest.fixture
async def n1(arrive: Arrive, application: web.AppRunner) -> Member:
    assert application.server is not None
    member = await arrive("n1", protocols={tls.HTTP_PROTOCOL: application.server})
    await member.transport.start()
    return member


async def ask(url: str, context: ssl.SSLContext, server: str | None = None) -> object:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
        session.post(f"{url}/who", data=b"x" * 300_000, server_hostname=server) as response,
    ):
        answer = await response.json()
        return answer["peer"], len(answer["said"])


async def test_both_protocols_are_served_on_one_port(n1: Member, arrive: Arrive, papers: Papers) -> None:
    n2 = await arrive("n2")
    n2.knows(n1)
    await n2.transport.start()
    await n1.notes.until_seen("connected", "n2")
    for node in ("n2", "n3"):
        context = tls.client_context(papers.nodes[node], tls.HTTP_PROTOCOL)
        assert await ask(f"https://127.0.0.1:{n1.port.port}", context, f"n1.{CLUSTER}") == (node, 300_000)
    assert n1.transport.peers()["n2"].connected


async def test_http_needs_a_members_certificate_too(n1: Member, papers: Papers) -> None:
    context = ssl.create_default_context(cafile=str(papers.nodes["n2"].authority))
    context.set_alpn_protocols([tls.HTTP_PROTOCOL])
    with pytest.raises(aiohttp.ClientError):
        await ask(f"https://127.0.0.1:{n1.port.port}", context, f"n1.{CLUSTER}")


async def test_http_is_for_members_only(n1: Member, papers: Papers, tmp_path: Path) -> None:
    guest = papers.issue(tmp_path / "n9", PeerName("n9", CLUSTER))
    context = tls.client_context(guest, tls.HTTP_PROTOCOL)
    with pytest.raises(aiohttp.ClientError):
        await ask(f"https://127.0.0.1:{n1.port.port}", context, f"n1.{CLUSTER}")


async def test_a_port_without_an_http_server_offers_none(arrive: Arrive, papers: Papers) -> None:
    n1 = await arrive("n1")
    context = tls.client_context(papers.nodes["n2"], tls.HTTP_PROTOCOL)
    with pytest.raises(aiohttp.ClientError):
        await ask(f"https://127.0.0.1:{n1.port.port}", context, f"n1.{CLUSTER}")


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls with a member's certificate"])
async def test_the_same_request_on_a_public_listener_comes_from_no_peer(
    secure: bool, application: web.AppRunner, papers: Papers
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(papers.nodes["n1"].authority))
    context.verify_mode = ssl.CERT_OPTIONAL
    tls.load_key(context, papers.nodes["n1"].certificate, papers.nodes["n1"].key)
    site = web.TCPSite(application, "127.0.0.1", 0, ssl_context=context if secure else None)
    await site.start()
    _, port = application.addresses[0]
    client = tls.client_context(papers.nodes["n2"], tls.HTTP_PROTOCOL)
    url = f"{'https' if secure else 'http'}://127.0.0.1:{port}"
    assert await ask(url, client, f"n1.{CLUSTER}") == (None, 300_000)


async def test_the_port_is_known_only_while_it_is_open(n1: Member) -> None:
    assert n1.port.port > 0
    n1.port.stop()
    with pytest.raises(RuntimeError, match="not open"):
        _ = n1.port.port
