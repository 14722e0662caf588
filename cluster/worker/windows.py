"""How a worker meets a window: it asks which one a step needs, names it, and waits while it is closed."""

from __future__ import annotations

from cluster.worker.common import LOOK_SECONDS, Step, Wait
from swoosh.client import Client

WAIT_SECONDS_MAX = 10.0
"""A schedule may be changed while one waits for it."""


async def in_window(client: Client, project: str, name: str, due: Step, *, chosen: str) -> Step | Wait:
    """The step, naming the window that its time class needs now, or a wait for that class to open.

    ``chosen`` is the name where callers choose one.
    """
    opening = (await client.windows(project)).classes[name]
    if not opening.open:
        soon = (opening.opens_in_ms or 0) / 1000
        return Wait(f"the {name} window to open", min(max(soon, LOOK_SECONDS), WAIT_SECONDS_MAX))
    return due._replace(window_id=opening.window_id or chosen)
