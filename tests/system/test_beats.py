"""A short run of `make beats`: real nodes, a real broker that is restarted, a leader that is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.live.beats import BAD_LUCK, conduct
from chaos.live.nats import MISSING, is_installed

pytestmark = [pytest.mark.system, pytest.mark.skipif(not is_installed(), reason=MISSING)]


@pytest.mark.timeout(600)
async def test_real_nodes_keep_the_windows_of_a_real_broker(tmp_path: Path) -> None:
    """Slow enough for a busy machine: a turn of the loop before, between and after the two faults."""
    result = await conduct(24, BAD_LUCK._replace(tempo_bpm=75.0, bar=2), tmp_path)
    assert not result.violations, "\n".join(result.violations)
    assert not result.is_thin and result.beats >= 24, result
    assert result.accepted["reverb"] >= 6 and result.leaders >= 2
