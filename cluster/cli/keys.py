"""``swoosh keys``: keys that sign, and the identities that open what is secret. A private half never leaves its file.

A node's secrets lie beside its ``swoosh.toml``, sealed for the recipients in ``recipients.txt``: first its own, then
the one kept offline. Rotating writes every file in two steps, so that whenever it is broken off, the identity that is
in place opens everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import click

from cluster import config, vault
from cluster.cli.shared import fail, print_json, print_table, say
from cluster.config import Misconfigured
from cluster.storage.kv import sync_directory, sync_file
from cluster.vault import SUFFIX, SecretError, Vault
from swoosh.client import Key

RECIPIENTS = "recipients.txt"

_output = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
_home = click.argument("home", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.group()
def keys() -> None:
    """Make and show keys, and keep secrets sealed."""


@keys.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--age", "is_age", is_flag=True, help="An AGE identity, which opens secrets, in place of a key that signs."
)
@_output
def new(path: Path, is_age: bool, output: str) -> None:
    """Make a key and write it to PATH, readable by you alone. Never overwrites."""
    key = Key.generate()
    identity, recipient = vault.new_identity()
    try:
        write_private(path, identity if is_age else key.pem())
    except FileExistsError:
        fail(f"{path} exists; a key is never overwritten")
    except OSError as error:
        fail(str(error))
    if is_age:
        _print(output, path=str(path), recipient=recipient)
        return
    _print(output, path=str(path), principal=key.principal)
    say("An admin lets it sign with: swoosh identity add NAME PRINCIPAL --role ROLE --key admin.pem")


@keys.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_output
def show(path: Path, output: str) -> None:
    """Print the principal of the key in PATH."""
    try:
        _print(output, path=str(path), principal=Key.load(path).principal)
    except ValueError as error:
        fail(str(error))


@keys.command()
@_home
@_output
def recipients(home: Path, output: str) -> None:
    """Who can open the secrets of the node in HOME, and whether its identity opens each of them."""
    try:
        own = _vault(home).recipient()
        listed = vault.recipients_in(home / RECIPIENTS)
        for path in sealed(home):
            _vault(home).open(path)
    except (SecretError, Misconfigured) as error:
        fail(str(error))
    if output == "json":
        print_json({"recipients": listed, "own": own, "secrets": [path.name for path in sealed(home)]})
    else:
        print_table(("RECIPIENT", ""), [(each, "this node" if each == own else "offline") for each in listed])
    if own not in listed:
        fail(f"{home / RECIPIENTS} does not name this node's identity, {own}; swoosh keys rotate mends it")


@keys.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--into", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A node's directory; else PATH's own."
)
def seal(path: Path, into: Path | None) -> None:
    """Seal PATH into a file of the same name and .age, for the node it is for. The plain file is for you to delete."""
    home = into or path.parent
    target = home / (path.name + SUFFIX)
    try:
        write_private(target, vault.seal(path.read_bytes(), vault.recipients_in(home / RECIPIENTS)))
    except FileExistsError:
        fail(f"{target} exists; remove it first if it is to be replaced")
    except (OSError, SecretError) as error:
        fail(str(error))
    say(f"Sealed into {target}. Name that file in swoosh.toml, and delete {path}.")


@keys.command()
@_home
def rotate(home: Path) -> None:
    """Give the node in HOME a new identity, and seal its secrets for that and the other recipients anew."""
    try:
        held = _vault(home)
        own, (_, *others) = held.recipient(), vault.recipients_in(home / RECIPIENTS)
        identity, recipient = vault.new_identity()
        plain = {path: held.open(path) for path in sealed(home)}
        _seal_all(plain, [own, recipient, *others])
        _replace(held.path, identity)
        _seal_all(plain, [recipient, *others])
        lines = ["# this node", recipient, "# offline", *others]
        _replace(home / RECIPIENTS, "\n".join([*lines, ""]).encode())
    except (OSError, SecretError, Misconfigured) as error:
        fail(str(error))
    say(f"{len(plain)} secrets of {home.name} are sealed for {recipient}. A running node has read them already.")


def write_private(path: Path, data: bytes) -> None:
    """A new file of mode 0600, at no moment readable by others.

    Raises:
        FileExistsError: there is one.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(data)


def sealed(home: Path) -> list[Path]:
    """Every sealed file of a node."""
    return sorted(home.glob(f"*{SUFFIX}"))


def _vault(home: Path) -> Vault:
    return config.load(home / "swoosh.toml").vault


def _seal_all(plain: dict[Path, bytes], recipients: Iterable[str]) -> None:
    for path, content in plain.items():
        _replace(path, vault.seal(content, list(recipients)))


def _replace(path: Path, data: bytes) -> None:
    """Another content in one step, durable when this returns."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    write_private(new, data)
    sync_file(new)
    new.replace(path)
    sync_directory(path.parent)


def _print(output: str, **fields: str) -> None:
    if output == "json":
        print_json(fields)
    else:
        print_table(tuple(name.upper() for name in fields), [tuple(fields.values())])
