"""The place a checkpoint comes to, on a real disk: whenever the process is killed, the next start goes on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cluster.clock import ManualClock
from cluster.http.snapshots import PeerDonors
from cluster.raft.install import Installer
from cluster.raft.journal import Journal
from cluster.storage.donor import LOAN_SECONDS, Donor
from cluster.storage.incoming import DirectoryPlace, File, Offer, current_store
from cluster.storage.kv import RocksKeyValue
from cluster.storage.snapshots import DirectoryShelf, Snapshots
from cluster.storage.store import Store
from cluster.storage.witness import FileWitness, Mark
from cluster.verify import examine_in_background
from swoosh.errors import Corrupt
from swoosh.snapshot import Manifest
from tests.storage.history import create, dump, history

AT = 40
OWN = 20
ROOT = Path(__file__).resolve().parents[2]

INSTALL = """
import asyncio, pathlib, sys
from cluster import config
from cluster.raft.install import finish
from cluster.storage.incoming import DirectoryPlace, Offer
from cluster.storage.witness import FileWitness
import msgspec

home, donor = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])

async def unchecked(path, manifest):
    return None

async def receive(place):
    offer = msgspec.json.decode((donor / "offer").read_bytes(), type=Offer)
    if place.offered() != offer:
        await place.begin(offer)
    for file in offer.files:
        with (donor / "snapshots" / str(offer.manifest.last_applied_index) / file.name).open("rb") as source:
            source.seek(place.size(file.name))
            await place.append(file.name, source.read())
    assert await place.examine(offer) is None
    await place.seal(offer)

config.arm_failpoints()
place = DirectoryPlace(home, unchecked)
witness = FileWitness.open(home / "witness")
if place.ready() is None and not (home / "CURRENT_STORE").exists():
    asyncio.run(receive(place))
finish(place, witness, cluster_id="c", node="n0")
"""


def fill(kv: RocksKeyValue, upto: int, witness: FileWitness, node: str) -> Store:
    """A node's store that has logged and applied the history up to an entry."""
    Journal.create(kv, witness, cluster_id="c", node=node, incarnation=node.encode().rjust(16))
    journal, store, told = Journal.open(kv, witness, cluster_id="c", node=node), create(kv), history()
    machine = told.machine(store)
    for index, term, data in told.entries[:upto]:
        journal.add(b"\1" if data is None else b"\0" + data, index, term)
        journal.setRaftCommitIndex(index)
        store.commit(machine.apply(index, term, data))
    journal.barrier()
    return store


async def donate(home: Path) -> Offer:
    """A donor's snapshot, and its offer beside it."""
    home.mkdir()
    kv, witness = RocksKeyValue.create(home / "store"), FileWitness.create(home / "witness")
    store, shelf, clock = fill(kv, AT, witness, "n1"), DirectoryShelf(home / "snapshots"), ManualClock()
    manifest = await Snapshots(store, shelf, history().chart, clock).take(history().machine(store))
    offer = await Donor("n1", shelf, clock).offer("n0", manifest.last_applied_index)
    assert offer is not None
    (home / "offer").write_bytes(msgspec.json.encode(offer))
    kv.close()
    return offer


class Home:
    """A node's data directory, at entry OWN with a log up to it, and a donor at entry AT."""

    def __init__(self, root: Path, donor: Path) -> None:
        self.path, self.donor = root / "n0", donor
        self.path.mkdir()
        kv = RocksKeyValue.create(self.path / "store")
        witness = FileWitness.create(self.path / "witness")
        fill(kv, OWN, witness, "n0")
        kv.close()
        witness.close()

    def run(self, failpoint: str = "") -> int:
        command = [sys.executable, "-c", INSTALL, str(self.path), str(self.donor)]
        environment = {"PYTHONPATH": str(ROOT)} | ({"SWOOSH_FAILPOINT": f"{failpoint}:1"} if failpoint else {})
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode in (0, -9), done.stderr
        return done.returncode

    def names(self) -> set[str]:
        return {path.name for path in self.path.iterdir()}


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("donor") / "n1"
    asyncio.run(donate(path))
    return path


@pytest.fixture
def home(tmp_path: Path, donor: Path) -> Home:
    return Home(tmp_path, donor)


@pytest.fixture
def installed(home: Home) -> Iterator[Home]:
    yield home
    kv, witness = RocksKeyValue.open(current_store(home.path)), FileWitness.open(home.path / "witness")
    journal = Journal.open(kv, witness, cluster_id="c", node="n0")
    assert (journal.first_index, journal.last_index) == (AT - 1, AT)
    assert journal.incarnation == b"n0".rjust(16)
    store = Store(kv)
    assert store.position().index == AT
    machine = history().machine(store)
    assert machine.cluster_hash == history().hashes[AT - 1]
    for entry in history().entries[AT : AT + 10]:
        store.commit(machine.apply(*entry))
    assert machine.cluster_hash == history().hashes[AT + 9]
    kv.close()
    assert home.names() == {"store-1", "CURRENT_STORE", "witness"}


def test_a_checkpoint_becomes_the_store(installed: Home) -> None:
    assert installed.run() == 0


@pytest.mark.parametrize(
    "place",
    [
        "install.synced",
        "install.ready",
        "install.moved",
        "install.renamed",
        "install.switched",
        "install.removed",
    ],
)
def test_a_kill_at_any_point_is_made_good_by_the_next_start(installed: Home, place: str) -> None:
    assert installed.run(place) == -9
    if place in ("install.synced", "install.ready", "install.moved", "install.renamed"):
        assert (installed.path / "store").exists(), "the old store goes only when the new one counts"
    assert installed.run() == 0


def test_a_checkpoint_that_brings_nothing_new_is_dropped(home: Home) -> None:
    home.run("install.ready")
    kv, witness = RocksKeyValue.open(home.path / "store"), FileWitness.open(home.path / "witness")
    journal, store, told = Journal.open(kv, witness, cluster_id="c", node="n0"), Store(kv), history()
    machine = told.machine(store)
    for index, term, data in told.entries[OWN : AT + 5]:
        journal.add(b"\1" if data is None else b"\0" + data, index, term)
        journal.setRaftCommitIndex(index)
        store.commit(machine.apply(index, term, data))
    journal.close()
    before = dump(kv)
    kv.close()
    witness.close()
    assert home.run() == 0
    assert home.names() == {"store", "witness"}
    kv = RocksKeyValue.open(home.path / "store")
    assert dump(kv) == before
    kv.close()


async def test_the_state_that_came_is_hashed_anew_by_a_process_of_its_own(home: Home) -> None:
    offer = msgspec.json.decode((home.donor / "offer").read_bytes(), type=Offer)
    target = home.donor / "snapshots" / str(AT)
    assert await examine_in_background(target, offer.manifest) is None
    other = msgspec.structs.replace(offer.manifest, cluster_hash="sha256-" + "0" * 64)
    problem = await examine_in_background(target, other)
    assert problem is not None
    assert "cluster_hash" in problem


async def test_a_file_that_is_not_what_was_offered_is_noticed(home: Home) -> None:
    offer = msgspec.json.decode((home.donor / "offer").read_bytes(), type=Offer)

    async def fine(path: Path, manifest: object) -> None:
        return None

    place = DirectoryPlace(home.path, fine)
    await place.begin(offer)
    for file in offer.files:
        await place.append(file.name, (home.donor / "snapshots" / str(AT) / file.name).read_bytes())
    assert await place.examine(offer) is None
    bent = home.path / "incoming" / offer.files[0].name
    bent.write_bytes(bytes([bent.read_bytes()[0] ^ 1]) + bent.read_bytes()[1:])
    problem = await place.examine(offer)
    assert problem is not None
    assert offer.files[0].name in problem
    await place.discard()
    assert place.offered() is None


@pytest.mark.parametrize("names", [("../x",), ("a/b",), ("",), (".hidden",), ("offer",), ("x", "x"), ()])
def test_no_file_of_an_offer_leads_out_of_its_place(names: tuple[str, ...]) -> None:
    manifest = Manifest(1, 1, "", 0, "", "")
    with pytest.raises(Corrupt):
        Offer("n1", manifest, tuple(File(name, 1, "") for name in names)).check()


@pytest.mark.parametrize(("applied", "stays"), [(AT - 1, True), (AT, False)])
async def test_half_a_checkpoint_stays_only_as_long_as_it_could_be_of_use(
    home: Home, applied: int, stays: bool
) -> None:
    place = DirectoryPlace(home.path, examine_in_background)
    await place.begin(msgspec.json.decode((home.donor / "offer").read_bytes(), type=Offer))
    (home.path / "incoming.reading-1").mkdir()
    installer = Installer(["n1"], place, PeerDonors(None), ManualClock())  # type: ignore[arg-type]
    running = asyncio.create_task(installer.run(lambda: applied))
    for _ in range(500):
        await asyncio.sleep(0.01)
        if stays or not home.names() - {"store", "witness"}:
            break
    running.cancel()
    assert home.names() == {"store", "witness", *({"incoming", "incoming.reading-1"} if stays else ())}


# --- lending ----------------------------------------------------------------------------------------------------------


async def test_one_peer_borrows_at_a_time_and_what_is_lent_stays(tmp_path: Path) -> None:
    offer = await donate(tmp_path / "n1")
    clock, index = ManualClock(), offer.manifest.last_applied_index
    donor = Donor("n1", DirectoryShelf(tmp_path / "n1" / "snapshots"), clock)
    assert donor.newest() == offer.manifest
    assert await donor.offer("n0", index + 1) is None
    assert await donor.offer("n0", index) == offer
    assert await donor.offer("n2", index) is None, "lent already"
    assert donor.is_lent(index)
    first = offer.files[0]
    assert await donor.read("n2", index, first.name, 0, 10) is None
    assert await donor.read("n0", index, "manifest.json", 0, 10) is None
    clock.advance(LOAN_SECONDS - 1)
    whole = await donor.read("n0", index, first.name, 0, 1 << 30)
    assert whole == (tmp_path / "n1" / "snapshots" / str(index) / first.name).read_bytes()
    clock.advance(LOAN_SECONDS - 1)
    assert donor.is_lent(index), "each piece renews the loan"
    clock.advance(1)
    assert not donor.is_lent(index)
    assert await donor.read("n0", index, first.name, 0, 10) is None
    assert await donor.offer("n2", index) is not None


async def test_a_snapshot_read_to_its_end_is_free_for_the_next_borrower(tmp_path: Path) -> None:
    offer = await donate(tmp_path / "n1")
    index = offer.manifest.last_applied_index
    donor = Donor("n1", DirectoryShelf(tmp_path / "n1" / "snapshots"), ManualClock())
    assert await donor.offer("n0", index) == offer
    for file in offer.files:
        for offset in range(0, file.size, 1000):
            assert donor.is_lent(index), "there is more to read"
            assert await donor.read("n0", index, file.name, offset, 1000)
    assert not donor.is_lent(index)
    assert await donor.offer("n2", index) == offer


async def test_a_lent_snapshot_outlives_newer_ones(tmp_path: Path) -> None:
    kv, lent = RocksKeyValue.create(tmp_path / "store"), {10}
    store, shelf = create(kv), DirectoryShelf(tmp_path / "snapshots")
    machine = history().machine(store)
    snapshots = Snapshots(store, shelf, history().chart, ManualClock(), is_lent=lent.__contains__)
    for upto in (10, 20, 30, 40):
        for entry in history().entries[upto - 10 : upto]:
            store.commit(machine.apply(*entry))
        await snapshots.take(machine)
    assert [manifest.last_applied_index for manifest in snapshots.kept()] == [10, 30, 40]
    lent.clear()
    for entry in history().entries[40:50]:
        store.commit(machine.apply(*entry))
    await snapshots.take(machine)
    assert [manifest.last_applied_index for manifest in shelf.manifests()] == [40, 50]
    kv.close()


def test_a_store_in_use_is_named_by_a_file(tmp_path: Path) -> None:
    assert current_store(tmp_path) == tmp_path / "store"
    (tmp_path / "CURRENT_STORE").write_text("store-3\n")
    assert current_store(tmp_path) == tmp_path / "store-3"


def test_nothing_is_moved_while_the_own_store_has_lost_what_it_had_promised(home: Home) -> None:
    """A store behind its witness: an install would give a vote back that was cast."""
    home.run("install.ready")
    kv, witness = RocksKeyValue.open(home.path / "store"), FileWitness.open(home.path / "witness")
    Journal.open(kv, witness, cluster_id="c", node="n0").close()
    mark = witness.read()
    assert mark is not None
    witness.write(Mark(mark.incarnation, mark.sequence + 5))
    kv.close()
    witness.close()
    command = [sys.executable, "-c", INSTALL, str(home.path), str(home.donor)]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 71, done.stderr
    assert {"store", "install.ready"} <= home.names()
