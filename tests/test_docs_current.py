"""The generated pages of docs/ say what the code says now."""

import re
import xml.etree.ElementTree as xml

import pytest

from cluster import docs
from cluster.config import packaged_chart


@pytest.mark.parametrize("name", docs.pages())
def test_a_generated_page_is_current(name: str) -> None:
    page = docs.DOCS / name
    current = page.exists() and page.read_text(encoding="utf-8") == docs.pages()[name]
    assert current, f"docs/{name} is not what the code says: run `make docs` and commit what it wrote"


def test_the_drawing_shows_every_phase() -> None:
    """Its bytes depend on the release of Graphviz, so only what can be read in it is compared."""
    svg = xml.parse(docs.DOCS / "statechart.svg")
    shown = {element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")}
    drawn = set(re.findall(r"<b>(\w+)</b>", docs.pages()[docs.PICTURE]))
    assert drawn >= {"BOOT", "PROJECT_LIFECYCLE", "EXECUTION", "PLAN", "WORK", "REVIEW", "REVERB", "TERMINATED"}
    assert drawn <= shown, "run `make docs` where Graphviz is installed and commit docs/statechart.svg"


def test_every_transition_has_its_place_on_the_page() -> None:
    headings = re.findall(r"^#### `(\w+)`$", docs.pages()["statechart.md"], re.MULTILINE)
    assert sorted(headings) == sorted(transition.name for transition in packaged_chart().transitions())


def test_every_runbook_that_a_code_names_exists() -> None:
    missing = {name for name in docs.RUNBOOKS.values() if not (docs.DOCS / "runbooks" / f"{name}.md").exists()}
    assert not missing


def test_links_into_generated_pages_hit_a_heading() -> None:
    """GitHub's anchors: lower case, punctuation dropped."""
    pages = docs.pages()
    for name, text in pages.items():
        for target, anchor in re.findall(r"\]\(([\w./-]+\.md)#([\w-]+)\)", text):
            path = (docs.DOCS / name).parent.joinpath(target).resolve().relative_to(docs.DOCS).as_posix()
            anchors = {re.sub(r"[^\w -]", "", h).strip().replace(" ", "-").lower()
                       for h in re.findall(r"^#+ (.+)$", pages[path], re.MULTILINE)}  # fmt: skip
            assert anchor in anchors, f"docs/{name}: {target}#{anchor} leads nowhere"
