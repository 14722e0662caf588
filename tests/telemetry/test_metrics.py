"""The exposition, sample by sample: the brief's names and label sets exactly, and nothing a caller could blow up."""

import re
from collections import Counter
from collections.abc import Sequence

from cluster.telemetry.metrics import Gauges, Metrics
from swoosh.machine import Applied, Position
from swoosh.outcome import Accepted, Code, GuardOutcome, Refused
from swoosh.wal import WalRecord
from tests.http.desk import CHART

BRIEF = {
    "swoosh_transition_total": ("transition",),
    "swoosh_guard_fail_total": ("guard",),
    "swoosh_state_advance_latency_seconds_bucket": ("le", "region"),
    "swoosh_state_advance_latency_seconds_sum": ("region",),
    "swoosh_state_advance_latency_seconds_count": ("region",),
    "swoosh_retry_count": ("transition",),
    "swoosh_quarantine_total": (),
    "swoosh_recovery_time_seconds": (),
    "swoosh_wal_lag_records": (),
}
GAUGES = Gauges(
    *("leader", 3, 10, 8, 5, 12, False, True, 1, True, True, 0.5),
    *({"n2": True, "n3": False}, {"n2": 0, "n3": 4}, 2, 0.4, 1 << 30),
)


def samples(metrics: Metrics) -> dict[str, float]:
    """{`name{labels}`: value} of the exposition."""
    lines = metrics.exposition().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def accepted(transition: str = "PROJECT_CREATED", **changes: object) -> Accepted:
    fields = {"project": "p", "transition": transition, "idem_key": "k", "hlc": "h", "index": 1, "seq": 1,
              "state_pre_hash": "a", "state_post_hash": "b", "record_hash": "r", "decision": "d"}  # fmt: skip
    return Accepted(**(fields | changes))  # type: ignore[arg-type]


def refused(code: Code = Code.GUARD_REJECTED, guards: Sequence[str] = (), **changes: object) -> Refused:
    fields = {"project": "p", "transition": "PROJECT_CREATED", "idem_key": "k",
              "guard_outcomes": tuple(GuardOutcome(name, False, ("no",)) for name in guards)}  # fmt: skip
    return Refused(code, ("no",), **(fields | changes))  # type: ignore[arg-type]


def record(transition: str) -> WalRecord:
    return WalRecord(1, 1, 1, "p", "meta", "a", transition, "i", "s", "", "k", "h", "", (), (), 1, {}, "b", "")


def applied(*outcomes: Accepted, term: int = 1) -> Applied:
    records = tuple((record(outcome.transition), b"{}") for outcome in outcomes)
    return Applied(Position(1, term, 1), outcomes, records=records)


def metrics() -> Metrics:
    made = Metrics(CHART)
    made.observe(lambda: GAUGES)
    return made


def test_the_brief_s_samples_are_there_under_exactly_their_names_and_labels() -> None:
    found: dict[str, set[tuple[str, ...]]] = {}
    for sample in samples(metrics()):
        name, _, labels = sample.partition("{")
        found.setdefault(name, set()).add(tuple(sorted(re.findall(r'(\w+)="', labels))))
    for name, expected in BRIEF.items():
        assert found.get(name) == {expected}, name


def test_no_sample_carries_a_suffix_nobody_asked_for() -> None:
    names = {sample.partition("{")[0] for sample in samples(metrics())}
    assert not [name for name in names if name.endswith("_created") or name == "swoosh_retry_count_total"]
    assert all(name.startswith("swoosh_") for name in names)


def test_series_exist_from_the_start_for_every_transition_guard_and_region() -> None:
    found = samples(metrics())
    for transition in CHART.transitions():
        assert found[f'swoosh_transition_total{{transition="{transition.name}"}}'] == 0
        assert found[f'swoosh_retry_count{{transition="{transition.name}"}}'] == 0
    for guard in CHART.names()["guard"]:
        assert found[f'swoosh_guard_fail_total{{guard="{guard}"}}'] == 0


def test_applying_counts_transitions_terms_and_entries() -> None:
    made = metrics()
    made.on_applied(applied(accepted(), accepted("EXECUTION_BEGUN")))
    made.on_applied(applied(accepted(), term=2))
    found = samples(made)
    assert found['swoosh_transition_total{transition="PROJECT_CREATED"}'] == 2
    assert found["swoosh_applied_entries_total"] == 2 and found["swoosh_raft_elections_total"] == 2


def test_a_project_enters_quarantine_once() -> None:
    made = metrics()
    for quarantined in (True, True, False, True):
        made.on_applied(applied(accepted("POLICY_UPDATED", quarantined=quarantined)))
    assert samples(made)["swoosh_quarantine_total"] == 2


def test_latency_is_filed_under_the_region() -> None:
    made = metrics()
    made.on_answer(accepted("EXECUTION_PLAN_LOCKED"), 0.02)
    made.on_answer(accepted("EXECUTION_PLAN_LOCKED", duplicate=True), 0.02)
    assert samples(made)['swoosh_state_advance_latency_seconds_count{region="execution"}'] == 1


def test_every_guard_that_refused_counts() -> None:
    made = metrics()
    made.on_answer(refused(guards=("authorised", "policy_clear")), 0.0)
    found = samples(made)
    assert found['swoosh_guard_fail_total{guard="policy_clear"}'] == 1
    assert found['swoosh_guard_fail_total{guard="authorised"}'] == 1


def test_duplicates_and_repeats_of_a_refused_key_are_retries() -> None:
    made = metrics()
    retries = 'swoosh_retry_count{transition="PROJECT_CREATED"}'
    made.on_answer(accepted(idem_key="a"), 0.0)
    assert samples(made)[retries] == 0
    made.on_answer(accepted(idem_key="a", duplicate=True), 0.0)
    assert samples(made)[retries] == 1
    made.on_answer(refused(idem_key="b"), 0.0)
    made.on_answer(refused(idem_key="b"), 0.0)
    made.on_answer(accepted(idem_key="b"), 0.0)
    made.on_answer(accepted(idem_key="c"), 0.0)
    assert samples(made)[retries] == 3


def test_what_callers_invent_makes_no_series() -> None:
    made = metrics()
    before = set(samples(made))
    for number in range(10):
        made.on_answer(refused(transition=f"EVIL_{number}", guards=(f"evil_{number}",)), 0.0)
        made.on_answer(accepted(transition=f"EVIL_{number}", duplicate=True), 0.0)
    assert set(samples(made)) == before


def test_gauges_are_read_when_the_metrics_are() -> None:
    found = samples(metrics())
    assert found["swoosh_wal_lag_records"] == 2 and found["swoosh_recovery_time_seconds"] == 0.5
    assert found['swoosh_raft_role{role="leader"}'] == 1 and found['swoosh_raft_role{role="follower"}'] == 0
    assert found['swoosh_raft_peer_lag{peer="n3"}'] == 4 and found['swoosh_raft_peer_reachable{peer="n3"}'] == 0


def test_nodes_of_one_process_do_not_share_counts() -> None:
    one, other = metrics(), metrics()
    one.on_applied(applied(accepted()))
    assert samples(other)['swoosh_transition_total{transition="PROJECT_CREATED"}'] == 0


def test_what_providers_saw_is_counted_by_kind() -> None:
    metrics = Metrics(CHART)
    metrics.observe(lambda: GAUGES._replace(providers_counts={"backbeat": Counter(late=2, beat=7)}))
    found = samples(metrics)
    assert found['swoosh_provider_seen_total{provider="backbeat",what="late"}'] == 2
    assert found['swoosh_provider_seen_total{provider="backbeat",what="beat"}'] == 7
