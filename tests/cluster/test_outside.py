"""What the configuration says there is outside is what there is: no more providers, no more addresses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster import config, outside
from cluster.clock import ManualClock
from cluster.config import Misconfigured
from cluster.egress import Blocked
from cluster.entropy import SeededEntropy
from cluster.providers.kaching import Kaching
from cluster.providers.kaching_wire import Claims
from cluster.providers.license import LicenseFile
from cluster.providers.policy import PolicyInForce
from cluster.whoosh import Whoosh
from tests.sealed import seal_for

KACHING = """
[kaching]
url = "https://Kaching.example"
license_id = "CHORUS/DEV 1"
secret = "secret.age"
public_key = "{key}"
""".format(key="ab" * 32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    seal_for(tmp_path, "secret.age", "s3cret\n")
    here = ("127.0.0.1", 1)
    path = tmp_path / "swoosh.toml"
    path.write_text(config.render(node="n1", cluster_id="c", http=here, peer=here, members={"n1": here}))
    return path


def add(file: Path, text: str) -> Path:
    file.write_text(file.read_text() + text)
    return file


def faults(file: Path, text: str) -> str:
    with pytest.raises(Misconfigured) as found:
        config.load(add(file, text), {})
    return str(found.value)


def test_without_an_authority_the_license_is_the_file_s_and_nothing_is_reached(file: Path) -> None:
    found = config.load(file, {})
    keeper = outside.gatekeeper(found, ManualClock())
    provider, policy = outside.providers(found, keeper, SeededEntropy(1), None)  # type: ignore[arg-type]
    assert isinstance(provider, LicenseFile) and isinstance(policy, PolicyInForce)
    with pytest.raises(Blocked):
        keeper.permit("kaching", "https://kaching.example/")


def test_an_authority_takes_the_place_of_the_file_and_is_reached_before_any_license(file: Path) -> None:
    found = config.load(add(file, KACHING), {})
    keeper = outside.gatekeeper(found, ManualClock())
    provider, _ = outside.providers(found, keeper, SeededEntropy(1), None)  # type: ignore[arg-type]
    assert isinstance(provider, Kaching)
    assert found.kaching is not None
    keeper.permit("kaching", found.kaching.url)
    with pytest.raises(Blocked, match=r"kaching\.example:80 is not an address"):
        keeper.permit("kaching", "http://kaching.example/")


def test_agents_are_asked_where_whoosh_is_configured_and_reached_by_its_patterns(file: Path) -> None:
    found = replace(config.load(file, {}), whoosh=Whoosh(agents=("*.agents.test:9000",)))
    keeper = outside.gatekeeper(found, ManualClock())
    keeper.closed = lambda project: None
    names = [each.name for each in outside.providers(found, keeper, SeededEntropy(1), None)]  # type: ignore[arg-type]
    assert names == ["license", "agents", "policy"]
    keeper.permit("agents", "http://ada.agents.test:9000/health")
    with pytest.raises(Blocked, match=r"whoosh\.agents"):
        keeper.permit("agents", "http://ada.elsewhere.test:9000/health")


def test_its_names_are_in_the_configuration(file: Path) -> None:
    claims = '[kaching.claims]\nstatus = "state"\nnonce = ""\n'
    names = claims + '[kaching.request]\nnode_id = "node"\n[kaching.statuses]\nok = "active"\n'
    terms = config.load(add(file, KACHING + 'path = "/l/{license_id}?full=1"\n' + names), {}).kaching
    assert terms is not None
    assert terms.url == "https://Kaching.example/l/CHORUS%2FDEV%201?full=1"
    assert (terms.secret, terms.public_key) == ("s3cret", b"\xab" * 32)
    assert terms.claims == Claims(status="state", nonce="")
    assert (terms.asked.node_id, terms.statuses) == ("node", {"ok": "active"})


def test_a_variable_sets_it_too(file: Path) -> None:
    found = config.load(add(file, KACHING), {"SWOOSH_KACHING_LICENSE_ID": "l", "SWOOSH_KACHING_CLAIMS_STATUS": "s"})
    assert found.kaching is not None
    assert (found.kaching.license_id, found.kaching.claims.status) == ("l", "s")


def test_a_secret_in_clear_is_worth_a_notice(file: Path) -> None:
    assert config.load(add(file, KACHING), {}).notices == ()
    [notice] = config.load(file, {"SWOOSH_KACHING_URL": "http://kaching.example"}).notices
    assert "travels in clear" in notice


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ('url = "kaching.example"', "kaching.url"),
        ('url = "https://h:99999"', "kaching.url"),
        ('url = ""', "kaching.url"),
        ('license_id = ""', "kaching.license_id"),
        ('secret = ""', "kaching.secret"),
        ('secret = "gone"', "kaching.secret"),
        ('public_key = "AB"', "kaching.public_key"),
        ('path = "v1"', "kaching.path"),
        ('claims = { status = "" }', "kaching.claims"),
        ('claims = { staus = "s" }', "kaching.claims.staus"),
        ('statuses = { ok = "fine" }', "kaching.statuses"),
        ('timeout = "5"', "kaching.timeout"),
    ],
)
def test_what_cannot_be_meant_is_named(file: Path, wrong: str, named: str) -> None:
    kept = [line for line in KACHING.splitlines() if not line.startswith(wrong.split("=", maxsplit=1)[0])]
    assert named in faults(file, "\n".join([*kept, wrong, ""]))


def test_an_address_that_is_none_is_named(file: Path) -> None:
    assert "outbound.allow: expected host:port, got 'h'" in faults(file, '[outbound]\nallow = ["[::1]:80", "h"]\n')
