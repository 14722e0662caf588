"""``make demo``: a real project, from a git repository and its brief to a submission and the next window.

Everybody is a process of its own: three nodes, an effect receiver, a tool server, the workers that ingest, provision
and run, three electors and three agents. Each signs with a key that may do its part and no more. Where `nats-server` is
installed, the windows are those of BACKBEAT, whose Pulse is a process too; elsewhere they follow the tide. The leader
is killed while the agents work. Nothing is played: what happens is read back from the project's log, so the steward's
own steps show too.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from chaos.live import LiveCluster, Trouble
from chaos.live.cluster import free_base_port
from chaos.live.nats import NatsServer, is_installed
from cluster.cli.inspect import print_status
from cluster.cli.keys import write_private
from cluster.worker.corpus import Corpus
from swoosh import canonical, quorum
from swoosh.client import Accepted, Client, Draft, Key
from swoosh.proposal import CLUSTER

PROJECT = "demo"
TIDE_SECONDS = 6
PATIENCE_SECONDS = 180.0
TOOL, TOOL_VERSION, DWELL_MS = "search", "1.4.2", 1_000
BEATS_A_MINUTE, BEATS_A_BAR = 30, 2
"""As long as the tide: a bar is four seconds."""
BRIEF = """# A parser in an afternoon

- [x] Choose a grammar
- [ ] Design the syntax tree {#design}
- [ ] Build the parser {#build}
- [ ] Verify it on a corpus {#verify}
"""
AGENTS = {"agent-a": "architect", "agent-d": "developer", "agent-t": "tester"}
ELECTORS = ("elector-1", "elector-2", "elector-3")
ROLES: dict[str, tuple[str, ...]] = {
    "ingester": ("proposer:ingestion",),
    "provisioner": ("proposer:environment",),
    "runner": ("proposer:council", "proposer:lifecycle", "proposer:execution"),
    **{name: ("agent", "provider:agent") for name in AGENTS},
}
"""What each key of this project may do, beside the keys every cluster is made with."""


class Play:
    """The project, and every process that acts in it."""

    def __init__(self, cluster: LiveCluster, project: str = PROJECT) -> None:
        self.cluster, self.project = cluster, project
        self.work = Corpus(cluster.directory / "work")
        self.assets = cluster.directory / "assets"
        self.leader = ""
        self.broker = NatsServer(cluster.directory) if is_installed() else None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._shown = 0
        self._names: dict[str, str] = {}

    # --- processes ----------------------------------------------------------------------------------------------------

    def start(self, name: str, *command: str) -> None:
        """Start a program of this repository; what it says goes to a log beside the nodes'."""
        with self.log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def send(self, name: str, *command: str) -> None:
        """Start a program that signs with the key of this name and knows all nodes."""
        there = [option for url in self.cluster.endpoints for option in ("--endpoint", url)]
        key = self.cluster.keys / f"{name}.pem"
        self.start(name, *command, "--project", self.project, "--key", str(key), *there)

    async def ended(self, *names: str) -> None:
        """Wait until these programs have ended well."""

        async def over() -> bool | None:
            codes = {name: self._processes[name].poll() for name in names}
            failed = [name for name, code in codes.items() if code]
            if failed:
                raise Trouble(f"{failed[0]} ended with {codes[failed[0]]}:\n{self.log(failed[0]).read_text()}")
            return True if all(code == 0 for code in codes.values()) else None

        await self.until(f"{', '.join(names)} to end", over)

    def close(self) -> None:
        """End every program that still runs."""
        for process in self._processes.values():
            process.kill()
            process.wait()
        if self.broker is not None:
            self.broker.stop(signal.SIGKILL)

    def log(self, name: str) -> Path:
        return self.cluster.directory / f"{name}.log"

    def last_words(self) -> str:
        """How far everybody came, for a failure's text."""
        lines = [f"{name}: {self.log(name).read_text().strip().splitlines()[-1:]}" for name in self._processes]
        return "\n".join(lines)

    # --- asking -------------------------------------------------------------------------------------------------------

    async def until(
        self, what: str, condition: Callable[[], Awaitable[Any]], *, within: float = PATIENCE_SECONDS
    ) -> Any:
        """Wait for something other than None, showing what happens meanwhile."""

        async def shown() -> Any:
            await self.show()
            return await condition()

        try:
            return await self.cluster.wait_for(what, shown, within)
        except Trouble as trouble:
            raise Trouble(f"{trouble}\n{self.last_words()}") from None

    async def follow(self) -> str:
        """Find the leader."""
        self.leader = await self.cluster.ready()
        return self.leader

    async def region(self, name: str) -> dict[str, Any]:
        """One region of the project."""
        async with self.cluster.client() as client:
            state = await client.state(self.project, projection=[name])
        found: dict[str, Any] = state.projection[name] if state else {}
        return found

    async def propose(self, who: str, transition: str, inputs: Mapping[str, Any]) -> None:
        """What a person does by hand."""
        async with self.cluster.client(who) as client:
            outcome = await client.propose(transition, inputs=inputs, project=self.project, on_stale="resubmit")
        if not isinstance(outcome, Accepted):
            raise Trouble(f"{transition} by {who}: {outcome}\n{self.last_words()}")

    async def show(self) -> None:
        """One line for each transition that was not shown yet."""
        async with self.cluster.client() as client:
            async for record in _records(client, self.project, self._shown + 1):
                who = self._names.get(record["signer"], "a node")
                head = record["state_post_hash"].removeprefix("sha256-")[:12]
                print(f"  {record['index']:>5}  {record['transition_name']:<32} {head}  term {record['term']}  {who}",
                      flush=True)  # fmt: skip
                self._shown = record["seq"]

    def named(self, *names: str) -> list[str]:
        """What the cluster calls these keys."""
        principals = [self.cluster.key(name).principal for name in names]
        self._names.update(zip(principals, names, strict=True))
        return principals


async def play(cluster: LiveCluster) -> Play:
    """The whole life of one project, up to its second window. The nodes are left running, the others too."""
    stage = Play(cluster)
    try:
        await open_stage(stage)
        await create(stage, repository(cluster.directory / "upstream"))
        send_everybody(stage)
        await elect(stage)
        await kill_the_leader(stage)
        await stage.ended("runner", "ingester", "provisioner")
        await stage.show()
    except BaseException:
        stage.close()
        raise
    return stage


async def open_stage(stage: Play) -> None:
    """Nodes, and what they look at and act on."""
    cluster, port, tool_port = stage.cluster, free_base_port(1) + 1, free_base_port(1) + 2
    for node in cluster.nodes:
        with (cluster.home(node) / "swoosh.toml").open("a") as file:
            file.write(f'[mcp]\ninterval_ms = 500\n[mcp.servers.{TOOL}]\nurl = "http://127.0.0.1:{tool_port}/mcp"\n')
            file.write(f'[environment]\nurl = "http://127.0.0.1:{port}"\nevery_ms = 500\n')
            if stage.broker is not None:
                file.write(f'[backbeat]\nurl = "nats://{stage.broker.address}"\ncluster = "lab"\n')
    music = "without BACKBEAT, on the tide" if stage.broker is None else "a Pulse"
    print(f"three nodes, an effect receiver, a tool server and {music} start", flush=True)
    receive = ("cluster", "worker", "receive", "--listen", f"127.0.0.1:{port}", "--root", str(stage.assets))
    stage.start("receiver", *receive)
    stage.start("tool", "tests.toolserver", "--port", str(tool_port), "--version", TOOL_VERSION)
    if stage.broker is not None:
        stage.broker.start()
        tempo = ("--tempo", str(BEATS_A_MINUTE), "--bar", str(BEATS_A_BAR))
        stage.start("pulse", "cluster.standins.backbeat", "--url", f"nats://{stage.broker.address}", *tempo)
    cluster.start()
    print(f"  leader {await stage.follow()}", flush=True)
    keys = {name: Key.generate() for name in ROLES}
    for name, key in keys.items():
        write_private(cluster.keys / f"{name}.pem", key.pem())
    drafts = [
        Draft("IDENTITY_ADDED", _identity(stage.project, name, key.principal), CLUSTER) for name, key in keys.items()
    ]
    drafts.append(Draft("SETTING_SET", {"name": "tool_dwell_ms", "value": DWELL_MS}, CLUSTER))
    async with cluster.client("admin") as client:
        outcomes = await client.batch(drafts)
    if not all(isinstance(outcome, Accepted) for outcome in outcomes):
        raise Trouble(f"identities and settings: {outcomes}")
    stage.named("operator", "proposer", *ELECTORS, *ROLES)


async def create(stage: Play, upstream: Path) -> None:
    """A person creates the project and says who may elect its council."""
    brief = {
        "brief": "A parser, as the repository describes it.",
        "repository": upstream.as_uri(),
        "planned_roles": list(AGENTS.values()),
    }
    print("  INDEX  TRANSITION                       STATE-HASH    TERM    SIGNED BY", flush=True)
    await stage.propose("operator", "PROJECT_CREATED", brief)

    async def licensed() -> bool | None:
        return True if (await stage.region("Boot"))["Licensed"] else None

    await stage.until("the license", licensed)
    profiles = {
        "roles": list(AGENTS.values()),
        "electorate": stage.named(*ELECTORS),
        "threshold": quorum.majority(len(ELECTORS)),
    }
    await stage.propose("operator", "COUNCIL_PROFILES_LOADED", profiles)


def send_everybody(stage: Play) -> None:
    """Workers and agents, each a process with its own key."""
    send_workers(stage)
    for name, role in AGENTS.items():
        stage.send(name, "chaos.agent", "--name", name, "--role", role, "--work", str(stage.work.directory))


def send_workers(stage: Play) -> None:
    """One for each region that somebody has to move."""
    work = ("--work", str(stage.work.directory))
    pins = json.dumps({TOOL: ">=1.4,<2"})
    stage.send("ingester", "cluster", "worker", "ingest", "--ref", "main", *work)
    stage.send("provisioner", "cluster", "worker", "provision", "--asset", "runner:directory:4")
    stage.send("runner", "cluster", "worker", "run", "--pins", pins, *work)


async def elect(stage: Play) -> None:
    """Once every role is claimed, two of three electors vote; whoever leads takes the certificate to the log."""

    async def claimed() -> bool | None:
        council = await stage.region("Council")
        return True if council["Phase"] == "ELECT" and set(council["Claims"]) == set(council["PlannedRoles"]) else None

    await stage.until("every role to be claimed", claimed)
    voters = ELECTORS[: quorum.majority(len(ELECTORS))]
    for name in voters:
        stage.send(name, "cluster", "council", "vote", "--yes", "--post")
    await stage.ended(*voters)


async def kill_the_leader(stage: Play) -> None:
    """SIGKILL once the first task is claimed; the node comes back while the others work."""

    async def at_work() -> bool | None:
        tasks = (await stage.region("Execution"))["Tasks"].values()
        return True if any(task["State"] != "OPEN" for task in tasks) else None

    await stage.until("a task to be claimed", at_work)
    victim = await stage.follow()
    print(f"SIGKILL {victim}, the leader", flush=True)
    stage.cluster.kill(victim)
    print(f"  leader {await stage.follow()}", flush=True)
    print(f"{victim} starts again", flush=True)
    stage.cluster.start(victim)


async def delivered(stage: Play) -> dict[str, Any]:
    """What was submitted, read back by its hash, with every task's evidence."""
    (submission,) = (await stage.region("Execution"))["Submissions"]
    (artifact,) = submission["Artifacts"]
    delivery: dict[str, Any] = canonical.parse(stage.work.document(artifact.removeprefix("sha256-")))
    for task in delivery["tasks"].values():
        stage.work.document(task["evidence"].rpartition("/")[2])
    return delivery


def repository(path: Path) -> Path:
    """A git repository with a brief in it."""
    path.mkdir()
    (path / "BRIEF.md").write_text(BRIEF)
    (path / "README.md").write_text("# A parser\n")
    git = ("git", "-C", str(path), "-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    for command in (("init", "-q", "-b", "main"), ("add", "."), ("commit", "-q", "-m", "a brief")):
        subprocess.run([*git, *command], check=True, env={**os.environ, "HOME": str(path)})
    return path


def windows() -> str:
    """Who opens windows here."""
    return "backbeat" if is_installed() else f"tidal:{TIDE_SECONDS}"


async def _records(client: Client, project: str, start: int) -> Any:
    if await client.state(project, projection=["Meta"]) is not None:
        async for record in client.wal(project, start=start):
            yield record


def _identity(project: str, name: str, principal: str) -> dict[str, Any]:
    return {"name": name, "principal": principal, "roles": list(ROLES[name]), "projects": [project]}


async def show_it(cluster: LiveCluster, inspect: Callable[[Play], Awaitable[None]] | None) -> None:
    """Play, and say what came of it."""
    began = time.monotonic()
    stage = await play(cluster)
    try:
        delivery = await delivered(stage)
        print(f"delivered in {delivery['window_id']}, {time.monotonic() - began:.0f} s after the start:", flush=True)
        for name, task in delivery["tasks"].items():
            print(f"  {name:<8} {task['evidence']}", flush=True)
        if inspect is not None:
            await inspect(stage)
        print("all three agree", flush=True)
        print_status(await cluster.agreed())
    finally:
        stage.close()


def main(inspect: Callable[[Play], Awaitable[None]] | None = None) -> int:
    """Run it in a directory that is gone afterwards; 0 when everybody did what they should. ``inspect`` may look at the
    project before the nodes end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if shutil.which("git") is None:
        print("the demo needs git", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="swoosh-demo-", ignore_cleanup_errors=True) as directory:
        cluster = LiveCluster.create(Path(directory) / "cluster", "--windows", windows())
        try:
            asyncio.run(show_it(cluster, inspect))
        except Trouble as trouble:
            print(f"the demo failed: {trouble}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            cluster.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
