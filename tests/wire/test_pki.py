"""Certificates: who they name, where they lie, and what the authority cannot do."""

import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from cluster import pki, tls
from cluster.tls import PeerName, PeerNameError, peer_name
from tests.wire.members import CLUSTER, VALIDITY, Papers


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Shake hands in memory; raises what either side raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    done = [False, False]
    while not all(done):
        for number, end in enumerate(ends):
            try:
                end.do_handshake()
                done[number] = True
            except ssl.SSLWantReadError:
                pass
    return ends


def test_two_members_know_each_other_by_name(papers: Papers) -> None:
    dialling = tls.client_context(papers.nodes["n2"], tls.RAFT_PROTOCOL)
    ends = handshake(dialling, tls.server_context(papers.nodes["n1"]), f"n1.{CLUSTER}")
    assert [peer_name(end.getpeercert()) for end in ends] == [PeerName("n1", CLUSTER), PeerName("n2", CLUSTER)]
    assert {(end.version(), end.selected_alpn_protocol()) for end in ends} == {("TLSv1.3", tls.RAFT_PROTOCOL)}


def test_no_context_offers_a_weaker_mode(papers: Papers) -> None:
    credentials = papers.nodes["n1"]
    for context in (tls.server_context(credentials), tls.client_context(credentials, tls.HTTP_PROTOCOL)):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert [each["subject"] for each in context.get_ca_certs()] == [((("commonName", f"{CLUSTER} authority"),),)], (
            "no public authority is trusted"
        )


def test_a_member_is_not_another_member(papers: Papers) -> None:
    dialling = tls.client_context(papers.nodes["n2"], tls.RAFT_PROTOCOL)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(dialling, tls.server_context(papers.nodes["n1"]), f"n3.{CLUSTER}")


def test_the_authority_cannot_vouch_for_another_cluster(papers: Papers, tmp_path: Path) -> None:
    elsewhere = PeerName("n1", "swoosh-" + "00" * 16)
    foreign = papers.issue(tmp_path / "n1", elsewhere)
    dialling = tls.client_context(papers.nodes["n2"], tls.RAFT_PROTOCOL)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        handshake(dialling, tls.server_context(foreign), str(elsewhere))


def test_a_node_cannot_issue_certificates(papers: Papers, tmp_path: Path) -> None:
    node = papers.nodes["n2"]
    pair = pki.KeyPair(certificate=node.certificate.read_bytes(), key=node.key)
    forged = pki.make_node(pair, PeerName("n1", CLUSTER), **VALIDITY)
    chain = pki.KeyPair(certificate=forged.certificate + pair.certificate, key=forged.key)
    (tmp_path / "n1").mkdir()
    credentials = pki.write_node(tmp_path / "n1", papers.authority.certificate, chain)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(
            tls.client_context(papers.nodes["n3"], tls.RAFT_PROTOCOL), tls.server_context(credentials), f"n1.{CLUSTER}"
        )


def test_an_expired_certificate_is_refused(papers: Papers, tmp_path: Path) -> None:
    (tmp_path / "n1").mkdir()
    past = {"not_before": VALIDITY["not_before"], "not_after": VALIDITY["not_before"].replace(year=2021)}
    pair = pki.make_node(papers.authority, PeerName("n1", CLUSTER), **past)
    credentials = pki.write_node(tmp_path / "n1", papers.authority.certificate, pair)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(
            tls.client_context(papers.nodes["n2"], tls.RAFT_PROTOCOL), tls.server_context(credentials), f"n1.{CLUSTER}"
        )


def test_a_node_certificate_serves_both_directions(papers: Papers) -> None:
    certificate = x509.load_pem_x509_certificate(papers.nodes["n1"].certificate.read_bytes())
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert certificate.not_valid_before_utc == VALIDITY["not_before"]
    assert certificate.not_valid_after_utc == VALIDITY["not_after"]


def test_keys_are_for_their_owner_and_nothing_is_overwritten(tmp_path: Path) -> None:
    authority = pki.make_authority(CLUSTER, **VALIDITY)
    pki.write_authority(tmp_path, authority)
    node = pki.make_node(authority, PeerName("n1", CLUSTER), **VALIDITY)
    (tmp_path / "n1").mkdir()
    pki.write_node(tmp_path / "n1", authority.certificate, node)
    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*.*")}
    assert modes == {
        "ca.crt": 0o644,
        "ca.key": 0o600,
        "n1/ca.crt": 0o644,
        "n1/node.crt": 0o644,
    }
    with pytest.raises(FileExistsError):
        pki.write_authority(tmp_path, authority)
    with pytest.raises(FileExistsError):
        pki.write_node(tmp_path / "n1", authority.certificate, node)


@pytest.mark.parametrize("node", ["", "N1", "n_1", "n.1", "-n", "n-", "*", "n" * 64, "n1\n", "ñ"])
def test_a_node_id_is_one_dns_label(node: str) -> None:
    with pytest.raises(PeerNameError):
        PeerName.parse(f"{node}.{CLUSTER}")
    with pytest.raises(PeerNameError):
        pki.make_node(pki.make_authority(CLUSTER, **VALIDITY), PeerName(node, CLUSTER), **VALIDITY)


@pytest.mark.parametrize(
    "certificate",
    [
        None,
        {},
        {"subject": ((("commonName", f"n1.{CLUSTER}"),),)},
        {"subjectAltName": (("DNS", f"n1.{CLUSTER}"), ("DNS", f"n2.{CLUSTER}"))},
        {"subjectAltName": (("DNS", f"*.{CLUSTER}"),)},
        {"subjectAltName": (("DNS", "n1"),)},
        {"subjectAltName": (("IP Address", "127.0.0.1"),)},
    ],
    ids=["none", "unverified", "common name only", "two names", "wildcard", "no cluster", "address"],
)
def test_a_certificate_that_does_not_name_one_member_is_nobodys(certificate: dict[str, object] | None) -> None:
    with pytest.raises(PeerNameError):
        peer_name(certificate)
