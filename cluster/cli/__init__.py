"""The command line: ``swoosh COMMAND``.

Commands are loaded when they are called, so that ``swoosh status`` does not load a store, a chart and a consensus
library. Tables and documents go to standard output, everything said to a person to standard error.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import click

_COMMANDS = {
    "init": "init",
    "serve": "serve",
    "status": "inspect",
    "health": "inspect",
    "state": "inspect",
    "log": "inspect",
    "explain": "propose",
    "propose": "propose",
    "quarantine": "quarantine",
    "policy": "policy",
    "scan": "policy",
    "verify": "verify",
    "snapshot": "snapshot",
    "keys": "keys",
    "identity": "identity",
    "member": "identity",
    "council": "council",
    "hmmm": "hmmm",
    "leader": "leader",
    "worker": "worker",
    "outbox": "outbox",
    "chart": "chart",
    "shim": "shim",
    "debug": "debug",
}
"""{command: the module of this package that defines it under the same name}."""


class _Commands(click.Group):
    """Looks a command up in its module. In the order of the table, which is that of a cluster's life."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, module in _COMMANDS.items() if find_spec(f"{__name__}.{module}")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        found: click.Command = getattr(import_module(f"{__name__}.{_COMMANDS[cmd_name]}"), cmd_name)
        return found


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="swoosh", prog_name="swoosh")
def main() -> None:
    """Run a SWOOSH cluster, and talk to one."""
