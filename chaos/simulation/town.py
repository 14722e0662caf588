"""The outside of a run: a license authority, an effect receiver and a library of Decision Records, without sockets.

The first two are the programs that users run. No fault of a node touches any of them, and a node reaches them over a
wire of its own, on which requests and answers are lost as on any other until everything is healed. Each can be out of
order for a time, and the authority can say no. What a leader asked for and what really happened can so be held against
each other at the end.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import msgspec
from aiohttp import web as web_server
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chaos.simulation import web
from chaos.simulation.plan import Http
from cluster.clock import done_by
from cluster.egress import Call, Reply
from cluster.nodekey import NodeKey
from cluster.providers.environment import Hook
from cluster.providers.kaching_wire import Terms
from cluster.sections import Sink
from cluster.standins.kaching import Authority, application
from cluster.worker.receive import receiver_app
from cluster.worker.receiver import Receiver, Request
from swoosh.hashing import digest_bytes
from swoosh.machine import Machine
from swoosh.state import Asset, ProjectRegions

if TYPE_CHECKING:
    from chaos.simulation.host import Life
    from chaos.simulation.world import World

LICENSE, SECRET = "lic", "a secret of the run"
SYSTEMS = ("kaching", "environment", "bubble")
URLS = {system: f"http://{system}.example" for system in SYSTEMS}
ADDRESSES = [f"{system}.example:80" for system in SYSTEMS]
UNITS = 1_000
TOKEN_LIFE_MS = 6_000


class Ground:
    """What stands, and how often each asset was really built and cleared."""

    def __init__(self) -> None:
        self.standing: set[tuple[str, str]] = set()
        self.changes: Counter[tuple[str, str, str]] = Counter()

    def build(self, project: str, asset: str) -> None:
        self._change("build", project, asset)
        self.standing.add((project, asset))

    def clear(self, project: str, asset: str) -> None:
        self._change("clear", project, asset)
        self.standing.discard((project, asset))

    def fault(self, project: str, asset: str) -> tuple[Literal["amber", "red"], str] | None:
        return None if (project, asset) in self.standing else ("red", "it is gone")

    def _change(self, what: str, project: str, asset: str) -> None:
        if ((project, asset) in self.standing) != (what == "build"):
            self.changes[what, project, asset] += 1


class Library:
    """What came in of each project, in the order of its first arrival."""

    def __init__(self) -> None:
        self.ids: dict[str, list[str]] = {}
        self.faults: list[str] = []

    def take(self, record: dict[str, Any]) -> None:
        project, seq, dr_id = record["project"], record["delivery"]["seq"], record["dr_id"]
        held = self.ids.setdefault(project, [])
        if seq > len(held) + 1:
            self.faults.append(f"record {seq} of {project} came after {len(held)}")
        elif seq == len(held) + 1:
            held.append(dr_id)
        elif held[seq - 1] != dr_id:
            self.faults.append(f"record {seq} of {project} came as {held[seq - 1]} and as {dr_id}")

    def application(self) -> web_server.Application:
        """A record is posted, and answered once it is kept."""

        async def post_record(request: web_server.Request) -> web_server.Response:
            self.take(msgspec.json.decode(await request.read()))
            return web_server.Response(status=201)

        app = web_server.Application()
        app.router.add_post("/records", post_record)
        return app


class Lines(list[bytes]):
    """A ledger that survives whatever happens to the receiver."""


class Town:
    """Everything outside one cluster."""

    def __init__(self, world: World) -> None:
        self._world = world
        key = NodeKey.of(Ed25519PrivateKey.from_private_bytes(digest_bytes(b"the license authority")))
        self.authority = Authority(key, LICENSE, SECRET, world.clock)
        self.authority.change({"life_ms": TOKEN_LIFE_MS})
        self.ledger, self.ground, self.library = Lines(), Ground(), Library()
        self._ends: dict[str, Callable[[], asyncio.Protocol]] = {}
        self._down: Counter[str] = Counter()

    async def open(self) -> None:
        """Everybody begins to serve."""
        apps = {
            "kaching": application(self.authority, self._world.clock),
            "environment": receiver_app(Receiver(self.ledger, self.ground, UNITS)),
            "bubble": self.library.application(),
        }
        self._ends = {system: (await web.serve(app))[1] for system, app in apps.items()}

    # --- what nodes are configured with -------------------------------------------------------------------------------

    def terms(self) -> Terms:
        """How the authority is asked."""
        url = f"{URLS['kaching']}/v1/licenses/{LICENSE}/token"
        return Terms(url, LICENSE, SECRET, bytes.fromhex(self.authority.public_key))

    def hook(self) -> Hook:
        """How the receiver is asked."""
        return Hook(URLS["environment"], timeout=2.0, every=2.0)

    def sink(self) -> Sink:
        """Where Decision Records go."""
        return Sink(url=f"{URLS['bubble']}/records")

    def has_everything(self, machine: Machine) -> bool:
        """Whether every record of every project has arrived."""
        projects = (machine.project(name) for name in machine.project_ids())
        return all(each is None or len(self.library.ids.get(each.id, ())) == each.seq for each in projects)

    # --- out of order -------------------------------------------------------------------------------------------------

    def close(self, system: str) -> None:
        """Nobody answers there until it is opened as often as it was closed."""
        self._down[system] += 1

    def reopen(self, system: str) -> None:
        self._down[system] = max(0, self._down[system] - 1)

    def mend(self) -> None:
        """Everything serves, and the license is active."""
        self._down.clear()
        self.authority.change({"status": "active", "retry_after_s": 0})

    # --- the wire -----------------------------------------------------------------------------------------------------

    def ask(self, system: str, raw: bytes) -> asyncio.Future[bytes]:
        """What a connection that brought these bytes will bring back; nothing where nobody listens. What it sets going
        is nobody's in the cluster: it goes on when the process that asked is gone."""
        answer: asyncio.Future[bytes] = self._world.loop.create_future()
        if self._down[system]:
            answer.set_result(b"")
        else:
            Context().run(web.connect, self._ends[system](), raw, answer, None)
        return answer

    # --- what came of it ----------------------------------------------------------------------------------------------

    def faults(self, machine: Machine) -> Iterator[str]:
        """Where what stands or arrived is not what the cluster has on record, and effects that happened twice."""
        yield from self.library.faults
        confirmed, reverted = set[tuple[str, str]](), set[tuple[str, str]]()
        for project, name, asset in assets(machine):
            if asset.state == "CONFIRMED":
                confirmed.add((project, name))
            elif asset.state == "REVERTED":
                reverted.add((project, name))
        for place in sorted(confirmed - self.ground.standing):
            yield f"{place} is confirmed, and does not stand"
        for place in sorted(self.ground.standing & reverted):
            yield f"{place} is reverted, and stands"
        asked = [msgspec.json.decode(line, type=Request) for line in self.ledger]
        for (effect, action), times in Counter((each.effect, each.action) for each in asked).items():
            if times > 1:
                yield f"effect {effect} was taken {times} times ({action})"
        for (what, project, name), times in self.ground.changes.items():
            action = "provision" if what == "build" else "revert"
            wanted = sum((each.project, each.asset, each.action) == (project, name, action) for each in asked)
            if times > wanted:
                yield f"{what} of {project} {name} happened {times} times, asked for was {wanted} times"


class Way:
    """From one process of a node to the town: what `cluster.egress.Http.send` is in production."""

    def __init__(self, life: Life) -> None:
        self._life, self._count = life, 0

    async def send(self, call: Call, patience: float) -> Reply:
        """Raises OSError: nothing came back."""
        world, clock = self._life.world, self._life.clock
        self._count += 1
        draw = ("outside", self._life.name, self._life.host.lives, self._count)
        deadline = clock.monotonic() + patience
        await clock.sleep(world.chance.between(*web.LATENCY, "to", *draw))
        parts = urlsplit(call.url)
        target = call.url.partition(parts.netloc)[2] or "/"
        raw = web.request_bytes(call.method, target, call.headers, call.body or b"")
        fate, rates = world.chance.at("fate", *draw), Http() if world.is_healed else world.plan.http
        if fate < rates.lost_requests:
            return await self._nothing(deadline)
        answer = world.town.ask(call.system, raw)
        if fate > 1 - rates.doubled:
            late = world.chance.between(0.0, 1.0, "again", *draw)
            world.loop.call_later(late, world.town.ask, call.system, raw, context=Context())
        if not await done_by(clock, deadline, answer) or fate < rates.lost_requests + rates.lost_replies:
            return await self._nothing(deadline)
        await clock.sleep(world.chance.between(*web.LATENCY, "back", *draw))
        if not answer.result():
            raise ConnectionRefusedError("nobody listens")
        reply = web.reply_of(answer.result())
        return Reply(reply.status, reply.headers, reply.body)

    async def _nothing(self, deadline: float) -> Reply:
        clock = self._life.clock
        await clock.sleep(max(0.0, deadline - clock.monotonic()))
        raise TimeoutError("no answer")


def assets(machine: Machine) -> Iterator[tuple[str, str, Asset]]:
    """Every asset a machine has on record: (project, name, asset)."""
    for project_id in machine.project_ids():
        project = machine.project(project_id)
        if project is not None and isinstance(project.regions, ProjectRegions):
            for name, asset in project.regions.environment.assets.items():
                yield project_id, name, asset
