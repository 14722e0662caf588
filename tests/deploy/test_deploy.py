"""The files of deploy/, each through a checker that knows its language, and against what they say about each other.

`make deploy-check` runs this and names what was skipped for want of a tool. No image is built, and neither systemd nor
a container engine starts anything: what a checker cannot see is only found by who does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from click.testing import CliRunner

from chaos.live.haproxy import CONFIG, MISSING, is_installed
from cluster import config
from cluster.answers import unknown
from cluster.cli import main
from cluster.faults import ExitCode
from cluster.http import problems
from swoosh.outcome import Code, Refused

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
ANSWERS = DEPLOY / "haproxy" / "answers"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
UNIT = DEPLOY / "systemd" / "swoosh@.service"
CONTAINERFILES = sorted(DEPLOY.rglob("Containerfile"))
SCHEMA = Path(__file__).parent / "compose-spec.json"
EXPOSURE_MAX = 20
"""Of 100, as systemd-analyze counts what a unit could do if it were taken over."""

needs_haproxy = pytest.mark.skipif(not is_installed(), reason=MISSING)
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (Debian: systemd)"
)
HADOLINT = Path(sys.executable).parent / "hadolint"
needs_hadolint = pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint is not installed (it is in the test group)")


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, cwd="/", env=os.environ | variables
    )


# --- HAProxy ----------------------------------------------------------------------------------------------------------


@needs_haproxy
@pytest.mark.parametrize("variables", [{}, {"SWOOSH_LB_LEADER_BIND": ":8081"}], ids=["one way in", "two"])
def test_haproxy_takes_its_configuration(variables: dict[str, str], tmp_path: Path) -> None:
    checked = run("haproxy", "-c", "-f", CONFIG, **variables)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stderr
    broken = tmp_path / "haproxy.cfg"
    shutil.copytree(ANSWERS, tmp_path / "answers")
    broken.write_text(CONFIG.read_text().replace("option redispatch", "option redispach"))
    assert run("haproxy", "-c", "-f", broken, **variables).returncode == 1, "it would have been told"


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("outcome-unknown", unknown("the load balancer has no node's answer; a node may have been sent the request")),
        ("malformed", Refused(Code.MALFORMED, ("the load balancer cannot read this as HTTP",))),
        ("too-slow", Refused(Code.TOO_SLOW, ("head and body did not arrive within 15 s",))),
    ],
)
def test_what_the_balancer_answers_itself_is_what_a_node_would_say(name: str, answer: Any) -> None:
    head, _, body = (ANSWERS / f"{name}.http").read_bytes().partition(b"\r\n\r\n")
    status, document = problems.document(answer)
    assert json.loads(body) == json.loads(json.dumps(document))
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ") for line in lines)
    assert first.startswith(f"HTTP/1.1 {int(status)} ")
    assert headers["Content-Length"] == str(len(body)) and headers["Content-Type"] == problems.JSON
    assert headers["Connection"] == "close", "HAProxy hangs up after most of these; a client must know before"
    assert headers.get("Retry-After") == ("1" if status == 503 else None)


# --- systemd ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """An instance of the unit, with a program that is there in place of the one it names."""
    path = tmp_path / UNIT.name.replace("@", "@node-1")
    program = Path(sys.executable).parent / "swoosh"
    text = UNIT.read_text()
    assert "ExecStart=/opt/swoosh/bin/swoosh " in text
    path.write_text(text.replace("/opt/swoosh/bin/swoosh", str(program)))
    return path


@needs_systemd
def test_systemd_takes_the_unit_and_thinks_it_is_well_locked_up(unit: Path) -> None:
    checked = run("systemd-analyze", "verify", unit)
    assert (checked.returncode, checked.stderr) == (0, "")
    measured = run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", unit)
    assert measured.returncode == 0, measured.stdout
    unit.write_text(unit.read_text().replace("ProtectSystem=", "ProtectSytem="))
    assert "ProtectSytem" in run("systemd-analyze", "verify", unit).stderr, "it would have been told"


def test_the_unit_does_not_start_again_what_that_cannot_mend() -> None:
    [codes] = re.findall(r"^RestartPreventExitStatus=(.*)$", UNIT.read_text(), re.MULTILINE)
    hopeless = {ExitCode.DAMAGED, ExitCode.ROLLED_BACK, ExitCode.DIVERGED, ExitCode.MISCONFIGURED}
    assert {int(code) for code in codes.split()} == hopeless


# --- containers -------------------------------------------------------------------------------------------------------


@needs_hadolint
@pytest.mark.parametrize("path", CONTAINERFILES, ids=lambda path: path.parent.name)
def test_hadolint_has_nothing_to_say(path: Path, tmp_path: Path) -> None:
    checked = run(HADOLINT, path)
    assert (checked.returncode, checked.stdout) == (0, "")
    worse = tmp_path / "Containerfile"
    worse.write_text(path.read_text() + "USER root\n")
    assert run(HADOLINT, worse).returncode != 0, "it would have been told"


@pytest.mark.parametrize("path", CONTAINERFILES, ids=lambda path: path.parent.name)
def test_an_image_keeps_the_contract_of_v1(path: Path) -> None:
    text = path.read_text()
    assert 'CMD ["curl", "-f", "http://localhost:8080/health"]' in text
    assert re.search(r"install -y --no-install-recommends curl\b", text)
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.MULTILINE), "not root"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in line.split():
            assert any(source.startswith(kept.removeprefix("!")) for kept in ignored if kept.startswith("!")), source


# --- compose ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text()))


def complaints(document: dict[str, Any]) -> list[str]:
    """What the schema of the Compose Specification has against a file."""
    schema = json.loads(SCHEMA.read_text())
    checker = jsonschema.validators.validator_for(schema)
    return [error.message for error in checker(schema).iter_errors(document)]


def test_the_schema_is_kept_word_for_word() -> None:
    assert sha256(SCHEMA.read_bytes()).hexdigest() in SCHEMA.with_suffix(".md").read_text()


def test_the_compose_file_is_one(compose: dict[str, Any]) -> None:
    assert complaints(compose) == []
    assert complaints({**compose, "services": {"swoosh": {"helthcheck": {}}}}), "it would have been told"


def test_the_compose_file_keeps_the_contract_of_the_guide(compose: dict[str, Any]) -> None:
    services = compose["services"]
    [port] = services["swoosh"]["ports"]
    assert port == {"target": 8080, "published": 8800, "protocol": "tcp", "mode": "ingress"}
    nodes = [services[f"swoosh-{number}"] for number in (1, 2, 3)]
    for service in (services["swoosh"], *nodes):
        check = service["healthcheck"]
        assert check["test"] == ["CMD", "curl", "-f", "http://localhost:8080/health"]
        assert {check[name] for name in ("interval", "timeout", "start_period")} == {"30s", "10s", "40s"}
        assert check["retries"] == 3
    for node in nodes:
        assert "/app/data" in [volume["target"] for volume in node["volumes"]]
        assert node["environment"]["SWOOSH_LISTEN_ADDR"] == ":8080"
    assert services["chorus"]["environment"] == [
        "WHOOSH_API_BASE_URL=${SWOOSH_API_BASE_URL:-http://swoosh:8080}",
        "WHOOSH_API_ENABLED=true",
    ]


def test_the_command_in_the_compose_file_makes_the_cluster_it_starts(compose: dict[str, Any], tmp_path: Path) -> None:
    """Read by the node as it will be in its container, where its directory is /app/data."""
    [words] = re.findall(r"^#   swoosh (init .*?) +#", COMPOSE.read_text(), re.MULTILINE)
    made = CliRunner().invoke(
        main, [str(tmp_path / "cluster") if word == "cluster" else word for word in words.split()]
    )
    assert made.exit_code == 0, made.output
    for number in (1, 2, 3):
        service = compose["services"][f"swoosh-{number}"]
        for volume in service["volumes"]:
            assert (tmp_path / volume["source"]).exists(), f"{volume['source']} is what init makes"
        home, app = tmp_path / "cluster" / f"node-{number}", tmp_path / f"app-{number}"
        app.mkdir()
        shutil.copytree(home, app / "data")
        for name in ("genesis.json", "license.json"):
            shutil.copy(tmp_path / "cluster" / name, app)
        told = {name: value.replace("/app/", f"{app}/") for name, value in service["environment"].items()}
        found = config.load(app / "data" / "swoosh.toml", told)
        assert found.notices == () and found.genesis() and found.license_path.exists()
        assert found.http == ("", 8080) and found.store_path.exists()
        assert found.members[f"node-{number}"] == (f"swoosh-{number}", 8180) and found.peer == ("", 8180)


def test_the_balancer_finds_the_nodes_where_they_are(compose: dict[str, Any]) -> None:
    told = compose["services"]["swoosh"]["environment"]
    asked = set(re.findall(r"SWOOSH_LB_NODE_\d", CONFIG.read_text()))
    assert told == {name: f"swoosh-{name[-1]}:8080" for name in asked}
