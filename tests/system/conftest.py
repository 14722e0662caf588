"""Real clusters for the slow suite: `swoosh init`, then one `swoosh serve` process per node, on free loopback ports.

`shared` is one cluster for the whole run, for tests that only talk to it. `cluster` is a fresh one, to be killed and
restarted at will. Both run three nodes that are ready. When a test fails, the end of every node's log is printed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from chaos.live import LiveCluster

Found = Callable[..., LiveCluster]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, LiveCluster):
                report.sections.append((f"logs of the nodes of {name!r}", value.logs()))


@pytest.fixture
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    """Make clusters, with options of `swoosh init`; nothing is started. They end with the test."""
    made: list[LiveCluster] = []

    def make(*options: str, nodes: int = 3) -> LiveCluster:
        made.append(LiveCluster.create(tmp_path_factory.mktemp("cluster") / "c", *options, nodes=nodes))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
async def cluster(found: Found) -> LiveCluster:
    """Three ready nodes of one's own; windows are always open."""
    made = found("--windows", "always_open")
    made.start()
    await made.ready()
    return made


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    """Three ready nodes that all tests share: use projects of your own, and leave every node running."""
    made = LiveCluster.create(tmp_path_factory.mktemp("shared") / "c", "--windows", "always_open")
    try:
        made.start()
        asyncio.run(made.ready())
        yield made
    finally:
        made.close()
