"""What shall go wrong in a run: a plan out of chaos/plans, read strictly.

A plan is a list of steps, carried out one after another while callers propose. Each step breaks something, waits, and
mends it again. Nothing here does anything.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec
import yaml

from cluster.faults import ExitCode

FOLDER = Path(__file__).parents[1] / "plans"


class Do(StrEnum):
    """What a step breaks."""

    KILL = "kill"
    STOP = "stop"
    PAUSE = "pause"
    ISOLATE = "isolate"
    MUTE = "mute"
    DEAFEN = "deafen"
    HALVE = "halve"
    BRIDGE = "bridge"
    FLAP = "flap"
    SLOW = "slow"
    POWER_CUT = "power-cut"
    FAIL_SYNC = "fail-sync"
    FILL = "fill"
    FLIP = "flip"
    WIPE = "wipe"
    ROLL_BACK = "roll-back"
    SWAP = "swap"
    CLOCK = "clock"


class To(StrEnum):
    """Whom it meets; chosen when the step begins."""

    ANY = "any"
    LEADER = "leader"
    FOLLOWER = "follower"
    MAJORITY = "majority"
    ALL = "all"
    IN_TURN = "in turn"
    """One after another over the repetitions of the step."""


class File(StrEnum):
    """A class of files that a bit can flip in."""

    SST = "sst"
    WAL = "wal"
    MANIFEST = "manifest"
    CURRENT = "current"
    WITNESS = "witness"


MOUNTED = frozenset({Do.POWER_CUT, Do.FILL})
"""These need a file system of the node's own."""
LEAVES_DAMAGE = frozenset({Do.FLIP, Do.WIPE, Do.ROLL_BACK, Do.SWAP})
"""After these a node comes back only as a new member of the group."""


EXIT_CODES = (*ExitCode.__members__, *({"ROLLED_BACK"} - set(ExitCode.__members__)))
"""What a node may end with. A build that does not notice a rolled-back disk is found out by the plan for it."""


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"hold": "for"}):
    pass


class Step(_Document, frozen=True, kw_only=True):
    """One thing that goes wrong, ``times`` times.

    Attributes:
        after: seconds of calm before it.
        hold: seconds until it is mended; written ``for``.
        settle: wait until every node is ready again before the next.
        ends_with: the node must end by itself, with one of these exit codes.
        file: what a bit flips in.
        offset_ms: by how much a clock jumps.
        rate_kbit, delay_ms: how slow a link becomes.
        period: seconds a flapping link is up, and then down.
    """

    do: Do
    to: To = To.ANY
    after: float = 4.0
    hold: float = 3.0
    times: int = 1
    settle: bool = True
    ends_with: tuple[str, ...] = ()
    file: File = File.WAL
    offset_ms: int = 0
    rate_kbit: int = 256
    delay_ms: int = 100
    period: float = 0.5


class Minimum(_Document, frozen=True, kw_only=True):
    """Less than this proves nothing. ``per_second`` counts acknowledgements before the first fault."""

    per_second: float = 5.0
    acknowledged: int = 100
    unknown: int = 0
    reads: int = 20


class Plan(_Document, frozen=True, kw_only=True):
    """A whole run.

    Attributes:
        why: what must hold, in a sentence.
        recovered_within: seconds from the last mending to the next acknowledgement; more is a violation.
        disk_mb: size of a node's own file system, where it has one.
    """

    why: str
    steps: tuple[Step, ...]
    name: str = ""
    nodes: int = 3
    callers: int = 8
    disk_mb: int = 256
    recovered_within: float = 10.0
    minimum: Minimum = Minimum()

    @property
    def mounts(self) -> bool:
        """Whether nodes need file systems of their own."""
        return any(step.do in MOUNTED for step in self.steps)

    @property
    def fails_syncs(self) -> bool:
        """Whether nodes must run with the library that makes fsync fail."""
        return any(step.do is Do.FAIL_SYNC for step in self.steps)


class BadPlan(Exception):
    """Not a plan. The text says where and why."""


def load(name: str, folder: Path = FOLDER) -> Plan:
    """The plan of this name.

    Raises:
        BadPlan: no such plan, or not of this form.
    """
    path = folder / f"{name}.yaml"
    try:
        found = msgspec.convert(yaml.safe_load(path.read_text("utf-8")), Plan)
    except FileNotFoundError:
        raise BadPlan(f"no plan {name!r}; there are {', '.join(names(folder))}") from None
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise BadPlan(f"{path}: {error}") from None
    faults = list(_contradictions(found))
    if faults:
        raise BadPlan(f"{path}: {'; '.join(faults)}")
    return msgspec.structs.replace(found, name=name)


def names(folder: Path = FOLDER) -> list[str]:
    """The plans there are."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _contradictions(plan: Plan) -> list[str]:
    wrong = []
    if not plan.steps:
        wrong.append("a plan without steps")
    for number, step in enumerate(plan.steps, start=1):
        unknown = set(step.ends_with) - set(EXIT_CODES)
        if unknown:
            wrong.append(f"step {number}: no exit code {', '.join(sorted(unknown))}; there are {', '.join(EXIT_CODES)}")
        if min(step.after, step.hold, step.period) < 0 or step.times < 1:
            wrong.append(f"step {number}: times are not negative, and a step happens at least once")
        if step.do is Do.CLOCK and not step.offset_ms:
            wrong.append(f"step {number}: a clock jumps by offset_ms")
        if step.do in LEAVES_DAMAGE and step.to in (To.ALL, To.MAJORITY):
            wrong.append(f"step {number}: {step.do} of more than one node of three loses data, and rightly so")
        if step.do in (Do.BRIDGE, Do.HALVE) and plan.nodes < 3:
            wrong.append(f"step {number}: {step.do} needs three nodes")
    return wrong
