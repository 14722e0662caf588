"""For producers that know nothing of keys, clocks and windows: an aiohttp client middleware that adds them.

    shim = Shim(["http://swoosh:8080"])
    async with aiohttp.ClientSession(middlewares=[shim.middleware]) as session:
        await session.post("http://swoosh:8080/api/v1/councils/atlas/claims", json={...})

A POST to one of these addresses is sent with what it lacks (additions.py), and sent again, under the same key, while
nobody could answer it. Everything else passes as it is. What the shim stamped itself and the cluster finds out of date
it stamps anew. It must never change what a caller said, never repeat what carries no key, and never let a later "not
applied" stand for an earlier attempt that may have been: what is not settled in time is ``OutcomeUnknown``.

`swoosh shim` is the same before callers that cannot be changed (cluster/shim.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from io import BytesIO
from typing import Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

from swoosh import hlc
from swoosh.client import retry
from swoosh.client.additions import Amended, Call, Place, amend, place_of
from swoosh.client.client import ATTEMPT_SECONDS_MIN
from swoosh.client.retry import Fate, Pauses, Policy
from swoosh.client.transport import (
    Clock,
    Entropy,
    Lost,
    NotSent,
    Reply,
    SystemClock,
    SystemEntropy,
    told_apart,
)
from swoosh.errors import Malformed
from swoosh.hlc import HLC
from swoosh.outcome import Code

WINDOW_SECONDS = 1.0
"""So long a window that was read is taken to be in force; one that ended meanwhile is found out by being refused."""
ASK_SECONDS = 1.0
_HARMLESS = frozenset({"/hmmm/messages"})
"""What may be repeated without a key."""
_OUT_OF_DATE = frozenset({Code.HLC_REGRESSION, Code.HLC_TIE})
_WINDOW_GUARD = "window_open"
_READABLE = (bytes, aiohttp.BytesPayload, aiohttp.BytesIOPayload)
"""Bodies that are there as a whole: what is a stream can be sent once, and nothing is known of it."""


class OutcomeUnknown(aiohttp.ClientError):
    """Time ran out while an attempt may have been applied, or may yet be. The same request again is safe, under
    ``idem_key`` where it is not empty."""

    def __init__(self, idem_key: str, last: str) -> None:
        super().__init__(f"no answer that settles every attempt{f' of {idem_key}' if idem_key else ''}; last: {last}")
        self.idem_key = idem_key


class Answer(Protocol):
    """What the shim looks at of an HTTP answer. Of a success, nothing is read."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    async def read(self) -> bytes: ...


A = TypeVar("A", bound=Answer)
AskWindow = Callable[[], Awaitable[str]]
"""Asks the cluster which window is in force; empty where that is not known."""


class _Heard(NamedTuple, Generic[A]):
    """What one attempt came to: an answer, read into ``reply`` unless it is a success, or an error."""

    fate: Fate
    answer: A | None = None
    reply: Reply | None = None
    error: NotSent | Lost | None = None

    @property
    def code(self) -> str:
        return str(retry.problem(self.reply).get("code", "")) if self.reply is not None else ""

    @property
    def says(self) -> str:
        return str(self.error) if self.reply is None else retry.says(self.reply)


class Shim:
    """Belongs to one event loop.

    Args:
        endpoints: base URLs of the cluster. Requests to other addresses pass as they are.
        policy: how patient it is; ``budget`` is for one call, all attempts together.
        keys_for_whoosh: whether a request on WHOOSH's routes is one intent and gets a key of its own. Without, nodes
            make one from what the request says, so that its caller's own repeat is recognised too.
        endpoints_behind: how many addresses ``send`` takes turns among.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        policy: Policy | None = None,
        keys_for_whoosh: bool = True,
        endpoints_behind: int = 1,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        self._bases = [endpoint.rstrip("/") for endpoint in endpoints]
        self._policy = policy or Policy()
        self._keys_for_whoosh = keys_for_whoosh
        self._endpoints_behind = endpoints_behind
        self._clock = clock or SystemClock()
        self._entropy = entropy or SystemEntropy()
        self._hlc = hlc.ZERO
        self._window, self._window_until = "", 0.0
        self._asking: asyncio.Task[None] | None = None

    # --- as a middleware ----------------------------------------------------------------------------------------------

    async def middleware(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """For ``aiohttp.ClientSession(middlewares=…)``.

        Raises:
            OutcomeUnknown: see there.
            aiohttp.ClientError, TimeoutError: what the last attempt came to.
        """
        base = next((base for base in self._bases if _is_below(str(request.url), base)), None)
        body = request.body
        if request.method != "POST" or base is None or not isinstance(body, _READABLE):
            return await handler(request)
        sent = body if isinstance(body, bytes) else await body.as_bytes()
        headers = request.headers.copy()
        call = Call(request.url.path.removeprefix(urlsplit(base).path), headers, sent)

        async def send(amended: Amended, seconds: float) -> aiohttp.ClientResponse:
            request.headers.clear()
            request.headers.extend(headers)
            if amended.body != sent or isinstance(body, aiohttp.BytesIOPayload):
                await request.update_body(BytesIO(amended.body))
            request.headers.update(amended.headers)
            request.headers.extend(prefer(headers, seconds))
            return await handler(request)

        try:
            return await self.carry(call, send, lambda: window_at(request.session, base, headers))
        except (NotSent, Lost) as error:
            raise error.__cause__ or error from None

    # --- one call -----------------------------------------------------------------------------------------------------

    async def carry(self, call: Call, send: Callable[[Amended, float], Awaitable[A]], ask_window: AskWindow) -> A:
        """Send a POST until it is settled or the budget is spent; the answer that counts.

        ``send`` makes one attempt, which ends after so many seconds.

        Raises:
            OutcomeUnknown: see there.
            NotSent, Lost: what the last attempt came to, where nothing more is to be said.
        """
        place, deadline = place_of(call.path), self._clock.monotonic() + self._policy.budget
        pauses = Pauses(self._policy, self._endpoints_behind, self._entropy)
        key = self._key(place)
        doubt, dropped = False, set[str]()
        while True:
            amended = await self._amended(call, key, dropped, ask_window)
            heard = await self._attempt(send, amended, deadline)
            if heard.fate is Fate.FINAL:
                assert heard.answer is not None
                if heard.reply is None:
                    return heard.answer
                mended = await self._mends(heard.reply, amended, place, dropped, ask_window)
                if not mended and (not doubt or heard.code in retry.SETTLING):
                    return heard.answer
            elif heard.fate is Fate.IN_DOUBT:
                doubt = True
            may_repeat = heard.fate is not Fate.IN_DOUBT or place is not Place.NOWHERE or call.path in _HARMLESS
            if not may_repeat or not await self._wait(pauses.after(heard.reply), deadline):
                return _given_up(heard, doubt, amended)

    async def _amended(self, call: Call, key: str, dropped: set[str], ask_window: AskWindow) -> Amended:
        place = place_of(call.path)
        if place is Place.NOWHERE:
            return Amended({}, call.body, {})
        window = await self._current_window(ask_window)

        def source(member: str) -> str:
            if member in dropped:
                return ""
            if member == "hlc":
                return self._tick()
            return key if member == "idem_key" else window

        return amend(call, source)

    async def _attempt(
        self, send: Callable[[Amended, float], Awaitable[A]], amended: Amended, deadline: float
    ) -> _Heard[A]:
        seconds = min(self._policy.attempt, max(0.01, deadline - self._clock.monotonic()))
        try:
            with told_apart("SWOOSH"):
                async with asyncio.timeout(seconds):
                    answer = await send(amended, seconds)
                    if answer.status < HTTPStatus.BAD_REQUEST:
                        return _Heard(Fate.FINAL, answer)
                    headers = {name.lower(): text for name, text in answer.headers.items()}
                    reply = Reply(answer.status, headers, await answer.read())
        except NotSent as error:
            return _Heard(Fate.NOT_ADMITTED, error=error)
        except Lost as error:
            return _Heard(Fate.IN_DOUBT, error=error)
        self._learn(reply)
        return _Heard(retry.fate(reply), answer, reply)

    async def _mends(
        self, reply: Reply, amended: Amended, place: Place, dropped: set[str], ask_window: AskWindow
    ) -> bool:
        """Whether this refusal is for what the shim stamped itself, and the next stamp is another one. A header may
        also be left out: the node then takes its own."""
        problem = retry.problem(reply)
        code, own = problem.get("code"), amended.own
        if code in _OUT_OF_DATE:
            return "hlc" in own
        if code == Code.HLC_SKEW and "hlc" in own and place is Place.HEADERS:
            dropped.add("hlc")
            return True
        if code == Code.GUARD_REJECTED and problem.get("failing_guard") == _WINDOW_GUARD and "window_id" in own:
            self._window_until = 0.0
            if await self._current_window(ask_window) != own["window_id"]:
                return True
            if place is Place.HEADERS:
                dropped.add("window_id")
                return True
        return False

    async def _wait(self, seconds: float, deadline: float) -> bool:
        """Whether there is time for another attempt after waiting."""
        if self._clock.monotonic() + seconds + ATTEMPT_SECONDS_MIN > deadline:
            return False
        await self._clock.sleep(seconds)
        return True

    # --- stamps -------------------------------------------------------------------------------------------------------

    def _key(self, place: Place) -> str:
        """One for all attempts of a call. A proposal's own is made from what it says, see additions.py."""
        return f"shim:{self._entropy.uuid()}" if self._keys_for_whoosh and place is Place.HEADERS else ""

    def _tick(self) -> str:
        self._hlc = hlc.merge(self._clock.wall_us() // 1000, self._hlc)
        return str(self._hlc)

    def _learn(self, reply: Reply) -> None:
        """Stamps are after every clock value that a refusal told."""
        try:
            self._hlc = max(self._hlc, HLC.parse(str(retry.problem(reply).get("hlc_last", ""))))
        except Malformed:
            return

    async def _current_window(self, ask_window: AskWindow) -> str:
        """The window in force as it was read, empty where that is not known. One asks for all who wait."""
        if self._asking is None and self._clock.monotonic() >= self._window_until:
            self._asking = asyncio.create_task(self._read_window(ask_window))
        if self._asking is not None:
            await asyncio.shield(self._asking)
        return self._window

    async def _read_window(self, ask_window: AskWindow) -> None:
        try:
            self._window = await ask_window()
        finally:
            self._window_until = self._clock.monotonic() + WINDOW_SECONDS
            self._asking = None


def _is_below(url: str, base: str) -> bool:
    """Whether a URL belongs to a base URL: the same server, and a path that begins with that of the base."""
    asked, own = urlsplit(url), urlsplit(base)
    ports = {"http": 80, "https": 443}
    servers = {(each.scheme, each.hostname, each.port or ports.get(each.scheme)) for each in (asked, own)}
    return len(servers) == 1 and f"{asked.path}/".startswith(f"{own.path}/")


def _given_up(heard: _Heard[A], doubt: bool, amended: Amended) -> A:
    """The last answer, if it says no less than is known: a "not applied" settles nothing while an earlier attempt is
    in doubt."""
    if doubt and heard.fate is not Fate.IN_DOUBT:
        raise OutcomeUnknown(amended.own.get("idem_key", ""), heard.says)
    if heard.answer is not None:
        return heard.answer
    assert heard.error is not None
    raise heard.error


def prefer(headers: Mapping[str, str], seconds: float) -> dict[str, str]:
    """The wish that a node answers before nobody listens any more, unless the caller has such a wish: its "unknown"
    says more than our silence (RFC 7240)."""
    if any(name.lower() == "prefer" and "wait" in text.lower() for name, text in headers.items()):
        return {}
    return {"Prefer": f"wait={max(1, int(seconds) - 1)}"}


async def window_at(session: aiohttp.ClientSession, base: str, headers: Mapping[str, str]) -> str:
    """The window in force as a node knows it, asked with the credentials of a request in hand; empty where nobody
    answers in time or none is in force."""
    credentials = {name: text for name, text in headers.items() if name.lower() == "authorization"}
    limits = aiohttp.ClientTimeout(total=ASK_SECONDS)
    url = f"{base.rstrip('/')}/windows?consistency=local"
    try:
        async with session.get(url, headers=credentials, timeout=limits, middlewares=()) as answer:
            return window_in(answer.status, await answer.read())
    except (aiohttp.ClientError, TimeoutError, OSError):
        return ""


def window_in(status: int, body: bytes) -> str:
    """What an answer to ``GET /windows`` says; empty where it says nothing."""
    try:
        found = msgspec.json.decode(body, type=dict[str, object]).get("window_id")
    except msgspec.DecodeError:
        return ""
    return found if status == HTTPStatus.OK and isinstance(found, str) else ""
