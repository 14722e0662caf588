"""Commands on ``@cluster``: what an admin decides for every project at one log position (Brief §9, §13).

They are proposals like any other: signed, ordered, idempotent, on record. Their effects change the regions of
``@cluster`` and nothing of a project; a project feels them because its guards read the registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta
from msgspec.structs import replace

from swoosh import limits, principal, proposal, settings
from swoosh.catalog import Context, Verdict, effect, guard, inputs, passed, refused
from swoosh.errors import Malformed
from swoosh.facts import KINDS
from swoosh.inputs import Address, Count, Inputs, OptionalText, Principal, Word, check_distinct, check_hashes
from swoosh.state import ClusterMember, ClusterRegions, Flag, Identity, ProjectRegions

_REGIONS = tuple(name for name in ProjectRegions.__struct_fields__ if name not in ("epoch", "hlc_last"))
ROLES = (
    *("admin", "operator", "policy", "agent", "elector", "node"),
    *(f"proposer:{region}" for region in ("*", *_REGIONS)),
    *(f"provider:{kind}" for kind in ("*", *KINDS)),
)
ROUTES = ("legacy", "shadow", "swoosh")
FLAGS = {
    "route.council": ROUTES,
    "route.ingestion": ROUTES,
    "route.execution": ROUTES,
    "bypass": ("on", "off"),
}


# --- identities -------------------------------------------------------------------------------------------------------


@inputs
class NewIdentity(Inputs, frozen=True):
    """A public key, what it is called, and what it may do. ``projects`` empty means all of them."""

    principal: Principal
    name: Word
    roles: Annotated[tuple[str, ...], Meta(min_length=1, max_length=limits.IDENTITY_ROLES_MAX)]
    projects: Annotated[tuple[str, ...], Meta(max_length=limits.IDENTITY_PROJECTS_MAX)] = ()

    def __post_init__(self) -> None:
        check_distinct("roles", self.roles)
        check_distinct("projects", self.projects)
        for project in self.projects:
            _check_project(project)


@inputs
class IdentityName(Inputs, frozen=True):
    """An identity by its principal."""

    principal: Principal
    reason: OptionalText = ""


@guard
def identity_sound(c: Context) -> Verdict:
    """Reads the identities; refuses what is no key, unknown roles, a policy key that does more, a revoked key."""
    sent, entries = c.inputs, _cluster(c).identities.entries
    faults = [f"role {role[:80]!r} is unknown; known: {', '.join(ROLES)}" for role in sent.roles if role not in ROLES]
    if principal.key_of(sent.principal) is None:
        faults.append(f"{sent.principal!r} is not {principal.CANONICAL}<64 hex>, nor another spelling of a key")
    if "policy" in sent.roles and any(role == "node" or role.startswith("provider:") for role in sent.roles):
        faults.append("policy belongs to a person's key, which is neither a node's nor a provider's")
    held = entries.get(principal.normalise(sent.principal))
    if held is not None and held.revoked:
        faults.append(f"this key was revoked as {held.name}; a revoked key never signs again")
    if held is None and len(entries) >= limits.IDENTITIES_MAX:
        faults.append(f"{len(entries)} identities are registered, the most there may be")
    return refused(*faults) if faults else passed(f"{sent.name} may be {', '.join(sent.roles)}")


@guard
def identity_known(c: Context) -> Verdict:
    """Reads the identities; refuses one that is not registered, or revoked already."""
    held = _cluster(c).identities.entries.get(principal.normalise(c.inputs.principal))
    if held is None or held.revoked:
        return refused(f"{c.inputs.principal} is {'revoked already' if held else 'not registered'}")
    return passed(f"{held.name} is registered")


@guard
def admin_remains(c: Context) -> Verdict:
    """Reads the identities; refuses to leave the cluster without an admin."""
    entries, name = _cluster(c).identities.entries, principal.normalise(c.inputs.principal)
    held = entries.get(name)
    keeps = isinstance(c.inputs, NewIdentity) and _is_admin(_identity(c.inputs))
    if held is None or not _is_admin(held) or keeps:
        return passed("the number of admins does not fall")
    if not any(_is_admin(identity) for other, identity in entries.items() if other != name):
        return refused(f"{held.name} is the last admin; add another one first")
    return passed("another admin remains")


@effect
def add_identity(c: Context) -> Mapping[str, Any]:
    """The key signs from now on; for one that is registered, its name, roles and projects are replaced."""
    held = _cluster(c).identities
    entries = held.entries.set(principal.normalise(c.inputs.principal), _identity(c.inputs))
    return {"identities": replace(held, entries=entries)}


@effect
def revoke_identity(c: Context) -> Mapping[str, Any]:
    """The key stays known, so that what it signed can be told from what it may no longer sign."""
    held, name = _cluster(c).identities, principal.normalise(c.inputs.principal)
    return {"identities": replace(held, entries=held.entries.set(name, replace(held.entries[name], revoked=True)))}


def _identity(sent: NewIdentity) -> Identity:
    return Identity(sent.name, tuple(sorted(sent.roles)), tuple(sorted(sent.projects)))


def _is_admin(identity: Identity) -> bool:
    """An admin who can act on ``@cluster``."""
    reaches = not identity.projects or proposal.CLUSTER in identity.projects
    return "admin" in identity.roles and reaches and not identity.revoked


# --- flags, settings --------------------------------------------------------------------------------------------------


@inputs
class FlagValue(Inputs, frozen=True):
    """A flag and its new value; ``expires_ms`` in milliseconds since 1970, 0 for never."""

    name: Word
    value: Word
    expires_ms: Annotated[int, Meta(ge=0, le=limits.HLC_MS_MAX)] = 0


@inputs
class SettingValue(Inputs, frozen=True):
    """A setting and its new value (docs/reference/settings.md)."""

    name: Word
    value: Any


@guard
def flag_sound(c: Context) -> Verdict:
    """Reads the stamp; refuses unknown flags and values, and a bypass without an end or an end of anything else."""
    name, value, expires = c.inputs.name, c.inputs.value, c.inputs.expires_ms
    if name not in FLAGS:
        return refused(f"unknown flag {name!r}; known: {', '.join(FLAGS)}")
    if value not in FLAGS[name]:
        return refused(f"{name} takes one of {', '.join(FLAGS[name])}, not {value!r}")
    emergency = (name, value) == ("bypass", "on")
    if emergency and expires <= c.now_ms:
        return refused(f"a bypass is for an emergency and must end: expires_ms later than {c.now_ms} is needed")
    if expires and not emergency:
        return refused(f"{name} {value} stays until it is set again; leave expires_ms out")
    return passed(f"{name} may be {value}")


@guard
def setting_sound(c: Context) -> Verdict:
    """Reads the table of settings; refuses unknown ones and values out of range."""
    fault = settings.fault(c.inputs.name, c.inputs.value)
    return refused(fault) if fault else passed(f"{c.inputs.name} takes this value")


@effect
def set_flag(c: Context) -> Mapping[str, Any]:
    """The flag's value, and its end if it has one."""
    held = _cluster(c).flags
    return {"flags": replace(held, values={**held.values, c.inputs.name: Flag(c.inputs.value, c.inputs.expires_ms)})}


@effect
def set_setting(c: Context) -> Mapping[str, Any]:
    """What differs from the default is kept."""
    held, name, value = _cluster(c).settings, c.inputs.name, c.inputs.value
    values = {other: kept for other, kept in held.values.items() if other != name}
    if value != settings.SETTINGS[name].default:
        values[name] = value
    return {"settings": replace(held, values=values)}


# --- members, chart, ledgers, rollout ---------------------------------------------------------------------------------


@inputs
class Rejoin(Inputs, frozen=True):
    """A node, and the incarnation of its new store."""

    node: Word
    incarnation: Word


@inputs
class Activation(Inputs, frozen=True):
    """The chart to come, and the nodes that reported to have it."""

    chart_hash: str
    version: Word
    supported_by: Annotated[tuple[Word, ...], Meta(max_length=limits.MEMBERS_MAX)]

    def __post_init__(self) -> None:
        check_hashes("chart_hash", self.chart_hash)


@inputs
class Horizon(Inputs, frozen=True):
    """Keys a project applied before the log index ``before_index`` are forgotten."""

    project: str
    before_index: Count

    def __post_init__(self) -> None:
        _check_project(self.project)


@inputs
class StopSign(Inputs, frozen=True):
    """Which sign was seen, with what value, and where it was measured."""

    sign: Word
    value: Word
    source: Address


@guard
def member_may_rejoin(c: Context) -> Verdict:
    """Reads the members, the setting auto_rejoin, the signer; refuses strangers, old incarnations, a node unasked."""
    cluster, node, incarnation = _cluster(c), c.inputs.node, c.inputs.incarnation
    member = cluster.members.nodes.get(node)
    if member is None:
        return refused(f"{node} is not a member; members are {', '.join(sorted(cluster.members.nodes))}")
    if member.incarnation == incarnation:
        return refused(f"{node} is accepted with incarnation {incarnation} already")
    if "admin" not in c.roles and not c.registry.setting("auto_rejoin"):
        return refused("an admin must sign; nodes may only while the setting auto_rejoin is on")
    return passed(f"{node} returns with a new store")


@guard
def chart_supported(c: Context) -> Verdict:
    """Reads the chart in force and the members; refuses the same chart, or one that a member does not have."""
    cluster, sent = _cluster(c), c.inputs
    if sent.chart_hash == cluster.chart.chart_hash:
        return refused(f"chart {sent.chart_hash} is in force already")
    lacking = sorted(node for node in cluster.members.nodes if node not in sent.supported_by)
    if lacking:
        return refused(f"{', '.join(lacking)} did not report to support chart {sent.chart_hash}; upgrade there first")
    return passed(f"all {len(cluster.members.nodes)} members support chart {sent.chart_hash}")


@guard
def horizon_sound(c: Context) -> Verdict:
    """Reads the horizons and the end of the log; refuses one that does not move forward, or lies in the future."""
    horizons, project = _cluster(c).ledgers.horizons, c.inputs.project
    held = horizons.get(project, 0)
    if c.inputs.before_index <= held:
        return refused(f"the horizon of {project} is at {held}; it only moves forward")
    if c.inputs.before_index > c.log_index:
        return refused(f"the log is at {c.log_index}; keys that are not used yet cannot be forgotten")
    if project not in horizons and len(horizons) >= limits.HORIZONS_MAX:
        return refused(f"{len(horizons)} projects have a horizon, the most there may be")
    return passed(f"the horizon of {project} moves from {held} to {c.inputs.before_index}")


@effect
def rejoin_member(c: Context) -> Mapping[str, Any]:
    """The incarnation peers accept from now on."""
    held, node = _cluster(c).members, c.inputs.node
    member = ClusterMember(c.inputs.incarnation, held.nodes[node].rejoined + 1)
    return {"members": replace(held, nodes={**held.nodes, node: member})}


@effect
def activate_chart(c: Context) -> Mapping[str, Any]:
    """The chart that judges the next entry."""
    held = _cluster(c).chart
    return {"chart": replace(held, chart_hash=c.inputs.chart_hash, version=c.inputs.version)}


@effect
def prune_ledger(c: Context) -> Mapping[str, Any]:
    """Below the horizon, exactly once is given up."""
    held = _cluster(c).ledgers
    return {"ledgers": replace(held, horizons={**held.horizons, c.inputs.project: c.inputs.before_index})}


@effect
def halt_rollout(c: Context) -> Mapping[str, Any]:
    """The last sign seen."""
    held = _cluster(c).rollout
    return {"rollout": replace(held, sign=c.inputs.sign, value=c.inputs.value, source=c.inputs.source)}


def _cluster(c: Context) -> ClusterRegions:
    return c.registry.cluster


def _check_project(text: str) -> None:
    try:
        proposal.project_id(text)
    except Malformed as error:
        raise ValueError(error.reason) from None
