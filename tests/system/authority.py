"""The stand-in for the license authority as a process of its own, given orders while it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from chaos.live import LiveCluster
from cluster.standins.kaching import SEALED
from tests.sealed import seal_for

LICENSE_ID = "lic-of-the-test"
_SIM = "from cluster.standins.kaching import main; main()"
_LINES = 5


class LicenseAuthority:
    """A running stand-in."""

    def __init__(self, directory: Path, host: str = "127.0.0.1") -> None:
        self.host = host
        command = [sys.executable, "-c", _SIM, str(directory), "--host", host, "--port", "0", "--license", LICENSE_ID]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        lines = [self._process.stdout.readline() for _ in range(_LINES)]
        self._secret = directory / "kaching.secret"
        self.section = "".join(lines)
        """What finds it, for a node's swoosh.toml."""
        self._url = lines[1].split('"')[1]

    def license(self, cluster: LiveCluster) -> None:
        """Be the license authority of nodes that are not started yet."""
        for node in cluster.nodes:
            seal_for(cluster.home(node), SEALED, self._secret.read_text())
            with (cluster.home(node) / "swoosh.toml").open("a") as file:
                file.write("\n" + self.section)

    def order(self, **members: Any) -> dict[str, Any]:
        """Behave otherwise from now on; how it behaves, and how often it was asked."""
        body = json.dumps(members).encode()
        with urlopen(Request(f"{self._url}/control", body, method="PATCH"), timeout=10) as reply:
            document: dict[str, Any] = json.load(reply)
        return document

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.communicate()
