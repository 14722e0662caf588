"""The loop of a worker: decide on what is committed, propose it once, look again."""

from __future__ import annotations

import pytest

from cluster.worker.common import Done, GaveUp, Step, Wait, work
from swoosh.client import State
from swoosh.client.transport import Lost, Reply
from swoosh.outcome import ADVICE, Code
from tests.client.script import HEAD, LATER, Answer, Asked, LeapClock, Script, accepted, client, refused


class World:
    """A project that is at its goal once its state is LATER, and a worker that does not know it yet."""

    def __init__(self, *answers: Answer) -> None:
        self.script, self.clock = Script(answers), LeapClock()
        self.said: list[str] = []
        self.looks = 0

    async def decide(self, seen: State | None) -> Step | Wait | Done:
        assert seen is not None
        self.looks += 1
        return Done("there") if seen.state_hash == LATER else Step("INGESTION_FETCHED", {"content_hash": HEAD})

    async def run(self) -> Done:
        return await work(
            client(self.script, clock=self.clock), "atlas", self.decide, clock=self.clock, say=self.said.append
        )

    def moves(self, reply: Reply) -> Answer:
        """An answer after which the state is LATER."""

        def answer(_: Asked) -> Reply:
            self.script.head = LATER
            return reply

        return answer

    def keys(self) -> list[str]:
        return [asked.document["idem_key"] for asked in self.script.posts]


async def test_it_decides_on_what_it_saw_and_stops_at_its_goal() -> None:
    world = World()
    world.script.answers = [world.moves(accepted())]
    assert await world.run() == Done("there")
    (sent,) = world.script.posts
    assert sent.document["current_state_hash"] == HEAD
    assert world.said == ["INGESTION_FETCHED accepted at index 9"]


async def test_the_same_step_from_the_same_state_is_the_same_operation() -> None:
    """A worker that was killed before it heard its answer sends the same again."""
    first, second = World(), World()
    for world in (first, second):
        world.script.answers = [world.moves(accepted())]
        await world.run()
    assert first.keys() == second.keys()
    later = World()
    later.script.head = "sha256-" + "c" * 64
    later.script.answers = [later.moves(accepted())]
    await later.run()
    assert later.keys() != first.keys()


@pytest.mark.parametrize("code", [Code.STALE_STATE, Code.IDEM_KEY_REUSED])
async def test_where_somebody_else_was_first_it_looks_again_at_once(code: Code) -> None:
    world = World()
    world.script.answers = [world.moves(refused(code))]
    await world.run()
    assert (world.looks, world.clock.naps, world.said) == (2, [], [])


async def test_what_may_change_is_waited_for_and_said_once() -> None:
    world = World()
    no = refused(Code.GUARD_REJECTED, retryable=ADVICE[Code.GUARD_REJECTED].retryable)
    world.script.answers = [no, no, no, world.moves(accepted())]
    await world.run()
    assert len(world.script.posts) == 4
    assert [line.partition(":")[0] for line in world.said] == [
        "INGESTION_FETCHED is refused",
        "INGESTION_FETCHED accepted at index 9",
    ]


async def test_what_never_will_be_accepted_ends_it() -> None:
    world = World(refused(Code.NOT_AUTHORISED, retryable=ADVICE[Code.NOT_AUTHORISED].retryable))
    with pytest.raises(GaveUp, match="because NOT_AUTHORISED"):
        await world.run()


async def test_an_outcome_that_is_unknown_is_what_the_next_look_shows() -> None:
    world = World()

    def lost(_: Asked) -> Reply:
        world.script.head = LATER  # it was applied all the same
        raise Lost("gone")

    world.script.answers = [lost]
    assert await world.run() == Done("there")
    assert len(set(world.keys())) == 1


async def test_a_cluster_that_is_away_is_waited_for() -> None:
    world = World()
    world.script.answers = [world.moves(accepted())]
    state, away = world.script._state, iter([True, True, False])

    def first_away(asked: Asked) -> Reply:
        return refused("NO_QUORUM", 503) if "/state" in asked.url and next(away, False) else state(asked)

    world.script._state = first_away  # type: ignore[method-assign]
    assert await world.run() == Done("there")
