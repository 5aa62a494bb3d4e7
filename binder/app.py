"""The Binder service: BinderHub's options, wired to our parts.

Run by JupyterHub as its managed service ``binder``: ``python -m binder -f binderhub_config.py``.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import os
import re
import signal
from binascii import a2b_hex
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import tornado.log
from jupyterhub.services.auth import HubOAuthCallbackHandler
from tornado import web
from tornado.httpserver import HTTPServer
from traitlets import (
    Bool,
    Bytes,
    Callable,
    Dict,
    Integer,
    Type,
    Unicode,
    Union,
    default,
    validate,
)
from traitlets.config import Application
from traitlets.utils.importstring import import_item

from studovna.paths import site_file, state_dir
from studovna.release import release
from studovna.site import Site, load_site

from .builds import BuildExecutor, BuildQueue, KubernetesBuildExecutor
from .cleaner import Cleaner, images_in_use, images_of_servers
from .errors import BinderError
from .handlers import api, pages
from .handlers.base import load_translations
from .handlers.build import BuildHandler
from .hub import HubClient
from .launcher import Launcher
from .providers import PROVIDERS, AddressRules, RepoProvider
from .ratelimit import RateLimiter
from .registry import DockerRegistry
from .service import BinderService
from .starting import host_to_listen_on
from .store import BuildStore
from .tokens import GitTokens

HERE = Path(__file__).parent
_LOOPBACK = [ipaddress.ip_network(one) for one in ("127.0.0.0/8", "::1/128")]
_PRIVATE = [
    ipaddress.ip_network(one)
    for one in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fe80::/10",
    )
]  # fmt: skip
"""Where a cluster has its own proxies: the release's, and the Ingress before it."""
PREPARE_AFTER = 20.0  # seconds in which people who waited for the site have the processor


class BinderHub(Application):
    """From a git link to a running server."""

    name = "binder"
    aliases = {
        "log-level": "Application.log_level",
        "f": "BinderHub.config_file",
        "config": "BinderHub.config_file",
        "port": "BinderHub.port",
    }
    flags = {"debug": ({"BinderHub": {"debug": True}}, "Log more.")}

    config_file = Unicode("binderhub_config.py", help="The configuration file.").tag(config=True)
    debug = Bool(False, help="Log more.").tag(config=True)
    before_listening = Callable(
        None, allow_none=True, help="Called when all is ready, before the address is taken."
    )

    base_url = Unicode(help="The path of the service; JUPYTERHUB_SERVICE_PREFIX by default.").tag(
        config=True
    )
    port = Integer(8585, help="The port, where JupyterHub names no address.").tag(config=True)
    hub_url = Unicode(
        help="The hub's address for browsers; where it is only a path, on the host of the request."
    ).tag(config=True)
    hub_url_local = Unicode(help="The hub's address for the service itself.").tag(config=True)
    hub_api_token = Unicode(help="The service's token; JUPYTERHUB_API_TOKEN by default.").tag(
        config=True
    )
    auth_enabled = Bool(True, help="Known for BinderHub's sake.").tag(
        config=True, ignored="people are always signed in here"
    )
    enable_api_only_mode = Bool(False, help="Serve no pages, only the API.").tag(config=True)
    use_registry = Bool(True, help="Push images to a registry, and look for them there.").tag(
        config=True
    )
    image_prefix = Unicode(help="What the names of built images begin with.").tag(config=True)
    build_class = Type(BuildExecutor, klass=BuildExecutor, help="What runs builds.").tag(
        config=True
    )
    registry_class = Type(object, help="What asks the registry.").tag(config=True)
    concurrent_build_limit = Integer(32, help="Builds at once; the others wait.").tag(config=True)
    build_cleanup_interval = Integer(
        60, help="Seconds between looks for images that are to be removed."
    ).tag(config=True)
    per_repo_quota = Integer(
        0, help="Servers of one repository at once, of all people; 0: any number."
    ).tag(config=True)
    per_repo_quota_higher = Integer(0, help="The same, for high_quota_specs.").tag(config=True)
    build_token_secret = Union(
        [Unicode(), Bytes()], help="Signs build tokens; hexadecimal where it is text."
    ).tag(config=True)
    build_token_expires_seconds = Integer(300, help="How long a build token is good.").tag(
        config=True
    )
    build_token_check_origin = Bool(True, help="Whether its origin is checked.").tag(config=True)
    ban_networks = Dict(
        help="Networks (CIDR) whose requests are refused, each with a label for the message."
    ).tag(config=True)
    cors_allow_origin = Unicode("", help="The other origin that may use the API; * for all.").tag(
        config=True
    )
    repo_providers = Dict(PROVIDERS, help="The providers, by the prefix of their links.").tag(
        config=True
    )
    badge_base_url = Unicode("", help="The address in badges; the service's own by default.").tag(
        config=True
    )
    banner_message = Unicode("", help="HTML at the top of every page.").tag(config=True)
    about_message = Unicode("", help="HTML at the end of the form's page.").tag(config=True)
    template_path = Unicode("", help="A folder of templates that come before ours.").tag(
        config=True
    )
    template_variables = Dict(help="Further variables for templates.").tag(config=True)
    tornado_settings = Dict(help="Further settings for tornado.").tag(config=True)

    @default("base_url")
    def _base_url(self) -> str:
        return os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "/")

    @validate("base_url")
    def _valid_base_url(self, proposal: Any) -> str:
        return f"/{proposal.value.strip('/')}/".replace("//", "/")

    @default("hub_url")
    def _hub_url(self) -> str:
        host = os.environ.get("JUPYTERHUB_HOST", "")
        return host + os.environ.get("JUPYTERHUB_BASE_URL", "/")

    @default("hub_url_local")
    def _hub_url_local(self) -> str:
        return self.hub_url

    @validate("hub_url", "hub_url_local", "badge_base_url")
    def _with_slash(self, proposal: Any) -> str:
        value: str = proposal.value
        return value if not value or value.endswith("/") else value + "/"

    @default("hub_api_token")
    def _hub_api_token(self) -> str:
        return os.environ.get("JUPYTERHUB_API_TOKEN", "")

    # The defaults are imported when they are wanted: other classes may take their place.
    @default("build_class")
    def _build_class(self) -> Any:
        if release() is not None:
            return import_item("binder.cluster.ClusterBuildExecutor")
        return import_item("binder.executor.PodBuildExecutor")

    @default("registry_class")
    def _registry_class(self) -> Any:
        return import_item("binder.registry.DockerRegistry")

    @validate("build_token_secret")
    def _valid_secret(self, proposal: Any) -> bytes:
        return a2b_hex(proposal.value) if isinstance(proposal.value, str) else proposal.value

    @default("build_token_secret")
    def _build_token_secret(self) -> bytes:
        given = os.environ.get("BINDERHUB_BUILD_TOKEN_SECRET")
        return a2b_hex(given) if given else self._derived("build tokens")

    @validate("ban_networks")
    def _valid_networks(self, proposal: Any) -> dict[Any, str]:
        return {ipaddress.ip_network(cidr): label for cidr, label in proposal.value.items()}

    @validate("repo_providers")
    def _valid_providers(self, proposal: Any) -> dict[str, type[RepoProvider]]:
        for prefix, provider in proposal.value.items():
            if not issubclass(provider, RepoProvider):
                raise ValueError(f"repo_providers[{prefix!r}] is no RepoProvider")
        if not proposal.value:
            raise ValueError("repo_providers is empty")
        return dict(proposal.value)

    def _derived(self, purpose: str) -> bytes:
        """A secret that lives as long as the service's token: cookies outlast a restart."""
        return hmac.digest(self.hub_api_token.encode(), purpose.encode(), hashlib.sha256)

    def initialize(self, argv: list[str] | None = None) -> None:
        super().initialize(argv)
        self.load_config_file(self.config_file)
        self.log_level = logging.DEBUG if self.debug else self.log_level
        tornado.log.app_log.setLevel(logging.DEBUG if self.debug else logging.INFO)
        tornado.log.enable_pretty_logging()
        load_translations()
        for said in self.ignored_options():
            self.log.warning(said)
        self.site = load_site(site_file())
        self.folder = state_dir() / "binder"
        self.service = self.make_service(self.site)
        self.web = self.make_web()

    def ignored_options(self) -> list[str]:
        """A sentence for each option that is set and changes nothing here."""
        classes: set[Any] = {type(self), self.build_class, KubernetesBuildExecutor, Launcher}
        classes |= {DockerRegistry, *self.repo_providers.values()}
        said = set()
        for one in classes:
            for name, trait in one.class_traits(config=True).items():
                for parent in one.__mro__:
                    section = self.config.get(parent.__name__, {})
                    set_ = name in section and section[name] != trait.default()
                    if set_ and "ignored" in trait.metadata:
                        why = trait.metadata["ignored"]
                        said.add(f"c.{parent.__name__}.{name} changes nothing here: {why}.")
        return sorted(said)

    @default("log_level")
    def _log_level(self) -> int:
        return logging.INFO

    def make_service(self, site: Site) -> BinderService:
        """The parts, from the options and the site's settings."""
        rules = AddressRules.of(site.binder.allow_hosts)
        api_url = os.environ.get("JUPYTERHUB_API_URL", "") or f"{self.hub_url_local}hub/api"
        hub = HubClient(api_url.rstrip("/") + "/", self.hub_api_token)
        store = BuildStore(self.folder)
        executor: BuildExecutor = cast(Any, self.build_class)(parent=self)
        self.executor = executor
        queue = BuildQueue(
            executor,
            store,
            limit=self.concurrent_build_limit,
            log_limit=int(site.binder.build_log),
            may_start=RateLimiter(parent=self).start,
        )
        registry = cast(Any, self.registry_class)(parent=self) if self.use_registry else None
        self.cleaner = self.make_cleaner(site, executor, store, registry, hub)
        return BinderService(
            site=site,
            providers={
                prefix: provider(prefix, rules, parent=self)
                for prefix, provider in self.repo_providers.items()
            },
            queue=queue,
            store=store,
            launcher=Launcher(hub, parent=self),
            hub=hub,
            tokens=GitTokens(hub),
            registry=registry,
            used=self.cleaner.used if self.cleaner else None,
            image_prefix=self.image_prefix,
            image_version=executor.version,
            private_secret=hmac.digest(
                self.build_token_secret, b"names of private images", hashlib.sha256
            ),
            per_repo_quota=self.per_repo_quota,
            per_repo_quota_higher=self.per_repo_quota_higher,
        )

    def make_cleaner(
        self, site: Site, executor: BuildExecutor, store: BuildStore, registry: Any, hub: HubClient
    ) -> Cleaner | None:
        """What removes images that are over the site's budget; None where others see to that."""
        podman = getattr(executor, "podman", None)
        if not isinstance(registry, DockerRegistry) or (podman is None and release() is None):
            return None
        if not registry.embedded and podman is None:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        return Cleaner(
            registry,
            store,
            self.folder,
            budget=int(site.binder.image_disk),
            prefix=self.image_prefix,
            version=executor.version,
            in_use=lambda: images_in_use(podman) if podman else images_of_servers(hub),
            podman=podman,
        )

    def make_web(self) -> web.Application:
        """The routes and what the handlers read."""
        headers = {"Access-Control-Allow-Origin": self.cors_allow_origin}
        settings: dict[str, Any] = {
            "service": self.service,
            "base_url": self.base_url,
            "hub_url": self.hub_url,
            "hub_prefix": os.environ.get("JUPYTERHUB_BASE_URL", "/") + "hub/",
            "headers": headers if self.cors_allow_origin else {},
            "ban_networks": self.ban_networks,
            "trusted_networks": _LOOPBACK if release() is None else _LOOPBACK + _PRIVATE,
            "badge_base_url": self.badge_base_url,
            "banner_message": self.banner_message,
            "about_message": self.about_message,
            "template_variables": self.template_variables,
            "templates": pages.environment(self.template_path),
            "build_token_secret": self.build_token_secret,
            "build_token_expires_seconds": self.build_token_expires_seconds,
            "build_token_check_origin": self.build_token_check_origin,
            "traitlets_config": self.config,
            "static_path": str(HERE / "static"),
            "static_url_prefix": f"{self.base_url}static/",
            "cookie_secret": self._derived("cookies"),
            "default_handler_class": pages.NotFound,
            "log_function": _log_request,
            **self.tornado_settings,
        }
        return web.Application(
            [(self.base_url.rstrip("/") + r, *h) for r, *h in self.routes()], **settings
        )

    def routes(self) -> list[tuple[Any, ...]]:
        """Every route, without the service's prefix."""
        build_id = r"(build-[0-9a-f]{32})"
        routes: list[tuple[Any, ...]] = [
            (r"/metrics", api.MetricsHandler),
            (r"/versions", api.VersionsHandler),
            (r"/health", api.HealthHandler),
            (r"/api/repoproviders", api.ProvidersHandler),
            (r"/api/builds", api.BuildsHandler),
            (rf"/api/builds/{build_id}", api.BuildAPIHandler),
            (rf"/api/builds/{build_id}/log", api.BuildLogHandler),
            (r"/build/([^/]+)/(.+)", BuildHandler),
        ]
        if not self.enable_api_only_mode:
            images = {"path": str(HERE / "static" / "images")}
            routes += [
                (r"/", pages.FormPage),
                (r"/v2/([^/]+)/(.+)", pages.LaunchPage),
                (r"/tokens", pages.TokensPage),
                (r"/repo/([^/]+)/([^/]+)(/.*)?", pages.LegacyRedirect),
                (r"/(badge\.svg)", pages.Badge, images),
                (r"/(badge_logo\.svg)", pages.Badge, images),
                (r"/assets/images/(badge\.svg)", pages.Badge, images),
            ]
        callback = os.environ.get("JUPYTERHUB_OAUTH_CALLBACK_URL", "")
        path = urlsplit(callback).path or f"{self.base_url}oauth_callback"
        prefix = self.base_url.rstrip("/")
        return [*routes, (re.escape(path.removeprefix(prefix)), HubOAuthCallbackHandler)]

    def start(self) -> None:
        """Serve until a signal."""
        asyncio.run(self.serve())

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT; builds go on in the engine and are found again."""
        address = urlsplit(os.environ.get("JUPYTERHUB_SERVICE_URL", ""))
        server = HTTPServer(self.web, xheaders=True, trusted_downstream=["127.0.0.1", "::1"])
        if self.before_listening is not None:
            self.before_listening()
        host = host_to_listen_on(address.hostname or "127.0.0.1")
        server.listen(address.port or self.port, host)  # without a host: of both families
        self.log.info("Binder listens on port %s", address.port or self.port)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        tasks = [asyncio.create_task(self.restore()), asyncio.create_task(self.tend())]
        await ended.wait()
        server.stop()
        for task in tasks:
            task.cancel()
        if self.cleaner is not None:
            await self.cleaner.save()
        await self.service.queue.close()
        await server.close_all_connections()

    async def tend(self) -> None:
        """Do what the first build would wait for, once the start of the site is over; from then
        on keep the images within their budget."""
        await asyncio.sleep(PREPARE_AFTER)
        try:
            await self.executor.prepare(self.image_prefix)
        except BinderError as error:
            self.log.error("Builds could not be prepared: %s", error.message)
        if self.cleaner is not None:
            await self.cleaner.run(self.build_cleanup_interval)

    async def restore(self) -> None:
        """Find the builds of the last run again; the service answers meanwhile."""
        delay = 1.0
        while True:
            try:
                await self.service.queue.restore()
                return
            except Exception as error:
                self.log.error("The engine cannot be asked for builds yet: %r", error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 60)


def _log_request(handler: web.RequestHandler) -> None:
    """One line a request, without its query (which may hold a token); quiet about monitors."""
    request, status = handler.request, handler.get_status()
    quiet = status < 400 and request.path.rsplit("/", 1)[-1] in ("health", "metrics", "versions")
    level = logging.ERROR if status >= 500 else logging.DEBUG if quiet else logging.INFO
    taken = 1000 * request.request_time()
    tornado.log.access_log.log(
        level,
        "%d %s %s (%s) %.0fms",
        status,
        request.method,
        request.path,
        request.remote_ip,
        taken,
    )
