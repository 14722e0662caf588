"""Repositories are strangers: what they send is bounded, what they name is judged, and nothing of it ever runs."""

from __future__ import annotations

import random
import socket
import tempfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cluster.clock import SystemClock
from cluster.config import inherited
from cluster.worker import validation
from cluster.worker.content import SUBMODULE, Entry
from cluster.worker.corpus import Corpus
from cluster.worker.repository import INHERITED, Bounds, Git, Source, Unfit, Unreachable, repository_of
from tests.worker.gits import Repository


def git(bounds: Bounds | None = None) -> Git:
    return Git(SystemClock(), inherited(*INHERITED), bounds)


async def read(repository: Repository, tmp_path: Path, bounds: Bounds | None = None) -> list[Entry]:
    """What a worker finds at the end of the branch."""
    reader, corpus = git(bounds), Corpus(tmp_path / "corpus")
    return corpus.tree(await reader.read(await reader.resolve(repository_of(str(repository.path)), "main"), corpus))


def fault_of(entries: list[Entry], corpus: Corpus) -> str | None:
    return validation.reason(validation.faults(entries, lambda link: corpus.document(link.hash)))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "upstream")
    made.commit({"README.md": "hello\n", "src/main.py": "print()\n"})
    return made


# --- which commit -----------------------------------------------------------------------------------------------------


async def test_branches_tags_and_commits_are_resolved(repository: Repository) -> None:
    url = repository_of(str(repository.path))
    first = repository.git("rev-parse", "HEAD")
    repository.git("tag", "--annotate", "v1", "--message", "one")
    repository.git("branch", "nested/main")
    second = repository.commit({"README.md": "again\n"})
    found = {ref: (await git().resolve(url, ref)).commit for ref in ("main", "HEAD", "v1", "refs/tags/v1", first)}
    assert found == {"main": second, "HEAD": second, "v1": first, "refs/tags/v1": first, first: first}


@pytest.mark.parametrize("ref", ["nowhere", "--upload-pack=touch", "a b", "ma*", ""])
async def test_what_names_no_ref_is_not_asked_for_twice(repository: Repository, ref: str) -> None:
    with pytest.raises(Unreachable):
        await git().resolve(repository_of(str(repository.path)), ref)


async def test_a_repository_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"does not (appear|exist)"):
        await git().resolve(repository_of(str(tmp_path / "nothing")), "main")


async def test_a_commit_is_read_also_when_the_branch_has_moved_on(repository: Repository, tmp_path: Path) -> None:
    url, corpus = repository_of(str(repository.path)), Corpus(tmp_path / "corpus")
    source = await git().resolve(url, "main")
    repository.commit({"README.md": "later\n"})
    found = await git().read(source, corpus)
    assert corpus.find(found, "README.md") == b"hello\n"


def test_a_source_reads_back_from_its_text() -> None:
    for repository in ("https://example.org/a.git", "git@example.org:a.git", "file:///srv/a"):
        for commit in ("a" * 40, "b" * 64):
            assert Source.parse(str(Source(repository, commit))) == Source(repository, commit)
    assert Source.parse("ucxl://chorus:spec@demo/brief") is None
    assert Source.parse("git+https://example.org/a.git@main") is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("https://ada:secret@example.org/a.git", "credentials"),
        ("https://token@example.org/a.git", "credentials"),
        ("ssh://ada:secret@example.org/a.git", "credentials"),
        ("ext::sh -c touch", "without spaces"),
        ("ext::sh", "ext:: is not offered"),
        ("fd::3/a", "fd:: is not offered"),
        ("ftp://example.org/a", "ftp:// is not offered"),
        ("--upload-pack=touch", "not a repository"),
        ("", "not a repository"),
        ("https://example.org/" + "a" * 500, "at most"),
    ],
)
def test_what_cannot_be_a_repository_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        repository_of(text)


async def test_git_too_is_told_which_protocols_there_are(tmp_path: Path) -> None:
    """Where a configuration rewrites an address to a program, that is not run."""
    trace = tmp_path / "ran"
    (tmp_path / ".gitconfig").write_text(f'[url "ext::touch {trace} #"]\n\tinsteadOf = https://example.org/\n')
    reader = Git(SystemClock(), {**inherited(*INHERITED), "HOME": str(tmp_path)})
    with pytest.raises(Unreachable, match="transport 'ext' not allowed"):
        await reader.resolve("https://example.org/a.git", "main")
    assert not trace.exists()


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "why"),
    [
        (Bounds(documents=1), "more than 1 documents"),
        (Bounds(document_bytes=7), "a document of 8 bytes"),
        (Bounds(total_bytes=10_000, document_bytes=9_000), "more than 10000 bytes"),
    ],
)
async def test_what_is_too_large_is_unfit(repository: Repository, tmp_path: Path, bounds: Bounds, why: str) -> None:
    repository.commit({f"same-{number}": "x" * 6_000 for number in range(2)} if bounds.total_bytes == 10_000 else {})
    with pytest.raises(Unfit, match=why):
        await read(repository, tmp_path, bounds)


async def test_a_pack_larger_than_the_bound_is_cut_off(repository: Repository, tmp_path: Path) -> None:
    repository.commit({"noise": random.Random(1).randbytes(200_000)})
    with pytest.raises(Unreachable, match="git fetch"):
        await read(repository, tmp_path, Bounds(total_bytes=100_000))


async def test_a_tree_that_unfolds_without_end_is_unfit(repository: Repository, tmp_path: Path) -> None:
    """Ten levels of ten names for one tree: a few hundred bytes that stand for ten thousand million files."""
    held = repository.tree(("100644", b"f", repository.blob(b"boom")))
    for _ in range(10):
        held = repository.tree(*(("40000", b"%d" % number, held) for number in range(10)))
    repository.point(held)
    with pytest.raises(Unfit, match="more than 20000 documents"):
        await read(repository, tmp_path)


async def test_a_server_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(Unreachable, match=r"longer than 0\.5 s"):
            await git(Bounds(seconds=0.5)).resolve(f"git://127.0.0.1:{port}/a.git", "main")


class Guarded(BaseHTTPRequestHandler):
    """Wants to know who asks."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", "Basic")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


async def test_a_server_that_wants_a_password_is_not_given_one() -> None:
    """And nobody is asked for it."""
    server = HTTPServer(("127.0.0.1", 0), Guarded)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with pytest.raises(Unreachable, match="could not read Username"):
            await git().resolve(f"http://127.0.0.1:{server.server_port}/a.git", "main")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# --- nothing runs -----------------------------------------------------------------------------------------------------


async def test_hooks_and_filters_never_run(repository: Repository, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    for name in ("post-checkout", "post-update", "reference-transaction"):
        hook = repository.path / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {trace}\n")
        hook.chmod(0o755)
    repository.git("config", "filter.f.smudge", f"touch {trace}")
    repository.commit({".gitattributes": "* filter=f\n"})
    trace.unlink(missing_ok=True)
    assert len(await read(repository, tmp_path)) == 3
    assert not trace.exists()


async def test_submodules_are_named_and_not_followed(repository: Repository, tmp_path: Path) -> None:
    inner = "1" * 40
    modules = repository.blob(b'[submodule "lib"]\n\tpath = lib\n\turl = ext::sh -c "touch ran"\n')
    repository.point(repository.tree(("100644", b".gitmodules", modules), ("160000", b"lib", inner)))
    entries = await read(repository, tmp_path)
    corpus = Corpus(tmp_path / "corpus")
    (lib,) = [e for e in entries if e.kind == SUBMODULE]
    assert (lib.path, corpus.document(lib.hash)) == (b"lib", inner.encode())
    assert fault_of(entries, corpus) is None


Plant = Callable[[Repository], str]


def named(name: bytes, mode: str = "100644", data: bytes = b"x") -> Plant:
    return lambda repository: repository.tree((mode, name, repository.blob(data)))


def under(*names: bytes) -> Plant:
    def plant(repository: Repository) -> str:
        held = named(names[-1])(repository)
        for name in reversed(names[:-1]):
            held = repository.tree(("40000", name, held))
        return held

    return plant


def twice(repository: Repository) -> str:
    blob = repository.blob(b"x")
    return repository.tree(("100644", b"a", blob), ("100644", b"a", blob))


def file_and_folder(repository: Repository) -> str:
    inner = named(b"b")(repository)
    return repository.tree(("120000", b"a", repository.blob(b"b")), ("40000", b"a", inner))


HOSTILE: dict[str, tuple[Plant, str]] = {
    "climbs": (under(b"..", b"..", b"passwd"), "has an empty part, . or .."),
    "dot": (under(b".", b"a"), "has an empty part, . or .."),
    "git": (under(b".git", b"config"), "git's own directory"),
    "git in capitals": (under(b"a", b".GIT", b"config"), "git's own directory"),
    "git with an ignorable": (under(".g\u200cit".encode(), b"config"), "git's own directory"),
    "git as a short name": (under(b"GIT~1", b"config"), "git's own directory"),
    "git with a dot behind": (under(b".git.", b"config"), "git's own directory"),
    "git as a stream": (under(b".git::$INDEX_ALLOCATION", b"config"), "git's own directory"),
    "backslash": (named(b"..\\passwd"), "a control character or a backslash"),
    "line feed": (named(b"a\nb"), "a control character or a backslash"),
    "latin-1": (named(b"caf\xe9"), "is not UTF-8"),
    "long": (named(b"a" * 300), "is too long"),
    "deep": (under(*[b"a" * 100] * 12), "is too long"),
    "absolute link": (named(b"a", "120000", b"/etc/passwd"), "may leave the tree"),
    "climbing link": (named(b"a", "120000", b"../passwd"), "may leave the tree"),
    "climbing behind a name": (named(b"a", "120000", b"b/../../passwd"), "may leave the tree"),
    "link to nothing": (named(b"a", "120000", b""), "may leave the tree"),
    "twice": (twice, "is there twice"),
    "file and folder": (file_and_folder, "is there twice"),
    "nothing": (lambda repository: repository.tree(), "the tree is empty"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_could_do_harm_where_it_is_written_down_is_named(tmp_path: Path, name: str) -> None:
    plant, why = HOSTILE[name]
    repository = Repository(tmp_path / "upstream")
    repository.point(plant(repository))
    found = fault_of(await read(repository, tmp_path), Corpus(tmp_path / "corpus"))
    assert found is not None and why in found, found
    assert found.isprintable()


@pytest.mark.parametrize("target", [b"b", b"../b", b"../../b/c", b"..", b"./b"])
def test_links_within_the_tree_are_fine(target: bytes) -> None:
    assert validation.link_fault(b"x/y/a", target) is None


async def test_nothing_of_a_fetch_is_left_behind(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    await read(repository, tmp_path)
    assert list((tmp_path / "temporary").iterdir()) == []
