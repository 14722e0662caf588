"""The provider of environments: what is committed is carried out, once; silence and nonsense are no progress."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from chaos import steer
from chaos.receiver import ADDRESS, URL, Site, Way
from chaos.solo import TERM, Solo, the_chart
from cluster.answers import Answer, not_admitted
from cluster.clock import ManualClock
from cluster.egress import Call, Gatekeeper, Reply
from cluster.entropy import SeededEntropy
from cluster.license_gate import LicenseGate
from cluster.nodekey import NodeKey
from cluster.providers.environment import FACT_LIFE_MS, LOOKS_UNTIL_BELIEVED, Environments, Hook
from cluster.providers.errands import AT_ONCE
from cluster.providers.leading import Leading
from swoosh import facts
from swoosh.entry import FactItem, Item
from swoosh.outcome import Accepted, Code
from swoosh.state import Asset
from tests.running import running, turns

EVERY = 5.0


class House:
    """A machine whose queue applies at once, the provider over it, and a receiver at the end of the way."""

    def __init__(self, units: int = 100) -> None:
        self.solo = Solo(the_chart())
        self.clock = ManualClock(self.solo.now_ms * 1000)
        self.site = Site(units)
        keeper = Gatekeeper(self.clock, (ADDRESS,))
        keeper.closed = LicenseGate(self.solo.machine, self.clock).closed
        self.way = Way(self.site, keeper, self.clock, self.clock.call_later)
        self.provider = Environments(Hook(URL, every=EVERY), self.way, SeededEntropy(1))
        self.open = True
        self.facts: list[facts.Fact] = []
        self.term = TERM

    @property
    def leading(self) -> Leading:
        return Leading(self.term, self.solo.machine, self.clock, NodeKey.of(self.solo.keys["n1"]), self.submit)

    async def submit(self, items: Sequence[Item], deadline: float) -> list[Answer]:
        if not self.open:
            return [not_admitted(Code.NO_LEADER, "not now")] * len(items)
        self.facts += [facts.decode(item.sent) for item in items if isinstance(item, FactItem)]
        return list(self.solo.apply(*items).outcomes)

    async def run(self, seconds: float = 1.0, until: Callable[[], bool] = lambda: False) -> None:
        """Let the provider go about its business."""
        async with running(self.provider.run(self.leading)):
            end = self.clock.monotonic() + seconds
            while self.clock.monotonic() < end and not until():
                await turns(12)
                self.clock.advance(0.02)
                self.solo.now_ms = self.clock.wall_us() // 1000

    def allocated(self, project: str = "default", *names: str) -> None:
        """A licensed project with assets that nobody has asked for yet."""
        self.solo.project = project
        self.solo.now_ms = max(self.solo.now_ms, self.clock.wall_us() // 1000)
        steer.drive(self.solo, lambda regions: regions.boot.phase == "LICENSED")
        self.say("capacity", "default", {"units_free": 50})
        assets = [{"name": name, "kind": "vm", "units": 1} for name in names or ("vm-1",)]
        self.must("ENVIRONMENT_CAPACITY_ALLOCATED", {"assets": assets})

    def requested(self, project: str = "default", *names: str) -> None:
        self.allocated(project, *names)
        self.request(names[0] if names else "vm-1", "up-1")

    def request(self, asset: str, effect: str) -> None:
        self.must("ENVIRONMENT_EFFECT_REQUESTED", {"asset": asset, "effect": effect})

    def revert(self, asset: str, effect: str) -> None:
        self.must("ENVIRONMENT_EFFECT_REVERT_REQUESTED", {"asset": asset, "effect": effect})

    def standing(self, project: str = "default") -> None:
        """An environment in HEALTHCHECK, by way of the receiver's own answers."""
        self.solo.project = project
        steer.drive(self.solo, lambda regions: regions.environment.phase == "HEALTHCHECK")
        for name in self.solo.regions().environment.assets:
            self.site.answer(Call("environment", "POST", f"{URL}/effects", body(project, name)))
        self.clock.set_wall(self.solo.now_ms * 1000)

    def say(self, kind: str, subject: str, said: dict[str, Any]) -> None:
        self.solo.apply(self.solo.fact_item(kind, subject, said, observed_at=self.solo.now_ms))

    def must(self, transition: str, inputs: dict[str, Any]) -> Accepted:
        outcome = self.solo.propose(transition, inputs)
        assert isinstance(outcome, Accepted), outcome
        return outcome

    def asset(self, name: str = "vm-1", project: str = "default") -> Asset:
        return self.solo.regions(project).environment.assets[name]

    def said(self, kind: str) -> list[dict[str, Any]]:
        return [fact.body for fact in self.facts if fact.kind == kind]


def body(project: str, asset: str, **change: Any) -> bytes:
    document = {
        "cluster_id": Solo(the_chart()).machine.cluster_id,
        "project": project,
        "asset": asset,
        "kind": "vm",
        "units": 1,
        "effect": f"e-{asset}",
        "action": "provision",
        "term": 0,
        "index": 0,
    }
    return json.dumps({**document, **change}).encode()


@pytest.fixture
def house() -> House:
    return House()


# --- effects ----------------------------------------------------------------------------------------------------------


async def test_what_is_requested_is_provisioned_and_its_receipt_signed_by_the_node(house: House) -> None:
    house.requested()
    await house.run()
    asset = house.asset()
    assert asset.state == "CONFIRMED" and asset.receipt.startswith("sha256-")
    assert house.site.effects() == [("default", "vm-1", "provision")]
    assert house.site.ground.standing == {("default", "vm-1")}
    assert house.provider.trouble is None


async def test_what_is_reverting_is_taken_back(house: House) -> None:
    house.requested()
    await house.run()
    house.revert("vm-1", "down-1")
    await house.run()
    assert house.asset().state == "REVERTED"
    assert house.site.effects() == [("default", "vm-1", "provision"), ("default", "vm-1", "revert")]
    assert not house.site.ground.standing


async def test_an_effect_that_was_never_carried_out_is_reverted_all_the_same(house: House) -> None:
    house.site.kill()
    house.requested()
    await house.run(8.0)
    house.revert("vm-1", "down-1")
    house.site.start()
    await house.run(40.0, lambda: house.asset().state == "REVERTED")
    assert house.site.effects() == [("default", "vm-1", "revert")]


async def test_nothing_is_asked_for_before_it_is_committed(house: House) -> None:
    house.allocated()
    await house.run()
    assert house.site.calls == []


async def test_each_call_says_in_which_term_and_on_which_entry_it_rests(house: House) -> None:
    house.allocated()
    house.request("vm-1", "up-1")
    index = house.solo.machine.position.index
    await house.run()
    ((request, status),) = house.site.calls
    assert (request["term"], request["index"], status) == (TERM, index, 200)


async def test_a_name_that_is_used_again_is_another_effect(house: House) -> None:
    """Proposers may call every request of theirs ``up``: the receiver sees which is meant."""
    house.requested("atlas", "vm-1")
    await house.run()
    house.requested("lyra", "vm-1")
    await house.run()
    house.solo.project = "atlas"
    house.revert("vm-1", "down")
    await house.run()
    house.must("ENVIRONMENT_DEPROVISIONED", {"reason": "again"})
    house.requested("atlas", "vm-1")
    await house.run()
    effects = [request["effect"] for request, _ in house.site.calls]
    assert len(effects) == len(set(effects)) == 4
    assert house.asset(project="atlas").state == house.asset(project="lyra").state == "CONFIRMED"


async def test_a_receipt_that_did_not_get_into_the_log_is_fetched_and_proposed_again(house: House) -> None:
    house.requested()
    house.open = False
    await house.run(3.0)
    assert house.asset().state == "REQUESTED"
    house.open = True
    await house.run(3.0)
    assert house.asset().state == "CONFIRMED"
    assert len(house.site.calls) > 1 and len(house.site.effects()) == 1


async def test_silence_is_unknown_and_the_same_call_is_made_again(house: House) -> None:
    house.requested()
    house.way.delay = lambda call: 4.0  # it arrives; the answer comes too late
    await house.run(12.0)
    assert house.asset().state == "REQUESTED"
    assert house.provider.trouble is not None and "no answer" in house.provider.trouble
    house.way.delay = lambda call: 0.005
    await house.run(40.0, lambda: house.asset().state == "CONFIRMED")
    assert len({request["effect"] for request, _ in house.site.calls}) == 1
    assert len(house.site.effects()) == 1
    await house.run(1.0)
    assert house.provider.trouble is None


@pytest.mark.parametrize(
    ("status", "text", "trouble"),
    [
        (200, "done", "not an answer of an effect receiver"),
        (200, '{"receipt": "abc"}', "not an answer of an effect receiver"),
        (200, '{"receipt": "sha256-' + "A" * 64 + '"}', "not an answer of an effect receiver"),
        (204, "", "answers 204"),
        (302, "", "answers 302"),
        (404, "nobody", "answers 404: nobody"),
        (409, '{"error": "term 9"}', "a later leader has spoken"),
        (500, "", "answers 500"),
        (503, '{"error": "full"}', "full"),
    ],
)
async def test_any_other_answer_is_trouble_and_no_progress(house: House, status: int, text: str, trouble: str) -> None:
    house.requested()

    async def request(call: Call) -> Reply:
        return Reply(200, {}, b'{"units_free": 1}') if call.method == "GET" else Reply(status, {}, text.encode())

    house.way.request = request  # type: ignore[method-assign]
    await house.run(3.0)
    assert house.asset().state == "REQUESTED"
    assert house.provider.trouble is not None and trouble in house.provider.trouble


async def test_who_no_longer_leads_has_no_more_to_say(house: House) -> None:
    """What it asked for arrives; the receipt is for the next leader to fetch."""
    house.requested()
    house.way.delay = lambda call: 0.5
    await house.run(0.3)
    house.clock.advance(2.0)
    house.solo.now_ms = house.clock.wall_us() // 1000
    for _ in range(12):
        await asyncio.sleep(0)
    assert len(house.site.effects()) == 1
    assert house.asset().state == "REQUESTED"


async def test_what_is_taken_back_while_it_is_provisioned_is_gone_in_the_end(house: House) -> None:
    house.requested()
    house.way.delay = lambda call: 0.5
    taken_back = False

    def meanwhile() -> bool:
        """While the answer is on its way, the revert is committed."""
        nonlocal taken_back
        if house.site.calls and not taken_back:
            taken_back = True
            house.revert("vm-1", "down-1")
        return house.asset().state == "REVERTED" or house.provider.trouble is not None

    await house.run(5.0, meanwhile)
    assert house.asset().state == "REVERTED" and house.provider.trouble is None
    assert [action for _, _, action in house.site.effects()] == ["provision", "revert"]


async def test_who_is_still_at_it_is_asked_again_and_is_no_trouble(house: House) -> None:
    house.requested()
    asked: list[Call] = []

    async def request(call: Call) -> Reply:
        if call.method == "GET":
            return Reply(200, {}, b'{"units_free": 1}')
        asked.append(call)
        return Reply(202, {}, b"")

    house.way.request, whole = request, house.way.request  # type: ignore[method-assign]
    await house.run(5.0)
    assert house.asset().state == "REQUESTED"
    assert 3 <= len(asked) <= 6 and len({call.body for call in asked}) == 1
    assert house.provider.trouble is None
    house.way.request = whole  # type: ignore[method-assign]
    await house.run(2.0)
    assert house.asset().state == "CONFIRMED"


async def test_a_leader_that_has_not_yet_applied_what_others_committed_asks_for_nothing(house: House) -> None:
    """In its log the step may have been answered long ago."""
    house.requested()
    house.term = TERM + 1
    await house.run()
    assert house.site.calls == []
    house.solo.machine.apply(house.solo.machine.position.index + 1, TERM + 1, None)
    await house.run()
    assert len(house.site.calls) == 1


async def test_a_project_that_is_held_still_comes_to_rest_and_one_that_is_over_is_left_alone(house: House) -> None:
    house.requested("atlas")
    house.requested("lyra")
    house.solo.propose("CONTROL_PAUSED", {"reason": "audit"}, project="lyra")
    findings = [{"rule": "secret", "severity": "quarantine", "location": "inputs"}]
    house.solo.propose("POLICY_BREACHED", {"rationale": "a key", "findings": findings}, project="atlas")
    house.solo.propose("POLICY_BLOCK_CONFIRMED", {"reason": "it is one"}, project="atlas")
    await house.run()
    assert house.asset(project="lyra").state == "CONFIRMED"
    assert house.asset(project="atlas").state == "REQUESTED"
    assert {request["project"] for request, _ in house.site.calls} == {"lyra"}


async def test_nothing_leaves_for_a_project_whose_license_has_expired(house: House) -> None:
    """The other one's is in force: the gate is per project."""
    house.requested("atlas")
    house.solo.fact("license", house.solo.machine.cluster_id, {"license_id": "l", "status": "denied", "valid_until": 0})
    house.must("LICENSE_EXPIRED", {})
    house.solo.tick(1)
    house.clock.set_wall(house.solo.now_ms * 1000)
    house.requested("lyra")
    await house.run(3.0)
    assert {request["project"] for request, _ in house.site.calls} == {"lyra"}
    assert house.provider.trouble is not None
    assert "effect of atlas" in house.provider.trouble and "EXPIRED" in house.provider.trouble


async def test_many_projects_go_side_by_side_and_only_so_many_at_once(house: House) -> None:
    names = [f"p{number:02}" for number in range(2 * AT_ONCE + 3)]
    for name in names:
        house.requested(name)
    house.way.delay = lambda call: 0.5
    on_the_way, most = 0, 0
    whole = house.way.request

    async def request(call: Call) -> Reply:
        nonlocal on_the_way, most
        on_the_way += 1
        most = max(most, on_the_way)
        try:
            return await whole(call)
        finally:
            on_the_way -= 1

    house.way.request = request  # type: ignore[method-assign]
    await house.run(6.0)
    assert most == AT_ONCE
    assert len(house.site.calls) == len(names), "who is on the way is not sent again"
    assert {house.asset(project=name).state for name in names} == {"CONFIRMED"}


async def test_one_project_whose_effect_hangs_holds_up_no_other(house: House) -> None:
    house.requested("atlas")
    house.requested("lyra")
    house.way.delay = lambda call: 60.0 if b'"atlas"' in (call.body or b"") else 0.005
    await house.run(2.0)
    assert house.asset(project="lyra").state == "CONFIRMED"
    assert house.asset(project="atlas").state == "REQUESTED"


async def test_a_receiver_that_is_away_is_left_alone_for_longer_and_longer(house: House) -> None:
    house.requested()
    house.site.kill()
    calls: list[Call] = []
    whole = house.site.answer

    def answer(call: Call) -> Any:
        if call.method == "POST":
            calls.append(call)
        return whole(call)

    house.site.answer = answer  # type: ignore[method-assign]
    await house.run(120.0)
    assert 3 <= len(calls) <= 12
    assert house.provider.trouble is not None
    house.site.start()
    await house.run(60.0, lambda: house.asset().state == "CONFIRMED")
    assert house.asset().state == "CONFIRMED"


async def test_a_step_that_somebody_else_answered_is_no_trouble_any_more(house: House) -> None:
    house.requested("atlas")
    house.way.delay = lambda call: 60.0 if call.method == "POST" else 0.005
    inputs = {"asset": "vm-1", "effect": "up-1", "receipt": house.solo.named("by hand")}
    troubles: list[str] = []

    def by_hand() -> bool:
        if house.provider.trouble is not None and not troubles:
            troubles.append(house.provider.trouble)
            house.must("ENVIRONMENT_EFFECT_CONFIRMED", inputs)
        return False

    await house.run(20.0, by_hand)
    assert len(troubles) == 1 and "effect of atlas" in troubles[0]
    assert house.provider.trouble is None


# --- capacity and health ----------------------------------------------------------------------------------------------


async def test_capacity_is_kept_fresh_and_said_when_it_changes(house: House) -> None:
    house.allocated()
    await house.run(2 * FACT_LIFE_MS / 1000)
    said = house.said("capacity")
    assert said[0] == {"units_free": 100} and 3 <= len(said) <= 5
    held = house.solo.machine.registry.fact("capacity", "default")
    assert held is not None and held.expires_at > house.solo.now_ms
    house.site.answer(Call("environment", "POST", f"{URL}/effects", body("default", "vm-9", units=30)))
    await house.run(EVERY + 1)
    assert house.said("capacity")[-1] == {"units_free": 70}


@pytest.mark.parametrize("text", ["{}", '{"units_free": -1}', '{"units_free": 1.5}', '{"units_free": true}', "[]"])
async def test_what_is_no_number_of_units_is_no_fact(house: House, text: str) -> None:
    async def request(call: Call) -> Reply:
        return Reply(200, {}, text.encode())

    house.allocated()
    house.way.request = request  # type: ignore[method-assign]
    await house.run()
    assert house.said("capacity") == []
    assert house.provider.trouble is not None and "capacity" in house.provider.trouble


async def test_a_fact_that_is_refused_is_trouble(house: House) -> None:
    """The node's identity lacks the role, say."""
    house.allocated()
    house.solo.propose("IDENTITY_REVOKED", {"principal": house.solo.principals["n1"]})
    await house.run()
    assert house.provider.trouble is not None and "is refused" in house.provider.trouble


async def test_health_is_looked_at_where_something_stands_and_only_there(house: House) -> None:
    house.requested("lyra", "vm-1", "vm-2")
    await house.run()
    assert house.said("health") == []
    house.standing("atlas")
    await house.run()
    assert house.said("health") == [{"status": "green", "detail": ""}]
    assert [fact.subject for fact in house.facts if fact.kind == "health"] == ["atlas"]


async def test_health_is_kept_fresh(house: House) -> None:
    house.standing("atlas")
    await house.run(2 * FACT_LIFE_MS / 1000)
    assert 3 <= len(house.said("health")) <= 5
    held = house.solo.machine.registry.fact("health", "atlas")
    assert held is not None and held.expires_at > house.solo.now_ms


async def test_another_health_is_believed_once_it_was_seen_so_often_in_a_row(house: House) -> None:
    house.standing("atlas")
    await house.run(1.0)
    house.site.ground.faults["atlas", "vm-1"] = ("amber", "hot")
    await house.run((LOOKS_UNTIL_BELIEVED - 2) * EVERY)
    assert house.said("health") == [{"status": "green", "detail": ""}]
    await house.run(3 * EVERY)
    assert house.said("health")[-1] == {"status": "amber", "detail": "hot"}


async def test_who_flaps_is_what_it_was(house: House) -> None:
    house.standing("atlas")
    seen = 0
    whole = house.site.answer

    def answer(call: Call) -> Any:
        nonlocal seen
        if "/health/" in call.url:
            seen += 1
            house.site.ground.faults = {} if seen % 2 else {("atlas", "vm-1"): ("red", f"look {seen}")}
        return whole(call)

    house.site.answer = answer  # type: ignore[method-assign]
    await house.run(20 * EVERY)
    assert seen >= 10
    assert {said["status"] for said in house.said("health")} == {"green"}


async def test_words_that_change_at_every_look_are_not_an_entry_each(house: House) -> None:
    house.standing("atlas")
    looks = 0
    whole = house.site.answer

    def answer(call: Call) -> Any:
        nonlocal looks
        looks += 1
        house.site.ground.faults = {("atlas", "vm-1"): ("amber", f"look {looks}")}
        return whole(call)

    house.site.answer = answer  # type: ignore[method-assign]
    await house.run(10 * EVERY)
    assert len(house.said("health")) == 1


async def test_no_news_of_health_is_no_health(house: House) -> None:
    """A probe that does not answer says nothing, and what was said grows old."""
    house.standing("atlas")
    await house.run(1.0)
    house.site.kill()
    await house.run(FACT_LIFE_MS / 1000)
    assert len(house.said("health")) == 1
    held = house.solo.machine.registry.fact("health", "atlas")
    assert held is not None and held.expires_at <= house.solo.now_ms
