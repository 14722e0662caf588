"""Who calls a WHOOSH-compatible route, and what he may ask for.

Callers of WHOOSH hold no keys and sign nothing. They show a bearer token: one of the service tokens this node knows,
or a JWT of an identity provider. What the node does for them it signs itself, on behalf of the name found here, so
nothing may be found that a token does not prove. Without a token a caller is `anonymous`, with the roles the
configuration grants to everybody: none, unless it says otherwise.

The signature of a JWT is PyJWT's to verify; each key is bound to one algorithm when it is read, and what the head of a
token says only chooses among them. Its times are judged here, by the clock of the node. Nothing of a token may get
into a reason. Keys and tokens are read once, when the node starts.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import msgspec
from jwt import PyJWK, PyJWS
from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import InvalidSignatureError, PyJWTError

from cluster.vault import Secret
from swoosh.errors import Malformed
from swoosh.inputs import is_printable

ROLES = ("admin", "developer", "service", "agent")
"""As WHOOSH has them: everything; councils, projects and what they made; automated integration and task ingestion;
claims and work."""
ANONYMOUS = "anonymous"

NAME_CHARS_MAX = 120
"""A name becomes part of keys and of the name a proposal is signed for, which may have 128."""
TOKEN_CHARS_MIN = 22
"""128 bits, spelled in base64."""
TOKEN_CHARS_MAX = 8_192
LEEWAY_S = 30
"""How far the clocks of an identity provider and of this node may be apart."""

PUBLIC_KEY_ALGORITHMS = ("RS256", "ES256", "EdDSA")
SHARED_SECRET_ALGORITHM = "HS256"
SHARED_SECRET_BYTES_MIN = 32
_PRIVATE_MEMBERS = frozenset({"d", "k", "p", "q", "dp", "dq", "qi"})
_ROLES_OF_WHOOSH = {**{role: role for role in ROLES}, "team_lead": "developer"}
JwtKey = PyJWK
"""A key and the one algorithm it is for."""
_SIGNATURES = PyJWS(options={"enforce_minimum_key_length": True})


class Caller(NamedTuple):
    """Somebody with a name. ``agent``: the only agent he may speak for; empty where his roles alone decide."""

    name: str
    roles: frozenset[str]
    agent: str = ""

    def may(self, *roles: str) -> bool:
        """Whether he holds one of these roles; who is admin holds every role."""
        return "admin" in self.roles or bool(self.roles.intersection(roles))


class Provider(NamedTuple):
    """Whose JWTs are believed: signed with one of ``keys``, by ``issuer`` and for ``audience`` where they are set."""

    keys: tuple[JwtKey, ...] = ()
    issuer: str = ""
    audience: str = ""


class Access(NamedTuple):
    """Whom a node lets in: ``tokens`` by the token itself; ``anonymous`` are the roles of whoever shows none;
    ``provider`` may vouch for others."""

    tokens: Mapping[str, Caller] = MappingProxyType({})
    anonymous: frozenset[str] = frozenset()
    provider: Provider = Provider()


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
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unknown("Authorization is not `Bearer` and a token")
    if len(token) > TOKEN_CHARS_MAX or not token.isascii():
        raise Unknown(f"a token is at most {TOKEN_CHARS_MAX} characters of ASCII; this one has {len(token)} characters")
    offered = token.encode()
    found = [caller for known, caller in access.tokens.items() if hmac.compare_digest(offered, known.encode())]
    if found:
        return found[0]
    if token.count(".") != 2:
        raise Unknown("the token is not one of this node's service tokens")
    return _vouched_for(access.provider, token, now_s)


# --- JWTs -------------------------------------------------------------------------------------------------------------


class _Claims(msgspec.Struct, frozen=True):
    """What a JWT says that is read here. Times are seconds since 1970, and may have a fraction (RFC 7519)."""

    exp: int | float
    sub: str
    type: Literal["user", "agent", "system"] = "user"
    roles: tuple[str, ...] = ()
    iss: str = ""
    aud: str | tuple[str, ...] = ()
    nbf: int | float = 0
    iat: int | float = 0


def _vouched_for(provider: Provider, token: str, now_s: int) -> Caller:
    """The caller a JWT names.

    Raises:
        Unknown: it is not the provider's, or not for this moment or place, or names nobody.
    """
    payload = _signed_by(provider, token)
    try:
        claims = msgspec.json.decode(payload, type=_Claims)
    except (msgspec.MsgspecError, RecursionError):
        raise Unknown(
            "the token's claims are not of the form: exp and sub are needed, type is user, agent or system, "
            "roles a list of texts, exp, nbf and iat are numbers"
        ) from None
    _check_times(claims, now_s)
    _check_place(provider, claims)
    if not _is_name(claims.sub):
        raise Unknown(
            f"the token's sub cannot be a name: 1 to {NAME_CHARS_MAX} printable ASCII characters without a space"
        )
    held = frozenset(_ROLES_OF_WHOOSH[role] for role in claims.roles if role in _ROLES_OF_WHOOSH)
    if claims.type == "agent":
        return Caller(claims.sub, held | {"agent"}, agent=claims.sub)
    return Caller(claims.sub, held)


def _signed_by(provider: Provider, token: str) -> bytes:
    """The payload of a token that one of the provider's keys signed.

    Raises:
        Unknown: none did.
    """
    if not provider.keys:
        raise Unknown("the token is not one of this node's service tokens, and it knows no keys to JWTs")
    try:
        head = _SIGNATURES.get_unverified_header(token)
    except (PyJWTError, ValueError):
        raise Unknown("the token is neither one of this node's service tokens nor a JWT") from None
    algorithms = sorted({key.algorithm_name for key in provider.keys})
    if head.get("alg") not in algorithms:
        raise Unknown(f"the token is signed in another way than {', '.join(algorithms)}")
    name = head.get("kid")
    fitting = [key for key in provider.keys if key.algorithm_name == head["alg"]]
    named = [key for key in fitting if name is None or key.key_id in (None, name)]
    if not named:
        raise Unknown("the token names a key this node does not have; it reads new keys when it starts")
    for key in named:
        try:
            return bytes(_SIGNATURES.decode_complete(token, key, algorithms=[key.algorithm_name])["payload"])
        except InvalidSignatureError:
            continue
        except (PyJWTError, ValueError):
            raise Unknown("the token is no JWT of the form that is taken here") from None
    raise Unknown("the token's signature does not verify")


def _check_times(claims: _Claims, now_s: int) -> None:
    """The clock is the caller's, not this machine's: nodes may run on another time."""
    if now_s >= claims.exp + LEEWAY_S:
        raise Unknown(f"the token expired {now_s - claims.exp:.0f} s ago")
    begins = max(claims.nbf, claims.iat)
    if now_s < begins - LEEWAY_S:
        raise Unknown(f"the token is not valid before {begins - now_s:.0f} s from now")


def _check_place(provider: Provider, claims: _Claims) -> None:
    """A token that says for whom it is, is for nobody else (RFC 7519 §4.1.3)."""
    if provider.issuer and claims.iss != provider.issuer:
        raise Unknown(f"the token is of another issuer than {provider.issuer}")
    audience = (claims.aud,) if isinstance(claims.aud, str) else claims.aud
    if provider.audience and provider.audience not in audience:
        raise Unknown(f"the token is not for {provider.audience}")
    if audience and not provider.audience:
        raise Unknown("the token is for an audience, and this node is told of none: whoosh.audience")


def _is_name(text: str) -> bool:
    return 0 < len(text) <= NAME_CHARS_MAX and is_printable(text) and text != ANONYMOUS


# --- what a node is told at its start ---------------------------------------------------------------------------------


def service_tokens(text: str) -> dict[str, Caller]:
    """Callers by their token, from lines ``NAME ROLE[,ROLE] TOKEN [agent=ID]``; ``#`` begins a line that says nothing.

    A name may stand on several lines with the same rights, so that its token can be replaced without a gap.

    Raises:
        Malformed: another form. The text gives the line, and nothing of what it says: it may be a token out of place.
    """
    found: dict[str, Caller] = {}
    rights: dict[str, Caller] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            token, caller = _service(words)
            if token in found:
                raise Malformed("the token stands on an earlier line, too")
            if rights.setdefault(caller.name, caller) != caller:
                raise Malformed("the name stands on an earlier line, with other roles or another agent")
        except Malformed as error:
            raise Malformed(f"line {number}: {error.reason}") from None
        found[token] = caller
    return found


def _service(words: list[str]) -> tuple[Secret, Caller]:
    agent = words.pop().removeprefix("agent=") if len(words) == 4 and words[3].startswith("agent=") else None
    if len(words) != 3:
        raise Malformed(f"{len(words)} words; expected NAME ROLE[,ROLE] TOKEN [agent=ID]")
    name, roles, token = words
    held = frozenset(roles.split(","))
    if not held <= set(ROLES):
        raise Malformed(f"the second word is no list of roles; there are {', '.join(ROLES)}")
    if not _is_name(name) or (agent is not None and not _is_name(agent)):
        raise Malformed(f"a name has 1 to {NAME_CHARS_MAX} printable ASCII characters, and is not {ANONYMOUS}")
    if agent is not None and "agent" not in held:
        raise Malformed("agent= is for who holds the role agent")
    if not (TOKEN_CHARS_MIN <= len(token) <= TOKEN_CHARS_MAX and is_printable(token)):
        raise Malformed(f"a token has at least {TOKEN_CHARS_MIN} printable ASCII characters; this has {len(token)}")
    return Secret(token), Caller(name, held, agent or "")


class _KeySet(msgspec.Struct, frozen=True):
    keys: list[dict[str, Any]]


def key_set(data: bytes) -> tuple[JwtKey, ...]:
    """The public keys of a JSON Web Key Set (RFC 7517). Keys that are not for signatures are left out.

    Raises:
        Malformed: no such set, a secret in it, a key for another algorithm, or none at all.
    """
    try:
        listed = msgspec.json.decode(data, type=_KeySet).keys
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Malformed(f"not a JSON Web Key Set: {str(error)[:120]}") from None
    found = []
    for number, members in enumerate(listed, start=1):
        if _PRIVATE_MEMBERS & members.keys():
            raise Malformed(f"key {number} is private or a shared secret; only public keys may lie in the open")
        if members.get("use", "sig") == "sig":
            found.append(_public_key(number, members))
    if not found:
        raise Malformed("no key for signatures")
    return tuple(found)


def _public_key(number: int, members: dict[str, Any]) -> JwtKey:
    wanted = f"key {number} is not for {', '.join(PUBLIC_KEY_ALGORITHMS)}"
    if members.get("alg", PUBLIC_KEY_ALGORITHMS[0]) not in PUBLIC_KEY_ALGORITHMS:
        raise Malformed(wanted)
    try:
        key = PyJWK(members)
        key.Algorithm.prepare_key(key.key)
    except (PyJWTError, KeyError):
        raise Malformed(f"{wanted}, or is not complete") from None
    if key.algorithm_name not in PUBLIC_KEY_ALGORITHMS or not isinstance(members.get("kid", ""), str):
        raise Malformed(wanted)
    if weakness := key.Algorithm.check_key_length(key.key):
        raise Malformed(f"key {number}: {weakness}")
    return key


def shared_secret(secret: str) -> JwtKey:
    """The key that a secret is which this node and an identity provider share.

    Raises:
        Malformed: too short, or not a secret but the public key it was taken for.
    """
    if len(secret.encode()) < SHARED_SECRET_BYTES_MIN:
        raise Malformed(f"a shared secret has at least {SHARED_SECRET_BYTES_MIN} bytes; this has {len(secret)}")
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except PyJWTError:
        raise Malformed("this is a key or a certificate; public keys go into whoosh.jwks") from None
    return PyJWK(HMACAlgorithm.to_jwk(secret, as_dict=True), SHARED_SECRET_ALGORITHM)
