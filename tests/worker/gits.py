"""Repositories made for a test, honest ones with the git program and impossible ones object by object."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

if shutil.which("git") is None:
    pytest.skip("git is not installed", allow_module_level=True)

PERSON = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false")


class Repository:
    """A repository in ``path``, whose commits are dated so that a run repeats itself."""

    def __init__(self, path: Path, *, form: str = "sha1") -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main", f"--object-format={form}", ".")

    def git(self, *arguments: str, data: bytes | None = None) -> str:
        dates = {f"GIT_{who}_DATE": "2026-01-01T00:00:00Z" for who in ("AUTHOR", "COMMITTER")}
        done = subprocess.run(
            ["git", *PERSON, *arguments],
            cwd=self.path,
            input=data or b"",
            env={"PATH": os.environ["PATH"], "HOME": str(self.path), **dates},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def commit(self, files: Mapping[str, str | bytes], *, gone: Iterable[str] = ()) -> str:
        """Write and remove files, and commit everything; the commit."""
        for name, data in files.items():
            place = self.path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data if isinstance(data, bytes) else data.encode())
        for name in gone:
            (self.path / name).unlink()
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "a story")
        return self.git("rev-parse", "HEAD")

    def blob(self, data: bytes) -> str:
        return self.git("hash-object", "-w", "--stdin", data=data)

    def tree(self, *entries: tuple[str, bytes, str]) -> str:
        """A tree object of (mode, name, object), whatever these are: git itself would refuse some."""
        raw = b"".join(mode.encode() + b" " + name + b"\0" + bytes.fromhex(held) for mode, name, held in entries)
        return self.git("hash-object", "-w", "-t", "tree", "--literally", "--stdin", data=raw)

    def point(self, tree: str) -> str:
        """Make the branch a commit of this tree; the commit."""
        made = self.git("commit-tree", tree, "-m", "planted")
        self.git("update-ref", "refs/heads/main", made)
        return made
