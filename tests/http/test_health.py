"""Health for monitors, probes for load balancers, and what a cold node refuses."""

from types import SimpleNamespace

import pytest

from cluster.breaker import FAILURES
from cluster.raft.driver import Role
from tests.http.conftest import Caller
from tests.http.desk import Desk

PROBES = ("/health/live", "/health/ready", "/leader", "/follower")


async def test_health_has_the_brief_s_and_v1_s_fields(desk: Desk, ask: Caller) -> None:
    body = (await ask.get("/health")).body
    assert {"status", "consensus", "lastSnapshotHLC", "walLag"} <= set(body), "Brief §5"
    assert {"licensed", "quarantined", "degraded", "recovering", "hlc_last", "state_hash"} <= set(body), "v1.0.0"
    assert body["status"] == "healthy" and body["walLag"] == 0
    assert body["consensus"]["faults_left"] == 1 and len(body["consensus"]["peers"]) == 2
    assert body["cluster_hash"] == desk.machine.cluster_hash and body["insecure"] is False


async def test_it_shows_what_may_leave_and_what_is_wrong_outside(desk: Desk, ask: Caller) -> None:
    desk.keeper.closed, desk.keeper.seconds_left = (lambda project: "license lic is denied"), (lambda: 7.5)
    desk.providers = (SimpleNamespace(name="kaching", trouble="no word"), SimpleNamespace(name="mcp", trouble=None))
    for _ in range(FAILURES):
        desk.keeper.breaker("kaching", "https://authority.example").failed()
    body = (await ask.get("/health")).body
    assert body["outbound"] == "license lic is denied"
    assert body["providers"] == {"kaching": "no word", "mcp": None}
    assert list(body["breakers"]) == ["kaching at authority.example:443"]
    assert "failed 5 times in a row" in body["breakers"]["kaching at authority.example:443"]
    shown = (await ask.get("/metrics")).text.splitlines()
    for sample in ("swoosh_outbound_open 0.0", "swoosh_outbound_left_seconds 7.5", "swoosh_outbound_breakers_open 1.0"):
        assert sample in shown
    assert 'swoosh_provider_ok{provider="kaching"} 0.0' in shown
    desk.keeper.closed = lambda project: None
    assert (await ask.get("/health")).body["outbound"] == "open"


@pytest.mark.parametrize(
    ("down", "leader", "status", "faults_left"),
    [
        ((), "n1", "healthy", 1),
        (("n2",), "n1", "degraded", 0),
        (("n2", "n3"), "n1", "no_leader", 0),
        ((), None, "no_leader", 1),
    ],
)
async def test_status_follows_the_group(
    desk: Desk, ask: Caller, down: tuple[str, ...], leader: str | None, status: str, faults_left: int
) -> None:
    desk.raft.down, desk.raft.leader = set(down), leader  # type: ignore[assignment]
    body = (await ask.get("/health")).body
    assert (body["status"], body["consensus"]["faults_left"]) == (status, faults_left)


async def test_health_of_a_project_nobody_created_is_null(ask: Caller) -> None:
    body = (await ask.get("/health?project=nowhere")).body
    assert body["state_hash"] is None and body["licensed"] is None and body["status"] == "healthy"


async def test_a_cold_node_is_alive_and_says_what_is_missing(desk: Desk, ask: Caller) -> None:
    desk.caught_up, desk.missing = False, ["catching up with the leader's commit index"]
    health = await ask.get("/health")
    assert health.status == 200 and health.body["status"] == "cold" and health.body["state_hash"] is None
    assert (await ask.get("/health/live")).status == 200
    assert (await ask.get("/metrics")).status == 200
    for path in ("/state", "/projects", "/wal", "/rejections", "/transitions/k"):
        reply = await ask.get(path)
        assert reply.status == 503 and reply.headers["Retry-After"], path
        assert (reply.body["status"], reply.body["missing"]) == ("cold", desk.missing), path
        assert (reply.body["code"], reply.body["admitted"]) == ("COLD", False), path
        assert reply.headers["X-Swoosh-State-Hash"] == "", path
    written = await ask.post("/transition", desk.created("apollo"))
    assert (written.status, written.body["code"]) == (503, "COLD")
    for path in ("/health/ready", "/leader", "/follower"):
        assert (await ask.get(path)).status == 503, path


async def test_probes_follow_the_role(desk: Desk, ask: Caller) -> None:
    assert (await ask.get("/leader")).status == 200
    assert (await ask.get("/follower")).status == 503
    desk.raft.role, desk.raft.leader = Role.FOLLOWER, "n2"
    assert (await ask.get("/leader")).status == 503
    assert (await ask.get("/follower")).status == 200


async def test_ready_may_ask_for_a_lag(desk: Desk, ask: Caller) -> None:
    desk.raft.behind = 7
    assert (await ask.get("/health/ready")).status == 200
    assert (await ask.get("/health/ready?max_lag=7")).status == 200
    lagging = await ask.get("/health/ready?max_lag=6")
    assert lagging.status == 503 and lagging.text == "7 entries behind\n"


async def test_health_says_in_words_what_is_wrong(desk: Desk, ask: Caller) -> None:
    well = (await ask.get("/health")).body
    assert (well["status"], well["reason"]) == ("healthy", None)
    desk.disk.trouble, desk.raft.stalled_s = "stalled: disk; a sync has taken 0.3 s so far", 0.3
    stalled = (await ask.get("/health")).body
    assert (stalled["status"], stalled["reason"]) == ("degraded", desk.disk.trouble)
    assert "swoosh_disk_stalled_seconds 0.3" in (await ask.get("/metrics")).text


async def test_a_node_that_leaves_asks_its_callers_to_connect_elsewhere(desk: Desk, ask: Caller) -> None:
    assert "Connection" not in (await ask.get("/state")).headers
    desk.stopping = True
    assert (await ask.get("/state")).headers["Connection"] == "close"


async def test_a_node_that_leaves_is_no_longer_ready(desk: Desk, ask: Caller) -> None:
    desk.missing = ["shutting down"]
    assert (await ask.get("/health/ready")).text == "shutting down\n"
    assert (await ask.get("/leader")).status == 503
    assert (await ask.get("/health")).body["status"] == "degraded"


@pytest.mark.parametrize("path", PROBES)
async def test_probes_take_head_and_options(ask: Caller, path: str) -> None:
    asked = await ask("GET", path)
    head = await ask("HEAD", path)
    assert (head.status, head.text) == (asked.status, "")
    options = await ask("OPTIONS", path)
    assert options.status == 200 and options.headers["Allow"] == "GET, HEAD, OPTIONS"
