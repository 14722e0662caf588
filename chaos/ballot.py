"""A council's certificate as its electors would give it, for clients that see the council only as it is served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from swoosh import quorum
from swoosh.client import Key


def certificate(cluster_id: str, project: str, council: Mapping[str, Any], voters: Iterable[Key]) -> dict[str, Any]:
    """Inputs of COUNCIL_QUORUM_CERT: each of ``voters`` approves the claims of the region ``Council`` as they stand."""
    claims = [(role, claim["Agent"], claim["Principal"]) for role, claim in council["Claims"].items()]
    held, election = quorum.member_set_hash(claims), council["Election"]
    votes = [
        {
            "voter": key.principal,
            "vote": quorum.APPROVE,
            "signature": key.sign_vote(cluster_id, project, election, held),
        }
        for key in voters
    ]
    return {"election": election, "member_set_hash": held, "threshold": council["Threshold"], "votes": votes}
