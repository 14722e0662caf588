"""KACHING, the license authority: asked in time, believed only when it signs, and never needed for an answer.

Three things are told apart (Brief §6, §11). *Active*: a signed token says so, and its life becomes the fact's. *A no*:
a signed token says suspended or denied; it acts at once. *No word*: unreachable, throttling, or an answer that does not
count; then nothing is put on record, the fact that is held runs out, and the steward moves projects to grace and,
when grace is over, to EXPIRED. Whatever it was, the next good token ends it without anybody's help.

The cache is the board: the token itself is kept nowhere, and a new leader goes on from the fact of the former one.
"""

from __future__ import annotations

from typing import Any

import msgspec
import structlog

from cluster.egress import Blocked, Outside, Unreachable
from cluster.entropy import Entropy
from cluster.providers import kaching_wire as wire
from cluster.providers.kaching_wire import NoWord, Terms
from cluster.providers.leading import Leading
from swoosh import facts
from swoosh.facts import Known
from swoosh.hlc import time_text
from swoosh.outcome import FactAccepted

RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 30.0
AFTER_A_NO_SECONDS = 5.0
JITTER = 0.2
"""Any pause is shorter by up to this share, so that not all clusters ask together."""
NONCE_BYTES = 16
_log = structlog.get_logger(__name__)


class Kaching:
    """Asks for a token and keeps what it says on the board while its node leads."""

    name = "kaching"

    def __init__(self, terms: Terms, node_id: str, outside: Outside, entropy: Entropy) -> None:
        self._terms, self._node_id, self._outside, self._entropy = terms, node_id, outside, entropy
        self.trouble: str | None = None

    async def run(self, leading: Leading) -> None:
        """Until cancelled."""
        self.trouble = None  # what was wrong when this node led before need not be so now
        retry = RETRY_SECONDS
        pause = self._until_due(leading)
        while True:
            await leading.clock.sleep(pause)
            try:
                await self._refresh(leading)
            except (Blocked, Unreachable, NoWord) as error:
                self._complain(f"no word that counts: {error}; {_what_holds(self._held(leading))}")
                asked_for = error.retry_after if isinstance(error, NoWord) else 0.0
                pause = max(asked_for, self._jittered(retry))
                retry = min(2 * retry, RETRY_SECONDS_MAX)
            else:
                retry = RETRY_SECONDS
                pause = max(self._jittered(RETRY_SECONDS), self._until_due(leading))

    def _until_due(self, leading: Leading) -> float:
        """Seconds until the license has to be asked for again, as the board has it."""
        held = self._held(leading)
        if held is None:
            return 0.0
        if held.body["status"] != "active":
            return self._jittered(AFTER_A_NO_SECONDS)
        life_ms = held.expires_at - held.observed_at
        return max(0.0, (held.observed_at - leading.now_ms + self._jittered(life_ms * 2 / 3)) / 1000)

    async def _refresh(self, leading: Leading) -> None:
        """Ask once, and put the answer on record if it is news.

        Raises:
            Blocked, Unreachable, NoWord: there was no answer that counts, or it could not be put on record.
        """
        cluster_id, nonce = leading.registry.cluster_id, self._entropy.token(NONCE_BYTES).hex()
        asked = wire.question(self._terms, cluster_id=cluster_id, node_id=self._node_id, nonce=nonce)
        reply = await self._outside.request(asked)
        said = wire.answer(self._terms, reply, cluster_id=cluster_id, nonce=nonce, now_ms=leading.now_ms)
        await self._put_on_record(leading, said)
        if said.status == "active":
            self._recover()
        else:
            self._complain(f"license {said.license_id} is {said.status}, the authority says")

    async def _put_on_record(self, leading: Leading, said: facts.License) -> None:
        held = self._held(leading)
        if said.status == "active":
            if said.valid_until <= leading.now_ms:
                raise NoWord(f"its token ran out at {time_text(said.valid_until)}; is a clock wrong?")
        elif held is None or (held.body["status"], held.body.get("grace_until", 0)) != (said.status, said.grace_until):
            said = _ended(said, held, leading.now_ms)
        else:
            return  # a no stands until another word: repeated, it is no news
        body: dict[str, Any] = msgspec.to_builtins(said)
        lives_ms = max(0, said.valid_until - leading.now_ms)
        (recorded,) = await leading.submit(
            [leading.fact("license", leading.registry.cluster_id, body, lives_ms=lives_ms)]
        )
        if not isinstance(recorded, FactAccepted):
            raise NoWord(f"its answer could not be put on record: {recorded}"[:300])

    def _held(self, leading: Leading) -> Known | None:
        """What the board says about this license; a fact about another one, of a former source, is not ours."""
        held = leading.registry.fact("license", leading.registry.cluster_id)
        return held if held is not None and held.body["license_id"] == self._terms.license_id else None

    def _jittered(self, length: float) -> float:
        return length * (1 - JITTER * self._entropy.random())

    def _complain(self, trouble: str) -> None:
        if self.trouble is None:  # once, not at every try
            _log.warning("the license authority gives no license", reason=trouble)
        self.trouble = trouble

    def _recover(self) -> None:
        if self.trouble is not None:
            _log.info("the license authority gives a license again")
        self.trouble = None


def _ended(said: facts.License, held: Known | None, now_ms: int) -> facts.License:
    """A license that is not active ended when it ended, however long the token that says so would live."""
    ended = now_ms if held is None else min(now_ms, held.body["valid_until"])
    return msgspec.structs.replace(said, valid_until=min(said.valid_until, ended))


def _what_holds(held: Known | None) -> str:
    if held is None:
        return "no license is held"
    until = time_text(held.body["valid_until"])
    return f"the license held is {held.body['status']} until {until}, and then its grace begins"
