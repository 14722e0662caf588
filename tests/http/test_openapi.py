"""docs/openapi.yaml describes exactly what is served: no route more, no route less; the packaged copy is current."""

import re
from collections.abc import Iterator

from openapi_spec_validator import validate

from cluster.http.app import OPENAPI, public_app
from cluster.telemetry.metrics import Metrics
from docs.openapi_json import render
from swoosh.outcome import Code
from tests.http.conftest import SPEC, Caller
from tests.http.desk import CHART, Desk

METHODS = {"get", "post", "head", "options"}


async def served(desk: Desk) -> set[tuple[str, str]]:
    app = public_app(desk, Metrics(CHART))  # type: ignore[arg-type]
    found = set()
    for route in app.router.routes():
        assert route.resource is not None
        path = re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.resource.canonical)
        found.add((path, route.method.lower()))
    return found


async def test_routes_and_description_agree_both_ways(desk: Desk) -> None:
    described = {(path, method) for path, item in SPEC["paths"].items() for method in item if method in METHODS}
    # HEAD is GET without a body and needs no entry of its own (RFC 9110 §9.3.2); the probes have one all the same.
    routes = {(path, method) for path, method in await served(desk) if method != "head" or (path, "head") in described}
    assert routes - described == set(), "served, but not in docs/openapi.yaml"
    assert described - routes == set(), "in docs/openapi.yaml, but not served"


def test_the_description_is_valid_openapi() -> None:
    validate(SPEC)


def members(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, member in value.items():
            yield f"{path}/{name}", member
            yield from members(member, f"{path}/{name}")
    elif isinstance(value, list):
        for number, member in enumerate(value):
            yield from members(member, f"{path}/{number}")


def test_no_member_is_without_a_value() -> None:
    """An unquoted comma inside `{…}` ends a description and begins a member of its own."""
    assert [path for path, member in members(SPEC) if member is None and "/example" not in path] == []


def test_the_packaged_copy_is_current() -> None:
    assert OPENAPI.read_text(encoding="utf-8") == render(), "run: python docs/openapi_json.py"


def test_every_refusal_code_is_listed() -> None:
    assert SPEC["components"]["schemas"]["Code"]["enum"] == [code.value for code in Code]


async def test_the_node_serves_its_description(ask: Caller) -> None:
    assert (await ask.get("/openapi.json")).body == SPEC
