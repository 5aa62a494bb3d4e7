"""The pages: the form that makes links, the launch page, tokens for private repositories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from tornado.web import StaticFileHandler

from ..errors import BinderError
from ..tokens import mint_build_token
from .base import BaseHandler
from .strings import PAGE_STRINGS

TEMPLATES = Path(__file__).parent.parent / "templates"


def environment(custom: str = "") -> Environment:
    """The templates, an operator's own before ours."""
    folders = [custom, str(TEMPLATES)] if custom else [str(TEMPLATES)]
    return Environment(loader=FileSystemLoader(folders), autoescape=True)


def in_script(value: Any) -> Markup:
    """A value as JSON that may stand in a script element, whatever its text says."""
    text = json.dumps(value)
    for bad in "<>&\u2028\u2029":
        text = text.replace(bad, f"\\u{ord(bad):04x}")
    return Markup(text)  # noqa: S704 - the characters that could end the script are escaped


class PageHandler(BaseHandler):
    """A page for people. Without a login it leads to the hub's."""

    def not_signed_in(self) -> None:
        if self.request.method not in ("GET", "HEAD"):
            super().not_signed_in()
        self.redirect(self.get_login_url())

    def render_page(self, template: str, config: dict[str, Any], **more: Any) -> None:
        model = self.current_user
        config = {
            "baseUrl": self.base_url,
            "badgeBaseUrl": self.settings["badge_base_url"] or self.public_url(),
            "xsrf": self.xsrf_token.decode() if model else "",
            "strings": {text: self.locale.translate(text) for text in PAGE_STRINGS},
            **config,
        }
        variables = {
            "_": self.say,
            "site": self.service.site,
            "lang": self.locale.code.split("_")[0],
            "nonce": self.nonce,
            "base_url": self.base_url,
            "hub_prefix": self.settings["hub_prefix"],
            "static": self.static_url,
            "person": self.person if model else "",
            "xsrf": config["xsrf"],
            "page_config": in_script(config),
            "banner": Markup(self.settings["banner_message"]),  # noqa: S704 - the operator's HTML
            "about": Markup(self.settings["about_message"]),  # noqa: S704 - the operator's HTML
            **self.settings.get("template_variables", {}),
            **more,
        }
        self.set_header("Cache-Control", "no-store")
        self.write(self.settings["templates"].get_template(template).render(variables))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        status, message = self.problem(status_code, kwargs)
        self.set_status(status)
        try:
            self.render_page("error.html", {}, status=status, message=message)
            self.finish()
        except Exception:  # the error page must not hide the error
            self.finish(message)


class FormPage(PageHandler):
    """``/``: the form that makes links and badges."""

    def get(self) -> None:
        providers = [self._shown(one.display_config) for one in self.service.providers.values()]
        self.render_page("form.html", {"repoProviders": providers}, providers=providers)

    def _shown(self, config: dict[str, Any]) -> dict[str, Any]:
        """A provider as the page names it; programs read the same in English from the API."""
        repo = config["repo"]
        labels = {key: self.say(repo[key]) for key in ("label", "placeholder")}
        name = self.say(config["displayName"])
        return {**config, "displayName": name, "repo": {**repo, **labels}}


class LaunchPage(PageHandler):
    """``/v2/<provider>/<spec>``: follows a link until its server runs, and leads there."""

    def get(self, prefix: str, _spec: str) -> None:
        spec = self.raw_spec(f"/v2/{prefix}/")
        provider = self.service.provider(prefix)
        token = mint_build_token(
            self.settings["build_token_secret"],
            f"{prefix}/{spec}",
            self.origin(),
            self.settings["build_token_expires_seconds"],
        )
        title, last = spec, None
        try:
            source = provider.parse(spec.rstrip("/"))
            title = source.url
            last = self.service.store.last_seconds(source.url)
        except BinderError:
            pass  # the event stream says what is wrong with it
        config = {
            "buildToken": token,
            "provider": prefix,
            "spec": spec,
            "repository": title,
            "lastSeconds": last,
            "hubUrl": self.hub_url(),
        }
        self.render_page("launch.html", config, repository=title, provider=provider.display_config)


class TokensPage(PageHandler):
    """``/tokens``: a person's tokens for private repositories. None is ever shown again."""

    async def get(self) -> None:
        await self._show("")

    async def post(self) -> None:
        host = self.get_body_argument("host", "").strip()
        problem = ""
        try:
            if self.get_body_argument("action", "") == "remove":
                await self.service.tokens.remove(self.person, host)
            else:
                username = self.get_body_argument("username", "").strip()
                token = self.get_body_argument("token", "").strip()
                await self.service.tokens.put(self.person, host, username, token)
        except BinderError as error:
            problem = self.say(error.message)
            self.set_status(error.status)
        if not problem:
            self.redirect(f"{self.base_url}tokens", status=303)
            return
        await self._show(problem)

    async def _show(self, problem: str) -> None:
        try:
            hosts = await self.service.tokens.hosts(self.person)
        except BinderError as error:
            hosts, problem = [], problem or self.say(error.message)
        self.render_page("tokens.html", {}, hosts=hosts, problem=problem)


class LegacyRedirect(PageHandler):
    """``/repo/<user>/<repository>``: links of the first Binder."""

    def get(self, user: str, repository: str, path: str | None = None) -> None:
        url = f"{self.base_url}v2/gh/{user}/{repository}/master"
        if path and path.strip("/"):
            url += "?" + urlencode({"urlpath": path})
        self.redirect(url)


class NotFound(PageHandler):
    """Every other address."""

    open_to_all = True

    def get(self) -> None:
        self.send_error(404)


class Badge(StaticFileHandler):
    """Badges are shown on other sites' pages."""

    def set_extra_headers(self, _path: str) -> None:
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Cross-Origin-Resource-Policy", "cross-origin")
        self.set_header("X-Content-Type-Options", "nosniff")
