"""docs/reference/whoosh-routes.md lists every route that is served of WHOOSH's, and no other."""

import re
from pathlib import Path

from aiohttp import web

from cluster.http import whoosh

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "whoosh-routes.md"


def test_the_page_lists_what_is_served() -> None:
    table = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    listed = {pair for line in table for pair in re.findall(r"`(GET|POST) (/[^`]+)`", line.split("|")[1])}
    served = {(route.method, route.path) for route in whoosh.routes() if isinstance(route, web.RouteDef)}
    assert listed == served
