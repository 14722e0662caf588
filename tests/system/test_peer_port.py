"""Strangers at the peer port of a running node: each is shown out, and nothing of what it said has any effect."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from chaos.live import LiveCluster
from chaos.recording import exported
from cluster import config, pki, tls
from cluster.pki import KeyPair
from cluster.raft import wire
from cluster.raft.wire import Hello
from cluster.tls import Credentials, PeerName
from swoosh import genesis
from swoosh.client import Accepted
from swoosh.hashing import digest
from tests.wire.members import Impostor

VALIDITY = {"not_before": datetime(2020, 1, 1, tzinfo=UTC), "not_after": datetime(2120, 1, 1, tzinfo=UTC)}
WITHIN = {"not_before": datetime.now(UTC), "not_after": datetime(2030, 1, 1, tzinfo=UTC)}
USURPED_TERM = 1_000
BY_A_NODE_OF_THE_CLUSTER = "node-3"
TARGET = "node-1"

Visit = Callable[["Door"], Any]


class Door:
    """The peer port of one node, and what a visitor may have got hold of."""

    def __init__(self, cluster: LiveCluster, papers: Path) -> None:
        document = json.loads((cluster.directory / "cluster.json").read_text())
        self.port = int(next(node["peer"] for node in document["nodes"] if node["id"] == TARGET).rpartition(":")[2])
        self.cluster_id, self.genesis = cluster.cluster_id, cluster.directory / "genesis.json"
        self.member = config.load(cluster.directory / BY_A_NODE_OF_THE_CLUSTER / "swoosh.toml", {}).credentials()
        self.authority = KeyPair(
            (cluster.directory / "ca.crt").read_bytes(), (cluster.directory / "ca.key").read_bytes()
        )
        self._papers = papers

    def issue(self, node: str, authority: KeyPair | None = None, **life: datetime) -> Credentials:
        """A certificate for a name, by the cluster's own authority or another."""
        issuer = authority or self.authority
        home = self._papers / node
        home.mkdir()
        return pki.write_node(
            home, issuer.certificate, pki.make_node(issuer, PeerName(node, self.cluster_id), **(life or WITHIN))
        )

    def hello(self, node: str, **other: Any) -> bytes:
        """What this node would say, but for what is said otherwise."""
        found = genesis.decode(self.genesis.read_bytes())
        said: dict[str, Any] = {
            "cluster_id": self.cluster_id,
            "genesis_hash": genesis.genesis_hash(found),
            "config_epoch": 0,
            "member_set_hash": digest("members", sorted(found.nodes)),
            "node": node,
            "incarnation": "5c" * 16,
            "boots": 1,
            "barrier_seq": 1,
            "rejoining": False,
            "seen": {},
            "term": USURPED_TERM,
            "last_index": 1,
            "last_term": 1,
            "chart_hash": found.chart_hash,
            "reducer_version": "1",
        }
        return wire.encode_hello(Hello(**(said | other)))

    async def dial(self, context: ssl.SSLContext | None) -> Impostor:
        return await Impostor.dial(self.port, context, server=f"{TARGET}.{self.cluster_id}")


USURPATION = (
    wire.encode({"type": "welcome"}),
    wire.encode(
        {"type": "request_vote", "term": USURPED_TERM, "last_log_index": 10**6, "last_log_term": USURPED_TERM, "b": 1}
    ),
    wire.encode({"type": "stale_term", "t": USURPED_TERM}),
)


def trusting(context: ssl.SSLContext) -> ssl.SSLContext:
    """Whoever answers is fine."""
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def plain_tcp(door: Door) -> Impostor:
    visitor = await door.dial(None)
    visitor.say(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", bytes(1 << 16))
    return visitor


async def without_a_certificate(door: Door) -> Impostor:
    context = trusting(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    context.set_alpn_protocols([tls.RAFT_PROTOCOL])
    visitor = await door.dial(context)
    visitor.say(door.hello(BY_A_NODE_OF_THE_CLUSTER), *USURPATION)
    return visitor


async def a_foreign_authority_with_the_same_names(door: Door) -> Impostor:
    foreign = pki.make_authority(door.cluster_id, **VALIDITY)
    forged = door.issue(BY_A_NODE_OF_THE_CLUSTER, foreign, **VALIDITY)
    visitor = await door.dial(trusting(tls.client_context(forged, tls.RAFT_PROTOCOL)))
    visitor.say(door.hello(BY_A_NODE_OF_THE_CLUSTER), *USURPATION)
    return visitor


async def our_authority_for_no_member(door: Door) -> Impostor:
    visitor = await door.dial(tls.client_context(door.issue("node-9"), tls.RAFT_PROTOCOL))
    visitor.say(door.hello("node-9"), *USURPATION)
    return visitor


async def a_member_that_claims_to_be_another(door: Door) -> Impostor:
    visitor = await door.dial(tls.client_context(door.member, tls.RAFT_PROTOCOL))
    visitor.say(door.hello("node-2"), *USURPATION)
    return visitor


async def a_member_of_another_beginning(door: Door) -> Impostor:
    visitor = await door.dial(tls.client_context(door.member, tls.RAFT_PROTOCOL))
    visitor.say(door.hello(BY_A_NODE_OF_THE_CLUSTER, genesis_hash=digest("genesis", "another")), *USURPATION)
    return visitor


async def a_member_that_says_no_hello(door: Door) -> Impostor:
    visitor = await door.dial(tls.client_context(door.member, tls.RAFT_PROTOCOL))
    visitor.say(*USURPATION)
    return visitor


async def the_target_itself(door: Door) -> Impostor:
    visitor = await door.dial(tls.client_context(door.issue(TARGET), tls.RAFT_PROTOCOL))
    visitor.say(door.hello(TARGET), *USURPATION)
    return visitor


async def garbage_where_members_forward(door: Door) -> Impostor:
    visitor = await door.dial(tls.client_context(door.member, tls.HTTP_PROTOCOL))
    head = "POST /peer/submit HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/msgpack\r\n"
    visitor.say(head.encode() + b"Content-Length: 4\r\n\r\n\xc1\xc1\xc1\xc1")
    return visitor


@pytest.mark.parametrize(
    "visit",
    [
        plain_tcp,
        without_a_certificate,
        a_foreign_authority_with_the_same_names,
        our_authority_for_no_member,
        a_member_that_claims_to_be_another,
        a_member_of_another_beginning,
        a_member_that_says_no_hello,
        the_target_itself,
        garbage_where_members_forward,
    ],
    ids=lambda visit: visit.__name__,
)
async def test_a_stranger_is_shown_out(shared: LiveCluster, tmp_path: Path, visit: Visit) -> None:
    before = (await shared.agreed()).agreement()
    assert before is not None
    records = await exported(shared.nodes[TARGET], before.at_index)

    visitor = await visit(Door(shared, tmp_path))
    await visitor.shown_out()

    after = await shared.agreed()
    held = await exported(shared.nodes[TARGET], before.at_index)
    assert set(held) == set(records)
    assert all(held[project].startswith(records[project]) for project in records)
    assert all(report["consensus"]["term"] < USURPED_TERM for report in after.reports.values())
    assert all("replaced by a newer link" not in shared.log(node).read_text() for node in shared.nodes)
    async with shared.client("proposer", via=[TARGET]) as client:
        project = visit.__name__.replace("_", "-")[:60]
        outcome = await client.propose("PROJECT_CREATED", inputs={"brief": "still here"}, project=project)
    assert isinstance(outcome, Accepted), outcome
