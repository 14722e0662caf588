"""Log lines: one JSON object each (Brief §10).

A line about an applied transition always carries the hashes before and after, the transition, its clock value, its
window, project and index. Text from outside is escaped by the encoder and cut by length, so that nobody can forge a
line or fill a disk with one. Signatures, keys and tokens never get this far: whatever is filed under such a name is
replaced, at any depth, and so is whatever policy takes for a secret, wherever it stands.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, MutableMapping
from itertools import islice
from typing import Any, TextIO

import structlog

from cluster.clock import Clock
from swoosh.hlc import time_text
from swoosh.machine import Applied

TEXT_CHARS_MAX = 1_024
LIST_ITEMS_MAX = 32
DEPTH_MAX = 4
HIDDEN = "[HIDDEN]"
_SECRET = ("signature", "token", "secret", "password", "private", "authorization", "credential", "votes")

Redact = Callable[[Any], tuple[Any, tuple[str, ...]]]
"""`Scanner.redact`: a value of JSON without what policy forbids, and where that was."""

_log = structlog.get_logger("swoosh.transitions")


def configure(stream: TextIO, clock: Clock, redact: Redact, *, node: str, level: int = logging.INFO) -> None:
    """Send every log line of this process to `stream`, each naming the node."""

    def stamp(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["time"] = time_text(clock.wall_us() // 1000)
        event["node"] = node
        return event

    logging.basicConfig(handlers=[_Bridge()], level=logging.WARNING, force=True)
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            stamp,
            structlog.processors.format_exc_info,
            bounded(redact),
            structlog.processors.JSONRenderer(serializer=json.dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


class _Bridge(logging.Handler):
    """Lines of libraries, and of asyncio about tasks that failed, in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        # A stranger's malformed request makes aiohttp log a trace; its last line says all there is to say.
        trace = {"error": repr(error)} if record.name.startswith("aiohttp") else {"exc_info": error}
        extra = {} if error is None else trace
        structlog.get_logger(record.name).log(record.levelno, record.getMessage(), logger=record.name, **extra)


def transitions(applied: Applied) -> None:
    """One line per transition of an applied entry."""
    for record, _ in applied.records:
        _log.info(
            "transition applied",
            state_pre_hash=record.state_pre_hash,
            state_post_hash=record.state_post_hash,
            transition=record.transition_name,
            hlc=record.hlc,
            window_id=record.window_id,
            project=record.project,
            index=record.index,
            region=record.region,
            signer=record.signer,
            idem_key=record.idem_key,
        )


def bounded(redact: Redact) -> Callable[[Any, str, MutableMapping[str, Any]], Mapping[str, Any]]:
    """A processor: the line with its secrets hidden and its texts cut. Cut last, for half a secret has no form."""

    def process(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        shown, _ = redact({name: _shown(name, value, 0) for name, value in event.items()})
        return {name: _cut(name, value) for name, value in shown.items()}

    return process


def _shown(name: str, value: Any, depth: int) -> Any:
    if any(word in name.lower() for word in _SECRET):
        return HIDDEN
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Mapping() if depth < DEPTH_MAX:
            members = islice(value.items(), LIST_ITEMS_MAX)
            return {str(key): _shown(str(key), inner, depth + 1) for key, inner in members}
        case list() | tuple() if depth < DEPTH_MAX:
            return [_shown("", inner, depth + 1) for inner in value[:LIST_ITEMS_MAX]]
        case _:
            return str(value)


def _cut(name: str, value: Any) -> Any:
    match value:
        case str():
            longest = TEXT_CHARS_MAX * (8 if name == "exception" else 1)
            return value if len(value) <= longest else f"{value[:longest]}… ({len(value)} characters)"
        case dict():
            return {key: _cut(key, inner) for key, inner in value.items()}
        case list():
            return [_cut("", inner) for inner in value]
        case _:
            return value
