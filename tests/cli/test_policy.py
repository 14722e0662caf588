"""swoosh policy, scan and quarantine: what they print, how they end, what they refuse before anybody is asked."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster import config
from cluster.cli import main
from tests.shhh.secrets import A20, CANARY

POLICY = """
version = "2026-11-21"

[[rules]]
name = "acme-key"
severity = "medium"
tags = ["internal"]
patterns = ['acme_[A-Za-z0-9]{8,64}']

[[verdicts]]
tag = "internal"
verdict = "redact"
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


def swoosh(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_policy_is_shown_with_what_is_done(policy: Path) -> None:
    found = json.loads(swoosh("policy", "show", policy, "-o", "json").stdout)
    verdicts = {rule["rule"]: rule["verdict"] for rule in found["rules"]}
    assert verdicts["acme-key"] == "redact" and verdicts["private-key"] == "quarantine"
    assert found["version"] == "2026-11-21" and found["hash"] == config.policy(policy).hash
    assert "version built-in, sha256-" in swoosh("policy", "show").stdout


@pytest.mark.parametrize(
    "sound, wrong, said",
    [
        ("[A-Za-z0-9]{8,64}", "(a+)+", "groups"),
        ('verdict = "redact"', "", "verdict"),
        ("version", "versions", "unknown field"),
        ("version =", "version", "Expected"),
    ],
)
def test_a_file_that_is_no_policy_is_refused_with_its_name(policy: Path, sound: str, wrong: str, said: str) -> None:
    policy.write_text(POLICY.replace(sound, wrong, 1))
    done = swoosh("policy", "show", policy)
    assert done.exit_code == 1 and str(policy) in done.stderr and said in done.stderr
    with pytest.raises(config.Misconfigured, match=r"policy\.toml"):
        config.policy(policy)


def test_a_node_reads_the_policy_its_configuration_names(tmp_path: Path, policy: Path) -> None:
    assert swoosh("init", tmp_path / "c", "--nodes", "1").exit_code == 0
    path = tmp_path / "c" / "node-1" / "swoosh.toml"
    assert config.load(path, {}).policy.version == "built-in"
    assert config.load(path, {"SWOOSH_POLICY_FILE": str(policy)}).policy.version == "2026-11-21"
    path.write_text(path.read_text() + '\n[policy]\nfile = "../../policy.toml"\n')
    assert config.load(path, {}).policy.version == "2026-11-21"
    policy.write_text(POLICY.replace("{8,64}", "+"))
    with pytest.raises(config.Misconfigured, match="acme"):
        config.load(path, {})


def test_a_scan_names_places_and_ends_with_what_it_found(tmp_path: Path, policy: Path) -> None:
    content = tmp_path / "content"
    content.mkdir()
    (content / "fine.py").write_text("print('fine')\n")
    assert swoosh("scan", content).exit_code == 0
    (content / "notes.md").write_text("\nacme_abcdefgh1\n")
    assert swoosh("scan", content, "--policy", policy).exit_code == 0, "redacting is no reason to stop"
    (content / "a.env").write_text(f"# keys\nOPENAI_API_KEY={A20}\nother={CANARY}\n")
    done = swoosh("scan", content, "--policy", policy, "-o", "json")
    found = json.loads(done.stdout)
    assert done.exit_code == 1 and A20 not in done.output
    assert [(each["location"], each["rule"], each["verdict"]) for each in found["findings"]] == [
        ("a.env:2", "api-key", "quarantine"),
        ("a.env:3", "openai-secret", "quarantine"),
        ("notes.md:2", "acme-key", "redact"),
    ]
    assert [each["location"] for each in found["rejection"]["findings"]] == ["a.env:2", "a.env:3"]
    table = swoosh("scan", content)
    assert "a.env:2" in table.stdout and A20 not in table.output


def test_a_report_needs_somebody_who_signs(tmp_path: Path) -> None:
    done = swoosh("scan", tmp_path, "--report", "sha256-" + "0" * 64)
    assert done.exit_code == 2 and "--key" in done.stderr
