"""docs/tutorial/ten-minutes.md, typed as it stands: every ```sh block, in order, in one shell.

A ```text block right behind one is what it showed. Each of its lines must come back, in whatever order. What varies
from run to run is not compared: most numbers, hashes, which node it was; `…` is anything.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from chaos.live.cluster import free_base_port
from tests.system.loopback import own_loopback

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial" / "ten-minutes.md"
BLOCK = re.compile(r"```(sh|text)\n(.*?)```", re.DOTALL)
VARIES = re.compile(r"(faults left: \d|\d of \d|exit \d)|\s*…\s*|node-\d|\b[0-9a-f]{12,}\b|\d+|\s+")
"""The group does not vary."""
END_OF_BLOCK = "\x1e"
DEADLINE = 300.0


class Step(NamedTuple):
    """What is typed, and the lines that are shown behind it."""

    typed: str
    shown: list[str]


def steps(page: str) -> list[Step]:
    found: list[Step] = []
    for kind, text in BLOCK.findall(page):
        if kind == "sh":
            found.append(Step(text, []))
        else:
            found[-1].shown.extend(text.splitlines())
    return found


def pattern(line: str) -> re.Pattern[str]:
    """What a line may have been that looks like this one on the page."""
    parts, at = [], 0
    for match in VARIES.finditer(line.strip()):
        parts += [re.escape(line.strip()[at : match.start()]), re.escape(match[0]) if match[1] else _any_of(match[0])]
        at = match.end()
    return re.compile("".join([*parts, re.escape(line.strip()[at:])]))


def _any_of(text: str) -> str:
    if "…" in text:
        return ".*"
    if text.isspace():
        return r"\s+"
    if text.startswith("node-"):
        return r"node-\d"
    return r"\d+" if text.isdigit() and len(text) < 12 else "[0-9a-f]+"


@pytest.mark.parametrize(
    ("shown", "real", "same"),
    [
        ("node-1  leader  1  50 ms  d16d5a97e4f8", "node-3   leader     12 7 ms d16d5a97e4f9", True),
        ("node-1  leader  1", "node-3  follower  1", False),
        ("healthy", "degraded", False),
        ("a … b", "a, and everything between, b", True),
        ("agree: 3 of 3 at index 4", "agree: 3 of 3 at index 17", True),
        ("agree: 3 of 3 at index 4", "agree: 2 of 3 at index 4", False),
        ("exit 1", "exit 2", False),
    ],
)
def test_what_is_compared(shown: str, real: str, same: bool) -> None:
    assert bool(pattern(shown).fullmatch(real)) is same


def test_the_page_shows_what_its_commands_say() -> None:
    found = steps(PAGE.read_text(encoding="utf-8"))
    assert len(found) >= 10 and sum(bool(step.shown) for step in found) == len(found), "each command has its output"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.timeout(DEADLINE + 60)
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    with own_loopback("tutorial") as network:
        if network is None:
            base = free_base_port(3)
            page = page.replace("init my-cluster\n", f"init my-cluster --base-port {base}\n", 1)
            page = page.replace("127.0.0.1:810", f"127.0.0.1:{base // 10}")
        found = steps(page)
        said = typed([step.typed for step in found], tmp_path, network or [])
    for step, output in zip(found, said, strict=True):
        lines = [line.strip() for line in output.splitlines()]
        missing = [line for line in step.shown if not any(pattern(line).fullmatch(real) for real in lines)]
        assert not missing, f"{step.typed}\nshows no line like {missing}, but:\n{output}"


def typed(blocks: list[str], directory: Path, network: list[str]) -> list[str]:
    """What each block printed, typed one after the other into one shell."""
    swoosh = directory / "bin" / "swoosh"
    swoosh.parent.mkdir()
    swoosh.write_text(f'#!/bin/sh\nexec {sys.executable} -m cluster "$@"\n')
    swoosh.chmod(0o755)
    home = directory / "empty"
    home.mkdir()
    kept = {name: text for name, text in os.environ.items() if not name.startswith("SWOOSH_")}
    variables = {**kept, "PATH": f"{swoosh.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    script = "".join(f"{block}\nprintf '{END_OF_BLOCK}'\n" for block in blocks)
    shell = subprocess.Popen(
        [*network, "sh", "-euc", script],
        cwd=home,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = shell.communicate(timeout=DEADLINE)
    finally:
        # The nodes it started are in its session, and outlive it where a command of the page fails.
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    logs = "".join(path.read_text()[-2_000:] for path in home.glob("*.log"))
    assert shell.returncode == 0, f"ended with {shell.returncode}:\n{output}\n{logs}"
    return output.split(END_OF_BLOCK)[:-1]
