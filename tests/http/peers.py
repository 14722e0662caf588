"""A member's peer port, and another member's way to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from cluster import tls
from cluster.egress import PeerHttp
from cluster.http.forward import peer_app
from cluster.peerport import PeerPort
from tests.wire.members import CLUSTER, NODES, Papers


@asynccontextmanager
async def reached(node: Any, papers: Papers, *, at: str = "n2") -> AsyncIterator[PeerHttp]:
    """`node` serves as n2, over mutual TLS; n1 looks for it where it believes `at` to be."""
    runner = web.AppRunner(peer_app(node), access_log=None)
    await runner.setup()
    assert runner.server is not None
    port = PeerPort(
        context=tls.server_context(papers.nodes["n2"]),
        cluster_id=CLUSTER,
        members=NODES,
        protocols={tls.HTTP_PROTOCOL: runner.server},
    )
    await port.start("127.0.0.1", 0)
    way = PeerHttp(papers.nodes["n1"], CLUSTER, {at: ("127.0.0.1", port.port)})
    try:
        yield way
    finally:
        await way.close()
        await runner.cleanup()
        port.stop()
