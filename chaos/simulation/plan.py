"""A plan: everything that will be done in a run, by callers and by fate, written down before it begins.

`make` draws it from a seed. Each seed enables a random few of the kinds of fault, at random strength: all of them
always would hide what only a few bring about (swarm testing, Groce et al., ISSTA 2012). A plan never damages more than
the cluster promises to bear, so what is lost is always our fault. It is plain data: saved as YAML, it can be made
smaller by hand or by `shrink`, and it repeats itself as long as the code draws the same things for the same reasons.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from cluster.storage.kv import Family

SECONDS = 20.0
CALLS_A_SECOND = (2.0, 8.0)
PROJECTS = 3
CLIENTS = 4


class Http(msgspec.Struct, frozen=True, omit_defaults=True):
    """Shares of requests whose packets are lost, or that arrive twice."""

    lost_requests: float = 0.0
    lost_replies: float = 0.0
    doubled: float = 0.0


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something done at a time: seconds after the cluster first had a leader."""

    at: float
    do: str
    to: str = ""
    """The node, the client, or `a>b` for a direction between nodes."""
    seconds: float = 0.0
    """How long it lasts, or until it is undone."""
    with_: dict[str, Any] = msgspec.field(default_factory=dict, name="with")


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run. Node names follow from their number."""

    seed: int
    nodes: int = 3
    seconds: float = SECONDS
    latency: tuple[float, float] = (0.0005, 0.01)
    http: Http = Http()
    snapshot_every: int = 40
    """Entries, as `checkpoint_every`."""
    checkpoint_every: int = 10
    keep_entries: int = 10_000
    """Of the log, behind the newest snapshot."""
    wall_offsets_us: tuple[int, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"n{number}" for number in range(self.nodes))

    def without(self, steps: set[int]) -> Plan:
        """The same plan with some steps left out."""
        kept = tuple(step for number, step in enumerate(self.steps) if number not in steps)
        return msgspec.structs.replace(self, steps=kept)


def load(path: Path) -> Plan:
    """A saved plan."""
    return msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), Plan)


def dump(plan: Plan) -> str:
    """A plan as YAML, one line per step."""
    document = msgspec.to_builtins(plan)
    steps = document.pop("steps", [])
    head = yaml.safe_dump(document, sort_keys=False, default_flow_style=None)
    lines = [yaml.safe_dump(step, sort_keys=False, default_flow_style=True, width=1_000).strip() for step in steps]
    return head + "steps:\n" + "".join(f"- {line}\n" for line in lines) if lines else head


# --- drawing one ------------------------------------------------------------------------------------------------------


class Draft:
    """A plan in the making."""

    def __init__(self, seed: int, nodes: int) -> None:
        self.chance = random.Random(f"plan/{seed}")
        self.names = [f"n{number}" for number in range(nodes)]
        self.steps: list[Step] = []

    def add(self, do: str, to: str = "", seconds: float = 0.0, *, at: float | None = None, **how: Any) -> None:
        moment = self.chance.uniform(0.0, SECONDS) if at is None else at
        self.steps.append(Step(round(moment, 4), do, to, round(seconds, 4), how))

    def node(self) -> str:
        """A node, or by a good chance whoever leads when the moment comes."""
        return "leader" if self.chance.random() < 0.5 else self.chance.choice(self.names)

    def lane(self) -> str:
        return ">".join(self.chance.sample(self.names, 2))

    def times(self, few: int, many: int) -> range:
        return range(self.chance.randint(few, many))

    def between(self, low: float, high: float) -> float:
        return self.chance.uniform(low, high)


def _crashes(draft: Draft) -> None:
    for _ in draft.times(1, 6):
        steps = draft.chance.choice([0, 0, draft.chance.randint(1, 80)])
        draft.add("crash", draft.node(), draft.between(0.1, 4.0), steps=steps)


def _power_cuts(draft: Draft) -> None:
    for _ in draft.times(1, 2):
        draft.add("crash_all", "", draft.between(0.1, 2.0))


def _restarts(draft: Draft) -> None:
    for _ in draft.times(1, 4):
        draft.add("restart", draft.node(), draft.between(0.05, 1.0))


def _pauses(draft: Draft) -> None:
    for _ in draft.times(1, 4):
        draft.add("pause", draft.node(), draft.between(0.1, 5.0))


def _isolations(draft: Draft) -> None:
    for _ in draft.times(1, 4):
        draft.add("isolate", draft.node(), draft.between(0.2, 5.0))


def _one_way(draft: Draft) -> None:
    for _ in draft.times(1, 5):
        draft.add("drop", draft.lane(), draft.between(0.1, 5.0))


def _bridges(draft: Draft) -> None:
    """Two nodes that hear everybody but each other."""
    for _ in draft.times(1, 3):
        a, b = draft.chance.sample(draft.names, 2)
        at, seconds = draft.between(0.0, SECONDS), draft.between(0.5, 5.0)
        draft.add("drop", f"{a}>{b}", seconds, at=at)
        draft.add("drop", f"{b}>{a}", seconds, at=at)


def _flapping(draft: Draft) -> None:
    for _ in draft.times(4, 16):
        draft.add("reset", draft.lane())


def _slowness(draft: Draft) -> None:
    for _ in draft.times(2, 8):
        draft.add("slow", draft.lane(), draft.between(0.2, 3.0), late=round(draft.between(0.01, 1.5), 3))


def _clocks(draft: Draft) -> None:
    for _ in draft.times(1, 3):
        size = draft.chance.choice([200_000, 1_000_000, 60_000_000, 3_600_000_000])
        draft.add("clock", draft.node(), draft.between(1.0, 8.0), us=round(draft.between(-size, size)))


def _bad_disks(draft: Draft) -> None:
    for _ in draft.times(1, 2):
        kind = draft.chance.choice(["sync_fails", "disk_full"])
        draft.add(kind, draft.node(), draft.between(0.2, 3.0))


def _slow_disks(draft: Draft) -> None:
    for _ in draft.times(1, 4):
        sync = draft.chance.choice([0.015, 0.05, 0.3, 1.5, 8.0, 15.0])
        draft.add("slow_disk", draft.node(), draft.between(0.2, 4.0), sync=sync)


def _lost_disks(draft: Draft) -> None:
    for _ in draft.times(1, 3):
        draft.add("wipe", draft.node(), draft.between(0.1, 3.0))


def _old_disks(draft: Draft) -> None:
    """A copy is taken, and put back some time later."""
    for _ in draft.times(1, 2):
        node, at = draft.chance.choice(draft.names), draft.between(0.0, SECONDS / 2)
        draft.add("back_up", node, at=at)
        draft.add("put_back", node, draft.between(0.5, 3.0), at=at + draft.between(0.0, SECONDS / 2))


def _flipped_bits(draft: Draft) -> None:
    for _ in draft.times(1, 3):
        family = draft.chance.choice([family.value for family in Family])
        draft.add("flip", draft.node(), draft.between(0.5, 5.0), family=family)


def _hand_overs(draft: Draft) -> None:
    for _ in draft.times(1, 5):
        draft.add("hand_over")


def _snapshots(draft: Draft) -> None:
    for _ in draft.times(1, 4):
        draft.add("snapshot", draft.node())


def _outages(draft: Draft) -> None:
    for _ in draft.times(1, 3):
        draft.add("outage", draft.chance.choice(["kaching", "environment", "bubble"]), draft.between(0.5, 12.0))


def _licenses(draft: Draft) -> None:
    for _ in draft.times(1, 2):
        says: dict[str, Any] = draft.chance.choice(
            [{"status": "denied"}, {"status": "suspended"}, {"retry_after_s": 5}]
        )
        draft.add("license", "kaching", draft.between(1.0, 8.0), **says)


KINDS: dict[str, Callable[[Draft], None]] = {
    "crashes": _crashes,
    "power cuts": _power_cuts,
    "restarts": _restarts,
    "pauses": _pauses,
    "isolations": _isolations,
    "one way": _one_way,
    "bridges": _bridges,
    "flapping links": _flapping,
    "slow links": _slowness,
    "clocks": _clocks,
    "bad disks": _bad_disks,
    "slow disks": _slow_disks,
    "lost disks": _lost_disks,
    "old disks": _old_disks,
    "flipped bits": _flipped_bits,
    "hand overs": _hand_overs,
    "snapshots": _snapshots,
    "outages": _outages,
    "licenses": _licenses,
}


def make(seed: int, nodes: int = 3) -> Plan:
    """The plan of a seed."""
    draft = Draft(seed, nodes)
    chance = draft.chance
    enabled = [kind for kind in KINDS if chance.random() < 0.35]
    for kind in enabled:
        KINDS[kind](draft)
    _calls(draft)
    lossy = chance.random() < 0.4
    shares = [round(chance.uniform(0.0, 0.15), 3) if lossy else 0.0 for _ in range(3)]
    skewed = chance.random() < 0.3
    return Plan(
        seed=seed,
        nodes=nodes,
        latency=chance.choice([(0.0002, 0.002), (0.0005, 0.01), (0.001, 0.05)]),
        http=Http(*shares),
        snapshot_every=chance.choice([5, 20, 100]),
        checkpoint_every=chance.choice([3, 10, 50]),
        keep_entries=chance.choice([2, 5, 20, 10_000]),
        wall_offsets_us=tuple(chance.randint(-150_000, 150_000) for _ in range(nodes)) if skewed else (),
        steps=tuple(sorted(draft.steps, key=lambda step: step.at)),
    )


def _calls(draft: Draft) -> None:
    """What callers want, at uneven intervals, through all clients."""
    chance = draft.chance
    rate = chance.uniform(*CALLS_A_SECOND)
    moment = 0.0
    while (moment := moment + chance.expovariate(rate)) < SECONDS:
        kind = chance.choices(
            ("move", "stale", "again", "batch", "dry_run", "read", "local_read", "fact", "setting", "provision"),
            (10, 2, 2, 2, 1, 4, 2, 1, 0.3, 8),
        )[0]
        client = f"c{chance.randrange(CLIENTS)}"
        draft.add(kind, client, at=moment, project=f"p{chance.randrange(PROJECTS)}")
