"""The ingestion worker: a git repository becomes one pinned, indexed version (Brief §4, ingestion).

    DISCOVER   which commit does the ref stand for?            INGESTION_SOURCES_RESOLVED
    FETCH      fetch that commit, keep its files, hash them    INGESTION_FETCHED
    VALIDATE   can every file be kept? what says the scanner?  INGESTION_VALIDATED, or _REJECTED
    INDEX      write the index of exactly that content         INGESTION_INDEXED
    READY      follow the ref, where that is asked for         INGESTION_REINDEX_REQUESTED

The commit is part of the source that is committed first, so every later step has one possible result, however often
it is begun again and whatever the repository does meanwhile. What fails is committed as INGESTION_FAILED with its
reason; a follower then goes back to the version it had and waits until the ref moves on.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Any

from cluster.shhh.policy import BUILT_IN
from cluster.shhh.report import breach, quarantining
from cluster.shhh.scanner import Finding, Scanner
from cluster.shhh.tree import text_of
from cluster.worker import validation
from cluster.worker.common import Done, GaveUp, Step, Wait
from cluster.worker.content import SUBMODULE, Entry
from cluster.worker.corpus import Corpus, Missing
from cluster.worker.holds import HOLDS, unless_held
from cluster.worker.repository import Git, Source, Unfit, Unreachable, repository_of
from swoosh.client import State

FOLLOW_SECONDS = 30.0
BUILT_IN_SCANNER = Scanner(BUILT_IN)


class Ingest:
    """Decides what is due in the ingestion of one project.

    Args:
        repository: what to ingest, as ``repository_of`` spells it; None is the repository the project was created with.
        ref: the branch, tag, ref or commit of it.
        follow: whether a new version is built whenever the ref has moved.
        scanner: what policy has against a document.
    """

    regions: tuple[str, ...] = ("Meta", "Ingestion", "Execution", *HOLDS)

    def __init__(
        self,
        git: Git,
        corpus: Corpus,
        *,
        repository: str | None = None,
        ref: str = "HEAD",
        follow: bool = False,
        scanner: Scanner = BUILT_IN_SCANNER,
    ) -> None:
        self._git, self._corpus = git, corpus
        self._repository, self._ref = repository, ref
        self._follow, self._scanner = follow, scanner
        self._failed: tuple[Source, str] | None = None

    async def decide(self, seen: State | None) -> Step | Wait | Done:
        """What is due now (see common.Decide)."""
        project = unless_held(seen)
        if isinstance(project, Wait):
            return project
        try:
            return await self._due(project.projection)
        except Unreachable as error:
            if not self._follow:
                raise GaveUp(str(error)) from None
            return Wait(f"the repository: {error}", FOLLOW_SECONDS)

    async def _due(self, regions: dict[str, Any]) -> Step | Wait | Done:
        ingestion, repository = regions["Ingestion"], self._repository_of(regions)
        match ingestion["Phase"]:
            case "DISCOVER":
                return await self._discover(ingestion, repository)
            case "READY":
                return await self._ready(regions, repository)
            case phase:
                return await self._build(phase, ingestion, self._source(ingestion, repository))

    async def _discover(self, ingestion: dict[str, Any], repository: str) -> Step | Wait:
        if self._failed is not None and not self._follow:
            raise GaveUp(self._failed[1])
        if self._follow and ingestion["ContentHash"] and ingestion["LastError"]:
            return Step("INGESTION_INDEX_ROLLED_BACK", {"reason": ingestion["LastError"]})
        source = await self._git.resolve(repository, self._ref)
        if self._failed is not None and self._failed[0] == source:
            return Wait(f"{self._ref} to move on from {source.commit}: {self._failed[1]}", FOLLOW_SECONDS)
        return Step("INGESTION_SOURCES_RESOLVED", {"sources": [str(source)]})

    async def _build(self, phase: str, ingestion: dict[str, Any], source: Source) -> Step:
        """The next step of a build under way. Whatever is not in the corpus is fetched again."""
        try:
            if phase == "FETCH":
                return Step("INGESTION_FETCHED", {"content_hash": await self._git.read(source, self._corpus)})
            candidate = ingestion["Candidate"]
            entries = await self._entries(candidate, source)
            if phase == "VALIDATE":
                return self._validate(entries)
            self._corpus.keep_index(candidate)
            return Step("INGESTION_INDEXED", {"content_hash": candidate})
        except Unfit as error:
            return self._give_up(source, error)
        except Unreachable as error:
            if self._follow and await self._git.resolve(source.repository, self._ref) == source:
                raise  # the commit is where it was, and may be fetched later
            return self._give_up(source, error)

    def _give_up(self, source: Source, error: Exception) -> Step:
        self._failed = (source, f"{source}: {error}")
        return Step("INGESTION_FAILED", {"reason": self._failed[1]})

    def _validate(self, entries: list[Entry]) -> Step:
        found = validation.faults(entries, lambda link: self._corpus.document(link.hash))
        fault = validation.reason(found)
        if fault is not None:
            raise Unfit(fault)
        findings = quarantining(tuple(self._findings(entries)))
        if findings:
            return Step("INGESTION_REJECTED", breach(findings, self._scanner.policy, "the content"))
        return Step("INGESTION_VALIDATED", {"outcomes": dict.fromkeys((*found, "scan"), "ok")})

    async def _ready(self, regions: dict[str, Any], repository: str) -> Step | Wait | Done:
        ingestion = regions["Ingestion"]
        await self._hold_index(ingestion)
        pinned = f"{ingestion['ContentHash']} is version {ingestion['ContentVersion']}"
        if not self._follow:
            return Done(pinned)
        newest = await self._git.resolve(repository, self._ref)
        if ingestion["SourceSet"] == [str(newest)]:
            return Wait(f"{self._ref} to move on; {pinned}", FOLLOW_SECONDS)
        if regions["Execution"]["Phase"] not in ("IDLE", "PLAN"):
            return Wait(f"the running plan to end, before {newest.commit} is indexed", FOLLOW_SECONDS)
        reason = f"{self._ref} moved on to {newest.commit}"
        return Step("INGESTION_REINDEX_REQUESTED", {"reason": reason, "sources": [str(newest)]})

    # --- leaves -------------------------------------------------------------------------------------------------------

    async def _entries(self, content: str, source: Source) -> list[Entry]:
        """The tree with this content hash, from the corpus or from its source.

        Raises:
            Unfit: the source is other content.
        """
        try:
            return self._corpus.tree(content)
        except Missing:
            found = await self._git.read(source, self._corpus)
        if found != content:
            raise Unfit(f"its content is {found}, not {content}")
        return self._corpus.tree(content)

    async def _hold_index(self, ingestion: dict[str, Any]) -> None:
        """The pinned version is readable here, also on a machine that did not build it."""
        sources = [Source.parse(text) for text in ingestion["SourceSet"]]
        content = ingestion["ContentHash"]
        if not self._corpus.has_index(content) and len(sources) == 1 and sources[0] is not None:
            try:
                await self._entries(content, sources[0])
                self._corpus.keep_index(content)
            except Unfit:
                return  # the version that was returned to has another source

    def _findings(self, entries: list[Entry]) -> Iterator[Finding]:
        """What policy finds in the documents, each with its place: ``path:line``."""
        for entry in entries:
            if entry.kind != SUBMODULE:
                path = unicodedata.normalize("NFC", entry.path.decode("utf-8"))
                yield from self._scanner.scan_lines(text_of(self._corpus.document(entry.hash)), path)

    def _repository_of(self, regions: dict[str, Any]) -> str:
        try:
            return self._repository or repository_of(regions["Meta"]["Repository"])
        except ValueError as error:
            raise GaveUp(f"name a repository: the project was created with none that can be used; {error}") from None

    def _source(self, ingestion: dict[str, Any], repository: str) -> Source:
        """What is being ingested, which somebody may have begun on another repository."""
        named = ingestion["SourceSet"]
        source = Source.parse(named[0]) if len(named) == 1 else None
        if source is None or source.repository != repository:
            raise GaveUp(f"ingestion is at work on {', '.join(named)}, not on {repository}")
        return source
