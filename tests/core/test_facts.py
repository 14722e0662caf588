"""What a fact may say: the form of a body, before anybody asks who signed it."""

from __future__ import annotations

from typing import Any

import pytest

from swoosh import canonical, facts, limits
from swoosh.errors import Malformed

WORD, ADDRESS = "x" * limits.NAME_CHARS_MAX, "x" * limits.ADDRESS_CHARS_MAX
FULL: dict[str, Any] = {
    "name": WORD,
    "capabilities": [WORD] * limits.AGENT_CAPABILITIES_MAX,
    "endpoint": ADDRESS,
    "multiaddrs": [ADDRESS] * limits.AGENT_ADDRESSES_MAX,
    "transport": WORD,
    "certificate_hash": WORD,
    "status": WORD,
}


def agent(body: dict[str, Any]) -> facts.Fact:
    told = {"kind": "agent", "subject": "whoosh:chorus-7", "observed_at": 1, "seq": 0, "expires_at": 2, "provider": "p"}
    return facts.decode(canonical.encode({**told, "body": body}))


@pytest.mark.parametrize("body", [{"name": "Chorus 7"}, {"name": ""}, FULL])
def test_an_agent_tells_as_much_of_itself_as_it_likes_within_bounds(body: dict[str, Any]) -> None:
    assert agent(body).body == body


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x", "mood": "fine"},
        *({**FULL, name: FULL[name] + FULL[name][-1:]} for name in FULL),
        {**FULL, "capabilities": [WORD + "x"]},
        {**FULL, "multiaddrs": [ADDRESS + "x"]},
        {**FULL, "status": None},
    ],
)
def test_what_is_beyond_a_bound_is_no_agent(body: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="fact of kind agent"):
        agent(body)
