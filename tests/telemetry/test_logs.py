"""Log lines: one JSON object each, with the brief's fields, and nothing that should not be there."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from cluster.clock import ManualClock
from cluster.shhh.policy import BUILT_IN
from cluster.shhh.scanner import REDACTED, Scanner
from cluster.telemetry import logs
from swoosh.machine import Applied, Position
from swoosh.wal import WalRecord


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure(stream, ManualClock(), Scanner(BUILT_IN).redact, node="n1")
    yield stream
    structlog.reset_defaults()
    root.handlers, root.level = handlers, level


def read(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_applied_transition_always_carries_the_brief_s_fields(lines: io.StringIO) -> None:
    record = WalRecord(
        7, 3, 1, "p", "meta", "pre", "PROJECT_CREATED", "i", "s", "", "k", "h", "w", (), (), 1, {}, "post", ""
    )
    logs.transitions(Applied(Position(7, 1, 1), records=((record, b"{}"),)))
    [line] = read(lines)
    wanted = {
        "state_pre_hash": "pre",
        "state_post_hash": "post",
        "transition": "PROJECT_CREATED",
        "hlc": "h",
        "window_id": "w",
        "project": "p",
        "index": 7,
    }
    assert wanted.items() <= line.items()
    assert line["node"] == "n1" and line["time"] == "2025-10-09T08:53:20.000+00:00" and line["level"] == "info"


def test_text_from_outside_cannot_forge_a_line(lines: io.StringIO) -> None:
    structlog.get_logger().warning("refused", reason='x"}\n{"event": "forged"\u2028\x1b[31m')
    [line] = read(lines)
    assert line["event"] == "refused" and "\n" in str(line["reason"])
    assert lines.getvalue().isascii()


def test_long_texts_and_deep_values_are_cut(lines: io.StringIO) -> None:
    deep: object = "bottom"
    for _ in range(50):
        deep = {"down": deep}
    structlog.get_logger().info("big", text="a" * 100_000, many=list(range(1_000)), deep=deep)
    [line] = read(lines)
    assert len(str(line["text"])) < 1_100 and len(line["many"]) == logs.LIST_ITEMS_MAX  # type: ignore[arg-type]
    assert len(lines.getvalue()) < 6_000


@pytest.mark.parametrize("name", ["signature", "read_tokens", "private_key", "Authorization", "password"])
def test_secrets_are_hidden_wherever_they_are(lines: io.StringIO, name: str) -> None:
    structlog.get_logger().info("x", **{name: "hunter2"}, inside={"deep": [{name: "hunter2"}]})
    assert "hunter2" not in lines.getvalue() and logs.HIDDEN in lines.getvalue()


def test_a_secret_in_a_text_is_replaced_before_the_text_is_cut(lines: io.StringIO) -> None:
    secret = "sk-" + "a1" * 24
    long = "." * (logs.TEXT_CHARS_MAX - 20) + " " + secret
    structlog.get_logger().info(f"read {secret}", reason=long, error=ValueError(secret), inside=[{"why": [secret]}])
    try:
        raise RuntimeError(secret)
    except RuntimeError:
        structlog.get_logger().exception("handler raised")
    logging.getLogger("aiohttp.server").error("bad request %s", secret)
    assert secret[:12] not in lines.getvalue() and lines.getvalue().count(REDACTED) >= 6


def test_libraries_speak_the_same_form(lines: io.StringIO) -> None:
    logging.getLogger("asyncio").error("task failed\nbadly", exc_info=ValueError("x"))
    logging.getLogger("aiohttp.server").error("Error handling request", exc_info=ValueError("y" * 10_000))
    asyncio_line, aiohttp_line = read(lines)
    assert asyncio_line["logger"] == "asyncio" and "ValueError: x" in str(asyncio_line["exception"])
    assert aiohttp_line["level"] == "error" and "exception" not in aiohttp_line
    assert len(str(aiohttp_line["error"])) < 1_100


def test_a_trace_is_one_line(lines: io.StringIO) -> None:
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        structlog.get_logger().exception("handler raised")
    [line] = read(lines)
    assert "RuntimeError: boom" in str(line["exception"]) and line["level"] == "error"
