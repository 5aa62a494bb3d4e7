"""A registry of the site's own, as an operator runs one: TLS by a CA of the site, and sign-in.

Debian's docker-registry, either with a password (``basic``) or with tokens, which a small server
of ours signs as the distribution's documents say:
https://distribution.github.io/distribution/spec/auth/token/
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import os
import secrets
import socket
import ssl
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.bench.hubs import free_port
from tests.site import wait_for

USERNAME = "studovna-site"
PASSWORD = "spruce-lamp-42-registry"
HTPASSWD = "$2b$05$TfrV5uWjFQpdI/zzTSqhCOact61pZWEA20GzFUrBMgaK4rtETr.MS"  # bcrypt of it
SYSTEM_CA = Path("/etc/ssl/certs/ca-certificates.crt")


class Authority:
    """A CA of one's own; ``bundle`` is its certificate and those of this machine."""

    def __init__(self, folder: Path, address: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tests' own CA")])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        # Python 3.13 and later want all of these extensions.
        signer = self._key.public_key()
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
             "key_agreement", "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        self._certificate = (
            _certificate(name, name, signer)
            .add_extension(constraints, critical=True)
            .add_extension(x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(signer), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.ca = folder / "ca.crt"
        self.ca.write_bytes(_pem(self._certificate))
        self.bundle = folder / "bundle.crt"
        self.bundle.write_bytes(SYSTEM_CA.read_bytes() + _pem(self._certificate))
        names = [x509.IPAddress(ipaddress.ip_address(one)) for one in (address, "127.0.0.1")]
        # RSA: the registry's tokens are signed with it, too.
        self.key = rsa.generate_private_key(65537, 2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
        certificate = (
            _certificate(subject, name, self.key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        self.der = certificate.public_bytes(serialization.Encoding.DER)
        self.certificate_file = folder / "server.crt"
        self.certificate_file.write_bytes(_pem(certificate))
        self.key_file = folder / "server.key"
        self.key_file.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )


def _certificate(subject: x509.Name, issuer: x509.Name, key: Any) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


class TokenServer:
    """Gives tokens for what is asked for; ``asked`` holds the scopes, ``given`` the tokens."""

    def __init__(self, authority: Authority, address: str) -> None:
        self.asked: list[list[str]] = []
        self.given: list[str] = []
        self.open = True
        self._authority = authority
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, answer = server.answer(self.path, self.headers.get("Authorization", ""))
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((address, 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.certificate_file, authority.key_file)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.realm = f"https://{address}:{self._server.server_port}/token"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, path: str, authorization: str) -> tuple[int, dict[str, Any]]:
        pair = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
        if authorization != f"Basic {pair}" or not self.open:
            return 401, {"errors": [{"code": "UNAUTHORIZED"}]}
        query = parse_qs(urlsplit(path).query)
        scopes = query.get("scope", [])
        if query.get("service") != ["tests"] or any(" " in scope for scope in scopes):
            return 400, {"errors": [{"code": "UNSUPPORTED"}]}
        self.asked.append(scopes)
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {
            "iss": "tests", "sub": USERNAME, "aud": "tests", "jti": secrets.token_hex(8),
            "iat": now, "nbf": now - 10, "exp": now + 300, "access": access,
        }  # fmt: skip
        chain = [base64.b64encode(self._authority.der).decode()]
        token = jwt.encode(claims, self._authority.key, "RS256", headers={"x5c": chain})
        self.given.append(token)
        return 200, {"token": token, "expires_in": 300}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Relay:
    """Passes connections on; after ``cut_after`` more bytes towards the registry it is dead."""

    def __init__(self, address: str, port: int) -> None:
        self._target = port
        self.cut_after: int | None = None
        self._lock = threading.Lock()
        self._listener = socket.create_server((address, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def dead(self) -> bool:
        return self.cut_after is not None and self.cut_after <= 0

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.dead:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target), 10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for source, sink, up in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, sink, up), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if up:
                    with self._lock:
                        if self.cut_after is not None:
                            self.cut_after -= len(data)
                if self.dead:
                    break
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


class OutsideRegistry:
    """A running registry, of the kind ``basic`` or ``token``, that pods reach at ``address``."""

    def __init__(self, folder: Path, address: str, kind: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(exist_ok=True)
        self.authority = Authority(folder, address)
        self.tokens = TokenServer(self.authority, address)
        port = free_port()
        self.relay = Relay(address, port)
        self.host = f"{address}:{self.relay.port}"
        self.url = f"https://{self.host}"
        (folder / "htpasswd").write_text(f"{USERNAME}:{HTPASSWD}\n")
        (folder / "password").write_text(f"{PASSWORD}\n")
        basic = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
        token = {
            "token": {
                "realm": self.tokens.realm,
                "service": "tests",
                "issuer": "tests",
                "rootcertbundle": str(self.authority.ca),
            }
        }
        settings = {
            "version": 0.1,
            "log": {"level": "info"},
            "storage": {
                "filesystem": {"rootdirectory": str(self.data)},
                "delete": {"enabled": True},
            },
            "auth": {"basic": basic, "token": token}[kind],
            "http": {
                "addr": f"127.0.0.1:{port}",
                "relativeurls": True,
                "secret": secrets.token_hex(16),
                "tls": {
                    "certificate": str(self.authority.certificate_file),
                    "key": str(self.authority.key_file),
                },
            },
        }
        (folder / "config.yml").write_text(json.dumps(settings))
        self._port = port
        self._log = (folder / "registry.log").open("ab")
        self.start()

    @property
    def site_settings(self) -> str:
        """Lines for site.yaml."""
        return (
            f"registry:\n  url: {self.url}\n  prefix: binder\n  username: {USERNAME}\n"
            f"  password_file: {self.folder / 'password'}\n"
        )

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["docker-registry", "serve", "config.yml"], cwd=self.folder,
            env={"PATH": os.environ["PATH"]}, stdout=self._log, stderr=self._log,
        )  # fmt: skip

        def listens() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)):
                return True
            return False

        wait_for(listens, 20)

    def tags(self) -> dict[str, list[str]]:
        """The tags on the registry's disk, by repository: what anybody could pull."""
        root = self.data / "docker/registry/v2/repositories"
        found: dict[str, list[str]] = {}
        for folder in root.glob("**/_manifests/tags"):
            name = str(folder.parent.parent.relative_to(root))
            found[name] = sorted(one.name for one in folder.iterdir())
        return found

    def close(self) -> None:
        self.relay.close()
        self.tokens.close()
        self.process.terminate()
        self.process.wait(20)
        self._log.close()
