"""A policy: rules, and what is done about what each of them finds.

A policy is a value with a version and a hash. Five families of secrets are always among its rules; a file adds rules
of its own and lines that say, by rule or tag and from which severity on, whether a finding is allowed, redacted or
quarantined. The first line that fits decides, and behind the file's lines stand the built-in ones. A rule that no
line fits is a mistake and refused, so that nothing is let through because somebody forgot it.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from cluster.shhh.pattern import Probe, named, token
from swoosh import limits
from swoosh.errors import Malformed
from swoosh.hashing import digest
from swoosh.inputs import check_names

PATTERNS_MAX = 32
VERSION = "built-in"

Word = Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARS_MAX)]
Words = Annotated[tuple[str, ...], Meta(max_length=PATTERNS_MAX)]


class Severity(StrEnum):
    """How bad it is that this value got out, from the least to the worst."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for the least."""
        return tuple(Severity).index(self)


class Verdict(StrEnum):
    """What is done: nothing; the value is replaced in what leaves; the request is refused and its project held."""

    ALLOW = "allow"
    REDACT = "redact"
    QUARANTINE = "quarantine"


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is looked for: values of these forms, and what is assigned to names that end so (pattern.py)."""

    name: Word
    severity: Severity
    patterns: Words = ()
    names: Words = ()
    tags: Words = ()

    def probes(self) -> Iterator[Probe]:
        """The rule compiled.

        Raises:
            Malformed: a pattern or name of another form.
        """
        yield from map(token, self.patterns)
        yield from map(named, self.names)


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A verdict for findings of one rule, or of rules with one tag, of at least this severity."""

    verdict: Verdict
    rule: Word | None = None
    tag: Word | None = None
    severity: Severity = Severity.LOW

    def fits(self, rule: Rule) -> bool:
        """Whether it says what is done about what this rule finds."""
        is_meant = rule.name == self.rule if self.tag is None else self.tag in rule.tags
        return is_meant and rule.severity.rank >= self.severity.rank


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a policy file holds."""

    version: Word
    rules: tuple[Rule, ...] = ()
    verdicts: tuple[Line, ...] = ()


_PEM_KINDS = tuple(kind + "PRIVATE KEY" for kind in ("", "RSA ", "EC ", "DSA ", "OPENSSH ", "ENCRYPTED "))
_PEM_BREAK = r"[\s\\nr]{1,8}"  # written out as \n where a key is a text of JSON or of a program
_PEM_BODY = f"-----{_PEM_BREAK}[A-Za-z0-9+/=]{{40}}[^-]{{0,6800}}"
_PEM_HEADERS = f"-----{_PEM_BREAK}Proc-Type: 4,ENCRYPTED{_PEM_BREAK}DEK-Info: [A-Z0-9-]{{3,20}},"

FAMILIES = (
    Rule(
        name="bearer-token",
        severity=Severity.HIGH,
        patterns=tuple(
            # The JSON of a JWT begins with alg, typ or kid.
            rf"{head}[A-Za-z0-9_-]{{4,400}}\.eyJ[A-Za-z0-9_-]{{8,1600}}\.[A-Za-z0-9_-]{{8,512}}"
            for head in ("eyJhbGciOi", "eyJ0eXAiOi", "eyJraWQiOi")
        ),
        names=("bearer",),
        tags=("secret",),
    ),
    Rule(
        name="api-key",
        severity=Severity.HIGH,
        patterns=(
            "AKIA[0-9A-Z]{16}",
            "ASIA[0-9A-Z]{16}",
            "AIza[0-9A-Za-z_-]{35}",
            "ghp_[A-Za-z0-9]{36}",
            "github_pat_[A-Za-z0-9_]{82}",
            "glpat-[A-Za-z0-9_-]{20,64}",
            "npm_[A-Za-z0-9]{36}",
            "sk_live_[A-Za-z0-9]{20,128}",
            "rk_live_[A-Za-z0-9]{20,128}",
            "sk-ant-[A-Za-z0-9_-]{20,200}",
        ),
        names=("api_key", "secret_access_key"),
        tags=("secret",),
    ),
    Rule(
        name="oauth-token",
        severity=Severity.HIGH,
        patterns=(
            "gho_[A-Za-z0-9]{36}",
            "ghs_[A-Za-z0-9]{36}",
            "ghu_[A-Za-z0-9]{36}",
            "ghr_[A-Za-z0-9]{36}",
            "ghr_[A-Za-z0-9]{76}",
            "xox[abeoprs]-[0-9]{6,14}-[A-Za-z0-9-]{10,200}",
            r"ya29\.[A-Za-z0-9_-]{20,512}",
            "GOCSPX-[A-Za-z0-9_-]{28}",
        ),
        names=("access_token", "auth_token", "refresh_token", "client_secret"),
        tags=("secret",),
    ),
    Rule(
        name="private-key",
        severity=Severity.CRITICAL,
        patterns=(
            *(f"-----BEGIN {kind}{_PEM_BODY}" for kind in _PEM_KINDS),
            *(f"-----BEGIN {kind}{_PEM_HEADERS}[0-9A-F]{{16,32}}[^-]{{40,6800}}" for kind in _PEM_KINDS[1:4]),
            r"-----BEGIN PGP PRIVATE KEY BLOCK-----\s{1,4}[^-]{40,7000}",
            "AGE-SECRET-KEY-1[0-9A-Z]{58}",
        ),
        tags=("secret",),
    ),
    Rule(
        name="openai-secret",
        severity=Severity.CRITICAL,
        patterns=(
            "sk-[A-Za-z0-9]{48}",
            "sk-proj-[A-Za-z0-9_-]{20,256}",
            "sk-svcacct-[A-Za-z0-9_-]{20,256}",
            "sk-admin-[A-Za-z0-9_-]{20,256}",
        ),
        tags=("secret",),
    ),
)
LAST_LINES = (
    Line(Verdict.QUARANTINE, tag="secret", severity=Severity.HIGH),
    Line(Verdict.REDACT, tag="secret"),
)


class Policy:
    """A policy in force: its ``version``, its ``hash``, its ``rules`` and the verdict on each.

    Args:
        document: what the file says; None is the built-in policy.

    Raises:
        Malformed: a rule that cannot be matched safely, that is there twice, or about which no line decides; a line
            that names a rule that is not there.
    """

    def __init__(self, document: Document | None = None) -> None:
        said = document or Document(VERSION)
        self.version = said.version
        self.rules = (*FAMILIES, *said.rules)
        lines = (*said.verdicts, *LAST_LINES)
        _check(self.rules, lines)
        self.probes = tuple((rule, probe) for rule in self.rules for probe in rule.probes())
        self.verdicts = {rule.name: _verdict(rule, lines) for rule in self.rules}
        everything = {"version": said.version, "rules": self.rules, "verdicts": lines}
        self.hash = digest("policy", msgspec.to_builtins(everything))

    @property
    def quarantines(self) -> tuple[str, ...]:
        """The rules whose findings hold a project, as POLICY_UPDATED takes them."""
        return tuple(name for name, verdict in self.verdicts.items() if verdict is Verdict.QUARANTINE)


def decode(document: Any) -> Policy:
    """The policy that a parsed file stands for.

    Raises:
        Malformed: as for `Policy`, or unknown, missing or wrongly typed members.
    """
    try:
        return Policy(msgspec.convert(document, Document))
    except msgspec.ValidationError as error:
        raise Malformed(f"policy: {error}") from None


def _check(rules: tuple[Rule, ...], lines: tuple[Line, ...]) -> None:
    names = [rule.name for rule in rules]
    if len(names) > limits.POLICY_RULES_MAX:
        raise Malformed(f"{len(names)} rules; at most {limits.POLICY_RULES_MAX}")
    for rule in rules:
        try:
            check_names("rule", rule.name, *rule.tags)
        except ValueError as error:
            raise Malformed(str(error)) from None
        if names.count(rule.name) > 1:
            raise Malformed(f"rule {rule.name} is there twice; {', '.join(f.name for f in FAMILIES)} are built in")
        if not rule.patterns and not rule.names:
            raise Malformed(f"rule {rule.name} has neither patterns nor names")
    for line in lines:
        if (line.rule is None) == (line.tag is None):
            raise Malformed("a verdict is about a rule or a tag, one of them")
        if line.rule is not None and line.rule not in names:
            raise Malformed(f"a verdict names the rule {line.rule}, which is not there")


def _verdict(rule: Rule, lines: tuple[Line, ...]) -> Verdict:
    for line in lines:
        if line.fits(rule):
            return line.verdict
    raise Malformed(f"no verdict for rule {rule.name} of severity {rule.severity}: add a line, or the tag secret")


BUILT_IN = Policy()
