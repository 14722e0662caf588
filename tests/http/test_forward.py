"""One hop to the leader: what is gathered, what is promised when it fails, and who is believed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from cluster.answers import Answer, Unavailable, not_admitted
from cluster.clock import ManualClock, SystemClock
from cluster.egress import Unreachable
from cluster.http.forward import (
    MESSAGE_BYTES_MAX,
    MESSAGE_ITEMS_MAX,
    MESSAGES_IN_FLIGHT,
    PATH,
    VOTES_PATH,
    Forwarder,
    peer_app,
)
from cluster.providers.hmmm import Tally
from swoosh import limits
from swoosh.entry import BatchItem, Item, ProposalItem, owed, unpack_items
from swoosh.outcome import Accepted, Code, Refused
from swoosh.quorum import Vote
from tests.cluster.electors import asked, cast
from tests.http.desk import KEYS, Desk
from tests.http.peers import reached
from tests.wire.members import Papers

DEADLINE = 20.0


def item(name: str) -> ProposalItem:
    return ProposalItem(name.encode(), voters=("v",))


def accepted(name: bytes) -> Accepted:
    return Accepted("p", "T", name.decode(), "h", 1, 1, "a", "b", "r", "d")


class Line:
    """The way to a leader, played by hand: connect, take the message, reply or break."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self._came = asyncio.Event()

    async def post(self, peer: str, path: str, body: AsyncIterator[bytes]) -> tuple[int, bytes]:
        assert (peer, path) == ("n2", PATH)
        post = Post(body)
        self.posts.append(post)
        self._came.set()
        return await post.reply

    async def came(self, count: int = 1) -> "Post":
        async with asyncio.timeout(DEADLINE):
            while len(self.posts) < count:
                self._came.clear()
                await self._came.wait()
        return self.posts[count - 1]


class Post:
    """One message: not a byte of it exists before `take`."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self.reply: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self.groups: list[tuple[int, bool, list[Item]]] = []

    async def take(self) -> list[list[bytes]]:
        """Let the message leave; the names of its items, by caller."""
        data = b"".join([part async for part in self._body])
        self.groups = [(ms, dry, unpack_items(packed)) for ms, dry, packed in msgspec.msgpack.decode(data)]
        return [[each.sent for each in items] for _, _, items in self.groups]  # type: ignore[union-attr]

    def answer(self) -> None:
        self.answer_with([[accepted(each.sent) for each in items] for _, _, items in self.groups])  # type: ignore[union-attr]

    def answer_with(self, answers: list[list[Answer]], status: int = 200) -> None:
        self.reply.set_result((status, msgspec.msgpack.encode(answers)))

    def break_off(self) -> None:
        self.reply.set_exception(Unreachable("reset"))


def submit(
    forwarder: Forwarder, *items: Item, dry_run: bool = False, within: float = 60.0
) -> "asyncio.Task[list[Answer]]":
    return asyncio.ensure_future(forwarder.submit("n2", list(items), within, dry_run=dry_run))


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(20):
        await asyncio.sleep(0)


def verdicts(answers: list[Answer]) -> list[tuple[Code, bool]]:
    assert all(isinstance(answer, Unavailable) for answer in answers), answers
    return [(answer.code, answer.admitted) for answer in answers]  # type: ignore[union-attr]


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def forwarder(line: Line, clock: ManualClock) -> Forwarder:
    return Forwarder(line, clock)


async def wake(clock: ManualClock) -> None:
    """Run the callbacks that wait for the loop to turn."""
    await settle()
    clock.advance(0)
    await settle()


async def test_a_message_is_bounded_in_bytes_too(line: Line, forwarder: Forwarder, clock: ManualClock) -> None:
    """Or a leader, which takes no longer ones, would leave everybody in it without an answer."""
    large = ProposalItem(b"x" * limits.BODY_BYTES_MAX)
    calls = [submit(forwarder, large) for _ in range(40)]
    await wake(clock)
    sizes = []
    for number in range(1, 4):
        post = await line.came(number)
        sizes.append(len(await post.take()))
        post.answer()
        await settle()
    assert sum(sizes) == len(calls) and max(sizes) * limits.BODY_BYTES_MAX < MESSAGE_BYTES_MAX
    answers = await asyncio.gather(*calls)
    assert all(isinstance(answer, Accepted) for (answer,) in answers)


async def test_what_arrives_together_travels_together(line: Line, forwarder: Forwarder, clock: ManualClock) -> None:
    calls = [
        submit(forwarder, item("a")),
        submit(forwarder, item("b"), item("c")),
        submit(forwarder, item("d"), dry_run=True),
    ]
    await wake(clock)
    post = await line.came()
    assert await post.take() == [[b"a"], [b"b", b"c"], [b"d"]]
    assert [dry for _, dry, _ in post.groups] == [False, False, True]
    assert post.groups[0][0] == 60_000 and post.groups[0][2][0] == item("a")
    post.answer()
    answers = [await call for call in calls]
    assert [[each.idem_key for each in group] for group in answers] == [["a"], ["b", "c"], ["d"]]  # type: ignore[union-attr]


async def test_what_comes_while_the_lanes_are_full_forms_the_next_message(
    line: Line, forwarder: Forwarder, clock: ManualClock
) -> None:
    early = []
    for number in range(MESSAGES_IN_FLIGHT):
        early.append(submit(forwarder, item(f"e{number}")))
        await wake(clock)
    late = [submit(forwarder, item(f"l{number}")) for number in range(5)]
    await wake(clock)
    assert len(line.posts) == MESSAGES_IN_FLIGHT
    await line.posts[0].take()
    line.posts[0].answer()
    await settle()
    post = await line.came(MESSAGES_IN_FLIGHT + 1)
    assert await post.take() == [[f"l{number}".encode()] for number in range(5)]
    post.answer()
    await asyncio.gather(early[0], *late)
    for call in early[1:]:
        call.cancel()


async def test_a_message_is_bounded(line: Line, forwarder: Forwarder, clock: ManualClock) -> None:
    half = BatchItem("s", "s", (item("x"),) * (MESSAGE_ITEMS_MAX // 2))
    calls = [submit(forwarder, half) for _ in range(3)]
    await wake(clock)
    sizes = []
    for post in line.posts:
        data = b"".join([part async for part in post._body])
        sizes.append([sum(map(owed, unpack_items(packed))) for _, _, packed in msgspec.msgpack.decode(data)])
    assert sizes == [[MESSAGE_ITEMS_MAX // 2] * 2, [MESSAGE_ITEMS_MAX // 2]]
    for call in calls:
        call.cancel()


# --- what is promised when it fails -----------------------------------------------------------------------------------


async def test_no_connection_means_not_admitted(line: Line, forwarder: Forwarder, clock: ManualClock) -> None:
    call = submit(forwarder, item("a"), item("b"))
    await wake(clock)
    (await line.came()).break_off()
    assert verdicts(await call) == [(Code.NO_LEADER, False)] * 2


async def test_a_message_without_an_answer_is_unknown(line: Line, forwarder: Forwarder, clock: ManualClock) -> None:
    call, asked = submit(forwarder, item("a")), submit(forwarder, item("b"), dry_run=True)
    await wake(clock)
    post = await line.came()
    await post.take()
    post.break_off()
    assert verdicts(await call) == [(Code.OUTCOME_UNKNOWN, True)]
    assert verdicts(await asked) == [(Code.NO_LEADER, False)], "a dry run changes nothing wherever it got to"


async def test_a_deadline_before_the_message_leaves_strikes_the_caller_from_it(
    line: Line, forwarder: Forwarder, clock: ManualClock
) -> None:
    early, late = submit(forwarder, item("early"), within=1.0), submit(forwarder, item("late"), within=9.0)
    await wake(clock)
    post = await line.came()
    clock.advance(1.0)
    assert verdicts(await early) == [(Code.NO_LEADER, False)]
    assert await post.take() == [[b"late"]], "what was promised not to be admitted must not leave"
    assert post.groups[0][0] == 8_000
    post.answer()
    assert isinstance((await late)[0], Accepted)


async def test_a_deadline_after_it_left_is_unknown_and_a_late_answer_changes_nothing(
    line: Line, forwarder: Forwarder, clock: ManualClock
) -> None:
    call, other = submit(forwarder, item("a"), within=1.0), submit(forwarder, item("b"), within=9.0)
    await wake(clock)
    post = await line.came()
    await post.take()
    clock.advance(1.0)
    assert verdicts(await call) == [(Code.OUTCOME_UNKNOWN, True)]
    post.answer()
    assert isinstance((await other)[0], Accepted)


async def test_a_caller_that_leaves_is_struck_from_what_has_not_left(
    line: Line, forwarder: Forwarder, clock: ManualClock
) -> None:
    gone, there = submit(forwarder, item("gone")), submit(forwarder, item("there"))
    await wake(clock)
    gone.cancel()
    await settle()
    assert await (await line.came()).take() == [[b"there"]]
    there.cancel()


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(lambda post: post.answer_with([[]]), id="too few"),
        pytest.param(lambda post: post.answer_with([], status=403), id="refused"),
        pytest.param(lambda post: post.reply.set_result((200, b"garbage")), id="garbage"),
    ],
)
async def test_an_answer_to_something_else_is_no_answer(
    line: Line, forwarder: Forwarder, clock: ManualClock, answers: Callable[[Post], None]
) -> None:
    call = submit(forwarder, item("a"))
    await wake(clock)
    post = await line.came()
    await post.take()
    answers(post)
    assert verdicts(await call) == [(Code.OUTCOME_UNKNOWN, True)]


async def test_stopping_leaves_nobody_waiting(line: Line, forwarder: Forwarder, clock: ManualClock) -> None:
    call = submit(forwarder, item("a"))
    await wake(clock)
    await (await line.came()).take()
    forwarder.stop()
    assert verdicts(await call) == [(Code.OUTCOME_UNKNOWN, True)]


# --- over the real peer port ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


class Leader(Desk):
    """A desk that remembers what was submitted where."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.asked: list[tuple[list[bytes], bool]] = []

    async def submit_forwarded(self, items: Sequence[Item], deadline: float, *, dry_run: bool = False) -> list[Answer]:
        assert 0 < deadline - self.clock.monotonic() < 60
        self.asked.append(([each.sent for each in items], dry_run))  # type: ignore[union-attr]
        return [accepted(each.sent) for each in items]  # type: ignore[union-attr]


async def test_a_hop_over_mutual_tls(papers: Papers) -> None:
    leader, clock = Leader(), SystemClock()
    async with reached(leader, papers) as way:
        forwarder = Forwarder(way, clock)
        for name in ("a", "b"):  # the second goes over the connection of the first
            [answer] = await forwarder.submit("n2", [item(name)], clock.monotonic() + 20)
            assert answer == accepted(name.encode())
        unreachable = await forwarder.submit("n3", [item("c")], clock.monotonic() + 20)
        assert verdicts(unreachable) == [(Code.NO_LEADER, False)]
        assert leader.asked == [([b"a"], False), ([b"b"], False)]
    assert verdicts(await Forwarder(way, clock).submit("n2", [item("d")], clock.monotonic() + 1)) == [
        (Code.NO_LEADER, False)
    ]


async def test_a_leader_with_another_certificate_gets_nothing(papers: Papers, tmp_path: Path) -> None:
    del tmp_path
    leader, clock = Leader(), SystemClock()
    async with reached(leader, papers, at="n3") as way:
        answers = await Forwarder(way, clock).submit("n3", [item("a")], clock.monotonic() + 20)
        assert verdicts(answers) == [(Code.NO_LEADER, False)] and leader.asked == []


@pytest.mark.parametrize("path", [PATH, VOTES_PATH])
async def test_a_hop_outside_the_peer_port_is_not_believed(path: str) -> None:
    leader = Leader()
    runner = web.AppRunner(peer_app(leader), access_log=None)  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    import aiohttp

    try:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}{path}"
            async with session.post(url, data=b"\x90", headers={"Content-Type": "application/msgpack"}) as reply:
                assert reply.status == 403 and (await reply.json())["code"] == "NOT_AUTHORISED"
    finally:
        await runner.cleanup()
    assert leader.asked == []


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x91\x01", msgspec.msgpack.encode([(1, False, b"junk")])])
async def test_a_message_that_does_not_decode_is_refused_whole(papers: Papers, body: bytes) -> None:
    leader = Leader()

    async def message() -> AsyncIterator[bytes]:
        yield body

    async with reached(leader, papers) as way:
        status, reply = await way.post("n2", PATH, message())
        assert status == 400 and msgspec.json.decode(reply)["code"] == "MALFORMED"
    assert leader.asked == []


async def test_a_member_that_does_not_lead_says_so(papers: Papers) -> None:
    class Follower(Desk):
        async def submit_forwarded(
            self, items: Sequence[Item], deadline: float, *, dry_run: bool = False
        ) -> list[Answer]:
            return [not_admitted(Code.NO_LEADER, "n2 does not lead")] * len(items)

    clock = SystemClock()
    async with reached(Follower(), papers) as way:
        answers: Any = await Forwarder(way, clock).submit("n2", [item("a")], clock.monotonic() + 20)
        assert verdicts(answers) == [(Code.NO_LEADER, False)]


async def test_a_member_that_leaves_ends_each_connection_with_its_answer(papers: Papers) -> None:
    """One that is closed while it idles may meet the next message on its way, which is then called unknown."""
    leader, clock = Leader(), SystemClock()
    async with reached(leader, papers) as way:
        forwarder = Forwarder(way, clock)
        for stopping, kept in ((False, 1), (True, 0)):
            leader.stopping = stopping
            await forwarder.submit("n2", [item("a")], clock.monotonic() + 20)
            assert len(way._session.connector._conns) == kept  # type: ignore[union-attr]


# --- votes ------------------------------------------------------------------------------------------------------------


def ballot(desk: Desk, name: str) -> Vote:
    return cast(asked(desk.machine), desk.machine, KEYS[name].principal, KEYS[name].sign)


async def test_a_vote_and_the_list_travel_one_hop_over_mutual_tls(papers: Papers) -> None:
    desk, clock = Desk(), SystemClock()
    desk.elect()
    async with reached(desk, papers) as way:
        forwarder = Forwarder(way, clock)
        vote = ballot(desk, "ed")
        taken = [await forwarder.poll("n2", "default", each, clock.monotonic() + 20) for each in (vote, vote, None)]
        assert [polled.became for polled in taken if isinstance(polled, Tally)] == ["counted", "known", ""]
        assert isinstance(taken[-1], Tally) and taken[-1].votes == (vote,)
        refused = await forwarder.poll("n2", "nobodys", None, clock.monotonic() + 20)
        assert isinstance(refused, Refused) and refused.code == Code.UNKNOWN_PROJECT
        status, reply = await way.post("n2", VOTES_PATH, one(b"\x91\x01"))
        assert status == 400 and msgspec.json.decode(reply)["code"] == "MALFORMED"


async def one(message: bytes) -> AsyncIterator[bytes]:
    yield message


class Votes:
    """A way to a leader that answers one thing, or never."""

    def __init__(self, reply: tuple[int, bytes] | Exception | None) -> None:
        self._reply = reply

    async def post(self, peer: str, path: str, body: AsyncIterator[bytes]) -> tuple[int, bytes]:
        assert path == VOTES_PATH
        if self._reply is None:
            await asyncio.get_running_loop().create_future()
        if isinstance(self._reply, Exception):
            raise self._reply
        assert self._reply is not None
        return self._reply


@pytest.mark.parametrize("reply", [Unreachable("reset"), (500, b"oh"), (200, b"\xc1"), None])
async def test_a_vote_without_an_answer_may_be_on_the_list(
    reply: tuple[int, bytes] | Exception | None, clock: ManualClock
) -> None:
    polling = asyncio.ensure_future(Forwarder(Votes(reply), clock).poll("n2", "default", None, 5.0))
    await settle()
    clock.advance(5.0)
    polled = await polling
    assert isinstance(polled, Unavailable) and polled.code is Code.OUTCOME_UNKNOWN
