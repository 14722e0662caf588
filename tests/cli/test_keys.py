"""`swoosh keys`: sealing, looking at who can open, and rotating, which may be broken off anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster import config
from cluster.cli import keys
from cluster.cli.init import Plan, create
from cluster.clock import SystemClock
from cluster.entropy import SystemEntropy
from cluster.vault import SecretError, Vault, recipients_in


@pytest.fixture
def home(tmp_path: Path) -> Path:
    create(tmp_path / "cluster", Plan(nodes=1), SystemClock(), SystemEntropy())
    return tmp_path / "cluster" / "node-1"


def swoosh_keys(*words: str | Path) -> Result:
    return CliRunner().invoke(keys.keys, [str(word) for word in words])


def works(home: Path) -> str:
    """The node's configuration opens all it needs; the principal it signs as."""
    settings = config.load(home / "swoosh.toml", {})
    assert settings.credentials().key.startswith(b"-----BEGIN")
    return settings.node_key().principal


def test_a_new_cluster_has_nothing_secret_in_the_open_on_a_node(home: Path) -> None:
    works(home)
    for path in home.iterdir():
        if path.is_file() and path.name != "age.key":
            assert b"PRIVATE KEY" not in path.read_bytes(), path


def test_the_offline_identity_opens_every_secret_of_every_node(home: Path) -> None:
    offline = Vault(home.parent / "offline.key")
    assert {path.name for path in keys.sealed(home)} == {"node.pem.age", "node.key.age"}
    for path in keys.sealed(home):
        assert offline.open(path).startswith(b"-----BEGIN PRIVATE KEY")


def test_recipients_are_listed_and_tried(home: Path) -> None:
    own = Vault(home / "age.key").recipient()
    shown = swoosh_keys("recipients", home, "-o", "json")
    assert shown.exit_code == 0 and own in shown.stdout and "node.pem.age" in shown.stdout
    (home / "recipients.txt").write_text(Vault(home.parent / "offline.key").recipient())
    assert swoosh_keys("recipients", home).exit_code != 0, "this node is not among them"


def test_a_plain_file_is_sealed_beside_itself_and_nothing_is_overwritten(home: Path) -> None:
    (home / "tokens").write_text("canary-7f3a")
    assert swoosh_keys("seal", home / "tokens").exit_code == 0
    assert Vault(home / "age.key").text(home / "tokens.age") == "canary-7f3a"
    again = swoosh_keys("seal", home / "tokens")
    assert again.exit_code != 0 and "canary" not in again.output


def test_rotating_changes_who_opens_and_not_what_is_opened(home: Path) -> None:
    before, old = works(home), (home / "age.key").read_bytes()
    assert swoosh_keys("rotate", home).exit_code == 0
    assert works(home) == before
    (home / "old.key").write_bytes(old)
    (home / "old.key").chmod(0o600)
    for path in keys.sealed(home):
        with pytest.raises(SecretError):
            Vault(home / "old.key").open(path)
        Vault(home.parent / "offline.key").open(path)
    assert recipients_in(home / "recipients.txt")[0] == Vault(home / "age.key").recipient()
    assert swoosh_keys("recipients", home).exit_code == 0


@pytest.mark.parametrize("step", range(6))
def test_a_rotation_broken_off_anywhere_leaves_a_node_that_starts(
    home: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two secrets sealed for both, the identity, two secrets for the new one alone, the list: six writes."""
    before, write, left = works(home), keys._replace, step
    offline = Vault(home.parent / "offline.key").recipient()

    def broken_off(path: Path, data: bytes) -> None:
        nonlocal left
        if left == 0:
            raise OSError("the power went")
        left -= 1
        write(path, data)

    monkeypatch.setattr(keys, "_replace", broken_off)
    assert swoosh_keys("rotate", home).exit_code != 0
    assert works(home) == before
    monkeypatch.setattr(keys, "_replace", write)
    assert swoosh_keys("rotate", home).exit_code == 0
    assert works(home) == before
    assert recipients_in(home / "recipients.txt") == [Vault(home / "age.key").recipient(), offline]


def test_an_identity_is_made_by_its_own_option(tmp_path: Path) -> None:
    made = swoosh_keys("new", tmp_path / "spare.key", "--age", "-o", "json")
    assert Vault(tmp_path / "spare.key").recipient() in made.stdout
    assert swoosh_keys("new", tmp_path / "spare.key", "--age").exit_code != 0
