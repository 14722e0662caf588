"""``swoosh shim``: a reverse proxy before callers that can be neither changed nor given a middleware.

It does for them what swoosh/client/shim.py does within a producer: what a POST lacks is added, and it is sent again, to
whatever node, until somebody could answer or time is up. Everything else is handed on as it is, streamed, with what
HTTP asks of whoever stands between (RFC 9110 §7.6). On WHOOSH's routes it makes no key: a node makes one from what the
request says, so that a caller who asks again is recognised, which nobody here could tell. Decision 0033 says why.

It must never follow, cache or judge, never answer in the cluster's place but to say that nobody answered, and never
keep anything: it may be killed at any moment, and there may be any number of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Any

import aiohttp
import structlog
from aiohttp import web

from cluster.answers import not_admitted, unknown
from cluster.clock import Clock
from cluster.http import problems
from cluster.http.request import whole_body
from cluster.signals import told_to_stop
from swoosh import limits
from swoosh.client.additions import Amended, Call
from swoosh.client.retry import Policy
from swoosh.client.shim import OutcomeUnknown, Shim, prefer, window_at
from swoosh.client.transport import Lost, NotSent, Upstream
from swoosh.errors import Malformed
from swoosh.outcome import Code

HEALTH = "/shim/health"
BODY_SECONDS = 10.0
IDLE_SECONDS = 30.0
FAREWELL_SECONDS = 15.0
"""What was begun is finished when the shim is told to stop: no caller is cut off in doubt."""
NAME = "swoosh-shim"
_HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("proxy-authenticate", "proxy-authorization", "expect"),
    }
)
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_OF_THE_NODE = frozenset({500, 502, 503, 504})
"""Answers that another endpoint may not give."""

_log = structlog.get_logger(__name__)

Pairs = list[tuple[str, str]]


class Proxy:
    """Hands requests on to the endpoints, first to the one that answered last.

    Needs a running loop. ``endpoints`` are base URLs of nodes or of a load balancer.
    """

    def __init__(self, endpoints: Sequence[str], policy: Policy, clock: Clock) -> None:
        self._endpoints = [endpoint.rstrip("/") for endpoint in endpoints]
        self._shim = Shim([], policy=policy, keys_for_whoosh=False, endpoints_behind=len(endpoints), clock=clock)
        self._clock = clock
        self._upstream = Upstream()
        self._seen: dict[str, tuple[float, str]] = {}

    def app(self) -> web.Application:
        """What is served."""
        app = web.Application(middlewares=[_answered])
        app.router.add_get(HEALTH, self._get_health)
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    async def close(self) -> None:
        """Release the connections."""
        await self._upstream.close()

    # --- requests -----------------------------------------------------------------------------------------------------

    async def _get_health(self, _: web.Request) -> web.Response:
        """Always 200 while it serves, with what each endpoint last came to."""
        now = self._clock.monotonic()
        found: list[dict[str, Any]] = []
        for endpoint in sorted(self._endpoints):
            at, last = self._seen.get(endpoint, (None, None))
            found.append({"url": endpoint, "last": last, "ago_s": None if at is None else round(now - at, 3)})
        return problems.ok({"status": "serving", "endpoints": found})

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if _is_endless(request):
            reason = "the shim carries requests, no event streams and no WebSockets: ask a node, or a load balancer"
            return problems.refuse(Code.NOT_IMPLEMENTED, reason)
        headers, body = forwarded(request.headers.items(), request.remote or ""), await self._body(request)
        try:
            if request.method == "POST":
                answer = await self._carried(request, headers, body)
            else:
                answer = await self._around(request, headers, body)
        except NotSent as error:
            return problems.respond(not_admitted(Code.NO_LEADER, f"no endpoint could be reached: {error}"))
        except (Lost, OutcomeUnknown) as error:
            return problems.respond(unknown(str(error)))
        return await _handed_on(request, answer)

    async def _carried(self, request: web.Request, headers: Pairs, body: bytes) -> aiohttp.ClientResponse:
        """A POST, with what it lacks, until somebody could answer."""

        async def send(amended: Amended, seconds: float) -> aiohttp.ClientResponse:
            wish = prefer(request.headers, seconds)
            return await self._open(request, [*headers, *amended.headers.items(), *wish.items()], amended.body)

        async def ask_window() -> str:
            return await window_at(self._upstream.session, self._endpoints[0], request.headers)

        call = Call(request.path, request.headers, body)
        return await self._shim.carry(call, send, ask_window)

    async def _around(self, request: web.Request, headers: Pairs, body: bytes) -> aiohttp.ClientResponse:
        """Anything else: a read is asked of each endpoint until one answers, without waiting; the rest is sent once."""
        for left in reversed(range(len(self._endpoints) if request.method in _READS else 1)):
            try:
                answer = await self._open(request, headers, body)
            except (NotSent, Lost):
                if not left:
                    raise
                continue
            if not left or answer.status != HTTPStatus.SERVICE_UNAVAILABLE:
                return answer
            answer.release()
        raise AssertionError("the last endpoint answers or raises")

    async def _open(self, request: web.Request, headers: Pairs, body: bytes) -> aiohttp.ClientResponse:
        """One attempt at the endpoint whose turn it is; who fails goes to the end of the line."""
        endpoint = self._endpoints[0]
        try:
            answer = await self._upstream.open(
                request.method, endpoint + request.rel_url.raw_path_qs, headers, body, idle=IDLE_SECONDS
            )
        except BaseException as error:
            self._note(endpoint, str(error) or type(error).__name__, failed=True)
            raise
        self._note(endpoint, str(answer.status), failed=answer.status in _OF_THE_NODE)
        return answer

    def _note(self, endpoint: str, what: str, *, failed: bool) -> None:
        self._seen[endpoint] = (self._clock.monotonic(), what)
        if failed:
            _log.info("an endpoint failed", endpoint=endpoint, reason=what)
            if self._endpoints[0] == endpoint:
                self._endpoints.append(self._endpoints.pop(0))

    async def _body(self, request: web.Request) -> bytes:
        """The whole body, within the bounds that a node has.

        Raises:
            Malformed: TOO_LARGE or TOO_SLOW.
        """
        largest = limits.BATCH_BODY_BYTES_MAX if request.path == "/transitions" else limits.BODY_BYTES_MAX
        return await whole_body(request, largest, self._clock, BODY_SECONDS)


@web.middleware
async def _answered(request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
    """Every request gets an answer in the cluster's form."""
    try:
        found: web.StreamResponse = await handler(request)
    except Malformed as error:
        return problems.refuse(error.code, error.reason)
    except web.HTTPException:
        raise
    except Exception:
        _log.exception("handler raised", method=request.method)
        return problems.internal()
    return found


# --- what a proxy passes on -------------------------------------------------------------------------------------------


def forwarded(headers: Iterable[tuple[str, str]], caller: str) -> Pairs:
    """The headers of a request as they go on: without those of this connection, with who asked."""
    kept = [(name, text) for name, text in end_to_end(headers) if name.lower() not in ("host", "content-length")]
    before = [text for name, text in kept if name.lower() == "x-forwarded-for"]
    kept = [(name, text) for name, text in kept if name.lower() != "x-forwarded-for"]
    return [*kept, ("X-Forwarded-For", ", ".join([*before, caller])), ("Via", f"1.1 {NAME}")]


def end_to_end(headers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Without the headers of one connection: those HTTP names, and those that `Connection` does."""
    pairs = list(headers)
    listed = ",".join(text for name, text in pairs if name.lower() == "connection")
    of_this_one = _HOP_BY_HOP | {name.strip().lower() for name in listed.split(",")}
    return ((name, text) for name, text in pairs if name.lower() not in of_this_one)


def _is_endless(request: web.Request) -> bool:
    """Whether an answer would go on for as long as somebody listens."""
    wants_events = "text/event-stream" in request.headers.get("Accept", "")
    return "Upgrade" in request.headers or wants_events or request.path == "/watch"


async def _handed_on(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """The answer to the caller: whole where the shim has read it, else piece by piece."""
    headers = list(end_to_end(answer.headers.items()))
    if request.method == "POST" and answer.status >= HTTPStatus.BAD_REQUEST:
        body = await answer.read()
        headers = [(name, text) for name, text in headers if name.lower() != "content-length"]
        return web.Response(status=answer.status, reason=answer.reason, headers=headers, body=body)
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
    try:
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    except (aiohttp.ClientError, TimeoutError) as error:
        # Half an answer must not look like a whole one.
        _log.info("an answer broke off", reason=str(error) or type(error).__name__)
        if request.transport is not None:
            request.transport.abort()
    finally:
        answer.close()
    return response


# --- as a process -----------------------------------------------------------------------------------------------------


async def serve(
    host: str, port: int, endpoints: Sequence[str], policy: Policy, clock: Clock, say: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        OSError: the address cannot be bound.
    """
    proxy = Proxy(endpoints, policy, clock)
    runner = web.AppRunner(proxy.app(), access_log=None, auto_decompress=False, shutdown_timeout=FAREWELL_SECONDS)
    try:
        await runner.setup()
        await web.TCPSite(runner, host or None, port).start()
        say(f"listening on {host}:{port}, before {', '.join(endpoints)}")
        await told_to_stop()
    finally:
        await runner.cleanup()
        await proxy.close()
