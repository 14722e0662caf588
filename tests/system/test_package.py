"""The package as an operator gets it: the run-time set of the lock file alone, in an environment of its own.

Everything else is tested from the source tree, where a file that was forgotten in the wheel, or a library that only
the tests declare, would never be missed.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).parent / "uv"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a fresh environment that holds SWOOSH and what running it needs."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run(
        [UV, "sync", "--quiet", "--locked", "--no-default-groups", "--no-editable", "--python", sys.executable],
        cwd=ROOT,
        env=os.environ | {"UV_PROJECT_ENVIRONMENT": str(environment)},
        check=True,
        timeout=110,
    )
    return environment / "bin"


def run(program: Path, *arguments: str, cwd: Path) -> str:
    """Standard output of a program that must succeed; outside the source tree, so that it cannot lean on it."""
    done = subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_starts(installed: Path, tmp_path: Path) -> None:
    assert "Usage: swoosh" in run(installed / "swoosh", "--help", cwd=tmp_path)


def test_the_chart_travels_with_the_package(installed: Path, tmp_path: Path) -> None:
    script = "from importlib.resources import files; print(files('swoosh').joinpath('statechart.yaml').read_text())"
    assert (
        run(installed / "python", "-c", script, cwd=tmp_path).strip() == (ROOT / "statechart.yaml").read_text().strip()
    )


def test_running_needs_no_tool_of_ours(installed: Path, tmp_path: Path) -> None:
    script = (
        "import importlib.util as u; print([n for n in ('pytest', 'hypothesis', 'mypy', 'chaos') if u.find_spec(n)])"
    )
    assert run(installed / "python", "-c", script, cwd=tmp_path).strip() == "[]"


def test_the_container_recipe_copies_all_that_its_command_needs(tmp_path: Path) -> None:
    """Its build stage by hand: the files of its COPY lines, and the command that installs from them."""
    recipe = (ROOT / "deploy" / "container" / "Containerfile").read_text()
    source, environment = tmp_path / "source", tmp_path / "opt"
    source.mkdir()
    for names in re.findall(r"^COPY (?!--from)(.+) \S+$", recipe, re.MULTILINE):
        for name in names.split():
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, source / name)
    [words] = re.findall(r"^RUN uv (.+)$", recipe, re.MULTILINE)
    subprocess.run(
        [UV, *words.split(), "--quiet", "--python", sys.executable],
        cwd=source,
        env=os.environ | {"UV_PROJECT_ENVIRONMENT": str(environment)},
        check=True,
        timeout=110,
    )
    run(environment / "bin" / "swoosh", "init", str(tmp_path / "cluster"), cwd=tmp_path)
    assert (tmp_path / "cluster" / "genesis.json").exists()
