"""Who sends too much waits, nobody else does, and nothing of it is kept. Time is a test's to move."""

from typing import Any

import pytest

from cluster.clock import ManualClock
from cluster.http import rate
from cluster.http.rate import Buckets, network
from swoosh import canonical
from tests.http.conftest import Caller, Reply, Serve
from tests.http.desk import Desk
from tests.http.test_transition import signed_batch


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_a_bucket_holds_what_comes_in_a_second(clock: ManualClock) -> None:
    buckets = Buckets(10, clock)
    assert [buckets.take("a", 1) for _ in range(10)] == [0.0] * 10
    assert buckets.take("a", 1) == pytest.approx(0.1)
    assert buckets.take("b", 1) == 0.0
    clock.advance(0.3)
    assert buckets.take("a", 3) == 0.0
    assert buckets.take("a", 2) == pytest.approx(0.2)
    clock.advance(3600)
    assert buckets.take("a", 10) == 0.0
    assert buckets.take("a", 1) > 0, "idle hours fill a bucket once"


def test_to_be_refused_costs_nothing(clock: ManualClock) -> None:
    buckets = Buckets(10, clock)
    buckets.take("a", 10)
    assert [buckets.take("a", 5) for _ in range(100)] == pytest.approx([0.5] * 100)
    clock.advance(0.5)
    assert buckets.take("a", 5) == 0.0


def test_a_batch_larger_than_the_bucket_passes_a_full_one_and_is_paid_for_afterwards(clock: ManualClock) -> None:
    buckets = Buckets(10, clock)
    assert buckets.take("a", 50) == 0.0
    assert buckets.take("a", 1) == pytest.approx(4.1)
    assert buckets.take("a", 50) == pytest.approx(5.0)
    clock.advance(5)
    assert buckets.take("a", 50) == 0.0


def test_a_rate_of_0_refuses_nobody_and_keeps_nothing(clock: ManualClock) -> None:
    buckets = Buckets(0, clock)
    assert buckets.take("a", 1_000_000) == 0.0
    assert len(buckets) == 0


def test_the_keys_kept_are_bounded_and_the_busiest_stay(clock: ManualClock) -> None:
    buckets = Buckets(1, clock)
    for number in range(rate.KEYS_MAX + 100):
        buckets.take(f"{number}", 1)
        buckets.take("busy", 1)
    assert len(buckets) == rate.KEYS_MAX
    assert buckets.take("busy", 1) > 0
    assert buckets.take("0", 1) == 0.0


@pytest.mark.parametrize(
    ("address", "caller"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("", ""),
    ],
)
def test_an_ipv6_caller_is_his_whole_network(address: str, caller: str) -> None:
    assert network(address) == caller


# --- over HTTP --------------------------------------------------------------------------------------------------------


def check_throttled(reply: Reply, seconds: int) -> None:
    assert (reply.status, reply.body["code"]) == (429, "RATE_LIMITED"), reply.text
    assert reply.headers["Retry-After"] == str(seconds)
    assert reply.body["admitted"] is False and reply.body["retryable"] is True


async def test_a_signer_that_sends_too_much_waits_as_long_as_it_is_told(clock: ManualClock, serve: Serve) -> None:
    desk = Desk(clock=clock, rate_per_signer=2)
    ask = await serve(desk)
    for name in ("a1", "b2"):
        assert (await ask.post("/transition", desk.created(name))).status == 200
    index, one_more = desk.machine.position.index, desk.created("c3")
    check_throttled(await ask.post("/transition", one_more), 1)
    assert desk.machine.position.index == index and not desk.store.refused, "nothing may be stored"
    clock.advance(0.5)
    assert (await ask.post("/transition", one_more)).status == 200


async def test_another_signer_is_not_kept_waiting(clock: ManualClock, serve: Serve) -> None:
    desk = Desk(clock=clock, rate_per_signer=1)
    ask = await serve(desk)
    assert (await ask.post("/transition", desk.created("a1"))).status == 200
    check_throttled(await ask.post("/transition", desk.created("b2")), 1)
    other = await ask.post("/transition", desk.created("b2", by="operator"))
    assert other.status in (200, 403), other.text


async def test_a_false_signature_does_not_spend_the_share_of_whom_it_names(clock: ManualClock, serve: Serve) -> None:
    desk = Desk(clock=clock, rate_per_signer=1)
    ask = await serve(desk)
    forged = {**desk.created("a1"), "signature": "A" * 86}
    for _ in range(5):
        assert (await ask.post("/transition", forged)).status == 401
    assert (await ask.post("/transition", desk.created("a1"))).status == 200


async def test_a_signed_batch_counts_its_proposals_and_is_refused_whole(clock: ManualClock, serve: Serve) -> None:
    desk = Desk(clock=clock, rate_per_signer=3)
    ask = await serve(desk)

    def batch(*names: str) -> dict[str, Any]:
        return signed_batch(desk, [desk.draft("PROJECT_CREATED", name, project=name) for name in names])

    assert (await ask.post("/transitions", batch("a1", "b2"))).status == 200
    check_throttled(await ask.post("/transitions", batch("c3", "d4")), 1)
    assert (await ask.post("/transitions", batch("c3"))).status == 200


async def test_in_an_array_each_signer_has_its_share(clock: ManualClock, serve: Serve) -> None:
    desk = Desk(clock=clock, rate_per_signer=2)
    ask = await serve(desk)
    reply = await ask.post("/transitions", [desk.created(name) for name in ("a1", "b2", "c3")])
    assert reply.status == 200
    assert [each["status"] for each in reply.body["outcomes"]] == [200, 200, 429]
    assert desk.machine.project("c3") is None


async def test_an_address_that_sends_too_much_waits_whoever_signs(clock: ManualClock, serve: Serve) -> None:
    desk = Desk(clock=clock, rate_per_ip=2)
    ask = await serve(desk)
    assert (await ask.post("/transition", b"nonsense")).status == 400
    assert (await ask.post("/transition", desk.created("a1"))).status == 200
    for path, body in {
        "/transition": desk.created("b2"),
        "/transitions": [desk.created("b2")],
        "/admin/facts": desk.fact("capacity", "default", {"units_free": 7}),
        "/admin/snapshot": desk.order("snapshot"),
    }.items():
        check_throttled(await ask.post(path, body), 1)
    assert (await ask.get("/state")).status == 200, "reads are not counted"
    assert desk.snapshots.asked == 0 and desk.machine.project("b2") is None


async def test_an_array_counts_its_members_for_its_address(clock: ManualClock, serve: Serve) -> None:
    desk = Desk(clock=clock, rate_per_ip=4)
    ask = await serve(desk)
    lines = b"\n".join(canonical.encode(desk.created(name)) for name in ("a1", "b2", "c3"))
    reply = await ask.post("/transitions", lines, headers={"Content-Type": "application/x-ndjson"})
    assert reply.status == 200
    check_throttled(await ask.post("/transitions", [desk.created("d4"), desk.created("e5")]), 1)
    assert desk.machine.project("d4") is None


async def test_a_body_that_is_not_read_does_not_break_the_connection(clock: ManualClock, serve: Serve) -> None:
    desk = Desk(clock=clock, rate_per_ip=1)
    ask: Caller = await serve(desk)
    assert (await ask.post("/transition", desk.created("a1"))).status == 200
    check_throttled(await ask.post("/transition", b" " * 200_000), 1)
    assert (await ask.get("/health/live")).status == 200
