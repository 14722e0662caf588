"""Outside systems, put together: what the configuration says there is, and the one way out to all of it.

A section that is missing is a system that does not exist: nothing of it is built and nothing is sent. This module must
never decide what a provider does; it says which there are.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.clock import Clock
from cluster.config import Config
from cluster.egress import Gatekeeper, Http, Outside, address_of
from cluster.entropy import Entropy
from cluster.providers import bubble, sinks, slurp
from cluster.providers.agents import Agents
from cluster.providers.backbeat import Backbeat
from cluster.providers.bubble import Decisions
from cluster.providers.environment import Environments
from cluster.providers.kaching import Kaching
from cluster.providers.leading import Provider
from cluster.providers.license import LicenseFile
from cluster.providers.mcp import ToolProbe
from cluster.providers.outbox import Outbox, Redact
from cluster.providers.policy import PolicyInForce
from cluster.providers.slurp import Submissions
from cluster.providers.templates import Template
from cluster.shhh.scanner import Scanner
from cluster.storage.lines import FileLines, Lines
from cluster.storage.store import Store
from cluster.whoosh import CLOSED


def gatekeeper(config: Config, clock: Clock) -> Gatekeeper:
    """Whom this node may reach: the addresses of its configuration, agents by its patterns, and no others."""
    return Gatekeeper(clock, [*config.outbound.allow, *map(address_of, _urls(config))], config.whoosh.agents)


def sockets(config: Config) -> Http:
    """What leaves leaves through these. Needs a running loop."""
    authorities = config.outbound.authorities
    context = None if authorities is None else ssl.create_default_context(cafile=authorities)
    return Http(proxy=config.outbound.proxy, context=context)


def providers(config: Config, outside: Outside, entropy: Entropy, store: Store) -> Iterator[Provider]:
    """One for each system that is configured. The license has one source: its authority, else the file."""
    if config.kaching is None:
        yield LicenseFile(config.license_path)
    else:
        yield Kaching(config.kaching, config.node_id, outside, entropy)
    if config.environment is not None:
        yield Environments(config.environment, outside, entropy)
    if config.backbeat is not None:
        from cluster.providers.nats import Nats

        yield Backbeat(config.backbeat, Nats(config.backbeat.access), outside, entropy)
    yield from (ToolProbe(server, outside) for server in config.tool_servers)
    redact = Scanner(config.policy).redact
    if config.whoosh != CLOSED:
        yield Agents(config.whoosh, outside, entropy, redact)
    yield PolicyInForce(config.policy)
    yield from outboxes(config, outside, store, redact=redact)


def outboxes(
    config: Config, outside: Outside, store: Store, *, redact: Redact, lines: Callable[[Path], Lines] = FileLines
) -> Iterator[Outbox]:
    """One for each that has a sink. ``redact`` is applied to the words in what leaves."""
    for sink, records, members in (
        (config.bubble, Decisions(store, redact), bubble.MEMBERS),
        (config.slurp, Submissions(store, redact), slurp.MEMBERS),
    ):
        template = Template(sink.fields, members)
        if sink.path is not None:
            yield Outbox(records, sinks.JsonLines(str(sink.path), lines(sink.path), template), store)
        elif sink.url:
            headers = {"Authorization": f"Bearer {sink.token}"} if sink.token else {}
            http = sinks.Http(records.name, outside, template, url=sink.url, method=sink.method, headers=headers)
            yield Outbox(records, http, store)


def _urls(config: Config) -> Iterator[str]:
    """Where the sections say that something is."""
    if config.kaching is not None:
        yield config.kaching.url
    if config.environment is not None:
        yield config.environment.url
    if config.backbeat is not None:
        yield from config.backbeat.urls
    yield from (server.url for server in config.tool_servers)
    yield from (sink.url for sink in (config.bubble, config.slurp) if sink.url)
