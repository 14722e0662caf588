"""``swoosh-kaching-sim``: a license authority to try a cluster with.

It answers as the adapter's defaults expect (cluster/providers/kaching_wire.py): one license, one client secret, tokens
in JWS compact form signed with its own Ed25519 key. What it says and how it behaves, or misbehaves, is one document
that `PATCH /control` changes while it runs. Its answers are real ones: nothing in a node knows that it is a stand-in.

It must never guard a real license: whoever reaches its port may change what it says.
"""

from __future__ import annotations

import socket
from base64 import urlsafe_b64encode
from hmac import compare_digest
from pathlib import Path
from typing import Any, Literal

import click
import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cluster.cli.keys import write_private
from cluster.clock import Clock, SystemClock
from cluster.egress import Reply
from cluster.entropy import SystemEntropy
from cluster.nodekey import NodeKey
from swoosh import signing
from swoosh.client import Key
from swoosh.principal import CANONICAL

SILENCE_SECONDS = 60.0
FAREWELL_SECONDS = 0.2
SEALED = "kaching.secret.age"
"""What a node's sealed copy of the client secret is called."""


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What it says and how. Times in milliseconds.

    Attributes:
        status: of the license, in the next token.
        life_ms: how long a token lives.
        grace_ms: grace that the token grants after its end; None leaves that to the cluster's settings.
        latency_ms: before any answer.
        retry_after_s: answer 429 and ask to be left alone so long; 0 does not.
        outage: `error` answers 500, `reset` drops the connection, `silence` answers nothing.
        clock_ms: how far its clock is off.
        forged: sign with another key than its own.
    """

    status: Literal["active", "grace", "suspended", "expired", "denied"] = "active"
    life_ms: int = 3_600_000
    grace_ms: int | None = None
    latency_ms: int = 0
    retry_after_s: int = 0
    outage: Literal["none", "error", "reset", "silence"] = "none"
    clock_ms: int = 0
    forged: bool = False


class Authority:
    """One license and the key that vouches for it. Knows nothing of connections."""

    def __init__(self, key: NodeKey, license_id: str, secret: str, clock: Clock) -> None:
        self.behaviour = Behaviour()
        self.asked = 0
        """How many questions arrived."""
        self._key, self._license_id, self._secret, self._clock = key, license_id, secret, clock
        self._other = Ed25519PrivateKey.from_private_bytes(bytes(32))

    @property
    def public_key(self) -> str:
        """64 hex digits."""
        return self._key.principal.removeprefix(CANONICAL)

    def change(self, members: dict[str, Any]) -> None:
        """Behave otherwise from now on.

        Raises:
            msgspec.ValidationError: there is no such behaviour.
        """
        self.behaviour = msgspec.convert({**msgspec.structs.asdict(self.behaviour), **members}, Behaviour)

    def answer(self, license_id: str, authorization: str, body: bytes) -> Reply:
        """A token, or why there is none. A license that is not on the books is denied under signature."""
        says = self.behaviour
        if says.outage == "error":
            return _reply(500, error="an outage, as ordered")
        if says.retry_after_s:
            refused = _reply(429, error="too many questions")
            return refused._replace(headers={"retry-after": str(says.retry_after_s)})
        if not compare_digest(authorization.encode(), f"Bearer {self._secret}".encode()):
            return _reply(401, error="the client secret is wrong")
        try:
            question = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            return _reply(400, error=str(error))
        status = says.status if license_id == self._license_id else "denied"
        return _reply(200, token=self._token(license_id, status, question))

    def _token(self, license_id: str, status: str, question: dict[str, Any]) -> str:
        says = self.behaviour
        now_ms = self._clock.wall_us() // 1000 + says.clock_ms
        claims: dict[str, Any] = {
            "license_id": license_id,
            "sub": question.get("cluster_id"),
            "nonce": question.get("nonce"),
            "iat": now_ms / 1000,
            "exp": (now_ms + says.life_ms) / 1000,
            "status": status,
            "features": [],
        }
        if says.grace_ms is not None:
            claims["grace_until"] = (now_ms + says.life_ms + says.grace_ms) / 1000
        signed = f"{_part({'alg': 'EdDSA', 'typ': 'JWT'})}.{_part(claims)}"
        return f"{signed}.{signing.sign(self._other if says.forged else self._key.private, signed.encode())}"


def application(authority: Authority, clock: Clock) -> web.Application:
    """The routes."""

    async def post_token(request: web.Request) -> web.StreamResponse:
        authority.asked += 1
        await clock.sleep(authority.behaviour.latency_ms / 1000)
        if authority.behaviour.outage == "silence":
            await clock.sleep(SILENCE_SECONDS)
        if authority.behaviour.outage in ("reset", "silence") and request.transport is not None:
            request.transport.abort()
        authorization = request.headers.get("Authorization", "")
        said = authority.answer(request.match_info["license_id"], authorization, await request.read())
        return web.Response(status=said.status, headers=said.headers, body=said.body)

    async def get_control(request: web.Request) -> web.StreamResponse:
        return web.json_response({**msgspec.structs.asdict(authority.behaviour), "asked": authority.asked})

    async def patch_control(request: web.Request) -> web.StreamResponse:
        try:
            authority.change(msgspec.json.decode(await request.read(), type=dict[str, Any]))
        except msgspec.DecodeError as error:
            return web.json_response({"error": str(error)}, status=400)
        return await get_control(request)

    app = web.Application()
    app.router.add_post("/v1/licenses/{license_id}/token", post_token)
    app.router.add_get("/control", get_control)
    app.router.add_patch("/control", patch_control)
    return app


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65_535), default=9440, show_default=True, help="0 takes a free one.")
@click.option("--license", "license_id", default="development", show_default=True, help="The license on its books.")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(host: str, port: int, license_id: str, directory: Path) -> None:
    """Run a license authority whose key and client secret lie in DIRECTORY; what is missing there is made.

    Prints the [kaching] section with which a node finds it: add it to the node's swoosh.toml, and seal the client
    secret for the node: swoosh keys seal DIRECTORY/kaching.secret --into NODE'S-DIRECTORY.
    """
    clock = SystemClock()
    authority = Authority(_key(directory / "kaching.pem"), license_id, _secret(directory / "kaching.secret"), clock)
    listening = socket.create_server((host, port))
    url = f"http://{host}:{listening.getsockname()[1]}"
    named = {"url": url, "license_id": license_id, "secret": SEALED, "public_key": authority.public_key}
    click.echo("\n".join(["[kaching]", *(f'{name} = "{value}"' for name, value in named.items())]))
    app = application(authority, clock)
    web.run_app(app, sock=listening, print=None, access_log=None, shutdown_timeout=FAREWELL_SECONDS)


def _key(path: Path) -> NodeKey:
    if not path.exists():
        write_private(path, Key.generate().pem())
    return NodeKey.of(load_pem_private_key(path.read_bytes(), password=None))


def _secret(path: Path) -> str:
    if not path.exists():
        write_private(path, SystemEntropy().token(32).hex().encode())
    return path.read_text("ascii").strip()


def _reply(status: int, **members: str) -> Reply:
    return Reply(status, {}, msgspec.json.encode(members))


def _part(claims: dict[str, Any]) -> str:
    return urlsafe_b64encode(msgspec.json.encode(claims)).rstrip(b"=").decode()
