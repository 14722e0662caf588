"""What a node does about a request in which its policy finds something; asked once, at the node that takes the request.

A request that holds what policy quarantines goes no further: it is refused with the findings, and the node proposes
POLICY_BREACHED on the project it is about, under its own key. So the verdict enters the log in place of the request,
and every replica has the same one, whatever its own policy says. Nothing that was found is in what this module hands
on: findings carry places and hashes, and a refusal that might quote the request says only what was found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog

from cluster.answers import Answer, Unavailable
from cluster.providers.leading import Voice
from cluster.shhh import report
from cluster.shhh.scanner import LINE_FEED, Finding, Scanner
from swoosh import canonical, limits, principal
from swoosh.entry import Item
from swoosh.hashing import digest_hex
from swoosh.outcome import Accepted, Code, Refused
from swoosh.proposal import CLUSTER, DEFAULT_PROJECT

BREACH_KEY = "breach:"
_RENEWED = frozenset({"signature", "hlc", "current_state_hash"})
"""What differs when the same request is sent again."""
_MOVED_ON = frozenset({Code.STALE_STATE, Code.HLC_REGRESSION, Code.HLC_TIE})
_log = structlog.get_logger(__name__)

Submit = Callable[[Sequence[Item], float], Awaitable[list[Answer]]]


class Read(Protocol):
    """`Node.read`."""

    async def __call__(self, consistency: str, deadline: float, *, min_index: int = 0) -> Unavailable | None: ...


class _Names(NamedTuple):
    project: str
    transition: str
    idem_key: str


class Screen:
    """The policy of one node at its door.

    Args:
        voice: under which breaches are proposed.
        read: waits until this node has applied what is committed.
        submit: takes a proposal to the leader, whoever that is.
    """

    def __init__(self, scanner: Scanner, voice: Voice, read: Read, submit: Submit) -> None:
        self.scanner = scanner
        self._voice, self._read, self._submit = voice, read, submit
        self.counts: Counter[str] = Counter()
        """Findings in requests by verdict."""

    def look(self, document: Any) -> tuple[Finding, ...]:
        """What policy redacts or quarantines in a request."""
        findings = self.scanner.scan(document)
        self.counts.update(finding.verdict for finding in findings)
        return findings

    def unquoted(self, refused: Refused) -> Refused:
        """A refusal that was not judged on state, without what it may quote of a secret, cut or whole.

        It looks at what was said and not at what was sent: who is refused has proved nothing, and may cost nothing.
        """
        names = self._names(msgspec.structs.asdict(refused))
        rules = self.scanner.begun(LINE_FEED.join(refused.reasons))
        reasons = refused.reasons
        if rules:
            reasons = (f"what was sent is not repeated here, because it looks like {', '.join(rules)}",)
        return msgspec.structs.replace(refused, reasons=reasons, **names._asdict())

    async def refuse(
        self, document: Any, findings: Sequence[Finding], deadline: float, *, dry_run: bool
    ) -> Refused | Unavailable:
        """Hold every project the request is about in which something was found, and say what; or why a breach could
        not be put on record. The request itself was not submitted in either case. A dry run holds nothing.

        ``findings`` are those that quarantine.
        """
        if not dry_run:
            _log.warning("request refused by policy", findings=[_said(each) for each in findings])
            key = BREACH_KEY + digest_hex("request", canonical.encode(_lasting(document)))
            for project, inputs in self._breaches(document):
                missing = await self._hold(project, inputs, key, deadline)
                if missing is not None:
                    return missing
        told = findings[: limits.FINDINGS_MAX]
        return Refused(
            Code.QUARANTINED,
            tuple(f"{each.rule} ({each.severity}) at {each.location}" for each in told),
            *self._names(document),
            findings=tuple(map(_said, told)),
        )

    def document(self) -> dict[str, Any]:
        """For `/health`: the policy of this node, and what the leader says is in force."""
        held = self._voice.machine.registry.fact("policy", "policy")
        mine = {"version": self.scanner.policy.version, "hash": self.scanner.policy.hash}
        leaders = None if held is None else {"version": held.body["version"], "hash": held.body["policy_hash"]}
        return {**mine, "leader": leaders, "agrees": leaders is None or leaders == mine}

    def _breaches(self, document: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each project in question, and the inputs of its breach."""
        signer = document.get("signer") or document.get("provider") or ""
        found: dict[str, list[Finding]] = {}
        for part, at in _parts(document):
            project = _project(part)
            if project is not None:
                found.setdefault(project, []).extend(report.quarantining(self.scanner.scan(part, at)))
        who = self.scanner.redact_text(principal.normalise(document.get("on_behalf_of") or signer))
        for project, findings in found.items():
            if findings:
                yield project, report.breach(findings, self.scanner.policy, "a request", principal=who)

    async def _hold(self, project_id: str, inputs: dict[str, Any], key: str, deadline: float) -> Unavailable | None:
        """Quarantine a project, if there is one of this name and nothing holds it yet; why it could not be, or None."""
        machine, clock = self._voice.machine, self._voice.clock
        while True:
            missing = await self._read("linearizable", deadline)
            project = machine.project(project_id)
            if missing is not None or project is None or project.quarantined:
                return missing
            item = self._voice.proposal(project, "POLICY_BREACHED", inputs, key=key)
            [answer] = await self._submit([item], deadline)
            match answer:
                case Accepted(index=index):
                    await self._read("local", deadline, min_index=index)  # so that the answer tells the new HEAD
                    return None
                case Unavailable():
                    return answer
                case Refused(code=code) if code in _MOVED_ON and clock.monotonic() < deadline:
                    continue
                case _:
                    _log.warning("breach not recorded", project=project_id, answer=answer)
                    return None

    def _names(self, document: Any) -> _Names:
        """What a request calls itself, as far as that may be said."""
        names = (str(document.get(name, "")) for name in _Names._fields)
        return _Names(*("" if self.scanner.begun(text) else text for text in names))


def _parts(document: Any) -> list[tuple[Any, str]]:
    """The proposals of a batch, or the one document, each with its place."""
    members = document.get("proposals")
    if not isinstance(members, list):
        return [(document, "")]
    return [(member, f"proposals[{position}]") for position, member in enumerate(members)]


def _project(part: Any) -> str | None:
    """The project that a proposal or a health fact is about. Other facts, orders and commands are about none."""
    if part.get("kind") == "health":
        return str(part["subject"])
    name = part.get("project", DEFAULT_PROJECT)
    return None if name == CLUSTER or "transition" not in part else str(name)


def _lasting(document: Any) -> Any:
    """A request without what its repeat renews."""
    lasting = {name: value for name, value in document.items() if name not in _RENEWED}
    if "proposals" in lasting:
        lasting["proposals"] = [_lasting(member) for member in lasting["proposals"]]
    return lasting


def _said(finding: Finding) -> dict[str, str]:
    return {
        "rule": finding.rule,
        "severity": str(finding.severity),
        "location": finding.location,
        "value_hash": finding.value_hash,
    }
