"""What a peer may not do to a node, and what a node does not do to itself: the guard, told as small stories."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pysyncobj.syncobj as library
import pytest

from cluster.faults import ExitCode
from cluster.raft import seams, wire
from cluster.raft.driver import Role
from cluster.raft.replica import Replica
from tests.raft.cluster import CALM, STAMP, Cluster, MemoryTransport, OurHost, Stopped

QUICK = (0.001, 0.002)


def our_leader(group: Cluster) -> OurHost:
    leader = group.elected()
    assert isinstance(leader, OurHost)
    return leader


def a_follower(group: Cluster) -> OurHost:
    follower = group.others(our_leader(group))[0]
    assert isinstance(follower, OurHost)
    return follower


# --- what a peer may not do -------------------------------------------------------------------------------------------


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    """The library reassembles a long entry from chunks and unpickles it."""
    evidence = tmp_path / "executed"
    payload = b"cos\nsystem\n(S'touch " + str(evidence).encode() + b"'\ntR."
    with Cluster(12) as group:
        follower = a_follower(group)
        leader = our_leader(group)
        log = follower.log()
        for part, chunk in (("start", payload[:10]), ("finish", payload[10:])):
            message = {
                "type": "append_entries",
                "transmission": part,
                "data": chunk,
                "term": follower.term(),
                "commit_index": 1,
                "prevLogIdx": 1,
                "prevLogTerm": 0,
            }
            with pytest.raises(wire.WireError):
                wire.check(message)
            follower.raft.on_message(leader.name, message)  # as if the wire had let it through
        assert follower.raft.refused["append_entries"] == 2
        assert follower.log() == log
        with pytest.raises(Stopped) as stop:
            library.pickle.loads(payload)  # type: ignore[attr-defined]  # as if the guard had
        assert stop.value.code is ExitCode.BUG
    assert not evidence.exists()


@pytest.mark.parametrize("kind", ["apply_command", "apply_command_response", "add", "readonly"])
def test_a_peer_cannot_inject_a_command(kind: str) -> None:
    with Cluster(13) as group:
        leader, follower = our_leader(group), a_follower(group)
        message = {"type": kind, "command": b"\0injected", "request_id": 1, "log_idx": 9, "log_term": 1}
        with pytest.raises(wire.WireError):
            wire.check(message)
        leader.raft.on_message(follower.name, message)
        group.run(1.0)
        assert not any(b"injected" in command for command, _, _ in leader.log())


@pytest.mark.parametrize("term", [2**40, 2**64])
@pytest.mark.parametrize("kind", ["stale_term", "request_vote", "append_entries"])
def test_an_absurd_term_is_not_adopted(kind: str, term: int) -> None:
    """A term nobody can outbid would be the last one of this cluster; one beyond 64 bits would not even be stored."""
    messages: dict[str, dict[str, Any]] = {
        "stale_term": {"t": term},
        "request_vote": {"term": term, "last_log_index": 9, "last_log_term": term},
        "append_entries": {"term": term, "commit_index": 1, "prevLogIdx": 1, "prevLogTerm": 0, "entries": []},
    }
    with Cluster(14) as group:
        leader, follower = our_leader(group), a_follower(group)
        before = group.highest_term()
        follower.raft.on_message(leader.name, {"type": kind, **messages[kind]})
        assert follower.raft.refused[kind] == 1
        group.run(3.0)
        assert group.highest_term() < before + 5
        assert group.leader() is not None


def test_an_acknowledgement_of_what_was_never_sent_is_refused() -> None:
    with Cluster(15) as group:
        leader, follower = our_leader(group), a_follower(group)
        message = {
            "type": "next_node_idx",
            "next_node_idx": 10_000,
            "reset": False,
            "success": True,
            "t": leader.term(),
        }
        leader.raft.on_message(follower.name, message)
        assert leader.raft.refused["next_node_idx"] == 1
        assert leader.raft._core.match_index(follower.name) < 100


def test_a_vote_counts_once() -> None:
    """Five nodes; one vote, delivered three times, is not a majority."""
    with Cluster(16, nodes=5, timing=CALM) as group:
        group.run(0.5)
        candidate = group.ours("n0")
        for name in group.names[2:]:
            group.hold(name, "n0")
        candidate.campaign()
        group.run(0.1)
        assert candidate.raft.role is Role.CANDIDATE
        for _ in range(3):
            candidate.raft.on_message("n1", {"type": "response_vote", "term": candidate.term()})
        assert not candidate.is_leader()
        group.release("n2", "n0")
        group.run(0.1)
        assert candidate.is_leader()


def test_two_leaders_in_one_term_stop_the_node() -> None:
    with Cluster(17) as group:
        leader, follower = our_leader(group), a_follower(group)
        other = next(host for host in group.others(leader, follower))
        heartbeat = {"type": "append_entries", "commit_index": 1, "prevLogIdx": 1, "prevLogTerm": 0, "entries": []}
        group.run(0.2)
        with pytest.raises(Stopped) as stop:
            follower.raft.on_message(other.name, heartbeat | {"term": follower.term()})
        assert stop.value.code is ExitCode.DIVERGED
        with pytest.raises(Stopped):
            leader.raft.on_message(other.name, heartbeat | {"term": leader.term()})


def test_an_entry_that_differs_under_the_same_index_and_term_stops_the_node() -> None:
    """Log Matching (Raft §5.3) says it cannot happen; if it does, one of the two has already lied to a client."""
    with Cluster(18) as group:
        leader, follower = our_leader(group), a_follower(group)
        group.run(0.5)
        _, index, term = follower.log()[-1]
        message = {
            "type": "append_entries",
            "term": follower.term(),
            "commit_index": 1,
            "prevLogIdx": index - 1,
            "prevLogTerm": follower.log()[-2][2],
            "entries": [(b"\0" + STAMP.pack(0) + b"another", index, term)],
        }
        with pytest.raises(Stopped) as stop:
            follower.raft.on_message(leader.name, message)
        assert stop.value.code is ExitCode.DIVERGED


def test_a_conflict_below_the_commit_index_stops_the_node() -> None:
    with Cluster(19) as group:
        leader, follower = our_leader(group), a_follower(group)
        leader.propose(b"committed")
        group.run(0.5)
        _, index, term = follower.log()[-1]
        message = {
            "type": "append_entries",
            "term": term + 1,
            "commit_index": 1,
            "prevLogIdx": index - 1,
            "prevLogTerm": follower.log()[-2][2],
            "entries": [(b"\0" + STAMP.pack(0) + b"another", index, term + 1)],
        }
        with pytest.raises(Stopped) as stop:
            follower.raft.on_message(leader.name, message)
        assert stop.value.code is ExitCode.DIVERGED


# --- what a node does not believe -------------------------------------------------------------------------------------


@pytest.mark.parametrize("believes", [True, False], ids=["as the library", "ours"])
def test_a_follower_put_back_to_an_older_disk_is_not_counted(believes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five nodes. A follower acknowledges five entries, and its machine is restored from an older image, witness and
    all. The leader must not go on counting the copies that are gone. (A leader that does, acknowledges them.)"""
    if believes:
        monkeypatch.setattr(Replica, "forget", lambda self, peer: self._flights.pop(peer, None))
    with Cluster(31, nodes=5, timing=CALM, latency=QUICK) as group:
        group.run(0.5)
        leader, follower, third = (group.ours(name) for name in ("n0", "n1", "n2"))
        group.elect(leader)
        leader.propose(b"a")
        group.run(0.3)
        image = copy.deepcopy(follower.store), copy.deepcopy(follower.witness)
        for name in ("n2", "n3", "n4"):
            group.cut(leader.name, name)
        for number in range(5):
            leader.propose(b"p%d" % number, at_once=True)
        group.run(0.2)
        assert follower.log()[-1][0].endswith(b"p4")
        follower.kill()
        follower.store, follower.witness = image
        group.cut(leader.name, follower.name)
        follower.start()
        group.mend(leader.name, third.name)
        group.run(0.5)
        assert third.log()[-1][0].endswith(b"p4")
        assert not follower.log()[-1][0].endswith(b"p4")
        acknowledged = {body for body in group.acknowledged() if body.startswith(b"p")}
        assert bool(acknowledged) is believes


# --- elections --------------------------------------------------------------------------------------------------------


def test_leadership_is_handed_over_in_a_few_round_trips() -> None:
    """With pre-vote the library's own hand-over never happens: nobody grants a pre-vote while the leader is heard."""
    with Cluster(11, latency=QUICK) as group:
        leader = our_leader(group)
        leader.propose(b"a")
        group.run(0.5)
        successor = a_follower(group)
        started = group.now
        assert group.wait(leader.raft.transfer_leadership(successor.name))
        group.run_until(successor.is_leader, 0.1)
        assert group.now - started < 0.1
        group.run(0.2)
        assert leader.raft.leader == successor.name
        assert not successor.core()._SyncObj__transferInProgress


def test_a_hand_over_to_a_node_that_is_gone_ends_and_the_leader_goes_on() -> None:
    with Cluster(20) as group:
        leader, gone = our_leader(group), a_follower(group)
        gone.kill()
        assert not group.wait(leader.raft.transfer_leadership(gone.name))
        leader.propose(b"still here")
        group.run(0.5)
        assert b"still here" in group.acknowledged()


def test_nothing_is_appended_while_leadership_is_handed_over() -> None:
    with Cluster(32, latency=QUICK) as group:
        leader, successor = our_leader(group), a_follower(group)
        group.run(0.3)
        group.hold(leader.name, successor.name)
        hand_over = group.loop.create_task(leader.raft.transfer_leadership(successor.name))
        group.run(0.01)
        leader.propose(b"w")
        group.run(0.5)
        assert len(leader.machine.queue) == 1
        group.release(leader.name, successor.name)
        group.run(0.2)
        assert hand_over.result()
        assert successor.is_leader()


def test_only_the_leader_may_ask_a_node_to_campaign() -> None:
    with Cluster(21) as group:
        leader, follower = our_leader(group), a_follower(group)
        other = group.others(leader, follower)[0]
        term = group.highest_term()
        follower.raft.on_message(other.name, {"type": "timeout_now", "term": term})
        follower.raft.on_message(leader.name, {"type": "timeout_now", "term": term - 1})
        assert not follower.raft._guard._elected_to_campaign
        group.run(1.0)
        assert group.leader() is leader
        assert group.highest_term() == term


def test_a_request_to_campaign_is_forgotten_after_an_election_timeout() -> None:
    """The target cannot reach anybody when it is asked. It must listen to the leader again when it can."""
    with Cluster(22) as group:
        leader, target = our_leader(group), a_follower(group)
        group.run(0.3)
        target.raft.on_message(leader.name, {"type": "timeout_now", "term": target.term()})
        target.raft._core.set_election_deadline(group.now + 100.0)  # something postpones its campaign
        assert target.core()._SyncObj__transferInProgress
        group.run(1.0)
        assert not target.core()._SyncObj__transferInProgress
        assert group.leader() is leader


def test_a_node_that_was_cut_off_does_not_depose_the_leader_on_its_return() -> None:
    with Cluster(23) as group:
        leader, away = our_leader(group), a_follower(group)
        term = group.highest_term()
        group.isolate(away)
        group.run(20.0)
        group.heal()
        group.run(3.0)
        assert group.leader() is leader
        assert group.highest_term() == term


def test_a_deposed_leader_learns_of_the_newer_term_from_whoever_it_still_reaches() -> None:
    """It cannot hear its successor, and would go on for a whole election timeout believing that it leads."""
    with Cluster(24, latency=QUICK) as group:
        deposed = our_leader(group)
        successor, witness = group.others(deposed)
        group.run(0.3)
        group.cut(deposed.name, successor.name)
        successor.campaign()
        group.run_until(successor.is_leader, 1.0)
        group.run(0.15)
        assert deposed.raft.role is Role.FOLLOWER
        assert deposed.term() == successor.term() == witness.term()


def test_a_deadline_that_comes_after_the_guard_has_looked_starts_no_election() -> None:
    """The core reads its clock again. Whoever was not told to campaign asks first, at the next tick."""
    with Cluster(29, latency=QUICK) as group:
        leader, follower = our_leader(group), a_follower(group)
        group.run(0.5)
        term = group.highest_term()
        look = follower.raft._guard.before_tick

        def look_too_early() -> None:
            look()
            follower.raft._core.set_election_deadline(0.0)

        follower.raft._guard.before_tick = look_too_early  # type: ignore[method-assign]
        group.run(1.0)
        assert group.leader() is leader
        assert group.highest_term() == term


def asking(group: Cluster) -> tuple[OurHost, dict[str, Any]]:
    """n0 has just asked for pre-votes, and hears nobody. The answer it waits for."""
    group.run(0.5)
    candidate = group.ours("n0")
    for name in group.names[1:]:
        group.hold(name, candidate.name)
    candidate.raft._core.set_election_deadline(0.0)
    group.run(0.1)
    assert not candidate.is_leader() and candidate.term() == 0
    return candidate, {"type": "pv_ok", "r": candidate.raft._guard._round}


def test_a_node_asks_once_and_campaigns_once() -> None:
    """Two peers say yes to one question. The second yes must not start a second election against the first."""
    with Cluster(27, timing=CALM, latency=QUICK) as group:
        candidate, yes = asking(group)
        for peer in ("n1", "n2"):
            candidate.raft.on_message(peer, yes)
            candidate.raft.after_messages()
        group.run(0.1)
        assert candidate.term() == 1


def test_a_yes_from_before_a_vote_is_void() -> None:
    """It asked, then voted for another: to campaign now would take the vote's term away from the one it voted for."""
    with Cluster(28, timing=CALM, latency=QUICK) as group:
        candidate, yes = asking(group)
        vote = {"type": "request_vote", "term": 5, "last_log_index": 100, "last_log_term": 4}
        candidate.raft.on_message("n2", vote)
        candidate.raft.on_message("n1", yes)
        candidate.raft.after_messages()
        group.run(0.1)
        assert candidate.term() == 5


def test_a_yes_is_void_once_a_leader_is_heard() -> None:
    with Cluster(29, timing=CALM, latency=QUICK) as group:
        candidate, yes = asking(group)
        candidate.raft.on_message("n1", yes)
        heartbeat = {"type": "append_entries", "commit_index": 1, "prevLogIdx": 1, "prevLogTerm": 0, "entries": []}
        candidate.raft.on_message("n2", heartbeat | {"term": 1})
        candidate.raft.after_messages()
        assert (candidate.term(), candidate.raft.leader) == (1, "n2")
        candidate.raft._core.set_election_deadline(0.0)  # much later
        group.run(0.1)
        assert candidate.term() == 1, "it asks again first"


def test_what_was_in_flight_in_an_earlier_term_does_not_hold_up_a_new_one() -> None:
    with Cluster(30, timing=CALM, latency=QUICK) as group:
        group.run(0.5)
        leader, follower, other = (group.ours(name) for name in group.names)
        group.elect(leader)
        group.hold(follower.name, leader.name)
        leader.propose(b"x")
        group.run(0.2)
        assert leader.raft._core._flight(follower.name) is not None
        group.elect(other)
        group.elect(leader)
        assert follower.journal.last_term == leader.term(), "the new term's no-op has arrived"


# --- the library's insides --------------------------------------------------------------------------------------------


def test_another_release_of_the_library_is_refused() -> None:
    class Renamed:
        def __init__(self) -> None:
            self.raft_state = 0

    assert seams.missing_names(seams.PINNED, library, library.SyncObj) == []
    assert seams.missing_names("0.3.18", library, library.SyncObj) == ["version 0.3.17 (found 0.3.18)"]
    missing = seams.missing_names(seams.PINNED, object(), Renamed)
    assert "pysyncobj.syncobj.createJournal" in missing
    assert "Renamed._SyncObj__doApplyCommand" in missing
    assert "Renamed()._SyncObj__raftElectionDeadline" in missing


def test_the_library_cannot_forward_a_command() -> None:
    """A proposal that reaches the core of a follower comes back at once, as never appended."""
    with Cluster(25) as group:
        follower = a_follower(group)
        group.run(0.3)
        answers: list[int] = []
        follower.raft._core.append(STAMP.pack(0) + b"x", lambda _, reason: answers.append(reason))
        assert answers == [library.FAIL_REASON.NOT_LEADER]


def test_every_send_of_the_core_passes_the_guard() -> None:
    with Cluster(26) as group:
        follower = a_follower(group)
        with pytest.raises(Stopped):
            transport: MemoryTransport = follower.transport
            transport.send(follower.raft._core.member(our_leader(group).name), {"type": "apply_command_response"})
