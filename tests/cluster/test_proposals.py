"""The leader's queue: what enters the log, when a verdict may leave, and what is promised when leadership is lost.

Consensus is played by hand: a test says when an entry is gathered, commits or is lost, and when a read round confirms.
The machine is the real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from chaos import steer
from chaos.solo import TERM, Solo, the_chart
from cluster.answers import Answer, Unavailable
from cluster.clock import ManualClock
from cluster.creators import Creators
from cluster.proposals import JUDGED_MAX, QUEUE_ITEMS_MAX, Proposals
from cluster.raft.driver import Fate, NoQuorum, NotLeader
from cluster.raft.replica import COMMAND_BYTES_MAX
from swoosh import catalog
from swoosh.entry import Item, ProposalItem, decode
from swoosh.errors import InvariantBroken
from swoosh.hashing import digest
from swoosh.machine import Applied
from swoosh.outcome import Accepted, Change, Code, Refused
from tests.running import turns

Done = Callable[[Fate, object], None]
DECIDED_SECONDS = 20.0


class Raft:
    """Consensus as the queue sees it."""

    def __init__(self, solo: Solo) -> None:
        self.solo = solo
        self.term, self.clock_ok, self.kicks = TERM, True, 0
        self.flight: list[tuple[int, bytes, Done]] = []
        self.rounds: list[asyncio.Future[int]] = []
        self.waits: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def last_index(self) -> int:
        return self.solo.machine.position.index + len(self.flight)

    def kick(self) -> None:
        self.kicks += 1

    async def read_index(self, deadline: float) -> int:
        self.rounds.append(asyncio.get_running_loop().create_future())
        return await self.rounds[-1]

    async def wait_applied(self, index: int, deadline: float) -> None:
        if self.solo.machine.position.index < index:
            self.waits.append((index, asyncio.get_running_loop().create_future()))
            await self.waits[-1][1]


class Leader:
    """One node's queue, and the hands that move consensus."""

    def __init__(self, solo: Solo | None = None, *, most: int = 0) -> None:
        self.solo = solo or Solo(the_chart())
        self.clock = ManualClock(self.solo.now_ms * 1000)
        self.raft = Raft(self.solo)
        self.tasks: set[asyncio.Future[Any]] = set()
        self.creators = Creators(self.solo.chart, (), most)
        self.proposals = Proposals("n1", self.solo.machine, self.creators, self.clock, self._spawn)
        self.proposals.raft = cast(Any, self.raft)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def ask(self, *items: Item, within: float = 60.0, dry_run: bool = False) -> asyncio.Task[list[Answer]]:
        """Hand items over; the task has their answers."""
        asked = asyncio.ensure_future(self.proposals.submit(items, self.clock.monotonic() + within, dry_run=dry_run))
        await turns(10)
        return asked

    async def gather(self) -> bytes | None:
        """A tick: the entry that is appended, or None."""
        stamp = max(self.solo.machine.position.stamp_us + 1 + len(self.raft.flight), self.clock.wall_us())
        gathered = self.proposals.next_entry(self.raft.term, stamp)
        if gathered is not None:
            data, done = gathered
            self.raft.flight.append((self.raft.last_index + 1, data, done))
        await turns(10)
        return None if gathered is None else gathered[0]

    async def commit(self) -> Applied:
        """A majority stores the oldest entry in flight."""
        index, data, done = self.raft.flight.pop(0)
        applied = self.solo.feed(index, self.raft.term, data)
        self.creators.on_applied(applied)
        done(Fate.COMMITTED, applied)
        for wanted, waiting in self.raft.waits:
            if wanted <= index and not waiting.done():
                waiting.set_result(None)
        await turns(10)
        return applied

    async def lose(self, fate: Fate) -> None:
        """The oldest entry in flight comes to this."""
        _, _, done = self.raft.flight.pop(0)
        done(fate, None)
        await turns(10)

    async def confirm(self, refusal: Exception | None = None) -> None:
        """The open read rounds end."""
        for asked in self.raft.rounds:
            if not asked.done() and refusal is None:
                asked.set_result(0)
            elif not asked.done() and refusal is not None:
                asked.set_exception(refusal)
        await turns(10)

    def paused(self, **how: Any) -> ProposalItem:
        return self.solo.item(self.solo.document("CONTROL_PAUSED", {"reason": "a story"}, **how))

    def stale(self, **how: Any) -> ProposalItem:
        return self.paused(head=digest("solo", "long ago"), **how)

    def created(self, project: str, brief: str = "a story") -> ProposalItem:
        return self.solo.item(self.solo.document("PROJECT_CREATED", {"brief": brief}, project=project))


async def one(asked: asyncio.Task[list[Answer]]) -> Answer:
    async with asyncio.timeout(DECIDED_SECONDS):
        (answer,) = await asked
    return answer


def unavailable(answer: Answer) -> tuple[Code, bool]:
    assert isinstance(answer, Unavailable), answer
    return answer.code, answer.admitted


def refused(answer: Answer) -> Code:
    assert isinstance(answer, Refused), answer
    return answer.code


def accepted(answer: Answer) -> Accepted:
    assert isinstance(answer, Accepted), answer
    return answer


@pytest.fixture
def leader() -> Leader:
    solo = Solo(the_chart())
    steer.drive(solo, lambda regions: regions.boot.phase == "LICENSED", seats=3)
    return Leader(solo)


# --- accepted ---------------------------------------------------------------------------------------------------------


async def test_what_is_accepted_is_answered_when_its_entry_has_committed(leader: Leader) -> None:
    asked = await leader.ask(leader.paused())
    assert leader.raft.kicks == 1
    assert await leader.gather() is not None
    assert not asked.done(), "on its way is not applied"
    applied = await leader.commit()
    assert (await one(asked)) == applied.outcomes[0]
    assert leader.solo.regions().pause.phase == "PAUSED"


async def test_everything_that_waits_shares_an_entry_and_answers_keep_their_order(leader: Leader) -> None:
    first = await leader.ask(leader.created("a"), leader.stale(), leader.created("b"))
    second = await leader.ask(leader.created("c"))
    data = await leader.gather()
    assert data is not None and len(decode(data).items) == 3
    assert await leader.gather() is None
    await leader.commit()
    a, stale, b = await first
    assert [accepted(a).project, refused(stale), accepted(b).project] == ["a", Code.STALE_STATE, "b"]
    assert accepted(await one(second)).project == "c"


async def test_an_entry_is_judged_on_top_of_those_in_flight(leader: Leader) -> None:
    first = await leader.ask(leader.paused())
    await leader.gather()
    second = await leader.ask(leader.paused())
    assert await leader.gather() is None
    await leader.confirm()
    assert not second.done(), "the state it was judged on is not committed"
    await leader.commit()
    assert accepted(await one(first))
    verdict = await one(second)
    assert isinstance(verdict, Refused) and verdict.code is Code.STALE_STATE and verdict.head == leader.solo.head()


# --- refused ----------------------------------------------------------------------------------------------------------


async def test_a_refusal_leaves_when_the_entry_gathered_with_it_commits(leader: Leader) -> None:
    stale = await leader.ask(leader.stale())
    _ = await leader.ask(leader.created("a"))
    await leader.gather()
    assert not stale.done()
    await leader.commit()
    assert refused(await one(stale)) is Code.STALE_STATE
    assert not leader.raft.rounds, "the commit confirmed it"


@pytest.mark.parametrize("refusal", [NotLeader("deposed"), NoQuorum("alone")])
async def test_a_refusal_alone_leaves_after_a_read_round_and_not_without(leader: Leader, refusal: Exception) -> None:
    stale = await leader.ask(leader.stale())
    assert await leader.gather() is None
    assert not stale.done()
    await leader.confirm()
    assert refused(await one(stale)) is Code.STALE_STATE
    again = await leader.ask(leader.stale())
    await leader.gather()
    await leader.confirm(refusal)
    assert unavailable(await one(again)) == (Code.NO_LEADER, False)


async def test_a_refusal_of_an_earlier_term_never_leaves(leader: Leader) -> None:
    stale = await leader.ask(leader.stale())
    await leader.gather()
    leader.raft.term += 1
    await leader.confirm()
    assert unavailable(await one(stale)) == (Code.NO_LEADER, False)


@pytest.mark.parametrize("fate", [Fate.REFUSED, Fate.UNKNOWN])
async def test_a_refusal_is_not_told_when_the_entry_gathered_with_it_is_lost(leader: Leader, fate: Fate) -> None:
    stale, _ = await leader.ask(leader.stale()), await leader.ask(leader.created("a"))
    await leader.gather()
    await leader.lose(fate)
    assert unavailable(await one(stale)) == (Code.NO_LEADER, False)


async def test_what_breaks_a_law_is_answered_internal_and_never_enters_the_log(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(context: object) -> Any:
        raise InvariantBroken("a law")

    monkeypatch.setitem(catalog.EFFECTS, the_chart().project.transitions["CONTROL_PAUSED"].effect or "", breaks)
    asked = await leader.ask(leader.paused())
    assert await leader.gather() is None
    await leader.confirm()
    assert refused(await one(asked)) is Code.INTERNAL


async def test_a_verdict_still_open_when_the_node_stops_is_answered(leader: Leader) -> None:
    stale = await leader.ask(leader.stale())
    await leader.gather()
    for task in leader.tasks:
        task.cancel()
    assert unavailable(await one(stale)) == (Code.NO_LEADER, False)


# --- leadership, deadlines, load --------------------------------------------------------------------------------------


async def test_what_waits_when_leadership_is_lost_is_not_admitted(leader: Leader) -> None:
    asked = await leader.ask(leader.paused())
    leader.proposals.refuse_queued("deposed")
    assert unavailable(await one(asked)) == (Code.NO_LEADER, False)
    assert await leader.gather() is None


@pytest.mark.parametrize(
    "fate, answered", [(Fate.REFUSED, (Code.NO_LEADER, False)), (Fate.UNKNOWN, (Code.OUTCOME_UNKNOWN, True))]
)
async def test_what_was_in_flight_is_answered_as_surely_as_it_is_known(
    leader: Leader, fate: Fate, answered: tuple[Code, bool]
) -> None:
    asked = await leader.ask(leader.paused())
    await leader.gather()
    leader.proposals.refuse_queued("deposed")
    assert not asked.done()
    await leader.lose(fate)
    assert unavailable(await one(asked)) == answered


async def test_a_deadline_in_the_queue_is_a_sure_no(leader: Leader) -> None:
    asked = await leader.ask(leader.paused(), within=1.0)
    leader.clock.advance(1.0)
    assert unavailable(await one(asked)) == (Code.OVERLOADED, False)
    assert await leader.gather() is None, "taken out before it was answered"


async def test_a_deadline_in_flight_is_unknown(leader: Leader) -> None:
    asked = await leader.ask(leader.paused(), within=1.0)
    await leader.gather()
    leader.clock.advance(1.0)
    assert unavailable(await one(asked)) == (Code.OUTCOME_UNKNOWN, True)
    await leader.commit()
    assert leader.solo.regions().pause.phase == "PAUSED"


async def test_a_leader_whose_time_stands_still_takes_nothing(leader: Leader) -> None:
    leader.raft.clock_ok = False
    asked = await leader.ask(leader.paused(), leader.stale())
    assert [unavailable(answer) for answer in await asked] == [(Code.CLOCK, False)] * 2


async def test_a_full_queue_refuses_and_forgets_who_gave_up(leader: Leader) -> None:
    item = leader.stale()
    crowd = await leader.ask(*[item] * QUEUE_ITEMS_MAX, within=1.0)
    late = await leader.ask(leader.paused())
    assert unavailable(await one(late)) == (Code.OVERLOADED, False)
    leader.clock.advance(1.0)
    assert {unavailable(answer) for answer in await settled(crowd, leader)} == {(Code.OVERLOADED, False)}
    again = await leader.ask(leader.paused())
    await leader.gather()
    await leader.commit()
    assert accepted(await one(again))


async def settled(asked: asyncio.Task[list[Answer]], leader: Leader) -> list[Answer]:
    """The answers of many that fall due one after another."""
    async with asyncio.timeout(DECIDED_SECONDS):
        while not asked.done():
            await asyncio.sleep(0)
            leader.clock.advance(0)
    return asked.result()


async def test_the_queue_is_bounded_in_bytes(leader: Leader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.proposals.QUEUE_BYTES_MAX", 5_000)
    held = await leader.ask(leader.created("a", "x" * 4_000))
    late = await leader.ask(leader.created("b", "x" * 4_000))
    assert unavailable(await one(late)) == (Code.OVERLOADED, False)
    await leader.gather()
    after = await leader.ask(leader.created("c", "x" * 4_000))
    await leader.gather()
    await leader.commit()
    await leader.commit()
    assert accepted(await one(held)) and accepted(await one(after))


async def test_a_flood_of_refusals_is_judged_a_slice_a_tick(leader: Leader) -> None:
    flood = await leader.ask(*[leader.stale(key=f"flood{number}") for number in range(2 * JUDGED_MAX)])
    paused = await leader.ask(leader.paused())
    kicks = leader.raft.kicks
    assert await leader.gather() is None
    assert len(leader.raft.rounds) == 1 and leader.raft.kicks == kicks + 1, "more waits: another tick, soon"
    await leader.gather()
    assert await leader.gather() is not None, "whoever came last has his turn"
    await leader.confirm()
    await leader.commit()
    assert accepted(await one(paused))
    assert {refused(answer) for answer in await flood} == {Code.STALE_STATE}


async def test_an_entry_never_outgrows_what_consensus_carries(leader: Leader) -> None:
    """What travels with an item counts too: the names of everybody who voted."""
    voters = tuple(f"{number:064x}" for number in range(1_000))
    items = [leader.created(f"p{number}", "x" * 60_000)._replace(voters=voters) for number in range(8)]
    asked = await leader.ask(*items)
    sizes = []
    while (data := await leader.gather()) is not None:
        sizes.append(len(data))
        await leader.commit()
    assert len(sizes) > 1 and max(sizes) < COMMAND_BYTES_MAX
    assert all(accepted(answer) for answer in await asked)


# --- duplicates -------------------------------------------------------------------------------------------------------


async def test_a_duplicate_of_a_committed_record_is_answered_at_once(leader: Leader) -> None:
    item = leader.paused()
    first = await leader.ask(item)
    await leader.gather()
    await leader.commit()
    again = await leader.ask(item)
    assert await leader.gather() is None
    recorded, repeated = accepted(await one(first)), accepted(await one(again))
    assert repeated.duplicate and repeated.record_hash == recorded.record_hash
    assert not leader.raft.rounds, "a record stays true whoever leads"


@pytest.mark.parametrize("gathered_together", [True, False])
async def test_a_duplicate_of_what_is_on_its_way_is_answered_with_it_and_not_before(
    leader: Leader, gathered_together: bool
) -> None:
    item = leader.paused()
    first = await leader.ask(item)
    if not gathered_together:
        await leader.gather()
    again = await leader.ask(item)
    await leader.gather()
    await leader.confirm()
    assert not first.done() and not again.done(), "nothing is durable yet"
    await leader.commit()
    recorded, repeated = accepted(await one(first)), accepted(await one(again))
    assert repeated.duplicate and not recorded.duplicate
    assert repeated.record_hash == recorded.record_hash


@pytest.mark.parametrize("gathered_together", [True, False])
async def test_a_duplicate_of_what_is_on_its_way_is_never_called_not_admitted(
    leader: Leader, gathered_together: bool
) -> None:
    """The earlier attempt may be applied, and it is the same operation."""
    item = leader.paused()
    _ = await leader.ask(item)
    if not gathered_together:
        await leader.gather()
    late, lost = await leader.ask(item, within=1.0), await leader.ask(item)
    await leader.gather()
    leader.clock.advance(1.0)
    assert unavailable(await one(late)) == (Code.OUTCOME_UNKNOWN, True)
    if gathered_together:
        await leader.lose(Fate.UNKNOWN)
    await leader.confirm(NotLeader("deposed"))
    assert unavailable(await one(lost)) == (Code.OUTCOME_UNKNOWN, True)


async def test_another_operation_under_a_key_in_flight_is_refused_once_that_has_committed(leader: Leader) -> None:
    _ = await leader.ask(leader.paused(key="k"))
    other = await leader.ask(leader.solo.item(leader.solo.document("CONTROL_RESUMED", {"reason": "x"}, key="k")))
    await leader.gather()
    assert not other.done()
    await leader.commit()
    assert refused(await one(other)) is Code.IDEM_KEY_REUSED


# --- dry runs, batches, what travels with the entry -------------------------------------------------------------------


async def test_a_dry_run_is_judged_confirmed_and_leaves_nothing(leader: Leader) -> None:
    head = leader.solo.head()
    wet, dry = leader.paused(), leader.paused()
    asked = await leader.ask(dry, dry_run=True)
    assert await leader.gather() is None
    assert not asked.done()
    await leader.confirm()
    verdict = accepted(await one(asked))
    assert verdict.state_pre_hash == head
    assert Change("Pause.Phase", "RUNNING", "PAUSED") in (verdict.changes or ())
    again = await leader.ask(wet)
    await leader.gather()
    await leader.commit()
    verdict = accepted(await one(again))
    assert (verdict.state_pre_hash, verdict.changes) == (head, None), "the dry run changed nothing"


async def test_a_dry_run_sees_what_is_gathered_before_it_and_is_not_seen_by_what_comes_after(leader: Leader) -> None:
    _ = await leader.ask(leader.paused())
    dry = await leader.ask(leader.paused(), dry_run=True)
    data = await leader.gather()
    assert data is not None and len(decode(data).items) == 1
    await leader.commit()
    assert refused(await one(dry)) is Code.STALE_STATE


def chain(leader: Leader) -> Item:
    """Pause and resume, the second on what the first produces."""
    first = leader.solo.document("CONTROL_PAUSED", {"reason": "one"}, signer="op")
    second = leader.solo.document("CONTROL_RESUMED", {"reason": "two"}, signer="op", head="@prev")
    return leader.solo.batch([first, {**second, "hlc": str(leader.solo.next_hlc("default")._replace(counter=9))}], "op")


async def test_a_batch_is_judged_in_order_dry_or_not_and_repeated_as_a_whole(leader: Leader) -> None:
    batch = chain(leader)
    dry = await leader.ask(batch, dry_run=True)
    await leader.gather()
    await leader.confirm()
    async with asyncio.timeout(DECIDED_SECONDS):
        first, second = await dry
    assert accepted(first).state_post_hash == accepted(second).state_pre_hash
    wet = await leader.ask(batch)
    await leader.gather()
    again = await leader.ask(batch)
    await leader.gather()
    await leader.commit()
    await leader.confirm()
    async with asyncio.timeout(DECIDED_SECONDS):
        records = [accepted(answer).record_hash for answer in await wet]
        repeated = [accepted(answer) for answer in await again]
    assert [answer.record_hash for answer in repeated] == records and all(answer.duplicate for answer in repeated)


async def test_an_entry_names_the_chart_that_will_be_in_force_when_it_is_applied(leader: Leader) -> None:
    """Or the leader, which judged early, would accept what every follower refuses."""
    follower = leader.solo.fork()
    inputs = {"chart_hash": digest("solo", "next"), "version": "2", "supported_by": ["n1", "n2", "n3"]}
    _ = await leader.ask(leader.solo.item(leader.solo.document("CHART_ACTIVATED", inputs)))
    await leader.gather()
    asked = await leader.ask(leader.created("a"))
    await leader.gather()
    for index, data, _ in list(leader.raft.flight):
        assert await leader.commit() == follower.feed(index, TERM, data)
    assert accepted(await one(asked))
    assert follower.machine.cluster_hash == leader.solo.machine.cluster_hash


async def test_facts_wait_for_their_commit_too(leader: Leader) -> None:
    body = {"units_free": 4}
    asked = await leader.ask(leader.solo.fact_item("capacity", "default", body))
    old = await leader.ask(leader.solo.fact_item("capacity", "default", body, observed_at=leader.solo.now_ms - 1))
    await leader.gather()
    assert not asked.done() and not old.done()
    await leader.commit()
    assert type(await one(asked)).__name__ == "FactAccepted"
    assert refused(await one(old)) is Code.FACT_REFUSED


# --- what one signer may create ---------------------------------------------------------------------------------------


def bounded(most: int, *created: str) -> Leader:
    """A leader that lets a signer create so many projects; pam has created these."""
    leader = Leader(most=most)
    for project in created:
        leader.creators.on_applied(leader.solo.apply(leader.created(project)))
    return leader


async def test_beyond_its_share_a_signer_creates_nothing_and_is_told_the_numbers() -> None:
    leader = bounded(2, "a", "b")
    asked = await leader.ask(leader.created("c"))
    assert await leader.gather() is None, "a refusal needs no log"
    assert not asked.done(), "it is a verdict on state that may not be the newest"
    await leader.confirm()
    answer = await one(asked)
    assert isinstance(answer, Refused) and answer.code is Code.TOO_MANY_PROJECTS
    assert (answer.project, answer.transition, answer.head) == ("c", "PROJECT_CREATED", leader.solo.head("c"))
    (reason,) = answer.reasons
    assert "has created 2 projects and would create 1 more; one signer may create 2" in reason
    assert leader.solo.principals["pam"] in reason
    assert leader.solo.machine.project("c") is None


async def test_a_deposed_leader_tells_nobody_that_he_has_too_many() -> None:
    leader = bounded(1, "a")
    asked = await leader.ask(leader.created("b"))
    await leader.gather()
    await leader.confirm(NotLeader("deposed"))
    assert unavailable(await one(asked)) == (Code.NO_LEADER, False)


async def test_what_is_in_flight_and_in_the_same_entry_counts() -> None:
    leader = bounded(3, "a")
    first = await leader.ask(leader.created("b"))
    await leader.gather()
    third, fourth = await leader.ask(leader.created("c")), await leader.ask(leader.created("d"))
    data = await leader.gather()
    assert data is not None and len(decode(data).items) == 1
    await leader.commit()
    await leader.commit()
    assert accepted(await one(first)) and accepted(await one(third))
    assert refused(await one(fourth)) is Code.TOO_MANY_PROJECTS


async def test_what_was_in_flight_and_lost_does_not_count() -> None:
    leader = bounded(1)
    lost = await leader.ask(leader.created("a"))
    await leader.gather()
    await leader.lose(Fate.REFUSED)
    leader.solo.machine.pending.clear()  # as the node does when leadership moves
    again = await leader.ask(leader.created("b"))
    assert await leader.gather() is not None
    await leader.commit()
    assert unavailable(await one(lost)) == (Code.NO_LEADER, False)
    assert accepted(await one(again))


async def test_everything_but_creating_goes_on_beyond_the_share() -> None:
    leader = bounded(1, "a")
    again = leader.solo.item(leader.solo.document("CONTROL_PAUSED", {"reason": "x"}, project="a", signer="op"))
    other = leader.solo.item(leader.solo.document("PROJECT_CREATED", {"brief": "b"}, project="b", signer="ivy"))
    asked = await leader.ask(again, other)
    assert await leader.gather() is not None
    await leader.commit()
    assert all(map(accepted, await asked)), "each signer has a share of its own"


async def test_one_key_in_another_spelling_is_the_same_signer() -> None:
    leader = bounded(1, "a")
    bare = "hmmm:pubkey:" + leader.solo.principals["pam"].rpartition(":")[2].upper()
    document = leader.solo.document("PROJECT_CREATED", {"brief": "b"}, project="b", signer=bare)
    asked = await leader.ask(leader.solo.item(document, signed_by="pam"))
    assert await leader.gather() is None
    await leader.confirm()
    assert refused(await one(asked)) is Code.TOO_MANY_PROJECTS


async def test_nodes_are_not_bound_and_default_is_nobodys() -> None:
    leader = bounded(1)
    leader.creators.on_applied(leader.solo.apply(leader.paused(signer="op")))
    items = [
        leader.solo.item(leader.solo.document("PROJECT_CREATED", {"brief": "b"}, project=name, signer=who))
        for name, who in (("a", "n1"), ("b", "n1"), ("c", "op"))
    ]
    asked = await leader.ask(*items)
    assert await leader.gather() is not None
    await leader.commit()
    assert all(map(accepted, await asked)), "op has touched default first, and created nothing yet"


async def test_zero_is_any_number() -> None:
    leader = bounded(0, "a", "b", "c")
    asked = await leader.ask(leader.created("d"))
    await leader.gather()
    await leader.commit()
    assert accepted(await one(asked))


async def test_a_duplicate_is_answered_however_many_there_are() -> None:
    leader = Leader(most=1)
    item = leader.created("a")
    _ = await leader.ask(item)
    await leader.gather()
    await leader.commit()
    again = await leader.ask(item)
    await leader.gather()
    assert accepted(await one(again)).duplicate


async def test_a_signed_batch_is_refused_as_a_whole_but_for_what_was_recorded_before() -> None:
    leader = bounded(2, "a")
    solo = leader.solo
    before = solo.document("PROJECT_CREATED", {"brief": "b"}, project="b", signer="pam")
    leader.creators.on_applied(solo.apply(solo.item(before)))
    sent = [
        before,
        solo.document("PROJECT_CREATED", {"brief": "c"}, project="c", signer="pam"),
        solo.document("BOOT_CONFIGURED", {"chart_hash": solo.chart.hash}, project="a", signer="pam"),
    ]
    asked = await leader.ask(solo.batch(sent, "pam"))
    assert await leader.gather() is None
    await leader.confirm()
    recorded, new, beside = await asked
    assert accepted(recorded).duplicate
    assert [refused(new), refused(beside)] == [Code.TOO_MANY_PROJECTS] * 2


async def test_a_dry_run_says_so_too() -> None:
    leader = bounded(1, "a")
    asked = await leader.ask(leader.created("b"), dry_run=True)
    await leader.gather()
    await leader.confirm()
    assert refused(await one(asked)) is Code.TOO_MANY_PROJECTS
