"""``swoosh keys``: make a key pair. The private half never leaves the file; an admin adds the public half."""

from __future__ import annotations

import os
from pathlib import Path

import click

from cluster.cli.shared import fail, print_json, print_table, say
from swoosh.client import Key


@click.group()
def keys() -> None:
    """Make and show Ed25519 keys."""


@keys.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def new(path: Path, output: str) -> None:
    """Make a key and write it to PATH, readable by you alone. Never overwrites."""
    key = Key.generate()
    try:
        write_private(path, key.pem())
    except FileExistsError:
        fail(f"{path} exists; a key is never overwritten")
    except OSError as error:
        fail(str(error))
    _show(path, key, output)
    say("An admin lets it sign with: swoosh identity add NAME PRINCIPAL --role ROLE --key admin.pem")


@keys.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def show(path: Path, output: str) -> None:
    """Print the principal of the key in PATH."""
    try:
        _show(path, Key.load(path), output)
    except ValueError as error:
        fail(str(error))


def write_private(path: Path, data: bytes) -> None:
    """A new file of mode 0600, at no moment readable by others.

    Raises:
        FileExistsError: there is one.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(data)


def _show(path: Path, key: Key, output: str) -> None:
    if output == "json":
        print_json({"path": str(path), "principal": key.principal})
    else:
        print_table(("PATH", "PRINCIPAL"), [(path, key.principal)])
