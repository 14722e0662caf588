"""A disk that forgot: wiped, put back to an older state, or taken from another cluster.

The worst schedules are too rare for random histories to find them, so they are told one by one. Each story is also
told without the rule that prevents its end, to show that it is the rule that does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from cluster.faults import ExitCode
from cluster.raft.driver import NoQuorum, Role
from cluster.raft.guard import ELECTIONS
from cluster.raft.journal import Journal
from cluster.raft.members import Members
from cluster.raft.replica import Member
from tests.raft.cluster import CALM, Cluster, Message, OurHost

QUICK = (0.001, 0.002)
CAUGHT_UP = "it is trusted again once it has caught up"


def everybody_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receivers' half of the rule is off: any store of a member is the member."""
    monkeypatch.setattr(Members, "counts", lambda self, peer: self.linked(peer) is not None)


def nobody_rejoins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new store's own half is off: it takes part as if nothing had happened."""
    monkeypatch.setattr(Journal, "rejoining", property(lambda self: False))


def wipe(host: OurHost) -> None:
    host.kill()
    host.wipe()


# --- wiped ------------------------------------------------------------------------------------------------------------

NO_RULE: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (everybody_counts, nobody_rejoins)
HALVES = pytest.mark.parametrize(
    ("switched_off", "forks"),
    [((), False), ((everybody_counts,), False), ((nobody_rejoins,), False), (NO_RULE, True)],
    ids=["both rules", "its own alone", "the receivers' alone", "no rule"],
)


@HALVES
def test_a_node_that_forgot_its_promise_does_not_make_it_again(
    switched_off: tuple[Callable[[pytest.MonkeyPatch], None], ...], forks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A voted for B in term 2 and stores B's x. Wiped, it meets C, which still believes that it leads term 1. If A
    acknowledges C's y, x and y are both committed, at the same index."""
    for switch in switched_off:
        switch(monkeypatch)
    with Cluster(21, timing=CALM, latency=QUICK) as group:
        group.run(0.5)
        a, b, c = (group.ours(name) for name in group.names)
        group.elect(c)
        c.propose(b"a")
        group.run(0.3)
        group.cut(a.name, c.name)
        group.cut(b.name, c.name)
        group.elect(b)
        b.propose(b"x", at_once=True)
        group.run(0.2)
        assert group.acknowledged() == {b"a", b"x"}
        wipe(a)
        group.cut(a.name, b.name)
        a.start()
        group.mend(a.name, c.name)
        group.run(0.3)
        assert c.is_leader(), "it has not noticed yet"
        c.propose(b"y", at_once=True)
        group.run(0.5)
        assert (b"y" in group.acknowledged()) is forks
        assert bool(group.divergences) is forks


@pytest.mark.parametrize("marker", [True, False], ids=["an entry accepts it", CAUGHT_UP])
def test_a_vote_that_only_one_node_knows_of_is_not_given_twice(marker: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five nodes. A voted for B in term 2; nobody else heard of that election. Wiped, A catches up from X1, and three
    others confirm term 1 to it. If that made it a voter, it would vote for X2 in term 2, while B gets X1's vote. An
    entry that a majority of the others stores before A votes makes B's log too old for X1."""
    if not marker:
        everybody_counts(monkeypatch)
    with Cluster(61, nodes=5, timing=CALM, latency=QUICK) as group:
        group.run(0.5)
        a, b, x1, x2, x3 = (group.ours(name) for name in group.names)
        group.elect(x1)
        x1.propose(b"a")
        group.run(0.3)
        for other in (x1, x2, x3):
            group.cut(b.name, other.name)
        group.hold(a.name, x1.name)  # or it would tell that a newer term has begun
        b.campaign()
        group.run(0.1)
        term = b.term()
        assert (a.term(), b.raft.role) == (term, Role.CANDIDATE)
        wipe(a)
        group.release(a.name, x1.name)
        group.cut(a.name, b.name)
        a.start()
        group.run(0.5)
        assert a.state() == [b"a"], "it has caught up"
        if marker:
            x1.propose(a.rejoined())
            group.run(0.3)
        else:
            a.journal.end_rejoining()
        assert not a.raft.rejoining
        for host in (a, x2, x3):
            for other in (b, x1):
                group.cut(host.name, other.name)
        x2.campaign()
        group.run(0.2)
        assert x2.is_leader() and x2.term() == term
        group.mend(b.name, x1.name)
        group.run(0.1)
        index, last_term = b.journal.last_index, b.journal.last_term
        late = {"type": "request_vote", "term": term, "last_log_index": index, "last_log_term": last_term}
        b.run(lambda: b.transport.send(Member(x1.name), late))
        group.run(0.2)
        leaders = [host.name for host in group.hosts.values() if host.is_leader() and host.term() == term]
        assert leaders == ([x2.name] if marker else [b.name, x2.name])


@pytest.mark.parametrize("nodes", [3, 5])
def test_a_wiped_node_takes_entries_promises_nothing_and_returns_by_an_entry(nodes: int) -> None:
    with Cluster(70 + nodes, nodes=nodes, latency=QUICK) as group:
        leader = group.elected()
        for number in range(20):
            leader.propose(b"p%d" % number)
        group.run(0.5)
        wiped = group.others(leader)[0]
        assert isinstance(leader, OurHost) and isinstance(wiped, OurHost)
        wipe(wiped)
        wiped.start()
        group.run_until(lambda: wiped.state() == leader.state())
        assert wiped.raft.rejoining
        assert leader.raft._core.match_index(wiped.name) == 0, "its copy is none"
        assert leader.raft.waiting() == {wiped.name: wiped.journal.incarnation.hex()}
        leader.propose(wiped.rejoined())
        group.run_until(lambda: not wiped.raft.rejoining)
        leader.propose(b"after")
        group.run_until(lambda: leader.raft._core.match_index(wiped.name) == leader.journal.last_index)
        assert leader.raft.waiting() == {}
        majority = nodes // 2
        for host in [host for host in group.others(leader, wiped)][:majority]:
            host.kill()
        leader.propose(b"with its copy")
        group.run_until(lambda: b"with its copy" in group.acknowledged())
        group.elect(wiped)
        assert not group.divergences


def test_the_acceptance_survives_a_restart_of_everybody() -> None:
    with Cluster(80, latency=QUICK) as group:
        leader = group.elected()
        wiped = group.others(leader)[0]
        assert isinstance(leader, OurHost) and isinstance(wiped, OurHost)
        wipe(wiped)
        wiped.start()
        group.run_until(lambda: bool(leader.raft.waiting()))
        leader.propose(wiped.rejoined())
        group.run_until(lambda: not wiped.raft.rejoining)
        for host in group.hosts.values():
            host.kill()
        for host in group.hosts.values():
            host.start()
        bystander = group.others(leader, wiped)[0]
        bystander.kill()
        group.run_until(lambda: group.leader() is not None)
        group.elected()
        assert not wiped.raft.rejoining
        assert leader.raft._members.counts(wiped.name)


def test_a_rejoining_store_is_not_accepted_for_being_the_first_one_seen() -> None:
    """Nobody had met this member before its disk was lost."""
    with Cluster(88, latency=QUICK) as group:
        stranger = group.ours("n2")
        wipe(stranger)
        group.elected()
        stranger.start()
        group.run(2.0)
        for name in ("n0", "n1"):
            assert group.ours(name).raft.waiting() == {"n2": stranger.journal.incarnation.hex()}
            assert not group.ours(name).raft._members.counts("n2")


def test_a_restart_does_not_make_a_rejoining_node_a_member() -> None:
    with Cluster(81, latency=QUICK) as group:
        leader = group.elected()
        wiped = group.others(leader)[0]
        assert isinstance(leader, OurHost) and isinstance(wiped, OurHost)
        wipe(wiped)
        for _ in range(3):
            wiped.start()
            group.run(1.0)
            assert wiped.raft.rejoining
            wiped.kill()


def test_a_node_wiped_twice_is_not_let_in_by_the_first_acceptance() -> None:
    with Cluster(82, latency=QUICK) as group:
        leader = group.elected()
        wiped = group.others(leader)[0]
        assert isinstance(leader, OurHost) and isinstance(wiped, OurHost)
        wipe(wiped)
        wiped.start()
        group.run_until(lambda: bool(leader.raft.waiting()))
        leader.propose(wiped.rejoined())
        group.run_until(lambda: not wiped.raft.rejoining)
        wipe(wiped)
        wiped.start()
        group.run_until(lambda: wiped.raft.applied_index == leader.raft.applied_index)
        assert wiped.raft.rejoining, "it has applied the entry that accepts the store before it"
        leader.propose(wiped.rejoined())
        group.run_until(lambda: not wiped.raft.rejoining)


def test_while_another_node_is_down_a_wiped_one_stays_out_and_nothing_forks() -> None:
    """The price: the entry that would let it in needs a majority of the others."""
    with Cluster(83, latency=QUICK) as group:
        leader = group.elected()
        leader.propose(b"a")
        group.run(0.5)
        wiped, down = group.others(leader)
        assert isinstance(leader, OurHost) and isinstance(wiped, OurHost)
        down.kill()
        wipe(wiped)
        wiped.start()
        leader.propose(wiped.rejoined(), at_once=True)
        leader.propose(b"alone", at_once=True)
        group.run(10.0)
        assert wiped.raft.rejoining
        assert b"alone" not in group.acknowledged()
        assert not leader.is_leader(), "one of three hears no majority"
        down.start()
        group.elected()
        now_leading = group.leader()
        assert isinstance(now_leading, OurHost)
        now_leading.propose(wiped.rejoined())
        group.run_until(lambda: not wiped.raft.rejoining)
        assert not group.divergences


def test_a_store_of_nobody_is_sent_entries_and_counts_for_nothing() -> None:
    """Somebody made a node a fresh store by hand, without saying that it replaces another."""
    with Cluster(84, latency=QUICK) as group:
        leader = group.elected()
        fresh, other = group.others(leader)
        assert isinstance(leader, OurHost) and isinstance(fresh, OurHost)
        leader.propose(b"a")
        group.run(0.5)
        fresh.kill()
        fresh.wipe(rejoining=False)
        fresh.start()
        other.kill()
        group.run(0.2)
        assert leader.is_leader(), "it has not noticed yet"
        with pytest.raises(NoQuorum):
            group.wait(leader.raft.read_index(leader.clock.monotonic() + 0.3))
        leader.propose(b"w", at_once=True)
        group.run(10.0)
        assert b"w" not in group.acknowledged()
        assert group.leader() is None
        assert not leader.raft.quorum_heard()
        assert leader.raft.waiting() == {}, "nothing to accept: it may have promised already"


def test_a_node_whose_place_was_taken_stops_when_it_hears_of_it() -> None:
    with Cluster(85, latency=QUICK) as group:
        leader = group.elected()
        replaced = group.others(leader)[0]
        assert isinstance(replaced, OurHost)
        leader.propose(b"rejoined " + replaced.name.encode() + b" " + b"77" * 16)
        group.run_until(lambda: not replaced.alive)
        assert replaced.stopped is not None and replaced.stopped.code is ExitCode.MISCONFIGURED


def test_a_rejoining_node_confirms_no_read_and_gives_no_pre_vote() -> None:
    with Cluster(86, latency=QUICK) as group:
        leader = group.elected()
        wiped = group.others(leader)[0]
        assert isinstance(leader, OurHost) and isinstance(wiped, OurHost)
        wipe(wiped)
        wiped.start()
        group.run_until(lambda: bool(leader.raft.waiting()))
        group.run(0.5)
        term = leader.term()
        said: list[str] = []

        def note(peer_id: str, message: Message) -> bool:
            said.append(message["type"])
            return True

        wiped.raft._guard._raw = wiped.raft._reads._raw = note
        wiped.transport.raw = note  # type: ignore[method-assign]
        for message in (
            {"type": "ri", "id": 1, "t": term},
            {"type": "pv", "r": 1, "t": term + 9, "li": 99, "lt": term + 9},
            {"type": "request_vote", "term": term + 1, "last_log_index": 99, "last_log_term": term, "b": 10**6},
            {"type": "timeout_now", "term": term},
        ):
            assert message["type"] in (*ELECTIONS, "ri")
            wiped.raft.on_message(leader.name, message)
            wiped.raft.after_messages()
        assert not said
        assert wiped.term() == term


def test_a_rejoining_node_does_not_campaign() -> None:
    with Cluster(87, latency=QUICK) as group:
        leader = group.elected()
        wiped, other = group.others(leader)
        assert isinstance(wiped, OurHost)
        wipe(wiped)
        wiped.start()
        group.run(0.5)
        group.cut(leader.name, wiped.name)
        said: set[str] = set()
        transmit = group.transmit

        def listen(source: str, target: str, message: Message) -> None:
            said.update([message["type"]] if source == wiped.name else [])
            transmit(source, target, message)

        group.transmit = listen  # type: ignore[method-assign]
        group.run(5.0)
        assert wiped.links == {other.name}
        assert said and not said & ELECTIONS


# --- put back to an earlier state -------------------------------------------------------------------------------------


def image(host: OurHost) -> tuple[object, object]:
    return copy.deepcopy(host.store), copy.deepcopy(host.witness)


def put_back(host: OurHost, saved: tuple[object, object]) -> None:
    host.kill()
    host.store, host.witness = saved  # type: ignore[assignment]


@pytest.mark.parametrize("nodes", [3, 5])
def test_a_node_put_back_to_an_earlier_state_is_told_stops_and_stays_down(nodes: int) -> None:
    """Witness and all, as a snapshot of its volume would be. Only the others can know."""
    with Cluster(90 + nodes, nodes=nodes, latency=QUICK) as group:
        leader = group.elected()
        victim = group.others(leader)[0]
        assert isinstance(leader, OurHost) and isinstance(victim, OurHost)
        saved = image(victim)
        for number in range(10):
            leader.propose(b"p%d" % number)
            group.run(0.1)
        put_back(victim, saved)
        victim.start()
        group.run_until(lambda: not victim.alive)
        assert victim.stopped is not None and victim.stopped.code is ExitCode.ROLLED_BACK
        assert "serve --rejoin" in str(victim.stopped.facts["next"])
        victim.stopped = None
        for host in group.others(victim):
            host.kill()
        victim.start()
        assert victim.stopped is not None and victim.stopped.code is ExitCode.ROLLED_BACK, "nobody need tell it again"
        for host in group.others(victim):
            host.start()
        victim.wipe()
        victim.start()
        group.run_until(lambda: group.leader() is not None)
        leads = group.elected()
        leads.propose(victim.rejoined())
        group.run_until(lambda: not victim.raft.rejoining)
        assert not group.lost() and not group.divergences


def test_those_who_never_heard_from_it_know_from_the_leader_how_far_it_was() -> None:
    """Its acknowledgements went to the leader alone, and the leader is gone. What the leader knew, the third knows."""
    with Cluster(93, timing=CALM, latency=QUICK) as group:
        group.run(0.5)
        leader, victim, third = (group.ours(name) for name in group.names)
        group.elect(leader)
        saved = image(victim)
        for number in range(10):
            leader.propose(b"p%d" % number)
            group.run(0.1)
        leader.kill()
        put_back(victim, saved)
        for host in (third,):
            host.kill()
            host.start()  # it must know after a restart, too
        victim.start()
        group.run(2.0)
        assert victim.stopped is not None and victim.stopped.code is ExitCode.ROLLED_BACK


def test_a_node_that_does_not_stop_is_shown_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with Cluster(97, latency=QUICK) as group:
        leader = group.elected()
        victim = group.others(leader)[0]
        assert isinstance(leader, OurHost) and isinstance(victim, OurHost)
        saved = image(victim)
        for number in range(10):
            leader.propose(b"p%d" % number)
            group.run(0.1)
        monkeypatch.setattr(Journal, "must_hold", lambda self, incarnation, sequence: None)
        put_back(victim, saved)
        victim.start()
        group.run(3.0)
        assert victim.alive and not victim.links
        refusal = leader.hellos[victim.name][1]
        assert refusal is not None and "has lost" in refusal and "--rejoin" in refusal


def test_a_restart_is_no_rollback() -> None:
    with Cluster(94, nodes=5) as group:
        for round_ in range(6):
            leader = group.elected()
            leader.propose(b"r%d" % round_)
            group.run(0.3)
            victim = group.random.choice(list(group.hosts.values()))
            victim.kill()
            group.run(0.2)
            victim.start()
            group.run(1.0)
            assert all(host.alive for host in group.hosts.values())


def test_an_acknowledgement_from_before_what_was_seen_costs_the_link() -> None:
    with Cluster(95, latency=QUICK) as group:
        leader = group.elected()
        peer = group.others(leader)[0]
        assert isinstance(leader, OurHost) and isinstance(peer, OurHost)
        group.run(0.3)
        message = {"type": "next_node_idx", "next_node_idx": 2, "reset": False, "success": True, "t": leader.term()}
        leader.raft.on_message(peer.name, message | {"b": peer.journal.sequence - 1})
        assert leader.raft.refused["next_node_idx"] == 1
        group.run(1.0)
        assert peer.alive, "its store is as it should be, and the next hello shows it"


def test_news_of_a_store_that_overtakes_its_own_answer_costs_no_link() -> None:
    """B's answer to A is late. Meanwhile B stores more, and A hears of it from C: only the answer is old."""
    with Cluster(98, timing=CALM, latency=QUICK) as group:
        group.run(0.5)
        a, b, c = (group.ours(name) for name in group.names)
        group.elect(a)
        group.hold(b.name, a.name)
        a.propose(b"x")
        group.run(0.2)
        answered = b.journal.sequence
        group.elect(c)
        c.propose(b"y")
        group.run(0.2)
        assert a.raft._members.lost(b.name, b.journal.incarnation.hex(), answered) > 0, "the news is there"
        group.release(b.name, a.name)
        group.run(0.05)
        assert not a.raft.refused and b.name in a.links


# --- another's --------------------------------------------------------------------------------------------------------


def test_two_nodes_with_each_other_s_disk_do_not_start() -> None:
    with Cluster(96) as group:
        first, second = (host for host in list(group.hosts.values())[:2])
        assert isinstance(first, OurHost) and isinstance(second, OurHost)
        for host in (first, second):
            host.kill()
        first.store, second.store = second.store, first.store
        first.witness, second.witness = second.witness, first.witness
        for host in (first, second):
            host.start()
            assert host.stopped is not None and host.stopped.code is ExitCode.MISCONFIGURED


def start_as(group: Cluster, host: OurHost, members: tuple[str, ...]) -> None:
    """Start a node that goes by these members."""
    names, group.names = group.names, list(members)
    host.start()
    group.names = names


def test_why_the_members_are_those_of_the_store() -> None:
    """Three become five by restarting some of them with other files: two leaders, and both acknowledge. Consensus
    cannot see it, hellos only keep the halves from talking; so what decides is the store, not the file."""
    with Cluster(41, nodes=5, latency=QUICK) as group:
        for host in group.hosts.values():
            host.kill()
        for name in ("n0", "n1", "n2"):
            start_as(group, group.ours(name), ("n0", "n1", "n2"))
        group.run(3.0)
        for a in ("n0", "n1"):
            for b in ("n2", "n3", "n4"):
                group.cut(a, b)
        group.ours("n2").kill()
        for name in ("n2", "n3", "n4"):
            start_as(group, group.ours(name), tuple(group.names))
        group.run(5.0)
        leaders = [host for host in group.hosts.values() if host.is_leader()]
        assert len(leaders) == 2
        for number, host in enumerate(leaders):
            host.propose(b"split%d" % number, at_once=True)
        group.run(1.0)
        assert group.acknowledged() == {b"split0", b"split1"}
