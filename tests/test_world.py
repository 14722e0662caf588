"""The small doors to the world: clock, entropy, faults."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cluster import faults
from cluster.clock import ManualClock, SystemClock
from cluster.entropy import Entropy, SeededEntropy, SystemEntropy
from cluster.faults import ExitCode


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    faults.set_stop(None)
    faults.disarm()


# --- clock ------------------------------------------------------------------------------------------------------------


def test_timers_run_in_the_order_they_fall_due_and_see_their_own_time() -> None:
    clock, seen = ManualClock(), list[tuple[str, float]]()
    clock.call_later(2.0, lambda: seen.append(("second", clock.monotonic())))
    clock.call_later(1.0, lambda: seen.append(("first", clock.monotonic())))
    clock.call_later(1.5, lambda: seen.append(("cancelled", clock.monotonic()))).cancel()
    clock.advance(1.9)
    assert seen == [("first", 1.0)]
    clock.advance(0.1)
    assert seen == [("first", 1.0), ("second", 2.0)]


def test_the_wall_clock_can_be_set_without_moving_monotonic_time() -> None:
    clock = ManualClock(wall_us=1_000)
    clock.advance(1.0)
    assert (clock.monotonic(), clock.wall_us()) == (1.0, 1_001_000)
    clock.set_wall(5)
    clock.advance(0.000_001)
    assert clock.wall_us() == 6
    assert clock.monotonic() == pytest.approx(1.000001)


async def test_a_manual_sleep_ends_when_the_test_says_so() -> None:
    clock = ManualClock()
    sleeper = asyncio.ensure_future(clock.sleep(10.0))
    await asyncio.sleep(0)
    clock.advance(9.9)
    await asyncio.sleep(0)
    assert not sleeper.done()
    clock.advance(0.2)
    await sleeper
    await clock.sleep(0)


async def test_the_system_clock_counts_microseconds_and_calls_back() -> None:
    clock, called = SystemClock(), asyncio.Event()
    assert clock.wall_us() > 1_700_000_000_000_000
    before = clock.monotonic()
    clock.call_later(0, called.set)
    await called.wait()
    await clock.sleep(0.001)
    assert clock.monotonic() > before


# --- entropy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entropy", [SystemEntropy(), SeededEntropy(1)])
def test_draws_have_the_promised_shape(entropy: Entropy) -> None:
    assert 0.0 <= entropy.random() < 1.0
    assert len(entropy.token(16)) == 16
    drawn = entropy.uuid()
    assert len(drawn) == 36
    assert drawn[14] == "4"


def test_a_seed_repeats_itself() -> None:
    def draw(seed: int) -> tuple[float, bytes, str]:
        entropy = SeededEntropy(seed)
        return entropy.random(), entropy.token(8), entropy.uuid()

    assert draw(1) == draw(1) != draw(2)


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_fatal_fault_ends_the_process_with_its_code_and_one_line_of_json() -> None:
    program = """
from cluster.faults import ExitCode, fatal
try:
    fatal(ExitCode.DAMAGED, "the store is damaged", index=7, path=object)
finally:
    print("no clean-up runs")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 71
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    said = json.loads(line)
    assert (said["event"], said["code"], said["reason"], said["index"]) == (
        "fatal",
        "DAMAGED",
        "the store is damaged",
        7,
    )


def test_a_last_word_passes_through_what_it_is_told_to() -> None:
    program = """
from cluster import faults
from cluster.faults import ExitCode
from cluster.shhh.policy import BUILT_IN
from cluster.shhh.scanner import Scanner
faults.set_redaction(Scanner(BUILT_IN).redact)
faults.fatal(ExitCode.BUG, "a task failed", error=ValueError("Bearer " + "A1b2C3d4E5" * 3))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert json.loads(ended.stderr)["error"] == "Bearer [REDACTED]" and ended.returncode == ExitCode.BUG


def test_a_replaced_stop_is_told_everything() -> None:
    class Stopped(BaseException):
        pass

    def stop(code: ExitCode, reason: str, facts: dict[str, object]) -> None:
        raise Stopped(code, reason, facts)

    faults.set_stop(stop)
    with pytest.raises(Stopped) as stopped:
        faults.fatal(ExitCode.DISK, "no space", path="store")
    assert stopped.value.args == (ExitCode.DISK, "no space", {"path": "store"})


def test_a_stop_that_returns_does_not_let_the_caller_go_on() -> None:
    faults.set_stop(lambda code, reason, facts: None)
    with pytest.raises(SystemExit):
        faults.fatal(ExitCode.BUG, "impossible")


def test_a_restart_is_the_same_command_in_the_same_process() -> None:
    program = """
import os, sys
from cluster import faults
print(os.getpid(), *sys.argv[1:], flush=True)
if "again" not in os.environ:
    os.environ["again"] = "yes"
    try:
        faults.restart("the store was replaced", index=7)
    finally:
        print("no clean-up runs")
"""
    command = [sys.executable, "-c", program, "an argument"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    first, second = ended.stdout.splitlines()
    assert first == second
    said = json.loads(ended.stderr.splitlines()[0])
    assert (said["event"], said["reason"], said["index"]) == ("restart", "the store was replaced", 7)


def test_a_replaced_restart_is_told_everything() -> None:
    told: list[object] = []
    faults.set_restart(lambda reason, facts: told.append((reason, facts)))
    try:
        with pytest.raises(SystemExit):
            faults.restart("why", index=7)
    finally:
        faults.set_restart(None)
    assert told == [("why", {"index": 7})]


def test_a_failpoint_fires_once_at_the_visit_it_was_armed_for() -> None:
    fired: list[str] = []
    faults.arm("here", 3, lambda: fired.append("now"))
    seen = []
    for _ in range(5):
        faults.failpoint("here")
        faults.failpoint("elsewhere")
        seen.append(len(fired))
    assert seen == [0, 0, 1, 1, 1]
    with pytest.raises(ValueError, match="counts from 1"):
        faults.arm("here", 0, lambda: None)
