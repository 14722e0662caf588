"""Disks that can be cut from power, filled, and damaged: one small file system per node, or plain files.

A power cut is ext4's own shutdown ioctl without a flush: whatever was not synced is gone when the file system is
mounted again, while the machine goes on. Nothing but a run's own directory is ever touched.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import struct
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from chaos.live.network import Unfit
from chaos.live.plan import File

SHUTDOWN = (2 << 30) | (4 << 16) | (ord("X") << 8) | 125
NO_FLUSH = 2
RUN_PREFIX = "swoosh-chaos-"
UNMOUNT_SECONDS = 10.0
SHIM = Path(__file__).with_name("failsync.c")


class Disk:
    """A file system in a file, mounted over a node's home, whose content moves onto it."""

    def __init__(self, home: Path, size_mb: int) -> None:
        """Raises Unfit: this machine cannot mount it."""
        self.home = home
        self._image = home.with_name(f"{home.name}.ext4")
        if os.geteuid():
            raise Unfit("mounting a disk needs root")
        with self._image.open("wb") as file:
            file.truncate(size_mb << 20)
        aside = home.with_name(f"{home.name}.before")
        home.rename(aside)
        home.mkdir(mode=0o700)
        try:
            _run("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))
            self._mount()
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unfit(f"loop-mounted ext4: {getattr(error, 'stderr', None) or error}") from None
        shutil.copytree(aside, home, dirs_exist_ok=True)
        _run("sync", "-f", str(home))
        shutil.rmtree(aside)

    def cut_power(self) -> None:
        """From now on every access fails, and what was not synced is lost. The node has to be killed afterwards."""
        descriptor = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_FLUSH))
        finally:
            os.close(descriptor)

    def restore_power(self) -> None:
        """Mount it again, as after a reboot.

        Raises:
            OSError: something still holds what had no power.
        """
        self._unmount()
        self._mount()
        probe = self.home / "probe"
        probe.write_bytes(b"")
        probe.unlink()

    def fill(self) -> int:
        """Leave no space; how many bytes that took."""
        free = os.statvfs(self.home).f_bavail * os.statvfs(self.home).f_frsize
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free - 64 * 1024))
        with suppress(OSError), self._ballast.open("ab") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        return free

    def empty(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it, at worst once nobody holds it any more."""
        try:
            self._unmount()
        except subprocess.CalledProcessError:
            _run("umount", "--lazy", str(self.home))

    @property
    def _ballast(self) -> Path:
        return self.home / "ballast"

    def _mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.home))

    def _unmount(self) -> None:
        """A process that was just killed may hold it for a moment."""
        deadline = time.monotonic() + UNMOUNT_SECONDS
        while os.path.ismount(self.home):
            try:
                _run("umount", str(self.home))
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def sweep() -> None:
    """Unmount what runs left behind whose process is gone."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in mounts:
        run = next((part for part in Path(mount).parts if part.startswith(RUN_PREFIX)), "")
        owner = run.removeprefix(RUN_PREFIX).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            _run("umount", mount)


def failing_sync_library(directory: Path) -> Path:
    """Build the library that makes syncs fail.

    Raises:
        Unfit: no compiler.
    """
    library = directory / "failsync.so"
    try:
        _run("gcc", "-shared", "-fPIC", "-O2", "-o", str(library), str(SHIM), "-ldl")
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unfit(f"building {SHIM.name}: {getattr(error, 'stderr', None) or error}") from None
    return library


# --- damage -----------------------------------------------------------------------------------------------------------

_PLACES = {
    File.SST: "store/*.sst",
    File.WAL: "store/*.log",
    File.MANIFEST: "store/MANIFEST-*",
    File.CURRENT: "store/CURRENT",
    File.WITNESS: "witness",
}


def flip(home: Path, kind: File, chance: random.Random) -> str:
    """Flip one bit of the largest file of a class; which.

    Raises:
        Unfit: the node has no such file with anything in it.
    """
    files = [path for path in home.glob(_PLACES[kind]) if path.stat().st_size]
    if not files:
        raise Unfit(f"no {kind} file with anything in it")
    path = max(files, key=lambda file: file.stat().st_size)
    data = bytearray(path.read_bytes())
    position, bit = _somewhere_written(data, chance), chance.randrange(8)
    data[position] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {position} of {len(data)} in {path.name}"


def _somewhere_written(data: bytearray, chance: random.Random) -> int:
    """A place in what was written: files end in zeros that nobody reads."""
    end = len(data.rstrip(b"\0")) or len(data)
    return chance.randrange(end)


def state_of(home: Path) -> list[Path]:
    """Everything a node remembers."""
    return [home / "store", home / "witness"]


def wipe(home: Path) -> None:
    """Forget everything."""
    for path in state_of(home):
        _remove(path)


def keep(home: Path, aside: Path) -> None:
    """A copy of all a stopped node remembers."""
    aside.mkdir(parents=True)
    for path in state_of(home):
        _copy(path, aside / path.name)


def put_back(home: Path, aside: Path) -> None:
    """Remember what the copy says instead."""
    wipe(home)
    for path in state_of(home):
        _copy(aside / path.name, path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
