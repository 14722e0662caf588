"""BACKBEAT over a real nats-server: beats in, claims out, through restarts, encrypted, and with every way to log in."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chaos import steer
from chaos.live.nats import MISSING, NatsServer, is_installed
from chaos.solo import TERM, Solo, the_chart
from cluster.answers import Answer
from cluster.clock import SystemClock
from cluster.egress import Unreachable
from cluster.entropy import SystemEntropy
from cluster.nodekey import NodeKey
from cluster.providers.backbeat import Backbeat, Settings
from cluster.providers.broker import Access
from cluster.providers.leading import Leading
from cluster.providers.nats import Nats
from cluster.standins.backbeat import Score, play
from swoosh.entry import Item
from tests.cluster.band import BEATS, SETTINGS, Gate

pytestmark = [pytest.mark.system, pytest.mark.skipif(not is_installed(), reason=MISSING)]
ANYBODY = Access()
QUICK = Score(tempo_bpm=300.0, bar=2)


class Found:
    """Servers of a test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.servers: list[NatsServer] = []

    def start(self, settings: str = "") -> NatsServer:
        self.servers.append(NatsServer(self.directory, settings))
        self.servers[-1].start()
        return self.servers[-1]


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Found]:
    made = Found(tmp_path)
    yield made
    for server in made.servers:
        server.stop(signal.SIGKILL)


class AnyGate(Gate):
    """Open, whatever the port."""

    def permit(self, system: str, url: str, project: str | None = None) -> None:
        self.asked += 1


class Member:
    """A machine alone with the provider on it, in real time."""

    def __init__(self, url: str, access: Access) -> None:
        self.clock = SystemClock()
        now_ms = self.clock.wall_us() // 1000
        self.solo = Solo(the_chart(), settings={"window_source": "backbeat"}, start_ms=now_ms)
        self.solo.fact(*steer.license_fact(self.solo, lasts_ms=10**9))
        settings: Settings = SETTINGS._replace(urls=(url,))
        self.provider = Backbeat(settings, Nats(access), AnyGate(), SystemEntropy())
        key = NodeKey.of(self.solo.keys["probe"])
        self.leading = Leading(TERM, self.solo.machine, self.clock, key, self._submit)

    async def _submit(self, items: Sequence[Item], deadline: float) -> list[Answer]:
        self.solo.now_ms = self.clock.wall_us() // 1000
        return list(self.solo.apply(*items).outcomes)

    def count(self, what: str) -> int:
        return self.provider.counts[what]

    def report(self) -> dict[str, Any]:
        held = self.solo.machine.registry.fact("bar_report", "backbeat")
        return {} if held is None else held.body


@asynccontextmanager
async def playing(url: str, access: Access = ANYBODY) -> AsyncIterator[Member]:
    """A provider and a Pulse at the same broker."""
    member = Member(url, access)
    jobs = [
        asyncio.ensure_future(member.provider.run(member.leading)),
        asyncio.ensure_future(play(Nats(access), url, QUICK, member.clock)),
    ]
    try:
        yield member
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.wait(jobs)


async def until(condition: Callable[[], bool], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what()
        await asyncio.sleep(0.02)


async def test_beats_come_in_and_claims_go_out_through_restarts_of_the_broker(found: Found) -> None:
    server = found.start()
    async with playing(f"nats://{server.address}") as member:
        for how in (signal.SIGTERM, signal.SIGKILL):
            seen = member.count("beat")
            await until(lambda seen=seen: member.count("beat") >= seen + 6, lambda: member.provider.trouble)  # type: ignore[misc]
            await until(lambda: member.report().get("agents_reporting") == 1, member.report)
            assert member.provider.trouble is None
            server.stop(how)
            await until(lambda: "no fresh" not in (member.provider.trouble or "no fresh"), lambda: "still well")
            server.start()
        seen = member.count("beat")
        await until(lambda: member.count("beat") >= seen + 6, lambda: member.provider.trouble)
        assert member.count("claimed") > 0 and member.count("malformed") == 0


# --- who may log in ---------------------------------------------------------------------------------------------------


def checksummed(raw: bytes) -> str:
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).rstrip(b"=").decode()


class Nkey:
    """A key pair in the spelling of NATS: ``O`` operator, ``A`` account, ``U`` user."""

    def __init__(self, kind: str) -> None:
        self.key = Ed25519PrivateKey.generate()
        prefix = {"O": 14 << 3, "A": 0, "U": 20 << 3}[kind]
        self.public = checksummed(bytes([prefix]) + self.key.public_key().public_bytes_raw())
        first = (18 << 3) | (prefix >> 5)
        self.seed = checksummed(bytes([first, (prefix & 31) << 3]) + self.key.private_bytes_raw())

    def token(self, subject: Nkey, kind: str) -> str:
        """A JWT that this key signs about another."""
        claims = {"jti": "x", "iat": int(time.time()), "iss": self.public, "name": kind, "sub": subject.public}
        limits = {"subs": -1, "data": -1, "payload": -1}
        more = {"limits": {**limits, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "wildcards": True}}
        bounds: dict[str, dict[str, Any]] = {"operator": {}, "account": more, "user": limits}
        details = bounds[kind] | {"type": kind, "version": 2}
        parts = [{"typ": "JWT", "alg": "ed25519-nkey"}, {**claims, "nats": details}]
        text = ".".join(_base64(json.dumps(part).encode()) for part in parts)
        return f"{text}.{_base64(self.key.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


async def test_encrypted_both_ways_certified_with_a_password(found: Found) -> None:
    papers = found.directory
    authority = trustme.CA()
    authority.cert_pem.write_to_path(papers / "ca.pem")
    for name in ("server", "client"):
        issued = authority.issue_cert("127.0.0.1" if name == "server" else "swoosh.example")
        issued.private_key_pem.write_to_path(papers / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(papers / f"{name}.pem")
    server = found.start(f"""
        tls {{ cert_file: "{papers}/server.pem", key_file: "{papers}/server.key"
              ca_file: "{papers}/ca.pem", verify: true }}
        authorization {{ user: swoosh, password: "a:secret" }}
    """)
    url = f"tls://{server.address}"
    right = Access("swoosh:a:secret\n", papers / "ca.pem", papers / "client.pem", (papers / "client.key").read_text())
    async with playing(url, right) as member:
        await until(lambda: member.count("claimed") >= 2, lambda: member.provider.trouble)
    wrong = {
        "uthorization": right._replace(login="swoosh:guessed"),
        "CERTIFICATE_VERIFY_FAILED": right._replace(authorities=None),
        "127.0.0.1": right._replace(certificate=None, certificate_key=""),
    }
    for reason, access in wrong.items():
        with pytest.raises(Unreachable, match=reason):
            await Nats(access).connect(url, (BEATS,), lambda data: None)


async def test_logged_in_by_nkey_and_by_nothing_else(found: Found) -> None:
    ours, other = Nkey("U"), Nkey("U")
    server = found.start(f"authorization {{ users: [ {{ nkey: {ours.public} }} ] }}")
    url = f"nats://{server.address}"
    async with playing(url, Access(ours.seed)) as member:
        await until(lambda: member.count("claimed") >= 2, lambda: member.provider.trouble)
    for login in ("", other.seed, "swoosh:guessed"):
        with pytest.raises(Unreachable, match="uthorization"):
            await Nats(Access(login)).connect(url, (BEATS,), lambda data: None)
    damaged = ours.seed[:-3] + ("AAA" if not ours.seed.endswith("AAA") else "BBB")
    with pytest.raises(Unreachable, match="damaged"):
        await Nats(Access(damaged)).connect(url, (BEATS,), lambda data: None)


async def test_logged_in_by_a_credentials_file(found: Found) -> None:
    operator, account, user = Nkey("O"), Nkey("A"), Nkey("U")
    server = found.start(f"""
        operator: {operator.token(operator, "operator")}
        resolver: MEMORY
        resolver_preload: {{ {account.public}: {operator.token(account, "account")} }}
    """)
    credentials = (
        f"-----BEGIN NATS USER JWT-----\n{account.token(user, 'user')}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
    async with playing(f"nats://{server.address}", Access(credentials)) as member:
        await until(lambda: member.count("claimed") >= 2, lambda: member.provider.trouble)


async def test_a_broker_that_denies_encryption_is_told_no_password() -> None:
    told = bytearray()

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.9.0","max_payload":1048576,"auth_required":true}\r\n')
        told.extend(await reader.read())
        writer.close()

    server = await asyncio.start_server(pretend, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Unreachable, match="secure connection"):
        await Nats(Access("swoosh:secret")).connect(f"tls://127.0.0.1:{port}", (BEATS,), lambda data: None)
    server.close()
    await server.wait_closed()
    assert not told


async def test_who_gives_up_connecting_leaves_no_connection_behind() -> None:
    """Leadership may go at any moment, also while a broker is taking its time."""
    ended = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await reader.read()
        ended.set()
        writer.close()

    arrived = asyncio.Event()
    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connecting = asyncio.ensure_future(Nats(ANYBODY).connect(f"nats://127.0.0.1:{port}", (BEATS,), lambda data: None))
    await arrived.wait()
    connecting.cancel()
    await asyncio.wait([connecting])
    assert connecting.cancelled()
    await until(ended.is_set, lambda: "the connection still stands")
    server.close()
    await server.wait_closed()


async def test_the_stand_in_is_a_program(found: Found) -> None:
    server = found.start()
    member = Member(f"nats://{server.address}", ANYBODY)
    running = asyncio.ensure_future(member.provider.run(member.leading))
    await until(lambda: "no fresh beat" in (member.provider.trouble or ""), lambda: member.provider.trouble)
    command = [sys.executable, "-m", "cluster.standins.backbeat", "--url", f"nats://{server.address}"]
    done = await asyncio.create_subprocess_exec(*command, "--tempo", "600", "--bar", "2", "--beats", "5")
    assert await done.wait() == 0
    heard = ("beat", "late", "collapsed")
    await until(lambda: sum(map(member.count, heard)) == 15, lambda: member.provider.counts)
    assert member.report()["to_beat"] == 3
    running.cancel()
    await asyncio.wait([running])
