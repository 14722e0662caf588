"""The circuit breaker: it opens after so many failures in a row, and one trial after a pause decides."""

from __future__ import annotations

import pytest

from cluster.breaker import FAILURES, PAUSE_SECONDS, Breaker
from cluster.clock import ManualClock


class Fuse:
    """A breaker and the clock it stands by."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.breaker = Breaker(self.clock)

    def call(self, *, answered: bool) -> None:
        assert self.breaker.refusal() is None
        self.breaker.begin()
        self.breaker.succeeded() if answered else self.breaker.failed()

    def open(self) -> None:
        for _ in range(FAILURES):
            self.call(answered=False)


@pytest.fixture
def fuse() -> Fuse:
    return Fuse()


def test_it_opens_after_so_many_failures_in_a_row_and_says_until_when(fuse: Fuse) -> None:
    for _ in range(FAILURES - 1):
        fuse.call(answered=False)
    assert fuse.breaker.refusal() is None
    fuse.call(answered=False)
    fuse.clock.advance(PAUSE_SECONDS - 1)
    assert fuse.breaker.refusal() == f"it failed {FAILURES} times in a row; the next trial is in 1.0 s"


def test_an_answer_in_between_counts_them_anew(fuse: Fuse) -> None:
    for _ in range(3):
        for _ in range(FAILURES - 1):
            fuse.call(answered=False)
        fuse.call(answered=True)
    assert fuse.breaker.refusal() is None


def test_after_the_pause_there_is_one_trial_and_asking_for_it_does_not_take_it(fuse: Fuse) -> None:
    fuse.open()
    fuse.clock.advance(PAUSE_SECONDS)
    assert fuse.breaker.refusal() is None and fuse.breaker.refusal() is None
    fuse.breaker.begin()
    assert fuse.breaker.refusal() is not None, "a second one, while the trial is on its way"


def test_the_trial_closes_it_or_opens_it_for_another_pause(fuse: Fuse) -> None:
    fuse.open()
    fuse.clock.advance(PAUSE_SECONDS)
    fuse.call(answered=False)
    fuse.clock.advance(PAUSE_SECONDS - 1)
    assert fuse.breaker.refusal() is not None
    fuse.clock.advance(1)
    fuse.call(answered=True)
    assert fuse.breaker.refusal() is None
    fuse.call(answered=False)
    assert fuse.breaker.refusal() is None, "one failure after it was closed is one"


def test_a_trial_that_never_ends_is_followed_by_another(fuse: Fuse) -> None:
    fuse.open()
    fuse.clock.advance(PAUSE_SECONDS)
    fuse.breaker.begin()
    fuse.clock.advance(PAUSE_SECONDS)
    assert fuse.breaker.refusal() is None
