"""The SDK: how a program proposes to a SWOOSH cluster, and learns what came of it.

    async with Client(["http://127.0.0.1:8101", "http://127.0.0.1:8102"], key=Key.load(path)) as client:
        outcome = await client.propose("INGESTION_SOURCES_RESOLVED", inputs={"source_set": ["ucxl://…"]})

A proposal has three outcomes: ``Accepted``, ``Refused``, and ``Unknown``, which means that the budget ran out before
anybody could say. Unknown is not a failure: proposing again with the same ``idem_key`` is always safe.

Beside the machine, not above it: this package imports values, the encoder, signing and the clock value, and asks the
cluster for everything else.
"""

from swoosh.client.answers import (
    Accepted,
    ClientError,
    FactAccepted,
    Opening,
    Outcome,
    Refused,
    Rejected,
    State,
    Unavailable,
    Unknown,
    Windows,
)
from swoosh.client.client import Client, Draft
from swoosh.client.retry import Policy
from swoosh.client.signing import Key

__all__ = [
    "Accepted",
    "Client",
    "ClientError",
    "Draft",
    "FactAccepted",
    "Key",
    "Opening",
    "Outcome",
    "Policy",
    "Refused",
    "Rejected",
    "State",
    "Unavailable",
    "Unknown",
    "Windows",
]
