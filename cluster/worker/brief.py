"""The plan that a Design Brief asks for: one task for every open item of its checklists.

    - [ ] Write the parser {#parser}        task ``parser``, titled "Write the parser"
    - [ ] Measure it on a real corpus       task ``measure-it-on-a-real-corpus``
    - [x] Choose a grammar                  done, no task

A task is named by its mark or else after its text, never by its place: items may be moved, added and ticked off, and
the others keep their names. Pure.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from swoosh import limits
from swoosh.hashing import digest

_FENCE = re.compile(r"\s*(```+|~~~+)")
_ITEM = re.compile(r"\s*[-*+]\s+\[ \]\s+(?P<text>\S.*)")
_NAME_CHARS = 64


class Plan(NamedTuple):
    """Tasks as {name: title}, and the hash that names exactly these."""

    tasks: dict[str, str]
    plan_hash: str


class NoPlan(Exception):
    """The brief gives no plan, for the reason given."""


def plan_of(markdown: str) -> Plan:
    """The plan of a brief; the same tasks in any order are the same plan.

    Raises:
        NoPlan: nothing is open, two items have one name, or there are more than a plan may have.
    """
    tasks: dict[str, str] = {}
    for title, name in _open_items(markdown):
        if name in tasks:
            raise NoPlan(f"two open items are called {name}: {tasks[name]!r} and {title!r}; mark one with {{#name}}")
        tasks[name] = title
    if not tasks:
        raise NoPlan("the brief has no open item: a line like `- [ ] Do this`")
    if len(tasks) > limits.TASKS_MAX:
        raise NoPlan(f"the brief has {len(tasks)} open items; a plan has at most {limits.TASKS_MAX}")
    return Plan(tasks, digest("plan", tasks))


def _open_items(markdown: str) -> list[tuple[str, str]]:
    """(title, name) of each open item outside of code, in the order of the text."""
    found: list[tuple[str, str]] = []
    fence = ""
    for line in unicodedata.normalize("NFC", markdown).splitlines():
        opening = _FENCE.match(line)
        if fence:
            fence = "" if opening and opening[1].startswith(fence) else fence
        elif opening:
            fence = opening[1]
        elif item := _ITEM.match(line):
            title, mark = _marked(item["text"].rstrip())
            found.append((title[: limits.TEXT_CHARS_MAX], _name_of(mark or title)))
    return found


def _marked(text: str) -> tuple[str, str]:
    """A title and the name it is marked with, empty where there is no mark."""
    title, opening, mark = text.rpartition("{#")
    is_mark = opening and title.strip() and mark.endswith("}") and not any(c in " {}" for c in mark[:-1])
    return (title.rstrip(), mark[:-1]) if is_mark else (text, "")


def _name_of(text: str) -> str:
    """Lower-case ASCII words joined by hyphens. What has none, or is cut, gets a few digits of its hash."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = "-".join(re.findall(r"[a-z0-9]+", ascii_text))
    if name and len(name) <= _NAME_CHARS:
        return name
    digits = digest("task", text).removeprefix("sha256-")[:8]
    return f"{name[:_NAME_CHARS].rstrip('-') or 'task'}-{digits}"
