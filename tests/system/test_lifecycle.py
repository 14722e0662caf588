"""A cluster through an operator's hands: it starts, takes proposals on any node, survives kills, stops, verifies."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from chaos.live import LiveCluster
from cluster.faults import ExitCode
from swoosh.client import Accepted, Draft, Key, Refused
from tests.system.conftest import Found

ROOT = Path(__file__).resolve().parents[2]
BRIEF = {"brief": "a project"}


def swoosh(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def test_any_node_takes_a_proposal_and_all_agree(shared: LiveCluster) -> None:
    for node in shared.nodes:
        async with shared.client("proposer", via=[node]) as client:
            outcome = await client.propose("PROJECT_CREATED", inputs=BRIEF, project=f"via-{node}")
            assert isinstance(outcome, Accepted), outcome
            found = await client.recorded(outcome.idem_key, f"via-{node}")
            assert found is not None
            assert found.state_post_hash == outcome.state_post_hash
    survey = await shared.agreed()
    assert survey.faults_left == 1


async def test_the_same_key_is_applied_once_on_whatever_node(shared: LiveCluster) -> None:
    outcomes = []
    for node in shared.nodes:
        async with shared.client("proposer", via=[node]) as client:
            outcomes.append(
                await client.propose("PROJECT_CREATED", inputs=BRIEF, project="once", idem_key="once:0:create:1")
            )
    assert all(isinstance(outcome, Accepted) for outcome in outcomes), outcomes
    assert [outcome.duplicate for outcome in outcomes if isinstance(outcome, Accepted)] == [False, True, True]
    assert len({outcome.index for outcome in outcomes if isinstance(outcome, Accepted)}) == 1


async def test_a_chain_under_one_signature_is_one_entry(shared: LiveCluster) -> None:
    async with shared.client("operator") as client:
        drafts = [
            Draft("PROJECT_CREATED", BRIEF, "chain"),
            Draft("CONTROL_PAUSED", {"reason": "r"}, "chain"),
            Draft("CONTROL_RESUMED", {"reason": "r"}, "chain"),
        ]
        outcomes = await client.batch(drafts)
    assert all(isinstance(outcome, Accepted) for outcome in outcomes), outcomes
    assert len({outcome.index for outcome in outcomes if isinstance(outcome, Accepted)}) == 1


async def test_a_newcomer_makes_a_key_and_an_admin_adds_its_public_half(shared: LiveCluster, tmp_path: Path) -> None:
    path, admin = tmp_path / "eve.pem", str(shared.keys / "admin.pem")
    principal = json.loads(swoosh("keys", "new", str(path), "-o", "json").stdout)["principal"]
    where = ["--endpoint", shared.endpoints[1]]

    async def create() -> Accepted | Refused:
        async with shared.client() as client:
            client._key = Key.load(path)
            outcome = await client.propose("PROJECT_CREATED", inputs=BRIEF, project="eves")
        assert isinstance(outcome, Accepted | Refused)
        return outcome

    stranger = await create()
    assert isinstance(stranger, Refused)
    assert stranger.code == "UNKNOWN_SIGNER"
    added = swoosh("identity", "add", "eve", principal, "--role", "proposer:*", "--key", admin, *where)
    assert added.returncode == 0, added.stderr
    await shared.agreed()
    assert isinstance(await create(), Accepted)
    revoked = swoosh("identity", "revoke", principal, "--yes", "--key", admin, *where)
    assert revoked.returncode == 0, revoked.stderr
    await shared.agreed()
    assert isinstance(await create(), Refused)


async def test_what_was_accepted_survives_the_leader_and_the_restart_of_all(cluster: LiveCluster) -> None:
    leader = await cluster.ready()
    async with cluster.client("proposer") as client:
        accepted = [await client.propose("PROJECT_CREATED", inputs=BRIEF, project=f"p{n}") for n in range(10)]
        cluster.kill(leader)
        accepted += [await client.propose("PROJECT_CREATED", inputs=BRIEF, project=f"q{n}") for n in range(10)]
    assert all(isinstance(outcome, Accepted) for outcome in accepted), accepted
    for node in cluster.running:
        cluster.kill(node)
    cluster.start()
    await cluster.ready()
    async with cluster.client() as client:
        for outcome in accepted:
            assert isinstance(outcome, Accepted)
            found = await client.recorded(outcome.idem_key, outcome.project)
            assert found is not None, f"{outcome.idem_key} was acknowledged and is gone"
            assert (found.index, found.state_post_hash) == (outcome.index, outcome.state_post_hash)
    await cluster.agreed()


async def test_clients_see_at_most_a_slow_answer_while_the_leader_is_killed(cluster: LiveCluster) -> None:
    leader = await cluster.ready()
    follower = next(node for node in cluster.nodes if node != leader)

    async def create(number: int) -> object:
        async with cluster.client("proposer", via=[follower]) as client:
            return await client.propose("PROJECT_CREATED", inputs=BRIEF, project=f"p{number}")

    waiting = [asyncio.create_task(create(number)) for number in range(20)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    cluster.kill(leader)
    outcomes = await asyncio.gather(*waiting)
    assert all(isinstance(outcome, Accepted) for outcome in outcomes), outcomes


async def test_a_stopped_node_says_so_by_its_exit_code_and_verifies(cluster: LiveCluster) -> None:
    async with cluster.client("proposer") as client:
        await client.propose("PROJECT_CREATED", inputs=BRIEF, project="p")
    await cluster.agreed()
    assert [cluster.stop(node) for node in list(cluster.running)] == [0, 0, 0]
    for node in cluster.nodes:
        done = swoosh("verify", str(cluster.directory / node), "--replay")
        assert done.returncode == 0, done.stdout + done.stderr


async def test_without_a_majority_nothing_is_accepted_and_health_says_it(cluster: LiveCluster) -> None:
    for node in list(cluster.running)[1:]:
        cluster.kill(node)
    endpoint = cluster.nodes[cluster.running[0]]

    async def no_leader() -> bool | None:
        code = swoosh("health", "--endpoint", endpoint, "--timeout", "2").returncode
        return True if code == 2 else None

    await cluster.wait_for("the last node to miss its leader", no_leader)
    proposed = swoosh(
        *("propose", "PROJECT_CREATED", "--inputs", json.dumps(BRIEF), "--project", "p", "--head", "genesis"),
        *("--key", str(cluster.keys / "proposer.pem"), "--endpoint", endpoint, "--timeout", "3"),
    )
    assert proposed.returncode == 1, proposed.stdout + proposed.stderr
    assert "NO_LEADER" in proposed.stderr


async def test_a_group_of_one_works(found: Found) -> None:
    alone = found("--windows", "always_open", nodes=1)
    alone.start()
    await alone.ready()
    async with alone.client("proposer") as client:
        outcome = await client.propose("PROJECT_CREATED", inputs=BRIEF, project="p")
        assert isinstance(outcome, Accepted)
        alone.kill("node-1")
        alone.start()
        again = await client.propose("PROJECT_CREATED", inputs=BRIEF, project="p", idem_key=outcome.idem_key)
    assert isinstance(again, Accepted)
    assert again.duplicate


async def test_a_node_without_its_store_stays_down(found: Found) -> None:
    import shutil

    made = found()
    shutil.rmtree(made.directory / "node-1" / "store")
    made.start("node-1")
    assert await made.ended("node-1") == ExitCode.DAMAGED
    assert "no store at" in made.logs()
    assert not (made.directory / "node-1" / "store").exists()
