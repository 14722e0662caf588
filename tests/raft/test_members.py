"""What is known of the members' stores: told as plain statements, without a network."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.raft.members import Known, Members

PEERS = ("n1", "n2")
OLD, NEW = "0a" * 16, "0b" * 16


def linked(incarnation: str = OLD, sequence: int = 5, *, rejoining: bool = False) -> Members:
    members = Members(PEERS)
    members.link("n1", incarnation, sequence, rejoining=rejoining)
    return members


def test_the_first_store_seen_is_the_one_that_counts() -> None:
    members = Members(PEERS)
    assert members.link("n1", OLD, 5, rejoining=False), "to be synced before it counts"
    assert members.counts("n1")
    members.unlink("n1")
    assert not members.counts("n1")
    assert not members.link("n1", NEW, 5, rejoining=False)
    assert not members.counts("n1")
    assert members.waiting() == {}, "it does not say that it replaces another"


def test_a_rejoining_store_counts_once_it_is_accepted() -> None:
    members = linked(rejoining=True)
    assert not members.counts("n1") and members.waiting() == {"n1": OLD}
    assert members.accept("n1", OLD), "to be synced"
    assert members.counts("n1") and members.waiting() == {}
    assert not members.accept("n1", OLD), "known already"


def test_another_s_word_fixes_a_store_but_nobody_s_word_about_himself() -> None:
    members = Members(PEERS)
    assert members.hear("n2", {"n1": (OLD, 9), "n2": (OLD, 4), "n0": (OLD, 1), "n9": (OLD, 1)})
    members.link("n2", NEW, 4, rejoining=False)
    assert members.counts("n2")
    members.link("n1", NEW, 50, rejoining=False)
    assert not members.counts("n1")
    assert members.seen("n0", Known(OLD, 1)).keys() == {"n0", "n1", "n2"}


def test_a_store_that_claims_less_than_was_seen_has_lost_it() -> None:
    members = linked(sequence=5)
    members.note("n1", OLD, 9)
    members.note("n1", OLD, 7)  # older news
    assert members.lost("n1", OLD, 8) == 1
    assert members.lost("n1", OLD, 9) == members.lost("n1", OLD, 10) == 0
    assert members.lost("n1", NEW, 0) == members.lost("n2", OLD, 0) == 0
    members.accept("n1", NEW)
    assert members.lost("n1", NEW, 0) == 0, "another store begins to count from its own first batch"
    members.note("n1", OLD, 99)
    assert members.lost("n1", NEW, 3) == 0


@given(st.dictionaries(st.sampled_from(PEERS), st.tuples(st.sampled_from((OLD, NEW)), st.integers(0, 2**48 - 1))))
def test_what_is_known_survives_being_written(known: dict[str, tuple[str, int]]) -> None:
    members = Members(PEERS, {peer: Known(*store) for peer, store in known.items()})
    again = Members.decode(PEERS, members.encode())
    assert again.seen("n0", Known(OLD, 1)) == members.seen("n0", Known(OLD, 1))
    assert Members.decode(PEERS, None).seen("n0", Known(OLD, 1)) == {"n0": Known(OLD, 1)}
