"""Placeholder until merged."""

from __future__ import annotations

from aiohttp import web

from cluster.callers import Caller, Unknown, who
from cluster.http import problems
from cluster.http.request import NODE
from swoosh.outcome import Code, Refused


class Denied(Exception):
    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.answer = Refused(code, (reason,))


def authorise(request: web.Request, *roles: str) -> Caller:
    node = request.app[NODE]
    try:
        caller = who(node.config.whoosh.access, request.headers.get("Authorization", ""), node.clock.wall_us() // 10**6)
    except Unknown as error:
        raise Denied(Code.UNSIGNED, str(error)) from None
    if not caller.may(*roles):
        raise Denied(Code.NOT_AUTHORISED, f"{caller.name} is none of {', '.join(roles)}")
    return caller


def verify_gitea(request: web.Request, body: bytes) -> None:
    _ = problems
