"""The sections of a node's configuration that tell of outside systems, and of callers that know WHOOSH.

Each is a table of the TOML file as it is written, says what is wrong with it, and becomes what its provider is handed.
A section that is left out is a system that does not exist. This module must never read a file: secrets are opened, and
other files read, by who is handed their name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from cluster import callers, profiles, whoosh
from cluster.providers import backbeat, bubble, kaching_wire, slurp
from cluster.providers.beats import AGENT_NAME, CLUSTER_NAME
from cluster.providers.broker import Access
from cluster.providers.environment import Hook
from cluster.providers.mcp_probe import ToolServer
from cluster.providers.templates import Template
from cluster.vault import Secret
from swoosh import limits
from swoosh.errors import Malformed
from swoosh.hashing import is_hex
from swoosh.inputs import is_printable

A = TypeVar("A")
B = TypeVar("B")

Opener = Callable[[str, str], Secret]
"""(key of the setting, name of the file): what the sealed file holds; nothing where no file is named."""
Reader = Callable[[str, str], bytes]
"""(key of the setting, name of the file): what a file that is no secret holds."""


class Sink(NamedTuple):
    """Where the records of an outbox go: a file of JSON lines (``path``), or a ``url``; neither: nowhere.

    ``{project}`` and ``{id}`` in the URL are filled in; ``token`` is sent as a bearer token; ``fields`` is a template
    (cluster/providers/templates.py).
    """

    path: Path | None = None
    url: str = ""
    method: str = "POST"
    token: str = ""
    fields: Mapping[str, str] = MappingProxyType({})


NOWHERE = Sink()


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file; unknown keys are refused."""


class Environment(Section, frozen=True):
    """``[environment]``: the effect receiver."""

    url: str = ""
    token: str = ""
    timeout_ms: int = 5_000
    every_ms: int = 5_000

    def faults(self) -> Iterator[str]:
        if self.url and is_no_url(self.url):
            yield f"environment.url: expected http(s)://host, got {self.url[:80]!r}"
        if min(self.timeout_ms, self.every_ms) < 1:
            yield "environment: timeout_ms and every_ms are at least 1"

    def resolve(self, secret: Opener) -> Hook | None:
        if not self.url:
            return None
        return Hook(self.url, secret("environment.token", self.token), self.timeout_ms / 1000, self.every_ms / 1000)


class Kaching(Section, frozen=True):
    """``[kaching]``: the license authority, and how it words things."""

    url: str = ""
    license_id: str = ""
    secret: str = ""
    public_key: str = ""
    path: str = "/v1/licenses/{license_id}/token"
    secret_header: str = "Authorization"
    secret_prefix: str = "Bearer "
    reply_token: str = "token"
    request: kaching_wire.Asked = kaching_wire.Asked()
    claims: kaching_wire.Claims = kaching_wire.Claims()
    statuses: dict[str, str] = {}

    def faults(self) -> Iterator[str]:
        if self == Kaching():
            return
        if is_no_url(self.url):
            yield f"kaching.url: expected http(s)://host[:port], got {self.url[:80]!r}"
        if not self.path.startswith("/"):
            yield f"kaching.path: begins with /, got {self.path[:80]!r}"
        if not self.license_id:
            yield "kaching.license_id: which license is this cluster's?"
        if self.secret_header and not self.secret:
            yield "kaching.secret: name the file that holds the client secret, or set secret_header to nothing"
        if not is_hex(self.public_key, 64):
            yield "kaching.public_key: the authority's Ed25519 key, 64 lower-case hex digits"
        if not (self.claims.status and self.claims.valid_until):
            yield "kaching.claims: status and valid_until must be named; a token without them says nothing"
        for word, status in self.statuses.items():
            if status not in kaching_wire.STATUSES:
                yield f"kaching.statuses: {word[:80]!r} must mean one of {', '.join(kaching_wire.STATUSES)}"

    def resolve(self, secret: Opener) -> kaching_wire.Terms | None:
        if not self.url:
            return None
        return kaching_wire.Terms(
            url=self.url.rstrip("/") + self.path.replace("{license_id}", quote(self.license_id, safe="")),
            license_id=self.license_id,
            secret=secret("kaching.secret", self.secret),
            public_key=bytes.fromhex(self.public_key),
            secret_header=self.secret_header,
            secret_prefix=self.secret_prefix,
            reply_token=self.reply_token,
            asked=self.request,
            claims=self.claims,
            statuses=self.statuses,
        )

    def notices(self) -> Iterator[str]:
        if self.url.startswith("http:"):
            yield "kaching.url: the client secret travels in clear; use https in production"


class Backbeat(Section, frozen=True):
    """``[backbeat]``: the NATS servers, and what beats, reports and claims are called there."""

    url: str = ""
    cluster: str = ""
    agent: str = ""
    credentials: str = ""
    authorities: str = ""
    certificate: str = ""
    certificate_key: str = ""
    beat_subject: str = "backbeat.{cluster}.beat"
    report_subject: str = "backbeat.{cluster}.report"
    status_subject: str = "backbeat.status.{agent}"
    key_header: str = "X-Backbeat-Key"
    signature_header: str = "X-Backbeat-Signature"

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(url.strip() for url in self.url.split(",") if url.strip())

    def faults(self) -> Iterator[str]:
        if not self.url:
            if self != Backbeat():
                yield "backbeat: url is missing, and without it there is no BACKBEAT"
            return
        for url in self.urls:
            if "@" in url:
                yield "backbeat.url: names and passwords belong in the file that backbeat.credentials names"
            elif not _is_broker(url):
                yield f"backbeat.url: expected nats://host:port or tls://host:port, got {url[:80]!r}"
        if not re.fullmatch(CLUSTER_NAME, self.cluster):
            yield f"backbeat.cluster: expected the cluster_id of the frames, got {self.cluster[:80]!r}"
        if self.agent and not re.fullmatch(AGENT_NAME, self.agent):
            yield f"backbeat.agent: expected 1 to 128 of letters, digits, _ : -, got {self.agent[:80]!r}"

    def resolve(self, secret: Opener, folder: Path, cluster_id: str, authorities: str) -> backbeat.Settings | None:
        """`cluster_id` is what the cluster is called there by default, `authorities` whom the node trusts elsewhere."""
        if not self.url:
            return None
        agent = self.agent or cluster_id

        def subject(text: str) -> str:
            return text.replace("{cluster}", self.cluster).replace("{agent}", agent)

        def path(name: str) -> Path | None:
            return folder / name if name else None

        return backbeat.Settings(
            urls=self.urls,
            cluster=self.cluster,
            agent=agent,
            beats=subject(self.beat_subject),
            reports=subject(self.report_subject),
            claims=subject(self.status_subject),
            key_header=self.key_header,
            signature_header=self.signature_header,
            access=Access(
                login=secret("backbeat.credentials", self.credentials),
                authorities=path(self.authorities or authorities),
                certificate=path(self.certificate),
                certificate_key=secret("backbeat.certificate_key", self.certificate_key),
            ),
        )


class Tool(Section, frozen=True):
    """One of ``[mcp.servers]``."""

    url: str
    token: str = ""


class Mcp(Section, frozen=True):
    """``[mcp]``: the tool servers that are looked at, by name."""

    interval_ms: int = 5_000
    timeout_ms: int = 5_000
    servers: dict[str, Tool] = {}

    def faults(self) -> Iterator[str]:
        if min(self.interval_ms, self.timeout_ms) < 1:
            yield "mcp: interval_ms and timeout_ms are at least 1"
        for name, server in self.servers.items():
            if not (0 < len(name) <= limits.NAME_CHARS_MAX and is_printable(name)):
                most = limits.NAME_CHARS_MAX
                yield f"mcp.servers: {name[:80]!r}: expected 1 to {most} printable characters, no space"
            if is_no_url(server.url):
                yield f"mcp.servers.{name}.url: expected http(s)://host/path; a password belongs into token's file"

    def resolve(self, secret: Opener) -> tuple[ToolServer, ...]:
        every, timeout = self.interval_ms / 1000, self.timeout_ms / 1000
        return tuple(
            ToolServer(name, server.url, secret(f"mcp.servers.{name}.token", server.token), every, timeout)
            for name, server in sorted(self.servers.items())
        )


class Bubble(Section, frozen=True):
    """``[bubble]``: where Decision Records go."""

    path: str = ""
    url: str = ""
    method: str = "POST"
    token: str = ""
    fields: dict[str, str] = {}

    name: ClassVar[str] = "bubble"
    members: ClassVar[Collection[str]] = bubble.MEMBERS

    def faults(self) -> Iterator[str]:
        if self.path and self.url:
            yield f"{self.name}: either path or url"
        if self.url and is_no_url(self.url):
            yield f"{self.name}.url: expected http(s)://host/path, without a password"
        if self.method not in ("POST", "PUT"):
            yield f"{self.name}.method: POST or PUT, got {self.method[:20]!r}"
        try:
            Template(self.fields, self.members)
        except ValueError as error:
            yield f"{self.name}.fields: {error}"

    def resolve(self, secret: Opener, folder: Path) -> Sink:
        return Sink(
            path=folder / self.path if self.path else None,
            url=self.url,
            method=self.method,
            token=secret(f"{self.name}.token", self.token),
            fields=self.fields,
        )


class Slurp(Bubble, frozen=True):
    """``[slurp]``: where submission records go."""

    name: ClassVar[str] = "slurp"
    members: ClassVar[Collection[str]] = slurp.MEMBERS


class Whoosh(Section, frozen=True):
    """``[whoosh]``: who may call as if this were WHOOSH, and which agents are asked into councils."""

    anonymous: tuple[str, ...] = ()
    tokens: str = ""
    jwks: str = ""
    jwt_secret: str = ""
    issuer: str = ""
    audience: str = ""
    gitea_secret: str = ""
    origins: tuple[str, ...] = ()
    rate_per_minute: int = 100
    agents: tuple[str, ...] = ()
    roles: str = ""
    formation_seconds: int = 1_800
    rebroadcast_seconds: int = 30
    agent_seconds: int = 900

    def faults(self) -> Iterator[str]:
        for role in self.anonymous:
            if role not in callers.ROLES:
                yield f"whoosh.anonymous: expected some of {', '.join(callers.ROLES)}, got {role[:80]!r}"
        if (self.issuer or self.audience) and not (self.jwks or self.jwt_secret):
            yield "whoosh: issuer and audience are of JWTs, and without jwks or jwt_secret none is believed"
        for origin in self.origins:
            if not _is_origin(origin):
                yield f"whoosh.origins: expected http(s)://host[:port] as a browser sends it, got {origin[:80]!r}"
        for pattern in self.agents:
            if not re.fullmatch(r"(?:[\w.*-]+|\[[0-9A-Fa-f:.*]+\]):(?:\d{1,5}|\*)", pattern, re.ASCII):
                yield f"whoosh.agents: expected host:port, either with *, got {pattern[:80]!r}"
        if self.rate_per_minute < 0:
            yield "whoosh.rate_per_minute is not negative; 0 refuses nobody"
        if min(self.formation_seconds, self.rebroadcast_seconds, self.agent_seconds) < 1:
            yield "whoosh: formation_seconds, rebroadcast_seconds and agent_seconds are at least 1"

    def resolve(self, secret: Opener, read: Reader) -> whoosh.Whoosh:
        """What callers.py and its neighbours are handed.

        Raises:
            Malformed: a file does not hold what it should; the text begins with the key that names it.
        """
        return whoosh.Whoosh(
            access=callers.Access(
                tokens=_within("whoosh.tokens", callers.service_tokens, secret("whoosh.tokens", self.tokens)),
                anonymous=frozenset(self.anonymous),
                provider=callers.Provider(self._keys(secret, read), self.issuer, self.audience),
            ),
            gitea_secret=secret("whoosh.gitea_secret", self.gitea_secret),
            origins=self.origins,
            rate_per_minute=self.rate_per_minute,
            agents=self.agents,
            profiles=_within("whoosh.roles", profiles.read, read("whoosh.roles", self.roles)) if self.roles else {},
            formation=float(self.formation_seconds),
            rebroadcast=float(self.rebroadcast_seconds),
            agent_life=float(self.agent_seconds),
        )

    def _keys(self, secret: Opener, read: Reader) -> tuple[callers.JwtKey, ...]:
        keys: tuple[callers.JwtKey, ...] = ()
        if self.jwks:
            keys += _within("whoosh.jwks", callers.key_set, read("whoosh.jwks", self.jwks))
        if self.jwt_secret:
            shared = secret("whoosh.jwt_secret", self.jwt_secret)
            keys += (_within("whoosh.jwt_secret", callers.shared_secret, shared),)
        return keys


def _within(key: str, reader: Callable[[A], B], content: A) -> B:
    """What a file holds; a fault in it names the setting."""
    try:
        return reader(content)
    except Malformed as error:
        raise Malformed(f"{key}: {error.reason}") from None


def _is_origin(text: str) -> bool:
    """Whether a browser could send this: no path, no wildcard, lower case, no port that goes without saying."""
    if is_no_url(text):
        return False
    parts = urlsplit(text)
    host = parts.hostname or ""
    usual = {"http": 80, "https": 443}[parts.scheme]
    port = f":{parts.port}" if parts.port not in (None, usual) else ""
    spelled = f"[{host}]" if ":" in host else host
    return "*" not in text and text == f"{parts.scheme}://{spelled}{port}"


def is_no_url(text: str) -> bool:
    """Whether something is not ``http(s)://host[:port][/path]``: no name or password, no fragment."""
    try:
        parts = urlsplit(text)
        named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return True
    return parts.scheme not in ("http", "https") or not named or "@" in parts.netloc or bool(parts.fragment)


def _is_broker(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("nats", "tls") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
