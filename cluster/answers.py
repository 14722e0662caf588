"""What a node answers to whoever submitted something: an outcome of the machine, or an honest "not now".

``Unavailable`` never means refused. ``admitted=False`` is a promise that the item was not and will never be applied;
``OUTCOME_UNKNOWN`` says that nobody can know yet, and that repeating it under the same key is safe.
"""

from __future__ import annotations

import msgspec

from swoosh.outcome import Accepted, Code, FactAccepted, Refused

RETRY_AFTER_S = 1


class Unavailable(msgspec.Struct, frozen=True, tag=True):
    """The cluster could not decide. ``retry_after_s`` is a hint in seconds."""

    code: Code
    admitted: bool
    reason: str
    retry_after_s: int = RETRY_AFTER_S


Answer = Accepted | Refused | FactAccepted | Unavailable


def not_admitted(code: Code, reason: str) -> Unavailable:
    """Certainly not applied, and never will be."""
    return Unavailable(code, False, reason)


def unknown(reason: str) -> Unavailable:
    """May or may not be applied, now or later."""
    return Unavailable(Code.OUTCOME_UNKNOWN, True, reason)
