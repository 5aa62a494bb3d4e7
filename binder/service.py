"""What the handlers share: from a link to an image name, and what is known of that image."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, Protocol
from weakref import WeakValueDictionary

from studovna.site import Site
from studovna.text import Text

from . import resources
from .builds import BuildQueue, BuildRequest
from .errors import Refused
from .hub import HubClient
from .launcher import Launcher
from .providers import Credential, RepoProvider, Resolved
from .providers.addresses import LOOKUPS
from .providers.base import NeedsToken, Source, image_slug
from .providers.git import GitRepoProvider, parse_address
from .store import BuildStore
from .tokens import GitTokens

RESOLVING_AT_ONCE = 32  # questions to git hosts, of all people
RESOLVING_PER_PERSON = 6  # so that nobody's slow hosts hold up the others
RESOLVED_SECONDS = 3.0  # so long an answer of a git host is taken for the next viewer, too


class Registry(Protocol):
    """What the service asks of the registry (`binder.registry`)."""

    async def image_labels(self, image: str) -> dict[str, str] | None:
        """The labels of an image that is complete in the registry, None when there is none.

        Raises Failed when the registry does not answer.
        """

    async def healthy(self) -> bool:
        """Whether the registry answers."""


class Shared:
    """Answers that many ask for at the same moment, found once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._answers: dict[Hashable, tuple[float, asyncio.Future[Any]]] = {}

    async def get(self, key: Hashable, find: Callable[[], Awaitable[Any]]) -> Any:
        """The answer for ``key``: the one being found, one just found, or a new one.

        A failure, and an answer of nothing (None), is told to all who wait for it, and to nobody
        later. Who asks may be cancelled without harm to the others.
        """
        now = time.monotonic()
        for old in [
            key for key, (until, task) in self._answers.items() if until < now and task.done()
        ]:
            del self._answers[old]
        if key not in self._answers:
            task = asyncio.ensure_future(find())
            self._answers[key] = (now + self._seconds, task)
            task.add_done_callback(lambda done: self._drop_failure(key, done))
        return await asyncio.shield(self._answers[key][1])

    def _drop_failure(self, key: Hashable, done: asyncio.Future[Any]) -> None:
        if done.cancelled() or done.exception() is not None or done.result() is None:
            self._answers.pop(key, None)


@dataclass(frozen=True)
class Link:
    """One link, resolved for one person. ``note`` is a sentence about it for the person."""

    resolved: Resolved
    image: str
    note: Text | None = None


@dataclass
class BinderService:
    """The parts of one running service."""

    site: Site
    providers: dict[str, RepoProvider]
    queue: BuildQueue
    store: BuildStore
    launcher: Launcher
    hub: HubClient
    tokens: GitTokens
    registry: Registry | None
    image_prefix: str
    image_version: str = ""
    per_repo_quota: int = 0
    per_repo_quota_higher: int = 0
    private_secret: bytes = b""
    """What makes the names of private repositories' images impossible to guess."""
    used: Callable[[str], None] | None = None
    """Told of each image that somebody asks for."""

    def __post_init__(self) -> None:
        self._resolving = Shared(RESOLVED_SECONDS)
        self._asking = Shared(0.5)
        self._slots = asyncio.Semaphore(RESOLVING_AT_ONCE)
        # A person's semaphore lives as long as one of their links uses it.
        self._own_slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def provider(self, prefix: str) -> RepoProvider:
        """Raises Refused (404) when there is no such provider."""
        if prefix not in self.providers:
            raise Refused(
                Text(
                    "No provider found for prefix {prefix}. There are: {names}.",
                    prefix=prefix[:40],
                    names=", ".join(self.providers),
                ),
                status=404,
            )
        return self.providers[prefix]

    async def resolve(self, prefix: str, spec: str, person: str) -> Link:
        """What a link means now, for a person who may read it. Raises Refused or Failed."""
        provider = self.provider(prefix)
        spec = spec.rstrip("/")
        source = provider.parse(spec)
        self._check_allowed(provider, source)
        note = None
        try:
            resolved = await self._resolve(provider, source, person)
        except Refused as refusal:
            if refusal.status != 404 or source.ref not in ("master", "main"):
                raise
            try:
                resolved = await self._resolve(provider, replace(source, ref="HEAD"), person)
            except Refused:
                raise refusal from None
            note = Text(
                'There is no branch "{ref}"; the default branch is used. Please update the link.',
                ref=source.ref,
            )
        # By where it was found to be, and as which version.
        found = resolved.source
        self._check_allowed(provider, source, resolved.fetch_url)
        self._check_allowed(provider, replace(found, ref=resolved.ref), ban_only=True)
        return Link(resolved, self.image_name(resolved), note)

    def _check_allowed(
        self, provider: RepoProvider, source: Source, url: str = "", *, ban_only: bool = False
    ) -> None:
        """Raise Refused where the site's lists say so, however the link spells the repository."""
        names = provider.names(source, url)
        banned = provider.is_banned([*names, *provider.other_names(source, url)])
        if isinstance(provider, GitRepoProvider):
            # By its address a repository of a forge is the same as by the forge's own links.
            host = parse_address(url or source.url).host
            for other in self.providers.values():
                if isinstance(other, GitRepoProvider) and other.own_host.lower() == host:
                    banned = banned or other.is_banned(other.names(source, url))
        if banned or not (ban_only or provider.is_allowed(names)):
            raise Refused(
                Text(
                    "Sorry, {spec} is not allowed to launch on this site. Please contact its "
                    "administrators for more information.",
                    spec=source.spec,
                ),
                status=403,
            )

    async def _resolve(self, provider: RepoProvider, source: Source, person: str) -> Resolved:
        """Ask the host: as anyone may, and with the person's token where that is refused."""
        try:
            return await self._ask(provider, source, None, person)
        except NeedsToken:
            host = provider.credential_host(source)
            credential = await self.tokens.credential(person, host)
            if credential is None:
                raise
            found = await self._ask(provider, source, credential, person)
            return replace(found, private=True)

    async def _ask(
        self, provider: RepoProvider, source: Source, credential: Credential | None, person: str
    ) -> Resolved:
        async def ask() -> Resolved:
            own = self._own_slots.setdefault(person, asyncio.Semaphore(RESOLVING_PER_PERSON))
            await own.acquire()
            begun: list[asyncio.Future[Any]] = []
            LOOKUPS.set(begun)
            try:
                async with self._slots:
                    return await provider.resolve(source, credential)
            finally:
                # Given back when name servers let go of the last thread, not when we gave up on it.
                _when_done(begun, own.release)

        key = (source.provider, source.url, source.ref, credential)
        found: Resolved = await self._resolving.get(key, ask)
        return replace(found, source=source)

    def image_name(self, resolved: Resolved) -> str:
        """The image of one version of a repository: the same for all links to it.

        The hash tells repositories apart whose readable parts are the same, and images that are
        built upon another Lab; the tag is the whole commit (or the record's version). The hub
        starts every built image for whoever can name it, so that the name of a private one is a
        secret: only who may read the repository is ever told.
        """
        address = resolved.repo_url.rstrip("/").removesuffix(".git")
        text = f"{address} {self.image_version}".encode()
        digest = hashlib.sha256(text).hexdigest()[:12]
        if resolved.private:
            digest = hmac.digest(self.private_secret, text, hashlib.sha256).hex()[:32]
        name = f"{self.image_prefix}{image_slug(resolved.slug)}-{digest}"
        return f"{name}:{resolved.ref}"

    async def image_labels(self, image: str) -> dict[str, str] | None:
        """The labels of a built image, None when it is not (completely) there."""
        if self.registry is None:
            return None
        registry = self.registry
        found: dict[str, str] | None = await self._asking.get(
            image, lambda: registry.image_labels(image)
        )
        if found is not None and self.used is not None:
            self.used(image)
        return found

    def build_request(self, link: Link, person: str) -> BuildRequest:
        """What the queue is to build for a link."""
        resolved = link.resolved
        provider = resolved.source.provider
        return BuildRequest(
            image=link.image,
            repo_url=resolved.repo_url,
            ref=resolved.ref,
            content="git" if provider in ("gh", "gl", "gist", "git") else provider,
            fetch_url=resolved.fetch_url,
            resolved_spec=resolved.resolved_spec,
            provider=self.providers[provider].name,
            started_by=person,
            git_config=resolved.git_config,
            credential=resolved.credential,
            private_link=f"{provider}/{resolved.resolved_spec}" if resolved.private else "",
        )

    async def check_may_read(self, private_link: str, person: str) -> None:
        """Raise Refused when a person may not see what was built of a private repository."""
        if not private_link:
            return
        try:
            prefix, _, spec = private_link.partition("/")
            await self.resolve(prefix, spec, person)
        except Refused:
            raise Refused(
                Text(
                    "This is the log of a private repository. It is for those whose own token "
                    "may read the repository."
                ),
                status=403,
            ) from None

    def repo_quota(self, link: Link) -> int:
        """How many servers of the link's repository may run at once; 0: any number."""
        source = link.resolved.source
        provider = self.providers[source.provider]
        return provider.quota(
            provider.names(source, link.resolved.fetch_url),
            self.per_repo_quota,
            self.per_repo_quota_higher,
        )

    async def server_options(self, image: str) -> tuple[dict[str, str], tuple[Text, ...]]:
        """The profile's options that an image's ``.resources`` asks for, and what to say of it."""
        labels = await self.image_labels(image)
        if labels is None:  # who asked first did so before it was there
            labels = await self.image_labels(image) or {}
        asked, problems = resources.parse(labels.get(resources.LABEL, ""))
        capped, notes = resources.cap(asked, self.site.project)
        return resources.profile_options(capped), (*problems, *notes)


def _when_done(futures: list[asyncio.Future[Any]], act: Callable[[], None]) -> None:
    """Act once all of them are done, which may be now."""
    left = {one for one in futures if not one.done()}

    def ended(one: asyncio.Future[Any]) -> None:
        left.discard(one)
        if not left:
            act()

    if not left:
        act()
    for one in list(left):
        one.add_done_callback(ended)
