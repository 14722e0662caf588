"""The built-in license provider: a license file instead of an authority.

``license.json`` holds one license fact signed by a provider identity. The provider checks that signature, re-observes
the license under the node's own key, and does so again at two thirds of its life, so that a cluster that slept for a
week still finds a fresh fact. It says only what the file says: a missing or foreign file gives no fact at all.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from cluster.providers.leading import Leading
from swoosh import facts, principal, signing
from swoosh.canonical import parse
from swoosh.errors import Malformed
from swoosh.facts import Fact
from swoosh.proposal import to_sent

LOOK_SECONDS = 2.0
LIFE_MS = 3_600_000
_log = structlog.get_logger(__name__)


class LicenseFile:
    """Reads one file and keeps the license fact on the board fresh while its node leads."""

    name = "license"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.trouble: str | None = None

    async def run(self, leading: Leading) -> None:
        """Until cancelled."""
        while True:
            fact = self._file(leading)
            if fact is not None and not _was_denied(leading):
                left_ms = fact.expires_at - leading.now_ms
                await leading.observe("license", fact.subject, fact.body, lives_ms=min(LIFE_MS, left_ms))
            await leading.clock.sleep(LOOK_SECONDS)

    def _file(self, leading: Leading) -> Fact | None:
        """What the file says, or None where it says nothing that counts now."""
        try:
            fact = self._read(leading)
        except (OSError, Malformed) as error:
            self._complain(str(error))
            return None
        if fact.expires_at <= leading.now_ms:
            self._complain("the license ran out")
            return None
        self.trouble = None
        return fact

    def _complain(self, reason: str) -> None:
        if reason != self.trouble:  # once, not every two seconds
            _log.warning("license file gives no fact", path=str(self._path), reason=reason)
        self.trouble = reason

    def _read(self, leading: Leading) -> Fact:
        """The file's license.

        Raises:
            OSError: the file cannot be read.
            Malformed: it is not a license fact for this cluster signed by a provider of licenses.
        """
        registry = leading.registry
        document = parse(self._path.read_bytes(), "license file")
        fact = facts.decode(to_sent(document))
        signer = principal.normalise(fact.provider)
        identity, key = registry.identity(signer), principal.key_of(signer)
        if fact.kind != "license" or fact.subject != registry.cluster_id:
            raise Malformed(f"it is a {fact.kind} fact about {fact.subject}, not this cluster's license")
        if identity is None or key is None or not {"provider:license", "provider:*"} & set(identity.roles):
            raise Malformed(f"{signer} is not a provider of licenses here")
        preimage = signing.fact_preimage(document, registry.cluster_id)
        if not signing.verify(key, preimage, fact.signature or ""):
            raise Malformed("its signature does not verify")
        return fact


def _was_denied(leading: Leading) -> bool:
    """An authority's no stands until that authority says otherwise."""
    held = leading.registry.fact("license", leading.registry.cluster_id)
    return held is not None and held.body["status"] != "active"
