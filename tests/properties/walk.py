"""Random legal moves on the real chart: what anybody might sign next, whether it helps or not.

One function per transition makes inputs that have a good chance to be accepted in the state at hand. What the machine
refuses is no step of a walk. Nothing here knows which states are good: that is what the property is about.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from chaos.solo import ELECTORS, FACT_LIFE_MS, Solo
from chaos.steer import AGENTS, ROLES, TOOLS, Move, Said, agreement, license_fact, next_move
from swoosh import quorum
from swoosh.chart import Transition

ENDS = ("PROJECT_CLOSED", "BOOT_LICENSE_FAILED", "POLICY_BLOCK_CONFIRMED")


class At(NamedTuple):
    """The place a move starts from, and the dice."""

    solo: Solo
    rng: Random
    seats: int

    @property
    def r(self) -> Any:
        """The project's regions."""
        return self.solo.regions()

    def one_of(self, names: Any, otherwise: str) -> str:
        """Any of these, or the name of something that does not exist."""
        listed = list(names)
        return str(self.rng.choice(listed)) if listed else otherwise

    def fresh_name(self, what: str) -> str:
        """A hash nobody has named yet."""
        return self.solo.named(f"{what}-{self.rng.randrange(10**9)}")


def random_move(at: At, row: Transition) -> Move:
    """Somebody's attempt at this transition."""
    make = MOVES.get(row.name)
    return make(at) if make else next_move(at.solo, at.seats)


def _profiles(at: At) -> Move:
    electorate = [at.solo.principals[name] for name in ELECTORS]
    return Move("COUNCIL_PROFILES_LOADED", {"roles": ROLES[: at.seats], "electorate": electorate, "threshold": 2})


def _claim(at: At) -> Move:
    role, name = at.rng.choice(ROLES[: at.seats]), at.rng.choice(AGENTS)
    return Move("COUNCIL_ROLE_CLAIMED", {"role": role, "agent": name}, signer=name)


def _release(at: At) -> Move:
    role = at.one_of(at.r.council.claims, "lead")
    return Move("COUNCIL_ROLE_RELEASED", {"role": role}, signer="op")


def _certify(at: At) -> Move:
    return Move("COUNCIL_QUORUM_CERT", at.solo.ballots(ELECTORS[1:]) | {"threshold": 2})


def _tools(at: At) -> Move:
    probes = tuple(Said("tool", tool, {"reachable": True, "version": version}) for tool, version in TOOLS.items())
    content = at.r.ingestion.content_hash or at.fresh_name("other")
    return Move("COUNCIL_TOOLING_SYNCED", {"content_hash": content, "pins": TOOLS}, facts=probes)


def _eject(at: At) -> Move:
    role = at.one_of((member.role for member in at.r.council.members), "lead")
    if at.rng.random() < 0.5:
        return Move("COUNCIL_MEMBER_EJECTED", {"role": role, "reason": "absent"}, signer="op")
    votes = at.solo.ballots(ELECTORS[:2], f"eject:{role}")
    return Move("COUNCIL_MEMBER_EJECTED", votes | {"role": role, "reason": "absent"})


def _reelect(at: At) -> Move:
    if at.rng.random() < 0.5:
        return Move("COUNCIL_REELECTION_CALLED", {"reason": "anew"}, signer="op")
    return Move("COUNCIL_REELECTION_CALLED", at.solo.ballots(ELECTORS[:2], quorum.REELECT) | {"reason": "anew"})


def _saga_step(name: str) -> Callable[[At], Move]:
    def make(at: At) -> Move:
        assets = at.r.environment.assets
        asset = at.one_of(assets, "vm-1")
        asked = name.endswith("REQUESTED")
        effect = f"{asset}/{at.rng.randrange(10**9)}" if asked or asset not in assets else assets[asset].effect
        inputs = {"asset": asset, "effect": effect or "none"}
        return Move(name, inputs if asked else inputs | {"receipt": at.fresh_name("receipt")})

    return make


def _healthy(at: At) -> Move:
    content = at.r.ingestion.content_hash if at.rng.random() < 0.5 else ""
    green = Said("health", at.solo.project, {"status": "green"})
    return Move("ENVIRONMENT_HEALTHY", {"content_hash": content or at.fresh_name("other")}, facts=(green,))


def _lock(at: At) -> Move:
    plan = {"plan_hash": at.fresh_name("plan"), "tasks": {f"t{n}": "work" for n in range(at.seats)}}
    bounds = {"plan_ms": at.rng.choice([0, 30_000]), "claim_ms": at.rng.choice([0, 10_000])}
    return Move("EXECUTION_PLAN_LOCKED", agreement(at.r) | plan | bounds)


def _task(name: str, signer: Callable[[At, str], str], **more: str) -> Callable[[At], Move]:
    def make(at: At) -> Move:
        task = at.one_of(at.r.execution.tasks, "t0")
        return Move(name, {"task": task, **more}, signer=signer(at, task))

    return make


def _owner(at: At, task: str) -> str:
    held = at.r.execution.tasks.get(task)
    return at.solo.names.get(held.owner if held else "", "op")


def _member(at: At, _task: str = "") -> str:
    return at.solo.names.get(at.one_of((member.principal for member in at.r.council.members), ""), "alice")


def _verdict(at: At) -> Move:
    word, name = at.rng.choice(["approve", "reject", "reject"]), _member(at) if at.seats > 1 else "op"
    others = [task for task, held in at.r.execution.tasks.items() if held.owner != at.solo.principals[name]]
    inputs = {"verdict": word, "tasks": others or ["t0"], "reason": "looked at"}
    return Move("EXECUTION_APPROVAL_RECORDED", inputs, signer=name)


def _submit(at: At) -> Move:
    plan = at.r.execution.plan
    made = {"plan_hash": plan.plan_hash if plan else at.fresh_name("plan"), "artifacts": [at.fresh_name("artifact")]}
    return Move("EXECUTION_SUBMITTED", made, signer="pam")


def _silence(at: At) -> Move:
    at.solo.tick(FACT_LIFE_MS + 1)
    return Move("EXECUTION_QUORUM_LOST")


def _presence(at: At) -> Move:
    there = tuple(Said("agent", m.principal, {"name": m.agent}) for m in at.r.council.members)
    return Move("CONTROL_RECOVERED", facts=there)


def _breach(name: str) -> Callable[[At], Move]:
    findings = [{"rule": "secret", "severity": "quarantine", "location": "body"}]
    return lambda at: Move(name, {"rationale": "a key in the text", "findings": findings})


def _policy(at: At) -> Move:
    forbids = at.rng.choice([[], ["secret"]])
    return Move("POLICY_UPDATED", {"policy_version": "2", "policy": "ucxl://policy", "quarantines": forbids})


def _reason(name: str) -> Callable[[At], Move]:
    return lambda at: Move(name, {"reason": "because"})


def _license(name: str, status: str) -> Callable[[At], Move]:
    return lambda at: Move(name, facts=(license_fact(at.solo, status),))


def _denied(at: At) -> Move:
    return Move("BOOT_LICENSE_FAILED", {"reason": "denied"}, facts=(license_fact(at.solo, "denied"),))


def _operator_degrades(at: At) -> Move:
    return Move("ENVIRONMENT_DEGRADED", {"reason": "maintenance"}, signer="op")


_SAGA = tuple(f"ENVIRONMENT_EFFECT_{name}" for name in ("REQUESTED", "CONFIRMED", "REVERT_REQUESTED", "REVERTED"))
_REASONED = (
    *("INGESTION_FAILED", "INGESTION_REINDEX_REQUESTED", "INGESTION_INDEX_ROLLED_BACK", "ENVIRONMENT_DEPROVISIONED"),
    *("EXECUTION_PLAN_CHANGED", "CONTROL_PAUSED", "CONTROL_RESUMED", "PROJECT_CLOSED", "POLICY_BLOCK_CONFIRMED"),
)
# What is not listed is attempted as the policy would: from one state there is but one way to do it.
MOVES: dict[str, Callable[[At], Move]] = {
    **{name: _reason(name) for name in _REASONED},
    **{name: _saga_step(name) for name in _SAGA},
    "BOOT_LICENSE_FAILED": _denied,
    "LICENSE_RENEWED": _license("LICENSE_RENEWED", "active"),
    "LICENSE_GRACE": _license("LICENSE_GRACE", "expired"),
    "LICENSE_EXPIRED": _license("LICENSE_EXPIRED", "denied"),
    "INGESTION_REJECTED": _breach("INGESTION_REJECTED"),
    "COUNCIL_PROFILES_LOADED": _profiles,
    "COUNCIL_ROLE_CLAIMED": _claim,
    "COUNCIL_ROLE_RELEASED": _release,
    "COUNCIL_QUORUM_CERT": _certify,
    "COUNCIL_TOOLING_SYNCED": _tools,
    "COUNCIL_MEMBER_EJECTED": _eject,
    "COUNCIL_REELECTION_CALLED": _reelect,
    "ENVIRONMENT_HEALTHY": _healthy,
    "ENVIRONMENT_DEGRADED": _operator_degrades,
    "EXECUTION_PLAN_LOCKED": _lock,
    "EXECUTION_TASK_CLAIMED": _task("EXECUTION_TASK_CLAIMED", _member),
    "EXECUTION_TASK_COMPLETED": _task("EXECUTION_TASK_COMPLETED", _owner, evidence="ucxl://evidence"),
    "EXECUTION_TASK_RELEASED": _task("EXECUTION_TASK_RELEASED", _owner),
    "EXECUTION_REVIEW_OPENED": lambda at: Move("EXECUTION_REVIEW_OPENED"),
    "EXECUTION_APPROVAL_RECORDED": _verdict,
    "EXECUTION_REVIEW_REJECTED": lambda at: Move("EXECUTION_REVIEW_REJECTED"),
    "EXECUTION_SUBMITTED": _submit,
    "EXECUTION_NEXT_WINDOW": lambda at: Move("EXECUTION_NEXT_WINDOW"),
    "EXECUTION_QUORUM_LOST": _silence,
    "CONTROL_RECOVERED": _presence,
    "POLICY_BREACHED": _breach("POLICY_BREACHED"),
    "POLICY_UPDATED": _policy,
}
