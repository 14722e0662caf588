"""What is judged once, at the node that takes a request, before anything may enter the log.

Form, signatures and plainly missing rights end here (Brief §9). Verdicts that could differ between builds, above all
Ed25519, are taken here by the one pinned verifier and travel with the item, so that no replica ever takes them again.
Knows no HTTP and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from swoosh import addresses, canonical, entry, facts, limits, principal, signing
from swoosh.addresses import Grammar
from swoosh.catalog import Registry
from swoosh.chart import Chart, Transition
from swoosh.entry import BatchItem, FactItem, Item, ProposalItem
from swoosh.errors import Malformed
from swoosh.guards import may_sign
from swoosh.outcome import Code, Refused
from swoosh.proposal import CLUSTER, PREVIOUS, RESERVED_KEYS, Normal, Proposal, decode, normal, to_sent
from swoosh.quorum import votes_in

_WEIGHTY = ("policy", "council")


class Admission:
    """The gate before the log.

    Args:
        chart: to resolve transitions and who may sign them.
        cluster_id: what signatures are bound to.
        registry: the identities as this node has applied them.
        insecure: whether the cluster was made with ``--insecure-signers``.
    """

    def __init__(self, chart: Chart, cluster_id: str, registry: Callable[[], Registry], *, insecure: bool) -> None:
        self._chart = chart
        self._cluster_id = cluster_id
        self._registry = registry
        self._insecure = insecure

    def proposal(self, document: Any) -> ProposalItem | Refused:
        """One proposal as parsed by ``canonical.parse``; a signature from a header stands in ``signature``."""
        try:
            sent, proposal, form = self._read(document)
        except Malformed as error:
            return _refuse(error.code, error.reason)
        if form.head == PREVIOUS:
            return _refuse(Code.MALFORMED, "current_state_hash @prev is for batches under one signature", form)
        refused = self._unsigned(proposal, form)
        if refused is not None:
            return refused
        trusted = proposal.signature is None
        if not trusted:
            preimage = signing.proposal_preimage(document, self._cluster_id)
            if not _verified(form.signer, preimage, proposal.signature or ""):
                return _refuse(Code.BAD_SIGNATURE, f"the signature is not {form.signer[:120]}'s over this object", form)
        return self._entitled(form, trusted) or self._item(sent, form, trusted)

    def batch(self, document: Any) -> BatchItem | Refused:
        """``{"proposals": […], "signer", "signature"}``: many proposals under one signature, one log entry."""
        if not isinstance(document, dict) or set(document) != {"proposals", "signer", "signature"}:
            return _refuse(Code.MALFORMED, "a signed batch is {proposals, signer, signature}")
        proposals, signer, signature = document["proposals"], document["signer"], document["signature"]
        if not isinstance(proposals, list) or not isinstance(signer, str) or not isinstance(signature, str):
            return _refuse(Code.MALFORMED, "a signed batch is {proposals: [object], signer: text, signature: text}")
        if not 1 <= len(proposals) <= limits.ENTRY_PROPOSALS_MAX:
            return _refuse(Code.TOO_LARGE, f"a batch holds 1 to {limits.ENTRY_PROPOSALS_MAX} proposals")
        name = principal.normalise(signer)
        if not _verified(name, signing.batch_preimage(proposals, self._cluster_id), signature):
            return _refuse(Code.BAD_SIGNATURE, f"the signature is not {name[:120]}'s over these proposals")
        items: list[ProposalItem] = []
        too_large = _refuse(Code.TOO_LARGE, f"a batch under one signature holds at most {limits.ENTRY_BYTES_MAX} bytes")
        weight = 0
        for position, member in enumerate(proposals):
            item = self._member(member, name)
            if isinstance(item, Refused):
                return msgspec.structs.replace(item, reasons=tuple(f"proposals[{position}]: {r}" for r in item.reasons))
            items.append(item)
            weight += entry.weight(item)
            if weight > limits.ENTRY_BYTES_MAX:  # before more votes are verified for nothing
                return too_large
        return BatchItem(name, signature, tuple(items))

    def affirm(self, item: Item) -> str | None:
        """Why this node does not stand by another's verdict on an item, or None.

        Over keys, policy, councils and the cluster itself the leader takes no other node's word: one bad node must not
        be able to make itself an admin. Everything else was verified where it was taken.
        """
        match item:
            case ProposalItem(sent=sent) if self._is_weighty(sent):
                again: Item | Refused = self.proposal(canonical.parse(sent))
            case BatchItem(signer=signer, signature=signature, proposals=members) if any(
                self._is_weighty(member.sent) for member in members
            ):
                documents = [canonical.parse(member.sent) for member in members]
                again = self.batch({"proposals": documents, "signer": signer, "signature": signature})
            case _:
                return None
        return None if again == item else "its signatures or rights do not verify at the leader"

    def _is_weighty(self, sent: bytes) -> bool:
        proposal = decode(sent)
        transition = self._chart.of(proposal.project).resolve(proposal.transition)
        return proposal.project == CLUSTER or (transition is not None and transition.region in _WEIGHTY)

    def fact(self, document: Any) -> FactItem | Refused:
        """One signed fact of a provider identity."""
        if not isinstance(document, dict):
            return _refuse(Code.MALFORMED, "a fact is a JSON object")
        sent = to_sent(document)
        try:
            fact = facts.decode(sent)
        except Malformed as error:
            return _refuse(error.code, error.reason)
        provider = principal.normalise(fact.provider)
        if fact.signature is None:
            return _refuse(Code.UNSIGNED, "a fact is signed by its provider")
        identity = self._registry().identity(provider)
        if identity is None:
            return _refuse(Code.UNKNOWN_SIGNER, f"{provider[:120]} is not registered, or revoked")
        if not _verified(provider, signing.fact_preimage(document, self._cluster_id), fact.signature):
            return _refuse(Code.BAD_SIGNATURE, f"the signature is not {provider[:120]}'s over this fact")
        if not {f"provider:{fact.kind}", "provider:*"} & set(identity.roles):
            return _refuse(
                Code.NOT_AUTHORISED, f"needs the role provider:{fact.kind}; held: {', '.join(identity.roles)}"
            )
        return FactItem(sent)

    def _read(self, document: Any) -> tuple[bytes, Proposal, Normal]:
        if not isinstance(document, dict):
            raise Malformed("a proposal is a JSON object")
        try:
            proposal = msgspec.convert(document, Proposal)
        except msgspec.ValidationError as error:
            raise Malformed(f"proposal: {error}") from None
        grammar = Grammar(self._registry().setting("evidence_grammar"))
        for position, text in enumerate(proposal.evidence if grammar is not Grammar.LENIENT else ()):
            addresses.check(text, f"evidence[{position}]", grammar)
        trusting = self._insecure and proposal.signature is None
        return to_sent(document), proposal, normal(proposal, trusting=trusting)

    def _member(self, document: Any, signer: str) -> ProposalItem | Refused:
        try:
            canonical.check(document, "proposal")
            sent, proposal, form = self._read(document)
        except Malformed as error:
            return _refuse(error.code, error.reason)
        if form.signer != signer or proposal.signature is not None:
            return _refuse(Code.MALFORMED, "signer is the batch's signer, and signature is left out", form)
        if self._registry().identity(signer) is None:
            return _unknown(form)
        return self._entitled(form, False) or self._item(sent, form, False)

    def _unsigned(self, proposal: Proposal, form: Normal) -> Refused | None:
        """Who must be registered and sign: everyone, but in an insecure cluster those nobody ever registered."""
        registry = self._registry()
        if proposal.signature is not None:
            return _unknown(form) if registry.identity(form.signer) is None else None
        if self._insecure and form.signer not in registry.cluster.identities.entries:
            return None
        return _refuse(Code.UNSIGNED, "every proposal is signed with Ed25519", form)

    def _entitled(self, form: Normal, trusted: bool) -> Refused | None:
        transition = self._chart.of(form.project).resolve(form.transition)
        roles = ("proposer:*",) if trusted else self._roles(form)
        if form.idem_key.startswith(RESERVED_KEYS) and "node" not in roles:
            return _refuse(
                Code.IDEM_KEY_RESERVED, f"keys beginning {', '.join(RESERVED_KEYS)} belong to the nodes", form
            )
        if transition is None:
            return None  # the reducer refuses it, with HEAD
        lacking = may_sign(transition, roles, on_behalf=form.principal != form.signer)
        return None if lacking is None else _refuse(Code.NOT_AUTHORISED, lacking, form, transition)

    def _roles(self, form: Normal) -> tuple[str, ...]:
        identity = self._registry().identity(form.signer)
        if identity is None:
            return ()
        return identity.roles if not identity.projects or form.project in identity.projects else ()

    def _item(self, sent: bytes, form: Normal, trusted: bool) -> ProposalItem:
        transition = self._chart.of(form.project).resolve(form.transition)
        name = "" if transition is None else transition.name
        votes = votes_in(name, form.inputs, self._cluster_id, form.project)
        voters = {principal.normalise(voter) for voter, preimage, text in votes if _verified(voter, preimage, text)}
        return ProposalItem(sent, trusted, tuple(sorted(voters)))


def _verified(signer: str, preimage: bytes, signature: str) -> bool:
    key = principal.key_of(signer)
    return key is not None and signing.verify(key, preimage, signature)


def _unknown(form: Normal) -> Refused:
    return _refuse(Code.UNKNOWN_SIGNER, f"{form.signer[:120]} is not registered, or revoked", form)


def _refuse(code: Code, reason: str, form: Normal | None = None, transition: Transition | None = None) -> Refused:
    if form is None:
        return Refused(code, (reason,))
    name = transition.name if transition else form.transition
    return Refused(code, (reason,), form.project, name, form.idem_key)
