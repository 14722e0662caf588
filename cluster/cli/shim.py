"""``swoosh shim``: a reverse proxy for callers that know nothing of keys, clocks and windows, and cannot be changed."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import click

from cluster.cli.shared import endpoint_option, fail, say


@click.command()
@click.option("--listen", default="127.0.0.1:8090", show_default=True, metavar="HOST:PORT")
@endpoint_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=2.0),
    default=12.0,
    show_default=True,
    help="Seconds for one request, all attempts together: less than its callers wait.",
)
def shim(listen: str, endpoints: tuple[str, ...], timeout: float) -> None:
    """Stand before a cluster and add what callers cannot.

    A POST is sent on with what it lacks, and repeated while nobody could answer: on another endpoint, under the same
    key. A proposal without idem_key, hlc or window_id gets them, unless it is signed. Requests of WHOOSH's form get the
    headers X-Swoosh-HLC and X-Swoosh-Window-Id; the node makes their key from what the request says. What a caller
    sends is never changed.

    Event streams and WebSockets are answered 501. /shim/health is the shim's own.
    """
    from cluster import config
    from cluster.clock import SystemClock
    from cluster.shim import serve
    from swoosh.client.retry import Policy

    if not config.is_place(listen):
        raise click.BadParameter(f"--listen {listen}: expected HOST:PORT")
    for endpoint in endpoints:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise click.BadParameter(f"--endpoint {endpoint}: expected http://HOST:PORT")
    policy = Policy(budget=timeout, attempt=min(5.0, timeout / 2))
    try:
        asyncio.run(serve(*config.address(listen), endpoints, policy, SystemClock(), say))
    except OSError as error:
        fail(f"cannot listen on {listen}: {error.strerror or error}")
