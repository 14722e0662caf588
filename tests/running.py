"""What runs beside a test on the same loop: begun, given its turns, ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def running(*endless: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """These run while the block does. One that ends of itself fails the test."""
    tasks = [asyncio.ensure_future(each) for each in endless]
    try:
        yield
        for task in tasks:
            assert not task.done(), f"it goes on until it is cancelled: {task}"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def turns(times: int) -> None:
    """Let everything that is ready run, so many times."""
    for _ in range(times):
        await asyncio.sleep(0)
