"""Git repositories as a worker reads them: which commit a name stands for, and the files of a commit.

The ``git`` program does it, without a shell. Nothing is ever checked out: files are read from the object database one
by one and kept under their hash, so no path, link, hook, filter or attribute of a repository has any effect here. A
repository is a stranger: what it sends is bounded in bytes, entries and seconds, it is asked nothing interactively,
and its submodules are not followed.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from cluster.clock import Clock, done_by
from cluster.worker.content import EXECUTABLE, FILE, SUBMODULE, SYMLINK, Entry
from cluster.worker.corpus import Corpus
from swoosh.hashing import is_hex
from swoosh.limits import ADDRESS_CHARS_MAX

T = TypeVar("T")

INHERITED = ("PATH", "HOME", "SSH_AUTH_SOCK", "http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY")
"""The variables of this process that git is given; with HOME come the user's credential helpers."""
_SCHEMES = ("file", "git", "http", "https", "ssh")
_QUIET = {
    "GIT_ALLOW_PROTOCOL": ":".join(_SCHEMES),
    "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}
_CONFIG = (
    "core.askPass=",
    "core.bigFileThreshold=1m",  # what is larger is streamed, not held in memory whole
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "credential.interactive=false",
    "fetch.unpackLimit=1",  # one pack, so that the bound on a file's size is the bound on a fetch
    "gc.auto=0",
)
_KINDS = {b"100644": FILE, b"100664": FILE, b"100755": EXECUTABLE, b"120000": SYMLINK, b"160000": SUBMODULE}
_DIGITS = {40: "sha1", 64: "sha256"}
_LINE_BYTES_MAX = 16 * 1024
_STDERR_BYTES = 16 * 1024


class Bounds(NamedTuple):
    """The most that is taken from a repository. Bytes count both as sent and unpacked; seconds are for one command."""

    total_bytes: int = 256 << 20
    document_bytes: int = 16 << 20
    documents: int = 20_000
    seconds: float = 300.0


class Unreachable(Exception):
    """Git could not do it, for the reason given; it may later."""


class Unfit(Exception):
    """The content breaks a bound; it always will."""


class Source(NamedTuple):
    """One commit of one repository. Its text is what the project's source set holds: ``git+<repository>@<commit>``."""

    repository: str
    commit: str

    def __str__(self) -> str:
        return f"git+{self.repository}@{self.commit}"

    @classmethod
    def parse(cls, text: str) -> Source | None:
        """The source a text stands for; None where it is an address of another kind."""
        repository, at, commit = text.removeprefix("git+").rpartition("@")
        if not text.startswith("git+") or not at or not _is_commit(commit):
            return None
        return cls(repository, commit)


def repository_of(text: str) -> str:
    """The repository meant by what a person typed: a URL as it is, a local path as a ``file://`` URL.

    Raises:
        ValueError: it cannot be used, and why. A URL that carries a password or a token cannot: it would end in the
            log, which forgets nothing.
    """
    local = "://" not in text and ":" not in text.partition("/")[0]
    repository = Path(text).resolve().as_uri() if local else text
    longest = ADDRESS_CHARS_MAX - len("git+@") - max(_DIGITS)
    if not text or text.startswith("-") or not (repository.isascii() and repository.isprintable()):
        raise ValueError(f"not a repository: {text[:80]!r}")
    if " " in repository or len(repository) > longest:
        raise ValueError(f"a repository is named without spaces by at most {longest} characters")
    if "://" not in repository and "::" in repository:
        raise ValueError(f"{repository.partition('::')[0]}:: is not offered; git's remote helpers run programs")
    if "://" in repository:
        parts = urlsplit(repository)
        if parts.scheme not in _SCHEMES:
            raise ValueError(f"{parts.scheme}:// is not offered; there are {', '.join(_SCHEMES)}")
        if parts.password is not None or (parts.username is not None and parts.scheme.startswith("http")):
            raise ValueError("the URL carries credentials, which would be logged; give them to a git credential helper")
    return repository


class Git:
    """Reads repositories. ``environment`` is all that git is told of this process: see INHERITED."""

    def __init__(self, clock: Clock, environment: Mapping[str, str], bounds: Bounds | None = None) -> None:
        self._clock = clock
        self._environment = {**environment, **_QUIET}
        self.bounds = bounds or Bounds()

    async def resolve(self, repository: str, ref: str) -> Source:
        """The commit that a branch, tag, full ref name or commit stands for now.

        Raises:
            Unreachable: nobody could say, or there is no such name.
        """
        if _is_commit(ref):
            return Source(repository, ref)
        if not ref or ref.startswith("-") or any(character in ref for character in " *?[\\^~:\n\0"):
            raise Unreachable(f"{ref[:80]!r} names no ref")
        names = (ref, f"refs/heads/{ref}", f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"{ref}^{{}}")
        with tempfile.TemporaryDirectory() as nowhere:
            async with self._running(Path(nowhere), "ls-remote", "--", repository, *names) as git:
                try:
                    found = await git.within(self._clock, self.bounds.seconds, _refs(git.stdout))
                except Unfit as error:
                    raise Unreachable(str(error)) from None
                await git.ended(self._clock, self.bounds.seconds)
        commit = next((found[name] for name in (f"{ref}^{{}}", *names) if name in found), None)
        if commit is None:
            raise Unreachable(f"{repository} has no {ref}")
        return Source(repository, commit)

    async def read(self, source: Source, corpus: Corpus) -> str:
        """Keep every file of a commit, and its tree; the content hash.

        Raises:
            Unreachable: it could not be fetched.
            Unfit: it is larger than the bounds, or no tree of files.
        """
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            place = Path(directory)
            form = _DIGITS[len(source.commit)]
            await self._do(place, "init", "--quiet", "--bare", "--template=", f"--object-format={form}", ".")
            await self._do(
                place, "fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head",
                "--", source.repository, source.commit,
            )  # fmt: skip
            leaves = await self._list(place, source.commit)
            return corpus.keep_tree(await self._keep(place, leaves, corpus))

    # --- what a commit holds ------------------------------------------------------------------------------------------

    async def _list(self, place: Path, commit: str) -> list[_Leaf]:
        async with self._running(place, "ls-tree", "-r", "-z", "-l", "--full-tree", commit) as git:
            leaves = await git.within(self._clock, self.bounds.seconds, _leaves(git.stdout, self.bounds))
            await git.ended(self._clock, self.bounds.seconds)
        return leaves

    async def _keep(self, place: Path, leaves: list[_Leaf], corpus: Corpus) -> list[Entry]:
        """Every leaf's bytes into the corpus, in turn."""
        async with self._running(place, "cat-file", "--batch") as git:
            entries = await git.within(self._clock, self.bounds.seconds, _documents(git, leaves, corpus))
        return entries

    # --- processes ----------------------------------------------------------------------------------------------------

    async def _do(self, place: Path, *arguments: str) -> None:
        async with self._running(place, *arguments) as git:
            await git.ended(self._clock, self.bounds.seconds)

    @asynccontextmanager
    async def _running(self, place: Path, *arguments: str) -> AsyncIterator[_Process]:
        """git at work in ``place``, in a session of its own: it has no terminal to ask, and ends with its children."""
        options = [word for setting in _CONFIG for word in ("-c", setting)]
        here = {"GIT_CEILING_DIRECTORIES": str(place.resolve().parent)}
        try:
            process = await asyncio.create_subprocess_exec(
                "git", *options, *arguments, cwd=place, env={**self._environment, **here}, start_new_session=True,
                preexec_fn=self._bounded, limit=_LINE_BYTES_MAX,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        except FileNotFoundError:
            raise Unreachable("the program git is not installed") from None
        running = _Process(process, arguments[0])
        try:
            yield running
        finally:
            await running.kill()

    def _bounded(self) -> None:
        """In the child: no file, and so no pack, larger than the whole may be."""
        size = self.bounds.total_bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


class _Leaf(NamedTuple):
    path: bytes
    kind: str
    object: bytes
    size: int


class _Process:
    """One git command, its streams, and what it said when it failed."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self.stdin, self.stdout = process.stdin, process.stdout
        self._process, self._name = process, name
        self._said = asyncio.ensure_future(_last(process.stderr))

    async def within(self, clock: Clock, seconds: float, work: Awaitable[T]) -> T:
        """The outcome of ``work``. Raises Unreachable when it takes longer."""
        task = asyncio.ensure_future(work)
        try:
            if not await done_by(clock, clock.monotonic() + seconds, task):
                raise Unreachable(f"git {self._name} took longer than {seconds:g} s")
            return task.result()
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Unreachable(f"git {self._name} ended too early") from None
        finally:
            task.cancel()
            await asyncio.wait([task])  # a stream has one reader at a time

    async def ended(self, clock: Clock, seconds: float) -> None:
        """Wait for its end. Raises Unreachable unless it succeeded."""
        self.stdin.close()
        code = await self.within(clock, seconds, self._process.wait())
        if code:
            said = await self.within(clock, seconds, self._said)
            raise Unreachable(f"git {self._name}: {said or f'ended with {code}'}")

    async def kill(self) -> None:
        """End it and what it started, if it still runs."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        while await self.stdout.read(_LINE_BYTES_MAX):
            pass  # a pipe is closed once it has been read to its end
        await self._said
        await self._process.wait()
        with suppress(ConnectionError):
            self.stdin.close()
            await self.stdin.wait_closed()


async def _last(stream: asyncio.StreamReader) -> str:
    """Git's own complaints among the last that it wrote; what a server says of itself is not repeated."""
    held = b""
    while piece := await stream.read(_STDERR_BYTES):
        held = (held + piece)[-_STDERR_BYTES:]
    lines = held.decode("ascii", "replace").splitlines()
    complaints = [line for line in lines if line.startswith(("fatal:", "error:"))]
    return "".join(c if " " <= c <= "~" else "?" for c in "; ".join(complaints[-2:])[:500])


async def _refs(stream: asyncio.StreamReader) -> dict[str, str]:
    found: dict[str, str] = {}
    async for line in _split(stream, b"\n"):
        commit, _, name = line.decode("utf-8", "replace").partition("\t")
        if _is_commit(commit):
            found[name] = commit
    return found


async def _leaves(stream: asyncio.StreamReader, bounds: Bounds) -> list[_Leaf]:
    """What ``ls-tree -r -z -l`` lists: ``<mode> <type> <object> <size>\\t<path>``."""
    found: list[_Leaf] = []
    total = 0
    async for line in _split(stream, b"\0"):
        head, _, path = line.partition(b"\t")
        mode, _, name, size = head.split()
        kind = _KINDS.get(mode)
        if kind is None:
            raise Unfit(f"the tree has an entry of mode {mode.decode('ascii', 'replace')}")
        count = int(size) if size.isdigit() else 0  # a submodule has none
        found.append(_Leaf(path, kind, name, count))
        total += count
        if len(found) > bounds.documents:
            raise Unfit(f"the tree has more than {bounds.documents} documents")
        if count > bounds.document_bytes:
            raise Unfit(f"a document of {count} bytes is in the tree; at most {bounds.document_bytes} are taken")
        if total > bounds.total_bytes:
            raise Unfit(f"the tree has more than {bounds.total_bytes} bytes")
    return found


async def _documents(git: _Process, leaves: list[_Leaf], corpus: Corpus) -> list[Entry]:
    """Ask ``cat-file --batch`` for one object after the other; an object named twice is read once."""
    kept: dict[bytes, str] = {}
    for leaf in leaves:
        if leaf.object in kept:
            continue
        if leaf.kind == SUBMODULE:
            kept[leaf.object] = corpus.keep(leaf.object)
            continue
        git.stdin.write(leaf.object + b"\n")
        await git.stdin.drain()
        head = (await git.stdout.readline()).split()
        if head != [leaf.object, b"blob", str(leaf.size).encode()]:
            raise Unreachable(f"git cat-file: no object {leaf.object.decode('ascii', 'replace')}")
        data = await git.stdout.readexactly(leaf.size + 1)
        kept[leaf.object] = corpus.keep(data[:-1])
    sizes = {leaf.object: leaf.size or len(leaf.object) * (leaf.kind == SUBMODULE) for leaf in leaves}
    return [Entry(leaf.path, leaf.kind, kept[leaf.object], sizes[leaf.object]) for leaf in leaves]


async def _split(stream: asyncio.StreamReader, end: bytes) -> AsyncIterator[bytes]:
    """The lines of a stream without their ends. Raises Unfit where one is longer than a line may be."""
    try:
        while line := await stream.readuntil(end):
            yield line[:-1]
    except asyncio.IncompleteReadError:
        return
    except asyncio.LimitOverrunError:
        raise Unfit(f"a name is longer than {_LINE_BYTES_MAX} bytes") from None


def _is_commit(text: str) -> bool:
    return len(text) in _DIGITS and is_hex(text, len(text))
