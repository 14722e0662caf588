"""The saga on whole nodes: leader or follower dies at any edge of any step, also while a former death is mended.

However it goes, the receiver does each effect once, and the project is at rest soon after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest

from chaos.receiver import ADDRESS, URL, Dead, Site, Way
from cluster import faults
from cluster.answers import Answer
from cluster.egress import Gatekeeper
from cluster.entropy import SeededEntropy
from cluster.providers.environment import Environments, Hook
from cluster.providers.leading import Provider
from swoosh import state
from swoosh.entry import Item
from swoosh.outcome import Accepted
from swoosh.state import Asset
from tests.cluster.group import Group, NodeHost, accepted
from tests.raft.cluster import Killed

PROJECT = "atlas"
REST_SECONDS = 10.0
RESTART_SECONDS = 1.0
DIRECTIONS = {"provision": "CONFIRMED", "revert": "REVERTED"}

EDGES = {
    "before the request commits": ("", "journal.barrier.before"),
    "with the request on its own disk": ("", "journal.barrier.after"),
    "after the commit, before the call": ("", "effect.committed"),
    "after the call, before the receipt is proposed": ("", "effect.answered"),
    "with the receipt on its way into the log": ("effect.answered", "journal.barrier.before"),
    "with the receipt on its own disk": ("effect.answered", "journal.barrier.after"),
    "as the receipt is applied": ("effect.answered", "applied"),
    "after all": ("", "effect.proposed"),
}
"""An edge is a failpoint, counted from the moment another was passed."""


class Town:
    """A group, a receiver, and a project with one asset."""

    def __init__(self, group: Group, site: Site, ways: dict[str, Way]) -> None:
        self.group, self.site, self.ways = group, site, ways
        self.deaths: list[str] = []

    def found(self) -> None:
        """The project is licensed and its capacity allocated."""
        group, people = self.group, self.group.people
        leader = group.leading()
        body = {"license_id": "l", "status": "active", "valid_until": people.now_ms + 10**9}
        accepted(group.propose(leader.name, group.create(PROJECT)))
        group.propose(
            leader.name,
            people.fact_item("license", people.machine.cluster_id, body, expires_at=people.now_ms + 10**9),
        )
        group.run_until(lambda: self.regions().boot.phase == "LICENSED")
        group.run_until(lambda: self.leader().node.machine.registry.fact("capacity", "default") is not None)
        asset = {"name": "vm-1", "kind": "vm", "units": 1}
        self.propose("ENVIRONMENT_CAPACITY_ALLOCATED", {"assets": [asset]}, "allocate")

    def leader(self) -> NodeHost:
        leader = self.group.leader()
        assert isinstance(leader, NodeHost)
        return leader

    def regions(self, host: NodeHost | None = None) -> state.ProjectRegions:
        held = (host or self.leader()).node.machine.project(PROJECT)
        assert held is not None
        return state.as_project(held.regions)

    def propose(self, transition: str, inputs: dict[str, Any], key: str) -> None:
        """As the SDK does it: the same key until it is accepted."""
        deadline = self.group.now + 60.0
        while not isinstance(self._ask(transition, inputs, key), Accepted):
            assert self.group.now < deadline, transition
            self.group.run(0.05)

    def _ask(self, transition: str, inputs: dict[str, Any], key: str) -> Answer | None:
        alive = [host for host in self.group.live() if host.node.caught_up and host.links]
        leader = self.group.leader()
        asked = next((host for host in alive if host is not leader), None)
        if asked is None or leader is None:
            return None
        try:
            item = self._item(asked, transition, inputs, key)
        except AssertionError:
            return None  # it has not heard of the project yet
        task = self.group.ask(asked.name, item, within=2.0)
        given_up = self.group.now + 3.0
        self.group.run_until(lambda: task.done() or self.group.now > given_up)
        return task.result()[0] if task.done() and not task.cancelled() else None

    def _item(self, host: NodeHost, transition: str, inputs: dict[str, Any], key: str) -> Item:
        held = host.node.machine.project(PROJECT)
        assert held is not None
        people, group = self.group.people, self.group
        document = people.document(transition, inputs, project=PROJECT, key=key, head=held.state_hash)
        return people.item(group._now(document))

    def asset(self, host: NodeHost | None = None) -> Asset:
        return self.regions(host).environment.assets["vm-1"]

    def request(self, direction: str) -> None:
        step, effect = {"provision": ("REQUESTED", "up"), "revert": ("REVERT_REQUESTED", "down")}[direction]
        self.propose(f"ENVIRONMENT_EFFECT_{step}", {"asset": "vm-1", "effect": effect}, f"ask-{direction}")

    def rests(self, direction: str) -> bool:
        """Whether every node is up and has the step behind it."""
        hosts = self.group.live()
        return len(hosts) == len(self.group.names) and all(
            host.node.ready is None and self.asset(host).state == DIRECTIONS[direction] for host in hosts
        )

    def comes_to_rest(self, direction: str) -> None:
        self.group.run_until(lambda: self.rests(direction), REST_SECONDS + len(self.deaths) * RESTART_SECONDS)
        self.group.converge()

    # --- deaths -------------------------------------------------------------------------------------------------------

    def dies(self, victim: str, edge: str, then: Callable[[], None] = lambda: None) -> None:
        """At this edge, the leader or a follower dies, and is started again; after that, ``then``."""
        after, place = EDGES[edge]

        def strike() -> None:
            leader = self.group.leader()
            if leader is None:
                faults.arm(place, 1, strike)
                return
            host = leader if victim == "leader" else next(h for h in self.group.live() if h is not leader)
            self.deaths.append(f"{victim} {edge}")
            host.kill()
            self.group.later(RESTART_SECONDS, host.restart)
            then()
            if host is (self.group.acting or leader):  # an errand is nobody's but the leader's
                raise Killed

        def arm() -> None:
            faults.arm(place, 1, strike)

        if after:
            faults.arm(after, 1, arm)
        else:
            arm()


@contextmanager
def town(seed: int, **how: Any) -> Iterator[Town]:
    site, ways = Site(), dict[str, Way]()

    def providers(host: NodeHost, keeper: Gatekeeper) -> list[Provider]:
        ways[host.name] = Way(site, keeper, host.clock, host.cluster.later)
        return [Environments(Hook(URL), ways[host.name], SeededEntropy(f"{seed}/{host.name}/{host.life}"))]

    with Group(seed, providers=providers, reachable=[ADDRESS], **how) as group:
        made = Town(group, site, ways)
        made.found()
        yield made


def check_effects(made: Town, *directions: str) -> None:
    assert made.site.effects() == [(PROJECT, "vm-1", direction) for direction in directions]
    assert made.site.ground.standing == ({(PROJECT, "vm-1")} if directions[-1] == "provision" else set())


def test_without_a_fault_it_goes_up_and_down() -> None:
    with town(1) as made:
        made.request("provision")
        made.comes_to_rest("provision")
        made.request("revert")
        made.comes_to_rest("revert")
        check_effects(made, "provision", "revert")
        assert len(made.site.calls) == 2


@pytest.mark.parametrize("victim", ["leader", "follower"])
@pytest.mark.parametrize("edge", EDGES)
def test_a_death_at_any_edge_leaves_one_effect_and_a_project_at_rest(edge: str, victim: str) -> None:
    with town(2) as made:
        for direction in DIRECTIONS:
            made.dies(victim, edge)
            made.request(direction)
            made.comes_to_rest(direction)
        assert made.deaths == [f"{victim} {edge}"] * 2
        check_effects(made, *DIRECTIONS)


CALLS = [edge for edge, (after, place) in EDGES.items() if place != "effect.proposed"][2:]


@pytest.mark.parametrize(("first", "second"), list(product(CALLS, CALLS)))
def test_a_death_while_a_former_one_is_mended_changes_nothing(first: str, second: str) -> None:
    """The next leader takes the same step up, and dies at an edge of it, too."""
    with town(3) as made:
        for direction in DIRECTIONS:
            made.dies("leader", first, then=lambda: made.dies("leader", second))
            made.request(direction)
            made.comes_to_rest(direction)
            faults.disarm()  # the second edge may lie behind what the first death left to do
        assert made.deaths.count(f"leader {first}") >= 2
        check_effects(made, *DIRECTIONS)


def slow(way: Way, seconds: float) -> None:
    """Requests for effects, and their answers, are so long on their way."""
    way.delay = lambda call: seconds if call.method == "POST" else 0.005


def test_the_late_call_of_a_deposed_leader_is_fenced() -> None:
    """It left before the cut. When it arrives, others have provisioned, and taken back."""
    with town(4) as made:
        group, old, left = made.group, made.leader(), list[bool]()
        slow(made.ways[old.name], 6.0)
        faults.arm("effect.committed", 1, lambda: left.append(True))
        made.request("provision")
        group.run_until(lambda: bool(left))
        group.isolate(old)
        group.run_until(lambda: made.leader() is not old and made.asset().state == "CONFIRMED")
        made.request("revert")
        group.run_until(lambda: made.asset().state == "REVERTED")
        assert [status for _, status in made.site.calls] == [200, 200], "the first call is still on its way"
        group.run_until(lambda: len(made.site.calls) == 3)
        newest, (request, status) = made.site.calls[0][0], made.site.calls[2]
        assert status == 409 and (request["action"], request["effect"]) == ("provision", newest["effect"])
        assert request["term"] < newest["term"] and request["index"] == newest["index"]
        group.heal()
        group.converge()
        check_effects(made, "provision", "revert")


def test_a_deposed_leader_and_its_successor_ask_for_the_same() -> None:
    """The old one's call arrives first: the effect is the same effect, whoever asks for it."""
    with town(5) as made:
        group, old = made.group, made.leader()
        for name, way in made.ways.items():
            if name != old.name:
                slow(way, 1.0)
        faults.arm("effect.answered", 1, lambda: group.isolate(old))
        made.request("provision")
        group.run_until(lambda: len(made.site.calls) == 2)
        group.heal()
        made.comes_to_rest("provision")
        (first, one), (second, other) = made.site.calls[:2]
        assert (first["effect"], one, other) == (second["effect"], 200, 200) and first["term"] < second["term"]
        check_effects(made, "provision")


def test_a_receiver_that_dies_with_the_request_on_its_disk_goes_on_from_there() -> None:
    with town(6) as made:

        def die() -> None:
            made.group.later(3.0, made.site.start)
            raise Dead

        faults.arm("receiver.written", 1, die)
        made.request("provision")
        made.group.run_until(lambda: made.rests("provision"), 60.0)
        assert len(made.site.calls) == 1, "the first was never answered"
        check_effects(made, "provision")


def test_with_the_leader_and_the_receiver_gone_at_once_it_comes_to_rest_too() -> None:
    with town(7) as made:

        def strike() -> None:
            made.site.kill()
            made.group.later(2.0, made.site.start)

        made.dies("leader", "after the call, before the receipt is proposed", then=strike)
        made.request("provision")
        made.group.run_until(lambda: made.rests("provision"), 60.0)
        assert len(made.deaths) == 1
        check_effects(made, "provision")


def test_nothing_is_lost_where_a_whole_cluster_loses_its_power() -> None:
    with town(8) as made:
        group = made.group

        def power_cut() -> None:
            for host in group.live():
                host.kill()
                group.later(1.0, host.restart)
            raise Killed

        faults.arm("effect.answered", 1, power_cut)
        made.request("provision")
        group.run_until(lambda: group.leader() is not None and made.rests("provision"), 60.0)
        check_effects(made, "provision")
