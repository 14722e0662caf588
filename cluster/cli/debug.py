"""``swoosh debug bundle``: everything somebody far away needs to see, in one file that may be sent.

What nodes say of themselves, the configuration and the ends of logs go through the policy's redaction line by line
before they are written, although none of them should hold a secret: the bundle leaves the house. A node that does not
answer is part of the picture, and said so in its place.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import click

from cluster.cli.policy import load
from cluster.cli.shared import Connection, connected, fail, run, say
from cluster.shhh.scanner import Scanner
from cluster.shhh.tree import text_of
from swoosh.client.transport import HttpTransport, Lost, NotSent

PAGES = ("/health", "/metrics", "/outboxes", "/rejections", "/snapshots")
LOG_BYTES_MAX = 8 << 20
"""Of each log, from its end."""


@click.group()
def debug() -> None:
    """Help somebody to find out what is wrong."""


@debug.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("swoosh-debug.tar.gz"))
@click.option(
    "--file",
    "files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="A log or a swoosh.toml to add; repeatable.",
)
@click.option("--policy", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Else the built-in one.")
@connected
def bundle(connection: Connection, out: Path, files: tuple[Path, ...], policy: Path | None) -> None:
    """Ask every endpoint what it says of itself, add FILES, and write it all to one archive without secrets."""
    scanner = Scanner(load(policy))
    found = {**run(_said(connection)), **{f"files/{n}-{path.name}": _end(path) for n, path in enumerate(files, 1)}}
    try:
        out.write_bytes(packed({name: cleaned(scanner, data) for name, data in found.items()}))
    except OSError as error:
        fail(str(error))
    say(f"{len(found)} files are in {out}. Look into it before you send it.")


def cleaned(scanner: Scanner, data: bytes) -> bytes:
    """Text without what policy redacts or quarantines."""
    return "\n".join(scanner.redact_text(line) for line in text_of(data).split("\n")).encode()


def packed(files: dict[str, bytes]) -> bytes:
    """A compressed tar of these files."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(f"swoosh-debug/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return target.getvalue()


async def _said(connection: Connection) -> dict[str, bytes]:
    transport, found = HttpTransport(), dict[str, bytes]()
    try:
        for number, url in enumerate(connection.endpoints, 1):
            found[f"nodes/{number}/url"] = url.encode()
            for page in PAGES:
                found[f"nodes/{number}{page}"] = await _page(transport, url.rstrip("/") + page, connection.timeout)
    finally:
        await transport.close()
    return found


async def _page(transport: HttpTransport, url: str, timeout: float) -> bytes:
    try:
        return (await transport.request("GET", url, headers={}, body=None, timeout=timeout)).body
    except (NotSent, Lost) as error:
        return f"no answer: {error}".encode()


def _end(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES_MAX))
        return file.read()
