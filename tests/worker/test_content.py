"""The hash of content: the laws it keeps, and the example that the reference page promises."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.clock import SystemClock
from cluster.config import inherited
from cluster.worker.content import (
    EXECUTABLE,
    FILE,
    KINDS,
    SYMLINK,
    Entry,
    Malformed,
    content_hash,
    entries_of,
    text_of,
)
from cluster.worker.corpus import Corpus, Missing
from cluster.worker.repository import INHERITED, Git, repository_of
from tests.worker.gits import Repository

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "reference" / "content_hash.py"
PATHS = st.binary(min_size=1, max_size=12).filter(lambda path: b"\0" not in path)
ENTRIES = st.dictionaries(PATHS, st.tuples(st.sampled_from(KINDS), st.binary(max_size=4)), max_size=8).map(
    lambda found: [Entry(path, kind, sha256(data).hexdigest(), len(data)) for path, (kind, data) in found.items()]
)


def hashed(*entries: Entry) -> str:
    return content_hash(text_of(entries))


def entry(path: str, data: str = "", kind: str = FILE) -> Entry:
    return Entry(path.encode(), kind, sha256(data.encode()).hexdigest(), len(data))


@given(ENTRIES, st.randoms(use_true_random=False))
def test_the_order_of_listing_is_no_content(entries: list[Entry], random: object) -> None:
    shuffled = list(entries)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert hashed(*shuffled) == hashed(*entries)


@given(ENTRIES, ENTRIES)
def test_two_trees_have_one_hash_only_if_they_are_the_same(one: list[Entry], other: list[Entry]) -> None:
    same = {e[:3] for e in one} == {e[:3] for e in other}
    assert (hashed(*one) == hashed(*other)) is same


@given(ENTRIES)
def test_the_text_that_is_hashed_reads_back(entries: list[Entry]) -> None:
    back = list(entries_of(text_of(entries)))
    assert [e[:3] for e in back] == sorted(e[:3] for e in entries)


def test_name_kind_and_bytes_count_each() -> None:
    one = hashed(entry("a", "x"))
    others = [hashed(entry("b", "x")), hashed(entry("a", "y")), hashed(entry("a", "x", EXECUTABLE)), hashed()]
    assert len({one, hashed(entry("a", "x", SYMLINK)), *others}) == 6


@pytest.mark.parametrize("text", [b"file 12 a\0", b"door " + b"0" * 64 + b" a\0", b"file " + b"0" * 64 + b" \0"])
def test_other_bytes_are_no_tree(text: bytes) -> None:
    with pytest.raises(Malformed):
        list(entries_of(text))


# --- as git has it ----------------------------------------------------------------------------------------------------


def reader() -> Git:
    return Git(SystemClock(), inherited(*INHERITED))


async def ingested(repository: Repository, corpus: Corpus, ref: str = "main") -> str:
    git = reader()
    return await git.read(await git.resolve(repository_of(str(repository.path)), ref), corpus)


FILES: dict[str, str | bytes] = {
    "README.md": "# One\n",
    "src/run.sh": "echo hello\n",
    "src/\u00fcber.txt": "caf\u00e9\r\n",
    "data.bin": bytes(range(256)),
}


def made(path: Path, *, form: str = "sha1") -> Repository:
    repository = Repository(path, form=form)
    for name in FILES:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"")
    (path / "src" / "run.sh").chmod(0o755)
    (path / "latest").symlink_to("src/run.sh")
    repository.commit(FILES)
    return repository


async def test_the_hash_does_not_know_git(tmp_path: Path) -> None:
    """Other object format, other history, other attributes: the same files are the same content."""
    one, other = made(tmp_path / "one"), made(tmp_path / "other", form="sha256")
    other.commit({"extra": "1"})
    other.commit({}, gone=["extra"])
    (other.path / ".git" / "info" / "attributes").write_text("*.txt text eol=lf\n")
    corpus = Corpus(tmp_path / "corpus")
    assert await ingested(one, corpus) == await ingested(other, corpus)


async def test_a_file_moved_or_made_executable_is_other_content(tmp_path: Path) -> None:
    repository, corpus = made(tmp_path / "one"), Corpus(tmp_path / "corpus")
    first = await ingested(repository, corpus)
    repository.git("mv", "README.md", "README")
    repository.commit({})
    renamed = await ingested(repository, corpus)
    repository.git("mv", "README", "README.md")
    (repository.path / "README.md").chmod(0o755)
    repository.commit({})
    executable = await ingested(repository, corpus)
    (repository.path / "README.md").chmod(0o644)
    repository.commit({})
    assert len({first, renamed, executable}) == 3
    assert await ingested(repository, corpus) == first


async def test_the_script_of_the_reference_page_finds_the_hash_of_a_checkout(tmp_path: Path) -> None:
    repository, corpus = made(tmp_path / "one"), Corpus(tmp_path / "corpus")
    found = await ingested(repository, corpus)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(repository.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == found


# --- what is kept -----------------------------------------------------------------------------------------------------


async def test_every_version_stays_readable(tmp_path: Path) -> None:
    repository, corpus = made(tmp_path / "one"), Corpus(tmp_path / "corpus")
    first = await ingested(repository, corpus)
    repository.commit({"README.md": "# Two\n"})
    second = await ingested(repository, corpus)
    assert (corpus.find(first, "README.md"), corpus.find(second, "README.md")) == (b"# One\n", b"# Two\n")
    assert {e.path: e.size for e in corpus.tree(first)}[b"data.bin"] == 256
    with pytest.raises(Missing, match="has no document"):
        corpus.find(second, "LICENSE")


async def test_an_index_is_the_same_bytes_whenever_it_is_written(tmp_path: Path) -> None:
    repository = made(tmp_path / "one")
    indexes = []
    for name in ("a", "b"):
        corpus = Corpus(tmp_path / name)
        indexes.append(corpus.keep_index(await ingested(repository, corpus)).read_bytes())
    assert indexes[0] == indexes[1]
    assert b'"path":"src/\xc3\xbcber.txt"' in indexes[0]


async def test_what_a_disk_damaged_is_missing_until_it_is_kept_again(tmp_path: Path) -> None:
    repository, corpus = made(tmp_path / "one"), Corpus(tmp_path / "corpus")
    found = await ingested(repository, corpus)
    damaged = next(e for e in corpus.tree(found) if e.path == b"README.md")
    place = next((tmp_path / "corpus" / "documents").rglob(damaged.hash))
    place.write_bytes(os.urandom(damaged.size))
    with pytest.raises(Missing, match="damaged"):
        corpus.tree(found)
    assert await ingested(repository, corpus) == found
    assert corpus.find(found, "README.md") == b"# One\n"
