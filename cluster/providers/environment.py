"""Environments: the leader carries out the steps of the saga that are committed, and looks after what stands.

What is REQUESTED or REVERTING in committed state is asked of the effect receiver, again and again under the same name,
until it answers with its receipt; the receipt is proposed under the node's key. So whoever leads next goes on exactly
here, and a receiver that knows the name does nothing twice. Each call carries the term and the log index at which the
step was committed: a receiver refuses what is behind anything it has seen (docs/reference/effect-hooks.md).

Silence is unknown, and any other answer than the protocol's is trouble: neither is progress. This module must never
decide that something shall be provisioned or taken back; that is what proposers sign.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from cluster import faults
from cluster.egress import Call, Outside, Reply
from cluster.entropy import Entropy
from cluster.providers.errands import Errands, Trouble
from cluster.providers.leading import Leading
from swoosh import canonical
from swoosh.guards import asset_in_flight
from swoosh.hashing import digest
from swoosh.inputs import Count, check_hashes
from swoosh.outcome import Accepted, Code, Refused
from swoosh.regions.environment import POOL
from swoosh.state import Asset, ProjectRegions

LOOK_SECONDS = 0.05
PROJECTS_AT_A_LOOK = 200
AGAIN_SECONDS = 1.0
"""After "still at it", and after an answer that did not get into the log."""
FACT_LIFE_MS = 120_000
LOOKS_UNTIL_BELIEVED = 3
"""So often in a row another health must be seen before it is said: who flaps is not degraded and ready by turns."""

_ANSWERS = {"REQUESTED": "ENVIRONMENT_EFFECT_CONFIRMED", "REVERTING": "ENVIRONMENT_EFFECT_REVERTED"}
_ACTIONS = {"REQUESTED": "provision", "REVERTING": "revert"}
_OVERTAKEN = (Code.STALE_STATE, Code.HLC_REGRESSION, Code.HLC_TIE)
"""Refusals that say that something else came first."""

T = TypeVar("T")


class Hook(NamedTuple):
    """An effect receiver: where it is, what it wants as bearer token (empty: nothing), how long one call may take, and
    how often capacity and health are looked at. Seconds."""

    url: str
    token: str = ""
    timeout: float = 5.0
    every: float = 5.0


class Receipt(msgspec.Struct, frozen=True):
    """What a receiver answers once an effect is there, or gone."""

    receipt: str

    def __post_init__(self) -> None:
        check_hashes("receipt", self.receipt)


class Free(msgspec.Struct, frozen=True):
    """What a receiver has left to give."""

    units_free: Count


class Condition(msgspec.Struct, frozen=True):
    """How a project's environment is."""

    status: Literal["green", "amber", "red"]
    detail: str = ""


class Environments:
    """One effect receiver, for all projects."""

    name = "environment"

    def __init__(self, hook: Hook, outside: Outside, entropy: Entropy) -> None:
        self._hook, self._outside, self._entropy = hook, outside, entropy
        self._unseen: list[str] = []
        self._doubts: dict[str, int] = {}
        self.trouble: str | None = None

    async def run(self, leading: Leading) -> None:
        """Until cancelled."""
        errands = Errands(leading.clock, self._entropy)
        self._unseen, self._doubts = [], {}
        try:
            while True:
                errands.collect()
                if leading.caught_up:  # else a step that was answered long ago may look as if it were due
                    self._look(leading, errands)
                self.trouble = errands.trouble
                await leading.clock.sleep(LOOK_SECONDS)
        finally:
            errands.cancel()

    def _look(self, leading: Leading, errands: Errands) -> None:
        """Begin what is due, some projects at a time."""
        errands.begin("capacity", partial(self._capacity, leading))
        ids = self._unseen or leading.machine.project_ids()
        self._unseen = ids[PROJECTS_AT_A_LOOK:]
        for project_id in ids[:PROJECTS_AT_A_LOOK]:
            regions = _alive(leading, project_id)
            due = {
                f"effect of {project_id}": self._effect if regions and asset_in_flight(regions.environment) else None,
                f"health of {project_id}": self._health if regions and _stands(regions) else None,
            }
            for name, errand in due.items():
                if errand is None:
                    errands.forget(name)
                else:
                    errands.begin(name, partial(errand, leading, project_id))

    # --- effects ------------------------------------------------------------------------------------------------------

    async def _effect(self, leading: Leading, project_id: str) -> float:
        """Carry out the step in flight and propose its receipt."""
        step = _in_flight(leading, project_id)
        if step is None:
            return 0.0
        faults.failpoint("effect.committed")
        receipt = await self._carry_out(leading, project_id, *step)
        faults.failpoint("effect.answered")
        if receipt is None:
            return AGAIN_SECONDS
        answered = await self._propose(leading, project_id, *step, receipt)
        faults.failpoint("effect.proposed")
        return 0.0 if answered else AGAIN_SECONDS

    async def _carry_out(self, leading: Leading, project_id: str, name: str, asset: Asset) -> str | None:
        """The receipt, or None while the receiver is still at it."""
        cluster_id = leading.machine.cluster_id
        request = {
            "cluster_id": cluster_id,
            "project": project_id,
            "asset": name,
            "kind": asset.kind,
            "units": asset.units,
            "effect": effect_id(cluster_id, project_id, name, asset),
            "action": _ACTIONS[asset.state],
            "term": leading.term,
            "index": asset.index,
        }
        reply = await self._ask("POST", "/effects", project_id, canonical.encode(request))
        if reply.status == 202:
            return None
        if reply.status == 409:
            raise Trouble(f"asset {name} is fenced, a later leader has spoken: {_text(reply)}")
        return _decode(reply, Receipt).receipt

    async def _propose(self, leading: Leading, project_id: str, name: str, asset: Asset, receipt: str) -> bool:
        """Whether the receipt is in the log. Where it is not, the same is asked and proposed again."""
        project = leading.machine.project(project_id)
        if project is None or _in_flight(leading, project_id) != (name, asset):
            return True
        transition, epoch = _ANSWERS[asset.state], project.regions.epoch.get("Environment", 0)
        inputs = {"asset": name, "effect": asset.effect, "receipt": receipt}
        item = leading.proposal(project, transition, inputs, key=f"steward:{transition}:{epoch}")
        (answer,) = await leading.submit([item])
        if isinstance(answer, Refused) and answer.code not in _OVERTAKEN:
            raise Trouble(f"{transition} for asset {name} is refused: {answer.code}: {'; '.join(answer.reasons)}")
        return isinstance(answer, Accepted)

    # --- capacity and health ------------------------------------------------------------------------------------------

    async def _capacity(self, leading: Leading) -> float:
        free = _decode(await self._ask("GET", "/capacity"), Free)
        return await self._say(leading, "capacity", POOL, {"units_free": free.units_free})

    async def _health(self, leading: Leading, project_id: str) -> float:
        seen = _decode(await self._ask("GET", f"/health/{quote(project_id, safe='')}", project_id), Condition)
        body = {"status": seen.status, "detail": seen.detail[:200]}
        held = leading.registry.fact("health", project_id)
        if held is not None and held.expires_at > leading.now_ms:
            self._doubts[project_id] = 0 if held.body["status"] == seen.status else self._doubts.get(project_id, 0) + 1
            if 0 < self._doubts[project_id] < LOOKS_UNTIL_BELIEVED:
                return self._hook.every
            if self._doubts[project_id] == 0:
                body = held.body  # the detail is that of the change, or every word of it would be a new entry
        self._doubts.pop(project_id, None)
        return await self._say(leading, "health", project_id, body)

    async def _say(self, leading: Leading, kind: str, subject: str, body: dict[str, Any]) -> float:
        answer = await leading.observe(kind, subject, body, lives_ms=FACT_LIFE_MS)
        if isinstance(answer, Refused):
            raise Trouble(f"the {kind} fact is refused: {'; '.join(answer.reasons)}")
        return self._hook.every

    # --- the receiver -------------------------------------------------------------------------------------------------

    async def _ask(self, method: str, path: str, project: str | None = None, body: bytes | None = None) -> Reply:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._hook.token:
            headers["Authorization"] = f"Bearer {self._hook.token}"
        url = self._hook.url.rstrip("/") + path
        return await self._outside.request(
            Call("environment", method, url, body, headers, project, timeout=self._hook.timeout)
        )


def effect_id(cluster_id: str, project_id: str, name: str, asset: Asset) -> str:
    """What a request is called at the receiver. A proposer may use a name again, in another allocation or project; the
    place in the log makes it one of a kind."""
    named = {"project": project_id, "asset": name, "effect": asset.effect, "index": asset.index}
    return digest("effect", {"cluster_id": cluster_id, **named})


def _alive(leading: Leading, project_id: str) -> ProjectRegions | None:
    """The regions of a project that may still take a receipt."""
    project = leading.machine.project(project_id)
    if project is None or not isinstance(project.regions, ProjectRegions):
        return None
    return None if project.regions.lifecycle.phase == "TERMINATED" else project.regions


def _stands(regions: ProjectRegions) -> bool:
    return regions.environment.phase in ("HEALTHCHECK", "READY", "DEGRADED")


def _in_flight(leading: Leading, project_id: str) -> tuple[str, Asset] | None:
    regions = _alive(leading, project_id)
    name = None if regions is None else asset_in_flight(regions.environment)
    return None if regions is None or name is None else (name, regions.environment.assets[name])


def _decode(reply: Reply, kind: type[T]) -> T:
    """The receiver's answer.

    Raises:
        Trouble: it is none of the protocol's.
    """
    if reply.status != 200:
        raise Trouble(f"the receiver answers {reply.status}: {_text(reply)}")
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except msgspec.DecodeError as error:
        raise Trouble(f"not an answer of an effect receiver: {error}") from None


def _text(reply: Reply) -> str:
    return reply.body[:200].decode("utf-8", "replace").strip() or "nothing more"
