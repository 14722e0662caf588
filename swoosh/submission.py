"""SubmissionRecord: what SLURP is told of an accepted submission, derived from its WAL record and the state after it.

References only, never content: artifacts are named by hash and address. Every replica holds identical bytes, and the
id is the hash of the record without it, as with Decision Records.
"""

from __future__ import annotations

from typing import Any

import msgspec

from swoosh import canonical, decision
from swoosh.errors import Corrupt
from swoosh.hashing import PREFIX, digest, digest_hex
from swoosh.state import Project, ProjectRegions
from swoosh.wal import WalRecord

SCHEMA = "swoosh.submission.v1"
SUBMITTED = "EXECUTION_SUBMITTED"


class Artifact(msgspec.Struct, frozen=True):
    """One thing that was handed over."""

    ucxl_address: str
    content_hash: str


class SubmissionRecord(msgspec.Struct, frozen=True):
    """Who handed over what, under which plan and in which window.

    ``content_hash`` is the typed hash of the artifacts' hashes in the order given, ``decision`` the id of the Decision
    Record that justifies it, ``evidence`` as the submitter gave it.
    """

    schema: str
    submission_id: str
    ucxl_address: str
    project: str
    content_hash: str
    plan_hash: str
    artifacts: tuple[Artifact, ...]
    evidence: tuple[str, ...]
    submitted_by: str
    window_id: str
    hlc: str
    decision: str


def derive(record: WalRecord, dr_id: str, after: Project) -> SubmissionRecord | None:
    """The submission that ``record`` is the acceptance of, in the state after it; None where it is something else."""
    if record.transition_name != SUBMITTED or not isinstance(after.regions, ProjectRegions):
        return None
    submitted = after.regions.execution.submissions[-1]
    artifacts = [Artifact(_artifact_address(record, each), each) for each in submitted.artifacts]
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "ucxl_address": ucxl_address(record.project, record.seq),
        "project": record.project,
        "content_hash": digest("artifacts", submitted.artifacts),
        "plan_hash": submitted.plan_hash,
        "artifacts": tuple(artifacts),
        "evidence": record.evidence,
        "submitted_by": submitted.submitter,
        "window_id": submitted.window_id,
        "hlc": record.hlc,
        "decision": dr_id,
    }
    return SubmissionRecord(submission_id=PREFIX + digest_hex("submission", canonical.encode(fields)), **fields)


def encode(submission: SubmissionRecord) -> bytes:
    """Canonical bytes: what is stored and delivered."""
    return canonical.encode(submission)


def check(data: bytes | None, record: WalRecord, dr_id: str) -> None:
    """Refuse what is stored as the submission that ``record`` accepted. What was in it only a replay can tell.

    Raises:
        Corrupt: there is none, or one too many; its id is not that of its content; it names another decision.
    """
    if (data is not None) != (record.transition_name == SUBMITTED):
        raise Corrupt(f"{record.transition_name} has {'no' if data is None else 'a'} submission record")
    if data is None:
        return
    try:
        held = msgspec.json.decode(data, type=SubmissionRecord)
    except msgspec.DecodeError as error:
        raise Corrupt(f"submission record does not decode: {error}") from None
    fields = {name: value for name, value in msgspec.to_builtins(held).items() if name != "submission_id"}
    found = PREFIX + digest_hex("submission", canonical.encode(fields))
    if found != held.submission_id:
        raise Corrupt(f"submission record: it says {held.submission_id} and hashes to {found}")
    if held.decision != dr_id:
        raise Corrupt(f"submission record: it names decision {held.decision}, expected {dr_id}")


def ucxl_address(project: str, seq: int) -> str:
    """The strict UCXL address of the submission accepted by a project's n-th record."""
    return f"ucxl://swoosh:orchestrator@{decision.component(project)}:submission/*~{seq}/submission.json"


def _artifact_address(record: WalRecord, content_hash: str) -> str:
    artifacts = ucxl_address(record.project, record.seq).removesuffix("submission.json")
    return f"{artifacts}artifacts/{content_hash.removeprefix(PREFIX)}"
