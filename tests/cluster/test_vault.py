"""Vault at rest: sealed for those who may read them, in the format everybody's `age` speaks."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import vault
from cluster.cli.keys import write_private
from cluster.vault import Secret, SecretError, Vault

CANARY = b"canary-7f3a"
needs_age = pytest.mark.skipif(shutil.which("age") is None, reason="needs Debian's age")


class Home:
    """A node's directory: an identity, and one kept elsewhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        identity, self.recipient = vault.new_identity()
        elsewhere, self.offline = vault.new_identity()
        write_private(path / "age.key", identity)
        write_private(path / "offline.key", elsewhere)
        self.vault, self.kept = Vault(path / "age.key"), Vault(path / "offline.key")

    def sealed(self, plain: bytes = CANARY, *recipients: str) -> Path:
        path = self.path / "token.age"
        path.write_bytes(vault.seal(plain, recipients or [self.recipient, self.offline]))
        return path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_both_recipients_open_it_alone_and_nobody_else_does(home: Home) -> None:
    path = home.sealed()
    assert home.vault.open(path) == home.kept.open(path) == CANARY
    assert CANARY not in path.read_bytes()
    home.sealed(CANARY, home.offline)
    with pytest.raises(SecretError, match="cannot be opened with the identity in"):
        home.vault.open(path)


@given(plain=st.binary(max_size=2_000))
def test_what_is_sealed_is_opened_to_the_bit(tmp_path_factory: pytest.TempPathFactory, plain: bytes) -> None:
    home = Home(tmp_path_factory.mktemp("home"))
    assert home.vault.open(home.sealed(plain)) == plain


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file"),
        (CANARY, "is not encrypted"),
        (b"age-encryption.org/v1\ncanary-7f3a", "cannot be opened"),
        (b"-----BEGIN AGE ENCRYPTED FILE-----\ncanary-7f3a", "cannot be opened"),
    ],
)
def test_what_cannot_be_opened_is_named_and_never_quoted(home: Home, content: bytes | None, complaint: str) -> None:
    path = home.path / "token.age"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SecretError, match=complaint) as refused:
        home.vault.open(path)
    assert str(path) in str(refused.value) and CANARY.decode() not in str(refused.value)


@pytest.mark.parametrize(
    ("identity", "complaint"),
    [
        (b"", "holds 0 AGE identities"),
        (b"AGE-SECRET-KEY-1CANARY7F3A", "holds no AGE identity"),
        (b"AGE-SECRET-KEY-1A\nAGE-SECRET-KEY-1B", "holds 2 AGE identities"),
        (b"\xff\xfe", "holds no AGE identity"),
    ],
)
def test_an_identity_that_is_none_is_said_to_be_none(home: Home, identity: bytes, complaint: str) -> None:
    path = home.sealed()
    (home.path / "age.key").write_bytes(identity)
    with pytest.raises(SecretError, match=complaint) as refused:
        home.vault.open(path)
    assert "CANARY" not in str(refused.value)


def test_an_identity_that_others_may_read_opens_nothing(home: Home) -> None:
    path = home.sealed()
    (home.path / "age.key").chmod(0o640)
    with pytest.raises(SecretError, match="chmod 600"):
        home.vault.open(path)


def test_an_identity_may_come_by_a_descriptor_and_be_read_again(home: Home) -> None:
    path = home.sealed()
    with (home.path / "age.key").open() as file:
        os.unlink(home.path / "age.key")
        behind = Vault(Path(f"/dev/fd/{file.fileno()}"))
        assert behind.open(path) == behind.open(path) == CANARY


def test_a_secret_shows_itself_to_nobody_who_does_not_ask() -> None:
    secret = Secret("canary-7f3a")
    assert f"Bearer {secret}" == "Bearer canary-7f3a"
    for shown in (repr(secret), repr([secret]), repr({"token": secret}), f"{secret!r}"):
        assert "canary" not in shown


def test_recipients_are_checked_before_anything_is_sealed(tmp_path: Path) -> None:
    for wrong in (["age1nobody"], ["AGE-SECRET-KEY-1X"], []):
        with pytest.raises(SecretError):
            vault.seal(CANARY, wrong)
    (tmp_path / "recipients.txt").write_text("# nobody yet\n\n")
    with pytest.raises(SecretError, match="names no recipient"):
        vault.recipients_in(tmp_path / "recipients.txt")


@needs_age
def test_age_opens_what_was_sealed_here(home: Home) -> None:
    command = ["age", "-d", "-i", str(home.path / "offline.key"), str(home.sealed())]
    assert subprocess.run(command, check=True, capture_output=True).stdout == CANARY


@needs_age
@pytest.mark.parametrize("armor", [[], ["-a"]], ids=["binary", "armored"])
def test_what_age_sealed_is_opened_here(home: Home, armor: list[str]) -> None:
    plain, listed, target = home.path / "plain", home.path / "recipients.txt", home.path / "by-age.age"
    plain.write_bytes(CANARY)
    listed.write_text(f"# this node\n{home.recipient}\n# offline\n{home.offline}\n")
    assert vault.recipients_in(listed) == [home.recipient, home.offline]
    subprocess.run(["age", *armor, "-R", listed, "-o", target, plain], check=True)
    assert home.vault.open(target) == home.kept.open(target) == CANARY


@needs_age
def test_an_identity_of_age_keygen_is_an_identity(home: Home) -> None:
    subprocess.run(["age-keygen", "-o", home.path / "made.key"], check=True, capture_output=True)
    made = Vault(home.path / "made.key")
    assert made.open(home.sealed(CANARY, made.recipient())) == CANARY
