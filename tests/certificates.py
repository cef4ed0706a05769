"""Certificates for tests of TLS, made when they are needed: nothing of the kind is committed."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority, the files of a certificate it signed for this machine, and a client's context that trusts it."""

    ca: trustme.CA
    ca_file: Path
    cert_file: Path
    key_file: Path

    def trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        return context

    def write(self, *names: str) -> None:
        """A new certificate and key in the files."""
        made = self.ca.issue_cert(*(names or ("127.0.0.1", "localhost")))
        self.cert_file.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        self.key_file.touch(0o600)
        self.key_file.write_bytes(made.private_key_pem.bytes())


def make_authority(directory: Path) -> Authority:
    made = Authority(trustme.CA(), directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
    made.ca_file.write_bytes(made.ca.cert_pem.bytes())
    made.write()
    return made
