"""Proposals in, verdicts out: `POST /transition`, `POST /transitions`, `GET /transitions/{key}`.

A handler parses strictly, asks admission by way of `gate`, submits, and lets `problems` speak. It never retries and
never answers before the cluster has: 202 is the same verdict as 200, sent no earlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import msgspec
from aiohttp import web

from cluster.answers import Answer, Unavailable
from cluster.http import gate, problems
from cluster.http.rate import charge
from cluster.http.request import (
    METRICS,
    NODE,
    about,
    consistent,
    deadline,
    flag,
    head_of,
    preferences,
    project_of,
    read_body,
)
from cluster.node import Node
from swoosh import canonical, idempotency, limits, wal
from swoosh import proposal as proposals
from swoosh.entry import BatchItem, Item, ProposalItem, owed
from swoosh.errors import Malformed
from swoosh.outcome import Accepted, Code, Refused

PARSED_A_SLICE = 16 * 1024
"""Bytes of proposals that are parsed in one go; about a millisecond."""


async def post_transition(request: web.Request) -> web.Response:
    """One proposal (Brief §5). `?dry_run=true` judges it and commits nothing."""
    dry_run = flag(request, "dry_run")
    body = await read_body(request, limits.BODY_BYTES_MAX, problems.JSON)
    item = await admit(request, body, dry_run=dry_run)
    [answer] = await submit(request, [item], dry_run=dry_run)
    if isinstance(answer, Accepted) and "respond-async" in preferences(request) and not dry_run:
        return problems.accepted_later(answer)
    return problems.respond(answer)


async def admit(
    request: web.Request, body: bytes, *, belongs: frozenset[str] | None = None, dry_run: bool = False
) -> ProposalItem | Refused | Unavailable:
    """The proposal in a body, with what its headers say. With `belongs`, only a command of that list is taken.

    Raises:
        Malformed: not strict JSON, or a header contradicts it.
    """
    node = request.app[NODE]
    document = canonical.parse(body)
    if isinstance(document, dict):
        _heed_headers(request, document)
        about(request, document.get("project", proposals.DEFAULT_PROJECT))
        if belongs is not None:
            _check_belongs(node, document, belongs)
    [item] = await gate.admit(request, node.admission.proposal, [document], dry_run=dry_run)
    return item


async def submit(
    request: web.Request, admitted: Sequence[Item | Refused | Unavailable], *, dry_run: bool = False
) -> list[Answer]:
    """Answers in order, one per proposal or fact. What was refused before the log keeps its place, and is told HEAD."""
    node, metrics = request.app[NODE], request.app[METRICS]
    received = node.clock.monotonic()
    items = [item for item in admitted if not isinstance(item, Refused | Unavailable)]
    judged = iter(await node.submit(items, deadline(request), dry_run=dry_run) if items else ())
    answers: list[Answer] = []
    for item in admitted:
        if isinstance(item, Refused | Unavailable):
            answers.append(with_head(node, item))
        else:
            answers.extend(islice(judged, owed(item)))
    if not dry_run:
        for answer in answers:
            metrics.on_answer(answer, node.clock.monotonic() - received)
    return answers


def with_head(node: Node, refused: Refused | Unavailable) -> Refused | Unavailable:
    """A refusal that was judged without state, with the state its project is in, and without a secret it may quote."""
    if isinstance(refused, Unavailable):
        return refused
    refused = node.screen.unquoted(refused)
    project = head_of(node, refused.project or proposals.DEFAULT_PROJECT)
    if project is None or refused.head:
        return refused
    return msgspec.structs.replace(
        refused,
        head=project.state_hash,
        hlc_last=project.regions.hlc_last.hlc,
        quarantined=project.quarantined,
    )


def _heed_headers(request: web.Request, document: dict[str, Any]) -> None:
    """A signature may come as a header; what else a header repeats must agree with the body."""
    signature = request.headers.get("X-HMMM-Signature")
    if signature is not None and document.setdefault("signature", signature) != signature:
        raise Malformed("X-HMMM-Signature differs from signature in the body", Code.HEADER_MISMATCH)
    for member, headers in proposals.HEADERS.items():
        for header in headers:
            stated = request.headers.get(header)
            if stated is not None and stated != document.get(member):
                raise Malformed(f"{header} differs from {member} in the body", Code.HEADER_MISMATCH)


def _check_belongs(node: Node, document: dict[str, Any], belongs: frozenset[str]) -> None:
    named = str(document.get("transition"))
    transition = node.chart.cluster.resolve(named)
    if document.get("project") != proposals.CLUSTER or transition is None or transition.name not in belongs:
        expected = f"project {proposals.CLUSTER} and a transition of {', '.join(sorted(belongs))}"
        raise Malformed(f"this route takes {expected}; got {document.get('project')!r:.80}, {named[:80]!r}")


# --- batches ----------------------------------------------------------------------------------------------------------


class _SignedBatch(msgspec.Struct, forbid_unknown_fields=True):
    proposals: msgspec.Raw
    signer: str
    signature: str


_array = msgspec.json.Decoder(list[msgspec.Raw])
_signed = msgspec.json.Decoder(_SignedBatch)


async def post_transitions(request: web.Request) -> web.Response:
    """Up to 512 proposals, of many projects: a JSON array, NDJSON, or one object under one signature."""
    dry_run = flag(request, "dry_run")
    body = await read_body(request, limits.BATCH_BODY_BYTES_MAX, problems.JSON, problems.NDJSON)
    lines = request.content_type == problems.NDJSON
    admitted: Sequence[Item | Refused | Unavailable]
    if not lines and body.lstrip()[:1] == b"{":
        batch = await _signed_batch(request, body, dry_run=dry_run)
        if not isinstance(batch, BatchItem):
            return problems.respond(with_head(request.app[NODE], batch))
        admitted = [batch]
    else:
        members = [line for line in body.splitlines() if line.strip()] if lines else _members(body)
        documents = await _parsed(request, members)
        admitted = await gate.admit(request, request.app[NODE].admission.proposal, documents, dry_run=dry_run)
    return problems.outcomes(await submit(request, admitted, dry_run=dry_run), lines=lines)


async def _signed_batch(request: web.Request, body: bytes, *, dry_run: bool) -> BatchItem | Refused | Unavailable:
    """The batch of a body. What surrounds the proposals is parsed as strictly as they are: no name stands twice.

    Raises:
        Malformed: not of this form.
    """
    try:
        proposals = bytes(_signed.decode(body).proposals)
    except msgspec.DecodeError as error:
        raise Malformed(f"a signed batch is {{proposals, signer, signature}}: {error}") from None
    around = body.replace(proposals, b"[]", 1)
    if len(around) > limits.BODY_BYTES_MAX:
        raise Malformed(f"signer and signature take {len(around)} bytes", Code.TOO_LARGE)
    document = canonical.parse(around, "batch")
    members = await _parsed(request, _members(proposals), "proposals")
    wrong = next((member for member in members if isinstance(member, Refused)), None)
    if wrong is not None:
        return wrong
    [batch] = await gate.admit(
        request, request.app[NODE].admission.batch, [{**document, "proposals": members}], dry_run=dry_run
    )
    return batch


async def _parsed(request: web.Request, members: list[bytes], of: str = "") -> list[Any]:
    """Every member parsed, or the refusal that stands in its place; reasons name a member as `of[position]`.

    Raises:
        Malformed: too many of them, or none.
        Throttled: too many of them from this address.
    """
    most = limits.ENTRY_PROPOSALS_MAX
    if not 1 <= len(members) <= most:
        raise Malformed(f"{len(members)} proposals; 1 to {most} go into one request", Code.TOO_LARGE)
    charge(request, len(members) - 1)
    documents: list[Any] = []
    unpaused = 0
    for position, member in enumerate(members):
        documents.append(_parse(member, f"{of}[{position}]"))
        unpaused += len(member)
        if unpaused >= PARSED_A_SLICE:
            unpaused = 0
            await request.app[NODE].clock.sleep(0)
    return documents


def _parse(member: bytes, what: str) -> Any:
    if len(member) > limits.BODY_BYTES_MAX:
        return Refused(Code.TOO_LARGE, (f"{what}: {len(member)} bytes; at most {limits.BODY_BYTES_MAX} are read",))
    try:
        return canonical.parse(member, what)
    except Malformed as error:
        return Refused(error.code, (error.reason,))


def _members(body: bytes) -> list[bytes]:
    try:
        return [bytes(member) for member in _array.decode(body)]
    except msgspec.DecodeError as error:
        raise Malformed(f"expected a JSON array of proposals, or {{proposals, signer, signature}}: {error}") from None


# --- recorded outcomes ------------------------------------------------------------------------------------------------


async def get_outcome(request: web.Request) -> web.Response:
    """What an idempotency key led to. Not found says as of which entry, which is not final."""
    node = request.app[NODE]
    project_id = project_of(request)
    key = proposals.idem_key(request.match_info["key"])
    missing = await consistent(request)
    if missing is not None:
        return problems.respond(missing)
    found = recorded(node, project_id, key)
    if found is None:
        index = node.machine.position.index
        reason = f"no transition of {project_id} with this key is applied as of index {index}"
        return problems.refuse(Code.NOT_FOUND, reason, as_of_index=index)
    return problems.respond(found)


def recorded(node: Node, project_id: str, key: str) -> Accepted | None:
    """What a key led to, as far as this node has applied; None where it led to nothing yet."""
    entry = node.store.ledger(project_id, key)
    if entry is None:
        return None
    data = node.store.record(project_id, entry.seq)
    project = head_of(node, project_id)
    judged = wal.decode(data).guard_outcomes if data is not None else ()
    quarantined = project is not None and project.quarantined
    return idempotency.recorded(entry, project_id, key, quarantined=quarantined, guard_outcomes=judged)
