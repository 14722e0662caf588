"""The cluster's own certificate authority, as `swoosh init` makes it.

One authority per cluster, one certificate per node, both EC P-256. A node's certificate carries the one DNS name
`<node>.<cluster_id>` and serves as client and as server, for members dial each other. The authority is constrained to
names under its own cluster id and to certificates that are no authorities, so its key cannot vouch for anything else.

This module must never overwrite a file: replacing a key by accident locks a node out. It has no clock: the validity is
the caller's, and keys and serial numbers are drawn by the cryptography library alone.
"""

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.tls import Credentials, PeerName


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key (PKCS #8, unencrypted), both PEM."""

    certificate: bytes
    key: bytes


def make_authority(cluster_id: str, *, not_before: datetime, not_after: datetime) -> KeyPair:
    """A self-signed authority for one cluster. Times are timezone-aware.

    Raises PeerNameError if `cluster_id` is not one DNS label.
    """
    PeerName.parse(f"ca.{cluster_id}")
    key = ec.generate_private_key(ec.SECP256R1())
    name = _common_name(f"{cluster_id} authority")
    builder = (
        _builder(name, name, key.public_key(), not_before, not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.NameConstraints(permitted_subtrees=[x509.DNSName(cluster_id)], excluded_subtrees=None), critical=True
        )
    )
    return _sign(builder, key, key)


def make_node(authority: KeyPair, name: PeerName, *, not_before: datetime, not_after: datetime) -> KeyPair:
    """A certificate for `name`, signed by `authority`. Times are timezone-aware and lie within the authority's.

    Raises PeerNameError if `name` does not spell a member.
    """
    PeerName.parse(str(name))
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = load_pem_private_key(authority.key, password=None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"the authority's key is {type(issuer_key).__name__}; make_authority makes EC P-256 keys")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(_common_name(name.node), issuer.subject, key.public_key(), not_before, not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(str(name))]), critical=False)
    )
    return _sign(builder, key, issuer_key)


def write_authority(directory: Path, authority: KeyPair) -> None:
    """`ca.crt` (0644) and `ca.key` (0600). Keep the key off the nodes: it admits members.

    Raises FileExistsError if either exists.
    """
    _write_new(directory / "ca.key", authority.key, mode=0o600)
    _write_new(directory / "ca.crt", authority.certificate, mode=0o644)


def write_node(directory: Path, authority_certificate: bytes, node: KeyPair) -> Credentials:
    """What one node shows and no more: `ca.crt` and `node.crt` (0644). The key is for the caller to seal.

    Raises FileExistsError if one of them exists.
    """
    credentials = Credentials.in_directory(directory, node.key)
    _write_new(credentials.certificate, node.certificate, mode=0o644)
    _write_new(credentials.authority, authority_certificate, mode=0o644)
    return credentials


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    not_before: datetime,
    not_after: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _sign(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, issuer_key: ec.EllipticCurvePrivateKey
) -> KeyPair:
    issued = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
    ).sign(issuer_key, hashes.SHA256())
    return KeyPair(
        certificate=issued.public_bytes(Encoding.PEM),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Created with its final mode, so that a key is at no moment readable by others."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
