"""Outside systems, put together: what the configuration says there is, and the one way out to all of it.

A section that is missing is a system that does not exist: nothing of it is built and nothing is sent. This module must
never decide what a provider does; it says which there are.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from cluster.clock import Clock
from cluster.config import Config
from cluster.egress import Gatekeeper, Http, Outside, address_of
from cluster.entropy import Entropy
from cluster.providers.environment import Environments
from cluster.providers.kaching import Kaching
from cluster.providers.leading import Provider
from cluster.providers.license import LicenseFile
from cluster.providers.mcp import ToolProbe
from cluster.providers.policy import PolicyInForce


def gatekeeper(config: Config, clock: Clock) -> Gatekeeper:
    """Whom this node may reach: the addresses of its configuration, and no others."""
    return Gatekeeper(clock, [*config.outbound.allow, *map(address_of, _urls(config))])


def sockets(config: Config) -> Http:
    """What leaves leaves through these. Needs a running loop."""
    authorities = config.outbound.authorities
    context = None if authorities is None else ssl.create_default_context(cafile=authorities)
    return Http(proxy=config.outbound.proxy, context=context)


def providers(config: Config, outside: Outside, entropy: Entropy) -> Iterator[Provider]:
    """One for each system that is configured. The license has one source: its authority, else the file."""
    if config.kaching is None:
        yield LicenseFile(config.license_path)
    else:
        yield Kaching(config.kaching, config.node_id, outside, entropy)
    if config.environment is not None:
        yield Environments(config.environment, outside, entropy)
    yield from (ToolProbe(server, outside) for server in config.tool_servers)
    yield PolicyInForce(config.policy)


def _urls(config: Config) -> Iterator[str]:
    if config.kaching is not None:
        yield config.kaching.url
    if config.environment is not None:
        yield config.environment.url
    yield from (server.url for server in config.tool_servers)
