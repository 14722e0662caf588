"""Lines in a file: whole, durable, and none lost or joined whatever ended the writer."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from cluster.storage import lines as under_test
from cluster.storage.lines import FileLines, Lines, MemoryLines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


async def test_lines_are_added_at_the_end(path: Path) -> None:
    await FileLines(path).append(b"one\n")
    await FileLines(path).append(b"two\nthree\n")
    assert path.read_bytes() == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("torn", [b"half a li", b"x" * 200_000, b"\0\0\0"])
async def test_what_was_half_written_is_cut_off(path: Path, torn: bytes) -> None:
    path.write_bytes(b"one\n" + torn)
    await FileLines(path).append(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


async def test_a_file_that_is_one_torn_line_begins_anew(path: Path) -> None:
    path.write_bytes(b"half")
    await FileLines(path).append(b"one\n")
    assert path.read_bytes() == b"one\n"


async def test_a_file_may_be_moved_away_while_it_is_written_to(path: Path) -> None:
    written = FileLines(path)
    await written.append(b"one\n")
    path.rename(path.with_suffix(".1"))
    await written.append(b"two\n")
    assert path.read_bytes() == b"two\n"


async def test_lines_that_could_not_be_synced_are_taken_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = FileLines(path)
    await written.append(b"one\n")

    def fails(descriptor: int) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="no space"):
            await written.append(b"two\n")
    assert path.read_bytes() == b"one\n"
    await written.append(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


async def test_nothing_is_there_before_it_is_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(path.read_bytes()) if path.exists() else None)
    await FileLines(path).append(b"one\n")
    assert seen[0] == b"one\n"


async def test_the_next_writer_waits_for_one_that_was_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread cannot be cancelled: a leader that lost its term may still be writing when it leads again."""
    begun, go_on = threading.Event(), threading.Event()
    real = under_test._write

    def slow(file: Any, data: bytes) -> None:
        if data == b"one\n":
            begun.set()
            assert go_on.wait(30)
        real(file, data)

    monkeypatch.setattr(under_test, "_write", slow)
    written = FileLines(path)
    first = asyncio.ensure_future(written.append(b"one\n"))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.ensure_future(written.append(b"two\n"))
    await asyncio.sleep(0)
    go_on.set()
    await second
    assert path.read_bytes() == b"one\ntwo\n"


async def test_a_folder_that_is_not_there_is_an_error_and_no_end(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        await FileLines(tmp_path / "missing" / "file").append(b"one\n")


@pytest.mark.parametrize("made", [FileLines, lambda path: MemoryLines()], ids=["file", "twin"])
async def test_the_twin_does_the_same(path: Path, made: Any) -> None:
    written: Lines = made(path)
    await written.append(b"one\n")
    await written.append(b"two\n")
    if isinstance(written, MemoryLines):
        written.cut_off(6)
    else:
        os.truncate(path, 6)
    await written.append(b"three\n")
    assert (written.content if isinstance(written, MemoryLines) else path.read_bytes()) == b"one\nthree\n"
