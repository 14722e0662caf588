"""Templates: what a sink gets, and what is refused before anything is sent."""

from __future__ import annotations

import msgspec
import pytest

from cluster.providers import bubble, slurp
from cluster.providers.templates import DELIVERY, Template

RECORD = {"dr_id": "sha256-1", "signer": "alice", "guards": {"authorised": {"ok": True}}}
SENT = {"seq": 7, "timestamp": 5, "links": {"self": ["bubble://dr/1"]}, "redacted": []}


def rendered(fields: dict[str, str]) -> object:
    return msgspec.json.decode(Template(fields, RECORD).render(RECORD, SENT))


def test_without_a_table_it_is_the_record_with_delivery_beside_its_members() -> None:
    assert rendered({}) == {**RECORD, "delivery": SENT}


def test_members_are_renamed_and_put_into_objects() -> None:
    fields = {"id": "dr_id", "who.name": "signer", "who.kind": "=agent", "n": "delivery.seq", "all": "record"}
    assert rendered(fields) == {
        "id": "sha256-1",
        "who": {"name": "alice", "kind": "agent"},
        "n": 7,
        "all": RECORD,
    }


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": "drid"}, "'drid' is no member; known: .*dr_id"),
        ({"id": "delivery.when"}, "no member"),
        ({"id": "guards.authorised"}, "no member"),
        ({"a": "dr_id", "a.b": "signer"}, "a is a value and an object at once"),
        ({"a.": "dr_id"}, "empty part"),
        ({"": "dr_id"}, "empty part"),
    ],
)
def test_what_cannot_be_filled_in_is_refused(fields: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Template(fields, RECORD)


@pytest.mark.parametrize("members", [bubble.MEMBERS, slurp.MEMBERS], ids=["bubble", "slurp"])
def test_no_member_of_a_record_is_hidden_by_what_is_told_beside_it(members: tuple[str, ...]) -> None:
    assert not {"record", "delivery"} & set(members)
    assert {*bubble.TEXTS} <= {*bubble.MEMBERS} and {*slurp.TEXTS} <= {*slurp.MEMBERS}
    Template({name: name for name in members} | {f"x.{name}": f"delivery.{name}" for name in DELIVERY}, members)
