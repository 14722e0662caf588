"""What the SDK needs of the world: a clock, chance, and HTTP.

Each is a small protocol with the real thing beside it, so that a simulation can put its own in place and replay a run.
A transport must tell a request that certainly never left (``NotSent``) from one whose answer is missing (``Lost``):
everything a client may conclude hangs on that.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import NamedTuple, Protocol

import aiohttp

CONNECT_SECONDS = 2.0


class Clock(Protocol):
    """Time as the SDK needs it."""

    def monotonic(self) -> float: ...

    def wall_us(self) -> int: ...

    async def sleep(self, seconds: float) -> None: ...


class Entropy(Protocol):
    """Chance as the SDK needs it: ``random`` in [0, 1) spreads waits, ``uuid`` makes keys unique."""

    def random(self) -> float: ...

    def uuid(self) -> str: ...


class Reply(NamedTuple):
    """An HTTP answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NotSent(Exception):
    """No byte of the request reached a server."""


class Lost(Exception):
    """The request may have reached a server; its answer did not reach us."""


class Transport(Protocol):
    """HTTP as the SDK needs it."""

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Reply:
        """One exchange within ``timeout`` seconds. Raises NotSent or Lost."""
        ...

    def lines(self, url: str, *, headers: Mapping[str, str], idle: float) -> AsyncIterator[bytes]:
        """The lines of an endless answer, without their ends. Raises NotSent or Lost, the latter also after ``idle``
        seconds of silence."""
        ...

    async def close(self) -> None: ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_us(self) -> int:
        return time.time_ns() // 1000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SystemEntropy:
    """The interpreter's generator, and random UUIDs (RFC 9562, version 4)."""

    def random(self) -> float:
        return random.random()

    def uuid(self) -> str:
        return str(uuid.uuid4())


@contextmanager
def told_apart(url: str) -> Iterator[None]:
    """Raises NotSent or Lost for what aiohttp raises, which stays the cause."""
    try:
        yield
    except aiohttp.ClientConnectorError as error:
        raise NotSent(f"{url}: cannot connect") from error
    except aiohttp.ConnectionTimeoutError as error:
        raise NotSent(f"{url}: no connection within {CONNECT_SECONDS:g} s") from error
    except aiohttp.InvalidURL as error:
        raise NotSent(f"{error} is not a URL") from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Lost(f"{url}: {error or type(error).__name__}") from error


def heard(answer: aiohttp.ClientResponse, body: bytes) -> Reply:
    """An answer that was read."""
    return Reply(answer.status, {name.lower(): value for name, value in answer.headers.items()}, body)


class HttpTransport:
    """The real transport: one pooled aiohttp session, opened with the first request."""

    def __init__(self, *, bearer: str | None = None) -> None:
        self._bearer = bearer
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Reply:
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, CONNECT_SECONDS))
        with told_apart(url):
            async with self._open().request(method, url, headers=headers, data=body, timeout=limits) as answer:
                return heard(answer, await answer.read())

    async def lines(self, url: str, *, headers: Mapping[str, str], idle: float) -> AsyncIterator[bytes]:
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=idle)
        with told_apart(url):
            async with self._open().get(url, headers=headers, timeout=limits) as answer:
                if answer.status != 200:
                    raise Lost(f"{url}: HTTP {answer.status}")
                async for line in answer.content:
                    yield line.rstrip(b"\r\n")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Authorization": f"Bearer {self._bearer}"} if self._bearer else None
            self._session = aiohttp.ClientSession(headers=headers, cookie_jar=aiohttp.DummyCookieJar())
        return self._session


class Upstream:
    """One pooled session for somebody who hands requests on. Nothing is added, decoded, followed or kept."""

    _NOT_ADDED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")

    def __init__(self) -> None:
        """Needs a running loop."""
        self.session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, skip_auto_headers=self._NOT_ADDED
        )

    async def open(
        self, method: str, url: str, headers: Iterable[tuple[str, str]], body: bytes, *, idle: float
    ) -> aiohttp.ClientResponse:
        """An answer whose body has yet to be read, which may then be silent for ``idle`` seconds; close it.

        Raises:
            NotSent, Lost: there is none.
        """
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=idle)
        data = BytesIO(body) if body else None
        with told_apart(url):
            return await self.session.request(
                method, url, headers=list(headers), data=data, timeout=limits, allow_redirects=False
            )

    async def close(self) -> None:
        """Release the connections."""
        await self.session.close()
