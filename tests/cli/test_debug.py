"""`swoosh debug bundle`: what is in it, and what never is."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from click.testing import CliRunner

from cluster.cli import debug
from cluster.cli.debug import cleaned, packed
from cluster.shhh.policy import BUILT_IN
from cluster.shhh.scanner import Scanner

TOKEN = "sk-" + "proj-" + "a1B2" * 10
NOBODY = "http://127.0.0.1:1"


def unpacked(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = ((member.name, archive.extractfile(member)) for member in archive)
        return {name.removeprefix("swoosh-debug/"): file.read() for name, file in files if file is not None}


def test_a_bundle_holds_what_was_put_in() -> None:
    files = {"nodes/1/health": b"{}", "files/1-node.log": b"one\ntwo\n"}
    assert unpacked(packed(files)) == files


def test_nothing_that_policy_knows_gets_through_and_the_rest_does() -> None:
    line = json.dumps({"event": "ready", "index": 7})
    text = f"{line}\nexport OPENAI_API_KEY={TOKEN}\nnext\n".encode()
    clean = cleaned(Scanner(BUILT_IN), text).decode()
    assert TOKEN not in clean and clean.startswith(f"{line}\n") and clean.endswith("\nnext\n")
    assert cleaned(Scanner(BUILT_IN), b"\xff\x00 no text") == "\xff\x00 no text".encode()


def test_a_node_that_does_not_answer_is_part_of_the_picture(tmp_path: Path) -> None:
    log, out = tmp_path / "node-1.log", tmp_path / "b.tar.gz"
    log.write_text(f"Authorization: Bearer {'aZ9' * 12}\n" + "x" * 100)
    command = ["bundle", "--endpoint", NOBODY, "--timeout", "2", "--file", str(log), "--out", str(out)]
    done = CliRunner().invoke(debug.debug, command)
    assert done.exit_code == 0, done.output
    found = unpacked(out.read_bytes())
    assert found["nodes/1/url"].decode() == NOBODY
    assert found["nodes/1/health"].startswith(b"no answer: ")
    assert b"aZ9aZ9" not in found["files/1-node-1.log"] and found["files/1-node-1.log"].endswith(b"x" * 100)
