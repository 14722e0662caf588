"""``swoosh worker receive``: the effect receiver as a program, a directory for each asset that is provisioned.

ROOT/ledger.jsonl           every request, in order
ROOT/assets/PROJECT/ASSET/  what stands
"""

from __future__ import annotations

import hmac
import re
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

from aiohttp import web

from cluster.signals import told_to_stop
from cluster.storage.kv import sync_directory
from cluster.worker.ledger import FileLedger
from cluster.worker.receiver import Answer, Receiver
from swoosh.hashing import digest

BODY_BYTES_MAX = 64 * 1024
FREE_BYTES_MIN = 64 << 20
"""Amber where less is left on the disk."""
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Directories:
    """Assets as directories below a root, durable when a call returns."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def build(self, project: str, asset: str) -> None:
        path = self.path(project, asset)
        path.mkdir(parents=True, exist_ok=True)
        for parent in (path.parent, self._root):
            sync_directory(parent)

    def clear(self, project: str, asset: str) -> None:
        path = self.path(project, asset)
        if path.exists():
            shutil.rmtree(path)
            sync_directory(path.parent)

    def fault(self, project: str, asset: str) -> tuple[Literal["amber", "red"], str] | None:
        path = self.path(project, asset)
        if not path.is_dir():
            return "red", f"the directory of {asset} is gone"
        if shutil.disk_usage(path).free < FREE_BYTES_MIN:
            return "amber", f"the disk of {asset} is nearly full"
        return None

    def path(self, project: str, asset: str) -> Path:
        """Where an asset lies. A name that is not plain, such as ``..`` or ``a/b``, becomes its hash."""
        return self._root / _plain(project) / _plain(asset)


def _plain(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else digest("name", name).replace("sha256-", "@")


def receiver_app(receiver: Receiver, token: str = "") -> web.Application:
    """The protocol over HTTP. With a token, every request must bear it."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return web.json_response({"error": "a bearer token is needed"}, status=401)
        return await handler(request)

    async def post_effect(request: web.Request) -> web.Response:
        return _reply(receiver.effect(await request.read()))

    async def get_capacity(_: web.Request) -> web.Response:
        return _reply(receiver.capacity())

    async def get_health(request: web.Request) -> web.Response:
        return _reply(receiver.health(request.match_info["project"]))

    app = web.Application(middlewares=[guarded], client_max_size=BODY_BYTES_MAX)
    app.router.add_post("/effects", post_effect)
    app.router.add_get("/capacity", get_capacity)
    app.router.add_get("/health/{project}", get_health)
    return app


async def serve(root: Path, host: str, port: int, *, units: int, token: str, say: Callable[[str], None]) -> None:
    """Receive until SIGTERM or SIGINT.

    Raises:
        OSError: the root or the port cannot be used.
        ValueError: the ledger is damaged.
    """
    assets = root / "assets"
    assets.mkdir(parents=True, exist_ok=True)
    ledger = FileLedger.open(root / "ledger.jsonl")
    runner = web.AppRunner(receiver_app(Receiver(ledger, Directories(assets), units), token), access_log=None)
    try:
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        say(f"receiving on {host}:{port}, {units} units below {root}")
        await told_to_stop()
    finally:
        await runner.cleanup()
        ledger.close()


def _reply(answer: Answer) -> web.Response:
    return web.json_response(answer.document, status=answer.status)
