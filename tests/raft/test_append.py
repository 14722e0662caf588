"""A follower's log against the textbook's: `without_known_entries` in front of the library, compared with Figure 2."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.raft.cluster import CALM, STAMP, Cluster, OurHost

Entry = tuple[bytes, int, int]
NO_OP: Entry = (b"\x01", 1, 0)


@dataclass
class TextbookFollower:
    """AppendEntries of Raft, Figure 2, steps 1 to 5, and the reply as (success, last index it vouches for)."""

    log: list[Entry] = field(default_factory=lambda: [NO_OP])
    commit: int = 1
    term: int = 0

    def append(self, message: dict[str, Any]) -> tuple[bool, int] | None:
        if message["term"] < self.term:
            return None
        self.term = message["term"]
        previous = message["prevLogIdx"]
        if previous > len(self.log) or self.log[previous - 1][2] != message["prevLogTerm"]:
            return False, 0
        for entry in message["entries"]:
            index = entry[1]
            if index <= len(self.log) and self.log[index - 1][2] != entry[2]:
                del self.log[index - 1 :]
            if index > len(self.log):
                self.log.append(entry)
        vouched = previous + len(message["entries"])
        self.commit = max(self.commit, min(message["commit_index"], vouched))
        return True, vouched


@st.composite
def leaders_messages(draw: st.DrawFn) -> list[dict[str, Any]]:
    """What a follower may hear over a few terms: each leader's log keeps what was committed, and its appends arrive
    short, long, again, and out of date."""
    log, committed, term = [NO_OP], 1, 0
    messages: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 4))):
        term += draw(st.integers(1, 2))
        del log[draw(st.integers(committed, len(log))) :]
        for _ in range(draw(st.integers(1, 8))):
            body = b"\0" + STAMP.pack(0) + b"%d/%d" % (term, len(log) + 1)
            log.append((body, len(log) + 1, term))
        for _ in range(draw(st.integers(1, 8))):
            previous = draw(st.integers(1, len(log)))
            count = draw(st.integers(0, len(log) - previous))
            committed = draw(st.integers(committed, len(log)))
            messages.append(
                {
                    "type": "append_entries",
                    "term": term if draw(st.integers(0, 9)) else max(1, term - 1),
                    "commit_index": committed,
                    "prevLogIdx": previous,
                    "prevLogTerm": log[previous - 1][2],
                    "entries": log[previous : previous + count],
                }
            )
    return [message for message in messages if all(entry[2] <= message["term"] for entry in message["entries"])]


@settings(max_examples=150, deadline=None)
@given(messages=leaders_messages())
def test_a_follower_keeps_exactly_the_textbooks_log(messages: list[dict[str, Any]]) -> None:
    textbook = TextbookFollower()
    with Cluster(1, timing=CALM) as group:
        follower, replies = alone_with_its_leader(group)
        for message in messages:
            replies.clear()
            expected = textbook.append(message)
            # One member leads every term here; the guard would stop a node that hears two.
            follower.raft.on_message("n1", message)
            follower.raft.after_messages()
            assert follower.log() == textbook.log
            assert follower.raft.commit_index == textbook.commit
            assert follower.raft.applied_index == textbook.commit
            assert answer(replies) == expected
        follower.kill()
        follower.start()
        assert follower.log()[: textbook.commit] == textbook.log[: textbook.commit], (
            "a restart keeps what was acknowledged"
        )
        assert follower.log() == textbook.log


def alone_with_its_leader(group: Cluster) -> tuple[OurHost, list[dict[str, Any]]]:
    """n0, linked to nobody real; what it sends to n1 is collected."""
    group.run(0.01)
    follower, sent = group.ours("n0"), list[dict[str, Any]]()
    group.isolate(follower)
    follower.links.add("n1")

    def collect(peer_id: str, message: dict[str, Any]) -> bool:
        sent.append(message)
        return True

    setattr(follower.transport, "raw", collect)  # noqa: B010
    return follower, sent


def answer(replies: list[dict[str, Any]]) -> tuple[bool, int] | None:
    """The reply in the textbook's terms; a refusal names where to go on, which is the implementation's business."""
    appended = [reply for reply in replies if reply["type"] == "next_node_idx"]
    if not appended:
        return None
    (reply,) = appended
    return reply["success"], reply["next_node_idx"] - 1 if reply["success"] else 0


@pytest.mark.parametrize("count", [1, 5])
def test_a_short_append_does_not_cut_the_tail(count: int) -> None:
    """The schedule of the library's loss in one message: the leader sends a prefix again."""
    with Cluster(2, timing=CALM) as group:
        follower, replies = alone_with_its_leader(group)
        entries = [(b"\0" + STAMP.pack(0) + b"%d" % index, index, 1) for index in range(2, 12)]
        first = {
            "type": "append_entries",
            "term": 1,
            "commit_index": 1,
            "prevLogIdx": 1,
            "prevLogTerm": 0,
            "entries": entries,
        }
        follower.raft.on_message("n1", first)
        assert answer(replies) == (True, 11)
        replies.clear()
        follower.raft.on_message("n1", first | {"entries": entries[:count], "commit_index": 11})
        assert answer(replies) == (True, 1 + count), "it vouches for what this message showed, not for its tail"
        assert follower.raft.last_index == 11
        assert follower.raft.commit_index == 1 + count
