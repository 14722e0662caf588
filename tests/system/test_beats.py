"""A short run of `make beats`: real nodes, a real broker that is restarted, a leader that is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.live.beats import BAD_LUCK, conduct
from chaos.live.nats import MISSING, is_installed

pytestmark = [pytest.mark.system, pytest.mark.skipif(not is_installed(), reason=MISSING)]


@pytest.mark.timeout(240)
async def test_real_nodes_keep_the_windows_of_a_real_broker(tmp_path: Path) -> None:
    result = await conduct(32, BAD_LUCK._replace(tempo_bpm=100.0), tmp_path)
    assert not result.violations, "\n".join(result.violations)
    assert not result.thin, result
    assert result.windows == 8
