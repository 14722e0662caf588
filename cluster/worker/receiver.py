"""An effect receiver that provisions directories: what carries out the environment's saga outside the cluster.

It does what docs/reference/effect-hooks.md asks of any receiver, and is small enough to be read as its example:

* A request is written to the ledger, and synced, before anything is done about it. After a crash the last request of
  each asset is carried out again, which changes nothing where it had been.
* A request that is behind what was seen for its asset, in term or in index, is fenced: a leader that was deposed, or a
  call that was long on its way, changes nothing.
* The last request again gets the same receipt again, and is no second line in the ledger.

It must never take a name for a path: what a caller calls an asset says nothing about where it lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import msgspec
from msgspec import Meta

from cluster import faults
from swoosh import canonical
from swoosh.errors import Malformed
from swoosh.hashing import digest
from swoosh.inputs import Count, Word, check_names
from swoosh.proposal import project_id

Number = Annotated[int, Meta(ge=0)]


class Request(msgspec.Struct, frozen=True):
    """What a leader asks for. Members it does not know are ignored."""

    cluster_id: Word
    project: str
    asset: str
    kind: Word
    units: Count
    effect: Word
    action: Literal["provision", "revert"]
    term: Number
    index: Number

    def __post_init__(self) -> None:
        check_names("asset", self.asset)

    @property
    def receipt(self) -> str:
        """The same for the same effect, whoever asks for it how often."""
        names = {"cluster_id": self.cluster_id, "project": self.project, "asset": self.asset}
        return digest("receipt", {**names, "effect": self.effect, "action": self.action})


class Ledger(Protocol):
    """Lines that are durable once `append` has returned."""

    def __iter__(self) -> Iterator[bytes]: ...

    def append(self, line: bytes) -> None: ...


class Ground(Protocol):
    """Where assets stand. Both changes may be repeated."""

    def build(self, project: str, asset: str) -> None: ...

    def clear(self, project: str, asset: str) -> None: ...

    def fault(self, project: str, asset: str) -> tuple[Literal["amber", "red"], str] | None:
        """What is wrong with an asset that should stand."""
        ...


class Answer(NamedTuple):
    """An HTTP status and the document that goes with it."""

    status: int
    document: dict[str, Any]


class Receiver:
    """The receiver of one cluster: the first that asks."""

    def __init__(self, ledger: Ledger, ground: Ground, units: int) -> None:
        """Takes up where the ledger stands. ``units`` is all there is to give.

        Raises:
            ValueError: a line of the ledger is no request.
        """
        self._ledger, self._ground, self._units = ledger, ground, units
        self._last: dict[tuple[str, str], Request] = {}
        for number, line in enumerate(ledger, 1):
            try:
                self._take(msgspec.json.decode(line, type=Request))
            except msgspec.DecodeError as error:
                raise ValueError(f"line {number} of the ledger: {error}") from None
        for request in self._last.values():
            self._carry_out(request)

    def effect(self, body: bytes) -> Answer:
        """``POST /effects``."""
        try:
            request = msgspec.json.decode(body, type=Request)
            project_id(request.project)
        except (msgspec.DecodeError, Malformed) as error:
            return Answer(400, {"error": str(error)})
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        if not self._is_repeated(request):
            self._ledger.append(canonical.encode(msgspec.to_builtins(request)))
        self._take(request)
        faults.failpoint("receiver.written")
        self._carry_out(request)
        faults.failpoint("receiver.done")
        return Answer(200, {"receipt": request.receipt})

    def capacity(self) -> Answer:
        """``GET /capacity``."""
        return Answer(200, {"units_free": max(0, self._units - self._used())})

    def health(self, project: str) -> Answer:
        """``GET /health/{project}``: as bad as its worst asset."""
        assets = sorted(name for (owner, name) in self._standing() if owner == project)
        faults_seen = [seen for seen in (self._ground.fault(project, name) for name in assets) if seen is not None]
        if not assets:
            return Answer(200, {"status": "red", "detail": f"nothing is provisioned for {project[:80]}"})
        if faults_seen:
            status = "red" if any(status == "red" for status, _ in faults_seen) else "amber"
            return Answer(200, {"status": status, "detail": "; ".join(detail for _, detail in faults_seen)})
        return Answer(200, {"status": "green", "detail": ""})

    # --- requests -----------------------------------------------------------------------------------------------------

    def _refusal(self, request: Request) -> Answer | None:
        owner = next(iter(self._last.values()), request).cluster_id
        if request.cluster_id != owner:
            return Answer(403, {"error": f"this receiver belongs to cluster {owner}"})
        seen = self._last.get((request.project, request.asset))
        if seen is not None and _is_behind(request, seen):
            return Answer(409, {"error": f"term {seen.term}, index {seen.index} was seen for this asset"})
        if request.action == "provision" and not self._is_repeated(request):
            free = self._units - self._used()
            if request.units > free:
                return Answer(503, {"error": f"{request.units} units are wanted; {free} are free"})
        return None

    def _is_repeated(self, request: Request) -> bool:
        seen = self._last.get((request.project, request.asset))
        return seen is not None and seen.effect == request.effect

    def _take(self, request: Request) -> None:
        """A repeated request may come from a later leader; that it was seen is worth no line: what it fences off after
        a restart is the same request again."""
        self._last[request.project, request.asset] = request

    def _carry_out(self, request: Request) -> None:
        change = self._ground.build if request.action == "provision" else self._ground.clear
        change(request.project, request.asset)

    def _standing(self) -> Iterable[tuple[str, str]]:
        return (place for place, request in self._last.items() if request.action == "provision")

    def _used(self) -> int:
        return sum(self._last[place].units for place in self._standing())


def _is_behind(request: Request, seen: Request) -> bool:
    """Neither term nor index may go back, and one place in the log is one effect."""
    if request.index == seen.index and request.effect != seen.effect:
        return True
    return request.term < seen.term or request.index < seen.index
