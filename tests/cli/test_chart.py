"""``swoosh chart``: the picture, where it goes, and what is said when it cannot be drawn."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.cli import main
from cluster.config import packaged_chart
from swoosh.drawing import to_dot, to_mermaid

MACHINE = packaged_chart()


def test_mermaid_and_dot_need_no_other_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for form, text in (("mermaid", to_mermaid(MACHINE)), ("dot", to_dot(MACHINE))):
        done = CliRunner().invoke(main, ["chart", "--format", form])
        assert (done.exit_code, done.stdout) == (0, text)


def test_without_graphviz_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    done = CliRunner().invoke(main, ["chart"])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "Graphviz" in done.stderr
    assert "--format mermaid" in done.stderr


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
def test_svg_goes_into_a_file(tmp_path: Path) -> None:
    target = tmp_path / "machine.svg"
    done = CliRunner().invoke(main, ["chart", "--out", str(target)])
    assert (done.exit_code, done.output) == (0, "")
    assert "EXECUTION" in target.read_text(encoding="utf-8")


def test_a_live_picture_without_a_cluster_is_no_picture(unused_tcp_port: int) -> None:
    done = CliRunner().invoke(main, ["chart", "--live", "--endpoint", f"http://127.0.0.1:{unused_tcp_port}"])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "no answer" in done.stderr
