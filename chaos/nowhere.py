"""The configuration of a node that has no files, sockets or certificates: simulations and tests hand it everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.config import Config
from cluster.raft.replica import Timing
from cluster.vault import Vault

NOWHERE = Path("/nowhere")


def node_config(name: str, cluster_id: str, **what: Any) -> Config:
    """Of the node `name`; `what` are further members of Config."""
    return Config(
        node_id=name,
        cluster_id=cluster_id,
        http=(name, 0),
        peer=(name, 0),
        members={},
        genesis_path=NOWHERE,
        license_path=NOWHERE,
        key_path=NOWHERE,
        certificates=NOWHERE,
        vault=Vault(NOWHERE),
        data_dir=NOWHERE,
        snapshots_path=NOWHERE,
        timing=Timing(),
        **what,
    )
