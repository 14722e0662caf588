"""What may hold a project whatever its regions are at: not created, no license yet, a pause, a quarantine, its end."""

from __future__ import annotations

from cluster.worker.common import GaveUp, Wait
from swoosh.client import State

HOLDS = ("Lifecycle", "Policy", "Control")
"""The regions that ``unless_held`` looks at."""


def unless_held(project: State | None) -> State | Wait:
    """The project where nothing holds it, else what a worker has to wait for before it does anything outside.

    Raises:
        GaveUp: the project is over.
    """
    if project is None:
        return Wait("the project to be created")
    regions = project.projection
    if regions["Lifecycle"]["Phase"] == "TERMINATED":
        raise GaveUp(f"the project is over: {regions['Lifecycle']['Reason']}")
    if regions["Policy"]["Phase"] == "QUARANTINED":
        return Wait(f"a policy signer: the project is quarantined, {regions['Policy']['Rationale']}")
    if regions["Control"]["Paused"]:
        return Wait("an operator or the license: the project is paused")
    if regions["Lifecycle"]["Phase"] == "BOOT":
        return Wait("the license that ends the boot")
    return project
