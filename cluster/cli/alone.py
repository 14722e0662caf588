"""A group of one, from the variables of v1.0.0 alone: what `swoosh serve` does without a configuration.

    SWOOSH_WAL_DIR/group-of-one/          what `swoosh init --nodes 1` makes: one node and its store, keys, a license
    SWOOSH_WAL_DIR/group-of-one.making/   the same, while the first start makes it
    SWOOSH_SNAPSHOT_DIR/                  its snapshots, and `group-of-one.id`: whose they are

Made once, at the first start, which is the one that finds nothing in either directory. A store that is lost is never
made again: whatever else is found there stops the node. It must never touch what it has not just begun to make itself.
The whole of it gets its name in one step, so a first start that was interrupted leaves nothing anybody relied on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cluster import config
from cluster.cli.init import WINDOWS, Plan, create, window_settings
from cluster.clock import Clock
from cluster.config import Address, Alone, Config
from cluster.entropy import Entropy
from cluster.storage.kv import sync_directory, sync_file

HOME = "group-of-one"
MAKING = "group-of-one.making"
MARK = "group-of-one.id"
_NODE = "node-1"
_OF_THE_DISK = frozenset({"lost+found"})


class NotMade(Exception):
    """There is no group of one here, and it is not certain that there never was one. The text says what was found."""


class _OfOne(Plan):
    """The port for members is any free one, since there are none."""

    def addresses(self) -> dict[str, tuple[Address, Address]]:
        return {node: (http, (http[0], 0)) for node, (http, _) in super().addresses().items()}


def settings(clock: Clock, entropy: Entropy) -> Config:
    """The configuration of the one node, which is made first if this is its first start.

    Raises:
        Misconfigured: the variables do not say enough, or something wrong.
        NotMade: the group is not there, but something else is; or it cannot be written.
    """
    asked = config.alone()
    home = asked.data / HOME
    try:
        made_now = not home.exists()
        if made_now:
            _check_first_start(asked)
            _make(asked, clock, entropy)
        found = config.load_alone(home / _NODE / "swoosh.toml", asked)
        _mark(asked, found.cluster_id)
    except OSError as error:
        raise NotMade(f"the group of one cannot be made: {error}") from None
    return replace(found, notices=(*found.notices, *_notices(asked, home, found, made_now=made_now)))


def _notices(asked: Alone, home: Path, found: Config, *, made_now: bool) -> Iterator[str]:
    made = "made now" if made_now else "as it was made"
    yield (
        f"a group of one, {made} in {home}: what it acknowledges is on this disk alone; keys are in {home / 'keys'}; "
        "for three nodes see swoosh init"
    )
    if asked.insecure and not found.genesis().insecure:
        yield "SWOOSH_INSECURE_SIGNERS=1 is ignored: this group was made without it, and takes signed proposals only"


def _check_first_start(asked: Alone) -> None:
    """Nothing may be here that a node could have left behind.

    Raises:
        NotMade: something is.
        OSError: it cannot be looked at.
    """
    known = {asked.data / MAKING, asked.data, asked.snapshots}
    found = [entry for place in (asked.data, asked.snapshots) for entry in _entries(place)]
    strange = [entry for entry in found if entry not in known and entry.name not in _OF_THE_DISK]
    if strange:
        raise NotMade(
            f"{asked.data / HOME} is not there, but {strange[0]} is. If a node ran here, its store is lost: bring the "
            "volume back, or keep what is left and give two empty directories. If this is the directory of a node that "
            "swoosh init made, give its --config"
        )


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.exists() else []


def _make(asked: Alone, clock: Clock, entropy: Entropy) -> None:
    """What `swoosh init --nodes 1` makes."""
    making = asked.data / MAKING
    if making.exists():  # an interrupted first start: nobody ever served from it
        shutil.rmtree(making)
    plan = _OfOne(1, base_port=asked.listen[1] - 1, settings=window_settings(WINDOWS), insecure=asked.insecure)
    create(making, plan, clock, entropy)
    making.rename(asked.data / HOME)
    sync_directory(asked.data)


def _mark(asked: Alone, cluster_id: str) -> None:
    """Leave word beside the snapshots, so that a data directory that comes back empty is missed."""
    mark = asked.snapshots / MARK
    if not mark.exists():
        asked.snapshots.mkdir(parents=True, exist_ok=True)
        mark.write_text(cluster_id + "\n", encoding="utf-8")
        sync_file(mark)
        sync_directory(asked.snapshots)
