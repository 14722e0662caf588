"""An election in a whole cluster: votes come in at any node, leaders come and go, one council is seated."""

from __future__ import annotations

from typing import Any

from cluster.providers.hmmm import Polled, Tally
from swoosh import signing
from swoosh.outcome import Accepted, FactAccepted, Refused
from swoosh.quorum import Vote
from swoosh.state import ProjectRegions, as_project
from tests.cluster.electors import asked, cast
from tests.cluster.group import Group, NodeHost, accepted

DAY_MS = 86_400_000
ROLES = {"lead": "alice", "build": "bob"}


def regions(group: Group, name: str) -> ProjectRegions:
    held = group.node(name).machine.project("default")
    assert held is not None
    return as_project(held.regions)


def propose(group: Group, transition: str, inputs: dict[str, Any], signer: str) -> None:
    leader = group.leading()
    held = leader.node.machine.project("default")
    assert held is not None
    document = group.people.document(transition, inputs, signer=signer, head=held.state_hash)
    accepted(group.propose(leader.name, group.people.item(group._now(document))))


def elected(group: Group) -> None:
    """Bring `default` to where electors may vote."""
    leader = group.leading()
    group.people.now_ms = leader.clock.wall_us() // 1000
    body = {"license_id": "l", "status": "active", "valid_until": group.people.now_ms + DAY_MS}
    fact = group.people.fact_item("license", group.people.machine.cluster_id, body)
    (answer,) = group.answers(group.ask(leader.name, fact))
    assert isinstance(answer, FactAccepted), answer
    group.run_until(lambda: regions(group, leader.name).boot.licensed)
    electorate = [group.people.principals[name] for name in ("ed", "eli", "eva")]
    profiles = {"roles": list(ROLES), "electorate": electorate, "threshold": 2}
    propose(group, "COUNCIL_PROFILES_LOADED", profiles, "pam")
    for role, agent in ROLES.items():
        propose(group, "COUNCIL_ROLE_CLAIMED", {"role": role, "agent": agent}, agent)


def ballot(group: Group, name: str) -> Vote:
    machine, key = group.leading().node.machine, group.people.keys[name]
    return cast(asked(machine), machine, group.people.principals[name], lambda covered: signing.sign(key, covered))


def post(group: Group, name: str, vote: Vote | None) -> Polled:
    node = group.node(name)
    polled = group.loop.create_task(node.poll("default", vote, node.clock.monotonic() + 5))
    group.run_until(polled.done, 20)
    return polled.result()


def counted(polled: Polled) -> str:
    assert isinstance(polled, Tally), polled
    return polled.became


def followers(group: Group) -> list[NodeHost]:
    leader = group.leading()
    return [host for host in group.live() if host is not leader]


def seated(group: Group) -> None:
    """Wait until every live node has seated the council, by one certificate."""
    group.run_until(lambda: all(regions(group, host.name).council.members for host in group.live()))
    group.converge()
    kept = [record for record in group.records(group.live()[0].name) if b'"COUNCIL_QUORUM_CERT"' in record]
    assert len(kept) == 1


def test_votes_handed_in_at_followers_seat_the_council() -> None:
    with Group(31) as group:
        elected(group)
        first, second = followers(group)
        assert counted(post(group, first.name, ballot(group, "ed"))) == "counted"
        assert counted(post(group, second.name, ballot(group, "ed"))) == "known"
        assert counted(post(group, second.name, ballot(group, "eva"))) == "counted"
        seated(group)
        council = regions(group, first.name).council
        assert {member.role: member.agent for member in council.members} == ROLES


def test_a_leader_takes_its_votes_with_it_and_they_are_sent_again() -> None:
    with Group(32) as group:
        elected(group)
        votes = [ballot(group, name) for name in ("ed", "eva")]
        old = group.leading()
        via = followers(group)[0]
        assert counted(post(group, via.name, votes[0])) == "counted"
        old.run(old.kill)
        group.run_until(lambda: group.leader() is not None)
        leader = group.leading()
        tally = post(group, leader.name, votes[1])
        assert isinstance(tally, Tally) and [vote.voter for vote in tally.votes] == [votes[1].voter]
        group.run(3.0)
        assert not regions(group, leader.name).council.members, "one vote is no quorum"
        assert [counted(post(group, host.name, votes[0])) for host in group.live()] == ["counted", "known"]
        seated(group)


def test_a_certificate_of_a_deposed_leader_and_one_of_its_successor_seat_once() -> None:
    with Group(33) as group:
        elected(group)
        votes = [ballot(group, name) for name in ("ed", "eva", "eli")]
        old = group.leading()
        group.isolate(old)
        for vote in votes[:2]:
            counted(post(group, old.name, vote))
        group.run_until(lambda: any(host.is_leader() for host in group.others(old)))
        successor = next(host for host in group.others(old) if host.is_leader())
        for vote in votes[1:]:
            assert counted(post(group, successor.name, vote)) == "counted"
        group.heal()
        seated(group)


def test_a_vote_is_refused_by_what_is_committed_and_not_by_what_a_node_has_seen() -> None:
    with Group(34) as group:
        elected(group)
        stale = ballot(group, "ed")
        propose(group, "COUNCIL_ROLE_RELEASED", {"role": "lead"}, "alice")
        refused = post(group, followers(group)[0].name, stale)
        assert isinstance(refused, Refused) and refused.code == "STALE_STATE"


def test_what_is_seated_by_votes_from_outside_replays() -> None:
    """Every node applies the certificate by the verdicts in the entry, and never verifies it again."""
    with Group(35) as group:
        elected(group)
        for name in ("ed", "eli", "eva"):
            post(group, followers(group)[0].name, ballot(group, name))
        seated(group)
        follower = followers(group)[0]
        follower.run(follower.kill)
        follower.start()
        group.run_until(lambda: follower.node.caught_up)
        group.converge()
        certificate = regions(group, follower.name).council.certificate
        assert certificate is not None and len(certificate.votes) >= 2
        assert isinstance(group.propose(follower.name, group.load(follower.name)), Accepted)
