"""A run: the nodes, the network between them, the callers, and what a plan does to them all.

`run(plan)` goes through the plan under faults (safety), then heals everything and asks for what a healthy cluster owes
(liveness): a leader, every node equal, and a new proposal accepted on every project. It must never help a node: what
an operator would do (start a process that ended) is done here, and nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chaos.history import tally
from chaos.nowhere import node_config
from chaos.simulation import plan as plans
from chaos.simulation.chance import Chance
from chaos.simulation.checks import Checks, Violation
from chaos.simulation.crowd import Crowd
from chaos.simulation.host import LIVING, Ended, Host, Life
from chaos.simulation.network import Network
from chaos.simulation.plan import Plan, Step
from chaos.simulation.town import Town, assets
from chaos.simulation.virtual import EPOCH_US, NodeClock, VirtualLoop
from chaos.solo import the_chart
from cluster import faults
from cluster.cli.init import KEY_ROLES, NODE_ROLES
from cluster.config import Config
from cluster.faults import ExitCode
from cluster.nodekey import NodeKey
from cluster.raft import seams
from cluster.raft.driver import NoQuorum, NotLeader
from cluster.raft.retention import Keep
from cluster.storage.kv import Family
from cluster.tls import PeerContext
from swoosh import genesis as genesis_document
from swoosh.client import Key
from swoosh.genesis import Genesis, Registered
from swoosh.hashing import digest_bytes
from swoosh.state import ProjectRegions

_TEDIOUS = frozenset({"state_pre_hash", "state_post_hash", "hlc", "window_id", "signer", "idem_key", "region", "event"})
GRACE_MS = 3_000
RECOVERY_SECONDS = 30.0
"""Within which a healed cluster is whole again and accepts."""
ELECTION_SECONDS = 10.0
SCRUB_SECONDS = 10.0
RESTART_SECONDS = 0.1
EVENTS_KEPT = 200
GLANCE_SECONDS = 0.05
CALM_SECONDS = 2.0
STOPS_EXPECTED = frozenset({ExitCode.DISK})
"""Codes with which a node may end itself under the faults a plan holds. Any other is a violation."""
STOPS_OF_DAMAGED = frozenset({ExitCode.DAMAGED, ExitCode.ROLLED_BACK, ExitCode.DIVERGED, ExitCode.MISCONFIGURED})
"""And those with which a node does whose disk was damaged; the last when it hears that another store took its place."""


class Result(msgspec.Struct, frozen=True):
    """What came of a run."""

    seed: int
    nodes: int
    violation: str | None
    kind: str | None
    simulated_s: float
    took_s: float
    acknowledged: int
    transitions: int
    leaderships: int
    faults: dict[str, int]
    told: dict[str, int]
    trace: str
    """Equal for two runs of one plan: a digest over every message, when it arrived and what it was."""
    events: tuple[str, ...] = ()
    """The last of what the nodes logged, where there is a violation."""


def run(plan: Plan) -> Result:
    """Go through a plan."""
    began = time.perf_counter()
    world = World(plan)
    try:
        violation = world.go()
        return world.result(violation, time.perf_counter() - began)
    finally:
        world.close()


class World:
    """Everything there is in one run."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.names, self.chance = plan, plan.names, Chance(plan.seed)
        self.loop = VirtualLoop()
        asyncio.set_event_loop(self.loop)
        self.loop.set_task_factory(_owned)
        self.loop.set_exception_handler(self._on_exception)
        faults.set_stop(_stop)
        faults.set_restart(_begin_anew)
        self._logs: deque[str] = deque(maxlen=EVENTS_KEPT)
        _log_to(self._keep)
        self.clock = NodeClock(self.loop, lambda callback: callback())
        seams.install(self.clock)
        self.chart = the_chart()
        self.node_keys = {name: _node_key(f"{plan.seed}/{name}") for name in self.names}
        self.keys = {name: Key.from_seed(digest_bytes(name.encode())) for name in KEY_ROLES}
        self.genesis = self._genesis()
        self.cluster_id = genesis_document.cluster_id(self.genesis)
        self.peer_context = PeerContext(ssl.PROTOCOL_TLS_SERVER)
        self.network = Network(self.names, self.loop, self.chance, plan.latency)
        self.network.on_delivery = self._on_delivery
        self._trace = hashlib.blake2b(digest_size=16)
        self.checks = Checks(self)
        self.crowd = Crowd(self, self.keys)
        self.faults: Counter[str] = Counter()
        self.town = Town(self)
        self.hosts = {name: Host(self, name) for name in self.names}
        for name, offset in zip(self.names, plan.wall_offsets_us, strict=False):
            self.hosts[name].set_wall_offset(offset)
        self._started_at = 0.0
        self._due: list[asyncio.TimerHandle] = []
        self._replaced: list[Host] = []
        self._calm_until = 0.0
        self.is_healed = False

    def _genesis(self) -> Genesis:
        nodes = [Registered(name, key.principal, NODE_ROLES) for name, key in self.node_keys.items()]
        people = [Registered(name, key.principal, KEY_ROLES[name]) for name, key in self.keys.items()]
        return Genesis(
            nonce=f"{self.plan.seed:0{2 * genesis_document.NONCE_BYTES}x}"[-2 * genesis_document.NONCE_BYTES :],
            nodes=self.names,
            identities=(*nodes, *people),
            settings={"auto_rejoin": True, "license_grace_ms": GRACE_MS},
            chart_hash=self.chart.hash,
            insecure=False,
            created_ms=EPOCH_US // 1000,
        )

    def config(self, name: str) -> Config:
        """Of one node. Time in a run is short, so everything is scrubbed soon."""
        return node_config(
            name,
            self.cluster_id,
            scrub_period=SCRUB_SECONDS,
            keep=Keep(entries=self.plan.keep_entries),
            rate_per_signer=0,
            rate_per_ip=0,
            kaching=self.town.terms(),
            environment=self.town.hook(),
            bubble=self.town.sink(),
        )

    # --- the run ------------------------------------------------------------------------------------------------------

    def go(self) -> Violation | None:
        """Both phases. The first violation ends it."""
        try:
            self.loop.run_until_complete(self.town.open())
            for host in self.hosts.values():
                host.start()
            self._until(lambda: self.leader() is not None, ELECTION_SECONDS, "no first leader")
            self._started_at = self.loop.time()
            for step in self.plan.steps:
                self.loop.call_at(self._started_at + step.at, self.perform, step)
            self._pass(self.plan.seconds)
            self._heal()
            self._recover()
            self.checks.at_the_end()
        except Violation as violation:
            return violation
        return self.checks.violation

    def _heal(self) -> None:
        """Whatever still lasts ends, and whatever was still to come; every process runs."""
        self.is_healed = True
        for due in self._due:
            due.cancel()
        self.network.heal()
        self.town.mend()
        for host in self.hosts.values():
            if host.damaged and host not in self._replaced:
                self._rejoin(host)
            host.full = host.sync_fails = False
            host.sync_seconds = 0.0
            host.set_wall_offset(0)
            if host.life is not None:
                host.life.kill_in = None
                host.life.thaw()
            host.start()

    def _recover(self) -> None:
        self._until(self._all_ready, RECOVERY_SECONDS, "not ready")
        for task in list(self.crowd.open):
            self._until(task.done, RECOVERY_SECONDS, "a call never ended")
        for number in range(plans.PROJECTS):
            self._until(partial(self._accepts, f"c{number}", f"p{number}"), RECOVERY_SECONDS, "nothing is accepted")
        self._until(self._all_licensed, 2 * RECOVERY_SECONDS, "no license")
        self._until(self._no_effect_in_flight, RECOVERY_SECONDS, "an effect in flight")
        self._until(self._all_delivered, 2 * RECOVERY_SECONDS, "Decision Records that never arrived")
        self._until(self._all_equal, RECOVERY_SECONDS, "not equal")

    def _accepts(self, client: str, project: str) -> bool:
        """Have a client move a project on: was anything accepted since?"""
        accepted = self.checks.acknowledged
        self.loop.call_soon(self.perform, Step(0.0, "move", client, with_={"project": project}))
        self._pass(GLANCE_SECONDS)
        for task in list(self.crowd.open):
            self._until(task.done, RECOVERY_SECONDS, "a call on the healed cluster never ended")
        return self.checks.acknowledged > accepted

    def _all_ready(self) -> bool:
        lives = [host.life for host in self.hosts.values()]
        return all(life is not None and life.listening and life.node.ready is None for life in lives)

    def _all_licensed(self) -> bool:
        """The authority says yes again, and that is enough."""
        machines = [host.life.node.machine for host in self.hosts.values() if host.life is not None]
        regions = [project.regions for m in machines for p in m.project_ids() if (project := m.project(p)) is not None]
        return all(each.license.phase == "ACTIVE" for each in regions if isinstance(each, ProjectRegions))

    def _no_effect_in_flight(self) -> bool:
        """Whatever was asked for was carried out, or taken back."""
        lives = [host.life for host in self.hosts.values() if host.life is not None]
        machines = [life.node.machine for life in lives]
        states = {asset.state for machine in machines for _, _, asset in assets(machine)}
        return not states & {"REQUESTED", "REVERTING"}

    def _all_delivered(self) -> bool:
        """Every Decision Record has arrived."""
        machines = [host.life.node.machine for host in self.hosts.values() if host.life is not None]
        return all(self.town.has_everything(machine) for machine in machines)

    def _all_equal(self) -> bool:
        if not self._all_ready():
            return False
        lives = [host.life for host in self.hosts.values() if host.life is not None]
        return len({index for life in lives for index in (life.raft.applied_index, life.raft.last_index)}) == 1

    def _pass(self, seconds: float) -> None:
        """Let time pass, a little at a time. Raises Violation."""
        until = self.loop.time() + seconds
        while self.loop.time() < until:
            self.loop.run_until_complete(asyncio.sleep(min(GLANCE_SECONDS, until - self.loop.time())))
            if self.checks.violation is not None:
                raise self.checks.violation

    def _until(self, condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
        deadline = self.loop.time() + seconds
        while not condition():
            if self.is_healed:
                for host in self.hosts.values():
                    host.start()  # a sync that hung before ends its process only now
            if self.loop.time() >= deadline:
                raise Violation("liveness", f"{otherwise} within {seconds:g} s: {self._standing()}")
            self._pass(0.02)

    def _standing(self) -> str:
        def of(host: Host) -> str:
            life = host.life
            if life is None or not life.listening:
                return f"{host.name} down {host.stopped}"
            raft = life.raft
            where = f"{raft.role.name} term {raft.term} {raft.applied_index}/{raft.last_index}"
            return f"{host.name} {where} {life.node.missing}"

        return "; ".join(of(host) for host in self.hosts.values())

    # --- what a plan does ---------------------------------------------------------------------------------------------

    def perform(self, step: Step) -> None:
        """Do one thing; what cannot be done now is not."""
        fault = getattr(self, f"_do_{step.do}", None)
        if fault is None:
            self.crowd.act(step)
            return
        target = self._leading_name() if step.to == "leader" else step.to
        if target is not None and self.loop.time() >= self._calm_until:
            self.faults[step.do] += 1
            self._keep(f"{'--':4} {step.do} {target} {step.seconds:g} {step.with_}")
            fault(target, step)

    def _later(self, seconds: float, callback: Callable[[], object]) -> None:
        self._due.append(self.loop.call_later(seconds, callback))

    def _do_crash(self, name: str, step: Step) -> None:
        host = self.hosts[name]
        if steps := step.with_.get("steps", 0):
            host.kill_within(steps)
            self._later(1.0, host.kill)
            self._later(1.0 + step.seconds, host.start)
        else:
            host.kill()
            self._later(step.seconds, host.start)

    def _do_crash_all(self, _: str, step: Step) -> None:
        for number, host in enumerate(self.hosts.values()):
            host.kill()
            self._later(step.seconds * self.chance.at("crash all", step.at, number), host.start)

    def _do_restart(self, name: str, step: Step) -> None:
        host = self.hosts[name]
        if host.life is not None and host.life.listening and not host.life.frozen:
            life = host.life
            life.run(lambda: self.loop.create_task(self._restart(host, life, step.seconds)))

    async def _restart(self, host: Host, life: Life, seconds: float) -> None:
        await life.stop()
        self._later(seconds, host.start)

    def _do_pause(self, name: str, step: Step) -> None:
        life = self.hosts[name].life
        if life is not None and not life.frozen:
            life.freeze()
            for other in self.names:
                if other != name:
                    self.network.block(name, other)
                    self._later(step.seconds, lambda other=other: self.network.unblock(name, other))  # type: ignore[misc]
            self._later(step.seconds, life.thaw)

    def _do_isolate(self, name: str, step: Step) -> None:
        for other in self.names:
            if other != name:
                self._drop(name, other, step.seconds)
                self._drop(other, name, step.seconds)

    def _do_drop(self, lane: str, step: Step) -> None:
        source, _, target = lane.partition(">")
        self._drop(source, target, step.seconds)

    def _drop(self, source: str, target: str, seconds: float) -> None:
        self.network.block(source, target)
        self._later(seconds, lambda: self.network.unblock(source, target))

    def _do_reset(self, lane: str, step: Step) -> None:
        self.network.reset(*lane.split(">"))

    def _do_slow(self, lane: str, step: Step) -> None:
        source, _, target = lane.partition(">")
        self.network.slow_down(source, target, step.with_["late"])
        self._later(step.seconds, lambda: self.network.slow_down(source, target, 0.0))

    def _do_clock(self, name: str, step: Step) -> None:
        host = self.hosts[name]
        host.set_wall_offset(step.with_["us"])
        self._later(step.seconds, lambda: host.set_wall_offset(0))

    def _do_sync_fails(self, name: str, step: Step) -> None:
        host = self.hosts[name]
        host.sync_fails = True
        self._later(step.seconds, lambda: self._mend(host))

    def _do_disk_full(self, name: str, step: Step) -> None:
        host = self.hosts[name]
        host.full = True
        self._later(step.seconds, lambda: self._mend(host))

    def _do_outage(self, system: str, step: Step) -> None:
        self.town.close(system)
        self._later(step.seconds, lambda: self.town.reopen(system))

    def _do_license(self, _: str, step: Step) -> None:
        """The authority says no, or wants to be left alone, until it does not."""
        self.town.authority.change(step.with_)
        self._later(step.seconds, lambda: self.town.authority.change({"status": "active", "retry_after_s": 0}))

    # Disks that forget. Never more of them at a time than the cluster promises to bear.

    def _do_back_up(self, name: str, step: Step) -> None:
        self.hosts[name].back_up()

    def _do_put_back(self, name: str, step: Step) -> None:
        """What a node has forgotten only those can tell who have seen it. While one of them is out of reach the others
        may be told a promise twice, and nobody can know; so they all are in reach, and stay so for a moment."""
        host = self.hosts[name]
        if host.backup is not None and self._may_damage(host) and self._is_calm():
            self._calm_until = self.loop.time() + CALM_SECONDS
            host.kill()
            host.put_back()
            self._damaged(host, step)
            host.start()

    def _do_flip(self, name: str, step: Step) -> None:
        host = self.hosts[name]
        if self._may_damage(host):
            host.kill()
            draw = self.chance.at("flip", name, step.at)
            if host.flip_a_bit(Family(step.with_["family"]), draw):
                self._damaged(host, step)
            host.start()

    def _do_wipe(self, name: str, step: Step) -> None:
        host = self.hosts[name]
        if self._may_damage(host):
            host.kill()
            host.gone = True
            self._damaged(host, step)

    def _may_damage(self, host: Host) -> bool:
        """Whether all that was promised stays promised without this disk."""
        for other in self.hosts.values():
            if other in self._replaced and self._is_counted(other):
                self._replaced.remove(other)
                other.damaged = False
        damaged = [other for other in self.hosts.values() if other.damaged]
        return not host.damaged and 2 * (len(damaged) + 1) < len(self.hosts)

    def _is_calm(self) -> bool:
        """Every node serves, and every link stands."""
        lives = [life for host in self.hosts.values() if (life := host.life) is not None and not life.frozen]
        if not all(life.listening and life.node.ready is None for life in lives):
            return False
        return len(lives) == len(self.names) and all(
            self.network.is_clear(a, b) for a in self.names for b in self.names
        )

    def _is_counted(self, host: Host) -> bool:
        """Whether every other node runs, and relies on the store that this one has now: what an operator waits for."""
        lives = [life for other in self.hosts.values() if (life := other.life) is not None and life.listening]
        if len(lives) < len(self.hosts) or any(life.raft.rejoining for life in lives):
            return False
        others = [life for life in lives if life.host is not host]
        return all(peer.counts for life in others for peer in life.raft.peers() if peer.id == host.name)

    def _damaged(self, host: Host, step: Step) -> None:
        host.damaged = True
        self._later(step.seconds, lambda: self._rejoin(host))

    def _rejoin(self, host: Host) -> None:
        """An operator sees what is wrong, and starts the node with `--rejoin`."""
        host.kill()
        host.new_store(rejoining=True)
        self._replaced.append(host)
        host.start()

    def _do_slow_disk(self, name: str, step: Step) -> None:
        host = self.hosts[name]
        host.sync_seconds = step.with_["sync"]

        def fast_again() -> None:
            host.sync_seconds = 0.0
            host.start()  # one that hung has ended itself

        self._later(step.seconds, fast_again)

    def _mend(self, host: Host) -> None:
        host.full = host.sync_fails = False
        host.start()

    def _do_hand_over(self, _: str, step: Step) -> None:
        life = self.leader()
        if life is not None:
            life.run(lambda: life.node.spawn(_hand_over(life)))

    def _do_snapshot(self, name: str, step: Step) -> None:
        life = self.hosts[name].life
        if life is not None and life.listening and not life.frozen:
            life.node.snapshots.request()

    # --- looking ------------------------------------------------------------------------------------------------------

    def leader(self) -> Life | None:
        """The leader of the highest term among those that run."""
        lives = [host.life for host in self.hosts.values() if host.life is not None and host.life.listening]
        leading = [life for life in lives if life.raft.role.name == "LEADER"]
        return max(leading, key=lambda life: life.raft.term, default=None)

    def _leading_name(self) -> str | None:
        life = self.leader()
        return None if life is None else life.name

    def _on_delivery(self, source: str, target: str, message: dict[str, Any]) -> None:
        self._trace.update(f"{self.loop.time():.6f} {source}>{target} {message['type']}".encode())

    def _keep(self, line: str) -> None:
        self._logs.append(f"{self.loop.time() - self._started_at:8.3f} {line}")

    def _on_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(error, Ended):
            self.checks.broken("exception", f"{context.get('message')}: {error!r}")

    def result(self, violation: Violation | None, took: float) -> Result:
        """What came of it."""
        return Result(
            seed=self.plan.seed,
            nodes=self.plan.nodes,
            violation=None if violation is None else str(violation),
            kind=None if violation is None else violation.kind,
            simulated_s=round(self.loop.time(), 3),
            took_s=round(took, 3),
            acknowledged=self.checks.acknowledged,
            transitions=self.checks.transitions,
            leaderships=self.checks.leaderships,
            faults=dict(sorted(self.faults.items())),
            told=dict(sorted(tally(self.crowd.history).items())),
            trace=self._trace.hexdigest(),
            events=tuple(self._logs) if violation is not None else (),
        )

    def close(self) -> None:
        """Nothing of it goes on."""
        self.loop.set_exception_handler(lambda loop, context: None)
        for task in self.crowd.open:
            task.cancel()
        for host in self.hosts.values():
            host.kill()
        self.loop.run_until_complete(asyncio.sleep(0.0))
        faults.set_stop(None)
        faults.set_restart(None)
        structlog.reset_defaults()
        asyncio.set_event_loop(None)
        self.loop.close()


async def _hand_over(life: Life) -> None:
    with suppress(NotLeader, NoQuorum):
        await life.raft.transfer_leadership(None)


def _stop(code: ExitCode, reason: str, facts: dict[str, object]) -> None:
    """`faults.fatal` in a simulated process ends that process."""
    life = LIVING.get()
    if life is None:
        raise AssertionError(f"a fatal fault outside of every node: {code.name} {reason} {facts}")
    world = life.world
    if life.alive:
        life.host.stopped = (code, reason, facts)
        world._keep(f"{life.name:4} FATAL {code.name} {reason} {facts!s:.300}")
        if code not in STOPS_EXPECTED and not (life.host.damaged and code in STOPS_OF_DAMAGED):
            world.checks.broken(f"stopped {code.name}", f"{life.name}: {reason} {facts!s:.2000}")
        life.end()
    raise Ended


def _begin_anew(reason: str, facts: dict[str, object]) -> None:
    """`faults.restart`: the process is replaced by one that runs the same command."""
    life = LIVING.get()
    if life is None:
        raise AssertionError(f"a restart outside of every node: {reason} {facts}")
    if life.alive:
        life.world.faults["install"] += 1
        life.world._keep(f"{life.name:4} RESTART {reason} {facts!s:.300}")
        life.end()
        life.world._later(RESTART_SECONDS, life.host.start)
    raise Ended


def _owned(loop: asyncio.AbstractEventLoop, coroutine: Any, **how: Any) -> asyncio.Task[Any]:
    """A task belongs to the life whose code made it, and ends with it."""
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **how)
    life = LIVING.get()
    if life is not None:
        life.tasks[task] = None
        task.add_done_callback(lambda done: life.tasks.pop(done, None))
        if not life.alive:
            task.cancel()
    return task


def _node_key(seed: str) -> NodeKey:
    return NodeKey.of(Ed25519PrivateKey.from_private_bytes(digest_bytes(seed.encode())))


def _log_to(keep: Callable[[str], None]) -> None:
    """Everything the nodes log goes into the events of the run, under their names."""
    for name in ("pysyncobj", "aiohttp.server", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    def note(_logger: object, _method: str, event: Any) -> Any:
        life = LIVING.get()
        name = life.name if life is not None else "--"
        what = event.pop("event", "")
        told = {key: value for key, value in event.items() if key not in _TEDIOUS}
        keep(f"{name:4} {what} " + " ".join(f"{key}={value!s:.200}" for key, value in told.items()))
        raise structlog.DropEvent

    structlog.configure(processors=[note])
