"""The language of tests/scenarios: what somebody does, `----`, what comes of it.

A file is a story in blocks separated by blank lines. A block holds comment lines (`#`), command lines, a line `----`
and the output, which is compared to the letter; each file begins on a fresh cluster of three nodes.

    cluster [nodes=1] [insecure] [SETTING=VALUE]   begin anew with these settings
    project NAME                                   create a project and mean it from now on; `use NAME` only means it
    drive REGION=PHASE [seats=1]                   honest callers lead the project there (chaos/steer.py)
    propose NAME [OPTION=VALUE] [why] [{inputs}]   one proposal; options: signer head key hlc window behalf in evidence
                                                   votes=a,b forged=c (electors, and electors others signed for)
                                                   chart=#other (the entry was written under another chart)
    batch signer=NAME                              the `+ propose …` lines that follow, under one signature
    raw {object}                                   an object in the log that is no proposal
    fact KIND SUBJECT [by=NAME] [age=MS] [lasts=MS] [term=N] {body}
    again                                          the log's last entry comes once more
    tick MS                                        time passes; `await CLASS` until the window opens that class
    state Region.Field …                           `show phases` for all of them

In inputs `@alice` is a principal, `#corpus` a hash, `$now+1000` milliseconds, `$Council.Basis` what the state says,
`$chart` and `$cluster` this chart's hash and this cluster's id, and `"...": ""` the three hashes that execution stands
on, as they are. Output is written with the same names; other hashes
are left out. `why` prints the reasons of guards that held.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from chaos import steer
from chaos.solo import TERM, Solo
from swoosh import canonical, quorum, signing, state
from swoosh.chart import Chart
from swoosh.entry import ProposalItem
from swoosh.hlc import HLC
from swoosh.outcome import Accepted, FactAccepted, ItemOutcome, Refused

HASH = re.compile(r"sha256-[0-9a-f]{64}")
OPTION = re.compile(r"(\w+)=(\S*)")


class Block(NamedTuple):
    """Commands and what they should print; ``line`` is where it begins."""

    line: int
    head: tuple[str, ...]
    expected: str


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a file; one without `----` is a comment."""
    line = 1
    for part in text.split("\n\n"):
        lines = part.strip("\n").split("\n")
        head = lines[: lines.index("----")] if "----" in lines else lines
        yield Block(line, tuple(head), "\n".join(lines[len(head) + 1 :]))
        line += part.count("\n") + 2


def rewritten(text: str, outputs: list[str]) -> str:
    """The text with these outputs, one per block."""
    parts = []
    for block, output in zip(blocks(text), outputs, strict=True):
        has_commands = any(line and not line.startswith("#") for line in block.head)
        parts.append("\n".join([*block.head, *(["----", output] if has_commands else [])]).rstrip("\n"))
    return "\n\n".join(parts) + "\n"


class Line(NamedTuple):
    """A command line: `VERB word … option=value … {json}`."""

    verb: str
    words: list[str]
    options: dict[str, str]
    body: dict[str, Any] | None

    @classmethod
    def parse(cls, text: str) -> Line:
        before, brace, rest = text.partition("{")
        verb, *words = before.split()
        options = {match[1]: match[2] for word in words if (match := OPTION.fullmatch(word))}
        plain = [word for word in words if not OPTION.fullmatch(word)]
        return cls(verb, plain, options, json.loads(brace + rest) if brace else None)


class Scenario:
    """One story being told. ``outcomes`` has what its own proposals and facts came to, those of `drive` left out."""

    def __init__(self, chart: Chart) -> None:
        self._chart = chart
        self._solo = Solo(chart)
        self.outcomes: list[ItemOutcome] = []
        self._verbs: dict[str, Callable[[Line], str]] = {
            "cluster": self._cluster,
            "project": self._project,
            "use": self._use,
            "drive": self._drive,
            "propose": self._propose,
            "raw": self._raw,
            "fact": self._fact,
            "again": self._again,
            "tick": self._tick,
            "await": self._await,
            "state": self._state,
            "show": self._show,
        }

    def tell(self, block: Block) -> str:
        """Run the commands of a block and return what they print."""
        commands = [line for line in block.head if line and not line.startswith("#")]
        printed: list[str] = []
        while commands:
            line = Line.parse(commands.pop(0))
            if line.verb == "batch":
                members = [Line.parse(each[1:]) for each in commands if each.startswith("+")]
                commands = [each for each in commands if not each.startswith("+")]
                printed.append(self._batch(line, members))
            else:
                printed.append(self._verbs[line.verb](line))
        return self._named("\n".join(text for text in printed if text))

    # --- the stage ---------------------------------------------------------------------------------------------------

    def _cluster(self, line: Line) -> str:
        options = dict(line.options)
        nodes = int(options.pop("nodes", "3"))
        settings = {name: json.loads(value) for name, value in options.items()}
        self._solo = Solo(self._chart, nodes=nodes, settings=settings, insecure="insecure" in line.words)
        return ""

    def _project(self, line: Line) -> str:
        (self._solo.project,) = line.words
        return self._propose(Line("propose", ["PROJECT_CREATED"], {}, {"brief": "a story"}))

    def _use(self, line: Line) -> str:
        (self._solo.project,) = line.words
        return ""

    def _drive(self, line: Line) -> str:
        seats = int(line.options.pop("seats", "3"))
        wanted = line.options
        solo = self._solo
        steer.drive(solo, lambda r: all(getattr(r, name).phase == phase for name, phase in wanted.items()), seats=seats)
        return ""

    def _tick(self, line: Line) -> str:
        self._solo.tick(int(line.words[0]))
        return ""

    def _await(self, line: Line) -> str:
        steer.await_window(self._solo, line.words[0])
        return ""

    # --- what is said ------------------------------------------------------------------------------------------------

    def _propose(self, line: Line) -> str:
        sent = self._document(line)
        item = self._solo.item(sent)
        chart_hash = self._value(line.options["chart"]) if "chart" in line.options else None
        return self._tried(lambda: self._solo.apply(item, chart_hash=chart_hash).outcomes, "why" in line.words)

    def _document(self, line: Line, **defaults: Any) -> dict[str, Any]:
        transition, options = line.words[0], line.options
        given = [name for name in ("head", "hlc", "window", "behalf", "key") if name in options]
        named: dict[str, Any] = {name: self._value(options[name]) for name in given}
        inputs = self._value(line.body or {})
        if "votes" in options or "forged" in options:
            inputs = self._ballots(transition, options, inputs) | inputs
        if "evidence" in options:
            named["evidence"] = options["evidence"].split(",")
        how = {**defaults, **named, "signer": options.get("signer"), "project": options.get("in")}
        return self._solo.document(transition, inputs, **how)

    def _ballots(self, transition: str, options: dict[str, str], inputs: dict[str, Any]) -> dict[str, Any]:
        row = self._chart.project.resolve(transition)
        motions = {"COUNCIL_MEMBER_EJECTED": f"eject:{inputs.get('role')}", "COUNCIL_REELECTION_CALLED": quorum.REELECT}
        motion = motions.get(row.name if row else "", quorum.APPROVE)
        claimed = {name: inputs[name] for name in ("election", "member_set_hash") if name in inputs}
        ballots = self._solo.ballots([name for name in options.get("votes", "").split(",") if name], motion, **claimed)
        for name in [name for name in options.get("forged", "").split(",") if name]:
            signature = signing.sign(self._solo.keys["dave"], b"something else")
            ballots["votes"].append({"voter": self._solo.principals[name], "vote": motion, "signature": signature})
        needs_threshold = motion == quorum.APPROVE
        return ballots | ({"threshold": self._solo.regions().council.threshold} if needs_threshold else {})

    def _batch(self, line: Line, members: list[Line]) -> str:
        first = self._solo.next_hlc(self._solo.project)
        signer = line.options["signer"]
        sent = []
        for position, member in enumerate(members):
            member.options["signer"] = signer
            head = None if position == 0 else "@prev"
            sent.append(self._document(member, head=head, hlc=str(HLC(first.ms, first.counter + position))))
        return self._tried(lambda: self._solo.apply(self._solo.batch(sent, signer)).outcomes, False)

    def _raw(self, line: Line) -> str:
        item = ProposalItem(canonical.encode(self._value(line.body)))
        return self._tried(lambda: self._solo.apply(item).outcomes, False)

    def _again(self, _line: Line) -> str:
        _, _, data = self._solo.log[-1]
        return self._tried(lambda: self._solo.feed(self._solo.machine.position.index + 1, TERM, data).outcomes, False)

    def _fact(self, line: Line) -> str:
        kind, subject = line.words
        now, options = self._solo.now_ms, line.options
        how: dict[str, Any] = {"by": options["by"]} if "by" in options else {}
        if "age" in options:
            how["observed_at"] = now - int(options["age"])
        if "lasts" in options:
            how["expires_at"] = now + int(options["lasts"])
        if "term" in options:
            how["term"] = int(options["term"])
        item = self._solo.fact_item(kind, self._value(subject), self._value(line.body or {}), **how)
        return self._tried(lambda: self._solo.apply(item).outcomes, False)

    # --- what comes of it --------------------------------------------------------------------------------------------

    def _tried(self, act: Callable[[], tuple[ItemOutcome, ...]], why: bool) -> str:
        projects = {name: self._solo.machine.project(name) for name in self._solo.machine.project_ids()}
        outcomes = act()
        self.outcomes += outcomes
        printed = []
        for outcome in outcomes:
            match outcome:
                case FactAccepted(kind=kind, subject=subject):
                    printed.append(f"fact {kind} {subject}")
                case Accepted(duplicate=True):
                    printed.append(f"duplicate {outcome.transition} of seq {outcome.seq}")
                case Accepted() if len(outcomes) > 1:
                    printed.append(f"accepted {outcome.transition}  seq {outcome.seq}")
                case Accepted():
                    before = projects.get(outcome.project) or state.absent(outcome.project)
                    after = self._solo.machine.project(outcome.project) or before
                    printed.append(f"accepted {outcome.transition}  {self._moved(before.regions, after.regions)}")
                case Refused():
                    printed.append(self._refused(outcome))
            if why and isinstance(outcome, Accepted):
                printed += [f"  {guard.name}: {'; '.join(guard.reasons)}" for guard in outcome.guard_outcomes]
        return "\n".join(printed)

    @staticmethod
    def _moved(before: Any, after: Any) -> str:
        moves, epochs = [], []
        for region, served in state.SERVED[type(after)].items():
            if after.epoch.get(served, 0) != before.epoch.get(served, 0):
                source, target = getattr(before, region).phase, getattr(after, region).phase
                moves.append(f"{region} {source}" + (f" -> {target}" if source != target else ""))
                epochs.append(f"epoch({served})={after.epoch[served]}")
        return f"{', '.join(moves)}  {' '.join(epochs)}"

    @staticmethod
    def _refused(outcome: Refused) -> str:
        told = f"refused {outcome.code} {outcome.transition}".rstrip()
        if outcome.failing_guard is None:
            return f"{told}: {'; '.join(outcome.reasons)}"
        failing = (guard for guard in outcome.guard_outcomes if not guard.ok)
        return "\n".join([told, *(f"  {guard.name}: {'; '.join(guard.reasons)}" for guard in failing)])

    def _show(self, line: Line) -> str:
        assert line.words == ["phases"], "show knows phases"
        regions = self._solo.regions()
        return "\n".join(f"{name} {getattr(regions, name).phase}" for name in self._chart.project.regions)

    def _state(self, line: Line) -> str:
        return "\n".join(f"{path} = {self._text(self._looked_up(path))}" for path in line.words)

    # --- names -------------------------------------------------------------------------------------------------------

    def _value(self, value: Any) -> Any:
        """What a text of the story stands for."""
        if isinstance(value, dict) and "..." in value:
            return steer.agreement(self._solo.regions()) | self._value({k: v for k, v in value.items() if k != "..."})
        if isinstance(value, dict):
            return {self._value(name): self._value(member) for name, member in value.items()}
        if isinstance(value, list):
            return [self._value(member) for member in value]
        if not isinstance(value, str) or len(value) < 2:
            return value
        if value[0] == "@" and value[1:] in self._solo.principals:
            return self._solo.principals[value[1:]]
        if value[0] == "#":
            return self._solo.named(value[1:])
        return self._variable(value[1:]) if value[0] == "$" else value

    def _variable(self, name: str) -> Any:
        if name.startswith("now"):
            return self._solo.now_ms + int(name[3:] or 0)
        if name == "chart":
            return self._chart.hash
        if name == "cluster":
            return self._solo.machine.cluster_id
        if name == "head":
            return self._solo.head()
        return self._looked_up(name)

    def _looked_up(self, path: str) -> Any:
        region, *rest = path.split(".")
        name = "@cluster" if region in set(state.SERVED[state.ClusterRegions].values()) - {"Epoch", "HLCLast"} else None
        project = self._solo.machine.project(name or self._solo.project)
        regions = project.regions if project else self._solo.regions()
        value: Any = msgspec.to_builtins(regions, enc_hook=dict)[region]
        for step in rest:
            value = value[self._value(step)]
        return value

    @staticmethod
    def _text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    def _named(self, text: str) -> str:
        """Keys and hashes by the names the story gives them."""
        for principal, name in self._solo.names.items():
            text = text.replace(principal, f"@{name}")
        text = text.replace(self._solo.machine.cluster_id, "$cluster").replace(self._chart.hash, "$chart")
        return HASH.sub(lambda match: f"#{name}" if (name := self._solo.hashes.get(match[0])) else "sha256-…", text)
