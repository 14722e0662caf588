"""THE mapping from what happened to what HTTP says: status, body, headers.

No other module chooses a status. A caller of v1.0.0 finds the texts and fields it knows (`success`, `error`,
`state_hash`, `quarantined`; `guards_v1`), a caller of the brief its reason and failing guard; both are in every body.
A 4xx is final for that attempt, 503 says whether the proposal may have been admitted, and 500 means a bug.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import msgspec
from aiohttp import web

from cluster.answers import RETRY_AFTER_S, Answer, Unavailable, not_admitted
from swoosh.outcome import ADVICE, Accepted, Code, FactAccepted, GuardOutcome, Refused

JSON = "application/json"
NDJSON = "application/x-ndjson"

RoutingError = web.HTTPException
"""What aiohttp raises for a path or method it has no handler for."""

_FINAL = {
    Code.UNSIGNED: HTTPStatus.UNAUTHORIZED,
    Code.UNKNOWN_SIGNER: HTTPStatus.UNAUTHORIZED,
    Code.BAD_SIGNATURE: HTTPStatus.UNAUTHORIZED,
    Code.NOT_AUTHORISED: HTTPStatus.FORBIDDEN,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.TOO_SLOW: HTTPStatus.REQUEST_TIMEOUT,
    Code.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Code.UNSUPPORTED_MEDIA: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Code.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    Code.NOT_IMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
}
_CONDITION = frozenset(
    {
        *(Code.NO_LEADER, Code.NO_QUORUM, Code.COLD, Code.OVERLOADED, Code.CLOCK, Code.DISK_SLOW, Code.DISK_LOW),
        *(Code.HALTED, Code.STALE_READ, Code.OUTCOME_UNKNOWN),
    }
)
STATUS: dict[Code, int] = {
    code: HTTPStatus.SERVICE_UNAVAILABLE if code in _CONDITION else _FINAL.get(code, HTTPStatus.BAD_REQUEST)
    for code in Code
}

_PHRASES = {
    Code.GUARD_REJECTED: "guard rejected transition",
    Code.UNKNOWN_TRANSITION: "unknown transition",
    Code.QUARANTINED: "transition blocked by quarantine",
    Code.WRONG_PHASE: "invalid phase for transition",
    Code.INTERNAL: "internal error",
    Code.NOT_FOUND: "not found",
    Code.NOT_IMPLEMENTED: "not implemented",
    Code.UNSIGNED: "signature or token required",
    Code.UNKNOWN_SIGNER: "signer not known",
    Code.BAD_SIGNATURE: "signature does not verify",
    Code.NOT_AUTHORISED: "not authorised",
    Code.TOO_SLOW: "request took too long",
    Code.TOO_LARGE: "request too large",
    Code.UNSUPPORTED_MEDIA: "content type not supported",
    Code.RATE_LIMITED: "too many requests",
}
_OF_STATE = frozenset(
    {
        *(Code.IDEM_KEY_REUSED, Code.UNKNOWN_PROJECT, Code.STALE_STATE, Code.HLC_REGRESSION, Code.HLC_TIE),
        *(Code.HLC_SKEW, Code.TERMINATED, Code.PAUSED, Code.RECOVERING, Code.NOT_LICENSED, Code.CHART_MISMATCH),
        *(Code.FACT_REFUSED, Code.TOO_MANY_PROJECTS),
    }
)

_ADAPTED = {
    Code.UNKNOWN_PROJECT: HTTPStatus.NOT_FOUND,
    **dict.fromkeys(
        (Code.GUARD_REJECTED, Code.TERMINATED, Code.QUARANTINED, Code.PAUSED, Code.RECOVERING, Code.NOT_LICENSED),
        HTTPStatus.CONFLICT,
    ),
}
"""What is a 400 to callers of ours, to callers of WHOOSH: what stands in the way may be gone later."""

_GUARDS_V1 = {
    "LicenseOK": frozenset({"license_active", "license_denied", "license_unavailable", "grace_over_or_denied"}),
    "BackbeatOK": frozenset({"window_open", "new_window"}),
    "QuorumOK": frozenset({"quorum_certificate", "operator_or_quorum", "council_quorate", "electorate_valid"}),
    "PolicyOK": frozenset({"policy_clear"}),
    "MCPHealthy": frozenset({"tools_green"}),
}
_GATES_V1 = {Code.NOT_LICENSED: "LicenseOK", Code.QUARANTINED: "PolicyOK"}


def phrase(code: Code) -> str:
    """The text an `error` begins with: v1.0.0's where it had one."""
    if code in _OF_STATE:
        return "precondition failed"
    return _PHRASES.get(code, "service unavailable" if code in _CONDITION else "malformed request")


def guards_v1(outcomes: tuple[GuardOutcome, ...], code: Code | None = None) -> dict[str, bool]:
    """The five booleans of v1.0.0: false where a guard of that family refused, or its gate was closed."""
    failed = {outcome.name for outcome in outcomes if not outcome.ok}
    closed = None if code is None else _GATES_V1.get(code)
    return {name: not (guards & failed) and name != closed for name, guards in _GUARDS_V1.items()}


# --- documents --------------------------------------------------------------------------------------------------------


def document(answer: Answer) -> tuple[int, dict[str, Any]]:
    """Status and body of one answer of the node."""
    match answer:
        case Accepted():
            return HTTPStatus.OK, _accepted(answer)
        case FactAccepted():
            return HTTPStatus.OK, {"success": True, **msgspec.structs.asdict(answer)}
        case Refused(code=code):
            return STATUS[code], _refused(answer)
        case Unavailable(code=code, admitted=admitted, reason=reason):
            return STATUS[code], {**_refused(Refused(code, (reason,))), "admitted": admitted}


def _accepted(answer: Accepted) -> dict[str, Any]:
    body = {
        "success": True,
        "state_hash": answer.state_post_hash,
        "quarantined": answer.quarantined,
        "duplicate": answer.duplicate,
        "project": answer.project,
        "transition": answer.transition,
        "idem_key": answer.idem_key,
        "index": answer.index,
        "seq": answer.seq,
        "hlc": answer.hlc,
        "state_pre_hash": answer.state_pre_hash,
        "state_post_hash": answer.state_post_hash,
        "record_hash": answer.record_hash,
        "guard_outcomes": answer.guard_outcomes,
        "guards_v1": guards_v1(answer.guard_outcomes),
        "decision": answer.decision,
    }
    return body if answer.changes is None else {**body, "changes": answer.changes}


def _refused(answer: Refused) -> dict[str, Any]:
    advice = ADVICE[answer.code]
    body = {
        "success": False,
        "error": ": ".join((phrase(answer.code), *answer.reasons[:1])),
        "code": answer.code,
        "failing_guard": answer.failing_guard,
        "reasons": answer.reasons,
        "state_hash": answer.head,
        "hlc_last": answer.hlc_last,
        "quarantined": answer.quarantined,
        "retryable": advice.retryable,
        "help": advice.do,
        "guard_outcomes": answer.guard_outcomes,
        "guards_v1": guards_v1(answer.guard_outcomes, answer.code),
    }
    if answer.findings:
        body["findings"] = answer.findings
    return body if answer.record is None else {**body, "record": answer.record}


# --- responses --------------------------------------------------------------------------------------------------------


def respond(answer: Answer) -> web.Response:
    """One answer of the node as a response."""
    status, body = document(answer)
    return _json(status, body, _headers(answer))


def accepted_later(answer: Accepted) -> web.Response:
    """The same verdict with the brief's status (RFC 7240 `respond-async`). Like the 200, sent after commit only."""
    location = f"/transitions/{quote(answer.idem_key, safe='')}?project={quote(answer.project, safe='')}"
    headers = {"Location": location, "Preference-Applied": "respond-async"}
    return _json(HTTPStatus.ACCEPTED, _accepted(answer), headers)


def adapted(answer: Answer, says: Mapping[str, Any], *, created: bool) -> web.Response:
    """One answer of the node to a caller of WHOOSH, who knows 201, 404 and 409. `says` is what such a caller reads.
    What cannot be created because it is there is a conflict to him."""
    status, body = document(answer)
    if isinstance(answer, Accepted):
        first = created and not answer.duplicate
        return _json(HTTPStatus.CREATED if first else HTTPStatus.OK, {**body, **says})
    if isinstance(answer, Refused) and status == HTTPStatus.BAD_REQUEST:
        status = (
            HTTPStatus.CONFLICT if created and answer.code is Code.WRONG_PHASE else _ADAPTED.get(answer.code, status)
        )
    return _json(status, body, _headers(answer))


def outcomes(answers: list[Answer], *, lines: bool) -> web.Response:
    """A batch's answers in order, each with the `status` it would have had alone."""
    documents = [{"status": status, **body} for status, body in map(document, answers)]
    return ndjson(map(msgspec.json.encode, documents)) if lines else ok({"outcomes": documents})


def ok(body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> web.Response:
    """A read that succeeded."""
    return _json(HTTPStatus.OK, body, headers)


def ndjson(lines: Any) -> web.Response:
    """Encoded documents, one per line."""
    body = b"".join(line + b"\n" for line in lines)
    return web.Response(body=body, content_type=NDJSON)


def created(body: Mapping[str, Any]) -> web.Response:
    """Something new is on record that is no transition."""
    return _json(HTTPStatus.CREATED, body)


def conflict(reason: str, **extra: Any) -> web.Response:
    """What is asked for contradicts what is so, and a caller of WHOOSH is told before anything is proposed."""
    return _json(HTTPStatus.CONFLICT, {**_refused(Refused(Code.GUARD_REJECTED, (reason,))), **extra})


def refuse(code: Code, *reasons: str, **extra: Any) -> web.Response:
    """A refusal that no proposal is behind; `extra` are further members of the body."""
    body = {**_refused(Refused(code, reasons)), **extra}
    return _json(STATUS[code], body, _headers(Refused(code, reasons)))


def told(response: web.StreamResponse) -> dict[str, Any]:
    """What a refusal said, for the log; nothing where it is none, or only asks to come later."""
    body = response.body if isinstance(response, web.Response) else None
    if response.status < HTTPStatus.BAD_REQUEST or not isinstance(body, bytes):
        return {}
    said = msgspec.json.decode(body)
    return {} if said["retryable"] else {"status": response.status, "code": said["code"], "reason": said["error"]}


def unserved(error: str, reason: str, contact: str) -> web.Response:
    """What WHOOSH served and SWOOSH does not, in the error body of v1.0.0; `contact` says what serves instead."""
    body = _refused(Refused(Code.NOT_IMPLEMENTED, (reason,), ""))
    return _json(HTTPStatus.NOT_IMPLEMENTED, {**body, "error": error, "reason": reason, "contact": f"use {contact}"})


def denied(refused: Refused, do: str, challenge: str) -> web.Response:
    """A caller whom no token or shared secret proves to be somebody who may. `do` is what to do about it."""
    response = refuse(refused.code, *refused.reasons, help=do)
    if response.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = challenge
    return response


def internal() -> web.Response:
    """A handler failed: a bug. Whether a proposal went in before it did is not known here."""
    reason = "the handler failed; its log has the trace"
    do = "if this was a proposal, repeat it with the same idem_key: it is applied once or not at all"
    return refuse(Code.INTERNAL, reason, help=do)


def absent(project: str, genesis_hash: str) -> web.Response:
    """A read of a project nobody created. Its hash is known all the same: it is what `genesis` spells."""
    reason = f"no project {project!r} exists; its state_hash is that of genesis"
    refused = Refused(Code.UNKNOWN_PROJECT, (reason,), project=project, head=genesis_hash)
    return _json(HTTPStatus.NOT_FOUND, {**_refused(refused), "genesis_hash": genesis_hash})


def cold(missing: list[str]) -> web.Response:
    """The node has not caught up since its start."""
    waiting = not_admitted(Code.COLD, "; ".join(missing))
    status, body = document(waiting)
    return _json(status, {"status": "cold", "missing": missing, **body}, _headers(waiting))


def not_modified(etag: str) -> web.Response:
    """The reader holds this very state."""
    return web.Response(status=HTTPStatus.NOT_MODIFIED, headers={"ETag": etag})


def probe(holds: bool, reason: str) -> web.Response:
    """What a load balancer asks: 200 or 503, and one line."""
    if holds:
        return web.Response(status=HTTPStatus.OK, text=reason + "\n")
    return web.Response(
        status=HTTPStatus.SERVICE_UNAVAILABLE, text=reason + "\n", headers={"Retry-After": str(RETRY_AFTER_S)}
    )


def options(*methods: str) -> web.Response:
    """What may be asked here."""
    return web.Response(status=HTTPStatus.OK, headers={"Allow": ", ".join(methods)})


def preflight(methods: frozenset[str], headers: str) -> web.Response:
    """What a page of another origin may ask for here, and which headers it may send; good for ten minutes."""
    said = {"Access-Control-Allow-Methods": ", ".join(sorted(methods)), "Access-Control-Allow-Headers": headers}
    return web.Response(status=HTTPStatus.NO_CONTENT, headers={**said, "Access-Control-Max-Age": "600"})


def methods_of(error: BaseException | None) -> frozenset[str]:
    """The methods that are served where the router refused one; none where it found nothing at all."""
    return frozenset(error.allowed_methods) if isinstance(error, web.HTTPMethodNotAllowed) else frozenset()


def routing(error: web.HTTPException, path: str) -> web.Response:
    """The router's refusal: no such path, or another method."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        body = _refused(Refused(Code.NOT_FOUND, (f"{path} takes {allowed}, not {error.method}",)))
        return _json(HTTPStatus.METHOD_NOT_ALLOWED, body, {"Allow": allowed})
    return refuse(Code.NOT_FOUND, f"nothing is served at {path[:200]}")


def peer_answers(body: bytes) -> web.Response:
    """What a member asked for; answers to forwarded items each carry their own verdict."""
    return web.Response(status=HTTPStatus.OK, body=body, content_type="application/msgpack")


def timeout_head(seconds: float) -> bytes:
    """The raw response to a request whose head did not arrive in time; no handler ever saw it."""
    reason = f"the request's head took longer than {seconds:g} s"
    body = msgspec.json.encode(_refused(Refused(Code.TOO_SLOW, (reason,))))
    head = (
        f"HTTP/1.1 {HTTPStatus.REQUEST_TIMEOUT} {HTTPStatus.REQUEST_TIMEOUT.phrase}\r\n"
        f"Content-Type: {JSON}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def _json(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> web.Response:
    response = web.Response(status=status, body=msgspec.json.encode(body), content_type=JSON, headers=headers)
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
        response.force_close()  # the rest of the body may still be on its way
    return response


def _headers(answer: Answer) -> dict[str, str]:
    if isinstance(answer, Unavailable):
        return {"Retry-After": str(max(1, answer.retry_after_s))}
    if isinstance(answer, Refused):
        if answer.code in _CONDITION:
            return {"Retry-After": str(RETRY_AFTER_S)}
        if STATUS[answer.code] == HTTPStatus.UNAUTHORIZED:
            return {"WWW-Authenticate": "Bearer" if answer.code == Code.UNSIGNED else "HMMM-Ed25519"}
    return {}


def succeeded(status: int) -> bool:
    """Whether a member's reply carries answers."""
    return status == HTTPStatus.OK


def record(data: bytes | AsyncIterator[bytes], headers: Mapping[str, str] | None = None) -> web.Response:
    """A document that is text already, whole or in slices."""
    return web.Response(status=HTTPStatus.OK, body=data, content_type=JSON, headers=headers)
