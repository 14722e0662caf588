"""Versions are pinned by hash, built beside the pinned one, and rolled back to."""

from typing import Any

import msgspec
import pytest

from swoosh import limits
from swoosh.state import Ingestion, ProjectRegions, Version
from tests.core.contexts import after, context, first_refusal, h


def of(**fields: Any) -> ProjectRegions:
    return ProjectRegions(ingestion=Ingestion(**fields))


def indexed(regions: ProjectRegions, content: str) -> ProjectRegions:
    """One build from fetch to index."""
    fetched = after(context("INGESTION_FETCHED", {"content_hash": h(content)}, regions=regions))
    checked = after(context("INGESTION_VALIDATED", {"outcomes": {"schema": "ok"}}, regions=fetched))
    return after(context("INGESTION_INDEXED", {"content_hash": h(content)}, regions=checked))


def test_sources_are_a_set() -> None:
    c = context("INGESTION_SOURCES_RESOLVED", {"sources": ["ucxl://b", "ucxl://a", "ucxl://b"]})
    assert after(c).ingestion.source_set == ("ucxl://a", "ucxl://b")


def test_each_index_is_a_new_version_and_the_old_ones_are_kept() -> None:
    third = indexed(indexed(indexed(of(), "one"), "two"), "three").ingestion
    assert (third.content_version, third.content_hash, third.candidate) == (3, h("three"), "")
    assert third.previous == (Version(1, h("one")), Version(2, h("two")))


def test_old_versions_are_forgotten_in_the_end() -> None:
    regions = of()
    for number in range(limits.VERSIONS_KEPT + 3):
        regions = indexed(regions, str(number))
    assert len(regions.ingestion.previous) == limits.VERSIONS_KEPT
    assert regions.ingestion.previous[0] == Version(3, h("2"))


def test_an_index_of_other_content_is_refused() -> None:
    c = context("INGESTION_INDEXED", {"content_hash": h("other")}, regions=of(phase="INDEX", candidate=h("fetched")))
    assert first_refusal(c) == "content_hash_matches"


def test_a_failed_build_keeps_the_pinned_version() -> None:
    c = context(
        "INGESTION_FAILED", {"reason": "404"}, regions=of(content_hash=h("one"), content_version=1, candidate=h("two"))
    )
    held = after(c).ingestion
    assert (held.content_hash, held.candidate, held.last_error) == (h("one"), "", "404")


@pytest.mark.parametrize(("sources", "kept"), [([], ("ucxl://a",)), (["ucxl://c"], ("ucxl://c",))])
def test_a_reindex_may_name_other_sources(sources: list[str], kept: tuple[str, ...]) -> None:
    regions = of(phase="READY", content_hash=h("one"), content_version=1, source_set=("ucxl://a",))
    held = after(
        context("INGESTION_REINDEX_REQUESTED", {"reason": "news", "sources": sources}, regions=regions)
    ).ingestion
    assert (held.source_set, held.content_hash) == (kept, h("one"))


TWO = {"content_hash": h("two"), "content_version": 2, "latest_version": 2, "previous": (Version(1, h("one")),)}


def test_rolling_back_from_ready_returns_to_the_version_before() -> None:
    c = context("INGESTION_INDEX_ROLLED_BACK", {"reason": "bad"}, regions=of(phase="READY", **TWO))
    held = after(c)
    assert (held.ingestion.content_hash, held.ingestion.content_version, held.ingestion.previous) == (h("one"), 1, ())
    again = context("INGESTION_INDEX_ROLLED_BACK", {"reason": "bad"}, regions=held)
    assert first_refusal(again) == "previous_version_exists"
    assert indexed(held, "three").ingestion.content_version == 3, "a number is never given twice"


@pytest.mark.parametrize("phase", ["DISCOVER", "FETCH", "VALIDATE", "INDEX"])
def test_rolling_back_a_build_under_way_returns_to_the_pinned_version(phase: str) -> None:
    c = context("INGESTION_INDEX_ROLLED_BACK", {"reason": "bad"}, regions=of(phase=phase, candidate=h("x"), **TWO))
    held = after(c).ingestion
    assert (held.content_hash, held.candidate, len(held.previous)) == (h("two"), "", 1)
    nothing = context("INGESTION_INDEX_ROLLED_BACK", {"reason": "bad"}, regions=of(phase=phase))
    assert first_refusal(nothing) == "previous_version_exists"


@pytest.mark.parametrize("text", ["", "deadbeef", "sha256-" + "g" * 64, "sha256:" + "a" * 64, "sha256-" + "A" * 64])
def test_hashes_have_one_written_form(text: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="content_hash"):
        context("INGESTION_FETCHED", {"content_hash": text})
