"""The configuration of a node: strict, overridable, and honest about what it does not understand."""

from __future__ import annotations

import json
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from cluster import config, faults, outside, sections, vault
from cluster.callers import Caller
from cluster.cli.keys import write_private
from cluster.cli.serve import notices
from cluster.clock import ManualClock, ShiftedClock, SystemClock
from cluster.config import Misconfigured
from cluster.egress import Blocked
from cluster.entropy import SeededEntropy
from cluster.providers.environment import Hook
from cluster.providers.mcp_probe import ToolServer
from cluster.vault import SecretError
from cluster.whoosh import CLOSED
from tests.cluster.band import Gate
from tests.sealed import seal_for

MEMBERS = {"node-1": ("127.0.0.1", 8201), "node-2": ("127.0.0.1", 8202)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "node-1" / "swoosh.toml"
    path.parent.mkdir()
    text = config.render(
        node="node-1", cluster_id="swoosh-x", http=("::1", 8101), peer=("127.0.0.1", 8201), members=MEMBERS
    )
    path.write_text(text)
    return path


def test_what_init_writes_is_what_serve_reads(file: Path) -> None:
    found = config.load(file, {})
    assert (found.node_id, found.http, found.peer) == ("node-1", ("::1", 8101), ("127.0.0.1", 8201))
    assert found.members == MEMBERS
    assert found.genesis_path.resolve() == file.parent.parent / "genesis.json"
    assert found.store_path == file.parent / "store"
    assert found.timing.election_min == 0.5
    assert found.notices == ()


def test_a_variable_overrides_the_file(file: Path) -> None:
    variables = {"SWOOSH_HTTP_LISTEN": "0.0.0.0:80", "SWOOSH_RAFT_ELECTION_MIN_MS": "700", "PATH": "x"}
    found = config.load(file, variables | {"SWOOSH_HTTP_RATE_PER_IP": "0"})
    assert (found.rate_per_ip, found.rate_per_signer) == (0, 5_000)
    assert config.load(file, {"SWOOSH_PROJECTS_PER_SIGNER": "0"}).projects_per_signer == 0 != found.projects_per_signer
    assert found.http == ("0.0.0.0", 80)
    assert found.timing.election_min == 0.7


def test_the_clock_of_one_node_can_be_made_wrong_while_it_runs_and_only_on_purpose(file: Path, tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    variables = {"SWOOSH_CLOCK_OFFSET_FILE": str(offset)}
    right, wrong = config.system_clock({}), config.system_clock(variables)
    assert isinstance(right, SystemClock) and not isinstance(right, ShiftedClock)
    assert abs(wrong.wall_us() - right.wall_us()) < 60_000_000, "a file that is not there is no offset"
    for hours in (1, -2):
        offset.write_text(str(hours * 3_600_000))
        assert abs(wrong.wall_us() - right.wall_us() - hours * 3_600_000_000) < 60_000_000
    assert abs(wrong.monotonic() - right.monotonic()) < 60
    [notice] = config.load(file, variables).notices
    assert "never in production" in notice


def test_the_variables_of_the_go_implementation_work(file: Path, tmp_path: Path) -> None:
    variables = {
        "SWOOSH_LISTEN_ADDR": "127.0.0.1:9000",
        "SWOOSH_WAL_DIR": str(tmp_path / "wal"),
        "SWOOSH_SNAPSHOT_DIR": str(tmp_path / "snap"),
        "SWOOSH_DATABASE_DB_HOST": "db",
    }
    found = config.load(file, variables)
    assert found.http == ("127.0.0.1", 9000)
    assert (found.data_dir, found.snapshots_path) == (tmp_path / "wal", tmp_path / "snap")
    assert "SWOOSH_DATABASE_DB_HOST" in found.notices[0]


def test_a_port_alone_is_every_address_of_the_machine_and_a_member_is_somewhere(file: Path) -> None:
    assert config.load(file, {"SWOOSH_LISTEN_ADDR": ":8080"}).http == ("", 8080)
    file.write_text(file.read_text().replace('node-2 = "127.0.0.1:8202"', 'node-2 = ":8202"'))
    with pytest.raises(Misconfigured, match="node-2: expected host:port"):
        config.load(file, {})


def test_an_identity_that_systemd_loaded_may_show_the_mask_of_its_access_list(file: Path, tmp_path: Path) -> None:
    """A credential of a unit with a user of its own is mode 0440; the list behind it lets in that user alone."""
    identity, _ = vault.new_identity()
    loaded = tmp_path / "credentials" / "age.key"
    loaded.parent.mkdir()
    write_private(loaded, identity)
    variables = {"SWOOSH_IDENTITY": str(loaded), "CREDENTIALS_DIRECTORY": str(loaded.parent)}
    for mode, refused in ((0o440, False), (0o444, True)):
        loaded.chmod(mode)
        found = config.load(file, variables).vault
        if refused:
            with pytest.raises(SecretError, match="may be read by others"):
                found.recipient()
        else:
            assert found.recipient().startswith("age1")
    loaded.chmod(0o440)
    with pytest.raises(SecretError, match="may be read by others"):
        config.load(file, {"SWOOSH_IDENTITY": str(loaded)}).vault.recipient()


def test_a_variable_nobody_knows_is_noticed(file: Path) -> None:
    assert "SWOOSH_HTTP_LISTN" in config.load(file, {"SWOOSH_HTTP_LISTN": "x"}).notices[0]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("surprise = 1", "unknown key surprise"),
        ("[http]\nlisten = '127.0.0.1:1'\nlistn = ''", r"unknown key http\.listn"),
        ("[raft]\nheartbeat = 5", r"unknown key raft\.heartbeat"),
        ("[raft]\nheartbeat_ms = 'fast'", r"raft\.heartbeat_ms"),
        ("[raft]\nelection_min_ms = 60", "election_min_ms"),
        ("[http]\nlisten = '127.0.0.1:1'\nrate_per_ip = -1", "rates are not negative"),
        ("[log]\nkeep_entries = 0", "keep_entries"),
        ("[install]\nmib_per_second = 0", "mib_per_second"),
        ("[disk]\nfree_min_mib = -1", "free_min_mib is not negative"),
        ("projects_per_signer = -1", "projects_per_signer is not negative"),
        ("[http]\nlisten = '127.0.0.1'", r"http\.listen: expected host:port"),
        ("[http]\nlisten = '127.0.0.1:70000'", r"http\.listen: expected host:port"),
        ("[mcp]\ninterval_ms = 0", "interval_ms and timeout_ms are at least 1"),
        ("[mcp.servers.a]\nurl = 'http://x/'\ntokn = ''", "tokn"),
        ("[mcp.servers.'a b']\nurl = 'http://x/'", "mcp.servers: 'a b'"),
        ("[mcp.servers.a]\nurl = 'x:80/mcp'", r"mcp.servers.a.url: expected http"),
        ("[mcp.servers.a]\nurl = 'http://user:pass@x/'", r"mcp.servers.a.url: expected http"),
        ("[mcp.servers.a]\nurl = 'http://x:99999/'", r"mcp.servers.a.url: expected http"),
        ("[mcp.servers.a]\nurl = 'http://x/'\ntoken = 'absent'", r"mcp.servers.a.token: .*absent"),
        ("[bubble]\nurl = 'ftp://x'", r"bubble\.url: expected http"),
        ("[bubble]\nurl = 'http://me:secret@x'", r"bubble\.url: expected .*, without a password"),
        ("[bubble]\nurl = 'http://x/'\npath = 'y'", "bubble: either path or url"),
        ("[bubble]\npath = 'y'\nfields = {id = 'drid'}", r"bubble\.fields: id = 'drid' is no member"),
        ("[slurp]\nurl = 'http://x/'\nmethod = 'GET'", r"slurp\.method: POST or PUT"),
        ("[slurp]\nurl = 'http://x/'\ntoken = 'absent'", r"slurp\.token: .*absent"),
        ("[http]\nlisten = '127.0.0.1:1'\ntrusted_proxies = ['proxy']", r"http\.trusted_proxies: expected an address"),
        ("[http]\nlisten = '127.0.0.1:1'\ntrusted_proxies = ['10.0.0.1/8']", r"http\.trusted_proxies: .*10\.0\.0\.1/8"),
        ("[whoosh]\ntoken = 'x'", r"unknown key whoosh\.token;"),
        ("[whoosh]\nanonymous = ['king']", r"whoosh\.anonymous: expected some of admin, .*'king'"),
        ("[whoosh]\nanonymous = 'agent'", r"whoosh\.anonymous"),
        ("[whoosh]\ntokens = 'absent'", r"whoosh\.tokens: .*absent"),
        ("[whoosh]\njwks = 'absent'", r"whoosh\.jwks: .*absent: No such file"),
        ("[whoosh]\njwks = 'swoosh.toml'", r"whoosh\.jwks: not a JSON Web Key Set"),
        ("[whoosh]\njwt_secret = 'absent'", r"whoosh\.jwt_secret: .*absent"),
        ("[whoosh]\ngitea_secret = 'absent'", r"whoosh\.gitea_secret: .*absent"),
        ("[whoosh]\naudience = 'whoosh'", "without jwks or jwt_secret none is believed"),
        ("[whoosh]\norigins = ['*']", r"whoosh\.origins: expected .*'\*'"),
        ("[whoosh]\norigins = ['https://*.example']", r"whoosh\.origins"),
        ("[whoosh]\norigins = ['https://board.example/']", r"whoosh\.origins"),
        ("[whoosh]\norigins = ['https://Board.example']", r"whoosh\.origins"),
        ("[whoosh]\norigins = ['https://board.example:443']", r"whoosh\.origins"),
        ("[whoosh]\norigins = ['null']", r"whoosh\.origins"),
        ("[whoosh]\nagents = ['chorus']", r"whoosh\.agents: expected host:port"),
        ("[whoosh]\nagents = ['http://chorus:80']", r"whoosh\.agents: expected host:port"),
        ("[whoosh]\nrate_per_minute = -1", r"rate_per_minute is not negative"),
        ("[whoosh]\nrebroadcast_seconds = 0", "rebroadcast_seconds and agent_seconds are at least 1"),
        ("[members]\nnode-2 = '127.0.0.1:1'", "node-1, this node, is missing"),
        ("= 1", "swoosh.toml"),
    ],
)
def test_a_mistake_is_named(file: Path, line: str, complaint: str) -> None:
    section = line.partition("\n")[0]
    kept, skipping = [], False
    for each in file.read_text().splitlines():
        skipping = each == section if each.startswith("[") else skipping
        kept += [] if skipping else [each]
    top, _, rest = "\n".join(kept).partition("[")
    file.write_text(f"{top}\n[{rest}\n{line}\n" if line.startswith("[") else f"{line}\n{top}[{rest}")
    with pytest.raises(Misconfigured, match=complaint):
        config.load(file, {})


def test_tokens_are_read_from_a_sealed_file_of_their_own_and_never_shown(file: Path) -> None:
    seal_for(file.parent, "tokens.age", "one\n\n two \n")
    found = config.load(file, {"SWOOSH_HTTP_READ_TOKENS": "tokens.age"})
    assert found.read_tokens == ("one", "two")
    assert "one" not in repr(found.read_tokens) and "'two'" not in repr(found)
    with pytest.raises(Misconfigured, match=r"http\.read_tokens: .*absent"):
        config.load(file, {"SWOOSH_HTTP_READ_TOKENS": "absent"})


def test_a_secret_that_lies_open_is_refused_with_the_command_that_seals_it(file: Path) -> None:
    (file.parent / "tokens").write_text("one")
    with pytest.raises(Misconfigured, match=r"is not encrypted.*swoosh keys seal"):
        config.load(file, {"SWOOSH_HTTP_READ_TOKENS": "tokens"})


def test_each_tool_server_is_an_address_that_may_be_reached_and_a_provider(file: Path) -> None:
    seal_for(file.parent, "token.age", "open sesame\n")
    file.write_text(
        file.read_text()
        + """
[mcp]
timeout_ms = 2500
[mcp.servers.search]
url = "https://search.example/mcp"
token = "token.age"
[mcp.servers.files]
url = "http://[::1]:8800/"
"""
    )
    found = config.load(file, {"SWOOSH_MCP_INTERVAL_MS": "1000"})
    assert found.tool_servers == (
        ToolServer("files", "http://[::1]:8800/", "", 1.0, 2.5),
        ToolServer("search", "https://search.example/mcp", "open sesame", 1.0, 2.5),
    )
    keeper = outside.gatekeeper(found, ManualClock())
    keeper.closed = lambda project: None
    for server in found.tool_servers:
        keeper.permit("mcp", server.url)
    with pytest.raises(Blocked):
        keeper.permit("mcp", "http://elsewhere.example/")
    names = [provider.name for provider in outside.providers(found, cast(Any, None), SeededEntropy(1), cast(Any, None))]
    assert names == ["license", "mcp:files", "mcp:search", "policy"]


def test_a_node_lets_in_nobody_of_whoosh_s_unless_it_is_told_to(file: Path) -> None:
    assert config.load(file, {}).whoosh == CLOSED and config.load(file, {}).trusted_proxies == ()
    assert "\n# [whoosh]\n" in file.read_text(), "what could be written there is shown"


def test_an_insecure_cluster_is_made_with_doors_that_stand_open(file: Path) -> None:
    names: dict[str, Any] = {"node": "node-1", "cluster_id": "swoosh-x", "members": MEMBERS}
    file.write_text(config.render(**names, http=("::1", 1), peer=("::1", 2), insecure=True))
    found = config.load(file, {})
    assert found.whoosh.access.anonymous == {"agent", "developer", "service"}
    assert list(notices(found, cast(Any, SimpleNamespace(insecure=True)))) == []
    [notice] = notices(found, cast(Any, SimpleNamespace(insecure=False)))
    assert "agent, developer, service" in notice and "without a token" in notice


def test_who_may_call_as_whoosh_s_callers_do_is_read_with_all_its_files(file: Path) -> None:
    token = "0123456789abcdef0123456789abcdef"
    seal_for(file.parent, "tokens.age", f"ci service {token}\n")
    seal_for(file.parent, "jwt.age", "a secret that both sides know, long enough\n")
    seal_for(file.parent, "gitea.age", "between us\n")
    public = OKPAlgorithm.to_jwk(Ed25519PrivateKey.generate().public_key(), as_dict=True)
    (file.parent / "jwks.json").write_text(json.dumps({"keys": [public]}))
    file.write_text(
        file.read_text().replace("[http]\n", "[http]\ntrusted_proxies = ['10.0.0.0/8', 'fd00::1']\n")
        + """
[whoosh]
tokens = "tokens.age"
jwks = "jwks.json"
jwt_secret = "jwt.age"
issuer = "https://id.example/"
audience = "whoosh"
gitea_secret = "gitea.age"
origins = ["https://board.example", "http://localhost:3000", "http://[::1]:3000"]
agents = ["chorus-*:8080", "10.0.0.*:*", "[fd00::1]:8080"]
formation_seconds = 60
"""
    )
    found = config.load(file, {"SWOOSH_WHOOSH_RATE_PER_MINUTE": "7"})
    assert found.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("fd00::1"))
    told = found.whoosh
    assert told.access.tokens == {token: Caller("ci", frozenset({"service"}))} and not told.access.anonymous
    assert [key.algorithm_name for key in told.access.provider.keys] == ["EdDSA", "HS256"]
    assert told.access.provider[1:] == ("https://id.example/", "whoosh")
    assert (told.gitea_secret, told.rate_per_minute, len(told.origins), len(told.agents)) == ("between us", 7, 3, 3)
    assert (told.formation, told.rebroadcast, told.agent_life) == (60.0, 30.0, 900.0)
    for secret in (token, "both sides", "between us"):
        assert secret not in repr(found)


@pytest.mark.parametrize(
    ("key", "content", "fault"),
    [
        ("tokens", "ci service short", r"whoosh\.tokens: line 1: a token has at least"),
        ("tokens", "ci 0123456789abcdef0123456789abcdef service", r"whoosh\.tokens: line 1: the second word"),
        ("jwt_secret", "short", r"whoosh\.jwt_secret: a shared secret has at least 32 bytes"),
        ("jwt_secret", "", r"whoosh\.jwt_secret: a shared secret has at least 32 bytes"),
    ],
)
def test_a_secret_that_is_none_is_refused_and_not_repeated(file: Path, key: str, content: str, fault: str) -> None:
    seal_for(file.parent, "secret.age", content)
    with pytest.raises(Misconfigured, match=fault) as found:
        config.load(file, {f"SWOOSH_WHOOSH_{key.upper()}": "secret.age"})
    assert "0123" not in str(found.value)


def test_a_failpoint_is_armed_by_name_and_visit() -> None:
    config.arm_failpoints({})
    config.arm_failpoints({"SWOOSH_FAILPOINT": "journal.barrier.after:3"})
    try:
        faults.failpoint("journal.barrier.after")
        faults.failpoint("journal.barrier.after")
    finally:
        faults.disarm()
    with pytest.raises(Misconfigured, match="name:nth"):
        config.arm_failpoints({"SWOOSH_FAILPOINT": "applied"})


def test_what_stays_of_the_log_and_how_fast_a_snapshot_comes_may_be_set(file: Path) -> None:
    found = config.load(file, {})
    assert (found.keep.entries, found.keep.size, found.install_rate) == (10_000, 256 << 20, 32 << 20)
    variables = {"SWOOSH_LOG_KEEP_ENTRIES": "20", "SWOOSH_LOG_KEEP_MIB": "1", "SWOOSH_INSTALL_MIB_PER_SECOND": "2"}
    found = config.load(file, variables)
    assert (found.keep.entries, found.keep.size, found.install_rate) == (20, 1 << 20, 2 << 20)


def test_an_effect_receiver_is_a_system_where_one_is_configured(file: Path) -> None:
    variables = {"SWOOSH_ENVIRONMENT_URL": "https://receiver:9300/hooks", "SWOOSH_ENVIRONMENT_EVERY_MS": "250"}
    assert config.load(file, {}).environment is None
    seal_for(file.parent, "token.age", "sesame\n")
    found = config.load(file, variables | {"SWOOSH_ENVIRONMENT_TOKEN": "token.age"})
    assert found.environment == Hook("https://receiver:9300/hooks", "sesame", 5.0, 0.25)
    keeper = outside.gatekeeper(found, SystemClock())
    keeper.closed = lambda project: None
    keeper.permit("environment", "https://receiver:9300/effects")
    with pytest.raises(Blocked):
        outside.gatekeeper(config.load(file, {}), SystemClock()).permit("environment", "https://receiver:9300/")


@pytest.mark.parametrize(
    ("name", "value"),
    [("URL", "receiver:9300"), ("URL", "ftp://receiver"), ("TIMEOUT_MS", "0"), ("EVERY_MS", "0"), ("TOKEN", "nowhere")],
)
def test_an_effect_receiver_that_cannot_be_meant_is_refused(file: Path, name: str, value: str) -> None:
    variables = {"SWOOSH_ENVIRONMENT_URL": "http://receiver:9300", f"SWOOSH_ENVIRONMENT_{name}": value}
    with pytest.raises(Misconfigured, match=r"environment"):
        config.load(file, variables)


def test_what_is_decided_goes_nowhere_unless_a_sink_is_named(file: Path) -> None:
    assert config.load(file, {}).bubble == config.load(file, {}).slurp == sections.NOWHERE
    seal_for(file.parent, "token.age", "secret\n")
    named = "\n[bubble]\npath = 'd.jsonl'\n[slurp]\nurl = 'https://s.example/x'\ntoken = 'token.age'\n"
    file.write_text(file.read_text() + named + "[slurp.fields]\n'who.by' = 'submitted_by'\n")
    found = config.load(file, {})
    assert found.bubble == sections.Sink(path=file.parent / "d.jsonl")
    assert found.slurp == sections.Sink(url="https://s.example/x", token="secret", fields={"who.by": "submitted_by"})
    assert list(outside.gatekeeper(found, SystemClock())._allowed) == ["s.example:443"]


BACKBEAT = """
[backbeat]
url = "nats://a:4222, tls://b"
cluster = "lab"
"""


def test_a_system_that_no_section_names_does_not_exist(file: Path) -> None:
    found = config.load(file, {})
    assert found.backbeat is None
    found_providers = outside.providers(found, Gate(), SeededEntropy(0), cast(Any, None))
    assert [provider.name for provider in found_providers] == ["license", "policy"]


def test_backbeat_is_told_where_and_as_whom(file: Path) -> None:
    seal_for(file.parent, "login.age", "swoosh:secret\n")
    file.write_text(file.read_text() + BACKBEAT + 'credentials = "login.age"\nauthorities = "ca.pem"\n')
    found = config.load(file, {"SWOOSH_BACKBEAT_AGENT": "choir:1"})
    told = found.backbeat
    assert told is not None and told.urls == ("nats://a:4222", "tls://b")
    subjects = ("backbeat.lab.beat", "backbeat.lab.report", "backbeat.status.choir:1")
    assert (told.beats, told.reports, told.claims) == subjects
    assert told.access.login == "swoosh:secret" and told.access.authorities == file.parent / "ca.pem"
    keeper = outside.gatekeeper(found, SystemClock())
    keeper.closed = lambda project: None
    keeper.permit("backbeat", "tls://b:4222")
    with pytest.raises(Blocked):
        keeper.permit("backbeat", "nats://b:4223")
    names = [provider.name for provider in outside.providers(found, Gate(), SeededEntropy(0), cast(Any, None))]
    assert names == ["license", "backbeat", "policy"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('url = "http://a:4222"', "backbeat.url"),
        ('url = "nats://"', "backbeat.url"),
        ('url = "nats://a:b"', "backbeat.url"),
        ('url = "nats://[a"', "backbeat.url"),
        ('url = "nats://swoosh:secret@a"', "backbeat.credentials"),
        ('cluster = "two words"', "backbeat.cluster"),
        ('cluster = ""', "backbeat.cluster"),
        ('agent = "a.b"', "backbeat.agent"),
        ('credentials = "nowhere"', "backbeat.credentials"),
        ('url = ""', "url is missing"),
        ('uri = "nats://a"', "unknown key backbeat.uri"),
    ],
)
def test_what_backbeat_cannot_mean_is_refused(file: Path, text: str, fault: str) -> None:
    name = text.partition(" ")[0]
    kept = [line for line in BACKBEAT.splitlines() if not line.startswith(f"{name} ")]
    file.write_text("\n".join([file.read_text(), *kept, text]))
    with pytest.raises(Misconfigured, match=fault):
        config.load(file, {})
