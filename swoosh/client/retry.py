"""What an answer means for the one who asked, and how long to wait before asking again.

The rule everything rests on: a request that may have been applied is *in doubt* until a later answer under the same
key settles it. A timeout, a lost connection, a 502 or 504 of something in between: all of these are doubt, none is
failure. Pure functions; the loop that uses them is in client.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import msgspec

from swoosh.client.transport import Entropy, Reply
from swoosh.outcome import Code

SETTLING = frozenset({Code.STALE_STATE, Code.HLC_REGRESSION, Code.HLC_TIE, Code.IDEM_KEY_REUSED})
"""Refusals that also rule out every earlier attempt under the key: HEAD or the last HLC has moved past all of them, or
the key names another operation. Any other refusal rests on facts and time, which may judge a straggler differently."""

_EVERY_NODE = frozenset({Code.OVERLOADED, Code.RATE_LIMITED, Code.NO_QUORUM, Code.CLOCK})
"""Conditions another node shares: asking it at once would only add to the load."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient a client is. Seconds."""

    budget: float = 30.0
    """For one call, all attempts together."""
    attempt: float = 5.0
    """For one attempt; longer than a follower holds a request during an election."""
    pause_min: float = 0.05
    pause_max: float = 1.0


class Fate(Enum):
    """What one attempt came to."""

    FINAL = auto()
    """The answer counts."""
    NOT_ADMITTED = auto()
    """Certainly not applied by this attempt; ask again."""
    IN_DOUBT = auto()
    """May have been applied; ask again with the same key."""


def fate(reply: Reply) -> Fate:
    """What a reply means for a write."""
    match reply.status:
        case 408 | 429:
            return Fate.NOT_ADMITTED
        case 502 | 504:
            return Fate.IN_DOUBT
        case 503:
            return Fate.NOT_ADMITTED if problem(reply).get("admitted") is False else Fate.IN_DOUBT
        case status if status >= 500:
            return Fate.FINAL if problem(reply).get("code") == Code.INTERNAL else Fate.IN_DOUBT
        case _:
            return Fate.FINAL


def problem(reply: Reply) -> dict[str, Any]:
    """The JSON object of an error answer; empty if something else wrote it."""
    try:
        return msgspec.json.decode(reply.body, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


def says(reply: Reply) -> str:
    """One line about an answer that did not settle anything."""
    found = problem(reply)
    return str(found.get("error") or found.get("code") or f"HTTP {reply.status}")


class Pauses:
    """The waits between the attempts of one call.

    Another endpoint is tried at once, as long as one has not been tried since the last wait and the trouble is of the
    kind that another node may not have. Waits double, are spread by half so that callers do not return in step, and
    are at least what the server asked for (RFC 9110 §10.2.3).
    """

    def __init__(self, policy: Policy, endpoints: int, entropy: Entropy) -> None:
        self._policy, self._endpoints, self._entropy = policy, endpoints, entropy
        self._untried = endpoints - 1
        self._next = policy.pause_min

    def after(self, reply: Reply | None) -> float:
        """Seconds to wait after this reply, None being no reply at all."""
        shared = reply is not None and problem(reply).get("code") in _EVERY_NODE
        if self._untried > 0 and not shared:
            self._untried -= 1
            return 0.0
        self._untried = self._endpoints - 1
        pause = self._next * (0.5 + 0.5 * self._entropy.random())
        self._next = min(2 * self._next, self._policy.pause_max)
        return max(pause, _asked_for(reply) if shared else 0.0)


def _asked_for(reply: Reply | None) -> float:
    text = reply.headers.get("retry-after", "") if reply is not None else ""
    return float(text) if text.isdecimal() else 0.0
