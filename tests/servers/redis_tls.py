"""A Redis that speaks TLS only, with a user who may do no more than the documentation says a worker needs.

Valkey's wheel is built without TLS, so this is Redis; both handle it in the same code.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from urllib.parse import quote

from tests.servers.redis_server import OwnServer

PASSWORD = "p@ss:wörd/%"
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "redis-streams.md"


def documented_rights() -> list[str]:
    """What the guide tells people to grant to a worker."""
    _, _, behind = GUIDE.read_text("utf-8").partition("ACL SETUSER worker on >password ")
    return behind.partition("```")[0].split()


class TLSServer(OwnServer):
    """``url``: with all rights; ``restricted_url``: with a few. Its certificate is its own authority."""

    def __init__(self, binary: Path) -> None:
        super().__init__(binary)
        self.certificate, self._key = self.directory / "server.crt", self.directory / "server.key"
        subject = (
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1,DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        )
        files = ("-keyout", str(self._key), "-out", str(self.certificate))
        command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files)
        subprocess.run(command, check=True, capture_output=True)

    @property
    def restricted_url(self) -> str:
        return self.url.replace("://", f"://worker:{quote(PASSWORD, safe='')}@")

    def start(self) -> TLSServer:
        super().start()
        self.call("ACL", "SETUSER", "worker", "on", f">{PASSWORD}", *documented_rights())
        return self

    def _listening(self, port: int) -> list[str]:
        files = ["--tls-cert-file", str(self.certificate), "--tls-key-file", str(self._key)]
        authority = ["--tls-ca-cert-file", str(self.certificate), "--tls-auth-clients", "no"]
        return ["--port", "0", "--tls-port", str(port), *files, *authority]

    def _address(self, port: int) -> str:
        return f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={quote(str(self.certificate))}"
