"""Commands: what an admin changes for every project at one log position."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from swoosh.catalog import EFFECTS, Context, Registry
from swoosh.settings import SETTINGS
from swoosh.state import Ledgers
from tests.core.contexts import CHART, NOW, ROLES, context, first_refusal, h, registry, who


def command(name: str, inputs: dict[str, Any], *, on: Registry | None = None, signer: str = "root") -> Context:
    return context(name, inputs, on=on, signer=signer, project="@cluster")


def applied(c: Context) -> Registry:
    """The registry after a command whose guards all held."""
    assert first_refusal(c) is None, first_refusal(c)
    assert c.transition.effect is not None
    return c.registry._replace(cluster=msgspec.structs.replace(c.registry.cluster, **EFFECTS[c.transition.effect](c)))


# --- identities -------------------------------------------------------------------------------------------------------


def newcomer(*roles: str, name: str = "zoe", **more: Any) -> dict[str, Any]:
    return {"principal": who(name), "name": name, "roles": list(roles), **more}


def test_an_added_key_may_sign_and_a_revoked_one_never_again() -> None:
    on = applied(command("IDENTITY_ADDED", newcomer("agent", projects=["beta"])))
    held = on.identity(who("zoe"))
    assert held is not None
    assert (held.roles, held.projects) == (("agent",), ("beta",))
    on = applied(command("IDENTITY_REVOKED", {"principal": who("zoe")}, on=on))
    assert on.identity(who("zoe")) is None
    assert first_refusal(command("IDENTITY_ADDED", newcomer("agent"), on=on)) == "identity_sound"
    assert first_refusal(command("IDENTITY_REVOKED", {"principal": who("zoe")}, on=on)) == "identity_known"


def test_every_spelling_of_a_key_is_one_identity() -> None:
    bare = {**newcomer("agent"), "principal": who("zoe").replace("ed25519:", "")}
    assert applied(command("IDENTITY_ADDED", bare)).identity(who("zoe")) is not None


def test_a_registered_key_may_be_given_other_roles() -> None:
    on = applied(command("IDENTITY_ADDED", newcomer("elector", "agent", name="alice")))
    held = on.identity(who("alice"))
    assert held is not None and held.roles == ("agent", "elector")


@pytest.mark.parametrize(
    ("inputs", "refusal"),
    [
        (newcomer("agent"), None),
        (newcomer("proposer:council", "provider:tool"), None),
        (newcomer("king"), "identity_sound"),
        (newcomer("proposer:kitchen"), "identity_sound"),
        (newcomer("provider:weather"), "identity_sound"),
        (newcomer("policy"), None),
        (newcomer("policy", "operator"), None),
        (newcomer("policy", "node"), "identity_sound"),
        (newcomer("policy", "provider:policy"), "identity_sound"),
        ({**newcomer("agent"), "principal": "zoe"}, "identity_sound"),
    ],
)
def test_an_identity_is_a_key_with_roles_that_exist(inputs: dict[str, Any], refusal: str | None) -> None:
    assert first_refusal(command("IDENTITY_ADDED", inputs)) == refusal


def test_the_roles_of_everyone_in_these_tests_exist() -> None:
    for name, roles in ROLES.items():
        assert first_refusal(command("IDENTITY_ADDED", newcomer(*roles, name=name, projects=["@cluster"]))) is None


def test_an_admin_always_remains() -> None:
    alone = {"principal": who("root")}
    assert first_refusal(command("IDENTITY_REVOKED", alone)) == "admin_remains"
    assert first_refusal(command("IDENTITY_ADDED", newcomer("operator", name="root"))) == "admin_remains"
    assert (
        first_refusal(command("IDENTITY_ADDED", newcomer("admin", name="root", projects=["beta"]))) == "admin_remains"
    )
    assert first_refusal(command("IDENTITY_ADDED", newcomer("admin", "operator", name="root"))) is None
    on = applied(command("IDENTITY_ADDED", newcomer("admin")))
    assert first_refusal(command("IDENTITY_REVOKED", alone, on=on)) is None


# --- flags, settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "sound"),
    [
        ({"name": "route.council", "value": "swoosh"}, True),
        ({"name": "route.council", "value": "elsewhere"}, False),
        ({"name": "route.council", "value": "legacy", "expires_ms": NOW + 1}, False),
        ({"name": "route.kitchen", "value": "swoosh"}, False),
        ({"name": "bypass", "value": "on", "expires_ms": NOW + 1}, True),
        ({"name": "bypass", "value": "on", "expires_ms": NOW}, False),
        ({"name": "bypass", "value": "on"}, False),
        ({"name": "bypass", "value": "off"}, True),
    ],
)
def test_flags_are_known_and_a_bypass_ends(inputs: dict[str, Any], sound: bool) -> None:
    c = command("FLAG_SET", inputs)
    assert (first_refusal(c) is None) is sound
    if sound:
        assert applied(c).cluster.flags.values[inputs["name"]].value == inputs["value"]


@pytest.mark.parametrize(
    ("name", "value", "sound"),
    [
        ("max_skew_ms", 250, True),
        ("max_skew_ms", 0, False),
        ("max_skew_ms", True, False),
        ("max_skew_ms", "250", False),
        ("window_source", "always_open", True),
        ("window_source", "moon", False),
        ("gravity", 9, False),
    ],
)
def test_settings_are_known_and_in_range(name: str, value: Any, sound: bool) -> None:
    c = command("SETTING_SET", {"name": name, "value": value})
    assert (first_refusal(c) is None) is sound
    if sound:
        assert applied(c).setting(name) == value


def test_a_setting_back_at_its_default_is_not_kept() -> None:
    on = applied(command("SETTING_SET", {"name": "max_skew_ms", "value": 250}))
    default = SETTINGS["max_skew_ms"].default
    on = applied(command("SETTING_SET", {"name": "max_skew_ms", "value": default}, on=on))
    assert on.cluster.settings.values == {}
    assert on.setting("max_skew_ms") == default


# --- members, chart, ledgers, rollout ---------------------------------------------------------------------------------


def rejoin(node: str = "n2", incarnation: str = "ab12", **how: Any) -> Context:
    return command("MEMBER_REJOINED", {"node": node, "incarnation": incarnation}, **how)


def test_a_replaced_node_returns_under_a_new_incarnation() -> None:
    on = applied(rejoin())
    assert on.cluster.members.nodes["n2"].incarnation == "ab12"
    assert first_refusal(rejoin(on=on)) == "member_may_rejoin"
    assert applied(rejoin(incarnation="cd34", on=on)).cluster.members.nodes["n2"].rejoined == 2
    assert first_refusal(rejoin(node="n9")) == "member_may_rejoin"


@pytest.mark.parametrize(("allowed", "refusal"), [(True, None), (False, "member_may_rejoin")])
def test_nodes_let_each_other_in_only_where_an_admin_said_so(allowed: bool, refusal: str | None) -> None:
    on = registry(settings={"auto_rejoin": allowed})
    assert first_refusal(rejoin(signer="n1", on=on)) == refusal


@pytest.mark.parametrize(
    ("chart", "nodes", "supported"),
    [
        (h("next"), ["n1", "n2", "n3"], True),
        (h("next"), ["n1", "n2"], False),
        (h("next"), [], False),
        (CHART.hash, ["n1", "n2", "n3"], False),
    ],
)
def test_a_chart_is_activated_where_every_member_has_it(chart: str, nodes: list[str], supported: bool) -> None:
    c = command("CHART_ACTIVATED", {"chart_hash": chart, "version": "2", "supported_by": nodes})
    assert (first_refusal(c) is None) is supported
    if supported:
        assert applied(c).cluster.chart.chart_hash == h("next")


@pytest.mark.parametrize(
    ("index", "sound"),
    [(11, True), (10, False), (9, False), (1_000, True), pytest.param(1_001, False, id="the future")],
)
def test_a_horizon_only_moves_forward_and_never_into_the_future(index: int, sound: bool) -> None:
    on = registry()
    on = on._replace(cluster=replace(on.cluster, ledgers=Ledgers(horizons={"beta": 10})))
    c = command("LEDGER_PRUNED", {"project": "beta", "before_index": index}, on=on)
    assert (first_refusal(c) is None) is sound
    if sound:
        assert applied(c).cluster.ledgers.horizons == {"beta": index}


def test_a_horizon_is_of_a_project() -> None:
    with pytest.raises(msgspec.ValidationError, match="project"):
        command("LEDGER_PRUNED", {"project": "No Such", "before_index": 1})


def test_the_last_stop_sign_is_on_record() -> None:
    sign = {"sign": "divergence", "value": "1", "source": "shadow/compare"}
    rollout = applied(command("ROLLOUT_HALTED", sign, signer="n1")).cluster.rollout
    assert (rollout.sign, rollout.value, rollout.source) == ("divergence", "1", "shadow/compare")
