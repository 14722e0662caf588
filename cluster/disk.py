"""What a node thinks of its disk, and refuses on that account.

Two troubles, both better said than met: a sync that does not end, and space that is about to. A leader that cannot
write takes no proposals: they would wait for it while another leader could have taken them. A node that is nearly full
takes none either, since the next write may be the last; what its peers replicate to it still comes in, and when
nothing fits any more it stops with the exit code of a failed disk.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from cluster.answers import Unavailable, not_admitted
from swoosh.outcome import Code

MIB = 1 << 20

_log = structlog.get_logger(__name__)


class Disk:
    """The disk of one node. ``look`` now and then; everything else answers from what it saw.

    Args:
        stalled_s: seconds for which consensus has been waiting for a sync, or None.
        free: bytes that are free.
        least: bytes below which nothing is admitted.
        patience: seconds of waiting that are none of a caller's business.
    """

    def __init__(
        self, stalled_s: Callable[[], float | None], free: Callable[[], int], *, least: int, patience: float
    ) -> None:
        self._stalled_s, self._free, self._least, self._patience = stalled_s, free, least, patience
        self.free_bytes = free()

    def look(self) -> None:
        """Read how much is free."""
        was_low, self.free_bytes = self.is_low, self._free()
        if self.is_low and not was_low:
            _log.error("disk low", free_mib=self.free_bytes // MIB, least_mib=self._least // MIB)
        elif was_low and not self.is_low:
            _log.info("disk no longer low", free_mib=self.free_bytes // MIB)

    @property
    def is_low(self) -> bool:
        """Less is free than there should be."""
        return self.free_bytes < self._least

    @property
    def is_stalled(self) -> bool:
        """Nothing that rests on this disk can be expected soon."""
        return (self._stalled_s() or 0.0) >= self._patience

    @property
    def trouble(self) -> str | None:
        """What is wrong with it at this moment, if anything is."""
        stalled_s = self._stalled_s()
        if stalled_s is not None:
            return f"stalled: disk; a sync has taken {stalled_s:.1f} s so far"
        if self.is_low:
            return f"low disk space: {self.free_bytes // MIB} MiB free, {self._least // MIB} MiB are needed"
        return None

    def refusal(self) -> Unavailable | None:
        """Why nothing is admitted, if nothing is."""
        if not (self.is_stalled or self.is_low):
            return None
        return not_admitted(Code.DISK_SLOW if self.is_stalled else Code.DISK_LOW, self.trouble or "")
