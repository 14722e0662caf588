"""Mutual TLS between members: the contexts, and who a certificate says its holder is.

Every connection to a peer port is TLS 1.3 with a certificate on both sides, issued by the cluster's own authority (see
pki.py). Identity is the single DNS name of a certificate, `<node>.<cluster_id>`: a peer is what its certificate says,
never what its address or its messages claim.

This module must never offer a weaker mode: no older protocol, no optional certificate, no public trust store.
"""

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

RAFT_PROTOCOL = "swoosh-raft/1"
"""ALPN (RFC 7301) name of the consensus stream."""
HTTP_PROTOCOL = "http/1.1"
"""ALPN name of forwarded requests and snapshots."""

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


class PeerNameError(ValueError):
    """A name or certificate that identifies no member: not exactly one `<node>.<cluster_id>`."""


class PeerName(NamedTuple):
    """A member of a cluster, as certificates spell it. Each part is one lower-case DNS label (RFC 1035 §2.3.1)."""

    node: str
    cluster_id: str

    def __str__(self) -> str:
        return f"{self.node}.{self.cluster_id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises PeerNameError unless `text` is two labels of 1..63 characters joined by a dot."""
        labels = text.split(".")
        if len(labels) != 2 or not all(_LABEL.fullmatch(label) for label in labels):
            raise PeerNameError(
                f"{text[:140]!r} is not <node>.<cluster_id>: use 1 to 63 of a-z, 0-9 and inner hyphens in each part"
            )
        return cls(*labels)


def peer_name(certificate: Mapping[str, Any] | None) -> PeerName:
    """The holder of a verified certificate, given as `SSLObject.getpeercert()` returns it.

    A certificate with several names is nobody: the holder could choose who to be. Raises PeerNameError.
    """
    names = [value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "DNS"]
    if len(names) != 1:
        raise PeerNameError(f"the certificate carries {len(names)} DNS names, a member's carries exactly one")
    return PeerName.parse(names[0])


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one node shows to the others: where the authority it trusts and its own certificate lie, and the key to the
    certificate. All PEM; the key is in memory alone."""

    authority: Path
    certificate: Path
    key: bytes = field(repr=False)

    @classmethod
    def in_directory(cls, directory: Path, key: bytes) -> Self:
        """The file names that `pki.write_node` uses."""
        return cls(directory / "ca.crt", directory / "node.crt", key)


class PeerContext(ssl.SSLContext):
    """The listening side's context. Its type is how `peerport.peer_id` knows a request came through the peer port."""


def server_context(credentials: Credentials) -> PeerContext:
    """Accepts members only, and offers both protocols of the peer port.

    Raises OSError (unreadable) or ssl.SSLError (not PEM, key and certificate differ).
    """
    context = PeerContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context, credentials)
    context.set_alpn_protocols([RAFT_PROTOCOL, HTTP_PROTOCOL])
    # A resumed session would skip the check of the certificate, which may have been replaced or have expired since.
    context.num_tickets = 0
    return context


def client_context(credentials: Credentials, protocol: str) -> ssl.SSLContext:
    """Dials members only, to speak `protocol`. The caller passes `server_hostname=str(PeerName(...))` with every dial.

    Raises OSError (unreadable) or ssl.SSLError (not PEM, key and certificate differ).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, credentials)
    context.check_hostname = True
    context.set_alpn_protocols([protocol])
    return context


def _harden(context: ssl.SSLContext, credentials: Credentials) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cafile=str(credentials.authority))
    load_key(context, credentials.certificate, credentials.key)


def load_key(context: ssl.SSLContext, certificate: Path, key: bytes) -> None:
    """The library reads keys from files alone; a pipe is one that never was on a disk. A key fits into its buffer."""
    reader, writer = os.pipe()
    try:
        with open(writer, "wb") as file:
            file.write(key)
        context.load_cert_chain(certfile=str(certificate), keyfile=f"/dev/fd/{reader}")
    finally:
        os.close(reader)
