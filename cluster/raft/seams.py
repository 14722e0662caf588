"""PySyncObj's insides: the names we rely on, checked at import, and the module globals we replace.

The library has no parameter for its clock, its poller or a journal object, and keeps as private attributes what the
guard must see. So this package knows its private names, for exactly one version, and refuses any other at import: a
release that renames an attribute would otherwise turn a safety rule off without an error.

`install` also takes pickle away from the library. Its log, its snapshots and its wire format are pickles by default;
with the module replaced, any path we overlooked ends the process instead of running somebody's bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import pysyncobj.serializer as serializer
import pysyncobj.syncobj as library
from pysyncobj.journal import Journal
from pysyncobj.version import VERSION

from cluster import faults
from cluster.clock import Clock
from cluster.faults import ExitCode

PINNED = "0.3.17"

_MODULE_NAMES = ("createJournal", "createPoller", "monotonicTime", "pickle", "PIPE_NOTIFIER_ENABLED")

_METHODS = (
    "_SyncObj__applyLogEntries",
    "_SyncObj__connectedToAnyone",
    "_SyncObj__doApplyCommand",
    "_SyncObj__generateRaftTimeout",
    "_SyncObj__onMessageReceived",
    "_SyncObj__sendAppendEntries",
    "_SyncObj__tryLogCompaction",
    "_applyCommand",
    "_checkCommandsToApply",
    "_getLeader",
    "doTick",
    "transferLeadership",
)

_ATTRIBUTES = (
    "_SyncObj__commandsWaitingReply",
    "_SyncObj__connectedNodes",
    "_SyncObj__newAppendEntriesTime",
    "_SyncObj__otherNodes",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftLastApplied",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__raftNextIndex",
    "_SyncObj__raftState",
    "_SyncObj__serializer",
    "_SyncObj__transferInProgress",
    "_SyncObj__transport",
)


def missing_names(version: str, module: object, core: type) -> list[str]:
    """What this package relies on and does not find; empty for the pinned release.

    Attributes are looked for among the names `core.__init__` assigns, so nothing has to be built to check them.
    """
    missing = [] if version == PINNED else [f"version {PINNED} (found {version})"]
    missing += [f"{library.__name__}.{name}" for name in _MODULE_NAMES if not hasattr(module, name)]
    missing += [f"{core.__name__}.{name}" for name in _METHODS if not hasattr(core, name)]
    assigned = core.__init__.__code__.co_names  # type: ignore[misc]
    missing += [f"{core.__name__}().{name}" for name in _ATTRIBUTES if name not in assigned]
    return missing


if _missing := missing_names(VERSION, library, library.SyncObj):
    raise ImportError(
        f"SWOOSH is audited against PySyncObj {PINNED} and relies on its internals; not found: {', '.join(_missing)}. "
        f"Install pysyncobj=={PINNED} (`uv sync --locked`)."
    )


def install(clock: Clock) -> None:
    """Replace the library's module globals. Process-wide: nodes that share a process share one monotonic clock."""
    replacements: dict[str, object] = {
        "createJournal": _given_journal,
        "createPoller": _NoPoller,
        "PIPE_NOTIFIER_ENABLED": False,
        "monotonicTime": clock.monotonic,
        "pickle": _NoPickle(),
    }
    for name, value in replacements.items():
        setattr(library, name, value)
    vars(serializer)["pickle"] = replacements["pickle"]


def _given_journal(journal: Journal) -> Journal:
    """`SyncObjConf.journalFile` carries our journal object instead of a file name."""
    return journal


class _NoPoller:
    """Sockets are the transport's business; the core has none to poll."""

    def __init__(self, _kind: str) -> None:
        pass

    def poll(self, timeout: float) -> None:
        pass


class _NoPickle:
    """Stands where the library expects its pickle module: any use is a path that must not be reachable."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        faults.fatal(ExitCode.BUG, "the consensus library reached for pickle", attribute=name)
