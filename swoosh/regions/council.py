"""Council: who works, elected by a quorum (Brief §4, §6, §11).

An election fixes roles, electorate and threshold; agents claim open roles; electors sign the exact set of claims; only
then is anyone seated. Two nodes that saw different claims cannot both find a quorum for theirs, which is what keeps a
split-brain council from existing. Whatever unseats a member begins a new election, so no old vote counts again.

Claims and votes of a revoked identity count as never made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from swoosh import facts, limits, pins, quorum, windows
from swoosh.catalog import Context, Verdict, effect, guard, inputs, passed, refused
from swoosh.guards import has_role, holds, is_revoked, said, signed_by_operator
from swoosh.inputs import (
    Count,
    Formation,
    Inputs,
    Principal,
    Text,
    Word,
    check_distinct,
    check_hashes,
    check_names,
    is_printable,
)
from swoosh.outcome import Code, Refused
from swoosh.principal import normalise
from swoosh.state import Certificate, Claim, Council, Identity, Member, Vote

ELECTORS_MIN = 3  # fewer cannot outvote one that is wrong; a one-node cluster has nobody else to ask

# --- what is sent -----------------------------------------------------------------------------------------------------


@inputs
class Profiles(Inputs, frozen=True):
    """The roles to fill, the principals who may vote, how many of them it takes, and whether the cluster asks agents
    to claim the roles."""

    roles: Annotated[tuple[str, ...], Meta(min_length=1, max_length=limits.ROLES_MAX)]
    electorate: Annotated[tuple[Principal, ...], Meta(min_length=1, max_length=limits.ELECTORS_MAX)]
    threshold: Count
    formation: Formation | None = None

    def __post_init__(self) -> None:
        check_names("roles", *self.roles)
        check_distinct("roles", self.roles)
        if self.formation is not None:
            self.formation.check_beside("roles", self.roles)
        check_distinct("electorate", tuple(map(normalise, self.electorate)))


@inputs
class RoleClaim(Inputs, frozen=True):
    """A role, and what the agent calls itself."""

    role: str
    agent: str

    def __post_init__(self) -> None:
        check_names("role", self.role)
        check_names("agent", self.agent)


class Ballot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One vote: ``approve``, ``eject:<role>`` or ``reelect``, signed by its voter (see signing.vote_preimage)."""

    voter: Principal
    vote: quorum.Motion
    signature: quorum.Signature


Ballots = Annotated[tuple[Ballot, ...], Meta(max_length=limits.ELECTORS_MAX)]


def _check_ballots(ballots: tuple[Ballot, ...]) -> None:
    check_distinct("votes", tuple(normalise(ballot.voter) for ballot in ballots))


@inputs
class QuorumCertificate(Inputs, frozen=True):
    """Votes for the exact set of claims now held."""

    election: Count
    member_set_hash: str
    threshold: Count
    votes: Ballots

    def __post_init__(self) -> None:
        check_hashes("member_set_hash", self.member_set_hash)
        _check_ballots(self.votes)


@inputs
class Ejection(Inputs, frozen=True):
    """The seat to vacate. Votes, over the seated set, where no operator signs."""

    role: str
    reason: Text
    election: Count = 0
    member_set_hash: str = ""
    votes: Ballots = ()

    def __post_init__(self) -> None:
        check_names("role", self.role)
        _check_ballots(self.votes)


@inputs
class Reelection(Inputs, frozen=True):
    """Why all seats are vacated. Votes, over the seated set or none, where no operator signs."""

    reason: Text
    election: Count = 0
    member_set_hash: str = ""
    votes: Ballots = ()

    def __post_init__(self) -> None:
        _check_ballots(self.votes)


@inputs
class Tooling(Inputs, frozen=True):
    """What every tool is pinned to (how-to/pin-a-tool-server.md), and the content the council is then ready for."""

    content_hash: str
    pins: Annotated[dict[str, Word], Meta(min_length=1, max_length=limits.TOOLS_MAX)]

    def __post_init__(self) -> None:
        check_hashes("content_hash", self.content_hash)
        check_names("pins", *self.pins)
        for tool, pin in self.pins.items():
            try:
                pins.parse(pin)
            except ValueError as error:
                raise ValueError(f"pins: {tool}: {error}") from None


# --- electing ---------------------------------------------------------------------------------------------------------


@guard
def electorate_valid(c: Context) -> Verdict:
    """Reads identities and cluster members; refuses too few electors, ones without the role, or no majority."""
    electors = tuple(map(normalise, c.inputs.electorate))
    count, threshold = len(electors), c.inputs.threshold
    needed = 1 if len(c.registry.cluster.members.nodes) == 1 else ELECTORS_MIN
    faults = [f"{elector} is not an unrevoked identity with the role elector" for elector in electors
              if not has_role(c, elector, "elector")]  # fmt: skip
    if count < needed:
        faults.append(f"{count} electors; at least {needed} are needed")
    if not quorum.majority(count) <= threshold <= count:
        faults.append(f"threshold {threshold} of {count}; {quorum.majority(count)} to {count} is needed")
    return refused(*faults) if faults else passed(f"{count} electors, {threshold} of whom decide")


@guard
def role_open(c: Context) -> Verdict:
    """Reads the planned and optional roles and claims; refuses a role that is neither, or is claimed."""
    role, council = c.inputs.role, c.regions.council
    if role not in roles_of(council):
        return refused(f"{role} is not planned; planned are {', '.join(roles_of(council))}")
    claim = _live_claims(c).get(role)
    if claim is not None:
        return refused(f"{role} is claimed by {claim.agent} ({claim.principal}); it must be released first")
    return passed(f"{role} is open")


@guard
def agent_eligible(c: Context) -> Verdict:
    """Reads the claimant's identity and the claims; refuses one who is no agent here, or who claimed another role."""
    vouched = c.principal != c.signer
    if is_revoked(c, c.principal):
        return refused(f"{c.principal} was revoked")
    if not vouched and not has_role(c, c.principal, "agent"):
        return refused(f"{c.principal} does not hold the role agent in {c.project}")
    if not is_printable(c.principal):
        return refused(f"{c.principal!r} cannot be a member's name; printable ASCII without spaces is needed")
    taken = sorted(role for role, claim in _live_claims(c).items() if claim.principal == c.principal)
    if taken:
        return refused(f"{c.principal} claimed {taken[0]} in election {c.regions.council.election}; one role each")
    return passed(f"{c.inputs.agent} is an agent{' its node vouches for' if vouched else ''} without a role")


@guard
def claim_owner_or_operator(c: Context) -> Verdict:
    """Reads the claim; refuses anyone but the claimant or an operator."""
    role = c.inputs.role
    claim = c.regions.council.claims.get(role)
    if claim is None:
        return refused(f"{role} is not claimed")
    if claim.principal == c.principal:
        return passed(f"{claim.agent} gives {role} back")
    if signed_by_operator(c):
        return passed(f"an operator frees {role} from {claim.agent}")
    return refused(f"{role} is claimed by {claim.principal}; that agent or an operator may release it")


@guard
def quorum_certificate(c: Context) -> Verdict:
    """Reads claims, election, electorate and verified votes; refuses all but a quorum for the exact set now claimed."""
    council, sent, claims = c.regions.council, c.inputs, _live_claims(c)
    held = _set_hash(_members(claims))
    electors = _counted(c)
    faults = [f"role {role} is not claimed" for role in council.planned_roles if role not in claims]
    if sent.election != council.election:
        faults.append(f"the certificate is of election {sent.election}; this is election {council.election}")
    if sent.member_set_hash != held:
        faults.append(f"the certificate is over {sent.member_set_hash}; the claims now held hash to {held}")
    if sent.threshold != council.threshold:
        faults.append(f"the certificate says threshold {sent.threshold}; {council.threshold} was fixed")
    if len(electors) < council.threshold:
        faults.append(_too_few(c, electors))
    return refused(*faults) if faults else passed(f"{_share(c, electors)} signed {held}")


@effect
def open_election(c: Context) -> Mapping[str, Any]:
    """A new election under the rules named."""
    rules = replace(
        c.regions.council,
        planned_roles=c.inputs.roles,
        electorate=tuple(sorted(map(normalise, c.inputs.electorate))),
        threshold=c.inputs.threshold,
        formation=None if c.inputs.formation is None else c.inputs.formation.kept,
    )
    return {"council": _new_election(rules, {})}


@effect
def claim_role(c: Context) -> Mapping[str, Any]:
    """The role is the claimant's until certified or released."""
    claims = {**c.regions.council.claims, c.inputs.role: Claim(c.inputs.agent, c.principal)}
    return {"council": replace(c.regions.council, claims=claims)}


@effect
def release_role(c: Context) -> Mapping[str, Any]:
    """The role is open again; how often that happened tells a later claim from a repeated one."""
    council, role = c.regions.council, c.inputs.role
    claims = {name: claim for name, claim in council.claims.items() if name != role}
    releases = {**council.releases, role: council.releases.get(role, 0) + 1}
    return {"council": replace(council, claims=claims, releases=releases)}


@effect
def seat_members(c: Context) -> Mapping[str, Any]:
    """Exactly the certified set takes its seats; the certificate keeps the votes that counted."""
    council, electors = c.regions.council, _counted(c)
    members = _members(_live_claims(c))
    signatures = {normalise(ballot.voter): ballot.signature for ballot in c.inputs.votes}
    certificate = Certificate(
        election=council.election,
        member_set_hash=_set_hash(members),
        threshold=council.threshold,
        votes=tuple(Vote(elector, signatures[elector]) for elector in electors),
    )
    seated = replace(
        council, members=members, member_set_hash=certificate.member_set_hash, certificate=certificate, claims={}
    )
    return {"council": seated}


# --- tools ------------------------------------------------------------------------------------------------------------


@guard
def tools_green(c: Context) -> Verdict:
    """Reads each pinned tool's fact, beats for its age; refuses one that is stale, unreachable or not as pinned."""
    faults, cited = [], []
    limit_ms = windows.age_limit_ms(c.registry, "tool", c.now_ms)
    for tool, pin in sorted(c.inputs.pins.items()):
        fact = c.fresh("tool", tool)
        if fact is None:
            faults.append(f"no fresh fact about tool {tool}; its probe must answer")
            continue
        cited.append(fact.digest)
        seen, age_ms = said(fact, facts.Tool), c.now_ms - fact.observed_at
        if age_ms >= limit_ms:
            faults.append(f"tool {tool} was seen {age_ms} ms ago; less than {limit_ms} ms is needed")
        elif not seen.reachable:
            reason = f"does not answer as it should: {seen.detail[:300]}" if seen.detail else "is unreachable"
            faults.append(f"tool {tool} {reason}")
        elif (objection := pins.parse(pin).objection(seen.version, seen.tools_hash)) is not None:
            faults.append(f"tool {tool} {objection}")
    if faults:
        return refused(*faults, facts=tuple(cited))
    return passed(f"{len(cited)} tools answer with their pinned versions", facts=tuple(cited))


@effect
def pin_tools(c: Context) -> Mapping[str, Any]:
    """The pins, and the content the council is ready for."""
    return {"council": replace(c.regions.council, tool_pins=c.inputs.pins, basis=c.inputs.content_hash)}


# --- unseating --------------------------------------------------------------------------------------------------------


@guard
def member_named(c: Context) -> Verdict:
    """Reads the members; refuses a role nobody is seated in."""
    seat = next((member for member in c.regions.council.members if member.role == c.inputs.role), None)
    if seat is None:
        return refused(f"nobody is seated as {c.inputs.role}")
    return passed(f"{seat.agent} is seated as {seat.role}")


@guard
def operator_or_quorum(c: Context) -> Verdict:
    """Reads the signer, or election, member set and verified votes; refuses less than an operator or a quorum."""
    if signed_by_operator(c):
        return passed("an operator decides")
    council, sent, electors = c.regions.council, c.inputs, _counted(c)
    faults: list[str] = []
    if sent.election != council.election:
        faults.append(f"the votes are of election {sent.election}; this is election {council.election}")
    if sent.member_set_hash != council.member_set_hash:
        faults.append(f"the votes are about {sent.member_set_hash or 'no set'}; seated is "
                      f"{council.member_set_hash or 'nobody'}")  # fmt: skip
    if len(electors) < council.threshold:
        faults.append(_too_few(c, electors))
    return refused(*faults) if faults else passed(f"{_share(c, electors)} decide")


@effect
def eject_member(c: Context) -> Mapping[str, Any]:
    """The others keep what they had as claims; the new election must certify them again."""
    others = {m.role: Claim(m.agent, m.principal) for m in c.regions.council.members if m.role != c.inputs.role}
    return {"council": _new_election(c.regions.council, others)}


@effect
def clear_council(c: Context) -> Mapping[str, Any]:
    """Nobody is seated and nothing is claimed."""
    return {"council": _new_election(c.regions.council, {})}


# --- before a vote is in a certificate --------------------------------------------------------------------------------

Known = Callable[[str], Identity | None]
"""The registered identity of a principal, revoked or not."""


class Poll(NamedTuple):
    """What electors may vote on now: a motion about exactly these members of this election. ``lacking`` are roles that
    have to be claimed before a vote can seat anybody."""

    project: str
    motion: str
    transition: str
    election: int
    members: tuple[Member, ...]
    member_set_hash: str
    threshold: int
    electors: tuple[str, ...]
    lacking: tuple[str, ...]

    def objection(self, vote: quorum.Vote) -> Refused | None:
        """Why a vote does not count here, whatever its signature; None where it does."""
        voter = normalise(vote.voter)
        if voter not in self.electors:
            reason = f"{voter[:120]} is no elector of election {self.election} who may still vote"
            return Refused(Code.NOT_AUTHORISED, (reason,), self.project, self.transition)
        if vote.election != self.election:
            reason = f"the vote is of election {vote.election}; this is election {self.election}"
        elif vote.member_set_hash != self.member_set_hash:
            held = self.member_set_hash or "nobody"
            reason = f"the vote is about {vote.member_set_hash or 'nobody'}; what is voted on now hashes to {held}"
        else:
            return None
        return Refused(Code.STALE_STATE, (reason,), self.project, self.transition)


def poll(project: str, council: Council, motion: str, known: Known) -> Poll | Refused:
    """What is voted on, or why nothing is. It says what the guards will ask of the certificate, not that it holds."""
    lacking: tuple[str, ...] = ()
    if motion == quorum.APPROVE:
        if council.members or not council.electorate:
            return _no_poll(project, "no election is open: its certificate is there, or its rules are not yet")
        transition, claims = "COUNCIL_QUORUM_CERT", _unrevoked(council.claims, known)
        members = _members(claims)
        lacking = tuple(role for role in council.planned_roles if role not in claims)
    elif motion == quorum.REELECT:
        transition, members = "COUNCIL_REELECTION_CALLED", council.members
    elif motion in [quorum.EJECT + member.role for member in council.members]:
        transition, members = "COUNCIL_MEMBER_EJECTED", council.members
    else:
        seats = ", ".join(quorum.EJECT + member.role for member in council.members)
        return _no_poll(project, f"{motion[:80]!r} cannot be voted on; {seats or quorum.APPROVE}, {quorum.REELECT} can")
    return Poll(
        project=project,
        motion=motion,
        transition=transition,
        election=council.election,
        members=members,
        member_set_hash=_set_hash(members) if members or motion == quorum.APPROVE else "",
        threshold=council.threshold,
        electors=tuple(name for name in council.electorate if holds(known(name), "elector", project)),
        lacking=lacking,
    )


def roles_of(council: Council) -> tuple[str, ...]:
    """Every role that may be claimed: the planned ones, which must be, then the optional ones."""
    return council.planned_roles + (council.formation.optional_roles if council.formation is not None else ())


def is_settled(council: Council, vote: quorum.Vote) -> bool:
    """Whether the vote is for the very set that the certificate of this election seated."""
    held = council.certificate
    if held is None or vote.vote != quorum.APPROVE:
        return False
    return (vote.election, vote.member_set_hash) == (held.election, held.member_set_hash)


def _no_poll(project: str, reason: str) -> Refused:
    return Refused(Code.STALE_STATE, (reason,), project)


# --- shared -----------------------------------------------------------------------------------------------------------


def _new_election(council: Council, claims: dict[str, Claim]) -> Council:
    return Council(
        phase=council.phase,
        planned_roles=council.planned_roles,
        electorate=council.electorate,
        threshold=council.threshold,
        formation=council.formation,
        election=council.election + 1,
        claims=claims,
    )


def _live_claims(c: Context) -> dict[str, Claim]:
    return _unrevoked(c.regions.council.claims, c.registry.cluster.identities.entries.get)


def _unrevoked(claims: Mapping[str, Claim], known: Known) -> dict[str, Claim]:
    """Claims that stand. A claimant who was never registered is one that a node vouches for."""
    holders = {role: known(claim.principal) for role, claim in claims.items()}
    return {role: claims[role] for role, holder in holders.items() if holder is None or not holder.revoked}


def _members(claims: Mapping[str, Claim]) -> tuple[Member, ...]:
    return tuple(Member(role, claim.agent, claim.principal) for role, claim in sorted(claims.items()))


def _set_hash(members: Iterable[Member]) -> str:
    return quorum.member_set_hash((member.role, member.agent, member.principal) for member in members)


def _counted(c: Context) -> tuple[str, ...]:
    """The electors of this election whose vote was verified and who may still vote, sorted."""
    return tuple(elector for elector in c.regions.council.electorate
                 if elector in c.voters and has_role(c, elector, "elector"))  # fmt: skip


def _too_few(c: Context, electors: tuple[str, ...]) -> str:
    return f"{_share(c, electors)} validly signed; {c.regions.council.threshold} are needed"


def _share(c: Context, electors: tuple[str, ...]) -> str:
    return f"{len(electors)} of {len(c.regions.council.electorate)} electors"
