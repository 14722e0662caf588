"""Votes that come from outside: which count, how long they are kept, and when they become a certificate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from chaos.solo import ELECTORS, TERM, Solo, the_chart
from chaos.steer import drive
from cluster.answers import Answer, Unavailable, not_admitted
from cluster.clock import ManualClock
from cluster.nodekey import NodeKey
from cluster.providers import hmmm
from cluster.providers.hmmm import LOOK_SECONDS, PROPOSAL, VOTE, Tally, Votes
from cluster.providers.leading import Leading
from swoosh import principal, proposal, signing
from swoosh.entry import Item, ProposalItem
from swoosh.errors import Malformed
from swoosh.outcome import Accepted, Code, Refused
from swoosh.quorum import APPROVE, REELECT, Vote
from tests.cluster.electors import asked, cast, message
from tests.running import running, turns


def elected(solo: Solo, *, seats: int = 1) -> Solo:
    """Bring the current project to where electors may vote: every role is claimed."""
    drive(solo, lambda r: r.council.phase == "ELECT" and len(r.council.claims) == seats, seats=seats)
    return solo


def ballot(solo: Solo, name: str, motion: str = APPROVE, *, by: str | None = None, **changed: Any) -> Vote:
    """A person's vote on what is voted on now; signed by somebody else, or about something else, where told so."""
    on, key = asked(solo.machine, motion), solo.keys[by or name]
    return cast(on, solo.machine, solo.principals[name], lambda covered: signing.sign(key, covered), **changed)


class Hall:
    """A cluster in an election, and what gathers its votes on the node that leads."""

    def __init__(self) -> None:
        self.solo = elected(Solo(the_chart()))
        self.clock = ManualClock(self.solo.now_ms * 1000)
        self.votes = Votes(self.solo.machine)
        self.leading = Leading(TERM, self.solo.machine, self.clock, NodeKey.of(self.solo.keys["n1"]), self.submit)
        self.proposed: list[Item] = []
        self.answers: list[Answer] = []
        self.instead: Answer | None = None

    async def submit(self, items: Sequence[Item], deadline: float) -> list[Answer]:
        self.proposed += items
        self.answers += [self.instead] * len(items) if self.instead else self.solo.apply(*items).outcomes
        return self.answers[-len(items) :]

    def take(self, vote: Vote) -> str:
        """What became of a vote: two words, or the code of its refusal."""
        found = self.votes.tally(vote.project, vote)
        return found.became if isinstance(found, Tally) else found.code

    def held(self) -> list[str]:
        found = self.votes.tally(self.solo.project)
        assert isinstance(found, Tally)
        return [self.solo.names[principal.normalise(vote.voter)] for vote in found.votes]

    async def run(self, looks: int = 2, *, meanwhile: Callable[[], object] | None = None) -> None:
        """Lead for a while, and as long again after something happened, if something does."""
        async with running(self.votes.run(self.leading)):
            await self._look(looks)
            if meanwhile is not None:
                meanwhile()
                await self._look(looks)

    async def _look(self, times: int) -> None:
        for _ in range(times):
            await turns(20)
            self.clock.advance(LOOK_SECONDS)
            self.solo.now_ms = self.clock.wall_us() // 1000
        await turns(20)

    @property
    def phase(self) -> str:
        return self.solo.regions().council.phase


@pytest.fixture
def hall() -> Hall:
    return Hall()


# --- which votes count ------------------------------------------------------------------------------------------------


def test_a_vote_counts_once_however_often_it_comes(hall: Hall) -> None:
    vote = ballot(hall.solo, "ed")
    assert [hall.take(vote), hall.take(vote), hall.take(ballot(hall.solo, "eva"))] == ["counted", "known", "counted"]
    assert sorted(hall.held()) == ["ed", "eva"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"by": "eva"}, Code.BAD_SIGNATURE),
        ({"cluster_id": "swoosh-another"}, Code.BAD_SIGNATURE),
        ({"election": 7}, Code.STALE_STATE),
        ({"member_set_hash": "sha256-" + "0" * 64}, Code.STALE_STATE),
        ({"vote": "eject:lead"}, Code.STALE_STATE),
        ({"vote": "hang:everybody"}, Code.STALE_STATE),
        ({"project": "nobodys"}, Code.UNKNOWN_PROJECT),
    ],
)
def test_a_vote_for_anything_else_is_refused_and_not_kept(hall: Hall, change: dict[str, Any], code: Code) -> None:
    assert hall.take(ballot(hall.solo, "ed", **change)) == code
    assert hall.held() == []


def test_only_electors_of_this_election_vote(hall: Hall) -> None:
    assert hall.take(ballot(hall.solo, "alice")) == Code.NOT_AUTHORISED
    stranger = msgspec.structs.replace(ballot(hall.solo, "ed"), voter="hmmm:pubkey:" + "ab" * 32)
    assert hall.take(stranger) == Code.BAD_SIGNATURE
    vote = ballot(hall.solo, "ed")
    hall.solo.propose("IDENTITY_REVOKED", {"principal": hall.solo.principals["ed"]})
    assert hall.take(vote) == Code.UNKNOWN_SIGNER


def test_memory_is_bounded(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hmmm, "VOTES_MAX", 2)
    assert [hall.take(ballot(hall.solo, name)) for name in ("ed", "eli")] == ["counted", "counted"]
    full = hall.votes.tally(hall.solo.project, ballot(hall.solo, "eva"))
    assert isinstance(full, Unavailable) and not full.admitted
    assert hall.take(ballot(hall.solo, "ed")) == "known"


# --- how a certificate comes about ------------------------------------------------------------------------------------


async def test_nothing_is_proposed_below_the_threshold(hall: Hall) -> None:
    hall.take(ballot(hall.solo, "ed"))
    await hall.run()
    assert not hall.proposed and hall.held() == ["ed"]


async def test_a_quorum_seats_exactly_what_it_signed(hall: Hall) -> None:
    on = asked(hall.solo.machine)
    for name in ("eva", "ed"):
        hall.take(ballot(hall.solo, name))
    await hall.run()
    (item,) = hall.proposed
    assert isinstance(item, ProposalItem)
    sent = proposal.decode(item.sent)
    assert (sent.signer, sent.idem_key) == (hall.solo.principals["n1"], f"steward:COUNCIL_QUORUM_CERT:{on.election}")
    council = hall.solo.regions().council
    assert (council.phase, council.members) == ("TOOLING_SYNC", on.members)
    assert council.certificate is not None
    assert [hall.solo.names[vote.elector] for vote in council.certificate.votes] == sorted(
        ("ed", "eva"), key=lambda name: hall.solo.principals[name]
    )
    assert hall.held() == [], "the election is over"
    assert hall.votes.trouble is None


async def test_a_vote_for_a_seated_council_is_settled_and_one_of_an_older_election_is_stale(hall: Hall) -> None:
    late, others = ballot(hall.solo, "eli"), [ballot(hall.solo, name) for name in ("ed", "eva")]
    for vote in others:
        hall.take(vote)
    await hall.run()
    assert [hall.take(vote) for vote in (late, *others)] == ["settled"] * 3
    hall.solo.propose("COUNCIL_REELECTION_CALLED", {"reason": "again"}, signer="op")
    assert hall.take(late) == Code.STALE_STATE


async def test_two_leaders_never_apply_twice(hall: Hall) -> None:
    """A deposed leader's certificate arrives after its successor's."""
    votes = [ballot(hall.solo, name) for name in ELECTORS]
    hall.instead = not_admitted(Code.NO_LEADER, "deposed")
    for vote in votes[:2]:
        hall.take(vote)
    await hall.run(looks=1)
    late, hall.instead = hall.proposed[-1], None
    successor = Votes(hall.solo.machine)
    hall.votes = successor
    for vote in votes:
        hall.take(vote)
    await hall.run()
    seated = hall.solo.regions().council
    assert seated.phase == "TOOLING_SYNC"
    (answer,) = hall.solo.apply(late).outcomes
    assert isinstance(answer, Refused) and answer.code == Code.IDEM_KEY_REUSED
    assert hall.solo.regions().council == seated


async def test_what_was_not_admitted_is_proposed_again(hall: Hall) -> None:
    hall.instead = not_admitted(Code.NO_LEADER, "not now")
    for name in ("ed", "eva"):
        hall.take(ballot(hall.solo, name))
    await hall.run(looks=3)
    assert len(hall.proposed) > 1 and hall.phase == "ELECT"
    assert hall.votes.trouble is not None and "not now" in hall.votes.trouble
    hall.instead = None
    await hall.run()
    assert hall.phase == "TOOLING_SYNC" and hall.votes.trouble is None


async def test_what_was_refused_is_proposed_again_when_something_moved(hall: Hall) -> None:
    for name in ("ed", "eva"):
        hall.take(ballot(hall.solo, name))
    hall.solo.propose("CONTROL_PAUSED", {"reason": "lunch"})
    await hall.run(looks=5)
    assert len(hall.proposed) == 1, "the same on the same state is refused again"
    assert hall.votes.trouble is not None and "paused" in hall.votes.trouble.lower()
    hall.solo.propose("CONTROL_RESUMED", {"reason": "after lunch"})
    await hall.run()
    assert hall.phase == "TOOLING_SYNC"


async def test_another_vote_is_a_reason_to_try_again(hall: Hall) -> None:
    for name in ("ed", "eva"):
        hall.take(ballot(hall.solo, name))
    hall.solo.propose("CONTROL_PAUSED", {"reason": "lunch"})
    await hall.run(looks=3, meanwhile=lambda: hall.take(ballot(hall.solo, "eli")))
    assert len(hall.proposed) == 2, "once for each set of votes"
    await hall.run(looks=3)
    assert len(hall.proposed) == 3, "and when it leads again: who knows what came of the last"


async def test_claims_that_move_take_the_votes_with_them(hall: Hall) -> None:
    hall.take(ballot(hall.solo, "ed"))
    (claim,) = hall.solo.regions().council.claims.values()
    owner = hall.solo.names[claim.principal]
    hall.solo.propose("COUNCIL_ROLE_RELEASED", {"role": "lead"}, signer=owner)
    late = ballot(hall.solo, "eva")
    assert hall.take(late) == "counted", "an elector may vote on fewer claims; it seats nobody"
    await hall.run()
    assert hall.held() == ["eva"]
    hall.take(ballot(hall.solo, "eli"))
    await hall.run()
    assert not hall.proposed, "a role is open"


async def test_a_revoked_elector_no_longer_counts(hall: Hall) -> None:
    for name in ("ed", "eva"):
        hall.take(ballot(hall.solo, name))
    hall.solo.propose("IDENTITY_REVOKED", {"principal": hall.solo.principals["ed"]})
    await hall.run()
    assert (hall.held(), hall.proposed) == (["eva"], [])


async def test_votes_to_unseat_are_gathered_for_somebody_to_propose(hall: Hall) -> None:
    for name in ("ed", "eva"):
        hall.take(ballot(hall.solo, name))
    await hall.run()
    before = len(hall.proposed)
    for motion in (REELECT, "eject:lead"):
        assert hall.take(ballot(hall.solo, "ed", motion)) == hall.take(ballot(hall.solo, "eva", motion)) == "counted"
    await hall.run()
    assert len(hall.proposed) == before and len(hall.held()) == 4
    found = hall.votes.tally(hall.solo.project)
    assert isinstance(found, Tally)
    votes = [vote for vote in found.votes if vote.vote == "eject:lead"]
    inputs = {**hmmm.certificate(asked(hall.solo.machine, "eject:lead"), votes), "role": "lead", "reason": "gone"}
    assert isinstance(hall.solo.propose("COUNCIL_MEMBER_EJECTED", inputs, signer="pam"), Accepted)
    await hall.run()
    assert hall.held() == []


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_message_carries_a_vote_or_a_proposal_and_other_types_are_not_ours(hall: Hall) -> None:
    vote = ballot(hall.solo, "ed")
    assert hmmm.read(message(vote, hop_count=3)) == vote
    assert hmmm.read(message({"transition": "T"}, type=PROPOSAL)) == {"transition": "T"}
    assert hmmm.read({"type": "hmmm.message", "from": {"agent_id": "a", "role": "b"}, "message": "hm"}) is None
    assert hmmm.read({"type": "task_claim"}) is None


@pytest.mark.parametrize(
    "change",
    [
        {"type": 7},
        {"type": "swoosh." + "x" * 122},
        {"type": "swoosh.vote.v2"},
        {"data": "a vote"},
        {"data": {"voter": "somebody"}},
        {"extra": 1},
        {"hop_count": "1"},
        {"from": None},
    ],
)
def test_a_message_of_ours_is_read_strictly(hall: Hall, change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        hmmm.read({**message(ballot(hall.solo, "ed")), **change})


@pytest.mark.parametrize("document", [[], {}, None, "swoosh.vote.v1", {"type": VOTE, "data": {}}])
def test_what_is_no_message_is_said_so(document: Any) -> None:
    with pytest.raises(Malformed):
        hmmm.read(document)
