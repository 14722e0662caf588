"""Control: an operator's pause, and recovery while the council lacks a quorum (Brief §4).

Both are holds of their own, with nothing to "return to": they close gates over other regions and leave every phase
where it was. A hold is lifted by the same region that put it on, whatever else holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from swoosh import quorum
from swoosh.catalog import Context, Verdict, effect, guard, passed, refused
from swoosh.guards import is_revoked


@guard
def council_below_quorum(c: Context) -> Verdict:
    """Reads the members and their agent facts; refuses while a majority is present, or nobody is seated."""
    seated, present, cited = _presence(c)
    if seated == 0:
        return refused("nobody is seated; a council that does not exist cannot lose its quorum")
    if present >= quorum.majority(seated):
        return refused(f"{_count(c)}; recovery begins below {quorum.majority(seated)}", facts=cited)
    return passed(f"{_count(c)}; {quorum.majority(seated)} are needed to decide anything", facts=cited)


@guard
def council_quorate(c: Context) -> Verdict:
    """Reads the members and their agent facts; refuses until a majority of the seated is present."""
    seated, present, cited = _presence(c)
    if seated == 0:
        return refused("nobody is seated; certify a council first")
    if present < quorum.majority(seated):
        return refused(f"{_count(c)}; {quorum.majority(seated)} are needed", facts=cited)
    return passed(_count(c), facts=cited)


@effect
def enter_recovery(c: Context) -> Mapping[str, Any]:
    """Who was there, and since when."""
    return {"recovery": replace(c.regions.recovery, reason=_count(c), since_hlc=c.hlc)}


@effect
def leave_recovery(c: Context) -> Mapping[str, Any]:
    """Steady, and since when."""
    return {"recovery": replace(c.regions.recovery, reason="", since_hlc=c.hlc)}


@effect
def record_pause(c: Context) -> Mapping[str, Any]:
    """Who put the hold on or lifted it, why, and when."""
    return {"pause": replace(c.regions.pause, reason=c.inputs.reason, by=c.signer, since_hlc=c.hlc)}


def _presence(c: Context) -> tuple[int, int, tuple[str, ...]]:
    """Members seated, how many of them a fresh fact says are there, and those facts."""
    members = c.regions.council.members
    found = [c.fresh("agent", member.principal) for member in members if not is_revoked(c, member.principal)]
    cited = tuple(fact.digest for fact in found if fact is not None)
    return len(members), len(cited), cited


def _count(c: Context) -> str:
    seated, present, _ = _presence(c)
    return f"{present} of {seated} seated members are present"
