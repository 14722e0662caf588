"""What the commands share: where the cluster is, how answers are printed, how a run ends.

Standard output carries the answer and nothing else, so that it can be piped; messages go to standard error. rich drops
colour by itself where the output is no terminal or NO_COLOR is set.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import msgspec
from rich.console import Console
from rich.table import Table

from swoosh.client import Client, ClientError, Key, Policy
from swoosh.errors import Malformed

DEFAULT_ENDPOINT = "http://127.0.0.1:8101"
UNKNOWN_EXIT = 75  # EX_TEMPFAIL of sysexits(3): nothing is wrong, ask again

T = TypeVar("T")
Command = Callable[..., Any]

_messages = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Connection:
    """How a command reaches the cluster and prints what it hears. ``timeout`` in seconds, for the whole command."""

    endpoints: tuple[str, ...]
    output: str
    timeout: float

    def client(self, key: Key | None = None) -> Client:
        """A client for these endpoints; close it."""
        return Client(self.endpoints, key=key, policy=Policy(budget=self.timeout, attempt=min(5.0, self.timeout)))

    @property
    def as_json(self) -> bool:
        """Whether a program reads along."""
        return self.output == "json"


def _listed(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    """SWOOSH_ENDPOINTS lists several, by spaces or by commas."""
    return tuple(part for text in texts for part in text.replace(",", " ").split())


endpoint_option = click.option(
    "--endpoint",
    "endpoints",
    multiple=True,
    envvar="SWOOSH_ENDPOINTS",
    default=(DEFAULT_ENDPOINT,),
    show_default=True,
    callback=_listed,
    help="Base URL of a node or load balancer; repeat it for several. SWOOSH_ENDPOINTS may list them too.",
)


def connected(command: Command) -> Command:
    """Add --endpoint, --output and --timeout; the command gets a Connection as its first argument."""

    @endpoint_option
    @click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
    @click.option("--timeout", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Seconds.")
    @functools.wraps(command)
    def wrapped(endpoints: tuple[str, ...], output: str, timeout: float, **arguments: Any) -> Any:
        return command(Connection(endpoints, output, timeout), **arguments)

    return wrapped


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; what a person can mend is said in a sentence, without a trace."""
    try:
        return asyncio.run(work)
    except (ClientError, Malformed) as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None


def key_option(what: str, *, required: bool = True) -> Callable[[Command], Command]:
    """--key FILE, loaded; None where it is not required and not given."""
    return click.option(
        "--key",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        callback=_load_key,
        required=required,
        help=f"{what} (Ed25519, PKCS #8 PEM).",
    )


def _load_key(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Key | None:
    try:
        return None if value is None else Key.load(value)
    except (OSError, ValueError) as error:
        raise click.BadParameter(str(error)) from None


def read_object(text: str, what: str) -> dict[str, Any]:
    """A JSON object given as text, or as ``@file``.

    Raises:
        click.BadParameter: unreadable, not JSON, or not an object.
    """
    try:
        found = json.loads(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{what}: {error}") from None
    if not isinstance(found, dict):
        raise click.BadParameter(f"{what}: expected a JSON object")
    return found


# --- saying things ----------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """A message to whoever sits there."""
    _messages.print(text, markup=False)


def fail(text: str, code: int = 1) -> NoReturn:
    """Say why, and end."""
    _messages.print(f"swoosh: {text}", markup=False, style="red")
    raise click.exceptions.Exit(code)


def print_json(document: Any) -> None:
    """A document for programs."""
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """A table for people: as wide as it needs to be where nobody's terminal limits it."""
    table = Table(*columns, title=title, box=None, pad_edge=False, title_justify="left")
    for row in rows:
        table.add_row(*("-" if cell is None else str(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 400
    console.print(table)


def short(text: str | None, digits: int = 12) -> str:
    """The beginning of a hash, which is enough to compare by eye."""
    return "-" if not text else text.removeprefix("sha256-")[:digits]
