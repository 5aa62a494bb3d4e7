"""Pushing to a registry: the OCI distribution protocol, as much of it as one new layer needs.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlencode, urljoin, urlsplit

from .report import Refusal, Text, say_text

MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MAX_ANSWER = 16 * 2**20
TRIES = 4
TIMEOUT = 60.0
_CHUNK = 2**20

Sink = Callable[[bytes], object]


class Answered(Exception):
    """The registry answered with an error."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status = status
        self.said = said


class Registry:
    """One registry over one connection. `url` begins with http:// or https://."""

    def __init__(self, url: str, username: str = "", password: str = "") -> None:
        parts = urlsplit(url)
        self._url = url.rstrip("/")
        self._basic = ""
        if username or password:
            pair = base64.b64encode(f"{username}:{password}".encode()).decode()
            self._basic = f"Basic {pair}"
        self._authorization = ""
        self._connection = _connect(parts.scheme, parts.netloc)
        self._host = (parts.scheme, parts.netloc)

    def manifest(self, name: str, reference: str) -> tuple[dict[str, Any], str]:
        """A manifest of this machine's kind, and its media type; an index is looked through."""
        accept = {"Accept": ", ".join((*MANIFESTS, *INDEXES))}
        body, headers = self.call("GET", f"/v2/{name}/manifests/{reference}", headers=accept)
        manifest = json.loads(body)
        kind = str(manifest.get("mediaType") or headers.get("Content-Type", ""))
        if kind in INDEXES:
            for entry in manifest["manifests"]:
                platform = entry.get("platform", {})
                if platform.get("os") == "linux" and platform.get("architecture") == _machine():
                    return self.manifest(name, entry["digest"])
            raise Refusal(Text("The site's image {image} is not for this machine.", image=name))
        return manifest, kind

    def blob(self, name: str, digest: str) -> bytes:
        """A small blob; its digest is checked."""
        body, _ = self.call("GET", f"/v2/{name}/blobs/{digest}")
        if "sha256:" + hashlib.sha256(body).hexdigest() != digest:
            raise Answered(502, f"{digest} holds something else")
        return body

    def download(self, name: str, digest: str, path: Path) -> None:
        """A large blob into a file; its digest is checked."""
        found = hashlib.sha256()
        with path.open("wb") as file:

            def keep(data: bytes) -> None:
                found.update(data)
                file.write(data)

            answer = self.raw("GET", f"/v2/{name}/blobs/{digest}", sink=keep)
        if answer.status != 200:
            raise Answered(answer.status, answer.body[:500].decode(errors="replace"))
        if f"sha256:{found.hexdigest()}" != digest:
            raise Answered(502, f"{digest} holds something else")

    def has(self, name: str, digest: str) -> bool:
        try:
            self.call("HEAD", f"/v2/{name}/blobs/{digest}")
        except Answered as error:
            if error.status == 404:
                return False
            raise
        return True

    def mount(self, name: str, digest: str, source: str) -> bool:
        """Make a blob of another repository one of this; False when the registry will not."""
        query = urlencode({"mount": digest, "from": source})
        answer = self.raw("POST", f"/v2/{name}/blobs/uploads/?{query}")
        if answer.status == 202:  # an upload was begun instead
            self.raw("DELETE", answer.headers.get("Location", ""))
        return answer.status == 201

    def upload(self, name: str, digest: str, size: int, open_body: Any) -> None:
        """Upload a blob; `open_body()` gives a file to read, again for each attempt."""
        if self.has(name, digest):
            return
        _, headers = self.call("POST", f"/v2/{name}/blobs/uploads/")
        where = headers.get("Location", "")
        where += ("&" if "?" in where else "?") + urlencode({"digest": digest})
        more = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        with open_body() as body:
            self.call("PUT", where, body, more)

    def put_manifest(self, name: str, tag: str, manifest: bytes, kind: str) -> str:
        """Give an image its name; the last thing that happens. Returns its digest."""
        length = {"Content-Type": kind, "Content-Length": str(len(manifest))}
        _, headers = self.call("PUT", f"/v2/{name}/manifests/{tag}", manifest, length)
        digest = "sha256:" + hashlib.sha256(manifest).hexdigest()
        if headers.get("Docker-Content-Digest", digest) != digest:
            raise Answered(502, "the registry keeps another manifest than it was given")
        return digest

    # --- requests -------------------------------------------------------------------------------

    def call(
        self, method: str, path: str, body: bytes | IO[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[bytes, Mapping[str, str]]:  # fmt: skip
        """Raises Answered for any status but success."""
        answer = self.raw(method, path, body, headers)
        if not 200 <= answer.status < 300:
            raise Answered(answer.status, answer.body[:500].decode(errors="replace"))
        return answer.body, answer.headers

    def raw(
        self, method: str, path: str, body: bytes | IO[bytes] | None = None,
        headers: Mapping[str, str] | None = None, sink: Sink | None = None,
    ) -> _Answer:  # fmt: skip
        answer = self._once(method, path, body, headers, sink)
        if answer.status == 401:
            self._authorization = self._answer_to(answer.headers.get("WWW-Authenticate", ""))
            if hasattr(body, "seek"):
                body.seek(0)  # type: ignore[union-attr]
            answer = self._once(method, path, body, headers, sink)
        if answer.status in (301, 302, 303, 307, 308) and method in ("GET", "HEAD"):
            return _elsewhere(method, urljoin(self._url + path, answer.headers["Location"]), sink)
        return answer

    def _once(
        self, method: str, path: str, body: bytes | IO[bytes] | None,
        headers: Mapping[str, str] | None, sink: Sink | None = None,
    ) -> _Answer:  # fmt: skip
        connection = self._connection
        target = urlsplit(urljoin(self._url + "/", path))
        sent = dict(headers or {})
        if (target.scheme, target.netloc) != self._host:
            # Some registries take uploads at another address, signed in the address itself.
            connection = _connect(target.scheme, target.netloc)
        elif self._authorization or self._basic:
            sent["Authorization"] = self._authorization or self._basic
        where = target.path + (f"?{target.query}" if target.query else "")
        try:
            return _exchange(connection, method, where, body, sent, sink)
        except (http.client.HTTPException, OSError):
            connection.close()
            raise
        finally:
            if connection is not self._connection:
                connection.close()

    def _answer_to(self, challenge: str) -> str:
        """The Authorization header that a challenge asks for."""
        kind, _, rest = challenge.partition(" ")
        if kind.lower() != "bearer":
            return self._basic
        fields = dict(re.findall(r'([a-z_]+)="([^"]*)"', rest))
        # Each scope of the challenge is a parameter of its own.
        query = [("service", fields["service"])] if "service" in fields else []
        query += [("scope", scope) for scope in fields.get("scope", "").split()]
        realm = fields.get("realm", "")
        if not realm.startswith("https://") and urlsplit(realm).netloc != self._host[1]:
            raise Answered(401, "the registry sends the credential elsewhere, without TLS")
        url = urlsplit(f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}")
        connection = _connect(url.scheme, url.netloc)
        try:
            headers = {"Authorization": self._basic} if self._basic else {}
            answer = _exchange(connection, "GET", f"{url.path}?{url.query}", None, headers)
        finally:
            connection.close()
        if answer.status != 200:
            raise Answered(answer.status, "the registry does not accept the credential")
        data = json.loads(answer.body)
        return f"Bearer {data.get('token') or data['access_token']}"


class _Answer:
    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


def _connect(scheme: str, netloc: str) -> http.client.HTTPConnection:
    if scheme == "https":
        context = ssl.create_default_context()
        # The certificates of sites' own CAs are often older than the strict rules of Python 3.13;
        # podman and the service take them, too.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return http.client.HTTPSConnection(netloc, timeout=TIMEOUT, context=context)
    return http.client.HTTPConnection(netloc, timeout=TIMEOUT)


def _exchange(
    connection: http.client.HTTPConnection, method: str, path: str,
    body: bytes | IO[bytes] | None, headers: Mapping[str, str], sink: Sink | None = None,
) -> _Answer:  # fmt: skip
    connection.request(method, path, body=body, headers=dict(headers))
    response = connection.getresponse()
    if sink is not None and response.status == 200:
        while chunk := response.read(_CHUNK):
            sink(chunk)
    data = response.read(MAX_ANSWER + 1)
    if len(data) > MAX_ANSWER:
        raise Answered(502, "the registry's answer is too long")
    return _Answer(response.status, cast(Mapping[str, str], response.headers), data)


def _elsewhere(method: str, url: str, sink: Sink | None) -> _Answer:
    """Blobs may live in another storage, which gets no credential."""
    parts = urlsplit(url)
    connection = _connect(parts.scheme, parts.netloc)
    try:
        query = f"?{parts.query}" if parts.query else ""
        return _exchange(connection, method, parts.path + query, None, {}, sink)
    finally:
        connection.close()


def _machine() -> str:
    import platform

    names = {"x86_64": "amd64", "aarch64": "arm64"}
    return names.get(platform.machine(), platform.machine())


def retried(what: Any) -> Any:
    """Call again when the registry fails or is away for a moment."""
    for attempt in range(TRIES):
        try:
            return what()
        except (Answered, http.client.HTTPException, OSError) as error:
            # 400 and 404 at the end: the registry has cleaned up a blob in the meantime.
            hopeless = isinstance(error, ssl.SSLCertVerificationError) or (
                isinstance(error, Answered) and error.status in (401, 403, 405, 413)
            )
            if hopeless or attempt + 1 == TRIES:
                raise
            why = str(error)[:300]
            say_text("note", Text("The registry failed ({said}); trying again.", said=why))
            time.sleep(1 + 2 * attempt)
    raise AssertionError


def open_file(path: Path) -> Any:
    return lambda: path.open("rb")


def open_bytes(data: bytes) -> Any:
    import io

    return lambda: io.BytesIO(data)
