"""Reading a request within bounds: body, media type, query, and the consistency a reader asks for.

Whatever is wrong with a request is raised as `Malformed` with its refusal code; the application turns it into an
answer. Nothing here trusts a length a client states.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

from cluster.answers import Unavailable, not_admitted
from cluster.clock import Clock, done_by
from cluster.node import Node
from cluster.telemetry.metrics import Metrics
from swoosh import limits, proposal, state
from swoosh.errors import Malformed
from swoosh.outcome import Code

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one public listener; seconds and counts.

    Attributes:
        head: from the first byte of a request to the end of its head.
        body: for the whole body after that.
        idle: how long a connection may say nothing between requests.
        answer: how long a request may wait for the cluster, unless it asks for less with `Prefer: wait`.
        connections: how many are open at a time.
        watchers: how many of them may be event streams.
    """

    head: float = 5.0
    body: float = 10.0
    idle: float = 60.0
    answer: float = 10.0
    connections: int = 1_024
    watchers: int = 256


NODE = web.AppKey("node", Node)
LIMITS = web.AppKey("limits", Limits)
METRICS = web.AppKey("metrics", Metrics)
PROJECT = web.RequestKey("project", str)
"""The project a request is about, once a handler knows it; `X-Swoosh-State-Hash` is that project's."""


async def within(clock: Clock, seconds: float, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when it takes longer.

    Raises:
        TimeoutError: it did.
    """
    task = asyncio.ensure_future(work)
    try:
        if not await done_by(clock, clock.monotonic() + seconds, task):
            raise TimeoutError
        return task.result()
    finally:
        task.cancel()


async def read_body(request: web.Request, largest: int, *media: str) -> bytes:
    """The whole body, of one of the media types, within size and time.

    Raises:
        Malformed: UNSUPPORTED_MEDIA, TOO_LARGE or TOO_SLOW.
    """
    if request.content_type not in media or (request.charset or "utf-8").lower() != "utf-8":
        sent = request.headers.get("Content-Type", "none")
        raise Malformed(f"Content-Type is {sent[:80]!r}; served is {' or '.join(media)}", Code.UNSUPPORTED_MEDIA)
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Malformed("a compressed body is not accepted", Code.UNSUPPORTED_MEDIA)
    if (request.content_length or 0) > largest:
        raise Malformed(f"the body has {request.content_length} bytes; at most {largest} are read", Code.TOO_LARGE)
    return await whole_body(request, largest, request.app[NODE].clock, request.app[LIMITS].body)


async def whole_body(request: web.Request, largest: int, clock: Clock, seconds: float) -> bytes:
    """The whole body, of at most so many bytes and seconds, whatever it says of itself.

    Raises:
        Malformed: TOO_LARGE or TOO_SLOW.
    """
    try:
        return await within(clock, seconds, _read(request, largest))
    except TimeoutError:
        raise Malformed(f"the body took longer than {seconds:g} s", Code.TOO_SLOW) from None


async def _read(request: web.Request, largest: int) -> bytes:
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > largest:
            raise Malformed(f"the body has more than {largest} bytes", Code.TOO_LARGE)
    return bytes(body)


def about(request: web.Request, project_id: object) -> None:
    """Note which project a body names, if it names one."""
    try:
        request[PROJECT] = proposal.project_id(str(project_id))
    except Malformed:
        return


# --- query ------------------------------------------------------------------------------------------------------------


def project_of(request: web.Request) -> str:
    """The project a query names, `default` where it names none.

    Raises:
        Malformed: not a project id.
    """
    name = proposal.project_id(request.query.get("project", proposal.DEFAULT_PROJECT))
    request[PROJECT] = name
    return name


def number(request: web.Request, name: str, default: int, largest: int = limits.INTEGER_MAX) -> int:
    """A whole number of the query.

    Raises:
        Malformed: not one, or out of range.
    """
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(largest)) and int(text) <= largest):
        raise Malformed(f"{name}: expected a whole number from 0 to {largest}, got {text[:40]!r}")
    return int(text)


def flag(request: web.Request, name: str) -> bool:
    """A truth value of the query, false where it is absent.

    Raises:
        Malformed: neither `true` nor `false`.
    """
    text = request.query.get(name, "false")
    if text not in ("true", "false"):
        raise Malformed(f"{name}: expected true or false, got {text[:40]!r}")
    return text == "true"


def preferences(request: web.Request) -> dict[str, str]:
    """`Prefer` (RFC 7240) as {name: value}; the value is empty where there is none."""
    parts = ",".join(request.headers.getall("Prefer", ())).split(",")
    pairs = (part.partition(";")[0].partition("=") for part in parts)
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs if name.strip()}


def deadline(request: web.Request) -> float:
    """When an answer is due, on the node's monotonic clock. `Prefer: wait=SECONDS` may shorten it."""
    longest = request.app[LIMITS].answer
    wait = preferences(request).get("wait", "")
    seconds = min(longest, float(wait)) if wait.isascii() and wait.isdigit() else longest
    return request.app[NODE].clock.monotonic() + seconds


# --- consistency ------------------------------------------------------------------------------------------------------


async def consistent(request: web.Request) -> Unavailable | None:
    """Wait until the local machine may answer as consistently as the query asks; None when it may.

    `consistency=linearizable` (the default) sees every write acknowledged before the request arrived. `local` answers
    from what this node has applied, if it was in touch with a leader within `max_staleness` seconds. `min_index`
    waits until that entry is applied.

    Raises:
        Malformed: values that are not of this form.
    """
    node = request.app[NODE]
    consistency = consistency_of(request)
    least = number(request, "min_index", 0)
    staleness = number(request, "max_staleness", 5)
    missing = await node.read(consistency, deadline(request), min_index=least)
    if missing is None and consistency == "local" and node.age_s() > staleness:
        reason = f"last in touch with a leader {node.age_s():.1f} s ago; max_staleness is {staleness} s"
        return not_admitted(Code.STALE_READ, reason)
    return missing


def consistency_of(request: web.Request) -> str:
    """`linearizable` or `local`.

    Raises:
        Malformed: anything else.
    """
    text = request.query.get("consistency", "linearizable")
    if text not in ("linearizable", "local"):
        raise Malformed(f"consistency: expected linearizable or local, got {text[:40]!r}")
    return text


def head_of(node: Node, project_id: str) -> state.Project | None:
    """The committed project, or None: unknown, or this node has not caught up."""
    return node.machine.project(project_id) if node.caught_up else None


def provenance(request: web.Request) -> dict[str, Any]:
    """Who answers a read and as of which entry."""
    node = request.app[NODE]
    return {
        "index": node.machine.position.index,
        "node": node.config.node_id,
        "leader": node.raft.leader,
        "consistency": consistency_of(request),
    }
