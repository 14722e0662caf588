"""The scanner: where in a value policy finds something, and the value without it.

A value is text, or JSON of any depth. Every text in it is looked at, together with the name it is filed under, because
a name tells what a text alone would not. Most values hold nothing that even begins like a secret, and for them a scan
is one pass over all texts at once. The same value gives the same findings in the same order on every node.

A value that was found must never leave this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from cluster.shhh.pattern import TOKEN, Probe
from cluster.shhh.policy import Policy, Rule, Severity, Verdict
from swoosh import limits
from swoosh.hashing import digest

REDACTED = "[REDACTED]"
LINE_FEED = "\n"
_SIGNATURE_CHARS = 86
_BASE64URL = re.compile(f"{TOKEN}*+")
_STEM = 8
"""Letters of a prefix that are looked for first; prefixes that share them are looked for once."""


class Finding(NamedTuple):
    """What a rule found: where (``inputs.brief``, ``evidence[2]``), and the hash of the value."""

    location: str
    rule: str
    severity: Severity
    verdict: Verdict
    value_hash: str


_Leaf = tuple[str, str | int, str]
"""A text of a value: the path of what it is in, its name or position there, and ``name=text``."""
_Armed = tuple[Rule, Probe]


class Scanner:
    """One policy at work."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        armed = [each for each in policy.probes if policy.verdicts[each[0].name] is not Verdict.ALLOW]
        self._plain = _by_stem(each for each in armed if not each[1].folds)
        self._folded = _by_stem(each for each in armed if each[1].folds)

    def scan(self, value: Any, at: str = "") -> tuple[Finding, ...]:
        """What policy redacts or quarantines in a value, one finding for each rule and location, in order of these.

        ``at`` is where the value is itself.
        """
        leaves = _leaves(value, at)
        suspects = self._suspects(LINE_FEED.join([text for _, _, text in leaves]))
        if not suspects:
            return ()
        return _ordered(
            self._finding(_place(path, name), rule, text[start:end])
            for path, name, text in leaves
            for start, end, rule in _matches(text, suspects)
        )

    def scan_lines(self, text: str, name: str) -> tuple[Finding, ...]:
        """The same in the text of a file; locations are ``name:line``."""
        return _ordered(
            self._finding(f"{name}:{text.count(LINE_FEED, 0, start) + 1}", rule, text[start:end])
            for start, end, rule in _matches(text, self._suspects(text))
        )

    def redact(self, value: Any) -> tuple[Any, tuple[str, ...]]:
        """The value with `REDACTED` in place of what policy redacts or quarantines, and the locations of that.

        What holds nothing of it comes back as it is; what does is copied into dicts and lists.
        """
        findings = self.scan(value)
        if not findings:
            return value, ()
        return self._cleaned(value, ""), tuple(dict.fromkeys(finding.location for finding in findings))

    def redact_text(self, text: str) -> str:
        """A text without what policy redacts or quarantines."""
        suspects = self._suspects(text)
        return _without(text, 0, suspects) if suspects else text

    def begun(self, text: str) -> tuple[str, ...]:
        """The rules of which a value may begin in a text that was cut: half a secret has no form."""
        return tuple(dict.fromkeys(rule.name for rule, probe in self._suspects(text) if probe.begun.search(text)))

    def _finding(self, place: str, rule: Rule, value: str) -> Finding:
        location = self.redact_text(place)[: limits.ADDRESS_CHARS_MAX]
        return Finding(location, rule.name, rule.severity, self.policy.verdicts[rule.name], _hash_of(value))

    def _cleaned(self, value: Any, name: str) -> Any:
        match value:
            case str() if not _is_signature(name, value):
                text = f"{name}={value}" if name else value
                return _without(text, len(text) - len(value), self._suspects(text))
            case dict():
                return {self.redact_text(str(key)): self._cleaned(inner, str(key)) for key, inner in value.items()}
            case list() | tuple():
                return [self._cleaned(inner, "") for inner in value]
            case _:
                return value

    def _suspects(self, text: str) -> list[_Armed]:
        """The probes that may find something: their first letters are there."""
        found = [each for stem, armed in self._plain.items() if stem in text for each in armed]
        folded = text.lower()
        found += [each for stem, armed in self._folded.items() if stem in folded for each in armed]
        return found


def _hash_of(value: str) -> str:
    """By which a value is told from others without being told."""
    return digest("secret", value)


def _ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The first of each location and rule, in order of these."""
    found: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        found.setdefault((finding.location, finding.rule), finding)
    return tuple(found[key] for key in sorted(found))


def _by_stem(armed: Iterable[_Armed]) -> dict[str, list[_Armed]]:
    """The probes under a part of their prefix; a stem that holds a shorter one gives way to it."""
    found: dict[str, list[_Armed]] = {}
    for rule, probe in sorted(armed, key=lambda each: len(each[1].prefix)):
        letters = probe.prefix[:_STEM]
        found.setdefault(next((stem for stem in found if stem in letters), letters), []).append((rule, probe))
    return found


def _leaves(value: Any, at: str) -> list[_Leaf]:
    """Every text, each with the name it is filed under; the name of what is no text is a text of its own."""
    if isinstance(value, str):
        return [(at, "", value)]
    found: list[_Leaf] = []
    waiting: list[tuple[Any, str]] = [(value, at)]
    while waiting:
        node, path = waiting.pop()
        if isinstance(node, dict):
            for name, child in node.items():
                if isinstance(child, str):
                    if not _is_signature(name, child):
                        found.append((path, name, f"{name}={child}"))
                else:
                    found.append((path, name, f"{name}"))
                    waiting.append((child, _place(path, name)))
        elif isinstance(node, list | tuple):
            for position, child in enumerate(node):
                if isinstance(child, str):
                    found.append((path, position, child))
                else:
                    waiting.append((child, f"{path}[{position}]"))
    return found


def _place(path: str, name: str | int) -> str:
    if isinstance(name, int):
        return f"{path}[{name}]"
    return f"{path}.{name}" if path and name else path or name


def _is_signature(name: str, text: str) -> bool:
    """Ed25519 signatures are 64 bytes of chance, and chance spells anything in time."""
    return name == "signature" and len(text) == _SIGNATURE_CHARS and _BASE64URL.fullmatch(text) is not None


def _matches(text: str, suspects: list[_Armed]) -> list[tuple[int, int, Rule]]:
    """Start, end and rule of each match, in order."""
    found = [(*match.span(1), rule) for rule, probe in suspects for match in probe.regex.finditer(text)]
    return sorted(found, key=lambda match: (match[0], match[1], match[2].name))


def _without(text: str, start: int, suspects: list[_Armed]) -> str:
    """The text from `start` on, with each stretch of matches replaced."""
    kept: list[str] = []
    at = start
    for first, last, _ in _matches(text, suspects):
        if last <= at:
            continue
        if first >= at:
            kept.append(text[at:first])
        if first >= at or not kept:
            kept.append(REDACTED)
        at = last
    return "".join([*kept, text[at:]])
