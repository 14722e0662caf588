"""The writer thread and its twin: what is waited for, what is told when, and who ends a node whose disk hangs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from cluster.clock import ManualClock
from cluster.faults import ExitCode
from cluster.storage.syncer import HANG_SECONDS, MemorySyncer, ThreadSyncer

DEADLINE = 10.0


@pytest.fixture
def syncer() -> Iterator[ThreadSyncer]:
    made = ThreadSyncer()
    yield made
    made.close()


async def test_a_quick_write_is_done_when_begin_returns(syncer: ThreadSyncer) -> None:
    written: list[int] = []
    for number in range(100):
        assert syncer.begin(lambda number=number: written.append(number), pytest.fail)  # type: ignore[misc]
        assert written[-1] == number
        assert syncer.is_done()


async def test_a_slow_write_is_told_of_on_the_loop(syncer: ThreadSyncer) -> None:
    released, told = threading.Event(), asyncio.Event()
    loop_thread = threading.get_ident()

    def finished() -> None:
        assert threading.get_ident() == loop_thread
        told.set()

    assert not syncer.begin(lambda: _await(released), finished)
    await asyncio.sleep(0)
    assert not syncer.is_done()
    assert not told.is_set()
    released.set()
    await asyncio.wait_for(told.wait(), DEADLINE)
    assert syncer.is_done()
    assert syncer.begin(lambda: None, pytest.fail), "the next one may begin"


async def test_the_last_resort_waits(syncer: ThreadSyncer) -> None:
    released, told = threading.Event(), asyncio.Event()
    assert not syncer.begin(lambda: _await(released), told.set)
    asyncio.get_running_loop().call_soon(released.set)
    threading.Timer(0.05, released.set).start()
    syncer.wait()
    assert syncer.is_done()
    await asyncio.wait_for(told.wait(), DEADLINE)


async def test_what_a_write_raises_comes_out_where_it_was_asked_for(syncer: ThreadSyncer) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        syncer.begin(fail, pytest.fail)
    assert syncer.is_done()
    released, told = threading.Event(), asyncio.Event()

    def fail_late() -> None:
        _await(released)
        raise ZeroDivisionError

    assert not syncer.begin(fail_late, told.set)
    released.set()
    await asyncio.wait_for(told.wait(), DEADLINE)
    with pytest.raises(ZeroDivisionError):
        syncer.is_done()


HANGS = """
import asyncio, threading
from cluster.storage import syncer

syncer.HANG_SECONDS = 1

async def main():
    made = syncer.ThreadSyncer()
    assert not made.begin(threading.Event().wait, print)
    {then}

asyncio.run(main())
"""


@pytest.mark.parametrize("then", ["await asyncio.sleep(60)", "made.wait()", "made.close()"])
def test_a_write_that_never_ends_ends_the_process_whatever_the_loop_does(then: str) -> None:
    command = [sys.executable, "-c", HANGS.format(then=then)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == ExitCode.DISK, done.stderr
    assert "a sync did not end" in done.stderr


def test_the_twin_takes_its_time() -> None:
    clock, written, told = ManualClock(), [], []
    seconds = 0.01
    twin = MemorySyncer(clock, lambda: seconds)
    assert twin.begin(lambda: written.append(1), lambda: told.append(1))
    seconds = 0.5
    assert not twin.begin(lambda: written.append(2), lambda: told.append(2))
    clock.advance(0.4)
    assert (written, told, twin.is_done()) == ([1], [], False)
    clock.advance(0.2)
    assert (written, told, twin.is_done()) == ([1, 2], [2], True)
    assert not twin.begin(lambda: written.append(3), lambda: told.append(3))
    twin.wait()
    assert (written, told, twin.is_done()) == ([1, 2, 3], [2], True)
    clock.advance(0.0)
    assert (written, told) == ([1, 2, 3], [2, 3]), "told also of what was waited for"
    clock.advance(HANG_SECONDS)
    assert (written, told) == ([1, 2, 3], [2, 3])


def _await(event: threading.Event) -> None:
    assert event.wait(DEADLINE)
