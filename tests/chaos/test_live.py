"""What a chaos run is made of, without its nodes: plans, grudges, proxies, the history on disk, verdicts, the page."""

from __future__ import annotations

import asyncio
import json
import random
import tomllib
import xml.dom.minidom
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import chain
from pathlib import Path

import pytest
from msgspec.structs import replace

from chaos.history import Attempt, Findings, Kind, Read, Verdict, Violation
from chaos.live import nemesis, plan, report, result
from chaos.live.cluster import LiveCluster
from chaos.live.disk import flip, keep, put_back, wipe
from chaos.live.nemesis import Fault
from chaos.live.network import Proxies, Unfit
from chaos.live.plan import BadPlan, Do, File, Minimum, To
from chaos.live.result import Result, Sample
from chaos.live.traffic import told
from chaos.recording import Journal, recorded
from swoosh.client import Accepted, Refused, Unknown
from swoosh.outcome import Code

NODES = ("node-1", "node-2", "node-3")
QUIET_SECONDS = 0.2


# --- plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", plan.names())
def test_every_plan_reads(name: str) -> None:
    found = plan.load(name)
    assert found.name == name
    assert found.why.endswith(".")


def test_every_kind_of_fault_has_a_plan() -> None:
    steps = list(chain.from_iterable(plan.load(name).steps for name in plan.names()))
    assert {step.do for step in steps} == set(Do)
    assert {step.file for step in steps if step.do is Do.FLIP} == set(File)


WRONG = {
    "what is not known": ("why: x.\nsteps: [{do: kill, two: leader}]", "two"),
    "no such fault": ("why: x.\nsteps: [{do: explode}]", "explode"),
    "no steps": ("why: x.\nsteps: []", "without steps"),
    "no such exit code": ("why: x.\nsteps: [{do: wipe, ends_with: [SAD]}]", "SAD"),
    "a clock that does not jump": ("why: x.\nsteps: [{do: clock}]", "offset_ms"),
    "more damage than is promised to be survived": ("why: x.\nsteps: [{do: wipe, to: majority}]", "rightly so"),
    "time that runs back": ("why: x.\nsteps: [{do: kill, for: -1}]", "negative"),
    "not YAML": ("why: [", "expected"),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_a_plan_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(BadPlan, match=said):
        plan.load("wrong", tmp_path)


def test_a_plan_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(BadPlan, match="kill-leader"):
        plan.load("kill-laeder")


def test_a_step_is_written_as_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("why: x.\nsteps: [{do: pause, to: in turn, for: 2.5}]")
    [step] = plan.load("one", tmp_path).steps
    assert (step.do, step.to, step.hold) == (Do.PAUSE, To.IN_TURN, 2.5)


# --- grudges ----------------------------------------------------------------------------------------------------------

FIVE = [f"node-{number}" for number in range(1, 6)]


def grudge(do: Do, nodes: list[str]) -> set[tuple[str, str]]:
    return set(nemesis.grudge(do, nodes[:1], nodes, random.Random(1)))


def test_who_is_not_heard_by_whom() -> None:
    three = FIVE[:3]
    out = {("node-1", "node-2"), ("node-1", "node-3")}
    back = {(b, a) for a, b in out}
    assert grudge(Do.MUTE, three) == out
    assert grudge(Do.DEAFEN, three) == back
    assert grudge(Do.ISOLATE, three) == out | back == grudge(Do.HALVE, three)
    assert grudge(Do.BRIDGE, three) == {("node-2", "node-3"), ("node-3", "node-2")}


def test_five_nodes_are_halved_with_the_target_among_the_fewer() -> None:
    cut = grudge(Do.HALVE, FIVE)
    fewer = {"node-1"} | {node for node in FIVE if ("node-1", node) not in cut}
    assert len(fewer) == 2
    assert cut == {(a, b) for a in FIVE for b in FIVE if (a in fewer) != (b in fewer)}


def test_the_node_in_the_middle_of_a_bridge_hears_everybody() -> None:
    cut = grudge(Do.BRIDGE, FIVE)
    assert len(cut) == 2 * 2 * 2
    assert not any("node-1" in link for link in cut)


# --- proxies ----------------------------------------------------------------------------------------------------------

Dial = Callable[[str, str], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest.fixture
async def proxied(tmp_path: Path) -> AsyncIterator[tuple[Proxies, Dial]]:
    """Three nodes that answer each line with their name, and how each would reach another."""
    servers, hung = [], list[asyncio.StreamWriter]()
    document = {"cluster_id": "swoosh-x", "nodes": list[dict[str, str]]()}
    addresses = {}
    for node in NODES:

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str = node) -> None:
            hung.append(writer)
            while line := await reader.readline():
                writer.write(name.encode() + b" heard " + line)

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        servers.append(server)
        addresses[node] = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for node in NODES:
        about = {"id": node, "http": "http://127.0.0.1:1", "peer": addresses[node], "config": f"{node}/swoosh.toml"}
        document["nodes"].append(about)  # type: ignore[attr-defined]
        (tmp_path / node).mkdir()
        members = "".join(f'{name} = "{address}"\n' for name, address in addresses.items())
        (tmp_path / node / "swoosh.toml").write_text(f"[members]\n{members}")
    (tmp_path / "cluster.json").write_text(json.dumps(document))
    proxies = Proxies()
    proxies.attach(LiveCluster(tmp_path))
    await proxies.open()

    async def dial(source: str, target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        told = tomllib.loads((tmp_path / source / "swoosh.toml").read_text())["members"]
        assert told[source] == addresses[source], "where a node listens itself is no proxy"
        assert told[target] != addresses[target]
        reader, writer = await asyncio.open_connection("127.0.0.1", int(told[target].rpartition(":")[2]))
        hung.append(writer)
        return reader, writer

    yield proxies, dial
    await proxies.close()
    for writer in hung:
        writer.close()
    for server in servers:
        server.close()


async def test_a_proxy_carries_and_a_cut_holds_what_is_sent_until_it_is_mended(
    proxied: tuple[Proxies, Dial],
) -> None:
    proxies, dial = proxied
    reader, writer = await dial("node-1", "node-2")
    writer.write(b"one\n")
    assert await reader.readline() == b"node-2 heard one\n"
    proxies.cut("node-1", "node-2")
    writer.write(b"two\n")
    late = asyncio.create_task(reader.readline())
    await asyncio.wait([late], timeout=QUIET_SECONDS)
    assert not late.done()
    proxies.mend("node-1", "node-2")
    assert await late == b"node-2 heard two\n"


async def test_a_cut_is_of_one_direction_whoever_dialled(proxied: tuple[Proxies, Dial]) -> None:
    """Node 2 hears node 1 and cannot answer it, on the connection of either; node 3 is not concerned."""
    proxies, dial = proxied
    proxies.cut("node-2", "node-1")
    outward, inward = await dial("node-1", "node-2"), await dial("node-2", "node-1")
    for _, writer in (outward, inward):
        writer.write(b"hello\n")
    waiting = [asyncio.create_task(reader.readline()) for reader, _ in (outward, inward)]
    third, writer = await dial("node-3", "node-1")
    writer.write(b"hello\n")
    assert await third.readline() == b"node-1 heard hello\n"
    await asyncio.wait(waiting, timeout=QUIET_SECONDS)
    assert not any(task.done() for task in waiting)
    proxies.mend("node-2", "node-1")
    assert await asyncio.gather(*waiting) == [b"node-2 heard hello\n", b"node-1 heard hello\n"]


async def test_a_slow_node_is_slow_to_send(proxied: tuple[Proxies, Dial]) -> None:
    proxies, dial = proxied
    proxies.slow("node-1", 1_000_000, 100)
    reader, writer = await dial("node-1", "node-2")
    loop = asyncio.get_running_loop()
    start = loop.time()
    writer.write(b"hello\n")
    await reader.readline()
    assert loop.time() - start >= 0.1


# --- disks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    found = tmp_path / "node-1"
    (found / "store").mkdir(parents=True)
    (found / "store" / "000004.log").write_bytes(bytes(range(100)) + bytes(1000))
    (found / "witness").write_bytes(b"w" * 1024)
    return found


def test_one_bit_of_what_was_written_flips(home: Path) -> None:
    before = (home / "store" / "000004.log").read_bytes()
    said = flip(home, File.WAL, random.Random(1))
    after = (home / "store" / "000004.log").read_bytes()
    changes = [a ^ b for a, b in zip(before, after, strict=True)]
    [changed] = [change for change in changes if change]
    assert changed.bit_count() == 1
    assert changes.index(changed) < 100, "not in the zeros behind the end"
    assert "000004.log" in said
    with pytest.raises(Unfit, match="no sst file"):
        flip(home, File.SST, random.Random(1))


def test_an_old_copy_comes_back_whole(home: Path, tmp_path: Path) -> None:
    keep(home, tmp_path / "copy")
    (home / "store" / "000004.log").write_bytes(b"newer")
    (home / "store" / "000005.log").write_bytes(b"newer still")
    put_back(home, tmp_path / "copy")
    assert [path.name for path in (home / "store").iterdir()] == ["000004.log"]
    assert (home / "store" / "000004.log").stat().st_size == 1100
    wipe(home)
    assert list(home.iterdir()) == []


# --- the history on disk ----------------------------------------------------------------------------------------------

SENT = Attempt("p", "k", "CONTROL_PAUSED", "h", "node-1", 1.0, 0.0, Verdict.UNKNOWN, session="s")


def test_what_was_sent_is_on_disk_before_it_is_answered(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "history.jsonl")
    first = journal.begin(SENT)
    journal.begin(replace(SENT, key="never answered"))
    assert recorded(tmp_path / "history.jsonl") == journal.events == [SENT, replace(SENT, key="never answered")]
    journal.complete(first, replace(SENT, end=2.0, verdict=Verdict.ACCEPTED))
    journal.add(Read("p", "node-1", 1.0, 2.0, "sha256-x"))
    journal.close()
    found = recorded(tmp_path / "history.jsonl")
    assert found == journal.events
    assert [type(event) for event in found] == [Attempt, Attempt, Read]


def test_what_the_sdk_says_is_what_is_kept() -> None:
    accepted = Accepted("p", "CONTROL_PAUSED", 7, "hlc", "pre", "post", "dr", seq=3)
    line = told(SENT, accepted, 2.0)
    assert (line.verdict, line.seq, line.state_pre_hash, line.state_post_hash) == (Verdict.ACCEPTED, 3, "pre", "post")
    assert (line.start, line.end, line.session) == (1.0, 2.0, "s")
    refused = told(SENT, Refused(Code.STALE_STATE, state_hash="head"), 2.0)
    assert (refused.verdict, refused.code, refused.head) == (Verdict.REFUSED, Code.STALE_STATE, "head")
    assert told(SENT, Refused(Code.NO_LEADER), 2.0).verdict is Verdict.NOT_ADMITTED
    assert told(SENT, Unknown("k", "no answer"), 2.0).verdict is Verdict.UNKNOWN


# --- verdicts ---------------------------------------------------------------------------------------------------------


def acknowledged(start: float, end: float, node: str = "node-1") -> Attempt:
    return Attempt("p", f"k{start}", "T", "h", node, start, end, Verdict.ACCEPTED)


def test_what_was_on_its_way_when_a_fault_came_is_no_recovery() -> None:
    attempts = [acknowledged(9.0, 10.5), acknowledged(10.2, 12.0), acknowledged(10.4, 11.5)]
    assert result.next_acknowledged(attempts, 10.0) == 1.5
    assert result.next_acknowledged(attempts, 11.0) is None


KILLED = Fault(Do.KILL, ["node-1"], 10.0, 12.0)
PLENTY = [acknowledged(at / 10, at / 10 + 0.05, NODES[at % 3]) for at in range(200)]
ENOUGH = Minimum(per_second=5, acknowledged=100, unknown=0, reads=0)


def test_a_run_with_too_little_in_it_is_invalid() -> None:
    assert result.shortfalls(PLENTY, [KILLED], ENOUGH, 0.0) == []
    reasons = {
        "before the first fault": result.shortfalls(PLENTY, [KILLED], replace(ENOUGH, per_second=20), 0.0),
        "acknowledged": result.shortfalls(PLENTY, [KILLED], replace(ENOUGH, acknowledged=500), 0.0),
        "unknown": result.shortfalls(PLENTY, [KILLED], replace(ENOUGH, unknown=1), 0.0),
        "reads": result.shortfalls(PLENTY, [KILLED], replace(ENOUGH, reads=1), 0.0),
        "nodes": result.shortfalls([replace(each, node="node-1") for each in PLENTY], [KILLED], ENOUGH, 0.0),
        "no fault": result.shortfalls(PLENTY, [], ENOUGH, 0.0),
        "no effect": result.shortfalls(PLENTY, [replace(KILLED, effective=False)], ENOUGH, 0.0),
    }
    for said, [reason] in reasons.items():
        assert said in reason


def test_a_promise_is_broken_by_records_by_nodes_and_by_time() -> None:
    fine = Findings([], Counter())
    assert result.violations(fine, [KILLED], 1.0, 10.0) == []
    lost = Findings([Violation(Kind.LOST, "p", "k at seq 1")], Counter())
    [said] = result.violations(lost, [KILLED], 1.0, 10.0)
    assert said == "p: acknowledged and lost: k at seq 1"
    [said] = result.violations(fine, [replace(KILLED, wrong="node-1 went on serving")], 1.0, 10.0)
    assert "went on" in said
    assert "took 11.0 s" in result.violations(fine, [KILLED], 11.0, 10.0)[0]
    assert "nothing" in result.violations(fine, [KILLED], None, 10.0)[0]


def test_percentiles_are_values_that_occurred() -> None:
    assert result.percentiles([]) == {}
    assert result.percentiles([3.0]) == {50: 3.0, 90: 3.0, 99: 3.0, 100: 3.0}
    assert result.percentiles([float(number) for number in range(1, 101)]) == {50: 50.0, 90: 90.0, 99: 99.0, 100: 100.0}


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run() -> Result:
    leads = [Sample(at / 2, dict(zip(NODES, roles, strict=True)), 3) for at, roles in enumerate(
        [("leader", "follower", "follower")] * 20 + [("silent", "follower", "leader")] * 20
    )]  # fmt: skip
    return Result(
        plan="kill-leader",
        why="Nothing <is> lost.",
        seed=7,
        date="2026-11-21 14:00 UTC",
        machine="2 cores",
        network="proxies",
        command="make chaos PLAN=kill-leader SEED=7",
        started=0.0,
        mended=12.0,
        ended=20.0,
        nodes=list(NODES),
        faults=[replace(KILLED, exits={"node-1": "DISK"})],
        samples=leads,
        skipped=["fill: nodes have no file system of their own"],
        wrong=[],
        thin=[],
        counts={"records": 200},
        told={"accepted": 200},
        recovery=0.4,
        gaps=[1.5],
        latencies=[0.05] * 200,
        acknowledged_at=[attempt.end for attempt in PLENTY],
    )


def test_the_page_tells_the_run_and_needs_nothing_else(run: Result) -> None:
    page = report.page(run)
    for said in (
        "held",
        "Nothing &lt;is&gt; lost.",
        "make chaos PLAN=kill-leader SEED=7",
        "skipped: fill",
        "DISK",
        "0.40 s",
    ):
        assert said in page
    assert "src=" not in page and "href=" not in page and "<script" not in page


def test_the_picture_has_a_lane_for_each_node_a_bar_for_each_fault_and_a_mark_for_each_leader(run: Result) -> None:
    drawn = report.timeline(run)
    picture = xml.dom.minidom.parseString(drawn[: drawn.index("</svg>") + len("</svg>")])
    titles = [title.firstChild.data for title in picture.getElementsByTagName("title")]  # type: ignore[union-attr]
    assert sorted(titles) == ["follower", "follower", "kill  DISK", "leader", "leader", "silent"]
    texts = [text.firstChild.data for text in picture.getElementsByTagName("text")]  # type: ignore[union-attr]
    assert [node for node in NODES if node in texts] == list(NODES)
    assert texts.count("▼") == 1
    assert len(picture.getElementsByTagName("polyline")) == 1


def test_a_run_that_went_wrong_says_so_first_and_in_its_exit_code(run: Result) -> None:
    thin, wrong = ["reads: 0, at least 20 are needed"], ["p: acknowledged and lost: k"]
    runs = [run, replace(run, thin=thin), replace(run, thin=thin, wrong=wrong)]
    assert [int(each.ending) for each in runs] == [0, 3, 1]
    assert "proves nothing" in report.page(runs[1])
    assert wrong[0] in report.page(runs[2])


def test_an_empty_run_can_be_drawn(run: Result) -> None:
    run.faults, run.samples, run.gaps, run.latencies, run.acknowledged_at, run.recovery = [], [], [], [], [], None
    assert "never" in report.page(run)


def test_a_run_is_one_line_of_json(run: Result) -> None:
    line = json.loads(json.dumps(run.summary()))
    assert (line["ending"], line["ops_per_s"], line["gap_s"]["p50"]) == ("held", 10.0, 1.5)
    assert line["latency_ms"]["p99"] == 50.0
