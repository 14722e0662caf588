"""What electors sign, and what makes a set of members one set."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from swoosh import limits, quorum, signing
from swoosh.hashing import is_hex
from swoosh.principal import key_of, name_of
from tests.core.contexts import CHART, CLUSTER_ID, PROJECT, h

KEY = Ed25519PrivateKey.from_private_bytes(b"e" * 32)
VOTER = name_of(KEY.public_key().public_bytes_raw())
MEMBERS = [("lead", "ada", "key-a"), ("dev", "bo", "key-b")]


def signed(vote: str, *, election: int = 3, members: str = h("members"), project: str = PROJECT) -> dict[str, Any]:
    covered = signing.vote_preimage(CLUSTER_ID, project, election, members, vote)
    return {"voter": VOTER, "vote": vote, "signature": signing.sign(KEY, covered)}


def good(transition: str, inputs: dict[str, Any], project: str = PROJECT) -> list[str]:
    """The voters whose vote verifies, as admission finds them."""
    return [
        vote.voter
        for vote in quorum.votes_in(transition, inputs, CLUSTER_ID, project)
        if signing.verify(key_of(vote.voter) or b"", vote.preimage, vote.signature)
    ]


@given(st.integers(min_value=1, max_value=64))
def test_two_majorities_always_share_an_elector(count: int) -> None:
    assert 2 * quorum.majority(count) > count >= quorum.majority(count)


def test_a_member_set_is_the_same_in_any_order() -> None:
    assert quorum.member_set_hash(MEMBERS) == quorum.member_set_hash(reversed(MEMBERS))
    assert is_hex(quorum.member_set_hash(MEMBERS).removeprefix("sha256-"), 64)


@pytest.mark.parametrize("other", [[], MEMBERS[:1], [("lead", "ada", "key-x"), MEMBERS[1]], [*MEMBERS, MEMBERS[0]]])
def test_any_other_set_is_another(other: list[tuple[str, str, str]]) -> None:
    assert quorum.member_set_hash(other) != quorum.member_set_hash(MEMBERS)


@pytest.mark.parametrize(
    ("transition", "vote", "more"),
    [
        ("COUNCIL_QUORUM_CERT", "approve", {"threshold": 2}),
        ("COUNCIL_MEMBER_EJECTED", "eject:lead", {"role": "lead", "reason": "gone"}),
        ("COUNCIL_REELECTION_CALLED", "reelect", {"reason": "stuck"}),
    ],
)
def test_a_vote_counts_for_what_it_says_and_nowhere_else(transition: str, vote: str, more: dict[str, Any]) -> None:
    assert CHART.project.resolve(transition) is not None
    inputs = {"election": 3, "member_set_hash": h("members"), **more}
    assert good(transition, {**inputs, "votes": [signed(vote)]}) == [VOTER]
    assert good(transition, {**inputs, "votes": [signed("eject:other")]}) == []
    assert good(transition, {**inputs, "votes": [signed(vote, election=2)]}) == []
    assert good(transition, {**inputs, "votes": [signed(vote, members=h("others"))]}) == []
    assert good(transition, {**inputs, "votes": [signed(vote)]}, project="beta") == []


def test_an_approval_never_ejects() -> None:
    inputs = {
        "election": 3,
        "member_set_hash": h("members"),
        "role": "lead",
        "reason": "x",
        "votes": [signed("approve")],
    }
    assert good("COUNCIL_MEMBER_EJECTED", inputs) == []


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"votes": "many"},
        {"election": "3", "member_set_hash": h("members"), "votes": [signed("reelect")]},
        {"election": 3, "member_set_hash": 7, "votes": [signed("reelect")]},
        {"election": 3, "member_set_hash": h("members"), "votes": [None, {"voter": 1}, {"voter": VOTER}, []]},
        {"election": 3, "member_set_hash": h("members"), "votes": [signed("reelect")] * (limits.ELECTORS_MAX + 1)},
    ],
)
def test_what_is_not_of_the_form_carries_no_vote(inputs: dict[str, Any]) -> None:
    assert quorum.votes_in("COUNCIL_REELECTION_CALLED", inputs, CLUSTER_ID, PROJECT) == []


def test_as_many_votes_are_read_as_there_may_be_electors() -> None:
    inputs = {"election": 3, "member_set_hash": h("members"), "votes": [signed("reelect")] * limits.ELECTORS_MAX}
    assert len(quorum.votes_in("COUNCIL_REELECTION_CALLED", inputs, CLUSTER_ID, PROJECT)) == limits.ELECTORS_MAX


def test_other_transitions_carry_no_votes() -> None:
    inputs = {"election": 3, "member_set_hash": h("members"), "votes": [signed("approve")]}
    assert quorum.votes_in("EXECUTION_APPROVED", inputs, CLUSTER_ID, PROJECT) == []
