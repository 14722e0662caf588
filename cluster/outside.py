"""Outside systems, put together: what the configuration says there is, and the one way out to all of it.

A section that is missing is a system that does not exist: nothing of it is built and nothing is sent. This module must
never decide what a provider does; it says which there are.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from cluster.clock import Clock
from cluster.config import Config
from cluster.egress import Gatekeeper, Outbound, Outside, address_of
from cluster.entropy import Entropy
from cluster.providers.environment import Environments
from cluster.providers.leading import Provider
from cluster.providers.license import LicenseFile


def gatekeeper(config: Config, clock: Clock) -> Gatekeeper:
    """Whom this node may reach: the addresses of its configuration, and no others."""
    return Gatekeeper(clock, {*config.outbound.allow, *_addresses(config)})


def outbound(config: Config, keeper: Gatekeeper) -> Outbound:
    """The sockets. Needs a running loop."""
    authorities = config.outbound.authorities
    context = None if authorities is None else ssl.create_default_context(cafile=authorities)
    return Outbound(keeper, proxy=config.outbound.proxy, context=context)


def providers(config: Config, outside: Outside, entropy: Entropy) -> Iterator[Provider]:
    """One for each system that is configured."""
    yield LicenseFile(config.license_path)
    if config.environment is not None:
        yield Environments(config.environment, outside, entropy)


def _addresses(config: Config) -> Iterator[str]:
    if config.environment is not None:
        yield address_of(config.environment.url)
