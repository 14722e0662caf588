"""`GET /windows`: which window is in force, and what may happen in it now.

The words and the verdict are those the guard `window_open` would give at this moment by this node's clock. The guard
judges by the stamp of the entry, so this is a hint, as every look at a clock is: who knows it need not knock in vain.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from cluster.http import problems
from cluster.http.request import NODE, consistent, project_of, provenance
from swoosh import state, windows
from swoosh.errors import Malformed
from swoosh.settings import WINDOW_CLASSES


async def get_windows(request: web.Request) -> web.Response:
    """For one project: reverb is about the window it was last active in."""
    node, wanted = request.app[NODE], project_of(request)
    missing = await consistent(request)
    if missing is not None:
        return problems.respond(missing)
    project = node.machine.project(wanted)
    if project is None:
        return problems.absent(wanted, state.GENESIS_HASH)
    if not isinstance(project.regions, state.ProjectRegions):
        raise Malformed(f"{wanted} has no windows")
    found = outlook(project.regions.execution.active_window_id, node.machine.registry, node.clock.wall_us() // 1000)
    return problems.ok({"project": wanted, **found, **provenance(request)})


def outlook(active: str, board: windows.Board, now_ms: int) -> dict[str, Any]:
    """What is open now to a project that was last active in the window ``active``."""
    window = windows.current(board, now_ms)
    current = None if window is None else window.id
    return {
        "source": board.setting("window_source"),
        "window_id": current,
        "active_window_id": active,
        "classes": {name: _opening(name, current, active, board, now_ms) for name in WINDOW_CLASSES},
    }


def _opening(name: str, current: str | None, active: str, board: windows.Board, now_ms: int) -> dict[str, Any]:
    """Whether one class is open, which window a proposal has to name for it, and when it opens where that is known."""
    named = active if name == "reverb" else current
    callers_choice = "a window" if name != "reverb" else ""  # where windows are always open
    verdict = windows.verdict(name, named or callers_choice, active, board, now_ms)
    tidal = board.setting("window_source") == "tidal"
    opens_in = windows.opens_in_ms(board.setting("tidal_schedule"), name, now_ms) if tidal else None
    return {
        "open": verdict.ok,
        "window_id": named or None,
        "reason": verdict.reason,
        "opens_in_ms": 0 if verdict.ok else opens_in,
    }
