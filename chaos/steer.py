"""Where to go from here: one legal move that brings a project nearer to its next window.

Written as a policy, one function per region, so that it can start from any state and not only from the beginning.
Tests drive projects to named states with it; the property that no state is a dead end is proved by it. It prefers
moves that need no operator. It must never look inside the machine: it reads what any caller can read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import permutations
from typing import Any, NamedTuple

from chaos.solo import ELECTORS, Solo
from swoosh import quorum, windows
from swoosh.outcome import Accepted, Refused
from swoosh.state import Asset, Execution, Plan, ProjectRegions, Task

ROLES = ("lead", "build", "test")
AGENTS = ("alice", "bob", "carol", "dave")
ASSETS = ("vm-1", "vm-2")
TOOLS = {"git": "2.48"}
BEAT_MS = 1_000
STEPS_MAX = 200


class Said(NamedTuple):
    """A fact that has to be on the board first."""

    kind: str
    subject: str
    body: Mapping[str, Any]


class Move(NamedTuple):
    """A proposal worth making now. Without a signer, whoever the chart names first."""

    transition: str
    inputs: Mapping[str, Any] = {}
    signer: str | None = None
    facts: tuple[Said, ...] = ()


def drive(solo: Solo, until: Callable[[ProjectRegions], bool], *, seats: int = 3) -> list[Accepted]:
    """Make moves until the current project is where it should be.

    Raises:
        AssertionError: a move was refused, or the place was not found.
    """
    made: list[Accepted] = []
    while not until(solo.regions()):
        assert len(made) < STEPS_MAX, f"not there after {STEPS_MAX} moves"
        outcome = step(solo, seats=seats)
        assert isinstance(outcome, Accepted), f"the way is blocked: {outcome}"
        made.append(outcome)
    return made


def step(solo: Solo, *, seats: int = 3) -> Accepted | Refused:
    """Make the next move: wait for its window, say its facts, propose it."""
    move = next_move(solo, seats)
    row = solo.chart.project.resolve(move.transition)
    assert row is not None, f"the chart has no {move.transition}"
    window = None
    if row.window:
        await_window(solo, row.window)
    if row.name == "EXECUTION_NEXT_WINDOW":
        window = await_next_window(solo)
    for said in move.facts:
        solo.fact(*said)
    return solo.propose(move.transition, move.inputs, signer=move.signer, window=window)


def next_move(solo: Solo, seats: int = 3) -> Move:
    """The move for the current project: holds first, then what execution rests on, then execution."""
    r = solo.regions()
    if r.meta.phase == "ABSENT":
        return Move("PROJECT_CREATED", {"brief": "a walk", "repository": "", "planned_roles": ROLES[:seats]})
    held = _lift_holds(solo, r)
    if held is not None:
        return held
    if r.recovery.phase == "RECOVERY":
        return _council(solo, r, seats) or Move("CONTROL_RECOVERED", facts=_presence(solo, r))
    if r.execution.plan is not None and r.execution.phase != "PLAN":
        if r.council.member_set_hash != r.execution.plan.member_set_hash:
            return _council(solo, r, seats) or _recall_council(solo)
        return _EXECUTE[r.execution.phase](solo, r)
    return _ingestion(solo, r) or _council(solo, r, seats) or _environment(solo, r) or _plan(solo, r, seats)


# --- holds ------------------------------------------------------------------------------------------------------------


def _lift_holds(solo: Solo, r: ProjectRegions) -> Move | None:
    if r.policy.phase == "QUARANTINED":
        named = [{"rule": found.rule, "location": found.location} for found in r.policy.findings]
        return Move("POLICY_QUARANTINE_RELEASED", {"reason": "looked at", "findings": named})
    if r.pause.phase == "PAUSED":
        return Move("CONTROL_RESUMED", {"reason": "go on"})
    if r.license.phase == "EXPIRED":
        return Move("LICENSE_RENEWED", facts=(license_fact(solo),))
    if r.boot.phase == "UNINITIALIZED":
        return Move("BOOT_CONFIGURED", {"chart_hash": solo.chart.hash})
    if r.boot.phase == "LICENSE_CHECK":
        return Move("BOOT_LICENSE_GRANTED", facts=(license_fact(solo),))
    return None


def license_fact(solo: Solo, status: str = "active", lasts_ms: int = 3_600_000) -> Said:
    """What KACHING says about this cluster."""
    body = {"license_id": "lic-1", "status": status, "valid_until": solo.now_ms + lasts_ms}
    return Said("license", solo.machine.cluster_id, body)


def _presence(solo: Solo, r: ProjectRegions) -> tuple[Said, ...]:
    return tuple(Said("agent", member.principal, {"name": member.agent}) for member in r.council.members)


# --- what execution rests on ------------------------------------------------------------------------------------------


def _ingestion(solo: Solo, r: ProjectRegions) -> Move | None:
    held = r.ingestion
    match held.phase:
        case "DISCOVER":
            return Move("INGESTION_SOURCES_RESOLVED", {"sources": ["ucxl://corpus"]})
        case "FETCH":
            return Move("INGESTION_FETCHED", {"content_hash": solo.named(f"corpus-{held.latest_version + 1}")})
        case "VALIDATE":
            return Move("INGESTION_VALIDATED", {"outcomes": {"schema": "ok"}})
        case "INDEX":
            return Move("INGESTION_INDEXED", {"content_hash": held.candidate})
        case _:
            return None


def _council(solo: Solo, r: ProjectRegions, seats: int) -> Move | None:
    """Towards a seated council; with a plan in force, towards the very council it was locked on."""
    council, plan = r.council, _plan_in_force(r.execution)
    wanted = _members(solo, plan, seats)
    if council.phase == "PLAN_ROLES" or (council.phase == "ELECT" and set(council.planned_roles) != set(wanted)):
        electorate = [solo.principals[name] for name in ELECTORS]
        return Move("COUNCIL_PROFILES_LOADED", {"roles": list(wanted), "electorate": electorate, "threshold": 2})
    if council.phase == "ELECT":
        return _claims(solo, r, wanted)
    if plan is not None:
        return None
    if council.phase == "TOOLING_SYNC" or council.basis != r.ingestion.content_hash:
        probes = tuple(Said("tool", tool, {"reachable": True, "version": version}) for tool, version in TOOLS.items())
        return Move("COUNCIL_TOOLING_SYNCED", {"content_hash": _content(solo, r), "pins": TOOLS}, facts=probes)
    return None


def _claims(solo: Solo, r: ProjectRegions, wanted: Mapping[str, str]) -> Move:
    claims = {role: solo.names[claim.principal] for role, claim in r.council.claims.items()}
    for role, name in claims.items():
        if wanted.get(role) != name:
            return Move("COUNCIL_ROLE_RELEASED", {"role": role}, signer=name)
    for role, name in wanted.items():
        if role not in claims:
            return Move("COUNCIL_ROLE_CLAIMED", {"role": role, "agent": name}, signer=name)
    return Move("COUNCIL_QUORUM_CERT", solo.ballots(ELECTORS[:2]) | {"threshold": r.council.threshold})


def _recall_council(solo: Solo) -> Move:
    """The electors call a new election: another council is seated than the plan was locked on."""
    return Move(
        "COUNCIL_REELECTION_CALLED", solo.ballots(ELECTORS[:2], quorum.REELECT) | {"reason": "back to the plan"}
    )


def _members(solo: Solo, plan: Plan | None, seats: int) -> dict[str, str]:
    roles = ROLES[:seats]
    for names in permutations(AGENTS, seats):
        members = ((role, name, solo.principals[name]) for role, name in zip(roles, names, strict=True))
        if plan is None or quorum.member_set_hash(members) == plan.member_set_hash:
            return dict(zip(roles, names, strict=True))
    raise AssertionError("the plan was locked on a council that none of these agents can form")


def _plan_in_force(execution: Execution) -> Plan | None:
    return execution.plan if execution.phase in ("WORK", "REVIEW", "REVERB") else None


def _content(solo: Solo, r: ProjectRegions) -> str:
    return r.ingestion.content_hash or solo.named("corpus-1")


def _environment(solo: Solo, r: ProjectRegions) -> Move | None:
    held = r.environment
    if held.phase == "ALLOCATE":
        wanted = [{"name": name, "kind": "vm", "units": 1} for name in ASSETS]
        return Move(
            "ENVIRONMENT_CAPACITY_ALLOCATED",
            {"assets": wanted},
            facts=(Said("capacity", "default", {"units_free": 9}),),
        )
    if held.phase in ("PROVISION", "DEGRADED"):
        step = _saga(solo, r)
        if step is not None:
            return step
    if held.phase == "PROVISION":
        return Move("ENVIRONMENT_PROVISIONED", {"environment_hash": solo.named(f"environment-{held.allocation}")})
    if held.phase != "READY" or held.basis != r.ingestion.content_hash:
        green = Said("health", solo.project, {"status": "green"})
        return Move("ENVIRONMENT_HEALTHY", {"content_hash": _content(solo, r)}, facts=(green,))
    return None


def _saga(solo: Solo, r: ProjectRegions) -> Move | None:
    """What is in flight is answered; once anything was taken back, everything is."""
    held = r.environment
    in_state: dict[str, list[str]] = {}
    for name, asset in held.assets.items():
        in_state.setdefault(asset.state, []).append(name)
    for state, answer in (("REQUESTED", "CONFIRMED"), ("REVERTING", "REVERTED")):
        for name in in_state.get(state, []):
            return _receipt(solo, answer, name, held.assets[name])
    if "REVERTED" in in_state:
        for name in in_state.get("CONFIRMED", []):
            return Move(
                "ENVIRONMENT_EFFECT_REVERT_REQUESTED", {"asset": name, "effect": f"{name}/{held.allocation}/down"}
            )
        return Move("ENVIRONMENT_DEPROVISIONED", {"reason": "begin again"})
    for name in in_state.get("ALLOCATED", []):
        return Move("ENVIRONMENT_EFFECT_REQUESTED", {"asset": name, "effect": f"{name}/{held.allocation}/up"})
    return None


def _receipt(solo: Solo, answer: str, name: str, asset: Asset) -> Move:
    inputs = {"asset": name, "effect": asset.effect, "receipt": solo.named(f"receipt of {asset.effect}")}
    return Move(f"ENVIRONMENT_EFFECT_{answer}", inputs)


# --- execution --------------------------------------------------------------------------------------------------------


def agreement(r: ProjectRegions) -> dict[str, str]:
    """The three hashes execution stands on, as they are."""
    return {
        "content_hash": r.ingestion.content_hash,
        "member_set_hash": r.council.member_set_hash,
        "environment_hash": r.environment.environment_hash,
    }


def _plan(solo: Solo, r: ProjectRegions, seats: int) -> Move:
    if r.lifecycle.phase == "PROJECT_LIFECYCLE":
        return Move("EXECUTION_BEGUN", agreement(r))
    number = len(r.execution.history) + 1
    tasks = {f"t{each + 1}": f"task {each + 1}" for each in range(seats)}
    return Move("EXECUTION_PLAN_LOCKED", agreement(r) | {"plan_hash": solo.named(f"plan-{number}"), "tasks": tasks})


def _work(solo: Solo, r: ProjectRegions) -> Move:
    """Every member owns a task as far as there are tasks enough."""
    seated = [solo.names[member.principal] for member in r.council.members]
    for position, (name, task) in enumerate(r.execution.tasks.items()):
        if task.state == "OPEN":
            return Move("EXECUTION_TASK_CLAIMED", {"task": name}, signer=seated[position % len(seated)])
        if task.state == "CLAIMED":
            evidence = {"task": name, "evidence": f"ucxl://evidence/{name}"}
            return Move("EXECUTION_TASK_COMPLETED", evidence, signer=solo.names[task.owner])
    return Move("EXECUTION_REVIEW_OPENED")


def _review(solo: Solo, r: ProjectRegions) -> Move:
    """What is not done is sent back; else everything is approved."""
    tasks = r.execution.tasks
    undone = {name: task for name, task in tasks.items() if task.state != "DONE"}
    word, about = ("reject", undone) if undone else ("approve", dict(tasks))
    for reviewer in _reviewers(solo, r):
        named = [name for name, task in about.items() if _lacks(task, solo.principals[reviewer], word)]
        if named:
            reason = {"reason": "not done"} if undone else {}
            return Move("EXECUTION_APPROVAL_RECORDED", {"verdict": word, "tasks": named, **reason}, signer=reviewer)
    return Move("EXECUTION_REVIEW_REJECTED" if undone else "EXECUTION_APPROVED")


def _reviewers(solo: Solo, r: ProjectRegions) -> list[str]:
    seated = [solo.names[member.principal] for member in r.council.members]
    return seated if len(seated) > 1 else ["op"]


def _lacks(task: Task, principal: str, word: str) -> bool:
    given = task.verdicts.get(principal)
    return task.owner != principal and (given is None or given.verdict != word)


def _reverb(solo: Solo, r: ProjectRegions) -> Move:
    held, plan = r.execution, r.execution.plan
    assert plan is not None, "a plan is in force in REVERB"
    if any(submitted.plan_hash == plan.plan_hash for submitted in held.submissions):
        return Move("EXECUTION_NEXT_WINDOW")
    made = {"plan_hash": plan.plan_hash, "artifacts": [solo.named(f"artifact-{len(held.history) + 1}")]}
    return Move("EXECUTION_SUBMITTED", made, signer="pam")


_EXECUTE: dict[str, Callable[[Solo, ProjectRegions], Move]] = {"WORK": _work, "REVIEW": _review, "REVERB": _reverb}


# --- windows ----------------------------------------------------------------------------------------------------------


def await_window(solo: Solo, window_class: str) -> None:
    """Let time pass, or beats come, until a transition of this class may name its window."""
    board = solo.machine.registry
    source = board.setting("window_source")
    if source == "tidal":
        wait = windows.opens_in_ms(board.setting("tidal_schedule"), window_class, solo.now_ms)
        if not _is_open(solo, window_class):
            assert wait is not None, f"the tide never opens {window_class}"
            solo.tick(wait)
    elif source == "backbeat":
        for _ in range(8):
            if _is_open(solo, window_class):
                return
            beat(solo, "review" if window_class == "review" else "plan")
        raise AssertionError(f"no beat opens {window_class}")


def await_next_window(solo: Solo) -> str:
    """Let time pass, or beats come, until the window is another than the active one, and name it."""
    active = solo.regions().execution.active_window_id
    if solo.machine.registry.setting("window_source") == "always_open":
        return f"{active}+"[-64:]
    while solo.window("plan") in ("", active):
        if solo.machine.registry.setting("window_source") == "tidal":
            solo.tick(solo.machine.registry.setting("tidal_schedule")["period_ms"])
        else:
            beat(solo, "plan")
    return solo.window("plan")


def beat(solo: Solo, phase: str) -> None:
    """One beat passes and its frame arrives. A bar is plan, then review; planning again begins a new one."""
    solo.tick(BEAT_MS)
    frame = solo.machine.registry.fact("beat", windows.BEAT_SUBJECT)
    index = frame.body["beat_index"] + 1 if frame else 1
    bar = int(frame.body["window_id"].removeprefix("bar-")) if frame else 1
    if frame and frame.body["phase"] == "review":
        bar += 1
    body = {
        "cluster_id": "beats",
        "beat_index": index,
        "downbeat": False,
        "phase": phase,
        "deadline_at": solo.now_ms + BEAT_MS,
        "tempo_mbpm": 60_000_000 // BEAT_MS,
        "window_id": f"bar-{bar}",
    }
    solo.fact("beat", windows.BEAT_SUBJECT, body)


def _is_open(solo: Solo, window_class: str) -> bool:
    named, active = solo.window(window_class), solo.regions().execution.active_window_id
    return windows.verdict(window_class, named, active, solo.machine.registry, solo.now_ms).ok
