"""`swoosh worker ingest|run`: what is refused before anything is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.cli import main
from cluster.cli.keys import write_private
from swoosh.client import Key


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("ingest", "--repository", "https://token@example.org/a.git"), "the URL carries credentials"),
        (("ingest", "--repository", "ext::touch"), "not offered"),
        (("run", "--pins", "{}", "--terms", '{"claims": 1}'), "known are plan_beats"),
        (("run", "--pins", "[]"), "expected a JSON object"),
        (("run",), "--pins"),
    ],
)
def test_what_cannot_be_meant_is_said_at_once(tmp_path: Path, arguments: tuple[str, ...], why: str) -> None:
    write_private(tmp_path / "key.pem", Key.generate().pem())
    done = CliRunner().invoke(main, ["worker", *arguments, "--key", str(tmp_path / "key.pem")])
    assert done.exit_code == 2 and why in done.output
