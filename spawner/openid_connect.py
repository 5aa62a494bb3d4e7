"""Signing in at an OpenID Connect provider: OAuthenticator's generic way, and what it leaves open.

The provider's addresses come from its own metadata, found below the issuer; a claim is bad input
until it was checked; and whatever goes wrong is a sentence on the sign-in page.

https://openid.net/specs/openid-connect-core-1_0.html
https://openid.net/specs/openid-connect-discovery-1_0.html
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote_plus, urlsplit

import jwt
from oauthenticator.generic import GenericOAuthenticator
from oauthenticator.oauth2 import OAuthCallbackHandler, OAuthLoginHandler
from tornado import web
from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from tornado.httputil import url_concat
from traitlets import Unicode

from studovna.text import Text

WELL_KNOWN = "/.well-known/openid-configuration"
ASK_AGAIN = 10.0  # seconds
MAX_ANSWER = 2**20  # bytes
MAX_GROUPS = 1000
MAX_GROUP = 255  # characters, as many as JupyterHub's database keeps
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\uffff]")


class SignInFailed(web.HTTPError):
    """A sign-in that ends with a sentence for the person; ``detail`` is for the operator's log."""

    def __init__(self, sentence: Text, *, status: int = 403, detail: str = "") -> None:
        self.for_log = f"{sentence} [{detail}]" if detail else str(sentence)
        super().__init__(status, "%s", self.for_log)
        self.jupyterhub_message = sentence


class MetadataError(Exception):
    """The provider's metadata cannot be used; the message is for the operator."""


# --- pure -----------------------------------------------------------------------------------------


def read_metadata(issuer: str, answer: bytes) -> dict[str, Any]:
    """The provider's metadata. Raises MetadataError when it is not this issuer's or not whole."""
    try:
        data = json.loads(answer)
    except ValueError:
        raise MetadataError("it answers with something else than JSON") from None
    if not isinstance(data, dict):
        raise MetadataError("it answers with something else than a JSON object")
    if data.get("issuer") != issuer:
        raise MetadataError(
            f"it calls itself {str(data.get('issuer'))[:300]!r}, and auth.issuer is {issuer!r};"
            " both must be spelled alike"
        )
    for key in ("authorization_endpoint", "token_endpoint"):
        if key not in data:
            raise MetadataError(f"it names no {key}")
    schemes = ("https",) if issuer.startswith("https:") else ("https", "http")
    for key in ("authorization_endpoint", "token_endpoint", "userinfo_endpoint"):
        address = data.get(key)
        if address is not None and not (
            isinstance(address, str)
            and urlsplit(address).scheme in schemes
            and urlsplit(address).hostname
        ):
            raise MetadataError(f"its {key} is no {schemes[0]} address: {str(address)[:300]!r}")
    return data


def wants_basic(metadata: Mapping[str, Any]) -> bool:
    """Whether the client's secret goes into a header; by default it does."""
    methods = metadata.get("token_endpoint_auth_methods_supported")
    return not isinstance(methods, list) or "client_secret_basic" in methods


def claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name; dots lead inside. None when it is not there.

    >>> claim({"realm_access": {"roles": ["staff"]}}, "realm_access.roles")
    ['staff']
    """
    if path in claims:  # such as "https://example.org/groups"
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found


def user_name(claims: Mapping[str, Any], name: str, pattern: str) -> str:
    """The user name in a claim, in lower case. Raises SignInFailed when it can be none here."""
    value = claim(claims, name)
    if value is None or value == "":
        raise SignInFailed(
            Text(
                "Your account has no {claim}, which would be your user name here. Ask the "
                "operator of this site.",
                claim=name,
            ),
            detail=f"the claims are: {', '.join(sorted(map(str, claims)))[:500]}",
        )
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    lower = value.lower() if isinstance(value, str) else ""
    # Some letters become ASCII ones in lower case: they would be somebody else's name.
    alike = isinstance(value, str) and lower.isascii() == value.isascii()
    if not alike or not re.fullmatch(pattern, lower):
        raise SignInFailed(
            Text(
                "Your account's name {name} cannot be a user name here. Ask the operator of this "
                "site.",
                name=printable(value),
            )
        )
    return lower


def group_names(claims: Mapping[str, Any], name: str) -> set[str]:
    """The groups in a claim: a list of texts, or one text. What can be no group is left out."""
    value = claim(claims, name)
    values = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return set(_groups(values))


def _groups(values: list[Any]) -> Iterator[str]:
    for value in values[:MAX_GROUPS]:
        if isinstance(value, str) and 0 < len(value) <= MAX_GROUP and value.isprintable():
            yield value


def printable(value: object) -> str:
    """Something from outside, short and in one line."""
    return _UNPRINTABLE.sub("", str(value))[:200]


# --- the pages ------------------------------------------------------------------------------------


class _Told:
    """Failures are shown on the sign-in page, where one can try again."""

    def write_error(self: Any, status_code: int, **kwargs: Any) -> None:
        error = (kwargs.get("exc_info") or (None, None))[1]
        sentence = getattr(error, "jupyterhub_message", None)
        if sentence is None:
            super().write_error(status_code, **kwargs)  # type: ignore[misc]
            return
        query = {"next": self.next_address()}
        if status_code == 403:
            query["again"] = "1"
        self.set_header("Content-Type", "text/html")
        self.finish(
            self.render_template(
                "login.html",
                sync=True,
                login_error=sentence,
                username=None,
                authenticator_login_url=url_concat(
                    self.authenticator.login_url(self.hub.base_url), query
                ),
            )
        )

    def log_exception(self: Any, *error: Any) -> None:
        # Tornado's own line has the whole address in it, with the code.
        if isinstance(error[1], SignInFailed):
            self.log.warning("Sign-in failed: %s", error[1].for_log)
        else:
            super().log_exception(*error)  # type: ignore[misc]


class LoginHandler(_Told, OAuthLoginHandler):
    """Leads to the provider."""

    async def get(self) -> None:
        await self.authenticator.find_provider(now=True)
        super().get()

    def authorize_redirect(self, *args: Any, **kwargs: Any) -> Any:
        # Whom this site did not let in can sign in at the provider as somebody else.
        if self.get_argument("again", ""):
            kwargs["extra_params"] = {**kwargs["extra_params"], "prompt": "login"}
        return super().authorize_redirect(*args, **kwargs)

    def next_address(self) -> str:
        return self._get_next_url() or ""


class CallbackHandler(_Told, OAuthCallbackHandler):
    """Comes back from the provider."""

    def next_address(self) -> str:
        """Where the person wanted to go when they began, where that is known."""
        try:
            return str(self.get_next_url() or "")
        except Exception:  # noqa: BLE001 - the page must be shown
            return ""

    def check_arguments(self) -> None:
        """The state comes first: nothing is believed of an answer to another question."""
        try:
            self.check_state()
        except (web.HTTPError, ValueError, AttributeError, TypeError) as error:
            raise SignInFailed(
                Text(
                    "This sign-in was begun too long ago, or in another window or browser. "
                    "Begin again."
                ),
                status=400,
                detail=printable(error),
            ) from error
        problem = self.get_argument("error", "")
        service = self.authenticator.login_service
        if problem == "access_denied":
            raise SignInFailed(
                Text("{service} did not let you in, or you turned back.", service=service),
                detail=printable(self.get_argument("error_description", "")),
            )
        if problem or not self.get_argument("code", ""):
            said = f"{problem} {self.get_argument('error_description', '')}"
            raise self.authenticator.refused(printable(said))

    async def get(self) -> None:
        self.check_arguments()
        await self.authenticator.find_provider()
        user = await self.login_user()
        if user is None:
            raise SignInFailed(self.authenticator.not_allowed())
        self.redirect(self.get_next_url(user))


# --- the authenticator ----------------------------------------------------------------------------


class OpenIDConnectAuthenticator(GenericOAuthenticator):
    """OAuthenticator's generic one; its addresses come from the issuer."""

    login_handler = LoginHandler
    callback_handler = CallbackHandler

    issuer = Unicode(help="The provider's address.").tag(config=True)
    name_pattern = Unicode(help="What the whole user name matches, in lower case.").tag(config=True)
    groups_claim = Unicode(help="The claim with a person's groups; empty: none.").tag(config=True)
    _asked = -math.inf
    """When the provider last answered, by `time.monotonic`."""

    def get_handlers(self, app: Any) -> list[tuple[Any, ...]]:
        # Asked for once at the hub's start, so that a wrong issuer is in the log at once. The hub
        # starts without it, too: servers run on while a provider is away.
        self._first = asyncio.ensure_future(self._look())
        handlers: list[tuple[Any, ...]] = super().get_handlers(app)
        return handlers

    async def _look(self) -> None:
        try:
            await self.find_provider()
        except SignInFailed:
            self.log.error("Nobody can sign in until the provider is found; each sign-in tries.")

    async def find_provider(self, *, now: bool = False) -> None:
        """Ask for the provider's metadata when it is not known. Raises SignInFailed.

        ``now``: also when it was known before, so that nobody is led to a provider that is away.
        """
        if time.monotonic() - self._asked < (ASK_AGAIN if now else math.inf):
            return
        address = self.issuer.rstrip("/") + WELL_KNOWN
        client = AsyncHTTPClient(force_instance=True, max_body_size=MAX_ANSWER)
        try:
            answer = await client.fetch(address, connect_timeout=5, request_timeout=10)
            metadata = read_metadata(self.issuer, answer.body)
        except (HTTPClientError, OSError, MetadataError) as error:
            self.log.error("The provider's metadata at %s cannot be used: %s", address, error)
            raise self.unreachable(str(error)) from error
        finally:
            client.close()
        self.authorize_url = metadata["authorization_endpoint"]
        self.token_url = metadata["token_endpoint"]
        self.userdata_url = metadata.get("userinfo_endpoint") or ""
        self.userdata_from_id_token = not self.userdata_url
        self.basic_auth = wants_basic(metadata)
        if self._asked == -math.inf:
            self.log.info("People sign in at %s", self.issuer)
        self._asked = time.monotonic()

    # --- the exchange ---------------------------------------------------------------------------

    def build_token_info_request_headers(self) -> dict[str, str]:
        headers: dict[str, str] = super().build_token_info_request_headers()
        if self.basic_auth:
            # Both are form-encoded first: https://www.rfc-editor.org/rfc/rfc6749#section-2.3.1
            pair = f"{quote_plus(self.client_id)}:{quote_plus(self.client_secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return headers

    async def token_to_user(self, token_info: dict[str, Any]) -> dict[str, Any]:
        """The claims of the identity token and of the user's information, which wins.

        The token's signature need not be checked: it comes from the provider itself, over TLS
        (OpenID Connect Core, 3.1.3.7).
        """
        try:
            token = jwt.decode(
                token_info["id_token"],
                audience=self.client_id,
                issuer=self.issuer,
                leeway=60,
                options={
                    "verify_signature": False,
                    "verify_aud": True,
                    "verify_iss": True,
                    "verify_exp": True,
                    "require": ["sub", "aud", "iss", "exp"],
                },
            )
        except (KeyError, jwt.PyJWTError) as error:
            raise self.refused(f"its identity token is not right: {error}") from error
        if not self.userdata_url:
            return dict(token)
        info = await super().token_to_user(token_info)
        if not isinstance(info, dict) or info.get("sub") != token["sub"]:
            raise self.refused("its user information is about somebody else than its token")
        return {**token, **info}

    async def authenticate(self, handler: Any, data: Any = None, **kwargs: Any) -> Any:
        try:
            return await super().authenticate(handler, data, **kwargs)
        except SignInFailed:
            raise
        except HTTPClientError as error:
            if 400 <= error.code < 500:
                raise self.refused(str(error)) from error
            raise self.unreachable(str(error)) from error
        except OSError as error:
            raise self.unreachable(str(error)) from error
        except (web.HTTPError, ValueError, KeyError, TypeError) as error:
            raise self.refused(repr(error)) from error

    # --- who it is ------------------------------------------------------------------------------

    def user_info_to_username(self, user_info: dict[str, Any]) -> str:
        return user_name(user_info, self.username_claim, self.name_pattern)

    async def get_user_groups(self, auth_state: dict[str, Any]) -> set[str]:
        return group_names(auth_state[self.user_auth_state_key], self.groups_claim)

    async def update_auth_model(self, auth_model: dict[str, Any]) -> dict[str, Any]:
        # Whoever is no admin any more stops being one with the next sign-in.
        return {**auth_model, "admin": bool(auth_model["admin"])}

    # --- sentences ------------------------------------------------------------------------------

    def not_allowed(self) -> Text:
        return Text(
            "You are signed in at {service}, but this site is for certain groups, and you are in "
            "none of them. Ask the operator of this site.",
            service=self.login_service,
        )

    def unreachable(self, detail: str) -> SignInFailed:
        return SignInFailed(
            Text(
                "{service} cannot be reached now, so nobody can sign in. Servers that run go on. "
                "Try again in a while.",
                service=self.login_service,
            ),
            status=503,
            detail=printable(detail),
        )

    def refused(self, detail: str) -> SignInFailed:
        return SignInFailed(
            Text(
                "{service} and this site do not understand each other, so you cannot sign in. "
                "Tell the operator of this site, who finds the reason in the log.",
                service=self.login_service,
            ),
            status=502,
            detail=printable(detail),
        )
