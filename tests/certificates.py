"""Certificates that are made for a test, by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.needs import OPENSSL

SERVER = """\
tls-port {{tls_port}}
tls-cert-file {certs}/server.pem
tls-key-file {certs}/server.key
tls-ca-cert-file {certs}/ca.pem
tls-auth-clients {clients}
"""


def openssl(folder: Path, *words: str) -> None:
    """Run openssl in a folder."""
    subprocess.run([str(OPENSSL), *words], cwd=folder, check=True, capture_output=True)


def sign(folder: Path, name: str, extensions: str) -> None:
    """NAME.key, and NAME.pem signed by the authority."""
    key = ("-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key")
    openssl(folder, "req", "-new", *key, "-subj", f"/CN={name}", "-out", f"{name}.csr")
    (folder / "extensions").write_text(extensions)
    authority = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
    openssl(
        folder,
        "x509",
        "-req",
        "-in",
        f"{name}.csr",
        *authority,
        "-extfile",
        "extensions",
        "-out",
        f"{name}.pem",
    )


def make(folder: Path, address: str = "127.0.0.1") -> Path:
    """An authority, a server's certificate for an address, a client's, another authority; the folder."""
    for name in ("ca", "other"):
        key = ("-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key")
        openssl(folder, "req", "-x509", *key, "-subj", f"/CN={name}", "-days", "2", "-out", f"{name}.pem")
    sign(folder, "server", f"subjectAltName=IP:{address}\n")
    sign(folder, "client", "extendedKeyUsage=clientAuth\n")
    return folder


def server_conf(certs: Path, clients: str = "no") -> str:
    """A server's second port, over TLS; `clients`: whether it asks them for a certificate."""
    return SERVER.format(certs=certs, clients=clients)
