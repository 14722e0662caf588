"""How much one caller may send to this node: token buckets on its clock, per address, per signer, and per caller of
WHOOSH's routes.

An address is charged before its request is judged, because judging is what costs. A signer is charged only for what
its own signature proved, and a caller for what his token proved: if a name were enough, anybody could spend another's
share. Who is refused here has been told nothing about the proposal, and nothing of it is kept. Each node counts what it
is sent itself; a forwarded proposal was charged where it came in.

The address is that of the connection, unless a proxy that is trusted says for whom it asks. A header of anybody else
is never believed: with it he could spend another's share, and have one of his own for each lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from math import ceil

from aiohttp import web

from cluster.answers import Unavailable
from cluster.clock import Clock
from cluster.http.request import NODE
from swoosh.outcome import Code

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

KEYS_MAX = 16_384
MINUTE_SECONDS = 60.0
ROUNDING_SECONDS = 1e-9


class Buckets:
    """One bucket for each key: it holds what comes in a period, `rate` tokens. A rate of 0 refuses nobody.

    What is kept of a bucket is the instant at which it will be full again; one that is full is as good as none. Beyond
    `KEYS_MAX` keys the bucket touched longest ago is forgotten, so that who invents keys fills no memory.
    """

    def __init__(self, rate: int, clock: Clock, period: float = 1.0) -> None:
        """`period` in seconds."""
        self.rate = rate
        self._period = period
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
        cost = count * self._period / self.rate
        wait = full_at - now + min(cost, self._period) - self._period
        refused = wait > ROUNDING_SECONDS
        self._full_at[key] = full_at if refused else full_at + cost
        if len(self._full_at) > KEYS_MAX:
            del self._full_at[next(iter(self._full_at))]
        return wait if refused else 0.0


@dataclass(frozen=True, slots=True)
class Meters:
    """The buckets of one listener."""

    address: Buckets
    signer: Buckets
    caller: Buckets


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
    buckets, caller = request.app[METERS].address, network(client_address(request))
    wait = buckets.take(caller, count)
    if wait:
        raise Throttled(too_many(caller, f"{buckets.rate} proposals a second", wait))


def charge_caller(request: web.Request, name: str) -> None:
    """Charge who asks one of WHOOSH's routes for something: by name, or by address where a token proved none.

    Raises:
        Throttled: he asked too often.
    """
    buckets = request.app[METERS].caller
    caller = f"caller {name}" if name else network(client_address(request))
    wait = buckets.take(caller, 1)
    if wait:
        raise Throttled(too_many(caller, f"{buckets.rate} requests of WHOOSH's a minute", wait))


def too_many(who: str, share: str, wait: float) -> Unavailable:
    """The answer to one who has to wait so many seconds. Never in the log, so certainly not applied."""
    seconds = ceil(wait)
    reason = f"{who[:120]} may send {share} to this node; there is room in {seconds} s"
    return Unavailable(Code.RATE_LIMITED, admitted=False, reason=reason, retry_after_s=seconds)


# --- whose request it is ----------------------------------------------------------------------------------------------


def client_address(request: web.Request) -> str:
    """The address a request comes from, as text; empty where the connection has none.

    Each proxy adds to `X-Forwarded-For` on the right whom it asks for. So the list is read from there, for as long as
    whoever added an entry is trusted; what a client wrote into it himself lies to the left, and is never reached.
    """
    trusted = request.app[NODE].config.trusted_proxies
    peer = _address(request.remote or "")
    if peer is None or not _is_in(peer, trusted):
        return request.remote or ""
    nearest = peer
    for text in reversed(",".join(request.headers.getall("X-Forwarded-For", ())).split(",")):
        found = _address(text.strip())
        if found is None:
            break
        nearest = found
        if not _is_in(found, trusted):
            break
    return str(nearest)


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in each for each in networks)


def _address(text: str) -> Address | None:
    """An IPv4 address that is written as an IPv6 one is the IPv4 address."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def network(address: str) -> str:
    """What counts as one caller: an IPv4 address, or the /64 an IPv6 host chooses its addresses from (RFC 4291)."""
    found = _address(address)
    if isinstance(found, IPv6Address):
        return f"{IPv6Address(int(found) >> 64 << 64)}/64"
    return address if found is None else str(found)
