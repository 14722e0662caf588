"""A secret that was sent to a group: no node stores it, logs it or hands it on, and every node holds the project."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from cluster.answers import Answer
from cluster.nodekey import NodeKey
from cluster.providers.leading import Leading
from cluster.providers.policy import PolicyInForce
from cluster.shhh.policy import BUILT_IN, decode
from cluster.shhh.report import quarantining
from cluster.storage.kv import Family
from swoosh import canonical, signing
from swoosh.outcome import Code, FactAccepted, Refused
from tests.cluster.group import Group, NodeHost, accepted
from tests.shhh.secrets import CANARY

Logged = list[MutableMapping[str, Any]]


@pytest.fixture
def logged() -> Iterator[Logged]:
    with capture_logs() as lines:
        yield lines


def paused(group: Group, reason: str) -> dict[str, Any]:
    """A signed pause of the project apollo."""
    head = group.node(group.names[0]).machine.project("apollo")
    assert head is not None
    document = group._now(group.people.document("CONTROL_PAUSED", {"reason": reason}, project="apollo", key="p"))
    document["current_state_hash"] = head.state_hash
    preimage = signing.proposal_preimage(document, group.people.machine.cluster_id)
    return {**document, "signature": signing.sign(group.people.keys["op"], preimage)}


def send(group: Group, name: str, document: dict[str, Any]) -> Answer:
    """As the door of a node takes a request: admitted, looked at, refused with a breach or submitted."""
    node = group.node(name)

    async def take() -> list[Answer]:
        item = node.admission.proposal(document)
        assert not isinstance(item, Refused), item
        deadline = node.clock.monotonic() + 10
        grave = quarantining(node.screen.look(document))
        if not grave:
            return await node.submit([item], deadline)
        refused = await node.screen.refuse(document, grave, deadline, dry_run=False)
        if isinstance(refused, Refused):
            node.note(refused, group.people.principals["op"])
        return [refused]

    task: asyncio.Task[list[Answer]] = group.loop.create_task(take())
    [answer] = group.answers(task)
    return answer


def stored(host: NodeHost) -> bytes:
    """Every row of every family, log and refusals included, and every snapshot."""
    rows = [key + value for family in Family for key, value in host.store.iterate(family)]
    return b"\n".join([*rows, repr(vars(host.shelf)).encode()])


def started(group: Group) -> NodeHost:
    leader = group.leading()
    accepted(group.propose(leader.name, group.create("apollo")))
    group.converge()
    return leader


@pytest.mark.parametrize("asked_leader", [True, False])
def test_a_secret_sent_to_any_node_is_nowhere_and_every_node_holds_the_project(
    logged: Logged, asked_leader: bool
) -> None:
    with Group(11) as group:
        leader = started(group)
        asked = leader.name if asked_leader else next(name for name in group.names if name != leader.name)
        first, again = (send(group, asked, paused(group, f"deploy with {CANARY}")) for _ in range(2))
        assert isinstance(first, Refused) and first.code is Code.QUARANTINED and first == again
        [finding] = first.findings
        assert finding["location"] == "inputs.reason" and finding["rule"] == "openai-secret"
        group.converge()
        for host in group.live():
            project = host.node.machine.project("apollo")
            assert project is not None and project.quarantined
            assert CANARY.encode() not in stored(host) and b"inputs.reason" in stored(host)
        breaches = [each for each in group.records(asked, "apollo") if b"POLICY_BREACHED" in each]
        assert len(breaches) == 1 and canonical.parse(breaches[0])["signer"] == group.people.principals["n1"]
        assert logged and CANARY not in repr(logged) and CANARY not in repr((first, again))


def test_the_same_search_finds_what_was_let_in(logged: Logged) -> None:
    """The search is good for something: a request that is clean leaves its words in every store."""
    with Group(12) as group:
        leader = started(group)
        accepted(send(group, leader.name, paused(group, "a perfectly harmless reason")))
        group.converge()
        assert all(b"a perfectly harmless reason" in stored(host) for host in group.live())


def test_the_leader_puts_its_policy_on_record_and_a_node_with_another_says_so() -> None:
    with Group(13) as group:
        leader = started(group)
        other = decode({"version": "other"})

        async def observed() -> list[Answer]:
            provider = PolicyInForce(BUILT_IN)
            task = group.loop.create_task(provider.run(_leading(group, leader)))
            while leader.node.machine.registry.fact("policy", "policy") is None:
                await leader.clock.sleep(0.1)
            task.cancel()
            return []

        group.answers(group.loop.create_task(observed()))
        group.converge()
        for host in group.live():
            assert host.node.screen.document()["leader"] == {"version": "built-in", "hash": BUILT_IN.hash}
            assert host.node.screen.document()["agrees"]
            host.node.screen.scanner.policy = other
            assert not host.node.screen.document()["agrees"]


def test_what_a_provider_heard_is_on_record_without_its_secrets() -> None:
    with Group(14) as group:
        leader = started(group)
        body = {"status": "red", "detail": f"401 for {CANARY}"}

        async def observed() -> list[Answer]:
            leading = _leading(group, leader)
            first = await leading.observe("health", "apollo", body, lives_ms=60_000)
            assert isinstance(first, FactAccepted)
            assert await leading.observe("health", "apollo", body, lives_ms=60_000) is None, "it says nothing new"
            return []

        group.answers(group.loop.create_task(observed()))
        group.converge()
        fact = leader.node.machine.registry.fact("health", "apollo")
        assert fact is not None and fact.body["detail"] == "401 for [REDACTED]"
        assert all(CANARY.encode() not in stored(host) for host in group.live())


def _leading(group: Group, host: NodeHost) -> Leading:
    """A node's say, under a key that may sign facts; that of a node in this group may not."""
    node, key = host.node, NodeKey.of(group.people.keys["probe"])
    return Leading(node.raft.term, node.machine, node.clock, key, node._submit_here, scanner=node.screen.scanner)
