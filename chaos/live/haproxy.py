"""A real HAProxy on loopback with the committed configuration, in front of a live cluster.

It is told the addresses by the variables the file asks for, as an operator would, and nothing else of it is changed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "haproxy" / "haproxy.cfg"
START_SECONDS = 20.0
LOOK_SECONDS = 0.02
MISSING = "haproxy is not installed (Debian: haproxy)"


def is_installed() -> bool:
    """Whether there is a ``haproxy`` to start."""
    return shutil.which("haproxy") is not None


class Haproxy:
    """One process in front of three nodes; its log is ``haproxy.log`` in the directory it is given."""

    def __init__(self, directory: Path, nodes: Sequence[str]) -> None:
        """``nodes`` are the base URLs of the nodes, three of them. Starts nothing."""
        port, leader_port = _free_port(), _free_port()
        self.url = f"http://127.0.0.1:{port}"
        """Where any node answers."""
        self.leader_url = f"http://127.0.0.1:{leader_port}"
        """Where the leader is asked first."""
        self._ports = (port, leader_port)
        self._log = directory / "haproxy.log"
        self._variables = {
            "SWOOSH_LB_BIND": f"127.0.0.1:{port}",
            "SWOOSH_LB_LEADER_BIND": f"127.0.0.1:{leader_port}",
            **{f"SWOOSH_LB_NODE_{number}": urlsplit(url).netloc for number, url in enumerate(nodes, start=1)},
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return once it accepts connections.

        Raises:
            RuntimeError: it does not; the text ends with what it logged.
        """
        with self._log.open("ab") as log:
            command = ["haproxy", "-db", "-f", str(CONFIG)]
            variables = os.environ | self._variables
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=variables, cwd="/"
            )
        deadline = time.monotonic() + START_SECONDS
        while not all(map(_answers, self._ports)):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"haproxy did not start: {self.log()[-2000:]}")
            time.sleep(LOOK_SECONDS)

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def log(self) -> str:
        """What it said: a line for each request."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
