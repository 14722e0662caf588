"""Ingestion: sources become one pinned, indexed content version (Brief §4, §11).

A version is pinned by its hash and stays readable while the next one, the ``candidate``, is built beside it: an index
never changes under a running plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta
from msgspec.structs import replace

from swoosh import facts, limits
from swoosh.catalog import Context, Verdict, effect, guard, inputs, passed, refused
from swoosh.guards import said
from swoosh.inputs import Address, Inputs, Text, Word, check_names
from swoosh.state import Ingestion, Version

SourceList = Annotated[tuple[Address, ...], Meta(max_length=limits.SOURCES_MAX)]


@inputs
class Sources(Inputs, frozen=True):
    """The addresses the content comes from, in any order."""

    sources: Annotated[tuple[Address, ...], Meta(min_length=1, max_length=limits.SOURCES_MAX)]


@inputs
class Reindex(Inputs, frozen=True):
    """Why a new version is wanted, and from where if not from the sources known."""

    reason: Text
    sources: SourceList = ()


@inputs
class Validation(Inputs, frozen=True):
    """What each check came to: {check: outcome}."""

    outcomes: Annotated[dict[str, Word], Meta(min_length=1, max_length=limits.VALIDATIONS_MAX)]

    def __post_init__(self) -> None:
        check_names("outcomes", *self.outcomes)


@guard
def policy_clear(c: Context) -> Verdict:
    """Reads the finding fact about the fetched content; refuses while one of severity quarantine is live."""
    candidate = c.regions.ingestion.candidate
    fact = c.fresh("finding", candidate)
    if fact is None:
        return passed(f"no finding stands against {candidate}")
    finding = said(fact, facts.Finding)
    seen = f"{finding.rule[:80]} found {finding.severity[:40]} in {candidate} at {finding.location[:80] or 'no place'}"
    if finding.severity == "quarantine":
        return refused(f"{seen}; propose INGESTION_REJECTED, or fetch other content", facts=(fact.digest,))
    return passed(f"{seen}, which policy lets through", facts=(fact.digest,))


@guard
def content_hash_matches(c: Context) -> Verdict:
    """Reads the candidate and the inputs; refuses an index of other content than was fetched."""
    fetched, indexed = c.regions.ingestion.candidate, c.inputs.content_hash
    if indexed != fetched:
        return refused(f"the index is of {indexed}; fetched and validated was {fetched}")
    return passed(f"the index is of {fetched}, which was fetched and validated")


@guard
def previous_version_exists(c: Context) -> Verdict:
    """Reads the pinned and previous versions; refuses where there is nothing to go back to."""
    ingestion = c.regions.ingestion
    target = _version_to_return_to(ingestion)
    if target is None:
        needed = "a version before the pinned one" if ingestion.phase == "READY" else "a pinned version"
        return refused(f"ingestion is in {ingestion.phase} and {needed} is needed; there is none")
    return passed(f"back to version {target.version}, {target.content_hash}")


@effect
def resolve_sources(c: Context) -> Mapping[str, Any]:
    """The source set, sorted and unique."""
    return _moved(c, source_set=_unique(c.inputs.sources), last_error="")


@effect
def record_candidate(c: Context) -> Mapping[str, Any]:
    """What was fetched."""
    return _moved(c, candidate=c.inputs.content_hash, validation={})


@effect
def record_validation(c: Context) -> Mapping[str, Any]:
    """What each check came to."""
    return _moved(c, validation=c.inputs.outcomes)


@effect
def pin_version(c: Context) -> Mapping[str, Any]:
    """The candidate becomes the pinned version, with a number no version ever had."""
    held = c.regions.ingestion
    number = held.latest_version + 1
    return _moved(
        c,
        content_hash=held.candidate,
        content_version=number,
        latest_version=number,
        previous=(*held.previous, *_pinned(held))[-limits.VERSIONS_KEPT :],
        candidate="",
    )


@effect
def record_failure(c: Context) -> Mapping[str, Any]:
    """The build is given up; the pinned version stays."""
    return _moved(c, candidate="", last_error=c.inputs.reason)


@effect
def request_reindex(c: Context) -> Mapping[str, Any]:
    """Other sources where the inputs name some."""
    sources = _unique(c.inputs.sources) or c.regions.ingestion.source_set
    return _moved(c, source_set=sources, candidate="", validation={}, last_error="")


@effect
def roll_back_index(c: Context) -> Mapping[str, Any]:
    """The version returned to is pinned; a build under way is given up."""
    held = c.regions.ingestion
    target = _version_to_return_to(held)
    assert target is not None, "previous_version_exists saw it"
    return _moved(
        c,
        content_hash=target.content_hash,
        content_version=target.version,
        previous=held.previous[:-1] if held.phase == "READY" else held.previous,
        candidate="",
        last_error=c.inputs.reason,
    )


def _version_to_return_to(held: Ingestion) -> Version | None:
    """From READY the version before the pinned one; from a build under way the pinned one."""
    choices = held.previous if held.phase == "READY" else _pinned(held)
    return choices[-1] if choices else None


def _pinned(held: Ingestion) -> tuple[Version, ...]:
    return (Version(held.content_version, held.content_hash),) if held.content_hash else ()


def _unique(addresses: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(addresses)))


def _moved(c: Context, **changes: Any) -> Mapping[str, Any]:
    return {"ingestion": replace(c.regions.ingestion, **changes)}
