"""The rules, one file per region: guards, effects and inputs under the names statechart.yaml calls them by.

Importing this package registers all of them. Regions never import each other: a rule that looks at two regions reads
the state, not the neighbour's code.
"""

from swoosh.regions import (
    boot,
    control,
    council,
    environment,
    execution,
    ingestion,
    license,
    lifecycle,
    policy,
    registry,
)

__all__ = [
    "boot",
    "control",
    "council",
    "environment",
    "execution",
    "ingestion",
    "license",
    "lifecycle",
    "policy",
    "registry",
]
