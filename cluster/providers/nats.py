"""Lines to a NATS broker.

nats-py opens sockets of its own, so it is held short: it never reconnects by itself, never goes to a server that a
broker recommends, and never says a name or a password over a line that was to be encrypted and is not. (By itself it
believes a broker that says it has no TLS, whatever the URL says.)

Names and passwords stand in one file, in one of the forms that NATS has: ``user:password``, a token, the seed of an
nkey (``SU…``), or a ``.creds`` file with a JWT and its seed. Seeds are read and used here, since the library nats-py
would use for that is one more dependency for two calls.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error, SecureConnWantedError

from cluster.clock import SystemClock, done_by
from cluster.egress import Unreachable, address_of
from cluster.providers.broker import Access, Hear, Line
from cluster.tls import load_key

STEP_SECONDS = 2
"""How long each of the steps of connecting may take: address, greeting, encryption, login, subscriptions."""
CLOSE_SECONDS = 1.0
PING_SECONDS = 5
"""A broker that has not answered two pings is gone."""
_SEED_BYTES = 36  # two of prefix, the seed, two of checksum
_USER_PREFIX = 20 << 3
_BLOCK = re.compile(r"-----BEGIN [A-Z ]+-----\s*(\S+)\s*-+END")


class Nats:
    """A broker, or several that are one cluster."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def connect(self, url: str, subjects: Sequence[str], hear: Hear) -> Line:
        """As `Broker.connect`. ``tls://`` insists on TLS; with ``nats://`` it is as the broker says."""
        try:
            line = _NatsLine(url, self._access)
        except (OSError, ValueError) as error:
            raise Unreachable(f"backbeat at {address_of(url)}: {error}"[:300]) from None
        opening = asyncio.ensure_future(line.open(subjects, hear))
        try:
            await asyncio.wait([opening])
            await opening
        except (Error, OSError, ValueError, TimeoutError) as error:
            reason = line.named(error)
            await line.close()
            raise Unreachable(reason) from None
        except asyncio.CancelledError:
            await _end(opening)
            await line.close()
            raise
        return line


class _NatsLine:
    def __init__(self, url: str, access: Access) -> None:
        self._url = url
        self._context = _context(access) if urlsplit(url).scheme == "tls" else None
        self._client = _Client(encrypted=self._context is not None)
        self._credentials = self._client.credentials(access.login)
        self._fault: Exception | None = None

    @property
    def lost(self) -> str | None:
        if not self._client.is_closed:
            return None
        return self.named(Error("the line is lost"))

    def named(self, error: Exception) -> str:
        """What went wrong: the first cause that nats-py told of, where it told of one."""
        cause = self._fault or error
        return f"backbeat at {address_of(self._url)}: {type(cause).__name__} {cause}"[:300]

    async def open(self, subjects: Sequence[str], hear: Hear) -> None:
        async def deliver(message: Msg) -> None:
            hear(message.data)

        await self._client.connect(
            self._url,
            error_cb=self._note,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=STEP_SECONDS,
            ping_interval=PING_SECONDS,
            tls=self._context,
            **self._credentials,
        )
        for subject in subjects:
            await self._client.subscribe(subject, cb=deliver)
        await self._client.flush(STEP_SECONDS)

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str]) -> None:
        try:
            await self._client.publish(subject, data, headers=dict(headers))
        except (Error, OSError) as error:
            raise Unreachable(self.named(error)) from None

    async def close(self) -> None:
        """nats-py waits for ever for the end of a line whose encryption failed, so it is not waited for long."""
        clock, closing = SystemClock(), asyncio.ensure_future(self._client.close())
        await done_by(clock, clock.monotonic() + CLOSE_SECONDS, closing)
        await _end(closing)

    async def _note(self, error: Exception) -> None:
        self._fault = self._fault or error


class _Client(Client):
    def __init__(self, *, encrypted: bool) -> None:
        super().__init__()
        self._encrypted = encrypted

    def _connect_command(self) -> bytes:
        if self._encrypted and not self._server_info.get("tls_required"):
            raise SecureConnWantedError
        return super()._connect_command()

    def credentials(self, login: str) -> dict[str, Any]:
        """Arguments of `connect` that stand for what the file of names and passwords holds.

        Raises:
            ValueError: a seed that is none.
        """
        login = login.strip()
        blocks = _BLOCK.findall(login)
        if len(blocks) == 2:
            jwt, seed = blocks
            return {"user_jwt_cb": lambda: bytearray(jwt.encode()), "signature_cb": _signature_of(_key_of(seed))}
        if login.startswith("SU") and ":" not in login:
            key = _key_of(login)
            self._public_nkey = _public_nkey(key)
            return {"signature_cb": _signature_of(key)}
        user, colon, password = login.partition(":")
        if colon:
            return {"user": user, "password": password}
        return {"token": login} if login else {}


async def _end(task: asyncio.Future[None]) -> None:
    """Cancel until it is done: `asyncio.wait_for` of Python 3.11, which nats-py awaits, may swallow a cancellation."""
    while not task.done():
        task.cancel()
        await SystemClock().sleep(0)
    if not task.cancelled():
        task.exception()  # seen, so that nobody is told that it was not


def _key_of(seed: str) -> Ed25519PrivateKey:
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except binascii.Error:
        raise ValueError("the nkey seed is not base32") from None
    if len(raw) != _SEED_BYTES or binascii.crc_hqx(raw[:-2], 0).to_bytes(2, "little") != raw[-2:]:
        raise ValueError("the nkey seed is damaged")
    return Ed25519PrivateKey.from_private_bytes(raw[2:-2])


def _public_nkey(key: Ed25519PrivateKey) -> str:
    raw = bytes([_USER_PREFIX]) + key.public_key().public_bytes_raw()
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).rstrip(b"=").decode()


def _signature_of(key: Ed25519PrivateKey) -> Any:
    return lambda nonce: base64.b64encode(key.sign(nonce.encode()))


def _context(access: Access) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=access.authorities)
    if access.certificate is not None:
        load_key(context, access.certificate, access.certificate_key.encode())
    return context
