"""``swoosh-agent-sim``: agents as WHOOSH knows them, to try a cluster with.

They are what an agent of CHORUS is to a coordinator: a small HTTP server that takes opportunities, and an ordinary HTTP
client that registers, claims a role, and then claims tasks and completes them. They hold no keys and sign nothing, keep
their connections open, wait fifteen seconds for an answer, send the same body again where none came, and write floats
into their JSON. What they do for a living is to wait.

They know the published shapes of WHOOSH and nothing of SWOOSH, so whatever they can do, a caller that was written for
WHOOSH can. Where the coordinator says in ``metadata`` which roles are open, they spare it the others.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import click
from aiohttp import web

from cluster.clock import Clock, SystemClock

CAPABILITIES = ("backend", "golang", "api", "coordination")
"""What an agent of CHORUS can do unless it is told otherwise."""
BUSY = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
"""Answers that say nothing of the request: it is sent again."""
TRIES = 10
PAUSE_MAX_SECONDS = 60.0
COMPLETIONS_MAX = 20
"""So often a result is handed in that is refused, a window may have to open first."""
HEADERS = {"User-Agent": "Go-http-client/1.1", "Content-Type": "application/json", "Accept": "application/json"}
FAREWELL_SECONDS = 0.2

SECONDS = click.FloatRange(0, min_open=True)

Say = Callable[[str], None]


class Habits(NamedTuple):
    """Seconds: how long an answer is waited for, the first pause after none came, the time between two words about
    itself, between two looks for tasks, and that a task takes."""

    patience: float = 15.0
    pause: float = 1.0
    status_every: float = 30.0
    poll_every: float = 15.0
    work: float = 2.0


class Coordinator(NamedTuple):
    """Where WHOOSH, or what took its place, is; ``token`` is shown as bearer token where there is one."""

    url: str
    token: str = ""


class Answer(NamedTuple):
    """A status, and the object in the body; an empty one where there is none."""

    status: int
    document: Mapping[str, Any]

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300


def fnv1a(text: str) -> int:
    """FNV-1a with 32 bits: a number that every run makes of the same text."""
    number = 0x811C9DC5
    for byte in text.encode():
        number = (number ^ byte) * 0x01000193 % 2**32
    return number


def confidence(skills: Sequence[str], capabilities: Iterable[str]) -> float:
    """How far these capabilities cover what a role asks for; 1 where it asks for nothing."""
    return len(set(skills).intersection(capabilities)) / len(set(skills)) if skills else 1.0


class Offer(NamedTuple):
    """A role that is worth a claim."""

    role: str
    confidence: float


def offers(opportunity: Mapping[str, Any], agent_id: str, capabilities: Sequence[str]) -> list[Offer]:
    """The roles an agent claims, one after the other until it has one: those it can do something for, core roles
    first. Where it begins follows from its id, so that many agents spread over the roles."""
    still_open = _metadata(opportunity).get("open_roles")
    found: list[Offer] = []
    for kind in ("core_roles", "optional_roles"):
        roles = [role for role in opportunity.get(kind) or () if isinstance(role, dict) and role.get("role_name")]
        able = [
            Offer(role["role_name"], confidence(role.get("required_skills") or (), capabilities))
            for role in roles
            if still_open is None or role["role_name"] in still_open
        ]
        found += rotated([offer for offer in able if offer.confidence], fnv1a(agent_id))
    return found


def _metadata(opportunity: Mapping[str, Any]) -> Mapping[str, Any]:
    """Free by contract: whatever is there may be missing."""
    found = opportunity.get("metadata")
    return found if isinstance(found, dict) else {}


def rotated(items: Sequence[Any], by: int) -> list[Any]:
    """The same items in the same order, beginning elsewhere."""
    first = by % len(items) if items else 0
    return [*items[first:], *items[:first]]


# --- the client -------------------------------------------------------------------------------------------------------


class Client:
    """The agent's connections to its coordinator."""

    def __init__(self, coordinator: Coordinator, habits: Habits, clock: Clock) -> None:
        """Needs a running loop."""
        self.habits, self.clock, self._url = habits, clock, coordinator.url.rstrip("/")
        bearer = {"Authorization": f"Bearer {coordinator.token}"} if coordinator.token else {}
        timeout = aiohttp.ClientTimeout(total=habits.patience)
        self._session = aiohttp.ClientSession(headers=HEADERS | bearer, timeout=timeout)

    async def post(self, path: str, document: Mapping[str, Any]) -> Answer | None:
        """As ``_ask``; the bytes of a repeat are those of the first try."""
        return await self._ask("POST", path, json.dumps(document).encode())

    async def get(self, path: str) -> Answer | None:
        """As ``_ask``."""
        return await self._ask("GET", path, None)

    async def _ask(self, method: str, path: str, body: bytes | None) -> Answer | None:
        """The answer, asked for again while none comes or nobody has time; None where that was in vain."""
        answer, pause = None, self.habits.pause
        for _ in range(TRIES):
            wait = pause
            try:
                async with self._session.request(method, self._url + path, data=body) as reply:
                    answer = Answer(reply.status, _object(await reply.read()))
                    if reply.status not in BUSY:
                        return answer
                    wait = _retry_after(reply.headers.get("Retry-After", ""), pause)
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass  # it may have arrived: what is sent again is the same
            await self.clock.sleep(wait)
            pause = min(PAUSE_MAX_SECONDS, 2 * pause)
        return answer

    async def close(self) -> None:
        """End every connection."""
        await self._session.close()


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _retry_after(text: str, otherwise: float) -> float:
    return min(PAUSE_MAX_SECONDS, float(text)) if text.isascii() and text.isdecimal() else otherwise


# --- the agent --------------------------------------------------------------------------------------------------------


class Seat(NamedTuple):
    """A role it holds, and in which election; None where nobody says."""

    role: str
    election: int | None


class Agent:
    """One agent."""

    def __init__(self, agent_id: str, capabilities: Sequence[str], endpoint: str, client: Client, say: Say) -> None:
        """``endpoint`` is where its server can be reached; ``say`` hears what it does."""
        self.id, self.capabilities, self.endpoint = agent_id, tuple(capabilities), endpoint
        self._client, self._habits, self._clock, self._say = client, client.habits, client.clock, say
        self.seats: dict[str, Seat] = {}
        """By council."""
        self.done: list[str] = []
        """Ids of the tasks it has completed."""
        self._task = ""
        self._thoughts: dict[str, asyncio.Task[None]] = {}

    async def live(self) -> None:
        """Until cancelled: be registered, and look for work."""
        try:
            await asyncio.gather(self._stay_known(), self._look_for_work())
        finally:
            for thought in self._thoughts.values():
                thought.cancel()
            await self._client.close()

    async def _stay_known(self) -> None:
        is_known = False
        while True:
            answer = await (self._report() if is_known else self._register())
            was_forgotten = is_known and answer is not None and answer.status == HTTPStatus.NOT_FOUND
            is_known = not was_forgotten and (is_known or (answer is not None and answer.is_good))
            soon = was_forgotten or answer is None
            await self._clock.sleep(self._habits.pause if soon else self._habits.status_every)

    async def _register(self) -> Answer | None:
        told = {**self._self(), "name": self.id, "endpoint": self.endpoint, "status": "idle", "load": 0.0}
        answer = await self._client.post("/api/v1/agents/register", told)
        self._say(f"{self.id}: registers: {_words(answer)}")
        return answer

    async def _report(self) -> Answer | None:
        told = {"agent_id": self.id, "status": "busy" if self._task else "idle", "load": 0.75 if self._task else 0.05}
        return await self._client.post(f"/api/v1/agents/{quote(self.id, safe='')}/status", told)

    def _self(self) -> dict[str, Any]:
        return {"agent_id": self.id, "agent_name": self.id, "capabilities": list(self.capabilities)}

    # --- roles --------------------------------------------------------------------------------------------------------

    def consider(self, opportunity: Mapping[str, Any]) -> None:
        """Think about it, and claim; whoever asked need not wait. One thought at a time about one council."""
        council = str(opportunity.get("council_id") or "")
        thinking = self._thoughts.get(council)
        if council and (thinking is None or thinking.done()):
            self._thoughts[council] = asyncio.ensure_future(self._claim_a_role(council, opportunity))

    async def _claim_a_role(self, council: str, opportunity: Mapping[str, Any]) -> None:
        told_more = _metadata(opportunity)
        election, held = told_more.get("election"), self.seats.get(council)
        if held is not None and held.election == election and held.role not in told_more.get("open_roles", ()):
            return
        self.seats.pop(council, None)
        for offer in offers(opportunity, self.id, self.capabilities):
            told = {
                **self._self(),
                "role_name": offer.role,
                "confidence": round(offer.confidence, 3),
                "reasoning": f"{offer.confidence:.0%} of what it asks for",
                "endpoint": self.endpoint,
                "ucxl_address": opportunity.get("ucxl_address"),
            }
            answer = await self._client.post(f"/api/v1/councils/{quote(council, safe='')}/claims", told)
            self._say(f"{self.id}: claims {offer.role} of {council}: {_words(answer)}")
            if answer is not None and answer.is_good:
                self.seats[council] = Seat(offer.role, election)
                return
            if answer is None or answer.status != HTTPStatus.CONFLICT:
                return  # it is asked again while a role is open

    # --- tasks --------------------------------------------------------------------------------------------------------

    async def _look_for_work(self) -> None:
        while True:
            await self._clock.sleep(self._habits.poll_every)
            answer = await self._client.get("/api/v1/tasks?status=open")
            tasks = answer.document.get("tasks") if answer is not None and answer.is_good else None
            listed = [str(task["id"]) for task in tasks or () if isinstance(task, dict) and task.get("id")]
            for task in rotated(listed, fnv1a(self.id)):
                if await self._claim_task(task):
                    await self._do(task)
                    break

    async def _claim_task(self, task: str) -> bool:
        answer = await self._client.post(_of_task(task, "claim"), {**self._self(), "confidence": 0.87})
        self._say(f"{self.id}: claims task {task}: {_words(answer)}")
        return answer is not None and answer.is_good

    async def _do(self, task: str) -> None:
        self._task = task
        await self._clock.sleep(self._habits.work)
        told = {
            "agent_id": self.id,
            "result": f"{self.id} did {task}",
            "artifacts": [f"ucxl://{self.id}:any@any:any/*^/{fnv1a(task):08x}"],
            "confidence": 0.93,
            "duration_seconds": float(self._habits.work),
        }
        for _ in range(COMPLETIONS_MAX):
            answer = await self._client.post(_of_task(task, "complete"), told)
            self._say(f"{self.id}: completes task {task}: {_words(answer)}")
            if answer is not None and answer.is_good:
                self.done.append(task)
            if answer is not None and (answer.is_good or answer.status == HTTPStatus.NOT_FOUND):
                break
            await self._clock.sleep(self._habits.poll_every)
        self._task = ""


def _of_task(task: str, what: str) -> str:
    return f"/api/v1/tasks/{quote(task, safe='')}/{what}"


def _words(answer: Answer | None) -> str:
    if answer is None:
        return "no answer"
    said = "" if answer.is_good else str(answer.document.get("error", ""))[:120]
    return f"{answer.status} {said}".strip()


# --- the server -------------------------------------------------------------------------------------------------------


def application(agents: Mapping[str, Agent]) -> web.Application:
    """What agents serve, each under a base path of its own; they live as long as the application."""
    app = web.Application()
    for base, agent in agents.items():
        _serve(app, base, agent)

    async def living(_: web.Application) -> AsyncIterator[None]:
        lives = [asyncio.ensure_future(agent.live()) for agent in agents.values()]
        yield
        for life in lives:
            life.cancel()
        for ended in await asyncio.gather(*lives, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    app.cleanup_ctx.append(living)
    return app


def _serve(app: web.Application, base: str, agent: Agent) -> None:
    async def post_opportunity(request: web.Request) -> web.Response:
        opportunity = _object(await request.read())
        if not opportunity.get("council_id"):
            return web.json_response({"error": "an opportunity names its council_id"}, status=400)
        agent.consider(opportunity)
        return web.json_response({"status": "received", "agent_id": agent.id}, status=202)

    async def get_health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "agent_id": agent.id})

    app.router.add_post(f"{base}/api/v1/opportunities/council", post_opportunity)
    app.router.add_get(f"{base}/health", get_health)


def named(agent_id: str, count: int) -> dict[str, str]:
    """{base path: id}: one agent at the root, or so many, each under its own path."""
    if count == 1:
        return {"": agent_id}
    return {f"/agents/{agent_id}-{number}": f"{agent_id}-{number}" for number in range(1, count + 1)}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--whoosh", envvar="WHOOSH_API_BASE_URL", required=True, show_envvar=True, metavar="URL")
@click.option("--token", envvar="WHOOSH_API_TOKEN", default="", show_envvar=True, help="Shown as bearer token.")
@click.option("--id", "agent_id", default="agent", show_default=True, help="With --count the beginning of each id.")
@click.option("--count", type=click.IntRange(1, 1_000), default=1, show_default=True, help="So many agents.")
@click.option("--listen", default="127.0.0.1:9100", show_default=True, metavar="HOST:PORT", help="Port 0: a free one.")
@click.option("--advertise", default="", metavar="URL", help="Where --listen is seen from the nodes, if elsewhere.")
@click.option("--capabilities", multiple=True, metavar="A,B", help="Given more than once, agents take turns.")
@click.option("--status-every", type=SECONDS, default=Habits().status_every, show_default=True)
@click.option("--poll-every", type=SECONDS, default=Habits().poll_every, show_default=True)
@click.option("--work", type=SECONDS, default=Habits().work, show_default=True, help="A task takes so long.")
def main(
    whoosh: str,
    token: str,
    agent_id: str,
    count: int,
    listen: str,
    advertise: str,
    capabilities: tuple[str, ...],
    status_every: float,
    poll_every: float,
    work: float,
) -> None:
    """Run agents that register with a coordinator, claim roles of its councils, and do its tasks. Times in seconds.

    A node has to be told that it may reach them: [whoosh] agents = ["127.0.0.1:9100"].
    """
    host, port = _address(listen, reachable=not advertise)
    listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    seen_at = f"[{host}]" if ":" in host else host
    base_url = advertise.rstrip("/") or f"http://{seen_at}:{listening.getsockname()[1]}"
    habits, coordinator = (
        Habits(status_every=status_every, poll_every=poll_every, work=work),
        Coordinator(whoosh, token),
    )
    skills = [tuple(filter(None, each.split(","))) for each in capabilities] or [CAPABILITIES]

    async def made() -> web.Application:
        agents = {}
        for number, (base, name) in enumerate(named(agent_id, count).items()):
            client = Client(coordinator, habits, SystemClock())
            agents[base] = Agent(name, skills[number % len(skills)], base_url + base, client, click.echo)
        return application(agents)

    click.echo(f"{count} at {base_url}")
    web.run_app(made(), sock=listening, print=None, access_log=None, shutdown_timeout=FAREWELL_SECONDS)


def _address(text: str, *, reachable: bool) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    bare = host.strip("[]")
    if not (bare and port.isdecimal() and int(port) < 65_536):
        raise click.BadParameter(f"expected HOST:PORT, got {text!r}", param_hint="--listen")
    if reachable and bare in ("0.0.0.0", "::"):
        raise click.BadParameter(f"{bare} is nowhere to be reached; say where with --advertise", param_hint="--listen")
    return bare, int(port)


if __name__ == "__main__":
    main()
