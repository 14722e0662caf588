"""Certificates once per run; members that are always stopped."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.wire.members import Member, Papers

Arrive = Callable[..., Awaitable[Member]]


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture
async def arrive(papers: Papers) -> AsyncIterator[Arrive]:
    """Make a listening member; all of them are stopped after the test."""
    members: list[Member] = []

    async def listening(node: str, **options: Any) -> Member:
        members.append(await Member.listening(papers, node, **options))
        return members[-1]

    yield listening
    for member in members:
        await member.stop()
