"""A crowd of callers: honest ones, hasty ones, confused ones, and some who should not be there.

Each caller works alone, through a random node, on a random project, from its own stream of chance, so a seed repeats
the choices of a run (not its timing, which is the cluster's). The crowd shares what it last heard of each project and
therefore often decides on a state that is no longer HEAD. Every attempt goes into the history; nothing is judged here.

It must never conclude more than a caller may: an answer that does not come is unknown, and is either asked for again
under the same key or left in doubt.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from chaos.ballot import certificate
from chaos.history import Attempt, Read, Verdict
from chaos.recording import Journal
from cluster.config import packaged_chart
from swoosh import canonical, hlc, quorum
from swoosh.client import Key, retry
from swoosh.client.transport import HttpTransport, Lost, NotSent, Reply
from swoosh.hashing import GENESIS, digest
from swoosh.hlc import HLC
from swoosh.proposal import PREVIOUS, inputs_hash
from swoosh.state import GENESIS_HASH

AGENTS = ("agent-1", "agent-2", "agent-3")
ELECTORS = ("elector-1", "elector-2", "elector-3")
SIGNERS = ("proposer", "operator", "provider", "policy", *AGENTS, *ELECTORS)
ROLES = {"lead": "agent-1", "build": "agent-2", "test": "agent-3"}
TOOL, TOOL_VERSION = "git", "2.48"
REGIONS = "Lifecycle,Ingestion,Council,Pause"
ATTEMPT_SECONDS = 5.0
READ_SHARE = 0.05
FACT_SHARE = 0.02
CROWDING_SHARE = 0.15
DOUBT_SHARE = 0.3
BATCH_MAX = 6
HELD_MAX = 64

_JSON = {"Content-Type": "application/json"}


class Move(NamedTuple):
    """A transition somebody may want, and who signs it."""

    transition: str
    inputs: Mapping[str, Any]
    signer: str = "proposer"


class Sending(NamedTuple):
    """A request ready to go: the same bytes as often as it takes."""

    path: str
    body: bytes
    proposals: tuple[dict[str, Any], ...]
    """Each proposal in it, as signed."""


@dataclass(slots=True)
class Picture:
    """What the crowd believes of one project. ``regions`` None: somebody has to look again."""

    head: str = GENESIS
    hlc: HLC = hlc.ZERO
    regions: dict[str, Any] | None = None
    known_heads: list[str] = field(default_factory=list)
    callers: int = 0
    """How many are at it now."""

    @property
    def exists(self) -> bool:
        return self.head != GENESIS


class Workload:
    """``proposals`` in all, over ``projects`` projects, by ``callers`` at a time; more while ``goes_on`` is set.

    Args:
        nodes: base URL of every node that may be asked.
        keys: those ``swoosh init`` made, by name; all of ``SIGNERS``.
    """

    def __init__(
        self,
        cluster_id: str,
        nodes: Mapping[str, str],
        keys: Mapping[str, Key],
        journal: Journal,
        *,
        seed: int,
        proposals: int,
        projects: int = 20,
        callers: int = 16,
    ) -> None:
        self.cluster_id, self.nodes, self._keys, self._journal = cluster_id, nodes, keys, journal
        self.proposals, self.seed = proposals, seed
        self.sent = 0
        self.goes_on = False
        self._callers = [random.Random(f"{seed}/{number}") for number in range(callers)]
        self._pictures = {f"p-{number:02}": Picture() for number in range(projects)}
        self._names = {key.principal: name for name, key in keys.items()}
        self._transport = HttpTransport()
        self._chart = packaged_chart().project
        self._serial = 0
        self._past: list[Sending] = []
        self._held: list[Sending] = []
        self._milestones: list[tuple[int, asyncio.Future[None]]] = []

    async def run(self) -> None:
        """Until everything was proposed and answered, or given up in doubt."""
        try:
            async with asyncio.TaskGroup() as crowd:
                for number, chance in enumerate(self._callers):
                    crowd.create_task(self._caller(f"c{number}", chance))
        finally:
            await self._transport.close()

    async def reached(self, sent: int) -> None:
        """Return once so many proposals are on their way or answered."""
        if self.sent < sent:
            milestone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._milestones.append((sent, milestone))
            await milestone

    def _count(self, proposals: int) -> None:
        self.sent += proposals
        for sent, milestone in self._milestones:
            if sent <= self.sent and not milestone.done():
                milestone.set_result(None)

    async def _caller(self, name: str, chance: random.Random) -> None:
        while self.goes_on or self.sent < self.proposals:
            project = self._pick(chance)
            picture = self._pictures[project]
            picture.callers += 1
            try:
                await self._act(project, name, chance)
            finally:
                picture.callers -= 1

    def _pick(self, chance: random.Random) -> str:
        """Mostly a project nobody is at: with all in each other's way, little but refusals would come of it."""
        quiet = [project for project, picture in self._pictures.items() if not picture.callers]
        return chance.choice(quiet if quiet and chance.random() > CROWDING_SHARE else list(self._pictures))

    async def _act(self, project: str, name: str, chance: random.Random) -> None:
        if self._pictures[project].regions is None or chance.random() < READ_SHARE:
            await self._look(project, chance)
        if chance.random() < FACT_SHARE:
            await self._report(project, chance)
        kind = chance.choices(_KINDS, _WEIGHTS)[0]
        sending = kind(self, project, name, chance)
        self._count(len(sending.proposals))
        self._past.append(sending)
        await self._deliver(sending, chance)

    # --- ways to propose ----------------------------------------------------------------------------------------------

    def _honest(self, project: str, name: str, chance: random.Random) -> Sending:
        """What the project seems to need next, on its HEAD."""
        return self._one(project, name, chance.choice(self._legal(project, chance)))

    def _misplaced(self, project: str, name: str, chance: random.Random) -> Sending:
        """Anything at all; mostly in a wrong phase, or closed by a gate or a guard."""
        moves = [move for phase in _MOVES.values() for move in phase(self, project, chance)]
        return self._one(project, name, chance.choice(moves))

    def _stale(self, project: str, name: str, chance: random.Random) -> Sending:
        """Decided on a state that was HEAD once."""
        heads = self._pictures[project].known_heads or [GENESIS]
        return self._one(project, name, chance.choice(self._legal(project, chance)), head=chance.choice(heads))

    def _late(self, project: str, name: str, chance: random.Random) -> Sending:
        """By a clock that stands in the past."""
        past = str(HLC(self._pictures[project].hlc.ms // 2, 0))
        return self._one(project, name, chance.choice(self._legal(project, chance)), stamp=past)

    def _again(self, project: str, name: str, chance: random.Random) -> Sending:
        """The very bytes of an earlier request."""
        return chance.choice(self._past) if self._past else self._honest(project, name, chance)

    def _renewed(self, project: str, name: str, chance: random.Random) -> Sending:
        """An earlier operation, stamped and signed anew."""
        earlier = [each for each in self._past[-200:] if each.path == "/transition"]
        if not earlier:
            return self._honest(project, name, chance)
        [sent] = chance.choice(earlier).proposals
        move = Move(sent["transition"], sent["inputs"], self._names[sent["signer"]])
        return self._one(sent["project"], name, move, key=sent["idem_key"])

    def _reused(self, project: str, name: str, chance: random.Random) -> Sending:
        """A key that already names another operation, most likely."""
        if not self._past:
            return self._honest(project, name, chance)
        earlier = chance.choice(self._past[-200:]).proposals[0]
        other = Move("CONTROL_PAUSED", {"reason": f"reused by {name}"}, "operator")
        return self._one(earlier["project"], name, other, key=earlier["idem_key"])

    def _reordered(self, project: str, name: str, chance: random.Random) -> Sending:
        """Something signed a while ago goes out now, and something signed now will go out later."""
        self._held.append(self._honest(project, name, chance))
        if len(self._held) > HELD_MAX:
            return self._held.pop(chance.randrange(len(self._held)))
        return self._honest(project, name, chance)

    def _stranger(self, project: str, name: str, chance: random.Random) -> Sending:
        """By somebody who may not, with a signature that is not theirs, or of no known form."""
        move = chance.choice(self._legal(project, chance))
        match chance.randrange(4):
            case 0:
                return self._one(project, name, move._replace(signer="elector-1"))
            case 1:
                return self._one(project, name, move, signature_of="policy")
            case 2:
                return self._one(project, name, Move("EVERYTHING_DONE", {}))
            case _:
                return self._one(project, name, move._replace(inputs={**move.inputs, "surprise": 1}))

    def _batch(self, project: str, name: str, chance: random.Random) -> Sending:
        """Several under one signature, each on what the one before it gives."""
        turn = [Move("CONTROL_PAUSED", {"reason": "batch"}), Move("CONTROL_RESUMED", {"reason": "batch"})]
        picture, moves = self._pictures[project], (turn * BATCH_MAX)[: chance.randint(2, BATCH_MAX)]
        heads = [picture.head, *[PREVIOUS] * (len(moves) - 1)]
        documents, last = [], picture.hlc
        for move, head in zip(moves, heads, strict=True):
            last = hlc.merge(_now_ms(), last)
            key = self._key(project, name)
            documents.append(self._document(project, move, head, str(last), key, self._keys["operator"]))
        body = canonical.encode(self._keys["operator"].sign_batch(documents, self.cluster_id))
        return Sending("/transitions", body, tuple(documents))

    def _one(
        self,
        project: str,
        name: str,
        move: Move,
        *,
        head: str | None = None,
        stamp: str | None = None,
        key: str | None = None,
        signature_of: str | None = None,
    ) -> Sending:
        """One signed proposal on the HEAD the crowd knows, unless told otherwise."""
        picture = self._pictures[project]
        stamp = stamp or str(hlc.merge(_now_ms(), picture.hlc))
        signer = self._keys[move.signer]
        document = self._document(project, move, head or picture.head, stamp, key or self._key(project, name), signer)
        signed = self._keys[signature_of or move.signer].sign_proposal(document, self.cluster_id)
        return Sending("/transition", canonical.encode(signed), (document,))

    def _document(self, project: str, move: Move, head: str, stamp: str, key: str, signer: Key) -> dict[str, Any]:
        return {
            "current_state_hash": head,
            "transition": move.transition,
            "inputs": dict(move.inputs),
            "inputs_hash": inputs_hash(dict(move.inputs)),
            "signer": signer.principal,
            "idem_key": key,
            "hlc": stamp,
            "project": project,
        }

    def _key(self, project: str, name: str) -> str:
        self._serial += 1
        return f"{project}:{name}:{self._serial}"

    # --- what a project may need --------------------------------------------------------------------------------------

    def _legal(self, project: str, chance: random.Random) -> Sequence[Move]:
        picture = self._pictures[project]
        if not picture.exists:
            return [Move("PROJECT_CREATED", {"brief": f"made in run {self.seed}", "planned_roles": list(ROLES)})]
        if picture.regions is None or picture.regions["Lifecycle"]["Phase"] == "BOOT":
            return self._of_pause(project, chance)
        if picture.regions["Pause"]["Phase"] == "PAUSED":
            return [Move("CONTROL_RESUMED", {"reason": "go on"}, "operator")]
        part = chance.choices(list(_MOVES), [6, 6, 1])[0]
        return _MOVES[part](self, project, chance)

    def _of_pause(self, project: str, chance: random.Random) -> Sequence[Move]:
        paused = (self._pictures[project].regions or {}).get("Pause", {}).get("Phase") == "PAUSED"
        return [Move("CONTROL_RESUMED" if paused else "CONTROL_PAUSED", {"reason": "a whim"}, "operator")]

    def _of_ingestion(self, project: str, chance: random.Random) -> Sequence[Move]:
        held = (self._pictures[project].regions or {}).get("Ingestion", {})
        content = digest("workload", f"{project}/{chance.randrange(4)}")
        failed = Move("INGESTION_FAILED", {"reason": "unreadable"})
        match held.get("Phase"):
            case "FETCH":
                return [Move("INGESTION_FETCHED", {"content_hash": content})] * 4 + [failed]
            case "VALIDATE":
                return [Move("INGESTION_VALIDATED", {"outcomes": {"schema": "ok"}})] * 4 + [failed]
            case "INDEX":
                right = Move("INGESTION_INDEXED", {"content_hash": held.get("Candidate") or content})
                return [*[right] * 4, Move("INGESTION_INDEXED", {"content_hash": content}), failed]
            case "READY":
                back = Move("INGESTION_INDEX_ROLLED_BACK", {"reason": "the old one was better"})
                return [Move("INGESTION_REINDEX_REQUESTED", {"reason": "newer sources"})] * 2 + [back]
            case _:
                return [Move("INGESTION_SOURCES_RESOLVED", {"sources": [f"ucxl://corpus@{project}/{content[-8:]}"]})]

    def _of_council(self, project: str, chance: random.Random) -> Sequence[Move]:
        held = (self._pictures[project].regions or {}).get("Council", {})
        reelection = Move("COUNCIL_REELECTION_CALLED", {"reason": "again"}, "operator")
        match held.get("Phase"):
            case "ELECT":
                role = chance.choice(list(ROLES))
                claim = Move("COUNCIL_ROLE_CLAIMED", {"role": role, "agent": ROLES[role]}, ROLES[role])
                released = Move("COUNCIL_ROLE_RELEASED", {"role": role}, "operator")
                certificate = Move("COUNCIL_QUORUM_CERT", self._votes(project, held, chance.randint(1, 3)))
                if len(held["Claims"]) == len(ROLES):
                    return [certificate, certificate, certificate, released]
                return [claim, claim, claim, claim, claim, claim, released, certificate]
            case "TOOLING_SYNC" | "READY":
                content = digest("workload", f"{project}/0")
                pins = {"content_hash": content, "pins": {TOOL: TOOL_VERSION}}
                return [Move("COUNCIL_TOOLING_SYNCED", pins), reelection]
            case _:
                electorate = [self._keys[name].principal for name in ELECTORS]
                threshold = quorum.majority(len(ELECTORS))
                rules = {"roles": list(ROLES), "electorate": electorate, "threshold": threshold}
                return [Move("COUNCIL_PROFILES_LOADED", rules)]

    def _votes(self, project: str, council: Mapping[str, Any], voters: int) -> dict[str, Any]:
        """A certificate over the claims as the crowd knows them; one vote is too few, two or three decide."""
        return certificate(self.cluster_id, project, council, [self._keys[name] for name in ELECTORS[:voters]])

    # --- sending ------------------------------------------------------------------------------------------------------

    async def _deliver(self, sending: Sending, chance: random.Random) -> None:
        """Through random nodes, until everything in it is settled; now and then what is in doubt is left so."""
        pause = 0.02
        while True:
            node = chance.choice(list(self.nodes))
            start = time.monotonic()
            try:
                reply = await self._request("POST", node, sending.path, sending.body)
                verdicts = self._heard(sending, node, start, reply)
            except NotSent:
                verdicts = [Verdict.NOT_ADMITTED]
            except Lost:
                verdicts = [Verdict.UNKNOWN] * len(sending.proposals)
                self._note(sending, node, start, verdicts, [{}] * len(verdicts))
            if not {Verdict.NOT_ADMITTED, Verdict.UNKNOWN} & set(verdicts):
                return
            if Verdict.UNKNOWN in verdicts and chance.random() < DOUBT_SHARE:
                return
            await asyncio.sleep(pause * (0.5 + chance.random()))
            pause = min(2 * pause, 0.5)

    def _heard(self, sending: Sending, node: str, start: float, reply: Reply) -> list[Verdict]:
        document = retry.problem(reply)
        answers = document.get("outcomes") if sending.path == "/transitions" else [document | {"status": reply.status}]
        if answers is None:
            answers = [document | {"status": reply.status}] * len(sending.proposals)
        verdicts = [_verdict(answer) for answer in answers]
        self._note(sending, node, start, verdicts, answers)
        for answer, verdict, proposal in zip(answers, verdicts, sending.proposals, strict=True):
            self._learn(self._pictures[proposal["project"]], verdict, answer, proposal)
        return verdicts

    def _note(
        self, sending: Sending, node: str, start: float, verdicts: list[Verdict], answers: list[dict[str, Any]]
    ) -> None:
        end = time.monotonic()
        for proposal, verdict, answer in zip(sending.proposals, verdicts, answers, strict=True):
            attempt = Attempt(
                project=proposal["project"],
                key=proposal["idem_key"],
                transition=proposal["transition"],
                inputs_hash=proposal["inputs_hash"],
                node=node,
                start=start,
                end=end,
                verdict=verdict,
                code=answer.get("code", ""),
                state_pre_hash=answer.get("state_pre_hash", ""),
                state_post_hash=answer.get("state_post_hash", ""),
                seq=answer.get("seq", 0),
                head="" if verdict is Verdict.ACCEPTED else answer.get("state_hash", ""),
            )
            self._journal.add(attempt)

    def _learn(self, picture: Picture, verdict: Verdict, answer: dict[str, Any], proposal: dict[str, Any]) -> None:
        """Follow a transition from the HEAD the crowd knew; whatever else comes, somebody has to look again."""
        if verdict is Verdict.REFUSED and answer.get("state_hash") == picture.head:
            return
        fresh = verdict is Verdict.ACCEPTED and not answer["duplicate"] and answer["state_pre_hash"] == picture.head
        regions, picture.regions = picture.regions, None
        if fresh:
            picture.head, picture.hlc = answer["state_post_hash"], HLC.parse(answer["hlc"])
            picture.known_heads.append(picture.head)
            picture.regions = self._followed(regions, proposal) if regions else None

    def _followed(self, regions: dict[str, Any], proposal: dict[str, Any]) -> dict[str, Any] | None:
        """The regions after a transition, where it is plain what it did; else None."""
        inputs, transition = proposal["inputs"], self._chart.transitions[proposal["transition"]]
        served = transition.region.capitalize()
        changed = regions.get(served, {}) | {"Phase": transition.targets.get(regions.get(served, {}).get("Phase"))}
        match transition.name:
            case "CONTROL_PAUSED" | "CONTROL_RESUMED" | "INGESTION_SOURCES_RESOLVED" | "INGESTION_VALIDATED":
                return regions | {served: changed}
            case "INGESTION_FETCHED":
                return regions | {served: changed | {"Candidate": inputs["content_hash"]}}
            case "COUNCIL_ROLE_CLAIMED":
                claim = {"Agent": inputs["agent"], "Principal": proposal["signer"]}
                return regions | {served: changed | {"Claims": changed["Claims"] | {inputs["role"]: claim}}}
            case _:
                return None

    async def _look(self, project: str, chance: random.Random) -> None:
        """A linearizable read of the project by anybody who answers."""
        node = chance.choice(list(self.nodes))
        start = time.monotonic()
        try:
            reply = await self._request("GET", node, f"/state?project={project}&projection={REGIONS}", None)
        except (NotSent, Lost):
            return
        document = retry.problem(reply)
        picture = self._pictures[project]
        if reply.status == 404:
            self._journal.add(Read(project, node, start, time.monotonic(), GENESIS_HASH))
        elif reply.status == 200:
            self._journal.add(Read(project, node, start, time.monotonic(), document["state_hash"]))
            picture.head, picture.regions = document["state_hash"], document["projection"]
            picture.hlc = HLC.parse(document["hlc_last"])
            picture.known_heads.append(picture.head)

    async def _report(self, project: str, chance: random.Random) -> None:
        """A fact, sent once; what becomes of it shows in the state alone."""
        kind, subject, body = chance.choice(
            (
                ("tool", TOOL, {"reachable": True, "version": chance.choice((TOOL_VERSION, "2.47"))}),
                ("capacity", "default", {"units_free": chance.randrange(9)}),
                ("health", project, {"status": chance.choice(("green", "amber"))}),
            )
        )
        now, key = _now_ms(), self._keys["provider"]
        self._serial += 1
        fact = {
            "kind": kind,
            "subject": subject,
            "observed_at": now,
            "seq": self._serial,
            "expires_at": now + 600_000,
            "body": body,
            "provider": key.principal,
        }
        body_bytes = canonical.encode(key.sign_fact(fact, self.cluster_id))
        try:
            await self._request("POST", chance.choice(list(self.nodes)), "/admin/facts", body_bytes)
        except (NotSent, Lost):
            return

    async def _request(self, method: str, node: str, path: str, body: bytes | None) -> Reply:
        return await self._transport.request(
            method, self.nodes[node] + path, headers=_JSON if body else {}, body=body, timeout=ATTEMPT_SECONDS
        )


_MOVES: dict[str, Callable[[Workload, str, random.Random], Sequence[Move]]] = {
    "ingestion": Workload._of_ingestion,
    "council": Workload._of_council,
    "pause": Workload._of_pause,
}
_SHARES: dict[Callable[[Workload, str, str, random.Random], Sending], int] = {
    Workload._honest: 58,
    Workload._misplaced: 7,
    Workload._stale: 5,
    Workload._late: 3,
    Workload._again: 8,
    Workload._renewed: 4,
    Workload._reused: 2,
    Workload._reordered: 5,
    Workload._stranger: 4,
    Workload._batch: 2,
}
_KINDS, _WEIGHTS = list(_SHARES), list(_SHARES.values())


def _verdict(answer: Mapping[str, Any]) -> Verdict:
    """What an answer settles (see swoosh/client/retry.py: only a node that says so did not admit)."""
    status = answer["status"]
    if status < 300:
        return Verdict.ACCEPTED
    if status in (408, 429) or (status == 503 and answer.get("admitted") is False):
        return Verdict.NOT_ADMITTED
    return Verdict.UNKNOWN if status >= 500 else Verdict.REFUSED


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
