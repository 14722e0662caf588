"""What the workers share: the loop that each of them is.

A worker looks at committed state, works out the one step that is due, does what that step needs outside, proposes it,
and looks again. It keeps nothing between two looks, so one that was killed goes on where the committed state stands.

Every proposal is decided on the state that was looked at, and its idempotency key names that state: the same step from
the same state is the same operation, whoever starts the worker again. A step is therefore never repeated on a state
that moved meanwhile, and an outcome that is unknown needs no care: the next look shows what came of it.

A worker must never reach into a node: it knows what any caller knows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from swoosh.client import Accepted, Client, Refused, State, Unavailable, Unknown
from swoosh.client.transport import Clock
from swoosh.outcome import Code

LOOK_SECONDS = 0.5
_MOVED = frozenset({Code.STALE_STATE, Code.IDEM_KEY_REUSED})
"""Somebody else was first."""


class Step(NamedTuple):
    """A transition that is due now."""

    transition: str
    inputs: Mapping[str, Any] = MappingProxyType({})
    window_id: str = ""
    evidence: Sequence[str] = ()


class Wait(NamedTuple):
    """Nothing is due until others have moved: for what, in words, and after how many seconds to look again."""

    what: str
    seconds: float = LOOK_SECONDS


class Done(NamedTuple):
    """The worker is where it should be: where that is, in words."""

    what: str


class GaveUp(Exception):
    """The goal is out of reach, for the reason given; repeating would not help."""


Decide = Callable[[State | None], Awaitable[Step | Wait | Done]]
"""What is due in a project as it is committed now; None where nobody created it. May do work of its own first, which
is repeated where the proposal was not accepted: it must be idempotent. Raises GaveUp."""


class Decider(Protocol):
    """What makes one worker another: the regions it looks at, and what it finds due in them."""

    regions: tuple[str, ...]

    async def decide(self, seen: State | None) -> Step | Wait | Done: ...


async def work(
    client: Client,
    project: str,
    decide: Decide,
    *,
    regions: Sequence[str] = (),
    clock: Clock,
    say: Callable[[str], None],
) -> Done:
    """Decide and propose until done. ``regions`` are those that ``decide`` looks at, default all; ``say`` hears every
    step, and every reason to wait, once.

    Raises:
        GaveUp: the cluster refused for good, or ``decide`` gave up.
        ClientError: an answer that is none of a SWOOSH node's.
    """
    said = ""
    while True:
        waits, pause = None, LOOK_SECONDS
        try:
            seen = await client.state(project, projection=regions)
            due = await decide(seen)
            match due:
                case Done():
                    return due
                case Wait(what, pause):
                    waits = f"waiting for {what}"
                case Step():
                    waits = await _take(client, project, seen, due, say)
        except Unavailable as error:
            waits = str(error)
        if waits is not None:
            if waits != said:
                say(waits)
            await clock.sleep(pause)
        said = waits or ""


async def _take(client: Client, project: str, seen: State | None, due: Step, say: Callable[[str], None]) -> str | None:
    """Propose what is due. None where the state has moved, by this or by somebody else's proposal, or may have."""
    head = "genesis" if seen is None else seen.state_hash
    outcome = await client.propose(
        due.transition,
        inputs=due.inputs,
        project=project,
        window_id=due.window_id,
        evidence=due.evidence,
        idem_key=key_of(project, head, due.transition, client.principal),
        decided_on=head,
    )
    match outcome:
        case Accepted():
            say(f"{due.transition} accepted at index {outcome.index}")
            return None
        case Unknown():
            return outcome.reason
        case Refused(code=code) if code in _MOVED:
            return None
        case Refused(retryable=True):
            return f"{due.transition} is refused: {outcome}"
        case Refused():
            raise GaveUp(f"{due.transition}: {outcome} {outcome.help}".strip())


def key_of(project: str, head: str, transition: str, principal: str) -> str:
    """The idempotency key of a step that this principal decides on the state ``head``."""
    return f"worker:{project}:{head.removeprefix('sha256-')[:32]}:{transition}:{principal[-8:]}"
