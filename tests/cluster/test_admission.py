"""What ends before the log: form, signatures, missing rights, and what an entry could not hold."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chaos.solo import Solo, the_chart
from cluster.admission import Admission
from swoosh import canonical, limits, signing
from swoosh.entry import BatchItem, FactItem, ProposalItem, weight
from swoosh.hashing import digest
from swoosh.outcome import Code, Refused
from swoosh.principal import name_of
from swoosh.signing import vote_preimage


class Gate:
    """Admission at a node that has applied what the solo machine has."""

    def __init__(self, *, insecure: bool = False) -> None:
        self.solo = Solo(the_chart(), insecure=insecure)
        machine = self.solo.machine
        self.admission = Admission(machine.chart, machine.cluster_id, lambda: machine.registry, insecure=insecure)

    def signed(self, transition: str = "CONTROL_PAUSED", by: str | None = None, **how: Any) -> dict[str, Any]:
        document = self.solo.document(transition, {"reason": "a story"}, **how)
        signer = by or self.solo.names[document["signer"]]
        preimage = signing.proposal_preimage(document, self.solo.machine.cluster_id)
        return {**document, "signature": signing.sign(self.solo.keys[signer], preimage)}

    def batch(self, documents: list[dict[str, Any]], signer: str) -> BatchItem | Refused:
        signature = signing.sign(
            self.solo.keys[signer], signing.batch_preimage(documents, self.solo.machine.cluster_id)
        )
        return self.admission.batch(
            {"proposals": documents, "signer": self.solo.principals[signer], "signature": signature}
        )

    def fact(self, by: str) -> FactItem | Refused:
        sent = self.solo.fact_item("capacity", "default", {"units_free": 1}, by=by).sent
        return self.admission.fact(canonical.parse(sent))


def code_of(verdict: object) -> Code:
    assert isinstance(verdict, Refused), verdict
    return verdict.code


@pytest.fixture
def gate() -> Gate:
    return Gate()


def test_a_signed_proposal_of_somebody_entitled_passes_as_it_was_sent(gate: Gate) -> None:
    document = gate.signed()
    item = gate.admission.proposal(document)
    assert isinstance(item, ProposalItem) and not item.trusted
    assert item.sent == canonical.encode(document)


@pytest.mark.parametrize(
    "change, code",
    [
        ({"signature": None}, Code.UNSIGNED),
        ({"signature": "AAAA"}, Code.BAD_SIGNATURE),
        ({"hlc": "2026-01-01T00:00:00.001+00:00#0"}, Code.BAD_SIGNATURE),
        ({"project": "elsewhere"}, Code.BAD_SIGNATURE),
        ({"signer": name_of(bytes(32))}, Code.UNKNOWN_SIGNER),
        ({"current_state_hash": "@prev"}, Code.MALFORMED),
        ({"inputs": {"reason": "another"}}, Code.INPUTS_HASH_MISMATCH),
    ],
)
def test_what_was_not_signed_as_it_stands_ends_here(gate: Gate, change: dict[str, Any], code: Code) -> None:
    assert code_of(gate.admission.proposal({**gate.signed(), **change})) is code


@pytest.mark.parametrize("project", ["@cluster", "default"])
def test_a_right_is_missing_wherever_the_chart_gives_none(gate: Gate, project: str) -> None:
    transition = "SETTING_SET" if project == "@cluster" else "CONTROL_PAUSED"
    document = gate.signed(transition, signer="alice", project=project)
    assert code_of(gate.admission.proposal(document)) is Code.NOT_AUTHORISED


@pytest.mark.parametrize("prefix", ["steward:", "breach:", "legacy:"])
def test_the_keys_of_nodes_are_for_nodes(gate: Gate, prefix: str) -> None:
    assert code_of(gate.admission.proposal(gate.signed(key=f"{prefix}x"))) is Code.IDEM_KEY_RESERVED
    own = gate.signed("BOOT_CONFIGURED", signer="n1", key=f"{prefix}x")
    assert isinstance(gate.admission.proposal(own), ProposalItem)


def test_facts_are_for_providers_of_their_kind(gate: Gate) -> None:
    assert isinstance(gate.fact("probe"), FactItem)
    assert code_of(gate.fact("alice")) is Code.NOT_AUTHORISED
    assert code_of(gate.fact("scan")) is Code.NOT_AUTHORISED


# --- a development cluster --------------------------------------------------------------------------------------------


def test_in_a_development_cluster_a_stranger_needs_no_signature_and_a_registered_signer_does() -> None:
    gate = Gate(insecure=True)
    stranger = gate.admission.proposal(gate.solo.document("PROJECT_CREATED", {"brief": ""}, signer="somebody"))
    assert isinstance(stranger, ProposalItem) and stranger.trusted
    unsigned = gate.solo.document("CONTROL_PAUSED", {"reason": "x"}, signer="op")
    assert code_of(gate.admission.proposal(unsigned)) is Code.UNSIGNED


def test_nobody_borrows_a_registered_name_where_the_node_did_not_know_it_yet() -> None:
    """A node that lags takes it for a stranger's; the reducer knows better."""
    gate = Gate(insecure=True)
    item = gate.solo.item(gate.solo.document("CONTROL_PAUSED", {"reason": "x"}, signer="op"))
    unsigned = ProposalItem(canonical.encode(_without_signature(item)), trusted=True)
    (outcome,) = gate.solo.apply(unsigned).outcomes
    assert code_of(outcome) is Code.GUARD_REJECTED


def test_a_revoked_key_is_no_stranger() -> None:
    gate = Gate(insecure=True)
    gate.solo.propose("IDENTITY_REVOKED", {"principal": gate.solo.principals["pam"]})
    document = gate.solo.document("PROJECT_CREATED", {"brief": "b"}, signer="pam", project="atlas")
    assert code_of(gate.admission.proposal(document)) is Code.UNSIGNED
    (outcome,) = gate.solo.apply(ProposalItem(canonical.encode(document), trusted=True)).outcomes
    assert code_of(outcome) is Code.GUARD_REJECTED


def _without_signature(item: ProposalItem) -> dict[str, Any]:
    document = canonical.parse(item.sent)
    return {name: value for name, value in document.items() if name != "signature"}


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_one_item_under_one_signature(gate: Gate) -> None:
    documents = [gate.solo.document("CONTROL_PAUSED", {"reason": "x"}) for _ in range(3)]
    item = gate.batch(documents, "op")
    assert isinstance(item, BatchItem) and len(item.proposals) == 3
    assert code_of(gate.batch(documents, "pol")) is Code.MALFORMED
    assert code_of(gate.batch([{**documents[0], "signature": "AAAA"}], "op")) is Code.MALFORMED
    assert code_of(gate.batch([], "op")) is Code.TOO_LARGE


def test_a_batch_that_no_entry_could_hold_ends_here(gate: Gate) -> None:
    """What travels with it counts: names of voters, besides the bytes they were sent in."""
    motion = ("approve", 1, digest("solo", "members"))
    votes = _votes(gate.solo, *motion, count=limits.ELECTORS_MAX)
    inputs = {"election": motion[1], "member_set_hash": motion[2], "votes": votes}
    one = gate.solo.document("COUNCIL_QUORUM_CERT", inputs, signer="op")
    fitting = limits.ENTRY_BYTES_MAX // (len(canonical.encode(one)) + 1)
    documents = [{**one, "idem_key": f"k{number}"} for number in range(fitting)]
    assert sum(len(canonical.encode(each)) for each in documents) <= limits.ENTRY_BYTES_MAX
    assert code_of(gate.batch(documents, "op")) is Code.TOO_LARGE
    smaller = gate.batch(documents[: fitting // 2], "op")
    assert isinstance(smaller, BatchItem) and weight(smaller) <= limits.ENTRY_BYTES_MAX + 1_024


def _votes(solo: Solo, motion: str, election: int, members: str, *, count: int) -> list[dict[str, Any]]:
    preimage = vote_preimage(solo.machine.cluster_id, solo.project, election, members, motion)
    keys = [Ed25519PrivateKey.from_private_bytes(number.to_bytes(32)) for number in range(1, count + 1)]
    return [
        {
            "voter": name_of(key.public_key().public_bytes_raw()),
            "vote": motion,
            "signature": signing.sign(key, preimage),
        }
        for key in keys
    ]


def test_over_keys_councils_and_policy_the_leader_takes_nobodys_word(gate: Gate) -> None:
    """A member that lets in what nobody signed gets no further than itself."""
    sound = gate.admission.proposal(gate.signed())
    forged = ProposalItem(canonical.encode({**gate.signed("POLICY_QUARANTINE_RELEASED"), "signature": "AAAA"}))
    plain = ProposalItem(canonical.encode({**gate.signed(), "signature": "AAAA"}))
    assert isinstance(sound, ProposalItem)
    assert gate.admission.affirm(sound) is None
    assert gate.admission.affirm(plain) is None, "verified once, where it was taken"
    assert gate.admission.affirm(forged) is not None
    assert gate.admission.affirm(BatchItem(gate.solo.principals["op"], "AAAA", (forged,))) is not None


def test_votes_nobody_cast_do_not_pass_the_leader(gate: Gate) -> None:
    signed = gate.signed("COUNCIL_REELECTION_CALLED")
    taken = gate.admission.proposal(signed)
    assert isinstance(taken, ProposalItem)
    assert gate.admission.affirm(taken) is None
    assert gate.admission.affirm(taken._replace(voters=(gate.solo.principals["ed"],))) is not None


@pytest.mark.parametrize(
    ("grammar", "read"),
    [("lenient", {"ucxl://proof/1", "ucxl://a:b@c:d/*^/", "ucxl://a@c:d/#/"}), ("go", {"ucxl://a:b@c:d/*^/"}),
     ("rust", {"ucxl://a@c:d/#/"})],
)  # fmt: skip
def test_evidence_is_in_the_grammar_the_cluster_agreed_on(grammar: str, read: set[str]) -> None:
    gate = Gate()
    gate.solo.propose("SETTING_SET", {"name": "evidence_grammar", "value": grammar})
    for text in ("ucxl://proof/1", "ucxl://a:b@c:d/*^/", "ucxl://a@c:d/#/"):
        assert isinstance(gate.admission.proposal(gate.signed(evidence=[text])), ProposalItem) is (text in read), text
