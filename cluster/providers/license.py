"""The built-in license provider: a license file instead of an authority.

``license.json`` holds one license fact signed by a provider identity. The provider checks that signature, re-observes
the license under the node's own key, and does so again at two thirds of its life, so that a cluster that slept for a
week still finds a fresh fact. It says only what the file says: a missing or foreign file gives no fact at all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from cluster.answers import Answer
from cluster.clock import Clock
from cluster.nodekey import NodeKey
from swoosh import facts, principal, signing
from swoosh.canonical import parse
from swoosh.catalog import Registry
from swoosh.entry import FactItem, Item
from swoosh.errors import Malformed
from swoosh.proposal import to_sent

LOOK_SECONDS = 2.0
LIFE_MS = 3_600_000
SUBMIT_SECONDS = 5.0
_log = structlog.get_logger(__name__)


class LicenseFile:
    """Reads one file and keeps the license fact on the board fresh while this node leads.

    Args:
        registry: identities and facts as applied here.
        submit: ``(items, deadline)`` to the queue of this leader.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        key: NodeKey,
        registry: Callable[[], Registry],
        submit: Callable[[Sequence[Item], float], Awaitable[list[Answer]]],
    ) -> None:
        self._path = path
        self._clock = clock
        self._key = key
        self._registry = registry
        self._submit = submit
        self._complaint = ""

    async def run(self, term: int) -> None:
        """Until cancelled. ``term`` is the term this node leads in; a later leader's facts are never overwritten."""
        while True:
            fact = self._due_fact(term)
            if fact is not None:
                await self._submit([fact], self._clock.monotonic() + SUBMIT_SECONDS)
            await self._clock.sleep(LOOK_SECONDS)

    def _due_fact(self, term: int) -> FactItem | None:
        now_ms = self._clock.wall_us() // 1000
        held = self._registry().fact("license", self._registry().cluster_id)
        if held is not None and held.body["status"] != "active":
            return None  # an authority's no stands until that authority says otherwise
        if held is not None and now_ms < held.observed_at + (held.expires_at - held.observed_at) * 2 // 3:
            return None
        try:
            return self._observe(now_ms, term)
        except (OSError, Malformed) as error:
            if str(error) != self._complaint:  # once, not every two seconds
                self._complaint = str(error)
                _log.warning("license file gives no fact", path=str(self._path), reason=str(error))
            return None

    def _observe(self, now_ms: int, term: int) -> FactItem | None:
        """The file's license as seen now, or None when it has run out.

        Raises:
            OSError: the file cannot be read.
            Malformed: it is not a license fact for this cluster signed by a provider of licenses.
        """
        registry = self._registry()
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
        if fact.expires_at <= now_ms:
            return None
        return self._sign(msgspec.to_builtins(fact), now_ms, term)

    def _sign(self, document: dict[str, Any], now_ms: int, term: int) -> FactItem:
        document.update(
            observed_at=now_ms,
            seq=document["seq"] + 1,
            expires_at=min(document["expires_at"], now_ms + LIFE_MS),
            provider=self._key.principal,
            gathered_term=term,
        )
        document.pop("signature", None)
        preimage = signing.fact_preimage(document, self._registry().cluster_id)
        document["signature"] = signing.sign(self._key.private, preimage)
        return FactItem(to_sent(document))
