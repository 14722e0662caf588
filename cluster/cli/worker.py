"""``swoosh worker``: programs of the SDK that carry a project forward. They may be killed and started at any time."""

from __future__ import annotations

import click


@click.group()
def worker() -> None:
    """Carry a project forward, one committed step after the other."""
