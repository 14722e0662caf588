"""Files of a content: every one is read, in the same order on every machine, or nothing is said."""

from pathlib import Path

import pytest

from cluster.shhh import tree
from cluster.shhh.policy import BUILT_IN
from cluster.shhh.scanner import Scanner
from tests.shhh.secrets import OPENAI

SCANNER = Scanner(BUILT_IN)


def test_a_tree_is_read_whole_but_for_what_git_keeps_and_links_lead_to(tmp_path: Path) -> None:
    for name in ("b/deep/x.py", "a.txt", ".git/config", ".env"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"\n{OPENAI}\n")
    (tmp_path / "data.bin").write_bytes(b"\xff\xfe\0" + OPENAI.encode() + b"\0")
    (tmp_path / "link").symlink_to(tmp_path / "a.txt")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = [each.location for each in tree.scan(SCANNER, tmp_path)]
    assert found == [".env:2", "a.txt:2", "b/deep/x.py:2", "data.bin:1"]
    assert [each.location for each in tree.scan(SCANNER, tmp_path / "a.txt")] == ["a.txt:2"]


def test_a_file_that_is_not_read_is_no_clean_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large").write_text("x" * 100)
    monkeypatch.setattr(tree, "FILE_BYTES_MAX", 99)
    with pytest.raises(tree.Unread, match="large"):
        list(tree.scan(SCANNER, tmp_path))
