"""The wire format of the license authority: the one place that knows how KACHING is asked and how its answer reads.

Nothing public says what KACHING's requests and answers look like. So what is sent and what is read is the plainest form
there is, one JSON request and a token in JWS compact form signed with Ed25519 (RFC 7515, RFC 8037), and every path,
header and member has its name from the configuration. An empty name means: not sent, not there.

A token is believed only if the authority's key signed it, for this cluster and license, as an answer to this very
question (its nonce), at a time that is not far from ours. This module must never keep a token: what it says goes on
record, and its fingerprint.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from math import isfinite
from typing import Any, NamedTuple

import msgspec

from cluster.egress import Call, Reply
from swoosh import canonical, facts, limits, signing
from swoosh.errors import Malformed
from swoosh.hashing import digest_bytes

TIMEOUT_SECONDS = 5.0
CLOCKS_APART_MS = 5 * 60_000
"""A token issued so far from now is taken for a fault of some clock."""
RETRY_AFTER_SECONDS_MAX = 3_600.0
TOKEN_CHARS_MAX = 16 * 1024
STATUSES = ("active", "grace", "suspended", "expired", "denied")
_THROTTLED = (429, 503)


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the members of the question."""

    cluster_id: str = "cluster_id"
    node_id: str = "node_id"
    nonce: str = "nonce"


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the members of a token. Times are seconds since 1970 UTC (RFC 7519 §2) or RFC 3339 text."""

    license_id: str = "license_id"
    cluster_id: str = "sub"
    nonce: str = "nonce"
    issued_at: str = "iat"
    valid_until: str = "exp"
    status: str = "status"
    grace_until: str = "grace_until"
    features: str = "features"
    max_nodes: str = "max_nodes"


class Terms(NamedTuple):
    """How one authority is asked about one license.

    ``public_key`` is the authority's, 32 bytes; ``reply_token`` the member of the answer that holds the token, empty
    where the answer is the token; ``statuses`` what the authority's words for a status mean, where they are not ours.
    """

    url: str
    license_id: str
    secret: str
    public_key: bytes
    secret_header: str = "Authorization"
    secret_prefix: str = "Bearer "
    reply_token: str = "token"
    asked: Asked = Asked()
    claims: Claims = Claims()
    statuses: Mapping[str, str] = {}


class NoWord(Exception):
    """The authority gave no answer that counts, for the reason given; which is not a no."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        """``retry_after``: seconds for which it asked to be left alone."""
        super().__init__(reason)
        self.retry_after = retry_after


def question(terms: Terms, *, cluster_id: str, node_id: str, nonce: str) -> Call:
    """Ask for a token."""
    values = {"cluster_id": cluster_id, "node_id": node_id, "nonce": nonce}
    body = {name: values[field] for field, name in _named(terms.asked)}
    headers = {"Content-Type": "application/json"}
    if terms.secret_header:
        headers[terms.secret_header] = terms.secret_prefix + terms.secret
    return Call("kaching", "POST", terms.url, msgspec.json.encode(body), headers, timeout=TIMEOUT_SECONDS)


def answer(terms: Terms, reply: Reply, *, cluster_id: str, nonce: str, now_ms: int) -> facts.License:
    """What the authority says about the license. A signed no counts under whatever status it comes.

    Raises:
        NoWord: it is throttling, or there is no token that counts in its answer.
    """
    if reply.status in _THROTTLED:
        raise NoWord(f"it is throttling: status {reply.status}", _retry_after(reply.headers.get("retry-after", "")))
    token = _token(terms, reply)
    if len(token) > TOKEN_CHARS_MAX:
        raise NoWord(f"its token has {len(token)} characters; up to {TOKEN_CHARS_MAX} are read")
    said = _verified(terms, token)
    claims = {field: said.get(name) for field, name in _named(terms.claims)}
    expected = {"license_id": terms.license_id, "cluster_id": cluster_id, "nonce": nonce}
    for field, value in expected.items():
        if claims.get(field, value) != value:
            raise NoWord(f"its token is about another {field}: {str(claims[field])[:80]!r}")
    if "issued_at" in claims and abs(_moment(claims["issued_at"], "issued_at") - now_ms) > CLOCKS_APART_MS:
        raise NoWord(f"its token was issued at {claims['issued_at']}, far from now; is a clock wrong?")
    return _license(terms, claims, token)


def _license(terms: Terms, claims: Mapping[str, Any], token: str) -> facts.License:
    status = terms.statuses.get(str(claims["status"]), claims["status"])
    if status not in STATUSES:
        raise NoWord(f"its token has a status that means nothing here: {str(status)[:80]!r}; see kaching.statuses")
    grace = claims.get("grace_until")
    body = {
        "license_id": terms.license_id,
        "status": status,
        "valid_until": _moment(claims["valid_until"], "valid_until"),
        "grace_until": 0 if grace is None else _moment(grace, "grace_until"),
        "features": claims.get("features") or [],
        "max_nodes": claims.get("max_nodes"),
        "token_fingerprint": digest_bytes(token.encode()).hex(),
    }
    try:
        canonical.check(body, "token")
        return msgspec.convert(body, facts.License)
    except (msgspec.ValidationError, Malformed) as error:
        raise NoWord(f"its token does not read: {error}"[:300]) from None


# --- the token --------------------------------------------------------------------------------------------------------


def _token(terms: Terms, reply: Reply) -> str:
    try:
        if not terms.reply_token:
            return reply.body.decode("ascii").strip()
        return msgspec.convert(msgspec.json.decode(reply.body, type=dict[str, Any]).get(terms.reply_token), str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise NoWord(f"status {reply.status} without a token, which is not a signed no") from None


def _verified(terms: Terms, token: str) -> dict[str, Any]:
    """The claims of a token that the authority signed."""
    signed, _, signature = token.rpartition(".")
    header, _, payload = signed.partition(".")
    if not token.isascii() or not signing.verify(terms.public_key, signed.encode(), signature):
        raise NoWord("its token is not signed by the authority's key; see kaching.public_key")
    if _part(header).get("alg") not in ("EdDSA", "Ed25519"):
        raise NoWord("its token names another algorithm than EdDSA")
    return _part(payload)


def _part(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=dict[str, Any])
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise NoWord("its token is not in JWS compact form") from None


def _moment(value: Any, name: str) -> int:
    """Milliseconds since 1970."""
    try:
        if isinstance(value, str) and (moment := datetime.fromisoformat(value)).tzinfo:
            value = moment.timestamp()
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
            return max(0, min(round(value * 1000), limits.HLC_MS_MAX))
    except (ValueError, OverflowError):
        pass
    raise NoWord(f"the {name} of its token is no time: {str(value)[:80]!r}")


def _retry_after(text: str) -> float:
    """Seconds; of a date, or of nonsense, none."""
    return min(float(text), RETRY_AFTER_SECONDS_MAX) if text.isascii() and text.isdecimal() else 0.0


def _named(names: Asked | Claims) -> list[tuple[str, str]]:
    """(what it is, what the authority calls it), for what it has."""
    return [(field, name) for field, name in msgspec.structs.asdict(names).items() if name]
