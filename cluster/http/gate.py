"""Between a parsed body and the queue: admission, told as finally as its statuses mean it.

Admission judges by the identities this node has applied, and these may trail what another node acknowledged a moment
ago, while 401 and 403 are final. So a refusal that rests on the registry is judged a second time, once the node has
applied all that was committed when the request came in: once for each request, however many proposals it holds.

What an authenticated caller is refused here joins the node's other refusals (`GET /rejections`), for operators ask who
tried what. What nobody proved to have sent does not: anybody could write what he likes into those notes, and push out
what somebody looks for.

Last, what was admitted is held against policy (cluster/screen.py): what holds a secret ends here, and the project it
is about is held. Not before, for a stranger may hold nobody's project.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from aiohttp import web

from cluster.answers import Unavailable
from cluster.http.rate import METERS, too_many
from cluster.http.request import NODE, deadline
from cluster.shhh.report import quarantining
from swoosh import principal
from swoosh.outcome import Code, Refused

T = TypeVar("T")

SIGNATURES_A_SLICE = 16
"""Verified in one go; about a millisecond, after which the loop serves others."""

OF_REGISTRY = frozenset({Code.UNKNOWN_SIGNER, Code.NOT_AUTHORISED, Code.IDEM_KEY_RESERVED})
PROVEN = frozenset({Code.NOT_AUTHORISED, Code.IDEM_KEY_RESERVED})
"""Said only after the signature verified."""


async def admit(
    request: web.Request, judge: Callable[[Any], T | Refused], documents: Sequence[Any], *, dry_run: bool = False
) -> list[T | Refused | Unavailable]:
    """A verdict on each document in order; one that is a refusal already is passed on.

    Args:
        judge: admission's word on one document.
        dry_run: leave no note of refusals.

    Raises:
        Malformed: as `judge` does.
    """
    node = request.app[NODE]
    verdicts: list[T | Refused | Unavailable] = []
    for position, document in enumerate(documents):
        await _pause(request, position)
        verdicts.append(document if isinstance(document, Refused) else judge(document))
    doubtful = [position for position, verdict in enumerate(verdicts) if _is(verdict, OF_REGISTRY)]
    if doubtful:
        missing = await node.read("linearizable", deadline(request))
        for count, position in enumerate(doubtful):
            await _pause(request, count)
            verdicts[position] = judge(documents[position]) if missing is None else missing
    answers: list[T | Refused | Unavailable] = []
    for position, (document, verdict) in enumerate(zip(documents, verdicts, strict=True)):
        await _pause(request, position)
        answers.append(await _screened(request, document, verdict, dry_run))
    return answers


async def _screened(
    request: web.Request, document: Any, verdict: T | Refused | Unavailable, dry_run: bool
) -> T | Refused | Unavailable:
    """The verdict, unless policy finds in the document what may not enter the log."""
    node = request.app[NODE]
    if isinstance(verdict, Refused):
        verdict = node.screen.unquoted(verdict)
    verdict = _accounted(request, document, verdict, dry_run)
    if isinstance(verdict, Refused | Unavailable):
        return verdict
    grave = quarantining(node.screen.look(document))
    if not grave:
        return verdict
    refused = await node.screen.refuse(document, grave, deadline(request), dry_run=dry_run)
    if isinstance(refused, Refused) and not dry_run and _is_proven(document, verdict):
        node.note(refused, _signer(document))
    return refused


async def _pause(request: web.Request, count: int) -> None:
    if count and count % SIGNATURES_A_SLICE == 0:
        await request.app[NODE].clock.sleep(0)


def _accounted(
    request: web.Request, document: Any, verdict: T | Refused | Unavailable, dry_run: bool
) -> T | Refused | Unavailable:
    """The verdict, unless its signer sends too much; a refusal of somebody we know is noted."""
    node, buckets = request.app[NODE], request.app[METERS].signer
    if isinstance(verdict, Unavailable) or not _is_proven(document, verdict):
        return verdict
    signer = _signer(document)
    wait = buckets.take(signer, len(document["proposals"]) if "proposals" in document else 1)
    if wait:
        return too_many(signer, f"{buckets.rate} proposals a second", wait)
    if isinstance(verdict, Refused) and not dry_run:
        node.note(verdict, signer)
    return verdict


def _signer(document: Any) -> str:
    return principal.normalise(document["provider"] if "provider" in document else document["signer"])


def _is_proven(document: Any, verdict: object) -> bool:
    """Whether a signature over the document verified. In an insecure cluster there may be none."""
    signed = isinstance(document, dict) and document.get("signature") is not None
    return signed and (not isinstance(verdict, Refused) or verdict.code in PROVEN)


def _is(verdict: object, codes: frozenset[Code]) -> bool:
    return isinstance(verdict, Refused) and verdict.code in codes
