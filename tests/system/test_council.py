"""A council elected over HMMM, by real processes: votes in every spelling, at every node; and the page that says how.

The first test knows nothing but HTTP, JSON, SHA-256 and Ed25519, as a bridge in another language would.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from chaos.live import LiveCluster
from tests.core.spellings import spellings
from tests.system.test_brief_contract import DEADLINE, Caller, typed

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "elect-a-council.md"
PROJECT = "atlas"
ELECTORS = {"elector-1": "canonical", "elector-2": "base64url", "elector-3": "peer_id"}


class Bridge(Caller):
    """Speaks libp2p on one side, which nobody sees here, and hands in what it hears."""

    def spelled(self, name: str, form: str) -> str:
        return spellings(self.key(name).public_key().public_bytes_raw())[form]

    def sign(self, kind: str, signed: dict[str, Any], by: str) -> str:
        return base64.urlsafe_b64encode(self.key(by).sign(typed(kind, signed))).rstrip(b"=").decode()

    def message(self, kind: str, data: dict[str, Any], by: str) -> dict[str, Any]:
        sender = self.spelled(by, "peer_id").removeprefix("hmmm:pubkey:")
        return {"type": kind, "from": sender, "timestamp": datetime.now(UTC).isoformat(), "data": data, "hop_count": 1}

    def carried(self, draft: dict[str, Any], by: str, form: str) -> dict[str, Any]:
        """A proposal as a message, signed by somebody under a spelling of his key."""
        unsigned = {name: value for name, value in draft.items() if name != "signature"}
        unsigned["signer"] = self.spelled(by, form)
        signature = self.sign("proposal", {**unsigned, "cluster_id": self.cluster_id}, by)
        return self.message("swoosh.proposal.v1", {**unsigned, "signature": signature}, by)

    def vote(self, council: dict[str, Any], by: str, form: str) -> dict[str, Any]:
        """A vote for the claims now held."""
        claims = sorted(council["Claims"].items())
        members = [{"role": role, "agent": claim["Agent"], "principal": claim["Principal"]} for role, claim in claims]
        ballot = {
            "cluster_id": self.cluster_id,
            "project": PROJECT,
            "election": council["Election"],
            "member_set_hash": "sha256-" + hashlib.sha256(typed("members", members)).hexdigest(),
            "vote": "approve",
        }
        data = {**ballot, "voter": self.spelled(by, form), "signature": self.sign("vote", ballot, by)}
        return self.message("swoosh.vote.v1", data, by)

    async def council(self, node: int) -> dict[str, Any]:
        _, state = await self.get(node, f"/state?project={PROJECT}&projection=Council")
        found: dict[str, Any] = state["projection"]["Council"]
        return found


@pytest.fixture
async def bridge(cluster: LiveCluster) -> AsyncIterator[Bridge]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE)) as session:
        yield Bridge(session, cluster, cluster.cluster_id)


async def test_three_electors_vote_at_three_nodes_and_the_council_is_seated(
    cluster: LiveCluster, bridge: Bridge, tmp_path: Path
) -> None:
    creation = bridge.carried(bridge.creation(PROJECT), "proposer", "hex")
    status, created = await bridge.post(1, "/hmmm/messages", creation)
    assert (status, created["transition"]) == (200, "PROJECT_CREATED"), created
    head = await bridge.booted(PROJECT)
    profiles = {
        "roles": ["lead"],
        "electorate": [bridge.spelled(name, form) for name, form in ELECTORS.items()],
        "threshold": 3,
    }
    opened = bridge.carried(
        bridge.proposal(PROJECT, "COUNCIL_PROFILES_LOADED", head, profiles), "proposer", "base64url"
    )
    status, body = await bridge.post(2, "/hmmm/messages", opened)
    assert status == 200, body
    inputs = {"role": "lead", "agent": "ada"}
    claim = bridge.proposal(PROJECT, "COUNCIL_ROLE_CLAIMED", body["state_hash"], inputs, by="agent-1")
    status, body = await bridge.post(0, "/hmmm/messages", bridge.carried(claim, "agent-1", "peer_id"))
    assert status == 200, body

    council = await bridge.council(0)
    votes = [bridge.vote(council, name, form) for name, form in ELECTORS.items()]

    async def seated() -> dict[str, Any] | None:
        """Hand all of them in, and again, as a bridge does until it sees what came of them."""
        for node, vote in enumerate(votes):
            status, body = await bridge.post(node, "/hmmm/messages", vote)
            assert status == 200 and body["became"] in ("counted", "known", "settled"), body
        found = await bridge.council(0)
        return found if found["Phase"] == "TOOLING_SYNC" else None

    seats = await cluster.wait_for("the council to be seated", seated)
    assert [(member["Role"], member["Agent"]) for member in seats["Members"]] == [("lead", "ada")]
    assert seats["MemberSetHash"] == votes[0]["data"]["member_set_hash"]
    canonical = sorted(bridge.spelled(name, "canonical") for name in ELECTORS)
    assert [vote["Elector"] for vote in seats["Certificate"]["Votes"]] == canonical
    assert all([await bridge.council(node) == seats for node in (1, 2)])

    topic = tmp_path / "topic.jsonl"
    topic.write_text("\n".join(map(json.dumps, [creation, *votes, {"type": "hmmm.message"}])))
    done = cluster.swoosh("hmmm", "replay", str(topic), "--endpoint", cluster.endpoints[2], "-o", "json")
    assert done.returncode == 0, done.stderr
    became = [line["became"] for line in json.loads(done.stdout)]
    assert became == ["applied before", *["settled"] * 3, "ignored"]
    assert cluster.stop("node-1") == 0
    done = cluster.swoosh("verify", str(cluster.home("node-1")), "--replay")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.timeout(300)  # ten commands, each of which starts an interpreter
def test_the_commands_of_the_page_elect_a_council(shared: LiveCluster, tmp_path: Path) -> None:
    script = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
    for number, endpoint in enumerate(shared.endpoints, start=1):
        script = script.replace(f"http://127.0.0.1:810{number}", endpoint)
    (tmp_path / "demo").symlink_to(shared.directory)
    swoosh = tmp_path / "bin" / "swoosh"
    swoosh.parent.mkdir()
    swoosh.write_text(f'#!/bin/sh\nexec {sys.executable} -m cluster "$@" --timeout 60\n')
    swoosh.chmod(0o755)
    variables = {**os.environ, "PATH": f"{swoosh.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    command = ["sh", "-eu", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    state = shared.swoosh("state", "--project", "sky", "--endpoint", shared.endpoints[0], "-o", "json")
    council = json.loads(state.stdout)["projection"]["Council"]
    assert (council["Phase"], council["Election"], council["Claims"]) == ("ELECT", 2, {})
