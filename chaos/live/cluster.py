"""A real cluster on this machine: processes, disks and sockets, made with the very commands an operator types.

What it must never do is reach into a node: it starts, kills and asks, as an operator could. Node logs are kept in the
cluster's directory. Nothing of it outlives ``close``. Where a node runs (which network, on which disk) is decided by
whoever made the cluster: see network.py and disk.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from cluster.cli.init import PEER_PORT_OFFSET
from cluster.cli.inspect import Survey, survey
from swoosh.client import Client, Key

ASK_SECONDS = 0.2
ASKED_WITHIN_SECONDS = 2.0
STOP_SECONDS = 20.0
_SWOOSH = (sys.executable, "-m", "cluster")

T = TypeVar("T")


class Trouble(Exception):
    """The cluster did not do what was waited for. The text ends with what its nodes logged last."""


class LiveCluster:
    """Nodes of one cluster, each a process of its own, running or not."""

    def __init__(self, directory: Path) -> None:
        """Take charge of a cluster that ``swoosh init`` made in ``directory``. Starts nothing."""
        self.directory = directory
        document = json.loads((directory / "cluster.json").read_text())
        self.cluster_id: str = document["cluster_id"]
        self.nodes: dict[str, str] = {node["id"]: node["http"] for node in document["nodes"]}
        self.keys = directory / "keys"
        self.commands: dict[str, list[str]] = {node: [] for node in self.nodes}
        """What goes before the command that starts a node."""
        self.environment: dict[str, dict[str, str]] = {node: {} for node in self.nodes}
        """Variables of one node, at every start."""
        self._configs = {node["id"]: directory / node["config"] for node in document["nodes"]}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @classmethod
    def create(cls, directory: Path, *options: str, nodes: int = 3) -> LiveCluster:
        """Make one with ``swoosh init`` on ports nobody uses; ``options`` are further ones of init."""
        base = free_base_port(nodes)
        command = [*_SWOOSH, "init", str(directory), "--nodes", str(nodes), "--base-port", str(base), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Trouble(f"swoosh init: {done.stderr}")
        return cls(directory)

    # --- processes ----------------------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> list[str]:
        """The base URL of every node."""
        return list(self.nodes.values())

    @property
    def running(self) -> list[str]:
        """Ids of the nodes that were started and not stopped."""
        return sorted(self._running)

    @property
    def pids(self) -> list[int]:
        """Process ids of the running nodes."""
        return [self._running[node].pid for node in self.running]

    def home(self, node: str) -> Path:
        """Where everything of a node lies."""
        config: Path = self._configs[node]
        return config.parent

    def start(self, *nodes: str, environment: Mapping[str, str] | None = None, options: Sequence[str] = ()) -> None:
        """Start these nodes, or all, with further variables and options. They are not ready when this returns."""
        for node in nodes or self.nodes:
            variables = os.environ | self.environment[node] | dict(environment or {})
            command = [*self.commands[node], *_SWOOSH, "serve", "--config", str(self._configs[node]), *options]
            with self.log(node).open("ab") as log:
                self._running[node] = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=variables
                )

    def swoosh(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Any other command, as an operator types it."""
        return subprocess.run([*_SWOOSH, *arguments], capture_output=True, text=True, timeout=60, check=False)

    def kill(self, *nodes: str) -> None:
        """SIGKILL, all of them before any has ended: what a process had not written is gone."""
        processes = [self._running.pop(node) for node in nodes]
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.wait()

    def stop(self, node: str) -> int:
        """SIGTERM; the exit code.

        Raises:
            Trouble: it did not end in time.
        """
        process = self._running.pop(node)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Trouble(f"{node} did not stop within {STOP_SECONDS:g} s{self.logs()}") from None

    def pause(self, node: str) -> None:
        """SIGSTOP: alive, and says nothing."""
        self._running[node].send_signal(signal.SIGSTOP)

    def resume(self, node: str) -> None:
        """SIGCONT."""
        self._running[node].send_signal(signal.SIGCONT)

    def exit_code(self, node: str) -> int | None:
        """How a node that was started ended by itself; None while it runs."""
        return self._running[node].poll()

    async def ended(self, node: str, timeout: float = 60.0) -> int:
        """Wait until a node that was started ends by itself; the exit code.

        Raises:
            Trouble: it did not in time.
        """
        try:
            code = await asyncio.to_thread(self._running[node].wait, timeout)
        except subprocess.TimeoutExpired:
            raise Trouble(f"waited {timeout:g} s for {node} to end{self.logs()}") from None
        del self._running[node]
        return code

    def close(self) -> None:
        """End every process that still runs."""
        self.kill(*self.running)

    def log(self, node: str) -> Path:
        """Where a node's output goes."""
        return self.directory / f"{node}.log"

    def logs(self, lines: int = 10) -> str:
        """The end of every log, for a failure's text."""
        parts = []
        for node in self.nodes:
            text = self.log(node).read_text(errors="replace").splitlines() if self.log(node).exists() else []
            parts += [f"--- {node}", *(line[:400] for line in text[-lines:])]
        return "\n" + "\n".join(parts)

    # --- asking -------------------------------------------------------------------------------------------------------

    def key(self, name: str) -> Key:
        """A key that init made: admin, operator, policy, proposer, provider, agent-1..3, elector-1..3."""
        return Key.load(self.keys / f"{name}.pem")

    @asynccontextmanager
    async def client(self, key: str | None = None, *, via: Sequence[str] = ()) -> AsyncIterator[Client]:
        """A client that signs as ``key`` and asks the nodes ``via``, the first one first; default all."""
        endpoints = [self.nodes[node] for node in via or self.nodes]
        async with Client(endpoints, key=self.key(key) if key else None) as client:
            yield client

    async def survey(self, project: str = "default", *, within: float = ASKED_WITHIN_SECONDS) -> Survey:
        """What every node says of itself now."""
        return await survey(self.endpoints, within, project)

    async def ready(self, timeout: float = 60.0) -> str:
        """Wait until every running node serves and follows one leader that runs; the leader."""

        async def settled() -> str | None:
            found = await self.survey()
            reports = [found.reports.get(node) for node in self.running]
            leaders = {report["consensus"]["leader"] for report in reports if report and not report["missing"]}
            all_serve = all(report and not report["missing"] for report in reports)
            leader: str | None = leaders.pop() if all_serve and len(leaders) == 1 else None
            return leader if leader in self._running else None

        return await self.wait_for("every running node to be ready", settled, timeout)

    async def up(self, *nodes: str, timeout: float = 60.0) -> None:
        """Wait until these nodes, just started, answer at all."""

        async def up() -> bool | None:
            return set(nodes) <= set((await self.survey()).reports) or None

        await self.wait_for(f"{', '.join(nodes)} to answer", up, timeout)

    async def agreed(self, timeout: float = 60.0, *, nodes: int | None = None) -> Survey:
        """Wait until so many nodes, default all, stopped ones included, hold one state at one index."""
        wanted = len(self.nodes) if nodes is None else nodes

        async def agreed() -> Survey | None:
            found = await self.survey()
            agreement = found.agreement()
            return found if agreement and agreement.agreeing >= wanted else None

        return await self.wait_for(f"{wanted} nodes to agree", agreed, timeout)

    async def wait_for(self, what: str, condition: Callable[[], Awaitable[T | None]], timeout: float = 60.0) -> T:
        """Ask until there is an answer other than None.

        Raises:
            Trouble: a node ended by itself, or there was none in time.
        """
        deadline = time.monotonic() + timeout
        while True:
            answer = await condition()
            if answer is not None:
                return answer
            ended = {node: code for node in self.running if (code := self.exit_code(node)) is not None}
            if ended:
                raise Trouble(f"waiting for {what}: ended by themselves with {ended}{self.logs()}")
            if time.monotonic() > deadline:
                raise Trouble(f"waited {timeout:g} s for {what}{self.logs()}")
            await asyncio.sleep(ASK_SECONDS)


def free_base_port(nodes: int) -> int:
    """A base port such that every port ``swoosh init`` derives from it is free on loopback right now."""
    for base in random.sample(range(20_000, 30_000, 10), 200):
        ports = [base + number + offset for number in range(1, nodes + 1) for offset in (0, PEER_PORT_OFFSET)]
        if all(is_free(port) for port in ports):
            return base
    raise Trouble("no free ports on loopback")


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of loopback right now."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
