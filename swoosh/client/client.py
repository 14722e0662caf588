"""The client: signs, sends, retries, and says what came of it.

What a caller may rely on:

* One call is one intent under one idempotency key, however many attempts it takes. It is applied at most once.
* ``Refused`` means that no attempt of this call was applied or will be. While an earlier attempt is in doubt, a refusal
  counts only if it rules that attempt out too; else the client goes on asking until its budget ends in ``Unknown``.
* The HLC of every proposal is after everything the cluster has answered to this client.

A client belongs to one event loop. Its clock, chance and transport are handed in where a run must repeat itself.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import quote, urlencode

from swoosh import canonical, hlc
from swoosh.client import answers, retry
from swoosh.client.answers import Accepted, FactAccepted, Outcome, Refused, State, Unknown, Windows
from swoosh.client.retry import Fate, Pauses, Policy
from swoosh.client.signing import Key
from swoosh.client.transport import (
    Clock,
    Entropy,
    HttpTransport,
    Lost,
    NotSent,
    Reply,
    SystemClock,
    SystemEntropy,
    Transport,
)
from swoosh.hlc import HLC
from swoosh.outcome import Code
from swoosh.proposal import DEFAULT_PROJECT, PREVIOUS, inputs_hash

OnStale = Literal["refuse", "resubmit"]
WATCH_IDLE_SECONDS = 60.0
ATTEMPT_SECONDS_MIN = 1.5
"""`Prefer: wait` counts whole seconds, and the answer still has to travel."""
_WAL_PAGE = 500


@dataclass(frozen=True, slots=True)
class Draft:
    """What a caller wants, before it is stamped and signed.

    ``decided_on`` is the state hash the caller looked at; without it, the newest is read just before. ``idem_key``
    names the operation; without it, a new one is made, so pass it to be able to ask again after ``Unknown``.
    """

    transition: str
    inputs: Mapping[str, Any] | None = None
    project: str = DEFAULT_PROJECT
    window_id: str = ""
    evidence: Sequence[str] = ()
    idem_key: str | None = None
    decided_on: str | None = None


class Event(NamedTuple):
    """One accepted transition as ``watch`` sees it. ``id`` is ``index.seq``: where to resume."""

    id: str
    data: dict[str, Any]


class _Delivery(NamedTuple):
    """What sending one request came to. ``reply`` None: the budget ran out, ``last`` says on what. ``doubt``: an
    earlier attempt may have been applied."""

    reply: Reply | None
    doubt: bool
    last: str


class Client:
    """A caller of one cluster, through one endpoint (a load balancer) or several (its nodes).

    Args:
        endpoints: base URLs; the one that answered last is asked first.
        key: who signs. Reads need none.
        cluster_id: what signatures are bound to; read from the first node that answers when None.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        key: Key | None = None,
        cluster_id: str | None = None,
        policy: Policy | None = None,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        transport: Transport | None = None,
    ) -> None:
        if not endpoints:
            raise ValueError("a client needs at least one endpoint")
        self._endpoints = [endpoint.rstrip("/") for endpoint in endpoints]
        self._key = key
        self._cluster_id = cluster_id
        self._policy = policy or Policy()
        self._clock = clock or SystemClock()
        self._entropy = entropy or SystemEntropy()
        self._transport = transport or HttpTransport()
        self._hlc = hlc.ZERO
        self._sequence = count()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Release the connections."""
        await self._transport.close()

    @property
    def principal(self) -> str:
        """Who signs."""
        return self._signer().principal

    # --- proposals ----------------------------------------------------------------------------------------------------

    async def propose(
        self,
        transition: str,
        *,
        inputs: Mapping[str, Any] | None = None,
        project: str = DEFAULT_PROJECT,
        window_id: str = "",
        evidence: Sequence[str] = (),
        idem_key: str | None = None,
        decided_on: str | None = None,
        on_stale: OnStale = "refuse",
        dry_run: bool = False,
    ) -> Outcome:
        """Propose one transition.

        ``on_stale`` says what to do when somebody else's transition came first: hand the refusal to the caller, who
        may decide otherwise now, or propose the same on the new HEAD. ``dry_run`` asks for the verdict alone.

        Raises:
            Unavailable: no node could be asked what to sign for (cluster id, HEAD); nothing was sent.
        """
        key = idem_key or self._new_key(project, transition, window_id)
        draft = Draft(transition, inputs, project, window_id, evidence, key, decided_on)
        deadline = self._deadline()
        head = decided_on or await self._head(project, deadline)
        path = "/transition?dry_run=true" if dry_run else "/transition"
        doubt, pauses = False, Pauses(self._policy, 1, self._entropy)
        while True:
            body = await self._signed(draft, head, deadline)
            delivery = await self._deliver(path, body, deadline)
            doubt = doubt or delivery.doubt
            if delivery.reply is None:
                return _out_of_budget(key, delivery, doubt)
            outcome = answers.outcome(delivery.reply, key)
            self._learn(outcome)
            if isinstance(outcome, Accepted):
                return outcome
            doubt = doubt and outcome.code not in retry.SETTLING
            if not doubt and not _may_resend(outcome, on_stale):
                return outcome
            head = outcome.state_hash if outcome.code == Code.STALE_STATE else head
            if not await self._wait(pauses.after(delivery.reply), deadline):
                return Unknown(key, str(outcome)) if doubt else outcome

    async def batch(self, drafts: Sequence[Draft]) -> list[Outcome]:
        """Propose many transitions under one signature, in order, as one log entry; one outcome each.

        A draft that follows another of the same project is decided on what that one produces (``@prev``), so a refused
        one refuses those behind it.

        Raises:
            Unavailable: as for ``propose``.
        """
        deadline = self._deadline()
        named = [draft if draft.idem_key else replace(draft, idem_key=self._key_for(draft)) for draft in drafts]
        keys = [draft.idem_key or "" for draft in named]
        body = await self._signed_batch(named, deadline)
        doubt, pauses = False, Pauses(self._policy, 1, self._entropy)
        while True:
            delivery = await self._deliver("/transitions", body, deadline)
            doubt = doubt or delivery.doubt
            if delivery.reply is None:
                return [_out_of_budget(key, delivery, doubt) for key in keys]
            outcomes = answers.outcomes(delivery.reply, keys)
            for outcome in outcomes:
                self._learn(outcome)
            if all(_is_final(outcome, doubt) for outcome in outcomes):
                return outcomes
            doubt = doubt or any(isinstance(outcome, Unknown) for outcome in outcomes)
            if not await self._wait(pauses.after(delivery.reply), deadline):
                return [outcome if _is_final(outcome, doubt) else _unsettled(outcome) for outcome in outcomes]

    # --- messages -----------------------------------------------------------------------------------------------------

    async def message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Hand in one HMMM message, as a bridge does: a vote, a proposal, or one that changes nothing. What became of
        it, as the node says. Handing it in again is harmless, so this goes on until somebody settles it.

        Raises:
            Unavailable: nobody could within the budget.
            Rejected: it was refused.
        """
        delivery = await self._deliver("/hmmm/messages", canonical.encode(message), self._deadline())
        if delivery.reply is None:
            raise answers.Unavailable(f"no answer to a message: {delivery.last}")
        return answers.read(delivery.reply, dict[str, Any])

    # --- facts --------------------------------------------------------------------------------------------------------

    async def fact(
        self, kind: str, subject: str, body: Mapping[str, Any], *, valid_ms: int = 600_000
    ) -> FactAccepted | Refused | Unknown:
        """Report what was observed just now; it counts for ``valid_ms`` milliseconds.

        Raises:
            Unavailable: as for ``propose``.
        """
        deadline, name = self._deadline(), f"{kind}/{subject}"
        while True:
            fact = await self._signed_fact(kind, subject, body, valid_ms, deadline)
            delivery = await self._deliver("/admin/facts", fact, deadline)
            if delivery.reply is None:
                return _out_of_budget(name, delivery, delivery.doubt)
            answer = answers.fact(delivery.reply, name)
            # If an attempt in doubt was taken after all, its repeat is not newer than what is held: observe anew.
            if isinstance(answer, FactAccepted) or answer.code != Code.FACT_REFUSED or not delivery.doubt:
                return answer

    async def announce(
        self, name: str, *, capabilities: Sequence[str] = (), endpoint: str = "", valid_ms: int = 60_000
    ) -> None:
        """Say "here I am" as an agent, for as long as this runs: the signer's own ``agent`` fact, made anew at a third
        of its life, so that one answer may go missing. The signer holds the role ``provider:agent``.

        Raises:
            Rejected: the signer may not say so.
        """
        body = {"name": name, "capabilities": list(capabilities), "endpoint": endpoint}
        while True:
            try:
                answer = await self.fact("agent", self.principal, body, valid_ms=valid_ms)
            except answers.Unavailable:
                answer = None
            if isinstance(answer, Refused) and not answer.retryable and answer.code != Code.FACT_REFUSED:
                raise answers.Rejected(answer.code, answer.reasons)
            await self._clock.sleep(valid_ms / 3_000)

    # --- orders to one node -------------------------------------------------------------------------------------------

    async def order(self, name: str, node: str, endpoint: str, *, to: str | None = None) -> dict[str, Any]:
        """Give one node an admin's order: ``transfer-leadership`` (``to`` a member, or the best) or ``snapshot``.

        Sent once, to that node's own ``endpoint``: an order concerns a node and leaves nothing in the log.

        Raises:
            Unavailable: it may or may not have been heard; look at the cluster before giving it again.
            Rejected: it was refused.
        """
        deadline = self._deadline()
        order = {"order": name, "node": node, "hlc": str(self._tick()), "signer": self._signer().principal}
        if to is not None:
            order["to"] = to
        body = canonical.encode(self._signer().sign_order(order, await self._cluster(deadline)))
        try:
            reply = await self._once("POST", f"/admin/{name}", body, deadline, endpoint=endpoint)
        except (NotSent, Lost) as error:
            raise answers.Unavailable(f"no answer to the order {name}: {error}") from None
        return answers.read(reply, dict[str, Any])

    # --- reads --------------------------------------------------------------------------------------------------------

    async def state(
        self,
        project: str = DEFAULT_PROJECT,
        *,
        projection: Sequence[str] = (),
        consistency: str = "linearizable",
        min_index: int = 0,
    ) -> State | None:
        """A project's state, all regions or those named; None when nobody created the project.

        Raises:
            Unavailable: nobody could answer within the budget.
            Rejected: the question was refused.
        """
        query = {"project": project, "consistency": consistency}
        if projection:
            query["projection"] = ",".join(projection)
        if min_index:
            query["min_index"] = str(min_index)
        return await self._state(query, self._deadline())

    async def windows(self, project: str = DEFAULT_PROJECT) -> Windows:
        """What may happen in a project now, by the clock of the node that answers; the cluster judges by its own.

        Raises:
            Unavailable: nobody could answer within the budget.
            Rejected: there is no such project.
        """
        return answers.read(await self._get(_with_query("/windows", {"project": project}), self._deadline()), Windows)

    async def health(self, endpoint: str | None = None) -> dict[str, Any]:
        """What one node says of itself and the group: of ``endpoint``, or of the first that answers.

        Raises:
            Unavailable: nobody could answer within the budget.
        """
        return answers.read(await self._get("/health", self._deadline(), endpoint=endpoint), dict[str, Any])

    async def get(self, path: str, **query: str) -> Any:
        """The JSON of any other route.

        Raises:
            Unavailable: nobody could answer within the budget.
            Rejected: the question was refused, or there is nothing there.
        """
        return answers.read(await self._get(_with_query(path, query), self._deadline()), Any)

    async def recorded(self, idem_key: str, project: str = DEFAULT_PROJECT) -> Accepted | None:
        """What was applied under a key; None if nothing was by now, which is not final.

        Raises:
            Unavailable, Rejected: as for ``get``.
        """
        path = _with_query(f"/transitions/{quote(idem_key, safe='')}", {"project": project})
        reply = await self._get(path, self._deadline())
        return None if reply.status == 404 else answers.read(reply, Accepted)

    async def wal(self, project: str = DEFAULT_PROJECT, *, start: int = 1) -> AsyncIterator[dict[str, Any]]:
        """A project's WAL records in order, from sequence number ``start`` to the end there is now.

        Raises:
            Unavailable, Rejected: as for ``get``.
        """
        while True:
            page = await self.get("/wal", **{"project": project, "from": str(start), "limit": str(_WAL_PAGE)})
            for record in page["records"]:
                yield record
                start = record["seq"] + 1
            if len(page["records"]) < _WAL_PAGE:
                return

    async def watch(self, project: str = DEFAULT_PROJECT, *, after: str = "") -> AsyncIterator[Event]:
        """Accepted transitions as they happen, for ever; ``after`` is the id of the last one seen.

        A hint, never the truth: it reconnects to whatever node answers, and resumes behind the last event.
        """
        pauses = Pauses(self._policy, len(self._endpoints), self._entropy)
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
            url = self._endpoints[0] + _with_query("/watch", {"project": project})
            try:
                async for event in _events(self._transport.lines(url, headers=headers, idle=WATCH_IDLE_SECONDS)):
                    after = event.id or after
                    pauses = Pauses(self._policy, len(self._endpoints), self._entropy)
                    yield event
            except (NotSent, Lost):
                self._turn_away()
            await self._clock.sleep(pauses.after(None))

    # --- one request --------------------------------------------------------------------------------------------------

    async def _deliver(self, path: str, body: bytes, deadline: float) -> _Delivery:
        """Send one signed body until somebody settles it or the deadline passes."""
        pauses, doubt = Pauses(self._policy, len(self._endpoints), self._entropy), False
        while True:
            reply: Reply | None = None
            try:
                reply = await self._once("POST", path, body, deadline)
                fate, last = retry.fate(reply), retry.says(reply)
            except NotSent as error:
                fate, last = Fate.NOT_ADMITTED, str(error)
            except Lost as error:
                fate, last = Fate.IN_DOUBT, str(error)
            if reply is not None and fate is Fate.FINAL:
                return _Delivery(reply, doubt, "")
            doubt = doubt or fate is Fate.IN_DOUBT
            self._turn_away()
            if not await self._wait(pauses.after(reply), deadline):
                return _Delivery(None, doubt, last)

    async def _get(self, path: str, deadline: float, *, endpoint: str | None = None) -> Reply:
        """Ask until somebody knows or the deadline passes."""
        pauses = Pauses(self._policy, 1 if endpoint else len(self._endpoints), self._entropy)
        while True:
            reply: Reply | None = None
            try:
                reply = await self._once("GET", path, None, deadline, endpoint=endpoint)
                if retry.fate(reply) is Fate.FINAL:
                    return reply
                last = retry.says(reply)
            except (NotSent, Lost) as error:
                last = str(error)
            if endpoint is None:
                self._turn_away()
            if not await self._wait(pauses.after(reply), deadline):
                raise answers.Unavailable(f"no answer to {path}: {last}")

    async def _once(
        self, method: str, path: str, body: bytes | None, deadline: float, *, endpoint: str | None = None
    ) -> Reply:
        seconds = min(self._policy.attempt, max(0.01, deadline - self._clock.monotonic()))
        # The node is asked to speak before we stop listening: its "unknown" says more than our silence.
        headers = {"Accept": "application/json", "Prefer": f"wait={max(1, int(seconds) - 1)}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = (endpoint or self._endpoints[0]).rstrip("/") + path
        return await self._transport.request(method, url, headers=headers, body=body, timeout=seconds)

    def _turn_away(self) -> None:
        """Ask another endpoint first from now on."""
        self._endpoints.append(self._endpoints.pop(0))

    async def _wait(self, seconds: float, deadline: float) -> bool:
        """Whether there is time for another attempt after waiting. One cut short would only end in doubt."""
        if self._clock.monotonic() + seconds + ATTEMPT_SECONDS_MIN > deadline:
            return False
        await self._clock.sleep(seconds)
        return True

    def _deadline(self) -> float:
        return self._clock.monotonic() + self._policy.budget

    # --- what to sign -------------------------------------------------------------------------------------------------

    async def _signed(self, draft: Draft, head: str, deadline: float) -> bytes:
        cluster_id = await self._cluster(deadline)
        return canonical.encode(self._signer().sign_proposal(self._proposal(draft, head), cluster_id))

    async def _signed_batch(self, drafts: Sequence[Draft], deadline: float) -> bytes:
        heads = await self._heads(drafts, deadline)
        proposals = [self._proposal(draft, head) for draft, head in zip(drafts, heads, strict=True)]
        return canonical.encode(self._signer().sign_batch(proposals, await self._cluster(deadline)))

    async def _signed_fact(
        self, kind: str, subject: str, body: Mapping[str, Any], valid_ms: int, deadline: float
    ) -> bytes:
        cluster_id, now_ms = await self._cluster(deadline), self._clock.wall_us() // 1000
        fact = {
            "kind": kind,
            "subject": subject,
            "observed_at": now_ms,
            "seq": next(self._sequence),
            "expires_at": now_ms + valid_ms,
            "body": dict(body),
            "provider": self._signer().principal,
        }
        canonical.check(fact, "fact")
        return canonical.encode(self._signer().sign_fact(fact, cluster_id))

    def _proposal(self, draft: Draft, head: str) -> dict[str, Any]:
        inputs = dict(draft.inputs or {})
        proposal = {
            "current_state_hash": head,
            "transition": draft.transition,
            "inputs": inputs,
            "inputs_hash": inputs_hash(inputs),
            "signer": self._signer().principal,
            "idem_key": draft.idem_key,
            "hlc": str(self._tick()),
            "window_id": draft.window_id,
            "evidence": list(draft.evidence),
            "project": draft.project,
        }
        canonical.check(proposal, "proposal")
        return proposal

    def _key_for(self, draft: Draft) -> str:
        return self._new_key(draft.project, draft.transition, draft.window_id)

    def _new_key(self, project: str, transition: str, window_id: str) -> str:
        """``goal:window:class:uuid``, as the brief has it (§5), with a window that fits one part."""
        window = window_id.replace(":", "-")[:32] or "-"
        return f"{project}:{window}:{transition}:{self._entropy.uuid()}"

    async def _heads(self, drafts: Sequence[Draft], deadline: float) -> list[str]:
        """What each draft is decided on: said, ``@prev`` behind another of its project, else read."""
        heads: list[str] = []
        for position, draft in enumerate(drafts):
            follows = any(earlier.project == draft.project for earlier in drafts[:position])
            heads.append(draft.decided_on or (PREVIOUS if follows else await self._head(draft.project, deadline)))
        return heads

    async def _head(self, project: str, deadline: float) -> str:
        state = await self._state({"project": project, "projection": "HLCLast"}, deadline)
        return "genesis" if state is None else state.state_hash

    async def _state(self, query: Mapping[str, str], deadline: float) -> State | None:
        reply = await self._get(_with_query("/state", query), deadline)
        if retry.problem(reply).get("code") == Code.UNKNOWN_PROJECT:
            return None
        state = answers.read(reply, State)
        self._observe(state.hlc_last)
        return state

    async def _cluster(self, deadline: float) -> str:
        if self._cluster_id is None:
            health = answers.read(await self._get("/health", deadline), dict[str, Any])
            self._cluster_id = str(health["cluster_id"])
        return self._cluster_id

    def _signer(self) -> Key:
        if self._key is None:
            raise ValueError("this client was made without a key: it can read, but not propose")
        return self._key

    # --- the hybrid logical clock -------------------------------------------------------------------------------------

    def _tick(self) -> HLC:
        self._hlc = hlc.merge(self._clock.wall_us() // 1000, self._hlc)
        return self._hlc

    def _observe(self, text: str) -> None:
        if text:
            self._hlc = max(self._hlc, HLC.parse(text))

    def _learn(self, outcome: Outcome) -> None:
        if isinstance(outcome, Accepted):
            self._observe(outcome.hlc)
        elif isinstance(outcome, Refused):
            self._observe(outcome.hlc_last)


def _may_resend(outcome: Refused, on_stale: OnStale) -> bool:
    """Whether only the time stamp was out of date, or HEAD where the caller allows another."""
    if outcome.code == Code.STALE_STATE:
        return on_stale == "resubmit"
    return outcome.code in (Code.HLC_REGRESSION, Code.HLC_TIE)


def _is_final(outcome: Outcome, doubt: bool) -> bool:
    """Whether an answer within a batch counts, given that an earlier attempt may still be applied."""
    match outcome:
        case Accepted():
            return True
        case Refused(code=code):
            return not doubt or code in retry.SETTLING
        case Unknown():
            return False


def _unsettled(outcome: Outcome) -> Outcome:
    return Unknown(outcome.idem_key, str(outcome)) if isinstance(outcome, Refused) else outcome


def _out_of_budget(key: str, delivery: _Delivery, doubt: bool) -> Refused | Unknown:
    if doubt:
        return Unknown(key, f"no answer within the budget: {delivery.last}")
    reason = f"not admitted by any node within the budget: {delivery.last}"
    return Refused(Code.NO_LEADER, (reason,), retryable=True, idem_key=key)


def _with_query(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


async def _events(lines: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """Server-sent events (HTML Living Standard §9.2.6) out of lines."""
    identity, data = "", list[str]()
    async for line in lines:
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if not line and data:
            yield Event(identity, json.loads("\n".join(data)))
            data = []
        elif name == "id":
            identity = value
        elif name == "data":
            data.append(value)
