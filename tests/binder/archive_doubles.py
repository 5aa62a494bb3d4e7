"""Doubles of the hosts that this machine cannot reach: GitHub, GitLab, and the archives.

One server of ours stands behind an HTTPS proxy of ours for every name, with a certificate of an
authority of ours; so the code under test is all real, addresses included. What it answers is what
the hosts' own documentation says that they answer:

- doi.org: https://www.doi.org/the-identifier/resources/factsheets/doi-resolution-documentation
- Zenodo: https://developers.zenodo.org (records, files)
- Figshare: https://docs.figshare.com (public articles)
- Dataverse: https://guides.dataverse.org/en/latest/api/native-api.html
- Hydroshare: https://www.hydroshare.org/hsapi/
- CKAN: https://docs.ckan.org/en/latest/api/
- GitHub: https://docs.github.com/en/rest/commits/commits, and its rate limits
"""

from __future__ import annotations

import datetime
import io
import json
import socket
import ssl
import threading
import time
import urllib.parse
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.binder.githost import GitHost

NAMES = (
    "doi.org", "zenodo.org", "figshare.com", "api.figshare.com", "ndownloader.figshare.com",
    "iqss.github.io", "dataverse.harvard.edu", "www.hydroshare.org", "s3.hydroshare.org",
    "demo.ckan.org", "github.com", "api.github.com", "gist.github.com", "gitlab.com",
)  # fmt: skip

FILES = {"index.ipynb": "{}", ".resources": "cpul=1\nmeml=2\n", "notes/a.txt": "from {archive}\n"}
RESOURCE = "8f7c2f0341ef4180b0dbe97f59130756"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SITE_TOKEN = "ghp_site-token"

Answer = tuple[int, dict[str, str], bytes]


def as_json(value: Any, status: int = 200, **headers: str) -> Answer:
    return status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode()


def contents(archive: str) -> dict[str, bytes]:
    return {name: text.replace("{archive}", archive).encode() for name, text in FILES.items()}


def zipped(files: dict[str, bytes], folder: str = "") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(folder + name, data)
    return out.getvalue()


class ArchiveDoubles:
    """``proxy`` is the address of the proxy, ``ca`` the file with our authority's certificate.

    ``trouble`` maps a host to what it answers to everything from now on; ``requests`` records
    (host, path, headers) of each request.
    """

    def __init__(self, folder: Path, address: str, git: GitHost) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.trouble: dict[str, Answer] = {}
        self.ca = folder / "doubles-ca.pem"
        self._git = git
        chain = _certificates(folder, self.ca)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(chain)
        doubles = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_args: object) -> None:
                pass

            def do_CONNECT(self) -> None:
                self.close_connection = True
                host = self.path.rpartition(":")[0]
                if host not in NAMES:
                    self.send_error(502, "no double of this host")
                    return
                self.send_response(200)
                self.end_headers()
                self.wfile.flush()
                doubles.inside(self.connection, host)

        self.server = ThreadingHTTPServer((address, 0), Handler)
        self.server.daemon_threads = True
        self.proxy = f"http://{address}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def inside(self, connection: socket.socket, host: str) -> None:
        """Speak TLS on a connection that the proxy has opened, as ``host``."""
        doubles = self

        class Inside(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_args: object) -> None:
                pass

            def do_GET(self) -> None:
                doubles.answer(self, host)

            def do_POST(self) -> None:
                doubles.answer(self, host)

        try:
            with self._tls.wrap_socket(connection, server_side=True) as secure:
                Inside(secure, ("double", 0), self.server)
        except OSError:
            pass  # the client has left

    def answer(self, handler: BaseHTTPRequestHandler, host: str) -> None:
        self.requests.append((host, handler.path, dict(handler.headers)))
        if host in self.trouble:
            self._send(handler, self.trouble[host])
            return
        git = host in ("github.com", "gist.github.com", "gitlab.com")
        if git:
            length = int(handler.headers.get("Content-Length") or 0)
            self._git.serve(handler, handler.rfile.read(length))
            return
        site: Callable[[str, dict[str, str], Any], Answer | None] = SITES[host]
        path, _, query = handler.path.partition("?")
        found = site(path, dict(urllib.parse.parse_qsl(query)), handler.headers)
        self._send(handler, found or as_json({"message": "Not Found"}, 404))

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        status, headers, body = answer
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


# --- what each host answers -----------------------------------------------------------------------

LANDINGS = {
    "10.5281/zenodo.3242074": "https://zenodo.org/records/3242074",
    "10.5281/zenodo.3242073": "https://zenodo.org/doi/10.5281/zenodo.3242073",
    "10.5281/zenodo.999": "https://zenodo.org/records/999",
    "10.6084/m9.figshare.9782777.v3": "https://figshare.com/articles/dataset/notes/9782777/3",
    "10.7910/dvn/tjclkp": "https://dataverse.harvard.edu/citation?persistentId=doi:10.7910/DVN/TJCLKP",
    "10.7910/dvn/tjclkp/file": (
        "https://dataverse.harvard.edu/file.xhtml?persistentId=doi:10.7910/DVN/TJCLKP/FILE"
    ),
    "10.1000/elsewhere": "https://example.org/article",
}


def _doi(path: str, _query: dict[str, str], _headers: Any) -> Answer | None:
    doi = path.removeprefix("/api/handles/")
    if doi.lower() not in LANDINGS:
        return as_json({"responseCode": 100, "handle": doi}, 404)
    value = {"format": "string", "value": LANDINGS[doi.lower()]}
    values = [{"index": 1, "type": "URL", "data": value, "ttl": 86400}]
    return as_json({"responseCode": 1, "handle": doi, "values": values})


def _zenodo(path: str, _query: dict[str, str], _headers: Any) -> Answer | None:
    api = "https://zenodo.org/api/records/3242074"
    if path == "/doi/10.5281/zenodo.3242073":
        return 302, {"Location": "https://zenodo.org/records/3242074"}, b""
    if path == "/records/3242074":
        return 200, {"Content-Type": "text/html"}, b"<html>a record</html>"
    if path == "/api/records/3242074":
        return as_json({"id": 3242074, "links": {"files": f"{api}/files"}})
    if path == "/api/records/3242074/files":
        link = f"{api}/files/notes.zip/content"
        return as_json(
            {"enabled": True, "entries": [{"key": "notes.zip", "links": {"content": link}}]}
        )
    if path == "/api/records/3242074/files/notes.zip/content":
        return 200, {}, zipped(contents("zenodo"), "notes-1.0/")
    return as_json({"status": 404, "message": "The persistent identifier does not exist."}, 404)


def _figshare(path: str, _query: dict[str, str], _headers: Any) -> Answer | None:
    if path == "/v2/articles/9782777/versions/3":
        files = [
            {
                "id": number,
                "name": name,
                "is_link_only": False,
                "download_url": f"https://ndownloader.figshare.com/files/{number}",
            }
            for number, name in enumerate(FILES)
        ]
        return as_json({"id": 9782777, "version": 3, "files": files})
    return None


def _figshare_files(path: str, _query: dict[str, str], _headers: Any) -> Answer | None:
    return 200, {}, list(contents("figshare").values())[int(path.rpartition("/")[2])]


def _installations(_path: str, _query: dict[str, str], _headers: Any) -> Answer | None:
    return as_json({"installations": [{"hostname": "dataverse.harvard.edu", "name": "Harvard"}]})


def _dataverse(path: str, query: dict[str, str], _headers: Any) -> Answer | None:
    dataset = "doi:10.7910/DVN/TJCLKP"
    if path == "/api/files/:persistentId" and query.get("persistentId", "").endswith("/FILE"):
        return as_json({"data": {"datasetVersion": {"datasetPersistentId": dataset}}})
    if path == "/api/datasets/:persistentId" and query.get("persistentId") == dataset:
        files = [
            {
                "label": name.rpartition("/")[2],
                "directoryLabel": name.rpartition("/")[0],
                "dataFile": {"id": number},
            }
            for number, name in enumerate(FILES)
        ]
        version = {"versionNumber": 2, "versionMinorNumber": 1, "files": files}
        return as_json({"status": "OK", "data": {"id": 77, "latestVersion": version}})
    if path.startswith("/api/access/datafile/"):
        return 200, {}, list(contents("dataverse").values())[int(path.rpartition("/")[2])]
    return as_json({"status": "ERROR", "message": "Dataset with Persistent ID not found."}, 404)


def _hydroshare(path: str, _query: dict[str, str], _headers: Any) -> Answer | None:
    if path == f"/hsapi/resource/{RESOURCE}/scimeta/elements":
        modified = {"type": "modified", "start_date": "2024-05-01T12:00:00.123456Z"}
        return as_json({"title": "notes", "dates": [{"type": "created"}, modified]})
    if path == f"/django_s3/download/bags/{RESOURCE}.zip":
        return 302, {"Location": f"https://s3.hydroshare.org/bags/{RESOURCE}.zip"}, b""
    return as_json({"detail": f"No resource was found for resource id:{path}"}, 404)


def _hydroshare_s3(path: str, _query: dict[str, str], _headers: Any) -> Answer | None:
    if path != f"/bags/{RESOURCE}.zip":
        return None
    return 200, {}, zipped(contents("hydroshare"), f"{RESOURCE}/data/contents/")


def _ckan(path: str, query: dict[str, str], _headers: Any) -> Answer | None:
    if path == "/api/3/action/status_show":
        return as_json({"success": True, "result": {"ckan_version": "2.11"}})
    if path == "/api/3/action/package_show" and query.get("id") == "notes":
        resources = [
            {"id": str(number), "url": f"https://demo.ckan.org/download/{name}"}
            for number, name in enumerate(FILES)
            if "/" not in name
        ]
        result = {"metadata_modified": "2024-05-01T12:00:00.123456", "resources": resources}
        return as_json({"success": True, "result": result})
    if path == "/api/3/action/package_show" and query.get("id") == "closed":
        error = {"__type": "Authorization Error", "message": "Access denied"}
        return as_json({"success": False, "error": error}, 403)
    if path.startswith("/download/"):
        return 200, {}, contents("ckan")[path.removeprefix("/download/")]
    return as_json({"success": False, "error": {"__type": "Not Found Error"}}, 404)


def _github_api(path: str, _query: dict[str, str], headers: Any) -> Answer | None:
    limits = {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "59", "ETag": '"abc"'}
    if headers.get("Authorization") not in (None, f"Bearer {SITE_TOKEN}"):
        return as_json({"message": "Bad credentials"}, 401)
    if headers.get("If-None-Match") == '"abc"':
        return 304, limits, b""
    if path == "/repos/ana/renamed/commits/0123456":
        return 301, {"Location": "https://api.github.com/repositories/7/commits/0123456"}, b""
    if path in ("/repos/ana/notes/commits/0123456", "/repositories/7/commits/0123456"):
        return 200, {"Content-Type": "application/vnd.github.sha", **limits}, COMMIT.encode()
    if path.startswith("/repos/ana/notes/commits/"):
        return as_json({"message": f"No commit found for SHA: {path[25:]}"}, 422, **limits)
    return as_json({"message": "Not Found"}, 404, **limits)


SITES: dict[str, Callable[[str, dict[str, str], Any], Answer | None]] = {
    "doi.org": _doi,
    "zenodo.org": _zenodo,
    "figshare.com": _figshare,
    "api.figshare.com": _figshare,
    "ndownloader.figshare.com": _figshare_files,
    "iqss.github.io": _installations,
    "dataverse.harvard.edu": _dataverse,
    "www.hydroshare.org": _hydroshare,
    "s3.hydroshare.org": _hydroshare_s3,
    "demo.ckan.org": _ckan,
    "api.github.com": _github_api,
}

PRIMARY_LIMIT = as_json(
    {"message": "API rate limit exceeded for 192.0.2.1."},
    403,
    **{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 1500)},
)
SECONDARY_LIMIT = as_json(
    {"message": "You have exceeded a secondary rate limit."}, 403, **{"Retry-After": "60"}
)
TOO_MANY = as_json({"message": "Too Many Requests"}, 429, **{"Retry-After": "300"})
TOO_MANY_UNTIL_NOBODY_KNOWS = as_json({"message": "Too Many Requests"}, 429)
OUT_OF_ORDER: Answer = (503, {"Content-Type": "text/html"}, b"<h1>Service Unavailable</h1>")
NOT_JSON: Answer = (200, {"Content-Type": "text/html"}, b"<h1>Maintenance</h1>")


# --- certificates ---------------------------------------------------------------------------------


def _certificates(folder: Path, ca_file: Path) -> Path:
    """Write our authority's certificate, and one of its for all names; the latter's file."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(name: str, issuer: str, key: Any, signer: Any) -> x509.CertificateBuilder:
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        return (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        )

    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    root = (
        certificate("doubles", "doubles", authority, authority)
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(usage, True)
        .sign(authority, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.DNSName(name) for name in NAMES])
    leaf = (
        certificate("double", "doubles", key, authority)
        .add_extension(names, False)
        .add_extension(x509.BasicConstraints(False, None), True)
        .sign(authority, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    ca_file.write_bytes(root.public_bytes(pem))
    chain = folder / "double.pem"
    chain.write_bytes(
        leaf.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain
