"""Many seeds at once, on every core, each process with a fixed way of hashing strings."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice
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
    waiting = iter(seeds)
    # Fresh processes from time to time: what a run leaves in caches adds up. The executor's own way of replacing
    # workers (max_tasks_per_child) can hang when the last ones end together (CPython issue 115634).
    while chunk := list(islice(waiting, jobs * SEEDS_PER_PROCESS)):
        yield from _run_chunk(chunk, nodes, jobs, prepare or (_nothing, None))


def _run_chunk(seeds: list[int], nodes: int, jobs: int, prepare: tuple[Callable[..., None], Any]) -> Iterator[Result]:
    begin, argument = prepare
    pool = ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=begin, initargs=(argument,)
    )
    try:
        for future in as_completed([pool.submit(run_seed, seed, nodes) for seed in seeds]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _nothing(_: None) -> None: ...


def run_seed(seed: int, nodes: int) -> Result:
    """The run of one seed."""
    return run(plan.make(seed, nodes))
