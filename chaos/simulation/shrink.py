"""Makes a plan that breaks a promise as small as it can, while it goes on breaking the same one.

Delta debugging (Zeller and Hildebrandt, IEEE TSE 2002) over the steps of the plan; then fewer seconds and no loss of
requests, if the violation stays. Draws are named, not counted, so leaving a step out leaves the rest as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import msgspec

from chaos.simulation.plan import Http, Plan
from chaos.simulation.world import Result, run

RUNS_MAX = 400


def shrink(plan: Plan, kind: str, tell: Callable[[str], None] = lambda text: None) -> tuple[Plan, Result]:
    """The smallest plan found, and what it comes to."""
    best, result, left = plan, run(plan), RUNS_MAX
    pieces = 2
    while left > 0 and best.steps:
        for smaller in _parts(best, pieces):
            left -= 1
            tried = run(smaller)
            if tried.kind == kind:
                best, result, pieces = smaller, tried, max(pieces - 1, 2)
                tell(f"{len(best.steps)} steps")
                break
            if left <= 0:
                break
        else:
            if pieces >= len(best.steps):
                break
            pieces = min(2 * pieces, len(best.steps))
    for simplify in (_nothing_lost, _no_skew, _shorter):
        simpler = simplify(best)
        if simpler != best and (tried := run(simpler)).kind == kind:
            best, result = simpler, tried
    return best, result


def _parts(plan: Plan, pieces: int) -> Iterator[Plan]:
    """The plan without each of so many parts of its steps."""
    count = len(plan.steps)
    bounds = [number * count // pieces for number in range(pieces + 1)]
    for start, end in pairwise(bounds):
        if start < end:
            yield plan.without(set(range(start, end)))


def _nothing_lost(plan: Plan) -> Plan:
    return msgspec.structs.replace(plan, http=Http())


def _no_skew(plan: Plan) -> Plan:
    return msgspec.structs.replace(plan, wall_offsets_us=())


def _shorter(plan: Plan) -> Plan:
    end = max((step.at + step.seconds for step in plan.steps), default=0.0)
    return msgspec.structs.replace(plan, seconds=min(plan.seconds, round(end + 2.0, 1)))
