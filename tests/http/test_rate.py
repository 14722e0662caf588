"""Who sends too much waits, nobody else does, and nothing of it is kept. Time is a test's to move."""

from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from cluster.clock import ManualClock
from cluster.http import rate
from cluster.http.rate import Buckets, client_address, network
from cluster.http.request import NODE
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


def test_a_bucket_may_hold_what_comes_in_a_minute(clock: ManualClock) -> None:
    buckets = Buckets(100, clock, 60.0)
    assert [buckets.take("a", 1) for _ in range(100)] == [0.0] * 100
    assert buckets.take("a", 1) == pytest.approx(0.6)
    clock.advance(0.6)
    assert buckets.take("a", 1) == 0.0
    assert buckets.take("a", 100) == pytest.approx(60.0)


@given(
    rate_=st.integers(1, 200),
    period=st.sampled_from([1.0, 60.0, 3600.0]),
    steps=st.lists(st.tuples(st.floats(0, 100, allow_nan=False), st.integers(1, 50)), max_size=60),
)
def test_nobody_gets_more_than_a_bucket_and_what_came_since(
    rate_: int, period: float, steps: list[tuple[float, int]]
) -> None:
    clock = ManualClock()
    buckets = Buckets(rate_, clock, period)
    granted: list[tuple[float, int]] = []
    for pause, asked_for in steps:
        clock.advance(pause)
        count = min(asked_for, rate_)
        wait = buckets.take("a", count)
        assert 0.0 <= wait <= period + 1e-6
        if not wait:
            granted.append((clock.monotonic(), count))
            for since, _ in granted:
                taken = sum(each for at, each in granted if at >= since)
                assert taken <= rate_ + rate_ * (clock.monotonic() - since) / period + 1e-3
        else:
            clock.advance(wait)
            assert buckets.take("a", count) == 0.0, "who waits as long as he is told is served"
            granted.append((clock.monotonic(), count))


# --- whose address ----------------------------------------------------------------------------------------------------

TRUSTED = ("10.0.0.0/8", "192.0.2.1", "fd00::/8")


def asked(peer: str | None, *forwarded: str, trusted: tuple[str, ...] = TRUSTED) -> str:
    """The address of a request that comes from `peer` with these lines of X-Forwarded-For."""
    app = web.Application()
    config = SimpleNamespace(trusted_proxies=tuple(map(ip_network, trusted)))
    app[NODE] = SimpleNamespace(config=config)  # type: ignore[misc]
    transport = Mock(**{"get_extra_info.side_effect": lambda name: (peer, 1) if peer and name == "peername" else None})
    headers = CIMultiDict([("X-Forwarded-For", line) for line in forwarded])
    return client_address(make_mocked_request("GET", "/", headers, app=app, transport=transport))


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("203.0.113.9", (), "203.0.113.9"),
        ("203.0.113.9", ("198.51.100.1",), "203.0.113.9"),
        ("10.0.0.1", ("198.51.100.1",), "198.51.100.1"),
        ("::ffff:10.0.0.1", ("198.51.100.1",), "198.51.100.1"),
        ("fd00::1", ("2001:db8::7",), "2001:db8::7"),
        ("10.0.0.1", ("1.1.1.1, 198.51.100.1",), "198.51.100.1"),
        ("10.0.0.1", ("1.1.1.1", "198.51.100.1"), "198.51.100.1"),
        ("10.0.0.1", ("198.51.100.1, 192.0.2.1,10.2.3.4",), "198.51.100.1"),
        ("10.0.0.1", ("10.9.9.9, 10.2.3.4",), "10.9.9.9"),
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("",), "10.0.0.1"),
        ("10.0.0.1", ("198.51.100.1, unknown",), "10.0.0.1"),
        ("10.0.0.1", ("198.51.100.1, evil.example, 192.0.2.1",), "192.0.2.1"),
        (None, ("198.51.100.1",), ""),
    ],
)
def test_only_what_trusted_proxies_added_says_whose_request_it_is(
    peer: str | None, forwarded: tuple[str, ...], found: str
) -> None:
    assert asked(peer, *forwarded) == found


@given(st.lists(st.sampled_from(["10.0.0.7", "198.51.100.9", "x", "", "::1", "10.0.0.0/8"]), max_size=5))
def test_what_a_client_writes_himself_changes_nothing(lies: list[str]) -> None:
    assert asked("10.0.0.1", ",".join([*lies, "198.51.100.1"])) == "198.51.100.1"
    assert asked("203.0.113.9", ",".join([*lies, "198.51.100.1"])) == "203.0.113.9"
    assert asked("10.0.0.1", ",".join([*lies, "198.51.100.1"]), trusted=()) == "10.0.0.1"


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


async def test_callers_behind_a_trusted_proxy_have_a_share_each(clock: ManualClock, serve: Serve) -> None:
    desk = Desk(clock=clock, rate_per_ip=1, trusted_proxies=("127.0.0.0/8",))
    ask = await serve(desk)
    ada, bob = {"X-Forwarded-For": "198.51.100.1"}, {"X-Forwarded-For": "198.51.100.2"}
    assert (await ask.post("/transition", desk.created("a1"), headers=ada)).status == 200
    refused = await ask.post("/transition", desk.created("b2"), headers=ada)
    check_throttled(refused, 1)
    assert "198.51.100.1" in refused.body["reasons"][0]
    assert (await ask.post("/transition", desk.created("b2"), headers=bob)).status == 200


async def test_a_caller_cannot_get_a_share_for_each_lie(clock: ManualClock, serve: Serve) -> None:
    desk = Desk(clock=clock, rate_per_ip=1, trusted_proxies=("192.0.2.1",))
    ask = await serve(desk)
    for number, status in enumerate((200, 429, 429)):
        lie = {"X-Forwarded-For": f"198.51.100.{number}"}
        assert (await ask.post("/transition", desk.created(f"p{number}"), headers=lie)).status == status
