"""How people sign in: the schema of ``auth`` in ``site.yaml``, one model a way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from .fields import Pattern, Plain, Settings
from .problems import wrong

if TYPE_CHECKING:
    from .site import Rule, Site

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def _web_address(value: object) -> object:
    expected = 'an https address, such as "https://login.example.org/realms/university"'
    if isinstance(value, str):
        pattern = (
            r"(https?)://((?:[A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:]{2,39}\]))(?::[0-9]{1,5})?"
            r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%/-]{0,500})?"
        )
        found = re.fullmatch(pattern, value)
        if found is None:
            raise wrong(f'The text "{value[:60]}" is no address of the web', expected)
        if found[1] == "http" and found[2] not in LOOPBACK:
            raise wrong(f'The address "{value[:60]}" is not encrypted', expected)
    return value


def _return_address(value: object) -> object:
    if isinstance(value, str):
        _web_address(value.partition("?")[0])
        if not re.fullmatch(r"[\x21-\x7e]{1,2000}", value):
            raise wrong("An address has no spaces and only ASCII letters", "the address, escaped")
    return value


def _claim(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"[^\s.]+(?:\.[^\s.]+)*", value):
        raise wrong(
            f'The text "{value[:60]}" is no name of a claim',
            'such as "groups", or "realm_access.roles" for one inside another',
        )
    return value


def _scope(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"[\x21\x23-\x5b\x5d-\x7e]+", value):
        raise wrong(f'The text "{value[:60]}" is no scope', "one word for each scope")
    return value


WebAddress = Annotated[str, BeforeValidator(_web_address), Field(max_length=1000)]
ReturnAddress = Annotated[str, BeforeValidator(_return_address), Field(max_length=2000)]
Claim = Annotated[str, BeforeValidator(_claim), Field(min_length=1, max_length=200)]
GroupName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A group as a provider or the site names it."""


class SharedPassword(Settings):
    """People sign in with any allowed name and one password; admins have one of their own."""

    type: Literal["shared-password"] = "shared-password"
    """How people sign in."""
    admins: list[str] = ["admin"]
    """Names of the people who run the site. They sign in with the admin password."""
    username_pattern: Pattern = "[a-z][a-z0-9._-]{0,31}"
    """The user names that are let in: a regular expression that matches the whole name."""


class OpenIDConnect(Settings):
    """People sign in at an OpenID Connect provider: Keycloak, Perun, Entra ID, a federation."""

    type: Literal["openid-connect"]
    """How people sign in."""
    issuer: WebAddress
    """The provider's address, as its own metadata spells it; the rest is asked there, below
    `/.well-known/openid-configuration`."""
    client_id: Annotated[str, Field(pattern=r"^[\x20-\x7e]{1,255}$")]
    """How the provider knows this site."""
    client_secret_file: Annotated[str, Field(min_length=1, max_length=1000)]
    """The file that holds the client's secret, beside the site file or absolute."""
    login_service: Annotated[Plain, Field(max_length=80)] | None = None
    """The provider's name on the sign-in button; null: its host."""
    scopes: Annotated[
        list[Annotated[str, BeforeValidator(_scope), Field(min_length=1, max_length=200)]],
        Field(min_length=1, max_length=50),
    ] = ["openid", "profile", "email"]
    """What is asked of the provider; further ones may be needed for groups."""
    username_claim: Claim = "preferred_username"
    """The claim that is the user name, in lower case. It must never pass to another person."""
    username_pattern: Pattern = "[a-z0-9][a-z0-9._@-]{0,63}"
    """The user names that are let in: a regular expression that matches the whole name."""
    groups_claim: Claim | None = None
    """The claim that lists a person's groups; dots lead inside, as in `realm_access.roles`. They
    are read at each sign-in, and profiles can be for some of them; null: `groups` of this file."""
    allowed_groups: list[GroupName] = []
    """Only people in one of these groups are let in; empty: everyone whom the provider knows."""
    admins: list[str] = []
    """Names of people who run the site."""
    admin_groups: list[GroupName] = []
    """People in one of these groups run the site."""
    logout_redirect_url: ReturnAddress | None = None
    """Where people are led after signing out, such as the provider's own sign-out; null: a page of
    this site."""

    @property
    def service(self) -> str:
        """The provider's name for people."""
        return self.login_service or str(urlsplit(self.issuer).hostname)


Auth = Annotated[SharedPassword | OpenIDConnect, Field(discriminator="type")]


def with_type(value: object) -> object:
    """``auth`` without ``type`` means the shared password, as before there was another way."""
    if isinstance(value, dict) and "type" not in value:
        return {"type": "shared-password", **value}
    return value


def auth_rules(site: Site) -> Iterator[Rule]:
    """The rules over several keys of ``auth``, and over ``auth`` and ``groups``."""
    auth = site.auth
    if isinstance(auth, SharedPassword):
        if not auth.admins:
            yield ("auth", "admins"), "Nobody is an admin", "at least one name"
    else:
        yield from _openid_rules(site, auth)
    where: list[tuple[tuple[str | int, ...], str]] = [
        (("auth", "admins", index), name) for index, name in enumerate(auth.admins)
    ]
    for group, members in site.groups.items():
        where += [(("groups", group, index), name) for index, name in enumerate(members)]
    for path, name in where:
        if not site.is_username(name):
            yield (
                path,
                f'The name "{name[:60]}" is not let in by auth.username_pattern',
                f"a name that matches {auth.username_pattern}",
            )


def _openid_rules(site: Site, auth: OpenIDConnect) -> Iterator[Rule]:
    if not auth.admins and not auth.admin_groups:
        yield (
            ("auth",),
            "Nobody is an admin: auth.admins and auth.admin_groups are empty",
            "at least one name or group",
        )
    if "openid" not in auth.scopes:
        yield ("auth", "scopes"), 'auth.scopes lacks "openid"', 'a list that begins with "openid"'
    for key in ("allowed_groups", "admin_groups"):
        if getattr(auth, key) and auth.groups_claim is None:
            yield (
                ("auth", key),
                f"auth.{key} needs auth.groups_claim, which is not set",
                "the claim that lists a person's groups",
            )
    if auth.groups_claim is not None and site.groups:
        yield (
            ("groups",),
            "With auth.groups_claim the provider says who is in which group; groups would be"
            " forgotten at each sign-in",
            "either groups or auth.groups_claim",
        )
    problem = wrong_with_secret(site.path(auth.client_secret_file))
    if problem:
        yield ("auth", "client_secret_file"), problem, "a file that holds the client's secret"


def wrong_with_secret(file: Path) -> str | None:
    """Why no secret can be read from a file, or None."""
    try:
        if not file.is_file():
            return f"There is no file {file}"
        text = file.read_text()
    except OSError as error:
        return f"The file {file} cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        return f"The file {file} is not text"
    return None if text.strip() else f"The file {file} is empty"
