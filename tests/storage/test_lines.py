"""A file of lines: whole lines stay, half of one goes, and one program writes."""

from pathlib import Path

import pytest

from cluster.storage.lines import Lines


def test_what_was_appended_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    lines = Lines.open(path)
    for text in (b"one", b"", b"three"):
        lines.append(text)
    lines.close()
    again = Lines.open(path)
    again.append(b"four")
    assert list(again) == [b"one", b"", b"three", b"four"]
    again.close()


@pytest.mark.parametrize("torn", [b"", b"h", b'{"half": "a li'])
def test_half_a_line_is_cut_off_and_nothing_before_it(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntwo\n" + torn)
    lines = Lines.open(path)
    lines.append(b"three")
    assert path.read_bytes() == b"one\ntwo\nthree\n"
    lines.close()


def test_two_programs_do_not_share_one(tmp_path: Path) -> None:
    first = Lines.open(tmp_path / "lines")
    with pytest.raises(OSError):
        Lines.open(tmp_path / "lines")
    first.close()
    Lines.open(tmp_path / "lines").close()


def test_a_line_is_synced_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines.open(tmp_path / "lines")
    synced: list[bytes] = []
    monkeypatch.setattr("os.fsync", lambda _: synced.append((tmp_path / "lines").read_bytes()))
    lines.append(b"one")
    assert synced == [b"one\n"]
    lines.close()
