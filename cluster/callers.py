"""Who calls a WHOOSH-compatible route, and what he may ask for.

Callers of WHOOSH hold no keys and sign nothing. They show a bearer token: one of the service tokens this node knows,
or a JWT of an identity provider. What the node does for them it signs itself, on behalf of the name found here, so
nothing may be found that a token does not prove. Without a token a caller is `anonymous`, with the roles the
configuration grants to everybody: none, unless it says otherwise.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

ROLES = ("admin", "developer", "service", "agent")
"""As WHOOSH has them: everything; councils, projects and what they made; automated integration and task ingestion;
claims and work."""
ANONYMOUS = "anonymous"


class Caller(NamedTuple):
    """Somebody with a name. ``agent``: the only agent he may speak for; empty where his roles alone decide."""

    name: str
    roles: frozenset[str]
    agent: str = ""

    def may(self, *roles: str) -> bool:
        """Whether he holds one of these roles; who is admin holds every role."""
        return "admin" in self.roles or bool(self.roles.intersection(roles))


class Access(NamedTuple):
    """Whom a node lets in: ``tokens`` by the token itself; ``anonymous`` are the roles of whoever shows none."""

    tokens: Mapping[str, Caller] = MappingProxyType({})
    anonymous: frozenset[str] = frozenset()


class Unknown(Exception):
    """A token was shown that proves nothing. The text says why, without the token."""


def who(access: Access, authorization: str, now_s: int) -> Caller:
    """The caller that an ``Authorization`` header names; ``now_s`` in seconds since 1970.

    Raises:
        Unknown: it names nobody.
    """
    scheme, _, token = authorization.partition(" ")
    if not authorization:
        return Caller(ANONYMOUS, access.anonymous)
    if scheme.lower() != "bearer" or not token.strip():
        raise Unknown("Authorization is not `Bearer` and a token")
    offered = token.strip().encode()
    found = [caller for known, caller in access.tokens.items() if hmac.compare_digest(offered, known.encode())]
    if not found:
        raise Unknown("the token is not one of this node's service tokens")
    return found[0]
