"""What all handlers share: who asks, from where, and the headers of the answer."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.services.auth import HubOAuth, HubOAuthenticated, UserNotAllowed
from tornado import locale
from tornado.log import app_log
from tornado.web import HTTPError, RequestHandler

from studovna.paths import ROOT
from studovna.text import Text

from ..errors import BinderError, Refused
from ..service import BinderService

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def load_translations() -> None:
    """This service's sentences in other languages, and the hub's, which tell of a start."""
    with TemporaryDirectory() as folder:  # tornado reads one folder
        for ours in (ROOT / "binder" / "locale").glob("*.csv"):
            both = [
                (ROOT / "pages" / "locale" / ours.name).read_text("utf-8"),
                ours.read_text("utf-8"),
            ]
            (Path(folder) / ours.name).write_text("\n".join(both), "utf-8")
        locale.load_translations(folder, encoding="utf-8")
    # "en" and not tornado's "en_US": a browser that asks for en-GB, then cs, is to get English.
    locale.set_default_locale("en")


def translated(language: locale.Locale, text: str) -> str:
    """A sentence in a language; English where it is not translated."""
    if not isinstance(text, Text):
        return language.translate(text)
    return text.translated(language.translate)


def came_through(forwarded: str, trusted: Sequence[Network]) -> list[Address]:
    """The addresses that a request came through, by X-Forwarded-For, the nearest first.

    Each proxy adds whom it saw to the right; what is left of the first address that is none of our
    proxies' was written by whoever sent the request, and is not believed.
    """
    found: list[Address] = []
    for text in reversed(forwarded.split(",")):
        try:
            address = ipaddress.ip_address(text.strip())
        except ValueError:
            break
        # A socket for both families tells IPv4 addresses as IPv6 ones.
        found.append(getattr(address, "ipv4_mapped", None) or address)
        if not any(found[-1] in network for network in trusted):
            break
    return found


class BaseHandler(HubOAuthenticated, RequestHandler):
    """A request, of a signed-in person unless ``open_to_all``."""

    open_to_all = False
    skip_network_ban = False

    @property
    def service(self) -> BinderService:
        found: BinderService = self.settings["service"]
        return found

    @property
    def base_url(self) -> str:
        return str(self.settings["base_url"])

    def initialize(self, **_kwargs: Any) -> None:
        self.hub_auth = HubOAuth.instance(config=self.settings["traitlets_config"])

    def set_default_headers(self) -> None:
        self.nonce = secrets.token_urlsafe(16)
        policy = [
            "default-src 'self'",
            f"script-src 'self' 'nonce-{self.nonce}'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        ]
        self.set_header("Content-Security-Policy", "; ".join(policy))
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "strict-origin-when-cross-origin")
        for name, value in self.settings.get("headers", {}).items():
            self.set_header(name, value)
        if "Access-Control-Allow-Origin" in self.settings.get("headers", {}):
            self.set_header(
                "Access-Control-Allow-Headers",
                "accept, authorization, cache-control, content-type, last-event-id, x-xsrftoken",
            )
            self.set_header("Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS")

    async def prepare(self) -> None:
        self._check_network()
        if self.request.method == "OPTIONS" or self.open_to_all:
            return
        # HubAuthenticated would ask the hub from within `current_user`, blocking the loop.
        self._hub_auth_user_cache = None
        model = await self.hub_auth.get_user(self, sync=False)
        if model:
            try:
                self._hub_auth_user_cache = self.check_hub_user(model)
            except UserNotAllowed:
                said = Text("{name} may not use Binder here.", name=model["name"])
                raise Refused(said, status=403) from None
            self.hub_auth._persist_url_token_if_set(self)
        if not self.current_user:
            self.not_signed_in()

    def not_signed_in(self) -> None:
        """What becomes of a request without a login; pages redirect."""
        raise Refused(Text("Sign in first, or send a token."), status=403)

    @property
    def person(self) -> str:
        """Who asks: a person's name, or ``service:`` and a service's name."""
        model = self.current_user
        name = str(model["name"])
        return name if model.get("kind", "user") == "user" else f"service:{name}"

    async def is_admin(self) -> bool:
        """Whether the person runs the site; asked of the hub."""
        if self.current_user.get("kind", "user") != "user":
            return False
        return bool((await self.service.hub.user(self.person)).get("admin"))

    def _check_network(self) -> None:
        banned = self.settings["ban_networks"]
        if self.skip_network_ban or not banned:
            return
        forwarded = ",".join(self.request.headers.get_list("X-Forwarded-For"))
        chain = came_through(
            forwarded or self.request.remote_ip or "", self.settings["trusted_networks"]
        )
        for network, label in banned.items():
            for address in chain:
                if address in network:
                    app_log.warning("Refused a request from %s (%s)", address, label)
                    said = Text("Requests from {label} are not allowed", label=label)
                    raise Refused(said, status=403)

    def raw_spec(self, prefix: str) -> str:
        """The rest of the path after ``prefix``, as it was sent: escapes tell names and paths
        apart, and tornado's own arguments have lost them."""
        path = self.request.path
        return path[path.index(prefix) + len(prefix) :]

    def origin(self) -> str:
        """Where the request comes from, for build tokens: the Origin's host, else the Host."""
        origin = self.request.headers.get("Origin")
        return urlsplit(origin).netloc if origin else self.request.headers.get("Host", "")

    def public_url(self) -> str:
        """``https://host/services/binder/`` as the person's browser sees it."""
        return f"{self.request.protocol}://{self.request.host}{self.base_url}"

    def hub_url(self) -> str:
        """The hub's address for browsers, with a slash at its end."""
        url = str(self.settings["hub_url"])
        if urlsplit(url).netloc:
            return url
        return f"{self.request.protocol}://{self.request.host}{url or '/'}"

    def get_user_locale(self) -> locale.Locale | None:
        return None  # the browser's

    def say(self, text: str) -> str:
        """A sentence in the language of the person's browser."""
        return translated(self.locale, text)

    def problem(self, status: int, kwargs: dict[str, Any]) -> tuple[int, str]:
        """The status and the sentence of whatever ended a request."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, BinderError):
            return error.status, self.say(error.message)
        if isinstance(error, HTTPError) and error.log_message:
            said = error.log_message % error.args if error.args else error.log_message
            return error.status_code, said
        if status == 404:
            return status, self.say(Text("There is no such page."))
        if status == 405:
            return status, self.say(Text("This address does not know that method."))
        if status < 500:
            return status, self.say(Text("The request is not in order."))
        return status, self.say(
            Text("The service is at fault; its administrators find the reason in the log.")
        )

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if isinstance(value, BinderError):
            app_log.info("%s %s: %s", self.request.method, self.request.path, value)
            return
        super().log_exception(typ, value, tb)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, BinderError):
            status_code = error.status
        super().send_error(status_code, **kwargs)

    def options(self, *_args: str) -> None:
        """For a browser that asks first whether it may."""
        self.set_status(204)


class ApiHandler(BaseHandler):
    """Answers in JSON, errors too."""

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-cache")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        status, message = self.problem(status_code, kwargs)
        self.set_status(status)
        self.finish({"status": status, "message": message})
