"""Linearizable reads: who may answer, after which round, and how many rounds that takes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from cluster.raft import journal
from cluster.raft.driver import NoQuorum, NotLeader
from tests.raft.cluster import Cluster, OurHost

QUICK = (0.001, 0.002)


def our_leader(group: Cluster) -> OurHost:
    leader = group.elected()
    assert isinstance(leader, OurHost)
    group.run(0.2)
    return leader


def soon(host: OurHost, seconds: float = 1.0) -> float:
    return host.clock.monotonic() + seconds


def test_a_read_sees_everything_acknowledged_before_it() -> None:
    with Cluster(1, latency=QUICK) as group:
        leader = our_leader(group)
        for number in range(20):
            leader.propose(b"w%d" % number)
            group.run_until(lambda number=number: b"w%d" % number in group.acknowledged())  # type: ignore[misc]
            index = group.wait(leader.raft.read_index(soon(leader)))
            assert leader.machine.applied >= index
            assert leader.state()[-1] == b"w%d" % number


@pytest.mark.parametrize("follower", [0, 1])
def test_a_follower_reads_what_the_leader_acknowledged(follower: int) -> None:
    """A follower learns of a commit only with the next append; it asks the leader how far it must be."""
    with Cluster(2, latency=QUICK) as group:
        leader = our_leader(group)
        reader = group.others(leader)[follower]
        assert isinstance(reader, OurHost)
        for number in range(20):
            leader.propose(b"w%d" % number)
            group.run_until(lambda number=number: b"w%d" % number in group.acknowledged())  # type: ignore[misc]
            group.wait(reader.raft.caught_up(soon(reader)))
            assert reader.state()[-1] == b"w%d" % number


def test_an_isolated_leader_answers_nobody() -> None:
    """It still believes that it leads; others may have acknowledged writes meanwhile."""
    with Cluster(3, latency=QUICK) as group:
        leader = our_leader(group)
        group.isolate(leader)
        assert leader.is_leader()
        with pytest.raises(NoQuorum):
            group.wait(leader.raft.read_index(soon(leader, 0.3)))
        with pytest.raises(NotLeader):
            group.wait(leader.raft.read_index(soon(leader, 5.0)))


def test_a_follower_does_not_confirm_and_says_who_leads() -> None:
    with Cluster(4) as group:
        leader = our_leader(group)
        follower = group.others(leader)[0]
        assert isinstance(follower, OurHost)
        with pytest.raises(NotLeader, match=leader.name):
            group.wait(follower.raft.read_index(soon(follower)))


def test_reads_that_arrive_during_a_round_share_the_next() -> None:
    with Cluster(5, latency=(0.005, 0.005)) as group:
        leader = our_leader(group)
        questions: list[int] = []
        raw = leader.transport.raw

        def count(peer_id: str, message: dict[str, Any]) -> bool:
            if message["type"] == "ri":
                questions.append(message["id"])
            return raw(peer_id, message)

        leader.raft._reads._raw = count

        async def readers() -> list[int]:
            reads: list[Coroutine[Any, Any, int]] = []
            waiting = []
            for _ in range(100):
                reads.append(leader.raft.read_index(soon(leader)))
                waiting.append(asyncio.ensure_future(reads[-1]))
                await asyncio.sleep(0.0002)
            return await asyncio.gather(*waiting)

        assert len(group.wait(readers())) == 100
        assert len(set(questions)) <= 4, "a round trip is 10 ms, and the reads took 20 ms to arrive"


def test_a_read_never_joins_a_round_that_began_before_it() -> None:
    """The round's questions may have been answered before somebody else's write was acknowledged."""
    with Cluster(6, latency=QUICK) as group:
        leader = our_leader(group)
        for peer in group.others(leader):
            group.hold(peer.name, leader.name)
        early = group.loop.create_task(leader.raft.read_index(soon(leader)))
        group.run(0.02)
        late = group.loop.create_task(leader.raft.read_index(soon(leader)))
        group.run(0.02)
        rounds = leader.raft._reads
        assert rounds._round is not None and len(rounds._round.reads) == 1
        assert len(rounds._waiting) == 1
        for peer in group.others(leader):
            group.release(peer.name, leader.name)
        group.run(0.001)
        assert early.done() and not late.done()
        group.run(0.1)
        assert late.result() >= early.result()


def test_a_new_leader_waits_for_an_entry_of_its_own_term() -> None:
    """Before that it does not know how far its predecessor had committed (Raft §8)."""
    with Cluster(7, latency=(0.02, 0.02)) as group:
        leader = our_leader(group)
        leader.propose(b"w")
        group.run(0.3)
        first, second = group.others(leader)
        group.wait(leader.raft.transfer_leadership(first.name))
        assert isinstance(first, OurHost)
        group.run_until(first.is_leader, 1.0)
        for peer in (leader, second):  # its no-op cannot be acknowledged, its round could be confirmed
            group.hold(peer.name, first.name)
        read = group.loop.create_task(first.raft.read_index(soon(first, 0.4)))
        group.run(0.05)
        assert first.raft._reads._round is None, "no round before the no-op is committed"
        for peer in (leader, second):
            group.release(peer.name, first.name)
        group.run(0.1)
        assert first.journal.term_at(read.result()) == first.term()


def test_a_member_of_a_newer_term_confirms_nobody() -> None:
    with Cluster(12) as group:
        leader = our_leader(group)
        member = group.others(leader)[0]
        assert isinstance(member, OurHost)
        answers: list[dict[str, Any]] = []

        def collect(peer_id: str, message: dict[str, Any]) -> bool:
            answers.append(message)
            return True

        member.raft._reads._raw = collect
        for term in (member.term() - 1, member.term(), member.term() + 1):
            member.raft.on_message(leader.name, {"type": "ri", "id": 1, "t": term})
        assert [answer["t"] for answer in answers] == [member.term()]


def test_a_read_in_flight_fails_when_leadership_moves() -> None:
    with Cluster(8, latency=QUICK) as group:
        leader = our_leader(group)
        for peer in group.others(leader):
            group.hold(peer.name, leader.name)
        read = group.loop.create_task(leader.raft.read_index(soon(leader, 10.0)))
        group.run(3.0)
        assert isinstance(read.exception(), NotLeader)


def test_a_restarted_node_is_caught_up_only_when_it_has_what_was_committed_meanwhile() -> None:
    with Cluster(9, latency=QUICK) as group:
        leader = our_leader(group)
        away = group.others(leader)[0]
        assert isinstance(away, OurHost)
        away.kill()
        for number in range(200):
            leader.propose(b"w%d" % number)
        group.run(1.0)
        away.start()
        group.wait(away.raft.caught_up(soon(away, 5.0)))
        assert b"w199" in away.state()


def test_a_group_of_one_confirms_itself() -> None:
    with Cluster(10, nodes=1) as group:
        alone = our_leader(group)
        alone.propose(b"w")
        group.run(0.1)
        assert alone.state() == [b"w"]
        assert group.wait(alone.raft.read_index(soon(alone))) == alone.raft.commit_index
        assert group.wait(alone.raft.caught_up(soon(alone))) == alone.raft.commit_index


def test_a_confirmed_read_waits_until_the_leader_has_applied_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit may run ahead of what one tick applies (slices are bounded; here to two entries). A group of one
    confirms its reads in that very tick, with most of what is committed not yet in its state."""
    monkeypatch.setattr(journal, "SLICE_ENTRIES", 2)
    with Cluster(13, nodes=1) as group:
        alone = our_leader(group)
        for number in range(8):
            alone.propose(b"w%d" % number, at_once=True)
        assert alone.raft.commit_index < alone.raft.last_index, "appended, not committed"

        async def read() -> tuple[int, int]:
            index = await alone.raft.read_index(soon(alone))
            return index, alone.machine.applied

        index, applied = group.wait(read())
        assert index == alone.raft.last_index
        assert applied >= index


def test_waiting_for_an_index_ends_at_the_deadline() -> None:
    with Cluster(11) as group:
        leader = our_leader(group)
        with pytest.raises(NoQuorum, match="999"):
            group.wait(leader.raft.wait_applied(999, soon(leader, 0.2)))
        leader.propose(b"w")
        wanted = leader.raft.last_index + 1
        group.wait(leader.raft.wait_applied(wanted, soon(leader)))
        assert leader.machine.applied >= wanted
