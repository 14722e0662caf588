"""The scrubber finds what changed behind the store's back: any bit of any family, and what a forger signs with the
right checksum. It does so in small steps, once in every period."""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.clock import ManualClock
from cluster.faults import ExitCode
from cluster.scrub import SLICE_STEPS, Scrubber
from cluster.storage import layout
from cluster.storage.kv import Batch, Family, KeyValue, MemoryKeyValue, Put, RocksKeyValue
from cluster.storage.store import Checkpoint, Divergence, Store
from swoosh import canonical, state
from swoosh.entry import CheckpointItem, DeliveredItem
from swoosh.errors import Corrupt
from swoosh.machine import Applied
from swoosh.merkle import MerkleMap
from swoosh.outcome import Code, Refused
from tests.cluster.group import Group
from tests.storage.history import history, overwrite, recorded

FIXED = random.Random(20)
PERIOD = 60.0
SHORT = 10.0


@pytest.fixture(params=["rocksdb", "twin"])
def kv(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyValue]:
    opened: KeyValue = RocksKeyValue.create(tmp_path / "store") if request.param == "rocksdb" else MemoryKeyValue()
    yield opened
    opened.close()


def filled(kv: KeyValue) -> Store:
    """A store with rows in every family."""
    store = recorded(kv)
    store.reject(Refused(Code.STALE_STATE, ("long ago",)), 1)
    store.keep_snapshot(5, b"{}", oldest=1)
    position = store.position()
    settled = CheckpointItem(position.index, "sha256-" + "0" * 64, ("n1", "n2"))
    undecided = CheckpointItem(position.index + 1, "", ("n1",))
    delivered = DeliveredItem("bubble", (("apollo", 3),))
    for offset, note in enumerate((settled, undecided), 1):
        there = type(position)(position.index + offset, position.term, position.stamp_us)
        store.commit(Applied(there, notes=(note, delivered)))
    assert all(next(kv.iterate(family), None) is not None for family in Family)
    return store


def scrubber(store: Store, clock: ManualClock | None = None) -> Scrubber:
    told = history()
    return Scrubber(told.machine(store), store, told.chart, told.genesis, clock or ManualClock(), PERIOD)


def whole_pass(store: Store) -> int:
    return sum(1 for _ in scrubber(store).everything())


def test_what_is_intact_is_read_to_the_end(kv: KeyValue) -> None:
    store = filled(kv)
    rows = sum(1 for family in Family for _ in kv.iterate(family))
    assert whole_pass(store) > rows, "every row, and every record once more in its chain"


@pytest.mark.parametrize("family", list(Family))
def test_a_flipped_bit_is_found_in_every_family(kv: KeyValue, family: Family) -> None:
    store = filled(kv)
    rows = list(kv.iterate(family))
    for key, value in rows if isinstance(kv, MemoryKeyValue) else FIXED.sample(rows, min(3, len(rows))):
        reader = scrubber(store)  # built while all is well, as on a running node
        bit = FIXED.randrange(8 * len(value))
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8
        overwrite(kv, Put(family, key, bytes(flipped)))
        with pytest.raises(Corrupt) as caught:
            list(reader.everything())
        overwrite(kv, Put(family, key, value))
        print(family, key, bit, caught.value)
    whole_pass(store)


def forged(key: bytes, value: bytes) -> bytes:
    return zlib.crc32(value, zlib.crc32(key)).to_bytes(4) + value


@pytest.mark.parametrize(
    "family", [Family.HEAD, Family.PROJECT, Family.LEDGER, Family.WAL, Family.DECISION, Family.SUBMISSION]
)
def test_a_row_rewritten_with_the_right_checksum_is_found_by_its_hash(family: Family) -> None:
    kv = MemoryKeyValue()
    store = filled(kv)
    changed = 0
    for key, row in list(kv.iterate(family)):
        data = row[4:].decode("utf-8", errors="surrogateescape")
        at = next((place for place in range(len(data) - 1, 0, -1) if data[place] in "012345678"), None)
        if at is None or not data.startswith("{"):
            continue
        other = data[:at] + chr(ord(data[at]) + 1) + data[at + 1 :]
        reader = scrubber(store)
        overwrite(kv, Put(family, key, forged(key, other.encode("utf-8", errors="surrogateescape"))))
        with pytest.raises(Corrupt, match=r"sha256|stored|hash|decode|chain"):
            list(reader.everything())
        overwrite(kv, Put(family, key, row))
        changed += 1
    assert changed


def test_a_fact_rewritten_with_the_right_checksum_is_not_the_one_in_memory() -> None:
    kv = MemoryKeyValue()
    store = filled(kv)
    reader = scrubber(store)
    key, row = next(kv.iterate(Family.REGISTRY))
    overwrite(kv, Put(Family.REGISTRY, key, forged(key, row[4:].replace(b"probe", b"prove").replace(b"1", b"2"))))
    with pytest.raises(Corrupt, match="fact"):
        list(reader.everything())


def test_the_checkpoint_and_its_kin_survive_in_the_store() -> None:
    kv = MemoryKeyValue()
    store = filled(kv)
    end = store.position()
    settled = Checkpoint(end.index - 2, "sha256-" + "0" * 64, ("n1", "n2"), end.stamp_us)
    assert store.checkpoint == Store(kv).checkpoint == settled
    assert store.halt == Store(kv).halt == Checkpoint(end.index - 1, "", ("n1",), end.stamp_us)
    position = type(end)(end.index + 1, end.term, end.stamp_us)
    store.commit(Applied(position, notes=(CheckpointItem(end.index, "sha256-" + "1" * 64, ("n2", "n3")),)))
    assert Store(kv).halt is None and store.halt is None
    store.commit(Applied(type(end)(end.index + 2, end.term, end.stamp_us), notes=(CheckpointItem(1, "x", ()),)))
    assert Store(kv).checkpoint == store.checkpoint and store.checkpoint.at == end.index, "an older one changes nothing"
    store.mark_diverged(Divergence(3, "ours", "theirs"))
    assert Store(kv).divergence == Divergence(3, "ours", "theirs")


# --- how it goes about it ---------------------------------------------------------------------------------------------


def test_between_two_rests_only_so_many_rows_are_read() -> None:
    store = filled(MemoryKeyValue())
    clock = ManualClock()
    reader = scrubber(store, clock)
    read: list[int] = []

    async def watch() -> None:
        running = asyncio.ensure_future(reader.run())
        before = 0
        for _ in range(10_000):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if reader.steps != before:
                read.append(reader.steps - before)
                before = reader.steps
            if reader.passes:
                break
            clock.advance(0.05)
        running.cancel()

    asyncio.run(watch())
    assert reader.passes == 1 and len(read) > 10
    assert max(read) <= SLICE_STEPS
    assert clock.monotonic() < PERIOD / 2, "and a pass fits into half a period"


def test_a_project_is_put_together_in_steps_as_in_one() -> None:
    tasks = MerkleMap({f"t{number}": state.Task(f"task {number}") for number in range(500)})
    execution = state.Execution(phase="WORK", tasks=tasks)
    grown = state.new_project("large", state.ProjectRegions(execution=execution))
    rows = [(path, data) for path, data in state.rows_changed(None, grown) if data is not None]
    steps = state.project_in_steps("large", rows)
    count = 0
    while True:
        try:
            next(steps)
            count += 1
        except StopIteration as end:
            assert end.value == state.project_from_rows("large", rows) == grown
            break
    assert count == len(rows)


def test_what_is_applied_while_it_reads_does_not_disturb_it() -> None:
    with Group(141, nodes=1, scrub_period=1.0) as group:
        leader = group.leading()
        for number in range(60):
            group.propose(leader.name, group.create(f"p{number}"))
            group.propose(leader.name, group.load(leader.name, f"p{number // 2}"))
            group.run(0.01)
        group.run_until(lambda: leader.node.scrubber.passes > 3)
        assert leader.alive


@pytest.mark.parametrize("family", [Family.WAL, Family.LOG])
def test_a_damaged_row_stops_a_running_node_within_a_period(family: Family) -> None:
    with Group(142, scrub_period=SHORT) as group:
        leader = group.leading()
        for number in range(5):
            group.propose(leader.name, group.create(f"p{number}"))
        group.run(SHORT)
        victim = next(host for host in group.live() if host is not leader)
        assert victim.node.scrubber.passes >= 1
        key, value = next(victim.store.iterate(family))
        overwrite(victim.store, Put(family, key, value[:-1] + bytes([value[-1] ^ 1])))
        damaged_at = group.now
        group.run_until(lambda: not victim.alive, SHORT)
        assert victim.stopped is not None and victim.stopped.code is ExitCode.DAMAGED
        assert "checksum" in victim.stopped.reason
        print(f"found after {group.now - damaged_at:.1f} of {SHORT} s")
        assert len(group.live()) == 2 and group.propose(leader.name, group.create("atlas"))


def test_health_shows_how_far_it_is() -> None:
    with Group(143, nodes=1, scrub_period=10.0) as group:
        leader = group.leading()
        assert leader.node.scrubber.document()["age_s"] is None
        group.run_until(lambda: leader.node.scrubber.passes == 2)
        document = leader.node.scrubber.document()
        assert document["passes"] == 2 and document["steps_last_pass"] > 0 and 0 <= document["age_s"] <= 10.0


def test_layout_keeps_the_raft_row_apart() -> None:
    batch = Batch()
    batch.put(Family.META, layout.RAFT, canonical.encode({}))
    kv = MemoryKeyValue()
    store = filled(kv)
    kv.write(batch, sync=True)
    with pytest.raises(Corrupt, match="'raft'"):
        whole_pass(store)
