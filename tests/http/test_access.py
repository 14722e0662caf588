"""The door of WHOOSH's routes: who comes in, who is turned away and how, and what browsers are told.

The routes here are probes that do nothing but ask for their caller; what real ones do is tested beside them.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterable
from typing import Any

import jwt
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from cluster import callers
from cluster.callers import Access, Provider
from cluster.clock import ManualClock
from cluster.http import problems
from cluster.http.access import authorise
from cluster.vault import Secret
from cluster.whoosh import Whoosh
from tests.http.conftest import Caller, Reply, Serve
from tests.http.desk import Desk

CI, ADMIN, SEVEN = "ci-0123456789abcdef0123", "admin-0123456789abcdef01", "seven-0123456789abcdef01"
SHARED = "a secret that both sides know, long enough"
ACCESS = Access(
    callers.service_tokens(f"ci service {CI}\nroot admin {ADMIN}\nchorus-7 agent {SEVEN} agent=chorus-7"),
    provider=Provider((callers.shared_secret(SHARED),)),
)
OPEN = ACCESS._replace(anonymous=frozenset({"agent"}))
BOARD = "https://board.example"
SECRETS = (CI, ADMIN, SEVEN, SHARED, "between us")


async def probe(request: web.Request) -> web.Response:
    """Says whom it sees."""
    caller = authorise(request, *filter(None, request.query.get("roles", "").split(",")))
    return problems.ok({"name": caller.name, "roles": sorted(caller.roles), "agent": caller.agent})


async def stream(request: web.Request) -> web.StreamResponse:
    """A WebSocket that says one word."""
    authorise(request, "agent")
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_str("hello")
    await socket.close()
    return socket


PROBES = (
    web.get("/api/v1/probe", probe),
    web.post("/api/v1/probe", probe),
    web.get("/api/v1/stream", stream),
    web.get("/apiary", probe),
)


def whoosh(**more: Any) -> Whoosh:
    return Whoosh(**{"access": ACCESS, "origins": (BOARD,), **more})


async def door(serve: Serve, whoosh: Whoosh, routes: Iterable[web.RouteDef] = PROBES, **desk: Any) -> Caller:
    return await serve(Desk(whoosh=whoosh, **desk), routes=routes)


async def asked(ask: Caller, token: str = "", *, roles: str = "", method: str = "GET", **headers: str) -> Reply:
    shown = {"Authorization": f"Bearer {token}"} if token else {}
    path = f"/api/v1/probe?roles={roles}"
    return await ask(method, path, checked=False, headers={**shown, **headers})


def issued(clock: ManualClock, seconds: int = 60, **more: Any) -> str:
    """A JWT of the provider that lasts so long by the node's clock."""
    said = {"sub": "ada", "roles": ["developer"], "exp": clock.wall_us() // 1_000_000 + seconds, **more}
    return jwt.encode(said, SHARED, "HS256")


# --- who comes in -----------------------------------------------------------------------------------------------------


async def test_a_caller_is_let_in_by_what_his_token_proves(serve: Serve) -> None:
    clock = ManualClock()
    ask = await door(serve, whoosh(), clock=clock)
    ci = await asked(ask, CI, roles="developer,service")
    assert (ci.status, ci.body) == (200, {"name": "ci", "roles": ["service"], "agent": ""})
    assert (await asked(ask, ADMIN, roles="agent")).body["name"] == "root"
    assert (await asked(ask, SEVEN, roles="agent")).body["agent"] == "chorus-7"
    assert (await asked(ask, issued(clock), roles="developer")).body["name"] == "ada"
    assert (await asked(ask, CI)).status == 200, "where no role is named, any will do"


async def test_without_a_token_one_is_turned_away_and_told_what_to_show(serve: Serve) -> None:
    ask = await door(serve, whoosh())
    with capture_logs() as logged:
        reply = await asked(ask, roles="agent")
    assert (reply.status, reply.body["code"], reply.headers["WWW-Authenticate"]) == (401, "UNSIGNED", "Bearer")
    assert "roles agent; none was sent" in reply.body["reasons"][0] and "Bearer" in reply.body["help"]
    [line] = logged
    said = {"event": "refused", "code": "UNSIGNED", "method": "GET", "path": "/api/v1/probe"}
    assert said.items() <= line.items() and line["address"] == "127.0.0.1"


async def test_who_needs_no_token_has_the_roles_of_everybody_and_no_others(serve: Serve) -> None:
    ask = await door(serve, whoosh(access=OPEN))
    assert (await asked(ask, roles="agent")).body == {"name": "anonymous", "roles": ["agent"], "agent": ""}
    assert (await asked(ask, roles="developer")).status == 401
    assert (await asked(ask, "wrong", roles="agent")).status == 401, "a token that proves nothing is not none"


async def test_a_role_that_is_not_held_is_403_and_no_challenge(serve: Serve) -> None:
    ask = await door(serve, whoosh())
    with capture_logs() as logged:
        reply = await asked(ask, CI, roles="developer,agent")
    assert (reply.status, reply.body["code"]) == (403, "NOT_AUTHORISED")
    assert reply.body["reasons"] == ["ci needs one of the roles developer, agent; held: service"]
    assert "WWW-Authenticate" not in reply.headers and len(logged) == 1
    clock = ManualClock()
    nothing = await asked(await door(serve, whoosh(), clock=clock), issued(clock, roles=["gardener"]))
    assert nothing.status == 403 and "none that is known here" in nothing.text


async def test_a_jwt_lasts_by_the_clock_of_the_node(serve: Serve) -> None:
    clock = ManualClock()
    ask = await door(serve, whoosh(), clock=clock)
    token = issued(clock)
    assert (await asked(ask, token)).status == 200
    clock.advance(60 + callers.LEEWAY_S)
    with capture_logs() as logged:
        reply = await asked(ask, token)
    assert (reply.status, reply.body["code"]) == (401, "UNSIGNED") and "expired 30 s ago" in reply.text
    assert [line["event"] for line in logged] == ["refused"]


@pytest.mark.parametrize(
    "shown", ["Basic YTpi", "Bearer", "Bearer \u00e9", "Bearer a.b.c", f"Bearer {CI}x", "Bearer " + "a" * 8_000]
)
async def test_whatever_else_is_shown_proves_nothing_and_is_not_repeated(serve: Serve, shown: str) -> None:
    ask = await door(serve, whoosh(access=OPEN))
    with capture_logs() as logged:
        reply = await ask.get("/api/v1/probe", checked=False, headers={"Authorization": shown})
    assert reply.status == 401 and len(logged) == 1
    word = shown.partition(" ")[2]
    assert not any(len(secret) > 4 and secret in text for secret in (word, CI) for text in (reply.text, repr(logged)))


@pytest.mark.parametrize(
    ("asked", "header"),
    [
        ("GET /api/v1/probe", "Authorization: Bearer "),
        ("GET /state", "Authorization: Bearer "),
        ("POST /webhooks/gitea", "X-Gitea-Signature: "),
    ],
)
async def test_bytes_that_are_no_text_prove_nothing_either(serve: Serve, asked: str, header: str) -> None:
    ask = await door(serve, whoosh(gitea_secret=Secret("between us")), read_tokens=("reader",))
    reader, writer = await asyncio.open_connection("127.0.0.1", ask.listener.port)
    length = "Content-Length: 0\r\nContent-Type: application/json"
    head = f"{asked} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}\r\n{header}"
    writer.write(head.encode() + b"\xff\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 401 "), answer


# --- how often --------------------------------------------------------------------------------------------------------


async def test_each_caller_has_a_minute_s_worth_of_his_own(serve: Serve) -> None:
    clock = ManualClock()
    ask = await door(serve, whoosh(access=OPEN, rate_per_minute=3), clock=clock)
    assert [(await asked(ask, CI)).status for _ in range(4)] == [200, 200, 200, 429]
    refused = await asked(ask, CI)
    assert (refused.body["code"], refused.headers["Retry-After"]) == ("RATE_LIMITED", "20")
    assert refused.body["reasons"] == [
        "caller ci may send 3 requests of WHOOSH's a minute to this node; there is room in 20 s"
    ]
    assert (await asked(ask, SEVEN)).status == (await asked(ask)).status == 200, "nobody else waits"
    clock.advance(20)
    assert [(await asked(ask, CI)).status for _ in range(2)] == [200, 429]


async def test_who_may_not_ask_is_counted_all_the_same(serve: Serve) -> None:
    ask = await door(serve, whoosh(rate_per_minute=2), clock=ManualClock())
    assert [(await asked(ask, CI, roles="agent")).status for _ in range(3)] == [403, 403, 429]


async def test_tokens_cannot_be_guessed_faster_than_an_address_may_ask(serve: Serve) -> None:
    ask = await door(serve, whoosh(access=OPEN, rate_per_minute=2), clock=ManualClock())
    with capture_logs() as logged:
        assert [(await asked(ask, f"guess-{number}")).status for number in range(5)] == [401, 401, 429, 429, 429]
    assert len(logged) == 2, "nor can the log be filled"
    assert (await asked(ask)).status == 429, "an address without a token is one caller"
    assert (await asked(ask, CI)).status == 200, "whoever proves a name has the share of that name"


async def test_behind_a_trusted_proxy_each_client_without_a_token_is_its_own_caller(serve: Serve) -> None:
    told = whoosh(access=OPEN, rate_per_minute=1)
    ask = await door(serve, told, clock=ManualClock(), trusted_proxies=("127.0.0.1",))
    ada, bob = ({"X-Forwarded-For": f"198.51.100.{number}"} for number in (1, 2))
    assert [(await asked(ask, **who)).status for who in (ada, ada, bob, bob)] == [200, 429, 200, 429]


async def test_a_rate_of_0_refuses_nobody(serve: Serve) -> None:
    ask = await door(serve, whoosh(rate_per_minute=0), clock=ManualClock())
    assert {(await asked(ask, CI)).status for _ in range(150)} == {200}


# --- Gitea ------------------------------------------------------------------------------------------------------------

BODY = b'{"action": "opened"}'


def signature(secret: str = "between us", body: bytes = BODY) -> str:
    return hmac.new(secret.encode(), body, "sha256").hexdigest()


async def test_a_webhook_is_believed_by_the_signature_over_its_very_bytes(serve: Serve) -> None:
    ask = await door(serve, whoosh(gitea_secret=Secret("between us")))
    known = {"X-Gitea-Signature": signature()}
    assert (await ask.post("/webhooks/gitea", BODY, checked=False, headers=known)).body["ignored"] is True
    with capture_logs() as logged:
        changed = await ask.post("/webhooks/gitea", BODY + b" ", checked=False, headers=known)
    assert (changed.status, changed.body["code"]) == (401, "BAD_SIGNATURE")
    assert changed.headers["WWW-Authenticate"] == "Gitea-HMAC-SHA256" and "whoosh.gitea_secret" in changed.body["help"]
    [line] = logged
    assert line["event"] == "refused" and signature() not in repr(line)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ({}, "UNSIGNED"),
        ({"X-Gitea-Signature": ""}, "UNSIGNED"),
        ({"X-Gitea-Signature": signature("another")}, "BAD_SIGNATURE"),
        ({"X-Gitea-Signature": signature()[:-1]}, "BAD_SIGNATURE"),
        ({"X-Gitea-Signature": "sha256=" + signature()}, "BAD_SIGNATURE"),
        ({"X-Gitea-Signature": "\u00e9" * 64}, "BAD_SIGNATURE"),
        ({"X-Hub-Signature-256": signature(), "Authorization": f"Bearer {ADMIN}"}, "UNSIGNED"),
    ],
)
async def test_nothing_else_is_a_signature_of_gitea_s(serve: Serve, sent: dict[str, str], code: str) -> None:
    ask = await door(serve, whoosh(gitea_secret=Secret("between us")))
    reply = await ask.post("/webhooks/gitea", BODY, checked=False, headers=sent)
    assert (reply.status, reply.body["code"]) == (401, code)


async def test_a_node_without_the_secret_believes_no_webhook_and_says_so(serve: Serve) -> None:
    ask = await door(serve, whoosh())
    reply = await ask.post("/webhooks/gitea", BODY, checked=False, headers={"X-Gitea-Signature": signature("")})
    assert (reply.status, reply.body["code"]) == (501, "NOT_IMPLEMENTED")
    assert "whoosh.gitea_secret" in reply.body["help"]


async def test_forged_webhooks_are_counted_by_address_and_leave_gitea_its_share(serve: Serve) -> None:
    desk = {"gitea_secret": Secret("between us"), "rate_per_minute": 2}
    ask = await door(serve, whoosh(**desk), clock=ManualClock())
    forged, true = ({"X-Gitea-Signature": signature(secret)} for secret in ("x", "between us"))
    sent = [forged, forged, forged, true, true, true]
    answers = [await ask.post("/webhooks/gitea", BODY, checked=False, headers=each) for each in sent]
    assert [reply.status for reply in answers] == [401, 401, 429, 200, 200, 429]


# --- browsers ---------------------------------------------------------------------------------------------------------


async def test_every_answer_tells_browsers_to_do_nothing_with_it(serve: Serve) -> None:
    ask = await door(serve, whoosh())
    for path, status in {"/health": 200, "/state?projection=x": 400, "/nothing": 404, "/api/v1/probe": 401}.items():
        reply = await ask.get(path, checked=False)
        assert reply.status == status
        assert reply.headers["Content-Security-Policy"].startswith("default-src 'none'"), path
        assert reply.headers["X-Frame-Options"] == "DENY" and reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        assert reply.headers.get("Cache-Control") == ("no-store" if path.startswith("/api/") else None)
    assert (await ask.post("/state", {}, checked=False)).headers["X-Frame-Options"] == "DENY"


async def preflight(ask: Caller, path: str, *, origin: str = BOARD, method: str = "POST") -> Reply:
    asks = {"Origin": origin, "Access-Control-Request-Method": method}
    return await ask("OPTIONS", path, checked=False, headers=asks)


async def test_a_page_of_a_listed_origin_may_ask_and_read(serve: Serve) -> None:
    ask = await door(serve, whoosh())
    reply = await preflight(ask, "/api/v1/probe")
    assert (reply.status, reply.text) == (204, "")
    assert reply.headers["Access-Control-Allow-Origin"] == BOARD and reply.headers["Vary"] == "Origin"
    assert reply.headers["Access-Control-Allow-Methods"] == "GET, HEAD, POST", "what the router has there"
    assert {"Authorization", "Content-Type", "X-Swoosh-Idem-Key"} <= set(
        reply.headers["Access-Control-Allow-Headers"].split(", ")
    )
    assert "Access-Control-Allow-Credentials" not in reply.headers
    read = await asked(ask, CI, Origin=BOARD)
    assert read.status == 200 and read.headers["Access-Control-Allow-Origin"] == BOARD
    assert "Retry-After" in read.headers["Access-Control-Expose-Headers"]
    denied = await asked(ask, "wrong", Origin=BOARD)
    assert denied.headers["Access-Control-Allow-Origin"] == BOARD, "so that the page can read why"
    assert (await preflight(ask, "/api/v1/stream")).status == 204


@pytest.mark.parametrize("origin", ["https://evil.example", f"{BOARD}.evil.example", "null", "*", "", BOARD.upper()])
async def test_a_page_of_another_origin_learns_nothing(serve: Serve, origin: str) -> None:
    ask = await door(serve, whoosh())
    reply = await preflight(ask, "/api/v1/probe", origin=origin)
    assert reply.status == 403 and "whoosh.origins" in reply.body["help"]
    read = await asked(ask, CI, Origin=origin)
    assert read.status == 200, "what is no page may name any origin; a browser keeps the answer from the page"
    for each in (reply, read):
        assert "Access-Control-Allow-Origin" not in each.headers and each.headers["Vary"] == "Origin"


async def test_foreign_pages_are_counted_too(serve: Serve) -> None:
    ask = await door(serve, whoosh(rate_per_minute=2), clock=ManualClock())
    with capture_logs() as logged:
        replies = [await preflight(ask, "/api/v1/probe", origin="https://evil.example") for _ in range(4)]
    assert [reply.status for reply in replies] == [403, 403, 429, 429] and len(logged) == 2


async def test_options_are_elsewhere_what_they_were(serve: Serve) -> None:
    ask = await door(serve, whoosh())
    for path in ("/state", "/transition", "/apiary"):
        reply = await preflight(ask, path)
        assert reply.status == 405 and "Access-Control-Allow-Origin" not in reply.headers, path
    assert (await preflight(ask, "/api/v1/nothing")).status == 404
    plain = await ask("OPTIONS", "/api/v1/probe", checked=False, headers={"Origin": BOARD})
    assert plain.status == 405 and plain.headers["Allow"] == "GET, HEAD, POST"
    assert (await preflight(ask, "/health/live")).headers["Allow"] == "GET, HEAD, OPTIONS"


async def test_a_cold_node_still_answers_a_browser_s_question(serve: Serve) -> None:
    ask = await door(serve, whoosh(), caught_up=False, missing=["behind"])
    assert (await preflight(ask, "/api/v1/probe")).status == 204
    assert (await asked(ask, CI)).status == 503


async def test_a_socket_is_opened_by_pages_of_listed_origins_alone(serve: Serve) -> None:
    ask = await door(serve, whoosh(access=OPEN))
    path = ask.base + "/api/v1/stream"
    for headers in ({}, {"Origin": BOARD}):
        async with ask.session.ws_connect(path, headers=headers) as socket:
            assert (await socket.receive_str()) == "hello"
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
    }
    reply = await ask.get("/api/v1/stream", checked=False, headers={**upgrade, "Origin": "https://evil.example"})
    assert reply.status == 403 and "https://evil.example" in reply.text


# --- beside these routes ----------------------------------------------------------------------------------------------


async def test_a_token_of_whoosh_s_opens_reads_too(serve: Serve) -> None:
    clock = ManualClock()
    ask = await door(serve, whoosh(access=OPEN), read_tokens=("reader",), clock=clock)
    for token in ("reader", CI, SEVEN, issued(clock)):
        assert (await ask.get("/state", headers={"Authorization": f"Bearer {token}"})).status == 200
    for token in ("wrong", issued(clock, -60), issued(clock, roles=["gardener"]), "a.b.c"):
        assert (await ask.get("/state", headers={"Authorization": f"Bearer {token}"})).status == 401
    assert (await ask.get("/state")).status == 401, "what everybody may do there is no token"


async def test_where_reads_need_a_token_these_routes_go_on_asking_for_their_own(serve: Serve) -> None:
    ask = await door(serve, whoosh(access=OPEN), read_tokens=("reader-0123456789",))
    assert (await asked(ask, roles="agent")).body["name"] == "anonymous"
    assert (await asked(ask, "reader-0123456789", roles="agent")).status == 401


@pytest.mark.parametrize(
    ("sent", "echoed"),
    [("7f3a-1", True), ("x" * 128, True), ("x" * 129, False), ("two words", False), ("\u00e9", False), ("", False)],
)
async def test_a_request_is_answered_under_the_name_it_came_with(serve: Serve, sent: str, echoed: bool) -> None:
    ask = await door(serve, whoosh())
    for path in ("/health", "/api/v1/probe", "/nothing"):
        reply = await ask.get(path, checked=False, headers={"X-Request-Id": sent})
        assert reply.headers.get("X-Request-Id") == (sent if echoed else None)


async def test_nothing_that_is_said_holds_a_secret(serve: Serve) -> None:
    ask = await door(serve, whoosh(access=OPEN, gitea_secret=Secret("between us")))
    with capture_logs() as logged:
        for token in (CI, ADMIN, SEVEN, CI[:-1], f"{CI}.x.y"):
            for roles in ("", "developer"):
                await asked(ask, token, roles=roles)
        await ask.post("/webhooks/gitea", BODY, checked=False, headers={"X-Gitea-Signature": "0" * 64})
    said = repr(logged) + "".join(reply.text + repr(reply.headers) for reply in ask.seen)
    assert not [secret for secret in SECRETS if secret in said]
