"""Outboxes: every record reaches its sink, in order per project, whoever leads and whatever the sink is going through.

First one node with a sink played by hand; then a group whose leaders are killed at every step of a delivery.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chaos import steer
from chaos.solo import TERM, Solo, the_chart
from cluster import faults, outside
from cluster.answers import Answer
from cluster.clock import ManualClock
from cluster.egress import Blocked, Call, Gatekeeper, Reply, Unreachable
from cluster.nodekey import NodeKey
from cluster.providers.leading import Leading
from cluster.providers.outbox import NOTE_SECONDS, ROUND_RECORDS, UNNOTED_MAX, Outbox, Redact, nothing_redacted
from cluster.sections import Sink as SinkConfig
from cluster.storage.kv import MemoryKeyValue
from cluster.storage.lines import MemoryLines
from cluster.storage.store import ORIGIN, Store
from swoosh import decision, genesis
from swoosh import entry as log_entry
from swoosh.entry import DeliveredItem, Item, LogEntry, Note
from swoosh.machine import Applied, Position
from swoosh.outcome import Accepted, Refused
from swoosh.proposal import CLUSTER, DEFAULT_PROJECT
from tests.cluster.group import Group, NodeHost
from tests.raft.cluster import Killed
from tests.running import running, turns

URL = "http://sink.test/records"


class Outside:
    """The sink at the other end: takes what comes, unless a test says otherwise. ``taken`` is in the order of arrival.

    ``answer`` is asked before a record is stored, ``after`` once it is; both may raise.
    """

    def __init__(self) -> None:
        self.taken: list[Call] = []
        self.calls = 0
        self.answer: Callable[[Call], int] = lambda call: 200
        self.after: Callable[[Call], None] = lambda call: None

    async def request(self, call: Call) -> Reply:
        self.calls += 1
        status = self.answer(call)
        if 200 <= status < 300:
            self.taken.append(call)
        self.after(call)
        return Reply(status, {}, b"said the sink")

    def permit(self, system: str, url: str, project: str | None = None) -> None:
        raise AssertionError("an outbox asks by sending")

    def documents(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(call.body or b"") for call in self.taken]

    def of(self, project: str) -> list[int]:
        """The numbers of a project's records as they arrived, each once."""
        found = [each["delivery"]["seq"] for each in self.documents() if each["project"] == project]
        return list(dict.fromkeys(found))


class Works:
    """One leader with a store, an outbox and a sink; time moves when it is told to."""

    def __init__(self, *, slurp: bool = False, redact: Redact = nothing_redacted, **sink: Any) -> None:
        self.solo, self.kv = Solo(the_chart()), MemoryKeyValue()
        rows = genesis.initial_rows(self.solo.genesis, self.solo.chart)
        self.store = Store.create(self.kv, rows, ORIGIN, {})
        self.store.commit(Applied(Position(1, TERM, 0)))
        self.clock = ManualClock(self.solo.now_ms * 1000)
        self.notes: list[Note] = []
        self.leads = True
        key = NodeKey.of(self.solo.keys["n1"])
        self.leading = Leading(TERM, self.solo.machine, self.clock, key, self._submit, take_note=self._take_note)
        self.outside, self.lines = Outside(), MemoryLines()
        goes_to = SinkConfig(**({"url": URL} | sink))
        config = SimpleConfig(**{"slurp" if slurp else "bubble": goes_to})
        found = outside.outboxes(config, self.outside, self.store, redact=redact, lines=lambda path: self.lines)  # type: ignore[arg-type]
        (self.outbox,) = found
        kept = self.solo.source.commit

        def commit(applied: Applied) -> None:
            kept(applied)
            self.store.commit(applied)
            for listener in list(self.leading.on_applied):
                listener(applied)

        self.solo.source.commit = commit  # type: ignore[method-assign]

    async def _submit(self, items: Sequence[Item], deadline: float) -> list[Answer]:
        raise AssertionError("an outbox proposes nothing")

    def _take_note(self, note: Note, done: Callable[[bool], None]) -> None:
        if self.leads:
            self.notes.append(note)
            at = self.solo.machine.position
            items = LogEntry(self.solo.chart.hash, "n1", TERM, at.stamp_us + 1, (note,))
            self.solo.feed(at.index + 1, TERM, log_entry.encode(items))
        done(self.leads)

    def create(self, *projects: str) -> None:
        for project in projects:
            self.must(self.solo.propose("PROJECT_CREATED", {"brief": "b"}, project=project, signer="pam"))

    def toggle(self, project: str, times: int) -> None:
        for number in range(times):
            name = "CONTROL_RESUMED" if number % 2 else "CONTROL_PAUSED"
            self.must(self.solo.propose(name, {"reason": "r"}, project=project))

    def must(self, outcome: Accepted | Refused) -> None:
        assert isinstance(outcome, Accepted), outcome

    def running(self) -> AbstractAsyncContextManager[None]:
        return running(self.outbox.run(self.leading))

    async def pass_time(self, seconds: float, step: float = 0.25) -> None:
        await turns(40)
        for _ in range(int(seconds / step)):
            self.clock.advance(step)
            await turns(40)


class SimpleConfig(msgspec.Struct):
    bubble: SinkConfig = SinkConfig()
    slurp: SinkConfig = SinkConfig()


# --- what arrives -----------------------------------------------------------------------------------------------------


async def test_every_decision_record_arrives_once_in_order_with_its_id_as_key() -> None:
    works = Works()
    works.create("apollo", "gemini")
    works.toggle("apollo", 5)
    async with works.running():
        await works.pass_time(1)
        works.toggle("gemini", 3)
        await works.pass_time(NOTE_SECONDS)
    assert works.outside.of("apollo") == list(range(1, 7))
    assert works.outside.of("gemini") == list(range(1, 5))
    ids = [each["dr_id"] for each in works.outside.documents()]
    assert len(set(ids)) == len(ids) == 10
    assert [call.headers["Idempotency-Key"] for call in works.outside.taken] == ids
    assert {call.project for call in works.outside.taken} == {"apollo", "gemini"}
    assert works.store.delivered("bubble", "apollo") == 6


async def test_what_arrives_is_the_record_as_hashed_and_beside_it_where_it_belongs() -> None:
    works = Works()
    works.create("apollo")
    works.toggle("apollo", 1)
    async with works.running():
        await works.pass_time(1)
    first, second = works.outside.documents()
    for seq, document in ((1, first), (2, second)):
        delivery = document.pop("delivery")
        stored = works.store.decision(document["dr_id"])
        assert stored is not None and msgspec.json.decode(stored) == document
        assert delivery["seq"] == seq and delivery["redacted"] == []
        assert delivery["links"]["self"] == [decision.address(document["dr_id"]), document["ucxl_address"]]
        before = [decision.address(first["dr_id"]), first["ucxl_address"]]
        assert delivery["links"].get("previous") == (before if seq == 2 else None)


async def test_what_concerns_the_cluster_leaves_on_the_nodes_own_behalf() -> None:
    works = Works()
    works.solo.propose("SETTING_SET", {"name": "approval_threshold", "value": 2})
    async with works.running():
        await works.pass_time(1)
    assert works.outside.of(CLUSTER) == [1]
    assert [call.project for call in works.outside.taken] == [None]


async def test_every_submission_arrives_and_links_to_its_decision() -> None:
    works = Works(slurp=True, url="http://slurp.test/teams/{project}/submissions/{id}", method="PUT", token="secret")
    works.solo.project = "apollo"
    steer.drive(works.solo, lambda regions: len(regions.execution.submissions) == 1)
    async with works.running():
        await works.pass_time(1)
        steer.drive(works.solo, lambda regions: len(regions.execution.submissions) == 2)
        await works.pass_time(NOTE_SECONDS)
    found = works.outside.documents()
    assert [each["project"] for each in found] == ["apollo", "apollo"]
    for document, call in zip(found, works.outside.taken, strict=True):
        linked = works.store.decision(document["decision"])
        assert linked is not None and msgspec.json.decode(linked)["transition"] == "EXECUTION_SUBMITTED"
        assert document["delivery"]["links"]["decision"][0] == decision.address(document["decision"])
        assert call.url == f"http://slurp.test/teams/apollo/submissions/{document['submission_id']}"
        assert (call.method, call.system, call.headers["Authorization"]) == ("PUT", "slurp", "Bearer secret")
    assert works.store.delivered("slurp", "apollo") == found[-1]["delivery"]["seq"]


async def test_a_decision_that_accepts_a_submission_links_to_it() -> None:
    works = Works()
    works.solo.project = "apollo"
    steer.drive(works.solo, lambda regions: len(regions.execution.submissions) == 1)
    async with works.running():
        await works.pass_time(1)
    linked = [each for each in works.outside.documents() if "submission" in each["delivery"]["links"]]
    assert [each["transition"] for each in linked] == ["EXECUTION_SUBMITTED"]
    ((seq, data),) = works.store.submissions("apollo", 0)
    assert linked[0]["delivery"]["links"]["submission"] == [msgspec.json.decode(data)["ucxl_address"]]
    assert linked[0]["delivery"]["seq"] == seq


async def test_a_template_says_what_a_sink_gets_and_under_which_names() -> None:
    fields = {"id": "dr_id", "meta.who": "signer", "meta.when": "delivery.timestamp", "kind": "=decision"}
    works = Works(fields=fields)
    works.create("apollo")
    async with works.running():
        await works.pass_time(1)
    (document,) = works.outside.documents()
    assert set(document) == {"id", "meta", "kind"} and set(document["meta"]) == {"who", "when"}
    assert document["kind"] == "decision" and document["meta"]["who"] == works.solo.principals["pam"]


async def test_what_the_policy_redacts_does_not_leave_and_is_named() -> None:
    def redact(value: Any) -> tuple[Any, tuple[str, ...]]:
        assert "dr_id" not in value, "what proves the record is nobody's to change"
        return {**value, "idem_key": "[REDACTED]"}, ("idem_key",)

    works = Works(redact=redact)
    works.create("apollo")
    async with works.running():
        await works.pass_time(1)
    (document,) = works.outside.documents()
    assert (document["idem_key"], document["delivery"]["redacted"]) == ("[REDACTED]", ["idem_key"])
    assert works.outside.taken[0].headers["Idempotency-Key"] == document["dr_id"]


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def test_a_sink_that_is_away_is_tried_again_until_it_is_back() -> None:
    works = Works()
    works.create("apollo")

    def away(call: Call) -> int:
        raise Unreachable("nobody there")

    works.outside.answer = away
    async with works.running():
        await works.pass_time(30)
        assert works.outbox.trouble == "nobody there"
        assert 5 <= works.outside.calls <= 15, "ever more slowly, and not too slowly"
        assert works.outbox.gauges(works.clock.wall_us())["oldest_s"] > 29
        works.outside.answer = lambda call: 200
        await works.pass_time(6)
        assert works.outside.of("apollo") == [1]
        assert works.outbox.trouble is None


async def test_a_sink_that_is_away_is_tried_with_one_record_however_many_wait() -> None:
    works = Works()
    works.create(*(f"p{number}" for number in range(20)))
    works.toggle("p0", 20)
    works.outside.answer = lambda call: 503
    async with works.running():
        await works.pass_time(1)
        first = works.outside.calls
        await works.pass_time(20)
        assert works.outside.calls - first <= 10
        works.outside.answer = lambda call: 200
        await works.pass_time(6)
        assert len(works.outside.taken) == 40


async def test_a_project_that_is_held_is_tried_with_one_record() -> None:
    works = Works()
    works.create("apollo")
    works.toggle("apollo", 30)
    asked: list[int] = []
    read = works.outbox._records.read

    def counted(project: str, after: int, limit: int) -> list[Any]:
        asked.append(limit)
        return read(project, after, limit)

    works.outbox._records.read = counted  # type: ignore[method-assign]
    works.outside.answer = lambda call: 422
    async with works.running():
        await works.pass_time(10)
    assert asked[1] > 1 and set(asked[2:]) == {1}


@pytest.mark.parametrize("status", [301, 401, 404, 429, 500, 503])
async def test_a_refusal_that_speaks_of_the_way_there_holds_everybody_and_is_no_records_fault(status: int) -> None:
    works = Works()
    works.create("apollo")
    works.outside.answer = lambda call: status
    async with works.running():
        await works.pass_time(5)
        assert works.outbox.document(0)["held"] == []
        assert str(status) in (works.outbox.trouble or "")


async def test_a_record_that_is_refused_holds_its_own_project_only_and_in_the_open() -> None:
    works = Works()
    works.create("apollo", "gemini")
    works.toggle("apollo", 3)
    works.outside.answer = lambda call: 422 if b'"transition":"CONTROL_PAUSED"' in (call.body or b"") else 200
    async with works.running():
        await works.pass_time(200)
        assert works.outside.of("apollo") == [1], "what comes after it waits: the sink has a prefix of the chain"
        assert works.outside.of("gemini") == [1]
        shown = works.outbox.document(works.clock.wall_us())
        assert [(each["project"], each["seq"], each["why"]) for each in shown["held"]] == [("apollo", 2, "refused")]
        assert "said the sink" in shown["held"][0]["reason"]
        assert shown["refused"] == 1 and shown["backlog"] == 3
        assert works.outbox.trouble is not None
        works.outside.answer, works.outside.calls = lambda call: 200, 0
        works.outbox.retry()
        await works.pass_time(1)
        assert works.outside.of("apollo") == [1, 2, 3, 4]
        assert works.outbox.document(0)["held"] == [] and works.outbox.trouble is None


async def test_a_refused_record_is_passed_over_only_when_an_admin_says_so_and_stays_on_record() -> None:
    works = Works()
    works.create("apollo")
    works.toggle("apollo", 3)
    works.outside.answer = lambda call: 422 if b'"index":3' in (call.body or b"") else 200
    async with works.running():
        await works.pass_time(1)
        assert "no record of gemini" in (await works.outbox.pass_over("gemini", 1, "root") or "")
        assert "refuses record 2, not 3" in (await works.outbox.pass_over("apollo", 3, "root") or "")
        works.leads = False
        assert "leadership was lost" in (await works.outbox.pass_over("apollo", 2, "root") or "")
        works.leads = True
        assert await works.outbox.pass_over("apollo", 2, "root") is None
        await works.pass_time(3)
    assert works.outside.of("apollo") == [1, 3, 4]
    (left_out,) = Store(works.kv).passed_over("bubble")
    assert (left_out.project, left_out.seq, left_out.by) == ("apollo", 2, "root")
    assert "422" in left_out.reason
    assert next(works.store.decisions("apollo", 2, 1)), "and the cluster still has it"


async def test_a_project_without_a_license_holds_up_no_other_and_goes_on_when_it_has_one() -> None:
    works = Works()
    works.create("apollo", "gemini")
    lapsed = {"apollo"}

    def gate(call: Call) -> int:
        if call.project in lapsed:
            raise Blocked(f"bubble: the license of {call.project} is in phase EXPIRED")
        return 200

    works.outside.answer = gate
    async with works.running():
        await works.pass_time(30)
        assert (works.outside.of("apollo"), works.outside.of("gemini")) == ([], [1])
        seen = works.outbox.gauges(works.clock.wall_us())
        assert (seen["blocked"], seen["backlog"], seen["oldest_s"]) == (1, 1, 0.0), "what may not leave is not late"
        assert works.outbox.trouble is None, "a license is no trouble of the sink's"
        lapsed.clear()
        await works.pass_time(6)
        assert works.outside.of("apollo") == [1]


async def test_what_is_blocked_for_another_reason_than_the_license_is_the_sinks_trouble() -> None:
    works = Works()
    works.solo.project = "apollo"
    steer.drive(works.solo, lambda regions: regions.boot.licensed)
    works.clock.set_wall(works.solo.now_ms * 1000)

    def breaker(call: Call) -> int:
        raise Blocked("bubble: it failed 5 times in a row")

    works.outside.answer = breaker
    async with works.running():
        await works.pass_time(5)
        assert "5 times" in (works.outbox.trouble or "")
        assert works.outbox.document(0)["held"] == []


async def test_a_sink_that_has_a_record_already_says_so_and_has_it() -> None:
    works = Works()
    works.create("apollo")
    works.outside.answer = lambda call: 409
    async with works.running():
        await works.pass_time(1 + NOTE_SECONDS)
    assert works.store.delivered("bubble", "apollo") == 1


async def test_only_so_many_are_in_flight_and_only_so_many_unnoted() -> None:
    works = Works()
    names = [f"p{number:03}" for number in range(40)]
    works.create(*names)
    for name in names:
        works.toggle(name, 12)
    async with works.running():
        await works.pass_time(1)
    marked = [note for note in works.notes if isinstance(note, DeliveredItem)]
    assert len(marked) >= 2, "more than one note, long before the time for one has come"
    assert len(works.outside.taken) == 40 * 13
    done = dict.fromkeys(names, 0)
    for note in marked:
        step = sum(seq - done[project] for project, seq in note.upto)
        assert step <= UNNOTED_MAX + ROUND_RECORDS
        done |= dict(note.upto)


async def test_a_quiet_cluster_writes_few_notes() -> None:
    works = Works()
    works.create("apollo")
    async with works.running():
        for _ in range(20):
            works.toggle("apollo", 2)
            await works.pass_time(0.5)
        await works.pass_time(NOTE_SECONDS)
        quiet = len(works.notes)
        await works.pass_time(60)
    assert quiet <= 20 * 0.5 / NOTE_SECONDS + 2
    assert len(works.notes) == quiet, "nothing new, nothing to note"


async def test_the_next_leader_goes_on_from_the_note_and_repeats_only_what_came_after() -> None:
    works = Works()
    works.create("apollo")
    async with works.running():
        await works.pass_time(NOTE_SECONDS + 1)
        works.toggle("apollo", 2)
        await turns(40)
    assert works.outside.of("apollo") == [1, 2, 3]
    assert works.store.delivered("bubble", "apollo") == 1
    works.outside.taken.clear()
    async with works.running():
        await works.pass_time(NOTE_SECONDS + 1)
    assert works.outside.of("apollo") == [2, 3]
    async with works.running():
        await works.pass_time(NOTE_SECONDS + 1)
    assert works.outside.of("apollo") == [2, 3], "all of it is noted now"


async def test_a_leader_waits_for_its_own_first_entry_before_it_believes_its_store() -> None:
    works = Works()
    works.create("apollo")
    works.leading.term = TERM + 1
    async with works.running():
        await works.pass_time(2)
        assert works.outside.calls == 0
        works.solo.machine.position = msgspec.structs.replace(works.solo.machine.position, term=TERM + 1)
        await works.pass_time(1)
        assert works.outside.of("apollo") == [1]


async def test_a_file_gets_a_line_for_each_record_and_whole_lines_only() -> None:
    works = Works(url="", path=Path("decisions.jsonl"))
    works.create("apollo")
    works.toggle("apollo", 3)
    async with works.running():
        await works.pass_time(1)
        works.lines.cut_off(len(works.lines.content) - 7)
    async with works.running():
        await works.pass_time(1)
    found = [msgspec.json.decode(line) for line in works.lines.content.splitlines()]
    assert list(dict.fromkeys(each["delivery"]["seq"] for each in found)) == [1, 2, 3, 4]


async def test_the_recipe_in_the_reference_tells_a_true_record_from_a_changed_one() -> None:
    works = Works(url="", path=Path("decisions.jsonl"))
    works.create("apollo")
    works.toggle("apollo", 3)
    async with works.running():
        await works.pass_time(1)
    page = (Path(__file__).parents[2] / "docs/reference/decision-records.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)

    def checked(lines: bytes) -> bytes:
        return subprocess.run([sys.executable, "-c", recipe], input=lines, capture_output=True, check=True).stdout

    assert checked(works.lines.content) == b""
    assert b"apollo 2: sha256-" in checked(works.lines.content.replace(b"CONTROL_PAUSED", b"CONTROL_ABUSED", 1))


# --- a group ----------------------------------------------------------------------------------------------------------


class Far(Outside):
    """The sink of a group: a request and its answer take a while, and either may be lost with the node."""

    def __init__(self) -> None:
        super().__init__()
        self.senders: list[str] = []
        self.at: tuple[str, int, Callable[[NodeHost], None]] | None = None

    def seen_by(self, host: NodeHost) -> FromNode:
        return FromNode(self, host)

    def strike(self, place: str, host: NodeHost) -> None:
        if self.at is not None and self.at[0] == place:
            _, left, action = self.at
            self.at = (place, left - 1, action) if left > 1 else None
            if left <= 1:
                action(host)


class FromNode(Outside):
    """The way there from one node."""

    def __init__(self, far: Far, host: NodeHost) -> None:
        super().__init__()
        self._far, self._host = far, host

    async def request(self, call: Call) -> Reply:
        await self._host.clock.sleep(0.002)
        self._far.strike("request", self._host)
        if not self._host.alive:
            await asyncio.Future()
        reply = await self._far.request(call)
        self._far.senders.append(self._host.name)
        self._far.strike("stored", self._host)
        await self._host.clock.sleep(0.002)
        self._far.strike("answered", self._host)
        return reply


def group(far: Far, seed: int, **how: Any) -> Group:
    def outboxes(host: NodeHost, keeper: Gatekeeper, store: Store) -> Iterable[Outbox]:
        config = SimpleConfig(bubble=SinkConfig(url=URL))
        return outside.outboxes(config, far.seen_by(host), store, redact=nothing_redacted)  # type: ignore[arg-type]

    return Group(seed, providers=outboxes, **how)


def work(made: Group, host: NodeHost, times: int, project: str = DEFAULT_PROJECT) -> None:
    for _ in range(times):
        made.propose(host.name, made.load(host.name, project))


def ask(made: Group, host: NodeHost, projects: int) -> None:
    """Ask for new projects, and hear no answer."""
    for number in range(projects):
        made.ask(host.name, made.create(f"p{number}")).add_done_callback(lambda asked: asked.cancelled())
    made.run(0.001)


def complete(made: Group, far: Far) -> None:
    """Every accepted transition has its Decision Record in the sink: once by id, in order, and the nodes know it."""

    def done() -> bool:
        return all(
            host.node.store.delivered("bubble", project) == head.seq
            for host in made.live()
            for project in host.node.machine.project_ids()
            if (head := host.node.store.head(project)) is not None
        )

    made.run_until(done, 60.0)
    held = made.live()[0].node.store
    for project in made.live()[0].node.machine.project_ids():
        expected = [msgspec.json.decode(data)["dr_id"] for data in held.decisions(project, 1, 10_000)]
        found = [each["dr_id"] for each in far.documents() if each["project"] == project]
        assert list(dict.fromkeys(found)) == expected


def killing(host: NodeHost) -> None:
    host.run(host.kill)


@pytest.mark.parametrize("nth", [1, 4])
@pytest.mark.parametrize("place", ["request", "stored", "answered"])
def test_a_leader_killed_on_the_way_to_the_sink_or_back_loses_and_reorders_nothing(place: str, nth: int) -> None:
    far = Far()
    with group(far, seed=nth) as made:
        leader = made.leading()
        far.at = (place, nth, killing)
        ask(made, leader, 5)
        made.run_until(lambda: not leader.alive)
        work(made, made.leading(), 3)
        leader.start()
        complete(made, far)
        assert len(set(far.senders)) == 2, "another node went on"


@pytest.mark.parametrize("steps", range(1, 15))
def test_a_leader_killed_at_any_write_or_message_after_a_delivery_loses_and_reorders_nothing(steps: int) -> None:
    """So the note is not yet written, written and not sent, sent and not committed, committed and not applied."""
    far = Far()
    with group(far, seed=steps) as made:
        leader = made.leading()
        work(made, leader, 2)
        made.run_until(lambda: far.calls > 0)

        def soon(host: NodeHost) -> None:
            host.kill_in = steps

        far.at = ("answered", 1, soon)
        ask(made, leader, 1)
        made.run_until(lambda: not leader.alive)
        work(made, made.leading(), 3)
        leader.start()
        complete(made, far)


def test_a_leader_killed_between_the_answer_and_what_it_learns_from_it() -> None:
    far = Far()
    with group(far, seed=1) as made:
        leader = made.leading()

        def die() -> None:
            leader.kill()
            raise Killed

        faults.arm("outbox.taken", 1, die)
        ask(made, leader, 1)
        made.run_until(lambda: not leader.alive)
        leader.start()
        work(made, made.leading(), 2)
        complete(made, far)
        assert len(far.taken) > len({call.headers["Idempotency-Key"] for call in far.taken}), "it was sent again"


def test_a_sink_that_comes_and_goes_while_leaders_do() -> None:
    far = Far()
    with group(far, seed=5) as made:
        for turn in range(4):
            leader = made.leading()

            def away(call: Call) -> int:
                raise Unreachable("gone")

            far.answer = away if turn % 2 else lambda call: 200
            work(made, leader, 3)
            made.run(1.0)
            leader.run(leader.kill)
            made.leading()
            leader.start()
        far.answer = lambda call: 200
        complete(made, far)


def test_only_the_leader_delivers() -> None:
    far = Far()
    with group(far, seed=6) as made:
        leader = made.leading()
        work(made, leader, 5)
        complete(made, far)
        assert set(far.senders) == {leader.name}
