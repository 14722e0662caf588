"""DecisionRecord: the BUBBLE record of an accepted transition (Brief §9), derived from its WAL record alone.

Every replica holds identical bytes, so the record can be handed out by any node and delivered by whichever leads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from swoosh import canonical
from swoosh.addresses import COMPONENT
from swoosh.hashing import PREFIX, digest_hex
from swoosh.wal import WalRecord

SCHEMA = "swoosh.dr.v1"
REDACTED = "[REDACTED]"


class DecisionRecord(msgspec.Struct, frozen=True):
    """Who decided what, on which guards. ``dr_id`` is the typed hash of the record without ``dr_id`` itself."""

    schema: str
    dr_id: str
    ucxl_address: str
    index: int
    term: int
    project: str
    transition: str
    region: str
    op_class: str
    state_pre_hash: str
    state_post_hash: str
    inputs_hash: str
    signer: str
    on_behalf_of: str
    idem_key: str
    hlc: str
    window_id: str
    guards: dict[str, dict[str, Any]]
    evidence: tuple[str, ...]
    justification: str
    record_hash: str
    prev_dr: str
    redactions: tuple[str, ...]


def derive(record: WalRecord, record_hash: str, prev_dr: str, redactions: Sequence[str] = ()) -> DecisionRecord:
    """The Decision Record of ``record``. ``prev_dr`` is the project's record before it, or empty.

    ``redactions`` are paths of texts to replace; ``guards.*.reasons`` means every guard's. What a guard's reasons no
    longer say, the justification made of them does not say either.
    """
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "ucxl_address": ucxl_address(record.project, record.seq),
        "index": record.index,
        "term": record.term,
        "project": record.project,
        "transition": record.transition_name,
        "region": record.region,
        "op_class": op_class(record.idem_key),
        "state_pre_hash": record.state_pre_hash,
        "state_post_hash": record.state_post_hash,
        "inputs_hash": record.inputs_hash,
        "signer": record.signer,
        "on_behalf_of": record.on_behalf_of,
        "idem_key": record.idem_key,
        "hlc": record.hlc,
        "window_id": record.window_id,
        "guards": {g.name: {"ok": g.ok, "reasons": g.reasons, "facts": g.facts} for g in record.guard_outcomes},
        "evidence": record.evidence,
        "justification": "",
        "record_hash": record_hash,
        "prev_dr": prev_dr,
    }
    paths = [path for given in redactions for path in _spelled_out(given, fields["guards"])]
    applied = {path for path in paths if path != "justification" and _redact(fields, path.split("."))}
    fields["justification"] = _justification(record.transition_name, fields["guards"])
    if "justification" in paths and _redact(fields, ["justification"]):
        applied.add("justification")
    fields["redactions"] = tuple(sorted(applied))
    return DecisionRecord(dr_id=PREFIX + digest_hex("dr", canonical.encode(fields)), **fields)


def encode(decision: DecisionRecord) -> bytes:
    """Canonical bytes: what is stored and delivered."""
    return canonical.encode(decision)


def address(dr_id: str) -> str:
    """``bubble://dr/<hex>``."""
    return "bubble://dr/" + dr_id.removeprefix(PREFIX)


def ucxl_address(project: str, seq: int) -> str:
    """The strict UCXL address of a project's n-th Decision Record."""
    return f"ucxl://swoosh:orchestrator@{component(project)}:transition/*~{seq}/dr.json"


@lru_cache(maxsize=4_096)
def component(project: str) -> str:
    """A project id as part of a strict UCXL address, which knows fewer characters."""
    return "".join(c if c in COMPONENT else "-" for c in project)


def op_class(idem_key: str) -> str:
    """The third part of ``goalId:beatIndex:opClass:uuid``, or empty where the key has another shape."""
    parts = idem_key.split(":")
    return parts[2] if len(parts) >= 4 else ""


def _justification(transition: str, guards: Mapping[str, Any]) -> str:
    reasons = {name: said["reasons"] if isinstance(said, dict) else said for name, said in guards.items()}
    stated = [f"{name}: {'; '.join(texts)}." for name, texts in reasons.items() if texts]
    return " ".join([f"{transition} accepted.", *stated])


def _spelled_out(path: str, guards: Iterable[str]) -> list[str]:
    first, star, rest = path.partition(".*")
    return [f"{first}.{name}{rest}" for name in guards] if star and first == "guards" else [path]


def _redact(fields: dict[str, Any], path: list[str]) -> bool:
    """Replace the text at ``path``; identity, hashes and chain links stay, or the record would prove nothing."""
    *parents, last = path
    node: Any = fields
    for name in parents:
        if not isinstance(node, dict) or name not in node:
            return False
        node = node[name]
    if not isinstance(node, dict) or last not in node or (not parents and last not in _REDACTABLE):
        return False
    node[last] = REDACTED if isinstance(node[last], str) else ((REDACTED,) if node[last] else node[last])
    return True


_REDACTABLE = frozenset({"evidence", "justification", "on_behalf_of", "window_id", "idem_key"})
