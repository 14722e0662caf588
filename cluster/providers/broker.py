"""The seam between a provider and a message broker, and its twin in memory.

A line is one connection, opened on request and never again by itself: when to connect, whether anything may leave, and
what to do when the line is lost is for the provider to say. The real one is in `cluster.providers.nats`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from cluster.egress import Unreachable, address_of

Hear = Callable[[bytes], None]
"""Called with each message that comes in; must neither block nor raise."""


class Access(NamedTuple):
    """How a broker is approached: what the file of names and passwords holds, whom to trust, and as whom."""

    login: str = ""
    authorities: Path | None = None
    certificate: Path | None = None
    certificate_key: str = ""


class Line(Protocol):
    """A connection to a broker, until it is closed or lost."""

    @property
    def lost(self) -> str | None:
        """Why the line is no more; None while it stands."""
        ...

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str]) -> None:
        """Send a message. Whether it arrives is not known.

        Raises:
            Unreachable: the line is lost.
        """
        ...

    async def close(self) -> None:
        """End it; raises nothing."""
        ...


class Broker(Protocol):
    """What can be connected to."""

    async def connect(self, url: str, subjects: Sequence[str], hear: Hear) -> Line:
        """A line on which everything said on these subjects is heard.

        Raises:
            Unreachable: there is none to be had.
        """
        ...


class Said(NamedTuple):
    """A message that was published."""

    subject: str
    data: bytes
    headers: Mapping[str, str]


class MemoryBroker:
    """A broker that a test or the simulation speaks through. Down, it loses every line and takes no new one."""

    def __init__(self) -> None:
        self.said: list[Said] = []
        """What came in over lines, oldest first."""
        self.lines: list[MemoryLine] = []
        """Those that stand."""
        self._up = True

    async def connect(self, url: str, subjects: Sequence[str], hear: Hear) -> Line:
        """As `Broker.connect`."""
        if not self._up:
            raise Unreachable(f"{address_of(url)}: connection refused")
        self.lines.append(MemoryLine(self, tuple(subjects), hear))
        return self.lines[-1]

    def say(self, subject: str, data: bytes) -> None:
        """Everyone who listens hears it."""
        for line in list(self.lines):
            if subject in line.subjects:
                line.hear(data)

    def stop(self) -> None:
        """The broker goes down."""
        self._up = False
        for line in self.lines:
            line.lost = "the broker went down"
        self.lines.clear()

    def start(self) -> None:
        """It is back."""
        self._up = True


class MemoryLine:
    """A line to `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker, subjects: tuple[str, ...], hear: Hear) -> None:
        self._broker, self.subjects, self.hear = broker, subjects, hear
        self.lost: str | None = None

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str]) -> None:
        """As `Line.publish`."""
        if self.lost is not None:
            raise Unreachable(self.lost)
        self._broker.said.append(Said(subject, data, headers))

    async def close(self) -> None:
        """As `Line.close`."""
        if self.lost is None:
            self.lost = "closed"
            self._broker.lines.remove(self)
