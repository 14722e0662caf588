"""A signer may be spelled in four ways wherever one is named: through admission, into the state, and back."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from chaos.solo import ELECTORS, Solo, the_chart
from cluster.admission import Admission
from cluster.providers.hmmm import Tally, Votes, certificate
from swoosh import entry, signing
from swoosh.entry import FactItem
from swoosh.outcome import Accepted, FactAccepted, ItemOutcome, Refused
from swoosh.principal import key_of, name_of
from tests.cluster.electors import asked, cast
from tests.cluster.test_hmmm import elected
from tests.core.spellings import spellings


@pytest.fixture(params=["canonical", "hex", "base64url", "peer_id"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class House:
    """A machine behind admission."""

    def __init__(self, solo: Solo, form: str) -> None:
        self.solo, self._form = solo, form
        self.admission = Admission(solo.chart, solo.machine.cluster_id, lambda: solo.machine.registry, insecure=False)

    def spelled(self, name: str) -> str:
        return spellings(key_of(self.solo.principals[name]) or b"")[self._form]

    def propose(self, transition: str, inputs: dict[str, Any], by: str, **how: Any) -> ItemOutcome:
        """Signed by a person under the spelling; as the node takes it."""
        document = self.solo.document(transition, inputs, signer=self.spelled(by), **how)
        covered = signing.proposal_preimage(document, self.solo.machine.cluster_id)
        item = self.admission.proposal({**document, "signature": signing.sign(self.solo.keys[by], covered)})
        assert not isinstance(item, Refused), item
        assert entry.signers_of(item) == [self.solo.principals[by]]
        (outcome,) = self.solo.apply(item).outcomes
        return outcome


def test_proposals_and_commands(form: str) -> None:
    house = House(Solo(the_chart()), form)
    created = house.propose("PROJECT_CREATED", {"brief": "b"}, "pam", project="apollo")
    assert isinstance(created, Accepted)
    zoe = {"name": "zoe", "principal": spellings(bytes(32))[form], "roles": ["agent"]}
    assert isinstance(house.propose("IDENTITY_ADDED", zoe, "root"), Accepted)
    assert house.solo.machine.registry.identity(name_of(bytes(32))) is not None
    revoked = house.propose("IDENTITY_REVOKED", {"principal": house.spelled("ivy")}, "root")
    assert isinstance(revoked, Accepted)
    assert house.solo.machine.registry.identity(house.solo.principals["ivy"]) is None


def test_batches(form: str) -> None:
    """The batch names its signer in one way and its members in others: one key signs."""
    house = House(Solo(the_chart()), form)
    solo, names = house.solo, spellings(key_of(house.solo.principals["pam"]) or b"").values()
    members = [
        solo.document("PROJECT_CREATED", {"brief": "b"}, project=f"p{number}", signer=name)
        for number, name in enumerate(names)
    ]
    signature = signing.sign(solo.keys["pam"], signing.batch_preimage(members, solo.machine.cluster_id))
    item = house.admission.batch({"proposals": members, "signer": house.spelled("pam"), "signature": signature})
    assert not isinstance(item, Refused), item
    assert all(isinstance(outcome, Accepted) for outcome in solo.apply(item).outcomes)


def test_facts_and_whom_they_are_about(form: str) -> None:
    house = House(Solo(the_chart()), form)
    solo = house.solo
    now = {"observed_at": solo.now_ms, "seq": 1, "expires_at": solo.now_ms + 60_000}
    about = {"kind": "agent", "subject": house.spelled("alice"), "body": {"name": "al"}}
    document = {**now, **about, "provider": house.spelled("probe")}
    covered = signing.fact_preimage(document, solo.machine.cluster_id)
    item = house.admission.fact({**document, "signature": signing.sign(solo.keys["probe"], covered)})
    assert isinstance(item, FactItem), item
    (outcome,) = solo.apply(item).outcomes
    assert isinstance(outcome, FactAccepted)
    held = solo.machine.registry.fact("agent", solo.principals["alice"])
    assert held is not None and held.provider == solo.principals["probe"]


def test_electorates_and_voters(form: str) -> None:
    house = House(elected(Solo(the_chart())), form)
    profiles = {"roles": ["lead"], "electorate": [house.spelled(name) for name in ELECTORS], "threshold": 2}
    assert isinstance(house.propose("COUNCIL_PROFILES_LOADED", profiles, "pam"), Accepted)
    assert isinstance(house.propose("COUNCIL_ROLE_CLAIMED", {"role": "lead", "agent": "al"}, "alice"), Accepted)
    solo = house.solo
    on, gathered = asked(solo.machine), Votes(solo.machine)
    assert sorted(on.electors) == sorted(solo.principals[name] for name in ELECTORS)
    for name in ELECTORS:
        sign = partial(signing.sign, solo.keys[name])
        tally = gathered.tally("default", cast(on, solo.machine, house.spelled(name), sign))
        assert isinstance(tally, Tally) and tally.became == "counted"
    tally = gathered.tally("default")
    assert isinstance(tally, Tally)
    inputs = {**certificate(on, list(tally.votes)), "threshold": on.threshold}
    assert isinstance(house.propose("COUNCIL_QUORUM_CERT", inputs, "pam"), Accepted)
    held = solo.regions().council.certificate
    assert held is not None and [vote.elector for vote in held.votes] == sorted(on.electors)
