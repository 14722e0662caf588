"""The public application: one table of routes, and what holds for each of them.

Whatever goes wrong below becomes an answer here; a handler that raises anything but `Malformed` is a bug, logged
with its trace, and the caller is told that the outcome is not known. Nothing here judges a proposal.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from importlib.resources import files

import structlog
from aiohttp import web

from cluster import faults
from cluster.faults import ExitCode
from cluster.http import (
    access,
    admin,
    health,
    hmmm,
    outboxes,
    problems,
    records,
    state,
    transition,
    watch,
    whoosh,
    windows,
)
from cluster.http.listener import doorman_of
from cluster.http.rate import METERS, MINUTE_SECONDS, Buckets, Meters, Throttled, charge, client_address
from cluster.http.request import LIMITS, METRICS, NODE, PROJECT, Limits, head_of
from cluster.node import Node
from cluster.telemetry import logs
from cluster.telemetry.metrics import CONTENT_TYPE, Metrics
from swoosh.errors import Corrupt, Malformed
from swoosh.outcome import Code, Refused
from swoosh.proposal import DEFAULT_PROJECT

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PROBES = ("/health/live", "/health/ready", "/leader", "/follower")
SERVED_COLD = frozenset({"/health", "/health/live", "/metrics"})
OPEN_TO_ALL = frozenset({"/health", "/metrics", *PROBES})
"""Asked for no token, so that monitors and load balancers need none. WHOOSH's routes ask for their own."""

OPENAPI = files("cluster.http").joinpath("openapi.json")

_log = structlog.get_logger(__name__)


def public_app(node: Node, metrics: Metrics, limits: Limits | None = None) -> web.Application:
    """Everything of the public address. Each node serves all of it."""
    limits = limits or Limits()
    app = web.Application(middlewares=[_attended, _told, _answered, access.cross_origin, _admitted])
    app[NODE], app[LIMITS], app[METRICS] = node, limits, metrics
    config, clock = node.config, node.clock
    app[METERS] = Meters(
        address=Buckets(config.rate_per_ip, clock),
        signer=Buckets(config.rate_per_signer, clock),
        caller=Buckets(config.whoosh.rate_per_minute, clock, MINUTE_SECONDS),
    )
    watchers = app[watch.WATCHERS] = watch.Watchers(limits.watchers)
    node.on_applied += [watchers.see, metrics.on_applied, logs.transitions]
    metrics.observe(lambda: health.gauges(node, watchers=watchers.count))
    app.on_shutdown.append(watchers.stop)
    app.on_response_prepare.extend((_signed_by, access.dress))
    app.router.add_routes(
        [
            web.post("/transition", transition.post_transition),
            web.post("/transitions", transition.post_transitions),
            web.get(r"/transitions/{key:[\s\S]+}", transition.get_outcome),
            web.post("/hmmm/messages", hmmm.post_message),
            web.get("/council/votes", hmmm.get_votes),
            web.get("/state", state.get_state),
            web.get("/projects", state.get_projects),
            web.get("/windows", windows.get_windows),
            web.get("/health", health.get_health),
            web.get("/health/live", health.get_live),
            web.get("/health/ready", health.get_ready),
            web.get("/leader", health.get_leader),
            web.get("/follower", health.get_follower),
            *(web.options(path, health.options) for path in PROBES),
            web.get("/wal", records.get_wal),
            web.get("/decisions", records.get_decisions),
            web.get("/decisions/{id}", records.get_decision),
            web.get("/rejections", records.get_rejections),
            web.get("/watch", watch.get_watch, allow_head=False),
            web.get("/snapshots", admin.get_snapshots),
            web.get("/metrics", get_metrics),
            web.get("/openapi.json", get_openapi),
            *(web.post(path, admin.post_command) for path in admin.COMMANDS),
            web.post("/admin/facts", admin.post_facts),
            web.post("/admin/snapshot", admin.post_snapshot),
            web.post("/admin/transfer-leadership", admin.post_transfer),
            web.get("/outboxes", outboxes.get_outboxes),
            web.post("/admin/outbox-retry", outboxes.post_retry),
            web.post("/admin/outbox-pass-over", outboxes.post_pass_over),
            *whoosh.routes(),
        ]
    )
    return app


async def get_metrics(request: web.Request) -> web.Response:
    """Prometheus text."""
    return web.Response(body=request.app[METRICS].exposition(), headers={"Content-Type": CONTENT_TYPE})


async def get_openapi(request: web.Request) -> web.Response:
    """The description of what is served."""
    return problems.record(OPENAPI.read_bytes())


# --- what holds for every request, outermost first --------------------------------------------------------------------


@web.middleware
async def _attended(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The doorman is told that the head is complete, and when he may expect the next."""
    doorman = doorman_of(request)
    if doorman is None:
        return await handler(request)
    doorman.head_complete()
    try:
        return await handler(request)
    finally:
        doorman.answered()


@web.middleware
async def _told(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What a caller of WHOOSH is refused is one line of the log: who proves no key has no rejections on record. Who is
    told to wait is not listed, or he could fill it."""
    response = await handler(request)
    said = problems.told(response) if access.is_of_whoosh(request.path) else {}
    if said:
        where = {"method": request.method, "path": _path(request), "address": client_address(request)}
        _log.info("refused", **said, **where)
    return response


@web.middleware
async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every request gets an answer in our form."""
    try:
        return await handler(request)
    except Malformed as error:
        refused = Refused(error.code, (error.reason,), request.get(PROJECT, ""))
        return problems.respond(transition.with_head(request.app[NODE], refused))
    except access.Denied as error:
        return error.response()
    except Throttled as error:
        return problems.respond(error.answer)
    except problems.RoutingError as error:
        return problems.routing(error, _path(request))
    except Corrupt as error:  # what this node stores is damaged: it must not go on voting on it
        faults.fatal(ExitCode.DAMAGED, str(error), path=_path(request))
    except Exception:
        _log.exception("handler raised", method=request.method, path=request.path)
        return problems.internal()


def _path(request: web.Request) -> str:
    """As far as it may be repeated."""
    return request.app[NODE].screen.scanner.redact_text(request.path)


@web.middleware
async def _admitted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A cold node answers nothing it could be wrong about; a guarded one reads to those with a token; and whoever
    proposes too much waits, before his body is read."""
    node = request.app[NODE]
    if not node.caught_up and request.path not in SERVED_COLD:
        return problems.probe(False, node.ready or "cold") if request.path in PROBES else problems.cold(node.missing)
    if request.method in ("GET", "HEAD") and not _may_read(request):
        return problems.refuse(Code.UNSIGNED, "reads on this address need Authorization: Bearer and a read token")
    if request.method == "POST":
        charge(request, 1)
    return await handler(request)


def _may_read(request: web.Request) -> bool:
    """Whether what is read is open to all, asks by itself, or the request shows a token that opens reads."""
    tokens = request.app[NODE].config.read_tokens
    if not tokens or request.path in OPEN_TO_ALL or access.is_of_whoosh(request.path):
        return True
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    offered = token.strip().encode(errors="replace") if scheme.lower() == "bearer" else b""
    return any(hmac.compare_digest(offered, known.encode()) for known in tokens) or access.holds_token(request)


async def _signed_by(request: web.Request, response: web.StreamResponse) -> None:
    """Who answered, who leads, as of which entry, and where the project stood."""
    node = request.app[NODE]
    try:
        project = head_of(node, request.get(PROJECT, DEFAULT_PROJECT))
    except Corrupt as error:
        faults.fatal(ExitCode.DAMAGED, str(error), path=_path(request))
    if node.stopping:
        response.force_close()  # so that the next request goes to a node that stays
        response.headers["Connection"] = "close"
    response.headers["Server"] = "SWOOSH"
    response.headers["X-Swoosh-Node"] = node.config.node_id
    response.headers["X-Swoosh-Leader"] = node.raft.leader or ""
    response.headers["X-Swoosh-Index"] = str(node.machine.position.index)
    response.headers["X-Swoosh-State-Hash"] = "" if project is None else project.state_hash
