"""`GET /windows`: what the guard would say now, so that who asks first need not knock in vain."""

from __future__ import annotations

from typing import Any

from cluster.clock import SystemClock
from tests.http.conftest import Caller, Serve
from tests.http.desk import Desk


class At(SystemClock):
    """It is always the same time."""

    def __init__(self, ms: int) -> None:
        self._ms = ms

    def wall_us(self) -> int:
        return self._ms * 1000


async def seen(serve: Serve, wall_ms: int, settings: dict[str, Any]) -> dict[str, Any]:
    """What a node answers whose clock says so much, under these settings."""
    ask = await serve(Desk(clock=At(wall_ms), settings=settings))
    body: dict[str, Any] = (await ask.get("/windows")).body
    return body


async def test_a_tide_says_what_is_open_and_when_the_rest_opens(serve: Serve) -> None:
    body = await seen(serve, 7 * 60_000 + 10_000, {})
    assert (body["source"], body["window_id"]) == ("tidal", "tidal:7")
    classes = body["classes"]
    assert classes["plan"]["open"] and classes["plan"]["opens_in_ms"] == 0
    assert classes["plan"]["window_id"] == "tidal:7"
    assert not classes["review"]["open"] and classes["review"]["opens_in_ms"] == 30_000
    assert "review is closed in window tidal:7" in classes["review"]["reason"]
    assert not classes["reverb"]["open"] and classes["reverb"]["window_id"] is None


async def test_where_windows_are_always_open_the_caller_chooses(serve: Serve) -> None:
    body = await seen(serve, 0, {"window_source": "always_open"})
    assert body["window_id"] is None
    plan = body["classes"]["plan"]
    assert plan["open"] and plan["window_id"] is None and plan["opens_in_ms"] == 0


async def test_without_a_beat_nothing_is_open_and_nobody_says_when(serve: Serve) -> None:
    body = await seen(serve, 0, {"window_source": "backbeat"})
    assert {name: each["open"] for name, each in body["classes"].items()} == dict.fromkeys(body["classes"], False)
    assert body["classes"]["work"]["opens_in_ms"] is None
    assert "no BACKBEAT frame" in body["classes"]["work"]["reason"]


async def test_only_projects_have_windows(ask: Caller) -> None:
    assert (await ask.get("/windows?project=nobodys")).status == 404
    assert (await ask.get("/windows?project=@cluster")).status == 400
