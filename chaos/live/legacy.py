"""Callers that know nothing of SWOOSH: an HTTP client with keep-alive and patience for 15 s, as v1.0.0 had them.

They do not sign, they know one address, and they understand two things: a status, and `Retry-After`. Whoever is told
503 asks again in the very same words. What they ask for is a `Kind`, so that one crowd drives any route that creates
something: a kind makes the words of one wish, and says by which transition of which project it is on record.

What they were told is kept, not judged while they run: `troubles` and `applied` do that afterwards.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, NamedTuple

import aiohttp

from swoosh.proposal import inputs_hash

PATIENCE_SECONDS = 15.0
PAUSE_SECONDS = 0.3
READERS = 8
JSON = "application/json"


class Ask(NamedTuple):
    """One wish, in words that do not change, and where it is on record once it was granted."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    project: str
    transition: str


Kind = Callable[[str, int], Ask]
"""The words of a caller's n-th wish."""


def proposal(caller: str, number: int) -> Ask:
    """``POST /transition`` as in v1.0.0: unsigned, under the caller's own name, with a key and a stamp of its own."""
    project = f"{caller}-{number}"
    inputs = {"brief": f"wish {number} of {caller}"}
    document = {
        "current_state_hash": "genesis",
        "transition": "PROJECT_CREATED",
        "inputs_hash": inputs_hash(inputs),
        "signer": caller,
        "idem_key": f"create:{project}",
        "hlc": f"{time.time_ns() // 1_000_000}-0-{number:016x}",
        "window_id": "window-1",
        "evidence": [],
        "project": project,
        "inputs": inputs,
    }
    return Ask("/transition", json.dumps(document).encode(), {"Content-Type": JSON}, project, "PROJECT_CREATED")


def project(caller: str, number: int) -> Ask:
    """``POST /api/v1/projects`` as a caller of WHOOSH asks: no key, no stamp, floats in its JSON."""
    name = f"{caller}-{number}"
    wish = {"id": name, "description": f"wish {number} of {caller}", "core_roles": ["lead"], "priority": 0.5}
    return Ask("/api/v1/projects", json.dumps(wish).encode(), {"Content-Type": JSON}, name, "PROJECT_CREATED")


class Try(NamedTuple):
    """What came back once; times are monotonic seconds. ``trouble`` says what no caller should ever meet."""

    began: float
    ended: float
    status: int
    code: str = ""
    duplicate: bool = False
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A wish and every try at it; the last one granted it, unless the crowd was sent home before."""

    ask: Ask
    tries: list[Try] = field(default_factory=list)

    @property
    def granted(self) -> bool:
        """Whether it ended in success."""
        return bool(self.tries) and self.tries[-1].status in (HTTPStatus.OK, HTTPStatus.CREATED)

    @property
    def seconds(self) -> float:
        """From the first word to the last answer."""
        return self.tries[-1].ended - self.tries[0].began


class Crowd:
    """So many callers at one address, each with a connection of its own and one wish after another."""

    def __init__(self, url: str, kind: Kind, callers: int, name: str = "caller") -> None:
        self.calls: list[Call] = []
        self._url, self._kind = url, kind
        self._names = [f"{name}-{number}" for number in range(callers)]

    @property
    def size(self) -> int:
        """How many callers there are."""
        return len(self._names)

    async def run(self, until: asyncio.Event) -> None:
        """Wish until told to stop, and then bring every wish to its end."""
        async with asyncio.TaskGroup() as group:
            for name in self._names:
                group.create_task(self._live(name, until))

    async def _live(self, name: str, until: asyncio.Event) -> None:
        patience = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        async with aiohttp.ClientSession(timeout=patience) as session:
            number = 0
            while not until.is_set():
                number += 1
                call = Call(self._kind(name, number))
                self.calls.append(call)
                await self._insist(session, call)
                await asyncio.sleep(PAUSE_SECONDS)

    async def _insist(self, session: aiohttp.ClientSession, call: Call) -> None:
        """Ask until there is an answer other than an honest "not now"."""
        while True:
            answer, retry_after = await self._ask(session, call.ask)
            call.tries.append(answer)
            if retry_after is None:
                return
            await asyncio.sleep(retry_after)

    async def _ask(self, session: aiohttp.ClientSession, ask: Ask) -> tuple[Try, float | None]:
        """One try, and in how many seconds to ask again; None where there is nothing more to ask."""
        began = time.monotonic()
        try:
            async with session.post(self._url + ask.path, data=ask.body, headers=ask.headers) as reply:
                text = await reply.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            return Try(began, time.monotonic(), 0, trouble=f"{type(error).__name__}: {error}"), None
        ended, about = time.monotonic(), _object(text)
        code, duplicate = str(about.get("code", "")), about.get("duplicate") is True
        if reply.status in (HTTPStatus.OK, HTTPStatus.CREATED):
            return Try(began, ended, reply.status, code, duplicate), None
        retry_after = reply.headers.get("Retry-After", "")
        honest = isinstance(about.get("admitted"), bool) and code != "" and retry_after.isdecimal()
        if reply.status == HTTPStatus.SERVICE_UNAVAILABLE and honest:
            return Try(began, ended, reply.status, code), float(retry_after)
        return Try(began, ended, reply.status, code, trouble=f"{reply.status} {text[:300]}"), None


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


# --- afterwards -------------------------------------------------------------------------------------------------------


def troubles(calls: Iterable[Call]) -> list[str]:
    """Whatever was neither success nor an honest 503."""
    return [f"{call.ask.project}: {each.trouble}" for call in calls for each in call.tries if each.trouble]


def codes(calls: Iterable[Call]) -> Counter[str]:
    """How often each code came with a 503."""
    return Counter(each.code for call in calls for each in call.tries if each.status == HTTPStatus.SERVICE_UNAVAILABLE)


async def applied(node: str, calls: Sequence[Call]) -> dict[str, int]:
    """How often each wish is on record, by its project, according to one node (its base URL), which has them all."""
    found: dict[str, int] = {}
    waiting = iter(calls)

    async def read(session: aiohttp.ClientSession) -> None:
        for call in waiting:
            query = {"project": call.ask.project, "limit": "1000", "consistency": "local"}
            async with session.get(f"{node}/wal", params=query, raise_for_status=True) as reply:
                records = (await reply.json())["records"]
            names = [record["transition_name"] for record in records]
            found[call.ask.project] = names.count(call.ask.transition)

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for _ in range(READERS):
            group.create_task(read(session))
    return found
