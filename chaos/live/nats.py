"""A real ``nats-server`` process on loopback, to be stopped, started and killed at will."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

START_SECONDS = 20.0
LOOK_SECONDS = 0.02
MISSING = "nats-server is not installed (Debian: nats-server)"


def is_installed() -> bool:
    """Whether there is a ``nats-server`` to start."""
    return shutil.which("nats-server") is not None


class NatsServer:
    """One server in a directory, on a port nobody else uses, the same in each of its lives.

    ``settings`` are lines of its configuration, such as who may log in; what it says goes to ``nats.log``.
    """

    def __init__(self, directory: Path, settings: str = "") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._config, self._log = directory / "nats.conf", directory / "nats.log"
        self._config.write_text(f"listen: {self.address}\n{settings}\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return once it accepts connections.

        Raises:
            RuntimeError: it does not; the text ends with what it logged.
        """
        with self._log.open("ab") as log:
            command = ["nats-server", "-c", str(self._config)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nats-server did not start: {self._log.read_text()[-2000:]}")
            time.sleep(LOOK_SECONDS)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None
