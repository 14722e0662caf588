"""``swoosh serve`` with one provider more: one that talks to the outside as often as it may.

What a node sends by itself depends on which systems are configured; this sends all the time, for the node and for a
project, to everything that is allowed, by the same way out. Started as ``beacon.py python -m cluster serve …``.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import suppress

import cluster.outside
from cluster.cli import main
from cluster.config import Config
from cluster.egress import Blocked, Call, Outside, Unreachable
from cluster.entropy import Entropy
from cluster.providers.leading import Leading, Provider
from cluster.storage.store import Store

PACE_SECONDS = 0.02
PATIENCE_SECONDS = 30.0
_providers = cluster.outside.providers


class Beacon:
    """Asks every address that is allowed, again and again."""

    name = "beacon"
    trouble: str | None = None

    def __init__(self, addresses: tuple[str, ...], way_out: Outside) -> None:
        self._addresses, self._outside = addresses, way_out

    async def run(self, leading: Leading) -> None:
        """Until cancelled."""
        whom = [(address, project) for address in self._addresses for project in (None, "default")]
        await asyncio.gather(*(self._shine(leading, address, project) for address, project in whom))

    async def _shine(self, leading: Leading, address: str, project: str | None) -> None:
        call = Call("legacy", "GET", f"http://{address}/", project=project, timeout=PATIENCE_SECONDS)
        while True:
            with suppress(Blocked, Unreachable):
                await self._outside.request(call)
            await leading.clock.sleep(PACE_SECONDS)


def with_beacon(config: Config, outside: Outside, entropy: Entropy, store: Store) -> Iterator[Provider]:
    """What is configured, and the beacon."""
    yield from _providers(config, outside, entropy, store)
    yield Beacon(config.outbound.allow, outside)


if __name__ == "__main__":
    cluster.outside.providers = with_beacon
    main(sys.argv[4:])
