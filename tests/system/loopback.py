"""A loopback network of one's own, so that a page's ports are free whatever else runs on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from chaos.live.network import PREFIX, sweep


@contextmanager
def own_loopback(name: str) -> Iterator[list[str] | None]:
    """What goes before a command to run it there; None where this machine offers no such thing."""
    space = f"{PREFIX}-{os.getpid()}-{name}"
    if not _made(space):
        yield None
        return
    try:
        yield ["nsenter", f"--net=/run/netns/{space}", "--"]
    finally:
        subprocess.run(["ip", "netns", "del", space], check=True)


def _made(space: str) -> bool:
    if os.geteuid() or not shutil.which("ip") or not shutil.which("nsenter"):
        return False
    sweep()
    if subprocess.run(["ip", "netns", "add", space], capture_output=True, check=False).returncode:
        return False
    subprocess.run(["ip", "-n", space, "link", "set", "lo", "up"], check=True)
    return True
