"""The commands that need no running node: init, keys, and the verdicts drawn from what nodes say."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster import config, faults
from cluster.cli import main
from cluster.cli.inspect import Survey, Verdict, print_status
from cluster.cli.serve import replace_store
from cluster.storage.kv import RocksKeyValue
from cluster.storage.store import ORIGIN, Store
from cluster.storage.witness import FileWitness
from swoosh import genesis, principal, signing
from swoosh.client import Key
from swoosh.proposal import CLUSTER


def swoosh(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "cluster"
    done = swoosh("init", directory, "--nodes", "3", "--base-port", "9100", "--windows", "tidal:6")
    assert done.exit_code == 0, done.output
    return directory


# --- init -------------------------------------------------------------------------------------------------------------


def test_every_command_explains_itself() -> None:
    listing = swoosh("--help")
    assert listing.exit_code == 0
    for name in (
        "init",
        "serve",
        "status",
        "health",
        "state",
        "log",
        "explain",
        "propose",
        "quarantine",
        "policy",
        "scan",
        "verify",
        "snapshot",
        "keys",
        "identity",
        "council",
        "hmmm",
        "leader",
        "outbox",
        "shim",
    ):
        assert f"\n  {name} " in listing.output
        assert swoosh(name, "--help").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--listen", "8090"), "expected HOST:PORT"),
        (("--listen", "127.0.0.1:http"), "expected HOST:PORT"),
        (("--endpoint", "node-1:8101"), "expected http://HOST:PORT"),
        (("--endpoint", "http://node-1:8101/?a=b"), "expected http://HOST:PORT"),
        (("--timeout", "1"), "x>=2.0"),
    ],
)
def test_a_shim_that_could_not_serve_is_not_started(arguments: tuple[str, ...], complaint: str) -> None:
    done = swoosh("shim", *arguments)
    assert done.exit_code == 2 and complaint in done.output


def test_a_cluster_says_who_is_in_it_and_where(made: Path) -> None:
    cluster = json.loads((made / "cluster.json").read_text())
    found = genesis.decode((made / "genesis.json").read_bytes())
    assert cluster["cluster_id"] == genesis.cluster_id(found)
    assert [node["http"] for node in cluster["nodes"]] == [f"http://127.0.0.1:910{number}" for number in (1, 2, 3)]
    assert [node["peer"] for node in cluster["nodes"]] == [f"127.0.0.1:920{number}" for number in (1, 2, 3)]
    assert found.settings["tidal_schedule"]["period_ms"] == 6_000


def test_every_private_file_is_private(made: Path) -> None:
    private = [*made.rglob("*.pem"), *made.rglob("*.key"), *made.rglob("*.age")]
    assert len(private) == 11 + 2 + 3 + 3 * 2, "people's, authority and offline, an identity a node, two sealed a node"
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}


def test_each_key_is_registered_with_its_roles(made: Path) -> None:
    found = genesis.decode((made / "genesis.json").read_bytes())
    roles = {each.principal: each.roles for each in found.identities}
    assert roles[Key.load(made / "keys" / "proposer.pem").principal] == ("proposer:*",)
    assert roles[Key.load(made / "keys" / "policy.pem").principal] == ("policy",)
    assert roles[config.load(made / "node-2" / "swoosh.toml", {}).node_key().principal] == (
        "node",
        "provider:*",
        "elector",
    )
    assert len(roles) == 14


def test_the_development_license_is_a_fact_the_provider_signed(made: Path) -> None:
    document = json.loads((made / "license.json").read_text())
    cluster_id = json.loads((made / "cluster.json").read_text())["cluster_id"]
    key = principal.key_of(Key.load(made / "keys" / "provider.pem").principal)
    assert key is not None
    assert signing.verify(key, signing.fact_preimage(document, cluster_id), document["signature"])
    assert (document["kind"], document["subject"]) == ("license", cluster_id)


def test_each_node_has_a_store_that_holds_the_genesis_and_nothing_else(made: Path) -> None:
    hashes = set()
    for node in ("node-1", "node-2", "node-3"):
        settings = config.load(made / node / "swoosh.toml", {})
        assert settings.genesis().nodes == ("node-1", "node-2", "node-3")
        kv, witness = RocksKeyValue.open(settings.store_path), FileWitness.open(settings.witness_path)
        store = Store(kv)
        assert store.position() == ORIGIN
        cluster = store.project(CLUSTER)
        assert cluster is not None
        hashes.add(cluster.state_hash)
        mark = witness.read()
        assert mark is not None
        assert mark.sequence == 1
        witness.close()
        kv.close()
    assert len(hashes) == 1


def test_a_fresh_store_verifies(made: Path) -> None:
    done = swoosh("verify", made / "node-3", "--replay")
    assert done.exit_code == 0, done.output
    assert "verified at index 0" in done.stdout


def test_nothing_is_overwritten(made: Path) -> None:
    before = (made / "genesis.json").read_bytes()
    again = swoosh("init", made)
    assert again.exit_code == 1
    assert "not empty" in again.stderr
    assert (made / "genesis.json").read_bytes() == before


@pytest.mark.parametrize("windows", ["tidal:0", "tidal:", "tidal:x", "sometimes"])
def test_windows_of_another_form_are_refused(tmp_path: Path, windows: str) -> None:
    done = swoosh("init", tmp_path / "c", "--windows", windows)
    assert done.exit_code == 2
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("size", ["0", "2", "4", "6"])
def test_a_group_has_one_three_or_five_members(tmp_path: Path, size: str) -> None:
    done = swoosh("init", tmp_path / "c", "--nodes", size)
    assert done.exit_code == 2
    assert not (tmp_path / "c").exists()


def test_nodes_on_hosts_of_their_own_are_told_where_the_others_are(tmp_path: Path) -> None:
    places = [f"swoosh-{number}:8080" for number in (1, 2, 3)]
    done = swoosh("init", tmp_path / "c", *(word for place in places for word in ("--at", place)))
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "c" / "cluster.json").read_text())
    assert [node["http"] for node in summary["nodes"]] == [f"http://{place}" for place in places]
    for number in (1, 2, 3):
        found = config.load(tmp_path / "c" / f"node-{number}" / "swoosh.toml", {})
        assert (found.http, found.peer) == (("", 8080), ("", 8180)), "on every interface of its own"
        assert found.members == {f"node-{each}": (f"swoosh-{each}", 8180) for each in (1, 2, 3)}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--at", "a:8080", "--at", "b:8080"), "2 nodes; a cluster has 1, 3, 5"),
        (("--at", "a:8080", "--at", "a:8180", "--at", "b:8080"), "two nodes need one port"),
        (("--at", "8080"), "expected HOST:PORT"),
        (("--at", "a:65500"), "a port up to 65435"),
        (("--at", "a:8080", "--base-port", "9000"), "leave out --nodes, --host and --base-port"),
    ],
)
def test_places_that_make_no_cluster_are_refused(tmp_path: Path, options: tuple[str, ...], complaint: str) -> None:
    done = swoosh("init", tmp_path / "c", *options)
    assert done.exit_code == 2
    assert complaint in " ".join(done.output.split())
    assert not (tmp_path / "c").exists()


def test_a_group_of_one_cannot_rejoin_itself(tmp_path: Path) -> None:
    assert swoosh("init", tmp_path / "c", "--nodes", "1").exit_code == 0
    settings = config.load(tmp_path / "c" / "node-1" / "swoosh.toml", {})
    with faults.raised(), pytest.raises(faults.Stopped) as stop:
        replace_store(settings, settings.genesis(), config.packaged_chart(), confirmed=True)
    assert stop.value.code is faults.ExitCode.MISCONFIGURED
    assert not list((tmp_path / "c" / "node-1").glob("*.damaged-*"))


def test_whoosh_s_callers_need_no_token_where_nobody_else_must_sign(made: Path, tmp_path: Path) -> None:
    done = swoosh("init", tmp_path / "c", "--nodes", "1", "--insecure-signers")
    assert "INSECURE" in done.output
    held = {where: config.load(where / "node-1" / "swoosh.toml", {}).whoosh.access for where in (made, tmp_path / "c")}
    assert held[tmp_path / "c"].anonymous == {"agent", "developer", "service"}
    assert not held[made].anonymous


def test_serve_never_makes_a_store(tmp_path: Path) -> None:
    done = swoosh("serve", "--config", tmp_path / "swoosh.toml")
    assert done.exit_code == 2, "a configuration that is not there is a usage error"


# --- keys, members ----------------------------------------------------------------------------------------------------


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "alice.pem"
    done = swoosh("keys", "new", path, "-o", "json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["principal"] == Key.load(path).principal
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = path.read_bytes()
    assert swoosh("keys", "new", path).exit_code == 1
    assert path.read_bytes() == secret
    assert json.loads(swoosh("keys", "show", path, "-o", "json").stdout) == json.loads(done.stdout)


def test_a_file_that_is_no_key_is_called_that(tmp_path: Path) -> None:
    path = tmp_path / "x.pem"
    path.write_text("hello")
    done = swoosh("propose", "T", "--key", path)
    assert done.exit_code == 2
    assert "not an unencrypted PKCS #8 private key" in done.stderr


@pytest.mark.parametrize("action", ["add", "remove"])
def test_the_size_of_a_cluster_is_fixed(action: str) -> None:
    done = swoosh("member", action, "node-4")
    assert done.exit_code == 1
    assert "fixed when it is made" in done.stderr


# --- verdicts ---------------------------------------------------------------------------------------------------------


def report(node: str, *, leader: str | None = "n1", index: int = 7, state: str = "a", **changes: Any) -> dict[str, Any]:
    consensus = {
        "role": "leader" if node == leader else "follower",
        "leader": leader,
        "term": 2,
        "commit_index": index,
        "last_applied": index,
        "quorum": leader is not None,
        "faults_left": 1,
        "peers": [
            {"id": peer, "reachable": peer != "n3", "match_index": 5, "lag": 2, "last_contact_ms": 9}
            for peer in ("n1", "n2", "n3")
            if peer != node
        ],
    }
    body = {"node": node, "status": "healthy", "consensus": consensus, "walLag": 0, "version": "1", "missing": []}
    return {**body, "cluster_hash": f"sha256-{state * 64}", **changes}


def surveyed(*reports: dict[str, Any], silent: int = 0) -> Survey:
    return Survey({each["node"]: each for each in reports}, {f"http://{number}": "silent" for number in range(silent)})


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (surveyed(report("n1"), report("n2")), Verdict.HEALTHY),
        (surveyed(report("n1"), report("n2"), silent=1), Verdict.DEGRADED),
        (surveyed(report("n1"), report("n2", status="degraded")), Verdict.DEGRADED),
        (surveyed(report("n1", leader=None), report("n2", leader=None)), Verdict.NO_LEADER),
        (surveyed(report("n1"), report("n2", state="b")), Verdict.DIVERGED),
        (surveyed(report("n1"), report("n2", state="b", index=6)), Verdict.HEALTHY),
        (surveyed(silent=3), Verdict.UNREACHABLE),
    ],
)
def test_a_verdict_is_drawn_from_what_all_said(found: Survey, verdict: Verdict) -> None:
    assert found.verdict is verdict


def test_agreement_counts_equal_states_at_equal_indices() -> None:
    agreement = surveyed(report("n1"), report("n2"), report("n3", index=6)).agreement()
    assert str(agreement) == f"2 of 3 at index 7 sha256-{'a' * 64}"
    assert surveyed(report("n1", cluster_hash=None)).agreement() is None


def test_status_shows_the_silent_node_as_its_leader_sees_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(surveyed(report("n1"), report("n2"), silent=1))
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == [
        *("NODE", "ROLE", "TERM", "COMMIT", "APPLIED", "LAG", "LAST-CONTACT", "STATE-HASH", "VERSION"),
    ]
    assert lines[3].split()[:2] == ["n3", "unreachable"]
    assert lines[-2:] == ["faults left: 1", f"agree: 2 of 3 at index 7 sha256-{'a' * 64}"]
    assert "\x1b" not in out
    assert "silent" in err


def test_nobody_there_is_said_by_exit_code() -> None:
    done = swoosh("health", "--endpoint", "http://127.0.0.1:1", "--timeout", "0.2")
    assert (done.exit_code, done.stdout) == (4, "unreachable\n")


def test_a_snapshot_is_never_restored_under_a_voter() -> None:
    done = swoosh("snapshot", "restore", "--node", "node-1")
    assert done.exit_code == 1
    assert "swoosh serve --rejoin" in done.output
    assert "new cluster" in done.output
