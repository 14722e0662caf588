"""Tool servers, seen as facts (Brief §4, §6): what a council may pin is what answers, and has answered for a while.

One provider watches one MCP server. The fact `tool` is *green* (``reachable``) once the server has answered the same
for the whole dwell time (setting ``tool_dwell_ms``), and red at the first look at which it does not: unreachable, not
a tool server, or another one than before. So a server that flaps stays red and makes at most two facts per dwell time,
beside the renewal at two thirds of the age at which guards stop to believe a fact.

What the next leader needs is on the board: a server that is green there stays green while it answers just that; any
other begins its dwell anew, which can only be longer than promised. Where nothing may leave (no license, an open
breaker) nothing was learnt and nothing is said: the fact runs out by itself.
"""

from __future__ import annotations

from typing import Any

import msgspec
import structlog

from cluster.egress import Blocked, Outside, Unreachable
from cluster.providers.leading import Leading
from cluster.providers.mcp_probe import Seen, ToolServer, Unusable, probe
from swoosh import windows
from swoosh.facts import Known, Tool
from swoosh.outcome import FactAccepted, Refused

PAUSE_SECONDS_MIN = 1.0
_log = structlog.get_logger(__name__)


class ToolProbe:
    """Watches one server."""

    def __init__(self, server: ToolServer, outside: Outside) -> None:
        self.name = f"mcp:{server.name}"
        self.trouble: str | None = None
        self._server, self._outside = server, outside
        self._seen: Seen | None = None
        self._seen_since = 0.0

    async def run(self, leading: Leading) -> None:
        """Until cancelled."""
        self._seen = None
        while True:
            tool = await self._look(leading)
            life_ms = windows.age_limit_ms(leading.registry, "tool", leading.now_ms)
            if tool is not None:
                await self._say(leading, tool, life_ms)
            await leading.clock.sleep(max(PAUSE_SECONDS_MIN, min(self._server.interval, life_ms / 3_000)))

    async def _look(self, leading: Leading) -> Tool | None:
        """What there is to say; None where nothing was learnt."""
        try:
            seen = await probe(self._server, self._outside, leading.clock)
        except Blocked as error:
            self._seen, self.trouble = None, str(error)
            return None
        except (Unreachable, Unusable) as error:
            self._seen = None
            return _red(str(error))
        if seen != self._seen:
            self._seen, self._seen_since = seen, leading.clock.monotonic()
        green = Tool(True, seen.version, seen.tools_hash, seen.name, seen.protocol_version)
        dwell_ms: int = leading.registry.setting("tool_dwell_ms")
        has_dwelt = (leading.clock.monotonic() - self._seen_since) * 1000 >= dwell_ms
        if has_dwelt or _stands(leading, self._server.name, green):
            return green
        return _red(f"it counts once it has answered the same for {dwell_ms} ms")

    async def _say(self, leading: Leading, tool: Tool, life_ms: int) -> None:
        """Put it on record where the board says otherwise, or has said the same for two thirds of ``life_ms``."""
        self.trouble = tool.detail or None
        name, body = self._server.name, msgspec.to_builtins(tool)
        if not _is_news(leading.registry.fact("tool", name), body, leading.now_ms, life_ms):
            return
        [answer] = await leading.submit([leading.fact("tool", name, body, lives_ms=life_ms)])
        if isinstance(answer, FactAccepted):
            _log.info("tool server", tool=name, **{key: value for key, value in body.items() if key != "name"})
        elif isinstance(answer, Refused):
            self.trouble = f"its fact was not taken: {'; '.join(answer.reasons)}"


def _red(reason: str) -> Tool:
    return Tool(False, "", detail=reason.encode("ascii", "replace").decode())


def _stands(leading: Leading, name: str, green: Tool) -> bool:
    """Whether the board says this, and guards believe it still."""
    held, now_ms = leading.registry.fact("tool", name), leading.now_ms
    if held is None or held.body != msgspec.to_builtins(green):
        return False
    limit_ms = windows.age_limit_ms(leading.registry, "tool", now_ms)
    return now_ms < min(held.expires_at, held.observed_at + limit_ms)


def _is_news(held: Known | None, body: dict[str, Any], now_ms: int, life_ms: int) -> bool:
    """Whether the board must be told. Why a server is red may change as it likes until the fact is renewed."""
    if held is None or now_ms >= held.observed_at + min(life_ms, held.expires_at - held.observed_at) * 2 // 3:
        return True
    return held.body != body and (held.body["reachable"] or body["reachable"])
