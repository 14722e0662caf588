"""Templates: which members of a record a sink gets, and under which names.

A template is a table ``{name at the sink: source}``. A dot in a name makes an object in an object; a source is a member
of the record, ``delivery`` or a member of it, ``record`` for the whole record, or a text after ``=``. An empty table is
the whole record with ``delivery`` beside its members. What a table names and there is not is refused at the start and
never noticed only by the sink.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from swoosh import canonical

DELIVERY = ("seq", "timestamp", "links", "redacted")
"""What is told beside the record itself: its number in the project, the leader stamp (µs since 1970), addresses of what
it belongs to, and which texts were replaced on the way out."""


class Template:
    """One table, checked.

    Raises:
        ValueError: it names what there is not, or puts two things in one place.
    """

    def __init__(self, fields: Mapping[str, str], members: Collection[str]) -> None:
        """``members`` are those of the record."""
        known = {"record", "delivery", *members, *(f"delivery.{name}" for name in DELIVERY)}
        for name, source in fields.items():
            if not all(name.split(".")):
                raise ValueError(f"{name!r} has an empty part")
            if not source.startswith("=") and source not in known:
                raise ValueError(f"{name} = {source!r} is no member; known: {', '.join(sorted(known))}, or =text")
            if any(other.startswith(f"{name}.") for other in fields):
                raise ValueError(f"{name} is a value and an object at once")
        self._fields = dict(fields)

    def render(self, record: Mapping[str, Any], delivery: Mapping[str, Any]) -> bytes:
        """The bytes a sink gets: one JSON object, members in the order of their names, no line feed."""
        sources = {**record, "record": record, "delivery": delivery}
        sources.update({f"delivery.{name}": delivery[name] for name in DELIVERY})
        if not self._fields:
            return canonical.encode({**record, "delivery": delivery})
        rendered: dict[str, Any] = {}
        for name, source in self._fields.items():
            *parents, last = name.split(".")
            place = rendered
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = source[1:] if source.startswith("=") else sources[source]
        return canonical.encode(rendered)
