"""What a role is, as a file says and as agents are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import profiles
from cluster.profiles import Profile
from swoosh import limits
from swoosh.errors import Malformed

SHIPPED = Path(__file__).parent.parent.parent / "deploy" / "roles" / "human-roles.yaml"


def faults(text: str) -> str:
    with pytest.raises(Malformed) as found:
        profiles.read(text.encode())
    return found.value.reason


def test_the_example_that_is_shipped_fills_a_council() -> None:
    roles = profiles.read(SHIPPED.read_bytes())
    assert len(roles) == 12 and sum(role.core for role in roles.values()) == 6
    assert all(role.capabilities and role.description and role.display_name for role in roles.values())
    assert [name for name, role in roles.items() if role.default_brief_owner] == ["tech-lead"]


def test_a_role_is_told_in_the_words_of_whoosh() -> None:
    written = b"roles:\n  qa: {display_name: Tester, description: Tests., skills: [testing], core: true}\n  ux:\n"
    qa, ux = profiles.read(written).values()
    assert qa.told == {
        "role_name": "qa",
        "display_name": "Tester",
        "prompt_key": "qa",
        "prompt_pack": "",
        "capabilities": ["testing"],
        "brief_routing_hint": "",
        "default_brief_owner": False,
    }
    assert qa.offered(required=True) == {
        "role_name": "qa",
        "agent_name": "Tester",
        "required": True,
        "required_skills": ["testing"],
        "description": "Tests.",
    }
    assert ux == Profile("ux") and not ux.core
    assert ux.offered(required=False)["agent_name"] == "ux"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("roles: [", "does not parse"),
        ("roles: {a: , a: }", "duplicate keys ['a']"),
        ("", "expected `roles:` at the top"),
        ("[roles]", "expected `roles:` at the top"),
        ("roles: {a: }\nversion: 2", "nothing beside it"),
        ("roles: {}", "roles: expected 1 to 64 names"),
        ("roles: [a]", "roles: expected 1 to 64 names"),
        ("roles: {" + ", ".join(f"r{number}: " for number in range(65)) + "}", "roles: expected 1 to 64 names"),
        ("roles: {a: tester}", "roles.a: Expected `object`, got `str`"),
        ("roles: {a: 0}", "roles.a: Expected `object`, got `int`"),
        ("roles: {a b: }", "roles.a b: the name of a role: expected 1 to 128 printable"),
        ("roles: {7: }", "roles.7: the name of a role is text"),
        ("roles: {a: {colour: red}}", "roles.a: Object contains unknown field `colour`"),
        ("roles: {a: {core: 1}}", "roles.a: Expected `bool`, got `int` - at `$.core`"),
        ("roles: {a: {capabilities: testing}}", "roles.a: Expected `array | null`, got `str` - at `$.capabilities`"),
        ("roles: {a: {capabilities: [], skills: []}}", "roles.a: capabilities and skills are two words"),
        ("roles: {a: {description: " + "x" * (limits.TEXT_CHARS_MAX + 1) + "}}", "roles.a: Expected `str` of length"),
    ],
)
def test_what_cannot_be_meant_is_named(text: str, fault: str) -> None:
    assert fault in faults(text)


def test_every_role_that_is_wrong_is_named() -> None:
    found = faults("roles: {a: {core: 1}, b: {}, c: {skill: [x]}}")
    assert "roles.a:" in found and "roles.c:" in found and "roles.b:" not in found


def test_a_file_that_is_no_text_is_refused() -> None:
    with pytest.raises(Malformed, match="'utf-8' codec"):
        profiles.read(b"roles: \xff")
