"""``swoosh council``: electors vote, and votes become a proposal.

Nobody signs what somebody else computed: the member set is hashed here, from the claims that the cluster holds, and
shown before the key is used. A vote may travel in any way, for it is good for one election and one member set alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from cluster.cli.hmmm import hand_in
from cluster.cli.propose import report
from cluster.cli.shared import Command, Connection, connected, fail, key_option, run, say
from cluster.clock import SystemClock
from cluster.providers.hmmm import VOTE, certificate, is_signed, read
from swoosh import canonical
from swoosh.client import Client, Key, Outcome
from swoosh.errors import Malformed
from swoosh.outcome import Refused
from swoosh.principal import normalise
from swoosh.proposal import CLUSTER, DEFAULT_PROJECT
from swoosh.quorum import APPROVE, EJECT, Vote
from swoosh.regions.council import Poll, poll
from swoosh.state import Council, Identity


@click.group()
def council() -> None:
    """Vote on a council, and propose what the votes decide."""


def _motion(command: Command) -> Command:
    """--motion and --project."""
    option = click.option("--motion", default=APPROVE, show_default=True, help="approve, eject:ROLE, or reelect.")
    return option(click.option("--project", default=DEFAULT_PROJECT, show_default=True)(command))


@council.command()
@_motion
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), help="Write the vote here, not to stdout.")
@click.option("--post", is_flag=True, help="Hand the vote to the cluster's leader instead.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@key_option("An elector's key")
@connected
def vote(connection: Connection, motion: str, project: str, to: Path | None, post: bool, yes: bool, key: Key) -> None:
    """Sign a vote: for the claims now held, to eject the member seated as ROLE, or to elect all seats anew.

    The vote is a message of HMMM, for `swoosh council certify` or POST /hmmm/messages of any node.
    """
    asked = run(_asked(connection, project, motion))
    if key.principal not in asked.poll.electors:
        fail(f"{key.principal} is no elector of election {asked.poll.election} of {project}")
    _show(asked.poll)
    if not yes:
        click.confirm(f"Sign {motion}?", abort=True, err=True)
    message = asked.message(key)
    if post:
        _, became, reason = run(_posted(connection, message))
        say(f"{became}: {reason}")
        if became in ("refused", "unknown"):
            fail("the vote is not on the leader's list")
    elif to is not None:
        to.write_bytes(message + b"\n")
        say(f"The vote is in {to}.")
    else:
        click.echo(message)


@council.command()
@_motion
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--reason", default="", help="Why, for eject:ROLE and reelect.")
@key_option("The key of a proposer or operator")
@connected
def certify(connection: Connection, motion: str, project: str, files: tuple[str, ...], reason: str, key: Key) -> None:
    """Check the votes in FILES (one a line; - is standard input), or those the leader has gathered; say which are
    missing; propose what they decide.

    Exit 1 where they are too few. As for `swoosh propose` otherwise.
    """
    if motion != APPROVE and not reason:
        raise click.UsageError(f"--reason: say why {motion}")
    asked = run(_asked(connection, project, motion))
    votes = list(_votes(_lines(files))) if files else run(_gathered(connection, project, motion))
    _show(asked.poll)
    good = asked.good(votes)
    for name in asked.poll.electors:
        if name not in good:
            say(f"  no vote of {name}")
    if len(good) < asked.poll.threshold:
        fail(f"{len(good)} of {len(asked.poll.electors)} electors voted; {asked.poll.threshold} are needed")
    report(connection, run(_propose(connection, key, asked.poll, list(good.values()), reason)))


# --- what is voted on -------------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """What electors of one cluster may vote on."""

    cluster_id: str
    poll: Poll

    def message(self, key: Key) -> bytes:
        """The elector's vote, as a message."""
        asked = self.poll
        ballot = {
            "cluster_id": self.cluster_id,
            "project": asked.project,
            "election": asked.election,
            "member_set_hash": asked.member_set_hash,
            "vote": asked.motion,
        }
        signature = key.sign_vote(self.cluster_id, asked.project, asked.election, asked.member_set_hash, asked.motion)
        now = datetime.fromtimestamp(SystemClock().wall_us() // 1_000_000, UTC)
        data = {**ballot, "voter": key.principal, "signature": signature}
        return canonical.encode({"type": VOTE, "from": key.principal, "timestamp": now.isoformat(), "data": data})

    def good(self, votes: Iterable[Vote]) -> dict[str, Vote]:
        """The votes that count, by voter; why another does not is said."""
        found: dict[str, Vote] = {}
        for each in votes:
            fault = self._fault(each)
            if fault is None:
                found[normalise(each.voter)] = each
            else:
                say(f"  not counted, {each.voter}: {fault}")
        return found

    def _fault(self, vote: Vote) -> str | None:
        if (vote.cluster_id, vote.project, vote.vote) != (self.cluster_id, self.poll.project, self.poll.motion):
            return f"it is for {vote.vote} in {vote.project} of {vote.cluster_id}"
        objection = self.poll.objection(vote)
        if objection is not None:
            return objection.reasons[0]
        return None if is_signed(vote) else "the signature is not the voter's over this ballot"


async def _asked(connection: Connection, project: str, motion: str) -> Asked:
    """What is voted on, from what the cluster says of election, claims and identities."""
    async with connection.client() as client:
        cluster_id = (await client.health())["cluster_id"]
        identities = await _region(client, CLUSTER, "Identities")
        held = await _region(client, project, "Council")
    known = msgspec.convert(identities["Entries"], dict[str, Identity])
    region = msgspec.convert(held, Council)
    found = poll(project, region, motion, known.get)
    if isinstance(found, Refused):
        fail(found.reasons[0])
    if motion != APPROVE and found.member_set_hash != region.member_set_hash:
        fail(f"the cluster says that {region.member_set_hash} is seated; its members hash to {found.member_set_hash}")
    return Asked(cluster_id, found)


async def _region(client: Client, project: str, name: str) -> dict[str, Any]:
    state = await client.state(project, projection=[name])
    if state is None:
        fail(f"no project {project} exists")
    found: dict[str, Any] = state.projection[name]
    return found


def _show(asked: Poll) -> None:
    """Who the motion is about, and the hash of it, as computed here."""
    say(f"{asked.motion} in election {asked.election} of {asked.project}, about {asked.member_set_hash or 'nobody'}:")
    for member in asked.members:
        say(f"  {member.role}: {member.agent}, {member.principal}")
    for role in asked.lacking:
        say(f"  {role}: not claimed; nobody can be seated before it is")


# --- votes ------------------------------------------------------------------------------------------------------------


def _lines(files: Iterable[str]) -> Iterator[bytes]:
    for name in files:
        with click.open_file(name, "rb") as file:
            yield from (line for line in file.read().splitlines() if line.strip())


def _votes(lines: Iterable[bytes]) -> Iterator[Vote]:
    """The votes among messages, one a line; what else was said is passed over."""
    for line in lines:
        try:
            found = read(canonical.parse(line, "message"))
        except Malformed as error:
            say(f"  not counted: {error}")
            continue
        if isinstance(found, Vote):
            yield found


async def _gathered(connection: Connection, project: str, motion: str) -> list[Vote]:
    async with connection.client() as client:
        answer = await client.get("/council/votes", project=project)
    votes = msgspec.convert(answer["votes"], list[Vote])
    return [each for each in votes if each.vote == motion]


async def _posted(connection: Connection, message: bytes) -> tuple[str, str, str]:
    async with connection.client() as client:
        return await hand_in(client, message)


async def _propose(connection: Connection, key: Key, asked: Poll, votes: list[Vote], reason: str) -> Outcome:
    """Under a key that names the election: who does it again, or after another, changes nothing."""
    about: dict[str, Any] = {"threshold": asked.threshold} if asked.motion == APPROVE else {"reason": reason}
    if asked.motion.startswith(EJECT):
        about["role"] = asked.motion.removeprefix(EJECT)
    async with connection.client(key) as client:
        return await client.propose(
            asked.transition,
            inputs={**certificate(asked, votes), **about},
            project=asked.project,
            idem_key=f"certify:{asked.transition}:{asked.election}",
            on_stale="resubmit",
        )
