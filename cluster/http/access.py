"""Who may call WHOOSH's routes: tokens, webhooks, pages of other origins, and what every answer tells a browser.

A route of WHOOSH asks `authorise` for its caller before it reads anything else; there is no second way in. Whoever
proves nothing is counted by address and whoever proves a name by that name, before he is told yes or no, so that
guessing tokens is slow and filling the log with failures is as slow. Nothing here may repeat a token, a signature or a
secret, and none of it decides about a proposal.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from aiohttp import web

from cluster.callers import ANONYMOUS, ROLES, Caller, Unknown, who
from cluster.http import problems
from cluster.http.rate import charge_caller
from cluster.http.request import NODE
from swoosh.inputs import is_printable
from swoosh.outcome import ADVICE, Code, Refused

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

GITEA_HEADER = "X-Gitea-Signature"
REQUEST_ID_HEADER = "X-Request-Id"
REQUEST_ID_CHARS_MAX = 128

_FOLDERS = ("/api/v1/", "/webhooks/")
_PATHS = frozenset({"/admin/health/details", "/command"})

_TO_BROWSERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_MAY_BE_SENT = (
    "Authorization, Content-Type, Idempotency-Key, X-Swoosh-Idem-Key, X-Swoosh-HLC, X-Swoosh-Window-Id, X-Request-Id"
)
_MAY_BE_READ = "Retry-After, X-Request-Id, X-Swoosh-Node, X-Swoosh-Leader, X-Swoosh-Index, X-Swoosh-State-Hash"
_ADVICE = {
    Code.UNSIGNED: "send Authorization: Bearer and a service token or JWT that this node knows",
    Code.NOT_AUTHORISED: "use a token with one of the roles in the reasons, or for the agent it is about",
}


class Denied(Exception):
    """Who asks is not known, or may not ask for this.

    Attributes:
        answer: what he is told.
        do: what he or the operator should do about it.
        challenge: how he may prove who he is (RFC 9110 `WWW-Authenticate`), for answers of 401.
    """

    def __init__(self, code: Code, reason: str, *, do: str = "", challenge: str = "Bearer") -> None:
        super().__init__(reason)
        self.answer = Refused(code, (reason,))
        self.do = do or _ADVICE.get(code, ADVICE[code].do)
        self.challenge = challenge

    def response(self) -> web.Response:
        """The answer as it is sent."""
        return problems.denied(self.answer, self.do, self.challenge)


def is_of_whoosh(path: str) -> bool:
    """Whether a path belongs to the routes that WHOOSH had."""
    return path in _PATHS or path.startswith(_FOLDERS)


# --- who asks ---------------------------------------------------------------------------------------------------------


def authorise(request: web.Request, *roles: str) -> Caller:
    """The caller of a request, who holds one of the roles, or any at all where none is named.

    Raises:
        Denied: who calls is not known, or may not ask for this.
        Throttled: he asked too often.
    """
    node = request.app[NODE]
    access = node.config.whoosh.access
    try:
        caller = who(access, request.headers.get("Authorization", ""), node.clock.wall_us() // 1_000_000)
    except Unknown as error:
        charge_caller(request, "")
        raise Denied(Code.UNSIGNED, str(error)) from None
    charge_caller(request, "" if caller.name == ANONYMOUS else caller.name)
    _check_origin(request)
    wanted = roles or ROLES
    if caller.may(*wanted):
        return caller
    if caller.name == ANONYMOUS:
        raise Denied(Code.UNSIGNED, f"this needs a token with one of the roles {', '.join(wanted)}; none was sent")
    held = ", ".join(sorted(caller.roles)) or "none that is known here"
    raise Denied(Code.NOT_AUTHORISED, f"{caller.name} needs one of the roles {', '.join(wanted)}; held: {held}")


def holds_token(request: web.Request) -> bool:
    """Whether a request shows a token that proves somebody who holds a role."""
    node, shown = request.app[NODE], request.headers.get("Authorization", "")
    try:
        caller = who(node.config.whoosh.access, shown, node.clock.wall_us() // 1_000_000)
    except Unknown:
        return False
    return caller.name != ANONYMOUS and bool(caller.roles)


def _check_origin(request: web.Request) -> None:
    """A browser lets any page open a WebSocket anywhere and read it; whether it may is for the server to say.

    Raises:
        Denied: a page of an origin that is not listed opens one.
    """
    origin = request.headers.get("Origin")
    opens = request.headers.get("Upgrade", "").lower() == "websocket"
    if opens and origin is not None and not _is_listed(request, origin):
        raise _foreign(origin)


def _is_listed(request: web.Request, origin: str) -> bool:
    return origin in request.app[NODE].config.whoosh.origins


def _foreign(origin: str) -> Denied:
    reason = f"pages of {origin[:120]!r} may not call this node"
    return Denied(Code.NOT_AUTHORISED, reason, do="an operator adds the origin to whoosh.origins of every node")


def verify_gitea(request: web.Request, body: bytes) -> None:
    """Make sure that Gitea sent this very body: its header is the HMAC-SHA256 of it under the secret both know.

    Raises:
        Denied: no header, another's, or no secret is configured here.
        Throttled: too many came.
    """
    secret = request.app[NODE].config.whoosh.gitea_secret
    if not secret:
        charge_caller(request, "")
        do = "an operator sets whoosh.gitea_secret of every node to the secret of the webhook"
        raise Denied(Code.NOT_IMPLEMENTED, "this node knows no secret of Gitea's, so it can believe no webhook", do=do)
    sent = request.headers.get(GITEA_HEADER, "")
    expected = hmac.digest(secret.encode(), body, "sha256").hex()
    if hmac.compare_digest(sent.encode(errors="replace"), expected.encode()):
        return charge_caller(request, "gitea")
    charge_caller(request, "")
    do = "give Gitea's webhook the secret of whoosh.gitea_secret; the signature is over the body as sent"
    if not sent:
        raise Denied(Code.UNSIGNED, f"{GITEA_HEADER} is missing", do=do, challenge="Gitea-HMAC-SHA256")
    reason = f"{GITEA_HEADER} is not the HMAC-SHA256 of this body under the secret of this node"
    raise Denied(Code.BAD_SIGNATURE, reason, do=do, challenge="Gitea-HMAC-SHA256")


# --- browsers ---------------------------------------------------------------------------------------------------------


@web.middleware
async def cross_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What a browser asks before a page of another origin may call a route of WHOOSH (CORS preflight).

    Answered from the router, so a route that is added needs nothing of its own. OPTIONS of any other kind is what it
    is anywhere.
    """
    asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    methods = problems.methods_of(request.match_info.http_exception)
    if not (asks and methods and is_of_whoosh(request.path)):
        return await handler(request)
    origin = request.headers.get("Origin", "")
    if not _is_listed(request, origin):
        charge_caller(request, "")
        raise _foreign(origin)
    return problems.preflight(methods, _MAY_BE_SENT)


async def dress(request: web.Request, response: web.StreamResponse) -> None:
    """The headers that every answer carries, whatever became of the request."""
    headers = response.headers
    for name, value in _TO_BROWSERS.items():
        headers.setdefault(name, value)
    asked_as = request.headers.get(REQUEST_ID_HEADER, "")
    if 0 < len(asked_as) <= REQUEST_ID_CHARS_MAX and is_printable(asked_as):
        headers[REQUEST_ID_HEADER] = asked_as
    if not is_of_whoosh(request.path):
        return
    headers.setdefault("Cache-Control", "no-store")
    headers.add("Vary", "Origin")
    origin = request.headers.get("Origin")
    if origin is not None and _is_listed(request, origin):
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = _MAY_BE_READ
