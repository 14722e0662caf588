"""The simulator is itself under test: it repeats itself, it sees what is planted, and it makes small what it found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from chaos.simulation import plan as plans
from chaos.simulation import shrink as shrinking
from chaos.simulation.chance import Chance
from chaos.simulation.plan import Http, Plan, Step
from chaos.simulation.world import Result, run

PLANS = sorted((Path(__file__).parent / "plans").glob("*.yaml"))


def simulate(*arguments: str, hash_seed: str = "0", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chaos.simulation", *arguments],
        env=os.environ | {"PYTHONHASHSEED": hash_seed, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def trace_of(output: str) -> str:
    [line] = [line for line in output.splitlines() if line.startswith("trace ")]
    return line.split(",")[0]


@pytest.mark.parametrize("seed", [1, 7])
def test_a_seed_goes_the_same_way_in_processes_that_hash_otherwise(seed: int) -> None:
    first, second = (simulate("again", str(seed), hash_seed=each) for each in ("1", "2"))
    assert first.returncode == second.returncode == 0, first.stdout + first.stderr
    assert trace_of(first.stdout) == trace_of(second.stdout)


@pytest.mark.parametrize("nodes", [3, 5])
def test_a_run_acknowledges_suffers_and_breaks_nothing(nodes: int) -> None:
    result = run(plans.make(5, nodes))
    assert result.violation is None, f"seed 5: {result.violation}"
    assert result.acknowledged >= 20
    assert sum(result.faults.values()) >= 5


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_what_once_broke_a_promise_does_so_no_more(path: Path) -> None:
    result = run(plans.load(path))
    assert result.violation is None, "\n".join([*result.events, f"{path.name}: {result.violation}"])


@pytest.mark.parametrize("mutant", ["skip-the-barrier", "forget-keys"])
def test_a_planted_bug_is_found(mutant: str) -> None:
    done = simulate("mutants", mutant, "--seeds", "10", "--jobs", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed" in done.stdout


def test_a_bug_that_only_a_schedule_shows_is_found_by_the_test_it_names() -> None:
    done = simulate("mutants", "believe-an-earlier-connection", "--seeds", "0", "--jobs", "1")
    assert done.returncode == 0, done.stdout + done.stderr


# --- plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_is_drawn_again_and_survives_being_written(seed: int, tmp_path: Path) -> None:
    plan = plans.make(seed)
    assert plan == plans.make(seed)
    path = tmp_path / "plan.yaml"
    path.write_text(plans.dump(plan))
    assert plans.load(path) == plan


def test_a_draw_does_not_depend_on_other_draws() -> None:
    chance = Chance(3)
    before = chance.at("message", "n0", "n1", 7)
    chance.at("message", "n0", "n1", 6)
    assert chance.at("message", "n0", "n1", 7) == before != Chance(4).at("message", "n0", "n1", 7)


# --- shrinking --------------------------------------------------------------------------------------------------------


def told(plan: Plan, kind: str | None) -> Result:
    return msgspec.structs.replace(_NOTHING, seed=plan.seed, kind=kind, violation=kind)


_NOTHING = Result(0, 3, None, None, 0.0, 0.0, 0, 0, 0, {}, {}, "")


def test_a_plan_shrinks_to_the_steps_that_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of sixty steps, far apart, break the promise together; nothing else is left."""

    def pretend(plan: Plan) -> Result:
        there = {step.to for step in plan.steps}
        return told(plan, "divergence" if {"n17", "n48"} <= there else "liveness" if "n17" in there else None)

    monkeypatch.setattr(shrinking, "run", pretend)
    steps = tuple(Step(float(number), "crash", f"n{number}") for number in range(60))
    smallest, result = shrinking.shrink(Plan(1, http=Http(0.1, 0.1, 0.1), steps=steps), "divergence")
    assert [step.to for step in smallest.steps] == ["n17", "n48"]
    assert smallest.http == Http()
    assert result.kind == "divergence"
