"""Stopping on purpose: the ways a node ends itself, and the named places where tests make it fail.

A node that can no longer keep a promise (disk gone, log contradicted, half a message handled) must not go on and must
not clean up: whatever it does next may be wrong. `fatal` writes one JSON line to standard error and ends the process
with a code that tells the operator which promise it was. Nothing here recovers, retries or raises to the caller.

`restart` is the gentler sister: nothing is wrong, but only a process that begins anew may go on, since what it works on
has changed under it. The same command takes the place of this process.

`failpoint(name)` marks a place. It costs one dictionary look-up unless the name is armed. Environment variables are
not read here: `cluster.config` arms what SWOOSH_FAILPOINT asks for.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NoReturn


class ExitCode(IntEnum):
    """Why the process ended. 64 to 78 follow sysexits(3) where it has a word for it."""

    BUG = 70
    """An assumption of ours does not hold (EX_SOFTWARE). Restart replays from disk; report it."""
    DAMAGED = 71
    """The store lost synced data or fails its checksums. docs/runbooks/node-will-not-start.md."""
    ROLLED_BACK = 72
    """The store is an older copy of itself: a backup or an image was put back under a member."""
    DIVERGED = 73
    """Committed history or replicated state contradicts that of the peers."""
    DISK = 74
    """A write or a sync failed (EX_IOERR): no space, a dying device."""
    MISCONFIGURED = 78
    """The configuration contradicts the store or itself (EX_CONFIG)."""


Stop = Callable[[ExitCode, str, dict[str, object]], None]
Restart = Callable[[str, dict[str, object]], None]
Redact = Callable[[Any], tuple[Any, tuple[str, ...]]]


class Stopped(BaseException):
    """What `fatal` raises where nothing is served yet; see `raised`."""

    def __init__(self, code: ExitCode, reason: str, facts: dict[str, object]) -> None:
        super().__init__(code, reason, facts)
        self.code, self.reason, self.facts = code, reason, facts


def _end_process(code: ExitCode, reason: str, facts: dict[str, object]) -> None:
    _say({"event": "fatal", "code": code.name, "exit": int(code), "reason": reason, **facts})
    os._exit(code)


def _replace_process(reason: str, facts: dict[str, object]) -> None:
    _say({"event": "restart", "reason": reason, **facts})
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    except OSError as error:
        fatal(ExitCode.BUG, "the process cannot start itself again", error=str(error))


def _unchanged(line: Any) -> tuple[Any, tuple[str, ...]]:
    return line, ()


def _say(line: dict[str, object]) -> None:
    said, _ = _redact(json.loads(json.dumps(line, default=str)))
    sys.stderr.write(json.dumps(said) + "\n")
    sys.stderr.flush()


_redact: Redact = _unchanged
_stop: Stop = _end_process
_restart: Restart = _replace_process
_armed: dict[str, tuple[int, Callable[[], None]]] = {}


def fatal(code: ExitCode, reason: str, **facts: object) -> NoReturn:
    """End the process with `code`, saying why and on which facts. Never returns and runs no clean-up.

    The stop must not be caught on its way out: under `set_stop` it has to raise a BaseException.
    """
    _stop(code, reason, facts)
    raise SystemExit(code)


def set_stop(stop: Stop | None) -> None:
    """Replace how `fatal` stops (tests and the simulator raise a BaseException of their own); None restores it."""
    global _stop  # noqa: PLW0603
    _stop = _end_process if stop is None else stop


def set_redaction(redact: Redact) -> None:
    """What a last word passes through, from now on: it may hold a trace, and a trace anything."""
    global _redact  # noqa: PLW0603
    _redact = redact


def restart(reason: str, **facts: object) -> NoReturn:
    """Replace the process by itself, the same command in a new life, saying why. Never returns and runs no clean-up.

    Under `set_restart` it has to raise a BaseException, as with `fatal`.
    """
    _restart(reason, facts)
    raise SystemExit(0)


def set_restart(replace: Restart | None) -> None:
    """Replace how `restart` restarts (tests and the simulator raise a BaseException of their own); None restores it."""
    global _restart  # noqa: PLW0603
    _restart = _replace_process if replace is None else replace


@contextmanager
def raised() -> Iterator[None]:
    """While a store is only looked at, before anything is served: `fatal` raises Stopped."""

    def stop(code: ExitCode, reason: str, facts: dict[str, object]) -> None:
        raise Stopped(code, reason, facts)

    global _stop  # noqa: PLW0603
    outer, _stop = _stop, stop
    try:
        yield
    finally:
        _stop = outer


def failpoint(name: str) -> None:
    """Run the action armed for `name`, if this is the visit it was armed for."""
    armed = _armed.get(name)
    if armed is None:
        return
    remaining, action = armed
    if remaining > 1:
        _armed[name] = (remaining - 1, action)
        return
    del _armed[name]
    action()


def arm(name: str, nth: int, action: Callable[[], None]) -> None:
    """Run `action` at the `nth` visit (1 = the next) of the failpoint `name`, once."""
    if nth < 1:
        raise ValueError(f"failpoint {name}: the visit to fail at counts from 1, not {nth}")
    _armed[name] = (nth, action)


def disarm() -> None:
    """Forget every armed failpoint."""
    _armed.clear()
