"""What callers of WHOOSH ask for, one story for each route, and what bad requests come to."""

import asyncio
import json
from typing import Any

import pytest

from chaos.ballot import certificate
from cluster.callers import Access
from cluster.callers import Caller as Who
from cluster.elector import Elector
from cluster.http.whoosh.unserved import ROUTES
from cluster.profiles import Profile
from cluster.vault import Secret
from cluster.whoosh import Whoosh
from swoosh import proposal
from swoosh.entry import FactItem, ProposalItem
from swoosh.outcome import Accepted
from swoosh.state import ProjectRegions
from tests.http.conftest import Caller, Reply, Serve
from tests.http.desk import KEYS, Desk
from tests.running import running, turns

DEV, SERVICE, FLEET, SEVEN = "dev-token", "service-token", "fleet-token", "seven-token"
PROFILES = {
    "tech-lead": Profile("tech-lead", "Tech lead", "Owns the plan", capabilities=("architecture",), core=True),
    "dev": Profile("dev", "Developer", "Builds it", capabilities=("golang",), core=True),
    "scribe": Profile("scribe", "Scribe", "Writes it down", capabilities=("prose",)),
}
WHOOSH = Whoosh(
    access=Access(
        {
            DEV: Who("dora", frozenset({"developer"})),
            SERVICE: Who("n8n", frozenset({"service"})),
            FLEET: Who("fleet", frozenset({"agent"})),
            SEVEN: Who("chorus-7", frozenset({"agent"}), "chorus-7"),
        }
    ),
    gitea_secret=Secret("s3cret-of-gitea"),
    profiles=PROFILES,
)
OPPORTUNITY = {
    "council_id": "3f0c6d1e-5d0f-4c57-9d3c-1f6f3a0b9c11",
    "project_name": "atlas",
    "repository": "https://git.example/atlas",
    "project_brief": "Index the survey archive.",
    "core_roles": [
        {
            "role_name": "tech-lead",
            "agent_name": "Tech lead",
            "required": True,
            "required_skills": ["architecture"],
            "description": "Owns the plan",
        }
    ],
    "optional_roles": [{"role_name": "scribe", "required": False}],
    "ucxl_address": "ucxl://any:any@atlas:council/*^/",
    "formation_deadline": "2099-01-05T12:30:00Z",
    "created_at": "2026-01-05T12:00:00Z",
    "metadata": {"weight": 0.5},
}
COUNCIL = str(OPPORTUNITY["council_id"])


@pytest.fixture
def desk() -> Desk:
    return Desk(whoosh=WHOOSH)


@pytest.fixture
async def ask(desk: Desk, serve: Serve) -> Caller:
    return await serve(desk)


def bearer(token: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {token}"}}


def regions(desk: Desk, project: str = COUNCIL) -> ProjectRegions:
    held = desk.machine.project(project)
    assert held is not None and isinstance(held.regions, ProjectRegions)
    return held.regions


def licensed(desk: Desk) -> None:
    """The authority's word, as long as any test lasts."""
    until = desk.clock.wall_us() // 1000 + 60_000
    item = desk.admission.fact(
        desk.fact("license", desk.cluster_id, {"license_id": "l", "status": "active", "valid_until": until})
    )
    assert isinstance(item, FactItem)
    asyncio.get_event_loop()
    desk._judge(item, False)


def node_proposes(desk: Desk, project_id: str, transition: str, inputs: dict[str, Any]) -> None:
    """What the steward would."""
    project = desk.machine.project(project_id)
    assert project is not None
    item = desk.voice.proposal(project, transition, inputs, key=f"steward:{transition}:{project.seq}")
    (outcome,) = desk._judge(item, False)
    assert isinstance(outcome, Accepted), outcome


async def forming(desk: Desk, ask: Caller) -> None:
    """The council of OPPORTUNITY, open for claims, as the steward brings it there."""
    licensed(desk)
    created = await ask.post("/api/v1/opportunities/council", OPPORTUNITY, **bearer(DEV))
    assert created.status == 201, created.body
    node_proposes(desk, COUNCIL, "BOOT_CONFIGURED", {"chart_hash": desk.chart.hash})
    node_proposes(desk, COUNCIL, "BOOT_LICENSE_GRANTED", {})
    electors = [KEYS[name].principal for name in ("ed", "eli", "eva")]
    formation = {"optional_roles": ["scribe"], "until_ms": 4_071_213_000_000}
    inputs = {"roles": ["tech-lead"], "electorate": electors, "threshold": 2, "formation": formation}
    node_proposes(desk, COUNCIL, "COUNCIL_PROFILES_LOADED", inputs)


async def register(ask: Caller, agent: str, token: str = FLEET, **more: Any) -> Reply:
    body = {"agent_id": agent, "capabilities": ["golang"], "endpoint": f"http://{agent}:8081", "load": 0.25, **more}
    return await ask.post("/api/v1/agents/register", body, **bearer(token))


async def claim(ask: Caller, agent: str, role: str, token: str = FLEET, council: str = COUNCIL) -> Reply:
    body = {"agent_id": agent, "role_name": role, "confidence": 0.87}
    return await ask.post(f"/api/v1/councils/{council}/claims", body, **bearer(token))


# --- projects and opportunities ---------------------------------------------------------------------------------------


async def test_an_opportunity_for_a_project_nobody_knows_creates_it_with_its_roles(desk: Desk, ask: Caller) -> None:
    first = await ask.post("/api/v1/opportunities/council", OPPORTUNITY, **bearer(DEV))
    assert first.status == 201
    assert (first.body["council_id"], first.body["status"], first.body["duplicate"]) == (COUNCIL, "forming", False)
    meta = regions(desk).meta
    assert (meta.planned_roles, meta.repository) == (("tech-lead",), "https://git.example/atlas")
    assert meta.formation is not None and meta.formation.optional_roles == ("scribe",)
    again = await ask.post("/api/v1/opportunities/council", OPPORTUNITY, **bearer(DEV))
    assert (again.status, again.body["duplicate"], again.body["state_hash"]) == (200, True, first.body["state_hash"])


async def test_an_opportunity_for_a_project_that_is_known_opens_an_election_once(desk: Desk, ask: Caller) -> None:
    await forming(desk, ask)
    again = await ask.post("/api/v1/opportunities/council", OPPORTUNITY, **bearer(DEV))
    assert (again.status, again.body["duplicate"], regions(desk).council.election) == (200, True, 1)
    other = {**OPPORTUNITY, "core_roles": [{"role_name": "dev", "required": True}]}
    fresh = await ask.post("/api/v1/opportunities/council", other, **bearer(SERVICE))
    # One node in this harness is too few to be an electorate.
    assert (fresh.status, fresh.body["failing_guard"]) == (409, "electorate_valid")


async def test_a_project_is_made_of_what_is_said_and_of_the_core_roles(desk: Desk, ask: Caller) -> None:
    body = {"name": "Lyra", "description": "Strings\u0000 and \ud800 things", "priority": 1.5}
    made = await ask.post("/api/v1/projects", json.dumps(body).encode(), **bearer(SERVICE))
    assert made.status == 201
    name = made.body["id"]
    assert name.startswith("lyra-")
    held = regions(desk, name)
    assert (held.meta.planned_roles, held.meta.brief) == (("tech-lead", "dev"), "Strings and ? things")
    taken = await ask.post("/api/v1/projects", {"id": name, "description": "mine"}, **bearer(DEV))
    assert (taken.status, taken.body["code"]) == (409, "WRONG_PHASE")
    one = await ask.get(f"/api/v1/projects/{name}", **bearer(FLEET))
    assert (one.status, one.body["brief"], one.body["status"]) == (200, "Strings and ? things", "boot")
    every = await ask.get("/api/v1/projects?limit=1", **bearer(FLEET))
    assert (every.body["total"], [row["id"] for row in every.body["projects"]]) == (1, [name])
    assert (await ask.get("/api/v1/projects/nobody", **bearer(FLEET))).status == 404


# --- agents -----------------------------------------------------------------------------------------------------------


async def test_an_agent_registers_and_stays(desk: Desk, ask: Caller) -> None:
    first = await register(ask, "chorus-7", multiaddrs=["/ip4/10.0.0.7/tcp/9000"], transport="quic")
    assert (first.status, first.body["agent_id"], first.body["duplicate"]) == (201, "chorus-7", False)
    again = await register(ask, "chorus-7", multiaddrs=["/ip4/10.0.0.7/tcp/9000"], transport="quic")
    assert (again.status, again.body["duplicate"]) == (200, True)
    busy = await ask.post("/api/v1/agents/chorus-7/status", {"status": "busy", "load": 0.9}, **bearer(SEVEN))
    assert (busy.status, busy.body["duplicate"]) == (200, False)
    (seen,) = (await ask.get("/api/v1/agents", **bearer(DEV))).body["agents"]
    assert (seen["agent_id"], seen["status"], seen["capabilities"]) == ("chorus-7", "busy", ["golang"])
    (peer,) = (await ask.get("/api/v1/bootstrap-peers", **bearer(FLEET))).body["bootstrap_peers"]
    assert (peer["transport"], peer["multiaddrs"]) == ("quic", ["/ip4/10.0.0.7/tcp/9000"])
    assert (await ask.get("/api/v1/topology", **bearer(FLEET))).body["nodes"] == [peer]
    told = await ask.get("/api/v1/assignments/chorus-7", **bearer(SEVEN))
    assert (told.status, told.body["assignments"], told.body["bootstrap_peers"]) == (200, [], [peer])
    assert (await ask.get("/api/v1/assignments/nobody", **bearer(SEVEN))).status == 404
    assert (await ask.post("/api/v1/agents/nobody/status", {}, **bearer(FLEET))).status == 404


# --- claims -----------------------------------------------------------------------------------------------------------


async def test_a_role_is_claimed_by_a_registered_agent_and_its_profile_is_told(desk: Desk, ask: Caller) -> None:
    await forming(desk, ask)
    stranger = await claim(ask, "chorus-7", "tech-lead")
    assert (stranger.status, "not registered" in stranger.body["error"]) == (404, True)
    await register(ask, "chorus-7")
    await register(ask, "chorus-8")
    first = await claim(ask, "chorus-7", "tech-lead", SEVEN)
    assert (first.status, first.body["status"], first.body["role_profile"]["display_name"]) == (
        *(201, "accepted", "Tech lead"),
    )
    assert first.body["ucxl_address"] == f"ucxl://chorus-7:tech-lead@{COUNCIL}:council/*^/"
    again = await claim(ask, "chorus-7", "tech-lead")
    assert (again.status, again.body["duplicate"]) == (200, True)
    assert (await claim(ask, "chorus-8", "tech-lead")).status == 409
    assert (await claim(ask, "chorus-8", "cook")).status == 404
    assert (await claim(ask, "chorus-8", "scribe", council="nobody")).status == 404
    assert (await claim(ask, "chorus-8", "scribe")).status == 201
    claims = regions(desk).council.claims
    assert {role: held.principal for role, held in claims.items()} == {
        "tech-lead": "whoosh:chorus-7",
        "scribe": "whoosh:chorus-8",
    }
    shown = (await ask.get(f"/api/v1/councils/{COUNCIL}", **bearer(FLEET))).body
    assert [(role["role_name"], role["status"], role["agent_id"]) for role in shown["core_roles"]] == [
        ("tech-lead", "claimed", "chorus-7")
    ]
    assert (shown["status"], shown["optional_roles"][0]["required"]) == ("forming", False)


async def test_no_token_speaks_for_another_agent(desk: Desk, ask: Caller) -> None:
    await forming(desk, ask)
    await register(ask, "chorus-8")
    before = desk.head(COUNCIL)
    foreign = await claim(ask, "chorus-8", "tech-lead", SEVEN)
    assert (foreign.status, foreign.body["code"], desk.head(COUNCIL)) == (403, "NOT_AUTHORISED", before)


# --- what is not served -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), sorted(ROUTES), ids=lambda part: part.strip("/").replace("/", "-"))
async def test_what_is_not_served_says_why_and_what_serves_instead(method: str, path: str, ask: Caller) -> None:
    reply = await ask(method, path, {} if method == "POST" else None)
    assert reply.status == 501
    assert {"error", "reason", "contact"} <= reply.body.keys()


_ = (asyncio, certificate, Elector, proposal, ProposalItem, running, turns)
