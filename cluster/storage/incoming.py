"""Where a peer's checkpoint lies until it is this node's store, and which store is in use.

```text
data/
  store            the store the node was created with; an installed one is `store-1`, then `store-2`, …
  CURRENT_STORE    the name of the one in use; absent: `store`
  incoming/        a checkpoint on its way here, with `offer`, what was promised to come
  install.ready    all of it is here, verified and synced: the next start makes it the store
```

Each step leaves these names so that the next start knows where it was, whatever instant the power went: files count
once `install.ready` has its name, the new store counts once `CURRENT_STORE` names it, and only then does the old one
go. Nothing here reads what is in a store, and nothing judges whether an install makes sense: install.py does.

`MemoryPlace` is the twin for tests and the simulator: the same steps on a `MemoryKeyValue` that travels as one file.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from cluster import faults
from cluster.faults import ExitCode
from cluster.storage import kv
from cluster.storage.kv import KeyValue, MemoryKeyValue, RocksKeyValue
from swoosh.errors import Corrupt
from swoosh.hashing import digest_file
from swoosh.snapshot import Manifest

FIRST_STORE = "store"
CURRENT_NAME = "CURRENT_STORE"
INCOMING_NAME = "incoming"
OFFER_NAME = "offer"
READY_NAME = "install.ready"
READ_BYTES = 1 << 20

_STORE = re.compile(r"store(-(?P<number>[1-9]\d{0,8}))?")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")

T = TypeVar("T")


class File(msgspec.Struct, frozen=True, array_like=True):
    """One file of a checkpoint: its name, its length in bytes, `sha256-…` of what is in it."""

    name: str
    size: int
    sha256: str


class Offer(msgspec.Struct, frozen=True):
    """A checkpoint that a peer holds ready: what it is the state of, and the files it consists of."""

    donor: str
    manifest: Manifest
    files: tuple[File, ...]

    def check(self) -> None:
        """Raises Corrupt when a file could not be one of a checkpoint: names lead nowhere else."""
        names = [file.name for file in self.files]
        bad = [name for name in names if not _FILE.fullmatch(name) or name == OFFER_NAME]
        if bad or len(set(names)) != len(names) or min((file.size for file in self.files), default=-1) < 0:
            raise Corrupt(f"an offer of {self.donor} names files that no checkpoint has: {names[:20]}")


class Ready(msgspec.Struct, frozen=True):
    """What `install.ready` says: the state that is here, and the name its store will have."""

    manifest: Manifest
    store: str


class Place(Protocol):
    """Receives one checkpoint at a time; then, at the next start, makes it the store."""

    def offered(self) -> Offer | None:
        """What is on its way here, or None."""
        ...

    async def begin(self, offer: Offer) -> None:
        """Make room for this one; whatever was here goes."""
        ...

    def size(self, name: str) -> int:
        """How much of a file is here, bytes."""
        ...

    async def append(self, name: str, data: bytes) -> None: ...

    async def examine(self, offer: Offer) -> str | None:
        """Is every file, and the state in them, what was offered? None, or what is wrong."""
        ...

    async def seal(self, offer: Offer) -> None:
        """Sync everything, then say so, durably: `ready` from now on."""
        ...

    async def discard(self) -> None:
        """Forget what is on its way here."""
        ...

    def ready(self) -> Manifest | None:
        """What the next start is to make the store, or None."""
        ...

    def is_moved(self) -> bool:
        """Whether what is ready has been made this node's own already."""
        ...

    def open_current(self) -> KeyValue: ...

    def open_incoming(self) -> KeyValue: ...

    def switch(self) -> None:
        """What is ready is the store from now on, durably, and the old one goes."""
        ...

    def withdraw(self) -> None:
        """What is ready is not wanted any more."""
        ...


def current_store(data: Path) -> Path:
    """The directory of the store in use, whether it exists or not."""
    try:
        name = (data / CURRENT_NAME).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return data / FIRST_STORE
    except (OSError, UnicodeDecodeError) as error:
        faults.fatal(ExitCode.DAMAGED, "the name of the store in use cannot be read", error=str(error))
    if not _STORE.fullmatch(name):
        faults.fatal(ExitCode.DAMAGED, f"{CURRENT_NAME} names no store", name=name[:80])
    return data / name


class DirectoryPlace:
    """The real place: a node's data directory.

    Args:
        check: whether the checkpoint in a directory is the state its manifest describes; None, or what is wrong. It
            takes seconds, so it must not run on the loop.
    """

    def __init__(self, data: Path, check: Callable[[Path, Manifest], Awaitable[str | None]]) -> None:
        self._data, self._check = data, check
        self._incoming = data / INCOMING_NAME

    # --- receiving ----------------------------------------------------------------------------------------------------

    def offered(self) -> Offer | None:
        try:
            return msgspec.json.decode((self._incoming / OFFER_NAME).read_bytes(), type=Offer)
        except (OSError, msgspec.DecodeError):
            return None

    async def begin(self, offer: Offer) -> None:
        await _in_thread(lambda: self._begin(offer))

    def _begin(self, offer: Offer) -> None:
        self._clear()
        self._incoming.mkdir()
        for file in offer.files:
            (self._incoming / file.name).touch()
        kv.replace_file(self._incoming / OFFER_NAME, msgspec.json.encode(offer))

    def size(self, name: str) -> int:
        return (self._incoming / name).stat().st_size

    async def append(self, name: str, data: bytes) -> None:
        def append() -> None:
            with (self._incoming / name).open("ab") as file:
                file.write(data)

        await _in_thread(append)

    async def examine(self, offer: Offer) -> str | None:
        for file in offer.files:
            found = await _in_thread(lambda file=file: digest_of(self._incoming / file.name))  # type: ignore[misc]
            if found != file.sha256:
                return f"{file.name} has {found}, offered was {file.sha256}"
        return await self._check(self._incoming, offer.manifest)

    async def seal(self, offer: Offer) -> None:
        await _in_thread(lambda: self._seal(offer))

    def _seal(self, offer: Offer) -> None:
        for file in offer.files:
            kv.sync_file(self._incoming / file.name)
        kv.sync_directory(self._incoming)
        kv.sync_directory(self._data)
        faults.failpoint("install.synced")
        kv.replace_file(self._data / READY_NAME, msgspec.json.encode(Ready(offer.manifest, self._next_store())))
        faults.failpoint("install.ready")

    def _next_store(self) -> str:
        number = _STORE.fullmatch(current_store(self._data).name)["number"]  # type: ignore[index]
        return f"{FIRST_STORE}-{int(number or 0) + 1}"

    async def discard(self) -> None:
        await _in_thread(self._clear)

    def _clear(self) -> None:
        """With the copies beside it, in which a check that was killed was reading."""
        for path in self._data.glob(f"{INCOMING_NAME}*"):
            shutil.rmtree(path, ignore_errors=True)

    # --- at the next start --------------------------------------------------------------------------------------------

    def ready(self) -> Manifest | None:
        ready = self._ready()
        return None if ready is None else ready.manifest

    def is_moved(self) -> bool:
        return not self._incoming.exists()

    def open_current(self) -> RocksKeyValue:
        return RocksKeyValue.open(current_store(self._data))

    def open_incoming(self) -> RocksKeyValue:
        return RocksKeyValue.open(self._incoming)

    def switch(self) -> None:
        ready = self._ready()
        assert ready is not None
        if self._incoming.exists():
            (self._incoming / OFFER_NAME).unlink(missing_ok=True)
            self._incoming.rename(self._data / ready.store)
            kv.sync_directory(self._data)
        faults.failpoint("install.renamed")
        kv.replace_file(self._data / CURRENT_NAME, ready.store.encode())
        faults.failpoint("install.switched")
        for path in self._data.iterdir():
            if _STORE.fullmatch(path.name) and path.name != ready.store:
                shutil.rmtree(path)
        faults.failpoint("install.removed")
        self.withdraw()

    def withdraw(self) -> None:
        self._clear()
        (self._data / READY_NAME).unlink()
        kv.sync_directory(self._data)

    def _ready(self) -> Ready | None:
        path = self._data / READY_NAME
        try:
            return msgspec.json.decode(path.read_bytes(), type=Ready)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            faults.fatal(ExitCode.DAMAGED, "install.ready cannot be read", path=str(path), error=str(error))


class MemoryPlace:
    """The twin. It holds the node's store, and outlives the node.

    Args:
        make: makes an empty store.
        check: as in `DirectoryPlace`, given the store that came.
    """

    def __init__(
        self,
        make: Callable[[], MemoryKeyValue] = MemoryKeyValue,
        check: Callable[[KeyValue, Manifest], str | None] = lambda store, manifest: None,
    ) -> None:
        self._make, self._check = make, check
        self.store = make()
        self._offer: Offer | None = None
        self._files: dict[str, bytes] = {}
        self._arrived: MemoryKeyValue | None = None
        self._manifest: Manifest | None = None

    def crash(self) -> None:
        """Power cut: what was not sealed is gone. The store in use is cut off by whoever runs the node."""
        if self._manifest is None:
            self._offer, self._files, self._arrived = None, {}, None

    def offered(self) -> Offer | None:
        return self._offer

    async def begin(self, offer: Offer) -> None:
        self._offer, self._files, self._arrived = offer, {file.name: b"" for file in offer.files}, None

    def size(self, name: str) -> int:
        return len(self._files[name])

    async def append(self, name: str, data: bytes) -> None:
        self._files[name] += data

    async def examine(self, offer: Offer) -> str | None:
        for file in offer.files:
            if digest_file([self._files[file.name]]) != file.sha256:
                return f"{file.name} is not what was offered"
        return self._check(self.open_incoming(), offer.manifest)

    async def seal(self, offer: Offer) -> None:
        faults.failpoint("install.synced")
        self._manifest = offer.manifest
        faults.failpoint("install.ready")

    async def discard(self) -> None:
        self._offer, self._files, self._arrived = None, {}, None

    def ready(self) -> Manifest | None:
        return self._manifest

    def is_moved(self) -> bool:
        return False

    def open_current(self) -> MemoryKeyValue:
        return self.store

    def open_incoming(self) -> MemoryKeyValue:
        if self._arrived is None:
            arrived = self._make()
            for data in self._files.values():
                arrived.load(data)
            self._arrived = arrived
        return self._arrived

    def switch(self) -> None:
        self.store = self.open_incoming()
        faults.failpoint("install.switched")
        self.withdraw()

    def withdraw(self) -> None:
        self._offer, self._files, self._arrived, self._manifest = None, {}, None, None


def digest_of(path: Path) -> str:
    """`sha256-…` of a file."""
    with path.open("rb") as file:
        return digest_file(iter(lambda: file.read(READ_BYTES), b""))


async def _in_thread(work: Callable[[], T]) -> T:
    """Disk work beside the loop. A cancelled caller leaves a thread that ends by itself; it touches `incoming` only."""
    try:
        return await asyncio.get_running_loop().run_in_executor(None, work)
    except OSError as error:
        faults.fatal(ExitCode.DISK, "a checkpoint cannot be received", error=str(error))
