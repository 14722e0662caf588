"""The brief's contract (§5, §7, §10) against real processes, spoken by a caller who knows nothing but the brief.

Only HTTP, JSON, SHA-256 and Ed25519 are used: what a caller in another language would have.
"""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

DEADLINE = 30.0
BRIEF_PROPOSAL = {
    *("current_state_hash", "transition", "inputs_hash", "signer"),
    *("idem_key", "hlc", "window_id", "evidence"),
}
BRIEF_WAL = {
    *("state_pre_hash", "transition_name", "inputs_hash", "signer", "idem_key", "hlc", "window_id"),
    *("guard_outcomes", "evidence", "timestamp", "state_post_hash"),
}
BRIEF_METRICS = {
    *("swoosh_transition_total", "swoosh_guard_fail_total", "swoosh_state_advance_latency_seconds_count"),
    *("swoosh_retry_count", "swoosh_quarantine_total", "swoosh_recovery_time_seconds", "swoosh_wal_lag_records"),
}


class Running(Protocol):
    """What this suite needs of a running cluster: where it is, and the keys `swoosh init` made."""

    @property
    def endpoints(self) -> list[str]: ...

    @property
    def keys(self) -> Path: ...


def canonical(value: Any) -> bytes:
    """RFC 8785 for what is sent here: no floats, ASCII keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def typed(kind: str, value: Any) -> bytes:
    return f"swoosh/{kind}/v1\n".encode() + canonical(value)


class Caller:
    """Signs as one identity and asks any node."""

    def __init__(self, session: aiohttp.ClientSession, cluster: Running, cluster_id: str) -> None:
        self.session, self.cluster, self.cluster_id = session, cluster, cluster_id

    def url(self, node: int, path: str) -> str:
        return self.cluster.endpoints[node % len(self.cluster.endpoints)].rstrip("/") + path

    async def get(self, node: int, path: str, **headers: str) -> tuple[int, Any]:
        async with self.session.get(self.url(node, path), headers=headers) as reply:
            text = await reply.text()
            return reply.status, json.loads(text) if reply.content_type == "application/json" else text

    async def post(self, node: int, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Repeats what was not admitted, or whose outcome is unknown, as the brief's idempotency allows."""
        async with asyncio.timeout(DEADLINE):
            while True:
                async with self.session.post(self.url(node, path), json=body, headers=headers) as reply:
                    found = await reply.json()
                    if reply.status != 503:
                        return reply.status, found

    def key(self, name: str) -> Ed25519PrivateKey:
        key = load_pem_private_key((self.cluster.keys / f"{name}.pem").read_bytes(), password=None)
        assert isinstance(key, Ed25519PrivateKey)
        return key

    def signed(self, draft: dict[str, Any], by: str) -> dict[str, Any]:
        key = self.key(by)
        draft = {**draft, "signer": "hmmm:pubkey:ed25519:" + key.public_key().public_bytes_raw().hex()}
        signature = key.sign(typed("proposal", {**draft, "cluster_id": self.cluster_id}))
        return {**draft, "signature": base64.urlsafe_b64encode(signature).rstrip(b"=").decode()}

    def proposal(self, project: str, transition: str, head: str, inputs: Any, by: str = "proposer") -> dict[str, Any]:
        """The brief's eight fields, and beside them the project and the inputs."""
        draft = {
            "current_state_hash": head,
            "transition": transition,
            "inputs_hash": "sha256-" + hashlib.sha256(typed("inputs", inputs)).hexdigest(),
            "idem_key": f"{project}:0:{transition}:7f1c",
            "hlc": datetime.now(UTC).isoformat(timespec="milliseconds") + "#0",
            "window_id": "",
            "evidence": ["ucxl://chorus:spec@council:brief/*^/x.md"],
            "project": project,
            "inputs": inputs,
        }
        return self.signed(draft, by)

    async def booted(self, project: str) -> str:
        """Create the project and wait until the cluster has booted it; the hash it then rests at."""
        await self.post(0, "/transition", self.creation(project))
        async with asyncio.timeout(DEADLINE):
            while True:
                _, state = await self.get(0, f"/state?project={project}&projection=Lifecycle")
                if state["projection"]["Lifecycle"]["Phase"] == "PROJECT_LIFECYCLE":
                    return str(state["state_hash"])

    def creation(self, project: str, **changes: Any) -> dict[str, Any]:
        inputs = {"brief": "from the contract suite", "repository": "", "planned_roles": []}
        return self.proposal(project, "PROJECT_CREATED", "genesis", inputs, **changes)


@pytest.fixture
async def caller(shared: Running) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE)) as session:
        async with session.get(shared.endpoints[0] + "/health") as reply:
            cluster_id = (await reply.json())["cluster_id"]
        yield Caller(session, shared, cluster_id)


@pytest.fixture
def project(request: pytest.FixtureRequest) -> str:
    """A project of its own for each test, so that tests may share a cluster."""
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    return f"contract-{name}"


# --- §5 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", range(3))
async def test_any_node_takes_a_proposal_of_the_brief_s_form(caller: Caller, project: str, node: int) -> None:
    proposal = caller.creation(project)
    assert set(proposal) >= BRIEF_PROPOSAL
    status, body = await caller.post(node, "/transition", proposal)
    assert (status, body["success"]) == (200, True), body
    assert body["duplicate"] in (False, True) and re.fullmatch(r"sha256-[0-9a-f]{64}", body["state_hash"])


async def test_202_where_the_brief_s_status_is_asked_for(caller: Caller, project: str) -> None:
    status, body = await caller.post(0, "/transition", caller.creation(project), Prefer="respond-async")
    assert (status, body["success"]) == (202, True), body
    for node in range(3):
        kept = await caller.get(node, f"/transitions/{body['idem_key'].replace(':', '%3A')}?project={project}")
        assert kept[0] == 200 and kept[1]["record_hash"] == body["record_hash"]


async def test_400_names_reason_and_failing_guard(caller: Caller, project: str) -> None:
    head = await caller.booted(project)
    proposal = caller.proposal(project, "ROLLBACK_INDEX", head, {"reason": "there is none before it"})
    for node in range(3):
        status, body = await caller.post(node, "/transition", proposal)
        assert (status, body["success"], body["failing_guard"]) == (400, False, "previous_version_exists"), body
        assert body["reasons"] and body["state_hash"] == head and body["quarantined"] is False
        assert body["error"].startswith("guard rejected transition")


async def test_a_key_is_applied_once_whatever_node_is_asked(caller: Caller, project: str) -> None:
    proposal = caller.creation(project)
    replies = await asyncio.gather(*(caller.post(node, "/transition", proposal) for node in (0, 1, 2) * 4))
    assert {status for status, _ in replies} == {200}
    assert len({body["record_hash"] for _, body in replies}) == 1
    assert sum(not body["duplicate"] for _, body in replies) <= 1
    _, wal = await caller.get(1, f"/wal?project={project}")
    assert [record["transition_name"] for record in wal["records"]].count("PROJECT_CREATED") == 1


async def test_a_stale_hash_is_refused_and_the_reread_one_accepted(caller: Caller, project: str) -> None:
    await caller.booted(project)
    sources = {"sources": ["ucxl://chorus:spec@council:brief/*^/x.md"]}
    stale = caller.proposal(project, "INGESTION_SOURCES_RESOLVED", "genesis", sources)
    status, body = await caller.post(1, "/transition", stale)
    assert (status, body["code"]) == (400, "STALE_STATE"), body
    fresh = caller.proposal(project, "INGESTION_SOURCES_RESOLVED", body["state_hash"], sources)
    status, body = await caller.post(2, "/transition", fresh)
    assert (status, body["success"]) == (200, True), body


async def test_an_unsigned_proposal_is_refused(caller: Caller, project: str) -> None:
    proposal = {name: value for name, value in caller.creation(project).items() if name != "signature"}
    status, body = await caller.post(0, "/transition", proposal)
    assert (status, body["code"]) == (401, "UNSIGNED")


async def test_state_is_readable_on_every_node_as_soon_as_it_is_acknowledged(caller: Caller, project: str) -> None:
    _, body = await caller.post(0, "/transition", caller.creation(project))
    for node in range(3):
        status, state = await caller.get(node, f"/state?projection=Council,Ingestion&project={project}")
        assert status == 200 and state["index"] >= body["index"]
        assert set(state["projection"]) == {"Council", "Ingestion"}
        assert state["hash"] == state["state_hash"]
        regions = typed("state", state["region_hashes"])
        assert state["hash"] == "sha256-" + hashlib.sha256(regions).hexdigest(), "the hash can be recomputed"


async def test_health_has_what_the_brief_asks_for(caller: Caller) -> None:
    for node in range(3):
        status, body = await caller.get(node, "/health")
        assert status == 200 and {"status", "consensus", "lastSnapshotHLC", "walLag"} <= set(body)
        assert len(body["consensus"]["peers"]) == 2


# --- §7 ---------------------------------------------------------------------------------------------------------------


async def test_every_node_keeps_the_same_records(caller: Caller, project: str) -> None:
    _, accepted = await caller.post(0, "/transition", caller.creation(project))
    lines = []
    for node in range(3):
        async with caller.session.get(
            caller.url(node, f"/wal?project={project}"), headers={"Accept": "application/x-ndjson"}
        ) as reply:
            lines.append((await reply.read()).splitlines()[0])
    assert len(set(lines)) == 1, "byte for byte"
    record = json.loads(lines[0])
    assert set(record) >= BRIEF_WAL
    assert canonical(record) == lines[0]
    assert accepted["record_hash"] == "sha256-" + hashlib.sha256(b"swoosh/wal/v1\n" + lines[0]).hexdigest()
    status, decision = await caller.get(2, f"/decisions/{accepted['decision']}")
    assert status == 200 and decision["record_hash"] == accepted["record_hash"]
    assert decision["guards"] and decision["ucxl_address"].startswith("ucxl://") and decision["evidence"]


# --- §10 --------------------------------------------------------------------------------------------------------------


async def test_metrics_carry_the_brief_s_names(caller: Caller, project: str) -> None:
    await caller.post(0, "/transition", caller.creation(project))
    for node in range(3):
        await caller.get(node, f"/state?project={project}")  # a linearizable read: this node has applied it by then
        _, text = await caller.get(node, "/metrics")
        names = {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}
        assert names >= BRIEF_METRICS
        created = re.search(r'swoosh_transition_total\{transition="PROJECT_CREATED"\} (\S+)', text)
        assert created is not None and float(created[1]) >= 1


async def test_a_watcher_on_another_node_hears_of_it(caller: Caller, project: str) -> None:
    async with caller.session.get(caller.url(1, f"/watch?project={project}&from=1")) as stream:
        assert stream.status == 200
        await caller.post(0, "/transition", caller.creation(project))
        assert await first_event(stream.content.readline) == "PROJECT_CREATED"


async def first_event(readline: Callable[[], Any]) -> str:
    async with asyncio.timeout(DEADLINE):
        while True:
            line: bytes = await readline()
            if line.startswith(b"data: "):
                return str(json.loads(line.removeprefix(b"data: "))["transition_name"])
