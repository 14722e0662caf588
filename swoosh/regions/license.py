"""License: whether outbound traffic may flow (Brief §6, §11). KACHING says so in a signed fact about this cluster.

Three answers are told apart. *Active*: a fact that has not expired says so, for a time that has not passed. *Denied*:
the newest fact says denied or suspended; such a word stands until a newer one, since silence after a no is not a yes.
Anything else is *unavailable* and costs nothing but grace. No phase of any other region ever moves for a license.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from swoosh import facts, limits
from swoosh.catalog import Context, Verdict, effect, guard, passed, refused
from swoosh.facts import Known
from swoosh.guards import said
from swoosh.hlc import time_text

_DENIALS = ("denied", "suspended")


@guard
def license_active(c: Context) -> Verdict:
    """Reads the license fact; refuses unless it is fresh, says active, and its valid_until is ahead."""
    fact = _newest(c)
    if fact is None:
        return refused(f"no license fact for {c.registry.cluster_id}; the license provider must deliver one")
    if not _is_active(c, fact):
        return refused(f"{_seen(c, fact)}; a fresh fact that says active is needed", facts=(fact.digest,))
    return passed(_seen(c, fact), facts=(fact.digest,))


@guard
def license_newer(c: Context) -> Verdict:
    """Reads the license fact and the one in force; refuses the same one again."""
    fact = _newest(c)
    if fact is None or fact.digest == c.regions.license.fact_digest:
        return refused("the license fact is the one already in force; a newer one is needed")
    return passed("the license fact is newer than the one in force", facts=(fact.digest,))


@guard
def license_denied(c: Context) -> Verdict:
    """Reads the license fact; refuses unless it says denied or suspended."""
    fact = _newest(c)
    if fact is None:
        return refused("no license fact; only a signed denial ends a project, not silence")
    if not _is_denial(fact):
        return refused(f"{_seen(c, fact)}; a signed denial is needed", facts=(fact.digest,))
    return passed(_seen(c, fact), facts=(fact.digest,))


@guard
def license_unavailable(c: Context) -> Verdict:
    """Reads the license fact; refuses while one is active, and where it is a denial, which knows no grace."""
    fact = _newest(c)
    if fact is None:
        return passed("no license fact is held")
    if _is_active(c, fact):
        return refused(f"{_seen(c, fact)}; grace begins when no active license is in force", facts=(fact.digest,))
    if _is_denial(fact):
        return refused(f"{_seen(c, fact)}; a denial has no grace, propose LICENSE_EXPIRED", facts=(fact.digest,))
    return passed(_seen(c, fact), facts=(fact.digest,))


@guard
def grace_over_or_denied(c: Context) -> Verdict:
    """Reads the license fact, the phase and grace_until; refuses unless grace is over or the license was denied."""
    fact, grace = _newest(c), c.regions.license
    if fact is not None and _is_denial(fact):
        return passed(_seen(c, fact), facts=(fact.digest,))
    if grace.phase != "GRACE":
        return refused("the license was not denied, and grace has not begun; propose LICENSE_GRACE first")
    if fact is not None and _is_active(c, fact):
        return refused(f"{_seen(c, fact)}; propose LICENSE_RENEWED", facts=(fact.digest,))
    if c.now_ms < grace.grace_until:
        return refused(f"grace lasts until {time_text(grace.grace_until)}, {grace.grace_until - c.now_ms} ms from now")
    return passed(f"grace ended at {time_text(grace.grace_until)}")


@effect
def renew_license(c: Context) -> Mapping[str, Any]:
    """Another fact is in force."""
    fact = _newest(c)
    return {"license": replace(c.regions.license, fact_digest=fact.digest if fact else "", grace_until=0)}


@effect
def begin_grace(c: Context) -> Mapping[str, Any]:
    """Grace counts from the end of the last license, or from now where that is past; the authority may grant more."""
    fact = _newest(c)
    body = said(fact, facts.License) if fact else None
    ended = max(c.now_ms, body.valid_until if body else 0)
    until = max(ended + c.registry.setting("license_grace_ms"), body.grace_until if body else 0)
    return {"license": replace(c.regions.license, grace_until=min(until, limits.HLC_MS_MAX))}


@effect
def expire_license(c: Context) -> Mapping[str, Any]:
    """Nothing is in force."""
    return {"license": replace(c.regions.license, fact_digest="", grace_until=0)}


def _newest(c: Context) -> Known | None:
    return c.registry.fact("license", c.registry.cluster_id)


def is_active(fact: Known | None, now_ms: int) -> bool:
    """Whether a license is in force at this stamp: a fact that has not expired says so, for a time ahead."""
    if fact is None:
        return False
    body = said(fact, facts.License)
    return body.status == "active" and min(fact.expires_at, body.valid_until) > now_ms


def open_until(fact: Known | None, grace_ms: int) -> int:
    """The stamp, in milliseconds, at which outbound traffic ends: with the license's grace; at once after a denial."""
    if fact is None or _is_denial(fact):
        return 0
    body = said(fact, facts.License)
    return max(body.valid_until + grace_ms, body.grace_until)


def lapsed(fact: Known | None, now_ms: int, grace_ms: int) -> str | None:
    """Why outbound traffic is over at this stamp, or None: the license is active, or its grace lasts."""
    until = open_until(fact, grace_ms)
    if now_ms < until:
        return None
    if fact is None:
        return "no license fact is held"
    body = said(fact, facts.License)
    if _is_denial(fact):
        return f"license {body.license_id[:80]} is {body.status}"
    return f"license {body.license_id[:80]} ran out, and its grace ended at {_moment(until)}"


def _is_active(c: Context, fact: Known) -> bool:
    return is_active(fact, c.now_ms)


def _is_denial(fact: Known) -> bool:
    return said(fact, facts.License).status in _DENIALS


def _seen(c: Context, fact: Known) -> str:
    body = said(fact, facts.License)
    stale = f", itself stale for {c.now_ms - fact.expires_at} ms" if fact.expires_at <= c.now_ms else ""
    return f"license {body.license_id[:80]} is {body.status[:40]} until {_moment(body.valid_until)}{stale}"


def _moment(ms: int) -> str:
    return time_text(max(0, min(ms, limits.HLC_MS_MAX)))
