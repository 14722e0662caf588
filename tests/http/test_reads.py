"""Reads: state with its hashes, projects, records, and how stale each may be."""

import asyncio
import json
from collections.abc import Iterator

import msgspec
import pytest

from cluster.answers import not_admitted
from cluster.clock import SystemClock
from cluster.http.state import SLICE_BYTES
from swoosh import limits, state
from swoosh.hashing import PREFIX
from swoosh.merkle import MerkleMap
from swoosh.outcome import Code, Refused
from tests.http.conftest import Caller, Serve
from tests.http.desk import Desk

V1_REGIONS = {"Meta", "Boot", "Ingestion", "Council", "Environment", "Execution", "Control", "Policy"}


async def test_state_is_a_superset_of_the_brief_s_and_v1_s(desk: Desk, ask: Caller) -> None:
    reply = await ask.get("/state")
    assert reply.status == 200
    assert reply.body["state_hash"] == reply.body["hash"] == desk.head()
    assert set(reply.body["projection"]) >= V1_REGIONS
    assert reply.body["projection"]["Boot"]["NodeID"] in ("", desk.cluster_id)
    assert reply.body["projection"]["Control"] == {"Paused": False, "Degraded": False, "Recovering": False}
    assert reply.body["collections"] == ["Environment.Assets", "Execution.Tasks"]


async def test_a_reader_can_recompute_the_state_hash(ask: Caller) -> None:
    body = (await ask.get("/state")).body
    assert state.root_hash(body["region_hashes"]) == body["state_hash"]
    assert body["state_hash"].startswith(PREFIX)
    assert set(body["region_hashes"]) == set(body["projection"]) - {"Control"}


class Patient(SystemClock):
    """Counts how often a handler let others go first."""

    pauses = 0

    async def sleep(self, seconds: float) -> None:
        self.pauses += seconds == 0
        await super().sleep(seconds)


async def test_a_large_state_is_written_in_slices(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Patient()
    desk = Desk(clock=clock)
    ask = await serve(desk)
    tasks = MerkleMap({f"task-{number}": state.Task(f"café {number}") for number in range(limits.TASKS_MAX)})
    large = state.new_project("large", state.ProjectRegions(execution=state.Execution(tasks=tasks)))
    monkeypatch.setattr(desk.machine, "project", lambda project_id: large)
    reply = await ask.get("/state?project=large&projection=Execution,Control")
    assert reply.headers["ETag"] == f'W/"{large.state_hash}"' and reply.body["state_hash"] == large.state_hash
    served = reply.body["projection"]["Execution"]["Tasks"]
    assert len(served) == limits.TASKS_MAX and served["task-7"]["Title"] == "café 7"
    slices = len(reply.text.encode()) // (2 * SLICE_BYTES)
    assert clock.pauses >= slices > 3, "between slices others are served"


async def test_projection_matches_names_without_case(ask: Caller) -> None:
    reply = await ask.get("/state?projection=council,%20INGESTION")
    assert list(reply.body["projection"]) == ["Ingestion", "Council"] or set(reply.body["projection"]) == {
        "Ingestion",
        "Council",
    }


async def test_an_unknown_projection_is_named_with_the_list(ask: Caller) -> None:
    reply = await ask.get("/state?projection=Concil")
    assert (reply.status, reply.body["code"]) == (400, "UNKNOWN_PROJECTION")
    assert "Council" in reply.body["reasons"][0]


async def test_the_cluster_s_own_regions_are_served(ask: Caller) -> None:
    body = (await ask.get("/state?project=@cluster")).body
    assert {"Identities", "Flags", "Settings", "Members"} <= set(body["projection"])
    assert "Control" not in body["projection"]


async def test_a_project_never_seen_is_404_with_its_genesis_hash(ask: Caller) -> None:
    reply = await ask.get("/state?project=nowhere")
    assert (reply.status, reply.body["code"]) == (404, "UNKNOWN_PROJECT")
    assert reply.body["genesis_hash"] == reply.body["state_hash"] == state.GENESIS_HASH


async def test_the_same_state_is_not_sent_twice(desk: Desk, ask: Caller) -> None:
    tag = (await ask.get("/state?project=@cluster")).headers["ETag"]
    again = await ask.get("/state?project=@cluster", headers={"If-None-Match": f'"other", {tag}'})
    assert (again.status, again.text) == (304, "") and again.headers["ETag"] == tag
    bare = await ask.get("/state", headers={"If-None-Match": f'"{desk.head()}"'})
    assert bare.status == 304
    assert (await ask.get("/state", headers={"If-None-Match": '"other"'})).status == 200


async def test_state_as_of_an_index_is_not_offered(ask: Caller) -> None:
    reply = await ask.get("/state?at=3")
    assert (reply.status, reply.body["code"]) == (501, "NOT_IMPLEMENTED") and "/wal" in reply.body["reasons"][0]


@pytest.mark.parametrize(
    "query",
    [
        "consistency=eventual",
        "min_index=-1",
        "min_index=x",
        "max_staleness=1.5",
        "project=UPPER",
        "min_index=" + "9" * 40,
    ],
)
async def test_a_misspelt_query_is_refused(ask: Caller, query: str) -> None:
    reply = await ask.get(f"/state?{query}")
    assert (reply.status, reply.body["code"]) == (400, "MALFORMED")


async def test_a_local_read_says_its_age_and_may_be_too_old(desk: Desk, ask: Caller) -> None:
    desk.stale_s = 2.0
    assert (await ask.get("/state?consistency=local")).body["age_ms"] == 2_000
    reply = await ask.get("/state?consistency=local&max_staleness=1")
    assert (reply.status, reply.body["code"]) == (503, "STALE_READ") and reply.body["admitted"] is False


@pytest.mark.parametrize(
    "path", ["/state", "/projects", "/wal", "/decisions", "/decisions/" + "0" * 64, "/transitions/k", "/watch"]
)
async def test_a_read_that_cannot_be_linearizable_is_503(desk: Desk, ask: Caller, path: str) -> None:
    desk.unreadable = not_admitted(Code.NO_LEADER, "election")
    reply = await ask.get(path)
    assert (reply.status, reply.body["code"]) == (503, "NO_LEADER") and reply.headers["Retry-After"]


async def test_projects_are_paged_by_id(desk: Desk, ask: Caller) -> None:
    for name in ("zeus", "apollo", "hera"):
        await ask.post("/transition", desk.created(name))
    first = (await ask.get("/projects?limit=2")).body
    assert [row["project"] for row in first["projects"]] == ["@cluster", "apollo"] and first["next"] == "apollo"
    rest = (await ask.get(f"/projects?limit=10&after={first['next']}")).body
    assert [row["project"] for row in rest["projects"]] == ["default", "hera", "zeus"] and rest["next"] is None
    assert rest["projects"][0]["phases"]["Lifecycle"] == "BOOT"


# --- records ----------------------------------------------------------------------------------------------------------


async def a_history(desk: Desk, ask: Caller) -> list[dict[str, object]]:
    """A project and three settings: three records of @cluster."""
    replies = []
    for number in range(3):
        inputs = {"name": "max_skew_ms", "value": 500 + number}
        draft = desk.draft("SETTING_SET", f"s{number}", by="admin", project="@cluster", inputs=inputs)
        replies.append((await ask.post("/admin/settings", desk.signed(draft))).body)
    return replies


async def test_wal_records_come_in_pages_and_link(desk: Desk, ask: Caller) -> None:
    accepted = await a_history(desk, ask)
    page = (await ask.get("/wal?project=@cluster&limit=2")).body
    assert [record["seq"] for record in page["records"]] == [1, 2] and page["next"] == 3
    rest = (await ask.get("/wal?project=@cluster&limit=2&from=3")).body
    assert [record["state_post_hash"] for record in rest["records"]] == [accepted[2]["state_post_hash"]]
    assert rest["next"] is None
    assert rest["records"][0]["prev_record_hash"] == accepted[1]["record_hash"]


async def test_wal_lines_are_the_hashed_bytes(desk: Desk, ask: Caller) -> None:
    await a_history(desk, ask)
    reply = await ask.get("/wal?project=@cluster", headers={"Accept": "application/x-ndjson"})
    assert reply.text.encode().splitlines() == desk.memory.records["@cluster"]


async def test_decisions_are_found_by_project_and_by_id(desk: Desk, ask: Caller) -> None:
    accepted = await a_history(desk, ask)
    listed = (await ask.get("/decisions?project=@cluster")).body["records"]
    assert [record["dr_id"] for record in listed] == [each["decision"] for each in accepted]
    for spelling in (str(accepted[0]["decision"]), str(accepted[0]["decision"]).removeprefix(PREFIX)):
        found = await ask.get(f"/decisions/{spelling}")
        assert found.status == 200 and found.body == listed[0]


async def test_a_decision_nobody_made(ask: Caller) -> None:
    assert (await ask.get("/decisions/" + "0" * 64)).status == 404
    assert (await ask.get("/decisions/nonsense")).status == 400


async def test_rejections_tell_who_was_refused_and_why(desk: Desk, ask: Caller) -> None:
    await ask.post("/transition", desk.created("apollo", current_state_hash="0" * 64))
    found = (await ask.get("/rejections?project=apollo&limit=5")).body["rejections"]
    assert [each["code"] for each in found] == ["STALE_STATE"] and found[0]["reasons"]


async def test_who_searches_the_rejections_in_vain_holds_nobody_up(
    desk: Desk, ask: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, seen = 0, list[int]()
    search = desk.store.rejections

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    def slices(project: str | None, signer: str | None) -> Iterator[list[bytes]]:
        for matching in search(project, signer):
            seen.append(turns)
            yield matching

    monkeypatch.setattr(desk.store, "rejections", slices)
    for number in range(8):
        desk.store.reject(Refused(Code.WRONG_PHASE, ("x",), f"p{number}"), number)
    beside = asyncio.ensure_future(others())
    try:
        assert (await ask.get("/rejections?project=nobody")).body["rejections"] == []
    finally:
        beside.cancel()
    assert len(set(seen)) == 8, "the loop turned after each slice"
    assert [each["project"] for each in (await ask.get("/rejections?limit=2")).body["rejections"]] == ["p7", "p6"]
    assert len(seen) == 10, "it stops when it has enough"


# --- tokens, routes ---------------------------------------------------------------------------------------------------


async def test_reads_may_need_a_token_but_probes_and_writes_never_do(serve: Serve) -> None:
    desk = Desk(read_tokens=("first", "second"))
    ask = await serve(desk)
    refused = await ask.get("/state")
    assert refused.status == 401 and refused.headers["WWW-Authenticate"] == "Bearer"
    assert (await ask.get("/state", headers={"Authorization": "Bearer wrong"})).status == 401
    assert (await ask.get("/state", headers={"Authorization": "Bearer second"})).status == 200
    for path in ("/health", "/health/live", "/health/ready", "/leader", "/metrics"):
        assert (await ask.get(path)).status == 200, path
    assert (await ask.post("/transition", desk.created("apollo"))).status == 200


async def test_paths_that_are_not_served_say_so_in_json(ask: Caller) -> None:
    reply = await ask.get("/nothing/here", checked=False)
    assert (reply.status, reply.body["code"]) == (404, "NOT_FOUND")
    wrong = await ask.post("/wal", {}, checked=False)
    assert wrong.status == 405 and wrong.headers["Allow"] == "GET,HEAD".replace(",", ", ")
    assert json.loads(wrong.text)["success"] is False


async def test_every_answer_says_where_it_comes_from(desk: Desk, ask: Caller) -> None:
    for path in ("/state", "/nothing", "/health", "/metrics", "/transitions/none", "/state?projection=x"):
        reply = await ask.get(path, checked=False)
        assert reply.headers["X-Swoosh-Node"] == "n1" and reply.headers["X-Swoosh-Leader"] == "n1", path
        assert reply.headers["X-Swoosh-Index"] == str(desk.machine.position.index), path
        assert reply.headers["X-Swoosh-State-Hash"] == desk.head(), path


async def test_an_answer_is_one_json_document(ask: Caller) -> None:
    assert isinstance(msgspec.json.decode((await ask.get("/state")).text), dict)
