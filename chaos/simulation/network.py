"""What lies between the nodes: links that are first in, first out, late, held back, or broken.

A link is what a TCP connection is to those who use it. While packets are dropped in one direction, what is sent that
way waits, and arrives late and in order once they pass again; after the idle time both ends find the link dead, and
lose what it carried. It comes back when packets pass both ways. Nothing is ever lost or doubled on a link that stands,
and nothing crosses from a broken link to the one that replaces it: that is what the transport promises its node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from chaos.simulation.chance import Chance
from chaos.simulation.virtual import VirtualLoop
from cluster.raft import wire
from cluster.raft.transport import IDLE_SECONDS

Message = dict[str, Any]
Lane = tuple[str, str]
"""From one node to another."""

REDIAL_SECONDS = (0.05, 0.3)


class Station(Protocol):
    """One end of a link: a process that listens."""

    name: str

    def greet(self, peer: Station) -> str | None:
        """The answer to this peer's hello: None, or why it is not welcome."""
        ...

    def connected(self, peer: str) -> None: ...

    def disconnected(self, peer: str) -> None: ...

    def deliver(self, peer: str, message: Message) -> None: ...


class Network:
    """The links among stations of these names, at most one station of a name at a time."""

    def __init__(self, names: Iterable[str], loop: VirtualLoop, chance: Chance, latency: tuple[float, float]) -> None:
        self._names = tuple(names)
        self._loop, self._chance, self._latency = loop, chance, latency
        self._stations: dict[str, Station] = {}
        self._links: set[frozenset[str]] = set()
        self._epochs: dict[frozenset[str], int] = {}
        self._blocked: dict[Lane, int] = {}
        self._held: dict[Lane, list[Callable[[], None]]] = {}
        self._slow: dict[Lane, float] = {}
        self._arrival: dict[Lane, float] = {}
        self._sent: dict[Lane, int] = {}
        self._draws = 0
        self.on_delivery: Callable[[str, str, Message], None] = lambda source, target, message: None

    # --- stations -----------------------------------------------------------------------------------------------------

    def join(self, station: Station) -> None:
        """A process listens, and dials everybody."""
        self._stations[station.name] = station
        for name in self._names:
            if name != station.name:
                self._dial_soon(station.name, name)

    def leave(self, station: Station) -> None:
        """A process is gone; its kernel says so to everybody."""
        if self._stations.get(station.name) is not station:
            return
        del self._stations[station.name]
        for name in self._names:
            self._break(station.name, name)

    def station(self, name: str) -> Station | None:
        return self._stations.get(name)

    def is_up(self, a: str, b: str) -> bool:
        return frozenset((a, b)) in self._links

    def passes(self, source: str, target: str) -> bool:
        """Whether a packet gets from one node to the other now."""
        return not self._blocked.get((source, target))

    def is_clear(self, a: str, b: str) -> bool:
        """Whether a link stands, or nothing is in its way; a node to itself is clear."""
        return a == b or (self.is_up(a, b) and self.passes(a, b) and not self._slow.get((a, b)))

    # --- faults -------------------------------------------------------------------------------------------------------

    def block(self, source: str, target: str) -> None:
        """Drop packets one way, until `unblock`; blocks are counted."""
        lane = (source, target)
        self._blocked[lane] = self._blocked.get(lane, 0) + 1
        epoch = self._epochs.get(frozenset(lane), 0)
        self._loop.call_later(IDLE_SECONDS, self._find_dead, lane, epoch)

    def unblock(self, source: str, target: str) -> None:
        lane = (source, target)
        if not self._blocked.get(lane):
            return
        self._blocked[lane] -= 1
        if self._blocked[lane]:
            return
        for deliver in self._held.pop(lane, []):
            deliver()
        self._dial_soon(source, target)

    def slow_down(self, source: str, target: str, seconds: float) -> None:
        """Everything one way takes so much longer, from now on."""
        self._slow[source, target] = seconds

    def reset(self, a: str, b: str) -> None:
        """The link breaks, and is dialled anew."""
        self._break(a, b)
        self._dial_soon(a, b)

    def heal(self) -> None:
        """Every packet passes, as fast as ever."""
        self._slow.clear()
        for lane in list(self._blocked):
            self._blocked[lane] = min(self._blocked[lane], 1)
            self.unblock(*lane)
        for a in self._names:
            for b in self._names:
                if a < b:
                    self._dial_soon(a, b)

    def _find_dead(self, lane: Lane, epoch: int) -> None:
        """The receiver has heard nothing for the idle time."""
        pair = frozenset(lane)
        if self._blocked.get(lane) and self._epochs.get(pair, 0) == epoch:
            self._break(*lane)

    # --- links --------------------------------------------------------------------------------------------------------

    def _dial_soon(self, a: str, b: str) -> None:
        self._draws += 1
        pause = self._chance.between(*REDIAL_SECONDS, "dial", a, b, self._draws)
        self._loop.call_later(pause, self._dial, a, b)

    def _dial(self, a: str, b: str) -> None:
        first, second, pair = self._stations.get(a), self._stations.get(b), frozenset((a, b))
        if first is None or second is None or pair in self._links:
            return
        if not (self.passes(a, b) and self.passes(b, a)):
            return
        if first.greet(second) is not None or second.greet(first) is not None:
            self._loop.call_later(REDIAL_SECONDS[1], self._dial, a, b)
            return
        if self._stations.get(a) is not first or self._stations.get(b) is not second:
            return  # the hello ended one of them
        self._links.add(pair)
        self._epochs[pair] = self._epochs.get(pair, 0) + 1
        first.connected(b)
        if pair in self._links:
            second.connected(a)

    def _break(self, a: str, b: str) -> None:
        pair = frozenset((a, b))
        self._epochs[pair] = self._epochs.get(pair, 0) + 1
        self._held.pop((a, b), None)
        self._held.pop((b, a), None)
        if pair in self._links:
            self._links.discard(pair)
            for name, peer in ((a, b), (b, a)):
                if name in self._stations:
                    self._stations[name].disconnected(peer)

    # --- messages -----------------------------------------------------------------------------------------------------

    def transmit(self, source: str, target: str, message: Message) -> bool:
        """Send on a link that stands; False where there is none."""
        pair, lane = frozenset((source, target)), (source, target)
        if pair not in self._links:
            return False
        copied = wire.decode(wire.encode(message)[4:])
        epoch = self._epochs[pair]

        def deliver() -> None:
            station = self._stations.get(target)
            if station is None or epoch != self._epochs[pair]:
                return
            if not self.passes(source, target):
                self._held.setdefault(lane, []).append(deliver)
                return
            self.on_delivery(source, target, copied)
            station.deliver(source, copied)

        self._loop.call_at(self._arrives(lane), deliver)
        return True

    def _arrives(self, lane: Lane) -> float:
        count = self._sent[lane] = self._sent.get(lane, 0) + 1
        late = self._chance.between(*self._latency, "message", *lane, count) + self._slow.get(lane, 0.0)
        arrival = max(self._loop.time() + late, self._arrival.get(lane, 0.0) + 1e-6)
        self._arrival[lane] = arrival
        return arrival
