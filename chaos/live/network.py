"""Networks whose links can be cut and slowed one direction at a time.

`Namespaces` gives every node a network of its own: a namespace, a virtual cable and a bridge, with the kernel's own
routes and queues. It needs root. `Proxies` does the same with one loopback TCP proxy per directed link, for everybody
else: what is cut there stays in the proxy's socket, as it would in a switch that went deaf.

Only links between nodes are touched, never those of callers: a node that is cut off can still be asked, and must say
the truth.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from chaos.live.cluster import LiveCluster

PREFIX = "swx"
CHUNK = 64 * 1024
_Link = tuple[str, str]
"""From whom, to whom."""
_Accepted = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Network(Protocol):
    """Links between the nodes of one cluster."""

    def attach(self, cluster: LiveCluster) -> LiveCluster:
        """Put the nodes, none of which runs, on this network; the cluster at its new addresses."""
        ...

    async def open(self) -> None:
        """Begin to carry."""
        ...

    def cut(self, source: str, target: str) -> None:
        """Nothing from ``source`` reaches ``target`` any more."""
        ...

    def mend(self, source: str, target: str) -> None:
        """It does again."""
        ...

    def slow(self, node: str, rate_kbit: int, delay_ms: int) -> None:
        """What ``node`` sends takes longer."""
        ...

    def normal(self, node: str) -> None:
        """It does not any more."""
        ...

    async def close(self) -> None:
        """Leave nothing behind."""
        ...


def rewritten(directory: Path, addresses: dict[str, str]) -> None:
    """Replace addresses in the configuration that ``swoosh init`` wrote, in every file that names them."""
    for path in [directory / "cluster.json", *directory.glob("*/swoosh.toml")]:
        replace_addresses(path, addresses)


def replace_addresses(path: Path, addresses: dict[str, str]) -> None:
    """The same in one file."""
    text = path.read_text("utf-8")
    for old, new in addresses.items():
        text = text.replace(old, new)
    path.write_text(text, "utf-8")


def addresses_of(directory: Path) -> dict[str, tuple[str, str]]:
    """{node: (http, peer)} as ``host:port``."""
    document = json.loads((directory / "cluster.json").read_text("utf-8"))
    return {node["id"]: (node["http"].removeprefix("http://"), node["peer"]) for node in document["nodes"]}


# --- with root --------------------------------------------------------------------------------------------------------


class Unfit(Exception):
    """This machine cannot do that; the text says what it lacks."""


class Namespaces:
    """One network namespace per node, all on one bridge. Links are cut by routes that lead nowhere."""

    def __init__(self) -> None:
        """Raises Unfit: without root, or where the kernel does not offer it."""
        if os.geteuid():
            raise Unfit("network namespaces need root")
        sweep()
        self._subnet = _free_subnet()
        self.bridge = f"{PREFIX}{os.getpid()}"
        """The network device behind which everything is that is no node."""
        self.hosts: dict[str, str] = {}
        """{node: its address}."""
        try:
            _ip("link", "add", self.bridge, "type", "bridge")
            _ip("addr", "add", f"{self._subnet}.254/24", "dev", self.bridge)
            _ip("link", "set", self.bridge, "up")
        except subprocess.CalledProcessError as error:
            raise Unfit(f"network namespaces: {error.stderr.strip()}") from None

    def attach(self, cluster: LiveCluster) -> LiveCluster:
        addresses: dict[str, str] = {}
        for number, (node, spelled) in enumerate(addresses_of(cluster.directory).items(), start=1):
            host = self.hosts[node] = f"{self._subnet}.{number}"
            self._plug_in(self._space(node), number, host)
            addresses |= {address: f"{host}:{address.rpartition(':')[2]}" for address in spelled}
        rewritten(cluster.directory, addresses)
        moved = LiveCluster(cluster.directory)
        for node in moved.nodes:
            # Not `ip netns exec`: it copies the mounts too, and a copy keeps a disk without power alive.
            moved.commands[node] = ["nsenter", f"--net=/run/netns/{self._space(node)}", "--"]
        return moved

    def _plug_in(self, space: str, number: int, host: str) -> None:
        cable = f"{PREFIX}{os.getpid()}-{number}"
        _ip("netns", "add", space)
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", cable, "master", self.bridge, "up")
        _ip("-n", space, "addr", "add", f"{host}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")
        _ip("-n", space, "link", "set", "lo", "up")

    async def open(self) -> None:
        return

    def outside(self, number: int) -> str:
        """One more address on the bridge, from 200 to 253: for something that is no node."""
        _ip("addr", "add", f"{self._subnet}.{number}/24", "dev", self.bridge)
        return f"{self._subnet}.{number}"

    def cut(self, source: str, target: str) -> None:
        _ip("-n", self._space(source), "route", "replace", "blackhole", f"{self.hosts[target]}/32")

    def mend(self, source: str, target: str) -> None:
        with suppress(subprocess.CalledProcessError):
            _ip("-n", self._space(source), "route", "del", "blackhole", f"{self.hosts[target]}/32")

    def slow(self, node: str, rate_kbit: int, delay_ms: int) -> None:
        """By a token bucket; the delay is what the bucket's queue comes to, as this kernel may have no other."""
        bucket = ["rate", f"{rate_kbit}kbit", "burst", "4kb", "latency", f"{max(delay_ms, 50)}ms"]
        _run("ip", "netns", "exec", self._space(node), "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *bucket)

    def normal(self, node: str) -> None:
        with suppress(subprocess.CalledProcessError):
            _run("ip", "netns", "exec", self._space(node), "tc", "qdisc", "del", "dev", "eth0", "root")

    async def close(self) -> None:
        for node in self.hosts:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", self._space(node))
        with suppress(subprocess.CalledProcessError):
            _ip("link", "del", self.bridge)

    def _space(self, node: str) -> str:
        return f"{PREFIX}-{os.getpid()}-{node}"


def sweep() -> None:
    """Remove namespaces, with the nodes in them, and bridges of runs whose process is gone."""
    spaces = [line.split()[0] for line in _run("ip", "netns", "list").splitlines() if line.startswith(f"{PREFIX}-")]
    for space in spaces:
        if not Path(f"/proc/{space.split('-')[1]}").exists():
            for process in _ip("netns", "pids", space).split():
                with suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            _ip("netns", "del", space)
    links = json.loads(_run("ip", "-j", "link", "show", "type", "bridge") or "[]")
    for name in (link.get("ifname", "") for link in links):
        owner = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            _ip("link", "del", name)


def _free_subnet() -> str:
    used = _run("ip", "-j", "addr")
    for number in range(os.getpid() % 200, 250):
        if f"10.97.{number}." not in used:
            return f"10.97.{number}"
    raise Unfit("no free subnet in 10.97.0.0/16")


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*command: str) -> str:
    """Raises subprocess.CalledProcessError, with what it said."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


# --- without root -----------------------------------------------------------------------------------------------------


class Proxies:
    """One loopback proxy for each ordered pair of nodes: A reaches B at an address that only A was told.

    Members may use one connection for both directions, so a directed link is a direction of bytes, whoever dialled.
    """

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []
        self._targets: dict[str, str] = {}
        self._passable: dict[_Link, asyncio.Event] = {}
        self._delay: dict[str, tuple[float, float]] = {}
        self._carrying: set[asyncio.Task[None]] = set()

    def attach(self, cluster: LiveCluster) -> LiveCluster:
        """Addresses of the proxies are written by ``open``, which knows their ports."""
        self._directory = cluster.directory
        self._targets = {node: peer for node, (_, peer) in addresses_of(cluster.directory).items()}
        return cluster

    async def open(self) -> None:
        for source, target in self._links():
            self._passable[source, target] = asyncio.Event()
            self._passable[source, target].set()
        for source in self._targets:
            told = {}
            for target in self._targets:
                if target != source:
                    server = await asyncio.start_server(self._serve(source, target), "127.0.0.1", 0)
                    self._servers.append(server)
                    told[self._targets[target]] = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            replace_addresses(self._directory / source / "swoosh.toml", told)

    def _links(self) -> Iterator[_Link]:
        return ((a, b) for a in self._targets for b in self._targets if a != b)

    def cut(self, source: str, target: str) -> None:
        self._passable[source, target].clear()

    def mend(self, source: str, target: str) -> None:
        self._passable[source, target].set()

    def slow(self, node: str, rate_kbit: int, delay_ms: int) -> None:
        self._delay[node] = delay_ms / 1000, rate_kbit * 1000 / 8

    def normal(self, node: str) -> None:
        self._delay.pop(node, None)

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    def _serve(self, dialler: str, listener: str) -> _Accepted:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._carrying.add(task)
            try:
                with suppress(asyncio.CancelledError):  # only `close` cancels, and waits for nothing but the end
                    await self._connect(dialler, listener, reader, writer)
            finally:
                self._carrying.discard(task)
                writer.close()

        return accepted

    async def _connect(
        self, dialler: str, listener: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        host, _, port = self._targets[listener].rpartition(":")
        try:
            onward_reader, onward_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            return
        ways = [
            asyncio.create_task(self._carry(dialler, listener, reader, onward_writer)),
            asyncio.create_task(self._carry(listener, dialler, onward_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            onward_writer.close()

    async def _carry(
        self, source: str, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One direction of one connection until it ends. Even its end does not pass a cut."""
        with suppress(OSError):
            while True:
                data = await reader.read(CHUNK)
                await self._passable[source, target].wait()
                if not data:
                    return
                delay, rate = self._delay.get(source, (0.0, 0.0))
                if rate:
                    await asyncio.sleep(delay + len(data) / rate)
                await self._passable[source, target].wait()
                writer.write(data)
                await writer.drain()
