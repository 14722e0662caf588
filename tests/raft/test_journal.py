"""The journal by itself: what survives, what is refused, and that memory is only a window on the disk."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster import faults
from cluster.entropy import SeededEntropy
from cluster.faults import ExitCode
from cluster.raft.journal import SLICE_BYTES, SLICE_ENTRIES, Entry, Journal
from cluster.storage.kv import Batch, Family, MemoryKeyValue
from cluster.storage.witness import Mark, MemoryWitness
from swoosh.errors import Corrupt
from tests.raft.cluster import Stopped, raise_stopped


@pytest.fixture(autouse=True)
def stops_are_raised() -> Iterator[None]:
    faults.set_stop(raise_stopped)
    yield
    faults.disarm()
    faults.set_stop(None)


class Disk:
    """A store and its witness, to open again and again."""

    def __init__(self) -> None:
        self.kv, self.witness = MemoryKeyValue(), MemoryWitness()
        Journal.create(self.kv, self.witness, cluster_id="c", node="n0", incarnation=b"0123456789abcdef")

    def open(self, *, node: str = "n0", memory_entries: int = 8) -> Journal:
        return Journal.open(self.kv, self.witness, cluster_id="c", node=node, memory_entries=memory_entries)

    def crash(self, seed: int = 0) -> None:
        self.kv.crash(SeededEntropy(seed).random())


def entries_of(journal: Journal) -> list[Entry]:
    return (
        [journal.entry(index) for index in range(journal.first_index, journal.last_index + 1)] if len(journal) else []
    )


def filled(count: int, disk: Disk | None = None) -> Journal:
    journal = (disk or Disk()).open()
    for index in range(1, count + 1):
        journal.add(b"\0%d" % index, index, 1)
    journal.barrier()
    return journal


# --- what survives ----------------------------------------------------------------------------------------------------


def test_what_was_behind_a_barrier_survives_and_what_was_not_may_be_lost() -> None:
    disk = Disk()
    journal = filled(5, disk)
    journal.add(b"\0six", 6, 1)
    assert (journal.last_index, journal.durable_index) == (6, 5)
    disk.crash()
    assert disk.open().last_index == 5


def test_a_vote_is_durable_when_it_is_cast() -> None:
    disk = Disk()
    disk.open().setCurrentTerm(3, "n2")
    disk.crash()
    journal = disk.open()
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (3, "n2")


def test_a_commit_over_an_unsynced_entry_of_our_own_syncs_it_first() -> None:
    """The leader counts itself: in a group of one, and in any group whose followers were quicker."""
    disk = Disk()
    journal = filled(1, disk)
    journal.add(b"\0two", 2, 1)
    journal.setRaftCommitIndex(2)
    assert journal.durable_index == 2
    disk.crash()
    assert disk.open().last_index == 2


def test_a_cut_and_its_replacement_are_one_step() -> None:
    disk = Disk()
    journal = filled(5, disk)
    journal.deleteEntriesFrom(3)
    journal.add(b"\0other", 4, 2)
    before = disk.open()
    assert [term for _, _, term in entries_of(before)] == [1, 1, 1, 1, 1]
    journal.barrier()
    disk.crash()
    assert [term for _, _, term in entries_of(disk.open())] == [1, 1, 1, 2]


def test_dropping_the_applied_prefix_keeps_everything_after_it() -> None:
    disk = Disk()
    journal = filled(40, disk)
    journal.deleteEntriesTo(30)
    journal.barrier()
    disk.crash()
    again = disk.open()
    assert (again.first_index, again.last_index, len(again)) == (31, 40, 10)
    assert again[0] == again.entry(31) == (b"\0" + b"31", 31, 1)


def test_the_commit_index_never_goes_back_and_never_points_beyond_the_log() -> None:
    disk = Disk()
    journal = filled(5, disk)
    journal.setRaftCommitIndex(5)
    journal.setRaftCommitIndex(3)
    assert journal.commit == 5
    journal.setCurrentTerm(2, None)
    assert disk.open().getRaftCommitIndex() == 5
    assert Disk().open().getRaftCommitIndex() == 1


def test_each_start_counts_a_boot_and_each_barrier_a_batch() -> None:
    disk = Disk()
    journal = disk.open()
    assert (journal.boots, journal.sequence) == (1, 2)
    journal.barrier()
    assert journal.sequence == 2, "nothing to sync, nothing to count"
    journal.setCurrentTerm(1, None)
    assert journal.sequence == 3
    assert disk.witness.read() == Mark(b"0123456789abcdef", 3)
    assert disk.open().boots == 2


@pytest.mark.parametrize("place", ["journal.barrier.before", "journal.barrier.after"])
def test_a_kill_around_the_barrier_leaves_all_or_nothing(place: str) -> None:
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    disk = Disk()
    journal = filled(1, disk)
    journal.add(b"\0two", 2, 4)
    faults.arm(place, 1, kill)
    with pytest.raises(Killed):
        journal.setCurrentTerm(4, "n1")
    disk.crash()
    again = disk.open()
    expected = (1, 0) if place.endswith("before") else (2, 4)
    assert (again.last_index, again.getCurrentTerm()) == expected


# --- what is refused --------------------------------------------------------------------------------------------------


def stopped(code: ExitCode) -> pytest.RaisesExc[Stopped]:
    return pytest.RaisesExc(Stopped, check=lambda stop: stop.code is code)


def test_another_nodes_store_is_refused() -> None:
    disk = Disk()
    with stopped(ExitCode.MISCONFIGURED):
        disk.open(node="n1")


def test_a_store_behind_its_witness_is_refused() -> None:
    disk = Disk()
    older = copy.deepcopy(disk.kv)
    filled(3, disk)
    disk.kv = older
    with stopped(ExitCode.DAMAGED):
        disk.open()


def test_a_store_is_created_once() -> None:
    disk = Disk()
    with stopped(ExitCode.DAMAGED):
        Journal.create(disk.kv, disk.witness, cluster_id="c", node="n0", incarnation=bytes(16))
    with stopped(ExitCode.DAMAGED):
        Journal.create(MemoryKeyValue(), disk.witness, cluster_id="c", node="n0", incarnation=bytes(16))


@pytest.mark.parametrize("family", [Family.META, Family.LOG])
def test_a_flipped_bit_is_refused(family: Family) -> None:
    disk = Disk()
    filled(5, disk)
    key, value = next(disk.kv.iterate(family))
    batch = Batch()
    batch.put(family, key, value[:-1] + bytes([value[-1] ^ 1]))
    disk.kv.write(batch, sync=True)
    with stopped(ExitCode.DAMAGED):
        disk.open()


def test_a_missing_entry_is_refused() -> None:
    disk = Disk()
    filled(5, disk)
    batch = Batch()
    batch.delete(Family.LOG, (3).to_bytes(8))
    disk.kv.write(batch, sync=True)
    with stopped(ExitCode.DAMAGED):
        disk.open()


def test_a_missing_record_of_term_and_vote_is_refused() -> None:
    with stopped(ExitCode.DAMAGED):
        Journal.open(MemoryKeyValue(), MemoryWitness(), cluster_id="c", node="n0")


def test_a_committed_entry_is_never_cut() -> None:
    journal = filled(5)
    journal.setRaftCommitIndex(4)
    journal.deleteEntriesFrom(4)
    assert journal.last_index == 4
    with stopped(ExitCode.DIVERGED):
        journal.deleteEntriesFrom(3)


@pytest.mark.parametrize(("index", "term"), [(5, 1), (7, 1), (6, 0)])
def test_an_entry_must_continue_the_log(index: int, term: int) -> None:
    journal = filled(5)
    with stopped(ExitCode.BUG):
        journal.add(b"\0", index, term)


# --- memory is a window -----------------------------------------------------------------------------------------------


def test_slices_are_bounded_and_hold_at_least_two_entries() -> None:
    journal = Disk().open(memory_entries=1 << 14)
    for index in range(1, 2 * SLICE_ENTRIES):
        journal.add(b"\0", index, 1)
    assert len(journal[0:]) == SLICE_ENTRIES
    large = Disk().open()
    for index in range(1, 6):
        large.add(b"\0" + bytes(SLICE_BYTES), index, 1)
    assert [index for _, index, _ in large[1:]] == [2, 3]
    assert [index for _, index, _ in large[4:]] == [5]
    assert large[5:] == []


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 12)),
        st.tuples(st.just("cut"), st.integers(1, 12)),
        st.tuples(st.just("drop"), st.integers(1, 12)),
        st.tuples(st.just("commit"), st.integers(0, 6)),
        st.tuples(st.just("barrier"), st.just(0)),
        st.tuples(st.just("crash"), st.integers(0, 99)),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@example(steps=[("add", 5), ("barrier", 0), ("cut", 3), ("add", 2)])  # a slice over disk and what is not synced yet
@given(steps=steps)
def test_the_journal_is_a_list_of_which_a_crash_keeps_what_was_synced(steps: list[tuple[str, int]]) -> None:
    """Against two plain lists: the log, and the log at the last barrier."""
    disk = Disk()
    journal = disk.open(memory_entries=4)
    log: list[Entry] = []
    durable: list[Entry] = []
    commit, term = 0, 1
    for step, number in steps:
        match step:
            case "add":
                following = log[-1][1] + 1 if log else 1
                for index in range(following, following + number):
                    log.append((b"\0%d.%d" % (index, term), index, term))
                    journal.add(*log[-1])
            case "cut" if log and log[-1][1] - number + 1 > max(commit, log[0][1]):
                term += 1
                journal.deleteEntriesFrom(len(log) - number)
                del log[len(log) - number :]
            case "drop" if log and log[0][1] + number <= commit:
                journal.deleteEntriesTo(number)
                del log[:number]
            case "commit" if log:
                synced, commit = journal.durable_index, max(commit, log[-1][1] - number)
                journal.setRaftCommitIndex(commit)
                durable = list(log) if commit > synced else durable
            case "barrier":
                journal.barrier()
                durable = list(log)
                assert len(journal._tail) <= 4
            case "crash":
                disk.crash(number)
                journal, log = disk.open(memory_entries=4), list(durable)
                commit = min(commit, log[-1][1] if log else 0)
            case _:
                pass
        assert entries_of(journal) == log
        assert len(journal) == len(log)
        assert journal[:3] == log[:3]
        assert [journal.term_at(index) for _, index, _ in log] == [entry_term for _, _, entry_term in log]


# --- the beginning of the log -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["journal.barrier.before", "journal.barrier.after"])
def test_a_kill_around_a_cut_leaves_the_whole_log_or_the_whole_rest(place: str) -> None:
    disk = Disk()
    journal = filled(40, disk)
    journal.setRaftCommitIndex(40)
    journal.cut_before(31)
    journal.add(b"\0new", 41, 1)

    def die() -> None:
        raise Stopped(ExitCode.BUG, "kill", {})

    faults.arm(place, 1, die)
    with pytest.raises(Stopped):
        journal.barrier()
    disk.crash()
    again = disk.open()
    found = (again.first_index, again.last_index)
    assert found == ((1, 40) if place.endswith("before") else (31, 41))
    assert [index for _, index, _ in entries_of(again)] == list(range(found[0], found[1] + 1))


def test_a_cut_at_the_end_of_the_log_is_a_bug() -> None:
    journal = filled(40)
    journal.setRaftCommitIndex(40)
    with pytest.raises(Stopped) as stopped:
        journal.cut_before(40)
    assert stopped.value.code is ExitCode.BUG


def test_the_size_of_the_log_follows_every_change() -> None:
    disk = Disk()
    journal = filled(40, disk)
    journal.setRaftCommitIndex(20)
    journal.cut_before(11)
    journal.deleteEntriesFrom(35 - journal.first_index)
    journal.add(b"\0" + bytes(100), 35, 2)
    journal.barrier()
    assert journal.size == sum(len(command) for command, _, _ in entries_of(journal)) == disk.open().size
    assert journal.first_within(101) == 35
    assert journal.first_within(0) == 35, "the last entry stays in any case"
    assert journal.first_within(101 + 2 * 3) == 33
    assert journal.first_within(1 << 30) == 11


# --- a store that came from a peer ------------------------------------------------------------------------------------


def checkpoint(last: int, *, term: int = 1, vote: str = "n1") -> MemoryKeyValue:
    """What a peer's store is when it has applied `last` entries: a state, a log, promises, notes of its own."""
    disk = Disk()
    journal = filled(last, disk)
    journal.setCurrentTerm(9, vote)
    batch = Batch()
    batch.put(Family.META, b"applied", b"position")
    batch.put(Family.META, b"of the peer", b"x")
    batch.put(Family.HEAD, b"p", b"state")
    batch.put(Family.REJECTION, bytes(8), b"theirs")
    batch.put(Family.SNAPSHOT, bytes(8), b"theirs")
    disk.kv.write(batch, sync=True)
    return disk.kv


def moved(journal: Journal, index: int, *, from_last: int | None = None) -> Journal:
    kv = checkpoint(from_last or index)
    journal.move_into(kv, index, 1)
    return Journal.examine(kv, journal._witness, cluster_id="c", node="n0")


def test_a_node_keeps_its_own_promises_in_a_peers_checkpoint() -> None:
    disk = Disk()
    journal = filled(10, disk)
    journal.setCurrentTerm(5, "n2")
    disk.kv.write(_own_note(), sync=True)
    after = moved(journal, 40)
    assert (after.getCurrentTerm(), after.getVotedForNodeId()) == (5, "n2")
    assert (after.incarnation, after.boots) == (journal.incarnation, journal.boots)
    assert after.sequence == journal.sequence + 1
    assert after.commit == 40
    assert entries_of(after) == [(b"\0%d" % index, index, 1) for index in (39, 40)]
    kv = after._kv
    assert kv.get(Family.META, b"of the peer") is None
    assert kv.get(Family.META, b"of this node") == b"y"
    assert kv.get(Family.META, b"applied") == b"position"
    assert kv.get(Family.HEAD, b"p") == b"state"
    assert not list(kv.iterate(Family.REJECTION))
    assert not list(kv.iterate(Family.SNAPSHOT))


def _own_note() -> Batch:
    batch = Batch()
    batch.put(Family.META, b"of this node", b"y")
    return batch


def test_a_term_the_checkpoint_knows_is_adopted_and_nobody_was_voted_for_in_it() -> None:
    disk = Disk()
    disk.open().setCurrentTerm(2, "n2")
    kv = Disk()
    theirs = kv.open()
    theirs.add(b"\0a", 1, 1)
    theirs.add(b"\0b", 2, 7)
    theirs.barrier()
    journal = disk.open()
    journal.move_into(kv.kv, 2, 7)
    after = Journal.examine(kv.kv, disk.witness, cluster_id="c", node="n0")
    assert (after.getCurrentTerm(), after.getVotedForNodeId()) == (7, None)


def test_what_this_node_may_have_acknowledged_after_the_checkpoint_stays() -> None:
    journal = filled(50)
    after = moved(journal, 40)
    assert entries_of(after) == [(b"\0%d" % index, index, 1) for index in range(39, 51)]


def test_what_follows_another_entry_than_the_checkpoints_goes() -> None:
    disk = Disk()
    journal = filled(30, disk)
    for index in range(31, 51):
        journal.add(b"\0other", index, 2)
    journal.barrier()
    assert [index for _, index, _ in entries_of(moved(journal, 40))] == [39, 40]


def test_a_checkpoint_that_contradicts_what_is_committed_stops_the_node() -> None:
    journal = Disk().open()
    for index in range(1, 51):
        journal.add(b"\0other", index, 2)
    journal.setRaftCommitIndex(45)
    with pytest.raises(Stopped) as stopped:
        moved(journal, 40)
    assert stopped.value.code is ExitCode.DIVERGED


def test_a_checkpoint_without_its_last_entry_is_refused() -> None:
    with pytest.raises(Corrupt):
        moved(filled(10), 40, from_last=39)


def test_a_move_may_be_made_again() -> None:
    journal, kv = filled(50), checkpoint(40)
    journal.move_into(kv, 40, 1)
    once = {family: list(kv.iterate(family)) for family in Family}
    journal.move_into(kv, 40, 1)
    assert {family: list(kv.iterate(family)) for family in Family} == once
