"""Roles are claimed by agents, certified by electors, and vacated only with a new election."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from swoosh import limits, quorum
from swoosh.catalog import Context, Registry
from swoosh.state import Claim, Council, Formation, Member, ProjectRegions
from tests.core.contexts import after, context, fact, first_refusal, h, holds, judge, registry, who

ELECTORS = ("ed", "eli", "eva")
CLAIMS = {"dev": Claim("bo", who("bob")), "lead": Claim("al", who("alice"))}
SET_HASH = quorum.member_set_hash((role, claim.agent, claim.principal) for role, claim in CLAIMS.items())
ELECTING = Council(
    phase="ELECT",
    planned_roles=("lead", "dev"),
    electorate=tuple(sorted(map(who, ELECTORS))),
    threshold=2,
    election=3,
    claims=CLAIMS,
)
UNCLAIMED = replace(ELECTING, claims={})
SEATED = replace(
    ELECTING,
    phase="READY",
    claims={},
    members=(Member("dev", "bo", who("bob")), Member("lead", "al", who("alice"))),
    member_set_hash=SET_HASH,
    tool_pins={"search": "1.0"},
    basis=h("content"),
)


def of(council: Council) -> ProjectRegions:
    return ProjectRegions(council=council)


def ballots(*voters: str, vote: str = "approve") -> list[dict[str, Any]]:
    return [{"voter": who(name), "vote": vote, "signature": "s" * 86} for name in voters]


# --- profiles ---------------------------------------------------------------------------------------------------------


def profiles(*electors: str, threshold: int, on: Registry | None = None) -> Context:
    inputs = {"roles": ["lead"], "electorate": [who(name) for name in electors], "threshold": threshold}
    return context("COUNCIL_PROFILES_LOADED", inputs, on=on)


@pytest.mark.parametrize(
    ("electors", "threshold", "nodes", "valid"),
    [
        (ELECTORS, 2, 3, True),
        (ELECTORS, 3, 3, True),
        (ELECTORS, 1, 3, False),
        (ELECTORS, 4, 3, False),
        (ELECTORS[:2], 2, 3, False),
        (ELECTORS[:1], 1, 3, False),
        (ELECTORS[:1], 1, 1, True),
        (ELECTORS[:1], 0, 1, False),
        ((*ELECTORS[:2], "alice"), 2, 3, False),
        ((*ELECTORS[:2], "stranger"), 2, 3, False),
    ],
)
def test_an_electorate_can_decide_and_never_twice(
    electors: tuple[str, ...], threshold: int, nodes: int, valid: bool
) -> None:
    assert holds("electorate_valid", profiles(*electors, threshold=threshold, on=registry(nodes=nodes))) is valid


def test_a_revoked_elector_is_none() -> None:
    assert not holds("electorate_valid", profiles(*ELECTORS, threshold=2, on=registry(revoked=("eva",))))


def test_profiles_begin_an_election_with_nothing_claimed() -> None:
    inputs = {"roles": ["qa"], "electorate": [who(name) for name in ELECTORS], "threshold": 2}
    council = after(context("COUNCIL_PROFILES_LOADED", inputs, regions=of(ELECTING))).council
    assert (council.election, council.claims, council.planned_roles) == (4, {}, ("qa",))


@pytest.mark.parametrize(
    "inputs",
    [
        {"roles": ["lead", "lead"], "electorate": [who("ed")], "threshold": 1},
        {"roles": ["lead dev"], "electorate": [who("ed")], "threshold": 1},
        {"roles": [], "electorate": [who("ed")], "threshold": 1},
        {"roles": ["lead"], "electorate": [who("ed"), who("ed").replace("ed25519:", "")], "threshold": 1},
        {"roles": ["lead"], "electorate": [who("ed")], "threshold": 1, "extra": 1},
        {"roles": [f"r{number}" for number in range(65)], "electorate": [who("ed")], "threshold": 1},
    ],
)
def test_profiles_out_of_form_never_reach_a_guard(inputs: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        context("COUNCIL_PROFILES_LOADED", inputs)


# --- councils that the cluster forms ----------------------------------------------------------------------------------

MANY = [f"r{number}" for number in range(limits.ROLES_MAX)]


def formed(formation: Any, roles: Any = ("lead", "dev")) -> Context:
    inputs = {"roles": list(roles), "electorate": [who(name) for name in ELECTORS], "threshold": 2}
    return context("COUNCIL_PROFILES_LOADED", {**inputs, "formation": formation})


def created(formation: Any, roles: Any = ("lead", "dev")) -> Context:
    inputs = {"brief": "b", "planned_roles": list(roles), "formation": formation}
    return context("PROJECT_CREATED", inputs, project="beta", regions=ProjectRegions())


@pytest.mark.parametrize(
    ("formation", "kept"),
    [
        (None, None),
        ({}, Formation((), 0)),
        ({"optional_roles": ["ux", "qa"], "until_ms": 7}, Formation(("qa", "ux"), 7)),
        ({"optional_roles": MANY[2:]}, Formation(tuple(sorted(MANY[2:])), 0)),
        ({"until_ms": limits.HLC_MS_MAX}, Formation((), limits.HLC_MS_MAX)),
    ],
)
def test_a_formation_is_kept_with_the_election_and_with_the_project_it_was_asked_for(
    formation: Any, kept: Formation | None
) -> None:
    assert after(formed(formation)).council.formation == kept
    assert after(created(formation)).meta.formation == kept


@pytest.mark.parametrize(
    "formation",
    [
        {"optional_roles": ["lead"]},
        {"optional_roles": ["qa", "qa"]},
        {"optional_roles": ["quality assurance"]},
        {"optional_roles": [""]},
        {"optional_roles": "qa"},
        {"optional_roles": MANY[1:]},
        {"until_ms": -1},
        {"until_ms": limits.HLC_MS_MAX + 1},
        {"until_ms": "tomorrow"},
        {"until": 7},
    ],
)
def test_a_formation_out_of_form_never_reaches_a_guard(formation: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        formed(formation)
    with pytest.raises(msgspec.ValidationError):
        created(formation)


def test_a_council_to_be_formed_has_a_role_to_fill() -> None:
    with pytest.raises(msgspec.ValidationError, match="at least one role to fill"):
        created({"optional_roles": ["qa"]}, roles=())


FORMING = replace(UNCLAIMED, formation=Formation(("qa",), 0))


def test_an_optional_role_may_be_claimed_and_may_stay_open() -> None:
    assert first_refusal(claim("qa", "alice", UNCLAIMED)) == "role_open"
    claimed = after(claim("qa", "alice", FORMING)).council
    assert first_refusal(claim("qa", "bob", claimed)) == "role_open"
    without = replace(ELECTING, formation=FORMING.formation)
    assert [member.role for member in after(certify("ed", "eli", council=without)).council.members] == ["dev", "lead"]
    filled = replace(without, claims={**CLAIMS, "qa": Claim("ca", who("carol"))})
    held = quorum.member_set_hash((role, each.agent, each.principal) for role, each in filled.claims.items())
    assert not holds("quorum_certificate", certify("ed", "eli", council=filled)), "who is there is part of the set"
    seated = after(certify("ed", "eli", council=filled, member_set_hash=held)).council
    assert [member.role for member in seated.members] == ["dev", "lead", "qa"]


def test_an_optional_role_does_not_stand_in_for_a_planned_one() -> None:
    claims = {"lead": CLAIMS["lead"], "qa": Claim("ca", who("carol"))}
    held = quorum.member_set_hash((role, each.agent, each.principal) for role, each in claims.items())
    council = replace(FORMING, claims=claims)
    verdict = judge("quorum_certificate", certify(*ELECTORS, council=council, member_set_hash=held))
    assert verdict.reasons == ("role dev is not claimed",)


def test_a_new_election_is_formed_as_the_old_one_was_until_other_rules_are_loaded() -> None:
    for c in (eject("op", on=SEATED_FORMED), reelect("op", on=SEATED_FORMED)):
        assert after(c).council.formation == FORMING.formation
    again = {"roles": ["lead"], "electorate": [who(name) for name in ELECTORS], "threshold": 2}
    assert after(context("COUNCIL_PROFILES_LOADED", again, regions=of(FORMING))).council.formation is None


# --- claims -----------------------------------------------------------------------------------------------------------


def claim(role: str, signer: str, council: Council = UNCLAIMED, **how: Any) -> Context:
    return context("COUNCIL_ROLE_CLAIMED", {"role": role, "agent": "me"}, signer=signer, regions=of(council), **how)


def test_an_agent_claims_one_open_role() -> None:
    claimed = after(claim("lead", "alice")).council
    assert claimed.claims == {"lead": Claim("me", who("alice"))}
    assert first_refusal(claim("dev", "alice", claimed)) == "agent_eligible"
    assert first_refusal(claim("lead", "bob", claimed)) == "role_open"
    assert first_refusal(claim("dev", "bob", claimed)) is None
    assert first_refusal(claim("chef", "bob", claimed)) == "role_open"


def test_only_agents_claim_and_a_node_vouches_for_agents_without_a_key() -> None:
    assert first_refusal(claim("lead", "op")) == "agent_eligible"
    vouched = after(claim("lead", "n1", behalf="agent:chorus-7")).council
    assert vouched.claims["lead"].principal == "agent:chorus-7"
    assert first_refusal(claim("lead", "n1", behalf=who("bob"), on=registry(revoked=("bob",)))) == "agent_eligible"
    assert first_refusal(claim("lead", "n1", behalf="agent with spaces")) == "agent_eligible"


def test_the_claim_of_a_revoked_agent_leaves_the_role_open() -> None:
    on = registry(revoked=("alice",))
    assert first_refusal(claim("lead", "carol", ELECTING, on=on)) is None
    assert first_refusal(claim("lead", "carol", ELECTING)) == "role_open"


@pytest.mark.parametrize(("signer", "allowed"), [("alice", True), ("op", True), ("bob", False)])
def test_a_claim_is_released_by_its_owner_or_an_operator(signer: str, allowed: bool) -> None:
    c = context("COUNCIL_ROLE_RELEASED", {"role": "lead"}, signer=signer, regions=of(ELECTING))
    assert (first_refusal(c) is None) is allowed


def test_releases_are_counted_within_an_election() -> None:
    c = context("COUNCIL_ROLE_RELEASED", {"role": "lead"}, signer="alice", regions=of(ELECTING))
    council = after(c).council
    assert (set(council.claims), council.releases) == ({"dev"}, {"lead": 1})
    assert first_refusal(context("COUNCIL_ROLE_RELEASED", {"role": "qa"}, signer="op", regions=of(ELECTING)))


# --- the certificate --------------------------------------------------------------------------------------------------


def certify(*voters: str, council: Council = ELECTING, on: Registry | None = None, **changed: Any) -> Context:
    inputs = {"election": 3, "member_set_hash": SET_HASH, "threshold": 2, "votes": ballots(*voters), **changed}
    return context("COUNCIL_QUORUM_CERT", inputs, regions=of(council), on=on, voters=voters)


def test_a_quorum_seats_exactly_the_set_it_signed() -> None:
    council = after(certify("eli", "ed")).council
    assert council.members == SEATED.members
    assert council.member_set_hash == SET_HASH
    assert council.claims == {}
    assert council.certificate is not None
    assert [vote.elector for vote in council.certificate.votes] == sorted(map(who, ("ed", "eli")))


@pytest.mark.parametrize("voters", [(), ("ed",), ("ed", "alice"), ("ed", "stranger")])
def test_too_few_electors_certify_nothing(voters: tuple[str, ...]) -> None:
    assert not holds("quorum_certificate", certify(*voters))


def test_a_vote_counts_only_when_it_was_verified() -> None:
    c = certify("ed", "eli")
    assert not holds("quorum_certificate", c._replace(voters=(who("ed"),)))


@pytest.mark.parametrize(
    "changed", [{"election": 2}, {"member_set_hash": h("other set")}, {"threshold": 1}, {"threshold": 3}]
)
def test_a_certificate_for_something_else_certifies_nothing(changed: dict[str, Any]) -> None:
    assert not holds("quorum_certificate", certify(*ELECTORS, **changed))


def test_claims_that_moved_on_invalidate_the_certificate() -> None:
    moved = replace(ELECTING, claims={**CLAIMS, "dev": Claim("bo", who("carol"))})
    assert not holds("quorum_certificate", certify(*ELECTORS, council=moved))
    vacant = replace(ELECTING, claims={"lead": CLAIMS["lead"]})
    verdict = judge("quorum_certificate", certify(*ELECTORS, council=vacant))
    assert not verdict.ok
    assert "role dev is not claimed" in verdict.reasons[0]


def test_revoked_electors_and_claimants_count_as_never_there() -> None:
    assert not holds("quorum_certificate", certify("ed", "eli", on=registry(revoked=("eli",))))
    assert holds("quorum_certificate", certify(*ELECTORS, on=registry(revoked=("eli",))))
    assert not holds("quorum_certificate", certify(*ELECTORS, on=registry(revoked=("bob",))))


def test_an_elector_is_listed_once_whatever_the_spelling() -> None:
    with pytest.raises(msgspec.ValidationError, match="twice"):
        certify("ed", "ed")
    with pytest.raises(msgspec.ValidationError, match="twice"):
        bare = {"voter": who("ed").replace("ed25519:", ""), "vote": "approve", "signature": "s"}
        certify("ed", votes=[*ballots("ed"), bare])


# --- tools ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "green"),
    [
        ((), False),
        ((fact("tool", "search", reachable=True, version="1.0"),), True),
        ((fact("tool", "search", reachable=False, version="1.0"),), False),
        ((fact("tool", "search", reachable=True, version="1.1"),), False),
        ((fact("tool", "search", reachable=True, version="1.0", age_ms=60_000),), False),
        ((fact("tool", "other", reachable=True, version="1.0"),), False),
    ],
)
def test_every_pinned_tool_answers_with_its_version(facts: Any, green: bool) -> None:
    inputs = {"content_hash": h("content"), "pins": {"search": "1.0"}}
    c = context("COUNCIL_TOOLING_SYNCED", inputs, regions=of(SEATED), on=registry(*facts))
    assert holds("tools_green", c) is green


def test_a_pin_may_be_a_range_and_name_the_tools() -> None:
    probe = fact("tool", "search", reachable=True, version="1.5.0", tools_hash=h("tools"))
    for pin, green in ((f">=1.4,<2#{h('tools')}", True), (f">=1.4,<2#{h('x')}", False), (">=2", False)):
        inputs = {"content_hash": h("content"), "pins": {"search": pin}}
        c = context("COUNCIL_TOOLING_SYNCED", inputs, regions=of(SEATED), on=registry(probe))
        assert holds("tools_green", c) is green
        if green:
            assert after(c).council.tool_pins == {"search": pin}, "kept as written"


def test_why_a_tool_is_not_green_is_told() -> None:
    probe = fact("tool", "search", reachable=False, version="", detail="HTTP 401")
    inputs = {"content_hash": h("content"), "pins": {"search": "1.0"}}
    c = context("COUNCIL_TOOLING_SYNCED", inputs, regions=of(SEATED), on=registry(probe))
    assert judge("tools_green", c).reasons == ("tool search does not answer as it should: HTTP 401",)


def test_a_pin_that_says_nothing_is_no_pin() -> None:
    with pytest.raises(msgspec.ValidationError, match="search: expected >=, <=, >, <"):
        context("COUNCIL_TOOLING_SYNCED", {"content_hash": h("content"), "pins": {"search": "^1.4"}})


BEATS = fact("beat", "backbeat", cluster_id="c", beat_index=7, downbeat=False, phase="plan",
             deadline_at=0, tempo_mbpm=60_000, window_id="w")  # fmt: skip


@pytest.mark.parametrize(
    ("age_ms", "beats", "green"),
    [
        (9_999, (BEATS,), True),
        (10_000, (BEATS,), False),
        (10_000, (), True),
        (599_999, (), True),
        (600_000, (), False),
        (10_000, (replace(BEATS, observed_at=BEATS.observed_at - 2_000),), True),
    ],
)
def test_a_probe_ages_in_beats_where_they_are_heard_and_in_milliseconds_where_not(
    age_ms: int, beats: Any, green: bool
) -> None:
    """Ten beats of a second; or ten minutes, also where the newest frame is two beats old."""
    probe = fact("tool", "search", age_ms=age_ms, life_ms=3_600_000, reachable=True, version="1.0")
    inputs = {"content_hash": h("content"), "pins": {"search": "1.0"}}
    c = context("COUNCIL_TOOLING_SYNCED", inputs, regions=of(SEATED), on=registry(probe, *beats))
    verdict = judge("tools_green", c)
    assert verdict.ok is green
    if not green:
        assert verdict.reasons == (f"tool search was seen {age_ms} ms ago; less than {age_ms} ms is needed",)


def test_tools_are_pinned_for_the_content_named() -> None:
    probe = fact("tool", "search", reachable=True, version="2.0")
    inputs = {"content_hash": h("newer"), "pins": {"search": "2.0"}}
    council = after(context("COUNCIL_TOOLING_SYNCED", inputs, regions=of(SEATED), on=registry(probe))).council
    assert (council.tool_pins, council.basis) == ({"search": "2.0"}, h("newer"))


# --- unseating --------------------------------------------------------------------------------------------------------


SEATED_FORMED = replace(SEATED, formation=FORMING.formation)


def eject(signer: str, *voters: str, role: str = "dev", on: Council = SEATED, **changed: Any) -> Context:
    inputs = {
        "role": role,
        "reason": "gone",
        "election": 3,
        "member_set_hash": SET_HASH,
        "votes": ballots(*voters, vote=f"eject:{role}"),
        **changed,
    }
    return context("COUNCIL_MEMBER_EJECTED", inputs, signer=signer, regions=of(on), voters=voters)


def reelect(signer: str, *voters: str, on: Council = SEATED) -> Context:
    votes = ballots(*voters, vote="reelect")
    inputs = {"reason": "stuck", "election": 3, "member_set_hash": SET_HASH, "votes": votes}
    return context("COUNCIL_REELECTION_CALLED", inputs, signer=signer, regions=of(on), voters=voters)


def test_ejecting_one_member_keeps_the_others_as_claimants() -> None:
    for c in (eject("op"), eject("pam", "ed", "eva")):
        council = after(c).council
        assert council.claims == {"lead": CLAIMS["lead"]}
        assert (council.members, council.member_set_hash, council.certificate) == ((), "", None)
        assert (council.election, council.basis, council.tool_pins) == (4, "", {})


@pytest.mark.parametrize(
    ("c", "guard"),
    [
        (eject("op", role="chef"), "member_named"),
        (eject("pam"), "operator_or_quorum"),
        (eject("pam", "ed"), "operator_or_quorum"),
        (eject("pam", "ed", "eva", election=2), "operator_or_quorum"),
        (eject("pam", "ed", "eva", member_set_hash=h("others")), "operator_or_quorum"),
    ],
)
def test_neither_operator_nor_quorum_ejects_nobody(c: Context, guard: str) -> None:
    assert first_refusal(c) == guard


def test_a_reelection_starts_from_nothing() -> None:
    for c in (reelect("op"), reelect("pam", "ed", "eli")):
        council = after(c).council
        assert (council.claims, council.members, council.election) == ({}, (), 4)
        assert council.planned_roles == SEATED.planned_roles


def test_the_same_votes_never_call_two_elections() -> None:
    inputs = {"reason": "stuck", "election": 3, "votes": ballots("ed", "eli", vote="reelect")}
    first = context("COUNCIL_REELECTION_CALLED", inputs, regions=of(ELECTING), voters=("ed", "eli"))
    again = context("COUNCIL_REELECTION_CALLED", inputs, regions=after(first), voters=("ed", "eli"))
    assert first_refusal(again) == "operator_or_quorum"
