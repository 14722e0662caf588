"""Many seeds at once, on every core, each process with a fixed way of hashing strings."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

from chaos.simulation import plan
from chaos.simulation.world import Result, run

SEEDS_PER_PROCESS = 50


def run_all(
    seeds: Iterable[int],
    nodes: int,
    jobs: int,
    *,
    hash_seed: str = "0",
    prepare: tuple[Callable[..., None], Any] | None = None,
) -> Iterator[Result]:
    """Every seed's result, as they come, from processes started with this PYTHONHASHSEED.

    Args:
        prepare: a function and its argument, called once in each process before any seed.
    """
    os.environ["PYTHONHASHSEED"] = hash_seed
    begin, argument = prepare or (_nothing, None)
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=begin,
        initargs=(argument,),
        max_tasks_per_child=SEEDS_PER_PROCESS,
    )
    waiting = iter(seeds)
    running: set[Future[Result]] = set()
    try:
        while True:
            while len(running) < 2 * jobs and (seed := next(waiting, None)) is not None:
                running.add(pool.submit(run_seed, seed, nodes))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _nothing(_: None) -> None: ...


def run_seed(seed: int, nodes: int) -> Result:
    """The run of one seed."""
    return run(plan.make(seed, nodes))
