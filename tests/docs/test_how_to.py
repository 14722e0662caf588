"""The how-to pages do what they say: their Python runs, in one piece per page, and the hash script finds the hash."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import msgspec
import pytest

from chaos.solo import Solo, the_chart
from chaos.steer import drive
from cluster import callers, sections
from cluster.cli import main
from cluster.shhh import policy
from swoosh import canonical, state
from swoosh.errors import Malformed

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "how-to"
WITH_CODE = (
    "a-reducer-in-ten-lines.md",
    "add-a-guard-and-its-provider.md",
    "add-a-compensation.md",
    "pin-a-tool-server.md",
)
SCRIPT = PAGES / "recompute_state_hash.py"


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_of_a_page_runs(name: str) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", (PAGES / name).read_text(encoding="utf-8"), re.DOTALL))
    assert code
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_policy_of_the_page_is_one_once_it_is_mended() -> None:
    text = (PAGES / "write-a-policy.md").read_text(encoding="utf-8")
    first, mended, _ = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    with pytest.raises(Malformed, match="groups"):
        policy.decode(tomllib.loads(first))
    found = policy.decode(tomllib.loads(re.sub(r"patterns = .*\n", mended, first)))
    assert (found.verdicts["acme-key"], found.verdicts["bearer-token"]) == ("quarantine", "redact")


def test_the_settings_of_the_page_about_callers_are_settings_and_can_be_meant() -> None:
    text = (PAGES / "let-whoosh-callers-in.md").read_text(encoding="utf-8")
    written = [tomllib.loads(each).get("whoosh", {}) for each in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]
    section = msgspec.convert({key: value for each in written for key, value in each.items()}, sections.Whoosh)
    assert list(section.faults()) == [] and section.tokens and section.jwks and section.gitea_secret
    listed = set(
        re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", text.split("## All keys")[1], re.MULTILINE)))
    )
    assert listed <= {field.name for field in msgspec.structs.fields(sections.Whoosh)}
    assert {key for each in written for key in each} < listed


def test_the_tokens_of_the_page_are_tokens() -> None:
    text = (PAGES / "let-whoosh-callers-in.md").read_text(encoding="utf-8")
    lines = re.findall(r'^echo "(.*)" >> whoosh-tokens$', text, re.MULTILINE)
    random = iter("abcd")
    found = callers.service_tokens("\n".join(re.sub(r"\$\(.*?\)", lambda _: next(random) * 32, line) for line in lines))
    assert [(each.name, each.agent) for each in found.values()][2:] == [("swarm", ""), ("chorus-7", "chorus-7")]


def commands(page: str) -> list[list[str]]:
    """Every `swoosh` command of a page's shell blocks, as words."""
    blocks = re.findall(r"```sh\n(.*?)```", (PAGES / page).read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("swoosh ")]


@pytest.mark.parametrize(
    "words", [*commands("run-the-workers.md"), *commands("let-whoosh-callers-in.md")], ids=" ".join
)
def test_the_commands_of_a_page_exist_with_their_options(words: list[str]) -> None:
    command: click.Command = main
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words.pop(0))
        assert found is not None
        command = found
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    needed = {each.opts[0] for each in command.params if each.required and each.opts[0].startswith("--")}
    given = {word for word in words if word.startswith("--")}
    assert needed <= given <= known


def answer(solo: Solo, project: str) -> bytes:
    """What `GET /state` serves of a project, whole."""
    held = solo.machine.project(project)
    assert held is not None
    names = state.SERVED[type(held.regions)].values()
    projection = {name: json.loads(b"".join(state.served(held.regions, name))) for name in names}
    if project != "@cluster":
        projection["Control"] = state.control(state.as_project(held.regions))
    served = {
        "project": held.id,
        "state_hash": held.state_hash,
        "region_hashes": held.region_hashes,
        "collections": state.collection_paths(held.regions),
        "projection": projection,
    }
    return canonical.encode(served)


def recomputed(served: bytes) -> str:
    done = subprocess.run([sys.executable, str(SCRIPT)], input=served, capture_output=True, check=True)
    return done.stdout.decode().strip()


@pytest.fixture(scope="module")
def solo() -> Solo:
    """A project at work on more tasks than fit one leaf, with text that JSON has to escape."""
    solo = Solo(the_chart(), settings={"window_source": "always_open"})
    drive(solo, lambda r: r.execution.phase == "PLAN")
    r = solo.regions()
    tasks = {f"task-{number}": f'caf\u00e9 "{number}"\n\u2028\U0001f600\x7f\x01' for number in range(400)}
    agreed = {
        "content_hash": r.ingestion.content_hash,
        "member_set_hash": r.council.member_set_hash,
        "environment_hash": r.environment.environment_hash,
    }
    solo.propose("EXECUTION_PLAN_LOCKED", agreed | {"plan_hash": solo.named("plan"), "tasks": tasks})
    assert len(solo.regions().execution.tasks) == 400
    return solo


@pytest.mark.parametrize("project", ["default", "@cluster"])
def test_the_script_finds_the_hash_of_the_answer(solo: Solo, project: str) -> None:
    assert recomputed(answer(solo, project)) == solo.head(project)


def test_the_script_finds_another_hash_when_one_letter_is_another(solo: Solo) -> None:
    served = json.loads(answer(solo, "default"))
    served["projection"]["Execution"]["Tasks"]["task-7"]["Title"] += "!"
    assert recomputed(json.dumps(served).encode()) != solo.head("default")


def test_the_script_is_short_and_needs_nothing() -> None:
    lines = [line for line in SCRIPT.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= 26
    assert {line for line in lines if line.startswith("import")} == {"import hashlib", "import json", "import sys"}
