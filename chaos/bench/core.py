"""What the pure core costs: microseconds per transition with real hashes, records and rows, and where they go.

No disk, no network, no signatures: those are measured elsewhere. `python -m chaos.bench.core [--quick] [--profile]`.

Two measurements. *Whole*: entries of one proposal through `Machine.apply`, as a follower does it, the source's own
dictionary included, over 1, 1,000 and 20,000 projects and over plans of 10 and 10,000 tasks. *Stages*: the same
transition taken apart. Processor time is counted, and each number is the best of several rounds of many calls, since
what disturbs a measurement on a shared machine only ever adds.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
from collections.abc import Callable
from time import monotonic, process_time
from typing import NamedTuple

from chaos.solo import TERM, Solo, the_chart
from chaos.steer import agreement, drive
from swoosh import entry, proposal, state
from swoosh.entry import ProposalItem
from swoosh.hashing import digest
from swoosh.outcome import Accepted, FactAccepted
from swoosh.reducer import Place, Step, reduce

ROUNDS = 5
BUDGET_S = 20  # for the rounds of one case; forking a machine of many projects takes its time


class Case(NamedTuple):
    """Something to measure: a machine, and entries it will accept one after the other."""

    name: str
    solo: Solo
    entries: list[bytes]


def recorded(solo: Solo, act: Callable[[Solo], object], name: str) -> Case:
    """A case from what ``act`` makes a copy of the machine accept."""
    fork = solo.fork()
    before = len(fork.log)
    act(fork)
    return Case(name, solo, [data for _, _, data in fork.log[before:]])


# --- cases ------------------------------------------------------------------------------------------------------------


def claims(count: int) -> Case:
    """COUNCIL_ROLE_CLAIMED and COUNCIL_ROLE_RELEASED in turn."""
    solo = Solo(the_chart())
    drive(solo, lambda r: r.council.phase == "ELECT")

    def act(fork: Solo) -> None:
        for number in range(count):
            role = {"role": "lead"} if number % 2 else {"role": "lead", "agent": "alice"}
            fork.propose(("COUNCIL_ROLE_CLAIMED", "COUNCIL_ROLE_RELEASED")[number % 2], role, signer="alice")

    return recorded(solo, act, "COUNCIL_ROLE_CLAIMED")


def completions(count: int, tasks: int) -> Case:
    """EXECUTION_TASK_COMPLETED in a plan of so many tasks, each claimed before."""
    solo = Solo(the_chart(), settings={"window_source": "always_open"})
    drive(solo, lambda r: r.execution.phase == "PLAN", seats=1)
    plan = {"plan_hash": solo.named("plan"), "tasks": {f"task-{number}": "a task" for number in range(tasks)}}
    solo.propose("EXECUTION_PLAN_LOCKED", agreement(solo.regions()) | plan)
    chosen = [f"task-{number}" for number in range(min(count, tasks))]
    for task in chosen:
        solo.propose("EXECUTION_TASK_CLAIMED", {"task": task}, signer="alice")

    def act(fork: Solo) -> None:
        for task in chosen:
            fork.propose("EXECUTION_TASK_COMPLETED", {"task": task, "evidence": "ucxl://evidence"}, signer="alice")

    return recorded(solo, act, f"EXECUTION_TASK_COMPLETED, {tasks:,} tasks")


def beats(count: int) -> Case:
    """Facts: a BACKBEAT frame per entry."""
    solo = Solo(the_chart())

    def act(fork: Solo) -> None:
        for number in range(count):
            fork.tick(10)
            frame = {
                "cluster_id": "beats",
                "beat_index": number,
                "downbeat": False,
                "phase": "plan",
                "tempo_mbpm": 60_000,
            }
            fork.fact("beat", "backbeat", frame | {"deadline_at": fork.now_ms + 1000, "window_id": "bar-1"})

    return recorded(solo, act, "fact (beat)")


def refusals(count: int) -> Case:
    """STALE_STATE, the refusal that callers see most."""
    solo = Solo(the_chart())
    head = "sha256-" + "0" * 64

    def act(fork: Solo) -> None:
        for _ in range(count):
            fork.propose("CONTROL_PAUSED", {"reason": "audit"}, head=head)

    return recorded(solo, act, "refused STALE_STATE")


def many_projects(count: int, projects: int) -> Case:
    """BOOT_CONFIGURED in one project after the other, with so many of them in the cluster."""
    solo = Solo(the_chart())
    for number in range(projects):
        solo.propose("PROJECT_CREATED", {"brief": "one of many"}, project=f"p{number}")

    def act(fork: Solo) -> None:
        for number in range(min(count, projects)):
            fork.propose("BOOT_CONFIGURED", {"chart_hash": fork.chart.hash}, project=f"p{number * 7919 % projects}")

    return recorded(solo, act, f"BOOT_CONFIGURED, {projects:,} projects")


# --- measuring --------------------------------------------------------------------------------------------------------


def whole(case: Case) -> tuple[float, float]:
    """(µs per apply, µs per cluster hash after it), the best round of each."""
    applying, hashing = [], []
    begun_at = monotonic()
    for number in range(ROUNDS):
        if number and monotonic() - begun_at > BUDGET_S:
            break
        fork = case.solo.fork()
        _ = [fork.machine.project(name) for name in projects_of(case)], fork.machine.cluster_hash
        first = fork.machine.position.index + 1
        gc.collect()
        gc.disable()
        apply_s = hash_s = 0.0
        for index, data in enumerate(case.entries, start=first):
            begun = process_time()
            applied = fork.machine.apply(index, TERM, data)
            apply_s += process_time() - begun
            fork.source.commit(applied)
            begun = process_time()
            _ = fork.machine.cluster_hash
            hash_s += process_time() - begun
            good = isinstance(applied.outcomes[0], Accepted | FactAccepted) or case.name.startswith("refused")
            assert good, f"{case.name}: {applied.outcomes}"
        gc.enable()
        applying.append(apply_s / len(case.entries) * 1e6)
        hashing.append(hash_s / len(case.entries) * 1e6)
    return min(applying), min(hashing)


def projects_of(case: Case) -> set[str]:
    """The projects that the case's proposals are about."""
    items = (item for data in case.entries for item in entry.decode(data).items)
    return {proposal.decode(item.sent).project for item in items if isinstance(item, ProposalItem)}


def stages(case: Case) -> dict[str, float]:
    """µs per stage of the case's first transition."""
    fork = case.solo.fork()
    data, machine = case.entries[0], fork.machine
    decoded = entry.decode(data)
    (item,) = decoded.items
    assert isinstance(item, ProposalItem)
    sent = proposal.decode(item.sent)
    normal = proposal.normal(sent)
    place = Place(machine.position.index + 1, TERM, decoded.stamp_us)
    before = machine.project(normal.project)
    step = reduce(machine.chart, machine, place, normal, voters=item.voters)
    assert isinstance(step, Step), f"{step}"
    after = step.project
    return {
        "decode entry": timed(lambda: entry.decode(data)),
        "decode proposal": timed(lambda: proposal.decode(item.sent)),
        "normal form": timed(lambda: proposal.normal(sent)),
        "reduce": timed(lambda: reduce(machine.chart, machine, place, normal, voters=item.voters)),
        "rows": timed(lambda: list(state.rows_changed(before, after))),
    }


def timed(call: Callable[[], object], calls: int = 400) -> float:
    """µs per call, the best of the rounds."""
    rounds = []
    for _ in range(ROUNDS):
        begun = process_time()
        for _ in range(calls):
            call()
        rounds.append((process_time() - begun) / calls * 1e6)
    return min(rounds)


def profiled(case: Case) -> None:
    """The functions that cost most, by their own time."""
    fork = case.solo.fork()
    first = fork.machine.position.index + 1
    profile = cProfile.Profile()
    for index, data in enumerate(case.entries, start=first):
        profile.enable()
        applied = fork.machine.apply(index, TERM, data)
        profile.disable()
        fork.source.commit(applied)
    pstats.Stats(profile).sort_stats("tottime").print_stats(28)


def main() -> None:
    """Measure, and print two tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="leave out the cases that take long to set up")
    arguments.add_argument("--profile", action="store_true", help="print where a typical transition spends its time")
    options = arguments.parse_args()
    typical = completions(500, 10_000 if not options.quick else 1_000)
    if options.profile:
        profiled(typical)
        return
    cases = [claims(500), completions(10, 10), typical, beats(500), refusals(500), many_projects(1, 1)]
    cases += [many_projects(500, 1_000)]
    cases += [] if options.quick else [many_projects(500, 20_000)]
    yardstick = timed(lambda: digest("region", {"phase": "READY"}))
    print(f"yardstick, one typed hash of a small object: {yardstick:.2f} µs\n")
    print(f"{'µs per entry of one proposal':<44}{'apply':>8}{'cluster hash':>14}")
    for case in cases:
        apply_us, hash_us = whole(case)
        print(f"{case.name:<44}{apply_us:>8.1f}{hash_us:>14.1f}")
    print(f"\nµs per stage: {typical.name}")
    for name, cost in stages(typical).items():
        print(f"{name:<44}{cost:>8.1f}")


if __name__ == "__main__":
    main()
