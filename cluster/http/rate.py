"""How much one caller may send to this node: token buckets on its clock, per address and per signer.

An address is charged before its request is judged, because judging is what costs. A signer is charged only for what
its own signature proved: if a name were enough, anybody could spend another's share. Who is refused here has been told
nothing about the proposal, and nothing of it is kept. Each node counts what it is sent itself; a forwarded proposal was
charged where it came in.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from math import ceil

from aiohttp import web

from cluster.answers import Unavailable
from cluster.clock import Clock
from swoosh.outcome import Code

KEYS_MAX = 16_384
ROUNDING_SECONDS = 1e-9


class Buckets:
    """One bucket for each key: it holds what comes in a second, `rate` tokens. A rate of 0 refuses nobody.

    What is kept of a bucket is the instant at which it will be full again; one that is full is as good as none. Beyond
    `KEYS_MAX` keys the bucket touched longest ago is forgotten, so that who invents keys fills no memory.
    """

    def __init__(self, rate: int, clock: Clock) -> None:
        self.rate = rate
        self._clock = clock
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str, count: int) -> float:
        """Take `count` tokens: 0.0, or in how many seconds there will be enough, and then none was taken.

        More than a bucket holds are taken from a full one, which owes the rest: a batch larger than the rate passes,
        and what follows it waits.
        """
        if not self.rate:
            return 0.0
        now = self._clock.monotonic()
        full_at = max(self._full_at.pop(key, now), now)
        wait = full_at - now + min(count / self.rate, 1.0) - 1.0
        refused = wait > ROUNDING_SECONDS
        self._full_at[key] = full_at if refused else full_at + count / self.rate
        if len(self._full_at) > KEYS_MAX:
            del self._full_at[next(iter(self._full_at))]
        return wait if refused else 0.0


@dataclass(frozen=True, slots=True)
class Meters:
    """The buckets of one listener."""

    address: Buckets
    signer: Buckets


METERS = web.AppKey("meters", Meters)


class Throttled(Exception):
    """A request is refused whole, with this answer."""

    def __init__(self, answer: Unavailable) -> None:
        super().__init__(answer.reason)
        self.answer = answer


def charge(request: web.Request, count: int) -> None:
    """Charge the address of a request for `count` proposals.

    Raises:
        Throttled: it sent too many.
    """
    buckets, caller = request.app[METERS].address, network(request.remote or "")
    wait = buckets.take(caller, count)
    if wait:
        raise Throttled(too_many(caller, buckets, wait))


def too_many(who: str, buckets: Buckets, wait: float) -> Unavailable:
    """The answer to one who has to wait so many seconds. Never in the log, so certainly not applied."""
    seconds = ceil(wait)
    reason = f"{who[:120]} may send {buckets.rate} proposals a second to this node; there is room in {seconds} s"
    return Unavailable(Code.RATE_LIMITED, admitted=False, reason=reason, retry_after_s=seconds)


def network(address: str) -> str:
    """What counts as one caller: an IPv4 address, or the /64 an IPv6 host chooses its addresses from (RFC 4291)."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    return str(found.ipv4_mapped or f"{IPv6Address(int(found) >> 64 << 64)}/64")
