"""Whole nodes together: what callers are promised through elections, kills, hand-overs and restarts."""

from __future__ import annotations

import asyncio
import json
import random
from functools import partial

import pytest

from cluster import faults
from cluster.answers import Answer, Unavailable
from cluster.faults import ExitCode
from cluster.node import INDEX_WAITERS_MAX, READS_WAITING_MAX
from cluster.storage.kv import Batch, Family
from swoosh.hashing import digest
from swoosh.outcome import Accepted, Code, Refused
from tests.cluster.group import Group, NodeHost, accepted, activation, claim, next_chart
from tests.raft.cluster import raise_stopped


def follower_of(group: Group, leader: NodeHost) -> NodeHost:
    return next(host for host in group.live() if host is not leader)


def test_a_write_through_a_follower_is_read_at_once_on_any_node() -> None:
    with Group(1) as group:
        leader = group.leading()
        follower = follower_of(group, leader)
        made = accepted(group.propose(follower.name, group.create("atlas")))
        for host in group.live():
            deadline = host.clock.monotonic() + 5
            assert group.wait(host.node.read("linearizable", deadline)) is None
            held = host.node.machine.project("atlas")
            assert held is not None and held.seq >= made.seq
        group.converge()


def test_a_node_that_has_caught_up_knows_how_old_its_reads_are() -> None:
    with Group(12) as group:
        group.leading()
        restarted = group.live()[0]
        restarted.run(restarted.kill)
        group.run(1.0)
        restarted.start()
        group.run_until(lambda: restarted.node.caught_up)
        assert restarted.node.age_s() < 1.0
        assert restarted.node.ready is None


def test_the_same_proposal_through_every_node_at_once_is_one_record() -> None:
    with Group(2) as group:
        group.leading()
        item = group.create("atlas")
        asked = [group.ask(name, item) for name in group.names for _ in range(3)]
        answers = [accepted(group.answers(each)[0]) for each in asked]
        assert len({answer.record_hash for answer in answers}) == 1
        assert sum(not answer.duplicate for answer in answers) == 1
        group.converge()


def test_a_leader_cut_off_refuses_nobody() -> None:
    """It cannot know what the others have committed meanwhile, so its HEAD is nobody's business."""
    with Group(3) as group:
        old = group.leading()
        accepted(group.propose(old.name, group.create("atlas")))
        group.run(1.0)
        group.isolate(old)
        on_old_head = group.load(old.name, "atlas", head=digest("solo", "long ago"))
        asked = group.ask(old.name, on_old_head, within=0.4)
        (answer,) = group.answers(asked)
        assert isinstance(answer, Unavailable) and not answer.admitted
        group.run_until(lambda: any(host.is_leader() for host in group.others(old)))
        group.heal()
        group.converge()


def test_what_a_leader_takes_with_it_is_answered_unknown_and_a_retry_settles_it() -> None:
    with Group(4) as group:
        old = group.leading()
        for peer in group.others(old):
            group.hold(peer.name, old.name)
        item = group.create("atlas")
        asked = group.ask(old.name, item, within=0.5)
        (answer,) = group.answers(asked)
        assert isinstance(answer, Unavailable) and answer.code is Code.OUTCOME_UNKNOWN
        old.run(old.kill)
        (retried,) = group.answers(group.ask(group.live()[0].name, item))
        assert accepted(retried).project == "atlas"
        group.heal()
        old.start()
        group.converge()
        creations = [data for data in group.records(old.name, "atlas") if b"PROJECT_CREATED" in data]
        assert len(creations) == 1


def test_everything_acknowledged_survives_a_power_cut_of_all() -> None:
    with Group(5) as group:
        leader = group.leading()
        made = [accepted(group.propose(leader.name, group.create(f"p{number}"))) for number in range(5)]
        before = group.converge()
        for host in group.live():
            host.kill()
        for name in group.names:
            group.host(name).start()
        group.leading()
        group.converge()
        for answer in made:
            for host in group.live():
                record = host.node.store.ledger(answer.project, answer.idem_key)
                assert record is not None and record.record_hash == answer.record_hash
        assert before


def test_a_leader_that_stops_leaves_nobody_waiting() -> None:
    with Group(6) as group:
        leader = group.leading()
        asked = [group.ask(leader.name, group.create(f"p{number}")) for number in range(20)]
        started = group.now
        group.wait(leader.node.stop())
        assert group.now - started < 1.0, "handed over"
        answers = [group.answers(each, 0.1)[0] for each in asked]
        assert all(isinstance(a, Accepted) or (isinstance(a, Unavailable) and not a.admitted) for a in answers), answers
        group.disconnect_all(leader)
        leader.alive = leader.serving = False
        group.converge()


def test_in_a_group_of_five_what_is_in_flight_commits_before_leadership_moves() -> None:
    """One successor that stores everything is no majority."""
    with Group(7, nodes=5) as group:
        leader = group.leading()
        slow = [host.name for host in group.others(leader)][1:]
        for name in slow:
            group.hold(name, leader.name)
        asked = group.ask(leader.name, *[group.create(f"p{number}") for number in range(5)])
        group.run_until(lambda: leader.raft.last_index > leader.raft.commit_index)
        for name in slow:
            group.later(0.3, partial(group.release, name, leader.name))
        group.wait(leader.node.stop())
        assert [accepted(answer).project for answer in group.answers(asked, 0.1)] == [f"p{n}" for n in range(5)]


def test_one_node_alone_serves_at_once_and_stops_at_once() -> None:
    with Group(9, nodes=1) as group:
        leader = group.leading()
        started = group.now
        accepted(group.propose("n0", group.create("atlas")))
        refused = group.propose("n0", group.create("atlas"))
        assert isinstance(refused, Refused)
        group.wait(leader.node.stop())
        assert group.now - started < 0.2


def test_a_reader_who_waits_when_the_node_stops_is_told() -> None:
    with Group(10, nodes=1) as group:
        leader = group.leading()
        waiting = group.loop.create_task(leader.node.read("local", leader.clock.monotonic() + 60, min_index=10_000))
        group.run(0.1)
        group.wait(leader.node.stop())
        group.run_until(waiting.done, 0.1)
        assert isinstance(waiting.result(), Unavailable)


def test_requests_are_held_through_an_election() -> None:
    with Group(11) as group:
        old = group.leading()
        follower = follower_of(group, old)
        old.run(old.kill)
        assert accepted(group.propose(follower.name, group.create("atlas"))).project == "atlas"


def test_a_chart_activated_in_flight_divides_nobody() -> None:
    """What follows it in the log is judged by the new chart, on every node, also where that takes another build."""
    with Group(12) as group:
        chart = next_chart()
        for name in group.names:
            claim(group, name, chart)
        leader = group.leading()
        asked = [group.ask(leader.name, activation(group, leader, chart))]
        group.run_until(lambda: leader.raft.last_index > leader.raft.commit_index)
        asked.append(group.ask(leader.name, group.create("atlas"), within=1.0))
        assert accepted(group.answers(asked[0])[0])
        (answer,) = group.answers(asked[1])
        assert isinstance(answer, Unavailable) and answer.code is Code.OUTCOME_UNKNOWN
        assert len({(h.node.machine.position.index, h.node.machine.cluster_hash) for h in group.live()}) == 1
        for host in group.live():
            host.store.flush()  # stopped in order: the next build need not judge what only the old one can
            host.run(host.kill)
        for name in group.names:
            host = group.host(name)
            host.chart, host.claimed_chart = chart, None
            host.start()
        group.converge()
        for host in group.live():
            assert host.node.machine.project("atlas") is not None


@pytest.mark.parametrize(
    ("family", "start", "end"),
    [
        (Family.PROJECT, b"atlas\0", b"atlas\1"),
        (Family.HEAD, b"atlas", b"atlas\0"),
        (Family.WAL, b"atlas\0", b"atlas\1"),
    ],
)
def test_a_damaged_row_stops_the_node_as_damaged_whoever_reads_it(family: Family, start: bytes, end: bytes) -> None:
    """The steward on its rounds, the machine as it is built, or the count of who created what."""
    with Group(13, nodes=1) as group:
        leader = group.leading()
        accepted(group.propose("n0", group.create("atlas")))
        group.run(1.0)
        (key, value), *_ = leader.store.iterate(family, start, end)
        batch = Batch()
        batch.put(family, key, value[:-1] + bytes([value[-1] ^ 1]))
        leader.store.write(batch, sync=True)
        leader.kill()
        codes: list[ExitCode] = []

        def stop(code: ExitCode, reason: str, facts: dict[str, object]) -> None:
            codes.append(code)
            raise_stopped(code, reason, facts)

        faults.set_stop(stop)
        leader.start()
        group.run_until(lambda: bool(codes), 5.0)
        assert codes[0] is ExitCode.DAMAGED


def test_an_entry_of_no_known_format_costs_its_sender_the_link_and_nobody_the_process() -> None:
    with Group(14) as group:
        leader = group.leading()
        follower = follower_of(group, leader)
        log = follower.log()
        follower.raft.on_message(
            leader.name,
            {
                "type": "append_entries",
                "term": follower.term(),
                "commit_index": 1,
                "prevLogIdx": log[-1][1],
                "prevLogTerm": log[-1][2],
                "entries": [(b"\0of another format", log[-1][1] + 1, follower.term())],
            },
        )
        assert follower.log() == log and follower.alive
        assert follower.raft.refused["append_entries"] == 1


@pytest.mark.parametrize("seed", [21, 22, 23])
def test_through_kills_and_cuts_nothing_acknowledged_is_lost_and_nothing_refused_is_applied(seed: int) -> None:
    chance = random.Random(seed)
    with Group(seed) as group:
        group.leading()
        asked: list[tuple[str, asyncio.Task[list[Answer]]]] = []
        for number in range(60):
            live = group.live()
            if live:
                project = f"p{number}"
                name = chance.choice(live).name
                asked.append((project, group.ask(name, group.create(project, key=f"create:{project}"), within=2.0)))
            group.run(chance.uniform(0.0, 0.1))
            victim = group.host(chance.choice(group.names))
            if chance.random() < 0.08 and victim.alive and len(group.live()) == len(group.names):
                victim.run(victim.kill)
                group.later(chance.uniform(0.1, 1.0), victim.start)
            elif chance.random() < 0.08:
                group.isolate(victim)
                group.later(chance.uniform(0.5, 2.0), group.heal)
        group.run(4.0)
        group.heal()
        group.converge()
        reader = group.leading().node
        told = {"acknowledged": 0, "refused": 0, "unknown": 0}
        for project, task in asked:
            answer = task.result()[0] if task.done() and not task.cancelled() else None
            applied = reader.store.ledger(project, f"create:{project}")
            if isinstance(answer, Accepted):
                told["acknowledged"] += 1
                assert applied is not None and applied.record_hash == answer.record_hash, f"{project} was lost"
            elif isinstance(answer, Refused) or (isinstance(answer, Unavailable) and not answer.admitted):
                told["refused"] += 1
                assert applied is None, f"{project} was called not admitted: {answer}"
            else:
                told["unknown"] += 1
        print(told)
        assert told["acknowledged"] > 20


@pytest.mark.parametrize("seed", range(6))
def test_a_leader_that_slept_for_three_seconds_tells_callers_nothing_old(seed: int) -> None:
    """Requests wait in its socket: reads, and a proposal decided on what was HEAD when it fell asleep."""
    with Group(100 + seed) as group:
        old = group.leading()
        accepted(group.propose(old.name, group.create("atlas")))
        group.converge()
        on_old_head = group.load(old.name, "atlas", key="on-old-head")
        group.run(0.01 * seed)
        old.freeze()
        group.run_until(lambda: any(host.is_leader() for host in group.others(old)), 5.0)
        new = next(host for host in group.others(old) if host.is_leader())
        group.run(1.0)  # its steward has something to say too
        made = accepted(group.propose(new.name, group.load(new.name, "atlas")))
        heads: list[str] = []
        answers: list[Answer] = []

        async def read() -> None:
            if await old.node.read("linearizable", old.clock.monotonic() + 5.0) is None:
                held = old.node.machine.project("atlas")
                assert held is not None
                heads.append(held.state_hash)

        async def propose() -> None:
            answers.extend(await old.node.submit([on_old_head], old.clock.monotonic() + 5.0))

        for work in (read, propose, read):
            old.run(lambda work=work: group.spawn(work(), old))  # type: ignore[misc]
        group.run(3.0)
        old.thaw()
        group.run_until(lambda: bool(answers), 10.0)
        group.run(6.0)
        chain = [json.loads(record)["state_post_hash"] for record in group.records(new.name, "atlas")]
        not_old = set(chain[chain.index(made.state_post_hash) :])
        assert set(heads) <= not_old
        (answer,) = answers
        if isinstance(answer, Refused):
            assert answer.code is Code.STALE_STATE and answer.head in not_old
        else:
            assert isinstance(answer, Unavailable) and not answer.admitted
        group.converge()


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_a_node_told_to_stop_admits_nothing_more_and_knows_its_successor_when_it_goes() -> None:
    with Group(21) as group:
        old = group.leading()
        in_flight = [group.ask(old.name, group.create(f"p{number}")) for number in range(20)]
        group.run(0.005)
        handing = group.loop.create_task(old.node.hand_over())
        group.run(0.0)
        assert old.node.ready is not None and "shutting down" in old.node.ready
        group.run_until(handing.done, 3.0)
        assert old.raft.leader not in (None, old.name), "whoever asks here now is sent on"
        late = group.ask(old.name, group.create("late"))
        assert accepted(group.answers(late)[0]).project == "late"
        assert {accepted(group.answers(asked)[0]).project for asked in in_flight} == {f"p{n}" for n in range(20)}


def test_what_comes_in_while_leadership_moves_is_held_for_the_next_leader_by_every_node() -> None:
    with Group(23) as group:
        old = group.leading()
        handing = group.loop.create_task(old.node.hand_over())
        group.run(0.0)
        asked = {host.name: group.ask(host.name, group.create(f"at-{host.name}")) for host in group.hosts.values()}
        group.run_until(handing.done, 3.0)
        for name, waiting in asked.items():
            assert accepted(group.answers(waiting)[0]).project == f"at-{name}"


def test_a_leader_that_goes_without_a_successor_holds_nobody_back() -> None:
    with Group(24) as group:
        old = group.leading()
        group.isolate(old)
        handing = group.loop.create_task(old.node.hand_over())
        group.run(0.0)
        asked = group.ask(old.name, group.create("p"))
        group.run_until(handing.done, 5.0)
        answer = group.answers(asked, 0.2)[0]
        assert isinstance(answer, Unavailable) and not answer.admitted


def test_a_leader_without_a_successor_goes_after_an_election_timeout() -> None:
    with Group(22) as group:
        old = group.leading()
        group.isolate(old)
        asked_at = group.now
        group.wait(old.node.hand_over())
        assert group.now - asked_at <= 2 * group.timing.election_max + 0.2


# --- who may wait -----------------------------------------------------------------------------------------------------


def code_of(answer: Unavailable | None) -> Code | None:
    return None if answer is None else answer.code


def test_only_so_many_wait_for_an_index_and_others_are_served() -> None:
    with Group(15) as group:
        node = group.leading().node
        far, due = node.raft.applied_index + 1_000, node.clock.monotonic() + 3.0
        waiting = [
            group.loop.create_task(node.read("local", due, min_index=far + number % 7))
            for number in range(INDEX_WAITERS_MAX)
        ]
        group.run(0.1)
        refused = group.wait(node.read("local", due, min_index=far))
        assert refused is not None and not refused.admitted
        assert (refused.code, node.clock.monotonic() < due) == (Code.OVERLOADED, True), "told at once"
        assert str(INDEX_WAITERS_MAX) in refused.reason
        assert group.wait(node.read("linearizable", due)) is None
        assert group.wait(node.read("local", due, min_index=node.raft.applied_index)) is None
        group.run_until(lambda: all(each.done() for each in waiting))
        assert {code_of(each.result()) for each in waiting} == {Code.STALE_READ}
        due = node.clock.monotonic() + 0.5
        assert code_of(group.wait(node.read("local", due, min_index=far))) is Code.STALE_READ, "there is room again"


def test_only_so_many_reads_wait_for_a_leader() -> None:
    with Group(16) as group:
        host = follower_of(group, group.leading())
        group.isolate(host)
        group.run(2.0)
        node, due = host.node, host.node.clock.monotonic() + 8.0
        waiting = [group.loop.create_task(node.read("linearizable", due)) for _ in range(READS_WAITING_MAX)]
        group.run(0.1)
        assert code_of(group.wait(node.read("linearizable", due))) is Code.OVERLOADED
        assert group.wait(node.read("local", due)) is None
        group.heal()
        group.run_until(lambda: all(each.done() for each in waiting))
        assert {code_of(each.result()) for each in waiting} == {None}
        assert group.wait(node.read("linearizable", node.clock.monotonic() + 1.0)) is None
