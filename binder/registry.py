"""What the service asks of the registry: which images there are, how large, and to forget some.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import aiohttp
from tornado.log import app_log
from traitlets import Unicode, default
from traitlets.config import LoggingConfigurable

from studovna.paths import state_dir
from studovna.text import Text

from .embedded_registry import embedded_credential, embedded_host, embedded_url
from .errors import Failed

MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MAX_ANSWER = 8 * 2**20  # bytes
MAX_TAGS = 10_000
TIMEOUT = aiohttp.ClientTimeout(total=30, connect=5)
KEPT_LABELS = MAX_TAGS  # whoever asks for all images is to find them here the next time

_NAME = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?P<host>[A-Za-z0-9.-]+(?::[0-9]{{1,5}})?|\[[0-9a-fA-F:]+\](?::[0-9]{{1,5}})?)"
    rf"/(?P<name>{_NAME}(?:/{_NAME})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NONSENSE = (ValueError, LookupError, TypeError, AttributeError)  # in what a registry answers
_CHALLENGE = re.compile(r'([a-z_]+)="([^"]*)"')


@dataclass(frozen=True)
class ImageName:
    """An image's name in its parts; ``reference`` is its tag or digest."""

    host: str
    name: str
    reference: str


def parse_image(image: str) -> ImageName:
    """Raises ValueError when it is no full image name.

    >>> parse_image("127.0.0.1:5000/binder/notes-1a2b:0c0c").name
    'binder/notes-1a2b'
    """
    found = _IMAGE.fullmatch(image)
    if found is None or len(image) > 500:
        raise ValueError(f"{image[:200]!r} is no image name")
    return ImageName(found["host"], found["name"], found["digest"] or found["tag"] or "latest")


def docker_login(host: str, username: str, password: str) -> dict[str, object]:
    """A registry's login as Docker stores it; empty when there is no user.

    >>> docker_login("registry:5000", "", "")
    {'auths': {}}
    """
    if not username:
        return {"auths": {}}
    pair = base64.b64encode(f"{username}:{password}".encode()).decode()
    return {"auths": {host: {"auth": pair}}}


@dataclass(frozen=True)
class ImageInfo:
    """A complete image. ``blobs`` are the sizes of its parts in bytes, by digest."""

    digest: str
    labels: Mapping[str, str]
    blobs: Mapping[str, int]


class _Status(Exception):
    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status} {said}")
        self.status = status


class DockerRegistry(LoggingConfigurable):
    """A registry of the Docker or OCI kind. The options are BinderHub's."""

    url = Unicode(help="The registry's address; the site's own one by default.").tag(config=True)
    auth_config_url = Unicode("", help="Known for BinderHub's sake.").tag(
        config=True, ignored="the credential is DockerRegistry.username and password"
    )
    token_url = Unicode(
        "", help="Where tokens are got; by default, what the registry itself says."
    ).tag(config=True)
    username = Unicode("", help="Who signs in there; empty: nobody.").tag(config=True)
    password = Unicode("", help="The password.").tag(config=True)
    image_host = Unicode(
        help="What the names of its images begin with, where nodes pull from another address."
    ).tag(config=True)

    @default("url")
    def _url(self) -> str:
        return embedded_url(self._state)

    @default("image_host")
    def _image_host(self) -> str:
        return embedded_host(self._state) if self.embedded else urlsplit(self.url).netloc

    def __init__(self, *, state: Path | None = None, **kwargs: Any) -> None:
        self._state = state or state_dir()
        super().__init__(**kwargs)
        self.url = self.url.rstrip("/")
        self.embedded = self.url == embedded_url(self._state)
        if not self.username and self.embedded:
            self.username, self.password = embedded_credential(self._state)
        self.host = self.image_host
        self._session: aiohttp.ClientSession | None = None
        self._tokens: dict[str, str] = {}
        self._labels: OrderedDict[str, ImageInfo] = OrderedDict()

    # --- what the service asks ------------------------------------------------------------------

    async def image_labels(self, image: str) -> dict[str, str] | None:
        """The labels of an image that is complete in the registry, None when there is none.

        Raises Failed when the registry does not answer.
        """
        info = await self.image(image)
        return None if info is None else dict(info.labels)

    async def image(self, image: str) -> ImageInfo | None:
        """What is known of an image; None when it is not there. Raises Failed."""
        try:
            name = self._ours(image)
            return await self._image(name.name, name.reference)
        except _Status as error:
            if error.status == 404:
                return None
            raise self._failed(error) from error
        except (aiohttp.ClientError, TimeoutError, OSError, *_NONSENSE) as error:
            raise self._failed(error) from error

    async def healthy(self) -> bool:
        """Whether the registry answers."""
        try:
            await self._call("GET", "/v2/")
        except (_Status, aiohttp.ClientError, TimeoutError, OSError) as error:
            app_log.warning("The registry %s: %s", self.url, error)
            return False
        return True

    async def tags(self, name: str) -> list[str]:
        """The tags of a repository, at most ``MAX_TAGS``. Raises Failed."""
        try:
            return await self._pages(f"/v2/{name}/tags/list", "tags")
        except _Status as error:
            if error.status == 404:
                return []
            raise self._failed(error) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._failed(error) from error

    async def repositories(self) -> list[str]:
        """The registry's repositories, at most ``MAX_TAGS``; not every registry tells them.

        Raises Failed.
        """
        try:
            return await self._pages("/v2/_catalog", "repositories")
        except (_Status, aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._failed(error) from error

    async def delete(self, image: str) -> bool:
        """Delete an image by the digest that its tag has now; False when there is none.

        Its blobs go with the registry's garbage collection. Raises Failed.
        """
        info = await self.image(image)
        if info is None:
            return False
        try:
            await self._call("DELETE", f"/v2/{self._ours(image).name}/manifests/{info.digest}")
        except _Status as error:
            if error.status != 404:
                raise self._failed(error) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failed(error) from error
        self._labels.pop(info.digest, None)
        return True

    async def collect(self) -> None:
        """Ask the site's own registry to free the disk at a quiet moment; others do by themselves.

        Raises Failed.
        """
        if not self.embedded:
            return
        try:
            await self._call("POST", "/studovna/collect")
        except (_Status, aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failed(error) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    # --- requests -------------------------------------------------------------------------------

    def _ours(self, image: str) -> ImageName:
        name = parse_image(image)
        if name.host != self.host:
            raise ValueError(f"{image} is not in {self.host}")
        return name

    async def _image(self, name: str, reference: str) -> ImageInfo:
        accept = ", ".join((*MANIFESTS, *INDEXES))
        head = await self._call("HEAD", f"/v2/{name}/manifests/{reference}", accept)
        digest = head[1].get("Docker-Content-Digest", "")
        if digest in self._labels:
            self._labels.move_to_end(digest)
            return self._labels[digest]
        body, headers = await self._call("GET", f"/v2/{name}/manifests/{reference}", accept)
        manifest = json.loads(body)
        # Not every registry says it; it is that of the manifest's bytes.
        digest = headers.get("Docker-Content-Digest") or f"sha256:{sha256(body).hexdigest()}"
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{name}:{reference} has the digest {digest[:100]!r}")
        if "manifests" in manifest:  # an index, whichever name its kind has
            entries = manifest["manifests"]
            mine = [e for e in entries if e.get("platform", {}).get("os") in (None, "linux")]
            inner = await self._image(name, str((mine or entries)[0]["digest"]))
            info = ImageInfo(digest, inner.labels, inner.blobs)
        else:
            config = manifest["config"]
            body, _ = await self._call("GET", f"/v2/{name}/blobs/{config['digest']}")
            labels = (json.loads(body).get("config") or {}).get("Labels") or {}
            parts = (config, *manifest["layers"])
            # Most images have most of their layers in common.
            blobs = {sys.intern(str(e["digest"])): int(e["size"]) for e in parts}
            info = ImageInfo(digest, {str(k): str(v) for k, v in labels.items()}, blobs)
        self._labels[digest] = info
        while len(self._labels) > KEPT_LABELS:
            self._labels.popitem(last=False)
        return info

    async def _pages(self, path: str, key: str) -> list[str]:
        found: list[str] = []
        query = urlencode({"n": 1000})
        while len(found) < MAX_TAGS:
            body, headers = await self._call("GET", f"{path}?{query}")
            page = [str(one) for one in json.loads(body).get(key) or []]
            found += page
            if 'rel="next"' not in headers.get("Link", "") or not page:
                break
            query = urlencode({"n": 1000, "last": page[-1]})
        return found[:MAX_TAGS]

    async def _call(
        self, method: str, path: str, accept: str = "*/*"
    ) -> tuple[bytes, Mapping[str, str]]:
        """Raises _Status, aiohttp.ClientError, TimeoutError."""
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(timeout=TIMEOUT, trust_env=True)
        scope = self._scope(method, path)
        headers = {"Accept": accept}
        for attempt in (1, 2):
            if scope in self._tokens:
                headers["Authorization"] = self._tokens[scope]
            elif self.username:
                headers["Authorization"] = self._basic()
            async with self._session.request(method, self.url + path, headers=headers) as answer:
                if answer.status == 401 and attempt == 1:
                    challenge = answer.headers.get("WWW-Authenticate", "")
                    if challenge.lower().startswith("bearer "):
                        self._tokens[scope] = await self._token(challenge)
                        continue
                if answer.status >= 300:
                    said = (await answer.content.read(300)).decode(errors="replace")
                    raise _Status(answer.status, said)
                body = bytearray()
                async for chunk in answer.content.iter_chunked(65536):
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise _Status(502, "the answer is too long")
                return bytes(body), answer.headers
        raise _Status(401, "the registry does not accept the credential")

    def _basic(self) -> str:
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    @staticmethod
    def _scope(method: str, path: str) -> str:
        """What one token is good for: a repository, and whether it is to be changed."""
        return f"{path.split('?')[0].rpartition('/')[0].rpartition('/')[0]} {method == 'DELETE'}"

    async def _token(self, challenge: str) -> str:
        fields = dict(_CHALLENGE.findall(challenge))
        realm = self.token_url or urljoin(self.url, fields.get("realm", ""))
        if not realm.startswith("https://") and urlsplit(realm).netloc != urlsplit(self.url).netloc:
            raise _Status(401, "the registry sends the credential elsewhere, without TLS")
        # Each scope of the challenge is a parameter of its own.
        query = [("service", fields["service"])] if "service" in fields else []
        query += [("scope", scope) for scope in fields.get("scope", "").split()]
        headers = {"Authorization": self._basic()} if self.username else {}
        assert self._session is not None
        async with self._session.get(realm, params=query, headers=headers) as answer:
            if answer.status != 200:
                raise _Status(answer.status, "the registry does not accept the credential")
            data = await answer.json(content_type=None)
            return f"Bearer {data.get('token') or data['access_token']}"

    def _failed(self, error: Exception) -> Failed:
        app_log.error("The registry %s: %r", self.url, error)
        return Failed(
            Text(
                "The registry of this site does not answer as it should. Try again later, or tell "
                "its administrators."
            ),
            status=503,
        )
