"""What callers of WHOOSH ask for, one story for each route, and what bad requests come to."""

import hashlib
import hmac
import json
from typing import Any

import aiohttp
import pytest

from cluster.callers import Access
from cluster.callers import Caller as Who
from cluster.http.whoosh.unserved import ROUTES
from cluster.profiles import Profile
from cluster.vault import Secret
from cluster.whoosh import Whoosh
from swoosh import quorum, signing
from swoosh.entry import FactItem, ProposalItem
from swoosh.hashing import digest
from swoosh.outcome import Accepted
from swoosh.state import ProjectRegions
from tests.http.conftest import Caller, Reply, Serve
from tests.http.desk import KEYS, Desk

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
    return Desk(whoosh=WHOOSH, settings={"window_source": "always_open"})


@pytest.fixture
async def ask(desk: Desk, serve: Serve) -> Caller:
    return await serve(desk)


def bearer(token: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {token}"}}


def regions(desk: Desk, project: str = COUNCIL) -> ProjectRegions:
    held = desk.machine.project(project)
    assert held is not None and isinstance(held.regions, ProjectRegions)
    return held.regions


def states(desk: Desk, kind: str, subject: str, body: dict[str, Any]) -> None:
    """A provider's fact."""
    item = desk.admission.fact(desk.fact(kind, subject, body))
    assert isinstance(item, FactItem)
    desk._judge(item, False)


def proposes(desk: Desk, transition: str, inputs: dict[str, Any], by: str = "node", project_id: str = COUNCIL) -> None:
    """What the steward, a worker or an elector's proposer would."""
    project = desk.machine.project(project_id)
    assert project is not None
    sent = desk.voice.document(project, transition, inputs, key="k", window_id="w")
    draft = {name: value for name, value in sent.items() if name != "signature"}
    draft |= {"signer": KEYS[by].principal, "idem_key": f"{transition}:{project.seq}"}
    item = desk.admission.proposal(desk.signed(draft))
    assert isinstance(item, ProposalItem), item
    (outcome,) = desk._judge(item, False)
    assert isinstance(outcome, Accepted), outcome


async def forming(desk: Desk, ask: Caller) -> None:
    """The council of OPPORTUNITY, open for claims, as the steward brings it there."""
    until = desk.clock.wall_us() // 1000 + 60_000
    states(desk, "license", desk.cluster_id, {"license_id": "l", "status": "active", "valid_until": until})
    created = await ask.post("/api/v1/opportunities/council", OPPORTUNITY, **bearer(DEV))
    assert created.status == 201, created.body
    proposes(desk, "BOOT_CONFIGURED", {"chart_hash": desk.chart.hash})
    proposes(desk, "BOOT_LICENSE_GRANTED", {})
    electors = [KEYS[name].principal for name in ("ed", "eli", "eva")]
    formation = {"optional_roles": ["scribe"], "until_ms": 4_071_213_000_000}
    inputs = {"roles": ["tech-lead"], "electorate": electors, "threshold": 2, "formation": formation}
    proposes(desk, "COUNCIL_PROFILES_LOADED", inputs)


async def working(desk: Desk, ask: Caller) -> None:
    """The same council at work: two agents seated, two tasks in a locked plan."""
    await forming(desk, ask)
    for agent, role in (("chorus-7", "tech-lead"), ("chorus-8", "scribe")):
        await register(ask, agent)
        assert (await claim(ask, agent, role)).status == 201
    proposes(desk, "COUNCIL_QUORUM_CERT", _certificate(desk), by="proposer")
    corpus, environment = digest("test", "corpus"), digest("test", "environment")
    assert (await ingest(ask, {"project_id": COUNCIL, "sources": ["https://git.example/atlas"]})).status == 200
    proposes(desk, "INGESTION_FETCHED", {"content_hash": corpus}, by="proposer")
    proposes(desk, "INGESTION_VALIDATED", {"outcomes": {"schema": "ok"}}, by="proposer")
    proposes(desk, "INGESTION_INDEXED", {"content_hash": corpus}, by="proposer")
    states(desk, "tool", "git", {"reachable": True, "version": "2"})
    proposes(desk, "COUNCIL_TOOLING_SYNCED", {"content_hash": corpus, "pins": {"git": "2"}}, by="proposer")
    states(desk, "capacity", "default", {"units_free": 9})
    vm = {"name": "vm", "kind": "vm", "units": 1}
    proposes(desk, "ENVIRONMENT_CAPACITY_ALLOCATED", {"assets": [vm]}, by="proposer")
    proposes(desk, "ENVIRONMENT_EFFECT_REQUESTED", {"asset": "vm", "effect": "up"}, by="proposer")
    receipt = {"asset": "vm", "effect": "up", "receipt": digest("test", "receipt")}
    proposes(desk, "ENVIRONMENT_EFFECT_CONFIRMED", receipt, by="proposer")
    proposes(desk, "ENVIRONMENT_PROVISIONED", {"environment_hash": environment}, by="proposer")
    states(desk, "health", COUNCIL, {"status": "green"})
    proposes(desk, "ENVIRONMENT_HEALTHY", {"content_hash": corpus}, by="proposer")
    pins = {
        "content_hash": corpus,
        "member_set_hash": regions(desk).council.member_set_hash,
        "environment_hash": environment,
    }
    proposes(desk, "EXECUTION_BEGUN", pins, by="proposer")
    tasks = {"survey": "Survey the archive", "index.all": "Index everything"}
    proposes(
        desk, "EXECUTION_PLAN_LOCKED", {**pins, "plan_hash": digest("test", "plan"), "tasks": tasks}, by="proposer"
    )


def _certificate(desk: Desk) -> dict[str, Any]:
    council = regions(desk).council
    held = quorum.member_set_hash((role, each.agent, each.principal) for role, each in council.claims.items())
    covered = signing.vote_preimage(desk.cluster_id, COUNCIL, council.election, held, quorum.APPROVE)
    votes = [
        {"voter": KEYS[name].principal, "vote": quorum.APPROVE, "signature": KEYS[name].sign(covered)}
        for name in ("ed", "eli")
    ]
    return {"election": council.election, "member_set_hash": held, "threshold": 2, "votes": votes}


async def ingest(ask: Caller, body: dict[str, Any]) -> Reply:
    return await ask.post("/api/v1/tasks/ingest", body, **bearer(SERVICE))


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


# --- tasks and teams --------------------------------------------------------------------------------------------------


async def work(ask: Caller, what: str, task: str, agent: str, **more: Any) -> Reply:
    body = {"agent_id": agent, "progress": 0.5, **more}
    return await ask.post(f"/api/v1/tasks/{COUNCIL}.{task}/{what}", body, **bearer(FLEET))


async def test_tasks_are_listed_claimed_and_completed(desk: Desk, ask: Caller) -> None:
    await working(desk, ask)
    listed = (await ask.get("/api/v1/tasks?status=open&limit=1", **bearer(FLEET))).body
    assert (listed["total"], [row["id"] for row in listed["tasks"]]) == (2, [f"{COUNCIL}.index.all"])
    first = await work(ask, "claim", "index.all", "chorus-7")
    assert (first.status, first.body["status"], first.body["claimed_by"]) == (200, "claimed", "chorus-7")
    again = await work(ask, "claim", "index.all", "chorus-7")
    assert (again.status, again.body["duplicate"]) == (200, True)
    assert (await work(ask, "claim", "index.all", "chorus-8")).status == 409
    assert (await work(ask, "claim", "survey", "stranger")).body["failing_guard"] == "agent_seated"
    done = await work(ask, "complete", "index.all", "chorus-7", result="all of it", artifacts=["ucxl://a:b@c:d/*^/e"])
    assert (done.status, done.body["evidence"]) == (200, "ucxl://a:b@c:d/*^/e")
    again = await work(ask, "complete", "index.all", "chorus-7", result="all of it", artifacts=["ucxl://a:b@c:d/*^/e"])
    assert (again.status, again.body["duplicate"]) == (200, True)
    one = (await ask.get(f"/api/v1/tasks/{COUNCIL}.index.all", **bearer(FLEET))).body
    assert (one["status"], one["evidence"]) == ("completed", "ucxl://a:b@c:d/*^/e")
    assert (await ask.get(f"/api/v1/tasks/{COUNCIL}.nothing", **bearer(FLEET))).status == 404
    assert (await work(ask, "claim", "nothing", "chorus-7")).status == 404
    assert (await ask.get("/api/v1/tasks?status=done", **bearer(FLEET))).status == 400
    made = (await ask.get(f"/api/v1/councils/{COUNCIL}/artifacts", **bearer(FLEET))).body["artifacts"]
    assert [(each["kind"], each["task"], each["agent_id"]) for each in made] == [("task", "index.all", "chorus-7")]


async def test_a_task_that_was_given_back_is_claimed_anew_by_the_same_words(desk: Desk, ask: Caller) -> None:
    await working(desk, ask)
    first = await work(ask, "claim", "survey", "chorus-7")
    proposes(desk, "EXECUTION_TASK_RELEASED", {"task": "survey"}, by="operator")
    again = await work(ask, "claim", "survey", "chorus-7")
    assert (first.body["duplicate"], again.body["duplicate"]) == (False, False)
    assert regions(desk).execution.tasks["survey"].owner == "whoosh:chorus-7"


async def test_a_result_without_a_reference_is_kept_by_its_hash(desk: Desk, ask: Caller) -> None:
    await working(desk, ask)
    await work(ask, "claim", "survey", "chorus-7")
    done = await work(ask, "complete", "survey", "chorus-7", result="42 maps", artifacts=[])
    assert (done.status, done.body["evidence"]) == (200, digest("legacy-result", "42 maps"))


async def test_a_team_is_read_and_submits_in_reverb_only(desk: Desk, ask: Caller) -> None:
    await working(desk, ask)
    team = (await ask.get(f"/api/v1/teams/{COUNCIL}", **bearer(DEV))).body
    assert (team["status"], team["phase"], team["tasks"]) == ("active", "work", {"total": 2, "completed": 0})
    path, body = f"/api/v1/teams/{COUNCIL}/submissions", {"agent_id": "chorus-7", "artifacts": ["sha256-" + "a" * 64]}
    early = await ask.post(path, body, **bearer(FLEET))
    assert (early.status, early.body["code"]) == (400, "WRONG_PHASE")
    for task in ("survey", "index.all"):
        await work(ask, "claim", task, "chorus-7")
        await work(ask, "complete", task, "chorus-7")
    proposes(desk, "EXECUTION_REVIEW_OPENED", {}, by="proposer")
    for task in ("survey", "index.all"):
        assert (await work(ask, "review", task, "chorus-7", verdict="approve")).body["failing_guard"] == "not_own_work"
        assert (await work(ask, "review", task, "chorus-8", verdict="maybe")).status == 400
        assert (await work(ask, "review", task, "chorus-8", verdict="approve")).body["duplicate"] is False
        assert (await work(ask, "review", task, "chorus-8", verdict="approve")).body["duplicate"] is True
    proposes(desk, "EXECUTION_APPROVED", {}, by="proposer")
    sent = await ask.post(path, body, **bearer(FLEET))
    assert (sent.status, sent.body["artifacts"]) == (200, ["sha256-" + "a" * 64])
    again = await ask.post(path, body, **bearer(FLEET))
    assert (again.status, again.body["duplicate"]) == (200, True)
    (held,) = regions(desk).execution.submissions
    assert held.submitter == "whoosh:chorus-7"
    assert (await ask.post("/api/v1/teams/nobody/submissions", body, **bearer(FLEET))).status == 404
    assert (await ask.get("/api/v1/teams/nobody", **bearer(FLEET))).status == 404


async def test_activity_is_a_stream_of_what_was_accepted(desk: Desk, ask: Caller) -> None:
    await forming(desk, ask)
    await register(ask, "chorus-7")
    url = f"{ask.base}/api/v1/teams/{COUNCIL}/activity"
    async with ask.session.ws_connect(url, **bearer(FLEET)) as socket:
        assert (await claim(ask, "chorus-7", "tech-lead")).status == 201
        message = json.loads(await socket.receive_str(timeout=10))
        assert (message["transition_name"], message["on_behalf_of"]) == ("COUNCIL_ROLE_CLAIMED", "whoosh:chorus-7")
        await socket.close()
    plain = await ask.get(f"/api/v1/teams/{COUNCIL}/activity", **bearer(FLEET))
    assert (plain.status, "WebSocket" in plain.body["error"]) == (400, True)
    with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
        await ask.session.ws_connect(f"{ask.base}/api/v1/teams/nobody/activity", **bearer(FLEET))


# --- issues -----------------------------------------------------------------------------------------------------------

ISSUE = {
    "action": "opened",
    "issue": {
        "number": 12,
        "title": "Design Brief: Survey",
        "body": "Index the survey archive.",
        "html_url": "https://git.example/chorus/Atlas/issues/12",
        "labels": [{"name": "chorus-entrypoint"}],
    },
    "repository": {
        "name": "Atlas",
        "full_name": "chorus/Atlas",
        "html_url": "https://git.example/chorus/Atlas",
        "clone_url": "https://git.example/chorus/Atlas.git",
    },
}


ISSUE_SOURCES = ["https://git.example/chorus/Atlas/issues/12", "https://git.example/atlas"]


async def webhook(ask: Caller, body: dict[str, Any], secret: str = "s3cret-of-gitea", event: str = "issues") -> Reply:
    data = json.dumps(body).encode()
    mac = hmac.new(secret.encode(), data, hashlib.sha256).hexdigest()
    headers = {"X-Gitea-Event": event, "X-Gitea-Signature": mac, "Content-Type": "application/json"}
    return await ask.post("/webhooks/gitea", data, headers=headers)


async def test_a_design_brief_begins_a_project_once(desk: Desk, ask: Caller) -> None:
    first = await webhook(ask, ISSUE)
    assert (first.status, first.body["project_id"]) == (201, "chorus.atlas-12")
    replayed = await webhook(ask, ISSUE)
    assert (replayed.status, replayed.body["duplicate"]) == (200, True)
    meta = regions(desk, "chorus.atlas-12").meta
    assert (meta.planned_roles, meta.repository) == (("tech-lead", "dev"), "https://git.example/chorus/Atlas.git")
    assert meta.brief == "Design Brief: Survey\n\nIndex the survey archive."
    assert meta.formation is not None and meta.formation.optional_roles == ("scribe",)


async def test_an_issue_of_no_interest_is_ignored_without_an_error(desk: Desk, ask: Caller) -> None:
    for body, event in (
        (ISSUE, "push"),
        ({**ISSUE, "action": "closed"}, "issues"),
        ({**ISSUE, "issue": {**ISSUE["issue"], "labels": []}}, "issues"),  # type: ignore[dict-item]
    ):
        reply = await webhook(ask, body, event=event)
        assert (reply.status, reply.body["ignored"]) == (200, True)
    assert desk.machine.project("chorus.atlas-12") is None


async def test_a_task_issue_names_what_its_project_takes_in(desk: Desk, ask: Caller) -> None:
    await forming(desk, ask)
    issue = {**ISSUE["issue"], "labels": [{"name": "bzzz-task"}]}  # type: ignore[dict-item]
    stranger = await webhook(ask, {**ISSUE, "issue": issue})
    assert stranger.status == 404
    here = {"name": "atlas", "full_name": "chorus/atlas", "html_url": "https://git.example/atlas"}
    taken = await webhook(ask, {**ISSUE, "issue": issue, "repository": here})
    assert (taken.status, taken.body["sources"]) == (200, ISSUE_SOURCES)
    assert regions(desk).ingestion.phase == "FETCH"
    again = await webhook(ask, {**ISSUE, "issue": issue, "repository": here})
    assert (again.status, again.body["duplicate"]) == (200, True)


async def test_a_build_that_failed_is_begun_again_by_the_same_words(desk: Desk, ask: Caller) -> None:
    await forming(desk, ask)
    body = {"project_id": COUNCIL, "sources": ["https://git.example/atlas"]}
    assert (await ingest(ask, body)).body["duplicate"] is False
    assert (await ingest(ask, body)).body["duplicate"] is True
    proposes(desk, "INGESTION_FAILED", {"reason": "no network"}, by="proposer")
    assert (await ingest(ask, body)).body["duplicate"] is False
    assert (await ingest(ask, {"sources": ["x"]})).status == 404
    assert (await ingest(ask, {"project_id": COUNCIL})).status == 400


# --- repeats ----------------------------------------------------------------------------------------------------------


async def test_asking_again_after_a_reelection_is_a_new_request(desk: Desk, ask: Caller) -> None:
    await forming(desk, ask)
    await register(ask, "chorus-7")
    first = await claim(ask, "chorus-7", "tech-lead")
    proposes(desk, "COUNCIL_REELECTION_CALLED", {"reason": "anew"}, by="operator")
    assert regions(desk).council.claims == {}
    again = await claim(ask, "chorus-7", "tech-lead")
    assert (first.body["duplicate"], again.status, again.body["duplicate"]) == (False, 201, False)


async def test_a_key_of_the_callers_own_names_his_request_whatever_its_body(desk: Desk, ask: Caller) -> None:
    mine = {"headers": {"Authorization": f"Bearer {DEV}", "Idempotency-Key": "steward:mine"}}
    first = await ask.post("/api/v1/projects", {"id": "lyra", "description": "a"}, **mine)
    again = await ask.post("/api/v1/projects", {"id": "lyra", "description": "a", "sent_at": 2.5}, **mine)
    assert (first.status, again.status, again.body["duplicate"]) == (201, 200, True)
    assert first.body["idem_key"].startswith("legacy:")


async def test_a_key_of_the_callers_own_is_good_for_one_thing(desk: Desk, ask: Caller) -> None:
    await forming(desk, ask)
    await register(ask, "chorus-7")
    mine = {"headers": {"Authorization": f"Bearer {SEVEN}", "Idempotency-Key": "claim-1"}}
    path = f"/api/v1/councils/{COUNCIL}/claims"
    first = await ask.post(path, {"role_name": "tech-lead"}, **mine)
    again = await ask.post(path, {"role_name": "tech-lead", "confidence": 0.5}, **mine)
    other = await ask.post(path, {"role_name": "scribe"}, **mine)
    assert (first.status, again.status, again.body["duplicate"]) == (201, 200, True)
    assert (other.status, other.body["code"]) == (400, "IDEM_KEY_REUSED")
    elsewhere = await ask.post("/api/v1/agents/chorus-7/status", {"status": "busy"}, **mine)
    assert elsewhere.status == 200


async def test_nodes_that_read_a_moment_apart_do_one_thing_for_one_request(desk: Desk, ask: Caller) -> None:
    """The deadline is made at the node: two nodes asked at once make two of them, and one is kept."""
    body = {key: value for key, value in OPPORTUNITY.items() if key != "formation_deadline"}
    replies = [await ask.post("/api/v1/opportunities/council", body, **bearer(DEV)) for _ in range(10)]
    assert [reply.status for reply in replies] == [201, *[200] * 9]
    assert len({reply.body["state_hash"] for reply in replies}) == 1


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "token", "status", "code"),
    [
        ("/api/v1/projects", {"description": "no name"}, DEV, 400, "MALFORMED"),
        ("/api/v1/projects", [1], DEV, 400, "MALFORMED"),
        ("/api/v1/projects", {"id": "lyra"}, FLEET, 403, "NOT_AUTHORISED"),
        ("/api/v1/projects", {"id": "lyra"}, "nobody", 401, "UNSIGNED"),
        ("/api/v1/agents/register", {"agent_id": "with space"}, FLEET, 400, "MALFORMED"),
        ("/api/v1/agents/register", {}, FLEET, 400, "MALFORMED"),
        ("/api/v1/agents/chorus-8/status", {}, SEVEN, 403, "NOT_AUTHORISED"),
        (f"/api/v1/councils/{COUNCIL}/claims", {"agent_id": "a", "role_name": "r"}, FLEET, 404, "NOT_FOUND"),
        (f"/api/v1/councils/{COUNCIL}/claims", {"agent_id": "a"}, FLEET, 400, "MALFORMED"),
        ("/api/v1/tasks/ingest", {"project_id": "nobody", "sources": ["x"]}, SERVICE, 404, "NOT_FOUND"),
        ("/api/v1/tasks/ingest", {"project_id": "nobody", "sources": ["x"]}, DEV, 403, "NOT_AUTHORISED"),
    ],
)
async def test_a_bad_request_changes_nothing(
    path: str, body: Any, token: str, status: int, code: str, desk: Desk, ask: Caller
) -> None:
    before = desk.machine.cluster_hash
    reply = await ask.post(path, body, **bearer(token))
    assert (reply.status, reply.body["code"]) == (status, code)
    assert desk.machine.cluster_hash == before


@pytest.mark.parametrize(
    ("body", "media", "status"),
    [
        (b"{}", "text/plain", 415),
        (b"{", "application/json", 400),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "application/json", 413),
        (b"[" * 100_000, "application/json", 400),
        (b'{"id":"' + b"x" * 300_000 + b'"}', "application/json", 413),
    ],
)
async def test_a_body_out_of_bounds_is_not_read(body: bytes, media: str, status: int, ask: Caller) -> None:
    headers = {"Authorization": f"Bearer {DEV}", "Content-Type": media}
    assert (await ask.post("/api/v1/projects", body, headers=headers)).status == status


# --- what is not served -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), sorted(ROUTES), ids=lambda part: part.strip("/").replace("/", "-"))
async def test_what_is_not_served_says_why_and_what_serves_instead(method: str, path: str, ask: Caller) -> None:
    reply = await ask(method, path, {} if method == "POST" else None)
    assert reply.status == 501
    assert {"error", "reason", "contact"} <= reply.body.keys()


async def test_what_is_refused_is_one_line_of_the_log(ask: Caller, capsys: pytest.CaptureFixture[str]) -> None:
    await ask.post("/api/v1/projects", {"id": "lyra"}, **bearer(FLEET))
    await ask.get("/api/v1/councils/nobody", **bearer(FLEET))
    lines = [line for line in capsys.readouterr().out.splitlines() if "refused" in line]
    assert [("NOT_AUTHORISED" in line, "NOT_FOUND" in line) for line in lines] == [(True, False), (False, True)]
