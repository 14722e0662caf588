"""Many seeds at once, on every core, each process with a fixed way of hashing strings."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

from chaos.simulation import plan
from chaos.simulation.world import Result, run

SEEDS_PER_PROCESS = 50


def run_all(seeds: Iterable[int], nodes: int, jobs: int, *, hash_seed: str) -> Iterator[Result]:
    """Every seed's result, as they come, from processes started with this PYTHONHASHSEED."""
    os.environ["PYTHONHASHSEED"] = hash_seed
    context = multiprocessing.get_context("spawn")
    waiting = iter(seeds)
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=SEEDS_PER_PROCESS) as pool:
        running: set[Future[Result]] = set()
        while True:
            while len(running) < 2 * jobs and (seed := next(waiting, None)) is not None:
                running.add(pool.submit(run_seed, seed, nodes))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def run_seed(seed: int, nodes: int) -> Result:
    """The run of one seed."""
    return run(plan.make(seed, nodes))
