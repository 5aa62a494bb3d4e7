"""What the hub's pages show beside JupyterHub's own variables.

Templates reach it as ``studovna`` (one ``PageData`` a request) and translate with ``_``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from jinja2 import pass_context
from jinja2.runtime import Context
from jupyterhub.handlers.static import CacheControlStaticFilesHandler
from tornado import locale

from spawner.deployment import Deployment
from spawner.engine import EngineError
from spawner.quota import summary
from spawner.spawner import ProfileSpawner, last_end
from studovna.paths import ROOT
from studovna.text import Text
from studovna.units import GIB, KIB, MIB

log = logging.getLogger("jupyterhub.studovna")

PAGES = ROOT / "pages"
NO_REASON = Text("The latest start failed. The operator finds the reason in the hub's log.")


def load_translations() -> None:
    """Read ``locale/*.csv``; the language is the browser's, English when we do not speak it."""
    locale.load_translations(str(PAGES / "locale"), encoding="utf-8")
    # "en" and not tornado's "en_US": a browser that asks for en-GB, then cs, is to get English.
    locale.set_default_locale("en")


@pass_context
def translate(context: Context, sentence: str | dict[str, str], /, **params: object) -> str:
    """``_("Stop")``, ``_(a_text)``, ``_({"en": …, "cs": …})`` in the language of the request.

    The request is found through JupyterHub's ``static_url``, the one method of the handler that
    every page gets.
    """
    handler = context["static_url"].__self__
    return translated(handler.locale, sentence, **params)


def translated(language: locale.Locale, sentence: str | dict[str, str], /, **params: object) -> str:
    """One sentence in one language; a sentence that has no translation stays English."""
    if isinstance(sentence, dict):
        return sentence.get(language.code.split("_")[0]) or sentence["en"]
    if isinstance(sentence, Text):
        return sentence.translated(language.translate, **params)
    text = language.translate(str(sentence))
    return text.format_map(params) if params else text


@pass_context
def language(context: Context) -> str:
    """The language of the page, for ``<html lang>``: ``en``, ``cs``."""
    code: str = context["static_url"].__self__.locale.code
    return code.split("_")[0]


@pass_context
def dictionary(context: Context) -> dict[str, str]:
    """Every sentence that we speak in the language of the page, for what arrives by itself
    (progress); empty in English."""
    spoken = locale.get(context["static_url"].__self__.locale.code)
    return dict(getattr(spoken, "translations", {}).get("unknown", {}))


@pass_context
def shown_size(context: Context, size: float) -> str:
    """Bytes for people, in GB, MB or kB: ``1.5 GB``, in Czech ``1,5 GB``; nothing is ``0 GB``."""
    if size >= GIB or not size:
        amount, unit = size / GIB, "GB"
    else:
        amount, unit = (size / MIB, "MB") if size >= MIB else (max(1, size / KIB), "kB")
    digits = 0 if amount >= 100 or unit != "GB" else 2
    return shown_number(context, round(amount, digits)) + "\N{NO-BREAK SPACE}" + unit


@pass_context
def shown_number(context: Context, number: float) -> str:
    """A number with the decimal mark of the page's language."""
    text = f"{round(number, 2):.10g}"
    return text.replace(".", ",") if language(context) == "cs" else text


def sentence_and_lines(text: str) -> tuple[str, str]:
    """A message as its sentence and the log lines that follow it, if there are any."""
    sentence, _, lines = text.partition("\n")
    return sentence, lines.strip("\n")


@dataclass(frozen=True)
class HomeCard:
    """One home as the home page shows it; ``size`` in bytes, None when it is not known."""

    name: str
    size: int | None
    created: datetime
    used_by: list[str]
    """The titles of the servers that mount it now."""


@dataclass(frozen=True)
class ServerCard:
    """One server as its card on the home page shows it."""

    name: str
    title: str
    url: str
    state: str
    """``ready``, ``stopped``, or JupyterHub's pending: ``spawn``, ``stop``, ``rename``, ``check``.
    """
    profile: str | dict[str, str]
    started: datetime | None
    last_activity: datetime | None
    options: dict[str, Any]
    size: dict[str, float] | None
    last_end: Text | None
    failure: str | None
    """Why the latest start failed: a Text where the sentence is ours."""


@dataclass(frozen=True)
class StartForm:
    """What the spawn page asks: for which server, from which profiles, beginning with what."""

    name: str
    title: str
    options: dict[str, Any]
    profiles: list[dict[str, Any]]
    chosen: str
    """The slug of the profile that is marked first; empty when none can be started."""


class PageData:
    """The site and one person, as templates ask for them."""

    def __init__(self, deployment: Deployment, user: Any, notices: list[Text]) -> None:
        self._deployment = deployment
        self._user = user
        self.site = deployment.site
        self.notices = notices
        self.person = user
        """Who looks at the page; ``user`` in some templates is the person whose server it is."""

    @property
    def usual_names(self) -> bool:
        """Whether the rule for user names is the default one, for which there is a sentence."""
        usual = type(self.site.auth).model_fields["username_pattern"].default
        return bool(self.site.auth.username_pattern == usual)

    no_reason = NO_REASON

    async def profiles(self, user: Any = None) -> list[dict[str, Any]]:
        """The profiles on the spawn page, in order, those that cannot start here with a reason."""
        spawner: ProfileSpawner = (user or self._user).spawner
        return [p for p in await spawner.offered_profiles() if not p["studovna"]["hidden"]]

    async def start_form(self, user: Any, url: str) -> StartForm:
        """The form for the server that the address of the spawn page names."""
        name = server_name(url)
        spawner = user.get_spawner(name)
        # JupyterHub has kept what the latest start asked for, though it may have been refused.
        kept = spawner.orm_spawner.user_options or {}
        options = {name: value for name, value in kept.items() if isinstance(value, str)}
        profiles = await self.profiles(user)
        able = [p["slug"] for p in profiles if p["studovna"]["unavailable"] is None]
        default = next((p["slug"] for p in profiles if p["default"]), "")
        before = str(options.get("profile"))
        if before not in able:
            options, before = {}, default if default in able else ""
        return StartForm(
            name=name,
            title=spawner.orm_spawner.display_name or name,
            options=options,
            profiles=profiles,
            chosen=before,
        )

    @staticmethod
    def resources_of(profiles: list[dict[str, Any]]) -> dict[str, Any]:
        """What each profile and each choice costs, for the live summary of the spawn page."""

        def shown(part: dict[str, Any]) -> dict[str, Any]:
            return part.get("studovna", {}).get("resources", {})

        return {
            profile["slug"]: {
                "base": shown(profile),
                "options": {
                    name: {
                        "choices": {slug: shown(c) for slug, c in option["choices"].items()},
                        "unlisted": shown(option["unlisted_choice"]),
                    }
                    for name, option in profile.get("profile_options", {}).items()
                },
            }
            for profile in profiles
        }

    def last_end(self, user: Any, name: str) -> Text | None:
        """How the latest run of a server ended, when it did not end by being stopped."""
        orm = user.orm_user.orm_spawners.get(name)
        return _last_end(orm, user.spawners.get(name)) if orm else None

    def last_refusal(self, user: Any, name: str) -> Text | None:
        """Why the latest start of a server did not become one."""
        orm = user.orm_user.orm_spawners.get(name)
        return _last_end(orm, user.spawners.get(name), failed=True) if orm else None

    def quota(self, user: Any = None) -> dict[str, Any]:
        """The person's project: its limits, what is used and what is left."""
        person = user or self._user
        used = [s.reserved for s in person.spawners.values() if s.active and s.reserved]
        return summary(self.site.project, used)

    def servers(self, user: Any = None) -> list[ServerCard]:
        """The person's servers, running ones first, then by last use."""
        person = user or self._user
        # Only servers that run or have just failed have a spawner in memory: none is made here.
        cards = [
            self._card(person, orm, person.spawners.get(orm.name))
            for orm in person.orm_user.orm_spawners.values()
            if orm.name or orm.server or orm.user_options
        ]
        never = datetime.min
        return sorted(
            cards,
            key=lambda card: (card.state == "ready", card.last_activity or never),
            reverse=True,
        )

    def _card(self, person: Any, orm: Any, live: ProfileSpawner | None) -> ServerCard:
        options = dict(orm.user_options or {})
        profile = self._deployment.profiles.get(str(options.get("profile")))
        failed = live._spawn_future.exception() if live and live._failed else None
        state = "stopped"
        if live:
            state = "ready" if live.ready else live.pending or "stopped"
        return ServerCard(
            name=orm.name,
            title=orm.display_name or orm.name,
            url=person.server_url(orm.name),
            state=state,
            profile=profile.title.as_dict() if profile else str(options.get("profile", "")),
            started=orm.started if live and live.active else None,
            last_activity=orm.last_activity,
            options=options,
            size=live.reserved.as_dict() if live and live.active and live.reserved else None,
            last_end=_last_end(orm, live),
            failure=_failure(failed) if failed else _last_end(orm, live, failed=True),
        )

    @staticmethod
    def free_name(taken: list[str]) -> str:
        """A name for one more server, offered until the person writes a better one."""
        number = 2
        while f"server-{number}" in taken:
            number += 1
        return f"server-{number}"

    async def homes(self, user: Any = None) -> list[HomeCard] | None:
        """The person's homes, with their size and the servers that use them; None while the engine
        cannot tell: the rest of the page does not need it."""
        person = user or self._user
        try:
            homes = await person.spawner.homes()
        except EngineError as error:
            log.error("Homes cannot be listed: %s %s", error.sentence, error.detail)
            return None
        return [
            HomeCard(
                name=home.name,
                size=home.size,
                created=home.created,
                used_by=[
                    spawner.orm_spawner.display_name or spawner.name
                    for spawner in person.spawners.values()
                    if spawner.active and spawner.pvc_name == home.name
                ],
            )
            for home in homes
        ]


def server_name(url: str) -> str:
    """The server that an address ``…/spawn/<person>/<server>`` names; empty: the default one."""
    _, _, rest = urlsplit(url).path.partition("/spawn/")
    return unquote(rest.partition("/")[2].strip("/"))


def _last_end(orm: Any, live: ProfileSpawner | None, failed: bool = False) -> Text | None:
    """The sentence of a server's end; with ``failed``, of a start that did not become one."""
    end = last_end(orm, live)
    if not end or end.get("failed", False) != failed:
        return None
    return Text.from_json(end["text"])


def _failure(error: BaseException) -> str:
    return getattr(error, "jupyterhub_message", None) or NO_REASON


def static_handlers() -> list[tuple[Any, ...]]:
    """Our style sheet and scripts, at ``/hub/studovna/``."""
    options = {"path": str(PAGES / "static")}
    return [(r"/studovna/(.*)", CacheControlStaticFilesHandler, options)]


def template_vars(deployment: Deployment, notices: list[Text]) -> dict[str, Callable[[Any], Any]]:
    """JupyterHub calls each of these with the person who looks at the page (or None)."""
    return {
        "studovna": lambda user: PageData(deployment, user, notices),
        "_": lambda user: translate,
        "language": lambda user: language,
        "dictionary": lambda user: dictionary,
        "shown_size": lambda user: shown_size,
        "shown_number": lambda user: shown_number,
        "sentence_and_lines": lambda user: sentence_and_lines,
    }
