"""What callers notice when leadership moves: a leader dies, or freezes and wakes up again, or is told to go."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp

from chaos.history import Attempt, Verdict, check
from chaos.live import LiveCluster
from chaos.recording import Journal, exported
from chaos.workload import SIGNERS, Workload
from swoosh.client import Accepted, Client, Outcome

PROJECT = "failover"
DEADLINE = 60.0
READS = 40


async def toggle(client: Client, times: int) -> list[Accepted]:
    """The project is paused and resumed in turn; everything must be accepted."""
    accepted = []
    for number in range(times):
        transition = "CONTROL_RESUMED" if number % 2 else "CONTROL_PAUSED"
        accepted.append(
            must(await client.propose(transition, inputs={"reason": "r"}, project=PROJECT, on_stale="resubmit"))
        )
    return accepted


async def create(client: Client) -> Accepted:
    return must(await client.propose("PROJECT_CREATED", inputs={"brief": "failover"}, project=PROJECT))


def must(outcome: Outcome) -> Accepted:
    assert isinstance(outcome, Accepted), outcome
    return outcome


def others(cluster: LiveCluster, node: str) -> list[str]:
    return [other for other in cluster.running if other != node]


def lines(cluster: LiveCluster, node: str, start: int = 0) -> list[dict[str, Any]]:
    """What a node logged from a line on."""
    return [json.loads(line) for line in cluster.log(node).read_text().splitlines()[start:]]


def line_count(cluster: LiveCluster, node: str) -> int:
    return len(cluster.log(node).read_text().splitlines())


async def test_the_next_proposal_is_accepted_soon_after_the_leader_was_killed(cluster: LiveCluster) -> None:
    leader = await cluster.ready()
    async with cluster.client("operator", via=others(cluster, leader)) as client:
        before = [await create(client), *await toggle(client, 4)]
        cluster.kill(leader)
        killed = time.monotonic()
        after = await toggle(client, 1)
        print(f"{time.monotonic() - killed:.2f} s from SIGKILL of the leader to the next acknowledgement")
        assert after[0].state_pre_hash == before[-1].state_post_hash
    cluster.start(leader)
    await cluster.agreed(DEADLINE)


async def read(session: aiohttp.ClientSession, cluster: LiveCluster, node: str) -> tuple[int, str]:
    """A linearizable read of one node, and no other: status and state hash, which is empty where it did not answer."""
    url = f"{cluster.nodes[node]}/state?project={PROJECT}&projection=Pause&consistency=linearizable"
    async with session.get(url, timeout=aiohttp.ClientTimeout(total=DEADLINE)) as reply:
        document = await reply.json()
    return reply.status, document["state_hash"] if reply.status == 200 else ""


async def test_a_leader_that_slept_through_its_end_answers_nothing_old(cluster: LiveCluster) -> None:
    """Questions that reach it while it is frozen are in its socket when it wakes up believing that it leads."""
    sleeper = await cluster.ready()
    awake = others(cluster, sleeper)
    async with cluster.client("operator", via=awake) as client, aiohttp.ClientSession() as session:
        await create(client)
        status, _ = await read(session, cluster, sleeper)
        assert status == 200
        cluster.pause(sleeper)
        paused = time.monotonic()
        newest = (await toggle(client, 4))[-1]
        print(f"{time.monotonic() - paused:.2f} s from SIGSTOP of the leader to four acknowledgements by the others")
        waiting = [asyncio.create_task(read(session, cluster, sleeper)) for _ in range(READS)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting), "it is frozen"
        cluster.resume(sleeper)
        waiting += [asyncio.create_task(read(session, cluster, sleeper)) for _ in range(READS)]
        answers = await asyncio.gather(*waiting)
        assert {status for status, _ in answers} <= {200, 503}

        async def answered() -> str | None:
            return (await read(session, cluster, sleeper))[1] or None

        told = {state_hash for _, state_hash in answers} - {""}
        told.add(await cluster.wait_for("the sleeper to answer again", answered))
        await cluster.agreed(DEADLINE)
        chain = [record["state_post_hash"] async for record in client.wal(PROJECT)]
    assert told <= set(chain[chain.index(newest.state_post_hash) :]), (
        "it answered from before what it had slept through"
    )


async def test_a_proposal_given_to_a_frozen_leader_takes_its_turn_or_none(cluster: LiveCluster) -> None:
    """Decided on a state that is HEAD no more by the time it is read: nothing may come of it, on any node."""
    sleeper = await cluster.ready()
    async with (
        cluster.client("operator", via=others(cluster, sleeper)) as client,
        cluster.client("operator", via=[sleeper]) as late,
    ):
        created = await create(client)
        await late.state(PROJECT)
        cluster.pause(sleeper)
        outdated = asyncio.create_task(
            late.propose(
                "CONTROL_PAUSED",
                inputs={"reason": "late"},
                project=PROJECT,
                idem_key="late",
                decided_on=created.state_post_hash,
            )
        )
        await toggle(client, 2)
        cluster.resume(sleeper)
        outcome = await outdated
        assert not isinstance(outcome, Accepted), outcome
        await cluster.agreed(DEADLINE)
        assert await client.recorded("late", PROJECT) is None


async def test_everything_through_followers(cluster: LiveCluster) -> None:
    leader = await cluster.ready()
    followers = {node: cluster.nodes[node] for node in others(cluster, leader)}
    journal = Journal(cluster.directory / "history.jsonl")
    keys = {name: cluster.key(name) for name in SIGNERS}
    workload = Workload(cluster.cluster_id, followers, keys, journal, seed=1, proposals=400, projects=8)
    await workload.run()
    journal.close()
    agreement = (await cluster.agreed(DEADLINE)).agreement()
    assert agreement is not None
    dumps = {node: await exported(endpoint, agreement.at_index) for node, endpoint in cluster.nodes.items()}
    assert check(journal.events, dumps, converged=True).violations == []
    attempts = [event for event in journal.events if isinstance(event, Attempt)]
    assert {attempt.node for attempt in attempts if attempt.verdict is Verdict.ACCEPTED} == set(followers)


async def test_a_restarted_node_goes_on_where_it_stood(cluster: LiveCluster) -> None:
    """Nothing it had applied is applied again: not after a stop, and not after a kill."""
    leader = await cluster.ready()
    node, *_ = others(cluster, leader)
    async with cluster.client("operator") as client:
        await create(client)
        for end in (cluster.stop, cluster.kill):
            await toggle(client, 10)
            applied = (await cluster.agreed(DEADLINE)).reports[node]["consensus"]["last_applied"]
            end(node)
            seen = line_count(cluster, node)
            cluster.start(node)
            await cluster.ready()
            await toggle(client, 2)
            await cluster.agreed(DEADLINE)
            indices = [line["index"] for line in lines(cluster, node, seen) if line["event"] == "transition applied"]
            assert indices
            assert min(indices) > applied


async def test_a_leader_told_to_stop_hands_over_before_it_goes(cluster: LiveCluster) -> None:
    leader = await cluster.ready()
    term = (await cluster.survey()).reports[leader]["consensus"]["term"]
    async with cluster.client("operator", via=others(cluster, leader)) as client:
        await create(client)
        assert cluster.stop(leader) == 0
        await toggle(client, 2)
    roles = [(line["event"], line.get("role"), line.get("term")) for line in lines(cluster, leader)]
    last_words = roles[[event for event, _, _ in roles].index("stopping") :]
    assert ("role", "FOLLOWER", term + 1) in last_words, "it went without having seen a successor"
