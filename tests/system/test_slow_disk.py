"""A disk that takes its time under a real store: the thread that syncs must not hold up the others.

No test on virtual time can show this: it is about the interpreter's lock, which an extension may keep while it waits.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "syncwatch.c"
DELAY_MS = 500

PROGRAM = """
import asyncio, sys
from pathlib import Path
from cluster.storage.kv import Batch, Family, RocksKeyValue
from cluster.storage.syncer import ThreadSyncer

async def main():
    kv, syncer = RocksKeyValue.create(Path(sys.argv[1])), ThreadSyncer()
    batch, turns, told = Batch(), 0, asyncio.Event()
    batch.put(Family.LOG, b"key", b"value")
    assert not syncer.begin(lambda: kv.write(batch, sync=True), told.set), "the disk is not slow"
    while not told.is_set():
        await asyncio.sleep(0.01)
        kv.get(Family.META, b"key")
        turns += 1
    print(turns)
    syncer.close()
    kv.close()

asyncio.run(main())
"""


def test_the_event_loop_turns_and_reads_while_a_sync_lasts(tmp_path: Path) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not installed; it compiles the library that holds syncs up")
    library = tmp_path / "syncwatch.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    variables = {
        "LD_PRELOAD": str(library),
        "SYNCWATCH_LOG": str(tmp_path / "trace"),
        "SYNCWATCH_PORT": "0",
        "SYNCWATCH_FILES": ".log",
        "SYNCWATCH_DELAY_MS": str(DELAY_MS),
    }
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "store")]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5, "it stood still for half a second"
