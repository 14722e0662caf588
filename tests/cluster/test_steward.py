"""The steward: what follows from facts is proposed by the leader's node, once, at its own pace."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chaos import steer
from chaos.solo import TERM, Solo, the_chart
from cluster.answers import Answer, not_admitted
from cluster.clock import ManualClock
from cluster.nodekey import NodeKey
from cluster.providers.leading import Leading
from cluster.steward import BATCH_MAX, PACE_SECONDS, SWEEP_SECONDS, Steward
from swoosh import proposal
from swoosh.entry import Item, ProposalItem
from swoosh.outcome import Accepted, Code
from swoosh.state import Formation
from tests.cluster.members import NODES, accepted, let_nodes_vote
from tests.running import running, turns

ROUNDS = 40


class House:
    """A machine, its leader's queue played by applying at once, and stewards over it."""

    def __init__(self, **how: bool) -> None:
        self.solo = Solo(the_chart(), insecure=how.get("insecure", False))
        self.clock = ManualClock(self.solo.now_ms * 1000)
        self.batches: list[list[Item]] = []
        self.answers: list[Answer] = []
        self.open = True
        self.steward = self.another(boots_default=not how.get("insecure", False))

    def another(self, *, boots_default: bool = True) -> Steward:
        key = NodeKey.of(self.solo.keys["n1"])
        leading = Leading(TERM, self.solo.machine, self.clock, key, self.submit)
        return Steward(leading, boots_default=boots_default)

    async def submit(self, items: Sequence[Item], deadline: float) -> list[Answer]:
        self.batches.append(list(items))
        if not self.open:
            return [not_admitted(Code.NO_LEADER, "not now")] * len(items)
        applied = self.solo.apply(*items)
        self.steward.on_applied(applied)
        self.answers += applied.outcomes
        return list(applied.outcomes)

    async def settle(self, steward: Steward, *, rounds: int = ROUNDS) -> None:
        """Let a steward go on its rounds."""
        async with running(steward.run()):
            for _ in range(rounds):
                await turns(8)
                self.clock.advance(max(PACE_SECONDS, SWEEP_SECONDS / 4))
                self.solo.now_ms = self.clock.wall_us() // 1000

    def proposed(self) -> list[str]:
        """What was proposed, as `transition key`, in order."""
        sent = [proposal.decode(i.sent) for batch in self.batches for i in batch if isinstance(i, ProposalItem)]
        return [f"{each.transition} {each.idem_key}" for each in sent]

    def license(self, *, lasts_ms: int) -> None:
        body = {"license_id": "l", "status": "active", "valid_until": self.solo.now_ms + lasts_ms}
        expires = self.solo.now_ms + lasts_ms
        self.steward.on_applied(
            self.solo.apply(
                self.solo.fact_item("license", self.solo.machine.cluster_id, body, expires_at=expires),
            )
        )


def phase(house: House, region: str, project: str = "default") -> str:
    held: str = getattr(house.solo.regions(project), region).phase
    return held


async def test_a_project_is_booted_as_far_as_the_facts_go() -> None:
    house = House()
    await house.settle(house.steward)
    assert phase(house, "boot") == "LICENSE_CHECK"
    house.license(lasts_ms=60_000_000)
    await house.settle(house.steward)
    assert phase(house, "boot") == "LICENSED"
    assert house.proposed() == ["BOOT_CONFIGURED steward:BOOT_CONFIGURED:0", "BOOT_LICENSE_GRANTED " + keyed(house, 1)]
    assert all(isinstance(answer, Accepted) for answer in house.answers), "only what changes something is proposed"


def keyed(house: House, position: int) -> str:
    return house.proposed()[position].split()[1]


async def test_two_stewards_that_see_the_same_state_propose_one_operation() -> None:
    """A deposed leader's last word arrives beside its successor's first."""
    house = House()
    house.open = False
    await house.settle(house.steward, rounds=2)
    await house.settle(house.another(), rounds=2)
    (first,), (second,) = house.batches[0], house.batches[-1]
    answers = house.solo.apply(first, second).outcomes
    assert [isinstance(a, Accepted) and a.duplicate for a in answers] == [False, True]


async def test_what_was_not_admitted_is_proposed_again() -> None:
    house = House()
    house.open = False
    await house.settle(house.steward, rounds=10)
    assert len(house.batches) > 1 and phase(house, "boot") == "UNINITIALIZED"
    house.open = True
    await house.settle(house.steward)
    assert phase(house, "boot") == "LICENSE_CHECK"


async def test_many_projects_are_served_in_turn_a_batch_at_a_time() -> None:
    house = House()
    names = [f"p{number:03}" for number in range(3 * BATCH_MAX)]
    for name in names:
        house.solo.propose("PROJECT_CREATED", {"brief": "a story"}, project=name)
    await house.settle(house.steward)
    assert max(map(len, house.batches)) <= BATCH_MAX
    assert {phase(house, "boot", name) for name in names} == {"LICENSE_CHECK"}


async def test_a_development_cluster_leaves_default_to_its_first_caller() -> None:
    house = House(insecure=True)
    house.solo.propose("PROJECT_CREATED", {"brief": "a story"}, project="atlas")
    house.license(lasts_ms=60_000_000)
    await house.settle(house.steward)
    assert phase(house, "boot") == "LICENSE_CHECK"
    assert phase(house, "boot", "atlas") == "LICENSED"


async def test_a_license_that_runs_out_leads_to_grace_and_a_new_one_back() -> None:
    house = House()
    house.license(lasts_ms=5_000)
    await house.settle(house.steward, rounds=8)
    assert phase(house, "license") == "ACTIVE"
    await house.settle(house.steward, rounds=60)
    assert phase(house, "license") == "GRACE"
    house.license(lasts_ms=60_000_000)
    await house.settle(house.steward, rounds=8)
    assert phase(house, "license") == "ACTIVE"
    keys = [keyed(house, position) for position in range(len(house.proposed()))]
    assert len(set(keys)) == len(keys), "every round trip through a region has keys of its own"


async def test_green_health_makes_an_environment_ready_and_red_degrades_it() -> None:
    house = House()
    steer.drive(house.solo, lambda regions: regions.environment.phase == "HEALTHCHECK")
    house.clock.set_wall(house.solo.now_ms * 1000)
    told: Callable[[str], None] = lambda status: health(house, status)  # noqa: E731
    told("green")
    await house.settle(house.steward, rounds=8)
    assert phase(house, "environment") == "READY"
    told("red")
    await house.settle(house.steward, rounds=8)
    assert phase(house, "environment") == "DEGRADED"


def health(house: House, status: str) -> None:
    house.steward.on_applied(house.solo.apply(house.solo.fact_item("health", "default", {"status": status})))


# --- councils that the cluster forms ----------------------------------------------------------------------------------

FORMED = {"brief": "a story", "planned_roles": ["lead"], "formation": {"optional_roles": ["ux"], "until_ms": 7}}


async def test_a_project_that_asks_for_a_council_has_its_election_opened_with_the_nodes_as_electors() -> None:
    house = House()
    let_nodes_vote(house.solo)
    house.license(lasts_ms=60_000_000)
    accepted(house.solo.propose("PROJECT_CREATED", FORMED, project="atlas"))
    accepted(house.solo.propose("PROJECT_CREATED", {"brief": "b", "planned_roles": ["lead"]}, project="other"))
    await house.settle(house.steward)
    council = house.solo.regions("atlas").council
    assert (council.phase, council.election, council.planned_roles) == ("ELECT", 1, ("lead",))
    assert council.formation == Formation(("ux",), 7)
    assert {house.solo.names[each] for each in council.electorate} == set(NODES) and council.threshold == 2
    assert phase(house, "council", "other") == "PLAN_ROLES", "others see to that one"
    opened = [each for each in house.proposed() if each.startswith("COUNCIL_PROFILES_LOADED")]
    assert opened == ["COUNCIL_PROFILES_LOADED steward:COUNCIL_PROFILES_LOADED:0"]


async def test_a_council_waits_for_nodes_that_may_vote() -> None:
    """Members of a cluster that was made without it are given the role elector by an admin."""
    house = House()
    house.license(lasts_ms=60_000_000)
    accepted(house.solo.propose("PROJECT_CREATED", FORMED, project="atlas"))
    await house.settle(house.steward)
    assert phase(house, "council", "atlas") == "PLAN_ROLES"
    let_nodes_vote(house.solo)
    await house.settle(house.steward)
    assert phase(house, "council", "atlas") == "ELECT"


async def test_a_council_that_was_called_anew_keeps_its_rules_and_is_not_opened_twice() -> None:
    house = House()
    let_nodes_vote(house.solo)
    house.license(lasts_ms=60_000_000)
    accepted(house.solo.propose("PROJECT_CREATED", FORMED, project="atlas"))
    await house.settle(house.steward)
    house.solo.project = "atlas"
    accepted(house.solo.propose("COUNCIL_REELECTION_CALLED", {"reason": "again"}, signer="op"))
    await house.settle(house.steward)
    council = house.solo.regions("atlas").council
    assert (council.election, council.planned_roles, council.formation) == (2, ("lead",), Formation(("ux",), 7))


async def test_a_project_on_hold_has_its_election_opened_when_it_goes_on() -> None:
    house = House()
    let_nodes_vote(house.solo)
    accepted(house.solo.propose("PROJECT_CREATED", FORMED, project="atlas"))
    house.license(lasts_ms=60_000_000)
    accepted(house.solo.propose("CONTROL_PAUSED", {"reason": "lunch"}, project="atlas"))
    await house.settle(house.steward)
    assert phase(house, "council", "atlas") == "PLAN_ROLES"
    house.solo.project = "atlas"
    accepted(house.solo.propose("CONTROL_RESUMED", {"reason": "after lunch"}))
    await house.settle(house.steward)
    assert phase(house, "council", "atlas") == "ELECT"
