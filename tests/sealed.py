"""Secrets for nodes in tests, sealed as an operator would."""

from __future__ import annotations

from pathlib import Path

from cluster import vault
from cluster.cli.keys import RECIPIENTS, write_private


def seal_for(home: Path, name: str, text: str) -> None:
    """Put ``text`` into the sealed file ``name`` of a node, which gets an identity if it has none."""
    if not (home / RECIPIENTS).exists():
        identity, recipient = vault.new_identity()
        write_private(home / "age.key", identity)
        (home / RECIPIENTS).write_text(f"{recipient}\n")
    (home / name).write_bytes(vault.seal(text.encode(), vault.recipients_in(home / RECIPIENTS)))
