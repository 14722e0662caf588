"""The policy in force as a fact: version and hash of the policy file of the node that leads.

So that every node, and whoever audits the cluster, can tell by which policy requests are judged, and during a roll-out
that not all of them have it yet.
"""

from __future__ import annotations

from cluster.providers.leading import Leading
from cluster.shhh.policy import Policy

LOOK_SECONDS = 60.0
LIFE_MS = 24 * 3_600_000


class PolicyInForce:
    """Keeps the `policy` fact on the board while its node leads."""

    name = "policy"

    def __init__(self, policy: Policy) -> None:
        self._body = {"version": policy.version, "policy_hash": policy.hash}
        self.trouble: str | None = None

    async def run(self, leading: Leading) -> None:
        """Until cancelled."""
        while True:
            await leading.observe("policy", "policy", self._body, lives_ms=LIFE_MS)
            await leading.clock.sleep(LOOK_SECONDS)
