"""The stand-in for agents, over real connections to a coordinator with WHOOSH's published shapes."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web
from click.testing import CliRunner

from cluster.clock import SystemClock
from cluster.standins import agent as program
from cluster.standins.agent import CAPABILITIES, Agent, Client, Coordinator, Habits, fnv1a, named, offers
from tests.standins.whoosh import Fault, Whoosh, hangs_up, is_silent, is_well, says, whoosh

QUICK = Habits(patience=0.3, pause=0.01, status_every=0.05, poll_every=0.02, work=0.01)
SELDOM = 90.0
CALM = QUICK._replace(status_every=SELDOM, poll_every=SELDOM)
"""It registers, and is not heard of again."""
PATIENT_SECONDS = 20.0


class Hurried(SystemClock):
    """Notes how long it was to sleep, and sleeps a moment; what seldom happens does not."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(3_600 if seconds == SELDOM else min(seconds, 0.01))

    def pauses(self) -> list[float]:
        """Between one try and the next."""
        return [seconds for seconds in self.slept if seconds != SELDOM]


class Crew(NamedTuple):
    """Agents that live, what they say, and somebody who asks them."""

    agents: list[Agent]
    said: list[str]
    clock: Hurried
    session: aiohttp.ClientSession

    async def ask(self, document: Any, agent: Agent | None = None) -> int:
        """Hand over an opportunity, as WHOOSH does."""
        url = f"{(agent or self.agents[0]).endpoint}/api/v1/opportunities/council"
        async with self.session.post(url, json=document) as reply:
            return reply.status


@asynccontextmanager
async def crew(
    there: Whoosh, count: int = 1, *, habits: Habits = CALM, skills: Sequence[str] = CAPABILITIES, token: str = ""
) -> AsyncIterator[Crew]:
    """So many agents, registered."""
    clock, said, listening = Hurried(), list[str](), socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    agents = {
        base: Agent(name, skills, url + base, Client(Coordinator(there.url, token), habits, clock), said.append)
        for base, name in named("agent", count).items()
    }
    runner = web.AppRunner(program.application(agents), shutdown_timeout=0.01)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    async with aiohttp.ClientSession() as session:
        try:
            await until(lambda: len(there.agents) == count)
            yield Crew(list(agents.values()), said, clock, session)
        finally:
            await runner.cleanup()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENT_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def there() -> AsyncIterator[Whoosh]:
    async with whoosh() as made:
        yield made


# --- what it makes of a question --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "number"), [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968)])
def test_the_hash_is_fnv_1a(text: str, number: int) -> None:
    """The vectors of its authors."""
    assert fnv1a(text) == number


def test_it_wants_what_it_can_do_core_roles_first() -> None:
    asked = Whoosh().opportunity("ops:infrastructure", "dev:backend,sql", "any", optional=("docs:api", "art:design"))
    found = offers(asked, "a", ("backend", "api"))
    assert {each.role: each.confidence for each in found} == {"dev": 0.5, "any": 1.0, "docs": 1.0}
    assert [each.role for each in found][-1] == "docs"
    asked["metadata"] = {"open_roles": ["any", "ops"]}
    assert [each.role for each in offers(asked, "a", ("backend", "api"))] == ["any"]


def test_many_agents_spread_over_the_roles_the_same_way_every_time() -> None:
    asked = Whoosh().opportunity(*(f"r{number}" for number in range(8)))
    firsts = [offers(asked, f"agent-{number}", ())[0].role for number in range(64)]
    assert len(set(firsts)) == 8 and max(map(firsts.count, firsts)) <= 16
    assert firsts == [offers(asked, f"agent-{number}", ())[0].role for number in range(64)]


@pytest.mark.parametrize("roles", [None, "lead", [7, {}, {"role_name": ""}], {}])
def test_what_makes_no_sense_to_it_is_no_role(roles: Any) -> None:
    assert offers({"council_id": "atlas", "core_roles": roles, "metadata": []}, "a", ()) == []


# --- how it is registered ---------------------------------------------------------------------------------------------


async def test_it_registers_and_says_now_and_then_how_it_is(there: Whoosh) -> None:
    async with crew(there, habits=QUICK) as made:
        (agent,) = made.agents
        first = there.heard[0]
        assert (first.method, first.path) == ("POST", "/api/v1/agents/register")
        assert first.document == {
            "agent_id": "agent",
            "agent_name": "agent",
            "name": "agent",
            "capabilities": ["backend", "golang", "api", "coordination"],
            "endpoint": agent.endpoint,
            "status": "idle",
            "load": 0.0,
        }
        await until(lambda: there.count("/api/v1/agents/agent/status") >= 3)
        assert there.count("/api/v1/agents/register") == 1
        async with made.session.get(f"{agent.endpoint}/health") as reply:
            assert (reply.status, await reply.json()) == (200, {"status": "ok", "agent_id": "agent"})


async def test_one_that_was_forgotten_registers_again(there: Whoosh) -> None:
    async with crew(there, habits=QUICK):
        there.agents.clear()
        await until(lambda: "agent" in there.agents)
    assert there.count("/api/v1/agents/register") == 2


async def test_it_has_the_habits_of_an_ordinary_client(there: Whoosh) -> None:
    """Connections are used again, numbers are floats, nothing is signed, and no token is shown where there is none."""
    async with crew(there, habits=QUICK):
        await until(lambda: len(there.heard) > 10)
    assert len({each.connection for each in there.heard}) <= 2, "one for what it says, one for what it asks meanwhile"
    assert b'"load": 0.05' in next(each.body for each in there.heard if each.path.endswith("/status"))
    for each in there.heard:
        assert each.headers["User-Agent"] == "Go-http-client/1.1" and "Authorization" not in each.headers
        assert not [name for name in each.headers if name.lower().startswith(("x-", "idem"))]


async def test_it_shows_the_token_it_was_given(there: Whoosh) -> None:
    async with crew(there, token="t0ken"):
        pass
    assert {each.headers["Authorization"] for each in there.heard} == {"Bearer t0ken"}


async def test_many_in_one_process_have_a_base_path_each(there: Whoosh) -> None:
    async with crew(there, 3) as made:
        assert set(there.agents) == {"agent-1", "agent-2", "agent-3"}
        endpoints = [there.agents[f"agent-{number}"]["endpoint"] for number in (1, 2, 3)]
        assert [each.rpartition("/agents/")[2] for each in endpoints] == ["agent-1", "agent-2", "agent-3"]
        for agent in made.agents:
            async with made.session.get(f"{agent.endpoint}/health") as reply:
                assert (await reply.json())["agent_id"] == agent.id


# --- how it claims a role ---------------------------------------------------------------------------------------------


async def test_it_takes_the_question_at_once_and_claims_afterwards(there: Whoosh) -> None:
    answered = asyncio.Event()

    async def waits(_: web.Request) -> None:
        await answered.wait()

    async with crew(there, habits=CALM._replace(patience=PATIENT_SECONDS)) as made:
        there.faults = [waits]
        assert await made.ask(there.opportunity("lead:api,sql", "ops:infrastructure")) == 202
        await until(lambda: there.count("/api/v1/councils/atlas/claims"))
        assert there.claims == {} and made.agents[0].seats == {}
        answered.set()
        await until(lambda: made.agents[0].seats)
    assert there.claims == {("atlas", "lead"): "agent"}
    claim = there.heard[-1]
    assert b'"confidence": 0.5' in claim.body
    told = claim.document
    assert (told["agent_id"], told["role_name"], told["capabilities"]) == ("agent", "lead", list(CAPABILITIES))
    assert told["ucxl_address"] == "ucxl://any:any@atlas:council/*^/"


async def test_a_role_that_is_taken_sends_it_to_another(there: Whoosh) -> None:
    asked = there.opportunity("a", "b", "c", optional=("d",))
    there.claims = {("atlas", role): "somebody" for role in "abc"}
    async with crew(there) as made:
        await made.ask(asked)
        await until(lambda: made.agents[0].seats)
        assert there.claims["atlas", "d"] == "agent" and there.count("/api/v1/councils/atlas/claims") == 4


async def test_who_is_seated_claims_nothing_more_until_the_council_is_elected_anew(there: Whoosh) -> None:
    path = "/api/v1/councils/atlas/claims"
    async with crew(there) as made:
        (agent,) = made.agents
        await made.ask(there.opportunity("a", "b", election=1, open_roles=["a", "b"]))
        await until(lambda: agent.seats)
        (other,) = {"a", "b"} - {agent.seats["atlas"].role}
        await made.ask(there.opportunity("a", "b", election=1, open_roles=[other]))
        await until(lambda: all(thought.done() for thought in agent._thoughts.values()))
        assert there.count(path) == 1
        there.claims.clear()
        await made.ask(there.opportunity("a", "b", election=2, open_roles=["a", "b"]))
        await until(lambda: there.count(path) == 2 and agent.seats["atlas"].election == 2)
        await made.ask(there.opportunity("a", "b", election=2, open_roles=[agent.seats["atlas"].role]))
        await until(lambda: there.count(path) == 3)


async def test_a_coordinator_that_tells_no_more_than_whoosh_did_is_asked_once(there: Whoosh) -> None:
    async with crew(there) as made:
        for _ in range(3):
            await made.ask(there.opportunity("a", "b"))
            await until(lambda: made.agents[0].seats)
    assert there.count("/api/v1/councils/atlas/claims") == 1


async def test_a_whole_crew_fills_a_council_with_one_agent_for_each_role(there: Whoosh) -> None:
    asked = there.opportunity(*(f"r{number}" for number in range(9)), optional=("o1", "o2", "o3"))
    async with crew(there, 34) as made:
        assert await asyncio.gather(*(made.ask(asked, agent) for agent in made.agents)) == [202] * 34
        await until(lambda: len(there.claims) == 12)
        await until(lambda: all(thought.done() for agent in made.agents for thought in agent._thoughts.values()))
        assert sorted(there.claims.values()) == sorted(agent.id for agent in made.agents if agent.seats)
        assert len(set(there.claims.values())) == 12


@pytest.mark.parametrize("document", [[], {}, {"core_roles": []}, {"council_id": ""}])
async def test_what_is_no_opportunity_is_refused(there: Whoosh, document: Any) -> None:
    async with crew(there) as made:
        assert await made.ask(document) == 400


# --- when nobody answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "pause"),
    [
        (says(503, Retry_After="7"), 7.0),
        (says(429, Retry_After="9"), 9.0),
        (says(429, Retry_After="3600"), 60.0),
        (says(503, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"), CALM.pause),
        (says(502), CALM.pause),
        (says(504), CALM.pause),
        (hangs_up, CALM.pause),
        (is_silent, CALM.pause),
    ],
)
async def test_what_was_not_answered_is_said_again_word_for_word_and_not_before_time(
    there: Whoosh, fault: Fault, pause: float
) -> None:
    async with crew(there) as made:
        there.faults = [fault, is_well]
        await made.ask(there.opportunity("lead"))
        await until(lambda: made.agents[0].seats)
        assert made.clock.pauses() == [pause]
    first, second = [each for each in there.heard if each.path.endswith("/claims")]
    assert first.body == second.body
    assert there.claims == {("atlas", "lead"): "agent"}


async def test_it_gives_up_after_a_while_and_is_there_for_the_next_question(there: Whoosh) -> None:
    async with crew(there) as made:
        there.faults = [says(503)] * program.TRIES
        await made.ask(there.opportunity("lead"))
        await until(lambda: not there.faults and made.said[-1].startswith("agent: claims lead of atlas: 503"))
        pauses = made.clock.pauses()
        assert pauses == sorted(pauses) and len(pauses) == program.TRIES
        await made.ask(there.opportunity("lead"))
        await until(lambda: made.agents[0].seats)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 501])
async def test_an_answer_that_says_no_is_not_argued_with(there: Whoosh, status: int) -> None:
    async with crew(there) as made:
        there.faults = [says(status)]
        await made.ask(there.opportunity("lead", "build"))
        await until(lambda: made.said[-1].startswith("agent: claims"))
        await until(lambda: all(thought.done() for thought in made.agents[0]._thoughts.values()))
    assert there.count("/api/v1/councils/atlas/claims") == 1 and there.claims == {}


# --- how it works -----------------------------------------------------------------------------------------------------


async def test_it_claims_open_tasks_one_after_the_other_and_completes_them(there: Whoosh) -> None:
    there.add_tasks("atlas.one", "atlas.two", "atlas.three")
    async with crew(there, habits=QUICK._replace(status_every=SELDOM)) as made:
        await until(lambda: all(task["status"] == "completed" for task in there.tasks.values()))
        await until(lambda: len(made.agents[0].done) == 3)
    assert {task["claimed_by"] for task in there.tasks.values()} == {"agent"}
    done = next(each for each in there.heard if each.path.endswith("/complete"))
    assert set(done.document) == {"agent_id", "result", "artifacts", "confidence", "duration_seconds"}
    assert b'"confidence": 0.93' in done.body and len(done.document["artifacts"]) == 1


async def test_a_task_that_another_has_is_left_to_him(there: Whoosh) -> None:
    there.add_tasks("atlas.one", "atlas.two")
    there.tasks["atlas.one"]["claimed_by"] = "somebody"  # and still listed as open: it was claimed just now
    async with crew(there, habits=QUICK) as made:
        await until(lambda: made.agents[0].done == ["atlas.two"])


async def test_a_result_is_handed_in_until_it_is_taken(there: Whoosh) -> None:
    there.add_tasks("atlas.one")
    there.closed_windows = 3
    async with crew(there, habits=QUICK) as made:
        await until(lambda: made.agents[0].done == ["atlas.one"])
    handed_in = [each.body for each in there.heard if each.path.endswith("/complete")]
    assert len(handed_in) == 4 and len(set(handed_in)) == 1


async def test_a_task_that_is_gone_is_let_go(there: Whoosh) -> None:
    async def forgets(request: web.Request) -> None:
        assert request.path.endswith("atlas.one/complete")
        there.tasks.clear()
        there.add_tasks("atlas.two")

    there.add_tasks("atlas.one")
    there.faults = [is_well, is_well, is_well, forgets]  # it registers, looks, claims, and completes
    async with crew(there, habits=QUICK._replace(status_every=SELDOM)) as made:
        await until(lambda: made.agents[0].done == ["atlas.two"])


# --- the program ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--listen", "9100"], "expected HOST:PORT, got '9100'"),
        (["--listen", "127.0.0.1:99999"], "expected HOST:PORT"),
        (["--listen", "0.0.0.0:0"], "say where with --advertise"),
        (["--count", "0"], "--count"),
        ([], "WHOOSH_API_BASE_URL"),
    ],
)
def test_what_cannot_be_meant_is_said(arguments: list[str], fault: str) -> None:
    url = ["--whoosh", "http://127.0.0.1:1"] if arguments else []
    result = CliRunner().invoke(program.main, [*url, *arguments], env={"WHOOSH_API_BASE_URL": ""})
    assert result.exit_code == 2 and fault in result.output


async def test_the_program_runs_many_agents_and_ends_when_it_is_told_to(there: Whoosh) -> None:
    code = "from cluster.standins.agent import main; main()"
    arguments = ["--count", "3", "--listen", "127.0.0.1:0", "--id", "chorus", "--capabilities", "api,sql"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, *arguments, "--capabilities", "design", "--poll-every", "0.1"),
        env={"WHOOSH_API_BASE_URL": there.url, "WHOOSH_API_TOKEN": "t0ken"},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        await until(lambda: len(there.agents) == 3)
        assert [there.agents[f"chorus-{number}"]["capabilities"] for number in (1, 2, 3)] == [
            ["api", "sql"],
            ["design"],
            ["api", "sql"],
        ]
        assert there.heard[0].headers["Authorization"] == "Bearer t0ken"
        there.add_tasks("atlas.one")
        async with aiohttp.ClientSession() as session:
            url = f"{there.agents['chorus-2']['endpoint']}/api/v1/opportunities/council"
            async with session.post(url, json=there.opportunity("lead:sql", "ux:design")) as reply:
                assert reply.status == 202
        await until(lambda: there.claims == {("atlas", "ux"): "chorus-2"})
        await until(lambda: there.tasks["atlas.one"]["claimed_by"])
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = await process.communicate()
    assert process.returncode == 0
    lines = output.decode().splitlines()
    assert lines[0].startswith("3 at http://127.0.0.1:") and "chorus-2: claims ux of atlas: 201" in lines
