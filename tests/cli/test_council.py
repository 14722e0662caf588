"""``swoosh council`` and ``swoosh hmmm`` against a node that answers: votes signed, gathered, certified, handed in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cluster.cli import main
from cluster.http.app import public_app
from cluster.http.listener import Listener
from cluster.http.request import Limits
from cluster.providers.hmmm import PROPOSAL, is_signed, read
from cluster.telemetry.metrics import Metrics
from swoosh.quorum import Vote
from swoosh.state import Council, as_project
from tests.cluster.electors import asked, message
from tests.http.desk import CHART, KEYS, Desk


class Office:
    """Somebody at a terminal with everybody's keys, and the node the commands talk to."""

    def __init__(self, desk: Desk, port: int, keys: Path) -> None:
        self.desk, self.keys, self._port = desk, keys, port

    async def swoosh(self, *arguments: str | Path, key: str | None = None, stdin: str = "") -> Result:
        where = ["--endpoint", f"http://127.0.0.1:{self._port}"]
        signs = ["--key", str(self.keys / f"{key}.pem")] if key else []
        called = [*map(str, arguments), *where, *signs]
        return await asyncio.to_thread(CliRunner().invoke, main, called, input=stdin)

    async def vote(self, name: str, *arguments: str) -> str:
        """A person's vote, as one line."""
        done = await self.swoosh("council", "vote", "--yes", *arguments, key=name)
        assert done.exit_code == 0, done.output
        assert done.stdout.count("\n") == 1
        return done.stdout

    @property
    def council(self) -> Council:
        held = self.desk.machine.project("default")
        assert held is not None
        return as_project(held.regions).council


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    desk, limits = Desk(), Limits()
    desk.elect()
    for name, key in KEYS.items():
        pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / f"{name}.pem").write_bytes(pem)
    listener = Listener(public_app(desk, Metrics(CHART), limits), desk.clock, limits)  # type: ignore[arg-type]
    await listener.start("127.0.0.1", 0)
    yield Office(desk, listener.port, tmp_path)
    await listener.stop()


def vote_of(line: str) -> Vote:
    found = read(json.loads(line))
    assert isinstance(found, Vote)
    return found


# --- voting -----------------------------------------------------------------------------------------------------------


async def test_an_elector_sees_what_it_signs(office: Office) -> None:
    done = await office.swoosh("council", "vote", key="ed", stdin="y\n")
    assert done.exit_code == 0, done.output
    on = asked(office.desk.machine)
    for seen in (on.member_set_hash, "lead: al", KEYS["agent"].principal, "election 1"):
        assert seen in done.stderr
    vote = vote_of(done.stdout)
    assert is_signed(vote) and on.objection(vote) is None
    refused = await office.swoosh("council", "vote", key="ed", stdin="n\n")
    assert refused.exit_code == 1 and refused.stdout == ""


async def test_a_vote_goes_to_a_file_or_to_the_leader(office: Office) -> None:
    path = office.keys / "vote.json"
    done = await office.swoosh("council", "vote", "--yes", "--to", path, key="ed")
    assert done.exit_code == 0 and vote_of(path.read_text()).voter == KEYS["ed"].principal
    posted = await office.swoosh("council", "vote", "--yes", "--post", key="eva")
    assert posted.exit_code == 0 and "counted" in posted.stderr
    found: Any = office.desk.votes.tally("default")
    assert [vote.voter for vote in found.votes] == [KEYS["eva"].principal]


@pytest.mark.parametrize(
    ("key", "arguments", "said"),
    [
        ("agent", (), "no elector"),
        ("ed", ("--motion", "eject:lead"), "cannot be voted on"),
        ("ed", ("--project", "nobodys"), "no project"),
    ],
)
async def test_what_nobody_can_vote_on_is_not_signed(
    office: Office, key: str, arguments: tuple[str, ...], said: str
) -> None:
    done = await office.swoosh("council", "vote", "--yes", *arguments, key=key)
    assert done.exit_code == 1 and done.stdout == "" and said in done.stderr


# --- certifying -------------------------------------------------------------------------------------------------------


async def test_votes_from_files_and_standard_input_seat_the_council(office: Office) -> None:
    path = office.keys / "vote.json"
    path.write_text(await office.vote("ed"))
    done = await office.swoosh("council", "certify", path, "-", key="proposer", stdin=await office.vote("eva"))
    assert done.exit_code == 0, done.output
    assert f"no vote of {KEYS['eli'].principal}" in done.stderr
    assert office.council.phase == "TOOLING_SYNC" and office.council.certificate is not None
    assert len(office.council.certificate.votes) == 2


async def test_votes_that_the_leader_gathered_seat_the_council(office: Office) -> None:
    for name in ("ed", "eli"):
        done = await office.swoosh("council", "vote", "--yes", "--post", key=name)
        assert done.exit_code == 0, done.output
    done = await office.swoosh("council", "certify", key="proposer")
    assert done.exit_code == 0, done.output
    assert office.council.phase == "TOOLING_SYNC"


async def test_too_few_good_votes_are_not_proposed_and_the_missing_are_named(office: Office) -> None:
    good, other = await office.vote("ed"), vote_of(await office.vote("eva"))
    bad = [
        msgspec.structs.replace(other, election=7),
        msgspec.structs.replace(other, voter=KEYS["eli"].principal),
        msgspec.structs.replace(other, voter=KEYS["agent"].principal),
        msgspec.structs.replace(other, project="apollo"),
    ]
    lines = [good, good, *(json.dumps(message(vote)) + "\n" for vote in bad), '{"type": "hmmm.message"}\n', "junk\n"]
    done = await office.swoosh("council", "certify", "-", key="proposer", stdin="".join(lines))
    assert done.exit_code == 1
    assert "1 of 3 electors voted; 2 are needed" in done.stderr
    assert done.stderr.count("not counted") == 5
    for name in ("eli", "eva"):
        assert f"no vote of {KEYS[name].principal}" in done.stderr
    assert office.council.phase == "ELECT"


@pytest.mark.parametrize("motion", ["eject:lead", "reelect"])
async def test_a_quorum_unseats(office: Office, motion: str) -> None:
    votes = "".join([await office.vote(name) for name in ("ed", "eva")])
    assert (await office.swoosh("council", "certify", "-", key="proposer", stdin=votes)).exit_code == 0
    against = "".join([await office.vote(name, "--motion", motion) for name in ("ed", "eva")])
    command = ("council", "certify", "-", "--motion", motion)
    assert (await office.swoosh(*command, key="proposer", stdin=against)).exit_code == 2, "a reason is needed"
    done = await office.swoosh(*command, "--reason", "gone", key="proposer", stdin=against)
    assert done.exit_code == 0, done.output
    assert (office.council.phase, office.council.election, office.council.members) == ("ELECT", 2, ())


# --- a saved topic ----------------------------------------------------------------------------------------------------


def told(done: Result) -> list[dict[str, Any]]:
    """The document, behind what the node in the same process logged."""
    found: list[dict[str, Any]] = json.loads(done.stdout[done.stdout.index("[\n") :])
    return found


async def test_a_saved_topic_is_handed_in_any_number_of_times(office: Office) -> None:
    path = office.keys / "topic.jsonl"
    created = message(office.desk.created("apollo"), type=PROPOSAL)
    path.write_text(
        await office.vote("ed") + "\n" + json.dumps({"type": "hmmm.message"}) + "\n" + json.dumps(created) + "\n"
    )
    first, again = [await office.swoosh("hmmm", "replay", path, "-o", "json") for _ in range(2)]
    assert first.exit_code == again.exit_code == 0, first.output
    assert [(each["line"], each["became"]) for each in told(first)] == [
        *((1, "counted"), (3, "ignored"), (4, "applied")),
    ]
    assert [each["became"] for each in told(again)] == ["known", "ignored", "applied before"]


async def test_a_line_that_is_refused_is_named_and_the_others_are_handed_in(office: Office) -> None:
    late = message(msgspec.structs.replace(vote_of(await office.vote("eva")), election=7))
    topic = "\n".join([json.dumps(late), '{"type": "hmmm.message", "score": 0.5}', await office.vote("ed")])
    done = await office.swoosh("hmmm", "replay", "-", stdin=topic)
    assert done.exit_code == 1
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [(row[0], row[2] if row[1].startswith("swoosh") else row[1]) for row in rows] == [
        *(("1", "refused"), ("2", "refused"), ("3", "counted")),
    ]
    assert "BAD_SIGNATURE" in done.stdout


async def test_a_cluster_that_does_not_answer_leaves_it_open(office: Office) -> None:
    path = office.keys / "topic.jsonl"
    path.write_text(await office.vote("ed"))
    away = ["hmmm", "replay", str(path), "--endpoint", "http://127.0.0.1:1", "--timeout", "0.2"]
    done = await asyncio.to_thread(CliRunner().invoke, main, away)
    assert done.exit_code == 75 and "unknown" in done.stdout
