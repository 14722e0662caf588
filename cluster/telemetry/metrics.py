"""Every metric name there is (Brief §10, and what operating a Raft group needs).

The brief's seven keep exactly the sample names and label sets it gives them. Label values come from closed sets, the
chart's transitions, guards and regions and the cluster's members, so that no caller can make a new time series.

What applying an entry counts is counted by every replica: a dashboard takes the maximum over nodes, never the sum.
Latency, refusals and repeats are counted by the node that was asked.

Each node has a registry of its own, because a simulation runs several nodes in one process.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import NamedTuple

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cluster.answers import Answer
from cluster.shhh.policy import Verdict
from swoosh.chart import Chart
from swoosh.machine import Applied
from swoosh.outcome import Accepted, Refused

# The exposition would carry a `_created` sample beside each counter, which the brief does not name.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_PLAIN_0_0_4
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
REFUSED_KEYS_REMEMBERED = 4_096
ROLES = ("follower", "candidate", "leader")
SYSTEMS = ("agents", "backbeat", "bubble", "environment", "kaching", "legacy", "mcp", "slurp")
"""The outside systems a node may speak with, and what can come of it."""
SINKS = ("bubble", "slurp")
HELD_BY = ("refused", "blocked")
"""Where records go, and whose doing it is that a project's do not."""
RESULTS = ("answered", "unreachable", "blocked")


class Gauges(NamedTuple):
    """A node as it is while its metrics are read. Peers by member id; `recovery_s` None until it was ready once."""

    role: str
    term: int
    commit_index: int
    applied_index: int
    first_index: int
    last_index: int
    installing: bool
    quorum: bool
    faults_left: int
    clock_ok: bool
    ready: bool
    recovery_s: float | None
    peers_reachable: Mapping[str, bool]
    peers_lag: Mapping[str, int]
    watchers: int
    disk_stalled_s: float
    disk_free_bytes: int
    checkpoint_index: int = 0
    halted: bool = False
    scrub_passes: int = 0
    scrub_steps: int = 0
    findings: Mapping[str, int] = {}
    policy_agrees: bool = True
    outbound_open: bool = False
    outbound_seconds_left: float = 0.0
    breakers_open: int = 0
    outbound_calls: Mapping[tuple[str, str], int] = {}
    providers_well: Mapping[str, bool] = {}
    outboxes: Mapping[str, Mapping[str, float]] = {}
    providers_counts: Mapping[str, Mapping[str, int]] = {}


class Metrics:
    """One node's metrics.

    Args:
        chart: names every transition, guard and region that may be a label.
    """

    def __init__(self, chart: Chart) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._regions = {transition.name: transition.region for transition in chart.transitions()}
        self._guards = frozenset(chart.names()["guard"])
        self._retries = dict.fromkeys(self._regions, 0)
        self._refused: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._quarantined: set[str] = set()
        self._term = 0
        self._gauges: Callable[[], Gauges] | None = None
        # The library appends `_total` to a counter's name.
        self._transitions = self._counter("swoosh_transition", "Transitions applied", "transition")
        self._guard_fails = self._counter("swoosh_guard_fail", "Refusals by a guard", "guard")
        self._quarantines = self._counter("swoosh_quarantine", "Projects that entered quarantine")
        self._elections = self._counter("swoosh_raft_elections", "Terms in which this node applied an entry")
        self._applied = self._counter("swoosh_applied_entries", "Log entries applied")
        self._latency = Histogram(
            "swoosh_state_advance_latency_seconds",
            "From receipt of a proposal to its application",
            ["region"],
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )
        for name in self._regions:
            self._transitions.labels(name)
        for region in sorted(set(self._regions.values())):
            self._latency.labels(region)
        for guard in sorted(self._guards):
            self._guard_fails.labels(guard)
        self._registry.register(_Pulled(self._pull))

    def observe(self, gauges: Callable[[], Gauges]) -> None:
        """Read `gauges` whenever the metrics are read."""
        self._gauges = gauges

    def on_applied(self, applied: Applied) -> None:
        """Count one applied entry."""
        self._applied.inc()
        if applied.position.term > self._term:
            self._term = applied.position.term
            self._elections.inc()
        for record, _ in applied.records:
            self._transitions.labels(record.transition_name).inc()
        for outcome in applied.outcomes:
            if isinstance(outcome, Accepted) and not outcome.duplicate:
                self._follow_quarantine(outcome)

    def _follow_quarantine(self, outcome: Accepted) -> None:
        if not outcome.quarantined:
            self._quarantined.discard(outcome.project)
        elif outcome.project not in self._quarantined:
            self._quarantined.add(outcome.project)
            self._quarantines.inc()

    def on_answer(self, answer: Answer, seconds: float) -> None:
        """Count the answer to a proposal that was received so many seconds before."""
        match answer:
            case Accepted(project=project, idem_key=key, transition=transition):
                if not answer.duplicate and transition in self._regions:
                    self._latency.labels(self._regions[transition]).observe(seconds)
                if self._refused.pop((project, key), 0) is None or answer.duplicate:
                    self._count_retry(transition)
            case Refused(project=project, idem_key=key, transition=transition):
                for outcome in answer.guard_outcomes:
                    if not outcome.ok and outcome.name in self._guards:
                        self._guard_fails.labels(outcome.name).inc()
                if key and (project, key) in self._refused:
                    self._count_retry(transition)
                if key:
                    self._remember(project, key)
            case _:
                pass

    def exposition(self) -> bytes:
        """The Prometheus text."""
        return prometheus_client.generate_latest(self._registry)

    def _count_retry(self, transition: str) -> None:
        if transition in self._retries:
            self._retries[transition] += 1

    def _remember(self, project: str, key: str) -> None:
        self._refused[(project, key)] = None
        self._refused.move_to_end((project, key))
        if len(self._refused) > REFUSED_KEYS_REMEMBERED:
            self._refused.popitem(last=False)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self._registry)

    def _pull(self) -> Iterator[Metric]:
        retries = _Exact(
            "swoosh_retry_count", "Duplicates answered, and repeats of a refused key", labels=["transition"]
        )
        for transition, count in self._retries.items():
            retries.add_metric([transition], count)
        yield retries
        if self._gauges is not None:
            yield from _gauges(self._gauges())


def _gauges(now: Gauges) -> Iterator[Metric]:
    def gauge(name: str, meaning: str, value: float) -> Metric:
        return GaugeMetricFamily(name, meaning, value=value)

    yield gauge("swoosh_wal_lag_records", "Committed entries not yet applied", now.commit_index - now.applied_index)
    if now.recovery_s is not None:
        yield gauge("swoosh_recovery_time_seconds", "From the last start to ready", now.recovery_s)
    role = GaugeMetricFamily("swoosh_raft_role", "1 for the role this node is in", labels=["role"])
    for name in ROLES:
        role.add_metric([name], name == now.role)
    yield role
    yield gauge("swoosh_raft_term", "Current term", now.term)
    yield gauge("swoosh_raft_commit_index", "Newest entry known to be committed", now.commit_index)
    yield gauge("swoosh_raft_applied_index", "Newest entry applied", now.applied_index)
    yield gauge("swoosh_raft_log_first_index", "Where the log begins", now.first_index)
    yield gauge("swoosh_raft_log_last_index", "Where the log ends", now.last_index)
    yield gauge("swoosh_installing", "1 while a snapshot is fetched from a peer", now.installing)
    yield gauge("swoosh_raft_quorum", "1 while a majority is heard", now.quorum)
    yield gauge("swoosh_raft_faults_left", "Members that may still fail", now.faults_left)
    yield gauge("swoosh_clock_ok", "1 while time may be judged here", now.clock_ok)
    yield gauge("swoosh_ready", "1 while this node may serve", now.ready)
    yield gauge("swoosh_checkpoint_index", "Newest entry at which a majority agreed on the state", now.checkpoint_index)
    yield gauge("swoosh_halted", "1 while no majority agrees on the state", now.halted)
    yield gauge("swoosh_scrub_passes", "Times everything stored was read since the start", now.scrub_passes)
    yield gauge("swoosh_scrub_steps", "Rows and records read in the pass under way", now.scrub_steps)
    yield gauge("swoosh_disk_stalled_seconds", "How long a sync has been waited for, 0 if none is", now.disk_stalled_s)
    yield gauge("swoosh_disk_free_bytes", "What may still be written to the store's file system", now.disk_free_bytes)
    yield gauge("swoosh_http_watchers", "Open event streams", now.watchers)
    reachable = GaugeMetricFamily("swoosh_raft_peer_reachable", "1 while the link to the peer stands", labels=["peer"])
    lag = GaugeMetricFamily("swoosh_raft_peer_lag", "Entries the peer lacks, as the leader sees it", labels=["peer"])
    for peer, stands in now.peers_reachable.items():
        reachable.add_metric([peer], stands)
        lag.add_metric([peer], now.peers_lag.get(peer, 0))
    yield reachable
    yield lag
    findings = CounterMetricFamily("swoosh_policy_findings", "Findings in requests sent here", labels=["verdict"])
    for verdict in Verdict:
        findings.add_metric([verdict], now.findings.get(verdict, 0))
    yield findings
    yield gauge("swoosh_policy_agrees", "1 while this node's policy is the one in force", now.policy_agrees)
    yield gauge("swoosh_outbound_open", "1 while the license lets traffic leave for outside systems", now.outbound_open)
    left = now.outbound_seconds_left
    yield gauge("swoosh_outbound_left_seconds", "Until the license's grace is over, if nothing more is heard", left)
    yield gauge("swoosh_outbound_breakers_open", "Addresses left alone because they kept failing", now.breakers_open)
    calls = CounterMetricFamily("swoosh_outbound_calls", "Calls to outside systems", labels=["system", "result"])
    for system, result in product(SYSTEMS, RESULTS):
        calls.add_metric([system, result], now.outbound_calls.get((system, result), 0))
    yield calls
    well = GaugeMetricFamily("swoosh_provider_ok", "1 while a provider of the leader is well", labels=["provider"])
    for name, is_well in now.providers_well.items():
        well.add_metric([name], is_well)
    yield well
    seen = CounterMetricFamily("swoosh_provider_seen", "What a provider saw since start", labels=["provider", "what"])
    for name, counts in now.providers_counts.items():
        for what, count in sorted(counts.items()):
            seen.add_metric([name, what], count)
    yield seen
    yield from _outboxes(now.outboxes)


def _outboxes(found: Mapping[str, Mapping[str, float]]) -> Iterator[Metric]:
    """At the leader alone: elsewhere nobody knows. The counters begin anew with each process."""
    backlog = GaugeMetricFamily("swoosh_outbox_backlog", "Records that the sink has not got", labels=["sink"])
    oldest = GaugeMetricFamily(
        "swoosh_outbox_oldest_seconds", "Since the oldest of them that may leave was decided", labels=["sink"]
    )
    held = GaugeMetricFamily("swoosh_outbox_held", "Projects that cannot go on", labels=["sink", "why"])
    delivered = CounterMetricFamily("swoosh_outbox_delivered", "Records that the sink took", labels=["sink"])
    failed = CounterMetricFamily("swoosh_outbox_failed", "Attempts that failed", labels=["sink"])
    for sink in (name for name in SINKS if name in found):
        numbers = found[sink]
        backlog.add_metric([sink], numbers["backlog"])
        oldest.add_metric([sink], numbers["oldest_s"])
        delivered.add_metric([sink], numbers["delivered"])
        failed.add_metric([sink], numbers["failed"])
        for why in HELD_BY:
            held.add_metric([sink, why], numbers[why])
    yield from (backlog, oldest, held, delivered, failed)


class _Exact(CounterMetricFamily):
    """A counter whose samples carry the very name it was given."""

    def add_metric(self, labels: Iterable[str], value: float) -> None:  # type: ignore[override]
        self.add_sample(self.name, dict(zip(self._labelnames, labels, strict=True)), value)


class _Pulled(Collector):
    """Metrics that are computed when they are read."""

    def __init__(self, pull: Callable[[], Iterable[Metric]]) -> None:
        self._pull = pull

    def collect(self) -> Iterable[Metric]:
        return self._pull()
