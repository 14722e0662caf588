"""The real transport against real sockets: what certainly never left, and what may have arrived."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from swoosh.client.transport import HttpTransport, Lost, NotSent

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    made = HttpTransport()
    yield made
    await made.close()


async def served(talk: Talk) -> tuple[asyncio.Server, str]:
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def test_a_closed_port_means_not_sent(transport: HttpTransport) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(NotSent, match="cannot connect"):
            await transport.request("POST", url, headers={}, body=b"{}", timeout=5)


async def test_a_connection_that_ends_after_the_request_means_lost(transport: HttpTransport) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server, url = await served(hang_up)
    async with server:
        with pytest.raises(Lost):
            await transport.request("POST", url, headers={}, body=b"{}", timeout=5)


async def test_silence_means_lost(transport: HttpTransport) -> None:
    gone = asyncio.Event()

    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        gone.set()

    server, url = await served(stay_silent)
    async with server:
        with pytest.raises(Lost):
            await transport.request("POST", url, headers={}, body=b"{}", timeout=0.1)
        await transport.close()
        await gone.wait()


async def test_an_answer_arrives_whole(transport: HttpTransport) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 503 No\r\nRetry-After: 2\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy")
        await writer.drain()
        writer.close()

    server, url = await served(answer)
    async with server:
        reply = await transport.request("POST", url, headers={}, body=b"{}", timeout=5)
    assert (reply.status, reply.headers["retry-after"], reply.body) == (503, "2", b"busy")


async def test_a_stream_gives_lines_until_it_is_cut(transport: HttpTransport) -> None:
    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nid: 1\r\n\n\r\n")
        await writer.drain()
        writer.close()

    server, url = await served(stream)
    seen = []
    async with server:
        with pytest.raises(Lost):
            async for line in transport.lines(url, headers={}, idle=5):
                seen.append(line)
    assert seen == [b"id: 1", b""]
