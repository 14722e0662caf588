"""SWOOSH's decisions: a deterministic statechart as pure functions and values.

Bytes and values in, outcomes and bytes out. Nothing here reads a clock, randomness, a disk or a network; the one
exception is the SDK in ``swoosh.client``, which nothing else here imports.
"""

from swoosh.catalog import effect, guard
from swoosh.chart import load_chart
from swoosh.hlc import HLC
from swoosh.machine import Machine, MemorySource
from swoosh.state import compute_state_hash

__all__ = ["HLC", "Machine", "MemorySource", "compute_state_hash", "effect", "guard", "load_chart"]
