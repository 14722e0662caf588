"""``python -m chaos.replay STORE INDEX``: what the pure core makes of the log in a stopped node's store.

Begins at the genesis, reduces every entry up to INDEX in memory, and prints the WAL of all projects, one record per
line, by project id and sequence number. The last line is ``{"index", "cluster_hash"}``. The state in the store is not
looked at, nor is the store written to.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cluster import verify
from cluster.config import packaged_chart
from cluster.storage.snapshots import opened
from cluster.storage.store import ORIGIN
from swoosh import genesis
from swoosh.machine import MemorySource


def main(store: Path, upto: int) -> None:
    """Print the WAL, then where it ends."""
    with opened(store) as kv:
        found = verify.subject(kv, packaged_chart())
        source = MemorySource(genesis.initial_projects(found.genesis, found.chart), ORIGIN)
        machine = found.machine(source)
        for index, term, data in verify.log(kv, ORIGIN.index + 1, upto):
            source.commit(machine.apply(index, term, data))
    for project in sorted(source.records):
        for record in source.records[project]:
            sys.stdout.buffer.write(record + b"\n")
    end = {"index": machine.position.index, "cluster_hash": machine.cluster_hash}
    sys.stdout.buffer.write(json.dumps(end).encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
