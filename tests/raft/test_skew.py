"""Whose clock is wrong: medians of few samples, and the benefit of the doubt that a slow answer gets."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.clock import ManualClock
from cluster.raft.skew import FRESH_SECONDS, Skew

LIMIT_US = 500_000


class Asker:
    """One node that asks its peers, whose clocks are ahead of its own by what the test says."""

    def __init__(self, *ahead_us: int) -> None:
        self.clock = ManualClock()
        self.asked: list[dict[str, Any]] = []
        self.peers = [f"n{number}" for number in range(len(ahead_us))]
        self.skew = Skew(peers=self.peers, raw=self.send, clock=self.clock, limit_us=LIMIT_US)
        for peer, ahead in zip(self.peers, ahead_us, strict=True):
            self.ask(peer, ahead)

    def send(self, peer: str, message: dict[str, Any]) -> bool:
        self.asked.append(message)
        return True

    def ask(self, peer: str, ahead_us: int, *, there: float = 0.0, back: float = 0.0) -> None:
        self.skew.probe(peer)
        question = self.asked.pop()
        self.clock.advance(there)
        wall_us = self.clock.wall_us() + ahead_us
        self.clock.advance(back)
        self.skew.on_answer(peer, {"type": "clock_ok", "at": question["at"], "wall_us": wall_us})


@pytest.mark.parametrize(
    ("others", "from_median"),
    [
        ((0, 0), 0),
        ((700_000, -700_000), 0),
        ((700_000, 800_000), -700_000),
        ((-700_000, -800_000), 700_000),
        ((3_600_000_000,), 0),  # of two clocks nobody knows which is wrong
        ((10, 20, 30, 40), -20),
        ((-10, 20, 30), 0),
        ((20, 30, 40), -20),
        ((), 0),
    ],
)
def test_the_distance_is_to_the_nearer_of_the_middle_clocks(others: tuple[int, ...], from_median: int) -> None:
    skew = Asker(*others).skew
    assert skew.from_median_us() == from_median
    assert skew.is_off() is (abs(from_median) > LIMIT_US)


@pytest.mark.parametrize(("there", "back"), [(1.2, 0.0), (0.0, 1.2), (0.6, 0.6)])
def test_a_slow_answer_makes_no_good_clock_look_bad(there: float, back: float) -> None:
    """This node was stopped for a second with the answers in its socket, or the question was slow, or both."""
    asker = Asker(0, 0)
    for peer in asker.peers:
        asker.ask(peer, 0, there=there, back=back)
        assert not asker.skew.is_off()
        assert not asker.skew.is_peer_off(peer)
    assert asker.skew.from_median_us() == 0


def test_a_slow_answer_does_not_hide_a_clock_that_is_an_hour_off() -> None:
    asker = Asker(0, 0)
    for peer in asker.peers:
        asker.ask(peer, 3_600_000_000, there=0.3, back=0.1)
    assert asker.skew.is_off()


def test_samples_age_and_leave_with_their_link() -> None:
    asker = Asker(0, 0)
    assert asker.skew.is_known()
    asker.clock.advance(FRESH_SECONDS + 0.1)
    assert not asker.skew.is_known()
    asker.ask("n0", 0)
    assert asker.skew.is_known(), "one of two peers and the node itself are a majority"
    asker.skew.forget("n0")
    assert not asker.skew.is_known()


def test_a_group_of_one_always_knows_the_time() -> None:
    assert Asker().skew.is_known()


def test_a_peer_is_judged_against_the_same_median() -> None:
    skew = Asker(0, 900_000).skew
    assert not skew.is_peer_off("n0")
    assert skew.is_peer_off("n1")
    assert not skew.is_peer_off("stranger")
