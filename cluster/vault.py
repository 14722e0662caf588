"""Vault at rest (Brief §9): only as AGE-encrypted files, opened when the node starts and never written out again.

A node has one identity, the private half of an X25519 key in the form of `age-keygen`, in a file that its user alone
may read, or behind a descriptor (`/dev/fd/3`) that a supervisor opens for it: of a file, for a node may start itself
anew. Everything else secret, its signing key, the key of its certificate, tokens, passwords, is encrypted to that
identity and to one that is kept offline. The format is age-encryption.org/v1: `age` reads what is written here, and the
other way round.

This module must never put a secret, or a part of one, into an error: what cannot be opened is named by its path.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pyrage
from pyrage import x25519

SUFFIX = ".age"
_BEGINNINGS = (b"age-encryption.org/v1", b"-----BEGIN AGE ENCRYPTED FILE-----")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class SecretError(Exception):
    """A secret cannot be had; the text says which file, why, and what to do."""


class Secret(str):
    """Text that shows itself only to who asks for it: an accidental look at what holds it sees nothing."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "[HIDDEN]"


class Vault:
    """What one identity can open."""

    def __init__(self, identity: Path, *, handed_over: bool = False) -> None:
        """`identity` is read when something is opened, not before.

        `handed_over`: it is a file that a supervisor made for this process. systemd lets the one user in by an access
        list, and the mode then shows the mask of that list where the group's rights would be.
        """
        self.path = identity
        self._others = stat.S_IRWXO if handed_over else _OTHERS

    def open(self, path: Path) -> bytes:
        """What an encrypted file holds.

        Raises:
            SecretError: it is missing, not encrypted, or not for this identity.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SecretError(f"{path}: {error.strerror}") from None
        if not data.startswith(_BEGINNINGS):
            raise SecretError(f"{path} is not encrypted; make it so: swoosh keys seal {path}")
        try:
            return pyrage.decrypt(data, [self._identity()])
        except pyrage.DecryptError as error:
            raise SecretError(f"{path} cannot be opened with the identity in {self.path}: {error}") from None

    def text(self, path: Path) -> Secret:
        """The same as text, without white space around it."""
        try:
            return Secret(self.open(path).decode().strip())
        except UnicodeDecodeError:
            raise SecretError(f"{path} does not hold text") from None

    def recipient(self) -> str:
        """To whom something must be encrypted for this identity to open it.

        Raises:
            SecretError: there is no identity.
        """
        return str(self._identity().to_public())

    def _identity(self) -> x25519.Identity:
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                lines = file.read().decode().splitlines()
        except OSError as error:
            raise SecretError(f"{self.path}: {error.strerror}; it holds the identity that opens the secrets") from None
        except UnicodeDecodeError:
            raise SecretError(f"{self.path} holds no AGE identity") from None
        if stat.S_ISREG(mode) and mode & self._others:
            raise SecretError(f"{self.path} may be read by others: chmod 600 {self.path}")
        keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if len(keys) != 1:
            raise SecretError(f"{self.path} holds {len(keys)} AGE identities; one is needed")
        try:
            return x25519.Identity.from_str(keys[0])
        except pyrage.IdentityError:
            raise SecretError(f"{self.path} holds no AGE identity (AGE-SECRET-KEY-1…)") from None


def new_identity() -> tuple[bytes, str]:
    """A new identity: the content of its file, and its recipient."""
    identity = x25519.Identity.generate()
    recipient = str(identity.to_public())
    return f"# public key: {recipient}\n{identity}\n".encode(), recipient


def seal(plain: bytes, recipients: Sequence[str]) -> bytes:
    """Encrypted to every recipient, each of whom can open it alone; as text.

    Raises:
        SecretError: no recipient, or what is none.
    """
    try:
        return pyrage.encrypt(plain, [x25519.Recipient.from_str(each) for each in recipients], armored=True)
    except (pyrage.RecipientError, pyrage.EncryptError) as error:
        raise SecretError(f"recipients: {error}; expected age1…") from None


def recipients_in(path: Path) -> list[str]:
    """The recipients in a file, one a line, as `age -R` takes it.

    Raises:
        SecretError: it cannot be read, or names nobody.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SecretError(f"{path}: {error}") from None
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise SecretError(f"{path} names no recipient")
    return found
